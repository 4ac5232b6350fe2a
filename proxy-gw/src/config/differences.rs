//! In which keys two configurations differ, and which of these can be changed while the gateway runs.

use super::Config;
use super::emit::to_toml;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Keys that differ, as `--set` names them. Values are not said: some are secrets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Only a restart takes these up.
    pub fixed: Vec<String>,
    /// The admin endpoint can change these.
    pub changeable: Vec<String>,
}

impl Config {
    /// In what `other` differs.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Differences {
        let [before, after] = [self, other].map(|config| flat(&to_toml(config)));
        let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
        keys.retain(|key| before.get(*key) != after.get(*key));
        keys.sort_unstable();
        keys.dedup();
        let (changeable, fixed) = keys.into_iter().cloned().partition(|key| is_changeable(key));
        Differences { fixed, changeable }
    }
}

fn flat(text: &str) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    match text.parse::<Table>() {
        Ok(table) => fill(&mut keys, "", Value::Table(table)),
        Err(_) => debug_assert!(false, "it is written to be read again"),
    }
    keys
}

fn fill(keys: &mut BTreeMap<String, String>, path: &str, value: Value) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                fill(keys, &below(&key), value);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_table) => {
            for (at, value) in list.into_iter().enumerate() {
                fill(keys, &below(&at.to_string()), value);
            }
        }
        value => _ = keys.insert(path.to_owned(), value.to_string()),
    }
}

fn is_changeable(key: &str) -> bool {
    let parts: Vec<&str> = key.split('.').collect();
    match parts[..] {
        [section, "profile"] => ["socks5", "http", "convert", "transparent"].contains(&section),
        ["profile", _, key] => ["mode", "access", "weights"].contains(&key),
        ["user", _, key] => ["profile", "rate", "upload_rate", "access_rates"].contains(&key),
        ["user", _, "access_rates", _] => true,
        ["port", _, "total_rate"] => true,
        _ => false,
    }
}
