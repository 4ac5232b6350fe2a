//! What the server says: method selection, authentication status, replies.

use crate::front_end::Failure;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Reply codes of RFC 1928 §6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Rep {
    /// The exit connection is established.
    Succeeded = 0,
    /// Anything without a code of its own.
    GeneralFailure = 1,
    /// The policy refuses the destination.
    NotAllowed = 2,
    /// No route, or ICMP says the network cannot be reached.
    NetworkUnreachable = 3,
    /// The host does not exist, does not answer, or ICMP says it cannot be reached.
    HostUnreachable = 4,
    /// RST or ICMP port unreachable.
    ConnectionRefused = 5,
    /// ICMP time exceeded.
    TtlExpired = 6,
    /// Not CONNECT.
    CommandNotSupported = 7,
    /// Unknown address type, or no exit of that family.
    AddressTypeNotSupported = 8,
}

impl From<Failure> for Rep {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotAllowed => Self::NotAllowed,
            Failure::NetworkUnreachable => Self::NetworkUnreachable,
            Failure::UnknownName | Failure::HostUnreachable | Failure::TimedOut => {
                Self::HostUnreachable
            }
            Failure::Refused => Self::ConnectionRefused,
            Failure::TtlExpired => Self::TtlExpired,
            Failure::NotSupported => Self::CommandNotSupported,
            Failure::NoFamily => Self::AddressTypeNotSupported,
            Failure::Credentials
            | Failure::TooManyAttempts
            | Failure::CannotVerify
            | Failure::NameFailed
            | Failure::Exhausted
            | Failure::Internal => Self::GeneralFailure,
        }
    }
}

/// Method selection: `05 method`.
pub(super) fn method(method: u8) -> Vec<u8> {
    vec![5, method]
}

/// RFC 1929 status: `01 00`, or `01 01` before closing.
pub(super) fn authentication(succeeded: bool) -> Vec<u8> {
    vec![1, u8::from(!succeeded)]
}

/// Failure, with 0.0.0.0:0 as the bound address.
pub(super) fn failure(rep: Rep) -> Vec<u8> {
    reply(rep, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}

/// Success: `bound` is the exit connection's address of ours.
pub(in crate::front_end) fn connected(bound: SocketAddr) -> Vec<u8> {
    reply(Rep::Succeeded, bound)
}

/// What tells a client of `failure`: a status where it was about to be authenticated, a reply otherwise.
pub(in crate::front_end) fn failed(failure: Failure) -> Vec<u8> {
    match failure {
        Failure::Credentials | Failure::TooManyAttempts | Failure::CannotVerify => {
            authentication(false)
        }
        _ => self::failure(Rep::from(failure)),
    }
}

fn reply(rep: Rep, bound: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![5, rep as u8, 0];
    match bound.ip() {
        IpAddr::V4(v4) => {
            bytes.push(1);
            bytes.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.push(4);
            bytes.extend(v6.octets());
        }
    }
    bytes.extend(bound.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_laid_out_as_the_rfc_says() {
        assert_eq!(method(0xff), [5, 0xff]);
        assert_eq!(authentication(true), [1, 0]);
        assert_eq!(authentication(false), [1, 1]);
        assert_eq!(failed(Failure::NotAllowed), [5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
        let v4 = connected("10.9.0.1:40000".parse().unwrap());
        assert_eq!(v4, [5, 0, 0, 1, 10, 9, 0, 1, 0x9c, 0x40]);
        let v6 = connected("[fd00::1]:80".parse().unwrap());
        assert_eq!(v6.len(), 22);
        assert_eq!(&v6[..6], &[5, 0, 0, 4, 0xfd, 0]);
        assert_eq!(&v6[19..], &[1, 0, 80]);
    }
}
