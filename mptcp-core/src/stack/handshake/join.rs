//! Joins by the peer: the token says whose, the HMAC of the third ACK decides (RFC 8684 §3.2).

use crate::buf::{PacketBuf, PortId};
use crate::mptcp::key::{self, ReceivedHmac};
use crate::mptcp::{Phase, Stage, Subflow};
use crate::stack::demux::Flow;
use crate::stack::multipath::is_dead;
use crate::stack::options::{self, Handshake};
use crate::stack::{Stack, env};
use crate::stats::DropReason;
use crate::tcp::request::{Request, RequestFlags, Wanted};
use crate::tcp::{Segment, Tcb, Tuple};
use crate::time::{Duration, Instant};
use crate::wire::{MpJoin, OptionWriter, TcpFlags, Version, reset_reason};

/// A subflow that was not heard of for so long must show that it lives when its place is wanted.
const SILENCE: Duration = Duration::from_secs(10);

/// The peer says that this address of its is elsewhere now.
fn is_moved<B: PacketBuf>(tcb: &Tcb<B>, join: &Tuple, address_id: u8) -> bool {
    tcb.subflow.as_ref().is_some_and(|s| s.remote_id == address_id)
        && tcb.ends.tuple().local_addr == join.local_addr
        && tcb.ends.tuple().remote_addr != join.remote_addr
}

impl<B: PacketBuf> Stack<B> {
    pub(in crate::stack) fn endpoint_backup(&self, addr: core::net::IpAddr) -> bool {
        self.local_address(addr).is_some_and(|local| local.backup)
    }

    /// An `MP_JOIN` SYN, on whatever port: the token says whose it is (RFC 8684 §3.2).
    pub(super) fn join_arrives(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        join: &JoinSyn,
    ) {
        self.stats.mp_join_syn_rx += 1;
        if !self.demux.has_token(join.token) {
            // It came on a flow that was ours until now. Its home is told, and the SYN comes again.
            return self.stats.drop(DropReason::JoinToken);
        }
        if let Some(owner) = self.demux.connection_of(join.token) {
            // A run that waits for its end may be what confirms the connection.
            self.close_runs_of(now, owner);
        }
        let Some(connection_idx) = self.demux.connection_of(join.token) else {
            self.stats.mp_join_no_token_found += 1;
            self.stats.drop(DropReason::JoinToken);
            // Nobody knows the version of what is not there; it is one that we serve.
            let newest = self.config.mptcp.versions.contains(&Version::V1);
            let told = newest.then_some((reset_reason::MPTCP_SPECIFIC, false));
            return self.refuse_join(now, tuple, port, segment, told);
        };
        let max_half_open = self.config.mptcp.max_half_open_joins;
        let room = self.join_room(connection_idx, tuple, join.address_id);
        let Some(connection) = self.connections.get(connection_idx) else { return };
        let version = connection.version;
        let first = connection.first().local_addr;
        let other_port = tuple.local_port != connection.first().local_port;
        self.stats.mp_join_port_syn_rx += u64::from(other_port);
        let local_id = match tuple.local_addr {
            addr if addr == first => Some(0),
            addr => self.address_id(addr),
        };
        let refusal = if connection.phase == Phase::Unconfirmed {
            // It overtook the DSS that will confirm the connection. Linux asks only once, but repeats a SYN that nobody
            // answers.
            self.stats.mp_join_rejected += 1;
            return self.stats.drop(DropReason::JoinRefused);
        } else if connection.phase != Phase::Confirmed || connection.finished() {
            Some((reset_reason::MPTCP_SPECIFIC, false))
        } else if local_id.is_none() {
            // An address of somebody else, and not the one that this peer asked for.
            Some((reset_reason::PROHIBITED, false))
        } else if !room {
            if self.probe_silent_subflows(now, connection_idx) {
                // The SYN comes again: by then it is known who is still there.
                return self.stats.drop(DropReason::JoinRefused);
            }
            Some((reset_reason::PROHIBITED, false))
        } else if connection.half_open >= max_half_open
            || self.requests.len() == self.requests.capacity()
        {
            Some((reset_reason::LACK_OF_RESOURCES, true))
        } else {
            None
        };
        if refusal.is_some() {
            let told = refusal.filter(|_| version == Version::V1);
            self.stats.mp_join_rejected += 1;
            self.stats.drop(DropReason::JoinRefused);
            return self.refuse_join(now, tuple, port, segment, told);
        }
        if join.backup {
            self.stats.mp_join_syn_backup_rx += 1;
        }
        let wanted = Wanted::Join {
            connection: connection_idx,
            local_nonce: self.rng.next_u32(),
            remote_nonce: join.nonce,
            remote_id: join.address_id,
            local_id: local_id.unwrap_or(0),
        };
        let mut request = self.request(now, tuple, port, segment, u32::MAX, wanted);
        request.flags.set(RequestFlags::BACKUP, join.backup);
        if let Some(connection) = self.connections.get_mut(connection_idx) {
            connection.half_open += 1;
            // Its peer may take the answer for the whole join, and send by it what it sends here again.
            connection.passage.prove();
        }
        let _filed = self.add_request(now, request);
    }

    /// A join of a connection that its peer began at this very address, which is not ours: it needs no
    /// listener.
    pub(super) fn joins_elsewhere(&self, tuple: &Tuple, segment: &Segment) -> bool {
        if !segment.has(TcpFlags::SYN) || segment.has(TcpFlags::ACK) {
            return false;
        }
        let Handshake::Join(MpJoin::Syn { token, .. }) =
            options::handshake(segment.options.as_bytes())
        else {
            return false;
        };
        let owner = self.demux.connection_of(token).and_then(|idx| self.connections.get(idx));
        owner.is_some_and(|connection| connection.first().local_addr == tuple.local_addr)
    }

    /// Within the limit of subflows, those not counted whose place this join may take.
    fn join_room(&self, owner: u32, tuple: &Tuple, address_id: u8) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        let tcbs = connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx));
        let kept = tcbs.filter(|tcb| !is_dead(tcb) && !is_moved(tcb, tuple, address_id)).count();
        kept + usize::from(connection.half_open) < usize::from(self.config.mptcp.max_subflows)
    }

    /// At the limit, subflows that were silent for long are asked for a sign of life; true when any
    /// is.
    fn probe_silent_subflows(&mut self, now: Instant, owner: u32) -> bool {
        let mut any = false;
        for idx in self.subflows_of(owner) {
            let silent = |t: &Tcb<B>| now.since(t.last_received()) >= SILENCE;
            if self.tcbs.get(idx).is_some_and(silent) {
                any = true;
                self.probe_subflow(now, owner, idx);
            }
        }
        any
    }

    /// Makes room for a join that was found good; false when there is none.
    fn clear_place_for(&mut self, now: Instant, owner: u32, tuple: &Tuple, address_id: u8) -> bool {
        let max = usize::from(self.config.mptcp.max_subflows);
        let Some(connection) = self.connections.get(owner) else { return false };
        if connection.subflows.len() < max {
            return true;
        }
        let moved = |tcb: &Tcb<B>| is_moved(tcb, tuple, address_id);
        let Some(idx) = self.dead_subflow(owner, moved) else { return false };
        self.reset_subflow(now, owner, idx, reset_reason::UNACCEPTABLE_PERFORMANCE, false);
        true
    }

    /// A RST, which tells peers of version 1 a reason and whether it may pass.
    fn refuse_join(
        &mut self,
        now: Instant,
        tuple: &Tuple,
        port: PortId,
        segment: &Segment,
        told: Option<(u8, bool)>,
    ) {
        let mut options = OptionWriter::new();
        if let Some((reason, transient)) = told {
            self.note_reset(tuple, reason);
            options::push_reset(&mut options, reason, transient);
            self.stats.mp_rst_tx += 1;
        }
        self.reply_rst_with(now, tuple, port, segment, options);
    }

    /// The third ACK of a join: its HMAC decides.
    pub(super) fn complete_join(
        &mut self,
        now: Instant,
        idx: u32,
        request: &Request,
        segment: &Segment,
        payload: B,
    ) {
        let Wanted::Join { connection: owner, local_nonce, remote_nonce, remote_id, local_id } =
            request.wanted
        else {
            return;
        };
        let Some(connection) = self.connections.get(owner) else {
            return self.remove_request(idx);
        };
        let expected =
            connection.keys.expected_join_hmac(connection.version, local_nonce, remote_nonce);
        let verified = match options::handshake(segment.options.as_bytes()) {
            Handshake::None if follows_third_ack(request, segment) => {
                // It overtook the third ACK, which comes, or comes again. If not, the peer hears of that in the end.
                if let Some(waiting) = self.requests.get_mut(idx) {
                    waiting.flags.insert(RequestFlags::ANSWERED);
                }
                return self.stats.drop(DropReason::MpJoinMissing);
            }
            Handshake::Join(MpJoin::Ack { hmac }) => {
                self.stats.mp_join_ack_rx += 1;
                let other_port = request.tuple.local_port != connection.first().local_port;
                self.stats.mp_join_port_ack_rx += u64::from(other_port);
                let verified = key::verify_join(&expected, ReceivedHmac::Full(&hmac));
                if verified.is_none() {
                    self.stats.mp_join_ack_hmac_failure += 1;
                }
                verified
            }
            _ => {
                self.stats.mp_join_ack_missing += 1;
                None
            }
        };
        let version = connection.version;
        let alive = connection.phase == Phase::Confirmed;
        self.remove_request(idx);
        if verified.is_none() || !alive {
            self.stats.drop(DropReason::JoinHmac);
            let told = Some((reset_reason::MPTCP_SPECIFIC, false));
            let told = told.filter(|_| version == Version::V1);
            return self.refuse_join(now, &request.tuple, request.port, segment, told);
        }
        if !self.clear_place_for(now, owner, &request.tuple, remote_id) {
            self.stats.mp_join_rejected += 1;
            self.stats.drop(DropReason::JoinRefused);
            let told = Some((reset_reason::LACK_OF_RESOURCES, true));
            let told = told.filter(|_| version == Version::V1);
            return self.refuse_join(now, &request.tuple, request.port, segment, told);
        }
        let agreed = self.agreed(now, request, segment);
        let mut env = env!(self, now);
        let mut tcb = Tcb::accepted(&mut env, request.tuple, request.port, &agreed);
        let local_backup = self.endpoint_backup(request.tuple.local_addr);
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let mut subflow =
            Subflow::new(owner, connection.new_subflow_id(&self.tcbs), version, Stage::Active);
        subflow.local_id = local_id;
        subflow.remote_id = remote_id;
        subflow.backup = request.flags.contains(RequestFlags::BACKUP);
        subflow.local_backup = local_backup;
        subflow.set_format(connection.dss_format());
        tcb.subflow = Some(alloc::boxed::Box::new(subflow));
        tcb.marking = connection.marking;
        tcb.refresh_mss();
        if let Some(choice) = connection.congestion() {
            tcb.set_congestion(now, choice);
        }
        // The fourth ACK (RFC 8684 §3.2).
        tcb.ack_now();
        let Some(tcb_idx) = self.tcbs.insert(tcb) else {
            self.stats.mp_join_rejected += 1;
            let told = Some((reset_reason::LACK_OF_RESOURCES, true));
            let told = told.filter(|_| version == Version::V1);
            return self.refuse_join(now, &request.tuple, request.port, segment, told);
        };
        connection.subflows.push(tcb_idx);
        self.file_flow(&request.tuple, Flow::Tcb(tcb_idx));
        self.subflow_joined(now, owner, tcb_idx);
        self.tcb_segment(now, tcb_idx, segment, payload);
        self.touch_connection(owner);
    }
}

/// Nothing that leaves a third ACK without its option: what has text, a FIN or a DSS, or lies behind it, was
/// sent after it.
fn follows_third_ack(request: &Request, segment: &Segment) -> bool {
    segment.seq_len() > 0
        || segment.seq != request.irs.add(1)
        || options::has_dss(segment.options.as_bytes())
}

/// Fields of an `MP_JOIN` SYN.
pub(super) struct JoinSyn {
    pub(super) backup: bool,
    pub(super) address_id: u8,
    pub(super) token: u32,
    pub(super) nonce: u32,
}
