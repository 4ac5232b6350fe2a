//! A client, the server it asked for, and what passes between them.

use super::EDGE;
use super::flow::{Flow, Progress, Tools};
use core::net::{Ipv4Addr, SocketAddr};
use nix::sys::epoll::{Epoll, EpollEvent};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

/// What a turn left.
pub(super) enum Outcome {
    Waiting,
    More,
    Ended,
}

enum State {
    /// SOCKS5 says which method, and then where to.
    Greeting,
    Request,
    Connecting,
    Relaying,
}

pub(super) struct Session {
    client: TcpStream,
    server: Option<TcpStream>,
    state: State,
    /// What the client said so far, until the relay begins.
    heard: Vec<u8>,
    is_socks: bool,
    up: Flow,
    down: Flow,
}

impl Session {
    pub(super) fn start(
        client: TcpStream,
        to: Option<SocketAddr>,
        epoll: &Epoll,
        at: usize,
    ) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        client.set_nodelay(true)?;
        epoll.add(&client, EpollEvent::new(EDGE, at as u64 * 2))?;
        let mut session = Self {
            client,
            server: None,
            state: State::Greeting,
            heard: Vec::new(),
            is_socks: to.is_none(),
            up: Flow::default(),
            down: Flow::default(),
        };
        if let Some(to) = to {
            session.connect(to, epoll, at)?;
        }
        Ok(session)
    }

    pub(super) fn give_back(self, tools: &mut Tools) {
        self.up.give_back(tools);
        self.down.give_back(tools);
    }

    /// Does what can be done now.
    pub(super) fn advance(&mut self, tools: &mut Tools, epoll: &Epoll, at: usize) -> Outcome {
        self.try_advance(tools, epoll, at).unwrap_or(Outcome::Ended)
    }

    fn try_advance(&mut self, tools: &mut Tools, epoll: &Epoll, at: usize) -> io::Result<Outcome> {
        if matches!(self.state, State::Greeting | State::Request) && !self.negotiate(epoll, at)? {
            return Ok(Outcome::Waiting);
        }
        let Some(server) = &self.server else { return Ok(Outcome::Waiting) };
        if matches!(self.state, State::Connecting) {
            if let Some(error) = server.take_error()? {
                return Err(error);
            }
            if server.peer_addr().is_err() {
                return Ok(Outcome::Waiting);
            }
            if self.is_socks {
                (&self.client).write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
            }
            self.up.precede(&core::mem::take(&mut self.heard));
            self.state = State::Relaying;
        }
        let up = self.up.pump(&self.client, server, tools)?;
        let down = self.down.pump(server, &self.client, tools)?;
        Ok(match (up, down) {
            (Progress::Done, Progress::Done) => Outcome::Ended,
            (up, down) if up == Progress::More || down == Progress::More => Outcome::More,
            _ => Outcome::Waiting,
        })
    }

    /// SOCKS5 without a password to an IPv4 address. Whether the request was heard.
    fn negotiate(&mut self, epoll: &Epoll, at: usize) -> io::Result<bool> {
        loop {
            if matches!(self.state, State::Greeting)
                && let Some(&count) = self.heard.get(1)
                && self.heard.len() >= 2 + usize::from(count)
            {
                self.heard.drain(..2 + usize::from(count));
                (&self.client).write_all(&[5, 0])?;
                self.state = State::Request;
            }
            if matches!(self.state, State::Request)
                && let Some(&[version, command, _, kind, a, b, c, d, high, low]) =
                    self.heard.first_chunk::<10>()
            {
                if (version, command, kind) != (5, 1, 1) {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                self.heard.drain(..10);
                let port = u16::from_be_bytes([high, low]);
                self.connect(SocketAddr::from((Ipv4Addr::new(a, b, c, d), port)), epoll, at)?;
                return Ok(true);
            }
            let mut octets = [0; 512];
            match (&self.client).read(&mut octets) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.heard.extend_from_slice(&octets[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn connect(&mut self, to: SocketAddr, epoll: &Epoll, at: usize) -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => {
                return Err(error);
            }
            _ => {}
        }
        let server = TcpStream::from(socket);
        epoll.add(&server, EpollEvent::new(EDGE, at as u64 * 2 + 1))?;
        self.server = Some(server);
        self.state = State::Connecting;
        Ok(())
    }
}
