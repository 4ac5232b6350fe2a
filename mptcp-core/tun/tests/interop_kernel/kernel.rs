//! The kernel's side: a namespace with its sockets, its MPTCP path manager and its counters.

use crate::pattern::{Pattern, Plan, REQUEST_LEN, Stream};
use crate::support::{self, Host};
use core::net::SocketAddr;
use core::time::Duration;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// A stream that stands still for so long is broken; generous, because the machine is shared.
const STALLED: Duration = Duration::from_secs(40);

/// Holds senders back until a test says how far they may go.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<(Mutex<u64>, Condvar)>);

impl Gate {
    pub(crate) fn at(offset: u64) -> Self {
        Self(Arc::new((Mutex::new(offset), Condvar::new())))
    }

    /// Lets octets up to `offset` pass.
    pub(crate) fn open_to(&self, offset: u64) {
        *self.0.0.lock().expect("no panic holds it") = offset;
        self.0.1.notify_all();
    }

    /// Waits until octets beyond `offset` may be sent; tells up to where.
    fn pass(&self, offset: u64) -> u64 {
        let limit = self.0.0.lock().expect("no panic holds it");
        *self.0.1.wait_while(limit, |limit| *limit <= offset).expect("no panic holds it")
    }
}

/// How a connection of a kernel socket ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The peer's whole stream came, every octet as expected, and its end; ours was taken.
    pub(crate) complete: bool,
    pub(crate) difference: Option<u64>,
    pub(crate) read_error: Option<io::Error>,
    pub(crate) write_error: Option<io::Error>,
}

/// A namespace of the kernel.
pub(crate) struct Kernel {
    pub(crate) host: Host,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Self { host: Host::new() }
    }

    /// Runs one command per line there.
    pub(crate) fn commands(&self, lines: &str) {
        let lines = lines.to_owned();
        self.host.run(move || {
            let lines: Vec<_> = lines.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
            support::commands(&lines);
        });
    }

    /// Waits until no IPv6 address is tentative any more: it could not be bound before.
    pub(crate) fn wait_addresses(&self) {
        let tentative =
            || !support::run("ip", &["-6", "address", "show", "tentative"]).stdout.is_empty();
        self.host.run(move || {
            for _ in 0..5_000 {
                if !tentative() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            panic!("an address stayed tentative");
        });
    }

    /// Replaces the packet filter with one `rules` apply in (syntax of nft).
    pub(crate) fn nft(&self, rules: &str) {
        let rules = format!("flush ruleset\n{rules}");
        self.host.run(move || {
            let mut child = std::process::Command::new("nft")
                .args(["-f", "-"])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .expect("nft");
            let mut stdin = child.stdin.take().expect("it is piped");
            stdin.write_all(rules.as_bytes()).expect("nft reads");
            drop(stdin);
            assert!(child.wait().expect("nft ends").success(), "nft refused\n{rules}");
        });
    }

    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let value = value.to_owned();
        self.host.run(move || std::fs::write(&path, value).expect(&path));
    }

    /// Every counter of `netstat` and `snmp` (MPTcpExt, TcpExt, Tcp) that is not zero.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        self.host.run(|| {
            let mut counters = BTreeMap::new();
            for file in ["netstat", "snmp"] {
                // The thread's own view: `/proc/net` is that of the process.
                let path = format!("/proc/thread-self/net/{file}");
                let text = std::fs::read_to_string(&path).expect(&path);
                let lines: Vec<_> = text.lines().collect();
                for pair in lines.chunks_exact(2) {
                    let (names, values) = (pair[0].split(' '), pair[1].split(' '));
                    for (name, value) in names.zip(values).skip(1) {
                        if let Ok(value @ 1..) = value.parse() {
                            counters.insert(name.to_owned(), value);
                        }
                    }
                }
            }
            counters
        })
    }

    fn socket(&self, addr: SocketAddr, mptcp: bool) -> Socket {
        let protocol = if mptcp { Protocol::MPTCP } else { Protocol::TCP };
        // The namespace of a socket is that of the thread that makes it.
        self.host.run(move || {
            Socket::new(Domain::for_address(addr), Type::STREAM, Some(protocol)).expect("a socket")
        })
    }

    /// A connected socket.
    pub(crate) fn connect(&self, local: SocketAddr, remote: SocketAddr, mptcp: bool) -> Socket {
        self.try_connect(local, remote, mptcp).expect("the handshake")
    }

    pub(crate) fn try_connect(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        mptcp: bool,
    ) -> io::Result<Socket> {
        let socket = self.socket(remote, mptcp);
        socket.bind(&local.into())?;
        socket.connect_timeout(&remote.into(), STALLED)?;
        Ok(socket)
    }

    pub(crate) fn listen(&self, addr: SocketAddr, mptcp: bool) -> Socket {
        let socket = self.socket(addr, mptcp);
        socket.set_reuse_address(true).expect("a socket option");
        socket.bind(&SockAddr::from(addr)).expect("a free port");
        socket.listen(1024).expect("a listener");
        socket.set_read_timeout(Some(STALLED)).expect("a socket option");
        socket
    }
}

/// Runs the client's side of a transfer in threads of its own.
pub(crate) fn client(socket: Socket, plan: Plan, gate: &Gate) -> JoinHandle<Outcome> {
    let gate = gate.clone();
    std::thread::spawn(move || exchange(socket, plan, true, &gate))
}

/// Accepts `count` connections and serves each, all at once.
pub(crate) fn server(listener: Socket, count: usize, gate: &Gate) -> JoinHandle<Vec<Outcome>> {
    let gate = gate.clone();
    std::thread::spawn(move || {
        let serve = |_| {
            let (mut socket, _) = listener.accept().expect("a connection");
            let gate = gate.clone();
            std::thread::spawn(move || {
                socket.set_read_timeout(Some(STALLED)).expect("a socket option");
                let mut request = [0; REQUEST_LEN];
                if let Err(error) = socket.read_exact(&mut request) {
                    return Outcome {
                        complete: false,
                        difference: None,
                        read_error: Some(error),
                        write_error: None,
                    };
                }
                exchange(socket, Plan::parse(request), false, &gate)
            })
        };
        let served: Vec<_> = (0..count).map(serve).collect();
        served.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// Both streams at once.
fn exchange(socket: Socket, plan: Plan, is_client: bool, gate: &Gate) -> Outcome {
    socket.set_read_timeout(Some(STALLED)).expect("a socket option");
    socket.set_write_timeout(Some(STALLED)).expect("a socket option");
    let writer = socket.try_clone().expect("a descriptor");
    let gate = gate.clone();
    let sending = std::thread::spawn(move || send(writer, plan, is_client, &gate));
    let (expected, stream) =
        if is_client { (plan.down, Stream::Down) } else { (plan.up, Stream::Up) };
    let (received, difference, read_error) = receive(socket, &Pattern::new(stream));
    let write_error = sending.join().expect("no panic").err();
    let complete = received == expected
        && difference.is_none()
        && read_error.is_none()
        && write_error.is_none();
    Outcome { complete, difference, read_error, write_error }
}

fn send(mut socket: Socket, plan: Plan, is_client: bool, gate: &Gate) -> io::Result<()> {
    let (total, stream) = if is_client { (plan.up, Stream::Up) } else { (plan.down, Stream::Down) };
    let pattern = Pattern::new(stream);
    if is_client {
        socket.write_all(&plan.request())?;
    }
    let mut sent = 0;
    while sent < total {
        let limit = gate.pass(sent).min(total);
        let part = pattern.at(sent);
        let left = usize::try_from(limit - sent).unwrap_or(usize::MAX);
        let part = &part[..part.len().min(left)];
        match socket.write(part) {
            Ok(len) => sent += len as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    socket.shutdown(Shutdown::Write)
}

fn receive(mut socket: Socket, pattern: &Pattern) -> (u64, Option<u64>, Option<io::Error>) {
    let mut bytes = vec![0; 64 << 10];
    let (mut received, mut difference) = (0, None);
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return (received, difference, None),
            Ok(len) => {
                difference = difference.or(pattern.difference(received, &bytes[..len]));
                received += len as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (received, difference, Some(error)),
        }
    }
}
