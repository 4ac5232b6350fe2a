//! What an I/O loop (TUN, DPDK, simulator) drives: one shard and whatever sits on it.

use crate::buf::{PacketBuf, TxQueue};
use crate::steering::SteeringNote;
use crate::tcp::Tuple;
use crate::time::Instant;
use alloc::vec::Vec;

/// Whether a bounded call finished its work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// Nothing is left to do now.
    Done,
    /// The budget or the queue ran out first: call again.
    More,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// Keep polling.
    Continue,
    /// The worker is finished: send what it still has to send, within bounds, and return.
    Stop,
}

/// One shard as its loop sees it. The loop reads the clock once per turn and calls, in this order:
/// `handle_burst`, `handle_timeouts`, `handle_events`, `poll_transmit`, `poll_control`.
pub trait Worker<B: PacketBuf> {
    /// Takes a burst of IP packets; leaves `burst` empty. Never fails.
    fn handle_burst(&mut self, now: Instant, burst: &mut Vec<B>);
    /// Runs at most `budget` expired timers.
    fn handle_timeouts(&mut self, now: Instant, budget: usize) -> Progress;
    /// Lets the application on top react to readiness.
    fn handle_events(&mut self, now: Instant);
    /// Fills `tx` until it is full or nothing is left to send.
    fn poll_transmit<T: TxQueue<B>>(&mut self, now: Instant, tx: &mut T) -> Progress;
    /// When `handle_timeouts` next has work; may be early, never late.
    fn poll_timeout(&self) -> Option<Instant>;
    /// Looks at the control mailbox without blocking.
    fn poll_control(&mut self, now: Instant) -> Control;

    /// [`crate::stack::Stack::reassemble`], for a packet that is a fragment. Whoever has no stack gets fragments as they
    /// come.
    fn reassemble(&mut self, _now: Instant, fragment: B) -> Option<B> {
        Some(fragment)
    }

    /// [`crate::stack::Stack::has_flow`], for the steering of a loop that runs one shard of several; where
    /// there is one shard nobody asks.
    fn has_flow(&self, _tuple: &Tuple) -> bool {
        false
    }

    /// [`crate::stack::Stack::poll_steering_note`], alike.
    fn poll_steering_note(&mut self) -> Option<SteeringNote> {
        None
    }
}
