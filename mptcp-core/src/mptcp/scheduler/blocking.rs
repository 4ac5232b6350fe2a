//! Two forecasts about sending on a slower path while the faster one is full. Both compare what the
//! faster path gets done meanwhile; all arithmetic is in octets and nanoseconds.

use super::{Demand, Memory, PathView, TOLL_ONE};
use crate::time::{Duration, nanos, proportion};

/// Spare in the forecast of what the faster path sends, per cent: congestion windows grow.
const GROWTH_PER_CENT: u128 = 110;

const NANOS: u64 = 1_000_000_000;

/// Octets that `path` sends in a time from now on.
pub(super) fn sent_meanwhile(path: &PathView, time: Duration) -> u64 {
    proportion(path.rate, nanos(time.saturating_sub(path.held)), NANOS)
}

/// Until something sent on `slow` now is known to have arrived: the next acknowledgement on `fast` tells.
fn known_after(fast: &PathView, slow: &PathView) -> Duration {
    slow.one_way + fast.srtt.saturating_sub(fast.one_way)
}

/// The head of the stream would wait on `slow` while the peer's window fills up behind it, and the
/// faster path would stand still (the rule of BLEST).
pub(super) fn window_would_block(
    memory: &Memory,
    demand: &Demand,
    fast: &PathView,
    slow: &PathView,
) -> bool {
    let known = nanos(known_after(fast, slow));
    let sent_meanwhile = sent_meanwhile(fast, known_after(fast, slow));
    // What `slow` has in flight is in order, and gone from the window, before `slow` itself tells.
    let in_flight = proportion(u64::from(slow.in_flight), known, nanos(slow.srtt));
    let held = u128::from(in_flight.min(u64::from(slow.in_flight))) + u128::from(slow.mss);
    let left = |window: u64| u128::from(window).saturating_sub(held) * 100;
    let sent = u128::from(sent_meanwhile) * GROWTH_PER_CENT;
    // All of it will wait behind what `slow` carries.
    let toll = sent * u128::from(memory.toll) / u128::from(TOLL_ONE);
    sent > left(demand.buffer) || sent + toll > left(memory.clear_window(demand))
}

/// `fast` delivers all that is left, behind what it has in flight, sooner than `slow` delivers
/// anything (the rule of ECF). `waiting` makes a wait that began last a little longer, so that the
/// choice does not flap.
pub(super) fn faster_is_done_sooner(
    demand: &Demand,
    fast: &PathView,
    slow: &PathView,
    waiting: bool,
) -> bool {
    let (fast_rtt, slow_rtt) = (fast.srtt.as_nanos(), slow.srtt.as_nanos());
    let held = fast.held.as_nanos();
    // Octets take `path` less than `time`; multiplied out, for a quotient is dear.
    let less = |octets: u64, path: &PathView, time: u128| {
        u128::from(octets) * u128::from(NANOS) < time.saturating_mul(u128::from(path.rate.max(1)))
    };
    let margin = fast.rttvar.max(slow.rttvar).as_nanos();
    let mut by_slow = slow_rtt + margin;
    if waiting {
        by_slow += by_slow / 4;
    }
    let all = demand.unsent.max(u64::from(slow.cwnd));
    less(demand.unsent, fast, by_slow.saturating_sub(fast_rtt + held))
        && !less(all, slow, 2 * fast_rtt + held + margin)
}
