//! SOCKS5 (RFC 1928) with username/password authentication (RFC 1929), CONNECT only.
//!
//! GSSAPI, which RFC 1928 §3 demands of compliant servers, is left out: nobody offers it.

mod parser;
mod reply;
mod session;

pub(super) use reply::{connected, failed};
pub use session::Handshake;
