//! `relays`: the gateway beside what people would use instead, over veth in network namespaces.
//!
//! The peers take turns, so that what else the machine does falls on all of them. Tables go to stdout,
//! progress to stderr.
#![forbid(unsafe_code)]

mod bed;
mod check;
mod cpus;
mod interrupt;
mod load;
mod machine;
mod measure;
mod peer;
mod plot;
mod polling;
mod process;
mod relay;
mod report;

use clap::{Parser, Subcommand};
use core::time::Duration;
use cpus::Cpus;
use interrupt::Interrupt;
use load::Direction;
use measure::{Lab, Load, Plan};
use peer::Peer;
use process::Scratch;
use report::Results;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const EXAMPLES: &str = "\
Examples:
  relays                          everything, 3 runs of each peer: about 18 minutes
  relays --quick                  one short run of each: about 2 minutes
  relays --peer splice --peer af_xdp --repeat 5
  relays --peer tun --load up-1 --load sessions
  relays --plot relays.svg > relays.md
  relays check                    whether every relay works; says nothing about speed
  relays relay --listen 127.0.0.1:1080 --splice
                                  the relay of our own, as a SOCKS5 server

Needs root, iproute2, ethtool, taskset, setpriv, two CPUs and the program proxy-gw beside this one (make
build); peers that are not installed are left out (scripts/install-deps bench).";

/// Measures the gateway beside other relays: goodput, CPU per GB and per session, latency.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Role>,
    /// Only these peers; may repeat. What is forwarded without a relay is always there.
    #[arg(long, value_name = "NAME", value_parser = peer)]
    peer: Vec<Peer>,
    /// Only these loads (down-16, up-1, sessions, latency); may repeat.
    #[arg(long, value_name = "NAME")]
    load: Vec<String>,
    /// Runs of each peer; medians are printed.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    repeat: u64,
    /// One short run: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Only clients with plain TCP.
    #[arg(long)]
    tcp: bool,
    /// Write a plot of the CPU time as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Role {
    /// A minimal relay on the kernel's sockets: one of the peers.
    Relay(relay::Options),
    /// Whether every relay carries what it is given: no measurement.
    Check {
        /// Only these peers; may repeat.
        #[arg(long, value_name = "NAME", value_parser = peer)]
        peer: Vec<Peer>,
    },
}

fn peer(name: &str) -> Result<Peer, String> {
    let named = Peer::ALL.into_iter().find(|peer| peer.name() == name);
    named.ok_or_else(|| format!("there are {}", Peer::ALL.map(Peer::name).join(", ")))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Role::Relay(options)) => relay::run(options).map_err(|error| error.to_string()),
        Some(Role::Check { peer }) => check(peer),
        None => run(&cli),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("relays: {message}");
            ExitCode::FAILURE
        }
    }
}

fn plan(quick: bool, wanted: &[String]) -> Result<Plan, String> {
    let (warm_up, watch) = if quick { (200, 500) } else { (250, 700) };
    let streams: &[usize] = if quick { &[1, 16] } else { &[1, 16, 64] };
    let bulk = [Direction::Down, Direction::Up]
        .into_iter()
        .flat_map(|way| streams.iter().map(move |&streams| Load::Bulk(way, streams)));
    let mut loads: Vec<_> = bulk.chain([Load::Sessions, Load::PingPong]).collect();
    let names: Vec<_> = loads.iter().map(|load| load.name()).collect();
    if let Some(name) = wanted.iter().find(|name| !names.contains(name)) {
        return Err(format!("no load {name}; there are {}", names.join(", ")));
    }
    loads.retain(|load| wanted.is_empty() || wanted.contains(&load.name()));
    let (warm_up, watch) = (Duration::from_millis(warm_up), Duration::from_millis(watch));
    Ok(Plan { loads, warm_up, watch })
}

fn run(cli: &Cli) -> Result<(), String> {
    let peers = chosen(&cli.peer)?;
    let interrupt = Interrupt::catch()?;
    let cpus = Cpus::divide()?;
    let scratch = Scratch::create()?;
    let lab = Lab { cpus: &cpus, scratch: &scratch, interrupt: &interrupt };
    let (plan, repeat) = (plan(cli.quick, &cli.load)?, if cli.quick { 1 } else { cli.repeat });
    let mut results = Results::default();
    for round in 1..=repeat {
        for &(peer, mptcp) in peers.iter().filter(|&&(_, mptcp)| !(mptcp && cli.tcp)) {
            eprintln!("run {round} of {repeat}: {}, {}", peer.name(), client(mptcp));
            match measure::run(&lab, peer, mptcp, &plan) {
                Ok((outcomes, base)) => results.add(peer, mptcp, outcomes, base),
                Err(message) => {
                    interrupt.check()?;
                    eprintln!("  failed: {message}");
                }
            }
        }
    }
    println!("{}\n\n{}", machine::describe(repeat), report::tables(&results, &plan));
    let Some(file) = &cli.plot else { return Ok(()) };
    std::fs::write(file, report::plot(&results))
        .map_err(|error| format!("writing {}: {error}", file.display()))
}

/// What cannot run is said, and an error where nothing may be skipped.
fn check(wanted: &[Peer]) -> Result<(), String> {
    let must_run = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    let ready = chosen(wanted).and_then(|peers| Ok((peers, Cpus::divide()?)));
    let (peers, cpus) = match ready {
        Ok(ready) => ready,
        Err(reason) if must_run => return Err(reason),
        Err(reason) => {
            eprintln!("SKIPPED relays: {reason}");
            return Ok(());
        }
    };
    let all = Peer::ALL.into_iter().map(|peer| 1 + usize::from(peer.has_mptcp())).sum();
    if must_run && wanted.is_empty() && peers.len() < all {
        return Err("may not be left out in CI: scripts/install-deps bench".to_owned());
    }
    let interrupt = Interrupt::catch()?;
    let scratch = Scratch::create()?;
    let lab = Lab { cpus: &cpus, scratch: &scratch, interrupt: &interrupt };
    for (peer, mptcp) in peers {
        let named = |message| format!("{}, {}: {message}", peer.name(), client(mptcp));
        check::run(&lab, peer, mptcp).map_err(named)?;
        println!("{}, {}: passed", peer.name(), client(mptcp));
    }
    Ok(())
}

const fn client(mptcp: bool) -> &'static str {
    if mptcp { "MPTCP" } else { "TCP" }
}

/// The peers that were asked for and can run here, each with and without MPTCP at the client.
fn chosen(wanted: &[Peer]) -> Result<Vec<(Peer, bool)>, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root: it makes network namespaces".to_owned());
    }
    for program in ["ip", "ethtool", "sysctl", "taskset", "setpriv"] {
        if !has(program) {
            return Err(format!("{program} is missing: scripts/install-deps"));
        }
    }
    let version = Command::new(peer::sibling("proxy-gw")?).arg("--version").output();
    let version = version.map_err(|error| format!("proxy-gw --version: {error}"))?;
    let has_dpdk = String::from_utf8_lossy(&version.stdout).contains("tun, dpdk");
    let mut chosen = Vec::new();
    for peer in Peer::ALL {
        if peer != Peer::Routed && !wanted.is_empty() && !wanted.contains(&peer) {
            continue;
        }
        if let Some(missing) = peer.needs().iter().find(|program| !has(program)) {
            eprintln!("SKIPPED {}: {missing} is not installed", peer.name());
        } else if peer.is_polling() && !has_dpdk {
            eprintln!("SKIPPED {}: proxy-gw was built without DPDK", peer.name());
        } else {
            chosen.push((peer, false));
            if peer.has_mptcp() && has("mptcpize") {
                chosen.push((peer, true));
            }
        }
    }
    if !has("mptcpize") {
        eprintln!("SKIPPED clients with MPTCP: mptcpize is not installed");
    }
    Ok(chosen)
}

/// Whether a program is installed.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).exists())
}
