//! The TCP header (RFC 9293 §3.1), read as a view of the segment and written in front of a payload.
//!
//! Invariant: a [`TcpSegment`]'s header, options and payload lie inside the bytes it was read from.
//! Checksums are the caller's: they need the addresses, and may have been verified by the port.

use super::options::{OptionIter, OptionWriter};
use super::{WireError, cursor::Reader};
use crate::seq::SeqNum;

/// Length of a TCP header without options.
pub const TCP_HEADER_LEN: usize = 20;

bitflags::bitflags! {
    /// The control bits (RFC 9293 §3.1, RFC 3168 §6.1).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct TcpFlags: u8 {
        /// No more data from the sender.
        const FIN = 0x01;
        /// Synchronise sequence numbers.
        const SYN = 0x02;
        /// Reset the connection.
        const RST = 0x04;
        /// Push function.
        const PSH = 0x08;
        /// The acknowledgment field counts.
        const ACK = 0x10;
        /// The urgent pointer counts.
        const URG = 0x20;
        /// ECN echo.
        const ECE = 0x40;
        /// Congestion window reduced.
        const CWR = 0x80;
    }
}

/// A received segment: header fields and views of its options and payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpSegment<'a> {
    /// Sender's port.
    pub src_port: u16,
    /// Receiver's port.
    pub dst_port: u16,
    /// Sequence number of the first octet (of the SYN, if set).
    pub seq: SeqNum,
    /// Next octet the sender expects; means nothing without [`TcpFlags::ACK`].
    pub ack: SeqNum,
    /// Control bits.
    pub flags: TcpFlags,
    /// The window field as it stands there, not scaled.
    pub window: u16,
    /// The checksum field, not verified.
    pub checksum: u16,
    /// Urgent pointer; means nothing without [`TcpFlags::URG`].
    pub urgent: u16,
    /// Header length in bytes, options included: where the payload starts in the segment.
    pub header_len: usize,
    /// The octets behind the header.
    pub payload: &'a [u8],
    options: &'a [u8],
}

impl<'a> TcpSegment<'a> {
    /// Reads the segment that fills `segment` (cut it to the IP packet's length first).
    ///
    /// # Errors
    /// [`WireError::Truncated`] when the header does not fit in, [`WireError::HeaderLength`] when
    /// the data offset is below 5.
    pub fn parse(segment: &'a [u8]) -> Result<Self, WireError> {
        let (fixed, behind) =
            segment.split_first_chunk::<TCP_HEADER_LEN>().ok_or(WireError::Truncated)?;
        let mut header = Self::read_fixed(fixed).ok_or(WireError::Truncated)?;
        let options_len =
            header.header_len.checked_sub(TCP_HEADER_LEN).ok_or(WireError::HeaderLength)?;
        (header.options, header.payload) =
            behind.split_at_checked(options_len).ok_or(WireError::Truncated)?;
        Ok(header)
    }

    fn read_fixed(fixed: &[u8; TCP_HEADER_LEN]) -> Option<Self> {
        let mut reader = Reader::new(fixed);
        Some(Self {
            src_port: reader.u16()?,
            dst_port: reader.u16()?,
            seq: SeqNum(reader.u32()?),
            ack: SeqNum(reader.u32()?),
            header_len: usize::from(reader.u8()? >> 4) * 4,
            flags: TcpFlags::from_bits_retain(reader.u8()?),
            window: reader.u16()?,
            checksum: reader.u16()?,
            urgent: reader.u16()?,
            payload: &[],
            options: &[],
        })
    }

    /// The options one by one; nothing is allocated.
    #[must_use]
    pub const fn options(&self) -> OptionIter<'a> {
        OptionIter::new(self.options)
    }

    /// The options as they stand in the header, padding included.
    #[must_use]
    pub const fn option_bytes(&self) -> &'a [u8] {
        self.options
    }

    /// SEG.LEN: octets of sequence space the segment takes, SYN and FIN included.
    #[must_use]
    pub fn seq_len(&self) -> u32 {
        // An IP packet's payload always fits in 32 bits.
        let payload = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        payload
            .saturating_add(u32::from(self.flags.contains(TcpFlags::SYN)))
            .saturating_add(u32::from(self.flags.contains(TcpFlags::FIN)))
    }
}

/// The fixed fields of a header to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpHeader {
    /// Our port.
    pub src_port: u16,
    /// The peer's port.
    pub dst_port: u16,
    /// Sequence number of the first octet (of the SYN, if set).
    pub seq: SeqNum,
    /// Next octet we expect; write 0 without [`TcpFlags::ACK`].
    pub ack: SeqNum,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field, already scaled down.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

impl TcpHeader {
    /// Header length with `options`: 20 to 60 bytes, a multiple of 4.
    #[must_use]
    pub const fn len(&self, options: &OptionWriter) -> usize {
        TCP_HEADER_LEN + options.padded_len()
    }

    /// Writes header and options to the front of `out`, the checksum field zero, and returns the
    /// header's length. Options are padded to a multiple of 4 with NOPs.
    ///
    /// Returns 0 and writes nothing when `out` is too short.
    pub fn emit(&self, options: &OptionWriter, out: &mut [u8]) -> usize {
        let len = self.len(options);
        let Some((fixed, option_area)) =
            out.get_mut(..len).and_then(|out| out.split_first_chunk_mut::<TCP_HEADER_LEN>())
        else {
            return 0;
        };
        let [src0, src1] = self.src_port.to_be_bytes();
        let [dst0, dst1] = self.dst_port.to_be_bytes();
        let [seq0, seq1, seq2, seq3] = self.seq.0.to_be_bytes();
        let [ack0, ack1, ack2, ack3] = self.ack.0.to_be_bytes();
        let [wnd0, wnd1] = self.window.to_be_bytes();
        let [urg0, urg1] = self.urgent.to_be_bytes();
        // The offset counts 4-byte words in the upper nibble: bytes / 4 * 16. At most 60 * 4.
        let offset = u8::try_from(len * 4).unwrap_or(u8::MAX);
        *fixed = [
            src0,
            src1,
            dst0,
            dst1,
            seq0,
            seq1,
            seq2,
            seq3,
            ack0,
            ack1,
            ack2,
            ack3,
            offset,
            self.flags.bits(),
            wnd0,
            wnd1,
            0,
            0,
            urg0,
            urg1,
        ];
        options.write_padded(option_area);
        len
    }
}

/// Writes `value` to the checksum field of `segment`; no effect on less than 18 bytes.
pub fn set_checksum(segment: &mut [u8], value: u16) {
    if let Some(field) = segment.get_mut(16..18) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
