//! Where clients may go, and by which address of ours: normalisation of destinations, the policy
//! on them, and the choice of the exit.

mod address_set;
mod destination;
mod exits;
mod nat64;
mod policy;

pub use address_set::AddressSet;
pub use destination::Destination;
pub use exits::{Exits, NoExit};
pub use nat64::translated;
pub use policy::{Denied, Policy};
