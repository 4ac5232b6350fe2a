//! One TCP connection, subflow or plain (RFC 9293): the control block and the commands on it.
//!
//! The engine is sans-IO. `Tcb::segment_arrives` and `Tcb::timeout` return an `Outcome` that
//! the stack routes; what must be sent is produced by `Tcb::output` when the stack asks for it.
//! A subflow differs in three things only: its payload comes mapped from the data level, its
//! window is the data level's, and its segments carry the MPTCP options it is given.

mod behalf;
pub mod congestion;
mod delivery;
mod ecn;
mod fast_open;
mod info;
mod input;
pub mod isn;
mod kept_tuple;
mod mtu;
mod output;
mod pacing;
mod rare;
mod recovery;
mod recv_queue;
pub(crate) mod request;
pub mod rtt;
mod segment;
mod send_queue;
mod sender;
pub(crate) mod time_wait;
mod urgent;
mod warm;
mod window;

use crate::buf::{HeapBuf, PacketBuf, PortId};
use crate::config::{CongestionAlgorithm, EcnPolicy, Marking, TcpConfig};
use crate::error::ConnectionError;
use crate::mptcp::{FallbackReason, Subflow};
use crate::seq::{DataSeq, SeqNum};
use crate::stats::Counters;
use crate::time::{Duration, Instant, earliest};
use crate::util::on_demand::OnDemand;
use crate::util::slab::{Line, Slab};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
pub(crate) use behalf::Behalf;
pub use behalf::SynTerms;
use congestion::initial_window;
use core::mem::offset_of;
use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU32;
pub(crate) use fast_open::{COOKIE_LENGTHS, Early, Opening, Pending, push_grant};
pub use info::{CongestionState, TcpInfo};
pub(crate) use input::RunBounds;
pub(crate) use kept_tuple::KeptTuple;
pub(crate) use output::{
    Burst, DataLevel, PROTOCOL_TCP, Stateless, gather, goes_alone, mss_for, sum_of,
};
use rare::Rare;
pub(crate) use recv_queue::{Inserted, RecvQueue};
use rtt::RttEstimator;
pub(crate) use segment::{Part, Segment};
pub(crate) use send_queue::{SendQueue, TxMapping, TxSegment};
use sender::Sender;
use time_wait::TimeWait;
pub(crate) use window::{Autotune, scale_for};

/// Connection states of RFC 9293 §3.3.2. LISTEN and SYN-RECEIVED of passive opens live outside the
/// control block, as listeners and request entries (but for Fast Open); TIME-WAIT as a 64-byte entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Our SYN is out.
    SynSent,
    /// Both SYNs are out, ours is not acknowledged (simultaneous open, and Fast Open at a listener).
    SynReceived,
    /// Data flows.
    Established,
    /// Our FIN is out.
    FinWait1,
    /// Our FIN is acknowledged.
    FinWait2,
    /// The peer's FIN is in; ours is not out.
    CloseWait,
    /// Both FINs are out, ours is not acknowledged.
    Closing,
    /// The peer's FIN came first and ours is out.
    LastAck,
    /// Both FINs are acknowledged; waiting for stray segments to die.
    TimeWait,
    /// Gone.
    Closed,
}

impl State {
    /// Both SYNs are acknowledged and the connection is not gone.
    #[must_use]
    pub const fn synchronized(self) -> bool {
        !matches!(self, Self::SynSent | Self::SynReceived | Self::Closed)
    }

    /// The peer may still send data.
    pub(crate) const fn receiving(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }

    /// We may still send new data.
    pub(crate) const fn sending(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait)
    }
}

/// The two ends of one TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Tuple {
    /// Our address.
    pub local_addr: IpAddr,
    /// The peer's.
    pub remote_addr: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// The peer's.
    pub remote_port: u16,
}

impl Tuple {
    pub(crate) const fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local_addr, self.local_port)
    }

    pub(crate) const fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote_addr, self.remote_port)
    }
}

/// An address that no connection can have at its other end (RFC 9293 §3.9.2.3, RFC 1122 §3.2.1.3 and §4.2.3.10, RFC 4291
/// §2.5.3).
pub(crate) fn is_no_host(addr: &IpAddr) -> bool {
    let nobody = match addr {
        // Of network 0 there is nobody either.
        IpAddr::V4(v4) => v4.octets().starts_with(&[0]) || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    nobody || addr.is_loopback() || addr.is_multicast()
}

/// Smaller segments than this are not sent, whatever the peer announces: each costs a fixed amount of
/// work and memory here, and every host takes 576 octets in one piece (RFC 791).
const PEER_MSS_MIN: u16 = 216;
/// Half of what a buffer pins, octets.
const HALF_A_BUFFER: u32 = 1 << 10;

/// What every call needs of its stack.
pub(crate) struct Env<'a> {
    pub(crate) now: Instant,
    pub(crate) config: &'a TcpConfig,
    pub(crate) stats: &'a mut Counters,
}

/// What a segment or a timer changed; the stack acts on it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// The segment passed the sequence and acknowledgement checks: its options may be read.
    pub(crate) acceptable: bool,
    /// It did not, for it begins below the window, but not far, and its acknowledgement is acceptable: a probe, or a
    /// copy.
    pub(crate) below: bool,
    /// The three-way handshake finished with this segment.
    pub(crate) established: bool,
    /// It did for a connection that its listener gave out before (Fast Open).
    pub(crate) fast_opened: bool,
    /// It did for a simultaneous open.
    pub(crate) crossed: bool,
    /// New in-order data is in the receive queue.
    pub(crate) data: bool,
    /// The peer's FIN is in order.
    pub(crate) fin: bool,
    /// There is urgent data ahead, or more of it.
    pub(crate) urgent: bool,
    /// `snd_una` moved: room in the send buffer, perhaps.
    pub(crate) acked: bool,
    /// Octets sent that were acknowledged, in order or selectively.
    pub(crate) delivered: u32,
    /// Octets found lost since the last acknowledgement of any.
    pub(crate) lost: u32,
    /// A retransmission timeout is over.
    pub(crate) timed_out: bool,
    /// Nothing was heard for two round trips: a tail loss probe is due.
    pub(crate) probed: bool,
    /// The segment must be answered with a RST.
    pub(crate) reply_rst: bool,
    /// Both FINs are acknowledged: a TIME-WAIT entry takes over.
    pub(crate) time_wait: bool,
    /// The connection is gone: `Some(None)` in order, `Some(Some(_))` with an error.
    pub(crate) closed: Option<Option<ConnectionError>>,
}

bitflags::bitflags! {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct TcbFlags: u32 {
        /// Timestamps are in use (RFC 7323).
        const TIMESTAMPS = 1;
        /// SACK is in use (RFC 2018).
        const SACK = 1 << 1;
        /// An ACK must go out with the next poll.
        const ACK_NOW = 1 << 2;
        /// The application closed its direction; a FIN follows the queued data.
        const FIN_QUEUED = 1 << 3;
        /// Our FIN was sent (it is the last octet before `snd_nxt`).
        const FIN_SENT = 1 << 4;
        /// The peer's FIN is in order.
        const FIN_RECEIVED = 1 << 5;
        /// No Nagle delay.
        const NO_DELAY = 1 << 6;
        /// A SYN (or SYN/ACK) must go out.
        const SYN_NOW = 1 << 7;
        /// Sent as much as `cwnd` allowed when there last was a chance to.
        const CWND_LIMITED = 1 << 8;
        /// A tail loss probe is out (RFC 8985 §7.4).
        const TLP_OUT = 1 << 9;
        /// That probe was a retransmission.
        const TLP_RETRANS = 1 << 10;
        /// A keep-alive or window probe must go out.
        const PROBE_NOW = 1 << 11;
        /// The tail loss probe is due.
        const TLP_NOW = 1 << 12;
        /// Nobody will read what arrives: data after close resets (RFC 9293 §3.6.1).
        const READ_SHUT = 1 << 13;
        /// The SYN leaves its MPTCP option out.
        const PLAIN_SYN = 1 << 14;
        /// Waited long enough for a larger window: the next segment may be small.
        const OVERRIDE = 1 << 15;
        /// A FIN of the peer's was seen, in order or not.
        const FIN_SEEN = 1 << 16;
        /// A probe was sent and no round trip was measured since (RFC 8985 §7.3).
        const TLP_SPENT = 1 << 17;
        /// A retransmission timeout has passed without progress, though a probe took its place.
        const SILENT = 1 << 18;
        /// Reordering was seen on this connection (RFC 8985 `RACK.reordering_seen`).
        const REORDERING = 1 << 19;
        /// `rack.dsack_round` is set.
        const DSACK_ROUND = 1 << 20;
        /// `rack.reduced` is set by a recovery without SACK.
        const RENO_RECOVER = 1 << 21;
        /// An idle peer is probed.
        const KEEP_ALIVE = 1 << 22;
        /// Data on the SYN was acknowledged (RFC 7413).
        const SYN_DATA = 1 << 24;
        /// Something sent before `Recovery::recover` is unrepaired: `Sender::recovery` is there.
        const RECOVERY = 1 << 30;
        /// The peer's SYN had a window scale.
        const SCALED = 1 << 31;
        /// Something could be sent now if the pace allowed it.
        const PACED = 1 << 23;
        /// New data may be marked on its way (RFC 3168); while the SYN is out, that it asks for this.
        const ECN = 1 << 25;
        /// Marks of what arrives are echoed: the peer was promised that.
        const ECN_ECHO = 1 << 26;
        /// A mark arrived and no CWR since: every acknowledgement says so.
        const ECE = 1 << 27;
        /// The window was reduced: the next new segment says so.
        const CWR = 1 << 28;
        /// `rack.reduced` is set for ECN.
        const ECN_REDUCED = 1 << 29;
    }
}

/// What the retransmission timer is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RtxKind {
    Rto,
    /// RFC 8985 §7
    TailLossProbe,
    /// RFC 8985 §6.2 step 5
    Reordering,
    /// What was sent again on a subflow is not answered either: nothing goes out, but others are told.
    Silence,
    /// Zero-window probe (RFC 9293 §3.8.6.1)
    Persist,
}

/// First octet and length of a duplicate to report once (RFC 2883).
type Dsack = Option<(SeqNum, NonZeroU32)>;

/// Transmission control block. The order is that of use: a packet touches what stands first, and of the rest
/// little more than the addresses.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Tcb<B> {
    // What is there while it is used.
    pub(crate) subflow: Option<Box<Subflow>>,
    sender: Option<Box<Sender>>,
    rare: Option<Box<Rare<B>>>,
    pub(crate) queue: OnDemand<SendQueue<B>>,
    pub(crate) unsent: OnDemand<VecDeque<B>>,
    pub(crate) received: OnDemand<RecvQueue<B>>,
    // Timers: deadlines; one node of the stack's wheel serves them all.
    rtx_at: Option<Instant>,
    delayed_ack_at: Option<Instant>,
    /// Since when the retransmission timeout counts (RFC 6298 §5.1, §5.3): the last progress or later.
    rto_base: Instant,
    last_sent: Instant,
    last_received: Instant,
    pub(crate) counters: TcbCounters,
    pub(crate) flags: TcbFlags,
    pub(crate) unsent_len: u32,
    // Send sequence variables.
    pub(crate) snd_una: SeqNum,
    pub(crate) snd_nxt: SeqNum,
    snd_wnd: u32,
    snd_wl1: SeqNum,
    snd_wl2: SeqNum,
    max_snd_wnd: u32,
    /// Congestion window, octets.
    cwnd: u32,
    // Receive sequence variables.
    pub(crate) rcv_nxt: SeqNum,
    /// Right edge of the window as advertised; never moves left.
    rcv_adv: SeqNum,
    last_ack_sent: SeqNum,
    ts_recent: u32,
    /// When `ts_recent` was set, in seconds.
    ts_recent_at_s: u32,
    ts_offset: u32,
    /// When data last arrived in order, the low bits of milliseconds.
    data_in_ms: u32,
    autotune: Autotune,
    pub(crate) rtt: RttEstimator,
    /// Segment size, options included: the peer's MSS or the path's, whichever is smaller.
    pub(crate) mss: u16,
    /// Window field of the last segment sent.
    last_window: u16,
    pub(crate) state: State,
    snd_wscale: u8,
    rcv_wscale: u8,
    rtx_kind: RtxKind,
    /// Window probes since the window was last open: the back-off.
    probes: u8,
    /// Window probes since anything acceptable arrived.
    unanswered_probes: u8,
    dup_acks: u8,
    // Delayed acknowledgement.
    unacked_segments: u8,
    quick_acks: u8,
    /// Access port the flow lives on.
    pub(crate) port: PortId,
    // From here on what is seldom looked at, or once for many packets.
    /// What casts doubt on the path since the last progress.
    soft_error: Option<ConnectionError>,
    /// How much smaller than what our end of the path takes the MSS is that we announce, in words of four octets.
    asked_less: u8,
    pub(crate) marking: Marking,
    /// Challenges in a second: the low bits of that and, in the last four, how many.
    challenges: u16,
    /// Keep-alive, FIN-WAIT-2 or handshake deadline.
    slow_at: Option<Instant>,
    pub(crate) app: crate::stack::AppState,
    pub(crate) iss: SeqNum,
    pub(crate) irs: SeqNum,
    /// Where the peer's stream ends; with `FIN_SEEN`.
    fin_at: SeqNum,
    /// MSS we announce.
    local_mss: u16,
    /// The congestion control that a sender begins with.
    algorithm: CongestionAlgorithm,
    /// A plain socket that was to be an MPTCP connection: why it is not.
    pub(crate) fallback: Option<FallbackReason>,
    pub(crate) ends: KeptTuple,
}

/// All there are of a stack. Each begins with a line of a cache.
pub(crate) type Tcbs<B> = Slab<Tcb<B>, Line>;

/// Five lines of a cache with what the slab adds, the first four with what most packets need, and no holes.
const _: () = assert!(offset_of!(Tcb<HeapBuf>, soft_error) < 256);
const _: () = assert!(size_of::<Tcb<HeapBuf>>() <= 312);

/// Per-connection totals for reports.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TcbCounters {
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) segs_out: u32,
    pub(crate) segs_in: u32,
}

/// What both SYNs agreed on, for a block made from a request entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    pub(crate) iss: SeqNum,
    pub(crate) irs: SeqNum,
    pub(crate) peer_mss: Option<u16>,
    pub(crate) local_mss: u16,
    pub(crate) snd_wscale: Option<u8>,
    pub(crate) rcv_wscale: u8,
    pub(crate) sack: bool,
    pub(crate) ts_recent: Option<u32>,
    pub(crate) ts_offset: u32,
    pub(crate) ecn: bool,
    pub(crate) window: u32,
    /// Round trip of the SYN/ACK; `None` when it is ambiguous or was not measured.
    pub(crate) rtt: Option<Duration>,
    /// How often the SYN/ACK timed out (RFC 6298 §5.7).
    pub(crate) syn_ack_timeouts: u8,
}

impl<B: PacketBuf> Tcb<B> {
    /// Active open: the SYN goes out with the next `output`.
    pub(crate) fn connect(
        env: &Env<'_>,
        tuple: Tuple,
        port: PortId,
        iss: SeqNum,
        ts_offset: u32,
        local_mss: u16,
    ) -> Self {
        let mut tcb = Self::blank(env, tuple, port, iss, ts_offset, local_mss);
        tcb.flags.insert(TcbFlags::SYN_NOW);
        if env.config.timestamps {
            tcb.flags.insert(TcbFlags::TIMESTAMPS);
        }
        if env.config.sack {
            tcb.flags.insert(TcbFlags::SACK);
        }
        if env.config.ecn == EcnPolicy::Request {
            tcb.flags.insert(TcbFlags::ECN | TcbFlags::ECN_ECHO);
        }
        tcb.rcv_wscale = window::scale_for(env.config.recv_buffer_max);
        tcb
    }

    /// A connection whose handshake a request entry (or a SYN cookie) completed.
    pub(crate) fn accepted(env: &mut Env<'_>, tuple: Tuple, port: PortId, agreed: &Agreed) -> Self {
        let mut tcb = Self::blank(env, tuple, port, agreed.iss, agreed.ts_offset, agreed.local_mss);
        tcb.state = State::Established;
        tcb.snd_una = agreed.iss.add(1);
        tcb.snd_nxt = tcb.snd_una;
        tcb.irs = agreed.irs;
        tcb.rcv_nxt = agreed.irs.add(1);
        tcb.last_ack_sent = tcb.rcv_nxt;
        tcb.rcv_adv = tcb.rcv_nxt.add(agreed.window);
        tcb.rcv_wscale = agreed.rcv_wscale;
        match agreed.snd_wscale {
            Some(shift) => tcb.snd_wscale = shift,
            None => tcb.rcv_wscale = 0,
        }
        // The SYN/ACK said so: it is no news.
        tcb.last_window = (agreed.window >> tcb.rcv_wscale) as u16;
        if let Some(ts_recent) = agreed.ts_recent {
            tcb.flags.insert(TcbFlags::TIMESTAMPS);
            tcb.ts_recent = ts_recent;
        }
        if agreed.sack {
            tcb.flags.insert(TcbFlags::SACK);
        }
        if agreed.ecn {
            tcb.flags.insert(TcbFlags::ECN | TcbFlags::ECN_ECHO);
            env.stats.tcp_ecn_estab += 1;
        }
        tcb.snd_wl1 = tcb.irs;
        tcb.snd_wl2 = tcb.snd_una;
        tcb.set_peer_mss(env, agreed.peer_mss);
        if agreed.syn_ack_timeouts > 0 {
            tcb.rtt.on_syn_timeout();
        }
        tcb.limit_initial_window(env.now, agreed.syn_ack_timeouts);
        if let Some(rtt) = agreed.rtt {
            tcb.rtt.on_sample(rtt, env.now);
        }
        tcb.arm_slow(env);
        tcb
    }

    fn blank(
        env: &Env<'_>,
        tuple: Tuple,
        port: PortId,
        iss: SeqNum,
        ts_offset: u32,
        local_mss: u16,
    ) -> Self {
        let config = env.config;
        let mut flags = TcbFlags::empty();
        flags.set(TcbFlags::NO_DELAY, !config.nagle);
        flags.set(TcbFlags::KEEP_ALIVE, config.keep_alive.is_some());
        Self {
            ends: KeptTuple::new(tuple),
            port,
            state: State::SynSent,
            flags,
            snd_wscale: 0,
            rcv_wscale: 0,
            mss: local_mss,
            local_mss,
            marking: config.marking,
            iss,
            snd_una: iss,
            snd_nxt: iss,
            snd_wnd: 0,
            snd_wl1: SeqNum(0),
            snd_wl2: SeqNum(0),
            max_snd_wnd: 0,
            irs: SeqNum(0),
            rcv_nxt: SeqNum(0),
            rcv_adv: SeqNum(0),
            last_window: 0,
            last_ack_sent: SeqNum(0),
            fin_at: SeqNum(0),
            ts_recent: 0,
            ts_offset,
            ts_recent_at_s: seconds(env.now),
            rtt: RttEstimator::new(config.rto_min, config.rto_max).with_limit(config.retries),
            cwnd: initial_window(u32::from(local_mss)),
            algorithm: config.congestion,
            sender: None,
            rtx_at: None,
            rtx_kind: RtxKind::Rto,
            rto_base: env.now,
            delayed_ack_at: None,
            slow_at: None,
            last_sent: env.now,
            last_received: env.now,
            soft_error: None,
            probes: 0,
            unanswered_probes: 0,
            unacked_segments: 0,
            quick_acks: 16,
            challenges: 0,
            asked_less: 0,
            dup_acks: 0,
            queue: OnDemand::new(),
            unsent: OnDemand::new(),
            unsent_len: 0,
            received: OnDemand::new(),
            autotune: Autotune::new(config),
            counters: TcbCounters::default(),
            data_in_ms: 0,
            rare: None,
            subflow: None,
            app: crate::stack::AppState::default(),
            fallback: None,
        }
    }

    /// The peer's MSS option, or its absence (RFC 9293 §3.7.1), bounds our segments.
    fn set_peer_mss(&mut self, env: &Env<'_>, announced: Option<u16>) {
        let default = if self.ends.is_ipv4() { 536 } else { 1220 };
        let peer = announced.unwrap_or(default).max(PEER_MSS_MIN);
        let both = peer.min(self.local_mss + 4 * u16::from(self.asked_less));
        // What ICMP told about our SYN holds (RFC 8201 §4).
        self.mss = self.mss.min(both);
        self.limit_search(both);
        self.begin_search(env);
        self.refresh_mss();
    }

    /// A handshake that took more than one retransmission starts with one segment (RFC 5681 §3.1; one
    /// may have been spurious, RFC 6928 §2).
    fn limit_initial_window(&mut self, now: Instant, syn_timeouts: u8) {
        if syn_timeouts > 1 {
            self.set_cwnd(now, self.payload_mss());
        }
    }

    // Commands.

    /// Queues payload of a plain connection; the caller checked `send_room`.
    pub(crate) fn send(&mut self, buf: B) {
        let len = buf.data_len();
        if len == 0 {
            return;
        }
        self.unsent_len += len as u32;
        if let Some(tail) = self.unsent.back_mut()
            && len * 8 <= buf.truesize()
            && let Some(room) = tail.append(len)
        {
            // A relay's peer may send octet by octet: copied, they do not pin a buffer each.
            room.copy_from_slice(buf.data());
        } else {
            self.unsent.push_back(buf);
        }
    }

    /// Queues all that `received` has in order, as [`Tcb::send`] does one by one where the first of them is not
    /// small; answers its octets.
    pub(crate) fn send_all(&mut self, received: &mut RecvQueue<B>) -> u32 {
        let octets = received.move_to(&mut self.unsent);
        self.unsent_len += octets;
        octets
    }

    /// Octets the send buffer still takes. What is written and not acknowledged counts, or half the memory that its
    /// buffers pin, whichever is more: where nothing delays small segments each has one of its own.
    pub(crate) fn send_room(&self, limit: u32) -> u32 {
        let octets = self.unsent_len.saturating_add(self.snd_nxt.since(self.snd_una));
        let buffers = u32::try_from(self.queue.len() + self.unsent.len()).unwrap_or(u32::MAX);
        limit.saturating_sub(octets.max(buffers.saturating_mul(HALF_A_BUFFER)))
    }

    /// The application (or data level) sends no more: a FIN follows what is queued.
    pub(crate) fn shutdown_write(&mut self) {
        if self.flags.contains(TcbFlags::FIN_QUEUED) {
            return;
        }
        self.flags.insert(TcbFlags::FIN_QUEUED);
    }

    /// Gone without a word; the caller sends a RST where one is due.
    pub(crate) fn kill(&mut self) {
        self.received.clear();
        self.end();
    }

    /// As `kill`, but what is in order can still be read.
    pub(crate) fn end(&mut self) {
        self.state = State::Closed;
        self.queue.clear();
        self.unsent.clear();
        self.unsent_len = 0;
        self.received.forget_out_of_order();
        self.rtx_at = None;
        self.delayed_ack_at = None;
        self.slow_at = None;
        self.flags.remove(TcbFlags::PACED);
    }

    /// Nothing is due: what nobody uses gives its memory back; of a sender once it has sent nothing for a whole timeout
    /// (RFC 5681 §4.1). Any sooner, one that waits for its application after every window would never have a larger one,
    /// and its queues would grow anew every time. Answers when to ask again, if then.
    pub(crate) fn rest(&mut self, now: Instant) -> Option<Instant> {
        let quiet_at = self.last_sent + self.rtt.rto();
        if self.sender.is_some() && quiet_at > now {
            return Some(quiet_at);
        }
        self.received.rest();
        self.unsent.rest();
        if let Some(subflow) = &mut self.subflow {
            subflow.rest(now, self.rtt.srtt().unwrap_or_default());
        }
        if self.queue.rest()
            && let Some(sender) = &mut self.sender
        {
            // The next one counts anew.
            sender.rack.forget_transmissions();
            sender.lost_told = 0;
        }
        self.rest_rare();
        self.rest_sender();
        None
    }

    /// Nothing is in flight, and nothing was sent for longer than a timeout (RFC 5681 §4.1).
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        self.queue.is_empty() && self.last_sent + self.rtt.rto() < now
    }

    /// The third ACK of a join was answered: it need not be repeated.
    pub(crate) fn third_ack_answered(&mut self) {
        if self.unacked_segments == 0 {
            self.delayed_ack_at = None;
        }
    }

    /// Asks for an immediate acknowledgement, e.g. to carry a window update or an option.
    pub(crate) fn ack_now(&mut self) {
        self.flags.insert(TcbFlags::ACK_NOW);
    }

    /// Asks for a segment that makes the peer answer (RFC 9293 §3.8.4).
    pub(crate) fn probe_now(&mut self) {
        self.flags.insert(TcbFlags::PROBE_NOW);
    }

    /// The next SYN leaves the MPTCP option out.
    pub(crate) fn set_plain_syn(&mut self) {
        self.flags.insert(TcbFlags::PLAIN_SYN);
    }

    /// The SYN goes out at once, without the MPTCP option, whatever answered the last one.
    pub(crate) fn repeat_plain_syn(&mut self, now: Instant) {
        self.flags.insert(TcbFlags::PLAIN_SYN | TcbFlags::SYN_NOW);
        self.flags.remove(TcbFlags::ECN);
        self.withdraw_early();
        self.snd_nxt = self.iss;
        self.rtt.retries = 0;
        self.rtx_at = None;
        self.last_sent = now;
    }

    // Getters.

    /// The SYN was sent without its MPTCP option.
    pub(crate) fn is_plain_syn(&self) -> bool {
        self.flags.contains(TcbFlags::PLAIN_SYN)
    }

    /// A segment's window, scaled.
    pub(crate) fn window_of(&self, segment: &Segment) -> u32 {
        u32::from(segment.window) << self.snd_wscale
    }

    /// The peer's FIN is in order.
    pub(crate) fn fin_received(&self) -> bool {
        self.flags.contains(TcbFlags::FIN_RECEIVED)
    }

    /// Our direction is closed or closing.
    pub(crate) fn write_closed(&self) -> bool {
        self.flags.contains(TcbFlags::FIN_QUEUED) || self.state == State::Closed
    }

    /// Sequence number behind the last octet of text: the FIN is none.
    pub(crate) fn snd_nxt_data(&self) -> SeqNum {
        self.snd_nxt.sub(u32::from(self.flags.contains(TcbFlags::FIN_SENT)))
    }

    /// Stream octets in flight: FlightSize without our FIN.
    pub(crate) fn flight_data(&self) -> u32 {
        let fin = self.flags.contains(TcbFlags::FIN_SENT) && self.snd_una != self.snd_nxt;
        self.flight_size() - u32::from(fin)
    }

    /// RFC 5681 FlightSize.
    pub(crate) fn flight_size(&self) -> u32 {
        self.snd_nxt.since(self.snd_una)
    }

    /// Octets believed to be in the network.
    pub(crate) fn pipe(&self) -> u32 {
        let reno = if self.flags.contains(TcbFlags::SACK) { 0 } else { self.duplicated() };
        self.flight_size()
            .saturating_sub(self.queue.sacked_bytes())
            .saturating_sub(self.queue.lost_bytes())
            .saturating_sub(reno)
    }

    /// Without SACK: octets that have left the network, as far as duplicates tell. Outside of a recovery two of them let
    /// something out (RFC 5681 §3.2 step 1); behind a timeout they are about what counts as lost anyway.
    fn duplicated(&self) -> u32 {
        let segments = match self.congestion_state() {
            CongestionState::Open => self.dup_acks.min(2),
            CongestionState::Recovery => self.dup_acks,
            CongestionState::Loss => 0,
        };
        u32::from(segments) * self.payload_mss()
    }

    /// Retransmission timeouts in a row without progress, one included that a probe took the place of.
    pub(crate) fn rto_count(&self) -> u8 {
        self.rtt.retries.max(u8::from(self.flags.contains(TcbFlags::SILENT)))
    }

    pub(crate) fn timestamp(&self, now: Instant) -> u32 {
        (now.as_millis() as u32).wrapping_add(self.ts_offset)
    }

    /// Earliest deadline of any timer.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let paced = self.flags.contains(TcbFlags::PACED).then(|| self.release_at()).flatten();
        let signal = self.subflow.as_ref().and_then(|subflow| subflow.next_signal());
        earliest([self.rtx_at, self.delayed_ack_at, self.slow_at, paced, signal])
    }

    /// An acknowledgement waits to be sent.
    pub(crate) fn wants_ack(&self) -> bool {
        self.flags.contains(TcbFlags::ACK_NOW)
    }

    /// The one that was sent is followed by a duplicate (RFC 5681 §4.2: one for each segment behind a hole).
    pub(super) fn next_duplicate(&mut self) -> bool {
        let Some(rare) = self.rare.as_mut().filter(|rare| rare.duplicates > 0) else {
            return false;
        };
        rare.duplicates -= 1;
        self.ack_now();
        true
    }

    /// One is to go out now, for TCP or for the options it carries.
    pub(super) fn owes_ack(&self, now: Instant) -> bool {
        self.wants_ack() || self.subflow.as_ref().is_some_and(|subflow| subflow.wants_ack(now))
    }

    /// Our FIN waits for everything before it to be sent.
    pub(super) fn fin_due(&self) -> bool {
        self.flags.contains(TcbFlags::FIN_QUEUED)
            && !self.flags.contains(TcbFlags::FIN_SENT)
            && self.unsent.is_empty()
            && self.state.sending()
    }

    /// Our FIN was sent and acknowledged.
    pub(crate) fn fin_acked(&self) -> bool {
        self.flags.contains(TcbFlags::FIN_SENT) && self.snd_una == self.snd_nxt
    }

    pub(crate) fn last_received(&self) -> Instant {
        self.last_received
    }

    /// Values a TIME-WAIT entry keeps.
    pub(crate) fn time_wait(&self) -> TimeWait {
        let window = self.rcv_adv.since(self.rcv_nxt) >> self.rcv_wscale;
        TimeWait {
            tuple: self.ends.tuple(),
            port: self.port,
            timestamps: self.flags.contains(TcbFlags::TIMESTAMPS),
            mptcp: false,
            wide: false,
            fastclose: 0,
            challenged: false,
            rto_ms: 0,
            window: window.min(65_535) as u16,
            marking: self.marking,
            snd_nxt: self.snd_nxt,
            rcv_nxt: self.rcv_nxt,
            ts_recent: self.ts_recent,
            ts_offset: self.ts_offset,
            data_ack: DataSeq(0),
        }
    }

    /// Idle time before the first keep-alive probe, where this connection sends any.
    fn keep_alive(&self, config: &TcpConfig) -> Option<Duration> {
        let on = self.flags.contains(TcbFlags::KEEP_ALIVE);
        on.then(|| config.keep_alive.unwrap_or(KEEP_ALIVE_IDLE))
    }

    /// RFC 9293 §3.8.4: the application decides.
    pub(crate) fn set_keep_alive(&mut self, env: &Env<'_>, on: bool) {
        self.flags.set(TcbFlags::KEEP_ALIVE, on);
        self.arm_slow(env);
    }

    /// RFC 9293 §3.7.4: the application may switch Nagle's algorithm off.
    pub(crate) fn set_nagle(&mut self, on: bool) {
        self.flags.set(TcbFlags::NO_DELAY, !on);
    }

    /// RFC 9293 §3.8.3: the application decides how often.
    pub(crate) fn set_retry_limit(&mut self, limit: u8) {
        self.rtt.retry_limit = limit;
    }

    /// RFC 9293 §3.9.1.8: what an application may learn before the connection ends.
    pub(crate) fn soft_error(&self) -> Option<ConnectionError> {
        self.soft_error
    }

    /// Arms keep-alive or the FIN-WAIT-2 limit, whichever the state calls for.
    fn arm_slow(&mut self, env: &Env<'_>) {
        self.slow_at = match self.state {
            State::FinWait2 if self.flags.contains(TcbFlags::READ_SHUT) => {
                Some(env.now + env.config.fin_wait_2)
            }
            State::Established | State::CloseWait | State::FinWait2 => {
                self.keep_alive(env.config).map(|idle| self.last_received + idle)
            }
            State::SynSent | State::SynReceived => self.slow_at,
            _ => None,
        };
    }

    /// Gives up the handshake at `at`.
    pub(crate) fn set_handshake_deadline(&mut self, at: Instant) {
        self.slow_at = Some(at);
    }

    /// Nobody reads any more: the reverse direction is not waited for longer than configured.
    pub(crate) fn shutdown_read(&mut self, env: &Env<'_>) {
        self.flags.insert(TcbFlags::READ_SHUT);
        self.arm_slow(env);
    }
}

/// Whole seconds; wraps after 136 years.
fn seconds(at: Instant) -> u32 {
    (at.as_millis() / 1000) as u32
}

/// Shortest default of RFC 9293 §3.8.4.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(7200);
/// Interval of the keep-alive probes after the first (RFC 9293 §3.8.4 leaves it open).
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(75);
