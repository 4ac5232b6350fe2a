//! One client's session: its two sockets and the phase it is in.
//!
//! Invariant: a socket id that is here is ours to close, abort or release, exactly once.

use super::bind::Binding;
use super::deadlines::RESOLUTION_DELAY;
use super::handshake::Failed;
use super::reason::{EndReason, Side};
use super::udp::Association;
use crate::config::HostName;
use crate::dns::Family;
use crate::front_end::convert::Asked;
use crate::front_end::{Failure, FrontEnd, Handshake};
use crate::policies::UserId;
use core::net::{IpAddr, SocketAddr};
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::time::Instant;
use std::collections::VecDeque;

/// See the module. What an idle session costs here, its deadline apart.
pub(super) struct Session {
    /// The client's connection; while `deferred`, its request.
    pub(super) inner: SocketId,
    /// The exit's connection, once there is one.
    pub(super) outer: Option<SocketId>,
    /// When it was accepted.
    pub(super) opened: Instant,
    /// Its number: sessions of all shards are counted from 1.
    pub(super) number: u64,
    /// What it speaks.
    pub(super) front_end: FrontEnd,
    /// Most subflows of the client's connection seen at a time.
    pub(super) subflows: u8,
    /// Nothing has answered the client's SYN.
    pub(super) deferred: bool,
    /// Position of its user in the configuration, once it has named one; the password may be wrong until
    /// the handshake is over.
    pub(super) user: Option<UserId>,
    /// What happened to the sockets.
    pub(super) ends: Ends,
    /// What it is doing.
    pub(super) phase: Phase,
}

/// What has become of the two sockets: what the stack reported, and whether they were joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends(u8);

impl Ends {
    const INNER_CLOSED: u8 = 1;
    const OUTER_CLOSED: u8 = 2;
    /// The client has sent its last byte.
    const INNER_READ_CLOSED: u8 = 4;
    /// The destination has sent its last byte.
    const OUTER_READ_CLOSED: u8 = 8;
    /// The session has reached its destination, and counts as its user's.
    const BEGUN: u8 = 16;

    /// Adds what an event says about one side.
    pub(super) fn note(&mut self, side: Side, ready: Ready) {
        let (closed, read_closed) = match side {
            Side::Inner => (Self::INNER_CLOSED, Self::INNER_READ_CLOSED),
            Side::Outer => (Self::OUTER_CLOSED, Self::OUTER_READ_CLOSED),
        };
        self.0 |= if ready.contains(Ready::CLOSED) { closed } else { 0 };
        self.0 |= if ready.contains(Ready::READ_CLOSED) { read_closed } else { 0 };
    }

    /// The session has reached its destination.
    pub(super) fn begin(&mut self) {
        self.0 |= Self::BEGUN;
    }

    /// It had reached it.
    pub(super) fn begun(self) -> bool {
        self.0 & Self::BEGUN != 0
    }

    /// `CLOSED` of the client's connection.
    pub(super) fn inner_closed(self) -> bool {
        self.0 & Self::INNER_CLOSED != 0
    }

    /// `CLOSED` of the exit's connection.
    pub(super) fn outer_closed(self) -> bool {
        self.0 & Self::OUTER_CLOSED != 0
    }

    /// Neither side has finished.
    pub(super) fn none(self) -> bool {
        self.0 & !Self::BEGUN == 0
    }
}

/// What a session is doing.
pub(super) enum Phase {
    /// Talking to the front end.
    Handshake(Box<Handshake>),
    /// Reaching the destination.
    Connecting(Box<Attempts>),
    /// Waiting for somebody to connect.
    Binding(Box<Binding>),
    /// Forwarding datagrams.
    Associated(Box<Association>),
    /// The stack moves bytes.
    Relaying,
    /// Refused, the client has been told; waiting for it to close.
    Lingering(Lingering),
}

/// What is known of the destination, and how far it has been tried.
pub(super) struct Attempts {
    /// The destination's port.
    pub(super) port: u16,
    /// Families whose addresses are being looked up.
    pub(super) awaited: Vec<Family>,
    /// Addresses still to be tried: IPv6 and IPv4.
    left: [VecDeque<SocketAddr>; 2],
    /// The family to begin with.
    first: Family,
    /// The family whose turn it is.
    turn: Family,
    /// The name that the addresses are of.
    pub(super) name: Option<HostName>,
    /// The family of the first attempt there was.
    pub(super) began: Option<Family>,
    /// Connections under way, and in whose turn they began.
    pub(super) racing: Vec<(SocketId, Family)>,
    /// No further attempt before this.
    pub(super) next_at: Instant,
    /// How long the other family waits for the addresses of the first.
    first_until: Option<Instant>,
    /// When the session gives up.
    pub(super) deadline: Instant,
    /// What the client hears if nothing is reached.
    pub(super) refusal: Option<Failed>,
    /// The Convert message.
    pub(super) asked: Option<Box<Asked>>,
    /// It counts among the requests of this client that wait.
    pub(super) pending_for: Option<IpAddr>,
}

impl Attempts {
    pub(super) fn new(port: u16, deadline: Instant) -> Self {
        Self {
            port,
            awaited: Vec::new(),
            left: [VecDeque::new(), VecDeque::new()],
            first: Family::V6,
            turn: Family::V6,
            name: None,
            began: None,
            racing: Vec::new(),
            next_at: Instant::MIN,
            first_until: None,
            deadline,
            refusal: None,
            asked: None,
            pending_for: None,
        }
    }

    /// One more to try, in its family's turn: what IPv4 has by way of a translator is IPv4's, and does not come before what
    /// needs none.
    pub(super) fn add(&mut self, family: Family, remote: SocketAddr) {
        if !self.left.iter().any(|left| left.contains(&remote)) {
            self.left_of(family).push_back(remote);
        }
    }

    fn left_of(&mut self, family: Family) -> &mut VecDeque<SocketAddr> {
        let [v6, v4] = &mut self.left;
        match family {
            Family::V6 => v6,
            Family::V4 => v4,
        }
    }

    /// The addresses are those of a name, whose `first` are tried first.
    pub(super) fn of_name(&mut self, name: HostName, first: Family) {
        (self.name, self.first, self.turn) = (Some(name), first, first);
    }

    /// The next address, and whose turn it is: that of both families by turns (RFC 8305 §4).
    pub(super) fn pop(&mut self) -> Option<(Family, SocketAddr)> {
        let turn = self.turn;
        let other = turn.other();
        if let Some(candidate) = self.left_of(turn).pop_front() {
            self.turn = other;
            return Some((turn, candidate));
        }
        self.left_of(other).pop_front().map(|candidate| (other, candidate))
    }

    /// In whose turn a connection under way began.
    pub(super) fn turn_of(&self, outer: SocketId) -> Option<Family> {
        let mut racing = self.racing.iter();
        racing.find(|(racing, _)| *racing == outer).map(|(_, turn)| *turn)
    }

    /// Only the other family is known, the first one asked for, and the first attempt may still wait for it.
    pub(super) fn waits_for_first(&mut self, now: Instant) -> bool {
        let first = self.first;
        let only_other = self.left_of(first).is_empty()
            && !self.left_of(first.other()).is_empty()
            && self.awaited.contains(&first);
        if !only_other || self.next_at != Instant::MIN {
            return false;
        }
        now < *self.first_until.get_or_insert(now + RESOLUTION_DELAY)
    }

    /// Something stood in the way. What is nearest to the destination is told, the latest of its kind.
    pub(super) fn refuse(&mut self, refusal: Failed) {
        let nearness = |refusal: &Failed| match refusal.failure {
            Failure::UnknownName => 0,
            Failure::NameFailed => 1,
            Failure::NotAllowed | Failure::NoFamily => 2,
            _ => 3,
        };
        let near = nearness(&refusal);
        let before = self.refusal.as_ref().map(nearness);
        if before.is_none_or(|before| near > before || near == before && near == 3) {
            self.refusal = Some(refusal);
        }
    }
}

/// A refused client.
#[derive(Clone, Copy)]
pub(super) struct Lingering {
    /// Why.
    pub(super) reason: EndReason,
    /// Bytes read and thrown away.
    pub(super) discarded: u32,
}

const _: () = assert!(size_of::<Session>() <= 64);

impl Session {
    /// A session in its handshake.
    pub(super) fn new(
        number: u64,
        inner: SocketId,
        opened: Instant,
        front_end: FrontEnd,
        handshake: Handshake,
    ) -> Self {
        let phase = Phase::Handshake(Box::new(handshake));
        let ends = Ends::default();
        let deferred = false;
        Self {
            inner,
            outer: None,
            opened,
            number,
            front_end,
            subflows: 1,
            deferred,
            user: None,
            ends,
            phase,
        }
    }
}
