//! What a loop does when it finds nothing: spin, pause, then sleep a little longer each time.
//!
//! Invariant: no sleep is longer than a quarter of the time the loop has been idle, so that what
//! arrives next waits in proportion to the silence before it; nor does it pass the next deadline.

use mptcp_core::time::{Duration, Instant};

/// Idle turns before the first pause.
const SPIN_TURNS: u32 = 32;
/// Idle turns before the first sleep. Few: on a small machine somebody else needs the core.
const PAUSE_TURNS: u32 = 64;
/// Longest sleep.
pub const MAX_SLEEP: Duration = Duration::from_micros(500);
/// Shorter sleeps cost more than they give.
const MIN_SLEEP: Duration = Duration::from_micros(1);

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

/// The ladder of one loop.
#[derive(Clone, Debug, Default)]
pub struct Idle {
    turns: u32,
    since: Option<Instant>,
}

impl Idle {
    /// The loop found something to do.
    pub fn busy(&mut self) {
        *self = Self::default();
    }

    /// The loop found nothing at `now` and has nothing to do before `deadline`.
    pub fn rest(&mut self, now: Instant, deadline: Option<Instant>) -> Rest {
        let since = *self.since.get_or_insert(now);
        self.turns = self.turns.saturating_add(1);
        if self.turns <= SPIN_TURNS {
            return Rest::Spin;
        }
        if self.turns <= PAUSE_TURNS {
            return Rest::Pause;
        }
        let wish = (now.since(since) / 4).clamp(MIN_SLEEP, MAX_SLEEP);
        let sleep = deadline.map_or(wish, |deadline| wish.min(deadline.since(now)));
        if sleep < MIN_SLEEP { Rest::Pause } else { Rest::Sleep(sleep) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_is_climbed_and_left() {
        let mut idle = Idle::default();
        let mut now = Instant::from_millis(5);
        let mut rests = Vec::new();
        for _ in 0..400 {
            let rest = idle.rest(now, None);
            rests.push(rest);
            now = now
                + match rest {
                    Rest::Sleep(sleep) => sleep,
                    _ => Duration::from_nanos(200),
                };
        }
        assert_eq!(rests.iter().filter(|rest| **rest == Rest::Spin).count(), 32);
        assert_eq!(rests.iter().filter(|rest| **rest == Rest::Pause).count(), 32);
        assert_eq!(rests[64], Rest::Sleep(Duration::from_nanos(3200)));
        assert_eq!(rests.last(), Some(&Rest::Sleep(MAX_SLEEP)));
        idle.busy();
        assert_eq!(idle.rest(now, None), Rest::Spin);
    }

    #[test]
    fn deadlines_are_not_slept_through() {
        let mut idle = Idle::default();
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
