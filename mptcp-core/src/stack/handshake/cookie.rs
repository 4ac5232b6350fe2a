//! SYN cookies: handshakes without an entry once the request table is full (RFC 4987 §3.6).
//!
//! MPTCP goes with them: our key follows from the 4-tuple and the sequence numbers, and comes back
//! with the peer's in the third ACK or, in version 1, with the first data. When the third ACK of
//! version 0 gets lost, the peer's key is lost with it: TCP (RFC 8041 §3.11).

use super::Level;
use crate::buf::{PacketBuf, PortId};
use crate::config::ChecksumPolicy;
use crate::mptcp::key::{self, KeyPair, OwnKey};
use crate::mptcp::{FallbackReason, Negotiated};
use crate::seq::SeqNum;
use crate::stack::options::{self, Handshake};
use crate::stack::{MAX_REPLIES, Stack};
use crate::stats::DropReason;
use crate::tcp::isn::{decode_ts, encode_ts};
use crate::tcp::{Agreed, Segment, Stateless, Tuple, mss_for};
use crate::time::{Duration, Instant};
use crate::wire::{CapableFlags, CapableForm, MpCapable, OptionWriter, TcpFlags, Version};

/// No cookie is good for longer.
const COOKIE_LIFE: Duration = Duration::from_secs(128);

/// Keys tried for one cookie in search of a free token: each costs a hash of a SYN that may be one of
/// a flood.
const COOKIE_KEYS: u8 = 64;
/// Shards among which so many find one that is this shard's in all but three of 10,000 cookies. All the keys
/// there are do as much among 32, and among 64 in all but two of 100.
const SHARDS_FOR_FEW_KEYS: u32 = 8;

impl<B: PacketBuf> Stack<B> {
    /// The request queue is full: the SYN/ACK carries everything we need to remember.
    pub(super) fn send_cookie(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        capable: Option<(Version, MpCapable)>,
    ) {
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
        let local_mss = mss_for(self.mtu_towards(tuple, port), &tuple.remote_addr);
        let stamped = segment.timestamps.filter(|_| self.config.tcp.timestamps);
        // What has no room in a cookie is kept by the timestamp, or not at all.
        let sack = stamped.is_some() && segment.sack_permitted && self.config.tcp.sack;
        let timestamps = stamped.map(|(tsval, _)| {
            (encode_ts(now.as_millis() as u32, segment.window_scale, sack), tsval)
        });
        let scaled = segment.window_scale.filter(|_| stamped.is_some()).map(|_| self.rcv_wscale);
        let fits = options.push_syn(local_mss, sack, timestamps, scaled);
        debug_assert!(fits, "the basic options always fit");
        if let Some((version, capable)) = capable {
            self.stats.mp_capable_syn_rx += 1;
            if let Some(key) = self.cookie_key(tuple, [segment.seq, iss], version) {
                let checksum = self.wants_checksum(capable.flags);
                let denies = self.denies_joins(tuple);
                options::push_capable_syn_ack(&mut options, version, key, checksum, denies);
            }
        }
        let marking = self.marking_of(tuple, port);
        self.replies.push_back(Stateless {
            tuple: *tuple,
            port,
            seq: iss,
            ack: segment.seq.add(1),
            flags: TcpFlags::SYN | TcpFlags::ACK,
            window: self.initial_window() as u16,
            marking,
            options,
        });
    }

    fn cookie_keys(&self) -> core::ops::RangeInclusive<u8> {
        let few = self.demux.shards() <= SHARDS_FOR_FEW_KEYS;
        0..=if few { COOKIE_KEYS - 1 } else { u8::MAX }
    }

    /// The first candidate whose token is free now.
    fn cookie_key(&self, tuple: &Tuple, numbers: [SeqNum; 2], version: Version) -> Option<u64> {
        let (local, remote) = (tuple.local(), tuple.remote());
        let keys =
            self.cookie_keys().map(|n| self.cookies.key(local, remote, numbers, version as u8, n));
        keys.into_iter().find(|&key| self.token_usable(key, key::token(version, key)))
    }

    /// What the third ACK of a good cookie, or the first data in its place, makes of the connection.
    fn cookie_level(&mut self, tuple: &Tuple, numbers: [SeqNum; 2], segment: &Segment) -> Level {
        let plain = Level::Plain(Some(FallbackReason::SynCookie));
        let Handshake::Capable(capable) = options::handshake(segment.options.as_bytes()) else {
            return plain;
        };
        let (CapableForm::Keys { sender, receiver } | CapableForm::Data { sender, receiver, .. }) =
            capable.form
        else {
            return plain;
        };
        let flags = capable.flags;
        let Some(version) = Version::from_u8(capable.version) else { return plain };
        let (local, remote) = (tuple.local(), tuple.remote());
        let ours = self
            .cookie_keys()
            .any(|n| self.cookies.key(local, remote, numbers, version as u8, n) == receiver);
        let refused = flags.contains(CapableFlags::CHECKSUM)
            && self.config.mptcp.checksum == ChecksumPolicy::Refuse;
        let served = self.config.mptcp.versions.contains(&version);
        if !ours || !served || refused || sender == 0 || !options::confirms(&capable, version) {
            return plain;
        }
        let own = OwnKey::new(version, receiver);
        if !self.token_usable(receiver, own.token) {
            // Nobody kept it free.
            self.stats.mp_fallback_token_init += 1;
            return Level::Plain(Some(FallbackReason::NoToken));
        }
        self.stats.mp_capable_ack_rx += 1;
        let keys = KeyPair { local: receiver, remote: sender };
        let checksum = self.wants_checksum(flags);
        Level::Mptcp(Negotiated { version, client: false, keys, checksum }, own)
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
        if self.accept_queue_full(listener) || !self.make_place(now) {
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
            local_mss: mss_for(self.mtu_towards(tuple, port), &tuple.remote_addr),
            snd_wscale,
            rcv_wscale: self.rcv_wscale,
            sack,
            ts_recent: segment.timestamps.map(|(tsval, _)| tsval),
            ts_offset: 0,
            // A cookie has no room to remember it.
            ecn: false,
            window: self.initial_window(),
            rtt: None,
            syn_ack_timeouts: 0,
        };
        let mptcp = self.listeners.get(listener).is_some_and(|l| l.options.mptcp);
        let level =
            if mptcp { self.cookie_level(tuple, [irs, iss], segment) } else { Level::Plain(None) };
        self.establish(now, tuple, port, listener, &agreed, level, segment, payload);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{HeapBuf, HeapPool};
    use crate::config::StackConfig;
    use crate::stack::demux::TokenOwner;
    use alloc::boxed::Box;

    /// Where the first key that follows from a SYN has the token of a connection the second is shown.
    #[test]
    fn a_cookies_key_has_a_token_that_nobody_has() {
        let now = Instant::from_nanos(1);
        let host = |n: u8| core::net::IpAddr::from([192, 0, 2, n]);
        let (local_addr, remote_addr) = (host(1), host(2));
        let tuple = Tuple { local_addr, remote_addr, local_port: 80, remote_port: 4000 };
        let numbers = [SeqNum(1), SeqNum(2)];
        for version in [Version::V0, Version::V1] {
            let pool = Box::new(HeapPool::new(1, 1500));
            let mut stack = Stack::<HeapBuf>::new(StackConfig::default(), now, pool);
            let first = stack.cookie_key(&tuple, numbers, version).expect("all are free");
            stack.demux.insert_token(key::token(version, first), TokenOwner::Connection(0));
            let second = stack.cookie_key(&tuple, numbers, version).expect("others are free");
            assert_ne!(first, second);
            stack.demux.insert_token(key::token(version, second), TokenOwner::Request(0));
            let third = stack.cookie_key(&tuple, numbers, version);
            assert!(third.is_some_and(|key| key != first && key != second));
        }
    }
}
