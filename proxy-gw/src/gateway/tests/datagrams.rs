//! UDP ASSOCIATE and datagrams in a stream.

use super::*;
use mptcp_core::wire::IcmpErrorKind;

const ASSOCIATE: &[u8] = b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0";
const HOME: &str = "10.1.0.2:5000";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A datagram of a client's for `target`.
fn to(target: &str, data: &[u8]) -> Vec<u8> {
    [crate::front_end::udp::header(address(target)), data.to_vec()].concat()
}

/// A client with an association: its connection and the relay's socket.
fn associated(world: &mut World) -> (SocketId, SocketId) {
    let inner = world.client_saying(ASSOCIATE);
    let said = world.heard(inner);
    assert_eq!(said[..2], [5, 0]);
    assert_eq!(said[2..10], [5, 0, 0, 1, 10, 1, 0, 1], "the address the client connected to");
    let relay = world.exit();
    assert_eq!(u16::from_be_bytes([said[10], said[11]]), world.shard.remote(relay).port());
    (inner, relay)
}

impl World {
    fn sends(&mut self, relay: SocketId, from: &str, bytes: Vec<u8>) {
        self.shard.datagram_from(relay, address(from), bytes);
        self.run();
    }

    /// The datagram socket opened last.
    fn exit(&self) -> SocketId {
        *self.shard.queries.last().unwrap()
    }

    fn udp(&self) -> UdpCounters {
        self.gateway.counters().udp
    }
}

#[test]
fn datagrams_go_out_and_answers_come_back() {
    let mut world = World::new();
    let (inner, relay) = associated(&mut world);
    world.sends(relay, HOME, to("10.9.0.2:53", b"question"));
    let exit = world.exit();
    assert_ne!(exit, relay);
    assert_eq!(world.shard.datagrams_sent(exit), [(address("10.9.0.2:53"), b"question".to_vec())]);
    world.sends(exit, "10.9.0.2:53", b"answer".to_vec());
    let back = world.shard.datagrams_sent(relay);
    assert_eq!(back, [(address(HOME), to("10.9.0.2:53", b"answer"))]);
    // From another port of the same host: yes. From somebody else: no.
    world.sends(exit, "10.9.0.2:54", b"x".to_vec());
    world.sends(exit, "10.9.0.7:53", b"x".to_vec());
    assert_eq!(world.shard.datagrams_sent(relay).len(), 1);
    assert_eq!((world.udp().up, world.udp().down, world.udp().unsolicited), (1, 2, 1));
    // The association ends with its connection.
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::Completed);
    let counters = world.gateway.counters();
    assert_eq!((counters.bytes_up, counters.bytes_down), (8, 7));
}

/// While it lives as when it ends.
#[test]
fn a_snapshot_tells_the_bytes_of_an_association() {
    let mut world = World::new();
    let (_, relay) = associated(&mut world);
    world.sends(relay, HOME, to("10.9.0.2:53", b"question"));
    let exit = world.exit();
    world.sends(exit, "10.9.0.2:53", b"answer".to_vec());
    let (page, _) = world.gateway.snapshot(world.now, &world.shard, 0, 1);
    assert_eq!((page[0].bytes_up, page[0].bytes_down), (8, 6));
}

#[test]
fn an_association_holds_a_bounded_number_of_exits() {
    let nets: Vec<String> = (0..12).map(|net| format!("'10.9.{net}.1/24'")).collect();
    let addresses = format!("port.1.addresses=[{}]", nets.join(", "));
    let mut world = World::with(&[&addresses, "egress.allow=['10.9.0.0/16']"]);
    let (inner, relay) = associated(&mut world);
    for net in 0..12 {
        world.sends(relay, HOME, to(&format!("10.9.{net}.2:53"), b"x"));
    }
    assert_eq!(world.udp().up, 12);
    assert_eq!(world.shard.held(), 2 + MAX_EXITS, "the connection, the relay, the exits");
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::Completed);
}

/// RFC 4787 §4.3: what is sent keeps its mapping, whatever else is sent to meanwhile.
#[test]
fn an_exit_that_is_used_makes_no_room() {
    let nets: Vec<String> = (0..12).map(|net| format!("'10.9.{net}.1/24'")).collect();
    let addresses = format!("port.1.addresses=[{}]", nets.join(", "));
    let mut world = World::with(&[&addresses, "egress.allow=['10.9.0.0/16']"]);
    let (_, relay) = associated(&mut world);
    world.sends(relay, HOME, to("10.9.0.2:53", b"x"));
    let used = world.exit();
    for net in 1..12 {
        world.sends(relay, HOME, to(&format!("10.9.{net}.2:53"), b"x"));
        world.sends(relay, HOME, to("10.9.0.2:53", b"x"));
    }
    assert_eq!(world.shard.datagrams_sent(used).len(), 12);
    assert_eq!(world.shard.held(), 2 + MAX_EXITS);
}

#[test]
fn it_follows_the_addresses_of_its_connection_and_no_others() {
    let mut world = World::new();
    let (inner, relay) = associated(&mut world);
    world.shard.set_paths(inner, &["10.1.0.2:40312"]);
    world.sends(relay, HOME, to("10.9.0.2:53", b"1"));
    let exit = world.exit();
    world.sends(relay, "10.2.0.9:7000", to("10.9.0.2:53", b"stranger"));
    assert_eq!((world.udp().up, world.udp().strangers), (1, 1));
    // It joins from another network: what it sends from there is taken, and answered there.
    world.shard.set_paths(inner, &["10.1.0.2:40312", "10.2.0.9:40313"]);
    world.pass(Duration::from_millis(20));
    world.sends(relay, "10.2.0.9:7000", to("10.9.0.2:53", b"2"));
    assert_eq!(world.udp().up, 2);
    world.sends(exit, "10.9.0.2:53", b"answer".to_vec());
    assert_eq!(world.shard.datagrams_sent(relay)[0].0, address("10.2.0.9:7000"));
    // The first network is gone, and a second later its address is a stranger's.
    world.shard.set_paths(inner, &["10.2.0.9:40313"]);
    world.pass_s(1);
    world.sends(relay, HOME, to("10.9.0.2:53", b"late"));
    assert_eq!((world.udp().up, world.udp().strangers), (2, 2));
    // The second one, too: what comes meanwhile is for nobody.
    world.shard.set_paths(inner, &["10.3.0.9:1"]);
    world.pass_s(1);
    world.sends(exit, "10.9.0.2:53", b"answer".to_vec());
    assert!(world.shard.datagrams_sent(relay).is_empty());
    assert_eq!(world.udp().no_room, 1);
}

#[test]
fn strangers_cannot_make_the_gateway_look_more_often() {
    let mut world = World::new();
    let (inner, relay) = associated(&mut world);
    world.sends(relay, "10.2.0.9:7000", to("10.9.0.2:53", b"x"));
    world.shard.set_paths(inner, &["10.1.0.2:1", "10.2.0.9:1"]);
    world.sends(relay, "10.2.0.9:7000", to("10.9.0.2:53", b"x"));
    assert_eq!(world.udp().strangers, 2, "not looked at again yet");
}

#[test]
fn what_cannot_be_forwarded_is_counted() {
    let mut world = World::new();
    let (_, relay) = associated(&mut world);
    world.sends(relay, HOME, b"\0\0\x01\x01\x0a\x09\0\x02\0\x35x".to_vec());
    world.sends(relay, HOME, b"\0\0".to_vec());
    for denied in ["127.0.0.1:53", "10.1.0.1:53", "[::ffff:127.0.0.1]:53", "224.0.0.251:5353"] {
        world.sends(relay, HOME, to(denied, b"x"));
    }
    world.sends(relay, HOME, to("10.9.0.2:53", &[0; 1473]));
    let udp = world.udp();
    assert_eq!((udp.fragments, udp.malformed, udp.denied, udp.too_long), (1, 1, 4, 1));
    assert_eq!(udp.up, 0);
}

#[test]
fn names_are_looked_up() {
    let mut world = World::with(&["dns.servers=['10.9.0.53']"]);
    let (_, relay) = associated(&mut world);
    let by_name = |name: &str| {
        let len = u8::try_from(name.len()).unwrap();
        [&[0, 0, 0, 3, len][..], name.as_bytes(), &[0, 53], b"data"].concat()
    };
    world.sends(relay, HOME, by_name("origin.example"));
    let exit = world.exit();
    assert_eq!(world.shard.datagrams_sent(exit), [(address("10.9.0.2:53"), b"data".to_vec())]);
    for n in 0..6 {
        world.sends(relay, HOME, by_name(&format!("n{n}.example")));
    }
    assert_eq!(world.udp().unresolved, 2, "four wait");
    for _ in 0..6 {
        world.pass_s(1);
    }
    assert_eq!(world.udp().unresolved, 6);
}

#[test]
fn associations_are_limited_in_all_and_per_client() {
    let mut world = World::with(&["udp.associations=3", "udp.per_client=2"]);
    for from in ["10.1.0.2:1", "10.1.0.2:2", "10.1.0.2:3", "10.1.0.3:1", "10.1.0.4:1"] {
        let inner = world.shard.client(from, 1080);
        world.run();
        world.say(inner, ASSOCIATE);
        let said = world.heard(inner);
        let refused = ["10.1.0.2:3", "10.1.0.4:1"].contains(&from);
        assert_eq!(said[3] != 0, refused, "{from}");
    }
    assert_eq!((world.udp().associations, world.udp().over_limit), (3, 2));
    let mut world = World::with(&["udp.associations=0"]);
    let inner = world.client_saying(ASSOCIATE);
    assert_eq!(world.heard(inner)[2..], failure(7));
}

#[test]
fn an_idle_association_ends() {
    let mut world = World::with(&["timeouts.idle_s=60"]);
    let (_, relay) = associated(&mut world);
    world.pass_s(59);
    world.sends(relay, HOME, to("10.9.0.2:53", b"x"));
    world.pass_s(59);
    assert_eq!(world.gateway.session_count(), 1);
    world.pass_s(1);
    world.assert_ended(EndReason::Idle);
}

#[test]
fn what_the_client_says_on_its_connection_is_read_and_ignored() {
    let mut world = World::new();
    let (inner, _) = associated(&mut world);
    world.say(inner, &[7; 10_000]);
    assert_eq!(world.shard.unread(inner), 0);
    world.shard.end(inner, Some(ConnectionError::Reset));
    world.run();
    world.assert_ended(EndReason::ClientReset);
}

/// CONNECT to the name that means a stream of datagrams, at no port, as sing-box asks.
fn stream(world: &mut World, first: &[u8]) -> SocketId {
    let name = "sp.v2.udp-over-tcp.arpa";
    let len = u8::try_from(name.len()).unwrap();
    let request = [b"\x05\x01\x00\x05\x01\x00\x03", &[len][..], name.as_bytes(), &[0, 0]].concat();
    world.client_saying(&[&request, first].concat())
}

#[test]
fn datagrams_in_a_stream() {
    let mut world = World::new();
    let inner = stream(&mut world, b"\0\x01\0\0\0\0\0\0\0\x0a\x09\0\x02\0\x35\0\x02hi");
    assert_eq!(world.heard(inner)[2..], [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let exit = world.exit();
    assert_eq!(world.shard.datagrams_sent(exit), [(address("10.9.0.2:53"), b"hi".to_vec())]);
    world.sends(exit, "10.9.0.2:53", b"answer".to_vec());
    assert_eq!(world.heard(inner), b"\0\x0a\x09\0\x02\0\x35\0\x06answer");
    // Half a frame is never lost.
    world.shard.send_room = Some(5);
    world.sends(exit, "10.9.0.2:53", b"one".to_vec());
    world.sends(exit, "10.9.0.2:53", b"two".to_vec());
    world.shard.send_room = None;
    world.shard.writable(inner);
    world.run();
    world.sends(exit, "10.9.0.2:53", b"six".to_vec());
    let frame = |data: &[u8]| [&b"\0\x0a\x09\0\x02\0\x35\0\x03"[..], data].concat();
    assert_eq!(world.heard(inner), [frame(b"one"), frame(b"six")].concat());
    assert_eq!(world.udp().no_room, 1);
    // One to port 0 goes nowhere, and the next one goes.
    let bad = b"\0\x0a\x09\0\x02\0\0\0\x02xx";
    world.say(inner, &[&bad[..], b"\0\x0a\x09\0\x02\0\x35\0\x03two"].concat());
    let last = world.shard.datagrams_sent(exit).last().cloned();
    assert_eq!(last, Some((address("10.9.0.2:53"), b"two".to_vec())));
    assert_eq!((world.udp().malformed, world.gateway.session_count()), (1, 1));
    // An address of an unknown type has no length.
    world.say(inner, b"\x07");
    world.assert_ended(EndReason::BadRequest);
}

/// It is no name to be looked up.
#[test]
fn a_stream_where_none_are_served_is_a_command_that_is_not() {
    let mut world = World::with(&["udp.associations=0", "dns.servers=['10.9.0.53']"]);
    let inner = stream(&mut world, b"");
    assert_eq!(world.heard(inner)[2..], failure(7));
    assert!(world.shard.queries.is_empty());
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::CommandNotSupported);
}

/// The client has been heard from by two ways: while the one it used last fails, answers go by the other.
#[test]
fn answers_go_round_a_path_that_fails() {
    let mut world = World::new();
    let (inner, relay) = associated(&mut world);
    world.shard.set_paths(inner, &["10.1.0.2:40312", "10.2.0.2:40312"]);
    let wifi = "10.2.0.2:5001";
    world.sends(relay, HOME, to("10.9.0.2:53", b"1"));
    let exit = world.exit();
    world.sends(relay, wifi, to("10.9.0.2:53", b"2"));
    let answered_to = |world: &mut World| {
        world.sends(exit, "10.9.0.2:53", b"answer".to_vec());
        world.shard.datagrams_sent(relay).last().unwrap().0
    };
    assert_eq!(answered_to(&mut world), address(wifi));
    world.shard.failing = vec![address(wifi).ip()];
    assert_eq!(answered_to(&mut world), address(HOME));
    // Where nothing works, it is as good as any.
    world.shard.failing.push(address(HOME).ip());
    assert_eq!(answered_to(&mut world), address(wifi));
    world.shard.failing.clear();
    assert_eq!(answered_to(&mut world), address(wifi), "it is back");
}

#[test]
fn datagrams_beyond_a_rate_are_dropped_and_counted() {
    // A tenth of a second's worth goes at once: 100,000 octets.
    let mut world = World::with(&["port.0.total_rate='8Mbit'"]);
    let (_, relay) = associated(&mut world);
    world.sends(relay, HOME, to("10.9.0.2:53", b"question"));
    let exit = world.exit();
    for _ in 0..200 {
        world.sends(exit, "10.9.0.2:53", vec![7; 1_000]);
    }
    assert_eq!((world.udp().down, world.udp().over_rate), (101, 99));
    world.pass(Duration::from_millis(50));
    for _ in 0..200 {
        world.sends(exit, "10.9.0.2:53", vec![7; 1_000]);
    }
    assert_eq!((world.udp().down, world.udp().over_rate), (151, 249));
}

/// A stream over plain TCP has no scheduler that would hold it.
#[test]
fn datagrams_in_a_stream_over_plain_tcp_are_held_to_the_rate_of_its_port() {
    let mut world = World::with(&["port.0.total_rate='8Mbit'"]);
    world.shard.plain = true;
    let inner = stream(&mut world, b"\0\x01\0\0\0\0\0\0\0\x0a\x09\0\x02\0\x35\0\x02hi");
    world.heard(inner);
    let exit = world.exit();
    for _ in 0..200 {
        world.sends(exit, "10.9.0.2:53", vec![7; 1_000]);
    }
    assert_eq!((world.udp().down, world.udp().over_rate), (101, 99));
}

impl World {
    /// ICMP says this about what a datagram socket sent.
    fn told(&mut self, socket: SocketId, kind: IcmpErrorKind) {
        self.shard.icmp(socket, kind);
        self.run();
    }

    /// ICMP errors about datagrams to destinations or clients, of this kind.
    fn icmp(&self, to: &str, kind: &str) -> u64 {
        let counts = self.udp().icmp;
        counts.by_kind().filter(|(a, b, _)| (*a, *b) == (to, kind)).map(|(_, _, n)| n).sum()
    }
}

#[test]
fn what_icmp_says_is_counted_and_the_association_goes_on() {
    let mut world = World::new();
    let (_, relay) = associated(&mut world);
    world.sends(relay, HOME, to("10.9.0.2:53", b"question"));
    let exit = world.exit();
    for kind in [IcmpErrorKind::PortUnreachable, IcmpErrorKind::FragmentationNeeded { mtu: 1280 }] {
        world.told(exit, kind);
        world.told(relay, kind);
    }
    let counts = ["destination", "client"]
        .map(|to| (world.icmp(to, "port_unreachable"), world.icmp(to, "too_long")));
    assert_eq!(counts, [(1, 1); 2]);
    assert_eq!(world.udp().icmp.by_kind().map(|(.., count)| count).sum::<u64>(), 4);
    world.sends(exit, "10.9.0.2:53", b"answer".to_vec());
    assert_eq!((world.udp().down, world.gateway.session_count()), (1, 1));
}

/// A stream for one destination tells that nobody listens there; one for many goes on for the others.
#[test]
fn a_stream_for_one_destination_ends_when_nobody_listens_there() {
    let mut world = World::new();
    let inner = stream(&mut world, b"\0\x01\0\0\0\0\0\0\0\x0a\x09\0\x02\0\x35\0\x02hi");
    world.heard(inner);
    let exit = world.exit();
    world.told(exit, IcmpErrorKind::PortUnreachable);
    assert_eq!(world.gateway.session_count(), 1);
    world.shard.end(inner, None);
    world.run();
    let mut world = World::new();
    let inner = stream(&mut world, b"\x01\x01\x0a\x09\0\x02\0\x35\0\x02hi");
    world.heard(inner);
    let exit = world.exit();
    // That may pass.
    for kind in [IcmpErrorKind::HostUnreachable, IcmpErrorKind::TimeExceeded] {
        world.told(exit, kind);
    }
    assert_eq!(world.gateway.session_count(), 1);
    world.told(exit, IcmpErrorKind::PortUnreachable);
    assert_eq!(world.fate(inner), Some(Fate::Aborted));
    world.assert_ended(EndReason::Refused);
}

/// Answers come from whom the client has sent to, whatever address that has on the other side of a translator.
#[test]
fn answers_by_a_translator_are_those_of_the_host_that_was_asked() {
    let mut world = World::with(&[
        "port.1.addresses=['fd00:9::1/64']",
        "route=[]",
        "egress.nat64='fd00:9::/96'",
    ]);
    let there = "[fd00:9::808:808]:53";
    let (_, relay) = associated(&mut world);
    world.sends(relay, HOME, to("8.8.8.8:53", b"question"));
    let exit = world.exit();
    assert_eq!(world.shard.datagrams_sent(exit), [(address(there), b"question".to_vec())]);
    world.sends(exit, there, b"answer".to_vec());
    let back = world.shard.datagrams_sent(relay);
    assert_eq!(back, [(address(HOME), to("8.8.8.8:53", b"answer"))]);
    let inner = stream(&mut world, b"\0\x01\0\0\0\0\0\0\0\x08\x08\x08\x08\0\x35\0\x02hi");
    world.heard(inner);
    let exit = world.exit();
    world.sends(exit, there, b"answer".to_vec());
    assert_eq!(world.heard(inner), b"\0\x08\x08\x08\x08\0\x35\0\x06answer");
}

/// A client behind DNS64 has IPv6 addresses for hosts of IPv4. What answers from another one is not its peer.
#[test]
fn answers_come_from_the_address_that_was_asked_as_it_was_written() {
    let mut world = World::new();
    let (_, relay) = associated(&mut world);
    let inner = stream(&mut world, b"\0\x01\0\0\0\0\0\0");
    world.heard(inner);
    let there = "8.8.8.8:53";
    for asked in ["[64:ff9b::808:808]:53", "[::ffff:8.8.8.8]:53", there] {
        world.sends(relay, HOME, to(asked, b"question"));
        let exit = world.exit();
        let sent = world.shard.datagrams_sent(exit);
        assert_eq!(sent, [(address(there), b"question".to_vec())]);
        world.sends(exit, there, b"answer".to_vec());
        let back = world.shard.datagrams_sent(relay);
        assert_eq!(back, [(address(HOME), to(asked, b"answer"))]);
    }
    let host = b"\x01\0\x64\xff\x9b\0\0\0\0\0\0\0\0\x08\x08\x08\x08\0\x35";
    world.say(inner, &[&host[..], b"\0\x02hi"].concat());
    let exit = world.exit();
    world.sends(exit, there, b"answer".to_vec());
    assert_eq!(world.heard(inner), [&host[..], b"\0\x06answer"].concat());
}

/// Programs behind one client write one host in two ways: each hears of the address that it has asked.
#[test]
fn answers_of_one_port_are_those_of_who_asked_that_port() {
    let mut world = World::new();
    let (_, relay) = associated(&mut world);
    world.sends(relay, HOME, to("8.8.8.8:53", b"one"));
    world.sends(relay, HOME, to("[64:ff9b::808:808]:443", b"other"));
    let exit = world.exit();
    assert_eq!(world.shard.datagrams_sent(exit).len(), 2);
    for (from, known_as) in [
        ("8.8.8.8:53", "8.8.8.8:53"),
        ("8.8.8.8:443", "[64:ff9b::808:808]:443"),
        // Nobody asked this one: the latest.
        ("8.8.8.8:54", "[64:ff9b::808:808]:54"),
    ] {
        world.sends(exit, from, b"answer".to_vec());
        let back = world.shard.datagrams_sent(relay);
        assert_eq!(back, [(address(HOME), to(known_as, b"answer"))]);
    }
}

/// RFC 4787 §4.3: what is sent keeps its mapping.
#[test]
fn a_host_that_is_sent_to_again_makes_no_room() {
    let mut world = World::new();
    let (_, relay) = associated(&mut world);
    for host in 3..=66 {
        world.sends(relay, HOME, to("10.9.0.2:53", b"x"));
        world.sends(relay, HOME, to(&format!("10.9.0.{host}:53"), b"x"));
    }
    let exit = world.exit();
    world.sends(exit, "10.9.0.2:53", b"answer".to_vec());
    assert_eq!((world.udp().down, world.udp().unsolicited), (1, 0));
    world.sends(exit, "10.9.0.3:53", b"answer".to_vec());
    assert_eq!((world.udp().down, world.udp().unsolicited), (1, 1));
}

/// So that who tries QUIC goes on to TCP.
#[test]
fn datagrams_to_denied_ports_are_dropped_and_counted() {
    let mut world = World::with(&["egress.deny_udp_ports=[443]", "egress.deny_ports=[53]"]);
    let (_, relay) = associated(&mut world);
    world.sends(relay, HOME, to("10.9.0.2:443", b"initial"));
    world.sends(relay, HOME, to("[::ffff:10.9.0.2]:443", b"initial"));
    assert_eq!(world.exit(), relay, "there is no exit");
    world.sends(relay, HOME, to("10.9.0.2:53", b"question"));
    assert_eq!((world.udp().denied, world.udp().up), (2, 1));
}
