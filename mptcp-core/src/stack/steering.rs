//! One shard of several: which flows, tokens and ports are its own, and what it tells the homes of those it has
//! all the same.
//!
//! Invariant: a note says what is so when it is polled, whatever happened before, so that the last one about a
//! flow is always true.

use super::Stack;
use super::demux::{Demux, Flow};
use crate::buf::PacketBuf;
use crate::steering::{self, Sharding, SteeringNote};
use crate::tcp::Tuple;
use alloc::collections::VecDeque;

/// Flows that wait to be told about; a loop takes them every turn.
const MAX_NOTES: usize = 8_192;

/// This shard, where there are others.
#[derive(Debug)]
pub(super) struct Shard {
    sharding: Sharding,
    /// Flows whose home is another shard and that came or went.
    changed: VecDeque<Tuple>,
    lost: u64,
}

impl Shard {
    /// `None` when there is no other.
    pub(super) fn new(sharding: Option<&Sharding>) -> Option<Self> {
        let sharding = sharding.filter(|sharding| sharding.layout.shards() > 1)?.clone();
        Some(Self { sharding, changed: VecDeque::with_capacity(MAX_NOTES), lost: 0 })
    }

    /// A flow came or went.
    pub(super) fn note(&mut self, tuple: &Tuple) {
        // A handshake that succeeds is a request that goes and a connection that comes.
        if self.is_home(tuple) || self.changed.back() == Some(tuple) {
            return;
        }
        if self.changed.len() == MAX_NOTES {
            self.lost += 1;
            return;
        }
        self.changed.push_back(*tuple);
    }

    /// What others send on this flow comes here.
    pub(super) fn is_home(&self, tuple: &Tuple) -> bool {
        self.sharding.layout.shard_of_flow(tuple) == self.sharding.own
    }

    /// Datagrams that others send to this port come here.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.sharding.layout.shard_of_port(port) == self.sharding.own
    }

    /// So do SYNs, from wherever.
    pub(super) fn has_listening(&self, port: u16) -> bool {
        self.sharding.layout.goes_by_port(port) && self.has_port(port)
    }

    pub(super) fn has_token(&self, token: u32) -> bool {
        self.sharding.layout.shard_of_token(token) == self.sharding.own
    }
}

impl Demux {
    /// Of so many ports or tokens drawn one is this shard's.
    pub(super) fn shards(&self) -> u32 {
        self.shard.as_ref().map_or(1, |shard| u32::from(shard.sharding.layout.shards()))
    }

    pub(super) fn is_home(&self, tuple: &Tuple) -> bool {
        self.shard.as_ref().is_none_or(|shard| shard.is_home(tuple))
    }

    pub(super) fn has_port(&self, port: u16) -> bool {
        self.shard.as_ref().is_none_or(|shard| shard.has_port(port))
    }

    /// A listener of this shard alone may be here.
    pub(super) fn has_listening(&self, port: u16) -> bool {
        self.shard.as_ref().is_none_or(|shard| shard.has_listening(port))
    }

    pub(super) fn has_token(&self, token: u32) -> bool {
        self.shard.as_ref().is_none_or(|shard| shard.has_token(token))
    }

    /// A segment came for a flow that is not here, or is only now.
    pub(super) fn note_stray(&mut self, tuple: &Tuple) {
        if let Some(shard) = &mut self.shard {
            shard.note(tuple);
        }
    }

    /// An IP packet is dropped unread. Its home has read more of it, and may have led it here: by the token of a join
    /// whose checksum is wrong.
    #[cold]
    pub(super) fn note_broken(&mut self, packet: &[u8]) {
        if self.shard.is_some()
            && let Some(tuple) = steering::ends_of(packet)
        {
            self.note_stray(&tuple);
        }
    }
}

impl<B: PacketBuf> Stack<B> {
    /// A connection, a pending request or a TIME-WAIT entry has this 4-tuple.
    #[must_use]
    pub fn has_flow(&self, tuple: &Tuple) -> bool {
        self.find_flow(tuple).is_some()
    }

    /// What the home of a flow should know: that it is here, or that it is not; `None` when there is nothing
    /// more. A loop asks every turn, after each of the calls that may change something: what waits is
    /// bounded, and [`crate::stats::Counters::steering_notes_lost`] counts what was not fetched in time.
    pub fn poll_steering_note(&mut self) -> Option<SteeringNote> {
        loop {
            let shard = self.demux.shard.as_mut()?;
            self.stats.steering_notes_lost += core::mem::take(&mut shard.lost);
            let tuple = shard.changed.pop_front()?;
            let Sharding { layout, own } = &shard.sharding;
            let (home, owner) = (layout.shard_of_flow(&tuple), *own);
            let joined = match self.find_flow(&tuple) {
                // Whether it comes to anything is not known yet.
                Some(Flow::Request(_)) => continue,
                found => found.is_some(),
            };
            return Some(SteeringNote { home, owner, tuple, joined });
        }
    }
}
