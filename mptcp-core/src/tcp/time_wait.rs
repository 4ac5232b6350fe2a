//! TIME-WAIT as a small entry (RFC 9293 §3.10.7.4, RFC 6191): it re-acknowledges the peer's FIN,
//! and lets a new connection through when its SYN is provably younger.

use super::{Segment, Stateless, Tuple};
use crate::buf::PortId;
use crate::config::Marking;
use crate::seq::{DataSeq, SeqNum};
use crate::wire::{MptcpOption, OptionIter, OptionWriter, TcpFlags, TcpOption};

/// One connection in TIME-WAIT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeWait {
    pub(crate) tuple: Tuple,
    pub(crate) port: PortId,
    pub(crate) timestamps: bool,
    /// Repeats the `DATA_ACK` of a finished MPTCP connection (RFC 8684 Appendix D).
    pub(crate) mptcp: bool,
    /// That `DATA_ACK` has 8 octets. Of a fast close: the RST at its end has the option, which version 0
    /// has on an ACK only.
    pub(crate) wide: bool,
    /// Not TIME-WAIT but a fast close: sent so often, until a RST answers (RFC 8684 §3.5). 0 in
    /// TIME-WAIT.
    pub(crate) fastclose: u8,
    /// An older SYN was answered with an acknowledgement: whoever sent it says with a RST that it has forgotten the
    /// connection.
    pub(crate) challenged: bool,
    /// Retransmission timeout of a fast close, milliseconds.
    pub(crate) rto_ms: u16,
    pub(crate) window: u16,
    pub(crate) marking: Marking,
    pub(crate) snd_nxt: SeqNum,
    pub(crate) rcv_nxt: SeqNum,
    pub(crate) ts_recent: u32,
    pub(crate) ts_offset: u32,
    /// What the `DATA_ACK` says; the peer's key in a fast close.
    pub(crate) data_ack: DataSeq,
}

const _: () = assert!(size_of::<TimeWait>() <= 80);

/// No window is larger (RFC 7323 §2.3).
const MAX_WINDOW: i32 = 1 << 30;

/// What a segment in TIME-WAIT asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Ignore,
    /// Acknowledge; the time starts again when the peer repeated its FIN.
    Acknowledge {
        restart: bool,
    },
    /// A new connection may take the place of this one.
    Reopen,
    /// The fast close was heard, or crosses the peer's, or the peer has forgotten the connection: over, with a RST if
    /// `reset`.
    Closed {
        reset: bool,
    },
}

impl TimeWait {
    /// A segment without data in the name of the connection that was.
    pub(crate) fn answer(&self, flags: TcpFlags, options: OptionWriter) -> Stateless {
        Stateless {
            tuple: self.tuple,
            port: self.port,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags,
            window: self.window,
            marking: self.marking,
            options,
        }
    }

    pub(crate) fn segment_arrives(&self, segment: &Segment) -> Verdict {
        if self.fastclose > 0 {
            return self.fastclose_answer(segment);
        }
        if segment.has(TcpFlags::RST) {
            // RFC 1337: a RST must not cut TIME-WAIT short, but for the one that answers us: or a host that began anew, and
            // one that a NAT gave the same port, would open in vain for as long as this lasts.
            let answers = self.challenged && segment.seq == self.rcv_nxt;
            return if answers { Verdict::Closed { reset: false } } else { Verdict::Ignore };
        }
        if segment.has(TcpFlags::SYN) && !segment.has(TcpFlags::ACK) {
            let younger = match segment.timestamps {
                Some((tsval, _)) if self.timestamps && tsval != self.ts_recent => {
                    tsval.wrapping_sub(self.ts_recent).cast_signed() > 0
                }
                _ => segment.seq.gt(self.rcv_nxt),
            };
            return if younger { Verdict::Reopen } else { Verdict::Acknowledge { restart: false } };
        }
        if !segment.has(TcpFlags::ACK) {
            return Verdict::Ignore;
        }
        if segment.seq_len() == 0 && segment.seq == self.rcv_nxt && !self.is_strange(segment) {
            // A DATA_FIN takes no sequence space, and the last DATA_ACK may have been lost.
            let asks = self.mptcp && has_data_fin(segment);
            return if asks { Verdict::Acknowledge { restart: false } } else { Verdict::Ignore };
        }
        let repeated = segment.has(TcpFlags::FIN) && segment.end() == self.rcv_nxt;
        Verdict::Acknowledge { restart: repeated }
    }

    /// It acknowledges what was never sent, or long ago (RFC 9293 §3.5.2, RFC 5961 §5.2), or is older than what came
    /// before (RFC 7323 §5.3): it is not acceptable.
    fn is_strange(&self, segment: &Segment) -> bool {
        let acceptable = (0..=MAX_WINDOW).contains(&self.snd_nxt.diff(segment.ack));
        let older = |(tsval, _): (u32, u32)| tsval.wrapping_sub(self.ts_recent).cast_signed() < 0;
        !acceptable || self.timestamps && segment.timestamps.is_some_and(older)
    }

    fn fastclose_answer(&self, segment: &Segment) -> Verdict {
        let ahead = segment.seq.diff(self.rcv_nxt);
        let near = (0..=1 << 20).contains(&ahead);
        let crossing = |option| matches!(option, TcpOption::Mptcp(MptcpOption::Fastclose { .. }));
        if near && segment.has(TcpFlags::RST) {
            Verdict::Closed { reset: false }
        } else if near && OptionIter::new(segment.options.as_bytes()).flatten().any(crossing) {
            Verdict::Closed { reset: true }
        } else if segment.has(TcpFlags::SYN) && !segment.has(TcpFlags::ACK) {
            // Whoever opens a new connection has forgotten this one, and says so when it is challenged
            // (RFC 5961 §4).
            Verdict::Acknowledge { restart: false }
        } else {
            Verdict::Ignore
        }
    }
}

fn has_data_fin(segment: &Segment) -> bool {
    let fin = |option| matches!(option, TcpOption::Mptcp(MptcpOption::Dss(dss)) if dss.data_fin);
    OptionIter::new(segment.options.as_bytes()).flatten().any(fin)
}
