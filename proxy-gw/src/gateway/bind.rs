//! BIND (RFC 1928 §4): a client waits for somebody to connect to an exit of ours.
//!
//! The port is one that brings every SYN to this shard, whoever sends it (`bind.ports`, [`Layout`]). A peer that the client
//! named is the only one that is answered; where it named nobody, who connects is judged as a destination would be.
//! Invariant: a session that waits has one listener, which takes one connection.
//!
//! [`Layout`]: mptcp_core::steering::Layout

use super::deadlines::Class;
use super::handshake::Failed;
use super::session::Phase;
use super::{EndReason, Farewell, Gateway};
use crate::dns::Family;
use crate::egress::Destination;
use crate::front_end::{Failure, Host, Target};
use crate::shard::Shard;
use core::net::IpAddr;
use mptcp_core::error::OpenError;
use mptcp_core::stack::{Listen, SocketId};
use mptcp_core::time::Instant;

/// What a client hears that waits while we drain, or asks to: it is our business.
const DRAINED: (EndReason, Failure) = (EndReason::Drained, Failure::Internal);

/// A client that waits.
pub(super) struct Binding {
    pub(super) listener: SocketId,
    /// Where the client is: it counts there.
    client: IpAddr,
}

impl Gateway {
    /// Listens for whom the client named, and tells it where, or refuses the client.
    pub(super) fn bind(&mut self, now: Instant, shard: &mut impl Shard, idx: u32, target: &Target) {
        let caller = match self.caller(target) {
            Ok(caller) => caller,
            Err(failed) => return self.fail_after(now, shard, idx, &failed),
        };
        let Some(session) = self.sessions.get(idx) else { return };
        let client = shard.info(session.inner).map(|info| info.remote.ip());
        let (Some(client), Some(id)) = (client, self.sessions.id(idx)) else {
            return self.end(now, shard, idx, EndReason::ClientGone, Farewell::Abort);
        };
        let limited = (EndReason::BindLimited, Failure::Exhausted);
        if !self.common.clients().binds.enter(client) {
            return self.fail(now, shard, idx, limited.0, limited.1);
        }
        if !self.common.binds().enter() {
            self.common.clients().binds.leave(client);
            return self.fail(now, shard, idx, limited.0, limited.1);
        }
        let options = Listen { from: caller.peer, user_data: id.0, ..Listen::default() };
        let mut opened = Err(OpenError::PortsExhausted);
        for local in self.exits.pool(caller.towards, Some(client)) {
            opened = shard.listen_at(local, self.bind.ports, &options);
            if opened != Err(OpenError::PortsExhausted) {
                break;
            }
        }
        let listener = opened.ok();
        let Some((listener, at)) = listener.and_then(|id| Some((id, shard.listening_at(id)?)))
        else {
            self.common.clients().binds.leave(client);
            self.common.binds().leave();
            return self.fail(now, shard, idx, limited.0, limited.1);
        };
        let Some(session) = self.sessions.get_mut(idx) else { return };
        let reply = session.front_end.connected(at);
        session.phase = Phase::Binding(Box::new(Binding { listener, client }));
        self.waiting += 1;
        self.deadlines.arm(idx, Class::Bind, now);
        self.say(now, shard, idx, &reply);
    }

    /// Who may connect, and the exit for that.
    fn caller(&self, target: &Target) -> Result<Caller, Failed> {
        if self.bind.waiting == 0 {
            return Err((EndReason::CommandNotSupported, Failure::NotSupported).into());
        }
        if self.draining {
            return Err(DRAINED.into());
        }
        let Host::Address(named) = target.host else {
            // Of several addresses one would be the peer's: nobody can say which before it comes.
            return Err((EndReason::AddressType, Failure::NoFamily).into());
        };
        let no_family = || Failed::from((EndReason::NoFamily, Failure::NoFamily));
        let plain = Destination::new(named).target;
        if plain.is_unspecified() {
            let towards = self.exits.widest(Family::of(plain)).ok_or_else(no_family)?;
            return Ok(Caller { peer: None, towards });
        }
        let peer = self.candidate(named)?;
        // Who is reached by a translator does not come back by it.
        if peer == plain {
            Ok(Caller { peer: Some(peer), towards: peer })
        } else {
            Err(no_family())
        }
    }

    /// Somebody has connected.
    pub(super) fn handle_caller(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let Some(session) = self.sessions.get(idx) else { return };
        let Phase::Binding(binding) = &session.phase else { return };
        let (listener, inner, front_end) = (binding.listener, session.inner, session.front_end);
        let Some((outer, peer)) = self.next_caller(now, shard, listener) else { return };
        let Some(session) = self.sessions.get_mut(idx) else { return };
        let waited = core::mem::replace(&mut session.phase, Phase::Relaying);
        session.outer = Some(outer);
        if let Phase::Binding(binding) = waited {
            self.unbind(now, shard, &binding);
        }
        if let Some(id) = self.sessions.id(idx) {
            shard.set_user_data(outer, id.0);
        }
        if !self.say(now, shard, idx, &front_end.connected(peer)) {
            return;
        }
        if shard.relay(now, inner, outer).is_err() {
            return self.end(now, shard, idx, EndReason::Internal, Farewell::Abort);
        }
        let Some(session) = self.sessions.get(idx) else { return };
        let class = super::relay_class(session);
        self.counters.sessions_established += 1;
        self.deadlines.arm(idx, class, now);
        self.begin_terms(now, shard, idx);
    }

    /// The first that is still there and that the policy would let a client connect to.
    fn next_caller(
        &self,
        now: Instant,
        shard: &mut impl Shard,
        listener: SocketId,
    ) -> Option<(SocketId, core::net::SocketAddr)> {
        while let Some(outer) = shard.accept(listener) {
            let peer = shard.info(outer).map(|info| info.remote);
            let welcome = peer.filter(|peer| self.policies.reach().policy.check(peer.ip()).is_ok());
            match welcome {
                Some(peer) if shard.error(outer).is_none() => return Some((outer, peer)),
                _ => shard.abort(now, outer),
            }
        }
        None
    }

    /// Nobody else is let in: clients that wait are told, but for those whose peer is there already.
    pub(super) fn end_binds(&mut self, now: Instant, shard: &mut impl Shard) {
        for idx in 0..self.high_water {
            if self.waiting == 0 {
                return;
            }
            self.handle_caller(now, shard, idx);
            self.wait_no_longer(now, shard, idx, DRAINED);
        }
    }

    /// `bind.timeout_s` passed.
    pub(super) fn bind_timed_out(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        self.wait_no_longer(now, shard, idx, (EndReason::BindTimedOut, Failure::TimedOut));
    }

    fn wait_no_longer(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        (reason, failure): (EndReason, Failure),
    ) {
        let Some(session) = self.sessions.get_mut(idx) else { return };
        if !matches!(session.phase, Phase::Binding(_)) {
            return;
        }
        // What it is until the refusal is said.
        let waited = core::mem::replace(&mut session.phase, Phase::Relaying);
        if let Phase::Binding(binding) = waited {
            self.unbind(now, shard, &binding);
        }
        self.fail(now, shard, idx, reason, failure);
    }

    /// A client waits no longer: nobody else is answered.
    pub(super) fn unbind(&mut self, now: Instant, shard: &mut impl Shard, binding: &Binding) {
        self.waiting = self.waiting.saturating_sub(1);
        self.common.clients().binds.leave(binding.client);
        self.common.binds().leave();
        shard.close(now, binding.listener);
    }
}

/// Who may connect.
struct Caller {
    /// `None`: anybody.
    peer: Option<IpAddr>,
    /// By the exit that leads there.
    towards: IpAddr,
}
