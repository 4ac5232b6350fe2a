//! What sits on a path and changes packets. A chain of boxes stands at the `a` end of a path, where
//! an access router stands in front of a phone; each sees both directions and may drop, change,
//! split or answer. A box never waits: what it puts out leaves at the time its input came.

use crate::Direction;
use core::any::Any;

/// A packet changer on a path. `Any` lets a test reach the concrete box through
/// [`Network::middlebox`](crate::Network::middlebox), to give it commands and read its counters.
pub trait Middlebox: Any + Send {
    /// Takes one packet that travels in direction `dir` and appends what comes out of it, each with
    /// the direction it goes on in (an answer goes back). Appending nothing drops the packet.
    fn process(
        &mut self,
        now: u64,
        dir: Direction,
        packet: Vec<u8>,
        out: &mut Vec<(Direction, Vec<u8>)>,
    );
}
