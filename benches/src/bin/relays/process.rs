//! A relay's process, on the gateway's CPU and in its namespace.

use crate::bed::Bed;
use crate::cpus::{Cpus, TICKS_PER_S};
use crate::interrupt::Interrupt;
use crate::peer::{ADMIN, Peer};
use crate::polling::{Loop, Spent};
use core::net::SocketAddr;
use core::time::Duration;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const READY_MAX: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(5);

/// A directory `plait-relays-PID` of the run, deleted on drop.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Never takes over what is there: root is to read what it wrote itself.
    pub(crate) fn create() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("plait-relays-{}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| format!("creating {}: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The process and those it started; ended on drop.
#[derive(Debug)]
pub(crate) struct Running {
    process: Option<Child>,
    log: PathBuf,
    polling: Option<Loop>,
}

impl Running {
    /// Starts the relay, in the gateway's namespace where there is a network, and waits until it takes
    /// connections.
    pub(crate) fn start(
        peer: Peer,
        mptcp: bool,
        bed: Option<&Bed>,
        cpus: &Cpus,
        scratch: &Scratch,
        interrupt: &Interrupt,
    ) -> Result<Self, String> {
        let log = scratch.path().join(format!("{}.log", peer.name()));
        let Some(words) = peer.command(mptcp, cpus.gateway(), scratch.path())? else {
            return Ok(Self { process: None, log, polling: None });
        };
        let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let cpu = cpus.gateway().to_string();
        let mut prefix = vec!["setpriv", "--pdeathsig", "KILL", "taskset", "-c", &cpu];
        if let Some(bed) = bed {
            prefix.splice(0..0, ["ip", "netns", "exec", bed.gateway.name()]);
        }
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).args(&words);
        // A group of its own: what the relay forks ends with it, and Ctrl-C is ours to answer.
        command.process_group(0).stderr(file);
        // testpmd is told by its standard input, and ends where that does.
        command.stdin(if peer.is_testpmd() { Stdio::piped() } else { Stdio::null() });
        let speaks = peer.is_ours() || peer.is_testpmd();
        let stdout = if speaks { Stdio::piped() } else { Stdio::null() };
        let process = command.stdout(stdout).spawn();
        let process = process.map_err(|error| format!("starting {}: {error}", words.join(" ")))?;
        let mut running = Self { process: Some(process), log, polling: None };
        if peer.is_ours() {
            running.wait_for_word(interrupt)?;
        }
        running.polling = running.listen_to(peer, scratch)?;
        let Some(bed) = bed else { return Ok(running) };
        if peer == Peer::Tun {
            bed.forward_to_tun()?;
        }
        if !peer.is_ours() {
            running.wait_for_listener(peer.target(mptcp).address, bed, interrupt)?;
        }
        Ok(running)
    }

    fn listen_to(&mut self, peer: Peer, scratch: &Scratch) -> Result<Option<Loop>, String> {
        if peer.is_polling() {
            return Ok(Some(Loop::Gateway(scratch.path().join(ADMIN))));
        }
        let Some(process) = self.process.as_mut().filter(|_| peer.is_testpmd()) else {
            return Ok(None);
        };
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (commands, answers) = pipes.ok_or("no pipes to testpmd")?;
        Ok(Some(Loop::testpmd(commands, answers)))
    }

    /// `ready` on its standard output is the gateway's contract.
    fn wait_for_word(&mut self, interrupt: &Interrupt) -> Result<(), String> {
        let stdout = self.process.as_mut().and_then(|process| process.stdout.take());
        let mut lines = BufReader::new(stdout.ok_or("no pipe from the gateway")?);
        let word = std::thread::spawn(move || {
            let mut line = String::new();
            let read = lines.read_line(&mut line);
            // Reading on keeps the pipe open.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            read.is_ok() && line.trim() == "ready"
        });
        let said = interrupt.wait_for(READY_MAX, || Ok(word.is_finished()))?;
        if said && word.join().unwrap_or(false) {
            Ok(())
        } else {
            Err(self.failure("is not ready"))
        }
    }

    fn wait_for_listener(
        &self,
        address: SocketAddr,
        bed: &Bed,
        interrupt: &Interrupt,
    ) -> Result<(), String> {
        let is_open = bed.client.enter(|| {
            interrupt.wait_for(READY_MAX, || {
                self.check()?;
                Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
            })
        })??;
        if is_open { Ok(()) } else { Err(self.failure("takes no connections")) }
    }

    /// Fails when it has ended.
    pub(crate) fn check(&self) -> Result<(), String> {
        let id = self.process.as_ref().and_then(|process| i32::try_from(process.id()).ok());
        match id {
            Some(id) if !is_running(Pid::from_raw(id)) => Err(self.failure("has ended")),
            _ => Ok(()),
        }
    }

    /// CPU seconds so far of the relay's processes: its own, and those it started and keeps.
    pub(crate) fn cpu_s(&self) -> f64 {
        let Some(process) = &self.process else { return 0.0 };
        let group = process.id().to_string();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let stats =
            entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        stats.filter_map(|stat| group_ticks(&stat, &group)).sum::<u64>() as f64 / TICKS_PER_S
    }

    /// How its polling loop spent its time so far; nothing where it has none.
    pub(crate) fn spent(&self) -> Result<Spent, String> {
        self.polling.as_ref().map_or(Ok(Spent::default()), Loop::spent)
    }

    fn failure(&self, what: &str) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(8)..].join("\n    ");
        format!("the relay {what}; it logged:\n    {tail}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // It has not been waited for yet, so its id still names it, and its group.
        let Ok(id) = i32::try_from(process.id()).map(Pid::from_raw) else { return };
        let _ = kill(id, Signal::SIGTERM);
        let end = std::time::Instant::now() + GRACE;
        while is_running(id) && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Whoever is left of its group.
        let _ = kill(Pid::from_raw(-id.as_raw()), Signal::SIGKILL);
        let _ = process.wait();
    }
}

/// Whether a child that nobody waited for still runs.
fn is_running(id: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// User and system time of a process of this group, its threads' and its waited-for children's included.
fn group_ticks(stat: &str, group: &str) -> Option<u64> {
    // Behind the name, which may hold anything: state, parent, group; the times are 11 to 14.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let times = fields.get(11..15).filter(|_| fields.get(2) == Some(&group))?;
    times.iter().map(|time| time.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_there_is_somebody_elses() {
        let scratch = Scratch::create().unwrap();
        let error = Scratch::create().unwrap_err();
        assert!(error.contains("plait-relays-"), "{error}");
        drop(scratch);
        assert!(Scratch::create().is_ok());
    }

    #[test]
    fn times_of_a_group_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 10 20 3 4 20 0 1 0 5";
        assert_eq!(group_ticks(stat, "42"), Some(37));
        assert_eq!(group_ticks(stat, "7"), None);
        assert_eq!(group_ticks("nonsense", "7"), None);
    }
}
