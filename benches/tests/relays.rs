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

/// The gateway's own ports on virtio_user: streams of ours pass, over two subflows where MPTCP is spoken, segment by
/// segment and in pieces.
#[test]
fn streams_pass_through_memory() {
    let output = Command::new(env!("CARGO_BIN_EXE_relays"))
        .args(["vhost", "--quick", "--repeat", "1", "--tso"])
        .output()
        .unwrap();
    let (table, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let missing =
        ["libdpdk-dev", "two CPUs", "is missing"].into_iter().find(|what| said.contains(what));
    if let Some(missing) = missing.filter(|_| !output.status.success()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED streams through memory: {missing}");
        let required = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "may not be skipped here: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let rows =
        table.lines().filter(|line| line.starts_with("| TCP") || line.starts_with("| MPTCP"));
    assert_eq!(rows.count(), 16, "{table}");
}

#[test]
fn wrong_words_are_refused_with_what_there_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_relays")).args(["--peer", "x"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("splice") && said.contains("af_xdp"), "{said}");
}
