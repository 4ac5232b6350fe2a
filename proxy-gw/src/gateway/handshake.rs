//! Sessions in their handshake, and refused ones that linger.

use super::deadlines::Class;
use super::session::{Lingering, Phase};
use super::{EndReason, Farewell, Gateway};
use crate::auth::{Decision, VerifyResult};
use crate::front_end::{Credentials, Failure, FrontEnd, Step};
use crate::shard::Shard;
use mptcp_core::error::RecvError;
use mptcp_core::time::Instant;
use mptcp_core::util::slab::SlabId;

/// What a refused client may still send before it is reset: those that say all of a long request before they
/// read (wget does) must hear why it was refused.
pub(super) const MAX_DISCARDED: u32 = 4 << 20;

/// Why a destination was not reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    pub(super) reason: EndReason,
    pub(super) failure: Failure,
    /// The ICMP error that said so.
    pub(super) icmp_code: Option<u8>,
}

impl From<(EndReason, Failure)> for Failed {
    fn from((reason, failure): (EndReason, Failure)) -> Self {
        Self { reason, failure, icmp_code: None }
    }
}

/// What came of reading.
pub(super) enum Input {
    /// Bytes were read.
    Some,
    /// Nothing to read yet.
    None,
    /// The client will send no more, or is gone.
    End,
}

impl Gateway {
    /// Takes the handshake as far as the received bytes go.
    pub(super) fn drive(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        loop {
            let Some(session) = self.sessions.get_mut(idx) else { return };
            let Phase::Handshake(handshake) = &mut session.phase else { return };
            match handshake.step() {
                Step::Read(wanted) if session.deferred => {
                    let seen = handshake.seen();
                    let text = shard.deferred_text(session.inner).unwrap_or_default();
                    let text = text.get(seen..).unwrap_or_default();
                    let into = handshake.input(wanted);
                    let count = into.len().min(text.len());
                    if count == 0 {
                        // The rest of the message comes behind the handshake.
                        if !self.answer_syn(now, shard, idx, seen) {
                            return;
                        }
                        continue;
                    }
                    for (to, from) in into.iter_mut().zip(text) {
                        *to = *from;
                    }
                    handshake.advance(count);
                }
                Step::Read(wanted) => {
                    let into = handshake.input(wanted);
                    match read(shard.recv(now, session.inner, into)) {
                        (Input::Some, count) => handshake.advance(count),
                        (Input::None, _) => return,
                        (Input::End, _) => {
                            let (reason, how) = (EndReason::ClientGone, Farewell::Close);
                            return self.end(now, shard, idx, reason, how);
                        }
                    }
                }
                Step::Send(reply) => {
                    if !self.say(now, shard, idx, &reply) {
                        return;
                    }
                }
                Step::Verify(credentials) => {
                    if !self.authenticate(now, shard, idx, credentials) {
                        return;
                    }
                }
                Step::Connect { target, reserved_set } => {
                    self.counters.requests_reserved_set += u64::from(reserved_set);
                    return self.connect(now, shard, idx, &target, None);
                }
                Step::Convert(asked) => return self.convert(now, shard, idx, asked),
                Step::Reset(why) => {
                    return self.end(now, shard, idx, why.into(), Farewell::Abort);
                }
                Step::Bind { target, reserved_set } => {
                    self.counters.requests_reserved_set += u64::from(reserved_set);
                    return self.bind(now, shard, idx, &target);
                }
                Step::Associate { reserved_set } => {
                    self.counters.requests_reserved_set += u64::from(reserved_set);
                    return self.associate(now, shard, idx, None);
                }
                Step::Refuse(why, reply) => {
                    return self.refuse(now, shard, idx, why.into(), &reply);
                }
                Step::Wait => return,
            }
        }
    }

    /// Takes the verifier's answer to one request.
    pub fn handle_verified(&mut self, now: Instant, shard: &mut impl Shard, result: &VerifyResult) {
        for session in self.authenticator.finish(now, result) {
            self.handle_verdict(now, shard, session, result.correct);
        }
    }

    /// The verifier did not take a request: the session is refused.
    pub fn handle_unverifiable(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        result: &VerifyResult,
    ) {
        for session in self.authenticator.finish(now, result) {
            if let Some(idx) = self.verifying(session) {
                let reason = EndReason::AuthenticationBusy;
                self.fail(now, shard, idx, reason, Failure::CannotVerify);
            }
        }
    }

    fn handle_verdict(&mut self, now: Instant, shard: &mut impl Shard, id: u64, correct: bool) {
        let Some(idx) = self.verifying(id) else { return };
        if !correct {
            let reason = EndReason::AuthenticationFailed;
            return self.fail(now, shard, idx, reason, Failure::Credentials);
        }
        if let Some(session) = self.sessions.get_mut(idx)
            && let Phase::Handshake(handshake) = &mut session.phase
        {
            handshake.verified();
        }
        self.drive(now, shard, idx);
    }

    /// The session of `id`, if it still waits for a verdict.
    fn verifying(&self, id: u64) -> Option<u32> {
        let idx = self.sessions.index_of(SlabId(id))?;
        match &self.sessions.get(idx)?.phase {
            Phase::Handshake(handshake) if handshake.is_verifying() => Some(idx),
            _ => None,
        }
    }

    /// Decides about credentials; `false` when the handshake cannot go on now.
    fn authenticate(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        credentials: Credentials,
    ) -> bool {
        let inner = self.sessions.get(idx).map(|session| session.inner);
        let client = inner.and_then(|inner| shard.addresses(inner));
        let (Some((_, client)), Some(id)) = (client, self.sessions.id(idx)) else {
            self.end(now, shard, idx, EndReason::ClientGone, Farewell::Abort);
            return false;
        };
        let source = client.ip();
        let users = self.policies.credentials();
        if let Some(session) = self.sessions.get_mut(idx) {
            session.user = users.id(&credentials.user);
        }
        let decision = self.authenticator.begin(now, id.0, source, credentials, users);
        let (reason, failure) = match decision {
            Decision::Accepted => {
                self.counters.authentication_cached += 1;
                if let Some(session) = self.sessions.get_mut(idx)
                    && let Phase::Handshake(handshake) = &mut session.phase
                {
                    handshake.verified();
                }
                return true;
            }
            Decision::Pending => return false,
            Decision::Limited => (EndReason::AuthenticationLimited, Failure::TooManyAttempts),
            Decision::Busy => (EndReason::AuthenticationBusy, Failure::CannotVerify),
        };
        self.fail(now, shard, idx, reason, failure);
        false
    }

    /// Sends a message of the handshake. They are few and short, so the send buffer of a new
    /// connection takes them whole; when it does not, there is no memory and the session ends.
    pub(super) fn say(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        message: &[u8],
    ) -> bool {
        let Some(session) = self.sessions.get(idx) else { return false };
        if shard.send(now, session.inner, message) == Ok(message.len()) {
            return true;
        }
        let gone = session.ends.inner_closed() || shard.error(session.inner).is_some();
        let reason = if gone { EndReason::ClientGone } else { EndReason::NoMemory };
        self.end(now, shard, idx, reason, Farewell::Abort);
        false
    }

    /// Refuses a client whose destination was not reached, or who is not trusted.
    pub(super) fn fail(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        reason: EndReason,
        failure: Failure,
    ) {
        self.fail_after(now, shard, idx, &Failed { reason, failure, icmp_code: None });
    }

    /// The same with what an ICMP error said.
    pub(super) fn fail_after(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        failed: &Failed,
    ) {
        let Some(session) = self.sessions.get(idx) else { return };
        if session.front_end == FrontEnd::Transparent {
            // There are no words for it but a reset, and what is wrong with us alone is no answer at all.
            let how = match failed.failure {
                Failure::Exhausted | Failure::Internal => Farewell::Ignore,
                _ => Farewell::Abort,
            };
            return self.end(now, shard, idx, failed.reason, how);
        }
        let reply = session.front_end.failed(failed.failure, failed.icmp_code);
        self.refuse(now, shard, idx, failed.reason, &reply);
    }

    /// Tells the client why, if there is something to say, finishes our side and waits for it to close.
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        reason: EndReason,
        reply: &[u8],
    ) {
        if !self.may_complain(now, shard, idx) {
            return self.end(now, shard, idx, reason, Farewell::Abort);
        }
        self.part(now, shard, idx, reason, reply);
    }

    /// The same when it is no complaint.
    pub(super) fn part(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        reason: EndReason,
        reply: &[u8],
    ) {
        if !self.answer_syn(now, shard, idx, 0) {
            return;
        }
        if !reply.is_empty() && !self.say(now, shard, idx, reply) {
            return;
        }
        let Some(session) = self.sessions.get_mut(idx) else { return };
        shard.shutdown_write(now, session.inner);
        session.phase = Phase::Lingering(Lingering { reason, discarded: 0 });
        self.deadlines.arm(idx, Class::Linger, now);
        self.discard(now, shard, idx);
    }

    /// Reads what a refused client still sends: closing with bytes unread would reset the
    /// connection, and the reset could overtake the reply.
    pub(super) fn discard(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let mut bytes = [0; 2048];
        loop {
            let Some(session) = self.sessions.get_mut(idx) else { return };
            let Phase::Lingering(lingering) = &mut session.phase else { return };
            let reason = lingering.reason;
            if session.ends.inner_closed() || lingering.discarded > MAX_DISCARDED {
                return self.end(now, shard, idx, reason, Farewell::Abort);
            }
            match read(shard.recv(now, session.inner, &mut bytes)) {
                (Input::Some, count) => {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    lingering.discarded = lingering.discarded.saturating_add(count);
                }
                (Input::None, _) => return,
                (Input::End, _) => return self.end(now, shard, idx, reason, Farewell::Close),
            }
        }
    }
}

pub(super) fn read(result: Result<usize, RecvError>) -> (Input, usize) {
    match result {
        Ok(0) | Err(RecvError::InvalidSocket | RecvError::Failed(_)) => (Input::End, 0),
        Ok(count) => (Input::Some, count),
        Err(RecvError::WouldBlock) => (Input::None, 0),
    }
}
