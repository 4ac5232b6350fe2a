//! What a link is told to do, and what it counts.

use std::collections::BTreeSet;

/// The properties of one direction. The default is a perfect wire: no rate, no delay, no fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// Bits per second of the packets as pushed; `None` sends at once, `Some(0)` sends nothing and
    /// lets the queue fill.
    pub rate_bps: Option<u64>,
    /// One-way propagation delay.
    pub delay_ns: u64,
    /// Added to the delay, uniform in `0..=jitter_ns`. Jitter alone never reorders: a packet waits
    /// for the ones before it.
    pub jitter_ns: u64,
    /// Which packets the medium loses.
    pub loss: Loss,
    /// Share of packets, in millionths, that are held back so that later ones overtake them.
    pub reorder_ppm: u32,
    /// How long a held-back packet is late.
    pub reorder_extra_ns: u64,
    /// Share of packets, in millionths, that arrive twice.
    pub duplicate_ppm: u32,
    /// Tail-drop limit over all waiting bytes, the packet being sent included. An idle link takes a
    /// packet of any size.
    pub queue_bytes: usize,
    /// An ECN-capable packet that finds more than so many bytes waiting is marked (RFC 3168 §5), as
    /// by a router whose queue management marks instead of dropping. `None` marks nothing.
    pub ecn_mark_bytes: Option<usize>,
    /// Longest packet that is not dropped.
    pub mtu: usize,
    /// Loses everything behind the queue: to the sender the link looks alive.
    pub blackhole: bool,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            rate_bps: None,
            delay_ns: 0,
            jitter_ns: 0,
            loss: Loss::None,
            reorder_ppm: 0,
            reorder_extra_ns: 0,
            duplicate_ppm: 0,
            queue_bytes: 1 << 20,
            ecn_mark_bytes: None,
            mtu: 65_535,
            blackhole: false,
        }
    }
}

/// A loss model. Packets are numbered from 0 in the order they were pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Loss {
    /// Nothing is lost.
    None,
    /// Each packet alone, in millionths.
    Bernoulli(u32),
    /// Two states, good and burst, with a step before every packet. All values in millionths.
    GilbertElliott {
        /// Chance to go from good to burst.
        enter_ppm: u32,
        /// Chance to go from burst to good.
        leave_ppm: u32,
        /// Loss while good.
        good_ppm: u32,
        /// Loss during a burst.
        burst_ppm: u32,
    },
    /// Exactly these packet numbers.
    List(BTreeSet<u64>),
}

/// One change of a running link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Everything at once.
    Config(LinkConfig),
    /// New rate, in bits per second.
    Rate(Option<u64>),
    /// New propagation delay, in nanoseconds, for packets that have yet to leave the queue.
    Delay(u64),
    /// New jitter, in nanoseconds.
    Jitter(u64),
    /// New loss model.
    Loss(Loss),
    /// New tail-drop limit, in bytes; what waits already stays.
    Queue(usize),
    /// New longest packet, in bytes.
    Mtu(usize),
    /// Silent cut on or off.
    Blackhole(bool),
}

impl Change {
    pub(super) fn apply(self, config: &mut LinkConfig) {
        match self {
            Self::Config(new) => *config = new,
            Self::Rate(rate_bps) => config.rate_bps = rate_bps,
            Self::Delay(delay_ns) => config.delay_ns = delay_ns,
            Self::Jitter(jitter_ns) => config.jitter_ns = jitter_ns,
            Self::Loss(loss) => config.loss = loss,
            Self::Queue(queue_bytes) => config.queue_bytes = queue_bytes,
            Self::Mtu(mtu) => config.mtu = mtu,
            Self::Blackhole(blackhole) => config.blackhole = blackhole,
        }
    }
}

/// What became of a pushed packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It entered the queue.
    Queued,
    /// It was dropped at once.
    Dropped(DropReason),
}

/// Why a link lost a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DropReason {
    /// The queue was full.
    Queue,
    /// The packet was longer than the MTU.
    Mtu,
    /// The loss model took it.
    Loss,
    /// The link was cut.
    Blackhole,
}

/// Totals of one direction since it was created.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LinkCounters {
    /// Packets offered.
    pub pushed_packets: u64,
    /// Bytes offered.
    pub pushed_bytes: u64,
    /// Packets handed out by `poll`, copies included.
    pub delivered_packets: u64,
    /// Bytes handed out by `poll`, copies included.
    pub delivered_bytes: u64,
    /// Copies made.
    pub duplicated_packets: u64,
    /// Packets held back to be overtaken.
    pub reordered_packets: u64,
    /// Most bytes that ever waited.
    pub queue_bytes_max: u64,
    /// Packets marked because of the queue.
    pub marked_packets: u64,
    /// Packets dropped at a full queue.
    pub dropped_queue: u64,
    /// Packets dropped as too long.
    pub dropped_mtu: u64,
    /// Packets lost by the loss model.
    pub dropped_loss: u64,
    /// Packets lost to a cut.
    pub dropped_blackhole: u64,
    /// Bytes of all dropped packets.
    pub dropped_bytes: u64,
}

impl LinkCounters {
    /// Packets dropped for any reason.
    #[must_use]
    pub const fn dropped_packets(&self) -> u64 {
        self.dropped_queue + self.dropped_mtu + self.dropped_loss + self.dropped_blackhole
    }

    pub(super) const fn count_drop(&mut self, reason: DropReason, len: usize) {
        self.dropped_bytes += len as u64;
        let counter = match reason {
            DropReason::Queue => &mut self.dropped_queue,
            DropReason::Mtu => &mut self.dropped_mtu,
            DropReason::Loss => &mut self.dropped_loss,
            DropReason::Blackhole => &mut self.dropped_blackhole,
        };
        *counter += 1;
    }
}
