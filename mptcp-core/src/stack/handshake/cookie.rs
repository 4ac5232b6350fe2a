//! SYN cookies: handshakes without an entry once the request table is full (RFC 4987 §3.6).

use super::Level;
use crate::buf::{PacketBuf, PortId};
use crate::mptcp::FallbackReason;
use crate::stack::options;
use crate::stack::{MAX_REPLIES, Stack};
use crate::stats::DropReason;
use crate::tcp::isn::{decode_ts, encode_ts};
use crate::tcp::{Agreed, Segment, Stateless, Tuple, mss_for};
use crate::time::{Duration, Instant};
use crate::wire::{OptionWriter, TcpFlags, TcpOption};

/// No cookie is good for longer.
const COOKIE_LIFE: Duration = Duration::from_secs(128);

impl<B: PacketBuf> Stack<B> {
    /// The request queue is full: the SYN/ACK carries everything we need to remember. Only plain
    /// TCP is offered.
    pub(super) fn send_cookie(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        deferred: bool,
    ) {
        if deferred {
            return self.stats.drop(DropReason::RequestQueueFull);
        }
        if self.replies.len() >= MAX_REPLIES || !self.cookie_budget.take(now) {
            self.stats.stateless_reply_limited += 1;
            return;
        }
        self.stats.syncookies_sent += 1;
        self.last_cookie = Some(now);
        let default = if tuple.remote_addr.is_ipv4() { 536 } else { 1220 };
        let mss = segment.mss.unwrap_or(default);
        let local = tuple.local();
        let iss = self.cookies.make(now, local, tuple.remote(), segment.seq, mss);
        let mut options = OptionWriter::new();
        let local_mss = mss_for(self.mtu_of(tuple.local_addr), &tuple.remote_addr);
        options::push_tcp(&mut options, &TcpOption::MaxSegmentSize(local_mss));
        if let (Some((tsval, _)), true) = (segment.timestamps, self.config.tcp.timestamps) {
            let sack = segment.sack_permitted && self.config.tcp.sack;
            if sack {
                options::push_tcp(&mut options, &TcpOption::SackPermitted);
            }
            let ours = encode_ts(now.as_millis() as u32, segment.window_scale, sack);
            options::push_tcp(&mut options, &TcpOption::Timestamps { tsval: ours, tsecr: tsval });
            if segment.window_scale.is_some() {
                options::push_tcp(&mut options, &TcpOption::WindowScale(self.rcv_wscale));
            }
        }
        self.replies.push_back(Stateless {
            tuple: *tuple,
            port,
            seq: iss,
            ack: segment.seq.add(1),
            flags: TcpFlags::SYN | TcpFlags::ACK,
            window: self.initial_window() as u16,
            options,
        });
    }

    /// A cookie that was sent is still good; without one every guess is refused unseen.
    pub(super) fn cookie_expected(&self, now: Instant) -> bool {
        self.last_cookie.is_some_and(|at| now.since(at) <= COOKIE_LIFE)
    }

    /// An ACK out of nowhere may answer a cookie. True when it did.
    pub(super) fn cookie_ack(
        &mut self,
        now: Instant,
        listener: u32,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        payload: B,
    ) -> bool {
        if !self.cookie_expected(now) {
            return false;
        }
        let (irs, iss) = (segment.seq.sub(1), segment.ack.sub(1));
        let Some(mss) = self.cookies.check(now, tuple.local(), tuple.remote(), irs, iss) else {
            self.stats.syncookies_failed += 1;
            return false;
        };
        if self.accept_queue_full(listener)
            || self.tcbs.len() == self.tcbs.capacity()
            || self.sockets_full()
        {
            self.stats.drop(DropReason::AcceptQueueFull);
            return true;
        }
        self.stats.syncookies_recv += 1;
        let (snd_wscale, sack) = match segment.timestamps {
            Some((_, tsecr)) if self.config.tcp.timestamps => decode_ts(tsecr),
            _ => (None, false),
        };
        let agreed = Agreed {
            iss,
            irs,
            peer_mss: Some(mss),
            local_mss: mss_for(self.mtu_of(tuple.local_addr), &tuple.remote_addr),
            snd_wscale,
            rcv_wscale: self.rcv_wscale,
            sack,
            ts_recent: segment.timestamps.map(|(tsval, _)| tsval),
            ts_offset: 0,
            window: self.initial_window(),
            rtt: None,
            syn_ack_timeouts: 0,
        };
        // A SYN that the cookie did not remember may have offered MPTCP.
        let mptcp = self.listeners.get(listener).is_some_and(|l| l.options.mptcp);
        let level = Level::Plain(mptcp.then_some(FallbackReason::SynCookie));
        self.establish(now, tuple, port, listener, &agreed, level, segment, payload);
        true
    }
}
