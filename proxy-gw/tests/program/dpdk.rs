//! The running program on DPDK ports: what stdout carries, and exit codes, whatever the EAL prints.

use crate::support::{Setup, beside};

#[test]
fn ready_is_all_that_is_printed_and_sigterm_drains() {
    if let Some(bed) = Setup::dpdk("dpdk-ready").start() {
        bed.finish();
    }
}

#[test]
fn words_the_eal_does_not_know_are_code_2_and_a_missing_interface_code_3() {
    for (eal, expected, said) in [
        ("['--in-memory', '--no-pci', '--bogus']", 2, "driver.eal"),
        ("['--in-memory', '--no-pci', '--vdev=net_af_packet0,iface=none0']", 3, "net_af_packet0"),
        ("['--help']", 2, "print its help"),
    ] {
        // Fails if anything was printed.
        let failed = Setup::dpdk("dpdk-codes").set(format!("driver.eal={eal}")).fail();
        let Some((code, log)) = failed else { return };
        assert_eq!(code, Some(expected), "{eal}: {log}");
        assert!(log.contains(said), "{eal}: {log}");
    }
}

/// CPUs of four shards: those that may be used, in turn.
fn cores() -> String {
    let all = core_affinity::get_core_ids().expect("there is a CPU");
    let cores: Vec<usize> = (0..4).map(|shard| all[shard % all.len()].id).collect();
    format!("driver.cores={cores:?}")
}

fn sessions_over_four_shards(name: &str, qpairs: u32) {
    let setup = Setup::dpdk(name).queues(qpairs).set(cores()).set("timeouts.drain_s=30");
    let Some(mut bed) = setup.start() else { return };
    let client = beside("many_sessions.py");
    let said = bed.said(&format!("python3 {client} {}", bed.scratch.path("admin.sock")));
    bed.terminate();
    let (code, log) = bed.end();
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
    sessions_over_four_shards("dpdk-one-queue", 1);
}

#[test]
fn four_shards_and_the_kernel_s_own_spreading_carry_joins_to_their_connections() {
    sessions_over_four_shards("dpdk-four-queues", 4);
}
