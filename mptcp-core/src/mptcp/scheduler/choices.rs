//! The choices that need no forecast: by round trip, by turn, by share, by order.

use super::{Choice, Memory, PathView, SERVED_OCTET, Why, usable};
use crate::time::Duration;

/// The path with the smallest share may be so many octets ahead before it waits for the others, and those with
/// larger shares as much more.
const AHEAD_MAX: u64 = (64 << 10) * SERVED_OCTET;

fn chosen(path: Option<usize>, first: bool) -> (Choice, Why) {
    match path {
        Some(at) if first => (Choice::Path(at), Why::Preferred),
        Some(at) => (Choice::Path(at), Why::Overflow),
        None => (Choice::Wait, Why::NoRoom),
    }
}

/// Lowest smoothed round-trip time among the paths with room.
pub(super) fn lowest_rtt(paths: &[PathView]) -> (Choice, Why) {
    let best = usable(paths).min_by_key(|(_, p)| p.srtt).map(|(at, _)| at);
    let pick = usable(paths).filter(|(_, p)| p.room).min_by_key(|(_, p)| p.srtt).map(|(at, _)| at);
    chosen(pick, pick == best)
}

/// The same for what somebody waits for: a path that is twice as fast is worth waiting for.
pub(super) fn repair(paths: &[PathView]) -> (Choice, Why) {
    let (choice, why) = lowest_rtt(paths);
    let Choice::Path(at) = choice else { return (choice, why) };
    let srtt = paths.get(at).map_or(Duration::ZERO, |p| p.srtt);
    let soon = usable(paths).any(|(_, p)| p.busy && !p.doubtful && p.srtt * 2 <= srtt);
    if soon { (Choice::Wait, Why::FasterSoon) } else { (choice, why) }
}

/// Each path with room in its turn, one segment at a time.
pub(super) fn round_robin(memory: &mut Memory, paths: &[PathView]) -> (Choice, Why) {
    let with_room = usable(paths).filter(|(_, p)| p.room);
    let cursor = usize::from(memory.cursor);
    let pick = with_room.clone().find(|(at, _)| *at >= cursor).or_else(|| with_room.clone().next());
    let pick = pick.map(|(at, _)| at);
    if let Some(at) = pick {
        memory.cursor = u8::try_from(at + 1).unwrap_or(0);
    }
    chosen(pick, true)
}

/// How far ahead of its share a path may be before it waits, as [`PathView::served`] counts. Weights are shares: twice as
/// large all of them say the same.
pub(super) fn lead(paths: &[PathView]) -> u64 {
    let least = usable(paths).map(|(_, p)| p.weight).min().unwrap_or(1);
    AHEAD_MAX / u64::from(least.max(1))
}

/// Shares by weight: the path that is served least goes next. One that is ahead of another waits for
/// it, as long as that one moves.
pub(super) fn weighted(paths: &[PathView]) -> (Choice, Why) {
    let pick = usable(paths).filter(|(_, p)| p.room).min_by_key(|(_, p)| p.served);
    let Some((at, path)) = pick else { return (Choice::Wait, Why::NoRoom) };
    let behind = usable(paths).filter(|(_, p)| p.busy).map(|(_, p)| p.served).min();
    if behind.is_some_and(|served| path.served > served.saturating_add(lead(paths))) {
        return (Choice::Wait, Why::AheadOfShare);
    }
    (Choice::Path(at), Why::Preferred)
}

/// One path at a time, the first in order; another one only when that is sidelined or gone.
pub(super) fn active_backup(paths: &[PathView]) -> (Choice, Why) {
    let active = usable(paths).min_by_key(|(at, p)| (p.priority, *at));
    chosen(active.filter(|(_, p)| p.room).map(|(at, _)| at), true)
}

/// The first path in order that has room: the next one only takes what does not fit.
pub(super) fn overflow(paths: &[PathView]) -> (Choice, Why) {
    let order = |(at, p): &(usize, &PathView)| (p.priority, *at);
    let first = usable(paths).min_by_key(order).map(|(at, _)| at);
    let pick = usable(paths).filter(|(_, p)| p.room).min_by_key(order).map(|(at, _)| at);
    chosen(pick, pick == first)
}
