//! Handshakes: of the peer with our server, of our client with the peer, and joins by the peer.

use super::{A1, Flow, Keys, Out, P1, PEER_KEY, PORT, Script, at, capable, offer};
use core::net::SocketAddr;
use mptcp_core::stack::{Connect, SocketId};
use mptcp_core::wire::{CapableFlags, CapableForm, MpJoin, MptcpOption, TcpFlags};

/// The peer's nonce in joins.
pub(crate) const NONCE: u32 = 0x0a0b_0c0d;

impl Script {
    /// Up to the SYN/ACK of an MPTCP handshake.
    pub(crate) fn half_open(&mut self, port: u16, flags: CapableFlags) -> (Flow, Out) {
        let mut flow = Flow::new(at(P1, port), at(A1, PORT));
        let out = self.send(&flow, &flow.syn().opt(&offer(self.version, flags)));
        assert_eq!(out.len(), 1, "{out:?}");
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        (flow, out.into_iter().next().expect("one packet"))
    }

    /// A connection after the third ACK, not confirmed yet.
    pub(crate) fn unconfirmed_with(&mut self, flags: CapableFlags) -> (Keys, Flow, SocketId) {
        self.unconfirmed_from(40_000, flags)
    }

    fn unconfirmed_from(&mut self, port: u16, flags: CapableFlags) -> (Keys, Flow, SocketId) {
        self.unconfirmed_within(60_000, port, flags)
    }

    /// The same where the third ACK offers a window of so many octets.
    pub(crate) fn unconfirmed_within(
        &mut self,
        window: u16,
        port: u16,
        flags: CapableFlags,
    ) -> (Keys, Flow, SocketId) {
        let (mut flow, syn_ack) = self.half_open(port, flags);
        flow.window = window;
        let answer = syn_ack.capable().expect("the server speaks MPTCP");
        assert_eq!(answer.version, self.version as u8, "{answer:?}");
        let checksum = (flags | answer.flags).contains(CapableFlags::CHECKSUM);
        let keys = Keys::of(self.version, &syn_ack, checksum);
        let out = self.send(&flow, &flow.seg().opt(&keys.third()));
        assert!(out.is_empty(), "{out:?}");
        let id = self.accept().expect("it is established");
        (keys, flow, id)
    }

    pub(crate) fn unconfirmed(&mut self) -> (Keys, Flow, SocketId) {
        self.unconfirmed_with(CapableFlags::HMAC)
    }

    /// A connection on which the peer showed that it maps data.
    pub(crate) fn confirmed(&mut self) -> (Keys, Flow, SocketId) {
        self.confirmed_with(CapableFlags::HMAC)
    }

    pub(crate) fn confirmed_with(&mut self, flags: CapableFlags) -> (Keys, Flow, SocketId) {
        self.confirmed_from(40_000, flags)
    }

    /// The same from another port of the peer.
    pub(crate) fn confirmed_from(
        &mut self,
        port: u16,
        flags: CapableFlags,
    ) -> (Keys, Flow, SocketId) {
        let (keys, flow, id) = self.unconfirmed_from(port, flags);
        let out = self.send(&flow, &flow.seg().dss(keys.ack(0)));
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
        assert_eq!(self.info(id).mptcp, Some(self.version as u8));
        (keys, flow, id)
    }

    pub(crate) fn accept(&mut self) -> Option<SocketId> {
        let id = self.stack.accept(self.listener?)?;
        self.sockets.push(id);
        Some(id)
    }

    /// Our active open: the flow as the peer sees it, and the SYN.
    pub(crate) fn connect(&mut self) -> (Flow, SocketId, Out) {
        let with = Connect {
            local: A1,
            local_port: 0,
            remote: at(P1, PORT),
            mptcp: true,
            timeout: None,
            user_data: 0,
        };
        let id = self.stack.connect(self.now, &with).expect("room for a connection");
        self.sockets.push(id);
        let out = self.out();
        let [syn] = out.as_slice() else { panic!("{out:?}") };
        let mut flow = Flow::new(at(P1, PORT), syn.src);
        flow.hears(&out);
        (flow, id, syn.clone())
    }

    /// A SYN/ACK with `options` answers `flow`'s SYN.
    pub(crate) fn answer(&mut self, flow: &mut Flow, options: &[MptcpOption<'_>]) -> Vec<Out> {
        let mut seg = flow.syn().acks(flow.rcv_nxt).flags(TcpFlags::SYN | TcpFlags::ACK);
        for option in options {
            seg = seg.opt(option);
        }
        let out = self.send(flow, &seg);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        out
    }

    /// Our active open after the third ACK.
    pub(crate) fn connected_with(&mut self, flags: CapableFlags) -> (Keys, Flow, SocketId) {
        let (mut flow, id, _) = self.connect();
        let out =
            self.answer(&mut flow, &[capable(self.version, flags, CapableForm::Key(PEER_KEY))]);
        let [third] = out.as_slice() else { panic!("{out:?}") };
        let answer = third.capable().expect("the third ACK carries both keys");
        let CapableForm::Keys { sender, receiver } = answer.form else { panic!("{answer:?}") };
        assert_eq!(receiver, PEER_KEY);
        let checksum = answer.flags.contains(CapableFlags::CHECKSUM);
        let version = self.version;
        (Keys { peer: PEER_KEY, stack: sender, checksum, version }, flow, id)
    }

    pub(crate) fn connected(&mut self) -> (Keys, Flow, SocketId) {
        self.connected_with(CapableFlags::HMAC)
    }

    /// The SYN of an `MP_JOIN` by the peer; answers the SYN/ACK.
    pub(crate) fn join_syn(&mut self, keys: &Keys, flow: &mut Flow, backup: bool) -> Vec<Out> {
        let syn = MpJoin::Syn { backup, address_id: 2, token: keys.stack_token(), nonce: NONCE };
        let out = self.send(flow, &flow.syn().opt(&MptcpOption::Join(syn)));
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        out
    }

    /// The third ACK to a join's SYN/ACK.
    pub(crate) fn join_ack(keys: &Keys, syn_ack: &Out) -> MptcpOption<'static> {
        let Some(MpJoin::SynAck { hmac, nonce, .. }) = syn_ack.join() else {
            panic!("no MP_JOIN in {syn_ack:?}")
        };
        let expected = keys.pair().expected_join_hmac(keys.version, NONCE, nonce);
        assert_eq!(expected.truncated64(), hmac, "the stack's HMAC");
        let hmac = keys.pair().sent_join_hmac(keys.version, NONCE, nonce).full();
        MptcpOption::Join(MpJoin::Ack { hmac })
    }

    /// A whole join by the peer from `from` to `to`.
    pub(crate) fn join(&mut self, keys: &Keys, from: SocketAddr, to: SocketAddr) -> Flow {
        self.join_as(keys, from, to, false)
    }

    pub(crate) fn join_as(
        &mut self,
        keys: &Keys,
        from: SocketAddr,
        to: SocketAddr,
        backup: bool,
    ) -> Flow {
        let mut flow = Flow::new(from, to);
        let out = self.join_syn(keys, &mut flow, backup);
        let answer = flow.of(&out);
        let [syn_ack] = answer.as_slice() else { panic!("{out:?}") };
        let ack = Self::join_ack(keys, syn_ack);
        let out = self.send(&flow, &flow.seg().opt(&ack));
        let fourth = flow.of(&out);
        assert!(fourth.iter().any(|o| o.is(TcpFlags::ACK) && !o.rst()), "no fourth ACK: {out:?}");
        flow
    }
}
