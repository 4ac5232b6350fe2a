//! What comes in: answered, passed on, or counted.

use super::*;
use mptcp_core::fragments;
use mptcp_core::wire::is_fragment;

#[test]
fn arp_answers_for_the_addresses_of_its_link_only() {
    let mut bench = Bench::new();
    let ask = |target| arp_frame(LTE, PHONE, EVERYBODY, true, "10.1.0.2", target);
    assert_eq!(bench.receive(at(0), LTE, &ask("10.1.0.1")), None);
    let sent = bench.sent();
    assert_eq!(sent.len(), 1);
    let (to, reply) = arp_in(&sent[0].1);
    assert_eq!((sent[0].0, to), (LTE, PHONE));
    let expected = arp::Message {
        request: false,
        sender_mac: ours(LTE),
        sender: v4("10.1.0.1"),
        target: v4("10.1.0.2"),
    };
    assert_eq!(reply, expected);
    assert_eq!(bench.events(L2Event::ArpReplies), 1);

    bench.refused(LTE, &ask("10.2.0.1"), DropReason::ArpNotForUs);
    bench.refused(LTE, &ask("10.1.0.3"), DropReason::ArpNotForUs);
}

#[test]
fn a_conflict_probe_is_answered_but_not_learned() {
    let mut bench = Bench::new();
    let before = bench.l2.neighbour_count();
    let probe = arp_frame(LTE, PHONE, EVERYBODY, true, "0.0.0.0", "10.1.0.1");
    assert_eq!(bench.receive(at(0), LTE, &probe), None);
    assert_eq!((bench.sent().len(), bench.l2.neighbour_count()), (1, before));
    assert_eq!(bench.counters.all_drops(), 0);

    let claim = arp_frame(LTE, PHONE, EVERYBODY, true, "10.1.0.1", "10.1.0.1");
    assert_eq!(bench.receive(at(0), LTE, &claim), None);
    assert_eq!((bench.sent().len(), bench.events(L2Event::AddressConflicts)), (0, 1));
}

#[test]
fn vlan_tags_decide_and_are_put_on() {
    let mut bench = Bench::new();
    let tagged = arp_frame(WIFI, PHONE, EVERYBODY, true, "10.2.0.2", "10.2.0.1");
    assert_eq!(bench.receive(at(0), WIFI, &tagged), None);
    let sent = bench.sent();
    let (header, _) = unframe(&sent[0].1);
    assert_eq!((header.vlan, header.len), (7, 18));
    assert_eq!(arp_in(&sent[0].1).1.sender, v4("10.2.0.1"));

    bench.refused(LTE, &tagged, DropReason::WrongVlan);
    let untagged = arp_frame(LTE, PHONE, EVERYBODY, true, "10.2.0.2", "10.2.0.1");
    bench.refused(WIFI, &untagged, DropReason::WrongVlan);
    let mut other = tagged.clone();
    other[15] = 8;
    bench.refused(WIFI, &other, DropReason::WrongVlan);
    let mut priority = tagged;
    priority[14] = 0xe0;
    assert_eq!(bench.receive(at(0), WIFI, &priority), None);
    assert_eq!(bench.sent().len(), 1, "the same VLAN at another priority");
}

#[test]
fn packets_for_any_of_our_addresses_pass_without_padding() {
    let mut bench = Bench::new();
    for (port, dst) in [(LTE, "10.1.0.1"), (WIFI, "10.1.0.1"), (EXIT, "10.2.0.1")] {
        let packet = segment("192.0.2.7", dst);
        let mut frame = ip_frame(port, ROUTER, &packet);
        frame.resize(64, 0xaa);
        assert_eq!(bench.receive(at(0), port, &frame), Some(packet), "{dst}");
    }
    let packet = segment("2001:db8::7", "fd00:1::1");
    assert_eq!(bench.receive(at(0), LTE, &ip_frame(LTE, ROUTER, &packet)), Some(packet));
    assert_eq!((bench.counters.all_drops(), bench.sent().len()), (0, 0));
}

/// Where routers send what is for others, the stack sees it; pings are theirs to answer.
#[test]
fn packets_for_others_pass_on_links_of_transit() {
    let mut config = config();
    config.ports[0].transit = true;
    let mut bench = Bench::starting(&config);
    bench.l2.handle_timeouts(at(0), &mut bench.wire);
    bench.wire.sent.clear();
    for (src, dst) in [("10.1.0.7", "198.51.100.7"), ("2001:db8::7", "2001:db8:1::1")] {
        let packet = segment(src, dst);
        let frame = ip_frame(LTE, ROUTER, &packet);
        assert_eq!(bench.receive(at(0), LTE, &frame), Some(packet), "{dst}");
    }
    let no_hosts = [
        "224.0.0.1",
        "255.255.255.255",
        "10.1.255.255",
        "10.1.0.0",
        "0.0.0.0",
        "127.0.0.1",
        "169.254.0.1",
    ];
    for dst in no_hosts {
        let frame = ip_frame(LTE, ROUTER, &segment("10.1.0.7", dst));
        bench.refused(LTE, &frame, DropReason::NotForUs);
    }
    // Our own exits', led back here.
    let frame = ip_frame(LTE, ROUTER, &segment("10.9.0.1", "198.51.100.7"));
    bench.refused(LTE, &frame, DropReason::Martian);
    let group = ethernet(
        LTE,
        ROUTER,
        EVERYBODY,
        EthernetProtocol::Ipv4,
        &segment("10.1.0.7", "198.51.100.7"),
    );
    bench.refused(LTE, &group, DropReason::LinkBroadcast);
    let elsewhere = ip_frame(WIFI, ROUTER, &segment("10.2.0.7", "198.51.100.7"));
    bench.refused(WIFI, &elsewhere, DropReason::NotForUs);
    assert!(bench.sent().is_empty());
}

#[test]
fn what_is_not_ours_is_counted_once() {
    let mut bench = Bench::new();
    let ok = segment("192.0.2.7", "10.1.0.1");
    let frame = |packet: &[u8]| ip_frame(LTE, ROUTER, packet);
    let kind = EthernetProtocol::Ipv4;

    bench.refused(LTE, &[0; 13], DropReason::FrameTruncated);
    bench.refused(LTE, b"", DropReason::FrameTruncated);
    bench.refused(PortId(9), &frame(&ok), DropReason::WrongStation);
    let other = ethernet(LTE, ROUTER, PHONE, kind, &ok);
    bench.refused(LTE, &other, DropReason::WrongStation);
    let from_group = ethernet(LTE, EVERYBODY, ours(LTE), kind, &ok);
    bench.refused(LTE, &from_group, DropReason::BadStation);
    let from_us = ethernet(LTE, ours(LTE), ours(LTE), kind, &ok);
    bench.refused(LTE, &from_us, DropReason::BadStation);
    let lldp = ethernet(LTE, ROUTER, ours(LTE), EthernetProtocol::Unknown(0x88cc), &ok);
    bench.refused(LTE, &lldp, DropReason::UnknownEtherType);
    let broadcast = ethernet(LTE, ROUTER, EVERYBODY, kind, &ok);
    bench.refused(LTE, &broadcast, DropReason::LinkBroadcast);
    bench.refused(LTE, &frame(&segment("192.0.2.7", "10.1.0.2")), DropReason::NotForUs);
    bench.refused(LTE, &frame(&segment("192.0.2.7", "10.1.255.255")), DropReason::NotForUs);
    bench.refused(LTE, &frame(&segment("192.0.2.7", "224.0.0.1")), DropReason::NotForUs);
    bench.refused(LTE, &frame(&segment("10.2.0.1", "10.1.0.1")), DropReason::Martian);
    bench.refused(LTE, &frame(&segment("127.0.0.1", "10.1.0.1")), DropReason::Martian);
    bench.refused(LTE, &frame(&segment("10.1.255.255", "10.1.0.1")), DropReason::Martian);
    bench.refused(LTE, &frame(&segment("ff02::1", "fd00:1::1")), DropReason::Martian);
    for cut in [0, 1, 19, 20, 39] {
        bench.refused(
            LTE,
            &frame(&[&ok[..1], &ok[1..cut.max(1)]].concat()),
            DropReason::IpMalformed,
        );
    }
    let six = ethernet(LTE, ROUTER, ours(LTE), EthernetProtocol::Ipv6, &ok);
    bench.refused(LTE, &six, DropReason::IpMalformed);
    let mut long = ok.clone();
    long[3] = 41;
    bench.refused(LTE, &frame(&long), DropReason::IpMalformed);
    let arp = ethernet(LTE, ROUTER, EVERYBODY, EthernetProtocol::Arp, &[0; 28]);
    bench.refused(LTE, &arp, DropReason::ArpInvalid);
}

#[test]
fn pings_are_answered_by_the_port_they_came_in_on() {
    let mut bench = Bench::new();
    bench.teach(at(0), WIFI, "10.2.0.254", ROUTER);
    // To the LTE address, over Wi-Fi, from behind its router.
    let request = echo_request("192.0.2.7", "10.1.0.1", b"twelve bytes");
    assert_eq!(bench.receive(at(0), WIFI, &ip_frame(WIFI, ROUTER, &request)), None);
    let sent = bench.sent();
    assert_eq!((sent.len(), sent[0].0), (1, WIFI));
    let (header, reply) = unframe(&sent[0].1);
    assert_eq!((header.dst, header.vlan), (ROUTER, 7));
    assert_eq!(&reply[12..20], &[10, 1, 0, 1, 192, 0, 2, 7]);
    assert_eq!((reply[20], &reply[24..]), (0, &request[24..]));
    assert_eq!(bench.events(L2Event::EchoReplies), 1);

    let mut corrupt = request.clone();
    corrupt[30] ^= 1;
    bench.refused(WIFI, &ip_frame(WIFI, ROUTER, &corrupt), DropReason::EchoInvalid);
    let reply = packet("192.0.2.7", "10.1.0.1", 1, &[0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    let passed = bench.receive(at(0), WIFI, &ip_frame(WIFI, ROUTER, &reply));
    assert_eq!(passed, Some(reply), "other ICMP is the stack's");
}

#[test]
fn echo_replies_have_a_rate_and_shared_packets_are_copied() {
    let mut bench = Bench::new();
    bench.teach(at(0), LTE, "10.1.0.254", ROUTER);
    let frame = ip_frame(LTE, ROUTER, &echo_request("192.0.2.7", "10.1.0.1", b""));
    let mut damaged = frame.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for _ in 0..1500 {
        bench.receive(at(1), LTE, &damaged);
    }
    assert_eq!(bench.drops(DropReason::EchoInvalid), 1500, "they cost no token");
    for _ in 0..1500 {
        assert_eq!(bench.receive(at(1), LTE, &frame), None);
    }
    assert_eq!((bench.sent().len(), bench.drops(DropReason::EchoRate)), (1000, 500));

    let mut buf = bench.wire.pool.alloc().unwrap();
    buf.append(frame.len()).unwrap().copy_from_slice(&frame);
    let watcher = buf.slice(0..usize::MAX);
    assert!(bench.l2.ingress(at(5000), LTE, buf, &mut bench.wire).is_none());
    assert_eq!((bench.sent().len(), watcher.data()), (1, &frame[..]));
}

/// A listener query of a router, for `group`, to be answered within 400 ms.
/// A ping longer than a packet: its fragments go to whoever puts them together, and the answer goes in fragments.
#[test]
fn long_pings_are_answered_in_fragments() {
    for (src, dst, headers) in [("192.0.2.7", "10.1.0.1", 20), ("2001:db8:9::7", "fd00:1::1", 40)] {
        let mut bench = Bench::new();
        bench.teach(at(0), LTE, "10.1.0.254", ROUTER);
        let target = v6("fd00:1::fe");
        let advert =
            ndisc::Message::Advert { target, mac: Some(ROUTER), solicited: true, overrides: true };
        let frame = ndisc_frame(advert, ROUTER, ours(LTE), "fd00:1::fe", "fd00:1::1");
        assert_eq!(bench.receive(at(0), LTE, &frame), None);
        let data: Vec<u8> = (0..4_000).map(|n| (n % 251) as u8).collect();
        let request = echo_request(src, dst, &data);
        let split = |packet: &[u8]| {
            let mut parts: Vec<HeapBuf> = Vec::new();
            let alloc = || Some(HeapBuf::with_capacity(100, 2_000));
            assert!(fragments::send_echo_reply(packet, 1_500, alloc, |part| parts.push(part)));
            parts
        };
        for part in split(&request) {
            // It is no request of its own.
            assert_eq!(bench.receive(at(0), LTE, &ip_frame(LTE, ROUTER, part.data())), None);
            let waiting = bench.l2.poll_fragment().expect("it waits");
            assert_eq!(waiting.data(), part.data());
        }
        assert!(bench.l2.poll_fragment().is_none() && bench.sent().is_empty());
        let mut whole = HeapBuf::from_slice(&request);
        whole.set_rx_port(LTE);
        assert!(bench.l2.reassembled(at(0), whole, &mut bench.wire).is_none());
        assert_eq!(bench.events(L2Event::EchoReplies), 1);
        let sent = bench.sent();
        let got: Vec<u8> = sent
            .iter()
            .flat_map(|(port, frame)| {
                let (_, packet) = unframe(frame);
                assert!(*port == LTE && packet.len() <= 1_500 && is_fragment(packet));
                packet[if headers == 20 { 20 } else { 48 }..].to_vec()
            })
            .collect();
        assert_eq!((sent.len(), got[0]), (3, if headers == 20 { 0 } else { 129 }));
        assert_eq!(got[8..], data);
        // What is no request goes on to the stack.
        let other = packet(src, dst, 17, &[0; 8]);
        let mut whole = HeapBuf::from_slice(&other);
        whole.set_rx_port(LTE);
        let passed = bench.l2.reassembled(at(0), whole, &mut bench.wire);
        assert_eq!(passed.map(|packet| packet.to_vec()), Some(other));
    }
}

fn listener_query(group: &str, hop_limit: u8) -> Vec<u8> {
    let mut message = vec![130, 0, 0, 0, 400_u16.to_be_bytes()[0], 400_u16.to_be_bytes()[1], 0, 0];
    message.extend(v6(group).octets());
    message.extend([2, 125, 0, 0]);
    let mut sum = Checksum::new();
    let len = u32::try_from(message.len()).unwrap();
    sum.add_sum(checksum::pseudo_header(ip("fe80::fe"), ip("ff02::1"), 58, len), 0);
    sum.add_bytes(&message);
    message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    let payload = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &message].concat();
    let mut query = packet("fe80::fe", "ff02::1", 0, &payload);
    query[7] = hop_limit;
    query
}

#[test]
fn listener_queries_are_answered_once_for_all_groups_of_the_link() {
    let mut bench = Bench::new();
    let all = frame::group(v6("ff02::1"));
    let on = |port, query: &[u8]| ethernet(port, ROUTER, all, EthernetProtocol::Ipv6, query);
    // Our address there is fd00:1::1, our station address 02:00:00:00:00:01: fe80::ff:fe00:1.
    for group in ["::", "ff02::1:ff00:1", "::"] {
        assert_eq!(bench.receive(at(0), LTE, &on(LTE, &listener_query(group, 1))), None);
    }
    let other = on(LTE, &listener_query("ff02::1:ff00:2", 1));
    bench.refused(LTE, &other, DropReason::NotForUs);
    bench.refused(LTE, &on(LTE, &listener_query("::", 64)), DropReason::MldInvalid);
    bench.refused(EXIT, &on(EXIT, &listener_query("::", 1)), DropReason::NotForUs);
    assert_eq!(bench.sent().len(), 0, "answers wait, so that not all come at once");

    let due = bench.l2.poll_timeout().unwrap();
    assert!(due >= at(0) && due < at(400), "{due:?}");
    bench.l2.handle_timeouts(due, &mut bench.wire);
    let sent = bench.sent();
    let reports: Vec<_> = sent.iter().filter(|(_, frame)| unframe(frame).1[6] == 0).collect();
    let [(port, report)] = reports[..] else { panic!("one report: {sent:02x?}") };
    let (header, packet) = unframe(report);
    assert_eq!((*port, header.dst), (LTE, EthernetAddress([0x33, 0x33, 0, 0, 0, 0x16])));
    assert_eq!((packet[7], &packet[8..24]), (1, &v6("fe80::ff:fe00:1").octets()[..]));
    assert_eq!((packet[48], packet[55]), (143, 1), "one group serves both addresses");
    assert_eq!((packet[56], &packet[60..76]), (2, &v6("ff02::1:ff00:1").octets()[..]));
    assert_eq!(bench.events(L2Event::GroupReports), 1);
}

#[test]
fn solicitations_are_answered_on_their_link() {
    let mut bench = Bench::new();
    let ask = |target: &str| ndisc::Message::Solicit { target: v6(target), mac: None };
    let group = frame::group(v6("ff02::1:ff00:1"));
    let frame = ndisc_frame(ask("fd00:1::1"), PHONE, group, "fd00:1::2", "ff02::1:ff00:1");
    assert_eq!(bench.receive(at(0), LTE, &frame), None);
    let sent = bench.sent();
    let (to, message, src, dst) = ndisc_in(&sent[0].1);
    let expected = ndisc::Message::Advert {
        target: v6("fd00:1::1"),
        mac: Some(ours(LTE)),
        solicited: true,
        overrides: true,
    };
    assert_eq!((to, message), (PHONE, expected));
    assert_eq!((src.as_str(), dst.as_str()), ("fd00:1::1", "fd00:1::2"));
    assert_eq!(bench.events(L2Event::NeighbourAdverts), 1);

    let mut routed = frame.clone();
    routed[14 + 7] = 64;
    bench.refused(LTE, &routed, DropReason::NdiscInvalid);
    let other = ndisc_frame(ask("fd00:1::2"), PHONE, EVERYBODY, "fd00:1::3", "ff02::1:ff00:2");
    bench.refused(LTE, &other, DropReason::NdiscIgnored);
    let elsewhere = ndisc_frame(ask("fd00:1::1"), PHONE, EVERYBODY, "fd00:1::3", "ff02::1");
    bench.refused(LTE, &elsewhere, DropReason::NdiscIgnored);
    let unsolicited = ndisc::Message::Advert {
        target: v6("2001:db8::1"),
        mac: None,
        solicited: false,
        overrides: true,
    };
    let advert = ndisc_frame(unsolicited, PHONE, EVERYBODY, "fd00:1::3", "ff02::1");
    bench.refused(LTE, &advert, DropReason::NdiscIgnored);

    let link_local =
        ndisc_frame(ask("fe80::ff:fe00:1"), PHONE, EVERYBODY, "fe80::2", "ff02::1:ff00:1");
    assert_eq!(bench.receive(at(0), LTE, &link_local), None);
    assert_eq!(bench.sent().len(), 1, "our link-local address is defended too");
}

#[test]
fn a_solicitation_without_a_sender_is_answered_to_all() {
    let mut bench = Bench::new();
    let ask = ndisc::Message::Solicit { target: v6("fd00:1::1"), mac: None };
    let mut frame = ndisc_frame(ask, PHONE, EVERYBODY, "::", "ff02::1:ff00:1");
    frame.truncate(14 + 64);
    frame[14 + 5] = 24;
    smoltcp::wire::Icmpv6Packet::new_unchecked(&mut frame[54..])
        .fill_checksum(&v6("::"), &v6("ff02::1:ff00:1"));
    assert_eq!(bench.receive(at(0), LTE, &frame), None);
    let sent = bench.sent();
    let (to, message, _, dst) = ndisc_in(&sent[0].1);
    assert_eq!((to, dst.as_str()), (frame::group(ndisc::ALL_NODES), "ff02::1"));
    assert!(matches!(message, ndisc::Message::Advert { solicited: false, .. }));
}

#[test]
fn router_discovery_is_ignored() {
    let mut bench = Bench::new();
    let ask = ndisc::Message::Solicit { target: v6("fd00:1::1"), mac: None };
    for kind in [133, 134, 137] {
        let mut frame = ndisc_frame(ask, PHONE, ours(LTE), "fe80::2", "fd00:1::1");
        frame[54] = kind;
        bench.refused(LTE, &frame, DropReason::NdiscIgnored);
    }
}
