//! A connection in SYN-RECEIVED by passive open: not a control block yet, only what the third ACK
//! must be checked against (RFC 4987 §3.3). A join keeps its nonces here too.

use super::{Agreed, Segment, Tuple, rtt};
use crate::buf::PortId;
use crate::mptcp::FallbackReason;
use crate::mptcp::key::OwnKey;
use crate::seq::SeqNum;
use crate::time::Instant;
use crate::wire::Version;

bitflags::bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct RequestFlags: u16 {
        const SACK = 1;
        const TIMESTAMPS = 1 << 1;
        /// The peer asked for DSS checksums and we grant them.
        const CHECKSUM = 1 << 2;
        const BACKUP = 1 << 3;
        /// The application decides first; no SYN/ACK until it does.
        const DEFERRED = 1 << 4;
        /// A deferred request waiting in the accept queue.
        const OFFERED = 1 << 5;
        /// Our SYN/ACK asks for checksums too.
        const ASK_CHECKSUM = 1 << 6;
        /// The SYN/ACK was sent more than once.
        const REPEATED = 1 << 7;
        /// The SYN asked for ECN and we grant it.
        const ECN = 1 << 8;
        /// The first SYN/ACK grants a Fast Open cookie.
        const GRANT = 1 << 9;
        /// The third ACK came and found no room, or what follows it came alone: the peer takes the connection for
        /// established.
        const ANSWERED = 1 << 10;
        /// The SYN brought text, which comes again unless the connection is given out with it.
        const TEXT = 1 << 11;
    }
}

/// What kind of connection the SYN asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// TCP, and why when MPTCP was offered.
    Plain(Option<FallbackReason>),
    /// `remote_key` is 0 while unknown: only a version 0 SYN has it.
    Capable {
        version: Version,
        own: OwnKey,
        remote_key: u64,
    },
    Join {
        connection: u32,
        local_nonce: u32,
        remote_nonce: u32,
        remote_id: u8,
        local_id: u8,
    },
}

/// A pending request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) tuple: Tuple,
    pub(crate) port: PortId,
    pub(crate) flags: RequestFlags,
    /// 255: the peer does not scale.
    pub(crate) snd_wscale: u8,
    pub(crate) retries: u8,
    /// How often the keys were asked for again, because a segment spoke MPTCP without them.
    pub(crate) keyless: u8,
    pub(crate) peer_mss: u16,
    pub(crate) local_mss: u16,
    pub(crate) iss: SeqNum,
    pub(crate) irs: SeqNum,
    pub(crate) ts_recent: u32,
    /// Of our timestamps, where they are in use.
    pub(crate) ts_offset: u32,
    pub(crate) listener: u32,
    /// When the SYN/ACK goes out again.
    pub(crate) next: Instant,
    /// When it was last sent.
    pub(crate) sent_at: Instant,
    pub(crate) wanted: Wanted,
}

const _: () = assert!(size_of::<Request>() <= 128);

impl Request {
    /// The token of the connection this may become.
    pub(crate) const fn token(&self) -> Option<u32> {
        match self.wanted {
            Wanted::Capable { own, .. } => Some(own.token),
            Wanted::Plain(_) | Wanted::Join { .. } => None,
        }
    }

    /// What the handshake agreed on that `segment` ends `now`.
    pub(crate) fn agreed(
        &self,
        now: Instant,
        segment: &Segment,
        rcv_wscale: u8,
        window: u32,
    ) -> Agreed {
        let ts_offset = self.ts_offset;
        let once = !self.flags.contains(RequestFlags::REPEATED);
        // A timestamp tells which of our SYN/ACKs was answered.
        let echoed = || {
            let (_, tsecr) = segment.timestamps?;
            let agreed = self.flags.contains(RequestFlags::TIMESTAMPS);
            let clock = (now.as_millis() as u32).wrapping_add(ts_offset);
            agreed.then(|| rtt::echoed_by_handshake(clock, tsecr))?
        };
        let timed = if once { Some(now.since(self.sent_at)) } else { echoed() };
        Agreed {
            rtt: timed,
            syn_ack_timeouts: self.retries,
            iss: self.iss,
            irs: self.irs,
            peer_mss: (self.peer_mss != 0).then_some(self.peer_mss),
            local_mss: self.local_mss,
            snd_wscale: (self.snd_wscale != 255).then_some(self.snd_wscale),
            rcv_wscale,
            sack: self.flags.contains(RequestFlags::SACK),
            ts_recent: self.flags.contains(RequestFlags::TIMESTAMPS).then_some(self.ts_recent),
            ts_offset,
            ecn: self.flags.contains(RequestFlags::ECN),
            window,
        }
    }
}
