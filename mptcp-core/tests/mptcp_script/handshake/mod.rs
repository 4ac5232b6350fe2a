//! Opening a connection: `MP_CAPABLE` in every form, as server and as client (RFC 8684 §3.1).

mod client;
mod keys;
mod offers;

use crate::harness::*;
use mptcp_core::config::ChecksumPolicy;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::mptcp::key;
use mptcp_core::stack::Ready;
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{
    CapableFlags, CapableForm, Dss, MpCapable, MpJoin, MptcpOption, TcpFlags, TcpOption, Version,
    WireSeq, checksum, reset_reason,
};

const H: CapableFlags = CapableFlags::HMAC;

/// Sends `seg` as a SYN and answers the SYN/ACK, which must come.
fn syn_ack(script: &mut Script, flow: &mut Flow, seg: &Seg) -> Out {
    let out = script.send(flow, seg);
    let [syn_ack] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(syn_ack.flags, TcpFlags::SYN | TcpFlags::ACK);
    assert_eq!(syn_ack.ack, flow.isn.wrapping_add(1));
    flow.hears(&out);
    flow.snd_nxt = flow.isn.wrapping_add(1);
    syn_ack.clone()
}

/// An `MP_CAPABLE` SYN of version `v` by hand.
fn raw_offer(v: Version, flags: u8) -> Vec<u8> {
    match v {
        Version::V0 => vec![30, 12, 0x00, flags, 1, 2, 3, 4, 5, 6, 7, 8],
        Version::V1 => vec![30, 4, 0x01, flags],
    }
}

/// A SYN with `option` makes a TCP connection; `reason` says why, or that nothing was offered.
fn plain_answer_to(option: &[u8], reason: impl Into<Option<FallbackReason>>) {
    let mut script = Script::server(Version::V1);
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let seg = flow.syn().raw(option);
    let answer = syn_ack(&mut script, &mut flow, &seg);
    assert!(answer.mptcp().is_empty(), "{option:x?} was answered with {answer:?}");
    plain_because(&mut script, &flow, reason);
}

/// The third ACK of `flow` makes a TCP connection that says why it is one.
fn plain_because(script: &mut Script, flow: &Flow, reason: impl Into<Option<FallbackReason>>) {
    let reason = reason.into();
    script.send(flow, &flow.seg());
    let id = script.accept().expect("plain TCP");
    let expected = reason.or(Some(FallbackReason::SynWithoutCapable));
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (None, expected));
    assert_eq!(script.counters().fallback, u64::from(reason.is_some()));
}
