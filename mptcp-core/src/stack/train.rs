//! Segments of one burst that share a mapping, where their port sends what follows on each other in one piece:
//! it copies what the first one says to all (RFC 8684 §3.3.1 lets one mapping cover many segments).
//!
//! How long the mapping is shows at the end of the burst. Until then its packets are held here; then each of
//! them says the same, and says so again whenever it is repeated. It must: Linux and its version 0 kernels
//! reset a subflow that maps in another way what is mapped already, were it to the same octets.
//!
//! Invariant: nothing is held between two bursts, and what is held left room for itself in the queue.

use crate::buf::{PacketBuf, TxQueue};
use crate::seq::DataSeq;
use crate::tcp::{Burst, Tcb, TxMapping};
use alloc::vec::Vec;

/// See the module.
#[derive(Debug)]
pub(super) struct Train<B> {
    packets: Vec<B>,
    /// Of the text in them.
    octets: u16,
    /// Where that ends in the stream.
    end: DataSeq,
    /// Numbers of the stream have 64 bits.
    wide: bool,
    /// The next packet is one of them.
    boarding: bool,
}

impl<B: PacketBuf> Train<B> {
    pub(super) const fn new() -> Self {
        Self { packets: Vec::new(), octets: 0, end: DataSeq(0), wide: false, boarding: false }
    }

    /// Packets held.
    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// The next packet is to be [held](Self::hold).
    pub(super) fn is_boarding(&self) -> bool {
        self.boarding
    }

    pub(super) fn hold(&mut self, packet: B) {
        self.packets.push(packet);
    }

    /// Before the next segment of a burst is sent: whether it shares the `mapping` of those before it.
    /// A mapping with a checksum covers what that was made of, and nothing else.
    pub(super) fn board<T: TxQueue<B>>(
        &mut self,
        mapping: Option<&mut TxMapping>,
        tcb: &mut Tcb<B>,
        burst: &Burst,
        tx: &mut T,
    ) {
        let shareable = |mapping: &&mut TxMapping| {
            mapping.len > 0 && mapping.checksum.is_none() && !mapping.capable
        };
        let mapping = mapping.filter(shareable);
        // What was sent ahead of its turn is passed over within a burst.
        let goes_on = |mapping: &TxMapping| self.octets == 0 || mapping.dsn == self.end;
        let fits = |mapping: &TxMapping| {
            goes_on(mapping) && self.octets.checked_add(mapping.len).is_some()
        };
        if !burst.goes_on() || !mapping.as_deref().is_some_and(fits) {
            self.depart(tcb, burst, tx);
        }
        self.boarding = mapping.is_some();
        if let Some(mapping) = mapping {
            mapping.before = self.octets;
            self.wide = mapping.wide;
        }
    }

    /// The segment was sent.
    pub(super) fn boarded(&mut self, mapping: Option<&TxMapping>) {
        if self.boarding {
            let Some(mapping) = mapping else { return };
            self.octets += mapping.len;
            self.end = DataSeq(mapping.dsn.0.wrapping_add(u64::from(mapping.len)));
        }
    }

    /// Lets the packets go. `burst` still has their headers.
    pub(super) fn depart<T: TxQueue<B>>(&mut self, tcb: &mut Tcb<B>, burst: &Burst, tx: &mut T) {
        let Self { packets, octets, wide, boarding, .. } = self;
        if packets.len() > 1 {
            let count = packets.len();
            tcb.queue.share_mapping(count, *octets, |at| {
                packets.get_mut(at).is_some_and(|packet| burst.widen(packet, *wide, *octets))
            });
        }
        packets.drain(..).for_each(|packet| tx.push(packet));
        (*octets, *boarding) = (0, false);
    }
}
