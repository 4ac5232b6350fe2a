//! Convert from the SYN to the relay: what waits, what answers it, and every error (RFC 8803).

use super::*;
use mptcp_core::stack::SynAnswer;
use mptcp_core::wire::FastOpenCookie;

/// A message of these TLVs.
fn message(tlvs: &[u8]) -> Vec<u8> {
    let words = u8::try_from(1 + tlvs.len() / 4).unwrap();
    [&[1, words, 0x22, 0x63], tlvs].concat()
}

/// A Connect TLV for an IPv4 destination, with options.
fn connect(address: [u8; 4], port: u16, options: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let [high, low] = port.to_be_bytes();
    let mapped = [&[0; 10][..], &[0xff; 2], &address].concat();
    [&[10, words, high, low][..], &mapped, options].concat()
}

/// To 10.9.0.2:80.
fn base() -> Vec<u8> {
    message(&connect([10, 9, 0, 2], 80, &[]))
}

fn extended(options: &[u8]) -> Vec<u8> {
    message(&connect([10, 9, 0, 2], 80, options))
}

/// An answer with one Error TLV.
fn error(value: &[u8]) -> Vec<u8> {
    let mut tlv = vec![30, u8::try_from((2 + value.len()).div_ceil(4)).unwrap()];
    tlv.extend(value);
    tlv.resize(tlv.len().next_multiple_of(4), 0);
    message(&tlv)
}

const SUCCESS: &[u8] = &[1, 1, 0x22, 0x63];
/// SACK permitted, timestamps, MPTCP, Fast Open.
const SUPPORTED: &[u8] = &[21, 2, 0, 0, 4, 8, 30, 34];
const CLIENT: &str = "10.1.0.2:40312";

/// A client's SYN with this text, and what is behind it.
fn ask(world: &mut World, text: &[u8]) -> SocketId {
    let request = world.shard.request(CLIENT, 1234, 0, text);
    world.run();
    request
}

/// The exit is established.
fn answer(world: &mut World) -> SocketId {
    let (outer, _) = world.shard.last_exit();
    world.shard.establish(outer);
    world.run();
    outer
}

/// What the client of `request` heard, its SYN answered.
fn said(world: &mut World, request: SocketId) -> Vec<u8> {
    let inner = world.shard.opened[&request];
    world.heard(inner)
}

/// The client hears an error, resets, and nothing is left.
fn assert_refused(world: &mut World, request: SocketId, value: &[u8], reason: EndReason) {
    assert_eq!(said(world, request), error(value), "{reason:?}");
    let inner = world.shard.opened[&request];
    assert!(world.shard.write_shut(inner), "the error, then the end");
    assert_eq!(world.fate(inner), None, "no reset could overtake it");
    world.shard.end(inner, Some(ConnectionError::Reset));
    world.run();
    world.assert_ended(reason);
}

#[test]
fn nothing_answers_the_syn_before_the_destination_does() {
    let mut world = World::new();
    let text = [base(), b"GET /".to_vec()].concat();
    let request = ask(&mut world, &text);
    let (outer, with) = world.shard.last_exit();
    assert_eq!(with.remote.to_string(), "10.9.0.2:80");
    assert!(!with.mptcp);
    assert!(world.shard.terms[&outer].on_demand);
    assert!(world.shard.opened.is_empty());
    assert_eq!(answer(&mut world), outer);
    let inner = world.shard.opened[&request];
    assert_eq!(world.heard(inner), SUCCESS);
    assert_eq!(world.shard.unread(inner), 5, "the rest is the user's");
    assert_eq!(world.shard.relay_of(inner), Some(outer));
    let counters = world.gateway.counters();
    assert_eq!((counters.requests_in_syn, counters.sessions_established), (1, 1));
    assert_eq!(world.gateway.common.clients().count(), 0);
}

#[test]
fn the_exits_syn_goes_out_again_when_the_clients_does() {
    let mut world = World::new();
    let request = ask(&mut world, &base());
    let (outer, _) = world.shard.last_exit();
    for n in 1..=3 {
        world.shard.repeat(request);
        world.run();
        assert_eq!(world.shard.repeated, vec![outer; n]);
    }
    assert_eq!(world.gateway.session_count(), 1);
}

#[test]
fn a_client_that_goes_away_takes_the_exit_with_it() {
    let mut world = World::new();
    let request = ask(&mut world, &base());
    let (outer, _) = world.shard.last_exit();
    world.shard.vanish(request);
    world.run();
    assert_eq!(world.fate(outer), Some(Fate::Aborted));
    assert!(world.shard.refused.is_empty());
    world.assert_ended(EndReason::ClientGone);
}

#[test]
fn a_message_behind_the_handshake_is_as_good() {
    let mut world = World::new();
    let inner = world.client_at(1234);
    world.say(inner, &[base(), b"GET /".to_vec()].concat());
    let (outer, _) = world.shard.last_exit();
    assert!(!world.shard.terms[&outer].on_demand, "the client is proven: timers do it");
    answer(&mut world);
    assert_eq!(world.heard(inner), SUCCESS);
    assert_eq!(world.shard.unread(inner), 5);
    assert_eq!(world.shard.relay_of(inner), Some(outer));
    assert_eq!(world.gateway.counters().requests_in_syn, 0);
}

#[test]
fn a_message_that_the_syn_cuts_goes_on_behind_the_handshake() {
    let whole = [base(), b"GET /".to_vec()].concat();
    for cut in 1..base().len() {
        let mut world = World::new();
        let request = ask(&mut world, &whole[..cut]);
        let inner = world.shard.opened[&request];
        assert!(world.shard.connects.is_empty() && world.heard(inner).is_empty());
        world.say(inner, &whole[cut..]);
        let outer = answer(&mut world);
        assert_eq!(world.heard(inner), SUCCESS, "cut at {cut}");
        assert_eq!(world.shard.unread(inner), 5);
        assert_eq!(world.shard.relay_of(inner), Some(outer));
    }
}

#[test]
fn options_go_to_the_server_and_its_answer_comes_back() {
    let cookie = FastOpenCookie::new(&[7; 4]).unwrap();
    for (options, mptcp, fast_open) in [
        (&[4, 2, 8, 2][..], false, None),
        (&[30, 2, 0, 0], true, None),
        (&[34, 2, 0, 0], false, Some(FastOpenCookie::REQUEST)),
        (&[34, 6, 7, 7, 7, 7, 30, 2], true, Some(cookie)),
        // What has no meaning here is ignored.
        (&[1, 2, 4, 5, 180, 3, 3, 7, 5, 2, 0, 0], false, None),
        (&[0, 0, 0, 0], false, None),
    ] {
        let mut world = World::new();
        let server = [2, 4, 5, 180, 1, 1, 4, 2];
        world.shard.answer = SynAnswer { options: server.to_vec(), icmp_code: None };
        let request = ask(&mut world, &extended(options));
        let (outer, with) = world.shard.last_exit();
        assert_eq!((with.mptcp, world.shard.terms[&outer].fast_open), (mptcp, fast_open));
        answer(&mut world);
        let header = [&[20, 3, 0, 0][..], &server].concat();
        assert_eq!(said(&mut world, request), message(&header), "{options:?}");
    }
    // One that is no multiple of four is padded.
    let mut world = World::new();
    world.shard.answer.options = vec![4, 2];
    let request = ask(&mut world, &extended(&[4, 2, 0, 0]));
    answer(&mut world);
    assert_eq!(said(&mut world, request), message(&[20, 2, 0, 0, 4, 2, 0, 0]));
}

#[test]
fn who_only_asks_hears_what_is_supported() {
    let mut world = World::new();
    let request = ask(&mut world, &message(&[1, 1, 0, 0]));
    assert_eq!(said(&mut world, request), message(SUPPORTED));
    let inner = world.shard.opened[&request];
    assert!(world.shard.write_shut(inner));
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::Informed);
    // Both at once.
    let mut world = World::new();
    let both = [&[1, 1, 0, 0][..], &connect([10, 9, 0, 2], 80, &[])].concat();
    let request = ask(&mut world, &message(&both));
    answer(&mut world);
    assert_eq!(said(&mut world, request), message(SUPPORTED));
}

/// RFC 8803 §6.2.8: 0, 1, 2, 32, 33 for what is wrong with the message, whether it comes in the SYN
/// or behind it.
#[test]
fn every_message_that_is_refused_has_its_error() {
    let echo = |code: u8, text: &[u8]| [&[code, 0], text].concat();
    let to = |address, port| message(&connect(address, port, &[]));
    let twice =
        message(&[connect([10, 9, 0, 2], 80, &[]), connect([10, 9, 0, 2], 80, &[])].concat());
    let loopback_v6 = message(&[&[10, 5, 0, 80][..], &[0; 15], &[1]].concat());
    let multicast_v6 = message(&[&[10, 5, 0, 80, 0xff, 2][..], &[0; 13], &[1]].concat());
    let malformed = [
        to([127, 0, 0, 1], 80),
        to([224, 0, 0, 1], 80),
        to([255, 255, 255, 255], 80),
        to([10, 9, 0, 2], 0),
        loopback_v6,
        multicast_v6,
        twice,
        message(&[1, 2, 0, 0]),             // past the end
        message(&[1, 0, 0, 0]),             // no length at all
        message(&[1, 2, 0, 0, 0, 0, 0, 0]), // an Info TLV has no value
        message(&[10, 4, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), // too short
        message(&[22, 2, 0, 0, 1, 2, 3, 4]), // asks for nothing
        message(&[]),
        extended(&[4, 1, 0, 0]), // an option shorter than its head
        extended(&[4, 9, 0, 0]), // and one past the end
        b"GET / HTTP/1.1\r\n\r\n"[..4].to_vec(),
    ];
    let mut cases: Vec<(Vec<u8>, Vec<u8>, EndReason)> = malformed
        .into_iter()
        .map(|text| {
            let reason = if text.starts_with(b"GET") {
                EndReason::NotConvert
            } else {
                EndReason::BadRequest
            };
            (text.clone(), echo(1, &text), reason)
        })
        .collect();
    for version in [0, 2, 255] {
        let text = [&[version], &base()[1..]].concat();
        cases.push((text, vec![0, 1], EndReason::Version));
    }
    for kind in [0, 2, 20, 21, 30, 255] {
        let text = message(&[kind, 1, 0, 0]);
        cases.push((text.clone(), echo(2, &text), EndReason::CommandNotSupported));
    }
    for address in [[10, 9, 0, 1], [203, 0, 113, 7], [192, 168, 0, 1], [0, 0, 0, 0]] {
        cases.push((to(address, 80), vec![32, 0], EndReason::Denied));
    }
    for (options, kinds) in [
        (&[29, 2, 0, 0][..], &[29][..]),
        (&[19, 2, 29, 2, 4, 2, 19, 2], &[19, 29]),
        (&[253, 4, 1, 2, 254, 2, 77, 2], &[253, 254, 77]),
        // With a value where there must be none, or one that no cookie has.
        (&[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], &[8]),
        (&[30, 4, 1, 2], &[30]),
        (&[34, 3, 1, 0], &[34]),
    ] {
        let value = [&[33], kinds].concat();
        cases.push((extended(options), value, EndReason::OptionNotSupported));
    }
    for (text, value, reason) in cases {
        let mut world = World::new();
        let request = ask(&mut world, &text);
        assert!(world.shard.connects.is_empty(), "{reason:?}");
        assert_refused(&mut world, request, &value, reason);
        let mut world = World::new();
        let inner = world.client_at(1234);
        world.say(inner, &text);
        assert_eq!(world.heard(inner), error(&value), "{reason:?}");
        world.shard.finish(inner);
        world.run();
        world.assert_ended(reason);
    }
}

#[test]
fn a_length_of_zero_is_reset() {
    let mut world = World::new();
    let request = ask(&mut world, &[1, 0, 0x22, 0x63]);
    assert_eq!(world.shard.refused, [request]);
    world.assert_ended(EndReason::BadRequest);
    let mut world = World::new();
    let inner = world.client_at(1234);
    world.say(inner, &[1, 0, 0x22, 0x63]);
    assert_eq!(world.fate(inner), Some(Fate::Aborted));
    world.assert_ended(EndReason::BadRequest);
}

/// 65, 96 and 97 for what became of the exit.
#[test]
fn every_way_an_exit_fails_has_its_error() {
    use ConnectionError::*;
    for (failed, icmp_code, value, reason) in [
        (Refused, None, [96, 0], EndReason::Refused),
        (Refused, Some(3), [97, 3], EndReason::Refused),
        (NetworkUnreachable, Some(0), [97, 0], EndReason::Unreachable),
        (HostUnreachable, Some(1), [97, 1], EndReason::Unreachable),
        (Prohibited, Some(13), [97, 13], EndReason::Unreachable),
        (HostUnreachable, None, [65, 0], EndReason::Unreachable),
        (ConnectTimedOut, None, [65, 0], EndReason::ConnectTimedOut),
        (TtlExpired, Some(0), [65, 0], EndReason::Unreachable),
    ] {
        let mut world = World::new();
        world.shard.answer.icmp_code = icmp_code;
        let request = ask(&mut world, &base());
        let (outer, _) = world.shard.last_exit();
        assert!(world.shard.opened.is_empty());
        world.shard.end(outer, Some(failed));
        world.run();
        assert_refused(&mut world, request, &value, reason);
    }
    let mut world = World::new();
    let request = ask(&mut world, &base());
    world.pass(fake::CONNECT);
    assert_refused(&mut world, request, &[65, 0], EndReason::ConnectTimedOut);
    // IPv6 without a route.
    let mut world = World::new();
    let text = message(&[&[10, 5, 0, 80][..], &[0x2a, 0], &[0; 13], &[2]].concat());
    let request = ask(&mut world, &text);
    assert!(world.shard.connects.is_empty());
    assert_refused(&mut world, request, &[65, 0], EndReason::NoRoute);
    // 64: ports, sessions.
    let mut world = World::new();
    world.shard.refuse_connect = Some(OpenError::PortsExhausted);
    let request = ask(&mut world, &base());
    assert_refused(&mut world, request, &[64, 0], EndReason::ExitsExhausted);
}

#[test]
fn beyond_the_limit_of_sessions_clients_hear_why() {
    let mut world = World::with(&["limits.connections=1"]);
    ask(&mut world, &base());
    let second = ask(&mut world, &base());
    let inner = world.shard.opened[&second];
    assert_eq!(world.fate(inner), Some(Fate::Closed), "in order, behind the error");
    assert_eq!(world.shard.farewells[&inner], error(&[64, 0]));
    assert_eq!(world.gateway.counters().sessions_over_limit, 1);
    assert_eq!(world.gateway.session_count(), 1);
}

#[test]
fn requests_that_cannot_be_opened_are_reset() {
    let mut world = World::new();
    let request = ask(&mut world, &base());
    world.shard.no_room = true;
    answer(&mut world);
    assert_eq!(world.shard.refused, [request]);
    world.assert_ended(EndReason::NoMemory);
}

#[test]
fn a_client_has_so_many_requests_that_wait() {
    let mut world = World::with(&["convert.pending_per_client=2"]);
    let first = ask(&mut world, &base());
    ask(&mut world, &base());
    let third = ask(&mut world, &base());
    assert_eq!(said(&mut world, third), error(&[64, 0]));
    assert_eq!(world.gateway.counters().ended(EndReason::PendingLimited), 0, "it lingers");
    // Another client is another matter, and so is one that has an answer.
    let other = world.shard.request("10.1.0.3:1", 1234, 0, &base());
    world.run();
    assert!(!world.shard.opened.contains_key(&other));
    world.shard.vanish(first);
    world.run();
    let fourth = ask(&mut world, &base());
    assert!(!world.shard.opened.contains_key(&fourth));
    assert_eq!(world.gateway.common.clients().count(), 2);
}

#[test]
fn errors_are_limited_per_client() {
    let mut world = World::new();
    let text = [&[2], &base()[1..]].concat();
    let mut resets = 0;
    for n in 0..60 {
        let request = ask(&mut world, &text);
        match world.shard.opened.get(&request).copied() {
            Some(inner) => {
                assert_eq!(world.heard(inner), error(&[0, 1]));
                world.shard.end(inner, Some(ConnectionError::Reset));
                world.run();
            }
            None => resets += 1,
        }
        assert_eq!(resets > 0, n >= 50, "{n}");
    }
    assert_eq!((resets, world.shard.refused.len()), (10, 10));
    assert_eq!(world.gateway.counters().convert_errors_limited, 10);
    world.pass(Duration::from_millis(200));
    let request = ask(&mut world, &text);
    assert_eq!(said(&mut world, request), error(&[0, 1]));
}

#[test]
fn clients_from_outside_are_refused() {
    let mut world = World::new();
    let request = world.shard.request("192.0.2.1:1", 1234, 1, &base());
    world.run();
    assert!(world.shard.connects.is_empty());
    assert_refused(&mut world, request, &[32, 0], EndReason::ExternalRealm);
}

#[test]
fn a_cookie_is_given_and_asked_for() {
    let mut world = World::with(&["convert.cookie='require'"]);
    let request = ask(&mut world, &base());
    assert!(world.shard.connects.is_empty(), "nothing happens for who is not proven");
    let heard = said(&mut world, request);
    let [1, 6, 0x22, 0x63, 30, 5, 3, 0, cookie @ ..] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    assert_eq!(cookie.len(), 16);
    world.shard.end(world.shard.opened[&request], Some(ConnectionError::Reset));
    world.run();
    world.assert_ended(EndReason::CookieMissing);
    let with = |cookie: &[u8]| {
        let words = u8::try_from(1 + cookie.len() / 4).unwrap();
        let tlv = [&[22, words, 0, 0], cookie].concat();
        message(&[tlv, connect([10, 9, 0, 2], 80, &[])].concat())
    };
    let good = ask(&mut world, &with(cookie));
    assert_eq!(world.shard.connects.len(), 1);
    answer(&mut world);
    assert_eq!(said(&mut world, good), SUCCESS);
    // Another client's, a changed one, parts of one, none of it.
    let mut changed = cookie.to_vec();
    changed[15] ^= 1;
    for wrong in [&changed[..], &cookie[..12], &cookie[..4], &[], &[0; 64]] {
        let request = ask(&mut world, &with(wrong));
        assert_eq!(said(&mut world, request), error(&[32, 0]), "{wrong:?}");
    }
    let other = world.shard.request("10.1.0.3:1", 1234, 0, &with(cookie));
    world.run();
    assert_eq!(said(&mut world, other), error(&[32, 0]));
    // After one change of keys it is still good, after two it is not.
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    world.pass(hours(13));
    ask(&mut world, &with(cookie));
    assert_eq!(world.shard.connects.len(), 2);
    world.pass(hours(12));
    let late = ask(&mut world, &with(cookie));
    assert_eq!(said(&mut world, late), error(&[32, 0]));
    // Who only asks needs one as well.
    let info = ask(&mut world, &message(&[1, 1, 0, 0]));
    assert_eq!(said(&mut world, info)[6], 3);
}

/// A client's next connection is another shard's, mostly.
#[test]
fn a_cookie_is_good_on_every_shard() {
    let mut shards = World::shards(4, &["convert.cookie='require'"]);
    let request = ask(&mut shards[0], &base());
    let heard = said(&mut shards[0], request);
    let cookie = &heard[8..];
    let tlv = [&[22, 5, 0, 0][..], cookie].concat();
    let shown = message(&[tlv, connect([10, 9, 0, 2], 80, &[])].concat());
    for world in &mut shards[..2] {
        ask(world, &shown);
        assert_eq!(world.shard.connects.len(), 1);
    }
    // Keys change at the same time on all of them, whenever each is asked for the first time.
    for world in &mut shards {
        world.pass_s(13 * 3600);
        let before = world.shard.connects.len();
        ask(world, &shown);
        assert_eq!(world.shard.connects.len(), before + 1);
    }
    for world in &mut shards {
        world.pass_s(12 * 3600);
        let late = ask(world, &shown);
        assert_eq!(said(world, late), error(&[32, 0]));
    }
}

#[test]
fn errors_are_limited_over_all_shards() {
    let mut shards = World::shards(4, &[]);
    let text = [&[2], &base()[1..]].concat();
    for n in 0..80 {
        ask(&mut shards[n % 4], &text);
    }
    let limited = shards.iter().map(|world| world.gateway.counters().convert_errors_limited);
    assert_eq!(limited.sum::<u64>(), 30);
}

#[test]
fn draining_ends_what_waits() {
    let mut world = World::new();
    let request = ask(&mut world, &base());
    world.gateway.drain(world.now, &mut world.shard);
    // The stack closes the requests of a listener that is closed.
    world.shard.vanish(request);
    world.run();
    assert!(world.gateway.is_drained());
    world.assert_ended(EndReason::ClientGone);
}
