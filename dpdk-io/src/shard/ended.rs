//! The worker of a shard whose own has stopped: nothing is served any more, and what belongs to shards
//! that still serve goes on to them.

use super::crossing::Roll;
use crate::counters::{DropReason, ShardCounters};
use mptcp_core::buf::{PacketBuf, TxQueue};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::time::Instant;
use std::sync::Arc;

/// See the module; stops when no shard serves any more.
pub(super) struct Ended {
    pub(super) roll: Arc<Roll>,
    pub(super) counters: Arc<ShardCounters>,
}

impl<B: PacketBuf> Worker<B> for Ended {
    fn handle_burst(&mut self, _now: Instant, burst: &mut Vec<B>) {
        self.counters.dropped(DropReason::ShardEnded, burst.len());
        burst.clear();
    }

    fn handle_timeouts(&mut self, _now: Instant, _budget: usize) -> Progress {
        Progress::Done
    }

    fn handle_events(&mut self, _now: Instant) {}

    fn poll_transmit<T: TxQueue<B>>(&mut self, _now: Instant, _tx: &mut T) -> Progress {
        Progress::Done
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_control(&mut self, _now: Instant) -> Control {
        if self.roll.is_empty() { Control::Stop } else { Control::Continue }
    }
}
