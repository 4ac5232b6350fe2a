//! What a received fragment says of itself, and the headers of the datagram that it is a part of (RFC 791 §3.2,
//! RFC 8200 §4.5).
//!
//! Invariant: a [`ReceivedFragment`] describes bytes that are there, as [`IpHeader`] does.

use super::cursor::Reader;
use super::ip::{
    Fragment, IpHeader, Layout, V4_HEADER_LEN, V6_FRAGMENT_LEN, V6_HEADER_LEN, is_extension,
};
use super::{WireError, checksum};

const ICMP_V4: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;
const NO_NEXT_HEADER: u8 = 59;

/// More fragments, and the offset of this one.
const V4_FRAGMENT: u16 = 0x3fff;
const V4_MORE_FRAGMENTS: u16 = 0x2000;

/// What is wrong with fragments, as far as RFC 8200 §4.5 and RFC 1122 §3.3.2 want their sender told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FragmentProblem {
    /// The rest did not come in time.
    Timeout,
    /// Not the last, but no multiple of 8 octets. IPv6 only.
    Length,
    /// It would end beyond the longest packet. IPv6 only.
    TooLong {
        /// Offset of the field that says so.
        at: usize,
    },
    /// The first one ends within the headers (RFC 7112). IPv6 only.
    Headers,
}

/// Whether the IP packet `packet` is part of a datagram. False for what is whole, IPv6 atomic fragments
/// (RFC 6946) among it, and for what is malformed.
#[inline]
#[must_use]
pub fn is_fragment(packet: &[u8]) -> bool {
    let Some((&[version, _, _, _, _, _, next, low], _)) = packet.split_first_chunk() else {
        return false;
    };
    match version >> 4 {
        4 => u16::from_be_bytes([next, low]) & V4_FRAGMENT != 0,
        6 => is_extension(next) && IpHeader::parse(packet).is_ok_and(|header| header.fragment),
        _ => false,
    }
}

/// A received fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceivedFragment {
    /// Its header; the protocol of an IPv6 fragment is what its fragment header names.
    pub header: IpHeader,
    /// Which part of the datagram it is.
    pub part: Fragment,
}

impl ReceivedFragment {
    /// Reads the fragment that `packet` starts with; `None` for what is whole or malformed.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let Layout { header, fragment_offset, .. } = Layout::parse(packet).ok()?;
        let (id, more) = if header.src.is_ipv4() {
            let mut reader = Reader::new(packet.get(4..8)?);
            (u32::from(reader.u16()?), reader.u16()? & V4_MORE_FRAGMENTS != 0)
        } else {
            let at = header.header_len.checked_sub(V6_FRAGMENT_LEN)?;
            let mut reader = Reader::new(packet.get(at + 2..)?);
            let more = reader.u16()? & 1 != 0;
            (reader.u32()?, more)
        };
        let part = Fragment { id, offset: usize::from(fragment_offset) * 8, more };
        header.fragment.then_some(Self { header, part })
    }

    /// Its part of the datagram, out of the packet it was read from.
    #[must_use]
    pub fn data<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(self.header.header_len..self.header.total_len).unwrap_or_default()
    }

    /// Octets of its headers that the whole has as well: all but IPv6's fragment header.
    #[must_use]
    pub const fn head_len(&self) -> usize {
        match self.header.src.is_ipv4() {
            true => self.header.header_len,
            false => self.header.header_len - V6_FRAGMENT_LEN,
        }
    }

    /// Longest datagram with these headers, octets behind them.
    #[must_use]
    pub const fn longest(&self) -> usize {
        let all = match self.header.src.is_ipv4() {
            true => 0xffff,
            false => 0xffff + V6_HEADER_LEN,
        };
        all - self.head_len()
    }

    /// Whether it may be part of anything, from its length and place alone.
    ///
    /// # Errors
    /// What is wrong, and what its sender is to hear, if anything.
    pub fn check(&self, packet: &[u8]) -> Result<(), Option<FragmentProblem>> {
        let v6 = self.header.src.is_ipv6();
        let say = |problem| Err(v6.then_some(problem));
        let data = self.data(packet);
        if self.part.more && !data.len().is_multiple_of(8) {
            return say(FragmentProblem::Length);
        }
        if data.is_empty() {
            return Err(None);
        }
        if self.part.offset + data.len() > self.longest() {
            return say(FragmentProblem::TooLong { at: self.head_len() + 2 });
        }
        if self.part.offset != 0 {
            return Ok(());
        }
        match self.reaches_text(data) {
            Some(true) => Ok(()),
            Some(false) => say(FragmentProblem::Headers),
            None => Err(None),
        }
    }

    /// Whether a first fragment has all headers (RFC 7112; RFC 1858 §4 wants so much of TCP over IPv4); `None` when
    /// they are no valid ones.
    fn reaches_text(&self, data: &[u8]) -> Option<bool> {
        let mut header = self.header;
        if header.src.is_ipv6() {
            header.fragment = false;
            header.header_len = 0;
            let mut behind = Layout { header, fragment_offset: 0, protocol_at: 0 };
            match behind.walk_extension_headers(Reader::new(data)) {
                Ok(()) => header = behind.header,
                Err(WireError::Truncated) => return Some(false),
                Err(_) => return None,
            }
        } else {
            header.header_len = 0;
        }
        let least = match header.protocol {
            TCP => 20,
            UDP | ICMP_V4 | ICMP_V6 => 8,
            NO_NEXT_HEADER => 0,
            _ => 1,
        };
        Some(data.len() >= header.header_len + least)
    }

    /// Writes the headers of the whole to `out`, [`ReceivedFragment::head_len`] octets: those of this fragment, the
    /// first, which was read from `packet`, with `data_len` octets and the ECN field `ecn`. `None` when they
    /// do not fit.
    pub fn write_head(
        &self,
        packet: &[u8],
        data_len: usize,
        ecn: u8,
        out: &mut [u8],
    ) -> Option<()> {
        let len = self.head_len();
        out.get_mut(..len)?.copy_from_slice(packet.get(..len)?);
        let ecn = ecn & 3;
        if self.header.src.is_ipv4() {
            let total = u16::try_from(len.checked_add(data_len)?).ok()?;
            let fixed = out.first_chunk_mut::<V4_HEADER_LEN>()?;
            let [_, class, len1, len0, _, _, part1, part0, _, _, sum1, sum0, ..] = fixed;
            *class = *class & !3 | ecn;
            [*len1, *len0] = total.to_be_bytes();
            [*part1, *part0, *sum1, *sum0] = [0; 4];
            let sum = !checksum::sum(out.get(..len)?);
            let [.., sum1, sum0, _, _, _, _, _, _, _, _] =
                out.first_chunk_mut::<V4_HEADER_LEN>()?;
            [*sum1, *sum0] = sum.to_be_bytes();
            return Some(());
        }
        let payload = len.checked_sub(V6_HEADER_LEN)?.checked_add(data_len)?;
        let payload = u16::try_from(payload).ok()?;
        *out.get_mut(self.names_fragment_at(packet)?)? = *packet.get(len)?;
        let [_, class, _, _, len1, len0, ..] = out.first_chunk_mut::<V6_HEADER_LEN>()?;
        *class = *class & !0x30 | ecn << 4;
        [*len1, *len0] = payload.to_be_bytes();
        Some(())
    }

    /// Offset of the octet that names the fragment header, the last of the headers of IPv6 in front of it.
    fn names_fragment_at(&self, packet: &[u8]) -> Option<usize> {
        let (mut names_at, mut at) = (6, V6_HEADER_LEN);
        while at < self.head_len() {
            names_at = at;
            at += (usize::from(*packet.get(at + 1)?) + 1) * 8;
        }
        Some(names_at)
    }
}
