//! What few connections, and few subflows, have at any time.

use super::ahead::Ahead;
use super::receive::Realign;
use super::signals::Signals;
use super::subflow::{Joining, Probe, Watch};
use crate::time::Instant;
use crate::util::on_demand::Empty;
use crate::util::range_set::RangeSet;
use alloc::boxed::Box;

/// Of a connection.
#[derive(Debug)]
pub(crate) struct Rare {
    /// What is to be sent again; none while there is nothing.
    pub(super) reinject: Option<RangeSet>,
    /// What was sent ahead of its turn.
    pub(super) ahead: Option<Box<Ahead>>,
    /// An infinite mapping says that something is sent again.
    pub(super) realign: Option<Realign>,
    /// What was sent again for the sake of the peer's window lies below this offset.
    pub(crate) repeated_to: u64,
    /// What lies below this offset may have gone by another subflow, or twice.
    pub(crate) spread_to: u64,
    pub(crate) close_at: Option<Instant>,
    /// When the first subflow that is asked for a sign of life must have given it.
    pub(crate) probe_at: Option<Instant>,
    /// When data that waits for its mapping has waited long enough to doubt that options pass.
    pub(crate) unmapped_at: Option<Instant>,
    /// When a rate cap lets something go again.
    pub(crate) capped_until: Option<Instant>,
    /// Code of the ICMP error that ended its opening, where somebody else decided about that.
    pub(crate) icmp_code: Option<u8>,
}

impl Rare {
    const NONE: Self = Self {
        reinject: None,
        ahead: None,
        realign: None,
        repeated_to: 0,
        spread_to: 0,
        close_at: None,
        probe_at: None,
        unmapped_at: None,
        capped_until: None,
        icmp_code: None,
    };
}

impl Empty for Rare {
    const EMPTY: Self = Self::NONE;
    const ABSENT: &'static Self = &Self::NONE;

    fn is_unused(&self) -> bool {
        self.reinject.is_none()
            && self.ahead.is_none()
            && self.realign.is_none()
            && self.repeated_to == 0
            && self.spread_to == 0
            && self.close_at.is_none()
            && self.probe_at.is_none()
            && self.unmapped_at.is_none()
            && self.capped_until.is_none()
            && self.icmp_code.is_none()
    }
}

/// Of a subflow.
#[derive(Debug)]
pub(crate) struct RareOfSubflow {
    /// Until it joined.
    pub(super) joining: Option<Joining>,
    pub(super) signals: Signals,
    /// There were enough acknowledgements in a row: none is sent for options alone before this.
    pub(super) held_until: Option<Instant>,
    /// A REMOVE_ADDR named its address, or its place is wanted: it is closed unless the peer answers.
    pub(crate) probe: Option<Probe>,
    /// Its silence, while there is doubt about it.
    pub(crate) watch: Option<Watch>,
    /// When it last gave half of its window up for holding up the stream.
    pub(super) penalised_at: Option<Instant>,
    /// The reason in the peer's `MP_TCPRST`.
    pub(super) reset_reason: Option<u8>,
}

impl RareOfSubflow {
    const NONE: Self = Self {
        joining: None,
        signals: Signals::NONE,
        held_until: None,
        probe: None,
        watch: None,
        penalised_at: None,
        reset_reason: None,
    };
}

impl Empty for RareOfSubflow {
    const EMPTY: Self = Self::NONE;
    const ABSENT: &'static Self = &Self::NONE;

    fn is_unused(&self) -> bool {
        self.joining.is_none()
            && self.signals.is_empty()
            && self.probe.is_none()
            && self.watch.is_none()
            && self.held_until.is_none()
            && self.penalised_at.is_none()
            && self.reset_reason.is_none()
    }
}
