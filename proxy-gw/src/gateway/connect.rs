//! Sessions on their way to the destination: policy, exits, attempts, the truthful reply.

use super::deadlines::Class;
use super::handshake::Failed;
use super::reason::of_failed_connect;
use super::session::{Attempts, Phase};
use super::{EndReason, Farewell, Gateway};
use crate::egress::NoExit;
use crate::front_end::convert::{self, Asked};
use crate::front_end::{Failure, Host, Target};
use crate::shard::Shard;
use core::net::{IpAddr, SocketAddr};
use mptcp_core::error::{ConnectionError, OpenError};
use mptcp_core::stack::{Connect, Ready};
use mptcp_core::tcp::SynTerms;
use mptcp_core::time::Instant;

impl Gateway {
    /// Starts towards `target`, or refuses the client.
    pub(super) fn connect(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        target: &Target,
        asked: Option<Box<Asked>>,
    ) {
        let left = match self.candidates(target) {
            Ok(left) => left,
            Err((reason, failure)) => return self.fail(now, shard, idx, reason, failure),
        };
        let deferred = self.sessions.get(idx).is_some_and(|session| session.deferred);
        let origin = if deferred { self.origin(shard, idx) } else { None };
        let pending_for = origin.map(|(client, _)| client);
        if pending_for.is_some_and(|client| !self.converter.enter(client)) {
            let (reason, failure) = (EndReason::PendingLimited, Failure::Exhausted);
            return self.fail(now, shard, idx, reason, failure);
        }
        let Some(session) = self.sessions.get_mut(idx) else { return };
        self.counters.requests_in_syn += u64::from(deferred);
        let deadline = now + self.connect_timeout;
        session.phase =
            Phase::Connecting(Box::new(Attempts { left, deadline, asked, pending_for }));
        self.deadlines.arm(idx, Class::Connect, now);
        self.next_attempt(now, shard, idx, None);
    }

    /// Every address of `target` that is allowed and has an exit, the first one last. When there is
    /// none, the refusal of the first address speaks for all.
    fn candidates(
        &self,
        target: &Target,
    ) -> Result<Vec<(IpAddr, SocketAddr)>, (EndReason, Failure)> {
        let literal;
        let addresses: &[IpAddr] = match &target.host {
            Host::Address(address) => {
                literal = [*address];
                &literal
            }
            Host::Name(name) => {
                self.hosts.get(name).ok_or((EndReason::UnknownName, Failure::UnknownName))?
            }
        };
        let mut refusal = None;
        let mut allowed = Vec::with_capacity(addresses.len());
        for address in addresses {
            match self.candidate(*address) {
                Ok((local, remote)) => allowed.push((local, SocketAddr::new(remote, target.port))),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        allowed.reverse();
        match refusal {
            Some(why) if allowed.is_empty() => Err(why),
            _ => Ok(allowed),
        }
    }

    /// Our address and the normalised destination.
    fn candidate(&self, requested: IpAddr) -> Result<(IpAddr, IpAddr), (EndReason, Failure)> {
        let remote =
            self.policy.check(requested).map_err(|_| (EndReason::Denied, Failure::NotAllowed))?;
        let local = self.exits.local_address(remote).map_err(|why| match why {
            NoExit::NoRoute => (EndReason::NoRoute, Failure::NetworkUnreachable),
            NoExit::NoAddress => (EndReason::NoFamily, Failure::NoFamily),
        })?;
        Ok((local, remote))
    }

    /// Tries the next address; `failure` is why the one before it was not reached.
    fn next_attempt(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        failed: Option<Failed>,
    ) {
        let mut failed = failed.unwrap_or((EndReason::Internal, Failure::Internal).into());
        let user_data = self.sessions.id(idx).map_or(0, |id| id.0);
        loop {
            let Some(session) = self.sessions.get_mut(idx) else { return };
            let Phase::Connecting(attempts) = &mut session.phase else { return };
            let Some((local, remote)) = attempts.left.pop() else { break };
            // Each address gets an equal share of the time that is left.
            let shares = u32::try_from(attempts.left.len()).unwrap_or(u32::MAX).saturating_add(1);
            let timeout = attempts.deadline.since(now) / shares;
            let wishes = attempts.asked.as_deref().and_then(|asked| asked.connect.as_ref());
            let terms = wishes.map(|connect| SynTerms {
                on_demand: session.deferred,
                fast_open: connect.fast_open,
            });
            let with = Connect {
                local,
                local_port: 0,
                remote,
                mptcp: wishes.is_some_and(|connect| connect.mptcp),
                timeout: Some(timeout),
                user_data,
            };
            self.counters.connect_attempts += 1;
            match shard.connect(now, &with) {
                Ok(outer) => {
                    if let Some(terms) = terms {
                        shard.set_syn_terms(outer, terms);
                    }
                    shard.fit_segments(outer, session.inner);
                    session.outer = Some(outer);
                    return;
                }
                Err(error) => failed = of_refused_exit(error).into(),
            }
        }
        self.fail_after(now, shard, idx, &failed);
    }

    /// The exit's connection changed while the session waited for it.
    pub(super) fn handle_connecting(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        ready: Ready,
    ) {
        let Some(session) = self.sessions.get_mut(idx) else { return };
        let Some(outer) = session.outer else { return };
        if session.ends.outer_closed {
            let error = shard.error(outer).unwrap_or(ConnectionError::Reset);
            let icmp_code = shard.syn_answer(outer).and_then(|answer| answer.icmp_code);
            shard.release(outer);
            session.outer = None;
            session.ends.forget_outer();
            let (reason, failure) = of_failed_connect(error);
            self.next_attempt(now, shard, idx, Some(Failed { reason, failure, icmp_code }));
        } else if ready.contains(Ready::CONNECTED) {
            self.established(now, shard, idx);
        }
    }

    /// Tells the client and lets the stack move bytes from here on.
    fn established(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let outer = self.sessions.get(idx).and_then(|session| session.outer);
        let bound = outer.and_then(|outer| Some((outer, shard.info(outer)?.local)));
        let Some((outer, bound)) = bound else {
            return self.end(now, shard, idx, EndReason::Internal, Farewell::Abort);
        };
        let Some(session) = self.sessions.get(idx) else { return };
        let asked = match &session.phase {
            Phase::Connecting(attempts) => attempts.asked.as_deref(),
            _ => None,
        };
        let (len, reply) = match asked {
            Some(asked) => {
                let extended = asked.connect.as_ref().is_some_and(|connect| connect.extended);
                let answer = shard.syn_answer(outer).unwrap_or_default();
                let options = extended.then_some(answer.options.as_slice());
                (asked.len, convert::connected(asked.info, options))
            }
            None => (0, session.front_end.connected(bound)),
        };
        if !self.answer_syn(now, shard, idx, len) || !self.say(now, shard, idx, &reply) {
            return;
        }
        let Some(session) = self.sessions.get_mut(idx) else { return };
        if shard.relay(now, session.inner, outer).is_err() {
            return self.end(now, shard, idx, EndReason::Internal, Farewell::Abort);
        }
        session.phase = Phase::Relaying;
        let class = super::relay_class(session);
        self.counters.sessions_established += 1;
        self.deadlines.arm(idx, class, now);
    }

    /// `connect_s` passed.
    pub(super) fn connect_timed_out(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let Some(session) = self.sessions.get_mut(idx) else { return };
        if let Some(outer) = session.outer.take() {
            shard.abort(now, outer);
        }
        self.fail(now, shard, idx, EndReason::ConnectTimedOut, Failure::TimedOut);
    }
}

/// An exit that could not even be started.
fn of_refused_exit(error: OpenError) -> (EndReason, Failure) {
    match error {
        OpenError::PortsExhausted | OpenError::LimitReached => {
            (EndReason::ExitsExhausted, Failure::Exhausted)
        }
        _ => (EndReason::Internal, Failure::Internal),
    }
}
