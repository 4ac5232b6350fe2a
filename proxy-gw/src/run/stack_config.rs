//! The stack's configuration out of the gateway's.

use crate::config::Config;
use crate::egress::Exits;
use crate::gateway::MAX_EXITS;
use crate::policies::usual_scheduling;
use mptcp_core::buf::PortId;
use mptcp_core::config::{
    ConfigError, EphemeralPorts, Limits, LocalAddress, MptcpConfig, StackConfig, TcpConfig,
};
use mptcp_core::time::Duration;

/// TCP control blocks per session: the exit's, and what an ordinary client opens. Clients may open
/// more subflows as long as others open fewer.
const TCBS_PER_SESSION: u32 = 4;
/// Idle time after which a leg of a session is probed.
const KEEP_ALIVE: Duration = Duration::from_secs(7200);
/// Most TIME-WAIT entries and accept-queue places, whatever the number of sessions.
const MAX_TIME_WAIT: u32 = 262_144;
/// Networks that peers come from, at most; further ones go without a shared verdict.
const MAX_PATHS: u32 = 65_536;

/// The configuration of a shard; `seed` must be secret and fresh.
///
/// # Errors
/// What a stack would not do as configured.
pub fn stack_config(config: &Config, seed: [u8; 32]) -> Result<StackConfig, ConfigError> {
    let stack = StackConfig {
        addresses: addresses(config),
        mptcp: MptcpConfig {
            versions: config.mptcp.versions.clone(),
            checksum: config.mptcp.checksum,
            scheduling: usual_scheduling(config),
            path_manager: config.mptcp.path_manager,
            max_subflows: config.mptcp.max_subflows,
            max_remote_addresses: config.mptcp.max_remote_addresses,
            close_timeout: config.mptcp.close_timeout,
            probe_interval: config.mptcp.probe_interval,
            stale_timeout: config.mptcp.stale_timeout,
            join_port: config.transparent.join_port,
            ..MptcpConfig::default()
        },
        tcp: tcp(config),
        // Nothing else has connections on these addresses.
        ephemeral_ports: EphemeralPorts { first: 1024, last: 65_535 },
        limits: limits(config),
        seed,
        ..StackConfig::default()
    };
    stack.validate()?;
    Ok(stack)
}

fn addresses(config: &Config) -> Vec<LocalAddress> {
    let numbered = (0u8..).zip(&config.ports).enumerate();
    numbered
        .flat_map(|(idx, (id, port))| {
            let endpoint = config.is_access(idx);
            port.addresses.iter().map(move |net| LocalAddress {
                addr: net.addr(),
                port: PortId(id),
                mtu: port.mtu,
                endpoint,
                backup: false,
            })
        })
        .collect()
}

fn tcp(config: &Config) -> TcpConfig {
    let default = TcpConfig::default();
    TcpConfig {
        congestion: config.tcp.congestion,
        ecn: config.tcp.ecn,
        mtu_probing: config.tcp.mtu_probing,
        marking: config.tcp.marking,
        recv_buffer_initial: default.recv_buffer_initial.min(config.tcp.recv_buffer_max),
        recv_buffer_max: config.tcp.recv_buffer_max,
        send_buffer_max: config.tcp.send_buffer_max,
        // A session whose client or server vanished must not stay for ever.
        keep_alive: Some(KEEP_ALIVE),
        // What a relay passes on was cut by its sender: to hold it back only adds delay.
        nagle: false,
        ..default
    }
}

/// A session is two sockets: the client's and the exit's.
fn limits(config: &Config) -> Limits {
    let default = Limits::default();
    let sessions = config.limits.connections;
    let half_open = config.limits.half_open;
    // A socket for its client, and one for each exit that it may use: lookups have theirs all the same.
    let per_association = 1 + Exits::new(config).sources().min(MAX_EXITS);
    let per_association = u32::try_from(per_association).unwrap_or(u32::MAX);
    Limits {
        connections: sessions.saturating_mul(2),
        tcbs: sessions.saturating_mul(TCBS_PER_SESSION),
        half_open,
        time_wait: sessions.saturating_mul(2).clamp(1024, MAX_TIME_WAIT),
        // One more for the addresses of others, and those of clients that wait.
        listeners: u32::try_from(config.listen_addresses().count() + 1)
            .unwrap_or(u32::MAX)
            .saturating_add(config.bind.waiting),
        udp_sockets: config
            .dns
            .lookups
            .saturating_add(config.udp.associations.saturating_mul(per_association)),
        backlog: half_open.min(sessions),
        paths: sessions.clamp(default.paths, MAX_PATHS),
        ..default
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mptcp_core::config::{PathPolicy, SchedulerKind};

    const TEXT: &str = r#"
        [driver]
        kind = "tun"
        [[port]]
        name = "lte"
        device = "lte"
        addresses = ["10.1.0.1/24", "fd00:1::1/64"]
        mtu = 1400
        [[port]]
        name = "wifi"
        device = "wifi"
        addresses = ["10.2.0.1/24"]
        priority = 1
        weight = 3
        rate = "8Mbit"
        [[port]]
        name = "exit"
        device = "exit"
        addresses = ["10.9.0.1/24"]
        [[route]]
        to = "0.0.0.0/0"
        via = "10.9.0.2"
        port = "exit"
        [tcp]
        recv_buffer_max = "64KiB"
        [limits]
        connections = 100
        half_open = 7
        [mptcp]
        max_subflows = 3
        max_remote_addresses = 4
        probe_interval_s = 2
        stale_timeout_s = 90
        scheduler = "weighted"
        rate = "80Mbit"
        [socks5]
        listen = ["10.1.0.1:1080"]
    "#;

    fn of(text: &str) -> StackConfig {
        stack_config(&crate::config::parse("t", text, &[]).unwrap(), [7; 32]).unwrap()
    }

    #[test]
    fn addresses_keep_their_port_and_exits_are_not_announced() {
        let stack = of(TEXT);
        let shown: Vec<(String, u8, u16, bool)> = stack
            .addresses
            .iter()
            .map(|own| (own.addr.to_string(), own.port.0, own.mtu, own.endpoint))
            .collect();
        let expected = [
            ("10.1.0.1", 0, 1400, true),
            ("fd00:1::1", 0, 1400, true),
            ("10.2.0.1", 1, 1500, true),
            ("10.9.0.1", 2, 1500, false),
        ]
        .map(|(address, port, mtu, endpoint)| (address.to_owned(), port, mtu, endpoint));
        assert_eq!(shown, expected);
    }

    #[test]
    fn limits_and_settings_are_passed_on() {
        let stack = of(TEXT);
        assert_eq!(stack.limits.connections, 200);
        assert_eq!(stack.limits.tcbs, 400);
        assert_eq!((stack.limits.half_open, stack.limits.backlog), (7, 7));
        assert_eq!(stack.mptcp.max_subflows, 3);
        assert_eq!(stack.mptcp.probe_interval, Duration::from_secs(2));
        assert_eq!(stack.mptcp.stale_timeout, Duration::from_secs(90));
        assert_eq!(stack.mptcp.max_remote_addresses, 4);
        assert_eq!(stack.tcp.recv_buffer_initial, 64 << 10);
        assert_eq!(stack.seed, [7; 32]);
    }

    /// Clients whose associations use every exit leave lookups their sockets.
    #[test]
    fn datagram_sockets_are_enough_for_every_exit_of_every_association() {
        let all = ["udp.associations=10".to_owned(), "dns.lookups=7".to_owned()];
        let config = crate::config::parse("t", TEXT, &all).unwrap();
        let stack = stack_config(&config, [7; 32]).unwrap();
        assert_eq!(stack.limits.udp_sockets, 7 + 10 * (1 + 4), "lte twice, wifi, exit");
    }

    #[test]
    fn caps_become_octets_and_only_what_is_asked_is_kept() {
        let scheduling = of(TEXT).mptcp.scheduling;
        assert_eq!((scheduling.kind, scheduling.rate), (SchedulerKind::Weighted, Some(10_000_000)));
        let wifi = PathPolicy { port: PortId(1), priority: 1, weight: 3, rate: Some(1_000_000) };
        assert_eq!(scheduling.paths, [wifi]);
    }

    #[test]
    fn more_addresses_than_have_an_id_are_refused() {
        let mut config = crate::config::parse("t", TEXT, &[]).unwrap();
        // A configuration that is read has no more than that.
        let more = (2..=255).map(|n| format!("10.1.0.{n}/16").parse::<ipnet::IpNet>().unwrap());
        config.ports[0].addresses.extend(more);
        let error = stack_config(&config, [7; 32]).unwrap_err();
        assert_eq!(error, ConfigError::Addresses(258));
    }
}
