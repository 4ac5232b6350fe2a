//! What the tests of the program share: temporary directories and skipping visibly.

use std::io::Write;
use std::path::PathBuf;

/// A directory of one test's own, removed at its end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("plait-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        Self(dir)
    }

    /// A file in it with this content.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("a temporary file");
        path.to_str().expect("a plain path").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// True when the test may run as root with these tools. Otherwise says why not, past the test
/// harness's capture; where nothing may be skipped (`PLAIT_CI` or `CI` is set) it fails.
pub(crate) fn is_root_with(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| !is_installed(tool)).collect();
    let reason = if !rustix::process::geteuid().is_root() {
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

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(tool).exists())
}
