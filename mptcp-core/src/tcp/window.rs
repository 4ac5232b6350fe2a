//! The receive window: its scale (RFC 7323), silly-window avoidance (RFC 9293 §3.8.6.2.2), the rule
//! that its right edge never moves left, and receive-buffer autotuning (dynamic right-sizing).

use super::{Tcb, TcbFlags};
use crate::buf::PacketBuf;
use crate::config::TcpConfig;
use crate::seq::SeqNum;
use crate::time::{Duration, Instant};
use core::num::NonZeroU32;

/// Round trip of a peer that never let us measure one.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);

/// Grows a receive buffer with what its reader takes per round trip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Autotune {
    /// Receive buffer now, octets of payload.
    limit: u32,
    /// Octets read since `mark`.
    read: u32,
    /// Receiver's estimate of the round trip, microseconds; 0 while unknown.
    rtt_us: u32,
    /// The low bits of microseconds.
    mark: Option<NonZeroU32>,
}

impl Autotune {
    pub(crate) fn new(config: &TcpConfig) -> Self {
        let limit = config.recv_buffer_initial.min(config.recv_buffer_max);
        Self { limit, read: 0, rtt_us: 0, mark: None }
    }

    /// A round-trip sample as the receiver sees it (timestamp echo).
    pub(crate) fn on_rtt(&mut self, sample: Duration) {
        let us = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX).max(1_000);
        self.rtt_us = match self.rtt_us {
            0 => us,
            old if us < old => us,
            old => old - old / 8 + us / 8,
        };
    }

    /// What is read in `us` microseconds is to be covered, from now on.
    pub(crate) fn cover_rtt(&mut self, us: u32) {
        self.rtt_us = us;
    }

    /// The reader took `n` octets.
    pub(crate) fn on_read(&mut self, now: Instant, n: u32, max: u32) {
        self.read = self.read.saturating_add(n);
        let now = NonZeroU32::MIN | now.as_micros() as u32;
        let mark = *self.mark.get_or_insert(now);
        if now.get().wrapping_sub(mark.get()) < self.rtt_us.max(1_000) {
            return;
        }
        // Twice what arrived covers a sender in slow start, once more what is unread.
        let wanted = self.read.saturating_mul(3).saturating_add(32 << 10);
        self.limit = self.limit.max(wanted.min(max));
        self.read = 0;
        self.mark = Some(now);
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Pool bytes all received and unread data may pin.
    pub(crate) fn memory(&self) -> u32 {
        self.limit.saturating_mul(2).saturating_add(64 << 10)
    }

    /// What a promise of `promised` octets obliges to. It is rounded up to the unit of the window
    /// field, so each segment smaller than a unit moves the edge along; once `unread` octets and
    /// the promise exceed the buffer by an eighth, it is rounded down instead (RFC 7323 §2.4). What
    /// was promised is still taken.
    pub(crate) fn floor(&self, promised: u32, unread: u32) -> u32 {
        let held = promised.saturating_add(unread);
        if held > self.limit.saturating_add(self.limit / 8) { 0 } else { promised }
    }

    /// Window that fits beside what is buffered.
    pub(crate) fn window(&self, buffered: u32, truesize: u32) -> u32 {
        let memory = self.memory().saturating_sub(truesize);
        self.limit.saturating_sub(buffered).min(memory)
    }
}

/// Smallest shift that can express `max`.
pub(crate) const fn scale_for(max: u32) -> u8 {
    let mut shift = 0;
    while shift < 14 && (65_535_u64 << shift) < max as u64 {
        shift += 1;
    }
    shift
}

/// Window field for a right edge `floor` octets away that must be kept and `wanted` octets that
/// could be offered: never less than `floor`, rounded so that no promise is broken.
pub(crate) fn field(floor: u32, wanted: u32, shift: u8) -> u16 {
    let unit = (1_u32 << shift) - 1;
    let keep = (floor.saturating_add(unit)) >> shift;
    let offer = wanted >> shift;
    u16::try_from(keep.max(offer)).unwrap_or(u16::MAX)
}

impl<B: PacketBuf> Tcb<B> {
    pub(crate) fn rcv_wnd(&self) -> u32 {
        let wnd = self.rcv_adv.diff(self.rcv_nxt);
        u32::try_from(wnd).unwrap_or(0)
    }

    /// What a plain connection can offer beyond `rcv_nxt`, and its window field can say.
    fn free_window(&self) -> u32 {
        self.autotune
            .window(self.received.in_order_len(), self.received.truesize())
            .min(65_535 << self.rcv_wscale)
    }

    /// Window field of the next segment; moves the advertised right edge. `shared` is the data
    /// level's promise and its offer for a subflow.
    pub(super) fn advertise(&mut self, shared: Option<(u32, u32)>) -> u16 {
        let promised = self.rcv_wnd();
        let (floor, wanted) = match shared {
            Some((promised, offer)) => (promised, offer),
            None => {
                let free = self.free_window();
                let step = u32::from(self.local_mss).min(self.autotune.limit() / 2);
                let wanted = if free >= promised.saturating_add(step) { free } else { promised };
                let unread = self.received.in_order_len();
                (self.autotune.floor(promised, unread), wanted)
            }
        };
        let field = field(floor, wanted, self.rcv_wscale);
        let edge = self.rcv_nxt.add(u32::from(field) << self.rcv_wscale);
        self.rcv_adv = self.rcv_adv.max(edge);
        self.last_window = field;
        field
    }

    /// Largest window the 16-bit field can express.
    pub(crate) fn largest_window(&self) -> u32 {
        u32::from(u16::MAX) << self.rcv_wscale
    }

    /// Octets the last segment offered beyond its acknowledgement.
    pub(crate) fn last_window(&self) -> u32 {
        u32::from(self.last_window) << self.rcv_wscale
    }

    /// `RCV.NXT` without the peer's FIN: where its data ends so far.
    pub(crate) fn rcv_nxt_data(&self) -> SeqNum {
        self.rcv_nxt.sub(u32::from(self.flags.contains(TcbFlags::FIN_RECEIVED)))
    }

    /// The reader took octets: true when the peer should be told of the larger window.
    pub(crate) fn window_opened(&self) -> bool {
        let promised = self.rcv_wnd();
        let free = self.free_window().min(self.largest_window());
        let step = (2 * u32::from(self.local_mss)).min(self.autotune.limit() / 2);
        free >= promised.saturating_add(step) && (promised < free / 2 || promised < step)
    }

    /// The reader of a plain connection took `octets`.
    pub(crate) fn note_read(&mut self, now: Instant, octets: u32, max: u32) {
        self.autotune.on_read(now, octets, max);
    }

    /// A subflow may buffer what its connection may: all of the shared window can arrive on it.
    pub(crate) fn share_buffer(&mut self, limit: u32) {
        self.autotune.limit = limit;
    }

    /// Without timestamps on data nothing but our own round trip is known; where there is none
    /// either, a large one is safer than a small one: the buffer only grows with what is read.
    pub(super) fn assume_receiver_rtt(&mut self) {
        if self.autotune.rtt_us == 0 {
            self.autotune.on_rtt(self.rtt.srtt().unwrap_or(UNKNOWN_RTT));
        }
    }

    /// A subflow takes `room` octets beyond `rcv_nxt`, whatever its own segments offered.
    pub(crate) fn make_room(&mut self, room: u32) {
        self.rcv_adv = self.rcv_adv.max(self.rcv_nxt.add(room));
    }

    pub(super) fn reassembly_budget(&self) -> u32 {
        self.autotune.memory()
    }

    /// Receiver-side round trip from the timestamp echo on data.
    pub(super) fn receiver_rtt(&mut self, now: Instant, tsecr: u32) {
        let elapsed = self.timestamp(now).wrapping_sub(tsecr);
        if tsecr != 0 && elapsed < 10_000 {
            self.autotune.on_rtt(Duration::from_millis(u64::from(elapsed)));
        }
    }

    /// Round trip of this path in microseconds, as either direction measured it; 0 while unknown.
    pub(crate) fn receiver_rtt_us(&self) -> u32 {
        let measured = self.rtt.srtt().map_or(0, |srtt| srtt.as_micros());
        self.autotune.rtt_us.max(u32::try_from(measured).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_covers_the_buffer() {
        assert_eq!(scale_for(65_535), 0);
        assert_eq!(scale_for(65_536), 1);
        assert_eq!(scale_for(6 << 20), 7);
        assert_eq!(scale_for(u32::MAX), 14);
    }

    #[test]
    fn window_field_keeps_promises_and_rounds_offers_down() {
        assert_eq!(field(0, 1000, 7), 7);
        assert_eq!(field(1000, 0, 7), 8);
        assert_eq!(field(128, 128, 7), 1);
        assert_eq!(field(0, u32::MAX, 0), u16::MAX);
    }
}
