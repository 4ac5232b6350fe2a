//! Which subflow carries the next data. A scheduler is a pure choice over a snapshot of the paths;
//! one instance serves every connection of a stack.

use crate::config::SchedulerKind;
use crate::time::Duration;

/// What a scheduler sees of one subflow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathView {
    /// Its congestion window and its peer's window have room for a segment now.
    pub(crate) room: bool,
    /// To be used only when nothing else works.
    pub(crate) backup: bool,
    /// Sidelined: it timed out and has made no progress since.
    pub(crate) stale: bool,
    pub(crate) srtt: Duration,
}

/// The choice of a path.
pub(crate) trait Scheduler {
    /// Index of the path for the next segment; `None` to wait for a better moment.
    fn pick(&self, paths: &[PathView]) -> Option<usize>;
}

/// Lowest smoothed round-trip time among the paths with room. Backups serve only while no other
/// path is usable, sidelined paths only while nothing else is left at all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LowestRtt;

impl Scheduler for LowestRtt {
    fn pick(&self, paths: &[PathView]) -> Option<usize> {
        let class = |p: &PathView| (p.stale, p.backup);
        let best = paths.iter().map(class).min()?;
        paths
            .iter()
            .enumerate()
            .filter(|(_, p)| class(p) == best && p.room)
            .min_by_key(|(_, p)| p.srtt)
            .map(|(idx, _)| idx)
    }
}

/// The scheduler a configuration names.
pub(crate) fn for_kind(kind: SchedulerKind) -> LowestRtt {
    match kind {
        SchedulerKind::Default => LowestRtt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(room: bool, backup: bool, stale: bool, ms: u64) -> PathView {
        PathView { room, backup, stale, srtt: Duration::from_millis(ms) }
    }

    #[test]
    fn lowest_rtt_with_room_wins() {
        let paths = [path(false, false, false, 5), path(true, false, false, 40)];
        assert_eq!(LowestRtt.pick(&paths), Some(1));
        let paths = [path(true, false, false, 5), path(true, false, false, 40)];
        assert_eq!(LowestRtt.pick(&paths), Some(0));
        assert_eq!(LowestRtt.pick(&[]), None);
    }

    #[test]
    fn a_backup_waits_for_the_last_regular_path_to_fail() {
        let paths = [path(false, false, false, 5), path(true, true, false, 1)];
        assert_eq!(LowestRtt.pick(&paths), None);
        let paths = [path(true, false, true, 5), path(true, true, false, 1)];
        assert_eq!(LowestRtt.pick(&paths), Some(1));
    }

    #[test]
    fn sidelined_paths_serve_when_nothing_else_is_left() {
        let paths = [path(true, false, true, 5), path(true, false, true, 4)];
        assert_eq!(LowestRtt.pick(&paths), Some(1));
    }
}
