//! Profiles and rates over the endpoint: what is in force, and changes to it (`PATCH`, RFC 5789, with a
//! JSON object as in RFC 7396: what is not named stays, `null` takes away).
//!
//! Invariant: one change at a time, and the answer to it comes when every session of every shard goes by it.

use super::{Shared, in_time, unavailable};
use crate::config::{self, Config, Difference, Mode, Plan};
use crate::control::{ShardHandle, Unreachable};
use crate::front_end::FrontEnd;
use crate::policies::{InForce, UserId};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::get};
use core::net::SocketAddr;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;

/// What is in force, and the names that do not change.
pub struct Terms {
    listeners: Vec<(FrontEnd, Vec<SocketAddr>)>,
    ports: Vec<String>,
    /// Locked for as long as a change takes.
    state: Mutex<Standing>,
    /// The same, for who does not wait for changes.
    latest: std::sync::Mutex<Arc<InForce>>,
}

struct Standing {
    in_force: Arc<InForce>,
    /// What it was made of, but for what the endpoint has changed since.
    config: Config,
}

/// What came of a configuration that was read while the gateway runs.
#[derive(Debug)]
pub struct TakenUp {
    /// What is in force now and was not before.
    pub changed: Vec<Difference>,
    /// What a restart would take up.
    pub fixed: Vec<Difference>,
    /// Of the log.
    pub level: log::LevelFilter,
    /// Why not every shard is known to go by it.
    pub unconfirmed: Option<String>,
}

impl Terms {
    /// Of a gateway that starts with these.
    #[must_use]
    pub fn new(config: &Config, in_force: Arc<InForce>) -> Self {
        let served = config.entries().filter(|(_, entry)| !entry.listen.is_empty());
        let served = served.map(|(kind, entry)| (kind, entry.listen.clone()));
        let transparent = !config.transparent.ports.is_empty();
        let transparent = transparent.then(|| (FrontEnd::Transparent, Vec::new()));
        Self {
            listeners: served.chain(transparent).collect(),
            ports: config.ports.iter().map(|port| port.name.clone()).collect(),
            latest: std::sync::Mutex::new(Arc::clone(&in_force)),
            state: Mutex::new(Standing { in_force, config: config.clone() }),
        }
    }

    /// Puts in force what of `found` needs no restart, as a change over the endpoint would.
    ///
    /// # Errors
    /// What of it cannot be, and nothing is changed.
    pub async fn take_up(
        &self,
        found: &Config,
        shards: &[ShardHandle],
    ) -> Result<TakenUp, Vec<String>> {
        let mut state = self.state.lock().await;
        let before = state.in_force.as_config(&state.config);
        let taken = before.taking(found)?;
        let changed = before.differences(&taken);
        let fixed = taken.differences(found);
        let level = taken.log.level;
        // Even where nothing differs: shards that did not hear of the last change hear of this one.
        let next = Arc::new(state.in_force.with_config(&taken));
        state.config = taken;
        let unconfirmed = self.put(&mut state, next, shards).await.err();
        Ok(TakenUp { changed, fixed, level, unconfirmed })
    }

    /// From here on it is in force, whatever becomes of who asked for it: new sessions go by it, and a shard that
    /// does not hear of it now does with the next change.
    async fn put(
        &self,
        state: &mut Standing,
        next: Arc<InForce>,
        shards: &[ShardHandle],
    ) -> Result<(), String> {
        // Until all have the next one: no shard is to be the last that has it, and take it apart.
        let _former = core::mem::replace(&mut state.in_force, Arc::clone(&next));
        if let Ok(mut latest) = self.latest.lock() {
            *latest = Arc::clone(&next);
        }
        in_time(async {
            let mut told = Vec::with_capacity(shards.len());
            let mut others = Vec::new();
            for shard in shards {
                match shard.offer_policies(Arc::clone(&next)) {
                    Some(done) => told.push(done),
                    None => others.push(shard),
                }
            }
            // Who has no room, or has ended, keeps it from nobody else.
            let mut all = Ok(());
            for shard in others {
                match shard.set_policies(Arc::clone(&next)).await {
                    Ok(done) => told.push(done),
                    Err(error) => all = Err(error),
                }
            }
            all?;
            for done in told {
                done.await.map_err(|_| Unreachable)?;
            }
            Ok(())
        })
        .await
    }

    /// As a change over the endpoint.
    #[cfg(test)]
    pub(crate) async fn put_for_test(&self, next: InForce) {
        let mut state = self.state.lock().await;
        self.put(&mut state, Arc::new(next), &[]).await.unwrap();
    }

    /// The name of a user that there is or was.
    pub(super) fn user_name(&self, user: UserId) -> Option<String> {
        self.latest.lock().ok()?.user_name(user).map(str::to_owned)
    }

    fn port_name(&self, at: usize) -> &str {
        self.ports.get(at).map_or("", String::as_str)
    }
}

/// What requests are answered from.
#[derive(Clone, Copy)]
struct Now<'a> {
    terms: &'a Terms,
    in_force: &'a InForce,
}

impl<'a> Now<'a> {
    fn profile_name(self, at: Option<usize>) -> Option<&'a str> {
        Some(&self.in_force.profile_at(at?)?.name)
    }
}

/// `GET /profiles`.
#[derive(Debug, Serialize)]
struct Profile<'a> {
    name: &'a str,
    mode: &'static str,
    scheduler: &'static str,
    access: Vec<&'a str>,
    weights: Vec<u16>,
}

/// `GET /listeners`.
#[derive(Debug, Serialize)]
struct Listener<'a> {
    front_end: &'static str,
    listen: &'a [SocketAddr],
    profile: Option<&'a str>,
}

/// `GET /users`.
#[derive(Debug, Serialize)]
struct User<'a> {
    name: &'a str,
    profile: Option<&'a str>,
    rate: String,
    upload_rate: String,
    access_rates: BTreeMap<&'a str, String>,
    sessions: u64,
    sessions_ended: u64,
    relayed_up_bytes: u64,
    relayed_down_bytes: u64,
}

/// `GET /ports`.
#[derive(Debug, Serialize)]
struct Port<'a> {
    name: &'a str,
    total_rate: String,
}

/// The resources there are, and how they are changed.
trait Resource {
    type View<'a>: Serialize;

    /// Their positions and names, in order.
    fn names(now: Now<'_>) -> Vec<(usize, &str)>;

    /// The one at this position.
    fn view(now: Now<'_>, at: usize) -> Self::View<'_>;

    /// What of it can be changed.
    type Draft;

    /// The keys of a change.
    const KEYS: &'static [&'static str];

    /// What can be changed, as it is.
    fn draft(now: Now<'_>, at: usize) -> Self::Draft;

    /// Changes what one of the keys names; else says what is wrong with it.
    fn set(now: Now<'_>, draft: &mut Self::Draft, key: &str, value: &Value) -> Result<(), String>;

    /// With all of it changed; else what does not go together.
    fn with(now: Now<'_>, at: usize, draft: Self::Draft) -> Result<InForce, String>;
}

/// What would be in force with this change; else what is wrong with it.
fn changed<R: Resource>(
    now: Now<'_>,
    at: usize,
    change: &Map<String, Value>,
) -> Result<InForce, String> {
    let mut draft = R::draft(now, at);
    for (key, value) in change {
        if !R::KEYS.contains(&key.as_str()) {
            return Err(config::unknown_key(key, R::KEYS));
        }
        R::set(now, &mut draft, key, value)?;
    }
    R::with(now, at, draft)
}

struct Profiles;
struct Listeners;
struct Users;
struct Ports;

impl Resource for Profiles {
    type View<'a> = Profile<'a>;

    fn names(now: Now<'_>) -> Vec<(usize, &str)> {
        now.in_force.profiles().collect()
    }

    fn view(now: Now<'_>, at: usize) -> Profile<'_> {
        let profile = Self::draft(now, at);
        Profile {
            name: now.profile_name(Some(at)).unwrap_or_default(),
            mode: profile.mode.name(),
            scheduler: profile.mode.scheduler().name(),
            access: profile.access.iter().map(|at| now.terms.port_name(*at)).collect(),
            weights: profile.weights,
        }
    }

    type Draft = config::Profile;

    const KEYS: &'static [&'static str] = &["access", "mode", "weights"];

    fn draft(now: Now<'_>, at: usize) -> config::Profile {
        now.in_force.profile_at(at).cloned().unwrap_or_else(config::Profile::nameless)
    }

    fn set(
        Now { terms, .. }: Now<'_>,
        profile: &mut config::Profile,
        key: &str,
        value: &Value,
    ) -> Result<(), String> {
        match key {
            "mode" => {
                let names = Mode::ALL.map(Mode::name);
                profile.mode =
                    Mode::ALL.into_iter().find(|mode| value == mode.name()).ok_or_else(|| {
                        format!("mode = {value}: expected one of {}", names.join(", "))
                    })?;
            }
            "access" => {
                let expected = format!("expected a list of ports ({})", terms.ports.join(", "));
                profile.access = read_list(key, value, &expected, |one| {
                    terms.ports.iter().position(|port| one == port)
                })?;
            }
            _ => {
                let expected = "expected a list of whole numbers from 1 to 65535";
                profile.weights = read_list(key, value, expected, |one| {
                    one.as_u64().and_then(|one| u16::try_from(one).ok()).filter(|one| *one > 0)
                })?;
            }
        }
        Ok(())
    }

    fn with(now: Now<'_>, at: usize, profile: config::Profile) -> Result<InForce, String> {
        match profile.misfits().first() {
            Some(misfit) => Err(misfit.in_a_change()),
            None => Ok(now.in_force.with_profile(at, profile)),
        }
    }
}

impl Resource for Listeners {
    type View<'a> = Listener<'a>;

    fn names(now: Now<'_>) -> Vec<(usize, &str)> {
        now.terms.listeners.iter().map(|(front_end, _)| front_end.name()).enumerate().collect()
    }

    fn view(now: Now<'_>, at: usize) -> Listener<'_> {
        let listener = now.terms.listeners.get(at);
        let (front_end, listen) =
            listener.map_or((FrontEnd::Socks5, &[][..]), |(kind, listen)| (*kind, listen));
        let profile = now.profile_name(now.in_force.listener_profile(front_end));
        Listener { front_end: front_end.name(), listen, profile }
    }

    type Draft = Option<usize>;

    const KEYS: &'static [&'static str] = &["profile"];

    fn draft(Now { terms, in_force }: Now<'_>, at: usize) -> Option<usize> {
        terms.listeners.get(at).and_then(|(front_end, _)| in_force.listener_profile(*front_end))
    }

    fn set(
        now: Now<'_>,
        draft: &mut Option<usize>,
        _key: &str,
        value: &Value,
    ) -> Result<(), String> {
        *draft = read_profile(now, value)?;
        Ok(())
    }

    fn with(
        Now { terms, in_force }: Now<'_>,
        at: usize,
        draft: Option<usize>,
    ) -> Result<InForce, String> {
        Ok(match terms.listeners.get(at) {
            Some((front_end, _)) => in_force.with_listener(*front_end, draft),
            None => in_force.clone(),
        })
    }
}

impl Resource for Users {
    type View<'a> = User<'a>;

    fn names(now: Now<'_>) -> Vec<(usize, &str)> {
        now.in_force.users().collect()
    }

    fn view(now: Now<'_>, at: usize) -> User<'_> {
        let Now { terms, in_force } = now;
        let plan = in_force.plan(at).cloned().unwrap_or_default();
        let id = u32::try_from(at + 1).ok().and_then(UserId::new);
        let usage = id.and_then(|id| in_force.usage(id));
        let [sessions, ended, up, down] = usage.map_or([0; 4], |usage| usage.read());
        let rates = plan.access_rates.iter();
        User {
            name: id.and_then(|id| in_force.user_name(id)).unwrap_or_default(),
            profile: now.profile_name(plan.profile),
            rate: config::show_rate(plan.rate),
            upload_rate: config::show_rate(plan.upload_rate),
            access_rates: rates
                .map(|(port, bits)| (terms.port_name(*port), config::show_rate(Some(*bits))))
                .collect(),
            sessions,
            sessions_ended: ended,
            relayed_up_bytes: up,
            relayed_down_bytes: down,
        }
    }

    type Draft = Plan;

    const KEYS: &'static [&'static str] = &["access_rates", "profile", "rate", "upload_rate"];

    fn draft(now: Now<'_>, at: usize) -> Plan {
        now.in_force.plan(at).cloned().unwrap_or_default()
    }

    fn set(now: Now<'_>, plan: &mut Plan, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "profile" => plan.profile = read_profile(now, value)?,
            "rate" => plan.rate = read_rate(key, value)?,
            "upload_rate" => plan.upload_rate = read_rate(key, value)?,
            _ => read_access_rates(now.terms, value, &mut plan.access_rates)?,
        }
        Ok(())
    }

    fn with(now: Now<'_>, at: usize, plan: Plan) -> Result<InForce, String> {
        Ok(now.in_force.with_user(at, plan))
    }
}

impl Resource for Ports {
    type View<'a> = Port<'a>;

    fn names(now: Now<'_>) -> Vec<(usize, &str)> {
        now.terms.ports.iter().map(String::as_str).enumerate().collect()
    }

    fn view(now: Now<'_>, at: usize) -> Port<'_> {
        let total_rate = config::show_rate(now.in_force.port_rate(at));
        Port { name: now.terms.port_name(at), total_rate }
    }

    type Draft = Option<u64>;

    const KEYS: &'static [&'static str] = &["total_rate"];

    fn draft(now: Now<'_>, at: usize) -> Option<u64> {
        now.in_force.port_rate(at)
    }

    fn set(_now: Now<'_>, bits: &mut Option<u64>, key: &str, value: &Value) -> Result<(), String> {
        *bits = read_rate(key, value)?;
        Ok(())
    }

    fn with(now: Now<'_>, at: usize, bits: Option<u64>) -> Result<InForce, String> {
        Ok(now.in_force.with_port(at, bits))
    }
}

/// A list of things, or `null` for an empty one.
fn read_list<T>(
    key: &str,
    value: &Value,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<T>, String> {
    let refused = || format!("{key} = {value}: {expected}");
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(|one| read(one).ok_or_else(refused)).collect(),
        _ => Err(refused()),
    }
}

fn read_rate(key: &str, value: &Value) -> Result<Option<u64>, String> {
    config::rate_from_json(value).map_err(|expected| format!("{key} = {value}: {expected}"))
}

fn read_profile(now: Now<'_>, value: &Value) -> Result<Option<usize>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let at = now.in_force.profiles().find(|(_, name)| value == name);
    at.map(|(at, _)| Some(at)).ok_or_else(|| {
        let names = now.in_force.profiles();
        let known: Vec<String> = names.map(|(_, name)| format!("{name:?}")).collect();
        let known = known.join(", ");
        format!("profile = {value}: expected null, or the name of a [[profile]] ({known})")
    })
}

fn read_access_rates(
    terms: &Terms,
    value: &Value,
    rates: &mut BTreeMap<usize, u64>,
) -> Result<(), String> {
    let expected = "expected null, or an object of ports and their rates";
    let entries = match value {
        Value::Null => {
            rates.clear();
            return Ok(());
        }
        Value::Object(entries) => entries,
        _ => return Err(format!("access_rates = {value}: {expected}")),
    };
    for (name, value) in entries {
        let key = format!("access_rates.{name}");
        let Some(at) = terms.ports.iter().position(|port| port == name) else {
            let known: Vec<&str> = terms.ports.iter().map(String::as_str).collect();
            return Err(format!("{key}: no such port; there are {}", known.join(", ")));
        };
        match read_rate(&key, value)? {
            Some(bits) => rates.insert(at, bits),
            None => rates.remove(&at),
        };
    }
    Ok(())
}

/// The routes, all of them with what they allow.
pub(super) fn routes() -> Router<Arc<super::Source>> {
    Router::new()
        .route("/profiles", get(list::<Profiles>))
        .route("/profiles/{name}", get(show::<Profiles>).patch(change::<Profiles>))
        .route("/listeners", get(list::<Listeners>))
        .route("/listeners/{name}", get(show::<Listeners>).patch(change::<Listeners>))
        .route("/users", get(list::<Users>))
        .route("/users/{name}", get(show::<Users>).patch(change::<Users>))
        .route("/ports", get(list::<Ports>))
        .route("/ports/{name}", get(show::<Ports>).patch(change::<Ports>))
}

async fn list<R: Resource>(State(source): Shared) -> Response {
    let terms = &source.terms;
    let in_force = Arc::clone(&terms.state.lock().await.in_force);
    let now = Now { terms, in_force: &in_force };
    let views: Vec<R::View<'_>> =
        R::names(now).into_iter().map(|(at, _)| R::view(now, at)).collect();
    Json(views).into_response()
}

fn find<R: Resource>(now: Now<'_>, name: &str) -> Option<usize> {
    R::names(now).into_iter().find(|(_, other)| *other == name).map(|(at, _)| at)
}

fn not_found(name: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("{name:?}: there is none of that name\n")).into_response()
}

async fn show<R: Resource>(State(source): Shared, Path(name): Path<String>) -> Response {
    let terms = &source.terms;
    let in_force = Arc::clone(&terms.state.lock().await.in_force);
    let now = Now { terms, in_force: &in_force };
    let Some(at) = find::<R>(now, &name) else { return not_found(&name) };
    Json(R::view(now, at)).into_response()
}

async fn change<R: Resource>(
    State(source): Shared,
    Path(name): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    let terms = &source.terms;
    let mut state = terms.state.lock().await;
    let now = Now { terms, in_force: &state.in_force };
    let Some(at) = find::<R>(now, &name) else { return not_found(&name) };
    let refuse = |text: String| (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response();
    let Value::Object(body) = body else {
        return refuse(format!("{body}: expected an object with what changes"));
    };
    let next = match changed::<R>(now, at, &body) {
        Ok(next) => Arc::new(next),
        Err(text) => return refuse(text),
    };
    log::info!("changed over the admin endpoint: {name} {}", Value::Object(body));
    match terms.put(&mut state, Arc::clone(&next), &source.shards).await {
        Ok(()) => Json(R::view(Now { terms, in_force: &next }, at)).into_response(),
        Err(why) => unavailable(&why),
    }
}

#[cfg(test)]
mod tests;
