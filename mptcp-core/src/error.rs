//! One small error enum per operation; each variant says what went wrong and what to do about it.

use core::fmt;

/// Why [`crate::stack::Stack::listen`], [`crate::stack::Stack::connect`] or
/// [`crate::stack::Stack::udp_bind`] refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another listener (or datagram socket) owns this address and port; to connect: the local port that was
    /// given is taken towards this destination.
    AddressInUse,
    /// Every local port towards this destination is taken: use another local address.
    PortsExhausted,
    /// `limits.connections` or `limits.tcbs` (or the limit of listeners or datagram sockets) is reached.
    LimitReached,
    /// The two addresses are of different families, unspecified where an address is needed, or not
    /// one host's; or the local one is not the stack's.
    BadAddress,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressInUse => "another socket owns this address and port",
            Self::PortsExhausted => "every local port towards this destination is in use",
            Self::LimitReached => "the configured limit is reached",
            Self::BadAddress => "the local and remote address do not fit together",
        })
    }
}

impl core::error::Error for OpenError {}

/// Why a connection ended other than by an orderly close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ConnectionError {
    /// RST in answer to our SYN, or ICMP port unreachable.
    Refused,
    /// The peer reset an established connection (RST, or `MP_FASTCLOSE`).
    Reset,
    /// Nobody answered the SYN in time.
    ConnectTimedOut,
    /// Data was retransmitted to the limit, or keep-alives went unanswered.
    TimedOut,
    /// ICMP said that the network cannot be reached.
    NetworkUnreachable,
    /// ICMP, ARP or NDISC said that the host cannot be reached.
    HostUnreachable,
    /// ICMP said that the packet was administratively prohibited.
    Prohibited,
    /// ICMP time exceeded.
    TtlExpired,
    /// `abort()` was called on our side.
    Aborted,
    /// The last subflow went away and nobody joined within `close_timeout`.
    NoSubflows,
    /// An invariant broke; the connection was sacrificed and `internal_errors` counted.
    Internal,
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Reset => "connection reset by peer",
            Self::ConnectTimedOut => "connection attempt timed out",
            Self::TimedOut => "connection timed out",
            Self::NetworkUnreachable => "network unreachable",
            Self::HostUnreachable => "host unreachable",
            Self::Prohibited => "administratively prohibited",
            Self::TtlExpired => "time to live exceeded",
            Self::Aborted => "aborted locally",
            Self::NoSubflows => "no subflow left",
            Self::Internal => "internal error",
        })
    }
}

impl ConnectionError {
    /// Name in logs and in the event log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::ConnectTimedOut => "connect_timed_out",
            Self::TimedOut => "timed_out",
            Self::NetworkUnreachable => "network_unreachable",
            Self::HostUnreachable => "host_unreachable",
            Self::Prohibited => "prohibited",
            Self::TtlExpired => "ttl_expired",
            Self::Aborted => "aborted",
            Self::NoSubflows => "no_subflows",
            Self::Internal => "internal",
        }
    }
}

impl core::error::Error for ConnectionError {}

/// Why reading gave nothing. Only `WouldBlock` passes by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvError {
    /// Nothing to read yet: wait for [`crate::stack::Ready::READABLE`].
    WouldBlock,
    /// The id is stale, is a listener, or the socket is coupled to a relay.
    InvalidSocket,
    /// The connection ended with an error and everything received before was read.
    Failed(ConnectionError),
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("nothing to read yet"),
            Self::InvalidSocket => f.write_str(NO_SOCKET),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for RecvError {}

/// Why writing took nothing. Only `WouldBlock` passes by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The send buffer is full: wait for [`crate::stack::Ready::WRITABLE`].
    WouldBlock,
    /// The id is stale, is a listener, or the socket is coupled to a relay.
    InvalidSocket,
    /// `shutdown_write` was called before.
    Shutdown,
    /// The connection ended.
    Failed(ConnectionError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the send buffer is full"),
            Self::InvalidSocket => f.write_str(NO_SOCKET),
            Self::Shutdown => f.write_str("the end of the stream was written before"),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SendError {}

/// Why two sockets could not be coupled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RelayError {
    /// One id is stale, is a listener, was closed, is already coupled, or both are the same.
    InvalidSocket,
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidSocket => f.write_str("not two open connections that are not coupled"),
        }
    }
}

impl core::error::Error for RelayError {}

const NO_SOCKET: &str = "not an open connection, or one that is coupled to a relay";

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    /// Whoever passes them on with `?` has a reason to show.
    #[test]
    fn every_error_of_a_call_says_what_it_is() {
        let errors: [&dyn core::error::Error; 6] = [
            &OpenError::AddressInUse,
            &ConnectionError::Refused,
            &RecvError::Failed(ConnectionError::Reset),
            &SendError::Shutdown,
            &SendError::Failed(ConnectionError::TimedOut),
            &RelayError::InvalidSocket,
        ];
        let said = errors.map(|error| error.to_string());
        assert_eq!(said[2], "connection reset by peer");
        assert_eq!(said[4], "connection timed out");
        assert!(said.iter().all(|text| !text.is_empty()));
    }
}
