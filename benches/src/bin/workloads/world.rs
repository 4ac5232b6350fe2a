//! A phone with two accesses, the gateway and a server, in virtual time. Only the gateway is measured.
//!
//! Time goes on in ticks of 40 µs, which is 32 full frames at 10 Gbit/s: a burst of a polling driver. Everything is
//! seeded, so two runs do the same.

use crate::host::{Load, Phone, Server, Wish};
use crate::meter::Meter;
use crate::packet::{Outbox, Packet};
use crate::wire::Wire;
use core::time::Duration;
use mptcp_core::buf::{PacketBuf as _, PortId};
use mptcp_core::driver::{Progress, Worker};
use mptcp_core::time::Instant;

/// Virtual time of a tick.
pub(crate) const TICK: Duration = Duration::from_micros(40);
/// Packets that the gateway sends a turn at most, and timers it runs: as `dpdk-io` has it.
pub(crate) const TURN_PACKETS: usize = 256;
const TURN_TIMERS: usize = 256;
/// Port of the exit; the accesses come before it.
const EXIT: u8 = 2;

/// Frames that links carry a tick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) access: usize,
    pub(crate) exit: usize,
}

/// Which part of the gateway's work is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A whole turn.
    Turn,
    /// Taking acknowledgements without data in, and what follows at once.
    Acks,
}

/// What went through the gateway while it was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) turns: u64,
    pub(crate) data_in: u64,
    pub(crate) acks_in: u64,
    pub(crate) data_out: u64,
    pub(crate) acks_out: u64,
}

/// There and back.
struct Link {
    out: Wire,
    back: Wire,
}

impl Link {
    fn new(rate: usize) -> Self {
        Self { out: Wire::new(rate), back: Wire::new(rate) }
    }
}

/// See the module.
pub(crate) struct World<W> {
    pub(crate) phone: Phone,
    pub(crate) server: Server,
    pub(crate) gateway: W,
    pub(crate) traffic: Traffic,
    load: Load,
    /// Between phone and gateway, one for each access.
    accesses: [Link; 2],
    /// Between gateway and server.
    exit: Link,
    inbox: Vec<Packet>,
    outbox: Outbox,
    /// The last turn left something to do.
    more: bool,
    tick: u64,
}

/// Whether a packet carries data. Its headers, IPv4's without options, are in one piece; the rest need not be.
fn has_data(packet: &Packet) -> bool {
    let offset = packet.data().get(32).map_or(0, |octet| usize::from(octet >> 4) * 4);
    packet.packet_len() > 20 + offset
}

/// The networks a packet comes from and goes to: the second octets of its addresses.
fn networks(packet: &Packet) -> (u8, u8) {
    let octet = |at: usize| packet.data().get(at).copied().expect("an IP header");
    (octet(13), octet(17))
}

impl<W: Worker<Packet>> World<W> {
    pub(crate) fn new(gateway: W, wish: Wish, rates: Rates) -> Self {
        let now = begin();
        Self {
            phone: Phone::new(wish, now),
            server: Server::new(wish.load, now),
            gateway,
            traffic: Traffic::default(),
            load: wish.load,
            accesses: [Link::new(rates.access), Link::new(rates.access)],
            exit: Link::new(rates.exit),
            inbox: Vec::new(),
            outbox: Outbox::new(TURN_PACKETS),
            more: false,
            tick: 0,
        }
    }

    /// Makes the second access later than the first one by `ticks`, and has both lose one packet in `losses` of
    /// those that carry the stream.
    pub(crate) fn roughen(&mut self, ticks: u64, losses: u32) {
        for (access, ticks) in self.accesses.iter_mut().zip([0, ticks]) {
            let (data, acks) = match self.load {
                Load::Upload => (&mut access.out, &mut access.back),
                Load::Download | Load::Echo { .. } => (&mut access.back, &mut access.out),
            };
            data.roughen(ticks, losses);
            acks.roughen(0, u32::MAX);
        }
    }

    /// The time.
    pub(crate) fn now(&self) -> Instant {
        begin() + TICK * u32::try_from(self.tick).expect("days of virtual time")
    }

    /// Skips the ticks before `at`, in which nothing happens.
    pub(crate) fn sleep_until(&mut self, at: Instant) {
        let links = self.accesses.iter().chain([&self.exit]);
        if !self.more && links.flat_map(|link| [&link.out, &link.back]).all(Wire::is_empty) {
            let ticks = at.since(begin()).as_nanos().div_ceil(TICK.as_nanos());
            self.tick = self.tick.max(u64::try_from(ticks).expect("years of virtual time") - 1);
        }
    }

    /// One tick, measured or not.
    pub(crate) fn turn(&mut self, measured: Option<(&mut Meter, Part)>) {
        self.tick += 1;
        let (now, tick) = (self.now(), self.tick);
        for (port, access) in (0..).zip(&mut self.accesses) {
            access.out.step(tick, PortId(port), &mut self.inbox);
            access.back.step(tick, PortId::ROUTED, self.phone.inbox());
        }
        self.exit.back.step(tick, PortId(EXIT), &mut self.inbox);
        self.exit.out.step(tick, PortId::ROUTED, self.server.inbox());
        let accesses = &mut self.accesses;
        self.phone.turn(now, |packet| {
            let (from, _) = networks(&packet);
            accesses[usize::from(from) - 1].out.send(packet);
        });
        self.server.turn(now, |packet| self.exit.back.send(packet));
        let due = self.gateway.poll_timeout().is_some_and(|at| at <= now);
        if !self.inbox.is_empty() || due || self.more {
            self.gateway_turn(now, measured);
        }
    }

    fn gateway_turn(&mut self, now: Instant, measured: Option<(&mut Meter, Part)>) {
        let counted = measured.is_some();
        if counted {
            self.traffic.turns += 1;
            for packet in &self.inbox {
                let data = has_data(packet);
                self.traffic.data_in += u64::from(data);
                self.traffic.acks_in += u64::from(!data);
            }
        }
        let (gateway, inbox, outbox) = (&mut self.gateway, &mut self.inbox, &mut self.outbox);
        let mut output = Progress::Done;
        match measured {
            None => output = turn(gateway, now, inbox, outbox),
            Some((meter, Part::Turn)) => {
                meter.measure(|| output = turn(gateway, now, inbox, outbox))
            }
            Some((meter, Part::Acks)) => {
                let (data, mut acks): (Vec<_>, Vec<_>) = inbox.drain(..).partition(has_data);
                meter.add(acks.len() as f64);
                meter.measure(|| gateway.handle_burst(now, &mut acks));
                inbox.extend(data);
                output = turn(gateway, now, inbox, outbox);
            }
        }
        self.more = output == Progress::More;
        while let Some(packet) = self.outbox.pop() {
            let data = has_data(&packet);
            self.traffic.data_out += u64::from(counted && data);
            self.traffic.acks_out += u64::from(counted && !data);
            match networks(&packet).1 {
                network @ 1..=2 => self.accesses[usize::from(network) - 1].back.send(packet),
                _ => self.exit.out.send(packet),
            }
        }
    }

    /// Octets that have come to the end of the session they belong to.
    pub(crate) fn delivered(&self) -> u64 {
        match self.load {
            Load::Upload => self.server.received,
            Load::Download | Load::Echo { .. } => self.phone.received,
        }
    }

    /// Packets that no wire had room for.
    pub(crate) fn lost(&self) -> u64 {
        let wires =
            self.accesses.iter().chain([&self.exit]).flat_map(|link| [&link.out, &link.back]);
        wires.map(Wire::lost).sum()
    }
}

/// When everything begins.
pub(crate) fn begin() -> Instant {
    Instant::from_millis(1000)
}

/// One turn of a polling driver.
pub(crate) fn turn<W: Worker<Packet>>(
    gateway: &mut W,
    now: Instant,
    inbox: &mut Vec<Packet>,
    outbox: &mut Outbox,
) -> Progress {
    gateway.handle_burst(now, inbox);
    let timers = gateway.handle_timeouts(now, TURN_TIMERS);
    gateway.handle_events(now);
    let output = gateway.poll_transmit(now, outbox);
    let _ = gateway.poll_control(now);
    if timers == Progress::Done { output } else { Progress::More }
}
