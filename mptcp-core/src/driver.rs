//! What an I/O loop (TUN, DPDK, simulator) drives: one shard and whatever sits on it.
//!
//! Who has one stack and an application on it writes an [`Application`] and has a [`Worker`]; who has several stacks,
//! or none, writes the [`Worker`].

use crate::buf::{PacketBuf, TxQueue};
use crate::stack::Stack;
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

/// One shard as its loop sees it. The loop reads the clock once per turn and calls, in this order: `handle_burst`, for
/// each device or for all together and not where nothing came in; `handle_timeouts`, `handle_events`, `poll_transmit`.
/// `poll_control` comes once a turn as well, behind them on DPDK ports and before them over TUN devices.
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

/// An application on one [`Stack`]. It is a [`Worker`] whose calls go to the stack, those among them that a loop of
/// several shards, or a fragment, asks for.
///
/// ```
/// use mptcp_core::buf::PacketBuf;
/// use mptcp_core::driver::Application;
/// use mptcp_core::stack::{Ready, Stack};
/// use mptcp_core::time::Instant;
///
/// /// Closes what anybody opens.
/// struct Closer<B: PacketBuf>(Stack<B>);
///
/// impl<B: PacketBuf> Application for Closer<B> {
///     type Buf = B;
///
///     fn stack(&self) -> &Stack<B> {
///         &self.0
///     }
///
///     fn stack_mut(&mut self) -> &mut Stack<B> {
///         &mut self.0
///     }
///
///     fn react(&mut self, now: Instant) {
///         while let Some(event) = self.0.poll_event() {
///             if event.ready.contains(Ready::ACCEPT) {
///                 while let Some(id) = self.0.accept(event.socket) {
///                     self.0.shutdown_write(now, id);
///                 }
///             } else if event.ready.contains(Ready::CLOSED) {
///                 self.0.release(event.socket);
///             }
///         }
///     }
/// }
/// ```
pub trait Application {
    /// What holds its packets.
    type Buf: PacketBuf;

    /// The stack it is on.
    fn stack(&self) -> &Stack<Self::Buf>;
    /// The same, for the loop to feed.
    fn stack_mut(&mut self) -> &mut Stack<Self::Buf>;
    /// [`Worker::handle_events`]: once in each turn, whether or not [`Stack::poll_event`] has any.
    fn react(&mut self, now: Instant);

    /// [`Worker::poll_control`]; by default nobody has an order to give.
    fn control(&mut self, _now: Instant) -> Control {
        Control::Continue
    }

    /// A turn takes place by then, for a deadline of the application's own: [`react`](Self::react) looks whether it
    /// is due.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

impl<A: Application> Worker<A::Buf> for A {
    fn handle_burst(&mut self, now: Instant, burst: &mut Vec<A::Buf>) {
        self.stack_mut().handle_burst(now, burst);
    }

    fn handle_timeouts(&mut self, now: Instant, budget: usize) -> Progress {
        self.stack_mut().handle_timeouts(now, budget)
    }

    fn handle_events(&mut self, now: Instant) {
        self.react(now);
    }

    fn poll_transmit<T: TxQueue<A::Buf>>(&mut self, now: Instant, tx: &mut T) -> Progress {
        self.stack_mut().poll_transmit(now, tx)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        [self.stack().poll_timeout(), self.deadline()].into_iter().flatten().min()
    }

    fn poll_control(&mut self, now: Instant) -> Control {
        self.control(now)
    }

    fn reassemble(&mut self, now: Instant, fragment: A::Buf) -> Option<A::Buf> {
        self.stack_mut().reassemble(now, fragment)
    }

    fn has_flow(&self, tuple: &Tuple) -> bool {
        self.stack().has_flow(tuple)
    }

    fn poll_steering_note(&mut self) -> Option<SteeringNote> {
        self.stack_mut().poll_steering_note()
    }
}
