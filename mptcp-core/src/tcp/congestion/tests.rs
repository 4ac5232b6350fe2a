//! Both algorithms on a path that delivers every byte one round-trip time later, and random events
//! for the invariants of the trait.

use super::*;
use crate::config::CongestionAlgorithm;
use proptest::prelude::*;

pub(super) const MSS: u32 = 1_000;
const ALGORITHMS: [CongestionAlgorithm; 2] =
    [CongestionAlgorithm::NewReno, CongestionAlgorithm::Cubic];

/// An acknowledgement that says nothing.
pub(super) fn sample(now: Instant) -> AckSample {
    AckSample {
        now,
        acked: 0,
        acknowledgements: 1,
        rtt: None,
        srtt: Duration::ZERO,
        flight_size: 0,
        cwnd_limited: true,
        in_recovery: false,
        pipe: 0,
        lost: 0,
        delivered: 0,
        rate: None,
    }
}

/// A sender that always has data, acknowledged segment by segment.
struct Path {
    congestion: Congestion,
    now: Instant,
    rtt: Duration,
}

impl Path {
    fn new(algorithm: CongestionAlgorithm, rtt_ms: u64) -> Self {
        let now = Instant::from_millis(1_000);
        let rtt = Duration::from_millis(rtt_ms);
        Self { congestion: Congestion::new(algorithm, MSS, now), now, rtt }
    }

    fn ack(&mut self, acked: u32, cwnd_limited: bool, in_recovery: bool) {
        self.congestion.on_ack(&AckSample {
            now: self.now,
            acked,
            rtt: Some(self.rtt),
            srtt: self.rtt,
            flight_size: self.congestion.cwnd(),
            cwnd_limited,
            in_recovery,
            ..sample(self.now)
        });
    }

    /// One round trip: a window is sent and acknowledged.
    fn round(&mut self) {
        let segments = self.congestion.cwnd() / MSS;
        for _ in 0..segments {
            self.now = self.now + self.rtt / segments;
            self.ack(MSS, true, false);
        }
    }

    fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            self.round();
        }
    }

    /// A loss that is repaired at once.
    fn lose(&mut self) {
        let flight_size = self.congestion.cwnd();
        self.congestion.on_congestion_event(self.now, flight_size);
        self.congestion.on_recovery_exit(self.now);
    }

    /// Into congestion avoidance with a window of `segments`.
    fn settle(&mut self, segments: u32) {
        self.congestion.set_cwnd(segments * MSS);
        self.lose();
    }

    fn segments(&self) -> u32 {
        self.congestion.cwnd() / MSS
    }
}

#[test]
fn initial_windows_are_those_of_rfc_6928() {
    for (mss, window) in [(536, 5_360), (1_428, 14_280), (1_460, 14_600), (4_000, 14_600)] {
        assert_eq!(initial_window(mss), window);
    }
    assert_eq!(initial_window(9_000), 18_000);
    for algorithm in ALGORITHMS {
        let mut congestion = Congestion::new(algorithm, 536, Instant::MIN);
        assert_eq!((congestion.cwnd(), congestion.ssthresh()), (5_360, SSTHRESH_INFINITE));
        congestion.set_mss(1_460);
        assert_eq!(congestion.cwnd(), 14_600);
    }
}

#[test]
fn a_window_in_use_ignores_a_new_mss() {
    for algorithm in ALGORITHMS {
        let mut path = Path::new(algorithm, 100);
        path.round();
        let cwnd = path.congestion.cwnd();
        path.congestion.set_mss(500);
        assert_eq!(path.congestion.cwnd(), cwnd);
        path.congestion.on_rto(path.now, cwnd);
        assert_eq!(path.congestion.cwnd(), 500);
    }
}

#[test]
fn slow_start_doubles_every_round_trip() {
    for algorithm in ALGORITHMS {
        let mut path = Path::new(algorithm, 100);
        for expected in [10, 20, 40, 80, 160] {
            assert_eq!(path.segments(), expected);
            path.round();
        }
    }
}

#[test]
fn an_idle_or_recovering_sender_does_not_grow() {
    for algorithm in ALGORITHMS {
        let mut path = Path::new(algorithm, 100);
        for (cwnd_limited, in_recovery) in [(false, false), (true, true), (false, true)] {
            for _ in 0..100 {
                path.ack(MSS, cwnd_limited, in_recovery);
            }
            assert_eq!(path.segments(), 10);
        }
    }
}

#[test]
fn newreno_halves_and_adds_one_segment_per_round_trip() {
    let mut path = Path::new(CongestionAlgorithm::NewReno, 100);
    path.settle(40);
    assert_eq!((path.segments(), path.congestion.ssthresh()), (20, 20 * MSS));
    for expected in 21..60 {
        path.round();
        assert_eq!(path.segments(), expected);
    }
}

#[test]
fn recovery_ends_at_ssthresh_whatever_rate_reduction_did() {
    for (algorithm, left) in ALGORITHMS.into_iter().zip([50_000, 70_000]) {
        let mut path = Path::new(algorithm, 100);
        path.congestion.set_cwnd(100 * MSS);
        path.congestion.on_congestion_event(path.now, 100 * MSS);
        assert_eq!((path.congestion.cwnd(), path.congestion.ssthresh()), (left, left));
        path.congestion.set_cwnd(5 * MSS);
        assert_eq!(path.congestion.cwnd(), 5 * MSS);
        path.congestion.on_recovery_exit(path.now);
        assert_eq!(path.congestion.cwnd(), left);
    }
}

#[test]
fn a_timeout_leaves_one_segment_and_slow_start() {
    for (algorithm, left) in ALGORITHMS.into_iter().zip([50_000, 70_000]) {
        let mut path = Path::new(algorithm, 100);
        path.congestion.set_cwnd(100 * MSS);
        path.congestion.on_rto(path.now, 100 * MSS);
        // Repeated without progress it must not lower ssthresh to the little still in flight.
        path.congestion.on_rto(path.now, MSS);
        path.congestion.on_rto(path.now, MSS);
        assert_eq!((path.congestion.cwnd(), path.congestion.ssthresh()), (MSS, left));
        let mut recovered = Path::new(algorithm, 100);
        recovered.congestion.on_rto(path.now, 10 * MSS);
        recovered.congestion.on_recovery_exit(path.now);
        assert_eq!(recovered.segments(), 1, "the end of loss recovery is not a jump");
        path.rounds(5);
        assert_eq!(path.segments(), 32);
        path.congestion.on_rto(path.now, 32 * MSS);
        assert!(path.congestion.ssthresh() < left, "progress in between: a new timeout");
    }
}

#[test]
fn reductions_stop_at_two_segments() {
    for algorithm in ALGORITHMS {
        let mut path = Path::new(algorithm, 100);
        path.congestion.on_congestion_event(path.now, 0);
        assert_eq!(path.congestion.ssthresh(), 2 * MSS);
        path.congestion.set_cwnd(0);
        assert_eq!(path.congestion.cwnd(), MSS);
    }
}

#[test]
fn a_reduction_never_raises_the_window() {
    for algorithm in ALGORITHMS {
        let mut path = Path::new(algorithm, 100);
        // After a restart much more can be in flight than the window allows.
        path.congestion.on_congestion_event(path.now, 500 * MSS);
        path.congestion.on_recovery_exit(path.now);
        assert_eq!(path.segments(), 10);
    }
}

#[test]
fn undo_restores_what_a_spurious_reduction_took() {
    for algorithm in ALGORITHMS {
        let mut path = Path::new(algorithm, 100);
        path.congestion.undo(path.now);
        assert_eq!(path.segments(), 10, "nothing to undo");

        path.congestion.set_cwnd(80 * MSS);
        path.congestion.on_congestion_event(path.now, 80 * MSS);
        path.congestion.undo(path.now);
        assert_eq!((path.segments(), path.congestion.ssthresh()), (80, SSTHRESH_INFINITE));
        path.congestion.on_recovery_exit(path.now);
        assert_eq!(path.segments(), 80, "the recovery that never was does not end at ssthresh");

        path.settle(100);
        let (cwnd, ssthresh) = (path.congestion.cwnd(), path.congestion.ssthresh());
        path.congestion.on_rto(path.now, cwnd);
        path.congestion.on_rto(path.now, cwnd);
        path.congestion.undo(path.now);
        assert_eq!((path.congestion.cwnd(), path.congestion.ssthresh()), (cwnd, ssthresh));
        path.congestion.undo(path.now);
        assert_eq!(path.congestion.cwnd(), cwnd, "only once");
    }
}

#[test]
fn a_long_pause_restarts_from_the_initial_window() {
    let rto = Duration::from_millis(300);
    for algorithm in ALGORITHMS {
        let mut path = Path::new(algorithm, 100);
        path.settle(200);
        let cwnd = path.congestion.cwnd();
        path.now = path.now + rto;
        path.congestion.on_idle(path.now, rto, rto);
        assert_eq!(path.congestion.cwnd(), cwnd, "one timeout is not yet idle");
        path.now = path.now + rto * 2;
        path.congestion.on_idle(path.now, rto * 2, rto);
        assert_eq!(path.segments(), 10);
        assert!(path.congestion.ssthresh() >= cwnd / 4 * 3, "slow start leads back");
    }
}

/// Reference: RFC 9438 figure 1, in seconds and segments.
fn cubic_curve(t_s: f64, w_max: f64, cwnd_epoch: f64) -> f64 {
    let k_s = f64::cbrt((w_max - cwnd_epoch) / 0.4);
    0.4 * (t_s - k_s).powi(3) + w_max
}

#[test]
fn cubic_follows_its_curve_through_the_plateau() {
    let mut path = Path::new(CongestionAlgorithm::Cubic, 100);
    path.settle(2_000);
    assert_eq!(path.segments(), 1_400);
    path.round();
    let began = path.now;
    // K is 11.4 s: the concave part, the plateau and the convex part.
    for _ in 0..200 {
        path.round();
        let t_s = path.now.since(began).as_secs_f64();
        let expected = cubic_curve(t_s, 2_000.0, 1_400.0);
        let got = f64::from(path.congestion.cwnd()) / f64::from(MSS);
        assert!((got - expected).abs() < expected * 0.02, "{t_s}: {got}, expected {expected}");
    }
    assert!(path.segments() > 2_150);
}

#[test]
fn cubic_grows_as_fast_on_small_acknowledgements() {
    let mut whole = Path::new(CongestionAlgorithm::Cubic, 100);
    whole.settle(1_000);
    let mut split = Path::new(CongestionAlgorithm::Cubic, 100);
    split.settle(1_000);
    for _ in 0..20 {
        whole.round();
        let acks = split.segments() * 50;
        for _ in 0..acks {
            split.now = split.now + split.rtt / acks;
            split.ack(MSS / 50, true, false);
        }
    }
    assert!(split.segments().abs_diff(whole.segments()) <= 2);
    assert!(split.segments() > 850);
}

/// §4.8: what was lost before a timeout is no aim any more.
#[test]
fn cubic_probes_anew_after_a_timeout() {
    let mut path = Path::new(CongestionAlgorithm::Cubic, 100);
    path.settle(1_000);
    path.congestion.on_rto(path.now, 700 * MSS);
    while path.congestion.cwnd() < path.congestion.ssthresh() {
        path.round();
    }
    let before = path.segments();
    assert_eq!(before, 490);
    path.rounds(20);
    // 2 s: 3 segments by the curve from its inflexion, 11 as Reno; 110 by the old curve.
    assert!((before + 5..before + 20).contains(&path.segments()), "{}", path.segments());
}

#[test]
fn cubic_is_never_slower_than_reno_on_short_paths() {
    let mut path = Path::new(CongestionAlgorithm::Cubic, 10);
    path.settle(40);
    assert_eq!(path.segments(), 28);
    // 12 segments at 9/17 per round trip, then one per round trip.
    path.rounds(23);
    assert!((39..=41).contains(&path.segments()), "{}", path.segments());
    let before = path.segments();
    path.rounds(20);
    assert!((18..=21).contains(&(path.segments() - before)), "{}", path.segments());
}

#[test]
fn cubic_does_not_jump_after_time_without_data() {
    for app_limited in [false, true] {
        let mut path = Path::new(CongestionAlgorithm::Cubic, 100);
        path.settle(1_000);
        path.rounds(5);
        let before = path.segments();
        let pause = Duration::from_secs(60);
        if app_limited {
            for _ in 0..600 {
                path.now = path.now + path.rtt;
                path.ack(MSS, false, false);
            }
        } else {
            path.now = path.now + pause;
            path.congestion.on_idle(path.now, pause, pause * 2);
        }
        assert_eq!(path.segments(), before);
        path.rounds(2);
        assert!(path.segments() < before + before / 10, "{before} {}", path.segments());
    }
}

/// The pause counts once, though the first acknowledgement after it is not limited by the window.
#[test]
fn cubic_continues_its_curve_after_a_pause() {
    let pause = Duration::from_secs(5);
    let grown = |paused: bool| {
        let mut path = Path::new(CongestionAlgorithm::Cubic, 100);
        path.settle(1_000);
        path.rounds(20);
        if paused {
            path.now = path.now + pause;
            path.congestion.on_idle(path.now, pause, pause);
            path.ack(MSS, false, false);
        }
        path.rounds(5);
        path.segments()
    };
    assert!(grown(true).abs_diff(grown(false)) <= 1, "{} {}", grown(true), grown(false));
}

/// In front of a shut window a sender looks again and again whether it may send, and each time it has been idle for longer.
#[test]
fn cubic_pauses_once_however_often_it_is_told() {
    let rto = Duration::from_millis(300);
    let grown = |times: u32| {
        let mut path = Path::new(CongestionAlgorithm::Cubic, 100);
        path.settle(12);
        path.rounds(3);
        assert!(path.segments() < 10, "no more than a restart leaves");
        let pause = Duration::from_secs(60);
        for n in 1..=times {
            path.now = path.now + pause / times;
            path.congestion.on_idle(path.now, pause / times * n, rto);
        }
        path.rounds(100);
        path.segments()
    };
    // 10 s after the pause; Reno would have 110.
    assert!(grown(1) > 180, "{}", grown(1));
    assert_eq!(grown(60), grown(1));
}

#[test]
fn cubic_grows_by_half_per_round_trip_at_most() {
    let mut path = Path::new(CongestionAlgorithm::Cubic, 5_000);
    path.settle(20);
    for _ in 0..20 {
        let before = path.congestion.cwnd();
        path.round();
        // Acknowledgements of one round trip compound: (1 + 0.5/n)^n < e^0.5.
        assert!(f64::from(path.congestion.cwnd()) < f64::from(before) * 1.65);
    }
}

#[test]
fn cubic_continues_its_curve_after_a_spurious_loss() {
    let mut disturbed = Path::new(CongestionAlgorithm::Cubic, 100);
    disturbed.settle(1_000);
    let mut calm = Path::new(CongestionAlgorithm::Cubic, 100);
    calm.settle(1_000);
    for round in 0..60 {
        disturbed.round();
        calm.round();
        if round == 30 {
            let flight_size = disturbed.congestion.cwnd();
            disturbed.congestion.on_congestion_event(disturbed.now, flight_size);
            disturbed.congestion.undo(disturbed.now);
        }
    }
    assert_eq!(disturbed.congestion.cwnd(), calm.congestion.cwnd());
}

/// From 100 segments on a queue grows, by a millisecond for every ten segments.
#[test]
fn cubic_leaves_slow_start_when_the_queue_grows() {
    let mut path = Path::new(CongestionAlgorithm::Cubic, 50);
    let mut rounds = 0;
    while path.congestion.ssthresh() == SSTHRESH_INFINITE {
        let queued = u64::from(path.segments().saturating_sub(100));
        path.rtt = Duration::from_micros(50_000 + queued * 100);
        path.round();
        rounds += 1;
        assert!(rounds < 14, "slow start went on to {}", path.segments());
    }
    // Noticed at 320, then five rounds of a quarter more each; doubling would reach 10,000.
    assert!((320..2_000).contains(&path.segments()), "{}", path.segments());
    assert_eq!(path.congestion.ssthresh() / MSS, path.segments());
}

/// One longer round trip makes slow start careful, the next normal one makes it itself again.
#[test]
fn cubic_resumes_slow_start_when_the_rise_was_no_queue() {
    let mut path = Path::new(CongestionAlgorithm::Cubic, 50);
    path.rounds(4);
    assert_eq!(path.segments(), 160);
    path.rtt = Duration::from_millis(80);
    path.round();
    assert!(path.segments() < 320, "{}", path.segments());
    path.rtt = Duration::from_millis(50);
    for _ in 0..6 {
        path.round();
    }
    assert!(path.segments() > 6_000, "{}", path.segments());
    assert_eq!(path.congestion.ssthresh(), SSTHRESH_INFINITE);
}

/// Jitter above an unchanged minimum is no queue.
#[test]
fn cubic_stays_in_slow_start_when_the_path_only_jitters() {
    let mut path = Path::new(CongestionAlgorithm::Cubic, 50);
    let mut sample = 0;
    while path.segments() < 5_000 {
        let segments = path.segments();
        for _ in 0..segments {
            path.rtt = Duration::from_millis(50 + sample * 7 % 31);
            sample += 1;
            path.ack(MSS, true, false);
        }
    }
    assert_eq!(path.congestion.ssthresh(), SSTHRESH_INFINITE);
}

/// Two subflows with equal windows and round trips grow by a quarter of a segment per round trip each:
/// together half of what one TCP of their sum would, and their losses come twice as often.
#[test]
fn coupled_twins_grow_by_a_quarter_each() {
    for algorithm in
        [CongestionAlgorithm::Lia, CongestionAlgorithm::Olia, CongestionAlgorithm::Balia]
    {
        let mut path = Path::new(algorithm, 100);
        path.settle(80);
        path.congestion.set_cwnd(40 * MSS);
        path.congestion.on_recovery_exit(path.now);
        for _ in 0..16 {
            let me = path.congestion.member(path.rtt).expect("coupled");
            let siblings = Siblings::of([me, me].into_iter(), 0);
            path.congestion.set_siblings(path.now, siblings);
            path.round();
        }
        let grown = path.congestion.cwnd() - 40 * MSS;
        assert!((3_500..=4_200).contains(&grown), "{algorithm:?}: {grown}");
    }
}

/// RFC 6356 §3: `ssthresh` of a flow in fast retransmit, however little of it is in flight then.
#[test]
fn coupled_in_a_recovery_they_count_for_what_they_will_have() {
    let mut path = Path::new(CongestionAlgorithm::Lia, 100);
    path.congestion.set_cwnd(100 * MSS);
    let counts = |path: &Path| path.congestion.member(path.rtt).expect("coupled").cwnd / MSS;
    path.congestion.on_congestion_event(path.now, 100 * MSS);
    path.congestion.set_cwnd(2 * MSS);
    assert_eq!(counts(&path), 50);
    path.congestion.on_recovery_exit(path.now);
    assert_eq!(counts(&path), 50);
    path.congestion.on_rto(path.now, 50 * MSS);
    assert_eq!(counts(&path), 1);
}

/// Alone they are `NewReno`.
#[test]
fn coupled_with_nobody_they_are_reno() {
    for algorithm in
        [CongestionAlgorithm::Lia, CongestionAlgorithm::Olia, CongestionAlgorithm::Balia]
    {
        let mut path = Path::new(algorithm, 100);
        path.settle(40);
        assert_eq!(path.segments(), 20);
        path.rounds(20);
        assert!((39..=40).contains(&path.segments()), "{algorithm:?}: {}", path.segments());
    }
}

/// OLIA moves windows to the path that loses least, from the one that has most.
#[test]
fn olia_opens_the_best_path_and_shuts_the_widest() {
    let rtt = Duration::from_millis(50);
    let best = Member { cwnd: 10_000, rtt, between_losses: 900_000 };
    let wide = Member { cwnd: 90_000, rtt, between_losses: 100_000 };
    let members = [best, wide].into_iter();
    let grown = |own: usize| {
        let mut olia = Coupled::new(Coupling::Olia, MSS, Instant::MIN);
        olia.set_cwnd([best, wide][own].cwnd);
        olia.on_congestion_event(Instant::MIN, [best, wide][own].cwnd * 2);
        olia.on_recovery_exit(Instant::MIN);
        let before = olia.cwnd();
        olia.set_siblings(Instant::MIN, Siblings::of(members.clone(), own));
        let acks = before / MSS * 4;
        for _ in 0..acks {
            olia.on_ack(&AckSample { acked: MSS, srtt: rtt, ..sample(Instant::MIN) });
        }
        i64::from(olia.cwnd()) - i64::from(before)
    };
    assert!(grown(0) > 1_500, "{}", grown(0));
    assert!(grown(1) < 1_500, "{}", grown(1));
}

/// Behind a loss the window is `ssthresh`: what OLIA takes from the widest path then is no slow start's to bring back.
#[test]
fn olia_shuts_the_widest_path_behind_a_loss_as_well() {
    let rtt = Duration::from_millis(50);
    let best = Member { cwnd: 40_000, rtt, between_losses: 900_000 };
    let wide = Member { cwnd: 50_000, rtt, between_losses: 100_000 };
    let mut olia = Coupled::new(Coupling::Olia, MSS, Instant::MIN);
    olia.set_cwnd(100_000);
    olia.on_congestion_event(Instant::MIN, 100_000);
    olia.on_recovery_exit(Instant::MIN);
    assert_eq!((olia.cwnd(), olia.ssthresh()), (50_000, 50_000));
    olia.set_siblings(Instant::MIN, Siblings::of([best, wide].into_iter(), 1));
    // Twenty windows, each of which takes a fifth of a segment: 25/81 of one come, a half goes.
    for _ in 0..1_000 {
        olia.on_ack(&AckSample { acked: MSS, srtt: rtt, ..sample(Instant::MIN) });
    }
    assert!((44_000..=48_000).contains(&olia.cwnd()), "{}", olia.cwnd());
}

#[derive(Clone, Debug)]
enum Event {
    Ack { acked: u32, rtt_us: u32, cwnd_limited: bool, in_recovery: bool },
    Congestion(u32),
    Timeout(u32),
    RecoveryExit,
    Undo,
    Idle(u32),
    SetCwnd(u32),
    SetMss(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let ack = (any::<u32>(), 0u32..32, any::<u32>(), any::<bool>(), any::<bool>()).prop_map(
        |(acked, shift, rtt_us, cwnd_limited, in_recovery)| Event::Ack {
            acked: acked >> shift,
            rtt_us,
            cwnd_limited,
            in_recovery,
        },
    );
    prop_oneof![
        10 => ack,
        1 => any::<u32>().prop_map(Event::Congestion),
        1 => any::<u32>().prop_map(Event::Timeout),
        1 => Just(Event::RecoveryExit),
        1 => Just(Event::Undo),
        1 => any::<u32>().prop_map(Event::Idle),
        1 => any::<u32>().prop_map(Event::SetCwnd),
        1 => (0u32..100_000).prop_map(Event::SetMss),
    ]
}

proptest! {
    /// No order of events with whatever numbers panics, or leaves the window without a segment.
    #[test]
    fn windows_stay_in_bounds(
        events in prop::collection::vec((event(), 0u64..10_000_000_000), 1..100),
        which in 0..CongestionAlgorithm::ALL.len(),
    ) {
        let algorithm = CongestionAlgorithm::ALL[which];
        // A model may say less than before, and OLIA takes from one path what it gives to another.
        let monotonous =
            !matches!(algorithm, CongestionAlgorithm::Bbr | CongestionAlgorithm::Olia);
        let mut delivered = 0_u32;
        let mut now = Instant::from_millis(1);
        let mut mss = MSS;
        let mut congestion = Congestion::new(algorithm, mss, now);
        for (event, elapsed_ns) in events {
            now = now + Duration::from_nanos(elapsed_ns);
            let before = congestion.cwnd();
            match event {
                Event::Ack { acked, rtt_us, cwnd_limited, in_recovery } => {
                    let rtt = Duration::from_micros(u64::from(rtt_us));
                    let prior_delivered = delivered;
                    delivered = delivered.wrapping_add(acked);
                    let interval = Duration::from_nanos(elapsed_ns.max(1));
                    let rate = Some(RateSample {
                        delivered: acked, interval, sent_at: now, prior_delivered, in_flight: before,
                        app_limited: in_recovery,
                    });
                    congestion.on_ack(&AckSample {
                        now, acked, acknowledgements: 1, rtt: Some(rtt), srtt: rtt, flight_size: before, cwnd_limited,
                        in_recovery, pipe: acked >> 1, lost: rtt_us >> 8, delivered, rate,
                    });
                    prop_assert!(!monotonous || congestion.cwnd() >= before);
                    prop_assert!(!monotonous || congestion.cwnd() == before || cwnd_limited && !in_recovery);
                }
                Event::Congestion(flight_size) => {
                    congestion.on_congestion_event(now, flight_size);
                    prop_assert!(congestion.cwnd() <= before);
                    prop_assert!(!monotonous || congestion.ssthresh() >= 2 * mss);
                }
                Event::Timeout(flight_size) => {
                    congestion.on_rto(now, flight_size);
                    prop_assert_eq!(congestion.cwnd(), mss);
                    prop_assert!(!monotonous || congestion.ssthresh() >= 2 * mss);
                }
                Event::RecoveryExit => congestion.on_recovery_exit(now),
                Event::Undo => {
                    congestion.undo(now);
                    prop_assert!(congestion.cwnd() >= before);
                }
                Event::Idle(us) => {
                    let idle = Duration::from_micros(u64::from(us));
                    congestion.on_idle(now, idle, Duration::from_secs(1));
                    prop_assert!(congestion.cwnd() <= before);
                }
                Event::SetCwnd(cwnd) => {
                    congestion.set_cwnd(cwnd);
                    prop_assert_eq!(congestion.cwnd(), cwnd.clamp(mss, CWND_MAX));
                }
                Event::SetMss(new) => {
                    mss = new.max(1);
                    congestion.set_mss(new);
                }
            }
            let srtt = Duration::from_nanos(elapsed_ns);
            prop_assert!(congestion.pacing_rate(srtt, before).is_none_or(|rate| rate > 0 || before < 9));
            prop_assert!(congestion.cwnd() >= mss && congestion.cwnd() <= CWND_MAX);
        }
    }
}

/// RFC 3168 §6.1.2: a mark reduces like a loss, and nothing shows later that it was spurious.
#[test]
fn a_mark_reduces_for_good() {
    for algorithm in CongestionAlgorithm::ALL {
        let mut path = Path::new(algorithm, 100);
        path.round();
        path.round();
        let before = path.congestion.cwnd();
        path.congestion.on_ecn(path.now, before);
        path.congestion.undo(path.now);
        path.congestion.on_recovery_exit(path.now);
        assert!(path.congestion.ssthresh() <= before, "{algorithm:?} ends its start");
        if !path.congestion.governs() {
            assert!(path.congestion.cwnd() <= before * 7 / 10, "{algorithm:?}");
            assert_eq!(path.congestion.cwnd(), path.congestion.ssthresh(), "{algorithm:?}");
        }
    }
}
