//! A small crowd of sessions, in a process of its own: it checks itself that none is lost, and this what it takes.

use std::process::Command;

/// Octets of an idle session at most, what the stack of so few has for itself included.
const MOST: f64 = 6_500.0;

#[test]
fn thousands_of_sessions_fit_and_outlive_an_access() {
    let run = Command::new(env!("CARGO_BIN_EXE_workloads"))
        .args(["sessions", "--count", "5000", "--runs", "1"])
        .output()
        .expect("the program runs");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{stdout}{stderr}");
    let row = |what: &str| {
        let row = stdout.lines().find_map(|line| line.strip_prefix(what));
        row.unwrap_or_else(|| panic!("no row {what:?} in {stdout}"))
    };
    let octets = row("| resident memory, before any is active | ").split(' ').next();
    let octets: f64 = octets.expect("a number").parse().expect("a number");
    assert!((1_000.0..MOST).contains(&octets), "{octets} octets a session");
    assert!(row("| packets that idle sessions hold | ").starts_with("0 octets"), "{stdout}");
    // Sessions and control blocks: none was lost of the ones, and of the others half of all subflows.
    let end = row("| two minutes more | ");
    assert!(end.contains("| 5000 | 10000 |"), "{end}");
}
