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

    /// What of it does not go together, the first one first.
    #[must_use]
    pub fn misfits(&self) -> Vec<Misfit> {
        let Self { mode, access, weights, .. } = self;
        let by_weight = *mode == Mode::LoadBalancing;
        let needed = mode.is_ordered() || by_weight;
        let name = mode.name();
        let useless = |key| Misfit::Useless(key, format!("mode {name:?} has no use for it"));
        let mut misfits = Vec::new();
        if needed && access.is_empty() {
            let what = match by_weight {
                false => format!("the ports in order for mode {name:?}"),
                true => "the ports that weights are for".to_owned(),
            };
            misfits.push(Misfit::Missing("access", format!("{what}, such as [\"wifi\", \"lte\"]")));
        } else if !needed && !access.is_empty() {
            misfits.push(useless("access"));
        }
        let mut seen = BTreeSet::new();
        let again = access.iter().enumerate().filter(|(_, port)| !seen.insert(**port));
        misfits.extend(again.map(|(at, _)| Misfit::Again(at)));
        if by_weight && weights.len() != access.len() {
            let what = "one for each of access, such as [80, 20]";
            misfits.push(Misfit::Missing("weights", what.to_owned()));
        } else if !by_weight && !weights.is_empty() {
            misfits.push(useless("weights"));
        }
        misfits
    }
}

/// What does not go together in a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// The key is needed; what with.
    Missing(&'static str, String),
    /// The key cannot be there; why.
    Useless(&'static str, String),
    /// The port at this position of `access` is there already.
    Again(usize),
}

const ONCE: &str = "each port at most once";

impl Misfit {
    /// As it is said to who changes a profile that runs.
    #[must_use]
    pub fn in_a_change(&self) -> String {
        match self {
            Self::Missing(key, what) => format!("{key}: {what}"),
            Self::Useless(key, why) => format!("{key}: {why}; null takes it away"),
            Self::Again(at) => format!("access.{at}: {ONCE}"),
        }
    }

    fn report(&self, section: &Section<'_>) {
        match self {
            Self::Missing(key, what) => section.missing(key, what),
            Self::Useless(key, why) => section.refuse_key(key, &format!("{why}; remove it")),
            Self::Again(at) => section.refuse_element("access", *at, ONCE),
        }
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
        let whole = [
            ("access", access.as_ref().map(Vec::len)),
            ("weights", weights.as_ref().map(Vec::len)),
        ];
        // What could not be read was said already.
        let whole = mode.is_some()
            && ports.complete
            && whole.into_iter().all(|(key, read)| read.unwrap_or(0) == section.written(key));
        let values = |list: Option<Vec<Placed<usize>>>| {
            list.into_iter().flatten().map(|placed| placed.value).collect()
        };
        let profile = Profile {
            name: name.as_ref().map_or_else(String::new, |name| name.value.clone()),
            mode: mode.map_or(Mode::SmallestDelay, |mode| mode.value),
            access: values(access),
            weights: weights.into_iter().flatten().map(|placed| placed.value).collect(),
        };
        for misfit in profile.misfits().iter().filter(|_| whole) {
            misfit.report(&section);
        }
        section.finish();
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
