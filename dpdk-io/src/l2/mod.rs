//! Between Ethernet frames on ports and the IP packets of one shard: ARP, NDISC, MLD, ICMP echo, the
//! neighbour table, routes, VLAN and MTU. Sans-IO: frames come in through [`L2::ingress`], leave
//! through [`L2Io`], and time is an argument.
//!
//! Invariant: every packet taken in is passed on, kept for a neighbour, answered, or counted once
//! in [`ShardCounters`].

mod arp;
mod egress;
mod frame;
mod ingress;
mod links;
mod mld;
mod ndisc;
mod neighbour;
mod recent;
mod route;

use crate::counters::ShardCounters;
use core::net::IpAddr;
use frame::Mac;
use ipnet::IpNet;
use links::Links;
use mptcp_core::buf::{PacketBuf, PortId};
use mptcp_core::time::{Duration, Instant};
use mptcp_core::util::bucket::TokenBucket;
use neighbour::Neighbours;
use recent::Recent;
use route::{Hop, Routes};
use std::collections::VecDeque;
use std::sync::Arc;

/// Where frames go and buffers come from.
pub trait L2Io<B: PacketBuf> {
    /// An empty buffer with headroom; `None` when the pool is exhausted.
    fn alloc(&mut self) -> Option<B>;
    /// Takes a complete frame for `port`. What it cannot send it drops and counts.
    fn send(&mut self, port: PortId, frame: B);
}

/// One port's link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct L2Port {
    /// Our station address.
    pub mac: [u8; 6],
    /// 802.1Q VLAN id; 0: untagged.
    pub vlan: u16,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Our addresses, with the prefix length of the link.
    pub addresses: Vec<IpNet>,
    /// Next hop of replies to peers that are not on-link, at most one per family.
    pub gateway: Vec<IpAddr>,
    /// Packets for hosts that are not us pass, too.
    pub transit: bool,
}

impl Default for L2Port {
    fn default() -> Self {
        Self {
            mac: [2, 0, 0, 0, 0, 0],
            vlan: 0,
            mtu: 1500,
            addresses: Vec::new(),
            gateway: Vec::new(),
            transit: false,
        }
    }
}

/// One route of the exits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L2Route {
    /// Destinations.
    pub to: IpNet,
    /// Next hop.
    pub via: IpAddr,
    /// The port it is on-link on.
    pub port: PortId,
}

/// What one shard's L2 is made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct L2Config {
    /// Ports in configuration order.
    pub ports: Vec<L2Port>,
    /// Routes.
    pub routes: Vec<L2Route>,
    /// Neighbours kept besides gateways and next hops.
    pub neighbours: u32,
    /// Echo requests answered per second.
    pub echo_per_s: u32,
    /// Announce our addresses at the start: one shard does.
    pub announce: bool,
}

impl Default for L2Config {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            routes: Vec::new(),
            neighbours: 1024,
            echo_per_s: 1000,
            announce: true,
        }
    }
}

/// A neighbour that another shard learned, to be passed on to [`L2::apply`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighbourNews {
    hop: Hop,
    claim: neighbour::Claim,
}

/// ICMP errors for our own stack that wait for the next burst.
const MAX_REPORTS: usize = 32;
/// News for other shards that wait to be fetched.
const MAX_NEWS: usize = 64;
/// RFC 5227 §2.3: announcements, and their distance.
const ANNOUNCE_NUM: u8 = 2;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
/// Address conflicts and dead gateways are logged this often at most.
const LOGS_PER_S: u32 = 1;

/// The link layer of one shard.
pub struct L2<B> {
    links: Links,
    routes: Routes,
    /// Ports that routes name.
    exits: Vec<PortId>,
    neighbours: Neighbours<B>,
    recent: Recent,
    counters: Arc<ShardCounters>,
    echo: TokenBucket,
    logs: TokenBucket,
    /// ICMP errors about our packets, for our stack.
    reports: Vec<B>,
    /// Fragments that have come in.
    fragments: VecDeque<B>,
    /// Whether anybody fetches `news`.
    shares_news: bool,
    news: VecDeque<NeighbourNews>,
    group_reports: mld::Reports,
    announcements: u8,
    announce_at: Option<Instant>,
    scratch: Vec<u8>,
    quote: Vec<u8>,
}

impl<B: PacketBuf> L2<B> {
    /// Nothing is sent before [`L2::handle_timeouts`] is called.
    #[must_use]
    pub fn new(config: &L2Config, counters: Arc<ShardCounters>) -> Self {
        let links = Links::new(&config.ports);
        let routes = Routes::new(&config.ports, &links, &config.routes);
        let neighbours =
            Neighbours::new(config.neighbours, routes.next_hops(), Arc::clone(&counters));
        counters.neighbours.set(u64::from(neighbours.len()));
        let mut exits: Vec<_> = config.routes.iter().map(|route| route.port).collect();
        exits.sort_unstable();
        exits.dedup();
        Self {
            links,
            routes,
            exits,
            neighbours,
            recent: Recent::new(),
            counters,
            echo: TokenBucket::new(config.echo_per_s),
            logs: TokenBucket::new(LOGS_PER_S),
            reports: Vec::with_capacity(MAX_REPORTS),
            fragments: VecDeque::new(),
            shares_news: false,
            news: VecDeque::new(),
            group_reports: mld::Reports::new(config.ports.len(), config.announce),
            announcements: if config.announce { ANNOUNCE_NUM } else { 0 },
            announce_at: Some(Instant::MIN),
            scratch: Vec::new(),
            quote: Vec::new(),
        }
    }

    /// Starts keeping what is learned about neighbours for [`L2::poll_news`]: for shards that share
    /// ports, because an answer arrives on a queue of the port's choice.
    pub fn share_news(&mut self) {
        self.shares_news = true;
    }

    /// Something learned that other shards should know, the oldest first: the last word counts there, too.
    pub fn poll_news(&mut self) -> Option<NeighbourNews> {
        self.news.pop_front()
    }

    /// Takes in what another shard learned.
    pub fn apply(&mut self, now: Instant, news: NeighbourNews, io: &mut impl L2Io<B>) {
        if let Some(found) = self.neighbours.learn(now, news.hop, news.claim) {
            self.send_waiting(news.hop, found, io);
        }
        self.counters.neighbours.set(u64::from(self.neighbours.len()));
    }

    /// Announces our addresses, asks for gateways at the start, and goes on with searches that are
    /// due: work in proportion to those.
    pub fn handle_timeouts(&mut self, now: Instant, io: &mut impl L2Io<B>) {
        // Before the announcements: a switch that snoops passes their answers only afterwards.
        while let Some((port, why)) = self.group_reports.poll(now) {
            self.report_groups(port, why, io);
        }
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce(now, io);
        }
        while let Some(due) = self.neighbours.poll_due(now) {
            self.handle_due(now, due, io);
        }
    }

    /// When [`L2::handle_timeouts`] next has something to do; never late.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let searches = self.neighbours.poll_timeout();
        let reports = self.group_reports.poll_timeout();
        [self.announce_at, searches, reports].into_iter().flatten().min()
    }

    /// Moves ICMP errors about our own packets (no route, no neighbour, too long) to `into`: they
    /// enter the stack like received ones.
    pub fn take_reports(&mut self, into: &mut Vec<B>) {
        into.append(&mut self.reports);
    }

    /// A fragment that [`L2::ingress`] took; what it makes with others goes to [`L2::reassembled`].
    pub fn poll_fragment(&mut self) -> Option<B> {
        self.fragments.pop_front()
    }

    /// The ports that routes name, each once.
    #[must_use]
    pub fn exits(&self) -> &[PortId] {
        &self.exits
    }

    /// Neighbours in the table, pinned ones included.
    #[must_use]
    pub fn neighbour_count(&self) -> u32 {
        self.neighbours.len()
    }

    fn announce(&mut self, now: Instant, io: &mut impl L2Io<B>) {
        let first = self.announce_at == Some(Instant::MIN);
        if self.announcements > 0 {
            self.announcements -= 1;
            for (port, link) in self.links.iter() {
                for addr in link.addresses() {
                    egress::send_announcement(port, link, addr, io);
                }
            }
        }
        self.announce_at = (self.announcements > 0).then_some(now + ANNOUNCE_INTERVAL);
        if first {
            for hop in self.neighbours.pinned().collect::<Vec<_>>() {
                if self.neighbours.search(now, hop) {
                    self.ask(hop, None, io);
                }
            }
        }
    }

    /// Tells routers and switches which groups we listen to, on one port or on all.
    fn report_groups(&self, port: Option<usize>, why: mld::Why, io: &mut impl L2Io<B>) {
        for (id, link) in self.links.iter() {
            if port.is_none_or(|port| port == usize::from(id.0)) {
                let sent = egress::send_group_reports(id, link, why, io);
                for _ in 0..sent {
                    self.counters.happened(crate::counters::L2Event::GroupReports);
                }
            }
        }
    }

    fn handle_due(&mut self, now: Instant, due: neighbour::Due<B>, io: &mut impl L2Io<B>) {
        match due {
            neighbour::Due::Ask(hop) => self.ask(hop, None, io),
            neighbour::Due::Probe(hop, mac) => self.ask(hop, Some(mac), io),
            neighbour::Due::Failed(hop, waiting) => {
                if self.logs.take(now) {
                    log::warn!("neighbour {} on {:?} does not answer", hop.addr, hop.port);
                }
                for packet in waiting {
                    self.unreachable(packet, io);
                }
            }
        }
    }

    fn ask(&mut self, hop: Hop, station: Option<Mac>, io: &mut impl L2Io<B>) {
        if let Some(link) = self.links.get(hop.port) {
            egress::send_question(hop, link, station, io);
            self.counters.happened(crate::counters::L2Event::Solicitations);
        }
    }
}

#[cfg(test)]
mod tests;
