//! Where clients may go, and what they are told when it fails.

use super::*;
use core::net::IpAddr;

/// A CONNECT request for `address:80`, behind a greeting.
fn by_address(address: &str) -> Vec<u8> {
    let mut bytes = b"\x05\x01\x00\x05\x01\x00".to_vec();
    match address.parse().unwrap() {
        IpAddr::V4(v4) => {
            bytes.push(1);
            bytes.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.push(4);
            bytes.extend(v6.octets());
        }
    }
    bytes.extend([0, 80]);
    bytes
}

fn by_name(name: &str) -> Vec<u8> {
    let mut bytes = b"\x05\x01\x00\x05\x01\x00\x03".to_vec();
    bytes.push(u8::try_from(name.len()).unwrap());
    bytes.extend(name.as_bytes());
    bytes.extend([0, 80]);
    bytes
}

/// What a client that asks for this hears, and why its session ended.
fn refusal(request: &[u8]) -> (Vec<u8>, EndReason) {
    let mut world = World::new();
    let inner = world.client_saying(request);
    assert!(world.shard.connects.is_empty(), "an exit was opened");
    let mut said = world.heard(inner);
    world.shard.finish(inner);
    world.run();
    world.assert_empty();
    let ended = EndReason::ALL.iter().find(|reason| world.gateway.counters().ended(**reason) == 1);
    (said.split_off(2), *ended.unwrap())
}

#[test]
fn forbidden_addresses_are_refused_in_every_spelling() {
    for address in [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.0.1",
        "10.1.0.7",
        "192.168.0.1",
        "203.0.113.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::a01:1",
        "2002:7f00:1::",
        "fe80::1",
        "ff02::1",
        "fd00:9::1",
        "10.9.0.1",
        "10.9.0.255",
    ] {
        assert_eq!(refusal(&by_address(address)), (failure(2), EndReason::Denied), "{address}");
        let named = refusal(&by_name(address));
        assert_eq!(named, (failure(2), EndReason::Denied), "{address} as a name");
    }
    assert_eq!(refusal(&by_name("private.example")), (failure(2), EndReason::Denied));
}

#[test]
fn names_are_those_of_the_table() {
    assert_eq!(refusal(&by_name("localhost")), (failure(4), EndReason::UnknownName));
    assert_eq!(refusal(&by_name("other.example")), (failure(4), EndReason::UnknownName));
    assert_eq!(refusal(&by_name("2130706433")), (failure(4), EndReason::NumericName));
    for name in ["origin.example", "ORIGIN.example."] {
        let mut world = World::new();
        world.client_saying(&by_name(name));
        let (_, with) = world.shard.last_exit();
        assert_eq!(with.remote.to_string(), "10.9.0.2:80");
    }
}

#[test]
fn a_destination_without_a_way_is_told_apart_from_a_missing_family() {
    assert_eq!(refusal(&by_address("2a00::1")), (failure(3), EndReason::NoRoute));
    let mut world =
        World::with(&["port.1.addresses=['10.9.0.1/24']", "egress.allow=['10.9.0.0/24']"]);
    let inner = world.client_saying(&by_address("2a00::1"));
    assert_eq!(world.heard(inner)[2..], failure(8));
}

#[test]
fn a_mapped_address_leaves_as_ipv4_and_ipv6_as_ipv6() {
    let mut world = World::new();
    world.client_saying(&by_address("::ffff:10.9.0.2"));
    let (_, with) = world.shard.last_exit();
    assert_eq!(
        (with.local.to_string(), with.remote.to_string()),
        ("10.9.0.1".to_owned(), "10.9.0.2:80".to_owned())
    );
    let inner = world.client_saying(&by_address("fd00:9::2"));
    let (outer, with) = world.shard.last_exit();
    assert_eq!(with.local.to_string(), "fd00:9::1");
    world.shard.establish(outer);
    world.run();
    let said = world.heard(inner);
    assert_eq!((said.len(), said[5]), (2 + 22, 4));
}

#[test]
fn every_way_an_exit_can_fail_has_its_reply() {
    use ConnectionError::*;
    for (error, rep, reason) in [
        (Refused, 5, EndReason::Refused),
        (Reset, 5, EndReason::Refused),
        (ConnectTimedOut, 4, EndReason::ConnectTimedOut),
        (TimedOut, 4, EndReason::ConnectTimedOut),
        (NetworkUnreachable, 3, EndReason::Unreachable),
        (HostUnreachable, 4, EndReason::Unreachable),
        (Prohibited, 4, EndReason::Unreachable),
        (TtlExpired, 6, EndReason::Unreachable),
        (Internal, 1, EndReason::Internal),
        (Aborted, 1, EndReason::Internal),
        (NoSubflows, 1, EndReason::Internal),
    ] {
        let mut world = World::new();
        let inner = world.client_saying(REQUEST);
        let (outer, _) = world.shard.last_exit();
        world.shard.end(outer, Some(error));
        world.run();
        assert_eq!(world.fate(outer), Some(Fate::Released));
        assert_eq!(world.heard(inner)[2..], failure(rep), "{error:?}");
        assert!(world.shard.write_shut(inner));
        world.shard.finish(inner);
        world.run();
        world.assert_ended(reason);
    }
}

#[test]
fn an_exit_that_cannot_be_opened_is_our_failure() {
    let mut world = World::new();
    world.shard.refuse_connect = Some(OpenError::PortsExhausted);
    let inner = world.client_saying(REQUEST);
    assert_eq!(world.heard(inner)[2..], failure(1));
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::ExitsExhausted);
}

#[test]
fn a_destination_that_does_not_answer_is_given_up_after_connect_s() {
    let mut world = World::new();
    let inner = world.client_saying(REQUEST);
    let (outer, _) = world.shard.last_exit();
    world.pass(Duration::from_millis(29_999));
    assert_eq!(world.fate(outer), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.fate(outer), Some(Fate::Aborted));
    assert_eq!(world.heard(inner)[2..], failure(4));
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::ConnectTimedOut);
}

#[test]
fn the_addresses_of_a_name_of_the_table_race() {
    let mut world = World::new();
    let inner = world.client_saying(&by_name("three.example"));
    let (first, with) = world.shard.last_exit();
    assert_eq!(with.remote.to_string(), "[fd00:9::2]:80");
    assert_eq!(with.timeout, Some(fake::CONNECT));
    world.pass(Duration::from_millis(250));
    let (second, with) = world.shard.last_exit();
    assert_eq!(with.remote.to_string(), "10.9.0.2:80", "192.168.0.1 is not allowed");
    world.shard.establish(second);
    world.run();
    assert_eq!(world.heard(inner)[2..4], [5, 0]);
    assert_eq!(world.gateway.counters().connect_attempts, 2);
    assert_eq!(world.fate(first), Some(Fate::Aborted));
}

#[test]
fn the_last_address_s_failure_is_the_reply() {
    let mut world = World::new();
    let inner = world.client_saying(&by_name("three.example"));
    for error in [ConnectionError::Refused, ConnectionError::TtlExpired] {
        let (outer, _) = world.shard.last_exit();
        world.shard.end(outer, Some(error));
        world.run();
    }
    assert_eq!(world.heard(inner)[2..], failure(6));
}

#[test]
fn a_client_that_leaves_while_connecting_takes_the_exit_along() {
    let mut world = World::new();
    let inner = world.client_saying(REQUEST);
    let (outer, _) = world.shard.last_exit();
    world.shard.end(inner, Some(ConnectionError::Reset));
    world.run();
    assert_eq!(world.fate(outer), Some(Fate::Aborted));
    assert_eq!(world.fate(inner), Some(Fate::Released));
    world.assert_ended(EndReason::ClientGone);
}

#[test]
fn a_client_may_finish_sending_before_it_is_connected() {
    let mut world = World::new();
    let inner = world.client_saying(&[REQUEST, b"all of it"].concat());
    world.shard.finish(inner);
    world.run();
    let (outer, _) = world.shard.last_exit();
    world.shard.establish(outer);
    world.run();
    assert_eq!(world.shard.relay_of(inner), Some(outer));
    world.pass_s(120);
    world.assert_ended(EndReason::HalfClosed);
}

#[test]
fn without_an_exit_for_ipv4_the_translator_leads_there() {
    let with = |settings: &[&str]| {
        let mut all = vec!["port.1.addresses=['fd00:9::1/64']", "route=[]"];
        all.extend(settings);
        World::with(&all)
    };
    let by_v4 = b"\x05\x01\x00\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50";
    let mut world = with(&["egress.nat64='fd00:9::/96'"]);
    world.client_saying(by_v4);
    let (_, attempt) = world.shard.last_exit();
    assert_eq!(attempt.remote.to_string(), "[fd00:9::808:808]:80");
    assert_eq!(attempt.local.to_string(), "fd00:9::1");
    // What is not allowed is not allowed by way of the translator either.
    let denied = world.client_saying(&by_address("192.168.0.1"));
    assert_eq!(world.heard(denied)[2..], failure(2));
    let mut world = with(&[]);
    let inner = world.client_saying(by_v4);
    assert!(world.shard.connects.is_empty());
    assert_ne!(world.heard(inner)[3], 0);
}

#[test]
fn a_client_has_an_exit_address_of_its_own_as_long_as_that_has_ports() {
    let pool: Vec<String> = (1..=4).map(|last| format!("'10.9.0.{last}'")).collect();
    let subnets: Vec<String> = (1..=4).map(|last| format!("'10.9.0.{last}/24'")).collect();
    let port = format!("port.1.addresses=[{}]", subnets.join(","));
    let route = format!("route.0.from=[{}]", pool.join(","));
    let mut world = World::with(&[&port, &route, "route.0.via='10.9.0.99'"]);
    let from = |world: &mut World, client: &str| {
        let inner = world.shard.client(client, 1080);
        world.run();
        let tried = world.shard.connects.len();
        world.say(inner, b"\x05\x01\x00\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50");
        let new = world.shard.connects.get(tried).map(|(_, with)| with.local);
        new.ok_or_else(|| world.heard(inner).last_chunk::<9>().map(|reply| reply[0]))
    };
    let own = from(&mut world, "10.1.0.2:1").unwrap();
    assert_eq!(from(&mut world, "10.1.0.2:2"), Ok(own));
    let mut used: Vec<IpAddr> =
        (2..40).map(|n| from(&mut world, &format!("10.1.0.{n}:1")).unwrap()).collect();
    used.sort();
    used.dedup();
    assert_eq!(used.len(), 4, "clients are spread over the pool");
    world.shard.exhausted = vec![own];
    assert_ne!(from(&mut world, "10.1.0.2:3").unwrap(), own);
    world.shard.exhausted = used;
    assert_eq!(from(&mut world, "10.1.0.2:4"), Err(Some(1)), "the truth");
}

/// Of connections and of datagrams, each for itself; of every spelling of every address, and of names.
#[test]
fn ports_that_are_denied_are_reached_nowhere() {
    let mut world = World::with(&["egress.deny_ports=[25, 80]", "egress.deny_udp_ports=[443]"]);
    let by_name = [&[5, 1, 0, 5, 1, 0, 3, 14][..], b"origin.example", &[0, 25]].concat();
    for request in [REQUEST, &by_name] {
        let client = world.client_saying(request);
        assert_eq!(world.heard(client), [&[5, 0][..], &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]].concat());
    }
    let http = world.client_at(8080);
    world.say(http, b"CONNECT 10.9.0.2:25 HTTP/1.1\r\nHost: 10.9.0.2:25\r\n\r\n");
    assert!(world.heard(http).starts_with(b"HTTP/1.1 403 "));
    assert!(world.shard.connects.is_empty());
    let elsewhere = [&REQUEST[..REQUEST.len() - 2], &[1, 187]].concat();
    world.client_saying(&elsewhere);
    assert_eq!(world.shard.connects.len(), 1, "443 is denied to datagrams only");
}
