//! Lowest round-trip time that never harms: a slower path is used only where that delays neither the
//! rest of the stream (the peer's window) nor its end, and carries what will be next when it arrives, where
//! that was written already. BLEST and ECF are two parts of it alone.

use super::blocking::{faster_is_done_sooner, sent_meanwhile, window_would_block};
use super::{Choice, Demand, Memory, PathView, Why, usable};

/// Segments; less is sent in its turn.
const AHEAD_MIN: u64 = 8;

/// The path for the next segment when it has room, and what else there is.
enum Situation<'a> {
    Decided(Choice, Why),
    /// `fast` is full or held by a cap, `slow` (at this index) has room.
    Between {
        fast: &'a PathView,
        slow: &'a PathView,
        at: usize,
    },
}

fn situation(paths: &[PathView]) -> Situation<'_> {
    let with_room = usable(paths).filter(|(_, p)| p.room).min_by_key(|(_, p)| p.srtt);
    let Some((at, slow)) = with_room else {
        return Situation::Decided(Choice::Wait, Why::NoRoom);
    };
    // Only a path whose acknowledgements will come, or the turn under its cap, is worth waiting for.
    let soon = |p: &PathView| p.held + p.srtt;
    let full = usable(paths).filter(|(_, p)| p.busy || !p.held.is_zero());
    match full.min_by_key(|(_, p)| soon(p)) {
        Some((_, fast)) if soon(fast) < slow.srtt => Situation::Between { fast, slow, at },
        _ => Situation::Decided(Choice::Path(at), Why::Preferred),
    }
}

/// The faster path is waited for. One that is never used is never measured again, and what was once slow
/// would stay so for ever.
const fn wait(slow: &PathView, at: usize) -> Choice {
    if slow.unknown { Choice::Probe(at) } else { Choice::Wait }
}

/// The peer's window has no room for the slower path. Peers widen it when they know of the longer round
/// trip, and then the path should not be at its first segments still.
const fn wait_for_window(slow: &PathView, at: usize) -> Choice {
    if slow.opening { Choice::Probe(at) } else { wait(slow, at) }
}

/// How far ahead of its turn `slow` may send, octets; `None` where its way takes not much longer, or what it
/// should carry is not there yet or beyond the peer's window.
fn ahead(demand: &Demand, paths: &[PathView], slow: &PathView) -> Option<u64> {
    let mss = u64::from(slow.mss);
    if slow.unknown || demand.spare <= AHEAD_MIN * mss {
        return None;
    }
    let moves = |p: &PathView| p.busy || p.room || !p.held.is_zero();
    let faster = usable(paths).filter(|(_, p)| moves(p) && p.one_way < slow.one_way);
    let skip: u64 = faster.map(|(_, p)| sent_meanwhile(p, slow.one_way - p.one_way)).sum();
    (skip >= AHEAD_MIN * mss && skip + mss <= demand.spare).then_some(skip)
}

pub(super) fn pick(memory: &mut Memory, demand: &Demand, paths: &[PathView]) -> (Choice, Why) {
    match situation(paths) {
        Situation::Decided(choice, why) => {
            memory.waiting = false;
            (choice, why)
        }
        Situation::Between { fast, slow, at } => {
            if let Some(skip) = ahead(demand, paths, slow) {
                memory.waiting = false;
                return (Choice::Ahead(at, skip), Why::Ahead);
            }
            let soon = faster_is_done_sooner(demand, fast, slow, memory.waiting);
            memory.waiting = soon;
            if window_would_block(memory, demand, fast, slow) {
                (wait_for_window(slow, at), Why::WindowWouldBlock)
            } else if soon {
                (wait(slow, at), Why::FasterSoon)
            } else {
                (Choice::Path(at), Why::Overflow)
            }
        }
    }
}

pub(super) fn blest(memory: &Memory, demand: &Demand, paths: &[PathView]) -> (Choice, Why) {
    match situation(paths) {
        Situation::Decided(choice, why) => (choice, why),
        Situation::Between { fast, slow, at } if window_would_block(memory, demand, fast, slow) => {
            (wait_for_window(slow, at), Why::WindowWouldBlock)
        }
        Situation::Between { at, .. } => (Choice::Path(at), Why::Overflow),
    }
}

pub(super) fn ecf(memory: &mut Memory, demand: &Demand, paths: &[PathView]) -> (Choice, Why) {
    match situation(paths) {
        Situation::Decided(choice, why) => {
            memory.waiting = false;
            (choice, why)
        }
        Situation::Between { fast, slow, at } => {
            memory.waiting = faster_is_done_sooner(demand, fast, slow, memory.waiting);
            if memory.waiting {
                (wait(slow, at), Why::FasterSoon)
            } else {
                (Choice::Path(at), Why::Overflow)
            }
        }
    }
}
