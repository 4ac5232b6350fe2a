//! What a fuzz input decides, octet by octet. Every input means something: once it is used up, all
//! further decisions are zero.

/// The part of an input that is not used yet.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// A number below `limit`, which is at most 65536.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        let drawn = if limit <= 256 { u32::from(self.u8()) } else { u32::from(self.u16()) };
        drawn % limit.max(1)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.u8()) % all.len()]
    }

    /// At most `most` octets.
    pub(crate) fn some(&mut self, most: u8) -> &'a [u8] {
        let len = u16::from(self.u8()) % (u16::from(most) + 1);
        self.bytes(usize::from(len))
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(len.min(self.0.len()));
        self.0 = left;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut all = [0; N];
        let taken = self.bytes(N);
        all[..taken.len()].copy_from_slice(taken);
        all
    }
}
