//! One direction of a session.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

/// The buffer all copies go through, and the size of a pipe.
const BUFFER: usize = 256 << 10;
/// Rounds of one direction before other sessions get their turn.
const ROUNDS: usize = 8;

/// What sessions share.
pub(super) struct Tools {
    buffer: Vec<u8>,
    /// Empty pipes of ended sessions: making two for each would be most of a short session's cost.
    pipes: Vec<(OwnedFd, OwnedFd)>,
    is_splice: bool,
}

impl Tools {
    pub(super) fn new(is_splice: bool) -> Self {
        Self { buffer: vec![0; BUFFER], pipes: Vec::new(), is_splice }
    }
}

/// Where a direction stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Waiting,
    More,
    /// The end was passed on.
    Done,
}

/// What was read and not written yet, and whether the end was read.
#[derive(Default)]
pub(super) struct Flow {
    pending: Vec<u8>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    in_pipe: usize,
    at_end: bool,
    done: bool,
}

impl Flow {
    /// Octets that were read before the relay began.
    pub(super) fn precede(&mut self, octets: &[u8]) {
        self.pending.extend_from_slice(octets);
    }

    pub(super) fn give_back(self, tools: &mut Tools) {
        if let Some(pipe) = self.pipe.filter(|_| self.in_pipe == 0) {
            tools.pipes.push(pipe);
        }
    }

    pub(super) fn pump(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        tools: &mut Tools,
    ) -> io::Result<Progress> {
        if self.done {
            return Ok(Progress::Done);
        }
        if !self.write_pending(to)? {
            return Ok(Progress::Waiting);
        }
        for _ in 0..ROUNDS {
            let goes_on = if tools.is_splice {
                self.splice(from, to, tools)?
            } else {
                self.copy(from, to, tools)?
            };
            if self.at_end && self.pending.is_empty() && self.in_pipe == 0 {
                self.done = true;
                to.shutdown(Shutdown::Write)?;
                return Ok(Progress::Done);
            }
            if !goes_on {
                return Ok(Progress::Waiting);
            }
        }
        Ok(Progress::More)
    }

    /// Whether nothing is left of it.
    fn write_pending(&mut self, mut to: &TcpStream) -> io::Result<bool> {
        let mut written = 0;
        while written < self.pending.len() {
            let Some(n) = unless_blocked(to.write(&self.pending[written..]))? else { break };
            written += n;
        }
        self.pending.drain(..written);
        Ok(self.pending.is_empty())
    }

    /// Whether there may be more to do at once.
    fn copy(
        &mut self,
        mut from: &TcpStream,
        mut to: &TcpStream,
        tools: &mut Tools,
    ) -> io::Result<bool> {
        let Some(read) = unless_blocked(from.read(&mut tools.buffer))? else { return Ok(false) };
        self.at_end = read == 0;
        let mut written = 0;
        while written < read {
            let Some(n) = unless_blocked(to.write(&tools.buffer[written..read]))? else { break };
            written += n;
        }
        self.pending.extend_from_slice(&tools.buffer[written..read]);
        Ok(written == read && !self.at_end)
    }

    /// As [`Self::copy`].
    fn splice(&mut self, from: &TcpStream, to: &TcpStream, tools: &mut Tools) -> io::Result<bool> {
        let (out, into) = match &mut self.pipe {
            Some(pipe) => pipe,
            empty => empty.insert(match tools.pipes.pop() {
                Some(pipe) => pipe,
                None => new_pipe()?,
            }),
        };
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        if self.in_pipe == 0 && !self.at_end {
            let read = splice(from, None, &*into, None, BUFFER, flags);
            let Some(read) = unless_blocked(read.map_err(Into::into))? else { return Ok(false) };
            self.at_end = read == 0;
            self.in_pipe = read;
        }
        while self.in_pipe > 0 {
            let written = splice(&*out, None, to, None, self.in_pipe, flags);
            let Some(written) = unless_blocked(written.map_err(Into::into))? else {
                return Ok(false);
            };
            self.in_pipe -= written;
        }
        Ok(!self.at_end)
    }
}

fn new_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (out, into) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    // The default of 64 KiB works as well, with more calls.
    let size = i32::try_from(BUFFER).unwrap_or(i32::MAX);
    let _: Result<i32, Errno> = fcntl(&into, FcntlArg::F_SETPIPE_SZ(size));
    Ok((out, into))
}

/// `None` where the call would have had to wait.
fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
