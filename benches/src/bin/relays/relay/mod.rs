//! A relay on the kernel's sockets with nothing to spare: one thread, edge-triggered epoll, and either
//! one copy through a buffer of 256 KiB or `splice` through a pipe. What any relay on the kernel's
//! sockets could cost at best.

mod flow;
mod session;

use core::net::SocketAddr;
use flow::Tools;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use session::{Outcome, Session};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::TcpListener;

/// What the relay is to do.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Where every connection goes; without it clients say so by SOCKS5.
    #[arg(long)]
    to: Option<SocketAddr>,
    /// Move octets by `splice` instead of a copy.
    #[arg(long)]
    splice: bool,
    /// Listen for MPTCP as well; the way to the server is TCP in any case.
    #[arg(long)]
    mptcp: bool,
}

/// The listener's token; a session's are twice its place and one more for the server's side.
const LISTENER: u64 = u64::MAX;
const EVENTS: usize = 256;
const BACKLOG: i32 = 1024;
const EDGE: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLOUT)
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);

/// Relays until it is killed.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    let listener = listen(options)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut relay = Relay {
        to: options.to,
        epoll,
        listener,
        sessions: Vec::new(),
        free: Vec::new(),
        tools: Tools::new(options.splice),
        again: Vec::new(),
    };
    let mut events = vec![EpollEvent::empty(); EVENTS];
    loop {
        let timeout = if relay.again.is_empty() { EpollTimeout::NONE } else { EpollTimeout::ZERO };
        let count = match relay.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        relay.turn(&events[..count]);
    }
}

fn listen(options: &Options) -> io::Result<TcpListener> {
    let protocol = if options.mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(options.listen), Type::STREAM, Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.bind(&options.listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

struct Relay {
    to: Option<SocketAddr>,
    epoll: Epoll,
    listener: TcpListener,
    sessions: Vec<Option<Session>>,
    free: Vec<usize>,
    tools: Tools,
    /// Sessions that stopped before their sockets were empty.
    again: Vec<usize>,
}

impl Relay {
    fn turn(&mut self, events: &[EpollEvent]) {
        // Places are given away again only behind the events that may still name them.
        let mut ended = Vec::new();
        let mut work = core::mem::take(&mut self.again);
        let ready = events.iter().map(EpollEvent::data).filter(|&token| token != LISTENER);
        work.extend(ready.filter_map(|token| usize::try_from(token / 2).ok()));
        work.dedup();
        for at in work {
            let Some(Some(session)) = self.sessions.get_mut(at) else { continue };
            match session.advance(&mut self.tools, &self.epoll, at) {
                Outcome::Waiting => {}
                Outcome::More => self.again.push(at),
                Outcome::Ended => {
                    if let Some(session) = self.sessions[at].take() {
                        session.give_back(&mut self.tools);
                    }
                    ended.push(at);
                }
            }
        }
        self.free.append(&mut ended);
        if events.iter().any(|event| event.data() == LISTENER) {
            self.accept();
        }
    }

    fn accept(&mut self) {
        while let Ok((client, _)) = self.listener.accept() {
            let at = self.free.pop().unwrap_or_else(|| {
                self.sessions.push(None);
                self.sessions.len() - 1
            });
            // A client that is gone again, or one too many, is let go.
            match Session::start(client, self.to, &self.epoll, at) {
                Ok(session) => self.sessions[at] = Some(session),
                Err(_) => self.free.push(at),
            }
        }
    }
}
