//! Wire formats.

/// An MPTCP protocol version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Version {
    /// RFC 6824, SHA-1.
    V0 = 0,
    /// RFC 8684, SHA-256.
    V1 = 1,
}
