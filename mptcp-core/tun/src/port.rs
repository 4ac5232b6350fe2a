//! One device of a loop: what waits to leave by it and what it counts.

use crate::counters::PortCounters;
use crate::device::PacketDevice;
use crate::error::TunError;
use core::net::IpAddr;
use mptcp_core::buf::{HeapBuf, PacketBuf};
use std::collections::VecDeque;
use std::io::ErrorKind;

/// Packets a full device may leave waiting before further ones are lost, as on any interface.
pub(crate) const TX_QUEUE: usize = 256;

/// A device and the stack's addresses that are reached through it. The port's `PortId` is its
/// position in what [`TunLoop::new`](crate::TunLoop::new) is given.
#[derive(Debug)]
pub struct TunPort<D> {
    /// The device.
    pub device: D,
    /// Addresses whose echo requests are answered, on whichever port they come in.
    pub addresses: Vec<IpAddr>,
}

/// A device with its transmit queue.
#[derive(Debug)]
pub(crate) struct Port<D> {
    pub(crate) device: D,
    /// Empty unless the device was full at the last attempt; at most [`TX_QUEUE`] packets.
    waiting: VecDeque<HeapBuf>,
}

/// How reading one packet went.
pub(crate) enum Received {
    /// This many bytes.
    Packet(usize),
    /// The device has none.
    Nothing,
}

impl<D: PacketDevice> Port<D> {
    pub(crate) fn new(device: D) -> Self {
        Self { device, waiting: VecDeque::with_capacity(TX_QUEUE) }
    }

    /// Reads one packet into `into`.
    pub(crate) fn recv(&mut self, into: &mut [u8]) -> Result<Received, TunError> {
        match self.device.recv(into) {
            Ok(len) => Ok(Received::Packet(len)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(Received::Nothing)
            }
            Err(source) => Err(TunError::Device { device: self.device.name().to_owned(), source }),
        }
    }

    /// Sends `packet`, or keeps it while the device is full.
    pub(crate) fn send(&mut self, packet: HeapBuf, counters: &PortCounters) {
        if self.waiting.is_empty() && self.try_send(&packet, counters) {
            return;
        }
        if self.waiting.len() < TX_QUEUE {
            self.waiting.push_back(packet);
        } else {
            counters.count_tx_queue_full();
        }
    }

    /// Sends what was kept, as far as the device takes it.
    pub(crate) fn send_waiting(&mut self, counters: &PortCounters) {
        while let Some(packet) = self.waiting.pop_front() {
            if !self.try_send(&packet, counters) {
                self.waiting.push_front(packet);
                return;
            }
        }
    }

    pub(crate) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// False when the device is full and the packet must be kept.
    fn try_send(&mut self, packet: &HeapBuf, counters: &PortCounters) -> bool {
        let bytes = packet.data();
        debug_assert_eq!(bytes.len(), packet.packet_len(), "heap buffers are contiguous");
        match self.device.send(bytes) {
            Ok(()) => counters.count_tx(bytes.len() as u64),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return false;
            }
            Err(error) => {
                counters.count_tx_error();
                log::debug!("{}: packet lost: {error}", self.device.name());
            }
        }
        true
    }
}
