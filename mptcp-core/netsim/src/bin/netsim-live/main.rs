//! `netsim-live`: the links of `netsim` in real time, between TAP devices in network namespaces.
//!
//! `run` creates the devices and carries Ethernet frames until it is told to stop; `ctl` sends one
//! command to a running process. stdout carries `ready` and the answers of `ctl`, nothing else.
#![forbid(unsafe_code)]

mod control;
mod device;
mod engine;
mod spec;
mod units;

use clap::{Parser, Subcommand};
use spec::LinkSpec;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const EXAMPLES: &str = "\
Examples:
  netsim-live run --control /run/links.sock \\
      --link 'lte  a=phone:lte0  b=router1:up0 rate=60mbit delay=20ms queue=512KiB' \\
      --link 'wifi a=phone:wlan0 b=router2:up0 rate=40mbit delay=7.5ms loss=0.1% ba.rate=10mbit'
  netsim-live ctl /run/links.sock set wifi blackhole=1
  netsim-live ctl /run/links.sock get

A link is NAME a=NS:DEV b=NS:DEV and any of
  rate=60mbit|900kbit|1.5gbit|none    delay=20ms   jitter=2ms   queue=512KiB   mtu=1500
  loss=1%|burst:0.1%:20%  reorder=0.5% reorder-by=5ms  duplicate=0.1%  blackhole=1
  a.addr=10.0.0.1/24 b.addr=fd00::1/64 (may repeat)
A key holds for both directions, or for one as ab.KEY or ba.KEY.
burst:ENTER:LEAVE loses everything between entering and leaving a burst.

Under load, delivery is late by what the scheduler takes; --realtime runs the process under chrt.";

/// Emulates network links between TAP devices in network namespaces.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Create the devices and carry frames until SIGTERM, SIGINT or the command `quit`.
    #[command(after_help = EXAMPLES)]
    Run {
        /// A link; may repeat.
        #[arg(long = "link", value_name = "SPEC", required = true)]
        links: Vec<String>,
        /// Unix socket to listen on for commands.
        #[arg(long, value_name = "PATH")]
        control: Option<PathBuf>,
        /// Seed of loss, jitter and reordering.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Run under `chrt --fifo 50`, so that a busy machine does not add delay.
        #[arg(long)]
        realtime: bool,
    },
    /// Send one command to a running process and print its answer.
    Ctl {
        /// The socket given to `run --control`.
        socket: PathBuf,
        /// `get`, `set LINK KEY=VALUE...`, or `quit`.
        #[arg(required = true, value_name = "COMMAND")]
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().action {
        Action::Run { realtime: true, .. } => Err(restart_in_real_time()),
        Action::Run { links, control, seed, .. } => run(&links, control.as_deref(), seed),
        Action::Ctl { socket, words } => ctl(&socket, &words.join(" ")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = writeln!(io::stderr(), "netsim-live: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(links: &[String], control: Option<&Path>, seed: u64) -> Result<(), String> {
    let specs = links
        .iter()
        .map(|text| LinkSpec::parse(text).map_err(|error| format!("--link '{text}': {error}")))
        .collect::<Result<Vec<_>, _>>()?;
    spec::check_unique(&specs)?;
    engine::Engine::start(&specs, control, seed)?.run()
}

/// Replaces this process by itself under `chrt`; returns only when that failed.
fn restart_in_real_time() -> String {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return format!("cannot find this program to restart it: {error}"),
    };
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--realtime");
    let error = Command::new("chrt").args(["--fifo", "50"]).arg(program).args(arguments).exec();
    format!("cannot run chrt (package util-linux) for --realtime: {error}")
}

fn ctl(socket: &Path, command: &str) -> Result<(), String> {
    let explain = |error: io::Error| format!("{}: {error}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(explain)?;
    writeln!(stream, "{command}").map_err(explain)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(explain)?;
    match answer.trim_end().strip_prefix("error: ") {
        Some(message) => Err(message.to_owned()),
        None if answer.is_empty() => Err(format!("{}: no answer", socket.display())),
        None => io::stdout().write_all(answer.as_bytes()).map_err(explain),
    }
}
