//! What the server says: method selection, authentication status, replies.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use mptcp_core::error::{ConnectionError, OpenError};

/// Reply codes of RFC 1928 §6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rep {
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

impl From<ConnectionError> for Rep {
    /// For an exit connection that was never established.
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Refused | ConnectionError::Reset => Self::ConnectionRefused,
            ConnectionError::NetworkUnreachable => Self::NetworkUnreachable,
            ConnectionError::ConnectTimedOut
            | ConnectionError::TimedOut
            | ConnectionError::HostUnreachable
            | ConnectionError::Prohibited => Self::HostUnreachable,
            ConnectionError::TtlExpired => Self::TtlExpired,
            _ => Self::GeneralFailure,
        }
    }
}

impl From<OpenError> for Rep {
    /// For an exit connection that could not even be started: all of these are our own limits.
    fn from(_: OpenError) -> Self {
        Self::GeneralFailure
    }
}

/// A message of at most 22 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReplyBytes {
    bytes: [u8; 22],
    len: u8,
}

impl ReplyBytes {
    fn new() -> Self {
        Self { bytes: [0; 22], len: 0 }
    }

    /// Appends what fits; every message of this module does.
    fn push(mut self, more: &[u8]) -> Self {
        let free = self.bytes.iter_mut().skip(usize::from(self.len));
        for (byte, new) in free.zip(more) {
            *byte = *new;
            self.len += 1;
        }
        self
    }

    /// Method selection: `05 method`.
    #[must_use]
    pub fn method(method: u8) -> Self {
        Self::new().push(&[5, method])
    }

    /// RFC 1929 status: `01 00`, or `01 01` before closing.
    #[must_use]
    pub fn authentication(succeeded: bool) -> Self {
        Self::new().push(&[1, u8::from(!succeeded)])
    }

    /// Success: `bound` is the exit connection's address of ours.
    #[must_use]
    pub fn success(bound: SocketAddr) -> Self {
        Self::reply(Rep::Succeeded, bound)
    }

    /// Failure, with 0.0.0.0:0 as the bound address.
    #[must_use]
    pub fn failure(rep: Rep) -> Self {
        Self::reply(rep, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }

    fn reply(rep: Rep, bound: SocketAddr) -> Self {
        let head = Self::new().push(&[5, rep as u8, 0]);
        let with_address = match bound.ip() {
            IpAddr::V4(v4) => head.push(&[1]).push(&v4.octets()),
            IpAddr::V6(v6) => head.push(&[4]).push(&v6.octets()),
        };
        with_address.push(&bound.port().to_be_bytes())
    }
}

impl core::ops::Deref for ReplyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl core::fmt::Debug for ReplyBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:02x?}", &**self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_laid_out_as_the_rfc_says() {
        assert_eq!(&*ReplyBytes::method(0xff), &[5, 0xff]);
        assert_eq!(&*ReplyBytes::authentication(true), &[1, 0]);
        assert_eq!(&*ReplyBytes::authentication(false), &[1, 1]);
        assert_eq!(&*ReplyBytes::failure(Rep::NotAllowed), &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
        let v4 = ReplyBytes::success("10.9.0.1:40000".parse().unwrap());
        assert_eq!(&*v4, &[5, 0, 0, 1, 10, 9, 0, 1, 0x9c, 0x40]);
        let v6 = ReplyBytes::success("[fd00::1]:80".parse().unwrap());
        assert_eq!(v6.len(), 22);
        assert_eq!(&v6[..6], &[5, 0, 0, 4, 0xfd, 0]);
        assert_eq!(&v6[19..], &[1, 0, 80]);
    }
}
