//! The two emulated access links, kept by one `netsim-live` process.
//!
//! Invariant: the devices are made inside the namespaces and vanish with the process, so a link never
//! outlives the demo.

use super::process::{Error, Interrupt, Process, log_file, run};
use super::topology::{Access, ROUTER_DOWN, Topology};
use core::fmt;
use core::time::Duration;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

/// Real-time priority of the emulator: a link that waits for a CPU has another rate and delay.
const FIFO_PRIORITY: &str = "10";

/// What an access link is like, the same both ways.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) rate_mbit: u32,
    /// One way; the round trip takes twice as long.
    delay_us: u32,
    /// Tail-drop limit; of the order of a round trip's worth of data, so TCP can fill the link.
    queue_kib: u32,
}

impl Shape {
    pub(super) const fn of(access: Access) -> Self {
        match access {
            Access::Lte => Self { rate_mbit: 60, delay_us: 20_000, queue_kib: 320 },
            Access::Wifi => Self { rate_mbit: 40, delay_us: 7_500, queue_kib: 160 },
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let round_trip_ms = self.delay_us * 2 / 1000;
        write!(f, "{} Mbit/s, {round_trip_ms} ms round trip", self.rate_mbit)
    }
}

/// The running links.
#[derive(Debug)]
pub(super) struct Links {
    emulator: PathBuf,
    control: PathBuf,
    process: Process,
    is_cut: [bool; 2],
}

impl Links {
    /// Creates the phone's devices and the routers' ends; they are up when this returns.
    pub(super) fn start(
        topology: &Topology,
        emulator: &Path,
        dir: &Path,
        log: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self, Error> {
        let control = dir.join("links.sock");
        let mut command = realtime_command(emulator);
        command.args(["run", "--control"]).arg(&control);
        for access in Access::BOTH {
            let (phone, router) = (topology.phone.name(), topology.router(access).name());
            command.args(["--link", &specification(access, phone, router)]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log_file(log)?);
        let mut process = Process::spawn("the link emulator", &mut command)?;
        let mut lines = BufReader::new(process.take_stdout()?).lines();
        let (sender, ready) = mpsc::channel();
        thread::spawn(move || {
            // Ends with the process; reading on keeps its output from blocking.
            while let Some(Ok(line)) = lines.next() {
                if line.trim() == "ready" {
                    let _ = sender.send(());
                }
            }
        });
        let mut is_ready = false;
        interrupt.wait_for(Duration::from_secs(10), || {
            is_ready = ready.try_recv().is_ok();
            is_ready || process.try_status().is_some()
        })?;
        // It may have said `ready` and ended between the two looks; then the first use tells.
        if !is_ready {
            let cause = std::fs::read_to_string(log).unwrap_or_default();
            return Err(Error::new("starting the link emulator", cause.trim()));
        }
        Ok(Self { emulator: emulator.to_owned(), control, process, is_cut: [false; 2] })
    }

    /// Makes a link swallow everything both ways, or carry again; nobody is told either way.
    pub(super) fn set_cut(&mut self, access: Access, is_cut: bool) -> Result<(), Error> {
        let mut command = Command::new(&self.emulator);
        command.arg("ctl").arg(&self.control);
        command.args(["set", &access.to_string()]);
        command.arg(if is_cut { "blackhole=1" } else { "blackhole=0" });
        run("changing an emulated link", &mut command)?;
        self.is_cut[access as usize] = is_cut;
        Ok(())
    }

    pub(super) const fn is_cut(&self, access: Access) -> bool {
        self.is_cut[access as usize]
    }

    /// Whether the emulator still runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.process.try_status().is_none()
    }
}

/// The emulator at real-time priority where the kernel grants it.
fn realtime_command(emulator: &Path) -> Command {
    let fifo = ["--fifo", FIFO_PRIORITY];
    let granted = run("trying chrt", Command::new("chrt").args(fifo).arg("true")).is_ok();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if granted {
        command.arg("chrt").args(fifo);
    }
    command.arg(emulator);
    command
}

fn specification(access: Access, phone: &str, router: &str) -> String {
    let Shape { rate_mbit, delay_us, queue_kib } = Shape::of(access);
    format!(
        "{access} a={phone}:{} b={router}:{ROUTER_DOWN} rate={rate_mbit}mbit delay={delay_us}us \
         queue={queue_kib}KiB",
        access.phone_device()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_links_are_those_promised() {
        assert_eq!(
            specification(Access::Wifi, "p", "r"),
            "wifi a=p:wlan0 b=r:phone rate=40mbit delay=7500us queue=160KiB"
        );
        assert_eq!(Shape::of(Access::Lte).to_string(), "60 Mbit/s, 40 ms round trip");
        assert_eq!(Shape::of(Access::Wifi).to_string(), "40 Mbit/s, 15 ms round trip");
    }
}
