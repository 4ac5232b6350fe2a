//! A running gateway in a network namespace of its own.

use core::time::Duration;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// Only how long a broken test hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway in a namespace of its own; killed when dropped. Its log goes to a file, which a test that
/// fails shows.
pub(crate) struct Gateway {
    child: Child,
    lines: mpsc::Receiver<String>,
    log: String,
}

impl Gateway {
    /// Starts it with the configuration in a file and `settings`, in a namespace that the shell lines
    /// `before` have prepared.
    pub(crate) fn start(before: &str, config: &str, settings: &[String], log: String) -> Self {
        let script = format!("set -e\n{before}\nexec \"$@\"\n");
        let program = env!("CARGO_BIN_EXE_proxy-gw");
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", &script, "sh", program, "run", "-c", config]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let stderr = File::create(&log).expect("a log file");
        let child = command.stdout(Stdio::piped()).stderr(stderr).spawn();
        let mut child = child.expect("unshare runs");
        let stdout = child.stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, log }
    }

    pub(crate) fn wait_until_ready(&self) {
        let line = self.lines.recv_timeout(PATIENCE).expect("it gets ready");
        assert_eq!(line, "ready");
    }

    /// A command in the gateway's namespace.
    pub(crate) fn inside(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.child.id()));
        command.args(line.split_whitespace());
        command
    }

    /// The CPUs that its thread of this name may run on.
    pub(crate) fn cpus_of(&self, thread: &str) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let mut tasks = tasks.expect("it runs").map(|task| task.expect("a thread").path());
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let task = tasks.find(|task| read(task.join("comm")).trim_end() == thread);
        let status = read(task.expect("a thread of that name").join("status"));
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        cpus.expect("its CPUs").trim().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("it is ours");
    }

    /// Waits for the end: exit code and log. Nothing but `ready` may have been printed.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("it ends");
        let printed: Vec<String> = self.lines.iter().collect();
        assert!(printed.is_empty(), "printed: {printed:?}");
        (status.code(), self.log())
    }

    pub(crate) fn log(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log());
        }
    }
}
