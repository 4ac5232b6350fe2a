//! What is in force: how the sessions of listeners and users spread their data, and the rates that users and
//! ports are held to.
//!
//! A change makes a new whole, which every shard is handed; what did not change in it is the same as before,
//! so a line of octets that wait for a rate is kept. Invariant: nothing here is ever waited for: a whole
//! does not change, the caps in it and the counts of users are single words that all shards share.

use crate::config::{Config, PathSettings, Plan, Profile, User};
use crate::front_end::FrontEnd;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};
use mptcp_core::buf::PortId;
use mptcp_core::cap::SharedCap;
use mptcp_core::config::{PathPolicy, Scheduling};
use mptcp_core::stack::RelayCaps;
use std::collections::HashMap;
use std::sync::Arc;

/// A user's place in the configuration, counted from 1.
pub type UserId = NonZeroU32;

/// See the module.
#[derive(Clone, Debug)]
pub struct InForce {
    fixed: Arc<Fixed>,
    /// Changes so far.
    version: u64,
    /// In the order of [`FrontEnd::ALL`].
    listeners: [Dated<Option<usize>>; 4],
    users: Vec<Arc<Dated<UserTerms>>>,
    ports: Vec<Dated<Rate>>,
    profiles: Vec<Arc<Dated<Profile>>>,
}

/// What does not change while the gateway runs.
#[derive(Debug)]
struct Fixed {
    ports: Vec<PathSettings>,
    /// Without a profile.
    usual: Scheduling,
    user_ids: HashMap<Vec<u8>, UserId>,
    usage: Vec<UserUsage>,
}

/// Something and the change that made it so.
#[derive(Clone, Debug)]
struct Dated<T> {
    value: T,
    version: u64,
}

/// A rate, bits per second, and who holds it.
#[derive(Clone, Debug, Default)]
struct Rate {
    bits: Option<u64>,
    cap: Option<SharedCap>,
}

impl Rate {
    fn new(bits: Option<u64>) -> Self {
        Self { bits, cap: bits.map(|bits| SharedCap::new(bits / 8)) }
    }

    /// The same line while the rate is the same.
    fn changed_to(&self, bits: Option<u64>) -> Self {
        if bits == self.bits { self.clone() } else { Self::new(bits) }
    }
}

#[derive(Debug, Default)]
struct UserTerms {
    plan: Plan,
    down: Rate,
    up: Rate,
    by_port: Vec<(PortId, Rate)>,
}

impl UserTerms {
    fn new(plan: Plan, former: &Self) -> Self {
        let by_port = plan.access_rates.iter().map(|(at, bits)| {
            let port = port_id(*at);
            let before = former.by_port.iter().find(|(other, _)| *other == port);
            let rate = before.map_or_else(Rate::default, |(_, rate)| rate.clone());
            (port, rate.changed_to(Some(*bits)))
        });
        Self {
            down: former.down.changed_to(plan.rate),
            up: former.up.changed_to(plan.upload_rate),
            by_port: by_port.collect(),
            plan,
        }
    }

    fn has_caps(&self) -> bool {
        self.down.cap.is_some() || self.up.cap.is_some() || !self.by_port.is_empty()
    }
}

/// What a user's sessions did; each grows only but for `sessions`.
#[derive(Debug, Default)]
pub struct UserUsage {
    sessions: AtomicU64,
    ended: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl UserUsage {
    /// A session reached its destination.
    pub(crate) fn begin(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// One that did has ended.
    pub(crate) fn end(&self, up: u64, down: u64) {
        self.bytes_up.fetch_add(up, Ordering::Relaxed);
        self.bytes_down.fetch_add(down, Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sessions now, sessions that ended, and the bytes of these, up and down.
    #[must_use]
    pub fn read(&self) -> [u64; 4] {
        [&self.sessions, &self.ended, &self.bytes_up, &self.bytes_down]
            .map(|count| count.load(Ordering::Relaxed))
    }
}

/// What one session goes by.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// How its client's connection spreads data, with the caps of ports.
    pub scheduling: Scheduling,
    /// What all of its user's sessions together may move.
    pub relay: RelayCaps,
}

impl InForce {
    /// As configured.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let ids = (1..).filter_map(UserId::new).zip(&config.users);
        let fixed = Fixed {
            ports: config.ports.iter().map(|port| port.path).collect(),
            usual: usual_scheduling(config),
            user_ids: ids.map(|(id, user)| (user.name.clone().into_bytes(), id)).collect(),
            usage: config.users.iter().map(|_| UserUsage::default()).collect(),
        };
        let listeners = FrontEnd::ALL
            .map(|front_end| Dated { value: config.profile_of(front_end), version: 0 });
        let profile = |profile: &Profile| Arc::new(Dated { value: profile.clone(), version: 0 });
        let user = |user: &User| {
            let value = UserTerms::new(user.plan.clone(), &UserTerms::default());
            Arc::new(Dated { value, version: 0 })
        };
        let port = |path: &PathSettings| Dated { value: Rate::new(path.total_rate), version: 0 };
        Self {
            version: 0,
            listeners,
            profiles: config.profiles.iter().map(profile).collect(),
            users: config.users.iter().map(user).collect(),
            ports: fixed.ports.iter().map(port).collect(),
            fixed: Arc::new(fixed),
        }
    }

    /// With another profile of a listener.
    #[must_use]
    pub fn with_listener(&self, front_end: FrontEnd, profile: Option<usize>) -> Self {
        let mut next = self.next();
        let version = next.version;
        for (other, listener) in FrontEnd::ALL.into_iter().zip(&mut next.listeners) {
            if other == front_end {
                *listener = Dated { value: profile, version };
            }
        }
        next
    }

    /// With another plan of the user at this position.
    #[must_use]
    pub fn with_user(&self, at: usize, plan: Plan) -> Self {
        let mut next = self.next();
        let version = next.version;
        if let Some(user) = next.users.get_mut(at) {
            let value = UserTerms::new(plan, &user.value);
            *user = Arc::new(Dated { value, version });
        }
        next
    }

    /// With the profile at this position changed.
    #[must_use]
    pub fn with_profile(&self, at: usize, value: Profile) -> Self {
        let mut next = self.next();
        let version = next.version;
        if let Some(profile) = next.profiles.get_mut(at) {
            *profile = Arc::new(Dated { value, version });
        }
        next
    }

    /// With another rate of the port at this position, all clients together.
    #[must_use]
    pub fn with_port(&self, at: usize, bits: Option<u64>) -> Self {
        let mut next = self.next();
        let version = next.version;
        if let Some(port) = next.ports.get_mut(at) {
            *port = Dated { value: port.value.changed_to(bits), version };
        }
        next
    }

    fn next(&self) -> Self {
        Self { version: self.version + 1, ..self.clone() }
    }

    /// Changes so far.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether what sessions of this kind go by has changed since this version.
    #[must_use]
    pub fn changed_since(&self, version: u64, front_end: FrontEnd, user: Option<UserId>) -> bool {
        let of_user = self.user(user).map(|user| user.version);
        let versions = self.ports.iter().map(|port| port.version);
        let versions = versions.chain(of_user).chain([self.listener(front_end).version]);
        let versions = versions.chain(self.gone_by(front_end, user).map(|profile| profile.version));
        versions.max().is_some_and(|changed| changed > version)
    }

    /// Whether sessions of this kind go by anything that a stack does not do by itself.
    #[must_use]
    pub fn concerns(&self, front_end: FrontEnd, user: Option<UserId>) -> bool {
        self.profile(front_end, user).is_some()
            || self.user(user).is_some_and(|user| user.value.has_caps())
            || self.ports.iter().any(|port| port.value.cap.is_some())
    }

    /// What sessions of this kind go by.
    #[must_use]
    pub fn terms(&self, front_end: FrontEnd, user: Option<UserId>) -> Terms {
        let mut scheduling = match self.profile(front_end, user) {
            Some(profile) => self.fixed.scheduling(profile),
            None => self.fixed.usual.clone(),
        };
        let ports = (0..self.ports.len()).map(port_id);
        scheduling.caps = ports
            .flat_map(|port| self.port_caps(user, port).map(move |cap| (port, cap.clone())))
            .collect();
        let list = |cap: Option<&SharedCap>| cap.cloned().into_iter().collect();
        let relay =
            RelayCaps { to_inner: list(self.down_cap(user)), to_outer: list(self.up_cap(user)) };
        Terms { scheduling, relay }
    }

    /// The caps on what goes to a user's client by a port.
    pub fn port_caps(
        &self,
        user: Option<UserId>,
        port: PortId,
    ) -> impl Iterator<Item = &SharedCap> {
        let of_port = self.ports.get(usize::from(port.0)).map(|port| &port.value);
        let of_user = self.user(user).into_iter().flat_map(|user| &user.value.by_port);
        let of_user = of_user.filter(move |(other, _)| *other == port).map(|(_, rate)| rate);
        of_port.into_iter().chain(of_user).filter_map(|rate| rate.cap.as_ref())
    }

    /// The cap on what goes to a user.
    #[must_use]
    pub fn down_cap(&self, user: Option<UserId>) -> Option<&SharedCap> {
        self.user(user)?.value.down.cap.as_ref()
    }

    /// The cap on what comes from a user.
    #[must_use]
    pub fn up_cap(&self, user: Option<UserId>) -> Option<&SharedCap> {
        self.user(user)?.value.up.cap.as_ref()
    }

    /// The user of this name.
    #[must_use]
    pub fn user_id(&self, name: &[u8]) -> Option<UserId> {
        self.fixed.user_ids.get(name).copied()
    }

    /// What a user's sessions did.
    #[must_use]
    pub fn usage(&self, user: UserId) -> Option<&UserUsage> {
        self.fixed.usage.get(position(user))
    }

    /// Position of a listener's profile.
    #[must_use]
    pub fn listener_profile(&self, front_end: FrontEnd) -> Option<usize> {
        self.listener(front_end).value
    }

    /// What was agreed on with the user at this position.
    #[must_use]
    pub fn plan(&self, at: usize) -> Option<&Plan> {
        Some(&self.users.get(at)?.value.plan)
    }

    /// The rate of the port at this position, bits per second.
    #[must_use]
    pub fn port_rate(&self, at: usize) -> Option<u64> {
        self.ports.get(at)?.value.bits
    }

    /// The profile that sessions of this kind go by.
    #[must_use]
    pub fn profile(&self, front_end: FrontEnd, user: Option<UserId>) -> Option<&Profile> {
        Some(&self.gone_by(front_end, user)?.value)
    }

    /// The profile at this position.
    #[must_use]
    pub fn profile_at(&self, at: usize) -> Option<&Profile> {
        Some(&self.profiles.get(at)?.value)
    }

    fn gone_by(&self, front_end: FrontEnd, user: Option<UserId>) -> Option<&Dated<Profile>> {
        let own = self.user(user).and_then(|user| user.value.plan.profile);
        self.profiles.get(own.or(self.listener(front_end).value)?).map(Arc::as_ref)
    }

    fn listener(&self, front_end: FrontEnd) -> &Dated<Option<usize>> {
        let [socks5, http, convert, transparent] = &self.listeners;
        match front_end {
            FrontEnd::Socks5 => socks5,
            FrontEnd::Http => http,
            FrontEnd::Convert => convert,
            FrontEnd::Transparent => transparent,
        }
    }

    fn user(&self, user: Option<UserId>) -> Option<&Dated<UserTerms>> {
        self.users.get(position(user?)).map(Arc::as_ref)
    }
}

impl Fixed {
    fn scheduling(&self, profile: &Profile) -> Scheduling {
        let paths = self.ports.iter().enumerate().map(|(at, settings)| {
            let place = profile.access.iter().position(|port| *port == at);
            let last = profile.access.len();
            let weight = place.and_then(|place| profile.weights.get(place));
            PathPolicy {
                priority: u8::try_from(place.unwrap_or(last)).unwrap_or(u8::MAX),
                weight: weight.copied().unwrap_or(1),
                ..path_policy(at, settings)
            }
        });
        Scheduling {
            kind: profile.mode.scheduler(),
            rate: self.usual.rate,
            paths: asked(paths),
            caps: Vec::new(),
        }
    }
}

/// What connections do without a profile.
#[must_use]
pub fn usual_scheduling(config: &Config) -> Scheduling {
    let paths = config.ports.iter().enumerate().map(|(at, port)| path_policy(at, &port.path));
    Scheduling {
        kind: config.mptcp.scheduler,
        rate: config.mptcp.rate.map(|bits| bits / 8),
        paths: asked(paths),
        caps: Vec::new(),
    }
}

fn path_policy(at: usize, settings: &PathSettings) -> PathPolicy {
    PathPolicy {
        port: port_id(at),
        priority: settings.priority,
        weight: settings.weight,
        rate: settings.rate.map(|bits| bits / 8),
    }
}

/// Those that say anything: every connection keeps a copy.
fn asked(paths: impl Iterator<Item = PathPolicy>) -> Vec<PathPolicy> {
    paths.filter(|policy| *policy != PathPolicy::new(policy.port)).collect()
}

/// No driver has more than 255 ports.
fn port_id(at: usize) -> PortId {
    PortId(u8::try_from(at).unwrap_or(u8::MAX))
}

fn position(user: UserId) -> usize {
    usize::try_from(user.get() - 1).unwrap_or(usize::MAX)
}
