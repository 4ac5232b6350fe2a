//! What tests of devices share: one EAL serves the process, so they take turns. Without libdpdk a binary says SKIPPED, and
//! fails where CI forbids that.

#[cfg(have_dpdk)]
pub(crate) mod turn;

/// Says that `what` was not tested.
#[cfg(not(have_dpdk))]
pub(crate) fn skip(what: &str) {
    use std::io::Write;
    // Not eprintln!: the harness would swallow it.
    let text = format!("SKIPPED: {what}, built without libdpdk (apt-get install libdpdk-dev)");
    writeln!(std::io::stderr(), "{text}").ok();
    let required = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!required, "device tests may not be skipped here");
}
