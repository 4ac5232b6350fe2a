//! What became of one guest: what its gateway said, and whether everything was as it should be.

use super::super::counters::Mib;
use super::super::summary::Transfer;
use super::super::table::{mega, per_cent};
use super::super::topology::Access;
use super::guest::{Model, Nic};
use core::fmt::{self, Write as _};
use core::time::Duration;

/// The gateway uses both cards in turn; one that carried less than this has not taken its part.
const SHARE_MIN_PER_CENT: f64 = 20.0;
const CARDS: usize = 3;

/// Ports as the gateway's log names them: port, device and poll-mode driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports(Vec<[String; 3]>);

impl Ports {
    /// From lines such as `... port lte: 0000:00:10.0 (net_e1000_em), ...`.
    pub(super) fn logged(console: &str) -> Self {
        let port = |line: &str| {
            let (name, rest) = line.split_once(": port ")?.1.split_once(": ")?;
            let (device, rest) = rest.split_once(" (")?;
            let (driver, _) = rest.split_once(')')?;
            Some([name, device, driver].map(str::to_owned))
        };
        Self(console.lines().filter_map(port).collect())
    }

    fn are_all_on(&self, driver: &str) -> bool {
        self.0.len() == CARDS && self.0.iter().all(|[_, _, of]| of == driver)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, [name, device, driver]) in self.0.iter().enumerate() {
            let comma = if idx == 0 { "" } else { ", " };
            write!(f, "{comma}port {name} is {device} on {driver}")?;
        }
        Ok(())
    }
}

/// One guest's life.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) model: Model,
    pub(super) nics: Vec<Nic>,
    pub(super) ports: Ports,
    /// From QEMU's start to the guest's first process, and to the gateway's `ready`.
    pub(super) up: Duration,
    pub(super) ready: Duration,
    pub(super) transfer: Transfer,
    /// How the counters of the phone moved.
    pub(super) phone_mib: Mib,
    /// The gateway's, after the transfer.
    pub(super) metrics: String,
    /// The gateway's exit status.
    pub(super) status: i32,
    /// The guest's console until the gateway was ready, and from then on.
    pub(super) start_up: String,
    pub(super) console: String,
}

impl Outcome {
    /// Everything that is not as it should be.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, otherwise: String| {
            if !holds {
                faults.push(otherwise);
            }
        };
        let bound = self.nics.iter().filter(|nic| nic.is_on_vfio()).count();
        expect(bound == CARDS, format!("{bound} cards of {CARDS} went to vfio-pci"));
        let driver = self.model.driver();
        expect(self.ports.are_all_on(driver), format!("not all ports are on {driver}"));
        for Nic { address, .. } in &self.nics {
            let card = format!("[{}]", address.trim_start_matches("0000:"));
            let stopped = dma_faults(&self.start_up);
            let stopped = stopped.iter().filter(|fault| fault.contains(&card)).count();
            let usual = stopped <= self.model.stopped_at_start();
            expect(
                usual,
                format!("the IOMMU stopped {stopped} accesses of {address} at its start"),
            );
        }
        let dma = dma_faults(&self.console);
        expect(dma.is_empty(), format!("the IOMMU stopped the cards: {}", dma.join("; ")));
        let fault = self.transfer.fault();
        expect(fault.is_none(), format!("the download: {}", fault.unwrap_or_default()));
        for access in Access::BOTH {
            let share = self.share(access);
            let enough = share >= SHARE_MIN_PER_CENT;
            expect(enough, format!("{access} carried {share:.1} % of the bytes"));
        }
        let joins = self.joins();
        expect(joins >= 1, "the gateway counted no join".to_owned());
        // Joins that it asked for, `MPJoinSynTx`, older kernels do not count, Debian 12's among them.
        let answered = "MPTcpExtMPJoinSynAckRx";
        expect(self.phone_mib.value(answered) >= 1, format!("the phone counted no {answered}"));
        let told = self.phone_mib.mptcp_faults();
        expect(told.is_empty(), format!("the phone counted {}", told.join(", ")));
        expect(self.status == 0, format!("the gateway's exit status is {}", self.status));
        faults
    }

    /// Per cent of the bytes on the phone's devices.
    fn share(&self, access: Access) -> f64 {
        let paths = &self.transfer.paths;
        let total = paths.iter().map(|path| path.total()).sum();
        per_cent(paths[access as usize].total(), total)
    }

    /// Joins that the gateway completed.
    fn joins(&self) -> u64 {
        counter(&self.metrics, "plait_mp_join_ack_rx_total")
    }
}

/// What the guest's kernel says of accesses to memory that no driver gave to a card.
pub(super) fn dma_faults(console: &str) -> Vec<&str> {
    let faults = console.lines().filter_map(|line| line.split_once("DMAR: "));
    faults.map(|(_, what)| what).filter(|what| what.starts_with("[DMA ")).collect()
}

/// The sum of a counter over all shards, in the text that Prometheus reads.
fn counter(metrics: &str, name: &str) -> u64 {
    let samples = metrics.lines().filter_map(|line| {
        let value = line.strip_prefix(name)?;
        let value =
            value.strip_prefix('{').map_or(Some(value), |of| Some(of.split_once('}')?.1))?;
        value.strip_prefix(' ')?.parse::<u64>().ok()
    });
    samples.sum()
}

/// A transfer in a line.
pub(super) fn describe(transfer: &Transfer) -> String {
    let [lte, wifi] = &transfer.paths;
    format!(
        "curl got {:.1} of {:.1} MB in {:.2} s; LTE's card carried {:.2} MB, Wi-Fi's {:.2} MB",
        mega(transfer.len),
        mega(transfer.wanted),
        transfer.elapsed.as_secs_f64(),
        mega(lte.total()),
        mega(wifi.total())
    )
}

/// One line for each guest; without an outcome it came to an early end.
pub(super) fn table(rows: &[(Model, Option<Outcome>)]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<15} {:<13} {:>8} {:>8} {:>9} {:>6} {:>6} {:>6} {:>5} {:>5}  {:<7} verdict",
        "card",
        "driver",
        "guest",
        "ready",
        "download",
        "LTE",
        "Wi-Fi",
        "joins",
        "DMA",
        "exit",
        "SHA-256",
    );
    for (model, outcome) in rows {
        let _ = write!(text, "{model:<15} {:<13} ", model.driver());
        let Some(outcome) = outcome else {
            let _ = writeln!(text, "FAILED early, see above");
            continue;
        };
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let share = |access| format!("{:.0} %", outcome.share(access));
        let transfer = &outcome.transfer;
        let identical = if transfer.fault().is_none() { "same" } else { "DIFFERS" };
        let verdict = if outcome.faults().is_empty() { "passed" } else { "FAILED" };
        let _ = writeln!(
            text,
            "{:>8} {:>8} {:>9} {:>6} {:>6} {:>6} {:>5} {:>5}  {identical:<7} {verdict}",
            seconds(outcome.up),
            seconds(outcome.ready),
            seconds(transfer.elapsed),
            share(Access::Lte),
            share(Access::Wifi),
            outcome.joins(),
            dma_faults(&outcome.console).len(),
            outcome.status,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::content::Digest;
    use super::super::super::counters::LinkBytes;
    use super::super::super::summary::Run;
    use super::*;

    const CONSOLE: &str = "\
        2026-11-29T16:16:03.609Z INFO  dpdk_io::driver::present: port lte: 0000:00:10.0 \
        (net_e1000_em), [02, 71, 00, 00, 00, 10], link down\n\
        INFO  dpdk_io::driver::present: port wifi: 0000:00:11.0 (net_e1000_em), [02], link up\n\
        ready\n\
        INFO  dpdk_io::driver::present: port exit: 0000:00:12.0 (net_e1000_em), [02], link up\n";

    fn good() -> Outcome {
        let nic = |address: &str| Nic {
            address: address.to_owned(),
            id: "0x8086:0x10d3".to_owned(),
            driver: "vfio-pci".to_owned(),
            iommu_group: "1".to_owned(),
        };
        let digest = Some(Digest::of_content(1, 9));
        let path = LinkBytes { rx: 4_000_000, tx: 100 };
        Outcome {
            model: Model::E1000e,
            nics: ["0000:00:10.0", "0000:00:11.0", "0000:00:12.0"].map(nic).to_vec(),
            ports: Ports::logged(CONSOLE),
            up: Duration::from_millis(4_200),
            ready: Duration::from_millis(9_100),
            transfer: Transfer {
                run: Run::Download,
                wanted: 9,
                len: 9,
                elapsed: Duration::from_millis(300),
                paths: [path, path],
                longest_gap: Duration::ZERO,
                longest_gap_at: Duration::ZERO,
                sent: digest,
                received: digest,
                error: None,
            },
            phone_mib: Mib::from_pairs(&[
                ("MPTcpExtMPJoinSynTx", 1),
                ("MPTcpExtMPJoinSynAckRx", 1),
            ]),
            metrics: "plait_mp_join_ack_rx_total{shard=\"0\"} 1\n".to_owned(),
            status: 0,
            start_up: CONSOLE.to_owned(),
            console: String::new(),
        }
    }

    #[test]
    fn a_good_run_has_no_faults() {
        assert_eq!(good().faults(), [""; 0]);
        let table = table(&[(Model::E1000e, Some(good())), (Model::Vmxnet3, None)]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>().join(" "),
            "e1000e net_e1000_em 4.2 s 9.1 s 0.3 s 50 % 50 % 1 0 0 same passed"
        );
        assert!(lines[2].contains("net_vmxnet3") && lines[2].contains("FAILED"), "{table}");
    }

    #[test]
    fn every_fault_is_named() {
        let told = |change: fn(&mut Outcome)| {
            let mut outcome = good();
            change(&mut outcome);
            outcome.faults().join("\n")
        };
        assert_eq!(told(|of| of.status = 4), "the gateway's exit status is 4");
        assert_eq!(told(|of| of.nics.truncate(2)), "2 cards of 3 went to vfio-pci");
        assert_eq!(told(|of| of.model = Model::Vmxnet3), "not all ports are on net_vmxnet3");
        assert_eq!(told(|of| of.transfer.len = 8), "the download: 8 of 9 bytes arrived");
        let text = told(|of| of.transfer.paths[1] = LinkBytes { rx: 60_000, tx: 0 });
        assert_eq!(text, "wifi carried 1.5 % of the bytes");
        assert_eq!(told(|of| of.metrics.clear()), "the gateway counted no join");
        let text = told(|of| {
            of.console.push_str("[    6.4] DMAR: [DMA Read NO_PASID] Request device [00:10.0]\n");
        });
        assert_eq!(
            text,
            "the IOMMU stopped the cards: [DMA Read NO_PASID] Request device [00:10.0]"
        );
        let text = told(|of| {
            of.start_up.push_str("DMAR: [DMA Read NO_PASID] Request device [00:11.0] fault\n");
        });
        assert_eq!(text, "the IOMMU stopped 1 accesses of 0000:00:11.0 at its start");
        let text = told(|of| of.phone_mib = Mib::from_pairs(&[("MPTcpExtDSSNotMatching", 1)]));
        assert!(text.contains("no MPTcpExtMPJoinSynAckRx") && text.contains("DSSNotMatching +1"));
        let text = told(|of| of.phone_mib = Mib::from_pairs(&[("MPTcpExtMPJoinSynAckRx", 1)]));
        assert_eq!(text, "", "Debian 12's kernel counts no more than that");
    }

    #[test]
    fn counters_are_summed_over_shards() {
        let metrics =
            "# HELP a_total x\na_total{shard=\"0\"} 2\na_total{shard=\"1\"} 3\na_total_b 9\n";
        assert_eq!(counter(metrics, "a_total"), 5);
        assert_eq!(counter("a_total 4\n", "a_total"), 4);
        assert_eq!(counter(metrics, "b_total"), 0);
    }
}
