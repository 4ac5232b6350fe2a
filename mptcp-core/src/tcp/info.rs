//! What a control block tells about itself: the fields of Linux's `TCP_INFO` that exist here.

use super::{State, Tcb, TcbFlags};
use crate::buf::PacketBuf;
use crate::time::{Duration, Instant};

/// What congestion control is about (`ca_state` of `TCP_INFO`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum CongestionState {
    /// Nothing is known to be lost.
    #[default]
    Open,
    /// Fast recovery (RFC 6675, 6937).
    Recovery,
    /// After a retransmission timeout.
    Loss,
}

impl CongestionState {
    /// Name in reports and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Recovery => "recovery",
            Self::Loss => "loss",
        }
    }
}

impl State {
    /// Its name in RFC 9293 §3.3.2, in snake case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait1 => "fin_wait_1",
            Self::FinWait2 => "fin_wait_2",
            Self::CloseWait => "close_wait",
            Self::Closing => "closing",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
        }
    }
}

/// One TCP connection in numbers, as `TCP_INFO` has them. Octets unless a field says otherwise;
/// counters are totals since the handshake. Not kept, for their memory on every connection or their
/// cost on every segment: `retrans` (segments in flight that were sent again), `data_segs_in` and
/// `data_segs_out`, `busy_time`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct TcpInfo {
    /// What congestion control is about.
    pub congestion_state: CongestionState,
    /// Name of the algorithm.
    pub congestion: &'static str,
    /// Retransmission timeouts in a row without progress.
    pub retransmits: u8,
    /// Window probes since the window was last open.
    pub probes: u8,
    /// How often the retransmission timeout is doubled now.
    pub backoff: u8,
    /// Timestamps are used (RFC 7323).
    pub timestamps: bool,
    /// Selective acknowledgements are used (RFC 2018).
    pub sack: bool,
    /// Data on the SYN, ours or the peer's, was acknowledged by the SYN/ACK (RFC 7413).
    pub syn_data: bool,
    /// Left shift of the windows the peer sends.
    pub snd_wscale: u8,
    /// Left shift of the windows we send.
    pub rcv_wscale: u8,
    /// Retransmission timeout.
    pub rto: Duration,
    /// Largest payload we put into a segment, the options it always carries taken off.
    pub snd_mss: u32,
    /// MSS we announced.
    pub adv_mss: u16,
    /// Largest packet the path is known to take.
    pub pmtu: u16,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Of these, segments selectively acknowledged.
    pub sacked: u32,
    /// Octets taken for lost and not sent again yet.
    pub lost: u32,
    /// Octets believed to be in the network (RFC 6675 pipe).
    pub pipe: u32,
    /// Octets that wait for their first transmission; 0 on subflows, whose data waits in the stream.
    pub unsent: u32,
    /// When data, a SYN or a FIN last went out.
    pub last_data_sent: Option<Instant>,
    /// When data last came in; `None` before the first.
    pub last_data_received: Option<Instant>,
    /// When an acceptable segment, which acknowledges, last came in; at first when the connection
    /// began.
    pub last_ack_received: Option<Instant>,
    /// Smoothed round-trip time; `None` before the first sample.
    pub srtt: Option<Duration>,
    /// Its mean deviation.
    pub rttvar: Option<Duration>,
    /// Shortest sample of the last minutes.
    pub min_rtt: Option<Duration>,
    /// Round-trip time as the receiver sees it; `None` before the first sample.
    pub rcv_rtt: Option<Duration>,
    /// Slow start threshold; `None` before the first loss.
    pub snd_ssthresh: Option<u32>,
    /// Congestion window.
    pub cwnd: u32,
    /// Octets per second at which segments are released; `None` while nothing but the window holds
    /// them.
    pub pacing_rate: Option<u64>,
    /// Octets per second that the path is taken to carry: BBR's estimate from delivery-rate samples, the
    /// window per round trip with the others; `None` before the first round trip.
    pub delivery_rate: Option<u64>,
    /// The peer's window as last heard.
    pub snd_wnd: u32,
    /// Our window as the peer knows it.
    pub rcv_wnd: u32,
    /// Receive buffer now; autotuning grows it.
    pub rcv_space: u32,
    /// Reordering was seen (RFC 8985).
    pub reordering: bool,
    /// Segments sent again, SYNs included.
    pub total_retrans: u32,
    /// Payload sent for the first time.
    pub bytes_sent: u64,
    /// Payload sent again.
    pub bytes_retrans: u64,
    /// Payload acknowledged.
    pub bytes_acked: u64,
    /// Payload received in order.
    pub bytes_received: u64,
    /// Segments sent; wraps.
    pub segs_out: u32,
    /// Segments received; wraps.
    pub segs_in: u32,
}

impl<B: PacketBuf> Tcb<B> {
    /// Payload octets the peer acknowledged.
    pub(crate) fn bytes_acked(&self) -> u64 {
        self.counters.bytes_sent.saturating_sub(u64::from(self.flight_data()))
    }

    /// What it is about now, for a log that compares.
    pub(crate) fn watched(&self) -> (State, CongestionState, u16) {
        (self.state, self.congestion_state(), self.mss)
    }

    /// Everything at once.
    pub(crate) fn info(&self) -> TcpInfo {
        let headers: u16 = if self.ends.is_ipv4() { 40 } else { 60 };
        let ssthresh = self.ssthresh();
        let rcv_rtt_us = self.receiver_rtt_us();
        TcpInfo {
            congestion_state: self.congestion_state(),
            congestion: self.with_congestion(|congestion| congestion.name()),
            retransmits: self.rtt.retries,
            probes: self.probes,
            backoff: self.rtt.backoff(),
            timestamps: self.flags.contains(TcbFlags::TIMESTAMPS),
            sack: self.flags.contains(TcbFlags::SACK),
            syn_data: self.syn_data_acked(),
            snd_wscale: self.snd_wscale,
            rcv_wscale: self.rcv_wscale,
            rto: self.rtt.rto(),
            snd_mss: self.payload_mss(),
            adv_mss: self.local_mss,
            pmtu: self.mss.saturating_add(headers),
            unacked: u32::try_from(self.queue.len()).unwrap_or(u32::MAX),
            sacked: self.queue.sacked_count(),
            lost: self.queue.lost_bytes(),
            pipe: self.pipe(),
            unsent: self.unsent_len,
            last_data_sent: Some(self.last_sent),
            last_data_received: self.last_data_received(),
            last_ack_received: Some(self.last_received),
            srtt: self.rtt.srtt(),
            rttvar: self.rtt.rttvar(),
            min_rtt: self.rtt.min_rtt(),
            rcv_rtt: (rcv_rtt_us > 0).then(|| Duration::from_micros(u64::from(rcv_rtt_us))),
            snd_ssthresh: (ssthresh != u32::MAX).then_some(ssthresh),
            cwnd: self.cwnd(),
            pacing_rate: self.sender.as_ref().and_then(|sender| sender.pacer.rate()),
            delivery_rate: self.rtt.srtt().and_then(|srtt| self.bandwidth(srtt)),
            snd_wnd: self.snd_wnd,
            rcv_wnd: self.rcv_wnd(),
            rcv_space: self.autotune.limit(),
            reordering: self.flags.contains(TcbFlags::REORDERING),
            total_retrans: self.retransmitted().0,
            bytes_sent: self.counters.bytes_sent,
            bytes_retrans: self.retransmitted().1,
            bytes_acked: self.bytes_acked(),
            bytes_received: self.counters.bytes_received,
            segs_out: self.counters.segs_out,
            segs_in: self.counters.segs_in,
        }
    }

    /// The low 32 bits of the time are kept: enough as long as something arrives every 49 days.
    fn last_data_received(&self) -> Option<Instant> {
        if self.counters.bytes_received == 0 {
            return None;
        }
        let last = self.last_received.as_millis();
        let ago = (last as u32).wrapping_sub(self.data_in_ms);
        Some(Instant::from_millis(last.saturating_sub(u64::from(ago))))
    }
}
