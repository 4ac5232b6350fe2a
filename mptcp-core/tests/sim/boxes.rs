//! The middleboxes of the swarm: how one is drawn, put on a path and moved while a transfer runs, and
//! what it may do to MPTCP (RFC 8684 §3.7, §6). Whatever it does, the stream arrives identical.

use crate::world::World;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use mptcp_core::time::Duration;
use mptcp_core::wire::{IcmpErrorKind, icmp};
use netsim::middlebox::{
    Aim, Coalescer, Fill, Keeps, MptcpOn, Nat, NatConfig, OptionStripper, Output, PathMtu,
    PayloadCorruptor, ProactiveAcker, ResetInjector, SegmentSplitter, SequenceShifter,
    StreamEditor, Strip, StripWhen, SynFate, SynFilter, WindowClamp,
};
use netsim::packet::edit::Layout;
use netsim::packet::flag;
use netsim::{Direction, Rng};

/// What becomes of MPTCP behind a box.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Effect {
    /// The connection stays MPTCP; single subflows may be lost.
    Kept,
    /// It depends on what happens first.
    Open,
    /// Both ends end up with plain TCP.
    FallsBack,
}

/// A kind of box with its settings.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A translator; it forgets its ports at this time.
    Nat { rebind_at: Option<Duration> },
    /// A hop with a smaller MTU that says so, or does not.
    PathMtu { mtu: u16, says: bool },
    /// Cuts segments to this payload.
    Splitter(usize, MptcpOn),
    /// Breaks this share of segments, in millionths; TCP's checksum shows it.
    Broken(u32),
    /// Edits this share of payloads under a right TCP checksum: only a DSS checksum shows it.
    Edited(u32),
    /// Takes MPTCP options away.
    Strip(Strip),
    /// Moves sequence numbers by so much in either direction.
    Shifted(u32, u32),
    /// Lowers the windows of one direction.
    Clamped(Direction, u16),
    /// Forges so many RSTs in one direction.
    Resets(Direction, Aim, u64),
    /// Drops or doubles SYNs.
    Syns(SynFate),
    /// Joins segments and keeps the options of one.
    Coalescer(Keeps),
    /// Cuts segments to the first size with the options on every piece, joins pieces with the same
    /// options, and cuts those to the second size.
    Offload(usize, usize),
    /// Replaces a pattern of two octets in one direction by so many, and moves the numbers behind it.
    Rewritten(Direction, u8),
    /// Acknowledges the data of one direction itself, after so many segments, and repairs losses.
    Proxy(Direction, u64),
    /// Takes an option of TCP's away.
    Options(Strip),
    /// Takes one of MPTCP's away, and leaves the others.
    Part(Strip),
    /// Complains by ICMP of this share of segments, in millionths, and passes them on all the same.
    Complains(u32),
}

/// A box and the path it is on.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) path: usize,
    pub(crate) kind: Kind,
}

/// What a draw has to know of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) mptcp: bool,
    pub(crate) paths: usize,
    pub(crate) checksum: bool,
    pub(crate) v6: bool,
}

impl Setting {
    /// A box for this connection. What kills a subflow stands on another path than the first, which
    /// keeps the connection alive.
    pub(crate) fn draw(self, rng: &mut Rng) -> Placed {
        let any_path = usize::try_from(rng.below(self.paths as u64)).unwrap_or(0);
        let joined = (self.mptcp && self.paths > 1).then(|| 1 + any_path % (self.paths - 1).max(1));
        let (path, kind) = match (rng.below(17), joined) {
            (0, _) => (any_path, Kind::Nat { rebind_at: None }),
            (1, _) => {
                let least = if self.v6 { 1280 } else { 576 };
                let mtu = least + rng.below(1480 - least);
                let mtu = u16::try_from(mtu).unwrap_or(1480);
                (any_path, Kind::PathMtu { mtu, says: rng.below(2) == 0 })
            }
            (2, _) => (any_path, self.splitter(rng)),
            (3, _) => (any_path, Kind::Broken(1 + u32::try_from(rng.below(30_000)).unwrap_or(0))),
            (4, Some(path)) => {
                let rebind_at = Some(Duration::from_millis(rng.log_uniform(20, 10_000)));
                (path, Kind::Nat { rebind_at })
            }
            (5, Some(path)) if self.checksum => {
                (path, Kind::Edited(u32::try_from(rng.log_uniform(100, 100_000)).unwrap_or(0)))
            }
            (6, Some(path)) => (path, Kind::Strip(on_a_join(rng))),
            (7, _) => {
                let offset = |rng: &mut Rng| u32::try_from(rng.below(1 << 32)).unwrap_or(0);
                (any_path, Kind::Shifted(offset(rng), offset(rng)))
            }
            (8, _) => {
                let most = 8_000 + rng.below(50_000);
                (any_path, Kind::Clamped(direction(rng), u16::try_from(most).unwrap_or(8_000)))
            }
            (9, _) => (any_path, Kind::Resets(direction(rng), Aim::Blind, 1 + rng.below(50))),
            (10, Some(path)) => {
                let aim = if rng.below(2) == 0 { Aim::Exact } else { Aim::InWindow };
                (path, Kind::Resets(direction(rng), aim, 1 + rng.below(3)))
            }
            (11, _) => (any_path, Kind::Syns(SynFate::Double)),
            (12, _) => (joined.unwrap_or(0), Kind::Syns(SynFate::DropWithMptcp)),
            (13, Some(path)) => {
                let keeps = if rng.below(2) == 0 { Keeps::First } else { Keeps::Last };
                (path, Kind::Coalescer(keeps))
            }
            (14, _) => {
                let mut size = || usize::try_from(300 + rng.below(1_100)).unwrap_or(300);
                (any_path, Kind::Offload(size(), size()))
            }
            (15, Some(path)) if self.checksum => {
                let len = [1, 3, 9][usize::try_from(rng.below(3)).unwrap_or(0)];
                (path, Kind::Rewritten(direction(rng), len))
            }
            (16, _) => (any_path, Kind::Proxy(direction(rng), rng.below(50))),
            _ => (0, Kind::Strip(from_the_start(rng))),
        };
        Placed { path, kind }
    }

    fn splitter(self, rng: &mut Rng) -> Kind {
        let size = usize::try_from(200 + rng.below(1200)).unwrap_or(200);
        let on = [MptcpOn::Every, MptcpOn::First, MptcpOn::Last];
        Kind::Splitter(size, on[usize::try_from(rng.below(3)).unwrap_or(0)])
    }
}

/// A box of the kinds that [`Setting::draw`] does not know, for a connection of so many paths.
pub(crate) fn another(rng: &mut Rng, paths: usize) -> Placed {
    let path = usize::try_from(rng.below(paths as u64)).unwrap_or(0);
    let strip = |subtype, kind, dir, when| Strip { kind, subtype, dir, when, fill: Fill::Nop };
    let kind = match rng.below(4) {
        0 => {
            // Window scale, SACK permitted, timestamps: from the client's SYN, so that nobody thinks they
            // were agreed on.
            let option = [3, 4, 8][usize::try_from(rng.below(3)).unwrap_or(0)];
            Kind::Options(strip(None, option, Some(Direction::AtoB), StripWhen::Syn))
        }
        // SACK blocks.
        1 => Kind::Options(strip(None, 5, None, StripWhen::NotSyn)),
        2 => {
            let dir = [None, Some(Direction::AtoB), Some(Direction::BtoA)];
            let dir = dir[usize::try_from(rng.below(3)).unwrap_or(0)];
            let subtype = u8::try_from(rng.below(9)).unwrap_or(0);
            Kind::Part(strip(Some(subtype), 30, dir, StripWhen::NotSyn))
        }
        _ => Kind::Complains(u32::try_from(rng.log_uniform(100, 50_000)).unwrap_or(100)),
    };
    Placed { path, kind }
}

/// An ICMP error about a segment that is no SYN: of one it could end what has not begun.
fn complaint(rng: &mut Rng, packet: &[u8], (v4, v6): (Ipv4Addr, Ipv6Addr)) -> Option<Vec<u8>> {
    let layout = Layout::of(packet)?;
    let tcp = layout.tcp(packet)?;
    if tcp.flags(packet) & flag::SYN != 0 {
        return None;
    }
    let (from, least) = if layout.ipv6 { (IpAddr::V6(v6), 1_280) } else { (IpAddr::V4(v4), 576) };
    let kind = match rng.below(7) {
        0 => IcmpErrorKind::NetworkUnreachable,
        1 => IcmpErrorKind::HostUnreachable,
        2 => IcmpErrorKind::PortUnreachable,
        3 => IcmpErrorKind::ProtocolUnreachable,
        4 => IcmpErrorKind::Prohibited,
        5 => IcmpErrorKind::TimeExceeded,
        _ => {
            let mtu = u16::try_from(least + rng.below(1_500 - least)).unwrap_or(1_280);
            IcmpErrorKind::FragmentationNeeded { mtu }
        }
    };
    let mut error = Vec::new();
    icmp::emit_error(kind, packet, from, &mut error).then_some(error)
}

fn direction(rng: &mut Rng) -> Direction {
    if rng.below(2) == 0 { Direction::AtoB } else { Direction::BtoA }
}

/// Options that vanish on a joined subflow: from its SYN, its answers, or once it runs.
fn on_a_join(rng: &mut Rng) -> Strip {
    let dir = [Some(Direction::AtoB), Some(Direction::BtoA), None];
    Strip {
        dir: dir[usize::try_from(rng.below(3)).unwrap_or(0)],
        when: match rng.below(3) {
            0 => StripWhen::Syn,
            1 => StripWhen::NotSyn,
            _ => StripWhen::After(rng.log_uniform(2, 1000)),
        },
        fill: fill(rng),
        ..Strip::mptcp()
    }
}

/// Options that vanish from the first SYN, its answer, or everything after them.
fn from_the_start(rng: &mut Rng) -> Strip {
    let dir = [Some(Direction::AtoB), Some(Direction::BtoA), None];
    Strip {
        dir: dir[usize::try_from(rng.below(3)).unwrap_or(0)],
        when: if rng.below(2) == 0 { StripWhen::Syn } else { StripWhen::NotSyn },
        fill: Fill::Nop,
        ..Strip::mptcp()
    }
}

fn fill(rng: &mut Rng) -> Fill {
    if rng.below(4) == 0 { Fill::EndOfList } else { Fill::Nop }
}

impl Placed {
    pub(crate) fn effect(&self) -> Effect {
        match self.kind {
            Kind::Strip(_) | Kind::Syns(SynFate::DropWithMptcp) if self.path == 0 => {
                Effect::FallsBack
            }
            // Data before its mapping: the first of it means fallback.
            Kind::Splitter(_, MptcpOn::Last) => Effect::Open,
            // Acknowledgements without a `DATA_ACK` may come before the first one with it.
            Kind::Proxy(..) | Kind::Part(_) if self.path == 0 => Effect::Open,
            _ => Effect::Kept,
        }
    }

    /// Whether malformed packets reach a host.
    pub(crate) const fn breaks(&self) -> bool {
        matches!(self.kind, Kind::Broken(_))
    }

    /// Whether long packets vanish without a word.
    pub(crate) const fn is_silent_hop(&self) -> bool {
        matches!(self.kind, Kind::PathMtu { says: false, .. })
    }

    /// Puts the box on its path; returns its position there.
    pub(crate) fn install(&self, world: &mut World, seed: u64) -> usize {
        let path = world.paths[self.path];
        let public = public_of(self.path);
        match &self.kind {
            Kind::Nat { .. } => {
                let config = NatConfig {
                    public_v4: Some(public.0),
                    public_v6: Some(public.1),
                    ..NatConfig::default()
                };
                for address in [IpAddr::V4(public.0), IpAddr::V6(public.1)] {
                    world.server.routes.insert(address, path);
                }
                world.net.add_middlebox(path, Box::new(Nat::new(config)))
            }
            Kind::PathMtu { mtu, says } => {
                let answering = PathMtu::answering(*mtu, Some(public.0), Some(public.1));
                let hop = if *says { answering } else { PathMtu::silent(*mtu) };
                world.net.add_middlebox(path, Box::new(hop))
            }
            Kind::Splitter(size, on) => {
                world.net.add_middlebox(path, Box::new(SegmentSplitter::new(*size, *on)))
            }
            Kind::Broken(ppm) => {
                let corruptor = PayloadCorruptor::new(seed, *ppm, None).without_repair();
                world.net.add_middlebox(path, Box::new(corruptor))
            }
            Kind::Edited(ppm) => {
                world.net.add_middlebox(path, Box::new(PayloadCorruptor::new(seed, *ppm, None)))
            }
            Kind::Strip(strip) | Kind::Options(strip) | Kind::Part(strip) => {
                world.net.add_middlebox(path, Box::new(OptionStripper::new(vec![*strip])))
            }
            Kind::Shifted(forward, back) => {
                world.net.add_middlebox(path, Box::new(SequenceShifter::new(*forward, *back)))
            }
            Kind::Clamped(dir, most) => {
                world.net.add_middlebox(path, Box::new(WindowClamp::new(*dir, *most)))
            }
            Kind::Resets(dir, aim, count) => {
                let injector = ResetInjector::new(*dir, *aim, seed % 50, *count);
                world.net.add_middlebox(path, Box::new(injector))
            }
            Kind::Syns(fate) => world.net.add_middlebox(path, Box::new(SynFilter::new(*fate))),
            Kind::Coalescer(keeps) => {
                // Half a millisecond: what came in one burst.
                world.net.add_middlebox(path, Box::new(Coalescer::new(*keeps, 1_460, 500_000)))
            }
            Kind::Offload(first, second) => {
                let cut = |size: &usize| Box::new(SegmentSplitter::new(*size, MptcpOn::Every));
                world.net.add_middlebox(path, cut(first));
                let join = Coalescer::new(Keeps::Alike, 8_000, 500_000);
                let position = world.net.add_middlebox(path, Box::new(join));
                world.net.add_middlebox(path, cut(second));
                position
            }
            Kind::Rewritten(dir, len) => {
                let put = vec![0x55; usize::from(*len)];
                let editor = StreamEditor::new(*dir, &[0x12, 0x34], &put);
                let position = world.net.add_middlebox(path, Box::new(editor));
                // What became too long for the link is cut.
                let cut = SegmentSplitter::new(1_400, MptcpOn::Every);
                world.net.add_middlebox(path, Box::new(cut));
                position
            }
            Kind::Proxy(dir, after) => {
                world.net.add_middlebox(path, Box::new(ProactiveAcker::new(*dir, *after)))
            }
            Kind::Complains(ppm) => {
                let (ppm, mut rng) = (*ppm, Rng::for_packet(seed, 0x1c39, self.path as u64));
                let complains = move |_: u64, dir: Direction, packet: Vec<u8>, out: &mut Output| {
                    if rng.chance_ppm(ppm) {
                        let error = complaint(&mut rng, &packet, public);
                        out.extend(error.map(|error| (dir.reverse(), error)));
                    }
                    out.push((dir, packet));
                };
                world.net.add_middlebox(path, Box::new(complains))
            }
        }
    }

    /// When [`Placed::act`] is due.
    pub(crate) const fn acts_at(&self) -> Option<Duration> {
        match self.kind {
            Kind::Nat { rebind_at } => rebind_at,
            _ => None,
        }
    }

    /// Does what the box does once.
    pub(crate) fn act(&self, world: &mut World, position: usize) {
        let path = world.paths[self.path];
        if let Some(nat) = world.net.middlebox::<Nat>(path, position) {
            nat.rebind();
        }
    }
}

/// The address of the box on a path: a translator's public one, or the hop's.
fn public_of(path: usize) -> (Ipv4Addr, Ipv6Addr) {
    let number = u8::try_from(path).unwrap_or(0);
    (
        Ipv4Addr::new(192, 0, 2, 1 + number),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1 + u16::from(number)),
    )
}
