//! A received TCP segment, reduced to what arrival processing looks at. The payload travels beside
//! it as an owned buffer; MPTCP options stay in their wire form until TCP accepted the segment.

use crate::seq::SeqNum;
use crate::wire::{
    Dss, FastOpenCookie, MptcpOption, OptionIter, TcpFlags, TcpOption, TcpSegment, options::kind,
};

/// At most four SACK blocks fit into the option space.
pub(crate) const MAX_SACK_BLOCKS: usize = 4;

/// Header and non-MPTCP options of one segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) seq: SeqNum,
    pub(crate) ack: SeqNum,
    pub(crate) flags: TcpFlags,
    /// As on the wire: not scaled. Of a run, that of its last segment.
    pub(crate) window: u16,
    /// Sequence number of the segment that `window` is of.
    pub(crate) window_seq: SeqNum,
    /// Urgent pointer; means nothing without URG.
    pub(crate) urgent: u16,
    /// Payload octets.
    pub(crate) len: u32,
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    /// Of a SYN.
    pub(crate) fast_open: Option<FastOpenCookie>,
    /// (TSval, TSecr)
    pub(crate) timestamps: Option<(u32, u32)>,
    sacks: [(SeqNum, SeqNum); MAX_SACK_BLOCKS],
    sack_count: u8,
    /// Its text was refused for want of memory: what its options say about that is void.
    pub(crate) refused: bool,
    /// A router marked the packet (RFC 3168 CE).
    pub(crate) marked: bool,
    /// Carries an MPTCP option other than a DSS: a duplicate acknowledgement of this kind says
    /// nothing about congestion (RFC 8684 §4).
    pub(crate) signals: bool,
    /// Nothing but acknowledgement and text, with no option but timestamps and a DSS that acknowledges
    /// and at most maps, without a checksum: it may be part of a run (`stack/coalesce.rs`).
    pub(crate) plain: bool,
    /// Segments on the wire: more than one in a run.
    pub(crate) parts: u8,
    /// The DSS, when it is the only MPTCP option.
    pub(crate) dss: Option<Dss>,
    /// The option area in wire form, for the MPTCP level. Of a run, that of its first segment.
    pub(crate) options: RawOptions,
}

/// What a segment says that may be part of a run (`stack/coalesce.rs`): nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) seq: SeqNum,
    pub(crate) ack: SeqNum,
    pub(crate) flags: TcpFlags,
    pub(crate) window: u16,
    /// Octets of text.
    pub(crate) len: u32,
    pub(crate) timestamps: Option<(u32, u32)>,
    pub(crate) dss: Option<Dss>,
}

/// A copy of the option area, made only when it holds an MPTCP option, and of a SYN/ACK. But for a SYN it begins behind
/// timestamps that stand in front of all: nobody reads those again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawOptions {
    len: u8,
    bytes: [u8; 40],
}

impl RawOptions {
    pub(crate) const EMPTY: Self = Self { len: 0, bytes: [0; 40] };

    fn copy(from: &[u8]) -> Self {
        let mut raw = Self::EMPTY;
        let len = from.len().min(40);
        raw.bytes[..len].copy_from_slice(&from[..len]);
        raw.len = len as u8;
        raw
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Segment {
    /// One that says nothing.
    const BLANK: Self = Self {
        seq: SeqNum(0),
        ack: SeqNum(0),
        flags: TcpFlags::empty(),
        window: 0,
        window_seq: SeqNum(0),
        urgent: 0,
        len: 0,
        mss: None,
        window_scale: None,
        sack_permitted: false,
        fast_open: None,
        timestamps: None,
        sacks: [(SeqNum(0), SeqNum(0)); MAX_SACK_BLOCKS],
        sack_count: 0,
        refused: false,
        marked: false,
        signals: false,
        plain: false,
        parts: 1,
        dss: None,
        options: RawOptions::EMPTY,
    };

    /// One that may be part of a run, with its option area.
    #[inline]
    pub(crate) fn of_part(part: &Part, options: &[u8]) -> Self {
        let &Part { seq, ack, flags, window, len, timestamps, dss } = part;
        // Nobody asks for the options of plain TCP.
        let options = match (dss, options.split_first_chunk()) {
            (None, _) => RawOptions::EMPTY,
            (
                _,
                Some((&[kind::NOP, kind::NOP, kind::TIMESTAMPS, 10, _, _, _, _, _, _, _, _], rest)),
            ) => RawOptions::copy(rest),
            _ => RawOptions::copy(options),
        };
        Self {
            seq,
            ack,
            flags,
            window,
            window_seq: seq,
            len,
            timestamps,
            dss,
            options,
            plain: true,
            ..Self::BLANK
        }
    }

    /// What it says that may be part of a run; `None` when it must be looked at alone.
    pub(crate) fn part(&self) -> Option<Part> {
        let &Self { seq, ack, flags, window, len, timestamps, dss, plain, .. } = self;
        plain.then_some(Part { seq, ack, flags, window, len, timestamps, dss })
    }

    pub(crate) fn new(view: &TcpSegment<'_>) -> Self {
        let mut segment = Self {
            seq: view.seq,
            ack: view.ack,
            flags: view.flags,
            window: view.window,
            window_seq: view.seq,
            urgent: view.urgent,
            len: view.payload.len() as u32,
            ..Self::BLANK
        };
        let options = view.option_bytes();
        let options = match options.split_first_chunk() {
            // As nearly every host writes them (RFC 7323 Appendix A).
            Some((
                &[kind::NOP, kind::NOP, kind::TIMESTAMPS, 10, v0, v1, v2, v3, e0, e1, e2, e3],
                rest,
            )) => {
                let echo = u32::from_be_bytes([e0, e1, e2, e3]);
                segment.timestamps = Some((u32::from_be_bytes([v0, v1, v2, v3]), echo));
                rest
            }
            _ => options,
        };
        let kept = if view.flags.contains(TcpFlags::SYN) { view.option_bytes() } else { options };
        let mut mptcp = 0;
        let mut plain = view.flags.difference(TcpFlags::PSH) == TcpFlags::ACK;
        let mut options = OptionIter::new(options);
        while let Some(Ok(option)) = options.next() {
            match option {
                TcpOption::Timestamps { tsval, tsecr } => {
                    segment.timestamps = Some((tsval, tsecr));
                    continue;
                }
                TcpOption::Mptcp(MptcpOption::Dss(dss)) => {
                    mptcp += 1;
                    segment.dss = Some(dss);
                    plain &= dss.is_plain();
                    continue;
                }
                TcpOption::MaxSegmentSize(mss) => segment.mss = Some(mss),
                TcpOption::WindowScale(shift) => segment.window_scale = Some(shift.min(14)),
                TcpOption::SackPermitted => segment.sack_permitted = true,
                TcpOption::Sack(blocks) => {
                    for block in blocks.iter().take(MAX_SACK_BLOCKS) {
                        segment.sacks[usize::from(segment.sack_count)] = block;
                        segment.sack_count += 1;
                        if usize::from(segment.sack_count) == MAX_SACK_BLOCKS {
                            break;
                        }
                    }
                }
                TcpOption::Mptcp(_) => {
                    mptcp += 1;
                    segment.signals = true;
                }
                TcpOption::FastOpen(cookie) if segment.has(TcpFlags::SYN) => {
                    segment.fast_open = Some(cookie);
                }
                // Without SYN it must be ignored (RFC 7413 §4.1.1).
                TcpOption::FastOpen(_) | TcpOption::Unknown { .. } => {}
            }
            plain = false;
        }
        if mptcp != 1 {
            segment.dss = None;
        }
        segment.plain = plain && mptcp <= 1;
        if mptcp > 0 || view.flags.contains(TcpFlags::SYN | TcpFlags::ACK) {
            segment.options = RawOptions::copy(kept);
        }
        segment
    }

    /// RFC 3168 §6.1.1: the SYN of a host that wants ECN.
    pub(crate) fn is_ecn_setup_syn(&self) -> bool {
        self.has(TcpFlags::SYN | TcpFlags::ECE | TcpFlags::CWR) && !self.has(TcpFlags::ACK)
    }

    /// RFC 3168 §6.1.1: the SYN/ACK that grants it. One that has CWR too only reflects our SYN.
    pub(crate) fn is_ecn_setup_syn_ack(&self) -> bool {
        self.has(TcpFlags::SYN | TcpFlags::ACK | TcpFlags::ECE) && !self.has(TcpFlags::CWR)
    }

    pub(crate) fn has(&self, flags: TcpFlags) -> bool {
        self.flags.contains(flags)
    }

    /// Octets of sequence space (RFC 9293 SEG.LEN).
    pub(crate) fn seq_len(&self) -> u32 {
        self.len + u32::from(self.has(TcpFlags::SYN)) + u32::from(self.has(TcpFlags::FIN))
    }

    /// Sequence number of the first octet of text.
    pub(crate) fn text_seq(&self) -> SeqNum {
        self.seq.add(u32::from(self.has(TcpFlags::SYN)))
    }

    pub(crate) fn end(&self) -> SeqNum {
        self.seq.add(self.seq_len())
    }

    pub(crate) fn sack_blocks(&self) -> &[(SeqNum, SeqNum)] {
        &self.sacks[..usize::from(self.sack_count)]
    }
}
