//! Our stack in a thread of its own, with the application of `pattern` on it in both roles.

use crate::pattern::{Pattern, Plan, REQUEST_LEN, Stream};
use crate::tap::TappedDevice;
use core::net::SocketAddr;
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool};
use mptcp_core::config::StackConfig;
use mptcp_core::driver::{Application, Control};
use mptcp_core::error::RecvError;
use mptcp_core::stack::{Connect, ConnectionInfo, Listen, Occupancy, Ready, SocketId, Stack};
use mptcp_core::time::Instant;
use mptcp_tun::{Clock, LoopHandle, RouteTable, TunError, TunLoop, TunPort};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Buffers for packets, and as many again for application data.
const BUFFERS: usize = 65_536;

/// One connection of the application.
#[derive(Debug, Default)]
struct Session {
    is_client: bool,
    request: Vec<u8>,
    plan: Option<Plan>,
    sent: u64,
    received: u64,
    difference: Option<u64>,
    eof: bool,
    shut: bool,
}

/// How a connection of our application ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) info: ConnectionInfo,
    /// The peer's whole stream came, every octet as expected, and its end.
    pub(crate) complete: bool,
    pub(crate) difference: Option<u64>,
}

/// The application and the stack under it.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) stack: Stack<HeapBuf>,
    /// Octets every session may send at most so far.
    pub(crate) gate: u64,
    /// Leave what arrives in the stack.
    pub(crate) reading: bool,
    pub(crate) done: Vec<Outcome>,
    listeners: Vec<SocketId>,
    sessions: BTreeMap<SocketId, Session>,
    up: Pattern,
    down: Pattern,
    mailbox: mpsc::Receiver<Job>,
}

type Job = Box<dyn FnOnce(&mut App, Instant) + Send>;

impl App {
    /// Sessions that have not ended.
    pub(crate) fn sessions(&self) -> Vec<SocketId> {
        self.sessions.keys().copied().collect()
    }

    /// State of the only session.
    pub(crate) fn info(&self) -> Option<ConnectionInfo> {
        self.sessions().first().and_then(|id| self.stack.info(*id))
    }

    /// Octets of payload received over all sessions.
    pub(crate) fn received(&self) -> u64 {
        self.sessions.values().map(|session| session.received).sum()
    }

    /// Starts a session of ours.
    pub(crate) fn connect(&mut self, now: Instant, with: &Connect, plan: Plan) -> SocketId {
        let id = self.stack.connect(now, with).expect("an active open");
        let session = Session {
            is_client: true,
            request: plan.request().to_vec(),
            plan: Some(plan),
            ..Session::default()
        };
        self.sessions.insert(id, session);
        id
    }

    /// Lets sessions send up to `gate`, and read again if they did not.
    pub(crate) fn open_gate(&mut self, now: Instant, gate: u64) {
        self.gate = gate;
        self.reading = true;
        for id in self.sessions() {
            self.serve(now, id, Ready::empty());
        }
    }

    /// Drops a session whose socket was ended by other means.
    pub(crate) fn forget(&mut self, id: SocketId) {
        self.sessions.remove(&id);
    }

    fn serve(&mut self, now: Instant, id: SocketId, ready: Ready) {
        let Some(mut session) = self.sessions.remove(&id) else { return };
        if self.reading {
            self.receive(now, id, &mut session);
        }
        self.send(now, id, &mut session);
        if !ready.contains(Ready::CLOSED) {
            self.sessions.insert(id, session);
            return;
        }
        if let Some(info) = self.stack.info(id) {
            let expected = session.plan.map(|p| if session.is_client { p.down } else { p.up });
            let all = expected == Some(session.received) && session.difference.is_none();
            self.done.push(Outcome {
                info,
                complete: all && session.eof,
                difference: session.difference,
            });
        }
        self.stack.release(id);
    }

    fn receive(&mut self, now: Instant, id: SocketId, session: &mut Session) {
        let mut bytes = [0; 16 << 10];
        loop {
            let mut got = match self.stack.recv(now, id, &mut bytes) {
                Ok(0) => {
                    session.eof = true;
                    return;
                }
                Ok(len) => &bytes[..len],
                Err(RecvError::WouldBlock | RecvError::InvalidSocket | RecvError::Failed(_)) => {
                    return;
                }
            };
            if !session.is_client && session.plan.is_none() {
                let missing = REQUEST_LEN - session.request.len();
                let (head, tail) = got.split_at(missing.min(got.len()));
                session.request.extend_from_slice(head);
                got = tail;
                session.plan = session.request.as_slice().try_into().ok().map(Plan::parse);
            }
            let pattern = if session.is_client { &self.down } else { &self.up };
            let difference = pattern.difference(session.received, got);
            session.difference = session.difference.or(difference);
            session.received += got.len() as u64;
        }
    }

    fn send(&mut self, now: Instant, id: SocketId, session: &mut Session) {
        let Some(plan) = session.plan else { return };
        if session.is_client {
            while !session.request.is_empty() {
                match self.stack.send(now, id, &session.request) {
                    Ok(len) => drop(session.request.drain(..len)),
                    Err(_) => return,
                }
            }
        }
        let (pattern, total) =
            if session.is_client { (&self.up, plan.up) } else { (&self.down, plan.down) };
        while session.sent < total.min(self.gate) {
            let part = pattern.at(session.sent);
            let left = usize::try_from(total.min(self.gate) - session.sent).unwrap_or(usize::MAX);
            match self.stack.send(now, id, &part[..part.len().min(left)]) {
                Ok(len) => session.sent += len as u64,
                Err(_) => return,
            }
        }
        if session.sent == total && !session.shut {
            session.shut = true;
            self.stack.shutdown_write(now, id);
        }
    }
}

impl Application for App {
    type Buf = HeapBuf;

    fn stack(&self) -> &Stack<HeapBuf> {
        &self.stack
    }

    fn stack_mut(&mut self) -> &mut Stack<HeapBuf> {
        &mut self.stack
    }

    fn react(&mut self, now: Instant) {
        while let Some(event) = self.stack.poll_event() {
            if event.ready.contains(Ready::ACCEPT) {
                for listener in self.listeners.clone() {
                    while let Some(id) = self.stack.accept(listener) {
                        self.sessions.insert(id, Session::default());
                        self.serve(now, id, Ready::empty());
                    }
                }
            } else {
                self.serve(now, event.socket, event.ready);
            }
        }
    }

    fn control(&mut self, now: Instant) -> Control {
        while let Ok(job) = self.mailbox.try_recv() {
            job(self, now);
        }
        Control::Continue
    }
}

/// The running stack.
#[derive(Debug)]
pub(crate) struct Ours {
    jobs: mpsc::Sender<Job>,
    handle: LoopHandle,
    thread: Option<JoinHandle<Result<(), TunError>>>,
}

impl Ours {
    /// Starts the stack on `devices`; it listens on `listen`, with MPTCP or without.
    pub(crate) fn start(
        devices: Vec<TappedDevice>,
        config: StackConfig,
        routes: RouteTable,
        listen: &[(SocketAddr, bool)],
    ) -> Self {
        let clock = Clock::start();
        let pool: Box<dyn BufPool<HeapBuf> + Send> = Box::new(HeapPool::new(BUFFERS, 1700));
        let addresses: Vec<_> = config.addresses.iter().map(|local| local.addr).collect();
        let mut stack = Stack::new(config, clock.now(), pool);
        let open = |(addr, mptcp): &(SocketAddr, bool)| {
            let options = Listen { mptcp: *mptcp, ..Listen::default() };
            stack.listen(*addr, &options).expect("a listener")
        };
        let listeners = listen.iter().map(open).collect();
        let (jobs, mailbox) = mpsc::channel();
        let mut app = App {
            stack,
            gate: u64::MAX,
            reading: true,
            done: Vec::new(),
            listeners,
            sessions: BTreeMap::new(),
            up: Pattern::new(Stream::Up),
            down: Pattern::new(Stream::Down),
            mailbox,
        };
        let port = |device| TunPort { device, addresses: addresses.clone() };
        let ports = devices.into_iter().map(port).collect();
        let mut tun =
            TunLoop::new(ports, routes, HeapPool::new(BUFFERS, 1700), clock).expect("a loop");
        let handle = tun.handle();
        let thread = std::thread::spawn(move || tun.run(&mut app));
        Self { jobs, handle, thread: Some(thread) }
    }

    /// Runs `job` in the stack's thread and gives back what it returns.
    pub(crate) fn with<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut App, Instant) -> T + Send + 'static,
    ) -> T {
        let (sender, result) = mpsc::channel();
        self.jobs
            .send(Box::new(move |app, now| {
                let _ = sender.send(job(app, now));
            }))
            .expect("the stack's thread runs");
        self.handle.wake();
        result.recv().expect("the stack's thread runs")
    }

    /// Counters of ours that are not zero, drop reasons among them.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        self.with(|app, _| {
            let counters = app.stack.counters();
            let drops = mptcp_core::stats::DropReason::ALL
                .iter()
                .map(|reason| (format!("drop_{}", reason.name()), counters.dropped(*reason)));
            let named = counters.iter().map(|(name, value)| (name.to_owned(), value));
            named.chain(drops).filter(|(_, value)| *value > 0).collect()
        })
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        self.with(|app, _| app.stack.occupancy())
    }

    /// Stops the loop, which must not have failed before.
    pub(crate) fn stop(&mut self) {
        self.handle.stop();
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("no panic in the stack's thread").expect("a clean end");
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
