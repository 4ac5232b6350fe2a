//! Two forecasts about sending on a slower path while the faster one is full. Both compare what the
//! faster path gets done meanwhile; all arithmetic is in octets and nanoseconds.

use super::{Demand, PathView};

/// Spare in the forecast of what the faster path sends, per cent: congestion windows grow.
const GROWTH_PER_CENT: u128 = 110;

const NANOS: u128 = 1_000_000_000;

/// What `fast` can send until something sent on `slow` now is known to have arrived: the next
/// acknowledgement on `fast` tells.
fn sent_meanwhile(fast: &PathView, slow: &PathView) -> u128 {
    let known = slow.one_way + fast.srtt.saturating_sub(fast.one_way);
    u128::from(fast.rate) * known.as_nanos() / NANOS
}

/// The head of the stream would wait on `slow` while the peer's window fills up behind it, and the
/// faster path would stand still (the rule of BLEST).
pub(super) fn window_would_block(demand: &Demand, fast: &PathView, slow: &PathView) -> bool {
    let held = u64::from(slow.in_flight) + u64::from(slow.mss);
    let left = u128::from(demand.window.saturating_sub(held));
    sent_meanwhile(fast, slow) * GROWTH_PER_CENT > left * 100
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
