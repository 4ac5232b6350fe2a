//! Linux TUN devices under `mptcp-core`: the driver for machines without DPDK.
//!
//! A [`TunDevice`] hands over and takes IP packets; a [`TunLoop`] is one thread that drives a
//! [`Worker`](mptcp_core::driver::Worker) (a stack and the
//! [`Application`](mptcp_core::driver::Application) on it) over several of them, each an access port
//! of its own, and sleeps in `ppoll` while nothing happens. The host's kernel must route packets for
//! the stack's addresses into the devices: the kernel is the neighbour on the other end of each TUN,
//! it does not carry the stack's connections.
//!
//! ```no_run
//! use mptcp_core::buf::{HeapBuf, HeapPool};
//! use mptcp_core::driver::Worker;
//! use mptcp_tun::{Clock, RouteTable, TunConfig, TunDevice, TunLoop, TunPort};
//!
//! # fn run(pool: HeapPool, worker: &mut impl Worker<HeapBuf>) -> Result<(), mptcp_tun::TunError> {
//! let device = TunDevice::create(&TunConfig {
//!     name: "lte".into(),
//!     kernel_addresses: vec!["10.1.0.254/24".parse().expect("a prefix")],
//!     mtu: 1500,
//!     offload: true,
//! })?;
//! let port = TunPort { device, addresses: vec!["10.1.0.1".parse().expect("an address")] };
//! let mut tun = TunLoop::new(vec![port], RouteTable::default(), pool, Clock::start())?;
//! let handle = tun.handle(); // stops or wakes the loop from another thread
//! tun.run(worker)
//! # }
//! ```
#![forbid(unsafe_code)]

mod arrival;
mod clock;
mod counters;
mod departure;
mod device;
mod error;
mod handle;
mod port;
mod routes;
mod run;

pub use clock::Clock;
pub use counters::{LoopCounters, PortCounters};
pub use device::{PacketDevice, TunConfig, TunDevice};
pub use error::TunError;
pub use handle::LoopHandle;
pub use port::TunPort;
pub use routes::RouteTable;
pub use run::{BURST, RESERVE, TunLoop, Turn};
