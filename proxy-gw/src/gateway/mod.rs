//! The gateway of one shard: sessions from the accepted connection to the last byte.
//!
//! Sans-IO: it is told of events and time, and acts on a [`Shard`]. The order in which events come
//! in does not matter for correctness; stale ones are ignored.
//!
//! Invariant: every session is in the slab, has one deadline, ends with one [`EndReason`], and
//! gives up both its sockets when it does.

mod bind;
mod common;
mod connect;
mod convert;
mod counters;
mod deadlines;
mod families;
mod handshake;
mod icmp;
mod path_log;
mod per_client;
mod reason;
mod session;
mod snapshot;
mod terms;
#[cfg(test)]
pub(crate) mod tests;
mod udp;

pub use common::Common;
pub use counters::Counters;
pub use icmp::IcmpCounts;
pub use reason::EndReason;
pub use snapshot::SessionSnapshot;
pub(crate) use udp::MAX_EXITS;
pub use udp::UdpCounters;

use crate::auth::{Authenticator, VerifyRequest};
use crate::config::{Auth, Bind, Config, Entry, Udp};
use crate::dns::Resolver;
use crate::egress::Exits;
use crate::front_end::{FrontEnd, Handshake};
use crate::log_limit::LogLimit;
use crate::policies::InForce;
use crate::shard::Shard;
use convert::Converter;
use core::net::SocketAddr;
use core::time::Duration;
use deadlines::{ATTEMPT_DELAY, CLASSES, Class, Deadlines, RESOLUTION_DELAY};
use families::Families;
use mptcp_core::buf::PortId;
use mptcp_core::driver::Progress;
use mptcp_core::error::{ConnectionError, OpenError};
use mptcp_core::mptcp::path_health::PathEvent;
use mptcp_core::rng::Rng;
use mptcp_core::stack::{Event, Listen, Ready, SocketId};
use mptcp_core::time::Instant;
use mptcp_core::util::slab::{Slab, SlabId};
use path_log::PathLog;
use reason::Side;
use session::{Phase, Session};
use std::sync::Arc;

/// How long a refused client may take to close (RFC 1928 §6 allows 10 s in all).
const LINGER: Duration = Duration::from_secs(5);

/// Longest datagram forwarded, octets: what does not fit a packet comes, and goes, in fragments.
const MAX_DATAGRAM: usize = 65_535;

/// `user_data` of listeners; a session's is its slab id, which is never 0.
const LISTENER: u64 = 0;

/// How a session gives up the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// In order: what was sent still arrives.
    Close,
    /// By a reset.
    Abort,
    /// By nothing, as long as nothing has answered its SYN: it comes again. Otherwise by a reset.
    Ignore,
}

impl Farewell {
    /// To a client for whom there is no room.
    const fn when_full(front_end: FrontEnd) -> Self {
        match front_end {
            // It takes a reset for the destination's.
            FrontEnd::Transparent => Self::Ignore,
            FrontEnd::Socks5 | FrontEnd::Http | FrontEnd::Convert => Self::Abort,
        }
    }
}

/// See the module.
pub struct Gateway {
    entries: Vec<(FrontEnd, Entry)>,
    connect_timeout: Duration,
    exits: Exits,
    authenticator: Authenticator,
    common: Arc<Common>,
    policies: Arc<InForce>,
    walk: Option<terms::Walk>,
    converter: Converter,
    /// Ports whose clients' connections to others end here.
    transparent: Vec<PortId>,
    sessions: Slab<Session>,
    /// One above the highest position a session ever had.
    high_water: u32,
    deadlines: Deadlines<CLASSES>,
    /// When sessions on their way try the next address.
    pace: Deadlines<2>,
    resolver: Resolver,
    families: Families,
    bind: Bind,
    /// Sessions that wait for a connection.
    waiting: u32,
    udp: Udp,
    /// Where a datagram is read into.
    datagram: Vec<u8>,
    /// With the position in `entries`.
    listeners: Vec<(SocketId, usize)>,
    /// Clients at once whose first data is taken before their handshake is over, per listener.
    fast_open: u32,
    draining: bool,
    counters: Counters,
    log_limit: LogLimit,
    path_log: PathLog,
}

impl Gateway {
    /// A gateway for `config` with one shard; secrets of its own are drawn from `rng`.
    #[must_use]
    pub fn new(config: &Config, rng: &mut Rng) -> Self {
        Self::beside(config, Arc::new(Common::new(config, rng)), rng)
    }

    /// A shard of a gateway whose shards have `common`; what `config` has is this one's share.
    #[must_use]
    pub fn beside(config: &Config, common: Arc<Common>, rng: &mut Rng) -> Self {
        let timeouts = &config.timeouts;
        let durations = [
            timeouts.handshake,
            timeouts.connect,
            LINGER,
            timeouts.idle,
            timeouts.half_closed,
            config.bind.timeout,
        ];
        let capacity = config.limits.connections;
        let exits = Exits::new(config);
        let mut entries: Vec<_> =
            config.entries().map(|(kind, entry)| (kind, entry.clone())).collect();
        let nobody = Entry { listen: Vec::new(), auth: Auth::None, profile: None };
        entries.push((FrontEnd::Transparent, nobody));
        let transparent = config.transparent.ports.iter();
        Self {
            entries,
            transparent: transparent
                .filter_map(|idx| u8::try_from(*idx).ok().map(PortId))
                .collect(),
            connect_timeout: timeouts.connect,
            bind: config.bind,
            waiting: 0,
            udp: config.udp,
            datagram: vec![0; MAX_DATAGRAM],
            resolver: Resolver::new(&config.dns, &exits, Arc::clone(&common), rng),
            families: Families::default(),
            exits,
            authenticator: Authenticator::new(Arc::clone(&common)),
            policies: Arc::clone(common.policies()),
            walk: None,
            common,
            converter: Converter::new(config),
            sessions: Slab::with_capacity(capacity),
            high_water: 0,
            deadlines: Deadlines::new(capacity, durations),
            pace: Deadlines::new(capacity, [RESOLUTION_DELAY, ATTEMPT_DELAY]),
            listeners: Vec::new(),
            fast_open: if config.tcp.fast_open { (config.limits.half_open / 8).max(1) } else { 0 },
            draining: false,
            counters: Counters::default(),
            log_limit: LogLimit::new(100, Duration::from_millis(20)),
            path_log: PathLog::new(config.ports.iter().map(|port| port.name.clone()).collect()),
        }
    }

    /// Opens the listeners.
    ///
    /// # Errors
    /// The address that could not be listened on; an unspecified one for those of others.
    pub fn listen(&mut self, shard: &mut impl Shard) -> Result<(), (SocketAddr, OpenError)> {
        if !self.transparent.is_empty() {
            let options = Listen {
                mptcp: true,
                deferred: true,
                or_at_once: true,
                user_data: LISTENER,
                ..Listen::default()
            };
            let everybody = SocketAddr::from(([0; 4], 0));
            let id = shard.listen_transparent(&self.transparent, &options);
            let id = id.map_err(|error| (everybody, error))?;
            let at = self.entries.iter().position(|(kind, _)| *kind == FrontEnd::Transparent);
            self.listeners.extend(at.map(|at| (id, at)));
        }
        let entries = self.entries.iter().enumerate();
        for (at, front_end, address) in entries.flat_map(|(at, (front_end, entry))| {
            entry.listen.iter().map(move |one| (at, *front_end, *one))
        }) {
            let deferred = front_end == FrontEnd::Convert;
            let options = Listen {
                mptcp: true,
                deferred,
                only_text: deferred,
                or_at_once: false,
                from: None,
                fast_open: self.fast_open,
                user_data: LISTENER,
            };
            let id = shard.listen(address, &options).map_err(|error| (address, error))?;
            self.listeners.push((id, at));
        }
        Ok(())
    }

    /// Handles every event there is.
    pub fn handle_events(&mut self, now: Instant, shard: &mut impl Shard) {
        while let Some(event) = shard.poll_event() {
            self.handle_event(now, shard, &event);
        }
    }

    /// Handles one event.
    pub fn handle_event(&mut self, now: Instant, shard: &mut impl Shard, event: &Event) {
        if event.user_data == LISTENER {
            let listener = self.listeners.iter().find(|(id, _)| *id == event.socket);
            if let Some(listener) = listener
                && event.ready.contains(Ready::ACCEPT)
            {
                self.accept_waiting(now, shard, *listener);
            }
            return;
        }
        if event.user_data == Resolver::USER_DATA {
            self.resolver.handle_event(now, shard, event);
            return self.handle_answers(now, shard);
        }
        let Some(idx) = self.sessions.index_of(SlabId(event.user_data)) else { return };
        let Some(session) = self.sessions.get_mut(idx) else { return };
        if matches!(session.phase, Phase::Associated(_)) {
            return self.handle_association(now, shard, idx, event);
        }
        if let Phase::Connecting(attempts) = &session.phase
            && attempts.turn_of(event.socket).is_some()
        {
            return self.handle_connecting(now, shard, idx, event.socket, event.ready);
        }
        if let Phase::Binding(binding) = &session.phase
            && event.socket == binding.listener
        {
            return self.handle_caller(now, shard, idx);
        }
        let side = if event.socket == session.inner {
            Side::Inner
        } else if Some(event.socket) == session.outer {
            Side::Outer
        } else {
            return;
        };
        session.ends.note(side, event.ready);
        match (&session.phase, side) {
            (Phase::Handshake(_), _) if session.ends.inner_closed() => {
                self.end(now, shard, idx, EndReason::ClientGone, Farewell::Abort);
            }
            (Phase::Handshake(_), _) => self.drive(now, shard, idx),
            (Phase::Connecting(_) | Phase::Binding(_), Side::Inner)
                if session.ends.inner_closed() =>
            {
                self.end(now, shard, idx, EndReason::ClientGone, Farewell::Abort);
            }
            (Phase::Connecting(attempts), _) => {
                if event.ready.contains(Ready::REPEATED) {
                    for (outer, _) in &attempts.racing {
                        shard.repeat_syn(now, *outer);
                    }
                }
            }
            (Phase::Binding(_) | Phase::Associated(_), _) => {}
            (Phase::Relaying, _) => self.handle_relaying(now, shard, idx, event.ready),
            (Phase::Lingering(_), _) => self.discard(now, shard, idx),
        }
    }

    /// Acts on at most `budget` deadlines that have passed.
    pub fn handle_timeouts(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        budget: usize,
    ) -> Progress {
        let due = |next: Option<Instant>| next.is_some_and(|next| next <= now);
        if !due(self.poll_timeout()) {
            return Progress::Done;
        }
        self.resolver.handle_timeouts(now, shard, budget);
        self.handle_answers(now, shard);
        for _ in 0..budget {
            if let Some(idx) = self.pace.pop_expired(now) {
                self.pursue(now, shard, idx);
            } else if let Some(idx) = self.deadlines.pop_expired(now) {
                self.expire(now, shard, idx);
            } else {
                break;
            }
        }
        if due(self.poll_timeout()) { Progress::More } else { Progress::Done }
    }

    /// When `handle_timeouts` next has work.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = [self.deadlines.next(), self.pace.next(), self.resolver.poll_timeout()];
        timers.into_iter().flatten().min()
    }

    /// Logs that a path went down or came back.
    pub fn log_path(&mut self, now: Instant, event: &PathEvent) {
        self.path_log.write(now, event);
    }

    /// Credentials for the verifier, which owes an answer ([`Gateway::handle_verified`]) to each.
    pub fn poll_verification(&mut self) -> Option<VerifyRequest> {
        let request = self.authenticator.next_request()?;
        self.counters.authentication_verified += 1;
        Some(request)
    }

    /// Stops listening; the sessions that are there go on, but for those that wait for a connection. Drained once [`Gateway::is_drained`].
    pub fn drain(&mut self, now: Instant, shard: &mut impl Shard) {
        if core::mem::replace(&mut self.draining, true) {
            return;
        }
        for listener in core::mem::take(&mut self.listeners) {
            // What the handshake has completed with was promised to its client.
            self.accept_waiting(now, shard, listener);
            shard.close(now, listener.0);
        }
        self.end_binds(now, shard);
    }

    /// Stops listening and resets at most `most` sessions; answers how many those were. To be called
    /// until it is drained, as there is room for the resets.
    pub fn abort(&mut self, now: Instant, shard: &mut impl Shard, most: u32) -> u32 {
        self.drain(now, shard);
        let mut aborted = 0;
        // Draining adds none: everything from the mark on is gone for good.
        while aborted < most
            && let Some(idx) = self.high_water.checked_sub(1)
        {
            self.high_water = idx;
            if self.sessions.get(idx).is_some() {
                self.end(now, shard, idx, EndReason::Drained, Farewell::Abort);
                aborted += 1;
            }
        }
        aborted
    }

    /// Whether nobody is being served any more, and nobody will be.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining && self.sessions.is_empty()
    }

    /// Sessions now.
    #[must_use]
    pub fn session_count(&self) -> u32 {
        self.sessions.len()
    }

    /// The resolver.
    #[must_use]
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn accept_waiting(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        (listener, entry): (SocketId, usize),
    ) {
        let Some((front_end, Entry { auth, .. })) = self.entries.get(entry) else { return };
        let (front_end, auth) = (*front_end, *auth);
        while let Some(inner) = shard.accept(listener) {
            let admitted =
                self.sessions.len() < self.sessions.capacity() && self.common.sessions().enter();
            let may_wait = matches!(front_end, FrontEnd::Convert | FrontEnd::Transparent);
            let deferred = may_wait && shard.deferred_origin(inner).is_some();
            let at = match front_end {
                FrontEnd::Transparent => shard.connected_to(inner),
                _ => None,
            };
            let session = || {
                let number = self.common.next_number();
                let at = at.unwrap_or(SocketAddr::from(([0; 4], 0)));
                let handshake = Handshake::new(front_end, auth, at);
                let session = Session::new(number, inner, now, front_end, handshake);
                Session { deferred, ..session }
            };
            let named = admitted
                .then(session)
                .and_then(|session| self.sessions.insert(session))
                .and_then(|idx| Some((idx, self.sessions.id(idx)?)));
            let Some((idx, id)) = named else {
                if admitted {
                    self.common.sessions().leave();
                }
                self.counters.sessions_over_limit += 1;
                self.turn_away(now, shard, inner, front_end);
                continue;
            };
            self.high_water = self.high_water.max(idx + 1);
            self.counters.sessions_accepted += 1;
            shard.set_user_data(inner, id.0);
            self.deadlines.arm(idx, Class::Handshake, now);
            self.drive(now, shard, idx);
        }
    }

    fn handle_relaying(&mut self, now: Instant, shard: &mut impl Shard, idx: u32, ready: Ready) {
        let Some(session) = self.sessions.get_mut(idx) else { return };
        let ends = session.ends;
        if ends.inner_closed() && ends.outer_closed() {
            let reason = relay_result(shard, session);
            return self.end(now, shard, idx, reason, Farewell::Abort);
        }
        if ready.intersects(Ready::PROGRESS | Ready::READ_CLOSED | Ready::CLOSED) {
            session.subflows = session.subflows.max(shard.subflow_count(session.inner));
            self.deadlines.arm(idx, relay_class(session), now);
        }
    }

    fn expire(&mut self, now: Instant, shard: &mut impl Shard, idx: u32) {
        let Some(session) = self.sessions.get(idx) else { return };
        match &session.phase {
            Phase::Handshake(_) => {
                self.end(now, shard, idx, EndReason::HandshakeTimedOut, Farewell::Close);
            }
            Phase::Connecting(_) => self.connect_timed_out(now, shard, idx),
            Phase::Binding(_) => self.bind_timed_out(now, shard, idx),
            Phase::Associated(_) => {
                self.end(now, shard, idx, EndReason::Idle, Farewell::Abort);
            }
            Phase::Relaying => {
                let reason = match relay_class(session) {
                    Class::HalfClosed => EndReason::HalfClosed,
                    _ => EndReason::Idle,
                };
                self.end(now, shard, idx, reason, Farewell::Abort);
            }
            Phase::Lingering(lingering) => {
                self.end(now, shard, idx, lingering.reason, Farewell::Abort);
            }
        }
    }

    /// Removes a session and gives up its sockets. The exit's is always aborted: while it is open
    /// and not finished, no orderly end of it is left to wait for.
    fn end(
        &mut self,
        now: Instant,
        shard: &mut impl Shard,
        idx: u32,
        reason: EndReason,
        farewell: Farewell,
    ) {
        self.deadlines.disarm(idx);
        self.pace.disarm(idx);
        let Some(mut session) = self.sessions.remove(idx) else { return };
        self.common.sessions().leave();
        let source = session.take_pending();
        self.settle(session.front_end, source);
        match &session.phase {
            Phase::Connecting(attempts) => {
                for (racing, _) in &attempts.racing {
                    shard.abort(now, *racing);
                }
            }
            Phase::Binding(binding) => self.unbind(now, shard, binding),
            Phase::Associated(association) => self.dissociate(now, shard, association),
            Phase::Handshake(_) | Phase::Relaying | Phase::Lingering(_) => {}
        }
        self.counters.count_end(reason);
        self.account(now, shard, &session, reason);
        match (session.ends.inner_closed(), farewell) {
            // A request has no id any more when it is closed.
            (true, _) if session.deferred => {}
            (false, Farewell::Ignore) if session.deferred => shard.ignore_deferred(session.inner),
            (false, _) if session.deferred => shard.refuse_deferred(now, session.inner),
            (true, _) => shard.release(session.inner),
            (false, Farewell::Close) => shard.close(now, session.inner),
            (false, Farewell::Abort | Farewell::Ignore) => shard.abort(now, session.inner),
        }
        match session.outer {
            Some(outer) if session.ends.outer_closed() => shard.release(outer),
            Some(outer) => shard.abort(now, outer),
            None => {}
        }
    }

    /// Adds the session's bytes up and writes its log line.
    fn account(&mut self, now: Instant, shard: &impl Shard, session: &Session, reason: EndReason) {
        let exit = session.outer.and_then(|outer| shard.octets(outer));
        let (mut up, mut down) = exit.unwrap_or_default();
        if let Phase::Associated(association) = &session.phase {
            (up, down) = (association.bytes_up, association.bytes_down);
        }
        self.counters.bytes_up += up;
        self.counters.bytes_down += down;
        if let Some(usage) = session.user.and_then(|user| self.policies.usage(user))
            && session.ends.begun()
        {
            usage.end(up, down);
        }
        if !log::log_enabled!(log::Level::Info) {
            return;
        }
        let Some(suppressed) = self.log_limit.allow(now) else { return };
        let mptcp = shard.info(session.inner).and_then(|client| client.mptcp);
        let protocol = mptcp.map_or_else(|| "tcp".to_owned(), |version| format!("mptcp {version}"));
        log::info!(
            "session {:x} ended: {}; {}, {protocol}, {} subflows, {up} bytes up, {down} down, \
             {:.1} s{}",
            session.number,
            reason.name(),
            session.front_end.name(),
            session.subflows,
            now.since(session.opened).as_secs_f64(),
            Suppressed(suppressed),
        );
    }
}

/// Mentions lines that were held back.
struct Suppressed(u64);

impl core::fmt::Display for Suppressed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} sessions not logged before this one)"),
        }
    }
}

fn relay_class(session: &Session) -> Class {
    if session.ends.none() { Class::Idle } else { Class::HalfClosed }
}

/// Why a relay ended whose both sides are closed: the side that failed on its own, not the one the
/// relay reset in turn.
fn relay_result(shard: &impl Shard, session: &Session) -> EndReason {
    let errors = [
        (Side::Inner, shard.error(session.inner)),
        (Side::Outer, session.outer.and_then(|outer| shard.error(outer))),
    ];
    let mut failed = errors.into_iter().filter_map(|(side, error)| Some((side, error?)));
    match failed.find(|(_, error)| *error != ConnectionError::Aborted) {
        Some((side, error)) => reason::of_failed_relay(side, error),
        None if errors.iter().any(|(_, error)| error.is_some()) => EndReason::Internal,
        None => EndReason::Completed,
    }
}
