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

/// Two accesses and an exit, four shards, one queue on each port.
const FOUR_SHARDS: &str = r#"
[driver]
kind = "dpdk"
eal = ["--in-memory", "--no-pci", "--no-telemetry", "--vdev=net_af_packet0,iface=gw0", "--vdev=net_af_packet1,iface=gw1", "--vdev=net_af_packet2,iface=gw2"]
cores = [0, 0, 0, 0]
hugepages = "off"
memory_mb = 256
[[port]]
name = "lte"
device = "net_af_packet0"
addresses = ["10.1.0.1/24"]
[[port]]
name = "wifi"
device = "net_af_packet1"
addresses = ["10.2.0.1/24"]
[[port]]
name = "exit"
device = "net_af_packet2"
addresses = ["10.9.0.1/24"]
[[route]]
to = "0.0.0.0/0"
via = "10.9.0.2"
port = "exit"
[socks5]
listen = ["10.1.0.1:1080"]
[egress]
allow = ["10.9.0.0/24"]
[timeouts]
drain_s = 30
"#;

/// The kernel at the other end of all three, as a client with two addresses and as a server.
const TWO_ACCESSES: &str = "for i in 0 1 2; do
ip link add gw$i type veth peer name far$i
echo 1 > /proc/sys/net/ipv6/conf/gw$i/disable_ipv6
ethtool -K far$i tx off tso off gso off gro off >/dev/null
ip link set gw$i up
ip link set far$i up
done
ip link set lo up
ip addr add 10.1.0.2/24 dev far0
ip addr add 10.2.0.2/24 dev far1
ip addr add 10.9.0.2/24 dev far2
ip mptcp limits set subflow 8 add_addr_accepted 8
ip mptcp endpoint add 10.2.0.2 dev far1 subflow
ip rule add from 10.2.0.2 table 102
ip route add default via 10.2.0.1 dev far1 table 102";

/// CPUs of four shards: those that may be used, in turn.
fn cores() -> String {
    let all = core_affinity::get_core_ids().expect("there is a CPU");
    let cores: Vec<usize> = (0..4).map(|shard| all[shard % all.len()].id).collect();
    format!("driver.cores={cores:?}")
}

fn sessions_over_four_shards(name: &str, qpairs: u32) {
    let scratch = Scratch::new(name);
    let config = FOUR_SHARDS.replace("iface=gw", &format!("qpairs={qpairs},iface=gw"));
    let config = scratch.file("gw.toml", &config);
    let socket = scratch.0.join("admin.sock").display().to_string();
    let admin = format!("admin.listen=['unix:{socket}']");
    let queues = [0, 1, 2].map(|port| format!("port.{port}.queues={qpairs}"));
    let [lte, wifi, exit] = queues.each_ref().map(String::as_str);
    let mut gateway =
        Gateway::start_after(TWO_ACCESSES, &config, &[&cores(), &admin, lte, wifi, exit])
            .ready(&[]);
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/many_sessions.py");
    let output = gateway.inside(&format!("python3 {client} {socket}")).output().expect("python3");
    gateway.terminate();
    let (code, log) = gateway.end();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}\n{said}\n{log}");
    let value = |name: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {said}")).parse().expect("a number")
    };
    assert_eq!((value("connections"), value("ids"), value("sessions")), (16, 16, 16), "{said}");
    assert_eq!(value("joined"), 16, "{said}");
    assert!(value("path_shards") > 1, "{said}");
    assert!(value("shard_handed_over_packets_total") > 1000, "{said}");
    // Each join goes to one of four shards, and a quarter of them is there already.
    assert!(value("shard_joins_steered_total") > 0 && value("shard_steered_flows") > 0, "{said}");
    assert_eq!(value("shard_ring_full_packets_total"), 0, "{said}");
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("sessions were reset"), "{log}");
}

#[test]
fn four_shards_behind_one_queue_carry_joins_to_their_connections() {
    if can_run() && is_root_with(&["python3"]) {
        sessions_over_four_shards("dpdk-one-queue", 1);
    }
}

#[test]
fn four_shards_and_the_kernel_s_own_spreading_carry_joins_to_their_connections() {
    if can_run() && is_root_with(&["python3"]) {
        sessions_over_four_shards("dpdk-four-queues", 4);
    }
}
