//! The cookie of a Fast Open option (RFC 7413 §4.1.1).

use core::fmt;

/// Octets of the longest cookie.
const MAX_LEN: usize = 16;
/// Octets of the shortest cookie that is not a request.
const MIN_LEN: usize = 4;

/// A cookie as one end gave it to the other, opaque to its client; empty in the SYN that asks for one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FastOpenCookie {
    len: u8,
    /// Zero behind `len`.
    bytes: [u8; MAX_LEN],
}

impl FastOpenCookie {
    /// What the SYN that asks for a cookie carries.
    pub const REQUEST: Self = Self { len: 0, bytes: [0; MAX_LEN] };

    /// A cookie of these octets; `None` unless they are none or an even number from 4 to 16.
    #[must_use]
    pub fn new(cookie: &[u8]) -> Option<Self> {
        let len = cookie.len();
        let sound = len == 0 || (MIN_LEN..=MAX_LEN).contains(&len) && len.is_multiple_of(2);
        let mut bytes = [0; MAX_LEN];
        bytes.get_mut(..len).filter(|_| sound)?.copy_from_slice(cookie);
        Some(Self { len: u8::try_from(len).ok()?, bytes })
    }

    /// Its octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }

    /// It asks for a cookie and is none.
    #[must_use]
    pub const fn is_request(&self) -> bool {
        self.len == 0
    }
}

/// Whoever reads a log could open connections in the name of its client: only the length is shown.
impl fmt::Debug for FastOpenCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FastOpenCookie({} octets)", self.len)
    }
}
