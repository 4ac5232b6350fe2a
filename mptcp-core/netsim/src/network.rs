//! Nodes joined by two-way paths, driven as one queue of events in virtual time.
//!
//! The caller decides which path a packet leaves by ([`Network::send`]); the network decides when
//! it arrives ([`Network::deliver`]). Arrivals of all links come out in the order of their times,
//! ties in the order the paths were added, so that one seed gives one run. Every packet is shown to
//! the referee, the trace and the capture where it leaves a node and where it reaches one.

use crate::link::{Link, LinkConfig};
use crate::middlebox::Middlebox;
use crate::packet;
use crate::pcap::{LinkType, PcapWriter};
use crate::referee::{Point, Referee};
use crate::trace::Trace;
use crate::{Direction, rng::Rng};
use core::any::Any;
use core::net::IpAddr;
use std::collections::VecDeque;
use std::io;

/// A host of the network, in the order of [`Network::add_node`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub usize);

/// A two-way path between two nodes, in the order of [`Network::add_path`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathId(pub usize);

/// A packet that reached a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Who receives it.
    pub node: NodeId,
    /// The path it came by.
    pub path: PathId,
    /// When it arrived: at most the `now` of the call.
    pub at: u64,
    /// The packet, from its IP header on.
    pub packet: Vec<u8>,
}

struct Node {
    name: String,
    addresses: Vec<IpAddr>,
}

struct Path {
    a: NodeId,
    b: NodeId,
    ab: Link,
    ba: Link,
    boxes: Vec<Box<dyn Middlebox>>,
}

impl Path {
    const fn link(&self, dir: Direction) -> &Link {
        match dir {
            Direction::AtoB => &self.ab,
            Direction::BtoA => &self.ba,
        }
    }

    const fn link_mut(&mut self, dir: Direction) -> &mut Link {
        match dir {
            Direction::AtoB => &mut self.ab,
            Direction::BtoA => &mut self.ba,
        }
    }
}

/// The most packets a chain of boxes may make out of one; more are dropped and counted. It ends
/// what two boxes that answer each other would never end.
const MAX_CHAIN_OUTPUT: usize = 1_024;

/// Sees every packet where it leaves a node and again where it reaches one: when, at which node, on
/// which path, at which of the two points, and the packet.
pub type Tap = Box<dyn FnMut(u64, NodeId, PathId, Point, &[u8]) + Send>;

/// Nodes, paths, and everybody who watches them.
///
/// Methods that take a [`NodeId`] or a [`PathId`] panic when it is not of this network.
pub struct Network {
    seed: u64,
    nodes: Vec<Node>,
    paths: Vec<Path>,
    /// Packets for `a` ends that came out of a chain of boxes, in order.
    ready: VecDeque<Delivery>,
    misrouted: u64,
    chain_overflow: u64,
    trace: Trace,
    referee: Option<Referee>,
    capture: Option<PcapWriter<Box<dyn io::Write + Send>>>,
    capture_error: Option<io::Error>,
    tap: Option<Tap>,
}

impl Network {
    /// An empty network whose links all draw from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: Vec::new(),
            paths: Vec::new(),
            ready: VecDeque::new(),
            misrouted: 0,
            chain_overflow: 0,
            trace: Trace::new(),
            referee: None,
            capture: None,
            capture_error: None,
            tap: None,
        }
    }

    /// Adds a host. A packet for an address it does not have is dropped as misrouted; a host without
    /// addresses takes everything. `name` is for the referee's reports.
    pub fn add_node(&mut self, name: &str, addresses: &[IpAddr]) -> NodeId {
        self.nodes.push(Node { name: name.to_owned(), addresses: addresses.to_vec() });
        NodeId(self.nodes.len() - 1)
    }

    /// Gives a host one more address, from now on.
    pub fn add_address(&mut self, node: NodeId, address: IpAddr) {
        self.nodes[node.0].addresses.push(address);
    }

    /// Takes an address from a host, from now on; packets in flight to it are misrouted.
    pub fn remove_address(&mut self, node: NodeId, address: IpAddr) {
        self.nodes[node.0].addresses.retain(|&other| other != address);
    }

    /// Joins two hosts by a link in each direction.
    pub fn add_path(&mut self, a: NodeId, b: NodeId, ab: LinkConfig, ba: LinkConfig) -> PathId {
        assert!(a.0 < self.nodes.len() && b.0 < self.nodes.len(), "a node of another network");
        let seed = Rng::for_packet(self.seed, u64::MAX - 1, self.paths.len() as u64).next_u64();
        self.paths.push(Path {
            a,
            b,
            ab: Link::new(ab, seed, Direction::AtoB.index()),
            ba: Link::new(ba, seed, Direction::BtoA.index()),
            boxes: Vec::new(),
        });
        PathId(self.paths.len() - 1)
    }

    /// Appends a box to the chain at the path's `a` end; the first added is the closest to `a`.
    /// Returns its position for [`Network::middlebox`].
    pub fn add_middlebox(&mut self, path: PathId, middlebox: Box<dyn Middlebox>) -> usize {
        let boxes = &mut self.paths[path.0].boxes;
        boxes.push(middlebox);
        boxes.len() - 1
    }

    /// Lets `referee` watch every node from now on.
    pub fn set_referee(&mut self, mut referee: Referee) {
        for (index, node) in self.nodes.iter().enumerate() {
            referee.name_node(NodeId(index), &node.name);
        }
        self.referee = Some(referee);
    }

    /// Writes every packet, where it leaves a node and again where it reaches one, as a capture.
    ///
    /// # Errors
    /// When the sink refuses the file header.
    pub fn set_capture(&mut self, sink: Box<dyn io::Write + Send>) -> io::Result<()> {
        self.capture = Some(PcapWriter::new(sink, LinkType::Raw)?);
        Ok(())
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// The first error of the sink since [`Network::set_capture`].
    pub fn finish_capture(&mut self) -> io::Result<()> {
        if let Some(error) = self.capture_error.take() {
            return Err(error);
        }
        self.capture.take().map_or(Ok(()), |capture| capture.finish().map(drop))
    }

    /// Shows every packet to `tap` from now on.
    pub fn set_tap(&mut self, tap: Tap) {
        self.tap = Some(tap);
    }

    /// `node` sends `packet` out by `path`. Panics when `node` is not an end of `path`.
    pub fn send(&mut self, now: u64, node: NodeId, path: PathId, packet: Vec<u8>) {
        let (a, b) = self.ends(path);
        assert!(node == a || node == b, "{path:?} does not end at {node:?}");
        self.watch(now, node, path, Point::Sent, &packet);
        if node == a {
            self.run_chain(now, path, Direction::AtoB, packet);
        } else {
            self.paths[path.0].ba.push(now, packet);
        }
    }

    /// The next packet that reaches a node at or before `now`. Call until it returns `None`.
    pub fn deliver(&mut self, now: u64) -> Option<Delivery> {
        loop {
            let delivery = self.next_delivery(now)?;
            let addresses = &self.nodes[delivery.node.0].addresses;
            let known = packet::destination(&delivery.packet)
                .is_some_and(|destination| addresses.contains(&destination));
            if addresses.is_empty() || known {
                self.watch(
                    delivery.at,
                    delivery.node,
                    delivery.path,
                    Point::Delivered,
                    &delivery.packet,
                );
                return Some(delivery);
            }
            self.misrouted += 1;
        }
    }

    /// When `deliver` may have something: may be early, never late. `None` when the network is
    /// silent until somebody sends.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let ready = self.ready.front().map(|delivery| delivery.at);
        let links = self.paths.iter().flat_map(|path| [&path.ab, &path.ba]);
        let boxes = self.paths.iter().flat_map(|path| &path.boxes);
        let held = boxes.filter_map(|middlebox| middlebox.next_deadline());
        links.filter_map(Link::next_deadline).chain(held).chain(ready).min()
    }

    /// The two ends of a path: `a`, then `b`.
    #[must_use]
    pub fn ends(&self, path: PathId) -> (NodeId, NodeId) {
        let path = &self.paths[path.0];
        (path.a, path.b)
    }

    /// The first path from `node` whose other end has `destination`.
    #[must_use]
    pub fn route(&self, node: NodeId, destination: IpAddr) -> Option<PathId> {
        let leads = |path: &Path| {
            let far = if path.a == node {
                path.b
            } else if path.b == node {
                path.a
            } else {
                return false;
            };
            self.nodes[far.0].addresses.contains(&destination)
        };
        self.paths.iter().position(leads).map(PathId)
    }

    /// One direction of a path.
    #[must_use]
    pub fn link(&self, path: PathId, dir: Direction) -> &Link {
        self.paths[path.0].link(dir)
    }

    /// One direction of a path, to reconfigure it or schedule changes.
    pub fn link_mut(&mut self, path: PathId, dir: Direction) -> &mut Link {
        self.paths[path.0].link_mut(dir)
    }

    /// The box at `index` of a path's chain, if it is a `T`.
    pub fn middlebox<T: Middlebox>(&mut self, path: PathId, index: usize) -> Option<&mut T> {
        let middlebox: &mut dyn Any = self.paths[path.0].boxes.get_mut(index)?.as_mut();
        middlebox.downcast_mut()
    }

    /// The digest of everything sent and delivered so far.
    #[must_use]
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The referee, if one watches.
    #[must_use]
    pub const fn referee(&self) -> Option<&Referee> {
        self.referee.as_ref()
    }

    /// The referee, to exempt nodes or take its verdict.
    pub const fn referee_mut(&mut self) -> Option<&mut Referee> {
        self.referee.as_mut()
    }

    /// Packets that reached a node without their destination address.
    #[must_use]
    pub const fn misrouted(&self) -> u64 {
        self.misrouted
    }

    /// Packets dropped because a chain of boxes multiplied one beyond 1,024.
    #[must_use]
    pub const fn chain_overflow(&self) -> u64 {
        self.chain_overflow
    }

    fn next_delivery(&mut self, now: u64) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.ready.pop_front() {
                return Some(delivery);
            }
            let arrival = self.earliest(now);
            if let Some((at, id, index)) = self.due_box(now)
                && arrival.is_none_or(|(earliest, ..)| at < earliest)
            {
                self.run_timeout(at, id, index);
                continue;
            }
            let (at, index, dir) = arrival?;
            let (id, path) = (PathId(index), &mut self.paths[index]);
            let packet = path.link_mut(dir).poll(now)?;
            match dir {
                Direction::AtoB => {
                    return Some(Delivery { node: path.b, path: id, at, packet });
                }
                Direction::BtoA => self.run_chain(at, id, dir, packet),
            }
        }
    }

    /// The box whose held packets are due first, at or before `now`.
    fn due_box(&self, now: u64) -> Option<(u64, PathId, usize)> {
        let paths = self.paths.iter().enumerate();
        let due = paths.flat_map(|(path, Path { boxes, .. })| {
            boxes.iter().enumerate().filter_map(move |(index, middlebox)| {
                Some((middlebox.next_deadline()?, PathId(path), index))
            })
        });
        due.min().filter(|&(at, ..)| at <= now)
    }

    fn run_timeout(&mut self, now: u64, id: PathId, index: usize) {
        let mut out = Vec::new();
        self.paths[id.0].boxes[index].timeout(now, &mut out);
        let pending = out.into_iter().map(|(dir, packet)| (after(index, dir), dir, packet));
        self.run_pending(now, id, pending.collect());
    }

    /// The earliest arrival at or before `now` over all links; the first added wins a tie.
    fn earliest(&mut self, now: u64) -> Option<(u64, usize, Direction)> {
        let mut best: Option<(u64, usize, Direction)> = None;
        for (index, path) in self.paths.iter_mut().enumerate() {
            for dir in [Direction::AtoB, Direction::BtoA] {
                if let Some(at) = path.link_mut(dir).arrival(now)
                    && best.is_none_or(|(earliest, ..)| at < earliest)
                {
                    best = Some((at, index, dir));
                }
            }
        }
        best
    }

    /// Passes a packet through the boxes of a path from the end it enters at, and on to the link
    /// or to node `a`.
    fn run_chain(&mut self, now: u64, id: PathId, dir: Direction, packet: Vec<u8>) {
        let entry = if dir == Direction::AtoB { 0 } else { self.paths[id.0].boxes.len() };
        self.run_pending(now, id, VecDeque::from([(entry, dir, packet)]));
    }

    /// Moves packets through the chain. Position n lies between box n - 1 and box n; node `a` is
    /// before the first box, the link behind the last.
    fn run_pending(
        &mut self,
        now: u64,
        id: PathId,
        mut pending: VecDeque<(usize, Direction, Vec<u8>)>,
    ) {
        let path = &mut self.paths[id.0];
        let count = path.boxes.len();
        let (mut out, mut budget) = (Vec::new(), MAX_CHAIN_OUTPUT);
        while let Some((position, dir, packet)) = pending.pop_front() {
            let index = match dir {
                Direction::AtoB if position == count => {
                    path.ab.push(now, packet);
                    continue;
                }
                Direction::BtoA if position == 0 => {
                    self.ready.push_back(Delivery { node: path.a, path: id, at: now, packet });
                    continue;
                }
                Direction::AtoB => position,
                Direction::BtoA => position - 1,
            };
            path.boxes[index].process(now, dir, packet, &mut out);
            for (dir, packet) in out.drain(..) {
                if budget == 0 {
                    self.chain_overflow += 1;
                    continue;
                }
                budget -= 1;
                pending.push_back((after(index, dir), dir, packet));
            }
        }
    }

    fn watch(&mut self, now: u64, node: NodeId, path: PathId, point: Point, packet: &[u8]) {
        let place = (node.0 as u64) << 32 | (path.0 as u64) << 1 | u64::from(point == Point::Sent);
        self.trace.record(now, place, packet);
        if let Some(referee) = &mut self.referee {
            referee.observe(now, node, point, packet);
        }
        if let Some(tap) = &mut self.tap {
            tap(now, node, path, point, packet);
        }
        if self.capture_error.is_none()
            && let Some(capture) = &mut self.capture
            && let Err(error) = capture.write(now, packet)
        {
            self.capture_error = Some(error);
        }
    }
}

/// The position a packet is at when it leaves box `index` in direction `dir`.
const fn after(index: usize, dir: Direction) -> usize {
    match dir {
        Direction::AtoB => index + 1,
        Direction::BtoA => index,
    }
}

#[cfg(test)]
mod tests;
