//! SIGHUP: the configuration is read again, what needs no restart is put in force, and what does is said.

use super::Shards;
use crate::admin::{TakenUp, Terms};
use crate::config::{Config, Difference, Problem};
use crate::control::ShardHandle;
use crossbeam::channel::{Sender, bounded};
use log::{Level, LevelFilter};
use std::io;
use std::sync::Arc;
use std::thread;
use tokio::runtime::Builder;

/// Reads the configuration as it would be at a start now.
pub type Load = Box<dyn Fn() -> Result<Config, Vec<Problem>> + Send>;

/// Keys said in one line.
const MAX_KEYS: usize = 20;

/// The thread that does it: shards may be slow to confirm, and other signals do not wait for that.
pub(super) struct Hangup {
    asked: Sender<()>,
}

impl Hangup {
    pub(super) fn start(load: Load, terms: Arc<Terms>, shards: &Shards) -> io::Result<Self> {
        let shards = shards.handles.clone();
        // One that waits is enough: the file is read when its turn comes.
        let (asked, inbox) = bounded(1);
        let runtime = Builder::new_current_thread().enable_time().build()?;
        thread::Builder::new().name("plait-reload".to_owned()).spawn(move || {
            for () in inbox {
                let (lines, level) = runtime.block_on(take_up(&load, &terms, &shards));
                // What ends the notes is the last of them.
                log::set_max_level(log::max_level().max(level.unwrap_or(LevelFilter::Off)));
                for (level, line) in lines {
                    log::log!(level, "SIGHUP: {line}");
                }
                if let Some(level) = level {
                    log::set_max_level(level);
                }
            }
        })?;
        Ok(Self { asked })
    }

    /// A signal came.
    pub(super) fn ask(&self) {
        let _ = self.asked.try_send(());
    }
}

/// What is to be said about it, and how much is to be logged from then on.
async fn take_up(
    load: &Load,
    terms: &Terms,
    shards: &[ShardHandle],
) -> (Vec<(Level, String)>, Option<LevelFilter>) {
    let taken = match load() {
        Ok(found) => terms.take_up(&found, shards).await,
        Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
    };
    let level = taken.as_ref().ok().map(|taken| taken.level);
    (lines(taken), level)
}

fn lines(taken: Result<TakenUp, Vec<String>>) -> Vec<(Level, String)> {
    let taken = match taken {
        Ok(taken) => taken,
        Err(problems) => {
            let lines = problems.into_iter().map(|problem| (Level::Error, problem));
            let nothing = "nothing was changed".to_owned();
            return lines.chain([(Level::Error, nothing)]).collect();
        }
    };
    let mut lines = Vec::new();
    let mut add = |level, what: &str, differences: &[Difference]| {
        if differences.is_empty() {
            return;
        }
        let keys: Vec<String> =
            differences.iter().take(MAX_KEYS).map(ToString::to_string).collect();
        let more = match differences.len().saturating_sub(MAX_KEYS) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        lines.push((level, format!("{what}: {}{more}", keys.join("; "))));
    };
    add(Level::Info, "in force now", &taken.changed);
    add(Level::Warn, "not in force, needs a restart", &taken.fixed);
    if let Some(why) = taken.unconfirmed {
        let why =
            format!("not confirmed by every shard, which the next SIGHUP asks for again: {why}");
        lines.push((Level::Error, why));
    }
    if lines.is_empty() {
        lines.push((Level::Info, "the configuration is what is in force".to_owned()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Plan, parse};
    use crate::gateway::tests::CONFIG;
    use crate::policies::InForce;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";

    fn user(name: &str, more: &str) -> String {
        format!("{{ name = '{name}', password_hash = '{HASH}'{more} }}")
    }

    fn settings(settings: &[&str]) -> Vec<String> {
        let user = format!("user=[{}]", user("a", ""));
        [&[user.as_str()], settings].concat().iter().map(|&text| text.to_owned()).collect()
    }

    struct Stage {
        terms: Terms,
        in_force: Arc<InForce>,
        runtime: tokio::runtime::Runtime,
    }

    impl Stage {
        fn new() -> Self {
            let config = parse("gw.toml", CONFIG, &settings(&[])).unwrap();
            let in_force = Arc::new(InForce::new(&config));
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            Self { terms: Terms::new(&config, Arc::clone(&in_force)), in_force, runtime }
        }

        fn read(&self, text: &str, changes: &[&str]) -> Vec<String> {
            let (text, changes) = (text.to_owned(), settings(changes));
            let load: Load = Box::new(move || parse("gw.toml", &text, &changes));
            let (said, _) = self.runtime.block_on(take_up(&load, &self.terms, &[]));
            said.into_iter().map(|(level, line)| format!("{level} {line}")).collect()
        }

        fn said(&self, changes: &[&str]) -> Vec<String> {
            self.read(CONFIG, changes)
        }
    }

    #[test]
    fn what_differs_is_said_with_both_values_and_what_it_takes() {
        let stage = Stage::new();
        assert_eq!(stage.said(&[]), ["INFO the configuration is what is in force"]);
        let changes = [
            "port.0.addresses=['10.1.0.1/24','10.1.0.7/24']",
            "tcp.ttl=63",
            "port.1.total_rate='1Gbit'",
            "egress.nat64='64:ff9b::/96'",
            "hosts.\"a.example\"=['10.9.0.7']",
        ];
        let fixed = "WARN not in force, needs a restart: port.0.addresses = [\"10.1.0.1/24\", \
                     \"10.1.0.7/24\"] instead of [\"10.1.0.1/24\"]; tcp.ttl = 63 instead of 64";
        assert_eq!(
            stage.said(&changes),
            [
                "INFO in force now: egress.nat64 = \"64:ff9b::/96\" instead of none; \
                 hosts.a.example = [\"10.9.0.7\"] instead of none; \
                 port.1.total_rate = \"1Gbit\" instead of \"unlimited\"",
                fixed,
            ]
        );
        // The rest is in force by now; what needs a restart still does.
        assert_eq!(stage.said(&changes), [fixed]);
    }

    #[test]
    fn users_are_named_and_their_passwords_are_not_shown() {
        let stage = Stage::new();
        let hash = HASH.replace("Z8A", "Z8E");
        let other = format!("user.0.password_hash='{hash}'");
        assert_eq!(
            stage.said(&[&other, "user.0.rate='1Mbit'"]),
            ["INFO in force now: user.a.password_hash is another; \
              user.a.rate = \"1Mbit\" instead of \"unlimited\""]
        );
        let users = format!("user=[{}]", [user("b", ""), user("c", "")].join(","));
        assert_eq!(
            stage.said(&[&users]),
            ["INFO in force now: user.a is gone; user.b is new; user.c is new"]
        );
        let crowd: Vec<String> = (0..30).map(|n| user(&format!("n{n}"), "")).collect();
        let said = stage.said(&[&format!("user=[{}]", crowd.join(","))]);
        assert!(said[0].ends_with("; user.n24 is new; and 12 more"), "{said:?}");
    }

    #[test]
    fn what_is_wrong_changes_nothing() {
        let stage = Stage::new();
        let nothing = "ERROR nothing was changed";
        assert_eq!(
            stage.said(&["tcp.ttl=0", "log.level='debug'"]),
            ["ERROR --set tcp.ttl=0: tcp.ttl = 0: expected a whole number from 1 to 255", nothing]
        );
        let dsl = "[[port]]\nname = 'dsl'\ndevice = 'dsl'\naddresses = ['10.3.0.1/24']\n";
        let text = CONFIG.replacen("[[port]]", &format!("{dsl}[[port]]"), 1);
        let rates = "user.0.access_rates={ dsl = '1Mbit', lte = '2Mbit' }";
        let profile = "profile=[{ name = 'p', mode = 'active_standby', access = ['lte', 'dsl'] }]";
        assert_eq!(
            stage.read(&text, &[rates, profile, "port.1.total_rate='1Gbit'"]),
            [
                "ERROR profile.p.access = \"dsl\": this port needs a restart",
                "ERROR user.a.access_rates = \"dsl\": this port needs a restart",
                nothing
            ]
        );
        assert_eq!(stage.said(&[]), ["INFO the configuration is what is in force"]);
        // Ports are known by their names: rates are those of the one they are written for.
        let said = stage
            .read(&text, &["port.1.total_rate='1Gbit'", "user.0.access_rates={ lte = '2Mbit' }"]);
        assert!(
            said[0].starts_with("INFO in force now: port.0.total_rate = \"1Gbit\""),
            "{said:?}"
        );
        assert!(said[0].contains("user.a.access_rates.lte = \"2Mbit\""), "{said:?}");
        assert!(
            said[1].starts_with("WARN not in force, needs a restart: port.0.addresses"),
            "{said:?}"
        );
    }

    /// Whatever the endpoint has changed meanwhile: the file is what is in force.
    #[test]
    fn the_file_takes_back_what_the_endpoint_changed() {
        let stage = Stage::new();
        let plan = Plan { rate: Some(5_000_000), ..Plan::default() };
        stage.runtime.block_on(stage.terms.put_for_test(stage.in_force.with_user(0, plan)));
        assert_eq!(
            stage.said(&[]),
            ["INFO in force now: user.a.rate = \"unlimited\" instead of \"5Mbit\""]
        );
    }
}
