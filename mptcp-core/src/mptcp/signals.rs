//! Options that wait for an acknowledgement to carry them.

use crate::seq::DataSeq;
use crate::wire::AddAddr;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

/// An option waiting for the next acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    AddAddr(AddAddr),
    RemoveAddr(u8),
    Prio {
        backup: bool,
    },
    /// `MP_FAIL`: an answer goes out once, what waits for an answer with every acknowledgement.
    Fail {
        dsn: u64,
        answer: bool,
        told: bool,
    },
    /// Mappings end: an infinite one from here on.
    Infinite {
        dsn: DataSeq,
        ssn: u32,
    },
    /// The same once more, on an acknowledgement: the peer goes on mapping.
    Reminder {
        dsn: DataSeq,
        ssn: u32,
    },
}

/// What waits, in the order of the wire. Empty it holds no heap memory.
#[derive(Debug)]
pub(super) struct Signals(Vec<Signal>);

impl Signals {
    pub(super) const NONE: Self = Self(Vec::new());

    /// Puts one in at `at`, or at the end where that is before it.
    pub(super) fn insert(&mut self, at: usize, signal: Signal) {
        self.0.insert(at.min(self.0.len()), signal);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Signal) -> bool) {
        self.0.retain(keep);
    }

    /// Takes the first `count` off, or all there are.
    pub(super) fn drain(&mut self, count: usize) -> Vec<Signal> {
        self.0.drain(..count.min(self.0.len())).collect()
    }
}

impl Deref for Signals {
    type Target = [Signal];

    fn deref(&self) -> &[Signal] {
        &self.0
    }
}

impl DerefMut for Signals {
    fn deref_mut(&mut self) -> &mut [Signal] {
        &mut self.0
    }
}
