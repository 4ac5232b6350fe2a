//! A value that is in memory only while somebody uses it: eight octets where a queue of an idle connection would
//! lie empty.
//!
//! Invariant: what is not there reads as empty. It comes with the first write and goes with
//! [`OnDemand::rest`], which whoever owns it calls when nothing has happened for a while: never once per packet.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ops::{Deref, DerefMut};

/// A queue that runs empty between two bursts keeps memory for so many entries; until it rests.
pub(crate) const ROOMY: usize = 1024;

/// What can be forgotten while it is empty.
pub(crate) trait Empty: Sized + 'static {
    /// As it is made.
    const EMPTY: Self;
    /// The same, to be read where there is none.
    const ABSENT: &'static Self;

    /// It is as it was made, but for memory it has reserved and numbers that mean nothing to anybody now.
    fn is_unused(&self) -> bool;
}

impl<T: 'static> Empty for VecDeque<T> {
    const EMPTY: Self = Self::new();
    const ABSENT: &'static Self = &Self::new();

    fn is_unused(&self) -> bool {
        self.is_empty()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct OnDemand<T>(Option<Box<T>>);

impl<T: Empty> OnDemand<T> {
    /// It is not there yet.
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// The value, if it is there: what would only make it emptier needs none.
    pub(crate) fn there(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    #[cfg(test)]
    pub(crate) const fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// As it was made.
    pub(crate) fn forget(&mut self) {
        self.0 = None;
    }

    /// Gives its memory back if nobody uses it, and answers whether it did.
    pub(crate) fn rest(&mut self) -> bool {
        self.0.take_if(|value| value.is_unused()).is_some()
    }
}

impl<T: Empty> Default for OnDemand<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Empty> Deref for OnDemand<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::ABSENT)
    }
}

impl<T: Empty> DerefMut for OnDemand<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(T::EMPTY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_while_it_is_used() {
        let mut queue = OnDemand::<VecDeque<u8>>::new();
        assert!(queue.is_empty() && queue.front().is_none() && !queue.rest());
        queue.push_back(7);
        assert!(!queue.rest());
        assert_eq!(queue.pop_front(), Some(7));
        assert!(queue.capacity() > 0 && queue.rest());
        assert_eq!(queue.capacity(), 0);
        assert_eq!(size_of::<OnDemand<VecDeque<u8>>>(), 8);
    }
}
