//! Log lines on stderr, as text or JSON.
//!
//! Invariant: a thread that logs never waits for stderr. Lines go through a bounded channel to a
//! thread of their own; what does not fit, and what stderr refuses, is counted, and the count is logged with the next
//! line.

use crate::config::{Log as Settings, LogFormat};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::io::{self, Write, stderr};
use std::sync::OnceLock;
use std::thread;
use std::time::SystemTime;

/// Lines that may wait for stderr.
const QUEUE: usize = 4096;

/// What goes through the channel.
enum Message {
    Line {
        text: String,
        /// Lines that are lost with it.
        lost: u64,
    },
    /// Everything before this was written.
    Flush(Sender<()>),
}

struct Logger {
    format: LogFormat,
    queue: Sender<Message>,
    lost: AtomicU64,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts logging; later calls change nothing. How much is logged is [`log::max_level`].
///
/// # Errors
/// When the thread cannot be made.
pub fn start(settings: Settings) -> io::Result<()> {
    let (queue, lines) = bounded(QUEUE);
    let logger =
        LOGGER.get_or_init(|| Logger { format: settings.format, queue, lost: AtomicU64::new(0) });
    if log::set_logger(logger).is_err() {
        return Ok(());
    }
    log::set_max_level(settings.level);
    let mut output = Output { to: stderr(), torn: false };
    let write = move || write_all(&lines, &logger.lost, &mut output);
    thread::Builder::new().name("plait-log".to_owned()).spawn(write)?;
    Ok(())
}

/// Waits, for a second at most, until what was logged is written.
pub fn flush() {
    let Some(logger) = LOGGER.get() else { return };
    let (done, written) = bounded(1);
    let limit = Duration::from_secs(1);
    if logger.queue.send_timeout(Message::Flush(done), limit).is_ok() {
        let _ = written.recv_timeout(limit);
    }
}

/// Says why the process ends: in the log, or on stderr where the log does not take it.
pub fn fatal(why: &dyn core::fmt::Display) {
    if log::log_enabled!(Level::Error) {
        log::error!("{why}");
    } else {
        // Nothing can be said about a stderr that is gone.
        let _ = writeln!(stderr(), "error: {why}");
    }
}

/// Where lines go. A disk may be full, and have room again.
struct Output<W> {
    to: W,
    /// A line was cut off, and has no end.
    torn: bool,
}

fn write_all(lines: &Receiver<Message>, lost: &AtomicU64, output: &mut Output<impl Write>) {
    for message in lines {
        match message {
            Message::Line { text, lost: with_it } => {
                let text = if output.torn { format!("\n{text}") } else { text };
                output.torn = output.to.write_all(text.as_bytes()).is_err();
                if output.torn {
                    lost.fetch_add(with_it, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => drop(done.send(())),
        }
    }
}

impl Logger {
    /// Writes one line, behind one that says how many were lost before it.
    fn write(&self, level: Level, target: &str, text: &str) {
        let now = SystemTime::now();
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = format!("{lost} log lines were lost: stderr is too slow, or takes none");
            self.enqueue(line(self.format, now, Level::Warn, module_path!(), &text), lost);
        }
        self.enqueue(line(self.format, now, level, target, text), 1);
    }

    /// Where there is no room, so many are lost with it.
    fn enqueue(&self, text: String, lost: u64) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line { text, lost }) {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Of other people's crates (HTTP server, runtime) only what is wrong matters here.
        let is_ours =
            ["proxy_gw", "mptcp", "dpdk_io"].iter().any(|ours| metadata.target().starts_with(ours));
        let limit = if is_ours { LevelFilter::Trace } else { LevelFilter::Warn };
        metadata.level() <= log::max_level().min(limit)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        self.write(record.level(), record.target(), &record.args().to_string());
    }

    fn flush(&self) {
        flush();
    }
}

/// One line with its end. Text lines show control characters escaped: one record is one line.
fn line(format: LogFormat, now: SystemTime, level: Level, target: &str, text: &str) -> String {
    let time = humantime::format_rfc3339_millis(now).to_string();
    match format {
        LogFormat::Text => {
            let shown: String = text
                .chars()
                .flat_map(|character| {
                    let escaped = character.is_control().then(|| character.escape_default());
                    let plain = escaped.is_none().then_some(character);
                    escaped.into_iter().flatten().chain(plain)
                })
                .collect();
            format!("{time} {level:<5} {target}: {shown}\n")
        }
        LogFormat::Json => {
            let record = serde_json::json!({
                "time": time,
                "level": level.as_str().to_ascii_lowercase(),
                "target": target,
                "message": text,
            });
            format!("{record}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::{Cell, RefCell};

    #[test]
    fn a_record_is_one_line_in_both_formats() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let text = line(LogFormat::Text, now, Level::Warn, "proxy_gw::x", "a\n\"b\" \u{7}ü");
        assert_eq!(text, "2023-11-14T22:13:20.123Z WARN  proxy_gw::x: a\\n\"b\" \\u{7}ü\n");
        let json = line(LogFormat::Json, now, Level::Info, "proxy_gw::x", "a\n\"b\"");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["message"], "a\n\"b\"");
        assert_eq!(value["level"], "info");
        assert_eq!(value["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(json.matches('\n').count(), 1);
    }

    #[test]
    fn lost_lines_are_counted_until_somebody_is_told() {
        let (queue, lines) = bounded(1);
        let logger = Logger { format: LogFormat::Text, queue, lost: AtomicU64::new(0) };
        let next = || match lines.try_recv() {
            Ok(Message::Line { text, .. }) => text,
            _ => panic!("no line"),
        };
        for text in ["fits", "does not", "does not", "does not"] {
            logger.write(Level::Info, "proxy_gw::x", text);
        }
        assert!(next().ends_with("fits\n"));
        logger.write(Level::Info, "proxy_gw::x", "behind what is said of those");
        let told = next();
        assert!(told.contains(" 3 log lines were lost"), "{told}");
        logger.write(Level::Info, "proxy_gw::x", "next");
        let told = next();
        assert!(told.contains(" 1 log lines were lost"), "{told}");
    }

    /// Takes `room` octets.
    struct Disk<'a> {
        room: &'a Cell<usize>,
        file: &'a RefCell<Vec<u8>>,
    }

    impl Write for Disk<'_> {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            let count = from.len().min(self.room.get());
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room.set(self.room.get() - count);
            self.file.borrow_mut().extend(&from[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_refused_are_counted_once_it_has_room() {
        let (queue, lines) = bounded(16);
        let logger = Logger { format: LogFormat::Text, queue, lost: AtomicU64::new(0) };
        let (room, file) = (Cell::new(10), RefCell::new(Vec::new()));
        let mut output = Output { to: Disk { room: &room, file: &file }, torn: false };
        let mut write = |text| {
            logger.write(Level::Info, "proxy_gw::x", text);
            let (sender, all) = bounded(16);
            lines.try_iter().for_each(|message| sender.send(message).unwrap());
            drop(sender);
            write_all(&all, &logger.lost, &mut output);
        };
        for text in ["cut off", "lost", "lost"] {
            write(text);
        }
        assert_eq!(logger.lost.load(Ordering::Relaxed), 3);
        room.set(usize::MAX);
        write("written");
        let file = String::from_utf8(file.take()).unwrap();
        let [torn, told, written] = file.lines().collect::<Vec<_>>()[..] else { panic!("{file}") };
        assert_eq!(torn.len(), 10);
        assert!(told.contains(" 3 log lines were lost"), "{told}");
        assert!(written.ends_with(": written"), "{written}");
        assert_eq!(logger.lost.load(Ordering::Relaxed), 0);
    }
}
