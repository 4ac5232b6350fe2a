//! Programs that run beside a gateway.

use super::eventually;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A program that runs until this is dropped. What it says on stdout and stderr is shown when the test fails.
pub(crate) struct Helper {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Helper {
    pub(crate) fn start(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer.try_clone().expect("its other end")).stderr(writer);
        let child = command.stdin(Stdio::null()).spawn().expect("nsenter runs");
        // It holds the ends to write to.
        drop(command);
        let said = Arc::<Mutex<String>>::default();
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                *heard.lock().expect("no panic") += &(line + "\n");
            }
        });
        Self { child, said }
    }

    /// Starts a server and waits until it has said `sign`.
    pub(crate) fn serving(command: Command, sign: &str) -> Self {
        let helper = Self::start(command);
        eventually(sign, || helper.said.lock().expect("no panic").contains(sign).then_some(()));
        helper
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends by itself: whether with success.
    pub(crate) fn wait(&mut self) -> bool {
        self.child.wait().expect("it ends").success()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("beside the gateway:\n{}", self.said.lock().expect("no panic"));
        }
    }
}
