//! What few connections have, and those not for long, but for totals of what was lost.
//!
//! Invariant: what is not there reads as empty.

use super::fast_open::Opening;
use super::mtu::PathMtu;
use super::urgent::Urgent;
use super::{Dsack, Tcb};
use crate::buf::PacketBuf;
use alloc::boxed::Box;

/// See the module.
#[derive(Debug)]
pub(super) struct Rare<B> {
    /// A duplicate to be reported with the next acknowledgement.
    pub(super) dsack: Dsack,
    pub(super) urgent: Option<Urgent>,
    /// Duplicate acknowledgements that follow the next one: a peer without SACK counts them.
    pub(super) duplicates: u8,
    /// During the handshake of a Fast Open; of an open for somebody else until its outcome is asked for.
    opening: Option<Box<Opening<B>>>,
    /// The path takes less than both ends do, or may.
    pub(super) mtu: Option<Box<PathMtu>>,
    pub(super) bytes_retrans: u64,
    /// Segments.
    pub(super) retransmitted: u32,
}

impl<B: PacketBuf> Rare<B> {
    const NONE: Self = Self {
        dsack: None,
        urgent: None,
        duplicates: 0,
        opening: None,
        mtu: None,
        bytes_retrans: 0,
        retransmitted: 0,
    };

    const fn is_unused(&self) -> bool {
        self.dsack.is_none()
            && self.urgent.is_none()
            && self.duplicates == 0
            && self.opening.is_none()
            && self.mtu.is_none()
            && self.retransmitted == 0
    }
}

/// To be changed beside the rest of a block.
pub(super) fn mtu_of<B>(rare: &mut Option<Box<Rare<B>>>) -> Option<&mut PathMtu> {
    rare.as_mut()?.mtu.as_deref_mut()
}

impl<B: PacketBuf> Tcb<B> {
    pub(super) fn rare(&mut self) -> &mut Rare<B> {
        self.rare.get_or_insert_with(|| Box::new(Rare::NONE))
    }

    pub(super) fn set_opening(&mut self, opening: Opening<B>) {
        self.rare().opening = Some(Box::new(opening));
    }

    pub(super) fn opening(&self) -> Option<&Opening<B>> {
        self.rare.as_ref()?.opening.as_deref()
    }

    pub(super) fn opening_mut(&mut self) -> Option<&mut Opening<B>> {
        self.rare.as_mut()?.opening.as_deref_mut()
    }

    /// The handshake is over, or the block is.
    pub(crate) fn take_opening(&mut self) -> Option<Opening<B>> {
        let opening = self.rare.as_mut()?.opening.take();
        self.rest_rare();
        opening.map(|opening| *opening)
    }

    pub(super) fn dsack(&self) -> Dsack {
        self.rare.as_ref()?.dsack
    }

    pub(super) fn mtu(&self) -> Option<&PathMtu> {
        self.rare.as_ref()?.mtu.as_deref()
    }

    pub(super) fn urgent(&self) -> Option<&Urgent> {
        self.rare.as_ref()?.urgent.as_ref()
    }

    /// Segments sent again, and their octets.
    pub(crate) fn retransmitted(&self) -> (u32, u64) {
        self.rare.as_ref().map_or((0, 0), |rare| (rare.retransmitted, rare.bytes_retrans))
    }

    /// Gives the memory back if nobody uses it.
    pub(super) fn rest_rare(&mut self) {
        self.rare.take_if(|rare| rare.is_unused());
    }
}
