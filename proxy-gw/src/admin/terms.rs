//! Profiles and rates over the endpoint: what is in force, and changes to it (`PATCH`, RFC 5789, with a
//! JSON object as in RFC 7396: what is not named stays, `null` takes away).
//!
//! Invariant: one change at a time, and the answer to it comes when every session of every shard goes by it.

use super::{Shared, in_time};
use crate::config::{self, Config, Mode, Plan};
use crate::control::Unreachable;
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

/// What is in force, and the names in it.
pub struct Terms {
    profiles: Vec<String>,
    listeners: Vec<(FrontEnd, Vec<SocketAddr>)>,
    users: Vec<String>,
    ports: Vec<String>,
    /// Locked for as long as a change takes.
    in_force: Mutex<Arc<InForce>>,
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
            profiles: config.profiles.iter().map(|profile| profile.name.clone()).collect(),
            listeners: served.chain(transparent).collect(),
            users: config.users.iter().map(|user| user.name.clone()).collect(),
            ports: config.ports.iter().map(|port| port.name.clone()).collect(),
            in_force: Mutex::new(in_force),
        }
    }

    /// The configured name of a user.
    pub(super) fn user_name(&self, user: UserId) -> Option<&str> {
        let at = usize::try_from(user.get() - 1).ok()?;
        self.users.get(at).map(String::as_str)
    }

    fn profile_name(&self, at: Option<usize>) -> Option<&str> {
        self.profiles.get(at?).map(String::as_str)
    }

    fn port_name(&self, at: usize) -> &str {
        self.ports.get(at).map_or("", String::as_str)
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

    /// Their names, in order.
    fn names(terms: &Terms) -> Vec<&str>;

    /// The one at this position.
    fn view<'a>(terms: &'a Terms, in_force: &InForce, at: usize) -> Self::View<'a>;

    /// What of it can be changed.
    type Draft;

    /// The keys of a change.
    const KEYS: &'static [&'static str];

    /// What can be changed, as it is.
    fn draft(terms: &Terms, in_force: &InForce, at: usize) -> Self::Draft;

    /// Changes what one of the keys names; else says what is wrong with it.
    fn set(terms: &Terms, draft: &mut Self::Draft, key: &str, value: &Value) -> Result<(), String>;

    /// With all of it changed; else what does not go together.
    fn with(
        terms: &Terms,
        in_force: &InForce,
        at: usize,
        draft: Self::Draft,
    ) -> Result<InForce, String>;
}

/// What would be in force with this change; else what is wrong with it.
fn changed<R: Resource>(
    terms: &Terms,
    in_force: &InForce,
    at: usize,
    change: &Map<String, Value>,
) -> Result<InForce, String> {
    let mut draft = R::draft(terms, in_force, at);
    for (key, value) in change {
        if !R::KEYS.contains(&key.as_str()) {
            return Err(config::unknown_key(key, R::KEYS));
        }
        R::set(terms, &mut draft, key, value)?;
    }
    R::with(terms, in_force, at, draft)
}

struct Profiles;
struct Listeners;
struct Users;
struct Ports;

impl Resource for Profiles {
    type View<'a> = Profile<'a>;

    fn names(terms: &Terms) -> Vec<&str> {
        terms.profiles.iter().map(String::as_str).collect()
    }

    fn view<'a>(terms: &'a Terms, in_force: &InForce, at: usize) -> Profile<'a> {
        let profile = Self::draft(terms, in_force, at);
        Profile {
            name: terms.profile_name(Some(at)).unwrap_or_default(),
            mode: profile.mode.name(),
            scheduler: profile.mode.scheduler().name(),
            access: profile.access.iter().map(|at| terms.port_name(*at)).collect(),
            weights: profile.weights,
        }
    }

    type Draft = config::Profile;

    const KEYS: &'static [&'static str] = &["access", "mode", "weights"];

    fn draft(_terms: &Terms, in_force: &InForce, at: usize) -> config::Profile {
        in_force.profile_at(at).cloned().unwrap_or_else(config::Profile::nameless)
    }

    fn set(
        terms: &Terms,
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

    fn with(
        _terms: &Terms,
        in_force: &InForce,
        at: usize,
        profile: config::Profile,
    ) -> Result<InForce, String> {
        profile.check()?;
        Ok(in_force.with_profile(at, profile))
    }
}

impl Resource for Listeners {
    type View<'a> = Listener<'a>;

    fn names(terms: &Terms) -> Vec<&str> {
        terms.listeners.iter().map(|(front_end, _)| front_end.name()).collect()
    }

    fn view<'a>(terms: &'a Terms, in_force: &InForce, at: usize) -> Listener<'a> {
        let (front_end, listen) =
            terms.listeners.get(at).map_or((FrontEnd::Socks5, &[][..]), |(f, l)| (*f, l));
        let profile = terms.profile_name(in_force.listener_profile(front_end));
        Listener { front_end: front_end.name(), listen, profile }
    }

    type Draft = Option<usize>;

    const KEYS: &'static [&'static str] = &["profile"];

    fn draft(terms: &Terms, in_force: &InForce, at: usize) -> Option<usize> {
        terms.listeners.get(at).and_then(|(front_end, _)| in_force.listener_profile(*front_end))
    }

    fn set(
        terms: &Terms,
        draft: &mut Option<usize>,
        _key: &str,
        value: &Value,
    ) -> Result<(), String> {
        *draft = read_profile(terms, value)?;
        Ok(())
    }

    fn with(
        terms: &Terms,
        in_force: &InForce,
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

    fn names(terms: &Terms) -> Vec<&str> {
        terms.users.iter().map(String::as_str).collect()
    }

    fn view<'a>(terms: &'a Terms, in_force: &InForce, at: usize) -> User<'a> {
        let plan = in_force.plan(at).cloned().unwrap_or_default();
        let id = u32::try_from(at + 1).ok().and_then(UserId::new);
        let usage = id.and_then(|id| in_force.usage(id));
        let [sessions, ended, up, down] = usage.map_or([0; 4], |usage| usage.read());
        let rates = plan.access_rates.iter();
        User {
            name: terms.users.get(at).map_or("", String::as_str),
            profile: terms.profile_name(plan.profile),
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

    fn draft(_terms: &Terms, in_force: &InForce, at: usize) -> Plan {
        in_force.plan(at).cloned().unwrap_or_default()
    }

    fn set(terms: &Terms, plan: &mut Plan, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "profile" => plan.profile = read_profile(terms, value)?,
            "rate" => plan.rate = read_rate(key, value)?,
            "upload_rate" => plan.upload_rate = read_rate(key, value)?,
            _ => read_access_rates(terms, value, &mut plan.access_rates)?,
        }
        Ok(())
    }

    fn with(_terms: &Terms, in_force: &InForce, at: usize, plan: Plan) -> Result<InForce, String> {
        Ok(in_force.with_user(at, plan))
    }
}

impl Resource for Ports {
    type View<'a> = Port<'a>;

    fn names(terms: &Terms) -> Vec<&str> {
        terms.ports.iter().map(String::as_str).collect()
    }

    fn view<'a>(terms: &'a Terms, in_force: &InForce, at: usize) -> Port<'a> {
        let total_rate = config::show_rate(in_force.port_rate(at));
        Port { name: terms.port_name(at), total_rate }
    }

    type Draft = Option<u64>;

    const KEYS: &'static [&'static str] = &["total_rate"];

    fn draft(_terms: &Terms, in_force: &InForce, at: usize) -> Option<u64> {
        in_force.port_rate(at)
    }

    fn set(_terms: &Terms, bits: &mut Option<u64>, key: &str, value: &Value) -> Result<(), String> {
        *bits = read_rate(key, value)?;
        Ok(())
    }

    fn with(
        _terms: &Terms,
        in_force: &InForce,
        at: usize,
        bits: Option<u64>,
    ) -> Result<InForce, String> {
        Ok(in_force.with_port(at, bits))
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

fn read_profile(terms: &Terms, value: &Value) -> Result<Option<usize>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let names = terms.profiles.iter().map(String::as_str);
    let at = names.clone().position(|name| value == name);
    at.map(Some).ok_or_else(|| {
        let known: Vec<String> = names.map(|name| format!("{name:?}")).collect();
        let known = known.join(", ");
        format!("profile = {value}: expected null, or the name of a [[profile]] ({known})")
    })
}

fn read_access_rates(
    terms: &Terms,
    value: &Value,
    rates: &mut BTreeMap<usize, u64>,
) -> Result<(), String> {
    let expected = "expected an object of ports and their rates";
    let Value::Object(entries) = value else {
        return Err(format!("access_rates = {value}: {expected}"));
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
    let in_force = terms.in_force.lock().await.clone();
    let count = R::names(terms).len();
    let views: Vec<R::View<'_>> = (0..count).map(|at| R::view(terms, &in_force, at)).collect();
    Json(views).into_response()
}

fn find<R: Resource>(terms: &Terms, name: &str) -> Option<usize> {
    R::names(terms).iter().position(|other| *other == name)
}

fn not_found(name: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("{name:?}: there is none of that name\n")).into_response()
}

async fn show<R: Resource>(State(source): Shared, Path(name): Path<String>) -> Response {
    let terms = &source.terms;
    let Some(at) = find::<R>(terms, &name) else { return not_found(&name) };
    let in_force = terms.in_force.lock().await.clone();
    Json(R::view(terms, &in_force, at)).into_response()
}

async fn change<R: Resource>(
    State(source): Shared,
    Path(name): Path<String>,
    Json(body): Json<Value>,
) -> Response {
    let terms = &source.terms;
    let Some(at) = find::<R>(terms, &name) else { return not_found(&name) };
    let refuse = |text: String| (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response();
    let Value::Object(body) = body else {
        return refuse(format!("{body}: expected an object with what changes"));
    };
    let mut in_force = terms.in_force.lock().await;
    let next = match changed::<R>(terms, &in_force, at, &body) {
        Ok(next) => Arc::new(next),
        Err(text) => return refuse(text),
    };
    // From here on it is in force, whatever becomes of this request: new sessions go by it, and a shard that
    // does not hear of it now does with the next change.
    *in_force = Arc::clone(&next);
    log::info!("changed over the admin endpoint: {name} {}", Value::Object(body));
    let told = async {
        let mut told = Vec::with_capacity(source.shards.len());
        for shard in &source.shards {
            told.push(shard.set_policies(Arc::clone(&next)).await?);
        }
        for done in told {
            done.await.map_err(|_| Unreachable)?;
        }
        Ok(())
    };
    match in_time(told).await {
        Ok(()) => Json(R::view(terms, &next, at)).into_response(),
        Err(response) => response,
    }
}

#[cfg(test)]
mod tests;
