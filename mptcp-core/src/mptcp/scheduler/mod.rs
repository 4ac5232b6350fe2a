//! Which subflow carries the next data. A scheduler is a pure choice over a snapshot of the paths;
//! what it must remember per connection is a few plain numbers, so that one can be exchanged for
//! another while a connection runs.
//!
//! Invariant: whoever answers [`Choice::Wait`] waits for something that will happen: an
//! acknowledgement on a path with data in flight, or a token of a rate cap.

mod blocking;
mod choices;
mod default;
mod policy;

pub(crate) use policy::Policy;

use crate::config::SchedulerKind;
use crate::time::Duration;

/// An octet in [`PathView::served`]: more than the largest weight, by which it is divided.
pub(crate) const SERVED_OCTET: u64 = 1 << 16;

/// What a scheduler sees of one subflow. Sizes are octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PathView {
    /// Its congestion window, its peer's window and its rate cap have room for a segment now.
    pub(crate) room: bool,
    /// Only its congestion window is full, or its pace holds it: an acknowledgement or a timer will
    /// make room.
    pub(crate) busy: bool,
    /// Nothing but a cap holds it, for so long: it will have room then. Zero where none does, or more.
    pub(crate) held: Duration,
    /// To be used only when nothing else works.
    pub(crate) backup: bool,
    /// Sidelined: it timed out and has made no progress since.
    pub(crate) stale: bool,
    /// An acknowledgement is overdue: it may be about to be sidelined.
    pub(crate) doubtful: bool,
    /// Nothing is known of it lately and nothing is in flight: a copy of one segment will tell.
    pub(crate) unknown: bool,
    /// Its congestion window has yet to open, and copies of what is in flight elsewhere may open it: few
    /// beside what the stream has sent.
    pub(crate) opening: bool,
    /// The initial round trip of RFC 6298 §2.1 where none was measured.
    pub(crate) srtt: Duration,
    /// From here to the peer as far as can be told: half of the shortest round trip, and the queue.
    pub(crate) one_way: Duration,
    pub(crate) rttvar: Duration,
    /// Octets per second it carries, as far as its congestion control knows and its caps allow; at least 1.
    pub(crate) rate: u64,
    pub(crate) cwnd: u32,
    pub(crate) in_flight: u32,
    pub(crate) mss: u32,
    /// Smaller numbers first, where a scheduler goes by order.
    pub(crate) priority: u8,
    /// How far it is served in weighted rounds: octets divided by weight, in parts of [`SERVED_OCTET`].
    pub(crate) served: u64,
    /// By which its octets are divided; at least 1.
    pub(crate) weight: u16,
}

/// What the connection has to send. Sizes are octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Written and never sent; [`Demand::ENDLESS`] where no end is in sight.
    pub(crate) unsent: u64,
    /// What the peer's window allows beyond `data_snd_una`.
    pub(crate) window: u64,
    /// What our own buffer holds at most beyond `data_snd_una`.
    pub(crate) buffer: u64,
    /// What has arrived and waits for something before it, as far as can be told.
    pub(crate) stranded: u64,
    /// Octets never sent that the peer's window has room for, wherever in the stream.
    pub(crate) spare: u64,
}

impl Demand {
    pub(crate) const ENDLESS: u64 = u64::MAX >> 2;

    /// So many octets were sent for the first time.
    pub(crate) const fn sent(&mut self, octets: u32) {
        if self.unsent != Self::ENDLESS {
            self.unsent = self.unsent.saturating_sub(octets as u64);
        }
        self.spare = self.spare.saturating_sub(octets as u64);
    }
}

/// What a scheduler remembers of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Place after the path that was served last.
    cursor: u8,
    /// The last choice was to wait for a faster path.
    waiting: bool,
    /// What the peer takes off its window for each octet that waits out of order, in 64ths. Some keep
    /// the edge where it is; Linux pays for its memory once more, and the edge stands still.
    toll: u8,
}

/// A whole octet.
const TOLL_ONE: u8 = 64;

impl Default for Memory {
    fn default() -> Self {
        // Half: nobody is held up long by it, and who takes nothing will show it.
        Self { cursor: 0, waiting: false, toll: TOLL_ONE / 2 }
    }
}

impl Memory {
    /// So much waits out of order that the window tells something.
    #[inline]
    pub(crate) fn learns(widest: u64, demand: &Demand) -> bool {
        demand.stranded >= (widest / 8).max(64 << 10)
    }

    /// Learns from a window that is less than the `widest` while data waits out of order.
    pub(crate) fn note_window(&mut self, widest: u64, demand: &Demand) {
        if !Self::learns(widest, demand) {
            return;
        }
        let missing = widest.saturating_sub(demand.window).min(demand.stranded);
        let toll = missing * u64::from(TOLL_ONE) / demand.stranded;
        let toll = u8::try_from(toll).unwrap_or(TOLL_ONE);
        let step = self.toll.abs_diff(toll).div_ceil(8);
        self.toll = if toll > self.toll { self.toll + step } else { self.toll - step };
    }

    /// What the peer's window would be without what waits out of order.
    fn clear_window(&self, demand: &Demand) -> u64 {
        demand.window + demand.stranded * u64::from(self.toll) / u64::from(TOLL_ONE)
    }
}

/// The choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Choice {
    /// Index of the path for the next segment.
    Path(usize),
    /// Index of a path for the segment that is next when it arrives: behind so many octets that were never
    /// sent.
    Ahead(usize, u64),
    /// Nothing now.
    Wait,
    /// Nothing new now; a copy of what is in flight elsewhere, which nobody waits for: it measures the
    /// path or opens its window.
    Probe(usize),
}

/// Why a scheduler chose as it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The path the policy prefers had room.
    Preferred,
    /// The preferred one was full.
    Overflow,
    /// No path has room.
    NoRoom,
    /// Data on the slower path would fill the peer's window before it arrives.
    WindowWouldBlock,
    /// The faster path will be done earlier than the slower one could deliver.
    FasterSoon,
    /// The preferred one was full, and by the slower one goes what will be next when it arrives.
    Ahead,
    /// The path is ahead of its share.
    AheadOfShare,
}

/// Picks with `kind`.
pub(crate) fn pick(
    kind: SchedulerKind,
    memory: &mut Memory,
    demand: &Demand,
    paths: &[PathView],
) -> (Choice, Why) {
    match kind {
        SchedulerKind::Default => default::pick(memory, demand, paths),
        SchedulerKind::LowestRtt | SchedulerKind::Redundant => choices::lowest_rtt(paths),
        SchedulerKind::RoundRobin => choices::round_robin(memory, paths),
        SchedulerKind::Weighted => choices::weighted(paths),
        SchedulerKind::Blest => default::blest(memory, demand, paths),
        SchedulerKind::Ecf => default::ecf(memory, demand, paths),
        SchedulerKind::ActiveBackup => choices::active_backup(paths),
        SchedulerKind::Overflow => choices::overflow(paths),
    }
}

/// How long a choice holds, as long as its path has room and no other one changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Term {
    /// For one segment.
    Once,
    /// What is sent and waits has a say in it: the schedule is asked again.
    Asked,
    /// What is sent and waits has none.
    Firm,
}

/// How long a choice with `kind` for this reason holds.
pub(crate) const fn term(kind: SchedulerKind, why: Why) -> Term {
    match (kind, why) {
        (SchedulerKind::Default | SchedulerKind::Blest | SchedulerKind::Ecf, Why::Overflow) => {
            Term::Asked
        }
        (SchedulerKind::Default | SchedulerKind::Blest | SchedulerKind::Ecf, Why::Preferred)
        | (SchedulerKind::LowestRtt | SchedulerKind::ActiveBackup | SchedulerKind::Overflow, _) => {
            Term::Firm
        }
        _ => Term::Once,
    }
}

/// Picks for what is sent again.
pub(crate) fn pick_repair(paths: &[PathView]) -> (Choice, Why) {
    choices::repair(paths)
}

/// The paths of the best class there is: regular before backup, and either only sidelined when
/// nothing else is left at all.
fn usable(paths: &[PathView]) -> impl Iterator<Item = (usize, &PathView)> + Clone {
    let class = |p: &PathView| (p.stale, p.backup);
    let best = paths.iter().map(class).min();
    paths.iter().enumerate().filter(move |(_, p)| Some(class(p)) == best)
}

/// Nothing new goes where an acknowledgement is overdue, as long as another regular path works.
pub(crate) fn avoid_doubtful(paths: &mut [PathView]) {
    if paths.iter().all(|p| !p.doubtful) {
        return;
    }
    if paths.iter().any(|p| !(p.doubtful || p.stale || p.backup)) {
        for path in paths.iter_mut().filter(|p| p.doubtful) {
            (path.room, path.busy, path.held) = (false, false, Duration::ZERO);
        }
    }
}

/// Who could not take part in weighted rounds for a while, held by a cap or as a backup, is not further behind the others
/// than they may be ahead: it has nothing to catch up with, for which they would wait.
pub(crate) fn forgive(paths: &mut [PathView]) {
    let taking_part = usable(paths).filter(|(_, p)| p.served > 0 && (p.room || p.busy));
    let Some(least) = taking_part.map(|(_, p)| p.served).min() else { return };
    let floor = least.saturating_sub(choices::lead(paths));
    for path in paths.iter_mut().filter(|p| p.served > 0) {
        path.served = path.served.max(floor);
    }
}

#[cfg(test)]
mod tests;
