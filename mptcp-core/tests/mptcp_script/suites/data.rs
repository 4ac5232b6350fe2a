//! Data: widths, windows, mappings that stay away.

use super::Exchange;
use crate::harness::*;
use mptcp_core::config::PathManagerKind;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::wire::{CapableFlags, Dss, Version};

/// Options pass in the handshake and are dropped from the first data on.
#[test]
fn options_that_are_dropped_after_the_first_data_mean_plain_tcp() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.peer_first_data(500, &[". 1:1(0) ack 501 <dss dackW=501>"]);
        x.script.expect_stream(x.id, 0, 500);
        x.write(0, 100, &["P. 1:101(100) ack 501 <dss dackW=501 dsn4=1 ssn=1 dll=100, nop, nop>"]);
        x.peer(0, x.seg(0), &[]);
        assert_eq!(x.script.fallback(x.id), Some(FallbackReason::NoDataAck));
        x.peer(0, x.seg(0).data(&stream(500, 100)), &[". 101:101(0) ack 601"]);
        x.script.expect_stream(x.id, 500, 100);
        assert_eq!(x.script.counters().fallback, 1);
    });
}

/// Beside another subflow one whose data has no mapping any more is broken, and says why.
#[test]
fn a_subflow_that_lost_its_options_is_reset_beside_another() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.peer_data(0, 0, 0, 2, &[". 1:1(0) ack 3 <dss dackW=3>"]);
        let join = x.join(false);
        x.peer(0, x.seg(0).data(&stream(2, 2)), &["0 . 1:1(0) ack 5 <dss dackW=3>"]);
        // A mapping may still come.
        x.wait(499, &[]);
        let told = if v == Version::V0 { "" } else { " <reset 6>" };
        x.wait(2, &[&format!("0 R. 1:1(0) ack 5{told}")]);
        // The same data again over the other one.
        x.peer_data(join, 2, 0, 2, &["1 . 1:1(0) ack 3 <dss dackW=5>"]);
        x.script.expect_stream(x.id, 0, 4);
    });
}

/// One that is mapped in time is none of these, and what others bring changes nothing.
#[test]
fn a_mapping_that_comes_in_time_saves_its_subflow() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.peer_data(0, 0, 0, 2, &[". 1:1(0) ack 3 <dss dackW=3>"]);
        let join = x.join(false);
        let whole = x.keys().map(2, 3, 4);
        x.peer(0, x.seg(0).data(&stream(2, 2)), &["0 . 1:1(0) ack 5 <dss dackW=3>"]);
        x.wait(400, &[]);
        x.peer(0, x.seg(0).dss(whole).data(&stream(4, 2)), &["0 . 1:1(0) ack 7 <dss dackW=7>"]);
        x.wait(1_000, &[]);
        x.peer_data(join, 6, 0, 2, &["1 . 1:1(0) ack 3 <dss dackW=9>"]);
        x.script.expect_stream(x.id, 0, 8);
    });
}

/// A zero window is asked about below it, and what follows goes out once.
#[test]
fn a_window_that_closes_and_opens() {
    both(|v| {
        let mut script = Script::server(v);
        let (mut flow, syn_ack) = script.half_open(40_000, CapableFlags::HMAC);
        flow.window = 1280;
        let mut x = Exchange::accepted(script, flow, &syn_ack);
        x.peer_first_data(100, &[". 1:1(0) ack 101 <dss dackW=101>"]);
        x.write(
            0,
            2000,
            &[". 1:1281(1280) ack 101 <dss dackW=101 dsn4=1 ssn=1 dll=1280, nop, nop>"],
        );
        let keys = x.keys();
        x.peer(0, x.seg(0).window(0).dss(keys.ack(1280)), &[]);
        let probe = ". 1280:1280(0) ack 101 <dss dackW=101>";
        x.wait(501, &[probe]);
        x.wait(990, &[]);
        let rest = "P. 1281:2001(720) ack 101 <dss dackW=101 dsn4=1281 ssn=1281 dll=720, nop, nop>";
        x.peer(0, x.seg(0).window(28_800).dss(keys.ack(1280)), &[rest]);
        // The timer of the probes has nothing to do with what is in flight now.
        x.wait(20, &[]);
        x.peer(0, x.seg(0).window(28_800).dss(keys.ack(2000)), &[]);
        x.wait(2_000, &[]);
        x.script.expect_stream(x.id, 0, 100);
    });
}

/// A `DATA_ACK` has the width of the numbers that it covers.
#[test]
fn data_acks_are_as_wide_as_the_peers_numbers() {
    both(|v| {
        let mut x = Exchange::server(v);
        let keys = x.keys();
        x.peer_first_data(2, &[". 1:1(0) ack 3 <dss dackW=3>"]);
        let narrow = |dss: &mut mptcp_core::wire::Dss, offset| {
            let mapping = dss.mapping.as_mut().expect("a mapping");
            mapping.dsn = mptcp_core::wire::WireSeq::Low(keys.peer_dsn(offset).0 as u32);
        };
        let mut dss = keys.data(&x.flows[0], 2, 0, &stream(2, 2));
        narrow(&mut dss, 2);
        x.peer(0, x.seg(0).dss(dss).data(&stream(2, 2)), &[". 1:1(0) ack 5 <dss dack4=5>"]);
        let mut dss = keys.data(&x.flows[0], 4, 0, &stream(4, 2));
        let mapping = dss.mapping.as_mut().expect("a mapping");
        mapping.dsn = mptcp_core::wire::WireSeq::Full(keys.peer_dsn(4).0);
        x.peer(0, x.seg(0).dss(dss).data(&stream(4, 2)), &[". 1:1(0) ack 7 <dss dack8=7>"]);
        x.script.expect_stream(x.id, 0, 6);
    });
}

/// A server's first data without a mapping: plain TCP, and no option any more.
#[test]
fn a_server_that_maps_nothing_is_plain_tcp() {
    both(|v| {
        let mut x = Exchange::client(v);
        x.peer(0, x.seg(0).data(&stream(0, 2)), &[". 1:1(0) ack 3"]);
        assert_eq!(x.script.fallback(x.id), Some(FallbackReason::FirstDataUnmapped));
        x.script.expect_stream(x.id, 0, 2);
    });
}

/// What the peer's TCP has but its data level has not goes again by the path that is no backup.
#[test]
fn a_path_that_becomes_the_preferred_one_repeats_what_was_not_taken() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.peer_data(0, 0, 0, 2, &[". 1:1(0) ack 3 <dss dackW=3>"]);
        let join = x.join(true);
        x.peer_data(join, 2, 0, 100, &["1 . 1:1(0) ack 101 <dss dackW=103>"]);
        x.write(0, 20, &["0 P. 1:21(20) ack 3 <dss dackW=103 dsn4=1 ssn=1 dll=20, nop, nop>"]);
        x.peer(join, x.seg(join).raw(&[30, 3, 0x50]), &[]);
        x.peer(0, x.seg(0).raw(&[30, 3, 0x51]), &[]);
        let again = "1 P. 1:21(20) ack 101 <dss dackW=103 dsn4=1 ssn=1 dll=20, nop, nop>";
        // Twice the longest timeout of any subflow.
        x.wait(499, &[]);
        x.wait(100, &[again]);
        x.peer_acks(join, 20, &[]);
        x.write(
            20,
            10,
            &["1 P. 21:31(10) ack 101 <dss dackW=103 dsn4=21 ssn=21 dll=10, nop, nop>"],
        );
        x.script.expect_stream(x.id, 0, 102);
    });
}

/// A DSS whose mapping has no octets, beside a `DATA_ACK` of `acked` octets.
fn empty(keys: &Keys, offset: u64, ssn: u32, acked: u64) -> Dss {
    Dss { data_ack: keys.ack(acked).data_ack, ..keys.map(offset, ssn, 0) }
}

/// An acknowledgement has nothing to map, and a mapping of nothing in it ends nothing.
#[test]
fn an_acknowledgement_that_maps_nothing_is_an_acknowledgement() {
    both(|v| {
        let mut x = Exchange::server(v);
        let keys = x.keys();
        x.write(0, 1000, &["P. 1:1001(1000) ack 1 <dss dackW=1 dsn4=1 ssn=1 dll=1000, nop, nop>"]);
        x.peer(0, x.seg(0).dss(empty(&keys, 0, 1, 1000)), &[]);
        x.write(
            1000,
            1000,
            &["P. 1001:2001(1000) ack 1 <dss dackW=1 dsn4=1001 ssn=1001 dll=1000, nop, nop>"],
        );
        x.peer(0, x.seg(0).dss(empty(&keys, 0, 1, 2000)), &[]);
        x.peer_data(0, 0, 2000, 10, &[". 2001:2001(0) ack 11 <dss dackW=11>"]);
        x.write(
            2000,
            1000,
            &["P. 2001:3001(1000) ack 11 <dss dackW=11 dsn4=2001 ssn=2001 dll=1000, nop, nop>"],
        );
        // Its numbers need not be right either.
        x.peer(0, x.seg(0).dss(empty(&keys, 9, 1, 3000)), &[]);
        x.script.expect_stream(x.id, 0, 10);
        assert_eq!(x.script.fallback(x.id), None);
        assert_eq!(x.script.counters().infinite_map_rx, 0);
        x.close(&[". 3001:3001(0) ack 11 <dss dackW=11 dsn4=3001 ssn=0 dll=1 fin, nop, nop>"]);
        x.peer_acks(0, 3001, &[]);

        // Beside another subflow it does not cost its own.
        let mut x = Exchange::server(v);
        let keys = x.keys();
        x.peer_data(0, 0, 0, 2, &[". 1:1(0) ack 3 <dss dackW=3>"]);
        let join = x.join(false);
        x.peer(join, x.seg(join).dss(empty(&keys, 2, 1, 0)), &[]);
        x.peer_data(join, 2, 0, 2, &["1 . 1:1(0) ack 3 <dss dackW=5>"]);
        x.script.expect_stream(x.id, 0, 4);
    });
}

/// Nor does it end a join that is under way.
#[test]
fn an_acknowledgement_that_maps_nothing_ends_no_join() {
    both(|v| {
        let mut x = Exchange::client_with(v, |c| {
            c.mptcp.path_manager = PathManagerKind::Fullmesh;
        });
        let keys = x.keys();
        let syn = "1 S 0:0(0) <mss 1460, nop, nop, sackOK, nop, wscale 7, mpjoin id=2>";
        x.peer(0, x.seg(0).dss(empty(&keys, 0, 1, 0)), &[syn]);
        x.peer(0, x.seg(0).dss(empty(&keys, 0, 1, 0)), &[]);
        assert_eq!(x.script.fallback(x.id), None);
    });
}
