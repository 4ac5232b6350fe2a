//! The command line: `run`, `check`, `demo`, `hash-password`. Exit codes are the contract with whoever
//! supervises the process (see [`Exit`]).

use crate::auth::PasswordHash;
use crate::config::{self, Config};
use clap::{Args, Parser, Subcommand};
use core::fmt;
use std::io::{BufRead, IsTerminal, Write, stderr, stdin, stdout};
use std::process::ExitCode;
use zeroize::Zeroizing;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Every session ended before the drain deadline (or the command did its work).
    Ok,
    /// Something failed while running.
    Failed,
    /// The configuration (or the command line) is wrong.
    BadConfig,
    /// The driver or one of the ports is not there.
    NoDriver,
    /// Sessions had to be reset: the drain deadline passed, or a second SIGTERM came.
    NotDrained,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::BadConfig => 2,
            Self::NoDriver => 3,
            Self::NotDrained => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// MPTCP gateway: terminates Multipath TCP in userspace, of clients that speak SOCKS5, HTTP CONNECT, Convert or none
/// of these, and relays to TCP servers.
#[derive(Debug, Parser)]
#[command(name = "proxy-gw", version, long_version = crate::version::long(), about, long_about = None)]
#[command(
    after_help = "Exit codes: 0 done or drained, 1 failed while running, 2 bad configuration, \
3 driver or port missing,\n4 drain deadline passed or second SIGTERM: sessions were reset.

Examples:
  proxy-gw check -c gw.toml
  proxy-gw run -c gw.toml --set log.level=debug
  proxy-gw demo --driver tun"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM, which drains it. Prints `ready` on stdout, logs to stderr.
    #[command(after_help = "Examples:
  proxy-gw run -c /etc/plait/gw.toml
  proxy-gw run -c gw.toml --set driver.kind=tun --set log.level=debug

The first SIGTERM stops listening and lets sessions finish for timeouts.drain_s;
a second one resets them. SIGHUP has the configuration read again, --set included:
what needs no restart is in force then, what does is named in the log.")]
    Run(ConfigArgs),
    /// Check a configuration and print it with every default filled in.
    #[command(after_help = "Examples:
  proxy-gw check -c /etc/plait/gw.toml
  proxy-gw check -c gw.toml --set driver.kind=tun --set port.0.mtu=1400
  proxy-gw check -c gw.toml --set 'hosts.\"origin.example\"=[\"10.9.0.2\"]' > resolved.toml

The output is a configuration itself; it contains the users' password hashes.")]
    Check(ConfigArgs),
    /// Show the whole product on this machine: phone, two links, gateway and web server (root).
    #[command(after_help = "Examples:
  proxy-gw demo                               # all of it on DPDK, under two minutes
  proxy-gw demo --driver tun                  # without DPDK
  proxy-gw demo --short --no-gates            # a quick look; speed is shown, not judged
  proxy-gw demo --log-dir /tmp/demo-logs
  proxy-gw demo nic --kernel DIR              # on PCI cards that QEMU emulates; make demo-nic

Exit codes: 0 every run took place and every check passed, 1 a check failed or a step could not be
done, 3 something needed is missing (named, with the apt line) and what could run was in order,
130 interrupted.")]
    Demo(crate::demo::Args),
    /// Read a password from the terminal (or the first line of stdin) and print its argon2id hash.
    #[command(after_help = "Examples:
  proxy-gw hash-password                      # asks twice, without echo
  printf '%s\\n' \"$PASSWORD\" | proxy-gw hash-password

Put the result into the configuration:
  [[user]]
  name = \"alice\"
  password_hash = \"$argon2id$v=19$m=19456,t=2,p=1$...\"")]
    HashPassword,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file (TOML).
    #[arg(short, long, value_name = "FILE")]
    config: String,
    /// Overlay one value of the file; repeatable, later ones win. VALUE is TOML, or plain text.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    /// The configuration, or every problem on stderr.
    fn load(&self) -> Result<Config, Exit> {
        config::load(&self.config, &self.set).map_err(|problems| {
            for problem in &problems {
                complain(format_args!("error: {problem}"));
            }
            Exit::BadConfig
        })
    }
}

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    // Usage errors end the process with code 2, as bad configuration does.
    match Cli::parse().command {
        Command::Run(arguments) => match arguments.load() {
            Ok(config) => {
                let load: crate::run::Load =
                    Box::new(move || config::load(&arguments.config, &arguments.set));
                crate::run::run(&config, load).into()
            }
            Err(exit) => exit.into(),
        },
        Command::Check(arguments) => check(&arguments).into(),
        Command::Demo(arguments) => crate::demo::run(arguments),
        Command::HashPassword => hash_password().into(),
    }
}

/// A line on stderr. Nothing can be said about one that takes nothing, and the exit code tells all the same.
fn complain(what: fmt::Arguments<'_>) {
    let _ = writeln!(stderr(), "{what}");
}

fn check(arguments: &ConfigArgs) -> Exit {
    let config = match arguments.load() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    for warning in config.warnings() {
        complain(format_args!("warning: {warning}"));
    }
    let usable = dpdk_io::usable_cpus();
    for cpu in config.driver.cores.iter().filter(|&&cpu| !usable.contains(&usize::from(cpu))) {
        complain(format_args!(
            "warning: driver.cores: CPU {cpu} is none that this process may use here"
        ));
    }
    let driver = config.driver.kind.name();
    if !crate::version::drivers().contains(&driver) {
        complain(format_args!(
            "warning: this build has no driver {driver:?}: `run` would end with code 3"
        ));
    }
    print_or_fail(&config.to_toml())
}

fn print_or_fail(text: &str) -> Exit {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(format_args!("error: cannot write to stdout: {error}"));
            Exit::Failed
        }
    }
}

fn hash_password() -> Exit {
    let hash = read_password()
        .and_then(|password| PasswordHash::of(&password).map_err(|why| why.to_string()));
    match hash {
        Ok(hash) => print_or_fail(&format!("{}\n", hash.as_str())),
        Err(why) => {
            complain(format_args!("error: {why}"));
            Exit::Failed
        }
    }
}

/// From the terminal, twice and without echo, or the first line of whatever stdin is.
fn read_password() -> Result<Zeroizing<Vec<u8>>, String> {
    let unreadable = |error: std::io::Error| format!("cannot read the password: {error}");
    if stdin().is_terminal() {
        let ask = |prompt: &str| {
            rpassword::prompt_password(prompt)
                .map(|line| Zeroizing::new(line.into_bytes()))
                .map_err(unreadable)
        };
        let first = ask("Password: ")?;
        let second = ask("Again: ")?;
        return if first == second { Ok(first) } else { Err("the two differ".to_owned()) };
    }
    let mut line = Zeroizing::new(Vec::with_capacity(512));
    stdin().lock().read_until(b'\n', &mut line).map_err(unreadable)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    Ok(line)
}
