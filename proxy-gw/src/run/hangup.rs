//! SIGHUP: the configuration is read and checked again, and what it would change is said. It changes nothing: what
//! can be changed while sessions run is the admin endpoint's, and the rest takes a restart.

use crate::config::{Config, Differences, Problem};

/// Reads the configuration as it would be at a start now.
pub type Load = Box<dyn Fn() -> Result<Config, Vec<Problem>>>;

/// Says in what `found` differs from what runs.
pub(super) fn say(running: &Config, found: Result<Config, Vec<Problem>>) {
    for (level, line) in lines(running, found) {
        log::log!(level, "SIGHUP: {line}");
    }
}

fn lines(running: &Config, found: Result<Config, Vec<Problem>>) -> Vec<(log::Level, String)> {
    let found = match found {
        Ok(found) => found,
        Err(problems) => {
            let lines = problems.iter().map(|problem| (log::Level::Error, problem.to_string()));
            return lines.collect();
        }
    };
    let Differences { fixed, changeable } = running.differences(&found);
    let mut lines = Vec::new();
    let mut add = |keys: &[String], what: &str| {
        if !keys.is_empty() {
            lines.push((log::Level::Warn, format!("{what}: {}", keys.join(", "))));
        }
    };
    add(&fixed, "not in force, needs a restart");
    add(&changeable, "not in force, needs a restart or a change over the admin endpoint");
    if lines.is_empty() {
        lines.push((log::Level::Info, "the configuration is as it was at the start".to_owned()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::gateway::tests::CONFIG;

    const USER: &str = "user=[{ name = 'a', password_hash = '$argon2id$v=19$m=19456,t=2,p=1$\
                        c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A' }]";

    #[test]
    fn what_differs_is_said_by_key_and_by_what_it_takes() {
        let load = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
            parse("gw.toml", CONFIG, &settings)
        };
        let running = load(&[USER]).unwrap();
        let said = |settings: &[&str]| -> Vec<String> {
            let found = load(&[&[USER], settings].concat());
            lines(&running, found)
                .into_iter()
                .map(|(level, line)| format!("{level} {line}"))
                .collect()
        };
        assert_eq!(said(&[]), ["INFO the configuration is as it was at the start"]);
        assert_eq!(
            said(&[
                "port.0.addresses=['10.1.0.1/24','10.1.0.7/24']",
                "tcp.ttl=63",
                "port.1.total_rate='1Gbit'"
            ]),
            [
                "WARN not in force, needs a restart: port.0.addresses, tcp.ttl",
                "WARN not in force, needs a restart or a change over the admin endpoint: port.1.total_rate",
            ]
        );
        assert_eq!(
            said(&["user.0.rate='1Mbit'"]),
            ["WARN not in force, needs a restart or a change over the admin endpoint: user.0.rate"]
        );
        assert_eq!(
            said(&["tcp.ttl=0"]),
            ["ERROR --set tcp.ttl=0: tcp.ttl = 0: expected a whole number from 1 to 255"]
        );
    }
}
