//! A [`Config`] as TOML again, every default written out. Reading the result gives the same value.

use super::reader::{show_rate, show_size};
use super::{Auth, Config, CookiePolicy, Hugepages, LogFormat, Port, Profile};
use crate::front_end::FrontEnd;
use core::fmt::Display;
use core::time::Duration;
use mptcp_core::config::{ChecksumPolicy, EphemeralPorts, PathManagerKind};
use mptcp_core::wire::Version;
use toml::{Table, Value};

/// The sections in the order of the documentation.
pub(super) fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    push(&mut text, "driver", driver(config));
    for port in &config.ports {
        push_element(&mut text, "port", self::port(port));
    }
    for route in &config.routes {
        let port = config.ports.get(route.port).map_or("", |port| port.name.as_str());
        let via = route.via.as_ref().map(|via| ("via", shown(via)));
        let entries = [Some(("to", shown(&route.to))), via, Some(("port", Value::from(port)))];
        let from = ("from", list(&route.from));
        push_element(&mut text, "route", table(entries.into_iter().flatten().chain([from])));
    }
    for profile in &config.profiles {
        push_element(&mut text, "profile", self::profile(config, profile));
    }
    push(&mut text, "mptcp", mptcp(config));
    push(&mut text, "tcp", tcp(config));
    let limits = [
        ("connections", Value::from(config.limits.connections)),
        ("half_open", Value::from(config.limits.half_open)),
    ];
    push(&mut text, "limits", table(limits));
    push(&mut text, "timeouts", timeouts(config));
    for (front_end, entry) in config.entries().filter(|(kind, _)| *kind != FrontEnd::Convert) {
        let auth = match entry.auth {
            Auth::None => "none",
            Auth::Password => "password",
        };
        let entries = [("listen", list(&entry.listen)), ("auth", Value::from(auth))];
        push(&mut text, front_end.name(), with_profile(config, table(entries), entry.profile));
    }
    let cookie = match config.convert.cookie {
        CookiePolicy::Off => "off",
        CookiePolicy::Require => "require",
    };
    let convert = [
        ("listen", list(&config.convert.entry.listen)),
        ("cookie", Value::from(cookie)),
        ("pending_per_client", Value::from(config.convert.pending_per_client)),
    ];
    let convert = with_profile(config, table(convert), config.convert.entry.profile);
    push(&mut text, FrontEnd::Convert.name(), convert);
    let transparent = with_profile(config, transparent(config), config.transparent.profile);
    push(&mut text, FrontEnd::Transparent.name(), transparent);
    for user in &config.users {
        let entries = [
            ("name", Value::from(user.name.as_str())),
            ("password_hash", Value::from(user.password_hash.as_str())),
            ("rate", Value::from(show_rate(user.plan.rate))),
            ("upload_rate", Value::from(show_rate(user.plan.upload_rate))),
        ];
        let user_table = with_profile(config, table(entries), user.plan.profile);
        push_element(&mut text, "user", user_table);
        let rates = user.plan.access_rates.iter();
        let rates = rates.map(|(port, bits)| (port_name(config, *port), show_rate(Some(*bits))));
        let rates = table(rates.map(|(port, rate)| (port, Value::from(rate))));
        if !rates.is_empty() {
            push(&mut text, "user.access_rates", rates);
        }
    }
    let ports = |ports: &[u16]| numbers(ports.iter().map(|port| i64::from(*port)));
    let mut egress = table([
        ("allow", list(&config.egress.allow)),
        ("deny", list(&config.egress.deny)),
        ("deny_ports", ports(&config.egress.deny_ports)),
        ("deny_udp_ports", ports(&config.egress.deny_udp_ports)),
    ]);
    if let Some(prefix) = &config.egress.nat64 {
        egress.insert("nat64".to_owned(), shown(prefix));
    }
    push(&mut text, "egress", egress);
    let udp = [
        ("associations", Value::from(config.udp.associations)),
        ("per_client", Value::from(config.udp.per_client)),
    ];
    push(&mut text, "udp", table(udp));
    let EphemeralPorts { first, last } = config.bind.ports;
    let bind = [
        ("waiting", Value::from(config.bind.waiting)),
        ("per_client", Value::from(config.bind.per_client)),
        ("ports", Value::from(format!("{first}-{last}"))),
        ("timeout_s", seconds(config.bind.timeout)),
    ];
    push(&mut text, "bind", table(bind));
    let dns = &config.dns;
    let entries = [
        ("servers", list(&dns.servers)),
        ("timeout_s", seconds(dns.timeout)),
        ("cache", Value::from(dns.cache)),
        ("lookups", Value::from(dns.lookups)),
    ];
    push(&mut text, "dns", table(entries));
    let hosts = config.hosts.iter().map(|(name, addresses)| (name.as_str(), list(addresses)));
    push(&mut text, "hosts", table(hosts));
    push(&mut text, "admin", table([("listen", list(&config.admin.listen))]));
    push(&mut text, "log", log(config));
    text
}

fn push(text: &mut String, name: &str, section: Table) {
    push_headed(text, &format!("[{name}]"), section);
}

fn push_element(text: &mut String, name: &str, element: Table) {
    push_headed(text, &format!("[[{name}]]"), element);
}

fn push_headed(text: &mut String, head: &str, entries: Table) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(head);
    text.push('\n');
    text.push_str(&entries.to_string());
}

fn table<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn shown(value: &impl Display) -> Value {
    Value::from(value.to_string())
}

fn list<T: Display>(values: &[T]) -> Value {
    Value::Array(values.iter().map(shown).collect())
}

fn numbers(values: impl Iterator<Item = i64>) -> Value {
    Value::Array(values.map(Value::from).collect())
}

fn seconds(duration: Duration) -> Value {
    Value::from(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}

fn driver(config: &Config) -> Table {
    let driver = &config.driver;
    let hugepages = match driver.hugepages {
        Hugepages::Auto => "auto",
        Hugepages::Require => "require",
        Hugepages::Off => "off",
    };
    table([
        ("kind", Value::from(driver.kind.name())),
        ("eal", list(&driver.eal)),
        ("cores", numbers(driver.cores.iter().map(|cpu| i64::from(*cpu)))),
        ("hugepages", Value::from(hugepages)),
        ("memory_mb", Value::from(driver.memory_mb)),
        ("idle", Value::from(driver.idle.name())),
    ])
}

fn port(port: &Port) -> Table {
    let mac = port.mac.map_or_else(
        || "auto".to_owned(),
        |octets| octets.map(|octet| format!("{octet:02x}")).join(":"),
    );
    table([
        ("name", Value::from(port.name.as_str())),
        ("device", Value::from(port.device.as_str())),
        ("addresses", list(&port.addresses)),
        ("gateway", list(&port.gateway)),
        ("mtu", Value::from(i64::from(port.mtu))),
        ("mac", Value::from(mac)),
        ("vlan", Value::from(i64::from(port.vlan))),
        ("queues", Value::from(i64::from(port.queues))),
        ("tso", Value::from(port.tso.name())),
        ("lro", Value::from(port.lro.name())),
        ("priority", Value::from(i64::from(port.path.priority))),
        ("weight", Value::from(i64::from(port.path.weight))),
        ("rate", Value::from(show_rate(port.path.rate))),
        ("total_rate", Value::from(show_rate(port.path.total_rate))),
    ])
}

fn port_name(config: &Config, at: usize) -> &str {
    config.ports.get(at).map_or("", |port| port.name.as_str())
}

fn profile(config: &Config, profile: &Profile) -> Table {
    let mut entries = table([
        ("name", Value::from(profile.name.as_str())),
        ("mode", Value::from(profile.mode.name())),
    ]);
    if !profile.access.is_empty() {
        let access: Vec<&str> = profile.access.iter().map(|at| port_name(config, *at)).collect();
        entries.insert("access".to_owned(), list(&access));
    }
    if !profile.weights.is_empty() {
        let weights = numbers(profile.weights.iter().map(|weight| i64::from(*weight)));
        entries.insert("weights".to_owned(), weights);
    }
    entries
}

fn with_profile(config: &Config, mut entries: Table, at: Option<usize>) -> Table {
    if let Some(profile) = at.and_then(|at| config.profiles.get(at)) {
        entries.insert("profile".to_owned(), Value::from(profile.name.as_str()));
    }
    entries
}

fn mptcp(config: &Config) -> Table {
    let mptcp = &config.mptcp;
    let checksum = match mptcp.checksum {
        ChecksumPolicy::Require => "require",
        ChecksumPolicy::Accept => "accept",
        ChecksumPolicy::Refuse => "refuse",
    };
    let path_manager = match mptcp.path_manager {
        PathManagerKind::Fullmesh => "fullmesh",
        PathManagerKind::Server => "server",
        PathManagerKind::Ndiffports => "ndiffports",
    };
    let versions = mptcp.versions.iter().map(|version| match version {
        Version::V0 => 0_i64,
        Version::V1 => 1,
    });
    table([
        ("versions", numbers(versions)),
        ("checksum", Value::from(checksum)),
        ("scheduler", Value::from(mptcp.scheduler.name())),
        ("path_manager", Value::from(path_manager)),
        ("max_subflows", Value::from(i64::from(mptcp.max_subflows))),
        ("max_remote_addresses", Value::from(i64::from(mptcp.max_remote_addresses))),
        ("rate", Value::from(show_rate(mptcp.rate))),
        ("close_timeout_s", seconds(mptcp.close_timeout)),
        ("probe_interval_s", seconds(mptcp.probe_interval)),
        ("stale_timeout_s", seconds(mptcp.stale_timeout)),
    ])
}

fn tcp(config: &Config) -> Table {
    table([
        ("congestion", Value::from(config.tcp.congestion.name())),
        ("ecn", Value::from(config.tcp.ecn.name())),
        ("fast_open", Value::from(if config.tcp.fast_open { "accept" } else { "off" })),
        ("mtu_probing", Value::from(config.tcp.mtu_probing.name())),
        ("ttl", Value::from(i64::from(config.tcp.marking.hop_limit()))),
        ("dscp", Value::from(i64::from(config.tcp.marking.dscp()))),
        ("recv_buffer_max", Value::from(show_size(config.tcp.recv_buffer_max))),
        ("send_buffer_max", Value::from(show_size(config.tcp.send_buffer_max))),
    ])
}

fn transparent(config: &Config) -> Table {
    let transparent = &config.transparent;
    let ports = transparent.ports.iter().filter_map(|idx| config.ports.get(*idx));
    let names: Vec<&str> = ports.map(|port| port.name.as_str()).collect();
    let mut entries = table([
        ("ports", list(&names)),
        ("pending_per_client", Value::from(transparent.pending_per_client)),
    ]);
    if let Some(port) = transparent.join_port {
        entries.insert("join_port".to_owned(), Value::from(i64::from(port)));
    }
    entries
}

fn timeouts(config: &Config) -> Table {
    let timeouts = &config.timeouts;
    table([
        ("handshake_s", seconds(timeouts.handshake)),
        ("connect_s", seconds(timeouts.connect)),
        ("idle_s", seconds(timeouts.idle)),
        ("half_closed_s", seconds(timeouts.half_closed)),
        ("drain_s", seconds(timeouts.drain)),
    ])
}

fn log(config: &Config) -> Table {
    let format = match config.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let level = config.log.level.as_str().to_ascii_lowercase();
    table([("level", Value::from(level)), ("format", Value::from(format))])
}
