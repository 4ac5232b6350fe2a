//! `GET /connections` and `GET /paths`, as the contract with the operator's tools spells them.

use crate::gateway::SessionSnapshot;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use mptcp_core::buf::PortId;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::mptcp::path_health::PathInfo;
use mptcp_core::stack::SubflowInfo;
use mptcp_core::time::Instant;
use serde::Serialize;

/// One session.
#[derive(Debug, Serialize)]
pub struct Connection {
    /// Hexadecimal, unique for the life of the process.
    id: String,
    front_end: &'static str,
    /// `null` where nobody has to say who they are.
    user: Option<String>,
    /// `null` without one.
    profile: Option<String>,
    client: SocketAddr,
    /// `null` while the client has not said, or no attempt is under way.
    destination: Option<SocketAddr>,
    /// Negotiated version; `null` for plain TCP.
    mptcp: Option<u8>,
    fallback: Option<&'static str>,
    bytes_up: u64,
    bytes_down: u64,
    age_s: f64,
    subflows: Vec<Subflow>,
}

#[derive(Debug, Serialize)]
struct Subflow {
    id: u8,
    port: String,
    local: SocketAddr,
    remote: SocketAddr,
    state: &'static str,
    backup: bool,
    stale: bool,
    srtt_us: u64,
    cwnd: u32,
    bytes_sent: u64,
    bytes_received: u64,
    retransmitted: u64,
    reinjected: u64,
}

impl Connection {
    /// As the contract has it. `ports` are the configured names; `user` is that of the session.
    #[must_use]
    pub fn new(session: SessionSnapshot, ports: &[String], user: Option<String>) -> Self {
        let inner = session.inner;
        Self {
            id: format!("{:x}", session.id),
            front_end: session.front_end.name(),
            user,
            profile: session.profile,
            client: session.client,
            destination: session.destination,
            mptcp: inner.mptcp,
            fallback: inner.fallback.map(FallbackReason::name),
            bytes_up: session.bytes_up,
            bytes_down: session.bytes_down,
            age_s: tenths(session.age.as_secs_f64()),
            subflows: inner.subflows.into_iter().map(|info| subflow(info, ports)).collect(),
        }
    }
}

/// One path to clients: one of their networks, on one access.
#[derive(Debug, Serialize)]
pub struct Path {
    pub(crate) shard: usize,
    pub(crate) port: String,
    pub(crate) network: String,
    /// Our address, where the routing table chooses the port.
    pub(crate) local: Option<IpAddr>,
    pub(crate) verdict: &'static str,
    /// Since when it is as the verdict says.
    for_s: f64,
    subflows: u32,
    rtt_us: u64,
    min_rtt_us: u64,
    timeouts: u64,
    resets: u64,
    downs: u64,
}

impl Path {
    /// As the contract has it, at `now` of its shard. `ports` are the configured names.
    #[must_use]
    pub fn new(shard: usize, info: &PathInfo, now: Instant, ports: &[String]) -> Self {
        Self {
            shard,
            port: port_name(info.port, ports),
            network: format!("{}/{}", info.network, if info.network.is_ipv4() { 24 } else { 48 }),
            local: info.local,
            verdict: info.verdict.name(),
            for_s: tenths(now.since(info.since).as_secs_f64()),
            subflows: info.subflows,
            rtt_us: micros(info.rtt),
            min_rtt_us: micros(info.min_rtt),
            timeouts: info.timeouts,
            resets: info.resets,
            downs: info.downs,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

fn subflow(info: SubflowInfo, ports: &[String]) -> Subflow {
    Subflow {
        id: info.id,
        port: port_name(info.port, ports),
        local: info.local,
        remote: info.remote,
        state: info.state.name(),
        backup: info.backup,
        stale: info.stale,
        srtt_us: micros(info.srtt),
        cwnd: info.cwnd,
        bytes_sent: info.bytes_sent,
        bytes_received: info.bytes_received,
        retransmitted: info.retransmitted,
        reinjected: info.reinjected,
    }
}

pub(crate) fn port_name(port: PortId, ports: &[String]) -> String {
    ports.get(usize::from(port.0)).cloned().unwrap_or_else(|| format!("{port:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front_end::FrontEnd;
    use mptcp_core::mptcp::path_health::PathVerdict;
    use mptcp_core::stack::ConnectionInfo;
    use mptcp_core::tcp::{State, TcpInfo};

    fn session() -> SessionSnapshot {
        let client: SocketAddr = "10.1.0.2:40312".parse().unwrap();
        let local: SocketAddr = "10.1.0.1:1080".parse().unwrap();
        SessionSnapshot {
            id: 0x1f,
            front_end: FrontEnd::Socks5,
            user: None,
            profile: Some("wifi-first".to_owned()),
            client,
            destination: Some("10.9.0.2:80".parse().unwrap()),
            bytes_up: 120,
            bytes_down: 104_857_600,
            age: Duration::from_millis(12_437),
            inner: ConnectionInfo {
                local,
                remote: client,
                mptcp: Some(1),
                fallback: None,
                bytes_sent: 0,
                bytes_acked: 0,
                bytes_received: 0,
                subflows: vec![SubflowInfo {
                    id: 0,
                    port: PortId(0),
                    local,
                    remote: client,
                    state: State::Established,
                    fully_established: true,
                    backup: false,
                    stale: false,
                    srtt: Duration::from_micros(40_211),
                    cwnd: 146_000,
                    bytes_sent: 62_914_560,
                    bytes_received: 120,
                    retransmitted: 3,
                    reinjected: 0,
                    local_id: 0,
                    remote_id: 0,
                    tcp: TcpInfo::default(),
                }],
                data_level: None,
                error: None,
            },
        }
    }

    /// Key by key and in order what the contract shows.
    #[test]
    fn a_session_is_spelled_as_in_the_contract() {
        let connection = Connection::new(session(), &["lte".to_owned()], Some("a".to_owned()));
        let expected = concat!(
            r#"[{"id":"1f","front_end":"socks5","user":"a","profile":"wifi-first","#,
            r#""client":"10.1.0.2:40312","#,
            r#""destination":"10.9.0.2:80","mptcp":1,"fallback":null,"#,
            r#""bytes_up":120,"bytes_down":104857600,"age_s":12.4,"#,
            r#""subflows":[{"id":0,"port":"lte","local":"10.1.0.1:1080","#,
            r#""remote":"10.1.0.2:40312","state":"established","#,
            r#""backup":false,"stale":false,"srtt_us":40211,"cwnd":146000,"#,
            r#""bytes_sent":62914560,"bytes_received":120,"#,
            r#""retransmitted":3,"reinjected":0}]}]"#,
        );
        assert_eq!(serde_json::to_string(&[connection]).unwrap(), expected);
    }

    #[test]
    fn a_path_is_spelled_as_in_the_contract() {
        let info = PathInfo {
            network: "10.1.0.0".parse().unwrap(),
            port: PortId(0),
            local: None,
            verdict: PathVerdict::Down,
            since: Instant::from_nanos(2_000_000_000),
            subflows: 7,
            rtt: Duration::from_micros(40_211),
            min_rtt: Duration::from_micros(38_000),
            timeouts: 9,
            resets: 1,
            downs: 2,
        };
        let at = Instant::from_nanos(5_260_000_000);
        let ports = ["lte".to_owned()];
        let expected = concat!(
            r#"{"shard":0,"port":"lte","network":"10.1.0.0/24","local":null,"#,
            r#""verdict":"down","for_s":3.3,"subflows":7,"rtt_us":40211,"#,
            r#""min_rtt_us":38000,"timeouts":9,"resets":1,"downs":2}"#,
        );
        let shown = |info| serde_json::to_string(&Path::new(0, &info, at, &ports)).unwrap();
        assert_eq!(shown(info), expected);
        let routed = PathInfo {
            network: "fd00:1::".parse().unwrap(),
            port: PortId::ROUTED,
            local: Some("fd00::1".parse().unwrap()),
            ..info
        };
        assert!(
            shown(routed).contains(r#""port":"routed","network":"fd00:1::/48","local":"fd00::1","#)
        );
    }

    #[test]
    fn what_is_not_there_is_null() {
        let mut plain = session();
        plain.destination = None;
        plain.inner.mptcp = None;
        plain.inner.fallback = Some(FallbackReason::Checksum);
        plain.inner.subflows[0].port = PortId::ROUTED;
        let value = serde_json::to_value(Connection::new(plain, &[], None)).unwrap();
        assert!(value["destination"].is_null() && value["mptcp"].is_null());
        assert_eq!(value["fallback"], "checksum");
        assert_eq!(value["subflows"][0]["port"], "routed");
    }
}
