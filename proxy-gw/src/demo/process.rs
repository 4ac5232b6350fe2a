//! Child processes and the wish to stop, as the demo sees them.
//!
//! Invariant: every process started here is ended, by its own id, when its [`Process`] is dropped:
//! on return, on an error, on Ctrl-C and while a panic unwinds. Children sit in process groups of
//! their own, so a terminal's Ctrl-C reaches only the demo, which then ends them in order.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// How often a wait looks whether it is over.
const TICK: Duration = Duration::from_millis(20);

/// How long a command that sets something up may take.
const COMMAND_MAX: Duration = Duration::from_secs(10);
/// How often its end is looked for: there are dozens of them, and most take a millisecond.
const COMMAND_TICK: Duration = Duration::from_millis(1);

/// Why a step of the demo was not done; printed as it is.
#[derive(Debug)]
pub(super) enum Error {
    /// SIGINT, SIGTERM or SIGHUP arrived.
    Interrupted,
    /// `what` was being done; `cause` says what stopped it.
    Failed { what: String, cause: String },
}

impl Error {
    /// For `map_err`: names the step whose error is wrapped.
    pub(super) fn in_step<E: fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |cause| Self::Failed { what, cause: cause.to_string() }
    }

    pub(super) fn new(what: impl Into<String>, cause: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), cause: cause.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted by a signal"),
            Self::Failed { what, cause } => write!(f, "{what}: {cause}"),
        }
    }
}

/// Set once a signal asked the demo to stop; every wait of the demo looks at it.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches SIGINT, SIGTERM and SIGHUP for the rest of the process's life.
    pub(super) fn install() -> Result<Self, Error> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .map_err(Error::in_step(format!("catching signal {signal}")))?;
        }
        Ok(Self(flag))
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Waits until `done` holds, a signal arrives, or `timeout` has passed (`Ok(false)`).
    pub(super) fn wait_for(
        &self,
        timeout: Duration,
        mut done: impl FnMut() -> bool,
    ) -> Result<bool, Error> {
        let start = Instant::now();
        loop {
            self.check()?;
            if done() {
                return Ok(true);
            }
            if start.elapsed() >= timeout {
                return Ok(false);
            }
            thread::sleep(TICK);
        }
    }
}

/// A running child of the demo.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// `name` is what errors call it.
    pub(super) fn spawn(name: &str, command: &mut Command) -> Result<Self, Error> {
        let child = command
            .process_group(0)
            .spawn()
            .map_err(Error::in_step(format!("starting {name} ({command:?})")))?;
        Ok(Self { name: name.to_owned(), child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pipe to the child's standard input; an error if it was not piped or already taken.
    pub(super) fn take_stdin(&mut self) -> Result<ChildStdin, Error> {
        self.child.stdin.take().ok_or_else(|| Error::new(&self.name, "no pipe to its stdin"))
    }

    /// The pipe from the child's standard output; an error if it was not piped or already taken.
    pub(super) fn take_stdout(&mut self) -> Result<ChildStdout, Error> {
        self.child.stdout.take().ok_or_else(|| Error::new(&self.name, "no pipe from its stdout"))
    }

    /// As [`Self::take_stdout`], for its standard error.
    pub(super) fn take_stderr(&mut self) -> Result<ChildStderr, Error> {
        self.child.stderr.take().ok_or_else(|| Error::new(&self.name, "no pipe from its stderr"))
    }

    /// The exit status if the child has ended by itself.
    pub(super) fn try_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for a child that is about to end: it has closed its output.
    pub(super) fn wait(&mut self) -> Result<ExitStatus, Error> {
        self.child.wait().map_err(Error::in_step(format!("waiting for {}", self.name)))
    }

    /// Sends SIGTERM and waits up to `grace`; `None` if it had to be killed.
    pub(super) fn terminate(&mut self, grace: Duration) -> Option<ExitStatus> {
        if let Some(status) = self.try_status() {
            return Some(status);
        }
        let status = self.ask_to_end(grace);
        if status.is_none() {
            self.kill();
        }
        status
    }

    /// SIGTERM, and the exit status if it comes within `grace`.
    fn ask_to_end(&mut self, grace: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        let start = Instant::now();
        loop {
            if let Some(status) = self.try_status() {
                return Some(status);
            }
            if start.elapsed() >= grace {
                return None;
            }
            thread::sleep(TICK);
        }
    }

    /// Ends the child at once; no effect if it has ended.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        // The child has not been waited for, so its id still names it and nothing else.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The gateway drains at the first SIGTERM and aborts at the second, giving back what it
        // holds of the machine (hugepages); killed, it could not.
        let ended = self.try_status().or_else(|| self.ask_to_end(Duration::from_millis(500)));
        if ended.is_none() {
            self.terminate(Duration::from_secs(2));
        }
    }
}

/// `program` inside network namespace `netns`, killed by the kernel should the demo die unseen.
///
/// Neither `ip netns exec` nor `setpriv` forks: the child's process id is `program`'s.
pub(super) fn in_netns(netns: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, "setpriv", "--pdeathsig", "KILL"]).arg(program);
    command.stdin(Stdio::null());
    command
}

/// Runs `command` to its end and returns its standard output; its standard error is the cause if it
/// failed. A terminal's Ctrl-C does not reach it: half a change is worse than a late end. One that
/// does not end within [`COMMAND_MAX`] is killed.
pub(super) fn run(what: &str, command: &mut Command) -> Result<String, Error> {
    run_for(COMMAND_MAX, what, command, None)
}

/// As [`run`], with `input` on the command's standard input.
pub(super) fn run_with_input(what: &str, command: &mut Command, input: &str) -> Result<(), Error> {
    run_for(COMMAND_MAX, what, command, Some(input)).map(drop)
}

fn run_for(
    limit: Duration,
    what: &str,
    command: &mut Command,
    input: Option<&str>,
) -> Result<String, Error> {
    let describe = format!("{what} ({command:?})");
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::spawn(&describe, command)?;
    let (stdout, stderr) = (process.take_stdout()?, process.take_stderr()?);
    let (stdout, stderr) = (read_aside(stdout), read_aside(stderr));
    if let (Some(mut stdin), Some(input)) = (process.child.stdin.take(), input) {
        let input = input.to_owned();
        // A command that does not read it says why, or ends well without it.
        thread::spawn(move || stdin.write_all(input.as_bytes()));
    }
    let start = Instant::now();
    let status = loop {
        if let Some(status) = process.try_status() {
            break status;
        }
        if start.elapsed() >= limit {
            process.kill();
            return Err(Error::new(describe, format!("no end within {} s", limit.as_secs())));
        }
        thread::sleep(COMMAND_TICK);
    };
    let read = |pipe: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&pipe.join().unwrap_or_default()).into_owned()
    };
    if !status.success() {
        let stderr = read(stderr);
        let cause = stderr.trim();
        let cause = if cause.is_empty() { status.to_string() } else { cause.to_owned() };
        return Err(Error::new(describe, cause));
    }
    Ok(read(stdout))
}

/// Reads a pipe to its end on a thread of its own: a full pipe would stop the command.
fn read_aside(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// A file that takes a child's standard error.
pub(super) fn log_file(path: &Path) -> Result<Stdio, Error> {
    let file =
        File::create(path).map_err(Error::in_step(format!("creating {}", path.display())))?;
    Ok(Stdio::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_process_ends_it() {
        let mut command = Command::new("sleep");
        let process = Process::spawn("sleep", command.arg("1000")).unwrap();
        let entry = format!("/proc/{}", process.pid());
        assert!(Path::new(&entry).exists());
        drop(process);
        assert!(!Path::new(&entry).exists());
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo armed; read line"]).stdin(Stdio::piped());
        let mut process = Process::spawn("sh", command.stdout(Stdio::piped())).unwrap();
        let mut armed = [0; 6];
        std::io::Read::read_exact(&mut process.take_stdout().unwrap(), &mut armed).unwrap();
        assert!(process.terminate(Duration::from_millis(40)).is_none());
        assert!(process.try_status().is_some());
    }

    #[test]
    fn a_failing_command_is_reported_with_its_stderr() {
        let mut command = Command::new("sh");
        let error = run("trying", command.args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().ends_with(": broken"), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_given_up() {
        let mut command = Command::new("sleep");
        let limit = Duration::from_millis(30);
        let error = run_for(limit, "trying", command.arg("1000"), None).unwrap_err();
        assert!(error.to_string().contains("no end within"), "{error}");
    }

    #[test]
    fn input_and_output_larger_than_a_pipe_pass_through() {
        let input = "x".repeat(1 << 20);
        let output = run_for(COMMAND_MAX, "trying", &mut Command::new("cat"), Some(&input));
        assert!(output.unwrap() == input);
    }

    #[test]
    fn waiting_ends_with_the_condition_or_the_time() {
        let interrupt = Interrupt(Arc::new(AtomicBool::new(false)));
        assert!(interrupt.wait_for(Duration::ZERO, || true).unwrap());
        assert!(!interrupt.wait_for(Duration::ZERO, || false).unwrap());
        interrupt.0.store(true, Ordering::Relaxed);
        assert!(matches!(interrupt.wait_for(Duration::ZERO, || true), Err(Error::Interrupted)));
    }
}
