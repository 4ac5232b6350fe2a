//! One device of a loop: what waits to leave by it and what it counts.

use crate::arrival::Arrival;
use crate::counters::PortCounters;
use crate::departure::Departure;
use crate::device::PacketDevice;
use crate::error::TunError;
use core::net::IpAddr;
use mptcp_core::buf::{HeapBuf, RxChecksum};
use std::collections::VecDeque;
use std::io::ErrorKind;

/// Packets, or pieces of several, a full device may leave waiting before further ones are lost, as on any interface.
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
pub(crate) struct Port<D> {
    pub(crate) device: D,
    /// What a device with offloads handed over last.
    arrival: Option<Arrival>,
    /// The newest departure of such a device, while others may join it.
    open: Option<Departure>,
    /// Empty unless the device was full at the last attempt; at most [`TX_QUEUE`].
    waiting: VecDeque<Departure>,
}

/// How reading one packet went.
pub(crate) enum Received {
    /// This many bytes, and what is known of their checksum.
    Packet(usize, RxChecksum),
    /// What was read is lost; there may be more.
    Unusable,
    /// The device has none.
    Nothing,
}

impl<D: PacketDevice> Port<D> {
    pub(crate) fn new(device: D) -> Self {
        let arrival = device.has_offloads().then(Arrival::new);
        Self { device, arrival, open: None, waiting: VecDeque::with_capacity(TX_QUEUE) }
    }

    pub(crate) const fn has_offloads(&self) -> bool {
        self.arrival.is_some()
    }

    /// Reads one packet into `into`.
    pub(crate) fn recv(
        &mut self,
        into: &mut [u8],
        counters: &PortCounters,
    ) -> Result<Received, TunError> {
        let result = match &mut self.arrival {
            None => self.device.recv(into).map(|len| {
                counters.count_rx(len as u64);
                Received::Packet(len, RxChecksum::Unknown)
            }),
            Some(arrival) => next(arrival, &mut self.device, into, counters),
        };
        match result {
            Ok(received) => Ok(received),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(Received::Nothing),
                ErrorKind::InvalidData => {
                    counters.count_rx_error();
                    Ok(Received::Unusable)
                }
                _ => {
                    let device = self.device.name().to_owned();
                    Err(TunError::Device { device, source: error })
                }
            },
        }
    }

    /// Sends `packet`, or keeps it while the device is full, or until [`Self::flush`] where others may join it.
    pub(crate) fn send(&mut self, packet: HeapBuf, counters: &PortCounters) {
        if !self.has_offloads() {
            return self.pass(Departure::alone(packet), counters);
        }
        let packet = match &mut self.open {
            Some(open) => match open.join(packet) {
                Ok(()) => return,
                Err(packet) => packet,
            },
            None => packet,
        };
        self.flush(counters);
        let departure = Departure::open(packet);
        if departure.is_open() {
            self.open = Some(departure);
        } else {
            self.pass(departure, counters);
        }
    }

    /// Nothing joins the newest packet any more: it goes out.
    pub(crate) fn flush(&mut self, counters: &PortCounters) {
        if let Some(open) = self.open.take() {
            self.pass(open, counters);
        }
    }

    /// Sends what was kept, as far as the device takes it.
    pub(crate) fn send_waiting(&mut self, counters: &PortCounters) {
        while let Some(departure) = self.waiting.pop_front() {
            if !self.try_send(&departure, counters) {
                self.waiting.push_front(departure);
                return;
            }
        }
    }

    pub(crate) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn pass(&mut self, departure: Departure, counters: &PortCounters) {
        if self.waiting.is_empty() && self.try_send(&departure, counters) {
            return;
        }
        if self.waiting.len() < TX_QUEUE {
            self.waiting.push_back(departure);
        } else {
            counters.count_tx_queue_full(departure.segments() as u64);
        }
    }

    /// False when the device is full and the packet must be kept.
    fn try_send(&mut self, departure: &Departure, counters: &PortCounters) -> bool {
        let sent = if self.has_offloads() {
            departure.send_described(&mut self.device)
        } else {
            departure.send_bare(&mut self.device)
        };
        match sent {
            Ok(len) => counters.count_tx(len as u64, departure.segments() as u64),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return false;
            }
            Err(error) => {
                counters.count_tx_error(departure.segments() as u64);
                log::debug!("{}: packet lost: {error}", self.device.name());
            }
        }
        true
    }
}

/// The next packet of what a device with offloads handed over, which it is asked for more when nothing is left.
fn next(
    arrival: &mut Arrival,
    device: &mut impl PacketDevice,
    into: &mut [u8],
    counters: &PortCounters,
) -> std::io::Result<Received> {
    if arrival.is_empty() {
        let len = arrival.read(device)?;
        counters.count_rx(len as u64);
        counters.count_rx_pieces(u64::from(arrival.is_piece()));
    }
    let is_part = arrival.is_piece();
    let (len, checksum) = arrival.next(into).ok_or(ErrorKind::InvalidData)?;
    counters.count_rx_parts(u64::from(is_part));
    Ok(Received::Packet(len, checksum))
}

#[cfg(test)]
mod tests;
