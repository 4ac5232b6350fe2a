//! Clients on the phone and the server on the origin, with good and bad manners.
//!
//! A client's stream behind the SOCKS5 request is: its number, the upload's length, the download's
//! length (eight bytes each), the upload. The server answers with the download and finishes when it
//! has read everything.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use mptcp_core::buf::{HeapBuf, TxQueue};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::error::{ConnectionError, RecvError};
use mptcp_core::stack::{Connect, Event, Listen, Ready, SocketId, Stack};
use mptcp_core::time::Instant;
use std::collections::BTreeMap;

/// Byte `at` of upload or download number `id`.
fn pattern(id: u64, at: u64) -> u8 {
    (id.wrapping_mul(31) ^ at ^ (at >> 8)).to_le_bytes()[0]
}

pub(super) fn pattern_range(id: u64, from: u64, len: usize) -> Vec<u8> {
    (from..).take(len).map(|at| pattern(id, at)).collect()
}

/// What a client does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manners {
    Good,
    /// Resets once it has received this many bytes.
    ResetsAfter(usize),
    /// Reads nothing behind the SOCKS5 reply.
    StopsReading,
    /// Reads at most this many bytes per second.
    ReadsSlowly(usize),
    /// Says something that is not SOCKS5 and finishes.
    Garbage,
    /// Says the first bytes of a request and then nothing.
    Silent,
    /// Asks for a relay of datagrams and stays.
    Associates,
}

/// What a client wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) mptcp: bool,
    pub(super) destination: [u8; 4],
    pub(super) port: u16,
    pub(super) upload: u64,
    pub(super) download: u64,
    pub(super) manners: Manners,
    /// With a password; without: nobody.
    pub(super) user: Option<&'static str>,
}

/// How a client's connection went.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) wish: Wish,
    id: u64,
    output: Vec<u8>,
    written: usize,
    shut: bool,
    /// Everything received, SOCKS5 replies included.
    pub(super) received: Vec<u8>,
    pub(super) finished: bool,
    pub(super) error: Option<ConnectionError>,
    /// Its connection has ended.
    closed: bool,
    /// Bytes a slow reader still reads in this second.
    allowance: usize,
    /// It knows of no gateway, and asks the server itself.
    direct: bool,
}

/// Bytes of method selection and success reply.
pub(super) const REPLIES: usize = 2 + 10;
/// What the answer to a password adds.
const VERDICT: usize = 2;

impl Client {
    fn new(id: u64, wish: Wish, direct: bool) -> Self {
        let command = if wish.manners == Manners::Associates { 3 } else { 1 };
        let mut output = match wish.user {
            _ if direct => Vec::new(),
            None => b"\x05\x01\x00".to_vec(),
            Some(user) => {
                let len = u8::try_from(user.len()).unwrap();
                [b"\x05\x01\x02\x01", &[len][..], user.as_bytes(), b"\x01x"].concat()
            }
        };
        if !direct {
            output.extend([5, command, 0, 1]);
            output.extend(wish.destination);
            output.extend(wish.port.to_be_bytes());
        }
        match wish.manners {
            Manners::Garbage => output = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            Manners::Silent => output.truncate(6),
            Manners::Associates => {}
            _ => {
                output.extend(id.to_be_bytes());
                output.extend(wish.upload.to_be_bytes());
                output.extend(wish.download.to_be_bytes());
                output.extend(pattern_range(id, 0, usize::try_from(wish.upload).unwrap()));
            }
        }
        Self {
            wish,
            id,
            output,
            written: 0,
            shut: false,
            received: Vec::new(),
            finished: false,
            error: None,
            closed: false,
            allowance: 0,
            direct,
        }
    }

    /// The whole download came, after a success reply, and then the end.
    pub(super) fn is_satisfied(&self) -> bool {
        let body = self.received.get(self.replies()..).unwrap_or_default();
        self.finished
            && self.error.is_none()
            && (self.direct
                || self.received.get(self.reply_at()..).is_some_and(|it| it.starts_with(&[5, 0])))
            && body == pattern_range(!self.id, 0, usize::try_from(self.wish.download).unwrap())
    }

    /// Octets before the download.
    fn replies(&self) -> usize {
        let at = self.reply_at();
        match self.received.get(at + 3) {
            _ if self.direct => 0,
            // An exit of IPv6 has a longer address.
            Some(4) => at + 22,
            _ => at + 10,
        }
    }

    /// Where the reply to the request begins.
    fn reply_at(&self) -> usize {
        REPLIES - 10 + if self.wish.user.is_some() { VERDICT } else { 0 }
    }

    /// Octets of the download so far.
    pub(super) fn downloaded(&self) -> u64 {
        self.received.len().saturating_sub(self.replies()) as u64
    }

    /// The port of the relay it asked for.
    pub(super) fn relay_port(&self) -> Option<u16> {
        let port = self.received.get(self.replies() - 2..)?.first_chunk()?;
        Some(u16::from_be_bytes(*port))
    }

    /// The reply code, once it is there.
    pub(super) fn rep(&self) -> Option<u8> {
        self.received.get(self.reply_at() + 1).copied()
    }
}

/// The phone: any number of clients.
pub(super) struct Phone {
    pub(super) stack: Stack<HeapBuf>,
    pub(super) clients: BTreeMap<SocketId, Client>,
    pub(super) done: Vec<Client>,
    local: IpAddr,
    /// The number of the last client.
    count: u64,
    /// Octets that a client has ready for its SYN.
    pub(super) early: usize,
    /// Clients know of no gateway.
    pub(super) direct: bool,
    /// When the slow readers read on.
    reads_at: Instant,
    /// There was one.
    has_slow: bool,
}

impl Phone {
    /// Its clients have the numbers above `count`.
    pub(super) fn new(stack: Stack<HeapBuf>, local: IpAddr, count: u64) -> Self {
        let reads_at = Instant::from_nanos(1);
        let (early, direct, has_slow) = (0, false, false);
        let (clients, done) = (BTreeMap::new(), Vec::new());
        Self { stack, clients, done, local, count, early, direct, reads_at, has_slow }
    }

    pub(super) fn start(&mut self, now: Instant, wish: Wish) {
        let remote = match self.direct {
            true => SocketAddr::from((wish.destination, wish.port)),
            false => "10.1.0.1:1080".parse().unwrap(),
        };
        let with = Connect {
            local: self.local,
            local_port: 0,
            remote,
            mptcp: wish.mptcp,
            timeout: None,
            user_data: 0,
        };
        self.count += 1;
        self.has_slow |= matches!(wish.manners, Manners::ReadsSlowly(_));
        let mut client = Client::new(self.count, wish, self.direct);
        let id = if self.early == 0 {
            self.stack.connect(now, &with).unwrap()
        } else {
            let early = &client.output[..self.early.min(client.output.len())];
            let (id, queued) = self.stack.connect_with_data(now, &with, early).unwrap();
            client.written = queued;
            id
        };
        self.clients.insert(id, client);
    }

    fn drive(&mut self, now: Instant, id: SocketId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        while client.written < client.output.len() {
            match self.stack.send(now, id, &client.output[client.written..]) {
                Ok(count) => client.written += count,
                Err(_) => break,
            }
        }
        let says_all = !matches!(client.wish.manners, Manners::Silent | Manners::Associates);
        if client.written == client.output.len() && says_all && !client.shut {
            client.shut = true;
            self.stack.shutdown_write(now, id);
        }
        let mut bytes = [0; 4096];
        loop {
            let room = match client.wish.manners {
                Manners::StopsReading => REPLIES.saturating_sub(client.received.len()),
                Manners::ReadsSlowly(_) => client.allowance.min(bytes.len()),
                _ => bytes.len(),
            };
            if room == 0 {
                break;
            }
            match self.stack.recv(now, id, &mut bytes[..room]) {
                Ok(0) => {
                    client.finished = true;
                    break;
                }
                Ok(count) => {
                    client.received.extend(&bytes[..count]);
                    client.allowance = client.allowance.saturating_sub(count);
                }
                Err(RecvError::WouldBlock) => break,
                Err(error) => {
                    assert_ne!(error, RecvError::InvalidSocket);
                    break;
                }
            }
        }
        let enough = matches!(client.wish.manners, Manners::ResetsAfter(limit) if client.received.len() >= limit);
        if enough && let Some(client) = self.clients.remove(&id) {
            self.done.push(client);
            self.stack.abort(now, id);
        }
    }
}

/// The origin: port 80 serves, port 81 resets every connection after its first bytes.
pub(super) struct Server {
    pub(super) stack: Stack<HeapBuf>,
    resetting: SocketId,
    connections: BTreeMap<SocketId, Served>,
    /// Uploads that arrived whole and unchanged.
    pub(super) uploads: u64,
}

/// One connection of the server.
#[derive(Default)]
struct Served {
    resets: bool,
    received: Vec<u8>,
    ended: bool,
    sent: u64,
    shut: bool,
}

const HEAD: usize = 24;

impl Served {
    /// Number, upload length and download length, once they are there.
    fn head(&self) -> Option<[u64; 3]> {
        let head = self.received.first_chunk::<HEAD>()?;
        let word = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().unwrap());
        Some([word(0), word(8), word(16)])
    }

    fn has_upload(&self) -> bool {
        let Some([id, len, _]) = self.head() else { return false };
        self.received[HEAD..] == pattern_range(id, 0, usize::try_from(len).unwrap())
    }
}

impl Server {
    pub(super) fn new(mut stack: Stack<HeapBuf>) -> Self {
        let mut listen = |text: &str| {
            let local: SocketAddr = text.parse().unwrap();
            stack.listen(local, &Listen::default()).unwrap()
        };
        listen("10.9.0.2:80");
        let resetting = listen("10.9.0.2:81");
        Self { stack, resetting, connections: BTreeMap::new(), uploads: 0 }
    }

    fn drive(&mut self, now: Instant, id: SocketId) {
        let Some(served) = self.connections.get_mut(&id) else { return };
        let mut bytes = [0; 4096];
        while !served.ended {
            match self.stack.recv(now, id, &mut bytes) {
                Ok(0) => {
                    served.ended = true;
                    self.uploads += u64::from(served.has_upload());
                }
                Ok(count) => served.received.extend(&bytes[..count]),
                Err(_) => break,
            }
        }
        if served.resets && !served.received.is_empty() {
            self.connections.remove(&id);
            return self.stack.abort(now, id);
        }
        let Some([number, _, download]) = served.head() else { return };
        while served.sent < download {
            let len = usize::try_from((download - served.sent).min(4096)).unwrap();
            let piece = pattern_range(!number, served.sent, len);
            match self.stack.send(now, id, &piece) {
                Ok(count) => served.sent += count as u64,
                Err(_) => return,
            }
        }
        if served.ended && !served.shut {
            served.shut = true;
            self.stack.shutdown_write(now, id);
        }
    }
}

/// What both peers do with the loop's calls that only concern the stack.
macro_rules! stack_worker {
    ($peer:ty) => {
        impl Worker<HeapBuf> for $peer {
            fn handle_burst(&mut self, now: Instant, burst: &mut Vec<HeapBuf>) {
                self.stack.handle_burst(now, burst);
            }

            fn handle_timeouts(&mut self, now: Instant, budget: usize) -> Progress {
                self.read_on(now);
                self.stack.handle_timeouts(now, budget)
            }

            fn handle_events(&mut self, now: Instant) {
                while let Some(event) = self.stack.poll_event() {
                    self.handle_event(now, event);
                }
            }

            fn poll_transmit<T: TxQueue<HeapBuf>>(&mut self, now: Instant, tx: &mut T) -> Progress {
                self.stack.poll_transmit(now, tx)
            }

            fn poll_timeout(&self) -> Option<Instant> {
                [self.stack.poll_timeout(), self.next_read()].into_iter().flatten().min()
            }

            fn poll_control(&mut self, _now: Instant) -> Control {
                Control::Continue
            }
        }
    };
}

stack_worker!(Phone);
stack_worker!(Server);

impl Phone {
    /// Another second of reading for the slow ones.
    fn read_on(&mut self, now: Instant) {
        if now < self.reads_at || !self.has_slow {
            return;
        }
        self.reads_at = now + Duration::from_secs(1);
        let mut slow = Vec::new();
        for (id, client) in &mut self.clients {
            if let Manners::ReadsSlowly(rate) = client.wish.manners {
                client.allowance = rate;
                slow.push(*id);
            }
        }
        for id in slow {
            self.drive(now, id);
            self.let_go(id);
        }
    }

    fn next_read(&self) -> Option<Instant> {
        let slow = |client: &Client| matches!(client.wish.manners, Manners::ReadsSlowly(_));
        (self.has_slow && self.clients.values().any(slow)).then_some(self.reads_at)
    }

    fn handle_event(&mut self, now: Instant, event: Event) {
        self.drive(now, event.socket);
        if event.ready.contains(Ready::CLOSED)
            && let Some(client) = self.clients.get_mut(&event.socket)
        {
            client.closed = true;
            client.error = self.stack.error(event.socket);
            self.let_go(event.socket);
        }
    }

    /// Gives a connection up that has ended, once its client has read what it is going to read.
    fn let_go(&mut self, id: SocketId) {
        let over = |client: &Client| {
            let reads_on = matches!(client.wish.manners, Manners::ReadsSlowly(_));
            client.closed && (client.finished || client.error.is_some() || !reads_on)
        };
        if self.clients.get(&id).is_some_and(over)
            && let Some(client) = self.clients.remove(&id)
        {
            self.stack.release(id);
            self.done.push(client);
        }
    }
}

impl Server {
    fn read_on(&mut self, _now: Instant) {}

    fn next_read(&self) -> Option<Instant> {
        None
    }

    fn handle_event(&mut self, now: Instant, event: Event) {
        if event.ready.contains(Ready::ACCEPT) {
            while let Some(id) = self.stack.accept(event.socket) {
                let resets = event.socket == self.resetting;
                self.connections.insert(id, Served { resets, ..Served::default() });
                self.drive(now, id);
            }
            return;
        }
        self.drive(now, event.socket);
        if event.ready.contains(Ready::CLOSED) && self.connections.remove(&event.socket).is_some() {
            self.stack.release(event.socket);
        }
    }
}
