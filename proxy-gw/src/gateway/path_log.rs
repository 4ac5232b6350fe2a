//! Paths to clients' networks that go down and come back, in the log.

use crate::log_limit::LogLimit;
use core::time::Duration;
use log::Level;
use mptcp_core::buf::PortId;
use mptcp_core::mptcp::path_health::{PathEvent, PathVerdict};
use mptcp_core::time::Instant;

/// Writes lines, no more than the log can take: a client that cuts its own path causes them.
#[derive(Debug)]
pub(super) struct PathLog {
    ports: Vec<String>,
    limit: LogLimit,
}

impl PathLog {
    pub(super) fn new(ports: Vec<String>) -> Self {
        Self { ports, limit: LogLimit::new(100, Duration::from_millis(50)) }
    }

    pub(super) fn write(&mut self, now: Instant, event: &PathEvent) {
        let (level, line) = self.line(event);
        if !log::log_enabled!(level) {
            return;
        }
        match self.limit.allow(now) {
            Some(0) => log::log!(level, "{line}"),
            Some(held_back) => {
                log::log!(level, "{line} ({held_back} changes not logged before this one)");
            }
            None => {}
        }
    }

    fn line(&self, event: &PathEvent) -> (Level, String) {
        let port = self.ports.get(usize::from(event.port.0)).map_or("another port", String::as_str);
        let prefix = if event.network.is_ipv4() { 24 } else { 48 };
        let by = match event.local {
            Some(local) if event.port == PortId::ROUTED => format!("from {local}"),
            _ => format!("by {port}"),
        };
        let path = format!("path {by} to {}/{prefix}", event.network);
        let lasted = event.lasted.as_secs_f64();
        let subflows = event.subflows;
        match event.verdict {
            PathVerdict::Down if event.before == PathVerdict::Up => {
                (Level::Warn, format!("{path} is down after {lasted:.1} s, {subflows} subflows"))
            }
            PathVerdict::Down => {
                (Level::Info, format!("{path} is down again after {lasted:.1} s of probation"))
            }
            PathVerdict::Probation => {
                let why = "it went down too often to be used at once";
                (Level::Info, format!("{path} answers after {lasted:.1} s: {why}"))
            }
            PathVerdict::Up => {
                let before = event.before.name();
                (Level::Info, format!("{path} is up after {lasted:.1} s {before}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_paths_are_said_with_access_and_network() {
        let log = PathLog::new(vec!["lte".to_owned(), "wifi".to_owned()]);
        let event = |before, verdict| PathEvent {
            network: "10.2.0.0".parse().unwrap(),
            port: PortId(1),
            local: None,
            before,
            verdict,
            lasted: Duration::from_millis(12_340),
            subflows: 7,
        };
        let (up, down, probation) = (PathVerdict::Up, PathVerdict::Down, PathVerdict::Probation);
        let lines = [(up, down), (down, probation), (probation, down), (down, up)]
            .map(|(before, verdict)| log.line(&event(before, verdict)));
        let expected = [
            (Level::Warn, "path by wifi to 10.2.0.0/24 is down after 12.3 s, 7 subflows"),
            (
                Level::Info,
                "path by wifi to 10.2.0.0/24 answers after 12.3 s: it went down too often to be used at once",
            ),
            (Level::Info, "path by wifi to 10.2.0.0/24 is down again after 12.3 s of probation"),
            (Level::Info, "path by wifi to 10.2.0.0/24 is up after 12.3 s down"),
        ];
        assert_eq!(lines, expected.map(|(level, line)| (level, line.to_owned())));
        let routed = PathEvent {
            network: "fd00:1::".parse().unwrap(),
            port: PortId::ROUTED,
            local: Some("fd00::1".parse().unwrap()),
            ..event(up, down)
        };
        assert!(log.line(&routed).1.starts_with("path from fd00::1 to fd00:1::/48 is down"));
    }
}
