//! What applications decide about the headers of their packets: TTL and DSCP (RFC 9293 §3.9.1.10,
//! §3.9.2), the urgent pointer (§3.8.5), and the MSS they ask for (§3.7.1).

use super::demux::{Flow, Node};
use super::{Sock, SocketId, Stack};
use crate::buf::{PacketBuf, PortId};
use crate::config::Marking;
use crate::tcp::request::{Request, Wanted};
use crate::tcp::{Tcb, Tuple};

impl<B: PacketBuf> Stack<B> {
    /// Packets of a socket are sent with `marking` from now on: a connection's (with all subflows that it
    /// has or will have), a UDP socket's, or what a listener answers and the connections it accepts.
    /// Set right after `connect`, it holds for the SYN as well. False when the id is stale.
    pub fn set_marking(&mut self, id: SocketId, marking: Marking) -> bool {
        match self.resolve(id) {
            Some(Sock::Plain(_)) => {}
            Some(Sock::Mptcp(idx)) => {
                if let Some(connection) = self.connections.get_mut(idx) {
                    connection.marking = marking;
                }
            }
            Some(Sock::Listener(idx)) => {
                if let Some(listener) = self.listeners.get_mut(idx) {
                    listener.marking = marking;
                }
            }
            Some(Sock::Udp(idx)) => {
                if let Some(socket) = self.udp.get_mut(idx) {
                    socket.marking = marking;
                }
            }
            Some(Sock::Request(_)) | None => return false,
        }
        for idx in self.blocks_of(id) {
            if let Some(tcb) = self.tcbs.get_mut(idx) {
                tcb.marking = marking;
            }
        }
        true
    }

    /// `outer`, just opened by [`Stack::connect`], asks its peer for segments of the size that `inner`, a
    /// connection or a deferred request, sends or will send: what is passed on from one to the other then
    /// goes out as it came in. False when an id is stale or something else's.
    pub fn fit_segments(&mut self, outer: SocketId, inner: SocketId) -> bool {
        let payload = match self.resolve(inner) {
            Some(Sock::Request(idx)) => self.deferred_payload(idx),
            _ => {
                let inner = self.blocks_of(inner);
                inner.iter().filter_map(|&idx| self.tcbs.get(idx)).map(Tcb::payload_mss).min()
            }
        };
        let outer = self.blocks_of(outer);
        let Some(payload) = payload.filter(|_| !outer.is_empty()) else { return false };
        for idx in outer {
            if let Some(tcb) = self.tcbs.get_mut(idx) {
                tcb.ask_for_segments(payload);
            }
        }
        true
    }

    /// Marking of what answers a pending request: its listener's, or that of the connection it joins.
    pub(super) fn request_marking(&self, request: &Request) -> Marking {
        let found = match request.wanted {
            Wanted::Join { connection, .. } => self.connections.get(connection).map(|c| c.marking),
            _ => self.listeners.get(request.listener).map(|listener| listener.marking),
        };
        found.unwrap_or(self.config.tcp.marking)
    }

    /// Marking of what answers a segment: that of whoever has its 4-tuple, or else listens there.
    pub(super) fn marking_of(&self, tuple: &Tuple, port: PortId) -> Marking {
        let found = match self.find_flow(tuple) {
            Some(Flow::Tcb(idx)) => self.tcbs.get(idx).map(|tcb| tcb.marking),
            Some(Flow::Request(idx)) => self.requests.get(idx).map(|r| self.request_marking(r)),
            Some(Flow::TimeWait(idx)) => self.time_waits.get(idx).map(|entry| entry.marking),
            None => {
                let listener = self.find_listener(tuple, port);
                listener.and_then(|idx| self.listeners.get(idx)).map(|l| l.marking)
            }
        };
        found.unwrap_or(self.config.tcp.marking)
    }

    /// Everything written to a plain TCP connection so far is urgent (RFC 9293 §3.8.5): the peer is
    /// told, as long as it has not acknowledged that. What was written stays in its place in the
    /// stream. RFC 6093 advises new applications against it. False for other sockets.
    pub fn mark_urgent(&mut self, id: SocketId) -> bool {
        let Some(Sock::Plain(idx)) = self.resolve(id) else { return false };
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        tcb.mark_urgent();
        self.want_transmit(Node::Tcb(idx));
        true
    }

    /// Octets from the next one that `recv` returns to the end of the peer's urgent data, which lies in
    /// the stream like all other data; `None` while there is none. [`super::Ready::URGENT`] says when
    /// there is, or more. On MPTCP connections there never is.
    #[must_use]
    pub fn urgent(&self, id: SocketId) -> Option<u32> {
        let Some(Sock::Plain(idx)) = self.resolve(id) else { return None };
        self.tcbs.get(idx)?.urgent_ahead()
    }
}
