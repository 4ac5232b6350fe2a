//! What the referee does not judge, and what it does not remember.

use super::*;
use proptest::prelude::*;

#[test]
fn an_exempt_node_may_send_anything() {
    let mut scene = Scene::connected(&[]);
    scene.referee.exempt(A);
    scene.lose(a(9_000, 9_000).data(&[0; 1_400]));
    scene.clean();
    assert_eq!(scene.referee.seen().packets, 3);
}

#[test]
fn what_is_not_judged_is_not_counted() {
    let mut scene = Scene::connected(&[]);
    // Of a connection that nobody saw begin.
    let mut stray = a(1, 1).data(&[1; 100]);
    stray.src.set_port(9);
    scene.lose(stray);
    scene.clean();
    assert_eq!(scene.referee.seen().payload_bytes, 0);
    scene.lose(a(1, 1).data(&[1; 100]));
    assert_eq!(scene.referee.seen().payload_bytes, 100);
}

#[test]
fn what_is_injected_towards_a_host_accuses_nobody() {
    let mut scene = Scene::connected(&[&MSS, &SCALE_7]);
    for packet in [
        syn(&[]),
        a(500_000, 77),
        a(1, 1).flags(flag::RST),
        a(1, 1_000_000).window(9),
        a(3, 0).option(&[30, 9, 0x20, 0x10]),
    ] {
        scene.now += 1;
        scene.referee.observe(scene.now, B, Point::Delivered, &packet.to_packet());
    }
    scene.pass(b(1, 1).data(b"still fine"));
    scene.pass(a(1, 11));
    scene.clean();
}

#[test]
fn live_connections_outlive_a_flood() {
    let limits = Limits { flows: 50, ..Limits::default() };
    let mut scene = Scene { referee: Referee::with_limits(limits), now: 0 };
    scene.pass(syn(&[&MSS]));
    scene.pass(syn_ack(&[&MSS]));
    scene.pass(a(1, 1));
    for port in 2_000..12_000 {
        let mut flood = syn(&[]);
        flood.src.set_port(port);
        scene.referee.observe(scene.now, B, Point::Delivered, &flood.to_packet());
    }
    assert_eq!(scene.referee.seen().forgotten, 0);
    scene.lose(b(1, 1).data(b"once"));
    scene.lose(b(1, 1).data(b"nice"));
    scene.broke(Rule::SameBytes);
}

#[test]
fn payload_beyond_the_limit_is_forgotten() {
    let limits = Limits { held_bytes: 10_000, ..Limits::default() };
    let mut scene = Scene { referee: Referee::with_limits(limits), now: 0 };
    scene.pass(syn(&[&MSS, &SCALE_7]).window(60_000));
    scene.pass(syn_ack(&[&MSS, &SCALE_7]).window(60_000));
    scene.pass(a(1, 1));
    for step in 0..40 {
        scene.lose(a(1 + step * 1_000, 1).data(&[1; 1_000]));
        assert!(scene.referee.held_bytes <= 10_000);
    }
    scene.lose(a(1, 1).data(&[2; 1_000]));
    scene.clean();
}

#[test]
fn violations_are_counted_beyond_those_kept() {
    let limits = Limits { violations: 3, ..Limits::default() };
    let mut referee = Referee::with_limits(limits);
    referee.name_node(A, "phone");
    for _ in 0..10 {
        referee.observe(5, A, Point::Sent, &[0x45; 10]);
    }
    assert_eq!((referee.violations().len(), referee.violation_count()), (3, 10));
    let text = referee.violations()[0].to_string();
    assert!(
        text.contains("WellFormed") && text.contains("phone") && text.contains("5 ns"),
        "{text}"
    );
}

#[test]
fn memory_of_finished_connections_is_given_back() {
    let mut scene = Scene::connected(&[&MSS]);
    scene.pass(a(1, 1).data(&[1; 900]).flags(flag::FIN));
    scene.pass(b(1, 902).data(&[1; 900]).flags(flag::FIN));
    scene.pass(a(902, 902));
    scene.clean();
    assert_eq!(scene.referee.held_bytes, 0);
}

proptest! {
    /// Whatever the bytes, no parser panics, on either side.
    #[test]
    fn random_packets_are_survived(
        packets in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..120)), 1..20),
        flips in proptest::collection::vec((0..100_usize, any::<u8>()), 0..9),
    ) {
        let mut scene = Scene::connected(&[&MSS, &SCALE_7, &SACK_OK]);
        for (sent, packet) in packets {
            let point = if sent { Point::Sent } else { Point::Delivered };
            scene.referee.observe(0, A, point, &packet);
        }
        // A real packet with changed header fields and a right checksum.
        let mut build = a(1, 1).data(&[0; 50]);
        for (at, value) in flips {
            match at % 5 {
                0 => build.seq = build.seq.wrapping_mul(u32::from(value) + 1),
                1 => build.ack = build.ack.wrapping_mul(u32::from(value) + 1),
                2 => build.flags = value,
                3 => build.window = u16::from(value) << 8,
                _ => build.options = vec![value, value / 8, 0x20, value, 1, 2, 3, 4],
            }
            scene.pass(build.clone());
        }
    }
}
