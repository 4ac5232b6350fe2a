//! The SYN/ACKs that answer our own subflows: `MP_CAPABLE` or fallback, `MP_JOIN` with its HMAC
//! (RFC 8684 §3.1, §3.2).

use crate::buf::PacketBuf;
use crate::config::ChecksumPolicy;
use crate::mptcp::key::{self, ReceivedHmac};
use crate::mptcp::{FallbackReason, Marks, Phase, Stage};
use crate::stack::options::{self, Handshake};
use crate::stack::{Ready, Sock, Stack};
use crate::tcp::Segment;
use crate::time::Instant;
use crate::wire::{CapableFlags, CapableForm, MpCapable, MpJoin, Version, reset_reason};

impl<B: PacketBuf> Stack<B> {
    /// The SYN/ACK to our `MP_CAPABLE` or `MP_JOIN`, or what ends the opening where it `crossed` the peer's. False
    /// when the subflow is gone.
    pub(super) fn syn_ack_options(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        segment: &Segment,
        crossed: bool,
    ) -> bool {
        let Some(tcb) = self.tcbs.get(idx) else { return false };
        let Some(subflow) = &tcb.subflow else { return false };
        let (stage, nonce) = (subflow.stage, subflow.nonce().unwrap_or_default());
        let handshake = options::handshake(segment.options.as_bytes());
        match stage {
            Stage::CapableSyn => {
                self.capable_syn_ack(now, owner, idx, segment, handshake, crossed);
                true
            }
            Stage::JoinSyn => self.join_syn_ack(now, owner, idx, nonce, handshake),
            _ => true,
        }
    }

    pub(super) fn capable_syn_ack(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        segment: &Segment,
        handshake: Handshake,
        crossed: bool,
    ) {
        let policy = self.config.mptcp.checksum;
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let plain = tcb.is_plain_syn();
        let Some(connection) = self.connections.get_mut(owner) else { return };
        connection.advertised(tcb.rcv_wnd());
        connection.snd_edge = u64::from(segment.window);
        let usable = match handshake {
            Handshake::Capable(MpCapable { version, flags, form: CapableForm::Key(key) })
                if version == connection.version as u8
                    && !crossed
                    && !plain
                    && key != 0
                    && flags.contains(CapableFlags::HMAC)
                    && !flags.contains(CapableFlags::EXTENSIBILITY)
                    && !(flags.contains(CapableFlags::CHECKSUM)
                        && policy == ChecksumPolicy::Refuse) =>
            {
                Some((key, flags))
            }
            _ => None,
        };
        let (local, remote) = (connection.first().local_addr, connection.first().remote());
        let version = connection.version;
        match usable {
            Some((remote_key, flags)) => {
                self.destinations.worked(now, (local, remote), version);
                self.stats.mp_capable_syn_ack_rx += 1;
                self.stats.mp_curr_estab += 1;
                connection.set_remote_key(remote_key);
                connection.checksum |= flags.contains(CapableFlags::CHECKSUM);
                // In version 0 this bit names an algorithm.
                connection.paths.deny_initial =
                    version == Version::V1 && flags.contains(CapableFlags::DENY_JOIN);
                connection.paths.begin();
                connection.phase = Phase::Unconfirmed;
                let format = connection.dss_format();
                if let Some(subflow) = &mut tcb.subflow {
                    subflow.stage = Stage::CapableAck;
                    subflow.set_format(format);
                }
                tcb.refresh_mss();
                if version == Version::V0 {
                    // Data that waits has no room for the keys: the third ACK goes first.
                    self.touch_tcb(idx);
                }
            }
            None => {
                self.stats.mp_capable_fallback_syn_ack += 1;
                let reset =
                    tcb.subflow.as_ref().is_some_and(|s| s.marks.contains(Marks::SYN_RESET));
                let reason = match (crossed, plain) {
                    // Mostly by a SYN/ACK, too (RFC 9293 figure 7), but ours had no option either.
                    (true, _) => FallbackReason::SimultaneousOpen,
                    (false, true) if reset => FallbackReason::CapableSynReset,
                    (false, true) => FallbackReason::CapableSynUnanswered,
                    (false, false) => FallbackReason::SynAckWithoutCapable,
                };
                if reason != FallbackReason::SimultaneousOpen {
                    self.stats.blackhole += u64::from(plain);
                    let served = &self.config.mptcp.versions;
                    self.destinations.refused(now, (local, remote), version, plain, served);
                }
                self.fall_back(owner, idx, reason, false);
            }
        }
        self.observe_established(Sock::Mptcp(owner));
        self.post(Sock::Mptcp(owner), Ready::CONNECTED | Ready::WRITABLE);
        self.post_writable(now, Sock::Mptcp(owner));
    }

    pub(super) fn join_syn_ack(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        nonce: u32,
        handshake: Handshake,
    ) -> bool {
        let Handshake::Join(MpJoin::SynAck { backup, address_id, hmac, nonce: theirs }) = handshake
        else {
            // Stripped on the way: the subflow cannot be authenticated.
            self.stats.mp_join_syn_ack_missing += 1;
            self.reject_syn_ack(now, owner, idx);
            return false;
        };
        self.stats.mp_join_syn_ack_rx += 1;
        self.stats.mp_join_syn_ack_backup_rx += u64::from(backup);
        let Some(connection) = self.connections.get_mut(owner) else { return false };
        let (keys, version) = (connection.keys, connection.version);
        let port = self.tcbs.get(idx).map(|t| t.ends.tuple().remote_port);
        let other_port = port.is_some_and(|port| port != connection.first().remote_port);
        self.stats.mp_join_port_syn_ack_rx += u64::from(other_port);
        let expected = keys.expected_join_hmac(version, nonce, theirs);
        if key::verify_join(&expected, ReceivedHmac::Truncated64(hmac)).is_none() {
            self.stats.mp_join_syn_ack_hmac_failure += 1;
            self.reject_syn_ack(now, owner, idx);
            return false;
        }
        // With the third ACK the peer may take it, and send on it what we have never acknowledged.
        connection.passage.prove();
        let hmac = keys.sent_join_hmac(version, nonce, theirs).full();
        let format = connection.dss_format();
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        let max_remotes = self.config.mptcp.max_remote_addresses;
        connection.paths.on_joined(address_id, tcb.ends.tuple().remote(), max_remotes);
        if let Some(subflow) = &mut tcb.subflow {
            subflow.answer_join(hmac);
            subflow.remote_id = address_id;
            subflow.backup = backup;
            subflow.set_format(format);
        }
        tcb.refresh_mss();
        true
    }

    /// Asking again soon would bring the same SYN/ACK.
    fn reject_syn_ack(&mut self, now: Instant, owner: u32, idx: u32) {
        if let Some(subflow) = self.tcbs.get_mut(idx).and_then(|t| t.subflow.as_mut()) {
            subflow.refused = true;
        }
        self.reset_subflow(now, owner, idx, reset_reason::MPTCP_SPECIFIC, false);
    }
}
