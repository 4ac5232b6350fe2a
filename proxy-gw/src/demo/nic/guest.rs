//! The machine in QEMU that the gateway runs in: booted, asked and switched off.
//!
//! Invariant: the guest is known by two serial lines alone. The first is its console with the
//! gateway's log, a file; over the second it answers what [`init.sh`](init.sh) is told to do.

use super::super::process::{Error, Interrupt, Process, in_netns, log_file};
use super::super::topology::Namespace;
use super::image::Image;
use core::fmt;
use core::time::Duration;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::Instant;

/// A quiet machine boots in ten seconds; one whose cores are wanted elsewhere takes minutes.
const BOOT_TIMEOUT: Duration = Duration::from_secs(240);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than the gateway's drain deadline.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of the console that an error shows.
const CONSOLE_TAIL: usize = 60;
/// Where the first card is on the PCI bus; the others follow.
const FIRST_SLOT: u8 = 0x10;

/// A network card that QEMU emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Model {
    /// Intel 82574L
    E1000e,
    /// VMware's paravirtual card
    Vmxnet3,
    /// Virtio over PCI
    VirtioNetPci,
}

impl Model {
    /// The poll-mode driver that it needs, as the gateway's log has it.
    pub(super) const fn driver(self) -> &'static str {
        match self {
            Self::E1000e => "net_e1000_em",
            Self::Vmxnet3 => "net_vmxnet3",
            Self::VirtioNetPci => "net_virtio",
        }
    }

    /// Accesses that the IOMMU stops while DPDK 22.11 starts one card: its vmxnet3 tells the card of
    /// features and VLAN filters before it tells where they are, and the card looks at address 0.
    pub(super) const fn stopped_at_start(self) -> usize {
        match self {
            Self::Vmxnet3 => 2,
            Self::E1000e | Self::VirtioNetPci => 0,
        }
    }

    /// Virtio is asked to keep to the IOMMU; for the others there is no other way.
    const fn options(self) -> &'static str {
        match self {
            Self::E1000e | Self::Vmxnet3 => "",
            Self::VirtioNetPci => ",iommu_platform=on,disable-legacy=on,ats=on",
        }
    }
}

/// QEMU's name for it.
impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::E1000e => "e1000e",
            Self::Vmxnet3 => "vmxnet3",
            Self::VirtioNetPci => "virtio-net-pci",
        })
    }
}

/// PCI addresses of the cards, in order.
pub(super) fn pci_addresses() -> [String; 3] {
    [0, 1, 2].map(|card| format!("0000:00:{:02x}.0", FIRST_SLOT + card))
}

/// A card as the guest's kernel hands it to the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) address: String,
    /// Vendor and device.
    pub(super) id: String,
    /// The kernel's driver.
    pub(super) driver: String,
    pub(super) iommu_group: String,
}

impl Nic {
    /// `nic ADDRESS VENDOR:DEVICE DRIVER GROUP`; what is missing is missing.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("nic ")?.split(' ').map(str::to_owned);
        Some(Self {
            address: words.next()?,
            id: words.next()?,
            driver: words.next().unwrap_or_default(),
            iommu_group: words.next().unwrap_or_default(),
        })
    }

    pub(super) fn is_on_vfio(&self) -> bool {
        self.driver == "vfio-pci" && !self.iommu_group.is_empty()
    }
}

impl fmt::Display for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, id, driver, iommu_group } = self;
        write!(f, "{address} [{id}] is on {driver}, IOMMU group {iommu_group}")
    }
}

/// The running guest.
#[derive(Debug)]
pub(super) struct Guest {
    answers: Receiver<String>,
    orders: ChildStdin,
    process: Process,
    console: PathBuf,
    started: Instant,
}

impl Guest {
    /// Starts QEMU in `namespace` with one card of `model` on each of `taps`, which it creates there.
    pub(super) fn boot(
        namespace: &Namespace,
        image: &Image,
        model: Model,
        taps: [&str; 3],
        logs: &Path,
    ) -> Result<Self, Error> {
        let console = logs.join(format!("{model}-console.log"));
        let mut command = in_netns(namespace.name(), "qemu-system-x86_64");
        command.args(arguments(image, model, taps, &console));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(log_file(&logs.join(format!("{model}-qemu.log")))?);
        let mut process = Process::spawn("QEMU", &mut command)?;
        let started = Instant::now();
        let orders = process.take_stdin()?;
        let lines = BufReader::new(process.take_stdout()?).lines();
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            // Ends with QEMU, or once nobody listens.
            lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self { answers, orders, process, console, started })
    }

    /// Since QEMU was started.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether QEMU still runs; once it does not, [`Self::failure`] says why.
    pub(super) fn is_running(&mut self) -> bool {
        self.process.try_status().is_none()
    }

    /// Waits until the guest's first process speaks.
    pub(super) fn wait_until_up(&mut self, interrupt: &Interrupt) -> Result<(), Error> {
        self.answer(BOOT_TIMEOUT, interrupt, |line| (line == "up").then_some(()))
    }

    /// Waits until the gateway is ready; returns the cards it was given.
    pub(super) fn wait_until_ready(&mut self, interrupt: &Interrupt) -> Result<Vec<Nic>, Error> {
        let mut nics = Vec::new();
        let left = BOOT_TIMEOUT.saturating_sub(self.age());
        self.answer(left, interrupt, |line| {
            nics.extend(Nic::parse(line));
            (line == "ready").then_some(())
        })?;
        Ok(nics)
    }

    /// What the gateway's `/metrics` says.
    pub(super) fn metrics(&mut self, interrupt: &Interrupt) -> Result<String, Error> {
        self.order("metrics")?;
        let mut text = String::new();
        self.answer(ANSWER_TIMEOUT, interrupt, |line| {
            let ended = line == "end";
            text.extend((!ended).then(|| format!("{line}\n")));
            ended.then_some(())
        })?;
        Ok(text)
    }

    /// SIGTERM to the gateway, and the guest switched off after it; returns its exit status.
    pub(super) fn end(&mut self, interrupt: &Interrupt) -> Result<i32, Error> {
        self.order("term")?;
        let status = self.answer(END_TIMEOUT, interrupt, status)?;
        self.order("off")?;
        let process = &mut self.process;
        if !interrupt.wait_for(END_TIMEOUT, || process.try_status().is_some())? {
            return Err(self.failure("it does not switch off"));
        }
        match self.process.try_status() {
            Some(ended) if !ended.success() => Err(self.failure(&format!("QEMU: {ended}"))),
            _ => Ok(status),
        }
    }

    /// All of the console so far.
    pub(super) fn console(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// `cause` with the end of the console.
    pub(super) fn failure(&self, cause: &str) -> Error {
        let console = self.console();
        let lines: Vec<_> = console.lines().collect();
        let tail = lines[lines.len().saturating_sub(CONSOLE_TAIL)..].join("\n    ");
        let qemu = self.console.to_string_lossy().replace("-console.log", "-qemu.log");
        let qemu = std::fs::read_to_string(qemu).unwrap_or_default();
        Error::new(
            "the guest",
            format!("{cause}; QEMU said {:?}; its console:\n    {tail}", qemu.trim()),
        )
    }

    fn order(&mut self, word: &str) -> Result<(), Error> {
        let written = writeln!(self.orders, "{word}").and_then(|()| self.orders.flush());
        written.map_err(|error| self.failure(&format!("telling it {word:?}: {error}")))
    }

    /// The first answer that `wanted` makes something of. The gateway's end, when it is not what is
    /// waited for, is a failure.
    fn answer<T>(
        &mut self,
        timeout: Duration,
        interrupt: &Interrupt,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, Error> {
        let mut outcome = Err(format!("no answer within {} s", timeout.as_secs()));
        let answers = &self.answers;
        interrupt.wait_for(timeout, || {
            loop {
                let line = match answers.try_recv() {
                    Ok(line) => line,
                    Err(TryRecvError::Empty) => return false,
                    Err(TryRecvError::Disconnected) => {
                        outcome = Err("QEMU ended".to_owned());
                        return true;
                    }
                };
                if let Some(found) = wanted(&line) {
                    outcome = Ok(found);
                    return true;
                }
                if let Some(status) = status(&line) {
                    outcome = Err(format!("the gateway ended with exit status {status}"));
                    return true;
                }
            }
        })?;
        outcome.map_err(|cause| self.failure(&cause))
    }
}

/// The gateway's exit status, if that is what the line says.
fn status(line: &str) -> Option<i32> {
    line.strip_prefix("status ")?.parse().ok()
}

/// What QEMU is started with: two processors, an IOMMU as in a server, and nothing else but the
/// cards and the serial lines. It emulates the processors: no use is made of virtualisation, which a
/// virtual machine may not have.
fn arguments(image: &Image, model: Model, taps: [&str; 3], console: &Path) -> Vec<String> {
    let mut words: Vec<String> = [
        "-nodefaults -no-user-config -display none -no-reboot",
        "-machine q35 -accel tcg,thread=multi -cpu max -smp 2 -m 768",
        "-device intel-iommu,intremap=on,caching-mode=on,aw-bits=48,device-iotlb=on",
    ]
    .iter()
    .flat_map(|line| line.split(' ').map(str::to_owned))
    .collect();
    let file = |path: &Path| path.to_string_lossy().into_owned();
    // Commas in a value are doubled.
    let console = file(console).replace(',', ",,");
    // As docs/operations.md has it for a server: 150 hugepages for the 256 MB of the gateway's memory
    // and some to spare, and the second processor for its shard alone.
    let append = "console=ttyS0 quiet loglevel=4 panic=-1 intel_iommu=on hugepages=150 \
                  isolcpus=1 nohz_full=1 rcu_nocbs=1";
    words.extend(["-kernel".to_owned(), file(&image.kernel)]);
    words.extend(["-initrd".to_owned(), file(&image.initrd)]);
    words.extend(["-append".to_owned(), append.to_owned()]);
    words.extend(["-chardev".to_owned(), format!("file,id=console,path={console}")]);
    words.extend(["-serial", "chardev:console", "-serial", "stdio"].map(str::to_owned));
    for (card, tap) in (FIRST_SLOT..).zip(taps) {
        let netdev = format!("tap,id={tap},ifname={tap},script=no,downscript=no");
        let options = model.options();
        let device =
            format!("{model},netdev={tap},addr={card:x},mac=02:71:00:01:00:{card:02x}{options}");
        words.extend(["-netdev".to_owned(), netdev, "-device".to_owned(), device]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_where_the_configuration_says() {
        let image = Image { kernel: "/k".into(), initrd: "/i".into() };
        let taps = ["lte0", "wlan0", "eth0"];
        let words = arguments(&image, Model::VirtioNetPci, taps, Path::new("/a,b/c.log")).join(" ");
        assert!(words.contains("-chardev file,id=console,path=/a,,b/c.log "), "{words}");
        assert!(words.contains("virtio-net-pci,netdev=eth0,addr=12,mac=02:71:00:01:00:12,iommu"));
        assert_eq!(pci_addresses(), ["0000:00:10.0", "0000:00:11.0", "0000:00:12.0"]);
        let words = arguments(&image, Model::E1000e, taps, Path::new("/c.log")).join(" ");
        assert!(words.contains("-device e1000e,netdev=lte0,addr=10,mac=02:71:00:01:00:10 "));
    }

    #[test]
    fn the_guests_answers_are_read() {
        let nic = Nic::parse("nic 0000:00:10.0 0x8086:0x10d3 vfio-pci 1").unwrap();
        assert_eq!((nic.address.as_str(), nic.id.as_str()), ("0000:00:10.0", "0x8086:0x10d3"));
        assert_eq!((nic.driver.as_str(), nic.iommu_group.as_str()), ("vfio-pci", "1"));
        assert_eq!(Nic::parse("nic 0000:00:10.0 0x8086:0x10d3  ").unwrap().driver, "");
        assert_eq!(Nic::parse("ready"), None);
        assert_eq!((status("status 4"), status("status"), status("up")), (Some(4), None, None));
    }
}
