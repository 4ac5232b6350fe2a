//! Joining: `MP_JOIN` in both roles, its failures, and subflows that come and go (RFC 8684 §3.2).

mod handshake;
mod life;
mod policy;

use crate::harness::*;
use mptcp_core::config::{ChecksumPolicy, Marking, PathManagerKind, StackConfig};
use mptcp_core::error::{OpenError, RecvError};
use mptcp_core::mptcp::key::KeyPair;
use mptcp_core::stack::{Connect, Ready, SocketId};
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{CapableFlags, Dss, MpJoin, MptcpOption, TcpFlags, Version, reset_reason};

fn fullmesh(config: &mut StackConfig) {
    config.mptcp.path_manager = PathManagerKind::Fullmesh;
}

fn assert_reset(out: &[Out], reason: u8, transient: bool) {
    let [rst] = out else { panic!("one RST expected: {out:?}") };
    rst.assert_reset(reason, transient);
}

/// The answer to a token that is nobody's: which version the peer speaks is not known.
fn assert_unknown(out: &[Out]) {
    let [rst] = out else { panic!("one RST expected: {out:?}") };
    assert!(rst.rst(), "{rst:?}");
    assert_eq!(rst.reset_reason(), Some((reset_reason::MPTCP_SPECIFIC, false)), "{rst:?}");
}

/// A client with a confirmed connection and the SYN of its join: (keys, first, join, its nonce).
fn client_joins(script: &mut Script) -> (Keys, Flow, Flow, u32, mptcp_core::stack::SocketId) {
    let (keys, first, id) = script.connected();
    let out = script.send(&first, &first.seg().dss(keys.ack(0)));
    let syn = out.iter().find(|o| o.join().is_some()).expect("a join");
    assert_eq!(syn.flags, TcpFlags::SYN);
    assert_eq!((syn.src.ip(), syn.dst), (A2, at(P1, PORT)));
    let Some(MpJoin::Syn { backup, address_id, token, nonce }) = syn.join() else {
        panic!("{syn:?}")
    };
    assert_eq!(token, mptcp_core::mptcp::key::token(keys.version, PEER_KEY));
    assert_eq!((backup, address_id), (false, 2));
    let mut join = Flow::new(syn.dst, syn.src);
    join.hears(&out);
    (keys, first, join, nonce, id)
}

fn syn_ack_join(keys: &Keys, theirs: u32, flip: u64, backup: bool) -> MptcpOption<'static> {
    let pair = KeyPair { local: keys.peer, remote: keys.stack };
    let hmac = pair.sent_join_hmac(keys.version, NONCE, theirs).truncated64() ^ flip;
    MptcpOption::Join(MpJoin::SynAck { backup, address_id: 0, hmac, nonce: NONCE })
}

/// Opens the congestion window of the only subflow; answers how far the stream got.
fn widen(script: &mut Script, keys: &Keys, flow: &mut Flow, id: SocketId) -> u64 {
    let mut offset = 0;
    for _ in 0..8 {
        let mut out = script.write(id, offset, 14_000);
        offset += 14_000;
        while !out.is_empty() {
            flow.hears(&out);
            let got = u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
            out = script.send(flow, &flow.seg().dss(keys.ack(got)));
        }
    }
    assert_eq!(script.info(id).bytes_acked, offset, "nothing is outstanding");
    offset
}

fn payload(flow: &Flow, out: &[Out]) -> u64 {
    flow.of(out).iter().map(|o| o.payload.len() as u64).sum()
}

/// Segments of ours that ask on `flow` whether anybody is there.
fn probes(flow: &Flow, out: &[Out]) -> usize {
    let probe = |o: &&&Out| o.payload.is_empty() && o.seq == flow.rcv_nxt.wrapping_sub(1);
    flow.of(out).iter().filter(probe).count()
}
