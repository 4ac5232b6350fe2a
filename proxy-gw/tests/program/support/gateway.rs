//! A running gateway in a network namespace of its own.

use core::time::Duration;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// Only how long a broken test hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway in a namespace of its own; killed when dropped.
pub(crate) struct Gateway {
    pub(crate) child: Child,
    lines: mpsc::Receiver<String>,
}

impl Gateway {
    pub(crate) fn start(config: &str, settings: &[&str]) -> Self {
        Self::start_after("", config, settings)
    }

    /// As [`Gateway::start`], in a namespace that the shell lines `setup` have prepared.
    pub(crate) fn start_after(setup: &str, config: &str, settings: &[&str]) -> Self {
        let script = format!("set -e\n{setup}\nexec \"$@\"\n");
        let program = env!("CARGO_BIN_EXE_proxy-gw");
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", &script, "sh", program, "run", "-c", config]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
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
        Self { child, lines }
    }

    /// Waits for `ready`, then runs `commands` in the namespace.
    pub(crate) fn ready(mut self, commands: &[&str]) -> Self {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => assert_eq!(line, "ready"),
            Err(_) => panic!("not ready: {}", self.end().1),
        }
        for command in commands {
            let output = self.inside(command).output().expect(command);
            assert!(output.status.success(), "{command}: {output:?}");
        }
        self
    }

    /// A command in the gateway's namespace.
    pub(crate) fn inside(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.child.id()));
        command.args(line.split_whitespace());
        command
    }

    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::TERM).expect("it is ours");
    }

    /// Waits for the end: exit code and log. Nothing but `ready` may have been printed.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().expect("asked once");
        stderr.read_to_string(&mut log).expect("text");
        let status = self.child.wait().expect("it ends");
        let printed: Vec<String> = self.lines.iter().collect();
        assert!(printed.is_empty(), "printed: {printed:?}");
        (status.code(), log)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
