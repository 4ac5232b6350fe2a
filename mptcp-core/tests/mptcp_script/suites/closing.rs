//! The end of the stream in both directions and every order.

use super::Exchange;
use crate::harness::*;
use mptcp_core::wire::{Dss, Version, WireSeq};

/// The peer's `DATA_FIN` behind `offset` octets, with a `DATA_ACK` of `acked`.
fn fin(keys: &Keys, offset: u64, acked: u64) -> Dss {
    Dss { data_ack: keys.ack(acked).data_ack, ..keys.fin(offset) }
}

#[test]
fn the_peer_closes_first() {
    both(|v| {
        let mut x = Exchange::server(v);
        let keys = x.keys();
        x.peer(0, x.seg(0).dss(fin(&keys, 0, 0)), &[". 1:1(0) ack 1 <dss dackW=2>"]);
        x.peer(0, x.seg(0).dss(keys.ack(0)).fin(), &[". 1:1(0) ack 2 <dss dackW=2>"]);
        x.wait(100, &[]);
        x.close(&[". 1:1(0) ack 2 <dss dackW=2 dsn4=1 ssn=0 dll=1 fin, nop, nop>"]);
        x.peer_acks(0, 1, &["F. 1:1(0) ack 2 <dss dackW=2>"]);
        x.peer_acks(0, 1, &[]);
        x.wait(5_000, &[]);
    });
}

/// No TCP repeats a `DATA_FIN`: its timer is as short as the subflow's.
#[test]
fn a_data_fin_is_repeated_after_the_timeout_of_the_subflow() {
    both(|v| {
        let mut x = Exchange::server(v);
        let keys = x.keys();
        let again = ". 1:1(0) ack 1 <dss dackW=1 dsn4=1 ssn=0 dll=1 fin, nop, nop>";
        x.close(&[again]);
        x.wait(199, &[]);
        x.wait(2, &[again]);
        x.wait(401, &[again]);
        x.wait(801, &[again]);
        // An answer from beyond the window's left edge counts as well.
        let seg = x.seg(0).seq(x.flows[0].snd_nxt.wrapping_add(1));
        x.peer(0, seg.dss(fin(&keys, 0, 1)), &["F. 1:1(0) ack 1 <dss dackW=2>"]);
    });
}

#[test]
fn our_data_fin_meets_data_with_the_peers() {
    both(|v| {
        // Nothing was sent before.
        let mut x = Exchange::server(v);
        let keys = x.keys();
        x.shutdown(&[". 1:1(0) ack 1 <dss dackW=1 dsn4=1 ssn=0 dll=1 fin, nop, nop>"]);
        let mut dss = Dss { data_fin: true, ..keys.map(0, 1, 1001) };
        dss.data_ack = keys.ack(1).data_ack;
        let seg = x.seg(0).dss(dss).data(&stream(0, 1000));
        x.peer(0, seg, &["F. 1:1(0) ack 1001 <dss dackW=1002>"]);
        x.peer(0, x.seg(0).dss(keys.ack(1)).fin(), &[". 2:2(0) ack 1002 <dss dackW=1002>"]);
        x.script.expect_stream(x.id, 0, 1000);
        assert!(x.script.at_end(x.id));

        // Both ends sent data.
        let mut x = Exchange::server(v);
        let keys = x.keys();
        x.peer_first_data(1, &[". 1:1(0) ack 2 <dss dackW=2>"]);
        // A full segment has room for a `DATA_ACK` of the peer's width.
        let data = match v {
            Version::V0 => [
                ". 1:1441(1440) ack 2 <dss dackW=2 dsn4=1 ssn=1 dll=1440, nop, nop>",
                "P. 1441:2001(560) ack 2 <dss dackW=2 dsn4=1441 ssn=1441 dll=560, nop, nop>",
            ],
            Version::V1 => [
                ". 1:1437(1436) ack 2 <dss dackW=2 dsn4=1 ssn=1 dll=1436, nop, nop>",
                "P. 1437:2001(564) ack 2 <dss dackW=2 dsn4=1437 ssn=1437 dll=564, nop, nop>",
            ],
        };
        x.write(0, 2000, &data);
        x.shutdown(&[". 2001:2001(0) ack 2 <dss dackW=2 dsn4=2001 ssn=0 dll=1 fin, nop, nop>"]);
        let mut dss = Dss { data_fin: true, ..keys.map(1, 2, 1001) };
        dss.data_ack = keys.ack(2001).data_ack;
        let seg = x.seg(0).dss(dss).data(&stream(1, 1000));
        x.peer(0, seg, &["F. 2001:2001(0) ack 1002 <dss dackW=1003>"]);
        x.peer(
            0,
            x.seg(0).dss(keys.ack(2001)).fin(),
            &[". 2002:2002(0) ack 1003 <dss dackW=1003>"],
        );
        x.script.expect_stream(x.id, 0, 1001);
    });
}

/// A client that never sent anything closes: the numbers of the peer's `DATA_FIN` may be narrow.
#[test]
fn a_client_closes_before_any_data() {
    both(|v| {
        let mut x = Exchange::client(v);
        let keys = x.keys();
        x.close(&[". 1:1(0) ack 1 <dss dackW=1 dsn4=1 ssn=0 dll=1 fin, nop, nop>"]);
        x.peer_acks(0, 1, &[]);
        let mut narrow = fin(&keys, 0, 1);
        let mapping = narrow.mapping.as_mut().expect("a mapping");
        mapping.dsn = WireSeq::Low(keys.peer_dsn(0).0 as u32);
        x.peer(0, x.seg(0).dss(narrow), &["F. 1:1(0) ack 1 <dss dack4=2>"]);
        x.peer_acks(0, 1, &[]);
        x.wait(200, &[]);
        // TIME-WAIT goes on saying what was received.
        x.peer(0, x.seg(0).dss(keys.ack(1)).fin(), &[". 2:2(0) ack 2 <dss dack4=2>"]);
    });
}

/// The option may be on the first of two segments only, and its `DATA_FIN` counts at the end.
#[test]
fn a_data_fin_at_the_end_of_a_split_mapping() {
    both(|v| {
        let mut x = Exchange::server(v);
        let keys = x.keys();
        x.write(0, 1000, &["P. 1:1001(1000) ack 1 <dss dackW=1 dsn4=1 ssn=1 dll=1000, nop, nop>"]);
        x.peer_acks(0, 1000, &[]);
        let mut dss = Dss { data_fin: true, ..keys.map(0, 1, 2001) };
        dss.data_ack = keys.ack(1000).data_ack;
        let seg = x.seg(0).dss(dss).data(&stream(0, 1000));
        x.peer(0, seg, &[". 1001:1001(0) ack 1001 <dss dackW=1001>"]);
        let seg = x.seg(0).data(&stream(1000, 1000));
        x.peer(0, seg, &[". 1001:1001(0) ack 2001 <dss dackW=2002>"]);
        x.script.expect_stream(x.id, 0, 2000);
        assert!(x.script.at_end(x.id));
    });
}

/// Falling back and closing with something unread is a RST, as of any TCP.
#[test]
fn unread_data_after_a_fallback_is_a_reset() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.write(0, 1000, &["P. 1:1001(1000) ack 1 <dss dackW=1 dsn4=1 ssn=1 dll=1000, nop, nop>"]);
        x.peer(0, x.seg(0), &[]);
        x.peer(0, x.seg(0).data(&stream(0, 300)), &[". 1001:1001(0) ack 301"]);
        x.close(&["R. 1001:1001(0) ack 301"]);
    });
}

/// Who aborts waits for the peer's RST.
#[test]
fn an_abort_is_a_fastclose_on_an_ack() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.write(0, 1000, &["P. 1:1001(1000) ack 1 <dss dackW=1 dsn4=1 ssn=1 dll=1000, nop, nop>"]);
        x.peer_acks(0, 1000, &[]);
        x.script.stack.abort(x.script.now, x.id);
        x.script.forget(x.id);
        let out = x.script.out();
        x.says(&out, &[". 1001:1001(0) ack 1 <fastclose peer>"]);
        x.peer(0, x.seg(0).flags(super::RST), &[]);
        x.wait(10_000, &[]);
    });
}

/// One without a mapping has no place in the stream.
#[test]
fn a_data_fin_without_a_mapping_says_nothing() {
    both(|v| {
        let mut x = Exchange::server(v);
        let nowhere = Dss { data_fin: true, ..x.keys().ack(0) };
        x.peer(0, x.seg(0).dss(nowhere), &[]);
        x.wait(500, &[]);
        assert!(!x.script.at_end(x.id));
        x.close(&[". 1:1(0) ack 1 <dss dackW=1 dsn4=1 ssn=0 dll=1 fin, nop, nop>"]);
    });
}

/// The end of both streams after a SYN/ACK without the option: data comes with the peer's FIN.
#[test]
fn a_plain_peer_ends_with_data() {
    both(|v| {
        let (mut x, _) = Exchange::opening(v, |_| {});
        let out = x.script.answer(&mut x.flows[0], &[]);
        x.says(&out, &[". 1:1(0) ack 1"]);
        x.shutdown(&["F. 1:1(0) ack 1"]);
        x.peer(0, x.seg(0).data(&stream(0, 1010)).fin(), &[". 2:2(0) ack 1012"]);
        x.script.expect_stream(x.id, 0, 1010);
        assert!(x.script.at_end(x.id));
    });
}
