//! Properties of one link: exact rate, order, accounting, and independence of how it is polled.

use super::*;
use proptest::prelude::*;

const MS: u64 = 1_000_000;

/// Polls at every deadline until the link is silent; returns arrivals with their times.
fn drain(link: &mut Link) -> Vec<(u64, Vec<u8>)> {
    let mut arrivals = Vec::new();
    let mut last = 0;
    while let Some(due) = link.next_deadline() {
        assert!(due >= last, "deadline went back from {last} to {due}");
        last = due;
        while let Some(packet) = link.poll(due) {
            arrivals.push((due, packet));
        }
        assert!(link.next_deadline().is_none_or(|next| next > due), "deadline {due} is stuck");
    }
    arrivals
}

fn numbered(number: u16, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len.max(2)];
    packet[..2].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[0], packet[1]])
}

#[test]
fn a_busy_link_is_exact_to_the_nanosecond() {
    // 1000 bytes at 7 Mbit/s take 1142857.142857... ns: the fraction must not be lost or repeated.
    let rate = 7_000_000;
    let config = LinkConfig {
        rate_bps: Some(rate),
        delay_ns: 5 * MS,
        queue_bytes: 1 << 30,
        ..Default::default()
    };
    let mut link = Link::new(config, 1, 0);
    for number in 0..10_000 {
        assert_eq!(link.push(0, numbered(number, 1_000)), Verdict::Queued);
    }
    let arrivals = drain(&mut link);
    assert_eq!(arrivals.len(), 10_000);
    for (index, (due, packet)) in arrivals.iter().enumerate() {
        let bits = (index as u128 + 1) * 8_000;
        let end = (bits * 1_000_000_000).div_ceil(u128::from(rate));
        assert_eq!(u128::from(*due), end + u128::from(5 * MS));
        assert_eq!(usize::from(number_of(packet)), index);
    }
}

#[test]
fn an_idle_link_sends_at_once_and_does_not_save_up() {
    let config = LinkConfig { rate_bps: Some(8_000), ..Default::default() };
    let mut link = Link::new(config, 1, 0);
    link.push(0, vec![0; 1]);
    assert_eq!(drain(&mut link), [(MS, vec![0; 1])]);
    link.push(1_000 * MS, vec![0; 2]);
    assert_eq!(drain(&mut link), [(1_002 * MS, vec![0; 2])]);
}

#[test]
fn the_queue_drops_the_tail_and_takes_any_first_packet() {
    let config = LinkConfig { rate_bps: Some(8_000), queue_bytes: 100, ..Default::default() };
    let mut link = Link::new(config, 1, 0);
    assert_eq!(link.push(0, vec![0; 500]), Verdict::Queued);
    assert_eq!(link.push(0, vec![0; 1]), Verdict::Dropped(DropReason::Queue));
    assert_eq!(link.push(500 * MS, vec![0; 60]), Verdict::Queued);
    assert_eq!(link.push(500 * MS, vec![0; 40]), Verdict::Queued);
    assert_eq!(link.push(500 * MS, vec![0; 1]), Verdict::Dropped(DropReason::Queue));
    assert_eq!(link.counters().dropped_queue, 2);
    assert_eq!(link.counters().queue_bytes_max, 500);
}

#[test]
fn longer_than_the_mtu_is_dropped() {
    let mut link = Link::new(LinkConfig { mtu: 1_400, ..Default::default() }, 1, 0);
    assert_eq!(link.push(0, vec![0; 1_401]), Verdict::Dropped(DropReason::Mtu));
    assert_eq!(link.push(0, vec![0; 1_400]), Verdict::Queued);
    assert_eq!(link.counters().dropped_bytes, 1_401);
}

#[test]
fn a_rate_change_keeps_what_was_already_sent() {
    // 100 bytes at 8 kbit/s take 100 ms. Half is out when the rate doubles: 25 ms remain.
    let config = LinkConfig { rate_bps: Some(8_000), ..Default::default() };
    let mut link = Link::new(config.clone(), 1, 0);
    link.push(0, vec![0; 100]);
    link.apply(50 * MS, Change::Rate(Some(16_000)));
    assert_eq!(drain(&mut link), [(75 * MS, vec![0; 100])]);

    // A stopped link resumes where it stopped, also when both changes are seen late.
    let mut link = Link::new(config, 1, 0);
    link.at(50 * MS, Change::Rate(Some(0)));
    link.at(80 * MS, Change::Rate(Some(8_000)));
    link.push(0, vec![0; 100]);
    assert!(link.poll(129 * MS).is_none());
    assert_eq!(drain(&mut link), [(130 * MS, vec![0; 100])]);
}

#[test]
fn a_stopped_link_has_no_deadline_until_a_change() {
    let mut link = Link::new(LinkConfig { rate_bps: Some(0), ..Default::default() }, 1, 0);
    link.push(0, vec![0; 9]);
    assert_eq!(link.next_deadline(), None);
    link.apply(7, Change::Rate(None));
    assert_eq!(drain(&mut link), [(7, vec![0; 9])]);
}

#[test]
fn a_blackhole_takes_what_leaves_the_queue_and_spares_what_is_in_the_air() {
    let config = LinkConfig { rate_bps: Some(8_000_000), delay_ns: 10 * MS, ..Default::default() };
    let mut link = Link::new(config, 1, 0);
    link.at(5 * MS, Change::Blackhole(true));
    link.at(8 * MS, Change::Blackhole(false));
    for number in 0..10 {
        link.push(0, numbered(number, 1_000));
    }
    let arrived: Vec<u16> = drain(&mut link).iter().map(|(_, packet)| number_of(packet)).collect();
    // Packet n leaves at n + 1 ms; a change comes before the packet that leaves at its time.
    assert_eq!(arrived, [0, 1, 2, 3, 7, 8, 9]);
    assert_eq!(link.counters().dropped_blackhole, 3);
}

#[test]
fn a_drop_list_names_packets_from_zero() {
    let mut link =
        Link::new(LinkConfig { loss: Loss::List([1, 4].into()), ..Default::default() }, 1, 0);
    for number in 0..6 {
        link.push(u64::from(number), numbered(number, 10));
    }
    let arrived: Vec<u16> = drain(&mut link).iter().map(|(_, packet)| number_of(packet)).collect();
    assert_eq!(arrived, [0, 2, 3, 5]);
}

fn share_lost(loss: Loss, seed: u64) -> (f64, f64) {
    let mut link = Link::new(LinkConfig { loss, ..Default::default() }, seed, 0);
    let (mut lost, mut bursts, mut previous) = (0_u32, 0_u32, false);
    for number in 0..100_000_u64 {
        link.push(number, vec![0; 8]);
        let dropped = link.poll(number).is_none();
        lost += u32::from(dropped);
        bursts += u32::from(dropped && !previous);
        previous = dropped;
    }
    (f64::from(lost) / 100_000.0, f64::from(lost) / f64::from(bursts.max(1)))
}

#[test]
fn loss_has_its_share_and_its_shape() {
    let (share, run) = share_lost(Loss::Bernoulli(20_000), 9);
    assert!((0.018..0.022).contains(&share), "{share}");
    assert!(run < 1.1, "{run}");
    // 1 % of time enters, 20 % leaves: 1/21 of packets lost, in runs of 5 on average.
    let chain = Loss::GilbertElliott {
        enter_ppm: 10_000,
        leave_ppm: 200_000,
        good_ppm: 0,
        burst_ppm: 1_000_000,
    };
    let (share, run) = share_lost(chain, 9);
    assert!((0.042..0.053).contains(&share), "{share}");
    assert!((4.5..5.5).contains(&run), "{run}");
}

#[test]
fn jitter_alone_keeps_the_order_and_reordering_breaks_it() {
    let jittery = LinkConfig { jitter_ns: 50 * MS, delay_ns: MS, ..Default::default() };
    let reordering =
        LinkConfig { reorder_ppm: 100_000, reorder_extra_ns: 20 * MS, ..jittery.clone() };
    for (config, ordered) in [(jittery, true), (reordering, false)] {
        let mut link = Link::new(config, 4, 0);
        for number in 0..500 {
            link.push(u64::from(number) * MS, numbered(number, 40));
        }
        let arrivals: Vec<u16> =
            drain(&mut link).iter().map(|(_, packet)| number_of(packet)).collect();
        assert_eq!(arrivals.len(), 500);
        assert_eq!(arrivals.is_sorted(), ordered);
    }
}

#[test]
fn a_fault_does_not_move_the_draws_of_another() {
    let lossy = LinkConfig { loss: Loss::Bernoulli(100_000), ..Default::default() };
    let noisy = LinkConfig {
        jitter_ns: MS,
        reorder_ppm: 50_000,
        reorder_extra_ns: MS,
        duplicate_ppm: 50_000,
        ..lossy.clone()
    };
    let arrived = |config| {
        let mut link = Link::new(config, 21, 1);
        for number in 0..2_000 {
            link.push(u64::from(number) * 10, numbered(number, 40));
        }
        let mut numbers: Vec<u16> =
            drain(&mut link).iter().map(|(_, packet)| number_of(packet)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    assert_eq!(arrived(lossy), arrived(noisy));
}

fn any_loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::None),
        (0..500_000_u32).prop_map(Loss::Bernoulli),
        proptest::collection::btree_set(0..60_u64, 0..9).prop_map(Loss::List),
        (0..400_000_u32, 1..900_000_u32).prop_map(|(enter_ppm, leave_ppm)| {
            Loss::GilbertElliott { enter_ppm, leave_ppm, good_ppm: 1_000, burst_ppm: 700_000 }
        }),
    ]
}

prop_compose! {
    fn any_config()(
        rate_bps in proptest::option::of(0..50_000_000_u64),
        (delay_ns, jitter_ns, reorder_extra_ns) in (0..30 * MS, 0..5 * MS, 0..9 * MS),
        loss in any_loss(),
        (reorder_ppm, duplicate_ppm) in (0..300_000_u32, 0..300_000_u32),
        (queue_bytes, mtu) in (0..20_000_usize, 500..2_000_usize),
        blackhole in proptest::bool::weighted(0.1),
    ) -> LinkConfig {
        LinkConfig {
            rate_bps, delay_ns, jitter_ns, loss, reorder_ppm, reorder_extra_ns, duplicate_ppm,
            queue_bytes, mtu, blackhole, ecn_mark_bytes: None,
        }
    }
}

proptest! {
    /// Nothing is lost unaccounted, bytes included, and the queue stays within its limit.
    #[test]
    fn every_packet_is_accounted_for(
        config in any_config(),
        changes in proptest::collection::vec((0..200 * MS, any_config()), 0..4),
        pushes in proptest::collection::vec((0..3 * MS, 1..1_800_usize), 1..120),
        seed: u64,
    ) {
        let limit = changes.iter().map(|(_, config)| config.queue_bytes).max().unwrap_or(0)
            .max(config.queue_bytes).max(1_999);
        let mut link = Link::new(config, seed, 0);
        for (at, config) in changes {
            link.at(at, Change::Config(config));
        }
        let (mut now, mut delivered) = (0, 0);
        for (gap, len) in pushes {
            now += gap;
            link.push(now, vec![7; len]);
            prop_assert!(link.queue_bytes() <= limit);
            while let Some(packet) = link.poll(now) {
                delivered += packet.len() as u64;
            }
            let counters = link.counters();
            prop_assert_eq!(
                counters.pushed_packets + counters.duplicated_packets,
                counters.delivered_packets + counters.dropped_packets() + link.in_flight() as u64
            );
        }
        while let Some(due) = link.next_deadline() {
            while let Some(packet) = link.poll(due) {
                delivered += packet.len() as u64;
            }
            // A configuration of rate 0 may still be scheduled.
            if link.config().rate_bps == Some(0) {
                link.apply(due, Change::Rate(None));
            }
        }
        if link.config().rate_bps != Some(0) {
            prop_assert_eq!(link.in_flight(), 0);
            prop_assert_eq!(link.queue_bytes(), 0);
        }
        prop_assert_eq!(delivered, link.counters().delivered_bytes);
    }

    /// Polling at every deadline and polling once at the end see the same packets in the same order.
    #[test]
    fn the_polling_rhythm_changes_nothing(
        config in any_config(),
        change in (0..60 * MS, any_config()),
        pushes in proptest::collection::vec((0..3 * MS, 2..1_500_usize), 1..60),
        seed: u64,
    ) {
        let mut eager = Link::new(config.clone(), seed, 0);
        let mut lazy = Link::new(config, seed, 0);
        eager.at(change.0, Change::Config(change.1.clone()));
        lazy.at(change.0, Change::Config(change.1));
        let (mut now, mut seen) = (0, Vec::new());
        for (number, (gap, len)) in pushes.into_iter().enumerate() {
            let next = now + gap;
            while let Some(due) = eager.next_deadline().filter(|&due| due <= next) {
                while let Some(packet) = eager.poll(due) {
                    seen.push((due, packet));
                }
            }
            now = next;
            let packet = numbered(u16::try_from(number).unwrap(), len);
            prop_assert_eq!(eager.push(now, packet.clone()), lazy.push(now, packet));
        }
        seen.extend(drain(&mut eager));
        let late: Vec<_> = core::iter::from_fn(|| lazy.poll(u64::MAX / 2)).collect();
        prop_assert!(seen.is_sorted_by_key(|(due, _)| *due));
        let seen: Vec<Vec<u8>> = seen.into_iter().map(|(_, packet)| packet).collect();
        prop_assert_eq!(seen, late);
        prop_assert_eq!(eager.counters(), lazy.counters());
    }
}

#[test]
fn a_queue_marks_what_may_be_marked() {
    let config = LinkConfig {
        rate_bps: Some(8_000_000),
        queue_bytes: 5_000,
        ecn_mark_bytes: Some(2_000),
        ..Default::default()
    };
    for source in ["10.0.0.1:1", "[fd00::1]:1"] {
        let v6 = source.starts_with('[');
        let target = if v6 { "[fd00::2]:2" } else { "10.0.0.2:2" };
        let mut build = crate::packet::build::Build::new(source, target);
        build.payload = vec![7; 1_000 - if v6 { 60 } else { 40 }];
        let plain = build.to_packet();
        let with = |ecn: u8| {
            let mut packet = plain.clone();
            packet[1] |= if v6 { ecn << 4 } else { ecn };
            if !v6 {
                packet[10..12].fill(0);
                let sum =
                    !crate::packet::checksum::fold(crate::packet::checksum::sum(&packet[..20]));
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            packet
        };
        let mut link = Link::new(config.clone(), 1, 0);
        // The first three find 2000 bytes or less.
        for ecn in [2, 2, 2, 2, 0] {
            assert_eq!(link.push(0, with(ecn)), Verdict::Queued);
        }
        assert_eq!(link.push(0, with(2)), Verdict::Dropped(DropReason::Queue));
        let arrived: Vec<_> = drain(&mut link).into_iter().map(|(_, packet)| packet).collect();
        assert_eq!(arrived, [with(2), with(2), with(2), with(3), with(0)]);
        assert_eq!(link.counters().marked_packets, 1);
        // ECT(1) is markable, what is marked is not marked again, and what is no packet is let alone.
        for packet in [with(2), with(2), with(2), with(1), with(3)] {
            link.push(MS * 100, packet);
        }
        let arrived: Vec<_> = drain(&mut link).into_iter().map(|(_, packet)| packet).collect();
        assert_eq!(arrived[3..], [with(3), with(3)]);
        assert_eq!(link.counters().marked_packets, 2);
    }
}
