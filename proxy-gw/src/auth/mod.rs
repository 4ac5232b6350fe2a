//! Who may use the gateway: password hashes, and their verification off the packet path.

mod authenticator;
mod cache;
mod guesses;
mod limiter;
mod password;
mod users;
mod verifier;

pub(crate) use authenticator::{Authenticator, Decision};
pub use authenticator::{MAX_PENDING, VerifyRequest, VerifyResult};
pub(crate) use guesses::Guesses;
pub(crate) use limiter::{Limiter, source_prefix};
pub use password::{BadHash, PasswordHash};
pub use users::Users;
pub use verifier::{Failed, VerifierClient, Wake};
