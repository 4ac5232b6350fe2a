//! Programs that run beside a gateway.

use super::PATIENCE;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// A program that runs until it is dropped.
pub(crate) struct Helper(pub(crate) Child);

impl Helper {
    /// Starts it and waits until it has said `sign`, on stdout or stderr.
    pub(crate) fn start(mut command: Command, sign: &str) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer.try_clone().expect("its other end")).stderr(writer);
        let helper = Self(command.stdin(Stdio::null()).spawn().expect("nsenter runs"));
        // It holds the ends to write to.
        drop(command);
        let (sender, lines) = mpsc::channel();
        // Whoever writes into a closed pipe ends, so this reads on.
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut said = Vec::new();
        while let Ok(line) = lines.recv_timeout(PATIENCE) {
            if line.contains(sign) {
                return helper;
            }
            said.push(line);
        }
        panic!("not a word of {sign:?}: {said:?}");
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
