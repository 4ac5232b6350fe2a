//! `[transparent]`: for whom the gateway answers without being asked.

use super::ports::{Ports, find_port};
use super::profiles::Names;
use super::reader::{Problems, Section, text};
use super::{Bind, Route};
use core::fmt;
use mptcp_core::config::EphemeralPorts;

/// Access ports behind which routers send connections to anybody through the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transparent {
    /// Positions of these ports; empty: connections to others are left alone.
    pub ports: Vec<usize>,
    /// The port that clients join at; `None`: the one they connected to.
    pub join_port: Option<u16>,
    /// Position of the profile that its sessions go by.
    pub profile: Option<usize>,
    /// Connections of one client (an IPv4 address, an IPv6 /64) that may wait for their destinations.
    pub pending_per_client: u32,
}

/// A port as it is written, for what is said about it.
struct Named {
    idx: usize,
    name: String,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

pub(super) fn read(
    mut section: Section<'_>,
    ports: &Ports,
    routes: &[Route],
    (profiles, bind): (&Names, &Bind),
    problems: &Problems,
) -> Transparent {
    let named = section.list("ports", |value| {
        let idx = find_port(value, ports)?;
        Ok(Named { idx, name: text(value, "expected the name of a port")?.to_owned() })
    });
    let mut seen = Vec::new();
    for port in &named.unwrap_or_default() {
        let idx = port.value.idx;
        if idx >= ports.all.len() {
            // One that was left out: what is wrong with it was said.
        } else if seen.contains(&idx) {
            port.refuse(problems, "named twice; once is enough");
        } else if routes.iter().any(|route| route.port == idx) {
            port.refuse(
                problems,
                "a [[route]] leaves by this port: what comes in there are answers; name access ports",
            );
        }
        seen.push(idx);
    }
    let join_port = section.read("join_port", |value| {
        let port = super::reader::integer(value, &(1..=65_535))?;
        match bind.listening() {
            // What comes to these goes to the one shard that each is of.
            Some(EphemeralPorts { first, last }) if (first..=last).contains(&port) => Err(format!(
                "expected a port outside of bind.ports = \"{first}-{last}\", where clients of BIND wait"
            )),
            _ => Ok(port),
        }
    });
    let transparent = Transparent {
        ports: seen,
        join_port: join_port.map(|port| port.value),
        profile: super::sections::read_profile(&mut section, profiles),
        pending_per_client: section.integer("pending_per_client", 1..=65_536, 256),
    };
    section.finish();
    transparent
}
