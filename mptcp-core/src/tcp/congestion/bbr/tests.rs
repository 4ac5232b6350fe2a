use super::*;
use crate::tcp::congestion::tests::{MSS, sample};
use crate::tcp::congestion::{CWND_MAX, RateSample};

/// A path of `mbit` and `rtt_ms`: delivers a window per round trip, at most what the link carries.
fn feed_bbr(bbr: &mut Bbr, now: &mut Instant, rounds: u32, mbit: u64, rtt_ms: u64, loss: u32) {
    let base = Duration::from_millis(rtt_ms);
    for _ in 0..rounds {
        let carried = u32::try_from(mbit * 125 * rtt_ms).expect("a small product");
        let pace = bbr.pacing_rate(base, 0).expect("a round trip is known") * rtt_ms / 1_000;
        let flight = bbr.cwnd().min(u32::try_from(pace).unwrap_or(u32::MAX)).max(4 * MSS);
        // What is more than the product waits in a queue.
        let rtt = base.max(base * flight / carried);
        let delivered = flight.min(carried);
        let prior = bbr_delivered(bbr);
        *now = *now + rtt;
        bbr.on_ack(&AckSample {
            acked: flight - flight / 100 * loss,
            rtt: Some(rtt),
            srtt: rtt,
            flight_size: flight,
            pipe: flight,
            lost: flight / 100 * loss,
            delivered: prior.wrapping_add(flight),
            rate: Some(RateSample {
                delivered,
                sent_at: *now - rtt,
                interval: if flight > carried { base } else { rtt },
                prior_delivered: prior,
                in_flight: flight,
                app_limited: false,
            }),
            ..sample(*now)
        });
    }
}

/// The count at which the next round trip begins: what an acknowledgement of a segment sent now says.
fn bbr_delivered(bbr: &Bbr) -> u32 {
    bbr.next_round_at()
}

#[test]
fn bbr_learns_the_bandwidth_and_keeps_two_products_in_flight() {
    let (mut now, mut bbr) =
        (Instant::from_millis(1_000), Bbr::new(MSS, Instant::from_millis(1_000)));
    feed_bbr(&mut bbr, &mut now, 30, 80, 20, 0);
    let bandwidth = bbr.bandwidth(Duration::from_millis(20)).expect("measured");
    assert!((9_900_000..=10_000_000).contains(&bandwidth), "{bandwidth}");
    // 80 Mbit/s times 20 ms are 200 KB.
    assert!((400_000..=520_000).contains(&bbr.cwnd()), "{}", bbr.cwnd());
    assert_ne!(bbr.ssthresh(), SSTHRESH_INFINITE, "the start is over");
}

#[test]
fn bbr_shrugs_at_one_per_cent_and_yields_to_more() {
    let start = Instant::from_millis(1_000);
    for (loss, least, most) in [(1, 9_900_000, 10_000_000), (20, 0, 10_000_000)] {
        let (mut now, mut bbr) = (start, Bbr::new(MSS, start));
        feed_bbr(&mut bbr, &mut now, 30, 80, 20, 0);
        feed_bbr(&mut bbr, &mut now, 40, 80, 20, loss);
        let bandwidth = bbr.bandwidth(Duration::from_millis(20)).expect("measured");
        assert!((least..=most).contains(&bandwidth), "{loss} %: {bandwidth}");
        let bounded = bbr.cwnd() < 260_000;
        assert_eq!(bounded, loss == 20, "{loss} %: {}", bbr.cwnd());
    }
}

/// The largest rate for the longest round trip that the model can express.
#[test]
fn bbr_takes_any_rate_and_round_trip() {
    let now = Instant::from_millis(1_000);
    let mut bbr = Bbr::new(MSS, now);
    for rtt_s in [4_000, 8_000] {
        let interval = Duration::from_nanos(1);
        let delivered = u32::MAX;
        let (prior_delivered, in_flight, app_limited) = (0, MSS, false);
        bbr.on_ack(&AckSample {
            acked: MSS,
            rtt: Some(Duration::from_secs(rtt_s)),
            rate: Some(RateSample {
                delivered,
                interval,
                sent_at: now,
                prior_delivered,
                in_flight,
                app_limited,
            }),
            ..sample(now)
        });
    }
    assert!(bbr.cwnd() <= CWND_MAX && bbr.pacing_rate(Duration::ZERO, 0).is_some());
}

/// A subflow that nobody needed for a minute, and whose path became longer meanwhile: nothing of its own waits in any queue,
/// and the first round trip tells.
#[test]
fn after_a_long_pause_the_shortest_round_trip_is_measured_anew() {
    let start = Instant::from_millis(1_000);
    let (mut now, mut bbr) = (start, Bbr::new(MSS, start));
    feed_bbr(&mut bbr, &mut now, 30, 80, 20, 0);
    let pause = Duration::from_secs(60);
    now = now + pause;
    bbr.on_idle(now, pause, Duration::from_secs(1));
    feed_bbr(&mut bbr, &mut now, 10, 80, 120, 0);
    // 80 Mbit/s times 120 ms are 1.2 MB.
    assert!(bbr.cwnd() >= 1_200_000, "{}", bbr.cwnd());
}

/// The last acknowledgement before a pause begins a probe of the round trip, and the first one behind it measures none: it is
/// for what was sent twice, to a peer without timestamps.
#[test]
fn a_probe_of_the_round_trip_ends_after_a_long_pause() {
    let start = Instant::from_millis(1_000);
    let (mut now, mut bbr) = (start, Bbr::new(MSS, start));
    feed_bbr(&mut bbr, &mut now, 30, 80, 20, 0);
    now = now + MIN_RTT_WINDOW + Duration::from_secs(1);
    bbr.on_ack(&AckSample { acked: MSS, ..sample(now) });
    assert_eq!(bbr.mode, Mode::ProbeRtt);
    let pause = Duration::from_secs(60);
    now = now + pause;
    bbr.on_idle(now, pause, Duration::from_secs(1));
    bbr.on_ack(&AckSample { acked: MSS, ..sample(now) });
    for _ in 0..50 {
        now = now + Duration::from_millis(20);
        let rtt = Some(Duration::from_millis(20));
        bbr.on_ack(&AckSample { acked: MSS, rtt, ..sample(now) });
    }
    assert_ne!(bbr.mode, Mode::ProbeRtt);
}

/// What a round trip of `carried` octets shows, with so many in flight; the connection's count before and after it.
fn round(
    now: Instant,
    rtt: Duration,
    (carried, flight): (u32, u32),
    [prior_delivered, delivered]: [u32; 2],
) -> AckSample {
    AckSample {
        acked: carried,
        rtt: Some(rtt),
        srtt: rtt,
        flight_size: flight,
        pipe: flight,
        delivered,
        rate: Some(RateSample {
            delivered: carried,
            interval: rtt,
            sent_at: now - rtt,
            prior_delivered,
            in_flight: flight,
            app_limited: false,
        }),
        ..sample(now)
    }
}

/// What a connection has delivered is counted on when an algorithm takes over in the middle, and wraps.
#[test]
fn bbr_counts_round_trips_from_where_it_takes_over() {
    let start = Instant::from_millis(1_000);
    let (rtt, carried) = (Duration::from_millis(20), 100 * MSS);
    for before in [0, 1 << 30, 1 << 31, 3 << 30, u32::MAX] {
        let (mut now, mut bbr, mut prior_delivered) = (start, Bbr::new(MSS, start), before);
        for _ in 0..20 {
            now = now + rtt;
            let (flight, delivered) = (bbr.cwnd(), prior_delivered.wrapping_add(carried));
            bbr.on_ack(&round(now, rtt, (carried, flight), [prior_delivered, delivered]));
            prior_delivered = delivered;
        }
        assert!(bbr.full, "{before}: the start never ends");
    }
}

#[test]
fn bbr_follows_a_link_that_changes() {
    let start = Instant::from_millis(1_000);
    let (mut now, mut bbr) = (start, Bbr::new(MSS, start));
    feed_bbr(&mut bbr, &mut now, 30, 80, 20, 0);
    for mbit in [20, 160] {
        feed_bbr(&mut bbr, &mut now, 160, mbit, 20, 0);
        let bandwidth = bbr.bandwidth(Duration::from_millis(20)).expect("measured");
        let carried = mbit * 125_000;
        assert!(bandwidth.abs_diff(carried) <= carried / 50, "{mbit}: {bandwidth}");
    }
}

/// While the start's queue runs out the path becomes longer, or somebody else fills it: at no pace of ours does what fits
/// into the shortest round trip come to all that is in flight.
#[test]
fn a_drain_ends_where_the_round_trip_stays_long() {
    let rtt = Duration::from_millis(60);
    let (mut now, mut delivered) = (Instant::from_millis(1_000), 0);
    let mut bbr = Bbr::new(MSS, now);
    // 10 MB/s, and 20 ms that were the shortest.
    (bbr.full, bbr.max_bw, bbr.min_rtt_us) = (true, [0, 1_250_000], 20_000);
    bbr.enter(Mode::Drain, now);
    for _ in 0..10 {
        let rate = bbr.pacing_rate(rtt, 0).expect("measured");
        let flight = u32::try_from(rate * 60 / 1_000).expect("a small product");
        let prior_delivered = delivered;
        delivered += flight;
        now = now + rtt;
        bbr.on_ack(&round(now, rtt, (flight, flight), [prior_delivered, delivered]));
    }
    assert_ne!(bbr.mode, Mode::Drain);
}

/// A start that ends after three round trips in which four of five octets were lost: the model is a
/// hundredth of what the path carries afterwards.
#[test]
fn bbr_starts_anew_once_a_storm_is_over() {
    let start = Instant::from_millis(1_000);
    let (mut now, mut bbr) = (start, Bbr::new(MSS, start));
    feed_bbr(&mut bbr, &mut now, 3, 1, 20, 80);
    let bandwidth = |bbr: &Bbr| bbr.bandwidth(Duration::from_millis(20)).expect("measured");
    assert!(bandwidth(&bbr) < 500_000 && bbr.full, "{}", bandwidth(&bbr));
    feed_bbr(&mut bbr, &mut now, 60, 80, 20, 0);
    assert!(bandwidth(&bbr) > 9_000_000, "{}", bandwidth(&bbr));
    // And a path that carries no more than it did is not taken for another one.
    let (mut starts, mut before) = (0, bbr.mode);
    for _ in 0..500 {
        feed_bbr(&mut bbr, &mut now, 1, 80, 20, 0);
        starts += u32::from(bbr.mode == Mode::Startup && before != Mode::Startup);
        before = bbr.mode;
    }
    assert_eq!(starts, 0);
}

/// However long the round trip, what a probe has in flight is enough to find that there is more, and a start held back by
/// trains to find that they were wrong.
#[test]
fn a_probe_can_find_more_at_any_round_trip() {
    let mut bbr = Bbr::new(MSS, Instant::from_millis(1_000));
    for rtt_ms in [5, 20, 100, 200, 300, 600, 1_500] {
        bbr.min_rtt_us = rtt_ms * 1_000;
        for bw in [125_000, 1_250_000] {
            let (bdp, target) = (u64::from(bbr.product(bw, 100)), bbr.probe_target(bw));
            let per_cent = u64::from(target) * 100 / bdp;
            assert!(per_cent >= TRAIN_REFUTED_PER_CENT.max(FOUND_PER_CENT), "{rtt_ms}: {per_cent}");
            assert!(per_cent <= 125 || u64::from(target) <= bdp + u64::from(MSS));
        }
    }
}

/// The first window leaves at once; what the acknowledgements of it, two segments each and `gap_us`
/// apart, let the start do when the whole window was delivered.
fn after_first_window(gaps_us: &[u64]) -> (u64, u32) {
    let sent_at = Instant::from_millis(1_000);
    let rtt = Duration::from_millis(80);
    let mut bbr = Bbr::new(MSS, sent_at);
    let (mut now, mut delivered) = (sent_at + rtt, 0);
    for gap_us in gaps_us {
        now = now + Duration::from_micros(*gap_us);
        delivered += 2 * MSS;
        bbr.on_ack(&AckSample {
            acked: 2 * MSS,
            rtt: Some(now.since(sent_at)),
            srtt: rtt,
            flight_size: bbr.cwnd(),
            cwnd_limited: true,
            pipe: bbr.cwnd(),
            delivered,
            rate: Some(RateSample {
                delivered,
                interval: now.since(sent_at),
                sent_at,
                prior_delivered: 0,
                in_flight: delivered,
                app_limited: false,
            }),
            ..sample(now)
        });
    }
    // As if it had grown for long.
    bbr.cwnd = 1_000 * MSS;
    (bbr.pacing_rate(rtt, 0).expect("measured"), bbr.cwnd())
}

/// Two segments in 480 microseconds are 50 Mbit/s: the start will send at that, not at what its window
/// comes to.
#[test]
fn a_start_sends_as_fast_as_trains_arrive() {
    let bottleneck = u64::from(2 * MSS) * 1_000_000 / 480;
    let (rate, _) = after_first_window(&[0, 480, 480, 480, 480]);
    assert!(rate.abs_diff(bottleneck) <= bottleneck / 100, "{rate} of {bottleneck}");
    // One acknowledgement that the receiver delayed is not the path's.
    let (rate, _) = after_first_window(&[0, 480, 480, 40_000, 480, 480]);
    assert!(rate.abs_diff(bottleneck) <= bottleneck / 100, "{rate} of {bottleneck}");
}

#[test]
fn acknowledgements_that_came_together_hold_no_start_back() {
    let window = u64::from(1_000 * MSS) * 1_000 / 80;
    for gaps in [&[0, 0, 0, 0, 0][..], &[0, 480, 480]] {
        let (rate, _) = after_first_window(gaps);
        assert!(rate >= window, "{gaps:?}: {rate}");
    }
}

/// A recovery that was none takes back what it changed, not what was learnt long before.
#[test]
fn an_undo_takes_back_what_its_recovery_did() {
    let now = Instant::from_millis(1_000);
    let mut bbr = Bbr::new(MSS, now);
    bbr.full = true;
    let lose = |bbr: &mut Bbr, carried: u32| {
        bbr.on_congestion_event(now, 200 * MSS);
        bbr.enter(Mode::Up, now);
        bbr.back_off(now, carried * MSS);
        assert_eq!(bbr.inflight_hi, carried * MSS);
    };
    lose(&mut bbr, 100);
    bbr.on_recovery_exit(now);
    bbr.on_congestion_event(now, 200 * MSS);
    bbr.undo(now);
    assert_eq!(bbr.inflight_hi, 100 * MSS, "what the one before found");
    bbr.on_rto(now, 200 * MSS);
    bbr.undo(now);
    assert_eq!(bbr.inflight_hi, 100 * MSS, "the same after a timeout");
    lose(&mut bbr, 50);
    bbr.undo(now);
    assert_eq!(bbr.inflight_hi, 100 * MSS, "what it did itself");
}

/// A window that doubles with what is acknowledged, from the first round trip on.
#[test]
fn the_window_of_a_start_waits_for_no_sample() {
    let start = Instant::from_millis(1_000);
    let mut bbr = Bbr::new(MSS, start);
    let first = bbr.cwnd();
    let mut acked = 0;
    while acked < first {
        acked += MSS;
        bbr.on_ack(&AckSample {
            acked: MSS,
            rtt: Some(Duration::from_millis(80)),
            cwnd_limited: true,
            rate: Some(RateSample {
                delivered: acked,
                interval: Duration::from_millis(80),
                sent_at: start,
                prior_delivered: 0,
                in_flight: first,
                app_limited: false,
            }),
            ..sample(start + Duration::from_millis(80))
        });
    }
    assert_eq!(bbr.cwnd(), first + acked);
}

/// What was spread by something else than the bottleneck costs a few round trips, not the start.
#[test]
fn trains_that_were_spread_hold_a_start_back_for_a_while_only() {
    let start = Instant::from_millis(1_000);
    let rtt = Duration::from_millis(20);
    let (mut now, mut bbr, mut delivered) = (start, Bbr::new(MSS, start), 0);
    let mut rounds = 0;
    // The first window took 8 ms to arrive, 10 Mbit/s, and then whatever is sent does: 400 Mbit/s are
    // asked for.
    while bbr.bandwidth(rtt).is_none_or(|bandwidth| bandwidth < 50_000_000) {
        let flight = match rounds {
            0 => bbr.cwnd(),
            _ => u32::try_from(bbr.pacing_rate(rtt, 0).expect("known") / 50).expect("small"),
        };
        let (sent_at, prior_delivered) = (now, delivered);
        now = now + rtt;
        for part in 0..5_u64 {
            delivered += flight / 5;
            let at = if rounds == 0 { now + Duration::from_micros(2_000 * part) } else { now };
            bbr.on_ack(&AckSample {
                acked: flight / 5,
                rtt: Some(rtt),
                srtt: rtt,
                flight_size: flight,
                pipe: flight,
                delivered,
                rate: Some(RateSample {
                    delivered: delivered - prior_delivered,
                    interval: rtt,
                    sent_at: if rounds == 0 {
                        sent_at
                    } else {
                        sent_at + Duration::from_micros(part)
                    },
                    prior_delivered,
                    in_flight: flight,
                    app_limited: false,
                }),
                ..sample(at)
            });
        }
        rounds += 1;
        assert!(rounds < 10, "{:?}", bbr.bandwidth(rtt));
    }
}
