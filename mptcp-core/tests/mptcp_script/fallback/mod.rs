//! Falling back to TCP: every reason, when it is no longer possible, and what holds afterwards
//! (RFC 8684 §3.7).

mod checksums;
mod infinite_mapping;
mod options;

use crate::harness::*;
use mptcp_core::config::PathManagerKind;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::{Ready, SocketId};
use mptcp_core::wire::{
    CapableFlags, Dss, Mapping, MpJoin, MptcpOption, TcpFlags, Version, checksum, reset_reason,
};

const SUM: CapableFlags = CapableFlags::HMAC.union(CapableFlags::CHECKSUM);

fn fell_back(script: &Script, id: SocketId, reason: FallbackReason) {
    assert_eq!(script.fallback(id), Some(reason));
    assert_eq!(script.info(id).mptcp, None);
    assert_eq!(script.counters().fallback, 1);
    assert_eq!(script.info(id).subflows.len(), 1);
    assert_eq!(script.stack.occupancy().tokens, 0, "no join can find it");
}

fn infinite(keys: &Keys, offset: u64, ssn: u32) -> Dss {
    Dss { ..keys.map(offset, ssn, 0) }
}

/// Both directions work as plain TCP and no MPTCP option is sent any more; the first segment may
/// carry the infinite mapping when `told`.
fn works_as_tcp(script: &mut Script, flow: &mut Flow, id: SocketId, at: u64, told: bool) {
    let mut infinite = 0;
    let told_before = script.counters().infinite_map_tx;
    let mut written = at;
    for _ in 0..5 {
        let out = script.write(id, written, 3_000);
        written += 3_000;
        let mut data = Vec::new();
        for packet in flow.of(&out) {
            data.extend_from_slice(&packet.payload);
            if packet.mapping().is_some_and(|m| m.len == 0) {
                infinite += 1;
            } else {
                assert!(packet.mptcp().is_empty(), "{packet:?}");
            }
        }
        assert_eq!(data, stream(written - 3_000, 3_000));
        flow.hears(&out);
        let seg = flow.seg().data(b"raw");
        let out = script.send(flow, &seg);
        flow.snd_nxt += 3;
        assert!(out.iter().all(|o| o.mptcp().is_empty()), "{out:?}");
        assert_eq!(script.read(id).expect("raw data"), b"raw");
    }
    assert_eq!(infinite, usize::from(told));
    assert_eq!(script.info(id).bytes_acked, written, "subflow ACKs free the buffer");
    assert_eq!(script.counters().infinite_map_tx, told_before + u64::from(told));
    // Nothing bounces between two ends that fell back.
    script.out();
    let out = script.send(flow, &flow.seg());
    assert!(out.is_empty(), "{out:?}");
    // The FIN is the end of the stream, both ways.
    script.ready(id);
    script.stack.shutdown_write(script.now, id);
    let out = script.out();
    assert!(out.len() == 1 && out[0].is(TcpFlags::FIN) && out[0].mptcp().is_empty(), "{out:?}");
    flow.hears(&out);
    let out = script.send(flow, &flow.seg().fin());
    flow.snd_nxt += 1;
    assert!(out.iter().all(|o| !o.rst() && o.mptcp().is_empty()), "{out:?}");
    assert!(script.at_end(id));
    assert!(script.ready(id).contains(Ready::READ_CLOSED | Ready::CLOSED));
    assert_eq!(script.stack.error(id), None);
}

/// Sends a mapping whose payload was changed on the way.
fn corrupt(script: &mut Script, keys: &Keys, flow: &mut Flow, offset: u64, len: usize) -> Vec<Out> {
    let data = stream(offset, len);
    let dss = keys.data(flow, offset, 0, &data);
    let mut changed = data;
    changed[len / 2] ^= 0x40;
    let out = script.send(flow, &flow.seg().dss(dss).data(&changed));
    flow.snd_nxt += len as u32;
    flow.hears(&out);
    out
}
