//! `proxy-gw demo`: the whole product on one machine, seen working.
//!
//! A phone (a kernel with MPTCP) behind two emulated access links, one of them with a NAT, reaches a
//! web server through this very gateway; downloads, an upload, a link cut and a thousand sessions
//! are measured and judged. Everything lives in network namespaces named after this process, and
//! every way out of [`run`] removes them: each resource is owned by a value whose drop undoes it.

mod client;
mod clients;
mod content;
mod counters;
mod gateway;
mod links;
mod nic;
mod origin;
mod process;
mod requirements;
mod runs;
mod summary;
mod table;
mod topology;

use core::time::Duration;
use gateway::{Driver, Gateway};
use links::{Links, Shape};
use origin::Origin;
use process::{Error, Interrupt};
use requirements::{Missing, Requirements};
use runs::Stage;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use summary::Report;
use topology::{Access, Topology};

/// Exit code when something the demo needs is missing.
const EXIT_MISSING: u8 = 3;
/// Exit code after SIGINT and its like, as shells have it.
const EXIT_INTERRUPTED: u8 = 130;

/// Options of `proxy-gw demo`.
///
/// Exit codes: 0 every run took place and every check passed; 1 a check failed or a step could not be
/// done; 3 something needed is missing (named, with the apt line) and what could run was in order;
/// 130 interrupted.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What moves the gateway's packets
    #[arg(long, value_enum, default_value_t = Driver::Dpdk)]
    driver: Driver,
    /// Smaller transfers, a shorter cut and 100 sessions, for continuous integration; two seconds of
    /// download are mostly start-up, so combine it with --no-gates
    #[arg(long)]
    short: bool,
    /// Report the performance gates (ratio and gap) without letting them decide the exit code
    #[arg(long)]
    no_gates: bool,
    /// Keep the logs of the gateway and its surroundings in this directory
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// The link emulator; by default `netsim-live` next to this program
    #[arg(long, value_name = "FILE")]
    netsim_live: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Another demo, and processes of this one that are this program again, inside a namespace.
#[derive(clap::Subcommand, Debug)]
enum Part {
    /// The gateway on PCI network cards that QEMU emulates
    Nic(nic::NicArgs),
    /// The web server
    #[command(hide = true)]
    Origin(origin::OriginArgs),
    /// The concurrent sessions
    #[command(hide = true)]
    Clients(clients::ClientsArgs),
}

/// How much is transferred.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Yardsticks as long as the download takes, so that slow start weighs the same in both.
    alone_lte: u64,
    alone_wifi: u64,
    download: u64,
    upload: u64,
    cut_download: u64,
    cut_for: Duration,
    plain: u64,
    sessions: u32,
}

impl Sizes {
    const FULL: Self = Self {
        alone_lte: 60_000_000,
        alone_wifi: 40_000_000,
        download: 100_000_000,
        upload: 30_000_000,
        cut_download: 200_000_000,
        cut_for: Duration::from_secs(4),
        plain: 20_000_000,
        sessions: 1000,
    };
    const SHORT: Self = Self {
        alone_lte: 12_000_000,
        alone_wifi: 8_000_000,
        download: 20_000_000,
        upload: 8_000_000,
        // Enough for Wi-Fi to come back after its next retransmission, up to twice the cut away.
        cut_download: 60_000_000,
        cut_for: Duration::from_secs(2),
        plain: 6_000_000,
        sessions: 100,
    };
}

/// Runs the demo, or the part of it this process was started for.
pub fn run(args: Args) -> ExitCode {
    let performed = match &args.part {
        Some(Part::Origin(origin)) => return origin::serve(origin),
        Some(Part::Clients(clients)) => return clients::run(clients),
        Some(Part::Nic(nic)) => nic::perform(nic),
        None => perform(&args),
    };
    match performed {
        Ok(code) => code,
        Err(Error::Interrupted) => {
            eprintln!("\ndemo: interrupted; everything it made has been removed");
            ExitCode::from(EXIT_INTERRUPTED)
        }
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(args: &Args) -> Result<ExitCode, Error> {
    let executable = std::env::current_exe().map_err(Error::in_step("finding this program"))?;
    let emulator =
        args.netsim_live.clone().unwrap_or_else(|| executable.with_file_name("netsim-live"));
    let requirements = Requirements::probe(args.driver, &crate::version::drivers(), &emulator);
    report_missing(&requirements.missing);
    if !requirements.allow_a_run() {
        return Ok(ExitCode::from(EXIT_MISSING));
    }
    let start = Instant::now();
    let hugepages = reserved_hugepages();
    let mut report = stage(args, &requirements, &executable, &emulator)?;
    report.left_behind = topology::leftovers();
    let kept = reserved_hugepages().saturating_sub(hugepages);
    if kept > 0 {
        report.left_behind.push(format!("{kept} reserved hugepages"));
    }
    report.took = Some(start.elapsed());
    println!("\n{}", report.render(args.no_gates));
    let complete = requirements.missing.is_empty();
    Ok(if complete && report.passed(args.no_gates) {
        ExitCode::SUCCESS
    } else if !complete && report.is_only_incomplete() {
        ExitCode::from(EXIT_MISSING)
    } else {
        ExitCode::FAILURE
    })
}

/// Names what the machine lacks and what would install it.
fn report_missing(missing: &[Missing]) {
    for missing in missing {
        eprintln!("demo: missing: {missing}");
    }
    if let Some(line) = requirements::apt_line(missing) {
        eprintln!("demo: to install what is missing: {line}");
    }
}

/// Where logs go: the directory asked for, or the one that is removed in the end.
fn create_logs(wanted: Option<&Path>, dir: &TempDir) -> Result<PathBuf, Error> {
    let logs = wanted.unwrap_or(&dir.path);
    std::fs::create_dir_all(logs)
        .map_err(Error::in_step(format!("creating {}", logs.display())))?;
    Ok(logs.to_owned())
}

/// Sets the scene, plays every run and takes the scene down again, whatever happens.
fn stage(
    args: &Args,
    requirements: &Requirements,
    executable: &Path,
    emulator: &Path,
) -> Result<Report, Error> {
    let interrupt = Interrupt::install()?;
    let dir = TempDir::create()?;
    let logs = create_logs(args.log_dir.as_deref(), &dir)?;
    let log = |name: &str| logs.join(format!("{name}.log"));

    println!("demo: the gateway runs on {}", requirements.driver);
    for access in Access::BOTH {
        println!("demo: {access:4} {}", Shape::of(access));
    }
    let topology = Topology::create(requirements.has_nft, requirements.has_ethtool)?;
    interrupt.check()?;
    let links = Links::start(&topology, emulator, &dir.path, &log("links"), &interrupt)?;
    topology.attach_phone()?;
    if requirements.has_kernel_mptcp {
        topology.enable_mptcp()?;
    }
    let origin = Origin::start(&topology.origin, executable, &log("origin"), &interrupt)?;
    let gateway = Gateway::start(
        &topology,
        executable,
        requirements.driver,
        &dir.path,
        log("gateway"),
        &interrupt,
    )?;
    let sizes = if args.short { Sizes::SHORT } else { Sizes::FULL };
    // Declared last, dropped first: the processes end before their namespaces go.
    Stage::new(&topology, gateway, links, origin, interrupt, &dir.path, logs).play(
        &sizes,
        requirements,
        executable,
    )
}

/// How many hugepages of the default size the machine keeps ready.
fn reserved_hugepages() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// A private directory, removed with all it holds when dropped.
#[derive(Debug)]
struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Never takes over an existing path: it may be someone else's, or a link.
    fn create() -> Result<Self, Error> {
        let base = std::env::temp_dir();
        let mut last_error = None;
        for attempt in 0..16 {
            let path = base.join(format!("plait-demo-{}-{attempt}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) => last_error = Some(error),
            }
        }
        let cause = last_error.map_or_else(String::new, |error| error.to_string());
        Err(Error::new(format!("creating a directory in {}", base.display()), cause))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("demo: removing {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser, Debug)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &str) -> Result<Args, clap::Error> {
        Command::try_parse_from(words.split(' ')).map(|command| command.args)
    }

    #[test]
    fn options_are_those_documented() {
        let args = parse("demo").unwrap();
        assert!(args.driver == Driver::Dpdk && !args.short && !args.no_gates);
        let args = parse("demo --driver tun --short --no-gates --log-dir /x").unwrap();
        assert!(args.driver == Driver::Tun && args.short && args.no_gates);
        assert!(parse("demo --driver xdp").is_err());
        assert!(matches!(
            parse("demo origin --listen 10.0.0.1:80").unwrap().part,
            Some(Part::Origin(_))
        ));
    }

    #[test]
    fn a_temporary_directory_is_new_private_and_removed() {
        use std::os::unix::fs::PermissionsExt as _;
        let (one, other) = (TempDir::create().unwrap(), TempDir::create().unwrap());
        assert_ne!(one.path, other.path);
        assert_eq!(std::fs::metadata(&one.path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(one.path.join("file"), "x").unwrap();
        let path = one.path.clone();
        drop(one);
        assert!(!path.exists());
    }
}
