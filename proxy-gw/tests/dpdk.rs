//! The running program on DPDK ports: what stdout carries, and exit codes, whatever the EAL prints.

use gateway::Gateway;
use skip::{is_root_with, skip};
use std::process::Command;
use support::Scratch;

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/skip.rs"]
mod skip;
mod support;

const CONFIG: &str = r#"
[driver]
kind = "dpdk"
eal = ["--in-memory", "--no-pci", "--no-telemetry", "--vdev=net_af_packet0,iface=gw0"]
hugepages = "off"
memory_mb = 128
[[port]]
name = "lte"
device = "net_af_packet0"
addresses = ["10.1.0.1/24"]
[socks5]
listen = ["10.1.0.1:1080"]
"#;

/// The interface the port sits on, with its checksums computed.
const SETUP: &str = "ip link add gw0 type veth peer name far0
ethtool -K far0 tx off >/dev/null
ip link set gw0 up
ip link set far0 up";

/// True when this program has the driver and the test may run.
fn can_run() -> bool {
    if !is_root_with(&["unshare", "ip", "ethtool"]) {
        return false;
    }
    let version = Command::new(env!("CARGO_BIN_EXE_proxy-gw")).arg("--version").output();
    let version = version.expect("it runs");
    if String::from_utf8_lossy(&version.stdout).contains("tun, dpdk") {
        return true;
    }
    skip("built without libdpdk");
    false
}

#[test]
fn ready_is_all_that_is_printed_and_sigterm_drains() {
    if !can_run() {
        return;
    }
    let scratch = Scratch::new("dpdk-ready");
    let config = scratch.file("gw.toml", CONFIG);
    let mut gateway = Gateway::start_after(SETUP, &config, &[]).ready(&[]);
    gateway.terminate();
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn words_the_eal_does_not_know_are_code_2_and_a_missing_interface_code_3() {
    if !can_run() {
        return;
    }
    let scratch = Scratch::new("dpdk-codes");
    let config = scratch.file("gw.toml", CONFIG);
    for (eal, expected, said) in [
        ("['--in-memory', '--no-pci', '--bogus']", 2, "driver.eal"),
        ("['--in-memory', '--no-pci', '--vdev=net_af_packet0,iface=none0']", 3, "net_af_packet0"),
        ("['--help']", 2, "print its help"),
    ] {
        let mut gateway = Gateway::start(&config, &[&format!("driver.eal={eal}")]);
        // Fails if anything was printed.
        let (code, log) = gateway.end();
        assert_eq!(code, Some(expected), "{eal}: {log}");
        assert!(log.contains(said), "{eal}: {log}");
    }
}
