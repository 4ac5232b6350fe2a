//! Every relay of `relays` carries what it is given, unchanged, with and without MPTCP at the client. Speed is
//! not judged. Needs root, the packages of `scripts/install-deps bench` and the program proxy-gw; says
//! SKIPPED otherwise, and fails where CI forbids that.

use std::io::Write as _;
use std::process::Command;

#[test]
fn every_relay_carries_what_it_is_given() {
    let output = Command::new(env!("CARGO_BIN_EXE_relays")).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    for line in said.lines().filter(|line| line.starts_with("SKIPPED")) {
        // Past the harness's capture.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    let passed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{passed}");
    assert!(!passed.is_empty() || said.contains("SKIPPED relays"), "nothing ran\n{said}");
}

#[test]
fn wrong_words_are_refused_with_what_there_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_relays")).args(["--peer", "x"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("splice") && said.contains("af_xdp"), "{said}");
}
