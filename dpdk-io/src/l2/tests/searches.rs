//! Searches for neighbours: their course in time, their failure, and floods of them.

use super::*;
use mptcp_core::wire::IcmpErrorKind;

/// Sends one segment to an on-link host of the LTE port.
fn send_to(bench: &mut Bench, now: Instant, dst: &str) {
    bench.send(now, LTE, &segment("10.1.0.1", dst));
}

fn questions(bench: &mut Bench) -> Vec<(Mac, String)> {
    let sent = bench.sent();
    let ask = |(_, frame): &(PortId, Vec<u8>)| {
        let (to, message) = arp_in(frame);
        assert!(message.request && message.sender == v4("10.1.0.1"));
        (to, message.target.to_string())
    };
    sent.iter().map(ask).collect()
}

#[test]
fn packets_wait_for_the_answer_in_order() {
    let mut bench = Bench::new();
    for byte in 0..10_u8 {
        bench.send(at(0), LTE, &packet("10.1.0.1", "10.1.0.2", 6, &[byte; 20]));
    }
    assert_eq!(questions(&mut bench), [(EVERYBODY, "10.1.0.2".to_owned())], "asked once");
    assert_eq!(bench.drops(DropReason::NeighbourQueueFull), 2, "eight wait");

    bench.teach(at(5), LTE, "10.1.0.2", PHONE);
    let sent = bench.sent();
    let bytes: Vec<u8> = sent.iter().map(|(_, frame)| unframe(frame).1[20]).collect();
    assert_eq!(bytes, [2, 3, 4, 5, 6, 7, 8, 9], "the newest, oldest first");
    assert!(sent.iter().all(|(port, frame)| (*port, unframe(frame).0.dst) == (LTE, PHONE)));
    assert_eq!(bench.events(L2Event::NeighboursResolved), 1);
    assert_eq!(bench.l2.neighbours.waiting(), 0);
}

#[test]
fn silence_becomes_host_unreachable() {
    let mut bench = Bench::new();
    // The gateways' own searches end meanwhile; only this one is looked at.
    bench.teach(at(0), LTE, "10.1.0.254", ROUTER);
    send_to(&mut bench, at(0), "10.1.0.2");
    let mut asked = 0;
    for ms in (0..3000).step_by(100) {
        bench.l2.handle_timeouts(at(ms), &mut bench.wire);
        send_to(&mut bench, at(ms), "10.1.0.2");
        asked += bench.sent().iter().filter(|(_, frame)| is_for(frame, "10.1.0.2")).count();
    }
    assert_eq!((asked, bench.reports().len()), (3, 0), "once a second, three times");
    bench.l2.handle_timeouts(at(3000), &mut bench.wire);
    assert_eq!(bench.drops(DropReason::NeighbourUnreachable), 8);
    let reports = bench.reports();
    assert_eq!(reports.len(), 8);
    assert!(reports.iter().all(|report| report.kind == IcmpErrorKind::HostUnreachable));
    assert_eq!((reports[0].src, reports[0].dst), (ip("10.1.0.1"), ip("10.1.0.2")));

    // Held down, then asked again.
    bench.sent();
    send_to(&mut bench, at(3100), "10.1.0.2");
    assert_eq!((bench.reports().len(), bench.sent().len()), (1, 0));
    send_to(&mut bench, at(5000), "10.1.0.2");
    assert_eq!(questions(&mut bench).len(), 1);
    bench.teach(at(5001), LTE, "10.1.0.2", PHONE);
    assert_eq!(bench.sent().len(), 1, "it came back");
}

fn is_for(frame: &[u8], target: &str) -> bool {
    unframe(frame).0.protocol == EthernetProtocol::Arp && arp_in(frame).1.target == v4(target)
}

#[test]
fn a_neighbour_is_probed_after_half_a_minute_and_replaced_when_it_moved() {
    let mut bench = Bench::new();
    send_to(&mut bench, at(0), "10.1.0.2");
    bench.teach(at(0), LTE, "10.1.0.2", PHONE);
    bench.sent();
    send_to(&mut bench, at(29_999), "10.1.0.2");
    assert_eq!(bench.sent().len(), 1, "confirmed: no question");

    send_to(&mut bench, at(30_000), "10.1.0.2");
    let sent = bench.sent();
    assert_eq!(arp_in(&sent[0].1).0, PHONE, "asked directly");
    assert_eq!(unframe(&sent[1].1).0.dst, PHONE, "and used meanwhile");
    bench.teach(at(30_001), LTE, "10.1.0.2", PHONE);
    send_to(&mut bench, at(59_000), "10.1.0.2");
    assert_eq!(bench.sent().len(), 1, "confirmed again");

    // It moves: three probes fail, everybody is asked, another station answers.
    let mut probes = Vec::new();
    for ms in (61_000..64_500).step_by(500) {
        bench.l2.handle_timeouts(at(ms), &mut bench.wire);
        send_to(&mut bench, at(ms), "10.1.0.2");
        let sent = bench.sent();
        let asked = sent.iter().filter(|(_, frame)| is_for(frame, "10.1.0.2"));
        probes.extend(asked.map(|(_, frame)| arp_in(frame).0));
    }
    assert_eq!(probes, [PHONE, PHONE, PHONE, EVERYBODY]);
    bench.teach(at(64_600), LTE, "10.1.0.2", ROUTER);
    let sent = bench.sent();
    assert!(!sent.is_empty() && sent.iter().all(|(_, frame)| unframe(frame).0.dst == ROUTER));
}

#[test]
fn announcements_update_what_is_known_and_create_nothing() {
    let mut bench = Bench::new();
    let count = bench.l2.neighbour_count();
    let announce = |mac| arp_frame(LTE, mac, EVERYBODY, true, "10.1.0.7", "10.1.0.7");
    bench.receive(at(0), LTE, &announce(PHONE));
    assert_eq!(bench.l2.neighbour_count(), count);

    send_to(&mut bench, at(0), "10.1.0.7");
    bench.teach(at(0), LTE, "10.1.0.7", PHONE);
    bench.sent();
    // A router pair fails over: the new station is used at once, and probed.
    bench.receive(at(100), LTE, &announce(ROUTER));
    send_to(&mut bench, at(101), "10.1.0.7");
    let sent = bench.sent();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|(_, frame)| unframe(frame).0.dst == ROUTER));

    // A host outside the prefix is nobody's neighbour.
    let stranger = arp_frame(LTE, PHONE, ours(LTE), false, "192.0.2.1", "10.1.0.1");
    bench.refused(LTE, &stranger, DropReason::ArpNotForUs);
}

#[test]
fn whoever_asks_us_is_known_without_a_question() {
    let mut bench = Bench::new();
    let ask = arp_frame(LTE, PHONE, EVERYBODY, true, "10.1.0.2", "10.1.0.1");
    bench.receive(at(0), LTE, &ask);
    bench.sent();
    send_to(&mut bench, at(1), "10.1.0.2");
    let sent = bench.sent();
    assert_eq!(sent.len(), 2, "the packet, and a probe");
    assert!(sent.iter().all(|(_, frame)| unframe(frame).0.dst == PHONE));
}

#[test]
fn adverts_follow_rfc_4861() {
    let mut bench = Bench::new();
    let target = "fd00:1::9";
    let advert = |mac, solicited, overrides| {
        let message =
            ndisc::Message::Advert { target: v6(target), mac: None, solicited, overrides };
        let dst = if solicited { "fd00:1::1" } else { "ff02::1" };
        ndisc_frame(message, mac, ours(LTE), target, dst)
    };
    let send = |bench: &mut Bench, ms| {
        bench.send(at(ms), LTE, &segment("fd00:1::1", target));
        let sent = bench.sent();
        sent.iter().map(|(_, frame)| unframe(frame).0.dst).collect::<Vec<_>>()
    };
    bench.receive(at(0), LTE, &advert(PHONE, false, true));
    assert_eq!(send(&mut bench, 0), [frame::group(v6("ff02::1:ff00:9"))], "nothing was learned");
    bench.receive(at(1), LTE, &advert(PHONE, true, false));
    assert_eq!(bench.sent().len(), 1, "found: what waited goes out");
    assert_eq!(send(&mut bench, 2), [PHONE]);
    // Another station without the override flag only casts doubt.
    bench.receive(at(3), LTE, &advert(ROUTER, false, false));
    assert_eq!(send(&mut bench, 4), [PHONE, PHONE], "probed and used");
    bench.receive(at(5), LTE, &advert(PHONE, true, false));
    assert_eq!(send(&mut bench, 6), [PHONE]);
    bench.receive(at(7), LTE, &advert(ROUTER, false, true));
    assert_eq!(send(&mut bench, 8), [ROUTER, ROUTER], "override: used, and probed");
}

#[test]
fn a_flood_of_searches_is_bounded_and_harms_nobody() {
    let mut bench = Bench::new();
    bench.teach(at(0), LTE, "10.1.0.254", ROUTER);
    send_to(&mut bench, at(0), "10.1.0.2");
    bench.teach(at(0), LTE, "10.1.0.2", PHONE);
    bench.sent();
    let mut asked = 0;
    for i in 0..50_000_u32 {
        let host = core::net::Ipv4Addr::from(u32::from(v4("10.1.1.0")) + i);
        bench.send(at(u64::from(i) / 10), LTE, &segment("10.1.0.1", &host.to_string()));
        bench.l2.handle_timeouts(at(u64::from(i) / 10), &mut bench.wire);
        let sent = bench.sent();
        asked += sent.iter().filter(|(_, f)| unframe(f).0.dst == EVERYBODY).count();
        bench.reports();
    }
    assert!(asked < 10_000, "a thousand searches a second: {asked} questions in five seconds");
    assert!(bench.l2.neighbour_count() <= 1024 + 4);
    assert!(bench.l2.neighbours.waiting() <= 512);
    assert!(bench.wire.pool.in_use() <= 512);
    assert!(bench.drops(DropReason::NeighbourRate) > 40_000);
    // Those who were there before are still there, without a question.
    send_to(&mut bench, at(5001), "10.1.0.2");
    bench.send(at(5001), LTE, &segment("10.1.0.1", "192.0.2.7"));
    let stations: Vec<Mac> = bench.sent().iter().map(|(_, f)| unframe(f).0.dst).collect();
    assert_eq!(stations, [PHONE, ROUTER]);
}

#[test]
fn a_flood_of_answering_neighbours_evicts_the_idle_but_no_gateway() {
    let mut bench = Bench::new();
    bench.teach(at(0), LTE, "10.1.0.254", ROUTER);
    for i in 0..5_000_u32 {
        let host = core::net::Ipv4Addr::from(u32::from(v4("10.1.1.0")) + i).to_string();
        let now = at(u64::from(i) * 4);
        send_to(&mut bench, now, &host);
        bench.teach(now, LTE, &host, PHONE);
        // Somebody who is talked to all the time.
        send_to(&mut bench, now, "10.1.0.2");
        if i == 0 {
            bench.teach(now, LTE, "10.1.0.2", PHONE);
        }
        bench.sent();
    }
    assert!(bench.l2.neighbour_count() <= 1024 + 4);
    send_to(&mut bench, at(20_000), "10.1.0.2");
    bench.send(at(20_000), LTE, &segment("10.1.0.1", "192.0.2.7"));
    let stations: Vec<Mac> = bench.sent().iter().map(|(_, f)| unframe(f).0.dst).collect();
    assert_eq!(stations, [PHONE, ROUTER]);
}

#[test]
fn a_flood_of_strangers_requests_takes_only_free_room() {
    let mut bench = Bench::new();
    send_to(&mut bench, at(0), "10.1.0.2");
    bench.teach(at(0), LTE, "10.1.0.2", PHONE);
    for i in 0..5_000_u32 {
        let host = core::net::Ipv4Addr::from(u32::from(v4("10.1.1.0")) + i).to_string();
        let ask = arp_frame(LTE, ROUTER, EVERYBODY, true, &host, "10.1.0.1");
        bench.receive(at(1), LTE, &ask);
    }
    assert_eq!(bench.l2.neighbour_count(), 768 + 4);
    bench.sent();
    send_to(&mut bench, at(2), "10.1.0.2");
    assert_eq!(unframe(&bench.sent()[0].1).0.dst, PHONE);
}

#[test]
fn shards_tell_each_other() {
    let mut one = Bench::new();
    let mut two = Bench::new();
    one.l2.share_news();
    send_to(&mut two, at(0), "10.1.0.2");
    two.sent();
    // The answer lands on the queue of the other shard.
    one.teach(at(1), LTE, "10.1.0.2", PHONE);
    let news = one.l2.poll_news().unwrap();
    assert!(one.l2.poll_news().is_none());
    two.l2.apply(at(1), news, &mut two.wire);
    let sent = two.sent();
    assert_eq!((sent.len(), unframe(&sent[0].1).0.dst), (1, PHONE));
    assert!(two.l2.poll_news().is_none(), "news do not travel in circles");
}

/// A router pair fails over within one burst: the old one still answers, more often than is kept, then the new one
/// announces itself.
#[test]
fn the_last_word_about_a_neighbour_counts_at_every_shard() {
    let mut one = Bench::new();
    let mut two = Bench::new();
    one.l2.share_news();
    for bench in [&mut one, &mut two] {
        send_to(bench, at(0), "10.1.0.7");
        bench.teach(at(0), LTE, "10.1.0.7", PHONE);
        bench.sent();
    }
    while one.l2.poll_news().is_some() {}

    for _ in 0..crate::l2::MAX_NEWS {
        one.teach(at(1), LTE, "10.1.0.7", PHONE);
    }
    let announced = arp_frame(LTE, ROUTER, EVERYBODY, true, "10.1.0.7", "10.1.0.7");
    one.receive(at(1), LTE, &announced);
    while let Some(news) = one.l2.poll_news() {
        two.l2.apply(at(1), news, &mut two.wire);
    }
    for bench in [&mut one, &mut two] {
        send_to(bench, at(2), "10.1.0.7");
        let sent = bench.sent();
        assert!(!sent.is_empty());
        assert!(sent.iter().all(|(_, frame)| unframe(frame).0.dst == ROUTER));
    }
}
