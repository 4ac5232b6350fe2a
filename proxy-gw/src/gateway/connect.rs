//! Sessions on their way to the destination: names, policy, exits, attempts, the truthful reply.
//!
//! A name with several addresses is tried as RFC 8305 has it: IPv6 and IPv4 in turn, the next attempt
//! a quarter of a second after the one before or when that fails, the first connection that
//! is established wins. Where that was IPv4's the next one begins with it, for a while. An address is tried once: the client runs a race of its own.

use super::deadlines::{ATTEMPT_DELAY, Class, Pace};
use super::handshake::Failed;
use super::reason::of_failed_connect;
use super::session::{Attempts, Phase};
use super::{EndReason, Farewell, Gateway};
use crate::dns::{Answer, Family};
use crate::egress::{Destination, NoExit, translated};
use crate::front_end::convert::{self, Asked};
use crate::front_end::udp::Stream;
use crate::front_end::{Failure, Host, Target};
use crate::shard::Shard;
use core::net::{IpAddr, SocketAddr};
use mptcp_core::error::{ConnectionError, OpenError};
use mptcp_core::stack::{Connect, Ready, SocketId};
use mptcp_core::tcp::SynTerms;
use mptcp_core::time::Instant;
use mptcp_core::util::slab::SlabId;

/// Attempts of one session at a time.
const MAX_RACING: usize = 4;

/// Why a destination is not reached, for the counters and for the client.
type Refusal = (EndReason, Failure);

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
        if let Some(stream) = Stream::asked_by(target) {
            return self.associate(now, shard, idx, Some(stream));
        }
        if self.policies.reach().policy.denies_port(target.port) {
            return self.fail(now, shard, idx, EndReason::Denied, Failure::NotAllowed);
        }
        let Some(session) = self.sessions.get(idx) else { return };
        let (deferred, front_end) = (session.deferred, session.front_end);
        let origin = if deferred { self.origin(shard, idx) } else { None };
        let pending_for = origin.map(|(client, _)| client);
        if pending_for.is_some_and(|client| !self.common.pending(front_end).enter(client)) {
            let (reason, failure) = (EndReason::PendingLimited, Failure::Exhausted);
            return self.fail(now, shard, idx, reason, failure);
        }
        let Some(session) = self.sessions.get_mut(idx) else { return };
        self.counters.requests_in_syn += u64::from(deferred && asked.is_some());
        let deadline = now + self.connect_timeout;
        let mut attempts = Attempts::new(target.port, deadline);
        if let Host::Name(name) = &target.host {
            attempts.of_name(name.clone(), self.families.first(now, name, target.port));
        }
        (attempts.asked, attempts.pending_for) = (asked, pending_for);
        session.phase = Phase::Connecting(Box::new(attempts));
        self.deadlines.arm(idx, Class::Connect, now);
        match &target.host {
            Host::Address(address) => self.add_candidates(idx, &[*address]),
            Host::Name(name) => match self.policies.reach().hosts.get(name) {
                Some(addresses) => {
                    let addresses = addresses.clone();
                    self.add_candidates(idx, &addresses);
                }
                None if self.resolver.is_on() => return self.resolve(now, shard, idx, target),
                None => {
                    let refusal = (EndReason::UnknownName, Failure::UnknownName);
                    return self.fail(now, shard, idx, refusal.0, refusal.1);
                }
            },
        }
        self.pursue(now, shard, idx);
    }

    /// Asks for the addresses of a name, of every family that has an exit.
    fn resolve(&mut self, now: Instant, shard: &mut impl Shard, idx: u32, target: &Target) {
        let Host::Name(name) = &target.host else { return };
        let client = self.sessions.get(idx).and_then(|session| shard.info(session.inner));
        let (Some(client), Some(id)) = (client, self.sessions.id(idx)) else {
            return self.end(now, shard, idx, EndReason::ClientGone, Farewell::Abort);
        };
        let families = Family::BOTH.into_iter().filter(|family| self.serves(*family));
        let families: Vec<Family> = families.collect();
        if let Some(attempts) = self.attempts(idx) {
            attempts.awaited.clone_from(&families);
        }
        for family in families {
            let client = client.remote.ip();
            if let Some(answer) = self.resolver.lookup(now, shard, name, family, id.0, client) {
                self.take_answer(idx, family, &answer);
            }
        }
        self.pursue(now, shard, idx);
    }

    /// Hands on what the resolver found out.
    pub(super) fn handle_answers(&mut self, now: Instant, shard: &mut impl Shard) {
        while let Some((id, (name, family), answer)) = self.resolver.poll_answer() {
            let Some(idx) = self.sessions.index_of(SlabId(id)) else { continue };
            self.take_answer(idx, family, &answer);
            self.take_udp_answer(now, shard, idx, (&name, family), &answer);
            self.pursue(now, shard, idx);
        }
    }

    fn take_answer(&mut self, idx: u32, family: Family, answer: &Answer) {
        let Some(attempts) = self.attempts(idx) else { return };
        attempts.awaited.retain(|awaited| *awaited != family);
        let refusal = match answer {
            Answer::Addresses(addresses) => return self.add_candidates(idx, addresses),
            Answer::NoName | Answer::NoAddress => (EndReason::UnknownName, Failure::UnknownName),
            Answer::Failed => (EndReason::NameFailed, Failure::NameFailed),
        };
        attempts.refuse(refusal.into());
    }

    /// Whether addresses of `family` can be reached, by a translator too.
    pub(super) fn serves(&self, family: Family) -> bool {
        self.exits.serves(family)
            || family == Family::V4
                && self.policies.reach().nat64.is_some()
                && self.exits.serves(Family::V6)
    }

    fn attempts(&mut self, idx: u32) -> Option<&mut Attempts> {
        match &mut self.sessions.get_mut(idx)?.phase {
            Phase::Connecting(attempts) => Some(attempts),
            _ => None,
        }
    }

    /// Files every address that is allowed and has an exit. When there is none, the refusal of the
    /// first speaks for all.
    fn add_candidates(&mut self, idx: u32, addresses: &[IpAddr]) {
        let judge = |&address: &IpAddr| {
            (Family::of(Destination::new(address).target), self.candidate(address))
        };
        let judged: Vec<_> = addresses.iter().map(judge).collect();
        let Some(attempts) = self.attempts(idx) else { return };
        for (family, candidate) in judged {
            match candidate {
                Ok(remote) => {
                    let remote = SocketAddr::new(remote, attempts.port);
                    attempts.add(family, remote);
                }
                Err(refusal) => attempts.refuse(refusal.into()),
            }
        }
    }

    /// The normalised destination, which has an exit.
    pub(super) fn candidate(&self, requested: IpAddr) -> Result<IpAddr, Refusal> {
        let reach = self.policies.reach();
        let denied = (EndReason::Denied, Failure::NotAllowed);
        let remote = reach.policy.check(requested).map_err(|_| denied)?;
        let why = match (self.exits.local_address(remote), remote, reach.nat64) {
            (Ok(_), ..) => return Ok(remote),
            // No way out for IPv4: by the translator.
            (Err(why), IpAddr::V4(v4), Some(prefix)) => {
                let Some(remote) = translated(v4, prefix).map(IpAddr::V6) else {
                    return Err(denied);
                };
                match self.exits.local_address(remote) {
                    Ok(_) => return Ok(remote),
                    Err(_) => why,
                }
            }
            (Err(why), ..) => why,
        };
        Err(match why {
            NoExit::NoRoute => (EndReason::NoRoute, Failure::NetworkUnreachable),
            NoExit::NoAddress => (EndReason::NoFamily, Failure::NoFamily),
        })
    }

    /// Starts what is due, or refuses the client when nothing is left.
    pub(super) fn pursue(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let user_data = self.sessions.id(idx).map_or(0, |id| id.0);
        loop {
            let Some(session) = self.sessions.get_mut(idx) else { return };
            let Phase::Connecting(attempts) = &mut session.phase else { return };
            if now < attempts.next_at || attempts.racing.len() >= MAX_RACING {
                return;
            }
            if attempts.waits_for_first(now) {
                // The other answer came first: this one may be on its way (RFC 8305 §3).
                return self.pace.arm(idx, Pace::Resolution, now);
            }
            let Some((turn, remote)) = attempts.pop() else {
                if attempts.racing.is_empty() && attempts.awaited.is_empty() {
                    let refusal = attempts.refusal;
                    let internal = || (EndReason::Internal, Failure::Internal).into();
                    return self.fail_after(now, shard, idx, &refusal.unwrap_or_else(internal));
                }
                return;
            };
            let wishes = attempts.asked.as_deref().and_then(|asked| asked.connect.as_ref());
            // Who has heard nothing yet repeats its SYN, and the exit's goes out again with it.
            let terms = (wishes.is_some() || session.deferred).then(|| SynTerms {
                on_demand: session.deferred,
                fast_open: wishes.and_then(|connect| connect.fast_open),
            });
            let mptcp = wishes.is_some_and(|connect| connect.mptcp);
            let waiting = attempts.pending_for;
            let client = match self.exits.has_choice(remote.ip()) {
                true => waiting.or_else(|| Some(shard.addresses(session.inner)?.1.ip())),
                false => None,
            };
            let with = |local| Connect {
                local,
                local_port: 0,
                remote,
                mptcp,
                timeout: Some(attempts.deadline.since(now)),
                user_data,
            };
            self.counters.connect_attempts += 1;
            // Another address of the pool only when the ports of the client's own are used up.
            let mut opened = Err(OpenError::PortsExhausted);
            for local in self.exits.pool(remote.ip(), client) {
                opened = shard.connect(now, &with(local));
                if opened != Err(OpenError::PortsExhausted) {
                    break;
                }
            }
            match opened {
                Ok(outer) => {
                    if let Some(terms) = terms {
                        shard.set_syn_terms(outer, terms);
                    }
                    shard.fit_segments(outer, session.inner);
                    attempts.racing.push((outer, turn));
                    attempts.began.get_or_insert(turn);
                    attempts.next_at = now + ATTEMPT_DELAY;
                    self.pace.arm(idx, Pace::Attempt, now);
                    return;
                }
                Err(error) => attempts.refuse(of_refused_exit(error).into()),
            }
        }
    }

    /// An attempt's connection changed.
    pub(super) fn handle_connecting(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        outer: SocketId,
        ready: Ready,
    ) {
        if ready.contains(Ready::CLOSED) {
            let error = shard.error(outer).unwrap_or(ConnectionError::Reset);
            let icmp_code = shard.syn_answer(outer).and_then(|answer| answer.icmp_code);
            shard.release(outer);
            if let Some(attempts) = self.attempts(idx) {
                attempts.racing.retain(|(racing, _)| *racing != outer);
                let (reason, failure) = of_failed_connect(error);
                attempts.refuse(Failed { reason, failure, icmp_code });
                // The next one need not wait.
                attempts.next_at = now;
            }
            self.pursue(now, shard, idx);
        } else if ready.contains(Ready::CONNECTED) {
            if let Some(attempts) = self.attempts(idx)
                && let (Some(name), Some(began)) = (attempts.name.take(), attempts.began)
                && let Some(won) = attempts.turn_of(outer)
            {
                let port = attempts.port;
                self.families.learn(now, name, port, (began, won));
            }
            let racing = self.attempts(idx).map(|attempts| core::mem::take(&mut attempts.racing));
            let racing = racing.into_iter().flatten().map(|(racing, _)| racing);
            for loser in racing.filter(|racing| *racing != outer) {
                shard.abort(now, loser);
            }
            self.pace.disarm(idx);
            if let Some(session) = self.sessions.get_mut(idx) {
                session.outer = Some(outer);
                session.ends.note(super::reason::Side::Outer, ready);
            }
            self.established(now, shard, idx);
        }
    }

    /// Tells the client and lets the stack move bytes from here on.
    fn established(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let outer = self.sessions.get(idx).and_then(|session| session.outer);
        let bound = outer.and_then(|outer| Some((outer, shard.addresses(outer)?.0)));
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
        if !self.answer_syn(now, shard, idx, len) {
            return;
        }
        if !reply.is_empty() && !self.say(now, shard, idx, &reply) {
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
        self.begin_terms(now, shard, idx);
    }

    /// `connect_s` passed.
    pub(super) fn connect_timed_out(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let Some(attempts) = self.attempts(idx) else { return };
        // Without an attempt it was the name that took so long.
        let unresolved = attempts.racing.is_empty() && !attempts.awaited.is_empty();
        for (outer, _) in core::mem::take(&mut attempts.racing) {
            shard.abort(now, outer);
        }
        let (reason, failure) = if unresolved {
            (EndReason::NameFailed, Failure::NameFailed)
        } else {
            (EndReason::ConnectTimedOut, Failure::TimedOut)
        };
        self.fail(now, shard, idx, reason, failure);
    }
}

/// An exit that could not even be started.
fn of_refused_exit(error: OpenError) -> Refusal {
    match error {
        OpenError::PortsExhausted | OpenError::LimitReached => {
            (EndReason::ExitsExhausted, Failure::Exhausted)
        }
        _ => (EndReason::Internal, Failure::Internal),
    }
}
