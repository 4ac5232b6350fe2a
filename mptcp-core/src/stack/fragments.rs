//! Fragments that come in, and what their senders hear of it.
//!
//! Invariant: who sends fragments gets an ICMP error from an address of ours alone, and within the rate of all others.

use super::Stack;
use crate::buf::{BufPool, PacketBuf};
use crate::fragments::{Expired, Outcome, Reassembler, ReassemblyLimits};
use crate::stats::DropReason;
use crate::time::Instant;
use crate::wire::{FragmentProblem, IpHeader, icmp};
use alloc::boxed::Box;
use alloc::vec::Vec;

impl<B: PacketBuf> Stack<B> {
    /// Takes an IP packet that is a fragment, and gives the datagram back once it is whole. Loops that look at what
    /// is behind the IP header, for steering or echo requests, ask here first; fragments that come to
    /// [`Stack::handle_burst`] are put together as well.
    pub fn reassemble(&mut self, now: Instant, fragment: B) -> Option<B> {
        self.observer.now = now;
        let Ok(header) = IpHeader::parse(fragment.data()) else {
            self.stats.drop(DropReason::IpMalformed);
            return None;
        };
        if self.local_address(header.dst).is_none() && !self.passes(&header) {
            self.refuse_transit(now, &header, &fragment);
            self.stats.drop(DropReason::NotOurs);
            return None;
        }
        if self.pool.is_short() {
            // What is left is for what frees memory: nothing waits in it.
            self.stats.ip_reasm_reqds += 1;
            self.stats.ip_reasm_no_memory += 1;
            self.stats.drop(DropReason::IpFragment);
            return None;
        }
        let limits = self.config.limits;
        let (rng, pool) = (&mut self.rng, &mut *self.pool);
        // Most stacks never see one.
        let reassembler = self.reassembler.get_or_insert_with(|| {
            let datagrams = limits.reassembly_datagrams;
            let bytes = limits.reassembly_bytes as usize;
            Box::new(Reassembler::new(ReassemblyLimits { datagrams, bytes }, rng))
        });
        let outcome = reassembler.push(now, fragment, &mut self.stats, |len| buffer_for(pool, len));
        match outcome {
            Outcome::Whole(whole) => return Some(whole),
            Outcome::Taken => {}
            Outcome::Refused(problem, fragment) => {
                self.say_fragment_problem(now, problem, &fragment);
            }
        }
        None
    }

    /// Gives up the oldest datagram whose time is over, if there is one.
    pub(super) fn expire_fragments(&mut self, now: Instant) -> bool {
        let expired = self.reassembler.as_mut().and_then(|it| it.expire(now, &mut self.stats));
        if let Some(Expired { first: Some(first) }) = &expired {
            self.say_fragment_problem(now, FragmentProblem::Timeout, first);
        }
        expired.is_some()
    }

    /// When [`Stack::expire_fragments`] next has something to do.
    pub(super) fn fragments_due(&self) -> Option<Instant> {
        self.reassembler.as_ref()?.poll_timeout()
    }

    fn say_fragment_problem(&mut self, now: Instant, problem: FragmentProblem, fragment: &B) {
        let Ok(header) = IpHeader::parse(fragment.data()) else { return };
        if self.local_address(header.dst).is_none() {
            return;
        }
        let mut bytes = Vec::new();
        if icmp::emit_fragment_problem(problem, fragment.data(), header.dst, &mut bytes) {
            self.queue_error(now, fragment.rx_meta().port, bytes);
        }
    }
}

/// An empty buffer with room for `len` octets.
pub(super) fn buffer_for<B: PacketBuf>(pool: &mut dyn BufPool<B>, len: usize) -> Option<B> {
    let mut buf = pool.alloc()?;
    if buf.append(len).is_some() {
        buf.truncate(0);
        return Some(buf);
    }
    drop(buf);
    pool.alloc_long(len)
}
