//! Every rule of the referee: a run that keeps it and one that breaks it and nothing else.

mod bounds;
mod mptcp;
mod tcp;

use super::*;
use crate::packet::build::Build;

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const A_ADDR: &str = "10.0.0.1:1000";
const B_ADDR: &str = "10.0.0.2:80";
const A_ISN: u32 = 0xffff_ff00;
const B_ISN: u32 = 5_000;

const MSS: [u8; 4] = [2, 4, 5, 180];
const SCALE_7: [u8; 3] = [3, 3, 7];
const SACK_OK: [u8; 2] = [4, 2];

fn timestamps(tsval: u32, tsecr: u32) -> Vec<u8> {
    let mut option = vec![8, 10];
    option.extend(tsval.to_be_bytes());
    option.extend(tsecr.to_be_bytes());
    option
}

/// Two hosts without a network between them: what one sends reaches the other, or is lost.
struct Scene {
    referee: Referee,
    now: u64,
}

impl Scene {
    fn new() -> Self {
        Self { referee: Referee::new(), now: 0 }
    }

    /// A scene after a handshake with these options on both SYNs.
    fn connected(options: &[&[u8]]) -> Self {
        let mut scene = Self::new();
        scene.pass(syn(options));
        scene.pass(syn_ack(options));
        scene.pass(a(1, 1));
        scene
    }

    /// Seen where it leaves and where it arrives.
    fn pass(&mut self, build: Build) {
        self.pass_as(build.to_packet());
    }

    fn pass_as(&mut self, packet: Vec<u8>) {
        let (from, to) = if packet[15] == 1 { (A, B) } else { (B, A) };
        self.now += 1_000;
        self.referee.observe(self.now, from, Point::Sent, &packet);
        self.referee.observe(self.now, to, Point::Delivered, &packet);
    }

    /// Seen where it leaves only.
    fn lose(&mut self, build: Build) {
        self.now += 1_000;
        let node = if build.src.ip() == a(0, 0).src.ip() { A } else { B };
        self.referee.observe(self.now, node, Point::Sent, &build.to_packet());
    }

    #[track_caller]
    fn clean(&self) {
        self.referee.assert_clean();
    }

    /// Asserts that exactly this rule was broken, once.
    #[track_caller]
    fn broke(&self, rule: Rule) {
        assert_eq!(
            *self.referee.broken(),
            BTreeMap::from([(rule, 1)]),
            "{:?}",
            self.referee.violations()
        );
    }
}

/// A segment from A at positions of both streams.
fn a(seq: u32, ack: u32) -> Build {
    let mut build = Build::new(A_ADDR, B_ADDR);
    build.seq = A_ISN.wrapping_add(seq);
    build.ack = B_ISN.wrapping_add(ack);
    build
}

/// A segment from B.
fn b(seq: u32, ack: u32) -> Build {
    let mut build = Build::new(B_ADDR, A_ADDR);
    build.seq = B_ISN.wrapping_add(seq);
    build.ack = A_ISN.wrapping_add(ack);
    build
}

fn syn(options: &[&[u8]]) -> Build {
    let mut build = a(0, 0);
    build.flags = flag::SYN;
    build.ack = 0;
    build.options = options.concat();
    build
}

fn syn_ack(options: &[&[u8]]) -> Build {
    let mut build = b(0, 1);
    build.flags = flag::SYN | flag::ACK;
    build.options = options.concat();
    build
}

impl Build {
    fn data(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    fn option(mut self, option: &[u8]) -> Self {
        self.options.extend(option);
        self
    }

    fn flags(mut self, flags: u8) -> Self {
        self.flags |= flags;
        self
    }

    fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }
}
