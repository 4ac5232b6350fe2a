//! TCP segments and their options (RFC 9293 §3.1, RFC 7323, RFC 2018).

use super::{IpPacket, MptcpOption, PacketError, checksum};

/// TCP flag bits.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is significant.
    pub const URG: u8 = 0x20;
}

/// A TCP segment, its checksum and data offset checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpSegment<'a> {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first octet (of SYN, if set).
    pub seq: u32,
    /// Acknowledgement number; meaningful with `flag::ACK`.
    pub ack: u32,
    /// The low eight flag bits.
    pub flags: u8,
    /// The window field as sent, not scaled.
    pub window: u16,
    /// The option bytes, at most 40.
    pub options: &'a [u8],
    /// The data.
    pub payload: &'a [u8],
}

impl<'a> TcpSegment<'a> {
    /// Reads the TCP segment in `ip`.
    ///
    /// # Errors
    /// When the header does not fit or the checksum is wrong.
    pub fn parse(ip: &IpPacket<'a>) -> Result<Self, PacketError> {
        let header: &[u8; 20] = ip.payload.first_chunk().ok_or(PacketError::Truncated)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < 20 {
            return Err(PacketError::HeaderLength(header_len));
        }
        let (head, payload) =
            ip.payload.split_at_checked(header_len).ok_or(PacketError::HeaderLength(header_len))?;
        if checksum::fold(ip.pseudo_header_sum() + checksum::sum(ip.payload)) != 0xffff {
            return Err(PacketError::Checksum("TCP"));
        }
        Ok(Self {
            src_port: u16::from_be_bytes([header[0], header[1]]),
            dst_port: u16::from_be_bytes([header[2], header[3]]),
            seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            flags: header[13],
            window: u16::from_be_bytes([header[14], header[15]]),
            options: head.get(20..).unwrap_or_default(),
            payload,
        })
    }

    /// True when every flag in `flags` is set.
    #[must_use]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Sequence space the segment takes: data, plus one each for SYN and FIN.
    #[must_use]
    pub fn seq_len(&self) -> u32 {
        let data = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        data + u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN))
    }

    /// Iterates over the options; stops after the first malformed one.
    #[must_use]
    pub const fn options(&self) -> Options<'a> {
        Options { rest: self.options }
    }
}

/// A TCP option other than padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpOption<'a> {
    /// Kind 2.
    MaxSegmentSize(u16),
    /// Kind 3.
    WindowScale(u8),
    /// Kind 4.
    SackPermitted,
    /// Kind 5: pairs of edges, 8 bytes each.
    Sack(&'a [u8]),
    /// Kind 8.
    Timestamps {
        /// The sender's clock.
        tsval: u32,
        /// The clock value it echoes.
        tsecr: u32,
    },
    /// Kind 30, whole: kind and length are the first two bytes.
    Mptcp(MptcpOption<'a>),
    /// Anything else, or a known kind with an unexpected length.
    Other {
        /// The option's kind.
        kind: u8,
        /// What follows kind and length.
        data: &'a [u8],
    },
}

/// Iterator over options; ends at End of Option List, and after an error.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<TcpOption<'a>, PacketError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.rest {
                [] | [0, ..] => return None,
                [1, rest @ ..] => self.rest = rest,
                [kind, rest @ ..] => {
                    let split = rest.split_first().and_then(|(&len, _)| {
                        let whole = self.rest.split_at_checked(usize::from(len))?;
                        (len >= 2).then_some(whole)
                    });
                    let Some((whole, after)) = split else {
                        self.rest = &[];
                        return Some(Err(PacketError::Option(*kind)));
                    };
                    self.rest = after;
                    return Some(Ok(read_option(*kind, whole)));
                }
            }
        }
    }
}

fn read_option(kind: u8, whole: &[u8]) -> TcpOption<'_> {
    match *whole {
        [2, _, a, b] => TcpOption::MaxSegmentSize(u16::from_be_bytes([a, b])),
        [3, _, shift] => TcpOption::WindowScale(shift),
        [4, _] => TcpOption::SackPermitted,
        [5, _, ref blocks @ ..] if !blocks.is_empty() && blocks.len().is_multiple_of(8) => {
            TcpOption::Sack(blocks)
        }
        [8, _, a, b, c, d, e, f, g, h] => TcpOption::Timestamps {
            tsval: u32::from_be_bytes([a, b, c, d]),
            tsecr: u32::from_be_bytes([e, f, g, h]),
        },
        [30, _, _, ..] => TcpOption::Mptcp(MptcpOption::parse(whole)),
        _ => TcpOption::Other { kind, data: whole.get(2..).unwrap_or_default() },
    }
}
