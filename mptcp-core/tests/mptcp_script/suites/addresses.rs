//! Addresses and priorities.

use super::Exchange;
use crate::harness::*;
use core::net::IpAddr;
use mptcp_core::config::PathManagerKind;
use mptcp_core::mptcp::key;
use mptcp_core::wire::{AddAddr, CapableFlags, CapableForm, OptionWriter, TcpFlags, Version};

/// The peer's announcement.
fn announce(keys: &Keys, address_id: u8, addr: IpAddr, port: Option<u16>) -> Vec<u8> {
    let hmac = key::add_addr_hmac(keys.version, keys.peer, keys.stack, address_id, addr, port);
    let hmac = (keys.version == Version::V1).then_some(hmac);
    let mut writer = OptionWriter::new();
    assert!(
        AddAddr { address_id, addr, port, echo: false, hmac }.encode(&mut writer, keys.version)
    );
    writer.as_bytes().to_vec()
}

/// Who can make its HMAC has both keys: the echo need not wait for the first DSS.
#[test]
fn an_announcement_is_echoed_before_any_data() {
    let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0xc1, 0xa0]);
    // One each: more than two in a row wait for something else to say.
    let mut opened = None;
    for (addr, port, echo) in [
        (P2, None, "add id=12 10.2.0.2 echo, dss dack8=1>"),
        (P2, Some(4321), "add id=12 10.2.0.2:4321 echo, dss dack8=1, nop, nop>"),
        (v6, None, "add id=12 2001:db8::c1:a0 echo, dss dack8=1>"),
        (v6, Some(4321), "add id=12 2001:db8::c1:a0:4321 echo, dss dack8=1, nop, nop>"),
    ] {
        let mut x = Exchange::client_with(Version::V1, |c| c.mptcp.max_subflows = 1);
        let option = announce(&x.keys(), 12, addr, port);
        x.peer(0, x.seg(0).raw(&option), &[&format!(". 1:1(0) ack 1 <{echo}")]);
        opened = Some(x);
    }
    let mut x = opened.expect("the last one");
    // The first data shows the keys all the same.
    x.write(0, 100, &["P. 1:101(100) ack 1 <mpcapable v1 0x01 own peer dll=100, nop, nop>"]);
    x.peer_acks(0, 100, &[]);
    x.peer(0, x.seg(0).raw(&[30, 4, 0x40, 12]), &[]);
    x.close(&[". 101:101(0) ack 1 <dss dack8=1 dsn4=101 ssn=0 dll=1 fin, nop, nop>"]);
}

/// Beside timestamps a long echo leaves no room for the `DATA_ACK`: that goes before where there is news, and nowhere
/// else.
#[test]
fn an_echo_without_room_for_the_data_ack_stands_alone() {
    let v = Version::V1;
    let stamp = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
    let (mut x, _) = Exchange::opening(v, |c| c.tcp.timestamps = true);
    let syn_ack = x.flows[0].syn().acks(x.flows[0].rcv_nxt).flags(TcpFlags::SYN | TcpFlags::ACK);
    let option = capable(v, CapableFlags::HMAC, CapableForm::Key(PEER_KEY));
    let third = x.script.send(&x.flows[0], &syn_ack.raw(&stamp).opt(&option));
    x.flows[0].snd_nxt = x.flows[0].isn.wrapping_add(1);
    let Some(CapableForm::Keys { sender, .. }) = third[0].capable().map(|c| c.form) else {
        panic!("{third:?}")
    };
    x.keys = Some(Keys { peer: PEER_KEY, stack: sender, checksum: false, version: v });
    x.peer_acks(0, 0, &[]);
    let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
    let option = announce(&x.keys(), 12, v6(1), None);
    let echo = ". 1:1(0) ack 1 <nop, nop, TS, add id=12 2001:db8::1 echo>";
    x.peer(0, x.seg(0).raw(&option), &[echo]);
    x.wait(1_000, &[]);

    let payload = stream(0, 100);
    let data = x.keys().data(&x.flows[0], 0, 0, &payload);
    let data = x.seg(0).dss(data).data(&payload);
    x.flows[0].snd_nxt += 100;
    let option = announce(&x.keys(), 13, v6(2), None);
    let behind = x.seg(0).raw(&option);
    x.script.inject_burst(&[(&x.flows[0], &data), (&x.flows[0], &behind)]);
    let out = x.script.out();
    x.says(
        &out,
        &[
            ". 1:1(0) ack 101 <nop, nop, TS, dss dack8=101>",
            ". 1:1(0) ack 101 <nop, nop, TS, add id=13 2001:db8::2 echo>",
        ],
    );
    x.script.expect_stream(x.id, 0, 100);
    x.close(&[". 1:1(0) ack 101 <nop, nop, TS, dss dack8=101 dsn4=1 ssn=0 dll=1 fin, nop, nop>"]);
    x.peer_acks(0, 1, &[]);
}

/// With a wrong HMAC it proves nothing and is not answered: the keys still go out.
#[test]
fn an_announcement_that_is_not_authentic_proves_nothing() {
    let mut x = Exchange::client(Version::V1);
    let mut option = announce(&x.keys(), 12, P2, None);
    *option.last_mut().expect("an HMAC") ^= 1;
    x.peer(0, x.seg(0).raw(&option), &[]);
    x.peer(0, x.seg(0).seq(x.flows[0].isn), &[". 1:1(0) ack 1 <mpcapable v1 0x01 own peer>"]);
}

#[test]
fn our_address_is_announced_and_withdrawn() {
    both(|v| {
        let mut x = Exchange::server_with(v, |c| {
            c.mptcp.path_manager = PathManagerKind::Fullmesh;
        });
        let hmac = if v == Version::V0 { "" } else { " hmac" };
        let told = format!(". 1:1(0) ack 1 <add id=2 10.2.0.1{hmac}, dss dackW=1>");
        x.peer_acks(0, 0, &[&told]);
        let first = x.script.stack.config().addresses[0];
        assert!(x.script.stack.set_addresses(x.script.now, vec![first]));
        x.wait(501, &[". 1:1(0) ack 1 <remove [2], dss dackW=1>"]);
        x.close(&[". 1:1(0) ack 1 <dss dackW=1 dsn4=1 ssn=0 dll=1 fin, nop, nop>"]);
    });
}

/// Data goes where the peer's priorities say; a form of the other version changes nothing.
#[test]
fn the_peer_chooses_the_subflow() {
    both(|v| {
        let mut x = Exchange::server(v);
        x.peer_data(0, 0, 0, 2, &[". 1:1(0) ack 3 <dss dackW=3>"]);
        x.peer(0, x.seg(0).raw(&[30, 3, 0x51]), &[]);
        let join = x.join(true);
        x.peer(join, x.seg(join).raw(&[30, 3, 0x50]), &[]);
        x.write(0, 100, &["1 P. 1:101(100) ack 1 <dss dackW=3 dsn4=1 ssn=1 dll=100, nop, nop>"]);
        x.peer_acks(join, 100, &[]);
        // Version 1 has no address id here.
        x.peer(join, x.seg(join).raw(&[30, 4, 0x51, 2]), &[]);
        let next = match v {
            Version::V0 => "0 P. 1:101(100) ack 3 <dss dack4=3 dsn4=101 ssn=1 dll=100, nop, nop>",
            Version::V1 => {
                "1 P. 101:201(100) ack 1 <dss dack8=3 dsn4=101 ssn=101 dll=100, nop, nop>"
            }
        };
        // With both of them backups, version 0 takes either: the first is as good.
        if v == Version::V1 {
            x.write(100, 100, &[next]);
        }
        x.script.expect_stream(x.id, 0, 2);
    });
}
