//! Profiles and rates over the endpoint: what is in force, and changes to it (`PATCH`, RFC 5789, with a
//! JSON object as in RFC 7396: what is not named stays, `null` takes away).
//!
//! Invariant: one change at a time, and the answer to it comes when every session of every shard goes by it.

use super::{Shared, in_time};
use crate::config::{self, Config, Plan};
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
    profiles: Vec<config::Profile>,
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
            profiles: config.profiles.clone(),
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
        Some(self.profiles.get(at?)?.name.as_str())
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
    weights: &'a [u16],
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

    /// What would be in force with this change; else what is wrong with it.
    fn change(
        terms: &Terms,
        in_force: &InForce,
        at: usize,
        change: &Map<String, Value>,
    ) -> Result<InForce, String>;
}

struct Listeners;
struct Users;
struct Ports;

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

    fn change(
        terms: &Terms,
        in_force: &InForce,
        at: usize,
        change: &Map<String, Value>,
    ) -> Result<InForce, String> {
        let Some((front_end, _)) = terms.listeners.get(at) else { return Ok(in_force.clone()) };
        let mut profile = in_force.listener_profile(*front_end);
        for (key, value) in change {
            match key.as_str() {
                "profile" => profile = read_profile(terms, value)?,
                _ => return Err(config::unknown_key(key, &["profile"])),
            }
        }
        Ok(in_force.with_listener(*front_end, profile))
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

    fn change(
        terms: &Terms,
        in_force: &InForce,
        at: usize,
        change: &Map<String, Value>,
    ) -> Result<InForce, String> {
        let mut plan: Plan = in_force.plan(at).cloned().unwrap_or_default();
        for (key, value) in change {
            match key.as_str() {
                "profile" => plan.profile = read_profile(terms, value)?,
                "rate" => plan.rate = read_rate(key, value)?,
                "upload_rate" => plan.upload_rate = read_rate(key, value)?,
                "access_rates" => read_access_rates(terms, value, &mut plan.access_rates)?,
                _ => {
                    let known = ["access_rates", "profile", "rate", "upload_rate"];
                    return Err(config::unknown_key(key, &known));
                }
            }
        }
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

    fn change(
        _terms: &Terms,
        in_force: &InForce,
        at: usize,
        change: &Map<String, Value>,
    ) -> Result<InForce, String> {
        let mut bits = in_force.port_rate(at);
        for (key, value) in change {
            match key.as_str() {
                "total_rate" => bits = read_rate(key, value)?,
                _ => return Err(config::unknown_key(key, &["total_rate"])),
            }
        }
        Ok(in_force.with_port(at, bits))
    }
}

fn read_rate(key: &str, value: &Value) -> Result<Option<u64>, String> {
    config::rate_from_json(value).map_err(|expected| format!("{key} = {value}: {expected}"))
}

fn read_profile(terms: &Terms, value: &Value) -> Result<Option<usize>, String> {
    if value.is_null() {
        return Ok(None);
    }
    let names = terms.profiles.iter().map(|profile| profile.name.as_str());
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
        .route("/profiles", get(profiles))
        .route("/listeners", get(list::<Listeners>))
        .route("/listeners/{name}", get(show::<Listeners>).patch(change::<Listeners>))
        .route("/users", get(list::<Users>))
        .route("/users/{name}", get(show::<Users>).patch(change::<Users>))
        .route("/ports", get(list::<Ports>))
        .route("/ports/{name}", get(show::<Ports>).patch(change::<Ports>))
}

async fn profiles(State(source): Shared) -> Response {
    let terms = &source.terms;
    let profiles = terms.profiles.iter().map(|profile| Profile {
        name: &profile.name,
        mode: profile.mode.name(),
        scheduler: profile.mode.scheduler().name(),
        access: profile.access.iter().map(|at| terms.port_name(*at)).collect(),
        weights: &profile.weights,
    });
    Json(profiles.collect::<Vec<_>>()).into_response()
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
    let next = match R::change(terms, &in_force, at, &body) {
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
