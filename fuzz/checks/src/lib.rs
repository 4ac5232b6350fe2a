//! What the fuzz targets assert: one function per target, which takes any bytes and panics when a
//! parser breaks its contract.
//!
//! cargo-fuzz calls them with new inputs; `tests/replay.rs` calls them on stable Rust with every file
//! of `fuzz/corpus` and its mutations, so that `cargo test` keeps what fuzzing once found.

mod bench;
mod config;
mod datagrams;
mod dns;
mod exchange;
mod fragments;
mod front_ends;
mod input;
mod ip;
mod mappings;
mod options;
mod peer;
mod reassembly;
mod states;
mod tcp;
mod udp;

pub use config::config;
pub use datagrams::datagrams;
pub use dns::dns;
pub use exchange::exchange;
pub use fragments::fragments;
pub use front_ends::{convert, http, socks5};
pub use ip::ip_packet;
pub use mappings::mappings;
pub use options::options;
pub use reassembly::reassembly;
pub use states::states;
pub use tcp::tcp_header;
pub use udp::udp;
