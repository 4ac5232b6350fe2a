//! What loops that poll say about their time: the kernel sees them busy whatever they do.

use core::time::Duration;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

const PATIENCE: Duration = Duration::from_secs(5);

/// Nanoseconds since the loop began.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Spent {
    /// In turns that had something to do.
    pub(crate) busy_ns: u64,
    /// In turns that found nothing; 0 where it is not told.
    pub(crate) polling_ns: u64,
}

/// Whom to ask.
#[derive(Debug)]
pub(crate) enum Loop {
    /// Ours, by its admin socket.
    Gateway(PathBuf),
    /// testpmd, by its command line.
    Testpmd { commands: ChildStdin, lines: Mutex<Receiver<String>> },
}

impl Loop {
    /// testpmd's standard input and output.
    pub(crate) fn testpmd(commands: ChildStdin, answers: ChildStdout) -> Self {
        let (sender, lines) = channel();
        // Ends with the process.
        std::thread::spawn(move || {
            let lines = BufReader::new(answers).lines().map_while(Result::ok);
            lines.take_while(|line| sender.send(line.clone()).is_ok()).for_each(drop);
        });
        Self::Testpmd { commands, lines: Mutex::new(lines) }
    }

    pub(crate) fn spent(&self) -> Result<Spent, String> {
        match self {
            Self::Gateway(admin) => {
                let text =
                    metrics(admin).map_err(|error| format!("{}: {error}", admin.display()))?;
                gateway(&text).ok_or("the gateway's metrics lack the time of its turns".to_owned())
            }
            Self::Testpmd { commands, lines } => {
                let explain = |error: io::Error| format!("testpmd: {error}");
                let lines = lines.lock().map_err(|error| error.to_string())?;
                // What it said before is not the answer.
                lines.try_iter().for_each(drop);
                let mut commands = commands;
                commands.write_all(b"show fwd stats all\n").map_err(explain)?;
                loop {
                    let line = lines.recv_timeout(PATIENCE);
                    let line = line.map_err(|_| "testpmd does not say its cycles".to_owned())?;
                    if let Some(busy_ns) = testpmd(&line) {
                        return Ok(Spent { busy_ns, polling_ns: 0 });
                    }
                }
            }
        }
    }
}

/// The answer to `GET /metrics`.
fn metrics(admin: &PathBuf) -> io::Result<String> {
    let mut stream = UnixStream::connect(admin)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Version 1.0: the answer ends with the connection.
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: plait\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn gateway(metrics: &str) -> Option<Spent> {
    let value = |name: &str| {
        let name = format!("plait_driver_{name}_nanoseconds_total ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok())
    };
    Some(Spent { busy_ns: value("busy")?, polling_ns: value("polling")? })
}

/// "CPU cycles/packet=62.66 (total cycles=2204987137 / total io packets=35190176) at 2600 MHz Clock"
fn testpmd(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("(total cycles=")?;
    let cycles: f64 = rest.split_whitespace().next()?.parse().ok()?;
    let mhz: f64 = rest.split_once(") at ")?.1.split_whitespace().next()?.parse().ok()?;
    Some((cycles / mhz * 1e3) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_say_it_their_way() {
        let text =
            "plait_driver_busy_nanoseconds_total 7\nplait_driver_polling_nanoseconds_total 8\n";
        assert_eq!(gateway(text), Some(Spent { busy_ns: 7, polling_ns: 8 }));
        assert_eq!(gateway("plait_driver_busy_nanoseconds_total 7\n"), None);
        let line = "  CPU cycles/packet=62.66 (total cycles=2600000 / total io packets=9) at 2600 MHz Clock";
        assert_eq!(testpmd(line), Some(1_000_000));
        assert_eq!(testpmd("  CPU cycles/packet=62.66"), None);
    }
}
