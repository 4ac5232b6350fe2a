//! Seeded links, middleboxes and referees for packet-level network simulation.
//!
//! Bytes in, bytes out: a packet is a `Vec<u8>` that starts with an IP header, time is a `u64` of
//! virtual nanoseconds given by the caller, and every random draw comes from a seed. The one
//! invariant: the same calls with the same seed give the same packets at the same times.
//!
//! * [`link`]: one direction of a link (rate, delay, jitter, loss, reordering, duplication, queue, MTU).
//! * [`network`]: nodes joined by two-way paths, driven as one event queue.
//! * [`middlebox`]: what sits on a path and changes packets (NAT, option strippers, splitters).
//! * [`referee`]: judges what every host sends against what it was sent, with a parser of its own.
//! * [`pcap`] and [`trace`]: what is left of a run, as a capture and as one number.
//!
//! ```
//! use netsim::{LinkConfig, Network};
//!
//! let mut net = Network::new(7);
//! let phone = net.add_node("phone", &["10.0.0.2".parse().unwrap()]);
//! let server = net.add_node("server", &["10.0.0.1".parse().unwrap()]);
//! let lte = LinkConfig { rate_bps: Some(60_000_000), delay_ns: 20_000_000, ..LinkConfig::default() };
//! let path = net.add_path(phone, server, lte.clone(), lte);
//! let mut packet = vec![0x45; 40];
//! packet[16..20].copy_from_slice(&[10, 0, 0, 1]);
//! net.send(0, phone, path, packet);
//! let due = net.next_deadline().unwrap();
//! assert_eq!(net.deliver(due).unwrap().node, server);
//! ```
#![forbid(unsafe_code)]

pub mod link;
pub mod middlebox;
pub mod network;
pub mod packet;
pub mod pcap;
pub mod referee;
pub mod rng;
pub mod trace;

pub use link::{Change, DropReason, Link, LinkConfig, LinkCounters, Loss, Verdict};
pub use middlebox::Middlebox;
pub use network::{Delivery, Network, NodeId, PathId};
pub use referee::{Judged, Point, Referee, Rule, Violation};
pub use rng::Rng;

/// Which way a packet crosses a path between its ends `a` and `b`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// From end `a` towards end `b`.
    AtoB,
    /// From end `b` towards end `a`.
    BtoA,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::AtoB => Self::BtoA,
            Self::BtoA => Self::AtoB,
        }
    }

    /// A number for seeds and digests: 0 or 1.
    #[must_use]
    pub const fn index(self) -> u64 {
        match self {
            Self::AtoB => 0,
            Self::BtoA => 1,
        }
    }
}
