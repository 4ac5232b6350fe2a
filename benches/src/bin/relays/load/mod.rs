//! The load: a server and clients on the kernel's sockets, threads of this process in the namespaces.

mod clients;
mod server;

pub(crate) use clients::{
    Bulk, Direction, Target, Way, after_silence, bulk, echo, ping_pong, probe, sessions,
};
pub(crate) use server::{PORT, Server};

use core::time::Duration;

/// No call waits longer: a relay that hangs ends a measurement, not the program.
const PATIENCE: Duration = Duration::from_secs(5);
/// What one call reads or writes at most.
const CHUNK: usize = 256 << 10;

/// A client's first octet says what the server shall do.
const SEND: u8 = b'D';
const DISCARD: u8 = b'U';
const ECHO: u8 = b'E';
/// Behind it stands how many octets shall come in a tick.
const PACED: u8 = b'P';

/// What is sent at a rate, comes in pieces of this long.
pub(crate) const TICK: Duration = Duration::from_millis(1);
