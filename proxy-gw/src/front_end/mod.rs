//! What clients speak. A front end turns the first bytes of a connection into a destination; it
//! knows no sockets, so it is tested byte by byte.
//!
//! Invariant: whoever drives a handshake reads exactly what [`Step::Read`] asks for, and no front end
//! asks for a byte beyond its message: what a client sends behind its request stays in the
//! connection's receive queue, under its flow control, until the relay moves it.

pub mod convert;
pub mod http;
pub mod socks5;
mod target;
pub mod transparent;
pub mod udp;

pub use target::{BadHost, Host, Target};

use crate::config::Auth;
use core::net::SocketAddr;
use zeroize::Zeroizing;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontEnd {
    /// RFC 1928 and 1929.
    Socks5,
    /// The CONNECT method of HTTP/1.1 and 1.0 (RFC 9110 §9.3.6).
    Http,
    /// RFC 8803.
    Convert,
    /// Nothing: where a client connects to is where it wants to go.
    Transparent,
}

impl FrontEnd {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Socks5, Self::Http, Self::Convert, Self::Transparent];

    /// Its name in the configuration, reports and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socks5 => "socks5",
            Self::Http => "http",
            Self::Convert => "convert",
            Self::Transparent => "transparent",
        }
    }

    /// What the client hears when it is connected from `bound`, our address on the exit.
    #[must_use]
    pub fn connected(self, bound: SocketAddr) -> Vec<u8> {
        match self {
            Self::Socks5 => socks5::connected(bound),
            Self::Http => http::connected(),
            Self::Convert => convert::connected(false, None),
            Self::Transparent => Vec::new(),
        }
    }

    /// What the client hears when it is not; `icmp_code` when an ICMP error said so.
    #[must_use]
    pub fn failed(self, failure: Failure, icmp_code: Option<u8>) -> Vec<u8> {
        match self {
            Self::Socks5 => socks5::failed(failure),
            Self::Http => http::failed(failure),
            Self::Convert => convert::failed(failure, icmp_code),
            Self::Transparent => Vec::new(),
        }
    }
}

/// What the driver of a handshake must do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Read at most this many bytes (never 0) into [`Handshake::input`].
    Read(usize),
    /// Send this and ask again.
    Send(Vec<u8>),
    /// Check these, then call [`Handshake::verified`].
    Verify(Credentials),
    /// Connect, then answer with [`FrontEnd::connected`] or [`FrontEnd::failed`].
    Connect {
        /// Where to.
        target: Target,
        /// SOCKS5: the reserved byte was not zero; tolerated, to be counted.
        reserved_set: bool,
    },
    /// SOCKS5: wait for a connection, answer with the address to connect to, and with the peer's when it has come.
    Bind {
        /// From where; its port says nothing, and an unspecified address is anybody's.
        target: Target,
        /// The reserved byte was not zero.
        reserved_set: bool,
    },
    /// SOCKS5: open a relay for datagrams, then answer as for a connection, with the relay's address.
    Associate {
        /// The reserved byte was not zero.
        reserved_set: bool,
    },
    /// A whole Convert message: check its cookie, then tell the client what it asks, or connect.
    Convert(Box<convert::Asked>),
    /// Reset: nothing else may answer this.
    Reset(Reject),
    /// Close: after sending this, unless it is empty.
    Refuse(Reject, Vec<u8>),
    /// Nothing until [`Handshake::verified`], or ever.
    Wait,
}

/// Why a client is refused for what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The first byte says SOCKS4.
    Socks4,
    /// The first byte is no SOCKS version: not a SOCKS client at all.
    NotSocks,
    /// The first bytes are no HTTP method.
    NotHttp,
    /// Not the magic number of Convert.
    NotConvert,
    /// Another version of Convert.
    Version,
    /// No credentials, or no method for them, where the configuration asks for them.
    NoMethod,
    /// A malformed authentication message.
    Authentication,
    /// A malformed request.
    Request,
    /// A request longer than any that is served.
    RequestTooLong,
    /// A command or method that is not served.
    Command,
    /// SOCKS5: an unknown address type; its length is unknown, too.
    AddressType,
    /// A name that only a lenient parser takes for an address.
    NumericName,
}

/// Why a client is not connected, or not trusted: what its front end can tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Wrong credentials.
    Credentials,
    /// Too many wrong credentials from this source.
    TooManyAttempts,
    /// Credentials cannot be checked now.
    CannotVerify,
    /// The policy refuses the destination.
    NotAllowed,
    /// The name does not exist, or has no address.
    UnknownName,
    /// Nobody could say whether the name exists.
    NameFailed,
    /// No route, or ICMP says the network cannot be reached.
    NetworkUnreachable,
    /// ICMP, ARP or NDISC says the host cannot be reached, or must not be.
    HostUnreachable,
    /// No exit of the destination's address family.
    NoFamily,
    /// A reset, or ICMP port unreachable.
    Refused,
    /// No answer.
    TimedOut,
    /// ICMP time exceeded.
    TtlExpired,
    /// Our own ports, sockets or memory are used up.
    Exhausted,
    /// A command that is not served here.
    NotSupported,
    /// Anything else.
    Internal,
}

impl Failure {
    /// All there are.
    pub const ALL: [Self; 15] = [
        Self::Credentials,
        Self::TooManyAttempts,
        Self::CannotVerify,
        Self::NotAllowed,
        Self::UnknownName,
        Self::NameFailed,
        Self::NetworkUnreachable,
        Self::HostUnreachable,
        Self::NoFamily,
        Self::Refused,
        Self::TimedOut,
        Self::TtlExpired,
        Self::Exhausted,
        Self::NotSupported,
        Self::Internal,
    ];
}

/// Username and password as sent; any bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: Vec<u8>,
    /// The password; wiped when dropped.
    pub password: Zeroizing<Vec<u8>>,
}

impl core::fmt::Debug for Credentials {
    /// Hidden: debug output reaches logs.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// One client's handshake: bytes in, steps out.
pub enum Handshake {
    /// See [`socks5`].
    Socks5(socks5::Handshake),
    /// See [`http`].
    Http(http::Handshake),
    /// See [`convert`].
    Convert(convert::Handshake),
    /// The destination is known before the first byte.
    Transparent(transparent::Handshake),
}

/// Calls the same method on whichever is inside.
macro_rules! each {
    ($self:expr, $handshake:ident => $call:expr) => {
        match $self {
            Self::Socks5($handshake) => $call,
            Self::Http($handshake) => $call,
            Self::Convert($handshake) => $call,
            Self::Transparent($handshake) => $call,
        }
    };
}

impl Handshake {
    /// A handshake that has seen nothing yet, of a client that connected to `at`.
    #[must_use]
    pub fn new(front_end: FrontEnd, auth: Auth, at: SocketAddr) -> Self {
        match front_end {
            FrontEnd::Socks5 => Self::Socks5(socks5::Handshake::new(auth)),
            FrontEnd::Http => Self::Http(http::Handshake::new(auth)),
            FrontEnd::Convert => Self::Convert(convert::Handshake::new()),
            FrontEnd::Transparent => Self::Transparent(transparent::Handshake::new(at)),
        }
    }

    /// What is to be done, given what was read so far.
    pub fn step(&mut self) -> Step {
        each!(self, handshake => handshake.step())
    }

    /// Where the bytes of a [`Step::Read`] go: exactly as long as was asked for.
    pub fn input(&mut self, wanted: usize) -> &mut [u8] {
        each!(self, handshake => handshake.input(wanted))
    }

    /// `count` bytes were written into [`Handshake::input`].
    pub fn advance(&mut self, count: usize) {
        each!(self, handshake => handshake.advance(count));
    }

    /// The credentials are right. (When they are wrong, the handshake is over.)
    pub fn verified(&mut self) {
        match self {
            Self::Socks5(handshake) => handshake.verified(),
            Self::Http(handshake) => handshake.verified(),
            Self::Convert(_) | Self::Transparent(_) => {}
        }
    }

    /// Whether credentials are being checked.
    #[must_use]
    pub fn is_verifying(&self) -> bool {
        match self {
            Self::Socks5(handshake) => handshake.is_verifying(),
            Self::Http(handshake) => handshake.is_verifying(),
            Self::Convert(_) | Self::Transparent(_) => false,
        }
    }

    /// Octets of a stream that is read ahead, out of a SYN; 0 for who does not do that.
    #[must_use]
    pub fn seen(&self) -> usize {
        match self {
            Self::Convert(handshake) => handshake.seen(),
            Self::Socks5(_) | Self::Http(_) | Self::Transparent(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests;
