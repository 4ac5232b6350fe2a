//! What is in force: who may use the gateway and where they may go, how the sessions of listeners and users spread
//! their data, and the rates that users and ports are held to.
//!
//! A change makes a new whole, which every shard is handed; what did not change in it is the same as before,
//! so a line of octets that wait for a rate is kept. Who or what is taken away keeps its place, which is nobody
//! else's: the sessions that go by it are still there. Invariant: nothing here is ever waited for: a whole
//! does not change, the caps in it and the counts of users are single words that all shards share.

use crate::auth::Users;
use crate::config::{Config, HostName, PathSettings, Plan, Profile};
use crate::egress::Policy;
use crate::front_end::FrontEnd;
use core::net::IpAddr;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering};
use ipnet::Ipv6Net;
use mptcp_core::buf::PortId;
use mptcp_core::cap::SharedCap;
use mptcp_core::config::{PathPolicy, SchedulerKind, Scheduling};
use mptcp_core::stack::RelayCaps;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A user's place among all there were since the start, counted from 1.
pub type UserId = NonZeroU32;

/// See the module.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Changes so far.
    version: u64,
    /// Without a profile.
    usual: Arc<Dated<Usual>>,
    /// In the order of [`FrontEnd::ALL`].
    listeners: [Dated<Option<usize>>; 4],
    /// All there were.
    users: Vec<Arc<Dated<UserTerms>>>,
    ports: Vec<Dated<Rate>>,
    /// All there were.
    profiles: Vec<Arc<Dated<Profile>>>,
    listed: Arc<Listed>,
    credentials: Arc<Users>,
    reach: Arc<Reach>,
}

/// Places of those that there are, in the order of the configuration.
#[derive(Debug, Default)]
struct Listed {
    users: Vec<usize>,
    profiles: Vec<usize>,
}

/// Where clients may go, and by which names.
#[derive(Debug)]
pub struct Reach {
    /// The verdict on addresses.
    pub policy: Policy,
    /// The translator's prefix.
    pub nat64: Option<Ipv6Net>,
    /// Names without DNS.
    pub hosts: BTreeMap<HostName, Vec<IpAddr>>,
}

impl Reach {
    fn new(config: &Config) -> Self {
        let (nat64, hosts) = (config.egress.nat64, config.hosts.clone());
        Self { policy: Policy::new(config), nat64, hosts }
    }
}

/// What connections do without a profile.
#[derive(Clone, Debug, PartialEq)]
struct Usual {
    kind: SchedulerKind,
    /// Of one connection, octets per second.
    rate: Option<u64>,
    /// Of every port.
    paths: Vec<PathPolicy>,
}

/// Something and the change that made it so.
#[derive(Clone, Debug)]
struct Dated<T> {
    value: T,
    version: u64,
}

impl<T: PartialEq> Dated<T> {
    /// The same as long as it says the same.
    fn change(&mut self, value: T, version: u64) {
        if value != self.value {
            *self = Self { value, version };
        }
    }
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
    name: String,
    usage: Arc<UserUsage>,
    plan: Plan,
    down: Rate,
    up: Rate,
    by_port: Vec<(PortId, Rate)>,
}

impl UserTerms {
    /// Of a new user.
    fn of(name: &str, plan: Plan) -> Self {
        let nobody = Self { name: name.to_owned(), ..Self::default() };
        nobody.with(plan)
    }

    fn with(&self, plan: Plan) -> Self {
        let by_port = plan.access_rates.iter().map(|(at, bits)| {
            let port = port_id(*at);
            let before = self.by_port.iter().find(|(other, _)| *other == port);
            let rate = before.map_or_else(Rate::default, |(_, rate)| rate.clone());
            (port, rate.changed_to(Some(*bits)))
        });
        Self {
            name: self.name.clone(),
            usage: Arc::clone(&self.usage),
            down: self.down.changed_to(plan.rate),
            up: self.up.changed_to(plan.upload_rate),
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
        let nobody = Self {
            version: 0,
            usual: Arc::new(Dated { value: Usual::new(config), version: 0 }),
            listeners: FrontEnd::ALL.map(|_| Dated { value: None, version: 0 }),
            users: Vec::new(),
            ports: config
                .ports
                .iter()
                .map(|_| Dated { value: Rate::default(), version: 0 })
                .collect(),
            profiles: Vec::new(),
            listed: Arc::default(),
            credentials: Arc::default(),
            reach: Arc::new(Reach::new(config)),
        };
        nobody.filled(config)
    }

    /// With all that `config` says, whose ports are those that run.
    #[must_use]
    pub fn with_config(&self, config: &Config) -> Self {
        self.next().filled(config)
    }

    fn filled(mut self, config: &Config) -> Self {
        let profiles = self.take_profiles(&config.profiles);
        let place = |profile: Option<usize>| profiles.get(profile?).copied();
        let version = self.version;
        for (front_end, listener) in FrontEnd::ALL.into_iter().zip(&mut self.listeners) {
            listener.change(place(config.profile_of(front_end)), version);
        }
        for (port, configured) in self.ports.iter_mut().zip(&config.ports) {
            let bits = configured.path.total_rate;
            if bits != port.value.bits {
                *port = Dated { value: port.value.changed_to(bits), version };
            }
        }
        let usual = Usual::new(config);
        if usual != self.usual.value {
            self.usual = Arc::new(Dated { value: usual, version });
        }
        let plans = config.users.iter().map(|user| {
            let plan = Plan { profile: place(user.plan.profile), ..user.plan.clone() };
            (user.name.as_str(), plan)
        });
        let users = self.take_users(plans);
        let ids = users.iter().filter_map(|at| user_id(*at)).zip(&config.users);
        self.credentials = Arc::new(self.credentials.changed_to(ids, version));
        self.listed = Arc::new(Listed { users, profiles });
        self.reach = Arc::new(Reach::new(config));
        self
    }

    /// Answers where they are.
    fn take_profiles(&mut self, configured: &[Profile]) -> Vec<usize> {
        let version = self.version;
        let mut places = Vec::with_capacity(configured.len());
        for profile in configured {
            let named = self.profiles.iter().position(|one| one.value.name == profile.name);
            let at = named.unwrap_or(self.profiles.len());
            let new = || Arc::new(Dated { value: profile.clone(), version });
            match self.profiles.get_mut(at) {
                Some(there) if there.value == *profile => {}
                Some(there) => *there = new(),
                None => self.profiles.push(new()),
            }
            places.push(at);
        }
        places
    }

    /// Answers where they are.
    fn take_users<'a>(&mut self, configured: impl Iterator<Item = (&'a str, Plan)>) -> Vec<usize> {
        let version = self.version;
        let named = self.users.iter().enumerate();
        let named: HashMap<String, usize> =
            named.map(|(at, user)| (user.value.name.clone(), at)).collect();
        let mut places = Vec::new();
        for (name, plan) in configured {
            let at = named.get(name).copied().unwrap_or(self.users.len());
            match self.users.get_mut(at) {
                Some(there) if there.value.plan == plan => {}
                Some(there) => {
                    *there = Arc::new(Dated { value: there.value.with(plan), version });
                }
                None => {
                    let value = UserTerms::of(name, plan);
                    self.users.push(Arc::new(Dated { value, version }));
                }
            }
            places.push(at);
        }
        places
    }

    /// `config`, which was in force before changes came over the admin endpoint, as it is now.
    #[must_use]
    pub fn as_config(&self, config: &Config) -> Config {
        let mut config = config.clone();
        let place =
            |at: Option<usize>| self.listed.profiles.iter().position(|one| Some(*one) == at);
        for (profile, at) in config.profiles.iter_mut().zip(&self.listed.profiles) {
            if let Some(now) = self.profile_at(*at) {
                profile.clone_from(now);
            }
        }
        for (user, at) in config.users.iter_mut().zip(&self.listed.users) {
            if let Some(now) = self.plan(*at) {
                user.plan = Plan { profile: place(now.profile), ..now.clone() };
            }
        }
        for (port, now) in config.ports.iter_mut().zip(&self.ports) {
            port.path.total_rate = now.value.bits;
        }
        config.socks5.profile = place(self.listener_profile(FrontEnd::Socks5));
        config.http.profile = place(self.listener_profile(FrontEnd::Http));
        config.convert.entry.profile = place(self.listener_profile(FrontEnd::Convert));
        config.transparent.profile = place(self.listener_profile(FrontEnd::Transparent));
        config
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
            *user = Arc::new(Dated { value: user.value.with(plan), version });
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
        let versions = versions.chain(of_user);
        let versions = versions.chain([self.listener(front_end).version, self.usual.version]);
        let versions = versions.chain(self.gone_by(front_end, user).map(|profile| profile.version));
        versions.max().is_some_and(|changed| changed > version)
    }

    /// Whether sessions of this kind go by anything that a stack does not do by itself.
    #[must_use]
    pub fn concerns(&self, front_end: FrontEnd, user: Option<UserId>) -> bool {
        self.profile(front_end, user).is_some()
            || self.user(user).is_some_and(|user| user.value.has_caps())
            || self.ports.iter().any(|port| port.value.cap.is_some())
            // Stacks go by what it was at the start.
            || self.usual.version > 0
    }

    /// What sessions of this kind go by.
    #[must_use]
    pub fn terms(&self, front_end: FrontEnd, user: Option<UserId>) -> Terms {
        let mut scheduling = match self.profile(front_end, user) {
            Some(profile) => self.usual.value.by(profile),
            None => self.usual.value.scheduling(),
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

    /// The caps on what goes to a user's client by a port, the user's own first.
    pub fn port_caps(
        &self,
        user: Option<UserId>,
        port: PortId,
    ) -> impl Iterator<Item = &SharedCap> {
        let of_port = self.ports.get(usize::from(port.0)).map(|port| &port.value);
        let of_user = self.user(user).into_iter().flat_map(|user| &user.value.by_port);
        let of_user = of_user.filter(move |(other, _)| *other == port).map(|(_, rate)| rate);
        of_user.chain(of_port).filter_map(|rate| rate.cap.as_ref())
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

    /// What a user's sessions did.
    #[must_use]
    pub fn usage(&self, user: UserId) -> Option<&UserUsage> {
        Some(&self.user(Some(user))?.value.usage)
    }

    /// The name of a user that there is or was.
    #[must_use]
    pub fn user_name(&self, user: UserId) -> Option<&str> {
        Some(&self.user(Some(user))?.value.name)
    }

    /// Whom passwords are checked against.
    #[must_use]
    pub fn credentials(&self) -> &Arc<Users> {
        &self.credentials
    }

    /// Where clients may go.
    #[must_use]
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Users that there are, with their positions.
    pub fn users(&self) -> impl Iterator<Item = (usize, &str)> {
        let named = |at: &usize| Some((*at, self.users.get(*at)?.value.name.as_str()));
        self.listed.users.iter().filter_map(named)
    }

    /// Profiles that there are, with their positions.
    pub fn profiles(&self) -> impl Iterator<Item = (usize, &str)> {
        let named = |at: &usize| Some((*at, self.profile_at(*at)?.name.as_str()));
        self.listed.profiles.iter().filter_map(named)
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

impl Usual {
    fn new(config: &Config) -> Self {
        let ports = config.ports.iter().enumerate();
        Self {
            kind: config.mptcp.scheduler,
            rate: config.mptcp.rate.map(|bits| bits / 8),
            paths: ports.map(|(at, port)| path_policy(at, &port.path)).collect(),
        }
    }

    fn scheduling(&self) -> Scheduling {
        let paths = asked(self.paths.iter().copied());
        Scheduling { kind: self.kind, rate: self.rate, paths, caps: Vec::new() }
    }

    fn by(&self, profile: &Profile) -> Scheduling {
        let paths = self.paths.iter().map(|usual| {
            let port = usize::from(usual.port.0);
            let place = profile.access.iter().position(|one| *one == port);
            let last = profile.access.len();
            let weight = place.and_then(|place| profile.weights.get(place));
            PathPolicy {
                priority: u8::try_from(place.unwrap_or(last)).unwrap_or(u8::MAX),
                weight: weight.copied().unwrap_or(1),
                ..*usual
            }
        });
        let kind = profile.mode.scheduler();
        Scheduling { kind, rate: self.rate, paths: asked(paths), caps: Vec::new() }
    }
}

/// What connections do without a profile.
#[must_use]
pub fn usual_scheduling(config: &Config) -> Scheduling {
    Usual::new(config).scheduling()
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

fn user_id(at: usize) -> Option<UserId> {
    u32::try_from(at + 1).ok().and_then(UserId::new)
}
