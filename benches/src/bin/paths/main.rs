//! `paths`: several paths, our sender beside the kernel's, over the same emulated links.
//!
//! Every run has namespaces and links of its own. The peers take turns, so that what else the
//! machine does falls on all of them. Tables go to stdout, progress to stderr.
#![forbid(unsafe_code)]

mod bed;
mod kernel;
mod measure;
mod ours;
mod receiver;
mod report;
mod scenario;

use clap::Parser;
use measure::Peer;
use mptcp_core::config::CongestionAlgorithm;
use plait_bench::interrupt::Interrupt;
use report::Runs;
use scenario::Scenario;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

const EXAMPLES: &str = "\
Examples:
  paths                         every row, 3 runs of each peer: about 15 minutes
  paths --repeat 1              a quick look
  paths --row X9 --repeat 5     the silent cut only
  paths --row X6 --congestion bbr,cubic
                                ours with one and with the other, in the same run

Needs root, iproute2, chrt and the program netsim-live beside this one (make build).";

/// Measures aggregation, failover and completion times over two emulated links, our sender beside
/// the Linux kernel's.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    /// Only the rows of this name (X5 to X9); may repeat.
    #[arg(long, value_name = "ROW")]
    row: Vec<String>,
    /// Only what has this text in its title.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Runs of each peer; medians are printed.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=99))]
    repeat: u64,
    /// Congestion control of ours: bbr, cubic, newreno, lia, olia, balia; several, separated by
    /// commas, each have a line.
    #[arg(long, value_name = "NAMES", default_value = "bbr", value_delimiter = ',', value_parser = congestion)]
    congestion: Vec<CongestionAlgorithm>,
    /// Stay at the scheduler's normal priority.
    #[arg(long)]
    no_realtime: bool,
}

fn congestion(name: &str) -> Result<CongestionAlgorithm, String> {
    let named = CongestionAlgorithm::ALL.into_iter().find(|kind| kind.name() == name);
    named.ok_or_else(|| "no such congestion control".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("paths: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root: it makes network namespaces".to_owned());
    }
    if !cli.no_realtime {
        return Err(restart_in_real_time());
    }
    let wanted = |scenario: &&Scenario| {
        (cli.row.is_empty() || cli.row.iter().any(|row| row == scenario.row))
            && scenario.title.contains(&cli.only)
    };
    let scenarios: Vec<_> = scenario::ALL.iter().filter(wanted).collect();
    if scenarios.is_empty() {
        return Err("no such row; there are X5, X6, X7, X8 and X9".to_owned());
    }
    let interrupt = Interrupt::catch()?;
    let mut header = String::new();
    for scenario in scenarios {
        let runs = runs(scenario, cli, &interrupt)?;
        let of_this = report::header(scenario);
        if of_this != header {
            println!("{of_this}");
            header = of_this;
        }
        for &ours in &cli.congestion {
            println!("{}", report::line(scenario, &runs, ours));
        }
    }
    Ok(())
}

/// The peers in turn, `repeat` times.
fn runs(scenario: &Scenario, cli: &Cli, interrupt: &Interrupt) -> Result<Runs, String> {
    let mut runs = Runs::new();
    for seed in 1..=cli.repeat {
        for peer in Peer::of(scenario.load, &cli.congestion) {
            let (row, title, of) = (scenario.row, scenario.title, cli.repeat);
            eprintln!("{row} {title}: {peer:?}, run {seed} of {of}");
            let value = measure::run(scenario, peer, seed, interrupt)?;
            interrupt.check()?;
            runs.entry(peer).or_default().push(value);
        }
    }
    Ok(runs)
}

/// Replaces this process by itself above everything that is not in real time: what else runs on
/// the machine shall not be measured. Returns only when that failed.
fn restart_in_real_time() -> String {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return format!("finding this program: {error}"),
    };
    let mut command = Command::new("chrt");
    command.args(["--fifo", "5"]).arg(program).args(std::env::args_os().skip(1));
    format!("starting chrt: {}", command.arg("--no-realtime").exec())
}
