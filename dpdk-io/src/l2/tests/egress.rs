//! What goes out: routed, resolved, framed, or counted and reported.

use super::*;
use mptcp_core::wire::IcmpErrorKind;

/// Port, station and payload of the only frame sent.
fn only(bench: &mut Bench) -> (PortId, Mac, Vec<u8>) {
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    let (header, payload) = unframe(&sent[0].1);
    (sent[0].0, header.dst, payload.to_vec())
}

#[test]
fn replies_leave_by_their_port_and_exits_by_the_routes() {
    let mut bench = Bench::new();
    bench.teach(at(0), LTE, "10.1.0.254", ROUTER);
    bench.teach(at(0), WIFI, "10.2.0.254", PHONE);
    bench.teach(at(0), EXIT, "10.9.0.2", ROUTER);

    let reply = segment("10.1.0.1", "192.0.2.7");
    bench.send(at(1), LTE, &reply);
    assert_eq!(only(&mut bench), (LTE, ROUTER, reply.clone()));
    bench.send(at(1), WIFI, &reply);
    assert_eq!(only(&mut bench), (WIFI, PHONE, reply.clone()));
    bench.send(at(1), PortId::ROUTED, &reply);
    assert_eq!(only(&mut bench), (EXIT, ROUTER, reply));
    assert_eq!(bench.counters.all_drops(), 0);
}

#[test]
fn no_route_is_reported_to_the_stack() {
    let mut bench = Bench::new();
    bench.send(at(0), PortId::ROUTED, &segment("fd00:1::1", "2001:db8::1"));
    bench.send(at(0), PortId(9), &segment("10.1.0.1", "192.0.2.7"));
    assert_eq!(bench.drops(DropReason::NoRoute), 2);
    let reports = bench.reports();
    assert_eq!(reports.len(), 2);
    assert_eq!(reports[0].kind, IcmpErrorKind::NetworkUnreachable);
    assert_eq!((reports[0].src, reports[0].dst), (ip("fd00:1::1"), ip("2001:db8::1")));
    assert_eq!((reports[1].src_port, reports[1].dst_port), (1080, 40000));
    assert_eq!(reports[1].seq, Some(mptcp_core::seq::SeqNum(7)));
    assert_eq!(bench.sent().len(), 0);
}

#[test]
fn packets_above_the_mtu_are_reported_with_it() {
    let mut bench = Bench::new();
    bench.teach(at(0), EXIT, "10.9.0.2", ROUTER);
    bench.send(at(0), PortId::ROUTED, &packet("10.9.0.1", "192.0.2.7", 6, &[9; 1381]));
    assert_eq!((bench.sent().len(), bench.drops(DropReason::MtuExceeded)), (0, 1));
    let reports = bench.reports();
    assert_eq!(reports[0].kind, IcmpErrorKind::FragmentationNeeded { mtu: 1400 });
    let fits = packet("10.9.0.1", "192.0.2.7", 6, &[9; 1380]);
    bench.send(at(0), PortId::ROUTED, &fits);
    assert_eq!(only(&mut bench).2, fits);
    assert_eq!(bench.counters.all_drops(), 1);
}

#[test]
fn reports_are_bounded() {
    let mut bench = Bench::new();
    for _ in 0..1000 {
        bench.send(at(0), PortId(9), &segment("10.1.0.1", "192.0.2.7"));
    }
    assert_eq!(bench.drops(DropReason::NoRoute), 1000);
    assert_eq!(bench.reports().len(), MAX_REPORTS);
    assert_eq!(bench.reports().len(), 0);
}

#[test]
fn what_is_no_packet_or_for_ourselves_goes_nowhere() {
    let mut bench = Bench::new();
    for bytes in [&b""[..], b"\x45", &[0x40; 19], &[0x60; 39], &[0x50; 60]] {
        bench.send(at(0), LTE, bytes);
    }
    assert_eq!(bench.drops(DropReason::TxMalformed), 5);
    for dst in ["10.1.0.1", "10.2.0.1", "255.255.255.255", "224.0.0.1", "10.1.255.255"] {
        bench.send(at(0), LTE, &segment("10.1.0.1", dst));
    }
    assert_eq!(bench.drops(DropReason::BadDestination), 5);
    let told: Vec<_> = bench.reports().iter().map(|report| (report.kind, report.dst)).collect();
    let own = ["10.1.0.1", "10.2.0.1", "10.1.255.255"];
    assert_eq!(told, own.map(|dst| (IcmpErrorKind::HostUnreachable, ip(dst))), "to the stack");
    assert_eq!((bench.sent().len(), bench.counters.all_drops()), (0, 10));
}

#[test]
fn shared_packets_get_their_header_from_another_buffer() {
    let mut bench = Bench::new();
    bench.teach(at(0), LTE, "10.1.0.254", ROUTER);
    let reply = segment("10.1.0.1", "192.0.2.7");
    let mut buf = bench.wire.pool.alloc().unwrap();
    buf.append(reply.len()).unwrap().copy_from_slice(&reply);
    let kept = buf.slice(0..usize::MAX);
    buf.set_tx_meta(TxMeta { port: LTE, partial_checksum: false });
    bench.l2.egress(at(1), buf, &mut bench.wire);
    assert_eq!(only(&mut bench), (LTE, ROUTER, reply.clone()));
    assert_eq!(kept.data(), reply);

    // Without a buffer for the header it is dropped.
    let mut all: Vec<HeapBuf> = core::iter::from_fn(|| bench.wire.pool.alloc()).collect();
    let mut buf = all.pop().unwrap();
    buf.append(reply.len()).unwrap().copy_from_slice(&reply);
    let kept = (kept, buf.slice(0..usize::MAX));
    buf.set_tx_meta(TxMeta { port: LTE, partial_checksum: false });
    bench.l2.egress(at(1), buf, &mut bench.wire);
    assert_eq!((bench.sent().len(), bench.drops(DropReason::NoBuffer)), (0, 1));
    drop((kept, all));
}

#[test]
fn the_start_announces_addresses_and_asks_for_gateways() {
    let mut bench = Bench::starting(&L2Config { announce: true, ..config() });
    assert_eq!(bench.l2.poll_timeout(), Some(Instant::MIN));
    bench.l2.handle_timeouts(at(0), &mut bench.wire);
    let mut sent = bench.sent();
    assert!(
        is_report(&sent.remove(0).1),
        "before what a snooping switch would keep the answers of"
    );
    let arps: Vec<_> = sent
        .iter()
        .filter(|(_, frame)| unframe(frame).0.protocol == EthernetProtocol::Arp)
        .map(|(port, frame)| (*port, arp_in(frame)))
        .collect();
    let announced: Vec<_> = arps.iter().filter(|(_, (_, m))| m.sender == m.target).collect();
    assert_eq!(announced.len(), 3, "one per IPv4 address");
    assert!(announced.iter().all(|(_, (to, m))| *to == EVERYBODY && m.request));
    let mut asked: Vec<String> = arps
        .iter()
        .filter(|(_, (_, m))| m.sender != m.target)
        .map(|(port, (_, m))| format!("{port:?} {}", m.target))
        .collect();
    asked.sort();
    assert_eq!(asked, ["port0 10.1.0.254", "port1 10.2.0.254", "port2 10.9.0.2"]);
    let ndisc: Vec<_> = sent
        .iter()
        .filter(|(_, frame)| unframe(frame).0.protocol == EthernetProtocol::Ipv6)
        .map(|(_, frame)| ndisc_in(frame).1)
        .collect();
    assert_eq!(ndisc.len(), 2 + 1, "two addresses announced, one gateway asked for");

    bench.l2.handle_timeouts(at(1999), &mut bench.wire);
    let mut sent = bench.sent();
    assert!(is_report(&sent.remove(0).1), "once more");
    assert!(sent.iter().all(|(_, frame)| is_question(frame)));
    bench.l2.handle_timeouts(at(2000), &mut bench.wire);
    assert_eq!(bench.sent().iter().filter(|(_, frame)| !is_question(frame)).count(), 5);
    for ms in [3000, 4000, 5000, 60_000] {
        bench.l2.handle_timeouts(at(ms), &mut bench.wire);
    }
    assert_eq!(bench.sent().iter().filter(|(_, frame)| !is_question(frame)).count(), 0);
    assert_eq!(bench.l2.poll_timeout(), None, "nobody wants the gateways now");
}

fn is_report(frame: &[u8]) -> bool {
    let (header, packet) = unframe(frame);
    header.protocol == EthernetProtocol::Ipv6 && (packet[6], packet[48]) == (0, 143)
}

/// Asks for somebody else, as opposed to announcing ourselves.
fn is_question(frame: &[u8]) -> bool {
    match unframe(frame).0.protocol {
        EthernetProtocol::Arp => {
            let (_, message) = arp_in(frame);
            message.sender != message.target
        }
        _ => matches!(ndisc_in(frame).1, ndisc::Message::Solicit { .. }),
    }
}
