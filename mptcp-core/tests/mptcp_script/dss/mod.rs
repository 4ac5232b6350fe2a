//! The data level: mappings however they arrive, acknowledgements of both widths, checksums, and
//! the one receive window (RFC 8684 §3.3).

mod acknowledgements;
mod mappings;
mod windows;
mod witnesses;

use crate::harness::*;
use mptcp_core::wire::CapableFlags;

const SUM: CapableFlags = CapableFlags::HMAC.union(CapableFlags::CHECKSUM);

fn assert_reset(out: &[Out], reason: u8) {
    let rst = out.iter().find(|o| o.rst()).unwrap_or_else(|| panic!("no RST: {out:?}"));
    rst.assert_reset(reason, false);
}

fn no_reset(out: &[Out]) {
    assert!(out.iter().all(|o| !o.rst()), "{out:?}");
}

/// The last DATA_ACK in `out` acknowledges `offset` octets of the peer's stream.
fn assert_acked(keys: &Keys, out: &[Out], offset: u64) {
    let ack = out.iter().rev().find_map(Out::data_ack).expect("a DATA_ACK");
    assert!(same(ack, keys.peer_dsn(offset)), "{ack:?} is not {offset}");
}
