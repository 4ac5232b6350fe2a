//! Who may use the gateway.

mod password;

pub use password::{BadHash, PasswordHash};
