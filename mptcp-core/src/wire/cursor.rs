//! A forward-only reader over received bytes, for every parser of this module.
//!
//! Invariant: a read either succeeds whole or returns `None`; nothing here can panic.

use byteorder::{BigEndian, ByteOrder};

/// What is left to read. Integers are big-endian.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        let (head, tail) = self.0.split_first()?;
        self.0 = tail;
        Some(*head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take(2).map(BigEndian::read_u16)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4).map(BigEndian::read_u32)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8).map(BigEndian::read_u64)
    }

    /// Bytes not read yet.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// How many bytes are not read yet.
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// True when everything was read.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
