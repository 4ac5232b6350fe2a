//! Where the TCP engine's outcomes meet the data level: the options of accepted segments, data
//! moving up, subflows coming and going, fallback, path management (RFC 8684 §3).

mod address_change;
mod addresses;
mod coupling;
mod data;
mod ending;
mod fallback;
mod fast_open;
mod health;
mod opening;
mod options;
mod order;
mod witness;

pub(super) use address_change::AddressChanges;
pub(super) use addresses::is_dead;
pub(super) use order::Pulls;

use super::Stack;
use super::demux::Node;
use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::event_log::SubflowEnd;
use crate::mptcp::{Amount, FallbackReason};
use crate::tcp::{Outcome, Segment};
use crate::time::Instant;
use crate::wire::{Dss, Mapping};

/// What an option asks for beyond the subflow it came on.
enum Effect {
    None,
    /// Reset this subflow with this reason.
    Reset(u8),
    /// The peer closed the whole connection at once; with a RST on the subflow it came on, or not.
    Fastclose {
        reset: bool,
    },
    FallBack(FallbackReason),
    /// Unmapped data or a wrong checksum at this offset.
    Checksum(u64),
}

/// What the options of one segment contained.
#[derive(Default)]
struct Seen {
    dss: bool,
    /// With a `DATA_ACK`.
    data_ack: bool,
    data_acked: bool,
}

impl<B: PacketBuf> Stack<B> {
    /// A segment arrived on a subflow and TCP is through with it, or a run with these `mappings` beside the
    /// segment's.
    pub(super) fn subflow_outcome(
        &mut self,
        now: Instant,
        idx: u32,
        segment: &Segment,
        mappings: &[Mapping],
        outcome: &Outcome,
    ) {
        let Some(owner) = self.owner_of(idx) else { return };
        if outcome.closed.is_some() && self.retry_without_option(now, owner, idx, segment) {
            return;
        }
        if outcome.fast_opened {
            if !self.third_ack_of_fast_open(now, owner, idx, segment, outcome) {
                return;
            }
        } else if outcome.established {
            if !self.syn_ack_options(now, owner, idx, segment, outcome.crossed) {
                return;
            }
        } else if outcome.acceptable {
            let mut effect = self.read_options(now, owner, idx, segment, outcome);
            for &mapping in mappings {
                if !matches!(effect, Effect::None) {
                    break;
                }
                let dss = Dss { data_ack: None, mapping: Some(mapping), data_fin: false };
                effect = self.read_dss(owner, idx, segment, &dss, &mut Seen::default());
            }
            if !self.apply(now, owner, idx, effect) {
                return;
            }
        } else if outcome.below {
            self.hear_below(owner, segment);
        }
        self.subflow_event(now, idx, outcome);
    }

    pub(super) fn owner_of(&self, idx: u32) -> Option<u32> {
        self.tcbs.get(idx)?.subflow.as_ref().map(|s| s.connection)
    }

    /// How a subflow ended that the TCP engine closed with `error`.
    fn end_of(&self, idx: u32, error: Option<ConnectionError>) -> SubflowEnd {
        let reason = || self.tcbs.get(idx)?.subflow.as_ref()?.reset_reason();
        match error {
            None => SubflowEnd::Closed,
            Some(ConnectionError::Reset | ConnectionError::Refused) => {
                SubflowEnd::PeerReset(reason())
            }
            Some(error) => SubflowEnd::Failed(error),
        }
    }

    /// What an outcome means for the data level, whether a segment or a timer caused it.
    pub(super) fn subflow_event(&mut self, now: Instant, idx: u32, outcome: &Outcome) {
        let Some(owner) = self.owner_of(idx) else { return };
        if let Some(error) = outcome.closed {
            if outcome.acked {
                // What acknowledges our FIN may acknowledge the last of a stream that fell back, too.
                self.fallen_back_progress(now, owner, idx);
            }
            self.note_subflow_end(owner, idx, self.end_of(idx, error));
            self.subflow_closed(now, owner, idx, error);
            return;
        }
        if outcome.timed_out {
            self.subflow_timed_out(now, owner, idx);
        } else if outcome.probed {
            self.watch_subflow(now, owner, idx);
        }
        if outcome.delivered > 0 {
            self.subflow_delivered(now, idx, outcome);
        }
        if outcome.acked {
            self.couple(now, owner, idx);
            self.subflow_progress(owner, idx);
        } else if outcome.acceptable {
            self.probe_answered(now, owner, idx);
        }
        self.share_losses(now, owner, idx);
        if outcome.acceptable {
            self.fallen_back_progress(now, owner, idx);
        }
        let waits = outcome.data && self.pulls.wait(owner, idx);
        if (outcome.data || outcome.acceptable)
            && !waits
            && !self.pull(now, owner, idx, outcome.data, Amount::All)
        {
            return;
        }
        if outcome.fin {
            self.subflow_fin(owner, idx);
        }
        if outcome.time_wait {
            let data_ack = self.connections.get(owner).and_then(|c| c.final_data_ack());
            self.enter_time_wait(now, idx, data_ack);
            self.note_subflow_end(owner, idx, SubflowEnd::Closed);
            self.subflow_closed(now, owner, idx, None);
            return;
        }
        if waits && self.connections.get(owner).is_some() {
            // Each has its place in the row now; their timers follow when it is moved up.
            self.want_transmit(Node::Connection(owner));
            return self.want_transmit(Node::Tcb(idx));
        }
        self.touch_connection(owner);
        self.touch_tcb(idx);
    }

    pub(super) fn connection_timeout(&mut self, now: Instant, owner: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let deadline = connection.next_timeout();
        if deadline.is_none_or(|at| at > now) {
            connection.rest();
            return self.arm(Node::Connection(owner), deadline);
        }
        if connection.rare.close_at.is_some_and(|at| at <= now) {
            let error = if connection.live_subflows(&self.tcbs) == 0 {
                ConnectionError::NoSubflows
            } else {
                ConnectionError::TimedOut
            };
            return self.abort_connection(now, owner, error);
        }
        if connection.rtx_at.is_some_and(|at| at <= now) {
            self.data_timeout(now, owner);
        }
        if self
            .connections
            .get(owner)
            .is_some_and(|c| c.rare.unmapped_at.is_some_and(|at| at <= now))
        {
            self.unmapped_timeout(now, owner);
        }
        if self.connections.get(owner).is_some_and(|c| c.rare.probe_at.is_some_and(|at| at <= now))
        {
            self.close_silent_subflows(now, owner);
        }
        if let Some(connection) = self.connections.get_mut(owner) {
            // It is asked again when it transmits.
            connection.set_capped_until(connection.rare.capped_until.filter(|at| *at > now));
        }
        if self.connections.get(owner).is_some_and(|c| c.health_at.is_some_and(|at| at <= now)) {
            self.health_timeout(now, owner);
        }
        // Moves the deadline of an announcement, or the timer would fire again at once.
        self.manage_paths(now, owner);
        self.touch_connection(owner);
    }
}
