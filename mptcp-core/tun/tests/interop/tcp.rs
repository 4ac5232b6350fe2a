//! Streams between the kernel and the stack: plain TCP and MPTCP, opened from either side.

use crate::service::{Access, ECHO_PORT, Service};
use crate::support::{
    commands, enter_new_network, eventually, exchange, exchange_one, exchange_pausing,
    is_root_with, mptcp_socket, nstat,
};
use core::net::SocketAddr;
use mptcp_core::config::{MptcpConfig, SchedulerKind, Scheduling};
use mptcp_core::stack::ConnectionInfo;
use socket2::Domain;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};

const LTE: Access =
    Access { name: "lte", kernel: "10.1.0.254/24", ours: "10.1.0.1", endpoint: false };
const WIFI: Access =
    Access { name: "wifi", kernel: "10.2.0.254/24", ours: "10.2.0.1", endpoint: false };
const LTE6: Access =
    Access { name: "lte6", kernel: "fd00:1::fe/64", ours: "fd00:1::1", endpoint: false };

fn echo_of(access: Access) -> SocketAddr {
    SocketAddr::new(access.ours.parse().expect("an address"), ECHO_PORT)
}

fn connect_mptcp(access: Access) -> TcpStream {
    let socket = mptcp_socket(Domain::for_address(echo_of(access)));
    socket.connect(&echo_of(access).into()).expect("a connection");
    socket.into()
}

/// Makes the kernel a phone: it joins from its second address, over the second device.
fn join_from_wifi() {
    commands(&[
        "ip mptcp limits set subflows 4 add_addr_accepted 4",
        "ip rule add from 10.2.0.254 table 102",
        "ip route add default dev wifi table 102",
        "ip mptcp endpoint add 10.2.0.254 dev wifi subflow",
    ]);
}

/// Nothing the kernel holds against an MPTCP peer was seen.
fn assert_no_complaints() {
    for name in [
        "MPTcpExtMPRstRx",
        "MPTcpExtMPFailRx",
        "MPTcpExtDSSCorruptionFallback",
        "MPTcpExtDSSCorruptionReset",
        "MPTcpExtDSSNoMatchTCP",
        "MPTcpExtDataCsumErr",
        "MPTcpExtMPJoinSynAckHMacFailure",
        "MPTcpExtMPJoinAckHMacFailure",
        "MPTcpExtMPCapableFallbackACK",
        "MPTcpExtMPCapableFallbackSYNACK",
        "TcpInErrs",
        "TcpInCsumErrors",
    ] {
        assert_eq!(nstat(name), 0, "{name}");
    }
}

fn only(ended: &[ConnectionInfo]) -> &ConnectionInfo {
    let [info] = ended else { panic!("one connection, not {ended:#?}") };
    info
}

#[test]
fn the_kernels_tcp_gets_back_what_it_sends() {
    if !is_root_with(&["ip", "nstat"]) {
        return;
    }
    enter_new_network();
    let service = Service::start(&[LTE, LTE6]);
    for access in [LTE, LTE6] {
        for len in [0, 1, 1460, 100_000, 8 << 20] {
            exchange(TcpStream::connect(echo_of(access)).unwrap(), len);
        }
    }
    // Segments of a burst go in one piece, both ways.
    for port in service.ports.ports() {
        assert!(port.rx_parts() > 4 * port.rx_pieces() && port.rx_pieces() > 20, "{port:?}");
        assert!(port.tx_joined() > 2 * port.tx_pieces() && port.tx_pieces() > 20, "{port:?}");
    }
    let report = service.stop();
    assert_eq!(report.ended.len(), 10);
    for info in &report.ended {
        assert_eq!((info.mptcp, info.error), (None, None), "{info:?}");
    }
    assert_no_complaints();
}

#[test]
fn a_port_nobody_listens_on_refuses() {
    if !is_root_with(&["ip"]) {
        return;
    }
    enter_new_network();
    let service = Service::start(&[LTE]);
    let error = TcpStream::connect((LTE.ours, 9)).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    service.stop();
}

#[test]
fn the_kernels_mptcp_joins_and_uses_both_devices() {
    if !is_root_with(&["ip", "nstat"]) {
        return;
    }
    enter_new_network();
    // By turns: of two devices without a limit, the default may find one always the faster.
    let scheduling = Scheduling { kind: SchedulerKind::RoundRobin, ..Scheduling::default() };
    let by_turns = MptcpConfig { scheduling, ..MptcpConfig::default() };
    let service = Service::start_with(&[LTE, WIFI], by_turns);
    join_from_wifi();
    let mut socket = connect_mptcp(LTE);
    exchange_one(&mut socket);
    eventually("the join", || (nstat("MPTcpExtMPJoinSynAckRx") == 1).then_some(()));
    exchange(socket, 64 << 20);

    let ports = std::sync::Arc::clone(&service.ports);
    let report = service.stop();
    let info = only(&report.ended);
    assert_eq!((info.mptcp, info.fallback, info.error), (Some(1), None, None));
    let expected = (64 << 20) + 1;
    assert_eq!((info.bytes_received, info.bytes_sent), (expected, expected));
    assert_eq!(nstat("MPTcpExtMPCapableSYNACKRX"), 1);
    for port in ports.ports() {
        assert!(port.rx_bytes() > 1 << 20 && port.tx_bytes() > 1 << 20, "{ports:?}");
        // One mapping covers a piece.
        assert!(port.rx_parts() > 4 * port.rx_pieces() && port.rx_pieces() > 100, "{port:?}");
    }
    assert_no_complaints();
}

#[test]
fn a_transfer_survives_the_loss_of_a_device() {
    if !is_root_with(&["ip", "nft", "nstat", "tc"]) {
        return;
    }
    enter_new_network();
    let service = Service::start(&[LTE, WIFI]);
    join_from_wifi();
    let mut socket = connect_mptcp(LTE);
    exchange_one(&mut socket);
    eventually("the join", || (nstat("MPTcpExtMPJoinSynAckRx") == 1).then_some(()));
    let ports = std::sync::Arc::clone(&service.ports);
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| exchange(socket, 128 << 20));
        eventually("traffic on the second device", || {
            (ports.ports()[1].rx_bytes() > 1 << 20).then_some(())
        });
        // Silent and both ways: packets vanish, nobody is told.
        commands(&[
            "tc qdisc add dev wifi root handle 1: blackhole",
            "nft add table ip cut",
            "nft add chain ip cut in { type filter hook prerouting priority 0 ; }",
            "nft add rule ip cut in iifname wifi drop",
        ]);
        assert!(!transfer.is_finished(), "the transfer was over before the cut");
        transfer.join().unwrap();
    });
    // The subflow over the dead device takes minutes to give up.
    service.abandon();
}

#[test]
fn many_short_connections_leave_nothing_behind() {
    if !is_root_with(&["ip", "nstat"]) {
        return;
    }
    enter_new_network();
    let service = Service::start(&[LTE]);
    for _ in 0..200 {
        exchange(connect_mptcp(LTE), 3000);
    }
    let report = service.stop();
    assert_eq!(report.ended.len(), 200);
    assert!(report.ended.iter().all(|info| info.mptcp == Some(1) && info.error.is_none()));
    assert_no_complaints();
}

#[test]
fn the_stack_connects_to_the_kernel_and_joins() {
    if !is_root_with(&["ip", "nstat"]) {
        return;
    }
    enter_new_network();
    let ours = [Access { endpoint: true, ..LTE }, Access { endpoint: true, ..WIFI }];
    let service = Service::start(&ours);
    commands(&["ip mptcp limits set subflows 4 add_addr_accepted 4"]);
    let listener = mptcp_socket(Domain::IPV4);
    listener.bind(&"10.1.0.254:80".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(8).unwrap();
    let listener = TcpListener::from(listener);
    service.connect("10.1.0.1", "10.1.0.254:80".parse().unwrap(), true);
    let (mut socket, peer) = listener.accept().unwrap();
    exchange_one(&mut socket);
    assert_eq!(peer.ip(), LTE.ours.parse::<core::net::IpAddr>().unwrap());
    eventually("the join", || (nstat("MPTcpExtMPJoinAckRx") >= 1).then_some(()));
    exchange(socket, 16 << 20);
    let report = service.stop();
    let info = only(&report.ended);
    assert_eq!((info.mptcp, info.fallback, info.error), (Some(1), None, None));
    assert_no_complaints();
}

#[test]
fn the_stack_connects_to_the_kernels_tcp() {
    if !is_root_with(&["ip", "nstat"]) {
        return;
    }
    enter_new_network();
    let service = Service::start(&[LTE]);
    let listener = TcpListener::bind("10.1.0.254:80").unwrap();
    for mptcp in [false, true] {
        service.connect("10.1.0.1", "10.1.0.254:80".parse().unwrap(), mptcp);
        let (socket, _) = listener.accept().unwrap();
        exchange(socket, 4 << 20);
    }
    let report = service.stop();
    assert_eq!(report.ended.len(), 2);
    assert!(report.ended.iter().all(|info| info.mptcp.is_none() && info.error.is_none()));
}

/// The kernel's reader pauses until its window is shut and the stack has nothing in flight; then the
/// window opens with an acknowledgement of nothing new. With MPTCP, after fallback, and without.
#[test]
fn a_shut_window_opens_again() {
    if !is_root_with(&["ip", "nstat"]) {
        return;
    }
    enter_new_network();
    let service = Service::start(&[LTE]);
    let listener = TcpListener::bind("10.1.0.254:80").unwrap();
    let mptcp_listener = mptcp_socket(Domain::IPV4);
    mptcp_listener.bind(&"10.1.0.254:81".parse::<SocketAddr>().unwrap().into()).unwrap();
    mptcp_listener.listen(8).unwrap();
    let mptcp_listener = TcpListener::from(mptcp_listener);
    let cases = [(&listener, false), (&listener, true), (&mptcp_listener, true)];
    for (listener, mptcp) in cases {
        service.connect(LTE.ours, listener.local_addr().unwrap(), mptcp);
        let (socket, _) = listener.accept().unwrap();
        let shut = nstat("TcpExtTCPToZeroWindowAdv");
        exchange_pausing(socket, 4 << 20, || {
            eventually("a shut window", || {
                (nstat("TcpExtTCPToZeroWindowAdv") > shut).then_some(())
            });
        });
    }
    let report = service.stop();
    let spoken: Vec<_> = report.ended.iter().map(|info| info.mptcp).collect();
    assert_eq!(spoken, [None, None, Some(1)]);
}
