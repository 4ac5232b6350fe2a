//! `relays`: the gateway beside what people would use instead, over veth in network namespaces.
//!
//! The peers take turns, so that what else the machine does falls on all of them. Tables go to stdout,
//! progress to stderr.
#![forbid(unsafe_code)]

mod bed;
mod check;
mod cpus;
mod latency;
mod load;
mod machine;
mod measure;
mod peer;
mod plot;
mod polling;
mod process;
mod progress;
mod relay;
mod report;
mod vhost;

use clap::{Parser, Subcommand};
use core::time::Duration;
use cpus::Cpus;
use load::Direction;
use measure::{Lab, Load, Plan};
use peer::Peer;
use plait_bench::interrupt::{self, Interrupt};
use process::Scratch;
use progress::Progress;
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
  relays latency                  round trips beside 10, 50 and 90 % of the load, and after silence
  relays vhost                    between stacks of ours, through memory: the engine without a kernel; no root
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
    /// Round trips under load, and of a relay that was idle: about 8 minutes a run.
    Latency {
        /// Only these peers; may repeat.
        #[arg(long, value_name = "NAME", value_parser = latency_peer)]
        peer: Vec<Peer>,
        /// Runs of each peer; medians are printed.
        #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=99))]
        repeat: u64,
        /// Short runs: a look, not a measurement.
        #[arg(long)]
        quick: bool,
    },
    /// The gateway between stacks of ours, packets passing through memory (vhost): about a minute a run. Needs
    /// two CPUs and a build with DPDK.
    Vhost {
        /// Runs of each; medians are printed.
        #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
        repeat: u64,
        /// Short runs: a look, not a measurement.
        #[arg(long)]
        quick: bool,
        /// Each run twice, the second time with segments that leave the gateway in one piece.
        #[arg(long)]
        tso: bool,
    },
    /// Whether every relay carries what it is given: no measurement.
    Check {
        /// Only these peers; may repeat.
        #[arg(long, value_name = "NAME", value_parser = peer)]
        peer: Vec<Peer>,
    },
}

fn peer(name: &str) -> Result<Peer, String> {
    named(&Peer::ALL, name)
}

fn latency_peer(name: &str) -> Result<Peer, String> {
    named(&Peer::LATENCY, name)
}

fn named(peers: &[Peer], name: &str) -> Result<Peer, String> {
    let names = || peers.iter().map(|peer| peer.name()).collect::<Vec<_>>().join(", ");
    let found = peers.iter().copied().find(|peer| peer.name() == name);
    found.ok_or_else(|| format!("there are {}", names()))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Role::Relay(options)) => relay::run(options).map_err(|error| error.to_string()),
        Some(Role::Latency { peer, repeat, quick }) => latency(peer, *repeat, *quick),
        Some(Role::Vhost { repeat, quick, tso }) => through_memory(*repeat, *quick, *tso),
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
    let mut peers = chosen(&Peer::ALL, &cli.peer)?;
    peers.retain(|&(_, mptcp)| !(mptcp && cli.tcp));
    let interrupt = Interrupt::catch()?;
    let cpus = Cpus::divide()?;
    let scratch = Scratch::create()?;
    let lab = Lab { cpus: &cpus, scratch: &scratch, interrupt: &interrupt };
    let (plan, repeat) = (plan(cli.quick, &cli.load)?, if cli.quick { 1 } else { cli.repeat });
    let mut results = Results::default();
    each(&peers, repeat, &interrupt, |peer, mptcp| {
        let (outcomes, base) = measure::run(&lab, peer, mptcp, &plan)?;
        results.add(peer, mptcp, outcomes, base);
        Ok(())
    });
    println!("{}\n\n{}", machine::describe(repeat), report::tables(&results, &plan));
    interrupt.check().map_err(|_| CUT_SHORT)?;
    if !results.has_any(&cli.peer) {
        return Err(NOTHING.to_owned());
    }
    let Some(file) = &cli.plot else { return Ok(()) };
    std::fs::write(file, report::plot(&results))
        .map_err(|error| format!("writing {}: {error}", file.display()))
}

const CUT_SHORT: &str = "interrupted: the tables have what was measured until then";
const NOTHING: &str = "nothing was measured: every run failed";

/// Everything in its turn, until it is done or the user has seen enough.
fn each(
    peers: &[(Peer, bool)],
    repeat: u64,
    interrupt: &Interrupt,
    mut step: impl FnMut(Peer, bool) -> Result<(), String>,
) {
    let mut progress = Progress::new(peers.len() * usize::try_from(repeat).unwrap_or(1));
    for round in 1..=repeat {
        for &(peer, mptcp) in peers {
            progress.begin(&format!("run {round}, {}, {}", peer.name(), client(mptcp)));
            let done = step(peer, mptcp);
            if interrupt.check().is_err() {
                return;
            }
            if let Err(message) = done {
                eprintln!("  failed: {message}");
            }
        }
    }
}

fn latency(wanted: &[Peer], repeat: u64, quick: bool) -> Result<(), String> {
    let mut peers = chosen(&Peer::LATENCY, wanted)?;
    // It is there for each of the others.
    peers.retain(|&(peer, _)| peer != Peer::Routed);
    let interrupt = Interrupt::catch()?;
    let cpus = Cpus::divide()?;
    let scratch = Scratch::create()?;
    let lab = Lab { cpus: &cpus, scratch: &scratch, interrupt: &interrupt };
    let (plan, mut results) = (latency::Plan::new(quick), latency::Results::default());
    each(&peers, repeat, &interrupt, |peer, mptcp| results.measure(&lab, peer, mptcp, plan));
    println!("{}\n\n{}", machine::describe(repeat), results.tables());
    interrupt.check().map_err(|_| CUT_SHORT)?;
    if results.is_empty() { Err(NOTHING.to_owned()) } else { Ok(()) }
}

fn through_memory(repeat: u64, quick: bool, tso: bool) -> Result<(), String> {
    let interrupt = Interrupt::catch()?;
    let cpus = Cpus::divide()?;
    let (warm_up, watch) = if quick { (200, 300) } else { (500, 1500) };
    let (warm_up, watch) = (Duration::from_millis(warm_up), Duration::from_millis(watch));
    let plan = vhost::Plan { warm_up, watch, tso };
    let table = vhost::run(&cpus, &interrupt, repeat, plan)?;
    println!("{}\n\n{table}", machine::describe(repeat));
    Ok(())
}

/// What cannot run is said, and an error where nothing may be skipped.
fn check(wanted: &[Peer]) -> Result<(), String> {
    let must_run = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    let ready = chosen(&Peer::ALL, wanted).and_then(|peers| Ok((peers, Cpus::divide()?)));
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

/// Those of `all` that were asked for and can run here, each with and without MPTCP at the client.
fn chosen(all: &[Peer], wanted: &[Peer]) -> Result<Vec<(Peer, bool)>, String> {
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
    for &peer in all {
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
    let missing = wanted.iter().find(|&wanted| !chosen.iter().any(|(peer, _)| peer == wanted));
    match missing {
        Some(peer) => Err(format!("{} was asked for and cannot run here", peer.name())),
        None => Ok(chosen),
    }
}

/// Whether a program is installed.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).exists())
}
