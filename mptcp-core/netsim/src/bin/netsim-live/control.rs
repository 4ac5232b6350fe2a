//! The control socket: lines in, one line out per line. What a client can make us hold is bounded:
//! a number of connections and a length of line.

use rustix::event::{PollFd, PollFlags};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const MAX_CLIENTS: usize = 16;
const MAX_LINE: usize = 4_096;

/// A command from a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Report counters.
    Get,
    /// Change settings of a link.
    Set {
        /// The link's name.
        link: String,
        /// `KEY=VALUE` words.
        settings: Vec<String>,
    },
    /// End the process.
    Quit,
}

impl Command {
    /// Reads one line.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let rest: Vec<String> = words.map(str::to_owned).collect();
        match (verb, rest.split_first()) {
            ("get", None) => Ok(Self::Get),
            ("quit", None) => Ok(Self::Quit),
            ("set", Some((link, settings))) if !settings.is_empty() => {
                Ok(Self::Set { link: link.clone(), settings: settings.to_vec() })
            }
            ("set", _) => Err("set needs a link and at least one KEY=VALUE".to_owned()),
            ("get" | "quit", Some(_)) => Err(format!("{verb} takes nothing more")),
            _ => Err(format!("unknown command '{verb}'; known: get, set, quit")),
        }
    }
}

struct Client {
    stream: UnixStream,
    line: Vec<u8>,
}

/// The listening socket, removed when dropped, and its clients.
pub(crate) struct Control {
    path: PathBuf,
    listener: UnixListener,
    clients: Vec<Client>,
}

impl Control {
    /// Listens on `path`; takes over a socket that nobody answers on.
    pub(crate) fn listen(path: &Path) -> Result<Self, String> {
        let explain = |error: io::Error| format!("control socket {}: {error}", path.display());
        if UnixStream::connect(path).is_ok() {
            return Err(format!("control socket {}: another process uses it", path.display()));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(explain(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(explain)?;
        listener.set_nonblocking(true).map_err(explain)?;
        Ok(Self { path: path.to_owned(), listener, clients: Vec::new() })
    }

    /// What to wait for.
    pub(crate) fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let clients = self.clients.iter().map(|client| PollFd::new(&client.stream, PollFlags::IN));
        core::iter::once(PollFd::new(&self.listener, PollFlags::IN)).chain(clients)
    }

    /// Accepts clients and answers every complete line with what `execute` returns.
    pub(crate) fn serve(&mut self, mut execute: impl FnMut(&str) -> String) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < MAX_CLIENTS && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client { stream, line: Vec::new() });
            }
        }
        self.clients.retain_mut(|client| client.serve(&mut execute));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Client {
    /// False when the client is gone, sends too much, or does not read its answers.
    fn serve(&mut self, execute: &mut impl FnMut(&str) -> String) -> bool {
        let mut bytes = [0; MAX_LINE];
        let open = match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(len) => {
                self.line.extend(bytes.iter().take(len));
                true
            }
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        };
        while let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            let mut answer = execute(String::from_utf8_lossy(&line).trim());
            answer.push('\n');
            if self.stream.write_all(answer.as_bytes()).is_err() {
                return false;
            }
        }
        open && self.line.len() <= MAX_LINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_words() {
        assert_eq!(Command::parse(" get "), Ok(Command::Get));
        assert_eq!(Command::parse("quit"), Ok(Command::Quit));
        let settings = vec!["rate=1mbit".to_owned(), "ab.loss=1%".to_owned()];
        let set = Command::Set { link: "lte".to_owned(), settings };
        assert_eq!(Command::parse("set lte rate=1mbit ab.loss=1%"), Ok(set));
        for line in ["", "set", "set lte", "get lte", "stop"] {
            assert!(Command::parse(line).is_err(), "{line}");
        }
    }
}
