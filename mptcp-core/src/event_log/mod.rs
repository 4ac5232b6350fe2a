//! What happened to one connection, and why: a bounded log that is kept only where it is asked for
//! ([`crate::stack::Stack::log_events`]), and its form as JSON lines.
//!
//! Every record has the virtual time that the stack was given. A full log forgets its oldest record
//! and counts it; a connection without a log costs one branch per event.

mod json;

pub use crate::mptcp::scheduler::Why;
pub use json::{write_header, write_record};

use crate::error::ConnectionError;
use crate::mptcp::FallbackReason;
use crate::tcp::{CongestionState, State};
use crate::time::Instant;
use alloc::collections::VecDeque;
use core::net::{IpAddr, SocketAddr};

/// Records one log keeps at most, whatever was asked for.
pub const MAX_RECORDS: u32 = 1 << 16;

/// Why a subflow ended, or a join was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SubflowEnd {
    /// Both FINs were acknowledged, or the connection had ended already.
    Closed,
    /// We reset it, for a reason of RFC 8684 §3.6 ([`crate::wire::reset_reason`]).
    Reset(u8),
    /// The peer reset it; with an `MP_TCPRST` its reason.
    PeerReset(Option<u8>),
    /// A mapping on it had a wrong checksum: `MP_FAIL` on a RST.
    Checksum,
    /// The TCP engine gave it up.
    Failed(ConnectionError),
    /// The connection fell back to TCP on another one.
    FellBack,
}

/// Why stream data goes out once more under its old data sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ReinjectCause {
    /// Two round trips without a word on the subflow that has it.
    Silent,
    /// The subflow that has it timed out.
    TimedOut,
    /// The subflow that has it lost it, and another one is much faster.
    Lost,
    /// The subflow that had it ended.
    SubflowEnded,
    /// No `DATA_ACK` came in time.
    DataTimeout,
    /// The peer's window waits for it, and a faster subflow has room.
    WindowBlocked,
    /// The peer threw it away: `MP_FAIL` on a RST.
    PeerChecksum,
}

/// One thing that happened. Subflows are named by [`crate::stack::SubflowInfo::id`]; 0 is also the
/// one TCP connection of a plain socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Our SYN is about to go out, or a peer's handshake is complete.
    Started {
        /// We connect.
        client: bool,
        /// Our end.
        local: SocketAddr,
        /// The peer's end.
        remote: SocketAddr,
        /// MPTCP version offered (or, at a server, agreed on); `None` for plain TCP.
        version: Option<u8>,
    },
    /// The handshake of the first subflow is complete.
    Established {
        /// MPTCP version agreed on; `None` for plain TCP.
        version: Option<u8>,
        /// DSS checksums are used.
        checksum: bool,
    },
    /// The connection goes on (or starts) as plain TCP.
    FellBack {
        /// Why.
        reason: FallbackReason,
    },
    /// Fallback was called for and is no longer possible: the stream is spread over subflows.
    FallbackRefused {
        /// What called for it.
        reason: FallbackReason,
    },
    /// Our `MP_JOIN` SYN is about to go out.
    SubflowOpened {
        /// Which.
        subflow: u8,
        /// Our end.
        local: SocketAddr,
        /// The peer's end.
        remote: SocketAddr,
        /// We ask for it to be used last.
        backup: bool,
    },
    /// A join can carry data, ours or the peer's.
    SubflowJoined {
        /// Which.
        subflow: u8,
        /// Our end.
        local: SocketAddr,
        /// The peer's end.
        remote: SocketAddr,
        /// Id of our address.
        local_id: u8,
        /// Id of the peer's address.
        remote_id: u8,
        /// Either end asks for it to be used last.
        backup: bool,
    },
    /// A subflow ended.
    SubflowClosed {
        /// Which.
        subflow: u8,
        /// Why.
        end: SubflowEnd,
    },
    /// The scheduler chose otherwise than before; it is asked for every segment.
    Scheduled {
        /// The subflow for the next segment; `None` to wait.
        subflow: Option<u8>,
        /// Why.
        why: Why,
        /// Choices equal to the previous record's since that one.
        repeated: u32,
    },
    /// Data was put up for sending again.
    Reinjected {
        /// The subflow it was on; `None` where that does not matter.
        subflow: Option<u8>,
        /// Why.
        cause: ReinjectCause,
    },
    /// A subflow timed out: others are used as long as it makes no progress.
    SubflowStale {
        /// Which.
        subflow: u8,
    },
    /// A stale subflow made progress and is used again.
    SubflowRecovered {
        /// Which.
        subflow: u8,
    },
    /// We announced an address with `ADD_ADDR`.
    AddressAnnounced {
        /// Its id.
        id: u8,
        /// The address.
        addr: IpAddr,
    },
    /// The peer echoed an announcement.
    AddressEchoed {
        /// Its id.
        id: u8,
    },
    /// The peer announced an address.
    AddressReceived {
        /// Its id.
        id: u8,
        /// The address and the port.
        remote: SocketAddr,
        /// False when it was ignored: a wrong HMAC, too many addresses, or none to connect to.
        accepted: bool,
    },
    /// The peer withdrew an address with `REMOVE_ADDR`.
    AddressWithdrawn {
        /// Its id.
        id: u8,
    },
    /// We withdrew an address with `REMOVE_ADDR`.
    AddressRemoved {
        /// Its id.
        id: u8,
    },
    /// Somebody asked for a subflow to be used last, or normally again (`MP_PRIO`).
    Priority {
        /// Which.
        subflow: u8,
        /// Last.
        backup: bool,
        /// The peer asked.
        peer: bool,
    },
    /// The largest segment changed, options not taken off, octets: a path MTU was learnt.
    Mss {
        /// Which subflow.
        subflow: u8,
        /// Octets.
        mss: u16,
    },
    /// The state of congestion control changed (RFC 5681, 8985).
    Congestion {
        /// Which subflow.
        subflow: u8,
        /// The new state.
        state: CongestionState,
        /// Congestion window, octets.
        cwnd: u32,
        /// Slow start threshold, octets; `u32::MAX` before the first loss.
        ssthresh: u32,
    },
    /// The TCP state of a subflow changed (RFC 9293 §3.3.2).
    TcpState {
        /// Which subflow.
        subflow: u8,
        /// The new state.
        state: State,
    },
    /// The connection ended.
    Closed {
        /// With an error.
        error: Option<ConnectionError>,
    },
}

impl Event {
    /// Its name in the JSON form, qlog's way: a category and a word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "connectivity:connection_started",
            Self::Established { .. } => "connectivity:connection_established",
            Self::FellBack { .. } => "mptcp:fallback",
            Self::FallbackRefused { .. } => "mptcp:fallback_refused",
            Self::SubflowOpened { .. } => "connectivity:subflow_opened",
            Self::SubflowJoined { .. } => "connectivity:subflow_joined",
            Self::SubflowClosed { .. } => "connectivity:subflow_closed",
            Self::Scheduled { .. } => "mptcp:scheduled",
            Self::Reinjected { .. } => "recovery:reinjected",
            Self::SubflowStale { .. } => "recovery:subflow_stale",
            Self::SubflowRecovered { .. } => "recovery:subflow_recovered",
            Self::AddressAnnounced { .. } => "mptcp:address_announced",
            Self::AddressEchoed { .. } => "mptcp:address_echoed",
            Self::AddressReceived { .. } => "mptcp:address_received",
            Self::AddressWithdrawn { .. } => "mptcp:address_withdrawn",
            Self::AddressRemoved { .. } => "mptcp:address_removed",
            Self::Priority { .. } => "mptcp:priority",
            Self::Mss { .. } => "recovery:mss_updated",
            Self::Congestion { .. } => "recovery:congestion_state_updated",
            Self::TcpState { .. } => "connectivity:tcp_state_updated",
            Self::Closed { .. } => "connectivity:connection_closed",
        }
    }
}

/// An event and when it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// As the stack was told; of what a call without a time did, when it was last told.
    pub at: Instant,
    /// What.
    pub event: Event,
}

/// The log of one connection: the newest records, oldest first. Choices of the scheduler, which come
/// by the thousand, have as much room again for themselves: they push nothing else out.
#[derive(Clone, Debug)]
pub struct EventLog {
    events: Ring,
    choices: Ring,
    /// Number of the next record, over both.
    next: u64,
    choice: Option<(Option<u8>, Why)>,
    repeated: u32,
}

/// The newest records of a kind with their numbers.
#[derive(Clone, Debug)]
struct Ring {
    records: VecDeque<(u64, Record)>,
    capacity: usize,
    dropped: u64,
}

impl Ring {
    const fn new(capacity: usize) -> Self {
        Self { records: VecDeque::new(), capacity, dropped: 0 }
    }

    fn push(&mut self, number: u64, record: Record) {
        if self.records.len() >= self.capacity {
            self.records.pop_front();
            self.dropped += 1;
        }
        self.records.push_back((number, record));
    }
}

impl EventLog {
    /// A log of at most `capacity` records, 1 to [`MAX_RECORDS`], and as many choices. Memory is
    /// taken as they come.
    #[must_use]
    pub(crate) fn new(capacity: u32) -> Self {
        Self::with_capacity(capacity.clamp(1, MAX_RECORDS) as usize)
    }

    const fn with_capacity(capacity: usize) -> Self {
        Self {
            events: Ring::new(capacity),
            choices: Ring::new(capacity),
            next: 0,
            choice: None,
            repeated: 0,
        }
    }

    /// A log as large as this one, and empty.
    pub(crate) const fn empty_twin(&self) -> Self {
        Self::with_capacity(self.events.capacity)
    }

    pub(crate) fn push(&mut self, at: Instant, event: Event) {
        self.events.push(self.next, Record { at, event });
        self.next += 1;
    }

    /// A choice of the scheduler; recorded when it differs from the one before.
    pub(crate) fn choice(&mut self, at: Instant, subflow: Option<u8>, why: Why) {
        if self.choice == Some((subflow, why)) {
            self.repeated = self.repeated.saturating_add(1);
            return;
        }
        self.choice = Some((subflow, why));
        let repeated = core::mem::take(&mut self.repeated);
        let event = Event::Scheduled { subflow, why, repeated };
        self.choices.push(self.next, Record { at, event });
        self.next += 1;
    }

    /// The records it has, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        let mut events = self.events.records.iter().peekable();
        let mut choices = self.choices.records.iter().peekable();
        core::iter::from_fn(move || {
            let next = match (events.peek(), choices.peek()) {
                (Some((event, _)), Some((choice, _))) if choice < event => choices.next(),
                (Some(_), _) => events.next(),
                (None, _) => choices.next(),
            };
            next.map(|(_, record)| record)
        })
    }

    /// Records it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.records.len() + self.choices.records.len()
    }

    /// Nothing was recorded, or all of it was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records it forgot for want of room, choices included.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.events.dropped + self.choices.dropped
    }

    /// The oldest record, taken out: a reader that follows the log needs no large one.
    pub fn take(&mut self) -> Option<Record> {
        let number = |ring: &Ring| ring.records.front().map(|(number, _)| *number);
        let ring = match (number(&self.events), number(&self.choices)) {
            (Some(event), Some(choice)) if choice < event => &mut self.choices,
            (Some(_), _) => &mut self.events,
            (None, _) => &mut self.choices,
        };
        ring.records.pop_front().map(|(_, record)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_records_stay_and_the_rest_is_counted() {
        let mut log = EventLog::new(3);
        for id in 0..5 {
            log.push(Instant::from_millis(u64::from(id)), Event::AddressEchoed { id });
        }
        assert_eq!((log.len(), log.dropped()), (3, 2));
        let ids: alloc::vec::Vec<_> = log.iter().map(|record| record.at.as_millis()).collect();
        assert_eq!(ids, [2, 3, 4]);
        assert_eq!(log.take().map(|record| record.event), Some(Event::AddressEchoed { id: 2 }));
        assert_eq!(EventLog::new(0).events.capacity, 1);
        assert_eq!(EventLog::new(u32::MAX).events.capacity, MAX_RECORDS as usize);
    }

    #[test]
    fn choices_push_nothing_else_out_and_the_order_stays() {
        let mut log = EventLog::new(4);
        let now = Instant::from_millis(1);
        log.push(now, Event::AddressEchoed { id: 1 });
        for n in 0..100 {
            log.choice(now, Some(n % 2), Why::Preferred);
        }
        log.push(now, Event::AddressEchoed { id: 2 });
        log.choice(now, None, Why::NoRoom);
        let words: alloc::vec::Vec<_> = log.iter().map(|record| record.event.name()).collect();
        let (echo, choice) = ("mptcp:address_echoed", "mptcp:scheduled");
        assert_eq!(words, [echo, choice, choice, choice, echo, choice]);
        assert_eq!((log.len(), log.dropped()), (6, 97));
        let taken: alloc::vec::Vec<_> = core::iter::from_fn(|| log.take()).collect();
        assert_eq!(taken.iter().map(|r| r.event.name()).collect::<alloc::vec::Vec<_>>(), words);
        assert!(log.is_empty());
    }

    #[test]
    fn a_choice_that_is_made_again_is_counted() {
        let mut log = EventLog::new(10);
        let now = Instant::from_millis(1);
        for (subflow, why) in [
            (Some(0), Why::Preferred),
            (Some(0), Why::Preferred),
            (Some(0), Why::Preferred),
            (Some(1), Why::Overflow),
            (None, Why::NoRoom),
        ] {
            log.choice(now, subflow, why);
        }
        let counts: alloc::vec::Vec<_> = log
            .iter()
            .map(|record| match record.event {
                Event::Scheduled { subflow, repeated, .. } => (subflow, repeated),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(counts, [(Some(0), 0), (Some(1), 2), (None, 0)]);
    }
}
