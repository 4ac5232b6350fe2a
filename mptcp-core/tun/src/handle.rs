//! How other threads reach a loop that may be asleep.

use crate::error::TunError;
use core::sync::atomic::{AtomicBool, Ordering};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Wakes or stops a [`TunLoop`](crate::TunLoop). Cheap to clone; outlives the loop harmlessly.
#[derive(Clone, Debug)]
pub struct LoopHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    event: EventFd,
    stopping: AtomicBool,
}

impl LoopHandle {
    pub(crate) fn new() -> Result<Self, TunError> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| TunError::Wait { source: errno.into() })?;
        Ok(Self { shared: Arc::new(Shared { event, stopping: AtomicBool::new(false) }) })
    }

    /// Makes the loop look at the worker's control mailbox soon: call it after posting there.
    pub fn wake(&self) {
        // The only failure is a counter that is already full, and then the loop is awake.
        let _ = self.shared.event.write(1);
    }

    /// Makes the loop flush what the worker has to send, and return.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    /// Forgets the wake-ups so far; what they announced is looked at after this call.
    pub(crate) fn acknowledge(&self) {
        // Fails only when nothing was pending.
        let _ = self.shared.event.read();
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}
