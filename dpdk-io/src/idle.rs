//! What a loop does when it finds nothing: spin, pause, then sleep a little longer each time.
//!
//! Invariant: no sleep is longer than the time the loop has been idle, a quarter of it by default, so that
//! what arrives next waits in proportion to the silence before it; nor does it pass the next deadline.

use crate::config::IdleMode;
use mptcp_core::time::{Duration, Instant};

/// Idle turns before the first pause.
const SPIN_TURNS: u32 = 32;
/// Longest sleep of the default ladder.
pub const MAX_SLEEP: Duration = Duration::from_micros(500);
/// Shorter sleeps cost more than they give.
const MIN_SLEEP: Duration = Duration::from_micros(1);

/// When a loop sleeps, and for how long.
#[derive(Clone, Copy, Debug)]
struct Ladder {
    /// Idle turns before the first sleep.
    awake_turns: u32,
    /// A sleep is at most the silence so far, divided by this.
    part: u32,
    longest: Duration,
}

impl IdleMode {
    /// `None`: it does not sleep.
    const fn ladder(self) -> Option<Ladder> {
        match self {
            // Few turns: on a small machine somebody else needs the core.
            Self::Adaptive => Some(Ladder { awake_turns: 64, part: 4, longest: MAX_SLEEP }),
            // As much as a ring of 1024 descriptors takes at 6 Gbit/s of full frames.
            Self::Power => {
                Some(Ladder { awake_turns: 8, part: 1, longest: Duration::from_millis(2) })
            }
            Self::Latency => None,
        }
    }
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// Poll again at once.
    Spin,
    /// Give the sibling hyperthread a moment.
    Pause,
    /// Give the core away.
    Sleep(Duration),
}

/// Where one loop stands on its ladder.
#[derive(Clone, Debug)]
pub struct Idle {
    mode: IdleMode,
    turns: u32,
    since: Option<Instant>,
}

impl Idle {
    /// A loop that has just been busy.
    #[must_use]
    pub const fn new(mode: IdleMode) -> Self {
        Self { mode, turns: 0, since: None }
    }

    /// The loop found something to do.
    pub fn busy(&mut self) {
        (self.turns, self.since) = (0, None);
    }

    /// The loop found nothing at `now` and has nothing to do before `deadline`.
    pub fn rest(&mut self, now: Instant, deadline: Option<Instant>) -> Rest {
        let since = *self.since.get_or_insert(now);
        self.turns = self.turns.saturating_add(1);
        let awake = if self.turns <= SPIN_TURNS { Rest::Spin } else { Rest::Pause };
        let Some(ladder) = self.mode.ladder().filter(|ladder| self.turns > ladder.awake_turns)
        else {
            return awake;
        };
        let wish = (now.since(since) / ladder.part).clamp(MIN_SLEEP, ladder.longest);
        let sleep = deadline.map_or(wish, |deadline| wish.min(deadline.since(now)));
        if sleep < MIN_SLEEP { Rest::Pause } else { Rest::Sleep(sleep) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a loop does that finds nothing in `turns` turns of 200 ns.
    fn rests(idle: &mut Idle, turns: usize) -> Vec<Rest> {
        let mut now = Instant::from_millis(5);
        let turn = |_| {
            let rest = idle.rest(now, None);
            now = now
                + match rest {
                    Rest::Sleep(sleep) => sleep,
                    _ => Duration::from_nanos(200),
                };
            rest
        };
        (0..turns).map(turn).collect()
    }

    #[test]
    fn the_ladder_is_climbed_and_left() {
        let mut idle = Idle::new(IdleMode::Adaptive);
        let rests = rests(&mut idle, 400);
        assert_eq!(rests.iter().filter(|rest| **rest == Rest::Spin).count(), 32);
        assert_eq!(rests.iter().filter(|rest| **rest == Rest::Pause).count(), 32);
        assert_eq!(rests[64], Rest::Sleep(Duration::from_nanos(3200)));
        assert_eq!(rests.last(), Some(&Rest::Sleep(MAX_SLEEP)));
        idle.busy();
        assert_eq!(idle.rest(Instant::from_millis(9000), None), Rest::Spin);
    }

    #[test]
    fn for_latency_nobody_sleeps() {
        let mut idle = Idle::new(IdleMode::Latency);
        let rests = rests(&mut idle, 100_000);
        assert!(rests.iter().all(|rest| matches!(rest, Rest::Spin | Rest::Pause)));
        assert_eq!(rests.last(), Some(&Rest::Pause));
    }

    #[test]
    fn for_power_sleep_comes_early_and_is_long() {
        let mut idle = Idle::new(IdleMode::Power);
        let rests = rests(&mut idle, 100);
        assert!(rests[..8].iter().all(|rest| *rest == Rest::Spin));
        assert_eq!(rests[8], Rest::Sleep(Duration::from_nanos(1600)));
        assert_eq!(rests[9], Rest::Sleep(Duration::from_nanos(3200)), "as long as it was silent");
        assert_eq!(rests.last(), Some(&Rest::Sleep(Duration::from_millis(2))));
    }

    #[test]
    fn deadlines_are_not_slept_through() {
        for mode in [IdleMode::Adaptive, IdleMode::Power] {
            let mut idle = Idle::new(mode);
            let start = Instant::from_millis(5);
            for _ in 0..64 {
                idle.rest(start, None);
            }
            let now = start + Duration::from_millis(10);
            let near = Some(now + Duration::from_micros(30));
            assert_eq!(idle.rest(now, near), Rest::Sleep(Duration::from_micros(30)));
            assert_eq!(idle.rest(now, Some(now)), Rest::Pause);
            assert_eq!(idle.rest(now, Some(start)), Rest::Pause, "overdue");
        }
    }
}
