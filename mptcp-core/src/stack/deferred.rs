//! Requests about which the application decides before anything answers the SYN, and the text that
//! the SYN brought (RFC 8803 §4.2).
//!
//! Invariant: there is one entry for each undecided request, with one buffer at most; it goes with the
//! decision or with the request, whichever is first.

use super::demux::Node;
use super::{Event, Ready, Sock, SocketId, Stack};
use crate::buf::{PacketBuf, PortId};
use crate::mptcp::{DssFormat, Stage, Subflow};
use crate::seq::SeqNum;
use crate::tcp::request::{RequestFlags, Wanted};
use crate::tcp::{Pending, Segment, Stateless};
use crate::time::Instant;
use crate::wire::{OptionWriter, TcpFlags, Version};
use alloc::collections::{BTreeMap, VecDeque};
use core::net::SocketAddr;

/// What an undecided request has beside its entry.
#[derive(Debug)]
struct Deferred<B> {
    /// The SYN as it came first.
    segment: Segment,
    text: Option<B>,
    /// It came again without text.
    bare: bool,
    user_data: u64,
    pending: Ready,
}

/// All of them, by their position, and those that went away before the application knew.
#[derive(Debug)]
pub(super) struct Deferrals<B> {
    entries: BTreeMap<u32, Deferred<B>>,
    gone: VecDeque<Event>,
}

impl<B> Default for Deferrals<B> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), gone: VecDeque::new() }
    }
}

impl<B> Deferrals<B> {
    /// The next request that went away.
    pub(super) fn pop_gone(&mut self) -> Option<Event> {
        self.gone.pop_front()
    }

    pub(super) fn gone_count(&self) -> u32 {
        u32::try_from(self.gone.len()).unwrap_or(u32::MAX)
    }

    /// Readiness of an undecided request, and the word that comes with it.
    pub(super) fn take_ready(&mut self, idx: u32) -> Option<(Ready, u64)> {
        let entry = self.entries.get_mut(&idx)?;
        Some((core::mem::take(&mut entry.pending), entry.user_data))
    }

    pub(super) fn set_user_data(&mut self, idx: u32, user_data: u64) {
        if let Some(entry) = self.entries.get_mut(&idx) {
            entry.user_data = user_data;
        }
    }
}

impl<B: PacketBuf> Stack<B> {
    /// Answers a deferred request with a SYN/ACK; the connection then comes through `accept` of its
    /// listener like any other. Text of its SYN comes again. False when the id is stale.
    pub fn accept_deferred(&mut self, now: Instant, request: SocketId) -> bool {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return false };
        self.deferrals.entries.remove(&idx);
        let Some(entry) = self.requests.get_mut(idx) else { return false };
        if entry.flags.contains(RequestFlags::DEFERRED) {
            entry.flags.remove(RequestFlags::DEFERRED);
            if let Some(listener) = self.listeners.get_mut(entry.listener) {
                listener.deferred = listener.deferred.saturating_sub(1);
            }
        }
        self.send_syn_ack_at(now, idx);
        true
    }

    /// Makes a connection of a deferred request before its third ACK. Text of the SYN can be read at once:
    /// the SYN/ACK acknowledges it, as with Fast Open. The id is the application's, with the word that was
    /// attached to the request; it does not come through `accept`. What the application sends leaves
    /// with or behind the SYN/ACK, of an MPTCP connection of version 1 behind the third ACK. Until then it
    /// counts among the listener's undecided requests.
    ///
    /// The same text may come again, as another request, when the network repeats a SYN late (RFC 7413
    /// §6.1).
    ///
    /// `None`, and nothing has changed, when the id is stale, or a limit or memory does not allow it, not
    /// even to keep the text: [`Stack::accept_deferred`] or [`Stack::refuse_deferred`] is left.
    pub fn open_deferred(&mut self, now: Instant, request: SocketId) -> Option<SocketId> {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return None };
        let entry = *self.requests.get(idx)?;
        let listener = self.listeners.id(entry.listener)?;
        let deferred = self.deferrals.entries.get(&idx)?;
        let unkept = deferred.text.is_none() && deferred.segment.len > 0;
        if unkept || self.pool.is_low() || !self.make_place(now) {
            return None;
        }
        let Deferred { segment, text, bare, user_data, .. } =
            self.deferrals.entries.remove(&idx)?;
        self.remove_request(idx);
        let mut pending = Pending::new(listener, &segment, None);
        pending.denies = self.denies_joins(&entry.tuple);
        // Linux 6.18 shows its keys where the SYN that it sent last ended, and nowhere else: never, when
        // that one had no text and this one's is acknowledged.
        pending.keys_at_once = bare && segment.len > 0;
        let (sock, _) = self.give_out(now, &entry, &segment, pending, text)?;
        if let Some(listener) = self.listeners.get_mut(entry.listener) {
            listener.fast_open.enter();
        }
        if let Some(app) = self.app(sock) {
            app.user_data = user_data;
        }
        if segment.len > 0 {
            self.post_readable(now, sock, false);
        }
        self.socket_id(sock)
    }

    /// Answers a deferred request with a RST. False when the id is stale.
    pub fn refuse_deferred(&mut self, now: Instant, request: SocketId) -> bool {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return false };
        let Some(entry) = self.requests.get(idx).copied() else { return false };
        let text = self.deferrals.entries.remove(&idx).map_or(0, |deferred| deferred.segment.len);
        self.remove_request(idx);
        self.reply(
            now,
            Stateless {
                tuple: entry.tuple,
                port: entry.port,
                seq: SeqNum(0),
                ack: entry.irs.add(1 + text),
                flags: TcpFlags::RST | TcpFlags::ACK,
                window: 0,
                marking: self.request_marking(&entry),
                options: OptionWriter::new(),
            },
        );
        true
    }

    /// Forgets a deferred request without an answer: its SYN will come again, as another request. False when
    /// the id is stale.
    pub fn ignore_deferred(&mut self, request: SocketId) -> bool {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return false };
        self.deferrals.entries.remove(&idx);
        self.remove_request(idx);
        true
    }

    /// Who asks: the peer's and our address of a deferred request; `None` when it went away.
    #[must_use]
    pub fn deferred_addresses(&self, request: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return None };
        self.requests.get(idx).map(|r| (r.tuple.remote(), r.tuple.local()))
    }

    /// The port that the SYN of a deferred request came in by.
    #[must_use]
    pub fn deferred_port(&self, request: SocketId) -> Option<PortId> {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return None };
        self.requests.get(idx).map(|request| request.port)
    }

    /// What the SYN of a deferred request brought; `None` when that was nothing, was not kept because
    /// memory is short, or the request was decided about or went away.
    #[must_use]
    pub fn deferred_text(&self, request: SocketId) -> Option<&[u8]> {
        let Some(Sock::Request(idx)) = self.resolve(request) else { return None };
        self.deferrals.entries.get(&idx)?.text.as_ref().map(PacketBuf::data)
    }

    /// What a full segment towards the peer of a request will carry.
    pub(super) fn deferred_payload(&self, idx: u32) -> Option<u32> {
        let request = self.requests.get(idx)?;
        let default = if request.tuple.remote_addr.is_ipv4() { 536 } else { 1220 };
        let peer = if request.peer_mss == 0 { default } else { request.peer_mss };
        let timestamps = request.flags.contains(RequestFlags::TIMESTAMPS);
        let options = match request.wanted {
            Wanted::Capable { version, .. } => {
                let checksum = request.flags.contains(RequestFlags::CHECKSUM);
                let wide_ack = version == Version::V1;
                let mut subflow = Subflow::new(0, 0, version, Stage::Active);
                subflow.set_format(DssFormat { wide: false, wide_ack, checksum });
                subflow.dss_len()
            }
            Wanted::Plain(_) | Wanted::Join { .. } => 0,
        };
        let options = options + if timestamps { 12 } else { 0 };
        Some(u32::from(peer.min(request.local_mss)).saturating_sub(options))
    }

    /// A request begins to wait for its decision.
    pub(super) fn keep_deferred(&mut self, idx: u32, segment: &Segment, text: B) {
        let listener = self.requests.get(idx).map(|request| request.listener);
        let user_data = listener.and_then(|listener| self.listeners.get(listener));
        let mut segment = *segment;
        if listener.is_some_and(|listener| self.is_transparent(listener)) {
            // Whether its cookie is any good only the peer's own server could say.
            segment.len = 0;
        }
        let kept = segment.len > 0 && !self.pool.is_low();
        let entry = Deferred {
            segment,
            text: Some(text).filter(|_| kept),
            bare: false,
            user_data: user_data.map_or(0, |listener| listener.options.user_data),
            pending: Ready::empty(),
        };
        self.deferrals.entries.insert(idx, entry);
    }

    /// The SYN of an undecided request came again.
    pub(super) fn deferred_again(&mut self, idx: u32, segment: &Segment) {
        if let Some(entry) = self.deferrals.entries.get_mut(&idx) {
            entry.bare |= segment.len == 0;
            if segment.window_scale.is_none() {
                // Left out for good, as in the request.
                entry.segment.window_scale = None;
            }
            entry.pending |= Ready::REPEATED;
            self.events.push_back(self.numbering.number(Node::Request(idx)));
        }
    }

    /// `seq` is behind the text of an undecided request's SYN, where its peer goes on.
    pub(super) fn is_behind_text(&self, idx: u32, seq: SeqNum) -> bool {
        self.deferrals.entries.get(&idx).is_some_and(|entry| entry.segment.end() == seq)
    }

    /// A request goes away, undecided if it has an entry: whoever has its id is told.
    pub(super) fn forget_deferred(&mut self, idx: u32) {
        let Some(entry) = self.deferrals.entries.remove(&idx) else { return };
        let offered = |flags: RequestFlags| flags.contains(RequestFlags::OFFERED);
        if self.requests.get(idx).is_none_or(|request| offered(request.flags)) {
            return;
        }
        if let Some(socket) = self.socket_id(Sock::Request(idx)) {
            let (ready, user_data) = (Ready::CLOSED, entry.user_data);
            self.deferrals.gone.push_back(Event { socket, ready, user_data });
        }
    }
}
