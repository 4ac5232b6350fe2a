//! The Convert protocol of RFC 8803, the converter's side: clients name a destination in one message
//! of TLVs, in their SYN or behind the handshake, and hear what its server answered.
//!
//! One message per connection. Connections towards clients are not made.

mod cookie;
mod message;
mod reply;
mod session;
#[cfg(test)]
mod tests;

pub use cookie::{Cookies, Worth};
pub use message::{Asked, Connect, MAX_MESSAGE_LEN};
pub(crate) use reply::failed;
pub use reply::{
    connected, malformed, missing_cookie, not_authorized, resources_exceeded, supported,
    unsupported_message, unsupported_options, unsupported_version,
};
pub use session::Handshake;

/// The version of RFC 8803 §6.1.
const VERSION: u8 = 1;
const MAGIC: [u8; 2] = [0x22, 0x63];
const HEADER_LEN: usize = 4;
/// Lengths count in so many octets.
const WORD: usize = 4;

/// TLV types (RFC 8803 §6.2.2).
mod tlv {
    pub(super) const INFO: u8 = 1;
    pub(super) const CONNECT: u8 = 10;
    pub(super) const EXTENDED_TCP_HEADER: u8 = 20;
    pub(super) const SUPPORTED_TCP_EXTENSIONS: u8 = 21;
    pub(super) const COOKIE: u8 = 22;
    pub(super) const ERROR: u8 = 30;
}

/// TCP options that a message may name (RFC 8803 §7).
mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const MSS: u8 = 2;
    pub(super) const WINDOW_SCALE: u8 = 3;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const SACK: u8 = 5;
    pub(super) const TIMESTAMPS: u8 = 8;
    pub(super) const MPTCP: u8 = 30;
    pub(super) const FAST_OPEN: u8 = 34;
}
