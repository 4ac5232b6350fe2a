//! Two forecasts about sending on a slower path while the faster one is full. Both compare what the
//! faster path gets done meanwhile; all arithmetic is in octets and nanoseconds.

use super::{Demand, Memory, PathView, TOLL_ONE};
use crate::time::Duration;

/// Spare in the forecast of what the faster path sends, per cent: congestion windows grow.
const GROWTH_PER_CENT: u128 = 110;

const NANOS: u128 = 1_000_000_000;

/// Octets that `path` sends in a time.
pub(super) fn sent_meanwhile(path: &PathView, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    path.rate.saturating_mul(micros) / 1_000_000
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
    let known = known_after(fast, slow).as_nanos();
    let sent_meanwhile = u128::from(sent_meanwhile(fast, known_after(fast, slow)));
    // What `slow` has in flight is in order, and gone from the window, before `slow` itself tells.
    let in_flight = u128::from(slow.in_flight) * known / slow.srtt.as_nanos().max(1);
    let held = in_flight.min(u128::from(slow.in_flight)) + u128::from(slow.mss);
    let left = |window: u64| u128::from(window).saturating_sub(held) * 100;
    let sent = sent_meanwhile * GROWTH_PER_CENT;
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
    let unsent = u128::from(demand.unsent);
    let time = |octets: u128, path: &PathView| octets * NANOS / u128::from(path.rate.max(1));
    let margin = fast.rttvar.max(slow.rttvar).as_nanos();
    let by_fast = fast_rtt + time(unsent, fast);
    let mut by_slow = slow_rtt + margin;
    if waiting {
        by_slow += by_slow / 4;
    }
    let all_by_slow = time(unsent.max(u128::from(slow.cwnd)), slow);
    by_fast < by_slow && all_by_slow >= 2 * fast_rtt + margin
}
