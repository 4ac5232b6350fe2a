//! One shard: demultiplexing, sockets, timers and readiness.

mod types;

pub use types::{Connect, ConnectionInfo, Event, Listen, Ready, SocketId, SubflowInfo};
