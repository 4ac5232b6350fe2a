//! Counters in the Prometheus text format (version 0.0.4).
//!
//! Stack counters keep their Linux MIB names, so that `nstat` of a peer and this output compare
//! line by line.

use crate::control::ShardCounters;
use crate::gateway::EndReason;
use crate::report::{Path, port_name};
use core::fmt::Write;
use mptcp_core::buf::PortId;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::mptcp::path_health::{AccessHealth, PathVerdict};
use mptcp_core::stats::{Counters, DropReason};
use mptcp_core::wire::reset_reason;

/// Names and values.
pub type Values = Vec<(&'static str, u64)>;

/// What a driver knows of one port.
#[derive(Clone, Debug, Default)]
pub struct PortCounters {
    /// The port's configured name.
    pub port: String,
    /// What only grows.
    pub counters: Values,
    /// What goes up and down.
    pub gauges: Values,
    /// Packets dropped on it, by reason.
    pub drops: Values,
    /// The device's own statistics, under its driver's names.
    pub device: Vec<(String, u64)>,
}

/// What a driver counted.
#[derive(Clone, Debug, Default)]
pub struct DriverCounters {
    /// Port by port, each with the same names.
    pub ports: Vec<PortCounters>,
    /// Packets it dropped, by reason, over all ports and before a port was known.
    pub drops: Values,
    /// What it did besides forwarding.
    pub events: Values,
    /// What only grows, for the driver as a whole.
    pub counters: Values,
    /// What goes up and down.
    pub gauges: Values,
    /// Packet pool by packet pool, what goes up and down.
    pub pools: Vec<Values>,
    /// Shard by shard, what only grows, where there are several.
    pub shard_counters: Vec<Values>,
    /// Shard by shard, what goes up and down.
    pub shard_gauges: Vec<Values>,
}

/// Reads the driver's counters.
pub type ReadDriver = Box<dyn Fn() -> DriverCounters + Send + Sync>;

/// One metric being written: its samples follow its head.
struct Metric<'a> {
    text: &'a mut String,
    name: String,
}

impl<'a> Metric<'a> {
    fn counter(text: &'a mut String, name: &str, help: &str) -> Self {
        Self::new(text, format!("plait_{name}_total"), "counter", help)
    }

    fn gauge(text: &'a mut String, name: &str, help: &str) -> Self {
        Self::new(text, format!("plait_{name}"), "gauge", help)
    }

    fn new(text: &'a mut String, name: String, kind: &str, help: &str) -> Self {
        // Writing to a String cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Self { text, name }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.text.push_str(&self.name);
        for (idx, (label, content)) in labels.iter().enumerate() {
            self.text.push(if idx == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"{}\"", escaped(content));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// A label value: backslash, quote and line feed are escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Networks of clients that are named because a path to them fails; a list of thousands is `/paths`.
const MAX_NAMED: usize = 100;

/// Whether a path to clients is not up.
#[must_use]
pub fn has_failing_paths(shards: &[ShardCounters]) -> bool {
    let accesses = shards.iter().flat_map(|shard| &shard.accesses);
    accesses.into_iter().any(|(_, health)| health.down + health.probation > 0)
}

/// Everything, as `GET /metrics` answers it. `shards` in order; `ports` are the configured names; of `paths` those
/// are named that are not up.
#[must_use]
pub fn render(
    ready: bool,
    shards: &[ShardCounters],
    driver: &DriverCounters,
    ports: &[String],
    paths: &[Path],
) -> String {
    let mut text = String::with_capacity(16 << 10);
    let version = env!("CARGO_PKG_VERSION");
    Metric::gauge(&mut text, "build_info", "Always 1.").sample(&[("version", version)], 1);
    let help = "Whether new sessions are taken.";
    Metric::gauge(&mut text, "ready", help).sample(&[], u64::from(ready));
    let numbers: Vec<String> = (0..shards.len()).map(|idx| idx.to_string()).collect();
    let numbered: Vec<(&str, &ShardCounters)> =
        numbers.iter().map(String::as_str).zip(shards).collect();
    render_gateway(&mut text, &numbered);
    render_stack(&mut text, &numbered);
    render_accesses(&mut text, &numbered, ports, paths);
    render_driver(&mut text, driver);
    text
}

/// Reads one counter of a shard.
type Read = fn(&ShardCounters) -> u64;

fn render_gateway(text: &mut String, shards: &[(&str, &ShardCounters)]) {
    let help = "Sessions now.";
    let mut metric = Metric::gauge(text, "sessions", help);
    for (shard, counters) in shards {
        metric.sample(&[("shard", shard)], u64::from(counters.sessions));
    }
    let counters: [(&str, &str, Read); 22] = [
        ("sessions_accepted", "Client connections taken.", |c| c.gateway.sessions_accepted),
        ("sessions_over_limit", "Client connections reset: limits.connections.", |c| {
            c.gateway.sessions_over_limit
        }),
        ("sessions_established", "Sessions that reached their destination.", |c| {
            c.gateway.sessions_established
        }),
        ("relayed_up_bytes", "Bytes to destinations, of ended sessions.", |c| c.gateway.bytes_up),
        ("relayed_down_bytes", "Bytes from destinations, of ended sessions.", |c| {
            c.gateway.bytes_down
        }),
        ("connect_attempts", "Exit connections tried.", |c| c.gateway.connect_attempts),
        ("requests_in_syn", "Convert requests that came with a SYN.", |c| {
            c.gateway.requests_in_syn
        }),
        ("convert_errors_limited", "Convert clients reset for want of an error to hear.", |c| {
            c.gateway.convert_errors_limited
        }),
        ("requests_reserved_set", "SOCKS5 requests whose reserved byte was not zero.", |c| {
            c.gateway.requests_reserved_set
        }),
        ("authentication_cached", "Credentials accepted from the cache.", |c| {
            c.gateway.authentication_cached
        }),
        ("authentication_verified", "Credentials handed to the verifier.", |c| {
            c.gateway.authentication_verified
        }),
        ("udp_associations", "Associations opened, those in streams included.", |c| {
            c.gateway.udp.associations
        }),
        ("udp_over_limit", "Associations refused: too many.", |c| c.gateway.udp.over_limit),
        ("dns_cached", "Lookups answered from the cache.", |c| c.dns.cached),
        ("dns_joined", "Lookups that joined one under way.", |c| c.dns.joined),
        ("dns_queries", "Queries sent.", |c| c.dns.queries),
        ("dns_tcp_queries", "Queries sent by TCP.", |c| c.dns.tcp_queries),
        ("dns_timeouts", "Queries that were not answered in time.", |c| c.dns.timeouts),
        ("dns_strays", "Responses that answer another question.", |c| c.dns.strays),
        ("dns_failures", "Lookups that no server answered.", |c| c.dns.failures),
        ("dns_refused", "Lookups refused: too many under way.", |c| c.dns.refused),
        ("sessions_ended_all", "Ended sessions, whatever the reason.", |c| c.gateway.ended_total()),
    ];
    for (name, help, read) in counters {
        let mut metric = Metric::counter(text, name, help);
        for (shard, counters) in shards {
            metric.sample(&[("shard", shard)], read(counters));
        }
    }
    let mut metric = Metric::counter(text, "udp_datagrams", "Datagrams by what became of them.");
    for (shard, counters) in shards {
        for (fate, count) in counters.gateway.udp.by_fate() {
            metric.sample(&[("shard", shard), ("fate", fate)], count);
        }
    }
    let help = "ICMP errors about datagrams, by whom those were for.";
    let mut metric = Metric::counter(text, "udp_icmp_errors", help);
    for (shard, counters) in shards {
        for (side, kind, count) in counters.gateway.udp.icmp.by_kind() {
            metric.sample(&[("shard", shard), ("to", side), ("kind", kind)], count);
        }
    }
    let mut metric = Metric::counter(text, "sessions_ended", "Ended sessions by reason.");
    for (shard, counters) in shards {
        for reason in EndReason::ALL {
            let labels = [("shard", *shard), ("reason", reason.name())];
            metric.sample(&labels, counters.gateway.ended(*reason));
        }
    }
}

fn render_stack(text: &mut String, shards: &[(&str, &ShardCounters)]) {
    let gauges: [(&str, &str, Read); 8] = [
        ("tcbs", "TCP control blocks.", |c| u64::from(c.occupancy.tcbs)),
        ("mptcp_connections", "MPTCP connections.", |c| u64::from(c.occupancy.connections)),
        ("requests", "Pending TCP requests.", |c| u64::from(c.occupancy.requests)),
        ("time_waits", "TIME-WAIT entries.", |c| u64::from(c.occupancy.time_waits)),
        ("paths", "Pairs of a client network and a port; GET /paths lists them.", |c| {
            u64::from(c.occupancy.paths)
        }),
        ("relays", "Coupled pairs of sockets.", |c| u64::from(c.occupancy.relays)),
        ("flows", "Entries of the 4-tuple table.", |c| c.occupancy.flows as u64),
        ("tokens", "Entries of the token table.", |c| c.occupancy.tokens as u64),
    ];
    for (name, help, read) in gauges {
        let mut metric = Metric::gauge(text, name, help);
        for (shard, counters) in shards {
            metric.sample(&[("shard", shard)], read(counters));
        }
    }
    let names = shards.first().into_iter().flat_map(|(_, counters)| counters.stack.iter());
    for (position, (name, _)) in names.enumerate() {
        let help = "Stack counter under its Linux MIB name.";
        // `curr` counters go down, too.
        let mut metric = if name.contains("curr_") {
            Metric::gauge(text, name, help)
        } else {
            Metric::counter(text, name, help)
        };
        for (shard, counters) in shards {
            let value = counters.stack.iter().nth(position).map_or(0, |(_, value)| value);
            metric.sample(&[("shard", shard)], value);
        }
    }
    let mut metric = Metric::counter(text, "drops", "Packets the stack dropped, by reason.");
    for (shard, counters) in shards {
        for reason in DropReason::ALL {
            let labels = [("shard", *shard), ("reason", reason.name())];
            metric.sample(&labels, counters.stack.dropped(*reason));
        }
    }
    render_fallbacks(text, shards);
}

/// Reads one counter of the paths over a port.
type OfAccess = fn(&AccessHealth) -> u64;

/// The paths to clients, by the port they go over.
fn render_accesses(
    text: &mut String,
    shards: &[(&str, &ShardCounters)],
    ports: &[String],
    paths: &[Path],
) {
    // Exits with MPTCP have a place behind all that a port may have: those between are nobody's.
    let is_there = |port: PortId| usize::from(port.0) < ports.len() || port == PortId::ROUTED;
    let accesses = |counters: &ShardCounters| -> Vec<(PortId, AccessHealth)> {
        counters.accesses.iter().copied().filter(|(port, _)| is_there(*port)).collect()
    };
    let each = |metric: &mut Metric<'_>, read: OfAccess| {
        for (shard, counters) in shards {
            for (port, health) in &accesses(counters) {
                let port = port_name(*port, ports);
                metric.sample(&[("shard", shard), ("port", &port)], read(health));
            }
        }
    };
    let help = "Paths to networks of clients, by what is held of them.";
    let mut metric = Metric::gauge(text, "access_paths", help);
    for (shard, counters) in shards {
        for (port, health) in &accesses(counters) {
            let port = port_name(*port, ports);
            for verdict in PathVerdict::ALL {
                let labels = [("shard", *shard), ("port", &port), ("verdict", verdict.name())];
                metric.sample(&labels, health.count(verdict).into());
            }
        }
    }
    let counters: [(&str, &str, OfAccess); 4] = [
        ("access_path_downs", "Paths that went down.", |health| health.downs),
        ("access_path_ups", "Paths that came up again.", |health| health.ups),
        ("access_timeouts", "Retransmission timeouts of subflows.", |health| health.timeouts),
        ("access_resets", "Subflows that clients reset.", |health| health.resets),
    ];
    for (name, help, read) in counters {
        each(&mut Metric::counter(text, name, help), read);
    }
    let help = "1 for each path that is not up; a hundred at most, GET /paths has all.";
    let mut metric = Metric::gauge(text, "path_failing", help);
    let failing = paths.iter().filter(|path| path.verdict != PathVerdict::Up.name());
    for path in failing.take(MAX_NAMED) {
        let shard = path.shard.to_string();
        let local = path.local.map(|local| local.to_string()).unwrap_or_default();
        let labels = [
            ("shard", shard.as_str()),
            ("port", &path.port),
            ("network", &path.network),
            ("local", &local),
            ("verdict", path.verdict),
        ];
        metric.sample(&labels, 1);
    }
}

/// Reads the counter of one reset reason.
type ByReason = fn(&Counters, u8) -> u64;

/// What became of MPTCP: connections that run as TCP, and subflows that were reset.
fn render_fallbacks(text: &mut String, shards: &[(&str, &ShardCounters)]) {
    let help = "Connections that run as plain TCP although MPTCP was wanted, by reason.";
    let mut metric = Metric::counter(text, "fallbacks", help);
    for (shard, counters) in shards {
        for reason in FallbackReason::ALL {
            let labels = [("shard", *shard), ("reason", reason.name())];
            metric.sample(&labels, counters.stack.fell_back(*reason));
        }
    }
    let read: [(&str, &str, ByReason); 2] = [
        ("subflow_resets", "Subflows and joins we reset, by reason.", Counters::resets),
        ("subflow_resets_received", "MP_TCPRST received, by reason.", Counters::resets_received),
    ];
    for (name, help, read) in read {
        let mut metric = Metric::counter(text, name, help);
        for (shard, counters) in shards {
            // The seven that RFC 8684 §3.6 assigns, and the others as one.
            for reason in 0..8 {
                let labels = [("shard", *shard), ("reason", reset_reason::name(reason))];
                metric.sample(&labels, read(&counters.stack, reason));
            }
        }
    }
}

fn render_driver(text: &mut String, driver: &DriverCounters) {
    render_ports(
        text,
        driver,
        |port| &port.counters,
        |text, name, help| Metric::counter(text, name, help),
    );
    render_ports(
        text,
        driver,
        |port| &port.gauges,
        |text, name, help| Metric::gauge(text, name, help),
    );
    if driver.ports.iter().any(|port| !port.drops.is_empty()) {
        let help = "Packets the driver dropped on a port, by reason.";
        let mut metric = Metric::counter(text, "port_drops", help);
        for port in &driver.ports {
            for (reason, value) in &port.drops {
                metric.sample(&[("port", &port.port), ("reason", reason)], *value);
            }
        }
    }
    if driver.ports.iter().any(|port| !port.device.is_empty()) {
        let help = "The device's own statistics, under its driver's names.";
        let mut metric = Metric::counter(text, "port_device", help);
        for port in &driver.ports {
            for (name, value) in &port.device {
                metric.sample(&[("port", &port.port), ("statistic", name)], *value);
            }
        }
    }
    for (name, label, help, values) in [
        ("driver_drops", "reason", "Packets the driver dropped, by reason.", &driver.drops),
        ("driver_events", "event", "What the link layer did.", &driver.events),
    ] {
        if !values.is_empty() {
            let mut metric = Metric::counter(text, name, help);
            for (of, value) in values {
                metric.sample(&[(label, of)], *value);
            }
        }
    }
    for (name, value) in &driver.counters {
        Metric::counter(text, &format!("driver_{name}"), "Counter of the driver's loops.")
            .sample(&[], *value);
    }
    for (name, value) in &driver.gauges {
        Metric::gauge(text, &format!("driver_{name}"), "Gauge of the driver.").sample(&[], *value);
    }
    render_numbered(text, &driver.shard_counters, "shard", |text, name| {
        Metric::counter(text, &format!("shard_{name}"), "Of the driver's loop of a shard.")
    });
    render_numbered(text, &driver.shard_gauges, "shard", |text, name| {
        Metric::gauge(text, &format!("shard_{name}"), "Of the driver's loop of a shard.")
    });
    render_numbered(text, &driver.pools, "pool", |text, name| {
        Metric::gauge(text, &format!("pool_{name}"), "Gauge of a packet pool.")
    });
}

/// Metrics that each of several has, named by the first one and told apart by their number.
fn render_numbered(
    text: &mut String,
    all: &[Values],
    label: &str,
    kind: for<'a> fn(&'a mut String, &str) -> Metric<'a>,
) {
    for (name, _) in all.first().into_iter().flatten() {
        let mut metric = kind(text, name);
        for (number, values) in all.iter().enumerate() {
            let value = values.iter().find(|(other, _)| other == name);
            let value = value.map_or(0, |(_, value)| *value);
            metric.sample(&[(label, &number.to_string())], value);
        }
    }
}

/// Metrics that every port has, named by the first one.
fn render_ports(
    text: &mut String,
    driver: &DriverCounters,
    of: fn(&PortCounters) -> &Values,
    kind: for<'a> fn(&'a mut String, &str, &str) -> Metric<'a>,
) {
    for (name, _) in driver.ports.first().into_iter().flat_map(of) {
        let mut metric = kind(text, &format!("port_{name}"), "Of a port.");
        for port in &driver.ports {
            let value = of(port).iter().find(|(other, _)| other == name);
            metric.sample(&[("port", &port.port)], value.map_or(0, |(_, value)| *value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcp_core::mptcp::path_health::PathInfo;
    use mptcp_core::time::{Duration, Instant};
    use std::collections::{BTreeMap, BTreeSet};

    fn rendered() -> String {
        let mut gateway = crate::gateway::Counters::default();
        gateway.sessions_accepted = 7;
        let mut health = AccessHealth::default();
        (health.up, health.down, health.downs) = (2, 1, 4);
        let shard = ShardCounters {
            gateway,
            sessions: 3,
            dns: crate::dns::Counters::default(),
            stack: mptcp_core::stats::Counters::default(),
            occupancy: mptcp_core::stack::Occupancy::default(),
            // As a table has them: one place for each, and the last one for exits.
            accesses: (0..=u8::MAX)
                .map(|port| {
                    (PortId(port), if port == 1 { health } else { AccessHealth::default() })
                })
                .collect(),
        };
        let port = |name: &str| PortCounters {
            port: name.to_owned(),
            counters: vec![("rx_packets", 5), ("tx_packets", 6)],
            gauges: vec![("link_up", 1)],
            drops: vec![("tx_stalled", 2)],
            device: vec![("rx_missed_errors".to_owned(), 3)],
        };
        let ports = vec![port("lte"), port("wi\"fi\\")];
        let driver = DriverCounters {
            ports,
            drops: vec![("no_route", 8)],
            events: vec![("echo_replies", 9)],
            counters: vec![("idle_turns", 10)],
            gauges: vec![("neighbours", 11)],
            pools: vec![vec![("buffers", 12), ("buffers_used", 13)]; 2],
            shard_counters: vec![
                vec![("handed_over_packets", 14)],
                vec![("handed_over_packets", 15)],
            ],
            shard_gauges: vec![vec![("steered_flows", 16)]; 2],
        };
        let ports = ["lte", "wifi"].map(str::to_owned);
        let info = PathInfo {
            network: "10.2.0.0".parse().unwrap(),
            port: PortId(1),
            local: None,
            verdict: PathVerdict::Down,
            since: Instant::MIN,
            subflows: 7,
            rtt: Duration::ZERO,
            min_rtt: Duration::ZERO,
            timeouts: 9,
            resets: 1,
            downs: 2,
        };
        let up = PathInfo { verdict: PathVerdict::Up, ..info };
        let paths = [info, up].map(|info| Path::new(1, &info, Instant::MIN, &ports));
        let shards = [shard.clone(), shard];
        assert!(has_failing_paths(&shards));
        render(true, &shards, &driver, &ports, &paths)
    }

    #[test]
    fn samples_are_labelled_and_escaped() {
        let text = rendered();
        for line in [
            "plait_ready 1",
            "plait_sessions{shard=\"0\"} 3",
            "plait_sessions_accepted_total{shard=\"1\"} 7",
            "plait_sessions_ended_total{shard=\"0\",reason=\"completed\"} 0",
            "plait_mp_join_no_token_found_total{shard=\"0\"} 0",
            "plait_fallbacks_total{shard=\"1\",reason=\"no_data_ack\"} 0",
            "plait_subflow_resets_total{shard=\"0\",reason=\"middlebox_interference\"} 0",
            "plait_subflow_resets_received_total{shard=\"0\",reason=\"unassigned\"} 0",
            "plait_access_paths{shard=\"0\",port=\"wifi\",verdict=\"down\"} 1",
            "plait_access_path_downs_total{shard=\"1\",port=\"wifi\"} 4",
            "plait_path_failing{shard=\"1\",port=\"wifi\",network=\"10.2.0.0/24\",local=\"\",verdict=\"down\"} 1",
            "plait_port_rx_packets_total{port=\"lte\"} 5",
            "plait_driver_drops_total{reason=\"no_route\"} 8",
            "plait_port_link_up{port=\"lte\"} 1",
            "plait_port_drops_total{port=\"lte\",reason=\"tx_stalled\"} 2",
            "plait_port_device_total{port=\"lte\",statistic=\"rx_missed_errors\"} 3",
            "plait_driver_events_total{event=\"echo_replies\"} 9",
            "plait_driver_idle_turns_total 10",
            "plait_driver_neighbours 11",
            "plait_pool_buffers_used{pool=\"1\"} 13",
            "plait_shard_handed_over_packets_total{shard=\"0\"} 14",
            "plait_shard_handed_over_packets_total{shard=\"1\"} 15",
            "plait_shard_steered_flows{shard=\"1\"} 16",
            "plait_port_tx_packets_total{port=\"wi\\\"fi\\\\\"} 6",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn ports_that_there_are_not_have_no_paths() {
        let text = rendered();
        let ports: BTreeSet<&str> = text
            .lines()
            .filter(|line| line.starts_with("plait_access_"))
            .filter_map(|line| Some(line.split_once("port=\"")?.1.split_once('"')?.0))
            .collect();
        assert_eq!(ports, BTreeSet::from(["lte", "routed", "wifi"]));
    }

    /// The rules of the text format: one head per metric, before its samples, which are adjacent
    /// and unique.
    #[test]
    fn the_format_s_rules_are_kept() {
        let text = rendered();
        let mut heads: BTreeMap<&str, &str> = BTreeMap::new();
        let mut samples = BTreeSet::new();
        let mut current = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(heads.insert(name, kind).is_none(), "two heads for {name}");
                current = name;
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                assert_eq!(sample.split('{').next(), Some(current), "{line}");
                assert!(value.parse::<u64>().is_ok() && samples.insert(sample), "{line}");
                assert_eq!(heads[current] == "counter", current.ends_with("_total"), "{line}");
            }
        }
        assert!(heads.keys().all(|name| {
            name.starts_with("plait_")
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        }));
    }
}
