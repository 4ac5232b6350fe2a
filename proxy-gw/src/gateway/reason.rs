//! Why sessions end: one reason each, one counter per reason.

use crate::front_end::{Failure, Reject};
use mptcp_core::error::ConnectionError;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a session ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum EndReason {
            $($(#[$doc])* $variant,)*
        }

        impl EndReason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// Both sides finished in order.
    Completed = "completed",
    /// The client's side was reset while relaying.
    ClientReset = "client_reset",
    /// The server's side was reset while relaying.
    ServerReset = "server_reset",
    /// The client stopped answering (or lost its last subflow) while relaying.
    ClientTimedOut = "client_timed_out",
    /// The server stopped answering while relaying.
    ServerTimedOut = "server_timed_out",
    /// No byte for `idle_s`.
    Idle = "idle",
    /// No byte for `half_closed_s` after one side finished.
    HalfClosed = "half_closed",
    /// The handshake took longer than `handshake_s`.
    HandshakeTimedOut = "handshake_timed_out",
    /// The client went away before its destination was reached.
    ClientGone = "client_gone",
    /// SOCKS4.
    Socks4 = "socks4",
    /// Not SOCKS at all.
    NotSocks = "not_socks",
    /// Not HTTP at all.
    NotHttp = "not_http",
    /// Not Convert at all.
    NotConvert = "not_convert",
    /// A version of Convert that is not served.
    Version = "version",
    /// A Convert client heard what is supported, as it asked.
    Informed = "informed",
    /// No Convert cookie where one is asked for; the client was given one.
    CookieMissing = "cookie_missing",
    /// A Convert cookie that is not the client's.
    CookieWrong = "cookie_wrong",
    /// A TCP option that a Convert client wants and that is not served.
    OptionNotSupported = "option_not_supported",
    /// A Convert client came in by a port that only exits use.
    ExternalRealm = "external_realm",
    /// A Convert client left too many requests waiting for their destinations.
    PendingLimited = "pending_limited",
    /// No authentication method in common, or no credentials where they are asked for.
    NoMethod = "no_method",
    /// A malformed authentication message.
    BadAuthentication = "bad_authentication",
    /// Wrong username or password.
    AuthenticationFailed = "authentication_failed",
    /// Too many failures from this source.
    AuthenticationLimited = "authentication_limited",
    /// More credentials to check than the queue holds.
    AuthenticationBusy = "authentication_busy",
    /// A malformed request.
    BadRequest = "bad_request",
    /// A request longer than any that is served.
    RequestTooLong = "request_too_long",
    /// A command or method that is not served.
    CommandNotSupported = "command_not_supported",
    /// An unknown address type.
    AddressType = "address_type",
    /// The policy refuses the destination.
    Denied = "denied",
    /// A name that does not exist, or has no address that could be used.
    UnknownName = "unknown_name",
    /// A name that no server had an answer for.
    NameFailed = "name_failed",
    /// A name that only a lenient parser takes for an address.
    NumericName = "numeric_name",
    /// No route to the destination.
    NoRoute = "no_route",
    /// No exit address of the destination's family.
    NoFamily = "no_family",
    /// The destination refused.
    Refused = "refused",
    /// The destination did not answer within `connect_s`.
    ConnectTimedOut = "connect_timed_out",
    /// ICMP, ARP or NDISC: the destination cannot be reached.
    Unreachable = "unreachable",
    /// Too many wait for a connection, in all or of one client, or there are no ports to wait at.
    BindLimited = "bind_limited",
    /// Nobody connected to a client that waited.
    BindTimedOut = "bind_timed_out",
    /// Too many UDP associations.
    UdpLimited = "udp_limited",
    /// The exit could not be opened: ports or sockets are used up.
    ExitsExhausted = "exits_exhausted",
    /// A reply did not fit into an empty send buffer: no packet memory.
    NoMemory = "no_memory",
    /// Waited for a connection when the drain began; or reset by its deadline or by a second SIGTERM.
    Drained = "drained",
    /// An invariant broke.
    Internal = "internal",
}

impl EndReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
}

impl From<Reject> for EndReason {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::Socks4 => Self::Socks4,
            Reject::NotSocks => Self::NotSocks,
            Reject::NotHttp => Self::NotHttp,
            Reject::NotConvert => Self::NotConvert,
            Reject::Version => Self::Version,
            Reject::NoMethod => Self::NoMethod,
            Reject::Authentication => Self::BadAuthentication,
            Reject::Request => Self::BadRequest,
            Reject::RequestTooLong => Self::RequestTooLong,
            Reject::Command => Self::CommandNotSupported,
            Reject::AddressType => Self::AddressType,
            Reject::NumericName => Self::NumericName,
        }
    }
}

/// The reason and the reply for an exit that was never established.
pub(super) fn of_failed_connect(error: ConnectionError) -> (EndReason, Failure) {
    match error {
        ConnectionError::Refused | ConnectionError::Reset => (EndReason::Refused, Failure::Refused),
        ConnectionError::ConnectTimedOut | ConnectionError::TimedOut => {
            (EndReason::ConnectTimedOut, Failure::TimedOut)
        }
        ConnectionError::NetworkUnreachable => {
            (EndReason::Unreachable, Failure::NetworkUnreachable)
        }
        ConnectionError::HostUnreachable | ConnectionError::Prohibited => {
            (EndReason::Unreachable, Failure::HostUnreachable)
        }
        ConnectionError::TtlExpired => (EndReason::Unreachable, Failure::TtlExpired),
        _ => (EndReason::Internal, Failure::Internal),
    }
}

/// Which side of a relay ended first with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Inner,
    Outer,
}

/// The reason for an established session whose `side` ended with `error`.
pub(super) fn of_failed_relay(side: Side, error: ConnectionError) -> EndReason {
    match (side, error) {
        (Side::Inner, ConnectionError::TimedOut | ConnectionError::NoSubflows) => {
            EndReason::ClientTimedOut
        }
        (Side::Outer, ConnectionError::Internal) | (Side::Inner, ConnectionError::Internal) => {
            EndReason::Internal
        }
        (Side::Inner, _) => EndReason::ClientReset,
        (Side::Outer, ConnectionError::TimedOut | ConnectionError::ConnectTimedOut) => {
            EndReason::ServerTimedOut
        }
        (Side::Outer, _) => EndReason::ServerReset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_snake_case() {
        let mut names: Vec<&str> = EndReason::ALL.iter().map(|reason| reason.name()).collect();
        assert!(
            names
                .iter()
                .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b"_45".contains(&b)))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EndReason::COUNT);
    }
}
