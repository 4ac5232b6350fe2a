//! Convert clients (RFC 8803): requests that wait for their destination before anything answers their
//! SYN, who may have them, and what is said about them.

use super::handshake::read;
use super::{EndReason, Farewell, Gateway};
use crate::auth::Limiter;
use crate::config::{Config, CookiePolicy};
use crate::front_end::convert::{self, Asked, Worth};
use crate::front_end::{Failure, FrontEnd};
use crate::shard::Shard;
use core::net::IpAddr;
use core::time::Duration;
use mptcp_core::buf::PortId;
use mptcp_core::rng::Rng;
use mptcp_core::stack::SocketId;
use mptcp_core::time::Instant;

/// Error messages that one client (an IPv4 address, an IPv6 /64) may have in one go, and how soon
/// another one (RFC 8803 §6.2.5).
const ERROR_BURST: u32 = 50;
const ERROR_REFILL: Duration = Duration::from_millis(200);

/// What holds each client to so many; one for all shards.
pub(super) fn error_limiter(rng: &mut Rng) -> Limiter {
    let mut key = [0; 16];
    rng.fill(&mut key);
    Limiter::with_rate(key, ERROR_BURST, ERROR_REFILL)
}

/// What is configured for Convert clients. What is kept of them is in [`super::Common`].
pub(super) struct Converter {
    policy: CookiePolicy,
    /// Ports that only exits use.
    external: Vec<PortId>,
}

impl Converter {
    pub(super) fn new(config: &Config) -> Self {
        let ports = (0u8..).take(config.ports.len());
        Self {
            policy: config.convert.cookie,
            external: ports
                .filter(|idx| !config.is_access(usize::from(*idx)))
                .map(PortId)
                .collect(),
        }
    }
}

impl Gateway {
    /// Acts on a whole message.
    pub(super) fn convert(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        asked: Box<Asked>,
    ) {
        let Some((client, port)) = self.origin(shard, idx) else {
            return self.end(now, shard, idx, EndReason::ClientGone, Farewell::Abort);
        };
        if port.is_some_and(|port| self.converter.external.contains(&port)) {
            let reason = EndReason::ExternalRealm;
            return self.fail(now, shard, idx, reason, Failure::NotAllowed);
        }
        if self.converter.policy == CookiePolicy::Require {
            let shown = asked.cookie.as_deref();
            match self.common.cookies().check(now, client, shown) {
                Worth::Good => {}
                Worth::Missing => {
                    let cookie = self.common.cookies().make(now, client);
                    let reply = convert::missing_cookie(&cookie);
                    return self.refuse(now, shard, idx, EndReason::CookieMissing, &reply);
                }
                Worth::Wrong => {
                    let reply = convert::not_authorized();
                    return self.refuse(now, shard, idx, EndReason::CookieWrong, &reply);
                }
            }
        }
        let Some(connect) = &asked.connect else {
            let reply = convert::supported();
            return self.part(now, shard, idx, EndReason::Informed, &reply);
        };
        if !connect.unsupported.is_empty() {
            let reply = convert::unsupported_options(&connect.unsupported);
            return self.refuse(now, shard, idx, EndReason::OptionNotSupported, &reply);
        }
        let target = connect.target.clone();
        self.connect(now, shard, idx, &target, Some(asked));
    }

    /// Where the client is, and the port it came in by, as far as that is known.
    pub(super) fn origin(&self, shard: &impl Shard, idx: u32) -> Option<(IpAddr, Option<PortId>)> {
        let session = self.sessions.get(idx)?;
        if session.deferred {
            let (client, port) = shard.deferred_origin(session.inner)?;
            return Some((client.ip(), Some(port)));
        }
        let info = shard.info(session.inner)?;
        Some((info.remote.ip(), info.subflows.first().map(|first| first.port)))
    }

    /// One error message more to this session's client; false when it had too many.
    pub(super) fn may_complain(&mut self, now: Instant, shard: &impl Shard, idx: u32) -> bool {
        let session = self.sessions.get(idx);
        if session.is_none_or(|session| session.front_end != FrontEnd::Convert) {
            return true;
        }
        let Some((client, _)) = self.origin(shard, idx) else { return true };
        let allowed = self.common.convert_errors().take(now, client);
        self.counters.convert_errors_limited += u64::from(!allowed);
        allowed
    }

    /// Answers the SYN of a session that waits, and takes the `read` octets of its text that are read
    /// already. False when there is no room for that, and no session then.
    pub(super) fn answer_syn(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        read_ahead: usize,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(idx) else { return false };
        if !session.deferred {
            return true;
        }
        let (front_end, request, source) =
            (session.front_end, session.inner, session.take_pending());
        self.settle(front_end, source);
        let Some(inner) = shard.open_deferred(now, request) else {
            self.end(now, shard, idx, EndReason::NoMemory, Farewell::when_full(front_end));
            return false;
        };
        if let Some(session) = self.sessions.get_mut(idx) {
            (session.inner, session.deferred) = (inner, false);
        }
        let mut bytes = [0; convert::MAX_MESSAGE_LEN];
        let mut left = bytes.get_mut(..read_ahead).unwrap_or_default();
        while !left.is_empty() {
            match read(shard.recv(now, inner, left)) {
                (_, 0) => break,
                (_, count) => left = left.get_mut(count..).unwrap_or_default(),
            }
        }
        true
    }

    /// A client for whom there is no session: it hears why as long as it may.
    pub(super) fn turn_away(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        inner: SocketId,
        front_end: FrontEnd,
    ) {
        let origin = shard.deferred_origin(inner).map(|(client, _)| client);
        match (front_end, origin) {
            (FrontEnd::Convert, _) => {}
            (_, Some(_)) => return shard.ignore_deferred(inner),
            (_, None) => return shard.abort(now, inner),
        }
        let client = origin.or_else(|| Some(shard.info(inner)?.remote));
        let errors = self.common.convert_errors();
        let allowed = client.is_some_and(|client| errors.take(now, client.ip()));
        let opened = match origin {
            Some(_) if allowed => shard.open_deferred(now, inner),
            Some(_) => None,
            None => Some(inner),
        };
        let Some(opened) = opened else { return shard.refuse_deferred(now, inner) };
        if !allowed {
            return shard.abort(now, opened);
        }
        // What is read does not turn the end into a reset.
        let mut bytes = [0; 2048];
        while matches!(shard.recv(now, opened, &mut bytes), Ok(1..)) {}
        let _sent = shard.send(now, opened, &convert::resources_exceeded());
        shard.close(now, opened);
    }
}
