//! What the tests that need root share: a network namespace, and skipping visibly.

use nix::sched::{CloneFlags, unshare};
use std::io::Write;
use std::process::{Command, Output};

/// True when the test may run. Otherwise says why not, past the test harness's capture; where nothing
/// may be skipped (`PLAIT_CI` or `CI` is set) it fails.
pub(crate) fn is_root_with(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| !is_installed(tool)).collect();
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root".to_owned()
    } else if !missing.is_empty() {
        format!("not installed: {missing:?} (scripts/install-deps)")
    } else {
        return true;
    };
    let must_run = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!must_run, "may not be skipped in CI: {reason}");
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
    false
}

/// Moves this thread, and what it starts from now on, into an empty network namespace with
/// loopback up. The namespace ends with the last of them.
pub(crate) fn enter_new_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    run("ip", &["link", "set", "lo", "up"]);
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().expect(program);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(tool).exists())
}
