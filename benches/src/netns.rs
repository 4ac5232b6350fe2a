//! Network namespaces by name, and threads inside of them.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// A namespace `plait-PID-ROLE`, deleted on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with its loopback up.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn create(role: &str) -> Result<Self, String> {
        let name = format!("plait-{}-{role}", std::process::id());
        run("ip", &["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// What `ip netns` calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip -n NAME` with the words of `line`.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn ip(&self, line: &str) -> Result<(), String> {
        let mut words = vec!["-n", &self.name];
        words.extend(line.split_whitespace());
        run("ip", &words)
    }

    /// Sets `name` (as sysctl spells it) for this namespace.
    ///
    /// # Errors
    /// What `sysctl` said.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<(), String> {
        run("ip", &["netns", "exec", &self.name, "sysctl", "-qw", &format!("{name}={value}")])
    }

    /// Runs `job` on a thread inside and waits for what it returns. Sockets and devices it makes
    /// stay inside for good.
    ///
    /// # Errors
    /// Why the namespace could not be entered, or that `job` panicked.
    pub fn enter<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T, String> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).map_err(|error| format!("opening {path}: {error}"))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .map_err(|error| format!("entering {path}: {error}"))?;
                Ok(job())
            });
            thread.join().map_err(|_| "a thread in a namespace panicked".to_owned())?
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "del", &self.name]) {
            eprintln!("deleting a namespace: {error}");
        }
    }
}

/// Runs a command to its end; its standard error is the cause if it failed. A terminal's Ctrl-C does not
/// reach it: half a change is worse than a late end.
///
/// # Errors
/// The command and what it said.
pub fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let what = || format!("{program} {}", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .process_group(0)
        .output()
        .map_err(|error| format!("{}: {error}", what()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim()))
}
