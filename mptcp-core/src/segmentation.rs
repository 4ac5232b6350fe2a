//! For drivers: segments of TCP that a port sends in one piece (TSO) or has joined on their way in (LRO). Which
//! belong together, and what their headers say.
//!
//! Works on the octets of frames, or of IP packets, and knows no port. Invariant: a piece that is cut behind every
//! [`Piece::mss`] octets of text, each part with the headers of the piece and its own sequence number, lengths
//! and checksums, is what was joined, but for the identification of IPv4, which means nothing where nobody may
//! fragment (RFC 6864 §4.1). So segments are joined that say the same beside their text: same ends, same
//! acknowledgement and window, the same options octet for octet. An MPTCP mapping is one of these: the stack has
//! the segments of a burst share theirs ([`TxQueue::segmentation_offload`]).
//!
//! [`TxQueue::segmentation_offload`]: crate::buf::TxQueue::segmentation_offload

use crate::wire::Checksum;

const V6_LEN: u16 = 40;
const TCP_LEN: u16 = 20;
/// Ethernet with a tag, IPv4 and TCP with all options.
pub const MAX_HEADERS: usize = 18 + 60 + 60;
/// What the length fields of IP count to.
const MAX_LENGTH: usize = 65_535;

/// Flags of IPv4 beside an offset of 0.
const DONT_FRAGMENT: u16 = 0x4000;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// Fields of TCP, from its header on.
const SEQ_AT: usize = 4;
const ACK_AT: usize = 8;
const FLAGS_AT: usize = 13;
const WINDOW_AT: usize = 14;
const CHECKSUM_AT: usize = 16;
const URGENT_AT: usize = 18;

/// How long the headers of a frame or packet with TCP are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers {
    /// Ethernet, with its tag; 0 in front of a bare IP packet.
    pub l2: u16,
    /// IP.
    pub l3: u16,
    /// TCP, with its options.
    pub l4: u16,
    /// IPv6.
    pub v6: bool,
}

impl Headers {
    /// Of an Ethernet `frame` of `len` octets, as far as those are at hand: TCP in IP without
    /// extension headers or fragments, whose lengths are those of the frame. `None` for all others.
    #[must_use]
    pub fn of_frame(frame: &[u8], len: usize) -> Option<Self> {
        let (l2, kind) = match word(frame, 12)? {
            0x8100 => (18, word(frame, 16)?),
            kind => (14, kind),
        };
        Self::behind(l2, frame, len).filter(|found| kind == if found.v6 { 0x86dd } else { 0x0800 })
    }

    /// Of a bare IP `packet` of `len` octets, under the same conditions.
    #[must_use]
    pub fn of_packet(packet: &[u8], len: usize) -> Option<Self> {
        Self::behind(0, packet, len)
    }

    /// With so many octets in front of IP.
    fn behind(l2: u16, frame: &[u8], len: usize) -> Option<Self> {
        let ip = frame.get(usize::from(l2)..)?;
        let first = *ip.first()?;
        let (l3, total, protocol) = match first {
            0x45..=0x4f if word(ip, 6)? & 0x3fff == 0 => {
                (u16::from(first & 15) * 4, usize::from(word(ip, 2)?), *ip.get(9)?)
            }
            0x60..=0x6f => (V6_LEN, V6_LEN as usize + usize::from(word(ip, 4)?), *ip.get(6)?),
            _ => return None,
        };
        let l4 = u16::from(*ip.get(usize::from(l3) + 12)? >> 4) * 4;
        let headers = usize::from(l3) + usize::from(l4);
        let whole = total == len.checked_sub(usize::from(l2))? && total >= headers;
        (protocol == 6 && l4 >= TCP_LEN && whole && ip.len() >= headers).then_some(Self {
            l2,
            l3,
            l4,
            v6: first >> 4 == 6,
        })
    }

    /// Octets in front of the text.
    #[must_use]
    pub fn all(self) -> usize {
        usize::from(self.l2) + self.tcp_and_ip()
    }

    fn tcp_and_ip(self) -> usize {
        usize::from(self.l3) + usize::from(self.l4)
    }

    fn tcp_at(self) -> usize {
        usize::from(self.l2) + usize::from(self.l3)
    }

    /// Has `frame` say that it has so much text.
    fn set_text(self, frame: &mut [u8], text: usize) -> Option<()> {
        let ip = frame.get_mut(usize::from(self.l2)..)?;
        let length = u16::try_from(self.tcp_and_ip() + text).ok()?;
        if self.v6 {
            return put(ip, 4, (length - V6_LEN).to_be_bytes());
        }
        put(ip, 2, length.to_be_bytes())?;
        put(ip, 10, [0; 2])?;
        let mut sum = Checksum::new();
        sum.add_bytes(ip.get(..usize::from(self.l3))?);
        put(ip, 10, sum.finish().to_be_bytes())
    }

    /// Writes into `part` the headers of `text` octets behind the first `offset` of what has the headers
    /// `whole`: of the last ones with `last`. Its TCP checksum is left as it is, and so wrong.
    pub fn write_part(
        self,
        whole: &[u8],
        (offset, text, last): (usize, usize, bool),
        part: &mut [u8],
    ) -> Option<()> {
        part.get_mut(..self.all())?.copy_from_slice(whole.get(..self.all())?);
        self.set_text(part, text)?;
        let tcp = part.get_mut(self.tcp_at()..)?;
        let seq = double(tcp, SEQ_AT)?.wrapping_add(offset as u32);
        put(tcp, SEQ_AT, seq.to_be_bytes())?;
        let flags = tcp.get_mut(FLAGS_AT)?;
        *flags &= if last { u8::MAX } else { !(FIN | PSH) };
        *flags &= if offset == 0 { u8::MAX } else { !CWR };
        Some(())
    }

    /// What was joined on its way in, `len` octets of which these are the headers, can be taken apart: there is
    /// text to make parts of.
    #[must_use]
    pub fn is_plain(self, frame: &[u8], len: usize) -> bool {
        let flags = frame.get(self.tcp_at() + FLAGS_AT);
        let plain = flags.is_some_and(|flags| flags & (SYN | RST | URG) == 0 && flags & ACK != 0);
        plain && len > self.all()
    }
}

/// What the TCP checksum of a piece is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PseudoHeader {
    /// Addresses, protocol, and the length of the whole piece: virtio, and so TUN devices.
    WithLength,
    /// The same without a length: DPDK's ports.
    WithoutLength,
}

/// Segments that leave in one piece, from the first one on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    headers: Headers,
    mss: usize,
    text: usize,
    segments: u16,
    next_seq: u32,
    /// Of the last one.
    flags: u8,
}

/// A segment that goes on with a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Follower {
    /// Octets of its text.
    pub text: usize,
    flags: u8,
}

impl Piece {
    /// A frame of `len` octets that others may follow, with its `headers` at the beginning of `frame`; `None` when
    /// none may. Congestion window reduced stands on one segment alone (RFC 3168 §6.1.2), as do SYN, FIN and RST; PSH
    /// ends a piece.
    #[must_use]
    pub fn begin(headers: Headers, frame: &[u8], len: usize) -> Option<Self> {
        // What somebody may fragment needs its identification.
        if !headers.v6 && word(frame, usize::from(headers.l2) + 6)? != DONT_FRAGMENT {
            return None;
        }
        let tcp = frame.get(headers.tcp_at()..)?;
        let (text, flags) = (len.checked_sub(headers.all())?, *tcp.get(FLAGS_AT)?);
        let next_seq = double(tcp, SEQ_AT)?.wrapping_add(text as u32);
        let open = text > 0 && flags & !ECE == ACK;
        open.then_some(Self { headers, mss: text, text, segments: 1, next_seq, flags })
    }

    /// Whether the frame `next`, of `len` octets, goes on with the piece, whose headers are those of `first`.
    #[must_use]
    pub fn goes_on(&self, first: &[u8], next: &[u8], len: usize) -> Option<Follower> {
        // All but the last are of one length, and what is marked to be the last is.
        if self.text != self.mss * usize::from(self.segments) || self.flags & (PSH | FIN) != 0 {
            return None;
        }
        let Headers { l2, v6, .. } = self.headers;
        let (ip_at, tcp_at) = (usize::from(l2), self.headers.tcp_at());
        let text = len.checked_sub(self.headers.all())?;
        let length = self.headers.tcp_and_ip() + self.text + text;
        if text == 0 || text > self.mss || length > MAX_LENGTH {
            return None;
        }
        let (first, next) = (first.get(..self.headers.all())?, next.get(..self.headers.all())?);
        let same = |from: usize, to: usize| first.get(from..to) == next.get(from..to);
        let ip = if v6 {
            same(0, ip_at + 4) && same(ip_at + 6, tcp_at)
        } else {
            same(0, ip_at + 2) && same(ip_at + 4, ip_at + 10) && same(ip_at + 12, tcp_at)
        };
        let tcp = same(tcp_at, tcp_at + SEQ_AT)
            && same(tcp_at + ACK_AT, tcp_at + FLAGS_AT)
            && same(tcp_at + WINDOW_AT, tcp_at + CHECKSUM_AT)
            && same(tcp_at + URGENT_AT, self.headers.all());
        let flags = *next.get(tcp_at + FLAGS_AT)?;
        let goes_on = ip
            && tcp
            && flags & !(PSH | FIN) == self.flags
            && double(next, tcp_at + SEQ_AT)? == self.next_seq
            && Headers::behind(l2, next, len)? == self.headers;
        goes_on.then_some(Follower { text, flags })
    }

    /// Takes in what goes on with it.
    pub fn take(&mut self, follower: Follower) {
        self.text += follower.text;
        self.next_seq = self.next_seq.wrapping_add(follower.text as u32);
        self.flags = follower.flags;
        self.segments += 1;
    }

    /// Has the headers in `first` speak for all of it. The TCP checksum is that of the pseudo-header, as `pseudo`
    /// says: who cuts segments adds the rest to each.
    pub fn complete(&self, first: &mut [u8], pseudo: PseudoHeader) -> Option<()> {
        self.headers.set_text(first, self.text)?;
        let addresses_at = usize::from(self.headers.l2) + if self.headers.v6 { 8 } else { 12 };
        let mut sum = Checksum::new();
        sum.add_bytes(first.get(addresses_at..self.headers.tcp_at())?);
        sum.add_bytes(&[0, 6]);
        if pseudo == PseudoHeader::WithLength {
            let length = u16::try_from(usize::from(self.headers.l4) + self.text).ok()?;
            sum.add_bytes(&length.to_be_bytes());
        }
        let tcp = first.get_mut(self.headers.tcp_at()..)?;
        put(tcp, CHECKSUM_AT, sum.folded().to_be_bytes())?;
        *tcp.get_mut(FLAGS_AT)? = self.flags;
        Some(())
    }

    /// Segments in it.
    #[must_use]
    pub fn segments(&self) -> u16 {
        self.segments
    }

    /// Text of each but the last.
    #[must_use]
    pub fn mss(&self) -> u16 {
        u16::try_from(self.mss).unwrap_or(u16::MAX)
    }

    /// Of each.
    #[must_use]
    pub fn headers(&self) -> Headers {
        self.headers
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

fn double(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|double| u32::from_be_bytes(*double))
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut::<N>()? = value;
    Some(())
}

#[cfg(test)]
mod tests;
