//! In which keys two configurations differ, and the part of one that can be taken up while the gateway runs.

use super::emit::to_toml;
use super::{Config, Entry, Log, Port};
use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use toml::{Table, Value};

/// A key with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// As in the file; users and profiles by name.
    pub key: String,
    /// `None`: it is new.
    pub before: Option<String>,
    /// `None`: it is gone.
    pub after: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, before, after } = self;
        match (before.as_deref(), after.as_deref()) {
            (Some(THERE), _) => write!(f, "{key} is gone"),
            (_, Some(THERE)) => write!(f, "{key} is new"),
            (Some(HIDDEN), Some(HIDDEN)) => write!(f, "{key} is another"),
            (Some(before), Some(after)) => write!(f, "{key} = {after} instead of {before}"),
            (Some(before), None) => write!(f, "no {key} instead of {before}"),
            (None, Some(after)) => write!(f, "{key} = {after} instead of none"),
            (None, None) => f.write_str(key),
        }
    }
}

/// What stands for a table with a name.
const THERE: &str = "[[]]";
/// What stands for a secret.
const HIDDEN: &str = "(hidden)";

/// The parts of a key; the value.
type Flat = BTreeMap<Vec<String>, String>;

impl Config {
    /// In what `other` differs from this one.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let [before, after] = [self, other].map(|config| flat(&to_toml(config)));
        let mut keys: Vec<&Vec<String>> = before.keys().chain(after.keys()).collect();
        keys.retain(|key| before.get(*key) != after.get(*key));
        keys.sort_unstable();
        keys.dedup();
        let mut whole: Option<&Vec<String>> = None;
        let mut differences = Vec::new();
        for key in keys {
            // Of what is new or gone the name says all.
            if whole.is_some_and(|whole| key.starts_with(whole)) {
                continue;
            }
            let [mut before, mut after] = [&before, &after].map(|flat| flat.get(key).cloned());
            if [&before, &after].iter().any(|value| value.as_deref() == Some(THERE)) {
                whole = Some(key);
            } else if key.last().is_some_and(|last| last == "password_hash") {
                let hidden = || Some(HIDDEN.to_owned());
                (before, after) = (hidden(), hidden());
            }
            differences.push(Difference { key: key.join("."), before, after });
        }
        differences
    }

    /// This one, with everything of `found` that needs no restart: users, profiles and who goes by them, rates and
    /// the use of ports, `[egress]`, `[hosts]` and the log's level. Ports are known by their names.
    ///
    /// # Errors
    /// What of it goes by a port that does not run.
    pub fn taking(&self, found: &Self) -> Result<Self, Vec<String>> {
        let running: BTreeMap<&str, usize> =
            self.ports.iter().enumerate().map(|(at, port)| (port.name.as_str(), at)).collect();
        let mut missing = BTreeSet::new();
        let mut place = |key: String, at: usize| {
            let name = found.ports.get(at).map_or("", |port| port.name.as_str());
            let place = running.get(name).copied();
            if place.is_none() {
                missing.insert(format!("{key} = {name:?}: this port needs a restart"));
            }
            place
        };
        let mut taken = self.clone();
        taken.profiles.clone_from(&found.profiles);
        for profile in &mut taken.profiles {
            let key = format!("profile.{}.access", profile.name);
            profile.access =
                profile.access.iter().filter_map(|at| place(key.clone(), *at)).collect();
        }
        taken.users.clone_from(&found.users);
        for user in &mut taken.users {
            let key = format!("user.{}.access_rates", user.name);
            let rates = core::mem::take(&mut user.plan.access_rates);
            let rates = rates.into_iter();
            user.plan.access_rates =
                rates.filter_map(|(at, bits)| Some((place(key.clone(), at)?, bits))).collect();
        }
        let port_of = |port: &Port| found.ports.iter().find(|other| other.name == port.name);
        for port in &mut taken.ports {
            port.path = port_of(port).map_or(port.path, |found| found.path);
        }
        let profile_of =
            |entry: &Entry, found: &Entry| Entry { profile: found.profile, ..entry.clone() };
        taken.socks5 = profile_of(&self.socks5, &found.socks5);
        taken.http = profile_of(&self.http, &found.http);
        taken.convert.entry = profile_of(&self.convert.entry, &found.convert.entry);
        taken.transparent.profile = found.transparent.profile;
        taken.mptcp.scheduler = found.mptcp.scheduler;
        taken.mptcp.rate = found.mptcp.rate;
        taken.egress.clone_from(&found.egress);
        taken.hosts.clone_from(&found.hosts);
        taken.log = Log { level: found.log.level, ..self.log };
        if missing.is_empty() { Ok(taken) } else { Err(missing.into_iter().collect()) }
    }
}

fn flat(text: &str) -> Flat {
    let mut keys = Flat::new();
    match text.parse::<Table>() {
        Ok(table) => fill(&mut keys, &[], Value::Table(table)),
        Err(_) => debug_assert!(false, "it is written to be read again"),
    }
    keys
}

fn fill(keys: &mut Flat, path: &[String], value: Value) {
    let below = |key: String| [path, &[key]].concat();
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                fill(keys, &below(key), value);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_table) => {
            let by_name = ["user", "profile"].map(|list| [list.to_owned()]);
            let by_name = by_name.iter().any(|list| list == path);
            for (at, value) in list.into_iter().enumerate() {
                let name = value.get("name").and_then(Value::as_str);
                let key =
                    below(name.filter(|_| by_name).map_or_else(|| at.to_string(), str::to_owned));
                if by_name {
                    keys.insert(key.clone(), THERE.to_owned());
                }
                fill(keys, &key, value);
            }
        }
        value => _ = keys.insert(path.to_owned(), value.to_string()),
    }
}
