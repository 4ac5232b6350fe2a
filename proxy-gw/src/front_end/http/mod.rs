//! HTTP CONNECT (RFC 9110 §9.3.6, RFC 9112) with Basic authentication (RFC 7617) and `Proxy-Status`
//! (RFC 9209).
//!
//! One request per connection: what is not CONNECT is answered with 405, and every refusal closes.

mod head;
mod reply;
mod session;

pub(super) use reply::{connected, failed};
pub use session::Handshake;
