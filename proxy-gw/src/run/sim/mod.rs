//! The whole gateway in the simulator: a phone with two access links, the gateway's real stack and
//! worker, and an origin; virtual time, faults on every link.

mod convert;
mod peers;
mod scenarios;
mod world;
