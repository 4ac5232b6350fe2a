//! One client's session: its two sockets and the phase it is in.
//!
//! Invariant: a socket id that is here is ours to close, abort or release, exactly once.

use super::reason::{EndReason, Side};
use crate::config::Auth;
use crate::front_end::convert::Asked;
use crate::front_end::{FrontEnd, Handshake};
use core::net::{IpAddr, SocketAddr};
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::time::Instant;

/// See the module. What an idle session costs here, its deadline apart.
pub(super) struct Session {
    /// The client's connection; while `deferred`, its request.
    pub(super) inner: SocketId,
    /// The exit's connection, once there is one.
    pub(super) outer: Option<SocketId>,
    /// When it was accepted.
    pub(super) opened: Instant,
    /// Its number: sessions are counted from 1.
    pub(super) number: u64,
    /// What it speaks.
    pub(super) front_end: FrontEnd,
    /// Most subflows of the client's connection seen at a time.
    pub(super) subflows: u8,
    /// Nothing has answered the client's SYN.
    pub(super) deferred: bool,
    /// What happened to the sockets.
    pub(super) ends: Ends,
    /// What it is doing.
    pub(super) phase: Phase,
}

/// What the stack reported about the two sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// `CLOSED` of the client's connection.
    pub(super) inner_closed: bool,
    /// `CLOSED` of the exit's connection.
    pub(super) outer_closed: bool,
    /// The client has sent its last byte.
    pub(super) inner_read_closed: bool,
    /// The destination has sent its last byte.
    pub(super) outer_read_closed: bool,
}

impl Ends {
    /// Adds what an event says about one side.
    pub(super) fn note(&mut self, side: Side, ready: Ready) {
        let (closed, read_closed) = match side {
            Side::Inner => (&mut self.inner_closed, &mut self.inner_read_closed),
            Side::Outer => (&mut self.outer_closed, &mut self.outer_read_closed),
        };
        *closed |= ready.contains(Ready::CLOSED);
        *read_closed |= ready.contains(Ready::READ_CLOSED);
    }

    /// Forgets the exit, which another one will replace.
    pub(super) fn forget_outer(&mut self) {
        self.outer_closed = false;
        self.outer_read_closed = false;
    }

    /// Neither side has finished.
    pub(super) fn none(self) -> bool {
        self == Self::default()
    }
}

/// What a session is doing.
pub(super) enum Phase {
    /// Talking to the front end.
    Handshake(Box<Handshake>),
    /// Reaching the destination.
    Connecting(Box<Attempts>),
    /// The stack moves bytes.
    Relaying,
    /// Refused, the client has been told; waiting for it to close.
    Lingering(Lingering),
}

/// Addresses of the destination that are still to be tried.
pub(super) struct Attempts {
    /// Our address and the destination's, the next one last.
    pub(super) left: Vec<(IpAddr, SocketAddr)>,
    /// When the session gives up.
    pub(super) deadline: Instant,
    /// The Convert message.
    pub(super) asked: Option<Box<Asked>>,
    /// It counts among the requests of this client that wait.
    pub(super) pending_for: Option<IpAddr>,
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
        auth: Auth,
    ) -> Self {
        let phase = Phase::Handshake(Box::new(Handshake::new(front_end, auth)));
        let ends = Ends::default();
        let deferred = false;
        Self { inner, outer: None, opened, number, front_end, subflows: 1, deferred, ends, phase }
    }
}
