//! What a loop counts. Written by the loop alone, readable from any thread at any time.

use core::sync::atomic::{AtomicU64, Ordering};

/// Counts of one port since the loop was made.
#[derive(Debug, Default)]
pub struct PortCounters {
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    rx_no_buffer: AtomicU64,
    rx_errors: AtomicU64,
    rx_pieces: AtomicU64,
    rx_parts: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    tx_errors: AtomicU64,
    tx_pieces: AtomicU64,
    tx_joined: AtomicU64,
    tx_queue_full: AtomicU64,
    echo_replies: AtomicU64,
    echo_limited: AtomicU64,
}

/// Counts of a whole loop.
#[derive(Debug)]
pub struct LoopCounters {
    ports: Box<[PortCounters]>,
    turns: AtomicU64,
    no_route: AtomicU64,
}

/// Adds without a locked instruction: there is one writer.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl PortCounters {
    /// IP packets read from the device; of segments in one piece, the piece.
    #[must_use]
    pub fn rx_packets(&self) -> u64 {
        self.rx_packets.load(Ordering::Relaxed)
    }

    /// Bytes of those packets.
    #[must_use]
    pub fn rx_bytes(&self) -> u64 {
        self.rx_bytes.load(Ordering::Relaxed)
    }

    /// Packets lost because the pool was empty; also counted as received.
    #[must_use]
    pub fn rx_no_buffer(&self) -> u64 {
        self.rx_no_buffer.load(Ordering::Relaxed)
    }

    /// Packets lost because they were longer than the MTU, or no header could be made of what they said.
    #[must_use]
    pub fn rx_errors(&self) -> u64 {
        self.rx_errors.load(Ordering::Relaxed)
    }

    /// What came as segments or datagrams in one piece.
    #[must_use]
    pub fn rx_pieces(&self) -> u64 {
        self.rx_pieces.load(Ordering::Relaxed)
    }

    /// Packets that those were cut into.
    #[must_use]
    pub fn rx_parts(&self) -> u64 {
        self.rx_parts.load(Ordering::Relaxed)
    }

    /// What left as segments in one piece.
    #[must_use]
    pub fn tx_pieces(&self) -> u64 {
        self.tx_pieces.load(Ordering::Relaxed)
    }

    /// Segments in those.
    #[must_use]
    pub fn tx_joined(&self) -> u64 {
        self.tx_joined.load(Ordering::Relaxed)
    }

    /// IP packets the device took; of segments in one piece, the piece.
    #[must_use]
    pub fn tx_packets(&self) -> u64 {
        self.tx_packets.load(Ordering::Relaxed)
    }

    /// Bytes of those packets.
    #[must_use]
    pub fn tx_bytes(&self) -> u64 {
        self.tx_bytes.load(Ordering::Relaxed)
    }

    /// Packets lost because the device refused them, for example while it is down.
    #[must_use]
    pub fn tx_errors(&self) -> u64 {
        self.tx_errors.load(Ordering::Relaxed)
    }

    /// Packets lost because the device stayed full.
    #[must_use]
    pub fn tx_queue_full(&self) -> u64 {
        self.tx_queue_full.load(Ordering::Relaxed)
    }

    /// ICMP and `ICMPv6` echo requests answered by the loop; also counted as received and sent.
    #[must_use]
    pub fn echo_replies(&self) -> u64 {
        self.echo_replies.load(Ordering::Relaxed)
    }

    /// Echo requests left unanswered because there were too many; also counted as received.
    #[must_use]
    pub fn echo_limited(&self) -> u64 {
        self.echo_limited.load(Ordering::Relaxed)
    }

    pub(crate) fn count_rx(&self, bytes: u64) {
        add(&self.rx_packets, 1);
        add(&self.rx_bytes, bytes);
    }

    pub(crate) fn count_rx_error(&self) {
        add(&self.rx_errors, 1);
    }

    pub(crate) fn count_rx_pieces(&self, pieces: u64) {
        add(&self.rx_pieces, pieces);
    }

    pub(crate) fn count_rx_parts(&self, parts: u64) {
        add(&self.rx_parts, parts);
    }

    pub(crate) fn count_rx_no_buffer(&self) {
        add(&self.rx_no_buffer, 1);
    }

    pub(crate) fn count_tx(&self, bytes: u64, segments: u64) {
        add(&self.tx_packets, 1);
        add(&self.tx_bytes, bytes);
        if segments > 1 {
            add(&self.tx_pieces, 1);
            add(&self.tx_joined, segments);
        }
    }

    pub(crate) fn count_tx_error(&self, packets: u64) {
        add(&self.tx_errors, packets);
    }

    pub(crate) fn count_tx_queue_full(&self, packets: u64) {
        add(&self.tx_queue_full, packets);
    }

    pub(crate) fn count_echo_limited(&self) {
        add(&self.echo_limited, 1);
    }

    pub(crate) fn count_echo_reply(&self) {
        add(&self.echo_replies, 1);
    }
}

impl LoopCounters {
    pub(crate) fn new(port_count: usize) -> Self {
        Self {
            ports: core::iter::repeat_with(PortCounters::default).take(port_count).collect(),
            turns: AtomicU64::new(0),
            no_route: AtomicU64::new(0),
        }
    }

    /// One entry per port, in the order given to the loop.
    #[must_use]
    pub fn ports(&self) -> &[PortCounters] {
        &self.ports
    }

    /// Turns of the loop.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Packets lost because no route led to their destination.
    #[must_use]
    pub fn no_route(&self) -> u64 {
        self.no_route.load(Ordering::Relaxed)
    }

    pub(crate) fn count_turn(&self) {
        add(&self.turns, 1);
    }

    pub(crate) fn count_no_route(&self) {
        add(&self.no_route, 1);
    }
}
