//! Who opens further subflows, when our own addresses change, and how long a connection waits for
//! one (RFC 8684 §3.2, §3.4).

use crate::cases::V;
use crate::harness::*;
use core::net::{IpAddr, SocketAddr};
use mptcp_core::config::{LocalAddress, PathManagerKind};
use mptcp_core::error::ConnectionError;
use mptcp_core::mptcp::key;
use mptcp_core::time::Duration;
use mptcp_core::wire::{AddAddr, AddressIds, MpJoin, MptcpOption, OptionWriter, TcpFlags, Version};

const A3: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 3, 0, 1));

fn join_syns(out: &[Out]) -> Vec<(SocketAddr, SocketAddr)> {
    let joins = out.iter().filter(|o| matches!(o.join(), Some(MpJoin::Syn { .. })));
    joins.map(|o| (o.src, o.dst)).collect()
}

fn removals(out: &[Out], id: u8) -> usize {
    let ids = [id];
    let ids = AddressIds::new(&ids).expect("one id");
    let option = MptcpOption::RemoveAddr(ids);
    out.iter().filter(|o| o.mptcp().contains(&option)).count()
}

/// A client that meshes, with a confirmed connection, and what it sent for that.
fn client(
    configure: impl FnOnce(&mut mptcp_core::config::StackConfig),
) -> (Script, Keys, Flow, Vec<Out>) {
    let mut script = Script::new(V, |c| {
        c.mptcp.path_manager = PathManagerKind::Fullmesh;
        configure(c);
    });
    let (keys, flow, _) = script.connected();
    let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    (script, keys, flow, out)
}

fn with_addresses(script: &Script, addrs: &[IpAddr]) -> Vec<LocalAddress> {
    let model = script.stack.config().addresses[0];
    addrs.iter().map(|&addr| LocalAddress { addr, ..model }).collect()
}

#[test]
fn an_address_that_goes_and_comes_back_at_once_changes_nothing() {
    let (mut script, _, _, out) = client(|_| {});
    assert_eq!(join_syns(&out).len(), 1, "{out:?}");
    let (one, both) = (with_addresses(&script, &[A1]), with_addresses(&script, &[A1, A2]));
    for _ in 0..5 {
        assert!(script.stack.set_addresses(script.now, one.clone()));
        let out = script.advance(40);
        assert_eq!(removals(&out, 2), 0, "{out:?}");
        assert!(script.stack.set_addresses(script.now, both.clone()));
        script.advance(40);
    }
    let out = script.advance(600);
    assert_eq!((removals(&out, 2), out.iter().filter(|o| o.rst()).count()), (0, 0), "{out:?}");
    assert_eq!(script.stack.config().addresses, both);
}

#[test]
fn changes_of_addresses_within_half_a_second_are_one() {
    let (mut script, _, flow, out) = client(|_| {});
    assert_eq!(join_syns(&out), [(join_syns(&out)[0].0, at(P1, PORT))]);
    let only = with_addresses(&script, &[A1, A3]);
    assert!(script.stack.set_addresses(script.now, with_addresses(&script, &[A1])));
    script.advance(300);
    assert!(script.stack.set_addresses(script.now, only));
    let out = script.advance(190);
    assert_eq!(
        (removals(&out, 2), join_syns(&out).iter().filter(|j| j.0.ip() == A3).count()),
        (0, 0)
    );
    let out = script.advance(20);
    // The peer is told once, and the new address joins once.
    assert_eq!(removals(&out, 2), 1, "{out:?}");
    let joins = join_syns(&out);
    assert_eq!(joins.iter().map(|j| (j.0.ip(), j.1)).collect::<Vec<_>>(), [(A3, at(P1, PORT))]);
    // An id is never used for another address.
    let ids: Vec<_> = out
        .iter()
        .filter_map(|o| match o.join() {
            Some(MpJoin::Syn { address_id, .. }) => Some(address_id),
            _ => None,
        })
        .collect();
    assert_eq!(ids, [3]);
    assert!(flow.of(&out).iter().all(|o| !o.rst()));
}

#[test]
fn a_responder_announces_an_address_that_comes_later() {
    let mut script = Script::server_with(V, |c| c.mptcp.path_manager = PathManagerKind::Fullmesh);
    let (_, flow, _) = script.confirmed();
    let all = with_addresses(&script, &[A1, A2, A3]);
    script.advance(60_000);
    assert!(script.stack.set_addresses(script.now, all));
    let out = script.advance(600);
    let announced = flow.of(&out).iter().any(|o| {
        o.mptcp().into_iter().any(|option| match option {
            MptcpOption::AddAddr(raw) => raw.decode(Version::V1).is_some_and(|a| a.addr == A3),
            _ => false,
        })
    });
    assert!(announced, "{out:?}");
    assert!(!script.stack.set_addresses(script.now, with_addresses(&script, &[A1; 255])));
}

/// The first address comes back with the id 0, and is told no longer when it goes once more.
#[test]
fn a_first_address_that_goes_again_is_announced_no_longer() {
    let mut script = Script::server_with(V, |c| c.mptcp.path_manager = PathManagerKind::Fullmesh);
    let (keys, _, _) = script.confirmed();
    script.join(&keys, at(P2, 5000), at(A2, PORT));
    script.advance(58_000);
    let announced = |out: &[Out]| {
        let options = out.iter().flat_map(Out::mptcp);
        let announcements = options.filter_map(|option| match option {
            MptcpOption::AddAddr(raw) => raw.decode(Version::V1).filter(|a| !a.echo),
            _ => None,
        });
        announcements.filter(|a| (a.address_id, a.addr) == (0, A1)).count()
    };
    let both = with_addresses(&script, &[A1, A2]);
    script.stack.remove_address(script.now, A1);
    script.advance(2_000);
    assert!(script.stack.set_addresses(script.now, both));
    assert_eq!(announced(&script.advance(1_500)), 1);
    script.stack.remove_address(script.now, A1);
    let mut out = script.out();
    out.extend(script.advance(40_000));
    assert_eq!((removals(&out, 0), announced(&out)), (1, 0), "{out:?}");
}

/// The first subflow says so once it may, and what is opened in its place at once.
#[test]
fn the_first_subflow_of_a_backup_endpoint_is_a_backup() {
    let (mut script, _, flow, out) = client(|c| c.addresses[0].backup = true);
    let asks = |o: &&Out| {
        o.mptcp().into_iter().any(|option| match option {
            MptcpOption::Prio(raw) => raw.decode(V).is_some_and(|prio| prio.backup),
            _ => false,
        })
    };
    assert_eq!(flow.of(&out).into_iter().filter(asks).count(), 1, "{out:?}");
    let joins = |out: &[Out], from: IpAddr| -> Vec<(u8, bool)> {
        let syn = |o: &Out| match o.join() {
            Some(MpJoin::Syn { backup, address_id, .. }) => Some((address_id, backup)),
            _ => None,
        };
        out.iter().filter(|o| o.src.ip() == from).filter_map(syn).collect()
    };
    assert_eq!(joins(&out, A2), [(2, false)]);
    script.send(&flow, &flow.seg().flags(TcpFlags::RST));
    let out = script.advance(1_100);
    assert_eq!(joins(&out, A1), [(0, true)], "{out:?}");
}

#[test]
fn several_subflows_between_two_addresses_have_ports_of_their_own() {
    let (mut script, _, flow, mut out) = client(|c| {
        c.mptcp.path_manager = PathManagerKind::Ndiffports;
        c.mptcp.subflows_per_pair = 4;
        c.mptcp.max_subflows = 6;
    });
    out.extend(script.out());
    let joins = join_syns(&out);
    assert_eq!(joins.len(), 5, "as many as a connection may have: {joins:?}");
    assert_eq!(joins.iter().filter(|j| j.0.ip() == A1).count(), 3);
    let mut ports: Vec<_> = joins.iter().map(|j| j.0).chain([flow.local]).collect();
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), 6);
}

#[test]
fn a_join_goes_to_whatever_port_was_announced() {
    let (mut script, keys, flow, _) = client(|_| {});
    let (addr, port) = (IpAddr::from([10, 77, 0, 1]), Some(8443));
    let hmac = key::add_addr_hmac(Version::V1, keys.peer, keys.stack, 5, addr, port);
    let mut writer = OptionWriter::new();
    let option = AddAddr { address_id: 5, addr, port, echo: false, hmac: Some(hmac) };
    assert!(option.encode(&mut writer, Version::V1));
    let out = script.send(&flow, &flow.seg().raw(writer.as_bytes()));
    let joins: Vec<_> = join_syns(&out).iter().map(|j| (j.0.ip(), j.1)).collect();
    assert_eq!(joins, [(A1, at(addr, 8443)), (A2, at(addr, 8443))]);
}

/// Where something waits for its `DATA_ACK` it is no sooner over than without: nobody is asked meanwhile.
#[test]
fn what_is_outstanding_waits_for_a_join_as_long_as_its_connection() {
    let mut script = Script::server_with(V, |c| c.mptcp.close_timeout = Duration::from_secs(3_600));
    let (keys, mut flow, id) = script.confirmed();
    let out = script.write(id, 0, 1_000);
    flow.hears(&out);
    script.send(&flow, &flow.seg().flags(TcpFlags::RST));
    script.advance(3_500_000);
    assert_eq!(script.info(id).error, None);
    let _join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    script.advance(100);
    assert!(script.info(id).subflows[0].bytes_sent >= 1_000, "it goes again at once");
}

/// Roaming: ten minutes without any subflow, and a second more is too long.
#[test]
fn a_connection_outlives_its_last_subflow_by_the_close_timeout() {
    for (gap, kept) in [(599_000, true), (601_000, false)] {
        let mut script =
            Script::server_with(V, |c| c.mptcp.close_timeout = Duration::from_secs(600));
        let (keys, flow, id) = script.confirmed();
        script.send(&flow, &flow.seg().flags(TcpFlags::RST));
        script.advance(gap);
        assert_eq!(script.info(id).error.is_none(), kept);
        if kept {
            let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
            script.send_data(&keys, &mut join, 0, 0, &stream(0, 10));
            script.expect_stream(id, 0, 10);
        }
    }
}

/// A join that nobody answers is no subflow, however many of them follow each other.
#[test]
fn joins_that_nobody_answers_do_not_prolong_a_connection() {
    let mut script = Script::new(V, |c| c.mptcp.path_manager = PathManagerKind::Fullmesh);
    let (keys, flow, id) = script.connected();
    let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    assert_eq!(join_syns(&out).len(), 1, "from the other address: {out:?}");
    script.send(&flow, &flow.seg().flags(TcpFlags::RST));
    script.advance(59_900);
    assert_eq!(script.info(id).error, None);
    script.advance(200);
    assert_eq!(script.info(id).error, Some(ConnectionError::NoSubflows));
}
