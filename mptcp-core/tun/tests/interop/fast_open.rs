//! Fast Open between the kernel and the stack (RFC 7413, RFC 8684 Appendix B), TCP and MPTCP, opened
//! from either side.

use crate::service::{Access, ECHO_PORT, Service};
use crate::support::{
    commands, enter_new_network, eventually, exchange, is_root_with, mptcp_socket, nstat, pattern,
};
use core::net::SocketAddr;
use mptcp_core::stack::ConnectionInfo;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{TcpListener, TcpStream};

const LTE: Access =
    Access { name: "lte", kernel: "10.1.0.254/24", ours: "10.1.0.1", endpoint: false };
const LTE6: Access =
    Access { name: "lte6", kernel: "fd00:1::fe/64", ours: "fd00:1::1", endpoint: false };
/// `<linux/socket.h>`
const MSG_FASTOPEN: i32 = 0x2000_0000;
/// Octets that go with a SYN: less than the smallest room there is.
const EARLY: usize = 900;

fn socket(mptcp: bool, domain: Domain) -> Socket {
    if mptcp {
        return mptcp_socket(domain);
    }
    Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).expect("a socket")
}

fn assert_no_complaints() {
    for name in [
        "MPTcpExtMPRstRx",
        "MPTcpExtMPFailRx",
        "MPTcpExtDSSCorruptionFallback",
        "MPTcpExtDSSCorruptionReset",
        "MPTcpExtDSSNoMatchTCP",
        "MPTcpExtMPCapableFallbackACK",
        "MPTcpExtMPCapableFallbackSYNACK",
        "TcpInErrs",
        "TcpInCsumErrors",
    ] {
        assert_eq!(nstat(name), 0, "{name}");
    }
}

/// What came back of a stream that the kernel began with [`EARLY`] octets, then the rest of `len`.
fn opens_with_data(access: Access, mptcp: bool, len: usize) {
    let to = SocketAddr::new(access.ours.parse().expect("an address"), ECHO_PORT);
    let socket = socket(mptcp, Domain::for_address(to));
    // An IPv6 address is tentative at first, and the kernel would rather use `::1`.
    let (from, _) = access.kernel.split_once('/').expect("a prefix");
    let from = from.parse().expect("an address");
    eventually("the address", || socket.bind(&SocketAddr::new(from, 0).into()).ok());
    let early = pattern(EARLY);
    let sent = socket.send_to_with_flags(&early, &to.into(), MSG_FASTOPEN);
    assert_eq!(sent.expect("a connection"), EARLY);
    let mut stream = TcpStream::from(socket);
    let mut back = vec![0; EARLY];
    stream.read_exact(&mut back).expect("it comes back");
    assert_eq!(back, early);
    exchange(stream, len);
}

/// A socket of the kernel is in SYN-RECEIVED.
fn handshakes_go_on() -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let table = std::fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        let table = table.expect("the kernel's sockets");
        table.lines().any(|line| line.split_whitespace().nth(3) == Some("03"))
    })
}

fn assert_spoken(info: &ConnectionInfo, mptcp: bool, total: usize) {
    assert_eq!((info.mptcp, info.error), (mptcp.then_some(1), None), "{info:?}");
    let total = total as u64;
    assert_eq!((info.bytes_received, info.bytes_sent), (total, total), "{info:?}");
}

#[test]
fn the_kernel_opens_with_data() {
    if !is_root_with(&["ip", "nstat", "sysctl"]) {
        return;
    }
    for (mptcp, access) in [(false, LTE), (false, LTE6), (true, LTE), (true, LTE6)] {
        std::thread::spawn(move || {
            enter_new_network();
            commands(&["sysctl -qw net.ipv4.tcp_fastopen=3"]);
            let service = Service::start(&[access]);
            for (n, len) in [0, 0, 1, 100_000, 4 << 20].into_iter().enumerate() {
                opens_with_data(access, mptcp, len);
                assert_eq!(nstat("TcpExtTCPFastOpenActive"), n as u64, "all but the first");
            }
            assert_eq!(nstat("TcpExtTCPFastOpenActiveFail"), 0);
            let report = service.stop();
            assert_eq!(report.ended.len(), 5);
            for (info, len) in report.ended.iter().zip([0, 0, 1, 100_000, 4 << 20]) {
                assert_spoken(info, mptcp, EARLY + len);
            }
            assert_no_complaints();
        })
        .join()
        .unwrap();
    }
}

#[test]
fn the_stack_opens_with_data() {
    if !is_root_with(&["ip", "nstat", "sysctl"]) {
        return;
    }
    for (mptcp, access, at) in [
        (false, LTE, "10.1.0.254:80"),
        (false, LTE6, "[fd00:1::fe]:80"),
        (true, LTE, "10.1.0.254:80"),
        (true, LTE6, "[fd00:1::fe]:80"),
    ] {
        std::thread::spawn(move || {
            enter_new_network();
            // For every listener, whether it asks or not.
            commands(&["sysctl -qw net.ipv4.tcp_fastopen=1027"]);
            let service = Service::start(&[access]);
            let at: SocketAddr = at.parse().unwrap();
            let listener = socket(mptcp, Domain::for_address(at));
            eventually("the address", || listener.bind(&at.into()).ok());
            listener.listen(8).unwrap();
            let listener = TcpListener::from(listener);
            let lengths = [0, 0, 1, 100_000, 4 << 20];
            for (n, len) in lengths.into_iter().enumerate() {
                service.connect_with(access.ours, at, mptcp, pattern(EARLY));
                let (mut stream, _) = listener.accept().unwrap();
                let mut first = vec![0; EARLY];
                stream.read_exact(&mut first).expect("it arrives");
                assert_eq!(first, pattern(EARLY));
                if mptcp {
                    // The kernel (6.18) never sends what is written while the handshake goes on, if nothing
                    // else comes.
                    eventually("the third ACK", || (!handshakes_go_on()).then_some(()));
                    let acks = nstat("MPTcpExtMPCapableACKRX");
                    assert!(acks > n as u64, "it had the keys: {acks}");
                }
                exchange(stream, len);
                assert_eq!(nstat("TcpExtTCPFastOpenPassive"), n as u64, "all but the first");
            }
            assert_eq!(nstat("TcpExtTCPFastOpenPassiveFail"), 0);
            let report = service.stop();
            assert_eq!(report.ended.len(), lengths.len());
            for (n, (info, len)) in report.ended.iter().zip(lengths).enumerate() {
                let wanted = (mptcp.then_some(1), None, None);
                assert_eq!((info.mptcp, info.fallback, info.error), wanted, "{n}: {info:?}");
                let total = (len as u64, (EARLY + len) as u64);
                assert_eq!((info.bytes_received, info.bytes_sent), total, "{n}: {info:?}");
            }
            assert_no_complaints();
        })
        .join()
        .unwrap();
    }
}
