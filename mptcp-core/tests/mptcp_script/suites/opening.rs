//! Handshakes: the option area of SYNs, the third ACK, and what is said when MPTCP is not agreed on.

use super::Exchange;
use crate::harness::*;
use mptcp_core::config::PathManagerKind;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{
    AddressIds, CapableFlags, CapableForm, MpCapable, MpJoin, MptcpOption, Version,
};

const MSS: [u8; 4] = [2, 4, 5, 180];
const SACK: [u8; 2] = [4, 2];
const STAMP: [u8; 10] = [8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
const SCALE: [u8; 3] = [3, 3, 7];

/// Every option begins where a 32-bit word does or shares one with the next.
#[test]
fn the_options_of_a_syn_are_in_the_usual_order_and_aligned() {
    both(|v| {
        let key = if v == Version::V0 { " own" } else { "" };
        for (timestamps, expected) in [
            (true, "S 0:0(0) <mss 1460, sackOK, TS, nop, wscale 7, mpcapable vV 0x01"),
            (false, "S 0:0(0) <mss 1460, nop, nop, sackOK, nop, wscale 7, mpcapable vV 0x01"),
        ] {
            let (mut x, syn) = Exchange::opening(v, |c| c.tcp.timestamps = timestamps);
            x.says(&[syn], &[&format!("{expected}{key}>")]);
        }
        // A SYN/ACK has what was offered and no more.
        let offered: [(&[&[u8]], &str); 5] = [
            (&[&MSS], "mss 1460"),
            (&[&MSS, &SACK], "mss 1460, nop, nop, sackOK"),
            (&[&MSS, &SACK, &STAMP, &SCALE], "mss 1460, sackOK, TS, nop, wscale 7"),
            (&[&MSS, &STAMP], "mss 1460, nop, nop, TS"),
            (&[&MSS, &SACK, &SCALE], "mss 1460, nop, nop, sackOK, nop, wscale 7"),
        ];
        for (options, granted) in offered {
            let mut script = Script::server_with(v, |c| c.tcp.timestamps = true);
            let flow = Flow::new(at(P1, 40_000), at(A1, PORT));
            let syn = options.iter().fold(flow.syn().bare(), |seg, option| seg.raw(option));
            let syn = syn.opt(&offer(v, CapableFlags::HMAC));
            let out = script.send(&flow, &syn);
            let [syn_ack] = out.as_slice() else { panic!("{out:?}") };
            let mut flow = flow.clone();
            flow.hears(&out);
            let keys = Keys::of(v, syn_ack, false);
            let origin = super::notation::Origin { flow: &flow, keys: Some(&keys), version: v };
            let expected = format!("S. 0:0(0) ack 1 <{granted}, mpcapable v{} 0x01 own>", v as u8);
            assert_eq!(origin.show(syn_ack), expected);
        }
    });
}

#[test]
fn the_options_of_a_join_are_aligned_as_well() {
    both(|v| {
        let mut x = Exchange::client_with(v, |c| {
            c.tcp.timestamps = true;
            c.mptcp.path_manager = PathManagerKind::Fullmesh;
        });
        x.peer_acks(0, 0, &["1 S 0:0(0) <mss 1460, sackOK, TS, nop, wscale 7, mpjoin id=2>"]);
    });
}

/// The third ACK confirms the method that the SYN/ACK chose; anything else is no `MP_CAPABLE`.
#[test]
fn a_third_ack_with_other_flags_or_version_means_plain_tcp() {
    both(|v| {
        let other = 1 - v as u8;
        for (version, flags) in [(v as u8, 0x41), (v as u8, 0x00), (v as u8, 0x02), (other, 0x01)] {
            let mut script = Script::server(v);
            let (flow, syn_ack) = script.half_open(40_000, CapableFlags::HMAC);
            let keys = Keys::of(v, &syn_ack, false);
            let form = CapableForm::Keys { sender: keys.peer, receiver: keys.stack };
            let flags = CapableFlags::from_bits_retain(flags);
            let third = MptcpOption::Capable(MpCapable { version, flags, form });
            let out = script.send(&flow, &flow.seg().opt(&third));
            assert!(out.is_empty(), "{out:?}");
            let id = script.accept().expect("a connection all the same");
            assert_eq!(script.fallback(id), Some(FallbackReason::AckWithoutCapable));
            assert_eq!(script.counters().mp_capable_fallback_ack, 1);
            let mut x = Exchange { script, keys: Some(keys), flows: vec![flow], id };
            x.write(0, 1000, &["P. 1:1001(1000) ack 1"]);
            x.peer(0, x.seg(0), &[]);
            x.peer(0, x.seg(0).data(&stream(0, 500)), &[". 1001:1001(0) ack 501"]);
            x.script.expect_stream(id, 0, 500);
        }
    });
}

#[test]
fn a_syn_ack_with_other_flags_or_version_means_plain_tcp() {
    both(|v| {
        let other = 1 - v as u8;
        for (version, flags) in [(v as u8, 0x41), (v as u8, 0x00), (other, 0x01)] {
            let (mut x, _) = Exchange::opening(v, |_| {});
            let out = x.answer_as(version, flags);
            x.says(&out, &[". 1:1(0) ack 1"]);
            x.write(0, 1000, &["P. 1:1001(1000) ack 1"]);
            x.peer(0, x.seg(0).data(&stream(0, 500)), &[". 1001:1001(0) ack 501"]);
            x.script.expect_stream(x.id, 0, 500);
        }
    });
}

#[test]
fn the_first_data_of_either_end() {
    both(|v| {
        let mut x = Exchange::client(v);
        let first = match v {
            Version::V0 => "P. 1:1001(1000) ack 1 <dss dack4=1 dsn4=1 ssn=1 dll=1000, nop, nop>",
            Version::V1 => "P. 1:1001(1000) ack 1 <mpcapable v1 0x01 own peer dll=1000, nop, nop>",
        };
        x.write(0, 1000, &[first]);
        x.peer_acks(0, 1000, &[]);
        x.write(
            1000,
            500,
            &["P. 1001:1501(500) ack 1 <dss dackW=1 dsn4=1001 ssn=1001 dll=500, nop, nop>"],
        );
        x.peer_data(0, 0, 1500, 200, &[". 1501:1501(0) ack 201 <dss dackW=201>"]);
        x.script.expect_stream(x.id, 0, 200);

        let mut x = Exchange::server(v);
        x.peer_first_data(100, &[". 1:1(0) ack 101 <dss dackW=101>"]);
        x.write(
            0,
            1000,
            &["P. 1:1001(1000) ack 101 <dss dackW=101 dsn4=1 ssn=1 dll=1000, nop, nop>"],
        );
        // A mapping that is known already says nothing new, whatever it comes with.
        let mut again = x.keys().map(0, 1, 100);
        again.data_ack = x.keys().ack(1000).data_ack;
        x.peer(0, x.seg(0).dss(again), &[]);
        x.script.expect_stream(x.id, 0, 100);
        x.close(&[". 1001:1001(0) ack 101 <dss dackW=101 dsn4=1001 ssn=0 dll=1 fin, nop, nop>"]);
        x.peer_acks(0, 1001, &[]);
    });
}

/// A client whose join is under way, and its nonce.
fn joining(v: Version) -> (Exchange, u32) {
    let mut x = Exchange::client_with(v, |c| {
        c.mptcp.path_manager = PathManagerKind::Fullmesh;
    });
    let syn = x.script.send(&x.flows[0], &x.seg(0).dss(x.keys().ack(0)));
    let Some(MpJoin::Syn { nonce, .. }) = syn[0].join() else { panic!("{syn:?}") };
    x.says(&syn, &["1 S 0:0(0) <mss 1460, nop, nop, sackOK, nop, wscale 7, mpjoin id=2>"]);
    (x, nonce)
}

/// A join by our client: the HMAC goes out until something answers, data only then.
#[test]
fn the_third_ack_of_a_join_is_repeated_until_the_fourth() {
    both(|v| {
        let (mut x, theirs) = joining(v);
        x.script.advance(100);
        let hmac = x.keys().pair().sent_join_hmac(v, NONCE, theirs).truncated64();
        let answer = MpJoin::SynAck { backup: false, address_id: 1, hmac, nonce: NONCE };
        let out = x.script.answer(&mut x.flows[1], &[MptcpOption::Join(answer)]);
        let third = "1 . 1:1(0) ack 1 <mpjoin hmac>";
        x.says(&out, &[third]);
        // A round trip of 100 ms: 300 ms, then twice that.
        x.wait(299, &[]);
        x.wait(2, &[third]);
        x.wait(600, &[third]);
        x.peer_acks(1, 0, &[]);
        x.wait(5_000, &[]);
        x.peer_data(1, 0, 0, 100, &["1 . 1:1(0) ack 101 <dss dackW=101>"]);
        x.script.expect_stream(x.id, 0, 100);
    });
}

/// The peer's address is withdrawn while a join to it is under way. What asks whether it is still there is no third ACK:
/// below the window nobody reads that.
#[test]
fn a_join_to_an_address_that_is_withdrawn_has_its_third_ack_in_place() {
    both(|v| {
        let (mut x, theirs) = joining(v);
        let gone = MptcpOption::RemoveAddr(AddressIds::new(&[0]).expect("one id"));
        x.script.send(&x.flows[0], &x.seg(0).dss(x.keys().ack(0)).opt(&gone));
        let hmac = x.keys().pair().sent_join_hmac(v, NONCE, theirs).truncated64();
        let answer = MpJoin::SynAck { backup: false, address_id: 0, hmac, nonce: NONCE };
        let out = x.script.answer(&mut x.flows[1], &[MptcpOption::Join(answer)]);
        x.says(&out, &["1 . 1:1(0) ack 1 <mpjoin hmac>"]);
    });
}

/// The second part of the first mapping arrives before the first, and with it the keys.
#[test]
fn the_first_data_comes_out_of_order() {
    let v = Version::V1;
    let mut script = Script::server(v);
    let (flow, syn_ack) = script.half_open(40_000, CapableFlags::HMAC);
    let keys = Keys::of(v, &syn_ack, false);
    let mut x = Exchange { script, keys: Some(keys), flows: vec![flow], id: SocketId(0) };
    let option = keys.first_data(&stream(0, 200));
    let second = x.seg(0).opt(&option).data(&stream(100, 100));
    x.peer(
        0,
        second.seq(x.flows[0].isn + 101),
        &[". 1:1(0) ack 1 <nop, nop, sack 101:201, dss dack8=1>"],
    );
    let out = x.script.send(&x.flows[0], &x.seg(0).opt(&option).data(&stream(0, 100)));
    x.says(&out, &[". 1:1(0) ack 201 <dss dack8=201>"]);
    x.id = x.script.accept().expect("established");
    x.script.expect_stream(x.id, 0, 200);
}
