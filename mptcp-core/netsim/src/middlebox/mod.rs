//! What sits on a path and changes packets. A chain of boxes stands at the `a` end of a path, where
//! an access router stands in front of a phone; each sees both directions and may drop, change,
//! split, hold or answer.
//!
//! A closure is a box too, for whatever a test wants to do to packets once.

mod editor;
mod mangle;
mod mtu;
mod nat;
mod proxy;
mod rewrite;

pub use editor::StreamEditor;
pub use mangle::{
    Fill, MptcpOn, OptionStripper, PayloadCorruptor, SegmentSplitter, Strip, StripWhen,
};
pub use mtu::PathMtu;
pub use nat::{Nat, NatConfig, NatCounters};
pub use proxy::ProactiveAcker;
pub use rewrite::{
    Aim, Coalescer, Keeps, ResetInjector, SequenceShifter, SynFate, SynFilter, WindowClamp,
};

use crate::Direction;
use core::any::Any;

/// What a box puts out: packets, each with the direction it goes on in (an answer goes back).
pub type Output = Vec<(Direction, Vec<u8>)>;

/// A packet changer on a path. `Any` lets a test reach the concrete box through
/// [`Network::middlebox`](crate::Network::middlebox), to give it commands and read its counters.
pub trait Middlebox: Any + Send {
    /// Takes one packet that travels in direction `dir` and appends what comes out of it. Appending
    /// nothing drops or holds the packet.
    fn process(&mut self, now: u64, dir: Direction, packet: Vec<u8>, out: &mut Output);

    /// When [`Middlebox::timeout`] is due; `None` for boxes that never hold a packet back.
    fn next_deadline(&self) -> Option<u64> {
        None
    }

    /// Appends what was held back until `now`. It must move `next_deadline` beyond `now`.
    fn timeout(&mut self, now: u64, out: &mut Output) {
        let _ = (now, out);
    }
}

impl<F> Middlebox for F
where
    F: FnMut(u64, Direction, Vec<u8>, &mut Output) + Any + Send,
{
    fn process(&mut self, now: u64, dir: Direction, packet: Vec<u8>, out: &mut Output) {
        self(now, dir, packet, out);
    }
}
