//! A start that fails gives back the hugepages that were reserved for it.
//!
//! Needs an EAL, and so a process, of its own; and root, without which it says SKIPPED. Without libdpdk there is
//! nothing to test that `driver.rs` does not say.

#[cfg(have_dpdk)]
#[test]
fn a_start_that_fails_keeps_no_hugepages() {
    use dpdk_io::{Driver, EalConfig, Hugepages, PortConfig};
    use std::fs;
    use std::io::Write;

    const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";
    if fs::OpenOptions::new().write(true).open(NR_HUGEPAGES).is_err() {
        writeln!(std::io::stderr(), "SKIPPED: hugepages that are given back, not root").ok();
        let required = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "may not be skipped here");
        return;
    }
    let reserved = || fs::read_to_string(NR_HUGEPAGES).unwrap().trim().parse::<u64>().unwrap();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let value = |key: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    // More than there is, so that some are reserved.
    let free_mb = value("HugePages_Free:") * value("Hugepagesize:") / 1024;
    let words =
        ["--no-pci", "--no-telemetry", "--log-level=3", "--vdev=net_af_packet0,iface=none0"];
    let eal = EalConfig {
        words: words.iter().map(|&word| word.to_owned()).collect(),
        hugepages: Hugepages::Auto,
        memory_mb: u32::try_from(free_mb).unwrap() + 64,
        ..EalConfig::default()
    };
    let before = reserved();
    let ports = vec![PortConfig::new("lte", "net_af_packet0")];
    let error = Driver::start(eal.clone(), ports.clone(), Vec::new()).unwrap_err();
    assert_eq!(reserved(), before, "{error}");
    // Once: a second failure lowers nothing more.
    Driver::start(eal, ports, Vec::new()).unwrap_err();
    assert_eq!(reserved(), before);
}
