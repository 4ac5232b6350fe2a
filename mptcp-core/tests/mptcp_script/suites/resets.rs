//! `MP_FASTCLOSE` and `MP_TCPRST`, and what leaves everything as it is.

use super::{Exchange, RST};
use crate::harness::*;
use mptcp_core::error::{ConnectionError, RecvError};
use mptcp_core::wire::{MpTcpRst, MptcpOption, TcpFlags, Version};

/// The RST of version 1 has an option.
fn answer(v: Version, rst: &str) -> String {
    format!("{rst}{}", if v == Version::V0 { "" } else { " <reset 0>" })
}

#[test]
fn a_fastclose_on_an_ack() {
    both(|v| {
        let mut x = Exchange::server(v);
        let stack = x.keys().stack;
        x.peer_data(0, 0, 0, 1000, &[". 1:1(0) ack 1001 <dss dackW=1001>"]);
        // Not our key.
        x.peer(0, x.seg(0).opt(&MptcpOption::Fastclose { key: 42 }), &[]);
        x.peer_data(0, 1000, 0, 1000, &[". 1:1(0) ack 2001 <dss dackW=2001>"]);
        let seg = x.seg(0).opt(&MptcpOption::Fastclose { key: stack });
        x.peer(0, seg, &[&answer(v, "R. 1:1(0) ack 2001")]);
        assert_eq!(x.script.counters().mp_rst_tx, u64::from(v == Version::V1));
        x.wait(1_000, &[]);
        x.peer_data(0, 2000, 0, 1000, &["R 1:1(0)"]);
        x.script.expect_stream(x.id, 0, 2000);
        let ended = Err(RecvError::Failed(ConnectionError::Reset));
        assert_eq!(x.script.read(x.id), ended);
    });
}

#[test]
fn a_fastclose_ends_every_subflow() {
    both(|v| {
        for reset in [false, true] {
            let mut x = Exchange::server(v);
            let fastclose = MptcpOption::Fastclose { key: x.keys().stack };
            x.peer_data(0, 0, 0, 1000, &[". 1:1(0) ack 1001 <dss dackW=1001>"]);
            let join = x.join(false);
            x.peer_data(join, 1000, 0, 1001, &["1 . 1:1(0) ack 1002 <dss dackW=2002>"]);
            let (flags, wrong, ended) = if reset {
                // Ahead of the window's left edge: challenged.
                (RST, x.flows[join].snd_nxt.wrapping_add(1999), vec![])
            } else {
                (
                    TcpFlags::ACK,
                    x.flows[join].isn.wrapping_add(1),
                    vec![answer(v, "1 R. 1:1(0) ack 1002")],
                )
            };
            let seg = x.seg(join).flags(flags).opt(&fastclose);
            x.peer(join, seg.clone().seq(wrong), &["1 . 1:1(0) ack 1002 <dss dackW=2002>"]);
            let mut expected = vec![answer(v, "0 R. 1:1(0) ack 1001")];
            expected.extend(ended);
            let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
            x.peer(join, seg, &expected);
            x.script.expect_stream(x.id, 0, 2001);
        }
    });
}

/// The RST is a RST whatever its option says; the connection lives on.
#[test]
fn a_fastclose_with_another_key_on_a_rst_costs_the_subflow() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.peer_data(0, 0, 0, 1000, &[". 1:1(0) ack 1001 <dss dackW=1001>"]);
        let seg = x.seg(0).flags(RST).opt(&MptcpOption::Fastclose { key: 42 });
        x.peer(0, seg, &[]);
        x.peer_data(0, 1000, 0, 1000, &["R 1:1(0)"]);
        let join = x.join(false);
        x.peer_data(join, 1000, 0, 1000, &["1 . 1:1(0) ack 1001 <dss dackW=2001>"]);
        x.script.expect_stream(x.id, 0, 2000);
    });
}

#[test]
fn a_reset_option_means_something_on_a_rst_in_order_only() {
    both(|v| {
        let mut x = Exchange::server(v);
        let reset = MptcpOption::Reset(MpTcpRst { transient: false, reason: 1, reserved: 0 });
        let ahead = x.flows[0].snd_nxt.wrapping_add(1001);
        x.peer(0, x.seg(0).seq(ahead).flags(RST), &[". 1:1(0) ack 1 <dss dackW=1>"]);
        x.peer(0, x.seg(0).opt(&reset), &[]);
        x.write(0, 1000, &["P. 1:1001(1000) ack 1 <dss dackW=1 dsn4=1 ssn=1 dll=1000, nop, nop>"]);
        x.peer_acks(0, 1000, &[]);
        x.peer(0, x.seg(0).flags(RST).opt(&reset), &[]);
        x.peer(0, x.seg(0), &["R 1001:1001(0)"]);
    });
}

/// A join without its HMAC is answered as RFC 9293 answers an acknowledgement of nothing.
#[test]
fn a_join_without_its_hmac_costs_the_join_alone() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.peer_data(0, 0, 0, 1000, &[". 1:1(0) ack 1001 <dss dackW=1001>"]);
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = x.script.join_syn(&x.keys(), &mut flow, false);
        x.flows.push(flow);
        x.says(&out, &["1 S. 0:0(0) ack 1 <mss 1460, nop, nop, sackOK, mpjoin id=0 hmac>"]);
        let told = if v == Version::V0 { "" } else { " <reset 1>" };
        x.peer(1, x.seg(1), &[&format!("1 R 1:1(0){told}")]);
        x.peer_data(0, 1000, 0, 1000, &["0 . 1:1(0) ack 2001 <dss dackW=2001>"]);
        x.script.expect_stream(x.id, 0, 2000);
    });
}

/// Our data on a join is acknowledged by TCP alone: options do not pass there.
#[test]
fn an_acknowledgement_without_options_costs_the_join() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.peer_data(0, 0, 0, 1000, &[". 1:1(0) ack 1001 <dss dackW=1001>"]);
        let join = x.join(false);
        x.peer(0, x.seg(0).raw(&[30, 3, 0x51]), &[]);
        x.write(
            0,
            1000,
            &["1 P. 1:1001(1000) ack 1 <dss dackW=1001 dsn4=1 ssn=1 dll=1000, nop, nop>"],
        );
        let told = if v == Version::V0 { "" } else { " <reset 6>" };
        x.peer(
            join,
            x.seg(join),
            &[
                &format!("1 R. 1001:1001(0) ack 1{told}"),
                "0 P. 1:1001(1000) ack 1001 <dss dackW=1001 dsn4=1 ssn=1 dll=1000, nop, nop>",
            ],
        );
        x.script.expect_stream(x.id, 0, 1000);
    });
}
