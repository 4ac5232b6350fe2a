//! `[[profile]]`, and who goes by it: how data is spread over a client's paths, and rates.

use super::ports::{Ports, check_unique, find_port};
use super::problem::nearest;
use super::reader::{Placed, Problems, Section, choose, integer, rate, read_node, text};
use super::tree::Value;
use mptcp_core::config::SchedulerKind;
use std::collections::{BTreeMap, BTreeSet};

/// How a profile steers: the modes of ATSSS (3GPP TS 23.501 §5.32.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One access at a time, in order; another one only while those before it do not work.
    ActiveStandby,
    /// The access with the lowest round-trip time.
    SmallestDelay,
    /// Shares by weight.
    LoadBalancing,
    /// In order; what does not fit goes by the next one.
    Priority,
    /// Everything over every access.
    Redundant,
}

impl Mode {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::ActiveStandby,
        Self::SmallestDelay,
        Self::LoadBalancing,
        Self::Priority,
        Self::Redundant,
    ];

    /// As `mode` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ActiveStandby => "active_standby",
            Self::SmallestDelay => "smallest_delay",
            Self::LoadBalancing => "load_balancing",
            Self::Priority => "priority",
            Self::Redundant => "redundant",
        }
    }

    /// What does it.
    #[must_use]
    pub const fn scheduler(self) -> SchedulerKind {
        match self {
            Self::ActiveStandby => SchedulerKind::ActiveBackup,
            Self::SmallestDelay => SchedulerKind::Default,
            Self::LoadBalancing => SchedulerKind::Weighted,
            Self::Priority => SchedulerKind::Overflow,
            Self::Redundant => SchedulerKind::Redundant,
        }
    }

    /// It goes by the order of accesses.
    const fn is_ordered(self) -> bool {
        matches!(self, Self::ActiveStandby | Self::Priority)
    }
}

/// A named way of spreading data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Unique.
    pub name: String,
    /// How.
    pub mode: Mode,
    /// Positions in [`super::Config::ports`]: the first one first, or those that `weights` are for.
    pub access: Vec<usize>,
    /// Shares, one for each of `access`, where the mode goes by them.
    pub weights: Vec<u16>,
}

impl Profile {
    /// What stands for one that is not there.
    #[must_use]
    pub const fn nameless() -> Self {
        Self {
            name: String::new(),
            mode: Mode::SmallestDelay,
            access: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Whether the mode goes with the accesses and their weights, as in the file.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let Self { mode, access, weights, .. } = self;
        let by_weight = *mode == Mode::LoadBalancing;
        let needed = mode.is_ordered() || by_weight;
        let name = mode.name();
        let mut seen = BTreeSet::new();
        if needed && access.is_empty() {
            return Err(format!(
                "access: mode {name:?} needs the ports, such as [\"wifi\", \"lte\"]"
            ));
        }
        if !needed && !access.is_empty() {
            return Err(format!("access: mode {name:?} has no use for it; null takes it away"));
        }
        if !access.iter().all(|port| seen.insert(port)) {
            return Err("access: each port at most once".to_owned());
        }
        if !by_weight && !weights.is_empty() {
            return Err(format!("weights: mode {name:?} has no use for it; null takes it away"));
        }
        if by_weight && weights.len() != access.len() {
            return Err("weights: one for each of access, such as [80, 20]".to_owned());
        }
        Ok(())
    }
}

/// What is agreed on with one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Position in [`super::Config::profiles`]; `None`: the listener's.
    pub profile: Option<usize>,
    /// Most that goes to the user, all sessions together, bits per second.
    pub rate: Option<u64>,
    /// Most that comes from the user.
    pub upload_rate: Option<u64>,
    /// Most that goes to the user by a port, by position in [`super::Config::ports`].
    pub access_rates: BTreeMap<usize, u64>,
}

/// The profiles there are, by name.
pub(super) struct Names {
    names: Vec<String>,
    /// None was left out: otherwise one that is not here may be that one, and is no error of its own.
    complete: bool,
}

impl Names {
    /// Position of the named profile.
    pub(super) fn find(&self, value: &Value) -> Result<usize, String> {
        let named: Vec<(&str, usize)> =
            self.names.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
        match choose(value, &named) {
            Err(_) if !self.complete => Ok(usize::MAX),
            Err(_) if named.is_empty() => Err("there is no [[profile]]".to_owned()),
            found => found,
        }
    }
}

/// Reads every profile; what is wrong with one is reported.
pub(super) fn read_profiles(
    root: &mut Section<'_>,
    ports: &Ports,
    problems: &Problems,
) -> (Vec<Profile>, Names) {
    let mut names = Vec::new();
    let mut profiles = Vec::new();
    for mut section in root.sections("profile") {
        let name = section.read("name", |value| {
            let expected = "expected a name of 1 to 64 letters, digits, '-', '_' or '.'";
            let name = text(value, expected)?;
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let fits = (1..=64).contains(&name.len()) && name.bytes().all(is_plain);
            if fits { Ok(name.to_owned()) } else { Err(expected.to_owned()) }
        });
        let modes = Mode::ALL.map(|mode| (mode.name(), mode));
        let mode = section.read("mode", |value| choose(value, &modes));
        for key in ["name", "mode"] {
            if !section.has(key) {
                section.missing(key, "every [[profile]] has a name and a mode");
            }
        }
        let access = section.list("access", |value| find_port(value, ports));
        let weights = section.list("weights", |value| integer(value, &(1..=u16::MAX)));
        if let Some(mode) = &mode {
            check_access(&section, mode.value, access.as_deref(), problems);
            check_weights(&section, mode.value);
        }
        section.finish();
        let values = |list: Option<Vec<Placed<usize>>>| {
            list.into_iter().flatten().map(|placed| placed.value).collect()
        };
        let profile = Profile {
            name: name.as_ref().map_or_else(String::new, |name| name.value.clone()),
            mode: mode.map_or(Mode::SmallestDelay, |mode| mode.value),
            access: values(access),
            weights: weights.into_iter().flatten().map(|placed| placed.value).collect(),
        };
        profiles.push(profile);
        names.extend(name);
    }
    check_unique(names.iter(), problems);
    let names: Vec<String> = profiles.iter().map(|profile| profile.name.clone()).collect();
    let distinct: BTreeSet<&String> = names.iter().filter(|name| !name.is_empty()).collect();
    let complete = distinct.len() == profiles.len();
    (profiles, Names { names, complete })
}

/// A rate as a change has it: as in the configuration, or `null` for none.
///
/// # Errors
/// What is expected instead.
pub fn rate_from_json(value: &serde_json::Value) -> Result<Option<u64>, String> {
    use serde_json::Value as Json;
    rate(&match value {
        Json::Null => return Ok(None),
        Json::String(text) => Value::String(text.clone()),
        other => other.as_i64().map_or_else(|| Value::Other(other.to_string()), Value::Integer),
    })
}

/// What is wrong with a key that nothing has, beside those that there are.
#[must_use]
pub fn unknown_key(key: &str, known: &[&str]) -> String {
    let near = nearest(key, known).map(|near| format!("; did you mean {near:?}?"));
    format!("{key}: unknown key, known: {}{}", known.join(", "), near.unwrap_or_default())
}

fn check_access(
    section: &Section<'_>,
    mode: Mode,
    access: Option<&[Placed<usize>]>,
    problems: &Problems,
) {
    let name = mode.name();
    let needed = mode.is_ordered() || mode == Mode::LoadBalancing;
    if needed && section.lacks("access") {
        let expected = match mode.is_ordered() {
            true => format!("the ports in order for mode {name:?}, such as [\"wifi\", \"lte\"]"),
            false => "the ports that weights are for, such as [\"wifi\", \"lte\"]".to_owned(),
        };
        section.missing("access", &expected);
    }
    if !needed && section.has("access") {
        section.refuse_key("access", &format!("mode {name:?} has no use for it; remove it"));
    }
    let mut seen = Vec::new();
    for port in access.into_iter().flatten() {
        if seen.contains(&port.value) {
            let why = "each port at most once";
            problems.push(super::Problem::refused(&port.origin, &port.key, why));
        }
        seen.push(port.value);
    }
}

fn check_weights(section: &Section<'_>, mode: Mode) {
    if mode != Mode::LoadBalancing {
        if section.has("weights") {
            let why = format!("mode {:?} has no use for it; remove it", mode.name());
            section.refuse_key("weights", &why);
        }
    } else if section.written("weights") != section.written("access") {
        section.missing("weights", "one for each of access, such as [80, 20]");
    }
}

/// What stands in a `[[user]]` beside its name and password.
pub(super) fn read_plan(
    section: &mut Section<'_>,
    names: &Names,
    ports: &Ports,
    problems: &Problems,
) -> Plan {
    let profile = section.read("profile", |value| names.find(value));
    let mut plan = Plan {
        profile: profile.map(|placed| placed.value),
        rate: section.rate("rate"),
        upload_rate: section.rate("upload_rate"),
        access_rates: BTreeMap::new(),
    };
    for (name, key, node) in section.section("access_rates").entries() {
        let port = find_port(&Value::String(name.to_owned()), ports);
        let read = |value: &Value| Ok((port?, rate(value)?));
        if let Some(Placed { value: (port, Some(bits)), .. }) = read_node(node, key, problems, read)
        {
            plan.access_rates.insert(port, bits);
        }
    }
    plan
}

#[cfg(test)]
mod tests;
