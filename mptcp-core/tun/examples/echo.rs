//! An echo server on our own MPTCP stack whose client is the Linux kernel, over two TUN devices.
//!
//! As root, and nothing else to prepare:
//!
//! ```text
//! cargo run -p mptcp-tun --example echo
//! ```
//!
//! makes a network namespace of its own, in which the kernel owns `10.1.0.254` on the device `lte`
//! and `10.2.0.254` on `wifi`, and the stack owns `10.1.0.1` and `10.2.0.1`; it echoes on port 7 of
//! both. The command that it prints connects a kernel socket of `IPPROTO_MPTCP` (262):
//!
//! ```text
//! nsenter -t PID -n python3 -c 'import socket
//! s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
//! s.connect(("10.1.0.1", 7)); s.sendall(b"hello"); s.shutdown(1); print(s.recv(99))'
//! ```
//!
//! `nc` speaks TCP, and is echoed as well: `echo hello | nsenter -t PID -n nc -N 10.1.0.1 7`. With
//! `here` as its argument the devices are made in the present namespace. It stops when stdin closes
//! and says what became of every connection; with `log` each one's events follow as JSON lines.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, PortId};
use mptcp_core::config::{LocalAddress, StackConfig};
use mptcp_core::driver::Application;
use mptcp_core::error::{RecvError, SendError};
use mptcp_core::event_log;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::{ConnectionInfo, Listen, Ready, SocketId, Stack};
use mptcp_core::time::Instant;
use mptcp_tun::{Clock, RESERVE, RouteTable, TunConfig, TunDevice, TunLoop, TunPort};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::io::Read;

type Failure = Box<dyn core::error::Error + Send + Sync>;

/// Where it listens.
const ECHO_PORT: u16 = 7;

/// One access network: the device, the stack's address and the kernel's.
struct Access {
    name: &'static str,
    ours: Ipv4Addr,
    kernels: &'static str,
}

const ACCESSES: [Access; 2] = [
    Access { name: "lte", ours: Ipv4Addr::new(10, 1, 0, 1), kernels: "10.1.0.254/24" },
    Access { name: "wifi", ours: Ipv4Addr::new(10, 2, 0, 1), kernels: "10.2.0.254/24" },
];

/// The application: the stack, its listeners, and what each connection still has to send back.
struct Echo {
    stack: Stack<HeapBuf>,
    listeners: Vec<SocketId>,
    /// Received and not taken by the send buffer yet.
    held: BTreeMap<SocketId, Option<HeapBuf>>,
    /// Keep and print event logs.
    log: bool,
    ended: Vec<ConnectionInfo>,
}

impl Echo {
    /// A stack on the addresses of [`ACCESSES`] that listens on both.
    fn new(now: Instant, pool: &HeapPool, log: bool) -> Result<Self, Failure> {
        let mut config = StackConfig::default();
        // Keys and sequence numbers follow from the seed: it must be secret.
        std::fs::File::open("/dev/urandom")?.read_exact(&mut config.seed)?;
        config.addresses = (0..)
            .zip(&ACCESSES)
            .map(|(port, access)| LocalAddress {
                addr: IpAddr::V4(access.ours),
                port: PortId(port),
                mtu: 1500,
                // Announced with ADD_ADDR: a client that takes announcements joins there.
                endpoint: true,
                backup: false,
            })
            .collect();
        // What is kept leaves buffers for what passes through.
        let kept = pool.clone().with_reserve(RESERVE);
        let memory: Box<dyn BufPool<HeapBuf> + Send> = Box::new(kept);
        let mut stack = Stack::new(config, now, memory);
        let mut listeners = Vec::new();
        for access in &ACCESSES {
            let options = Listen { mptcp: true, ..Listen::default() };
            let local = SocketAddr::new(IpAddr::V4(access.ours), ECHO_PORT);
            let listener = stack.listen(local, &options)?;
            if log {
                stack.log_events(listener, 10_000);
            }
            listeners.push(listener);
        }
        Ok(Self { stack, listeners, held: BTreeMap::new(), log, ended: Vec::new() })
    }

    /// Sends back what can be sent; buffers go out as they came in.
    fn echo(&mut self, now: Instant, id: SocketId) {
        let Some(held) = self.held.get_mut(&id) else { return };
        loop {
            let buf = match held.take() {
                Some(buf) => buf,
                None => match self.stack.recv_buf(now, id) {
                    Ok(Some(buf)) => buf,
                    Ok(None) => return self.stack.shutdown_write(now, id),
                    // `READABLE` says when to ask again; an error comes with `CLOSED`.
                    Err(RecvError::WouldBlock | RecvError::Failed(_)) => return,
                    Err(RecvError::InvalidSocket) => return,
                },
            };
            match self.stack.send_buf(id, buf) {
                Ok(()) => {}
                // `WRITABLE` says when to try again. Not reading meanwhile shuts the peer's window.
                Err((SendError::WouldBlock, buf)) => {
                    *held = Some(buf);
                    return;
                }
                Err((_, _buf)) => return,
            }
        }
    }

    fn end(&mut self, id: SocketId) {
        self.held.remove(&id);
        let Some(info) = self.stack.info(id) else { return };
        println!(
            "{} to {}: MPTCP {:?}, fallback {:?}, {} octets echoed, {:?}",
            info.remote,
            info.local,
            info.mptcp,
            info.fallback.map(FallbackReason::name),
            info.bytes_acked,
            info.error
        );
        if self.log {
            let mut text = String::new();
            let _ = event_log::write_header(&mut text, &info.remote.to_string());
            for record in self.stack.event_log(id).into_iter().flat_map(|log| log.iter()) {
                let _ = event_log::write_record(&mut text, record);
            }
            print!("{text}");
        }
        self.ended.push(info);
        self.stack.release(id);
    }
}

/// All but this the stack does.
impl Application for Echo {
    type Buf = HeapBuf;

    fn stack(&self) -> &Stack<HeapBuf> {
        &self.stack
    }

    fn stack_mut(&mut self) -> &mut Stack<HeapBuf> {
        &mut self.stack
    }

    fn react(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            let id = event.socket;
            if event.ready.contains(Ready::ACCEPT) && self.listeners.contains(&id) {
                while let Some(accepted) = self.stack.accept(id) {
                    self.held.insert(accepted, None);
                    self.echo(now, accepted);
                }
                continue;
            }
            self.echo(now, id);
            if event.ready.contains(Ready::CLOSED) {
                self.end(id);
            }
        }
    }
}

/// The devices in the present namespace and the loop over them, ready to run.
fn server(log: bool) -> Result<(TunLoop<TunDevice>, Echo), Failure> {
    let mut ports = Vec::new();
    let mut routes = Vec::new();
    for (port, access) in (0..).zip(&ACCESSES) {
        let prefix = access.kernels.parse()?;
        let name = access.name.to_owned();
        let config = TunConfig { name, kernel_addresses: vec![prefix], mtu: 1500, offload: true };
        let device = TunDevice::create(&config)?;
        ports.push(TunPort { device, addresses: vec![IpAddr::V4(access.ours)] });
        routes.push((prefix, PortId(port)));
    }
    let clock = Clock::start();
    let pool = HeapPool::new(65_536, 1_700);
    let echo = Echo::new(clock.now(), &pool, log)?;
    Ok((TunLoop::new(ports, RouteTable::new(&routes), pool, clock)?, echo))
}

/// Moves this thread into a namespace of its own.
fn enter_namespace() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| format!("a network namespace needs root (CAP_SYS_ADMIN): {errno}"))?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let asked = |word: &str| std::env::args().skip(1).any(|arg| arg == word);
    if !asked("here") {
        enter_namespace()?;
    }
    let (mut tun, mut echo) = server(asked("log"))?;
    let handle = tun.handle();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        handle.stop();
    });
    let enter = if asked("here") {
        String::new()
    } else {
        format!("nsenter -t {} -n ", std::process::id())
    };
    println!("echoing on 10.1.0.1 and 10.2.0.1, port {ECHO_PORT}; try");
    println!("  {enter}python3 -c 'import socket; s = socket.socket(2, 1, 262); \\");
    println!(
        "    s.connect((\"10.1.0.1\", 7)); s.sendall(b\"hello\"); s.shutdown(1); print(s.recv(99))'"
    );
    tun.run(&mut echo)?;
    Ok(())
}

/// `cargo test -p mptcp-tun` runs it, as root.
#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Protocol, Socket, Type};
    use std::io::Write;
    use std::net::{Shutdown, TcpStream};

    /// A kernel socket that is connected to us.
    fn client(mptcp: bool) -> TcpStream {
        let protocol = if mptcp { Protocol::MPTCP } else { Protocol::TCP };
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol));
        let socket = socket.expect("a kernel with MPTCP");
        let remote = SocketAddr::new(IpAddr::V4(ACCESSES[0].ours), ECHO_PORT);
        socket.connect(&remote.into()).expect("a connection");
        socket.into()
    }

    fn may_run() -> bool {
        if nix::unistd::geteuid().is_root() {
            return true;
        }
        let must = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!must, "may not be skipped in CI: not root");
        let _ = writeln!(std::io::stderr(), "SKIPPED the_kernel_is_echoed: not root");
        false
    }

    #[test]
    fn the_kernel_is_echoed() {
        if !may_run() {
            return;
        }
        enter_namespace().expect("root");
        let (mut tun, mut echo) = server(true).expect("devices");
        let handle = tun.handle();
        let server = std::thread::spawn(move || tun.run(&mut echo).map(|()| echo));
        let sent: Vec<u8> = (0..1_000_000_usize).map(|n| (n % 251) as u8).collect();
        for mptcp in [true, false] {
            let mut client = client(mptcp);
            let mut writer = client.try_clone().expect("a second descriptor");
            let all = sent.clone();
            let writing = std::thread::spawn(move || {
                writer.write_all(&all).expect("everything is taken");
                writer.shutdown(Shutdown::Write).expect("an end");
            });
            let mut received = Vec::new();
            client.read_to_end(&mut received).expect("an orderly end");
            writing.join().expect("no panic");
            assert!(received == sent, "{} octets came back", received.len());
        }
        handle.stop();
        let echo = server.join().expect("no panic").expect("a clean end");
        let ends: Vec<_> = echo.ended.iter().map(|info| (info.mptcp, info.fallback)).collect();
        let plain = (None, Some(FallbackReason::SynWithoutCapable));
        assert!(ends.starts_with(&[(Some(1), None)]) && ends.len() <= 2, "{ends:?}");
        assert!(ends.get(1).is_none_or(|end| *end == plain), "{ends:?}");
    }
}
