//! `paths`, interrupted. Needs root, iproute2, chrt, MPTCP in the kernel and the program netsim-live; says SKIPPED
//! otherwise, and fails where CI forbids that.

use core::time::Duration;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const PROGRAM: &str = env!("CARGO_BIN_EXE_paths");
/// For what takes a moment on any machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn may_run() -> bool {
    let reason = if !geteuid().is_root() {
        "not root"
    } else if !Path::new(PROGRAM).with_file_name("netsim-live").exists() {
        "netsim-live was not built"
    } else if !has_real_time() {
        "no real time by chrt"
    } else if !has_mptcp() {
        "no MPTCP in this kernel, or no iproute2"
    } else {
        return true;
    };
    let required = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!required, "may not be skipped here: {reason}");
    let _ = writeln!(std::io::stderr(), "SKIPPED paths, interrupted: {reason}");
    false
}

fn has_real_time() -> bool {
    let tried = Command::new("chrt").args(["--fifo", "10", "true"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Of the kernel, and of what sets it up.
fn has_mptcp() -> bool {
    let enabled = std::fs::read_to_string("/proc/sys/net/mptcp/enabled");
    let tried = Command::new("ip").args(["mptcp", "limits", "show"]).output();
    enabled.is_ok_and(|on| on.trim() == "1") && tried.is_ok_and(|output| output.status.success())
}

/// The namespaces of a process.
fn namespaces(of: u32) -> usize {
    let prefix = format!("plait-{of}-");
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).count()
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    if !may_run() {
        return;
    }
    let mut paths = Command::new(PROGRAM)
        .args(["--no-realtime", "--row", "X5", "--repeat", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let (id, began) = (paths.id(), Instant::now());
    while namespaces(id) < 2 {
        let runs = paths.try_wait().expect("a child").is_none();
        assert!(runs && began.elapsed() < PATIENCE, "no namespaces");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Into the download.
    std::thread::sleep(Duration::from_secs(2));
    let pid = Pid::from_raw(i32::try_from(id).expect("a process"));
    kill(pid, Signal::SIGINT).expect("it runs");
    let output = paths.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("interrupted"), "{said}");
    assert_eq!(namespaces(id), 0, "{said}");
}
