//! Counters of one stack, under the Linux MIB names in snake_case where Linux has one, so that
//! `nstat` and our metrics compare line by line. Every dropped packet increments exactly one
//! [`DropReason`], every connection that runs as TCP one [`FallbackReason`].

use crate::mptcp::FallbackReason;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Event counters of one stack; monotonic, except the ones called `curr_*`.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: u64,)*
            /// Packets dropped, by reason; read it with [`Counters::dropped`].
            pub(crate) drops: Drops,
            fallbacks: Fallbacks,
            resets: [u64; RESET_REASONS],
            resets_received: [u64; RESET_REASONS],
        }

        impl Counters {
            /// Every counter with its name, in declaration order; those by reason are excluded.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// TCP segments received, good or bad.
    in_segs,
    /// TCP segments sent.
    out_segs,
    /// RSTs sent.
    out_rsts,
    /// RSTs accepted.
    in_rsts,
    /// Segments retransmitted.
    retrans_segs,
    /// Retransmission timeouts.
    tcp_timeouts,
    /// Tail loss probes sent.
    tcp_loss_probes,
    /// Losses repaired by a tail loss probe.
    tcp_loss_probe_recovery,
    /// Fast recoveries entered.
    tcp_sack_recovery,
    /// Loss reductions undone because the retransmission was spurious.
    tcp_undo,
    /// D-SACK blocks received.
    tcp_dsack_recv,
    /// D-SACK blocks sent.
    tcp_dsack_sent,
    /// TCP segments received that a router on their way marked (RFC 3168 CE).
    in_ce_pkts,
    /// Handshakes that agreed on ECN.
    tcp_ecn_estab,
    /// Acknowledgements with an ECN echo on connections that agreed on ECN.
    tcp_ecn_echo_recv,
    /// Windows reduced because of such an echo.
    tcp_ecn_reduced,
    /// Segment sizes that were tried and did not pass (RFC 4821).
    tcp_mtup_fail,
    /// Segment sizes that were tried and passed.
    tcp_mtup_success,
    /// Paths found to lose long packets in silence.
    tcp_mtu_black_holes,
    /// Fragments of IP datagrams received.
    ip_reasm_reqds,
    /// Datagrams put together of fragments.
    ip_reasm_oks,
    /// Datagrams given up before they were whole, for any reason.
    ip_reasm_fails,
    /// Of these, the ones whose time was over.
    ip_reasm_timeout,
    /// Of these, the ones with fragments that overlapped (RFC 5722).
    ip_reasm_overlaps,
    /// Datagrams given up, and single fragments refused, for want of memory.
    ip_reasm_no_memory,
    /// Datagrams given up, and single fragments refused, that made no sense: lengths, ends, headers cut off, marks
    /// beside none (RFC 3168 §5.3).
    ip_reasm_malformed,
    /// Datagrams sent in fragments.
    ip_frag_oks,
    /// Fragments sent.
    ip_frag_creates,
    /// ICMP errors sent about packets of protocols we do not speak.
    icmp_out_dest_unreachs,
    /// ICMP errors sent about fragments whose others did not come.
    icmp_out_time_excds,
    /// ICMP errors sent about fragments that make no sense.
    icmp_out_parm_probs,
    /// ICMP errors withheld by the rate limit.
    icmp_out_rate_limit_global,
    /// Segments whose text was refused before it was looked at, for want of memory.
    tcp_rcv_q_drop,
    /// Connections reset because their peers took next to nothing of what was queued for them, while others found no memory.
    stalled_resets,
    /// Segments that followed on the one before in their burst and were processed with it, as
    /// `TCPRcvCoalesce`.
    tcp_rcv_coalesce,
    /// Challenge ACKs sent (RFC 5961).
    tcp_challenge_ack,
    /// Challenge ACKs withheld by the rate limit.
    tcp_ack_skipped_challenge,
    /// SYN cookies sent.
    syncookies_sent,
    /// Valid SYN cookies received.
    syncookies_recv,
    /// ACKs whose SYN cookie was wrong.
    syncookies_failed,
    /// Pending requests given up.
    tcp_req_timeouts,
    /// Active Fast Opens: data on our SYN was acknowledged.
    tcp_fast_open_active,
    /// Data on our SYN was not acknowledged, or nothing answered it.
    tcp_fast_open_active_fail,
    /// Passive Fast Opens: connections given out before their third ACK.
    tcp_fast_open_passive,
    /// Of these, with a cookie of the former key.
    tcp_fast_open_passive_alt_key,
    /// SYNs whose cookie was wrong, or whose connection found no room: a handshake came first.
    tcp_fast_open_passive_fail,
    /// SYNs that asked for Fast Open while a listener's pending ones were at their limit.
    tcp_fast_open_listen_overflow,
    /// SYNs that asked for a Fast Open cookie.
    tcp_fast_open_cookie_reqd,
    /// Destinations whose first answer came to a SYN without Fast Open: it is not tried for a while.
    tcp_fast_open_blackhole,
    /// Active opens.
    active_opens,
    /// Passive opens.
    passive_opens,
    /// Active opens that failed.
    attempt_fails,
    /// Established connections that were reset.
    estab_resets,
    /// Zero-window probes sent.
    tcp_win_probe,
    /// Keep-alive probes sent.
    tcp_keep_alive,
    /// Connections given up after too many retransmissions.
    tcp_abort_on_timeout,
    /// Connections that nobody held any more reset to make room for others.
    tcp_abort_on_memory,
    /// Out-of-order segments queued.
    tcp_ofo_queue,
    /// Out-of-order segments thrown away for memory.
    tcp_ofo_pruned,
    /// TIME-WAIT entries made.
    tcp_tw,
    /// TIME-WAIT entries evicted early because the table was full.
    tcp_tw_overflow,
    /// Listener refused because its accept queue was full.
    listen_overflows,
    /// SYNs refused by the connection limit.
    limit_refused,
    /// Connections and joins refused because no free port was found.
    ports_exhausted,
    /// Connections in TIME-WAIT that gave way to a new one of ours, for want of another port.
    time_wait_reused,
    /// Notes to the homes of flows of this shard that nobody fetched in time; one home may not know the
    /// owner of a flow, or remember one that is gone.
    steering_notes_lost,
    /// RSTs and ACKs without state withheld by the rate limit.
    stateless_reply_limited,
    /// Packets not sent because no buffer could be had; they are sent later.
    tx_no_buffer,
    /// Invariants broken; each cost one connection.
    internal_errors,
    /// `MP_CAPABLE` SYNs received.
    mp_capable_syn_rx,
    /// `MP_CAPABLE` SYNs sent.
    mp_capable_syn_tx,
    /// `MP_CAPABLE` SYN/ACKs received.
    mp_capable_syn_ack_rx,
    /// `MP_CAPABLE` third ACKs received.
    mp_capable_ack_rx,
    /// Server fell back: the third ACK carried no `MP_CAPABLE`.
    mp_capable_fallback_ack,
    /// Client fell back: the SYN/ACK carried no `MP_CAPABLE`.
    mp_capable_fallback_syn_ack,
    /// `MP_CAPABLE` dropped from the SYN after too many retransmissions.
    mp_capable_syn_tx_drop,
    /// `MP_CAPABLE` dropped from the SYN because a RST answered the first one.
    mp_capable_syn_tx_reset,
    /// SYNs sent without `MP_CAPABLE` because of what was learnt about the destination.
    mp_capable_syn_tx_disabled,
    /// Destinations that answered only once the SYN came without `MP_CAPABLE`.
    blackhole,
    /// No unique token could be drawn.
    mp_fallback_token_init,
    /// Stream bytes sent again on another subflow (events, not bytes).
    mptcp_retrans,
    /// `MP_JOIN` with an unknown token.
    mp_join_no_token_found,
    /// `MP_JOIN` SYNs received.
    mp_join_syn_rx,
    /// `MP_JOIN` SYNs received with the backup bit.
    mp_join_syn_backup_rx,
    /// `MP_JOIN` SYN/ACKs received.
    mp_join_syn_ack_rx,
    /// `MP_JOIN` SYN/ACKs received with the backup bit.
    mp_join_syn_ack_backup_rx,
    /// `MP_JOIN` SYN/ACKs without the option.
    mp_join_syn_ack_missing,
    /// `MP_JOIN` SYN/ACKs with a wrong HMAC.
    mp_join_syn_ack_hmac_failure,
    /// `MP_JOIN` third ACKs received.
    mp_join_ack_rx,
    /// `MP_JOIN` third ACKs with a wrong HMAC.
    mp_join_ack_hmac_failure,
    /// `MP_JOIN` third ACKs without the option.
    mp_join_ack_missing,
    /// `MP_JOIN` SYNs received on another port than the connection's first.
    mp_join_port_syn_rx,
    /// `MP_JOIN` SYN/ACKs received from another port than the connection's first.
    mp_join_port_syn_ack_rx,
    /// `MP_JOIN` third ACKs received on another port than the connection's first.
    mp_join_port_ack_rx,
    /// `MP_JOIN` refused by policy or limit.
    mp_join_rejected,
    /// `MP_JOIN` SYNs sent.
    mp_join_syn_tx,
    /// `MP_JOIN` SYNs that could not be sent (no control block, no port).
    mp_join_syn_tx_err,
    /// Mappings that contradict an earlier one.
    dss_not_matching,
    /// Subflow data without a mapping, or with a wrong checksum, led to a reset.
    dss_corruption_reset,
    /// A wrong DSS checksum, ours or one that the peer reported, led to fallback.
    dss_corruption_fallback,
    /// Data or acknowledgements without a DSS led to fallback after the first data.
    dss_fallback,
    /// Data of ours that TCP acknowledged on a join without any `DATA_ACK` led to a reset.
    dss_ack_missing_reset,
    /// Simultaneous opens: fallback.
    simult_connect_fallback,
    /// What would have meant fallback, had the stream still been contiguous on one subflow: reset.
    fallback_failed,
    /// First data segment without a mapping: fallback.
    mp_capable_data_fallback,
    /// Infinite mappings sent.
    infinite_map_tx,
    /// Infinite mappings received.
    infinite_map_rx,
    /// DSS checksum errors.
    data_csum_err,
    /// Data-level segments queued out of order.
    ofo_queue,
    /// Data-level data outside the receive window.
    no_dss_in_window,
    /// Data-level duplicates.
    duplicate_data,
    /// SSN and DSN disagree with what is acknowledged (RFC 8684 §3.3.4); counted only.
    dss_sanity,
    /// Mappings refused: too many at once, or beyond any window.
    mapping_full,
    /// Data-level out-of-order segments thrown away for memory.
    rcv_pruned,
    /// `ADD_ADDR` received with a good HMAC.
    add_addr,
    /// Of these, the ones with a port.
    port_add,
    /// `ADD_ADDR` sent.
    add_addr_tx,
    /// `ADD_ADDR` received and ignored (HMAC, limit).
    add_addr_drop,
    /// Signals (`ADD_ADDR`, its echo, `REMOVE_ADDR`, `MP_PRIO`) for which a subflow had no room.
    mp_signal_drop,
    /// Of these, `ADD_ADDR`.
    add_addr_tx_drop,
    /// Of these, echoes.
    echo_add_tx_drop,
    /// Of these, `REMOVE_ADDR`.
    rm_addr_tx_drop,
    /// `ADD_ADDR` echoes received.
    echo_add,
    /// `ADD_ADDR` echoes sent.
    echo_add_tx,
    /// `REMOVE_ADDR` received.
    rm_addr,
    /// `REMOVE_ADDR` sent.
    rm_addr_tx,
    /// Subflows closed because of `REMOVE_ADDR`.
    rm_subflow,
    /// `MP_PRIO` sent.
    mp_prio_tx,
    /// `MP_PRIO` received.
    mp_prio_rx,
    /// `MP_FAIL` sent.
    mp_fail_tx,
    /// `MP_FAIL` received.
    mp_fail_rx,
    /// `MP_FASTCLOSE` sent.
    mp_fastclose_tx,
    /// `MP_FASTCLOSE` received with the right key.
    mp_fastclose_rx,
    /// `MP_TCPRST` sent.
    mp_rst_tx,
    /// `MP_TCPRST` received.
    mp_rst_rx,
    /// Subflows sidelined.
    subflow_stale,
    /// Sidelined subflows used again.
    subflow_recover,
    /// Paths that went down: nothing came back over them on any subflow.
    path_down,
    /// Paths that came up again.
    path_up,
    /// Changes of paths that were not told: nobody had read those before.
    path_event_drop,
    /// Subflows without a place in the table of paths.
    path_table_full,
    /// Probes sent over sidelined subflows.
    path_probe,
    /// Times a slow subflow gave half of its window up because the peer's window waited for it.
    mptcp_penalised,
    /// MPTCP connections established now.
    mp_curr_estab,
    /// Stream-level zero-window probes.
    win_probe,
    /// Fallbacks to TCP of connections on which MPTCP was offered, all reasons.
    fallback,
    /// Connections closed by a relay because the other leg was reset.
    relay_resets,
    /// Datagrams put into a socket's receive queue.
    udp_in_datagrams,
    /// Datagrams sent.
    udp_out_datagrams,
    /// Datagrams not taken for sending because the socket's queue was full.
    udp_sndbuf_errors,
}

/// One counter per reason; arrays of this length have no `Default` of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

/// One counter per reason, as [`Drops`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fallbacks([u64; FallbackReason::ALL.len()]);

impl Default for Fallbacks {
    fn default() -> Self {
        Self([0; FallbackReason::ALL.len()])
    }
}

/// Counters of subflow resets: one per reason of RFC 8684 §3.6, and one for what is none of them.
const RESET_REASONS: usize = 8;

fn reset_slot(reason: u8) -> usize {
    usize::from(reason).min(RESET_REASONS - 1)
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[non_exhaustive]
        pub enum DropReason { $($(#[doc = $doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name used in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// No valid IP header.
    IpMalformed = "ip_malformed",
    /// An IP fragment that makes no sense, or whose datagram was given up or never whole.
    IpFragment = "ip_fragment",
    /// Not addressed to us.
    NotOurs = "not_ours",
    /// Neither TCP nor UDP nor ICMP.
    Protocol = "protocol",
    /// TCP header malformed.
    TcpMalformed = "tcp_malformed",
    /// TCP checksum wrong.
    TcpChecksum = "tcp_checksum",
    /// No connection, request or listener: answered with RST.
    NoSocket = "no_socket",
    /// A segment to a listener that makes no sense there.
    ListenerState = "listener_state",
    /// SYN refused: request queue full and cookies impossible.
    RequestQueueFull = "request_queue_full",
    /// SYN refused: connection limit.
    ConnectionLimit = "connection_limit",
    /// Accept queue full.
    AcceptQueueFull = "accept_queue_full",
    /// SYN cookie wrong.
    SynCookie = "syn_cookie",
    /// PAWS.
    Paws = "paws",
    /// Outside the receive window.
    OutOfWindow = "out_of_window",
    /// RST with a sequence number that is not exactly the expected one.
    RstSequence = "rst_sequence",
    /// SYN inside a synchronised connection.
    UnexpectedSyn = "unexpected_syn",
    /// ACK bit missing.
    NoAck = "no_ack",
    /// Acknowledges what was never sent, or is far too old.
    AckRange = "ack_range",
    /// Received twice.
    Duplicate = "duplicate",
    /// Data after the connection stopped reading.
    DataAfterClose = "data_after_close",
    /// Out of order and no memory left for it.
    NoMemory = "no_memory",
    /// Unknown token.
    JoinToken = "join_token",
    /// Join refused by policy or limit.
    JoinRefused = "join_refused",
    /// Join with a wrong or missing HMAC.
    JoinHmac = "join_hmac",
    /// What follows the third ACK of a join came before it: nothing says yet whose it is.
    MpJoinMissing = "mp_join_missing",
    /// ICMP error that matches nothing of ours.
    IcmpUnmatched = "icmp_unmatched",
    /// Received in TIME-WAIT.
    TimeWait = "time_wait",
    /// Data or a DSS while the keys of the third ACK are missing: the SYN/ACK asks for them again.
    MpCapableMissing = "mp_capable_missing",
    /// Version 0 SYN with the B bit set: no answer at all.
    MpCapableExtensibility = "mp_capable_extensibility",
    /// UDP header malformed.
    UdpMalformed = "udp_malformed",
    /// UDP checksum wrong, or missing over IPv6.
    UdpChecksum = "udp_checksum",
    /// No datagram socket is bound to the port: worth an ICMP port unreachable.
    UdpNoSocket = "udp_no_socket",
    /// From another than the peer of the connected datagram socket.
    UdpNotConnected = "udp_not_connected",
    /// The receive queue of the datagram socket is full.
    UdpQueueFull = "udp_queue_full",
    /// Only the reserve of packet memory is left, where no datagram waits for its reader.
    UdpNoMemory = "udp_no_memory",
    /// The datagram socket has too many ICMP errors unread.
    UdpErrorsFull = "udp_errors_full",
}

impl Counters {
    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0[reason as usize]
    }

    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.drops.0[reason as usize] += 1;
    }

    /// Connections that run as plain TCP for `reason`.
    #[must_use]
    pub fn fell_back(&self, reason: FallbackReason) -> u64 {
        self.fallbacks.0[reason as usize]
    }

    /// Subflows and joins that were reset for `reason` (RFC 8684 §3.6, [`reset_reason`]), whether or
    /// not their version has an option that says so; 7 and above are one.
    ///
    /// [`reset_reason`]: crate::wire::reset_reason
    #[must_use]
    pub fn resets(&self, reason: u8) -> u64 {
        self.resets[reset_slot(reason)]
    }

    /// `MP_TCPRST` received with `reason`; 7 and above are one.
    #[must_use]
    pub fn resets_received(&self, reason: u8) -> u64 {
        self.resets_received[reset_slot(reason)]
    }

    /// A connection goes on as plain TCP, or begins as one. Counts the Linux MIBs that have no other
    /// place, too.
    pub(crate) fn fall_back(&mut self, reason: FallbackReason) {
        self.fallbacks.0[reason as usize] += 1;
        self.fallback += u64::from(reason.is_offered());
        match reason {
            FallbackReason::NoDataAck | FallbackReason::OptionsLost => self.dss_fallback += 1,
            FallbackReason::Checksum | FallbackReason::PeerChecksum => {
                self.dss_corruption_fallback += 1;
            }
            FallbackReason::SimultaneousOpen => self.simult_connect_fallback += 1,
            _ => {}
        }
    }

    pub(crate) fn reset(&mut self, reason: u8) {
        self.resets[reset_slot(reason)] += 1;
    }

    pub(crate) fn reset_received(&mut self, reason: u8) {
        self.mp_rst_rx += 1;
        self.resets_received[reset_slot(reason)] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_index_their_own_counter() {
        let mut counters = Counters::default();
        for (idx, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, idx);
            counters.drop(*reason);
            assert_eq!(counters.dropped(*reason), 1);
        }
        for (idx, reason) in FallbackReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, idx);
            counters.fall_back(*reason);
            assert_eq!(counters.fell_back(*reason), 1);
        }
        assert_eq!(counters.fallback, FallbackReason::ALL.len() as u64 - 2, "two offer nothing");
    }
}
