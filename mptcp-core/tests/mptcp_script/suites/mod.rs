//! Exchanges that public packet suites play with a stack, here against ours and octet by octet:
//! `docs/conformance/suites.md` says which suites and where we differ.

mod addresses;
mod closing;
mod data;
mod notation;
mod opening;
mod resets;

use crate::harness::*;
use mptcp_core::config::StackConfig;
use mptcp_core::stack::SocketId;
use mptcp_core::wire::{CapableFlags, CapableForm, TcpFlags, Version};
use notation::Origin;

/// A script whose flows are numbered and whose packets are compared in the short notation.
struct Exchange {
    script: Script,
    keys: Option<Keys>,
    flows: Vec<Flow>,
    id: SocketId,
}

impl Exchange {
    /// Our server after the third ACK.
    fn server_with(version: Version, configure: impl FnOnce(&mut StackConfig)) -> Self {
        let mut script = Script::server_with(version, configure);
        let (flow, syn_ack) = script.half_open(40_000, CapableFlags::HMAC);
        Self::accepted(script, flow, &syn_ack)
    }

    /// The same from the SYN/ACK on.
    fn accepted(mut script: Script, flow: Flow, syn_ack: &Out) -> Self {
        let keys = Keys::of(script.version, syn_ack, false);
        // A round trip to measure.
        script.advance(10);
        let out = script.send(&flow, &flow.seg().opt(&keys.third()));
        assert!(out.is_empty(), "{out:?}");
        let id = script.accept().expect("established");
        Self { script, keys: Some(keys), flows: vec![flow], id }
    }

    fn server(version: Version) -> Self {
        Self::server_with(version, |_| {})
    }

    /// Our client after its SYN.
    fn opening(version: Version, configure: impl FnOnce(&mut StackConfig)) -> (Self, Out) {
        let mut script = Script::new(version, configure);
        let (flow, id, syn) = script.connect();
        (Self { script, keys: None, flows: vec![flow], id }, syn)
    }

    /// Our client after the third ACK.
    fn client_with(version: Version, configure: impl FnOnce(&mut StackConfig)) -> Self {
        let mut script = Script::new(version, configure);
        let (keys, flow, id) = script.connected();
        Self { script, keys: Some(keys), flows: vec![flow], id }
    }

    fn client(version: Version) -> Self {
        Self::client_with(version, |_| {})
    }

    fn keys(&self) -> Keys {
        self.keys.expect("known by now")
    }

    /// The next segment of flow `i`.
    fn seg(&self, i: usize) -> Seg {
        self.flows[i].seg()
    }

    /// Each packet in the notation, behind the number of its flow where there are several.
    fn show(&mut self, out: &[Out]) -> Vec<String> {
        let mut shown = Vec::new();
        for packet in out {
            let ours = |f: &Flow| f.local == packet.src && f.peer == packet.dst;
            let i = match self.flows.iter().position(ours) {
                Some(i) => i,
                None => {
                    // A join of ours.
                    self.flows.push(Flow::new(packet.dst, packet.src));
                    self.flows.len() - 1
                }
            };
            self.flows[i].hears(core::slice::from_ref(packet));
            let version = self.script.version;
            let origin = Origin { flow: &self.flows[i], keys: self.keys.as_ref(), version };
            let several = if self.flows.len() > 1 { format!("{i} ") } else { String::new() };
            shown.push(several + &origin.show(packet));
        }
        shown
    }

    /// `out` is exactly `expected`, in which `W` is the width of numbers that this version's peers
    /// use and `V` the version.
    fn says(&mut self, out: &[Out], expected: &[&str]) {
        let (width, version) = match self.script.version {
            Version::V0 => ("4", "0"),
            Version::V1 => ("8", "1"),
        };
        let fill = |line: &&str| line.replace('W', width).replace('V', version);
        let expected: Vec<String> = expected.iter().map(fill).collect();
        assert_eq!(self.show(out), expected);
    }

    /// The peer sends `seg`, and `expected` answers it.
    fn peer(&mut self, i: usize, seg: Seg, expected: &[&str]) {
        let out = self.script.send(&self.flows[i], &seg);
        let flow = &mut self.flows[i];
        if seg.seq == flow.snd_nxt {
            flow.snd_nxt = flow.snd_nxt.wrapping_add(seg.len());
        }
        self.says(&out, expected);
    }

    /// The peer sends octets `offset..` of its stream, the whole of a mapping.
    fn peer_data(&mut self, i: usize, offset: u64, acked: u64, len: usize, expected: &[&str]) {
        let payload = stream(offset, len);
        let dss = self.keys().data(&self.flows[i], offset, acked, &payload);
        self.peer(i, self.seg(i).dss(dss).data(&payload), expected);
    }

    /// The peer's first data, with the option that belongs there.
    fn peer_first_data(&mut self, len: usize, expected: &[&str]) {
        let payload = stream(0, len);
        let seg = self.seg(0).opt(&self.keys().first_data(&payload)).data(&payload);
        self.peer(0, seg, expected);
    }

    /// The peer's `DATA_ACK` of `acked` octets.
    fn peer_acks(&mut self, i: usize, acked: u64, expected: &[&str]) {
        self.peer(i, self.seg(i).dss(self.keys().ack(acked)), expected);
    }

    fn write(&mut self, offset: u64, len: usize, expected: &[&str]) {
        let out = self.script.write(self.id, offset, len);
        self.says(&out, expected);
    }

    fn shutdown(&mut self, expected: &[&str]) {
        self.script.stack.shutdown_write(self.script.now, self.id);
        let out = self.script.out();
        self.says(&out, expected);
    }

    fn close(&mut self, expected: &[&str]) {
        self.script.stack.close(self.script.now, self.id);
        self.script.forget(self.id);
        let out = self.script.out();
        self.says(&out, expected);
    }

    fn wait(&mut self, ms: u64, expected: &[&str]) {
        let out = self.script.advance(ms);
        self.says(&out, expected);
    }

    /// The peer joins over a further flow.
    fn join(&mut self, backup: bool) -> usize {
        let keys = self.keys();
        let flow = self.script.join_as(&keys, at(P2, 5000), at(A1, PORT), backup);
        self.flows.push(flow);
        self.flows.len() - 1
    }

    /// The answer of our client's peer to its SYN, with `flags` in `MP_CAPABLE` of `version`.
    fn answer_as(&mut self, version: u8, flags: u8) -> Vec<Out> {
        let flags = CapableFlags::from_bits_retain(flags);
        let form = CapableForm::Key(PEER_KEY);
        let option = mptcp_core::wire::MptcpOption::Capable(mptcp_core::wire::MpCapable {
            version,
            flags,
            form,
        });
        self.script.answer(&mut self.flows[0], &[option])
    }
}

const RST: TcpFlags = TcpFlags::RST.union(TcpFlags::ACK);
