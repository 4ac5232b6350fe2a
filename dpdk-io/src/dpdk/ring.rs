//! Burst rings between shards (`rte_ring`, one sender and one receiver each).
//!
//! Invariant: a packet in a ring is complete in its descriptor: range, port and checksum result are
//! written there by the sender and read by the receiver. What is left in a ring is freed with it.

use super::eal::Eal;
use super::mbuf::Mbuf;
use super::reason;
use crate::error::DriverError;
use crate::rings::{BURST, RING_SIZE, Rings, Sent};
use core::ptr::NonNull;
use dpdk_sys::{RteMbuf, RteRing};
use std::sync::Arc;

/// One ring; freed with its second end.
#[derive(Debug)]
struct Ring(NonNull<RteRing>);

// SAFETY: the two ends work on different halves of the ring, which is made for that; `Sender` and
// `Receiver` exist once each and need `&mut self`.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn create(_eal: &Eal, socket: i32) -> Result<Self, DriverError> {
        let mut error = 0;
        // SAFETY: the EAL runs (the caller holds an `Eal`).
        let ring = unsafe { dpdk_sys::dio_ring_create(RING_SIZE, socket, &raw mut error) };
        let failed = || DriverError::Memory {
            what: format!("a ring of {RING_SIZE} packets between two shards"),
            reason: reason(error),
        };
        NonNull::new(ring).map(Self).ok_or_else(failed)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut burst = [core::ptr::null_mut::<RteMbuf>(); BURST];
        loop {
            // SAFETY: both ends are gone: nobody else uses the ring.
            let count = unsafe { dequeue(self.0, &mut burst) };
            if count == 0 {
                break;
            }
            // SAFETY: the first `count` entries came out of the ring and are nobody else's.
            unsafe { dpdk_sys::dio_free_bulk(burst.as_mut_ptr(), count) };
        }
        // SAFETY: made by `dio_ring_create`, empty, and not used again.
        unsafe { dpdk_sys::dio_ring_free(self.0.as_ptr()) };
    }
}

/// # Safety
/// The caller is the ring's only receiver.
unsafe fn dequeue(ring: NonNull<RteRing>, into: &mut [*mut RteMbuf; BURST]) -> u32 {
    // SAFETY: the caller vouches for the ring's end; the array holds BURST pointers.
    unsafe { dpdk_sys::dio_ring_dequeue(ring.as_ptr(), into.as_mut_ptr(), BURST as u32) }
}

/// The sending end.
#[derive(Debug)]
struct Sender(Arc<Ring>);

impl Sender {
    fn send(&mut self, packets: &mut Vec<Mbuf>) -> Sent {
        let mut burst = [core::ptr::null_mut::<RteMbuf>(); BURST];
        let mut ready = 0_u32;
        let mut sent = Sent::default();
        for packet in packets.drain(..) {
            let Some(place) = burst.get_mut(ready as usize) else {
                sent.full += 1;
                continue;
            };
            match packet.into_ring() {
                Some(raw) => {
                    *place = raw.as_ptr();
                    ready += 1;
                }
                None => sent.no_memory += 1,
            }
        }
        let ring = self.0.0.as_ptr();
        // SAFETY: this is the ring's only sender; the first `ready` entries are packets we own, and
        // those taken are the receiver's afterwards.
        let taken = unsafe { dpdk_sys::dio_ring_enqueue(ring, burst.as_mut_ptr(), ready) };
        sent.moved = taken as usize;
        let left = ready - taken;
        if left > 0 {
            sent.full += left as usize;
            // SAFETY: entries `taken..ready` are packets that are still ours, and forgotten here.
            unsafe { dpdk_sys::dio_free_bulk(burst.as_mut_ptr().add(taken as usize), left) };
        }
        sent
    }
}

/// The receiving end.
#[derive(Debug)]
struct Receiver(Arc<Ring>);

impl Receiver {
    fn receive(&mut self, into: &mut Vec<Mbuf>) -> usize {
        let mut burst = [core::ptr::null_mut::<RteMbuf>(); BURST];
        // SAFETY: this is the ring's only receiver.
        let count = unsafe { dequeue(self.0.0, &mut burst) } as usize;
        let received = burst.iter().take(count).filter_map(|&raw| NonNull::new(raw));
        // SAFETY: only `into_ring` puts packets into a ring, and gives each up.
        into.extend(received.map(|raw| unsafe { Mbuf::from_ring(raw) }));
        count
    }
}

/// One shard's ends of the rings to and from all others.
#[derive(Debug)]
pub struct MbufRings {
    /// By shard; none to itself.
    to: Vec<Option<Sender>>,
    from: Vec<Receiver>,
}

impl MbufRings {
    /// One for each shard. Each ring is on the NUMA node of its receiver, which `nodes` has by shard
    /// (-1: any).
    ///
    /// # Errors
    /// [`DriverError::Memory`].
    pub fn network(eal: &Eal, nodes: &[i32]) -> Result<Vec<Self>, DriverError> {
        let shards = nodes.len();
        let empty = || Self { to: Vec::with_capacity(shards), from: Vec::with_capacity(shards) };
        let mut all: Vec<Self> = (0..shards).map(|_| empty()).collect();
        for from in 0..shards {
            for (to, &node) in nodes.iter().enumerate() {
                if from == to {
                    all[from].to.push(None);
                    continue;
                }
                let ring = Arc::new(Ring::create(eal, node)?);
                all[from].to.push(Some(Sender(Arc::clone(&ring))));
                all[to].from.push(Receiver(ring));
            }
        }
        Ok(all)
    }
}

impl Rings<Mbuf> for MbufRings {
    fn send(&mut self, to: usize, packets: &mut Vec<Mbuf>) -> Sent {
        match self.to.get_mut(to) {
            Some(Some(sender)) => sender.send(packets),
            _ => Sent { full: packets.drain(..).count(), ..Sent::default() },
        }
    }

    fn receive(&mut self, into: &mut Vec<Mbuf>) -> usize {
        self.from.iter_mut().map(|receiver| receiver.receive(into)).sum()
    }
}

const _: () = assert!(RING_SIZE.is_power_of_two() && BURST < RING_SIZE as usize);
