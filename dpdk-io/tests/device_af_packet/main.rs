//! `net_af_packet` ports against the Linux kernel: ARP, NDISC, ping, UDP with replies in several
//! segments, a VLAN, a peer behind a router (all over two shards), and our own TCP and MPTCP; then TCP
//! over `net_tap`, whose ports verify and complete checksums.
//!
//! The kernel's side is namespace P; the gateway runs in namespace G, where no kernel address
//! exists. Namespaces are named by our process id and removed at the end. Needs root, libdpdk, ip,
//! ethtool, ping and python3; says SKIPPED otherwise, and fails where CI forbids that.

#![cfg_attr(have_dpdk, expect(clippy::unwrap_used, reason = "helpers of tests are tests"))]

#[cfg(have_dpdk)]
mod gateway;
#[cfg(have_dpdk)]
mod kernel;
#[cfg(have_dpdk)]
mod tcp;
#[cfg(have_dpdk)]
mod udp;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    #[cfg(have_dpdk)]
    if arguments.first().is_some_and(|argument| argument == gateway::ARGUMENT) {
        gateway::run(arguments.get(1).map_or("", String::as_str));
        return ExitCode::SUCCESS;
    }
    match missing() {
        None => {
            #[cfg(have_dpdk)]
            kernel::run();
            ExitCode::SUCCESS
        }
        Some(what) => {
            writeln!(std::io::stderr(), "SKIPPED: device_af_packet: {what}").ok();
            let required = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
            if required { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

/// What this machine lacks.
fn missing() -> Option<&'static str> {
    if cfg!(not(have_dpdk)) {
        return Some("built without libdpdk (apt-get install libdpdk-dev)");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status.lines().any(|line| {
        line.strip_prefix("Uid:").and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
    });
    if !root {
        return Some("needs root for network namespaces");
    }
    let found = |tool: &&str| {
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
            .iter()
            .any(|dir| std::path::Path::new(dir).join(tool).exists())
    };
    if !["ip", "ethtool", "ping", "python3"].iter().all(found) {
        return Some("needs ip, ethtool, ping and python3");
    }
    None
}
