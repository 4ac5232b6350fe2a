//! The whole gateway in the simulator: phones with two access links each, the gateway's real stack and
//! worker, and an origin; virtual time, faults on every link.

mod bind;
mod convert;
mod cores;
mod families;
mod limits;
mod peers;
mod reload;
mod scenarios;
mod shards;
mod terms;
mod transparent;
mod world;
