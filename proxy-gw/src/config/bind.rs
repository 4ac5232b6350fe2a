//! `[bind]`: SOCKS5 clients that wait for a connection.

use super::reader::{Section, text};
use super::tree::Value;
use core::net::SocketAddr;
use core::time::Duration;
use mptcp_core::config::EphemeralPorts;
use mptcp_core::steering::{Layout, MAX_SHARDS};

/// BIND of SOCKS5 (RFC 1928 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// Clients that wait at a time; 0: none may.
    pub waiting: u32,
    /// Of one client (an IPv4 address or an IPv6 /64).
    pub per_client: u32,
    /// Where they are connected to, on the exits' addresses.
    pub ports: EphemeralPorts,
    /// How long they wait.
    pub timeout: Duration,
}

impl Bind {
    /// The ports, where anybody may wait at all.
    #[must_use]
    pub fn listening(&self) -> Option<EphemeralPorts> {
        (self.waiting > 0).then_some(self.ports)
    }
}

/// `listen`: where front ends listen; `shards`: those that clients may be on.
pub(super) fn read(
    mut section: Section<'_>,
    mut listen: impl Iterator<Item = SocketAddr>,
    shards: usize,
) -> Bind {
    let default = EphemeralPorts { first: 61_000, last: 61_999 };
    let bind = Bind {
        waiting: section.integer("waiting", 0..=100_000, 0),
        per_client: section.integer("per_client", 1..=10_000, 4),
        ports: section.read("ports", ports).map_or(default, |ports| ports.value),
        timeout: section.seconds("timeout_s", 1..=3_600, 120),
    };
    if let Some(EphemeralPorts { first, last }) = bind.listening()
        && let Some(at) = listen.find(|at| (first..=last).contains(&at.port()))
    {
        section.refuse(&format!(
            "a front end listens at {at}, within ports = \"{first}-{last}\"; choose others"
        ));
    }
    if let Some(ports) = bind.listening()
        && !all_have_one(ports, shards)
    {
        let EphemeralPorts { first, last } = ports;
        let why = format!(
            "\"{first}-{last}\" has no port for some of the {shards} shards of driver.cores; \
             {MAX_SHARDS} ports are enough for all"
        );
        section.refuse_key("ports", &why);
    }
    section.finish();
    bind
}

/// Whether each shard can be reached at one of the ports ([`Layout::with_listening`]).
fn all_have_one(EphemeralPorts { first, last }: EphemeralPorts, shards: usize) -> bool {
    // Too many are refused elsewhere.
    let Some(layout) = u8::try_from(shards).ok().and_then(Layout::new) else { return true };
    let ports = (first..=last).take(usize::from(MAX_SHARDS));
    (0..layout.shards()).all(|shard| ports.clone().any(|port| layout.shard_of_port(port) == shard))
}

fn ports(value: &Value) -> Result<EphemeralPorts, String> {
    let expected = "expected a first and a last port from 1024 on, such as \"61000-61999\"";
    let given = text(value, expected)?;
    let read = |text: &str| text.parse::<u16>().ok().filter(|port| *port >= 1024);
    let (first, last) = given.split_once('-').ok_or(expected)?;
    match (read(first), read(last)) {
        (Some(first), Some(last)) if first <= last => Ok(EphemeralPorts { first, last }),
        _ => Err(expected.to_owned()),
    }
}
