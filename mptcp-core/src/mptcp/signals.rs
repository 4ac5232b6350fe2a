//! Options that wait for an acknowledgement to carry them.

use crate::seq::DataSeq;
use crate::wire::AddAddr;
use alloc::boxed::Box;
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
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "16 bytes less in every subflow, for rare use")]
pub(super) struct Signals(Option<Box<Vec<Signal>>>);

impl Signals {
    pub(super) const NONE: Self = Self(None);

    /// Puts one in at `at`, which is not behind the end.
    pub(super) fn insert(&mut self, at: usize, signal: Signal) {
        let list = self.0.get_or_insert_default();
        list.insert(at.min(list.len()), signal);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Signal) -> bool) {
        if let Some(list) = &mut self.0 {
            list.retain(keep);
        }
        self.0.take_if(|list| list.is_empty());
    }

    /// Takes the first `count` off, or all there are.
    pub(super) fn drain(&mut self, count: usize) -> Vec<Signal> {
        let Some(list) = &mut self.0 else { return Vec::new() };
        let taken = list.drain(..count.min(list.len())).collect();
        self.0.take_if(|list| list.is_empty());
        taken
    }
}

impl Deref for Signals {
    type Target = [Signal];

    fn deref(&self) -> &[Signal] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }
}

impl DerefMut for Signals {
    fn deref_mut(&mut self) -> &mut [Signal] {
        self.0.as_deref_mut().map_or(&mut [], Vec::as_mut_slice)
    }
}
