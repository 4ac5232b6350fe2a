//! SYNs with a Fast Open option at a listener that wants them, and what arrives for a connection
//! that was given out before its third ACK (RFC 7413 §4.2, RFC 8684 Appendix B).

use super::Level;
use crate::buf::PacketBuf;
use crate::mptcp::key::KeyPair;
use crate::mptcp::{FallbackReason, Negotiated, Stage};
use crate::stack::fast_open::Worth;
use crate::stack::options::{self, Handshake};
use crate::stack::{Sock, Stack};
use crate::stats::DropReason;
use crate::tcp::request::{Request, RequestFlags, Wanted};
use crate::tcp::{Agreed, Pending, Segment};
use crate::time::Instant;
use crate::wire::{CapableForm, FastOpenCookie, MpCapable, TcpFlags, Version};

impl<B: PacketBuf> Stack<B> {
    /// The SYN's option. True when the connection was given out; otherwise the request may grant a
    /// cookie with its SYN/ACK, and the SYN's text comes again.
    pub(super) fn fast_open(
        &mut self,
        now: Instant,
        request: &mut Request,
        segment: &Segment,
        text: B,
    ) -> bool {
        let Some(cookie) = segment.fast_open else { return false };
        // What is granted is of this term, even where nobody showed a cookie for long.
        self.fast_open.rotate(now);
        self.stats.tcp_fast_open_cookie_reqd += u64::from(cookie.is_request());
        let Some(listener) = self.listeners.get_mut(request.listener) else { return false };
        let limit = listener.options.fast_open;
        if !listener.fast_open.has_room(now, limit) {
            // No cookie either: it would bring the next one.
            self.stats.tcp_fast_open_listen_overflow += 1;
            return false;
        }
        let opened = !cookie.is_request() && self.open_with(now, request, segment, cookie, text);
        self.stats.tcp_fast_open_passive_fail += u64::from(!cookie.is_request() && !opened);
        request.flags.set(RequestFlags::GRANT, !opened);
        opened
    }

    fn open_with(
        &mut self,
        now: Instant,
        request: &Request,
        segment: &Segment,
        cookie: FastOpenCookie,
        text: B,
    ) -> bool {
        let (local, remote) = (request.tuple.local_addr, request.tuple.remote_addr);
        let worth = self.fast_open.check(now, [local, remote], cookie.as_bytes());
        let full = self.accept_queue_full(request.listener) || self.pool.is_low();
        let Some(listener) = self.listeners.id(request.listener) else { return false };
        if worth == Worth::Nothing || full || !self.make_place(now) {
            return false;
        }
        let grant = (worth == Worth::Former).then(|| self.fast_open.mac(local, remote));
        let mut pending = Pending::new(listener, segment, grant);
        pending.denies = self.denies_joins(&request.tuple);
        let Some((sock, _)) = self.give_out(now, request, segment, pending, Some(text)) else {
            return false;
        };
        if let Some(listener) = self.listeners.get_mut(request.listener) {
            listener.fast_open.enter();
        }
        self.stats.tcp_fast_open_passive += 1;
        self.stats.tcp_fast_open_passive_alt_key += u64::from(grant.is_some());
        self.offer(request.listener, sock);
        if segment.len > 0 {
            self.post_readable(now, sock, false);
        }
        true
    }

    /// The connection of a SYN before its third ACK, with the text that came with it; the SYN/ACK
    /// acknowledges that, and goes out next.
    pub(in crate::stack) fn give_out(
        &mut self,
        now: Instant,
        request: &Request,
        segment: &Segment,
        pending: Pending,
        text: Option<B>,
    ) -> Option<(Sock, u32)> {
        let level = match request.wanted {
            Wanted::Capable { version, own, remote_key } => {
                let keys = KeyPair { local: own.key, remote: remote_key };
                let checksum = request.flags.contains(RequestFlags::CHECKSUM);
                Level::Mptcp(Negotiated { version, client: false, keys, checksum }, own)
            }
            Wanted::Plain(reason) => Level::Plain(reason),
            Wanted::Join { .. } => return None,
        };
        let agreed = Agreed { rtt: None, ..self.agreed(now, request, segment) };
        let (sock, idx) =
            self.create(now, &request.tuple, request.port, request.listener, &agreed, level)?;
        let tcb = self.tcbs.get_mut(idx)?;
        let text = text.filter(|_| segment.len > 0);
        let plain = match (sock, text) {
            (Sock::Mptcp(owner), text) => {
                if let Some(connection) = self.connections.get_mut(owner) {
                    connection.snd_edge = u64::from(segment.window);
                    if let Some(text) = text {
                        connection.take_early(text);
                    }
                }
                None
            }
            (_, text) => text,
        };
        tcb.await_third_ack(now, segment, pending, plain);
        self.touch_tcb(idx);
        Some((sock, idx))
    }

    /// A segment for a connection in SYN-RECEIVED. True when it ends here: a SYN that came again, or
    /// one from which nobody can tell yet whether the peer speaks MPTCP.
    pub(in crate::stack) fn before_third_ack(&mut self, idx: u32, segment: &Segment) -> bool {
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        let extension = tcb.subflow.as_ref().filter(|subflow| subflow.stage == Stage::Active);
        let owner = extension.map(|subflow| subflow.connection);
        let handshake = options::handshake(segment.options.as_bytes());
        if tcb.syn_came_again(segment) {
            if let Some(owner) = owner
                && !matches!(handshake, Handshake::Capable(_))
            {
                let reason = FallbackReason::SynRepeatedWithoutCapable;
                self.fall_back(owner, idx, reason, false);
            }
            self.touch_tcb(idx);
            return true;
        }
        let Some(connection) = owner.and_then(|owner| self.connections.get(owner)) else {
            return false;
        };
        let shows_keys = matches!(
            handshake,
            Handshake::Capable(MpCapable {
                form: CapableForm::Keys { .. } | CapableForm::Data { .. },
                ..
            })
        );
        let other = segment.flags.intersects(TcpFlags::SYN | TcpFlags::RST);
        let ahead = segment.seq != tcb.rcv_nxt;
        let unclear = ahead || options::has_dss(segment.options.as_bytes());
        // Patience ends with the first repetition of the SYN/ACK.
        let patient = tcb.rto_count() == 0 && tcb.pending().is_some_and(|p| !p.keys_at_once);
        let waits = connection.version == Version::V1 && patient;
        if !other && !shows_keys && unclear && waits {
            self.stats.drop(DropReason::MpCapableMissing);
            return true;
        }
        false
    }
}
