//! `proxy-gw demo nic`: the gateway on PCI network cards, by the drivers it has in a server.
//!
//! ```text
//!          lte0  ── tap ── card ┐  guest in QEMU:           ┌ card ── tap ── eth0  origin
//!   phone                       ├─ IOMMU, vfio-pci, gateway ┤
//!          wlan0 ── tap ── card ┘                           ┘
//! ```
//!
//! A guest boots with three cards of one model, hands them to the gateway and runs it; a phone outside,
//! whose kernel has MPTCP, downloads through two of them at once. Function is judged, speed is not: the
//! guest's processors are emulated.

mod guest;
mod image;
mod outcome;

use super::client::{Curl, Dial};
use super::counters::Mib;
use super::gateway::config_on;
use super::origin::{self, Origin};
use super::process::{Error, Interrupt};
use super::requirements::missing_for_nics;
use super::runs::read_links;
use super::summary::{Run, Transfer};
use super::topology::{
    self, Access, GATEWAY_EXIT, Namespace, ORIGIN, ORIGIN_DEVICE, attach, enable_mptcp,
};
use super::{EXIT_MISSING, TempDir, create_logs, report_missing};
use core::time::Duration;
use guest::{Guest, Model, pci_addresses};
use image::Image;
use outcome::{Outcome, Ports, table};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Enough for both cards to carry thousands of full frames.
const DOWNLOAD: u64 = 8_000_000;
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(120);
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// The stream of [`super::content`] that is downloaded.
const SEED: u64 = 82_574;
/// The taps' names, in the guest's namespace first and in the phone's and the origin's afterwards.
const TAPS: [&str; 3] = [Access::Lte.phone_device(), Access::Wifi.phone_device(), ORIGIN_DEVICE];

/// Options of `proxy-gw demo nic`.
///
/// Exit codes are those of `proxy-gw demo`.
#[derive(clap::Args, Debug)]
pub(super) struct NicArgs {
    /// Where `scripts/guest-kernel` has put the guest's kernel
    #[arg(long, value_name = "DIR")]
    kernel: PathBuf,
    /// Cards to emulate, in one guest after the other
    #[arg(long, value_enum, value_delimiter = ',',
        default_values_t = [Model::E1000e, Model::Vmxnet3, Model::VirtioNetPci])]
    model: Vec<Model>,
    /// Keep the guests' consoles and the other logs in this directory
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
}

/// Boots a guest for each model and prints what became of it.
pub(super) fn perform(args: &NicArgs) -> Result<ExitCode, Error> {
    let executable = std::env::current_exe().map_err(Error::in_step("finding this program"))?;
    let missing = missing_for_nics(&crate::version::drivers(), &args.kernel);
    report_missing(&missing);
    if !missing.is_empty() {
        return Ok(ExitCode::from(EXIT_MISSING));
    }
    let interrupt = Interrupt::install()?;
    let dir = TempDir::create()?;
    let logs = create_logs(args.log_dir.as_deref(), &dir)?;
    let image = Image::build(&executable, &args.kernel, &config(), &dir.path)?;

    let mut rows = Vec::new();
    for &model in &args.model {
        println!("\n{model}: three cards in a guest of QEMU's, for DPDK's {}", model.driver());
        let outcome = match play(model, &image, &logs, &executable, &interrupt) {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                println!("  {error}");
                None
            }
            Ok(outcome) => {
                outcome.faults().iter().for_each(|fault| println!("  FAILED: {fault}"));
                Some(outcome)
            }
        };
        rows.push((model, outcome));
    }
    println!("\n{}", table(&rows));
    let left_behind = topology::leftovers();
    left_behind.iter().for_each(|name| println!("left behind: {name}"));
    let passed = |outcome: &Option<Outcome>| {
        outcome.as_ref().is_some_and(|outcome| outcome.faults().is_empty())
    };
    let passed = left_behind.is_empty() && rows.iter().all(|(_, outcome)| passed(outcome));
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The gateway's configuration in the guest, the same for every model. In turn, so that either card
/// carries its part however fast the other one is.
fn config() -> String {
    let driver = "kind = \"dpdk\"\nhugepages = \"require\"\nmemory_mb = 256\n";
    let ports = config_on(driver, &pci_addresses(), 1, "127.0.0.1:9180");
    format!("{ports}\n[mptcp]\nscheduler = \"round_robin\"\n")
}

/// The phone and the origin, and the guest's namespace, which has nothing in it but QEMU.
struct Network {
    phone: Namespace,
    origin: Namespace,
    guest: Namespace,
}

impl Network {
    fn create() -> Result<Self, Error> {
        Ok(Self {
            phone: Namespace::create("phone")?,
            origin: Namespace::create("origin")?,
            guest: Namespace::create("guest")?,
        })
    }

    /// Moves the taps to where they belong, once QEMU has made them: it keeps hold of them, and they
    /// vanish with it.
    fn connect(&self, guest: &mut Guest, interrupt: &Interrupt) -> Result<(), Error> {
        let all_made = || -> Result<bool, Error> {
            let devices = self.guest.proc_net("dev")?;
            Ok(TAPS.iter().all(|tap| devices.contains(&format!("{tap}:"))))
        };
        let mut made = Ok(false);
        interrupt.wait_for(Duration::from_secs(60), || {
            made = all_made();
            !guest.is_running() || !matches!(made, Ok(false))
        })?;
        if !made? {
            return Err(guest.failure("QEMU made no taps"));
        }
        for (tap, to) in TAPS.into_iter().zip([&self.phone, &self.phone, &self.origin]) {
            self.guest.ip(&format!("link set {tap} netns {}", to.name()))?;
        }
        self.phone.ip("link set lo up")?;
        for access in Access::BOTH {
            // On the gateway's own link: there is no router between.
            attach(&self.phone, access, access.core_router(), access.gateway_address())?;
        }
        enable_mptcp(&self.phone, Access::Wifi.core_router())?;
        self.origin.ip(&format!("addr add {ORIGIN}/24 dev {ORIGIN_DEVICE}"))?;
        self.origin.ip(&format!("link set {ORIGIN_DEVICE} up"))?;
        self.origin.ip(&format!("route add default via {GATEWAY_EXIT}"))
    }
}

/// One guest from its start to its end.
fn play(
    model: Model,
    image: &Image,
    logs: &Path,
    executable: &Path,
    interrupt: &Interrupt,
) -> Result<Outcome, Error> {
    let network = Network::create()?;
    // Declared later, dropped earlier: the processes end before their namespaces go.
    let mut guest = Guest::boot(&network.guest, image, model, TAPS, logs)?;
    network.connect(&mut guest, interrupt)?;
    let log = logs.join(format!("{model}-origin.log"));
    let origin = Origin::start(&network.origin, executable, &log, interrupt)?;
    let say = |at: Duration, text: &str| println!("  {:6.1} s  {text}", at.as_secs_f64());

    guest.wait_until_up(interrupt)?;
    let up = guest.age();
    say(up, "the guest runs");
    let nics = guest.wait_until_ready(interrupt)?;
    let ready = guest.age();
    say(ready, "the gateway is ready");
    for nic in &nics {
        println!("            {nic}");
    }
    let start_up = guest.console();
    let ports = Ports::logged(&start_up);
    println!("            {ports}");
    for fault in outcome::dma_faults(&start_up) {
        println!("            the IOMMU stopped a card at its start: {fault}");
    }

    let (links_before, mib_before) = (read_links(&network.phone)?, Mib::read(&network.phone)?);
    let transfer = download(&network.phone, &origin, interrupt)?;
    let links = read_links(&network.phone)?;
    let transfer =
        Transfer { paths: [0, 1].map(|idx| links[idx].since(links_before[idx])), ..transfer };
    say(guest.age(), &outcome::describe(&transfer));
    let phone_mib = Mib::read(&network.phone)?.since(&mib_before);
    println!("            the phone's kernel: {}", phone_mib.mptcp_moves().join(", "));
    let metrics = guest.metrics(interrupt)?;
    let status = guest.end(interrupt)?;
    say(
        guest.age(),
        &format!("SIGTERM: the gateway ended with exit status {status}, the guest is off"),
    );
    let whole = guest.console();
    let console = whole.get(start_up.len()..).unwrap_or(&whole).to_owned();
    Ok(Outcome {
        model,
        nics,
        ports,
        up,
        ready,
        transfer,
        phone_mib,
        metrics,
        status,
        start_up,
        console,
    })
}

/// Downloads through the gateway; what the phone's devices carried is not filled in.
fn download(phone: &Namespace, origin: &Origin, interrupt: &Interrupt) -> Result<Transfer, Error> {
    let start = Instant::now();
    let curl = Curl::download(phone, Dial::MPTCP, DOWNLOAD, SEED)?;
    // Given up unfinished, it says so itself.
    interrupt.wait_for(DOWNLOAD_TIMEOUT, || curl.is_finished())?;
    let delivery = curl.finish()?;
    let elapsed = start.elapsed();
    let sent = origin.report(REPORT_TIMEOUT, interrupt, |_| true)?;
    Ok(Transfer {
        run: Run::Download,
        wanted: DOWNLOAD,
        len: delivery.len,
        elapsed,
        paths: Default::default(),
        longest_gap: delivery.gaps.longest(),
        longest_gap_at: delivery.gaps.longest_at(),
        sent: sent.map(origin::Transfer::digest),
        received: Some(delivery.digest),
        error: delivery.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_accepts_the_guests_configuration() {
        let text = config();
        let parsed = crate::config::parse("gateway.toml", &text, &[]);
        assert!(parsed.is_ok(), "{:?}\n{text}", parsed.err());
        assert!(text.contains("device = \"0000:00:12.0\""), "{text}");
    }
}
