//! Skipping visibly what the machine cannot run. The tests of the program and those inside of the
//! library share this file.

use std::io::Write;
use std::path::Path;

/// True when the test may run: as root, with these programs, and with these files where the name is
/// a path. Otherwise the test is skipped.
pub(crate) fn is_root_with(needs: &[&str]) -> bool {
    let missing: Vec<_> = needs.iter().filter(|need| !is_there(need)).collect();
    let reason = if !rustix::process::geteuid().is_root() {
        "not root".to_owned()
    } else if !missing.is_empty() {
        format!("missing: {missing:?} (scripts/install-deps, modprobe tun)")
    } else {
        return true;
    };
    skip(&reason);
    false
}

/// Says past the test harness's capture that the test does not run; where nothing may be skipped
/// (`PLAIT_CI` or `CI` is set) it fails.
pub(crate) fn skip(reason: &str) {
    let must_run = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!must_run, "may not be skipped in CI: {reason}");
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}

fn is_there(need: &str) -> bool {
    if need.starts_with('/') {
        return Path::new(need).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(need).exists())
}
