//! TCP options: an iterator that allocates nothing and loses nothing, and a 40-byte writer.
//!
//! Invariant: what [`OptionIter`] yields, pushed to an [`OptionWriter`], gives the same bytes again,
//! up to padding and to bits the RFCs reserve. RFC 9293 §3.2, RFC 7323 §2-3, RFC 2018, RFC 7413.

use super::Version;
use super::cursor::Reader;
use super::fast_open::FastOpenCookie;
use super::mptcp::MptcpOption;
use crate::seq::SeqNum;
use core::fmt;

/// The most bytes of options a TCP header holds.
pub const MAX_OPTIONS_LEN: usize = 40;
/// The most blocks a SACK option holds.
pub const MAX_SACK_BLOCKS: usize = 4;

/// Option kind numbers (IANA).
pub mod kind {
    /// End of option list: one octet.
    pub const END: u8 = 0;
    /// Padding: one octet.
    pub const NOP: u8 = 1;
    /// Maximum segment size, RFC 9293 §3.2.
    pub const MAX_SEGMENT_SIZE: u8 = 2;
    /// Window scale, RFC 7323 §2.
    pub const WINDOW_SCALE: u8 = 3;
    /// SACK permitted, RFC 2018 §2.
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgment, RFC 2018 §3.
    pub const SACK: u8 = 5;
    /// Timestamps, RFC 7323 §3.
    pub const TIMESTAMPS: u8 = 8;
    /// Multipath TCP, RFC 8684 §3.
    pub const MPTCP: u8 = 30;
    /// Fast Open, RFC 7413 §4.1.1.
    pub const FAST_OPEN: u8 = 34;
}

/// One TCP option. A known kind whose length is wrong is `Unknown`, its bytes kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpOption<'a> {
    /// Largest payload the sender takes, in bytes, without IP and TCP options. SYN only.
    MaxSegmentSize(u16),
    /// Shift count as it stands there; above 14 it must be taken as 14 (RFC 7323 §2.3). SYN only.
    WindowScale(u8),
    /// The sender can use SACK. SYN only.
    SackPermitted,
    /// One to four blocks.
    Sack(SackBlocks<'a>),
    /// RFC 7323 §3.2.
    Timestamps {
        /// The sender's clock.
        tsval: u32,
        /// Echo of ours; means nothing without ACK.
        tsecr: u32,
    },
    /// Kind 30 with at least a subtype.
    Mptcp(MptcpOption<'a>),
    /// RFC 7413 §4.1.1. SYN only.
    FastOpen(FastOpenCookie),
    /// Anything else.
    Unknown {
        /// Option kind; never 0 or 1.
        kind: u8,
        /// What follows the kind and length octets.
        data: &'a [u8],
    },
}

impl<'a> TcpOption<'a> {
    fn parse(kind: u8, data: &'a [u8]) -> Self {
        let known = match (kind, data) {
            (kind::MAX_SEGMENT_SIZE, &[high, low]) => {
                Some(Self::MaxSegmentSize(u16::from_be_bytes([high, low])))
            }
            (kind::WINDOW_SCALE, &[shift]) => Some(Self::WindowScale(shift)),
            (kind::SACK_PERMITTED, []) => Some(Self::SackPermitted),
            (kind::SACK, data) => SackBlocks::new(data).map(Self::Sack),
            (kind::TIMESTAMPS, &[v0, v1, v2, v3, e0, e1, e2, e3]) => Some(Self::Timestamps {
                tsval: u32::from_be_bytes([v0, v1, v2, v3]),
                tsecr: u32::from_be_bytes([e0, e1, e2, e3]),
            }),
            (kind::MPTCP, data) => MptcpOption::parse(data).map(Self::Mptcp),
            (kind::FAST_OPEN, data) => FastOpenCookie::new(data).map(Self::FastOpen),
            _ => None,
        };
        known.unwrap_or(Self::Unknown { kind, data })
    }
}

/// The blocks of a SACK option: pairs of left edge and right edge (first octet not received).
/// Neither order nor sense of the edges is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SackBlocks<'a> {
    /// One to four times eight bytes.
    bytes: &'a [u8],
}

impl<'a> SackBlocks<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let whole = !bytes.is_empty() && bytes.len().is_multiple_of(8);
        (whole && bytes.len() <= 8 * MAX_SACK_BLOCKS).then_some(Self { bytes })
    }

    /// Builds the option's value in `buffer` for [`OptionWriter::push`]. Takes the first four
    /// blocks; `None` when there is none.
    #[must_use]
    pub fn write(blocks: &[(SeqNum, SeqNum)], buffer: &'a mut [u8; 32]) -> Option<Self> {
        let (slots, _) = buffer.as_chunks_mut::<8>();
        for (slot, (left, right)) in slots.iter_mut().zip(blocks) {
            *slot = (u64::from(left.0) << 32 | u64::from(right.0)).to_be_bytes();
        }
        Self::new(buffer.get(..8 * blocks.len().min(MAX_SACK_BLOCKS))?)
    }

    /// The blocks in the order they stand in the option.
    #[must_use]
    pub fn iter(&self) -> SackIter<'a> {
        let (blocks, _) = self.bytes.as_chunks::<8>();
        SackIter(blocks.iter())
    }

    /// Number of blocks, 1 to 4.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub const fn len(&self) -> usize {
        self.bytes.len() / 8
    }
}

impl<'a> IntoIterator for SackBlocks<'a> {
    type Item = (SeqNum, SeqNum);
    type IntoIter = SackIter<'a>;

    fn into_iter(self) -> SackIter<'a> {
        self.iter()
    }
}

/// Iterates over [`SackBlocks`]: left edge, right edge.
#[derive(Clone, Debug)]
pub struct SackIter<'a>(core::slice::Iter<'a, [u8; 8]>);

impl Iterator for SackIter<'_> {
    type Item = (SeqNum, SeqNum);

    fn next(&mut self) -> Option<Self::Item> {
        let &[l0, l1, l2, l3, r0, r1, r2, r3] = self.0.next()?;
        Some((
            SeqNum(u32::from_be_bytes([l0, l1, l2, l3])),
            SeqNum(u32::from_be_bytes([r0, r1, r2, r3])),
        ))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for SackIter<'_> {}
impl core::iter::FusedIterator for SackIter<'_> {}

impl fmt::Debug for SackBlocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Why the rest of an option list cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionError {
    /// The list ends behind a kind octet.
    MissingLength {
        /// That kind.
        kind: u8,
    },
    /// A length of 0 or 1, which would not even cover kind and length.
    LengthTooSmall {
        /// Kind of the option.
        kind: u8,
        /// Its length octet.
        len: u8,
    },
    /// The option claims more bytes than the header has left.
    PastEnd {
        /// Kind of the option.
        kind: u8,
        /// Its length octet.
        len: u8,
    },
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingLength { kind } => {
                write!(f, "TCP option {kind} ends behind its kind octet")
            }
            Self::LengthTooSmall { kind, len } => {
                write!(f, "TCP option {kind} has length {len}, below 2")
            }
            Self::PastEnd { kind, len } => {
                write!(f, "TCP option {kind} of length {len} reaches past the header")
            }
        }
    }
}

impl core::error::Error for OptionError {}

/// Iterates over an option list. NOPs are skipped and an end-of-list ends it; a broken length yields
/// one error and ends it too, for nothing behind it can be trusted.
#[derive(Clone)]
pub struct OptionIter<'a> {
    rest: Reader<'a>,
}

impl<'a> OptionIter<'a> {
    /// Over the option area of a TCP header.
    #[must_use]
    pub const fn new(options: &'a [u8]) -> Self {
        Self { rest: Reader::new(options) }
    }

    /// The MPTCP options alone, up to the first that is broken: what is of another kind is passed over unread.
    pub(crate) fn mptcp(mut self) -> impl Iterator<Item = MptcpOption<'a>> {
        core::iter::from_fn(move || {
            loop {
                let (kind, data) = self.next_data()?.ok()?;
                if kind == kind::MPTCP
                    && let Some(option) = MptcpOption::parse(data)
                {
                    return Some(option);
                }
            }
        })
    }

    /// Kind and data of the next option; nothing follows on an error.
    #[inline]
    fn next_data(&mut self) -> Option<Result<(u8, &'a [u8]), OptionError>> {
        let kind = loop {
            match self.rest.u8()? {
                kind::NOP => {}
                kind::END => {
                    self.rest = Reader::new(&[]);
                    return None;
                }
                kind => break kind,
            }
        };
        let data = self.data_of(kind);
        if data.is_err() {
            self.rest = Reader::new(&[]);
        }
        Some(data.map(|data| (kind, data)))
    }

    #[inline]
    fn data_of(&mut self, kind: u8) -> Result<&'a [u8], OptionError> {
        let len = self.rest.u8().ok_or(OptionError::MissingLength { kind })?;
        let data_len =
            usize::from(len).checked_sub(2).ok_or(OptionError::LengthTooSmall { kind, len })?;
        self.rest.take(data_len).ok_or(OptionError::PastEnd { kind, len })
    }
}

impl<'a> Iterator for OptionIter<'a> {
    type Item = Result<TcpOption<'a>, OptionError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_data()?.map(|(kind, data)| TcpOption::parse(kind, data)))
    }
}

impl core::iter::FusedIterator for OptionIter<'_> {}

impl fmt::Debug for OptionIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// Collects at most 40 bytes of options. A push that does not fit changes nothing and says so.
#[derive(Clone, Copy)]
pub struct OptionWriter {
    len: u8,
    /// Means something up to `len`.
    bytes: [u8; MAX_OPTIONS_LEN],
}

impl OptionWriter {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { len: 0, bytes: [0; MAX_OPTIONS_LEN] }
    }

    /// Appends `option` exactly, without alignment. False, and unchanged, when it does not fit or
    /// contradicts itself (an `Unknown` of kind 0 or 1, an MPTCP subtype that its data denies).
    #[must_use]
    pub fn push(&mut self, option: &TcpOption<'_>) -> bool {
        self.attempt(|writer| match *option {
            TcpOption::MaxSegmentSize(mss) => {
                let [high, low] = mss.to_be_bytes();
                writer.put([kind::MAX_SEGMENT_SIZE, 4, high, low])
            }
            TcpOption::WindowScale(shift) => writer.put([kind::WINDOW_SCALE, 3, shift]),
            TcpOption::SackPermitted => writer.put([kind::SACK_PERMITTED, 2]),
            TcpOption::Sack(blocks) => writer.put_option(kind::SACK, blocks.bytes),
            TcpOption::Timestamps { tsval, tsecr } => {
                writer.put([kind::TIMESTAMPS, 10])?;
                writer.put(tsval.to_be_bytes())?;
                writer.put(tsecr.to_be_bytes())
            }
            TcpOption::Mptcp(option) => writer.put_mptcp(|value| option.encode(value)),
            TcpOption::FastOpen(cookie) => writer.put_option(kind::FAST_OPEN, cookie.as_bytes()),
            TcpOption::Unknown { kind: kind::END | kind::NOP, .. } => None,
            TcpOption::Unknown { kind, data } => writer.put_option(kind, data),
        })
    }

    /// Appends `option` if protocol version `version` has it in this form: false, and unchanged,
    /// when it does not ([`MptcpOption::is_in`]) or when it does not fit.
    #[must_use]
    pub fn push_mptcp(&mut self, option: &MptcpOption<'_>, version: Version) -> bool {
        option.is_in(version) && self.push(&TcpOption::Mptcp(*option))
    }

    /// Appends timestamps with as many NOPs in front as put `tsval` on a 4-byte boundary: two on an
    /// empty list, none behind `SackPermitted`. Packed without NOPs when only that fits.
    #[must_use]
    pub fn push_timestamps(&mut self, tsval: u32, tsecr: u32) -> bool {
        let option = TcpOption::Timestamps { tsval, tsecr };
        self.push_aligned(&option) || self.push(&option)
    }

    /// Appends what belongs on a SYN, in the order and with the padding that most stacks use: every
    /// option ends on a 4-byte boundary, so that what follows begins on one (RFC 7323 appendix A).
    /// False when not all of it fits.
    #[must_use]
    pub(crate) fn push_syn(
        &mut self,
        mss: u16,
        sack: bool,
        timestamps: Option<(u32, u32)>,
        window_scale: Option<u8>,
    ) -> bool {
        let mut fits = self.push(&TcpOption::MaxSegmentSize(mss));
        if sack {
            // Timestamps fill the word that it begins; without any, NOPs in front do.
            fits &= timestamps.is_some() || self.nop() && self.nop();
            fits &= self.push(&TcpOption::SackPermitted);
        }
        if let Some((tsval, tsecr)) = timestamps {
            fits &= self.push_timestamps(tsval, tsecr);
        }
        if let Some(shift) = window_scale {
            fits &= self.nop() && self.push(&TcpOption::WindowScale(shift));
        }
        fits
    }

    /// Appends a SACK option with as many of `blocks`, from the front, as fit (at most four), its
    /// edges on 4-byte boundaries if possible. Returns how many; with none, nothing is written.
    #[must_use]
    pub fn push_sack(&mut self, blocks: &[(SeqNum, SeqNum)]) -> usize {
        let room = self.remaining().saturating_sub(2) / 8;
        let mut buffer = [0; 32];
        let fitting = blocks.get(..room.min(blocks.len())).unwrap_or(blocks);
        let Some(sack) = SackBlocks::write(fitting, &mut buffer) else { return 0 };
        let option = TcpOption::Sack(sack);
        if self.push_aligned(&option) || self.push(&option) { sack.len() } else { 0 }
    }

    /// Inserts a SACK option where `at` octets are written, in front of the others: the order of most stacks, which
    /// leaves the acknowledgement beside the timestamps. Returns how many blocks; with none, nothing changes.
    #[must_use]
    pub(crate) fn insert_sack(&mut self, at: usize, blocks: &[(SeqNum, SeqNum)]) -> usize {
        let at = at.min(self.len());
        let room = self.remaining().saturating_sub(4) / 8;
        let fitting = blocks.get(..room).unwrap_or(blocks);
        let mut behind = Self::new();
        let moved = behind.put_slice(self.as_bytes().get(at..).unwrap_or_default());
        debug_assert!(moved.is_some(), "a part is no longer than the whole");
        self.len = at as u8;
        let count = self.push_sack(fitting);
        let back = self.put_slice(behind.as_bytes());
        debug_assert!(back.is_some(), "room was left");
        count
    }

    /// Appends one NOP. False when there is no room.
    pub fn nop(&mut self) -> bool {
        self.put([kind::NOP]).is_some()
    }

    /// Bytes written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// True when nothing is written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that can still be written.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        MAX_OPTIONS_LEN.saturating_sub(self.len())
    }

    /// What is written, without padding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or(&self.bytes)
    }

    /// [`OptionWriter::len`] rounded up to a multiple of 4: the bytes taken in a header.
    #[must_use]
    pub const fn padded_len(&self) -> usize {
        self.len().next_multiple_of(4)
    }

    /// The options read back.
    #[must_use]
    pub fn iter(&self) -> OptionIter<'_> {
        OptionIter::new(self.as_bytes())
    }

    /// Fills `area` (of `padded_len` bytes) with the options and NOPs behind them.
    pub(super) fn write_padded(&self, area: &mut [u8]) {
        let options = self.as_bytes();
        if let Some((head, padding)) = area.split_at_mut_checked(options.len()) {
            head.copy_from_slice(options);
            padding.fill(kind::NOP);
        }
    }

    /// Appends bytes; `None`, and unchanged, when they do not fit.
    pub(super) fn put<const N: usize>(&mut self, bytes: [u8; N]) -> Option<()> {
        *self.bytes.get_mut(self.len as usize..)?.first_chunk_mut::<N>()? = bytes;
        self.len += u8::try_from(N).ok()?;
        Some(())
    }

    /// As [`OptionWriter::put`], for a length that is not known when compiling.
    pub(super) fn put_slice(&mut self, bytes: &[u8]) -> Option<()> {
        let start = self.len();
        let end = start.checked_add(bytes.len())?;
        self.bytes.get_mut(start..end)?.copy_from_slice(bytes);
        self.len = u8::try_from(end).ok()?;
        Some(())
    }

    fn put_option(&mut self, kind: u8, data: &[u8]) -> Option<()> {
        let len = u8::try_from(data.len().checked_add(2)?).ok()?;
        self.put([kind, len])?;
        self.put_slice(data)
    }

    /// Appends kind 30, the value that `encode` appends, and the length in between.
    pub(super) fn put_mptcp(&mut self, encode: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let start = self.len;
        self.put([kind::MPTCP, 0])?;
        encode(self)?;
        *self.bytes.get_mut(usize::from(start) + 1)? = self.len - start;
        Some(())
    }

    /// Runs `write` and takes back what it wrote when it fails.
    pub(super) fn attempt(&mut self, write: impl FnOnce(&mut Self) -> Option<()>) -> bool {
        let before = self.len;
        let done = write(self).is_some();
        if !done {
            self.len = before;
        }
        done
    }

    /// Appends NOPs until the option's value starts on a 4-byte boundary, then the option.
    fn push_aligned(&mut self, option: &TcpOption<'_>) -> bool {
        self.attempt(|writer| {
            while writer.len() % 4 != 2 {
                writer.put([kind::NOP])?;
            }
            writer.push(option).then_some(())
        })
    }
}

impl PartialEq for OptionWriter {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for OptionWriter {}

impl Default for OptionWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for OptionWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().fmt(f)
    }
}
