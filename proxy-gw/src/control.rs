//! Between the control threads and a shard: a bounded mailbox of questions, answered without
//! blocking the shard, and the order to end, which no number of questions can hold up.

use crate::gateway::{Counters, SessionSnapshot};
use crate::policies::InForce;
use core::sync::atomic::{AtomicU8, Ordering};
use core::time::Duration;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use mptcp_core::buf::PortId;
use mptcp_core::mptcp::path_health::{AccessHealth, PathInfo};
use mptcp_core::stack::Occupancy;
use mptcp_core::time::Instant;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Questions that may wait for a shard.
const MAILBOX: usize = 64;
/// When a full mailbox is tried again.
const ROOM_AGAIN: Duration = Duration::from_millis(10);

/// What a shard is to do; it is only ever raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Take sessions.
    Serve,
    /// Stop listening; end when the last session has.
    Drain,
    /// Reset every session and end.
    Abort,
}

/// What a shard can be asked.
#[derive(Debug)]
pub enum Command {
    /// Report sessions, a page at a time.
    Sessions {
        /// Where to go on: what the last page said, 0 at first.
        from: u32,
        /// Where the page goes.
        reply: oneshot::Sender<SessionPage>,
    },
    /// Report the paths to clients, a page at a time.
    Paths {
        /// Where to go on: what the last page said, 0 at first.
        from: u32,
        /// Where the page goes.
        reply: oneshot::Sender<PathPage>,
    },
    /// Go by these from now on.
    Policies {
        /// What is in force.
        in_force: Arc<InForce>,
        /// Told when every session goes by it.
        done: oneshot::Sender<()>,
    },
    /// Report counters.
    Counters {
        /// Where they go.
        reply: oneshot::Sender<Box<ShardCounters>>,
    },
}

/// Some of a shard's sessions.
#[derive(Debug)]
pub struct SessionPage {
    /// The sessions.
    pub sessions: Vec<SessionSnapshot>,
    /// Where the next page starts, if there is one.
    pub next: Option<u32>,
}

/// Some of a shard's paths.
#[derive(Debug)]
pub struct PathPage {
    /// When they were as they say.
    pub now: Instant,
    /// The paths.
    pub paths: Vec<PathInfo>,
    /// Where the next page starts, if there is one.
    pub next: Option<u32>,
}

/// What a shard counted.
#[derive(Clone, Debug)]
pub struct ShardCounters {
    /// The gateway's counts.
    pub gateway: Counters,
    /// Sessions now.
    pub sessions: u32,
    /// The resolver's counts.
    pub dns: crate::dns::Counters,
    /// The stack's counts.
    pub stack: mptcp_core::stats::Counters,
    /// How full the stack's tables are.
    pub occupancy: Occupancy,
    /// The paths to clients by port.
    pub accesses: Vec<(PortId, AccessHealth)>,
}

/// Wakes a shard's loop if it sleeps.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// The control side of one shard.
#[derive(Clone)]
pub struct ShardHandle {
    commands: Sender<Command>,
    order: Arc<AtomicU8>,
    wake: Waker,
}

/// The shard's side.
#[derive(Debug)]
pub struct Mailbox {
    commands: Receiver<Command>,
    order: Arc<AtomicU8>,
}

/// The shard takes no commands: it has ended, or its mailbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreachable;

impl core::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the shard does not answer; it has ended or is overloaded")
    }
}

impl core::error::Error for Unreachable {}

/// Both sides for one shard.
#[must_use]
pub fn mailbox(wake: Waker) -> (ShardHandle, Mailbox) {
    let (sender, receiver) = bounded(MAILBOX);
    let order = Arc::new(AtomicU8::new(Order::Serve as u8));
    let handle = ShardHandle { commands: sender, order: Arc::clone(&order), wake };
    (handle, Mailbox { commands: receiver, order })
}

impl ShardHandle {
    /// Tells the shard to do `order` and wakes it; nothing can hold this up, and a lower order
    /// later changes nothing.
    pub fn order(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::Release);
        (self.wake)();
    }

    /// Puts `command` into the mailbox and wakes the shard.
    ///
    /// # Errors
    /// [`Unreachable`]; the command is gone.
    pub fn send(&self, command: Command) -> Result<(), Unreachable> {
        self.commands.try_send(command).map_err(|_| Unreachable)?;
        (self.wake)();
        Ok(())
    }

    /// Asks for one page of sessions.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub async fn sessions(&self, from: u32) -> Result<SessionPage, Unreachable> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Sessions { from, reply })?;
        answer.await.map_err(|_| Unreachable)
    }

    /// Asks for one page of paths.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub async fn paths(&self, from: u32) -> Result<PathPage, Unreachable> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Paths { from, reply })?;
        answer.await.map_err(|_| Unreachable)
    }

    /// Hands over what is in force if the mailbox has room for it now; what is answered is told when every session
    /// goes by it.
    #[must_use]
    pub fn offer_policies(&self, in_force: Arc<InForce>) -> Option<oneshot::Receiver<()>> {
        let (done, told) = oneshot::channel();
        self.send(Command::Policies { in_force, done }).ok()?;
        Some(told)
    }

    /// Hands over what is in force, as soon as the mailbox has room for it; what is answered is told when
    /// every session goes by it.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub async fn set_policies(
        &self,
        in_force: Arc<InForce>,
    ) -> Result<oneshot::Receiver<()>, Unreachable> {
        let (done, told) = oneshot::channel();
        let mut command = Command::Policies { in_force, done };
        while let Err(refused) = self.commands.try_send(command) {
            let TrySendError::Full(back) = refused else { return Err(Unreachable) };
            command = back;
            tokio::time::sleep(ROOM_AGAIN).await;
        }
        (self.wake)();
        Ok(told)
    }

    /// Asks for the counters.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub async fn counters(&self) -> Result<Box<ShardCounters>, Unreachable> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Counters { reply })?;
        answer.await.map_err(|_| Unreachable)
    }
}

impl Mailbox {
    /// The next command, if there is one.
    #[must_use]
    pub fn poll(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Whether a command waits.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The highest order given so far.
    #[must_use]
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Abort,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_passes_a_full_mailbox() {
        let (handle, mailbox) = mailbox(Arc::new(|| {}));
        let ask = || handle.send(Command::Sessions { from: 0, reply: oneshot::channel().0 });
        while ask().is_ok() {}
        assert_eq!(mailbox.order(), Order::Serve);
        handle.order(Order::Drain);
        assert_eq!(mailbox.order(), Order::Drain);
        handle.order(Order::Abort);
        handle.order(Order::Drain);
        assert_eq!(mailbox.order(), Order::Abort, "never lowered");
    }
}
