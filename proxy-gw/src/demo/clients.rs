//! Many phone applications at once: sessions over kernel MPTCP sockets, each through SOCKS5 to an
//! object of its own.
//!
//! They run in a process of their own inside the phone's namespace and report on standard output.
//! Invariant: no session asks for its object before every other one is open (or has failed), so the
//! number said to be open at once was; and a session counts as done only if the SHA-256 is right.

use super::content::{CHUNK_LEN, Digest, Hasher, mix};
use super::process::{Error, Process, in_netns, log_file};
use super::topology::Namespace;
use super::{client, origin, topology};
use core::fmt::Display;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// A session that waits this long for anything is lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// Until all are open: before a run in which nothing moves is given up, so that it says why.
const TOGETHER_MAX: Duration = Duration::from_secs(18);
/// Longest accepted head of the origin's answer.
const HEAD_LEN_MAX: usize = 4096;
/// Objects are between 1 KiB and 256 KiB, their logarithm uniform.
const OBJECT_LEN_LOG2: (u64, u64) = (10, 18);

/// Options of the hidden process that runs the sessions.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ClientsArgs {
    /// SOCKS5 proxy
    #[arg(long)]
    proxy: SocketAddr,
    /// Web server behind it
    #[arg(long)]
    origin: SocketAddr,
    /// How many sessions
    #[arg(long)]
    sessions: u32,
    /// Content of session N is stream SEED+N
    #[arg(long)]
    seed: u64,
    /// Use plain TCP
    #[arg(long)]
    tcp: bool,
}

/// How far the sessions are; the counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Sessions through the SOCKS handshake, all of them open until the last one is.
    pub(super) open: u32,
    /// Sessions whose object arrived intact.
    pub(super) done: u32,
    pub(super) lost: u32,
    /// Payload of finished sessions.
    pub(super) bytes: u64,
}

impl Tally {
    fn to_line(self) -> String {
        format!("tally {} {} {} {}", self.open, self.done, self.lost, self.bytes)
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("tally ")?.split_whitespace();
        Some(Self {
            open: words.next()?.parse().ok()?,
            done: words.next()?.parse().ok()?,
            lost: words.next()?.parse().ok()?,
            bytes: words.next()?.parse().ok()?,
        })
    }
}

/// The sessions' process as the demo holds it.
#[derive(Debug)]
pub(super) struct Clients {
    shared: Arc<Mutex<(Tally, Vec<String>)>>,
    reader: JoinHandle<()>,
    /// Held so that dropping the handle ends the process.
    process: Process,
}

impl Clients {
    pub(super) fn start(
        phone: &Namespace,
        executable: &Path,
        log: &Path,
        sessions: u32,
        seed: u64,
        mptcp: bool,
    ) -> Result<Self, Error> {
        let mut command = in_netns(phone.name(), executable);
        let proxy = SocketAddr::from((topology::GATEWAY_LTE, client::SOCKS_PORT));
        command.args(["demo", "clients", "--proxy", &proxy.to_string()]);
        command.args(["--origin", &origin::address().to_string()]);
        command.args(["--sessions", &sessions.to_string(), "--seed", &seed.to_string()]);
        if !mptcp {
            command.arg("--tcp");
        }
        command.stdout(Stdio::piped()).stderr(log_file(log)?);
        let mut process = Process::spawn("the sessions' process", &mut command)?;
        let lines = BufReader::new(process.take_stdout()?).lines();
        let shared = Arc::new(Mutex::new((Tally::default(), Vec::new())));
        let into = Arc::clone(&shared);
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut into = lock(&into);
                match Tally::from_line(&line) {
                    Some(tally) => into.0 = tally,
                    None => into.1.push(line),
                }
            }
        });
        Ok(Self { shared, reader, process })
    }

    pub(super) fn tally(&self) -> Tally {
        lock(&self.shared).0
    }

    pub(super) fn is_finished(&self) -> bool {
        self.reader.is_finished()
    }

    /// Ends the process if it still runs; the last count, and why each lost session was lost.
    pub(super) fn finish(mut self) -> (Tally, Vec<String>) {
        if !self.reader.is_finished() {
            self.process.kill();
        }
        let _ = self.reader.join();
        let shared = lock(&self.shared);
        (shared.0, shared.1.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs all sessions; succeeds if none was lost.
pub(super) fn run(args: &ClientsArgs) -> ExitCode {
    if let Err(error) = allow_files(u64::from(args.sessions) + 64) {
        eprintln!("demo clients: {error}");
    }
    let gate = Arc::new(Gate::new(args.sessions, TOGETHER_MAX));
    for index in 0..args.sessions {
        let (gate, args) = (Arc::clone(&gate), args.clone());
        let failing = Arc::clone(&gate);
        let spawned =
            thread::Builder::new().stack_size(128 * 1024).spawn(move || match open(&args) {
                Ok(socket) => {
                    let together = gate.open_and_wait();
                    gate.ended(index, together.and_then(|()| fetch(socket, &args, index)));
                }
                Err(cause) => gate.never_opened(index, &cause),
            });
        if let Err(error) = spawned {
            failing.never_opened(index, &format!("no thread: {error}"));
        }
    }
    let tally = gate.report_until_ended();
    if tally.lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A session holds one descriptor; the usual soft limit is 1024.
fn allow_files(wanted: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| format!("raising the limit of open files to {wanted}: {error}"))
}

/// Where sessions wait until all are open, and where they are counted.
#[derive(Debug)]
struct Gate {
    total: u32,
    patience: Duration,
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    tally: Tally,
    /// Sessions lost before they were open.
    never_opened: u32,
    losses: Vec<String>,
}

impl Gate {
    fn new(total: u32, patience: Duration) -> Self {
        Self { total, patience, state: Mutex::default(), changed: Condvar::new() }
    }

    /// The caller's session is open; returns when all others are too or have failed. When patience ends before, they
    /// are not open at once.
    fn open_and_wait(&self) -> Result<(), String> {
        let mut state = lock(&self.state);
        state.tally.open += 1;
        self.changed.notify_all();
        let some_missing =
            |state: &mut GateState| state.tally.open + state.never_opened < self.total;
        let waited = self.changed.wait_timeout_while(state, self.patience, some_missing);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return Ok(());
        }
        let (open, total) = (state.tally.open, self.total);
        Err(format!("{open} of {total} were open after {:?}", self.patience))
    }

    fn never_opened(&self, index: u32, cause: &str) {
        let mut state = lock(&self.state);
        state.never_opened += 1;
        state.tally.lost += 1;
        state.losses.push(format!("session {index}: {cause}"));
        self.changed.notify_all();
    }

    fn ended(&self, index: u32, outcome: Result<u64, String>) {
        let mut state = lock(&self.state);
        match outcome {
            Ok(bytes) => {
                state.tally.done += 1;
                state.tally.bytes += bytes;
            }
            Err(cause) => {
                state.tally.lost += 1;
                state.losses.push(format!("session {index}: {cause}"));
            }
        }
    }

    /// Prints losses as they happen and the tally five times a second, until all have ended.
    fn report_until_ended(&self) -> Tally {
        let mut output = std::io::stdout();
        let mut state = lock(&self.state);
        loop {
            let tally = state.tally;
            let losses = core::mem::take(&mut state.losses);
            drop(state);
            let told = losses
                .iter()
                .try_for_each(|loss| writeln!(output, "{loss}"))
                .and_then(|()| writeln!(output, "{}", tally.to_line()))
                .and_then(|()| output.flush());
            if tally.done + tally.lost >= self.total || told.is_err() {
                return tally;
            }
            thread::sleep(Duration::from_millis(200));
            state = lock(&self.state);
        }
    }
}

/// Asks an open session for its object; the payload's length, or why the session is lost.
fn fetch(mut socket: Socket, args: &ClientsArgs, index: u32) -> Result<u64, String> {
    let seed = args.seed.wrapping_add(u64::from(index));
    let len = object_len(seed);
    let path = origin::path(len, seed);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", args.origin);
    socket.write_all(request.as_bytes()).map_err(in_phase("sending the request"))?;
    let digest = receive_object(&mut socket, len)?;
    if digest == Digest::of_content(seed, len) {
        Ok(len)
    } else {
        Err(format!("content of {path} differs: SHA-256 {digest}"))
    }
}

fn in_phase<E: Display>(phase: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{phase}: {error}")
}

/// Connects through the gateway to the origin.
fn open(args: &ClientsArgs) -> Result<Socket, String> {
    let protocol = if args.tcp { Protocol::TCP } else { Protocol::MPTCP };
    let mut socket = Socket::new(Domain::for_address(args.proxy), Type::STREAM, Some(protocol))
        .map_err(in_phase("opening a socket"))?;
    socket
        .connect_timeout(&args.proxy.into(), PATIENCE)
        .map_err(in_phase("connecting to the gateway"))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(in_phase("setting a timeout"))?;
    socket.set_write_timeout(Some(PATIENCE)).map_err(in_phase("setting a timeout"))?;
    socks_connect(&mut socket, args.origin)?;
    Ok(socket)
}

/// RFC 1928: no authentication, CONNECT to an address; the success reply in full.
fn socks_connect(stream: &mut (impl Read + Write), to: SocketAddr) -> Result<(), String> {
    stream.write_all(&[5, 1, 0]).map_err(in_phase("SOCKS greeting"))?;
    let mut method = [0; 2];
    stream.read_exact(&mut method).map_err(in_phase("SOCKS method"))?;
    if method != [5, 0] {
        return Err(format!("SOCKS method: asked for none, got {method:?}"));
    }
    let mut request = vec![5, 1, 0];
    match to.ip() {
        IpAddr::V4(address) => {
            request.push(1);
            request.extend(address.octets());
        }
        IpAddr::V6(address) => {
            request.push(4);
            request.extend(address.octets());
        }
    }
    request.extend(to.port().to_be_bytes());
    stream.write_all(&request).map_err(in_phase("SOCKS request"))?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).map_err(in_phase("SOCKS reply"))?;
    let bound_len = match reply {
        [5, 0, _, 1] => 6,
        [5, 0, _, 4] => 18,
        [5, rep, ..] if rep != 0 => return Err(format!("SOCKS reply: refused with {rep}")),
        _ => return Err(format!("SOCKS reply: not understood: {reply:?}")),
    };
    let mut bound = [0; 18];
    stream.read_exact(&mut bound[..bound_len]).map_err(in_phase("SOCKS bound address"))
}

/// Reads an answer of exactly `len` body bytes and the end of the stream after it.
fn receive_object(stream: &mut impl Read, len: u64) -> Result<Digest, String> {
    let mut head = Vec::new();
    let mut hasher = Hasher::default();
    let mut chunk = vec![0; CHUNK_LEN / 4];
    let mut in_body = false;
    let start = Instant::now();
    loop {
        if start.elapsed() > PATIENCE {
            return Err(format!("{} of {len} bytes after {PATIENCE:?}", hasher.len()));
        }
        let got = stream.read(&mut chunk).map_err(in_phase("receiving"))?;
        if got == 0 {
            break;
        }
        if in_body {
            hasher.update(&chunk[..got]);
        } else {
            head.extend_from_slice(&chunk[..got]);
            if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                hasher.update(&head[at + 4..]);
                in_body = true;
            } else if head.len() > HEAD_LEN_MAX {
                return Err("the answer has no end of head".to_owned());
            }
        }
        if hasher.len() > len {
            return Err(format!("more than {len} bytes"));
        }
    }
    if !head.starts_with(b"HTTP/1.1 200 ") {
        let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
        return Err(format!("the origin answered {:?}", String::from_utf8_lossy(line)));
    }
    if hasher.len() < len {
        return Err(format!("ended after {} of {len} bytes", hasher.len()));
    }
    Ok(hasher.finish())
}

/// The length of the object of stream `seed`.
fn object_len(seed: u64) -> u64 {
    let (low, high) = OBJECT_LEN_LOG2;
    let word = mix(seed, u64::MAX);
    let exponent = low + word % (high - low);
    let base = 1 << exponent;
    base + (word >> 16) % base
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Reads from a script, remembers what was written.
    struct Script {
        input: io::Cursor<Vec<u8>>,
        written: Vec<u8>,
    }

    impl Script {
        fn new(input: &[u8]) -> Self {
            Self { input: io::Cursor::new(input.to_vec()), written: Vec::new() }
        }
    }

    impl Read for Script {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let len = into.len().min(3);
            self.input.read(&mut into[..len])
        }
    }

    impl Write for Script {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            self.written.write(from)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn socks_asks_by_address_and_takes_the_whole_reply() {
        let mut script = Script::new(&[5, 0, 5, 0, 0, 1, 10, 71, 9, 1, 1, 2, b'x']);
        socks_connect(&mut script, "10.71.9.2:80".parse().unwrap()).unwrap();
        assert_eq!(script.written, [5, 1, 0, 5, 1, 0, 1, 10, 71, 9, 2, 0, 80]);
        let mut rest = Vec::new();
        script.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"x");
    }

    #[test]
    fn socks_refusals_say_why() {
        for (input, word) in [
            (&[5, 255][..], "method"),
            (&[5, 0, 5, 2, 0, 1], "refused with 2"),
            (&[5, 0, 4, 0, 0, 1], "not understood"),
            (&[5, 0, 5, 0, 0, 3], "not understood"),
            (&[5], "SOCKS method"),
            (&[5, 0, 5, 0, 0, 1, 10], "bound address"),
        ] {
            let error = socks_connect(&mut Script::new(input), "[::1]:80".parse().unwrap());
            assert!(error.as_ref().is_err_and(|error| error.contains(word)), "{error:?}");
        }
    }

    #[test]
    fn an_object_is_exactly_as_long_as_asked_for() {
        let answer = |body: &str| Script::new(format!("HTTP/1.1 200 OK\r\n\r\n{body}").as_bytes());
        let mut hasher = Hasher::default();
        hasher.update(b"plait");
        assert_eq!(receive_object(&mut answer("plait"), 5), Ok(hasher.finish()));
        assert!(receive_object(&mut answer("plai"), 5).unwrap_err().contains("4 of 5"));
        let mut long = answer("plaitplait");
        assert!(receive_object(&mut long, 5).unwrap_err().contains("more than 5"));
        let mut missing = Script::new(b"HTTP/1.1 404 Not Found\r\n\r\n");
        assert!(receive_object(&mut missing, 0).unwrap_err().contains("404"));
        let mut endless = Script::new(&[b'a'; HEAD_LEN_MAX + 3]);
        assert!(receive_object(&mut endless, 0).unwrap_err().contains("no end of head"));
    }

    #[test]
    fn tallies_survive_the_pipe() {
        let tally = Tally { open: 4, done: 2, lost: 1, bytes: 99 };
        assert_eq!(Tally::from_line(&tally.to_line()), Some(tally));
        for line in ["", "session 3: receiving: timed out", "tally 1 2 3"] {
            assert_eq!(Tally::from_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn sessions_open_together_and_all_are_counted() {
        let gate = Arc::new(Gate::new(9, TOGETHER_MAX));
        let threads: Vec<_> = (0..9)
            .map(|index| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || {
                    if index == 4 {
                        gate.never_opened(index, "no route");
                        return;
                    }
                    assert_eq!(gate.open_and_wait(), Ok(()));
                    let open = lock(&gate.state).tally.open;
                    assert_eq!(open, 8, "let through before all were open");
                    gate.ended(index, Ok(10));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let state = lock(&gate.state);
        assert_eq!(state.tally, Tally { open: 8, done: 8, lost: 1, bytes: 80 });
        assert_eq!(state.losses, ["session 4: no route"]);
    }

    #[test]
    fn a_session_that_the_others_leave_alone_does_not_count_as_concurrent() {
        let gate = Gate::new(2, Duration::from_millis(10));
        assert_eq!(gate.open_and_wait(), Err("1 of 2 were open after 10ms".to_owned()));
    }

    #[test]
    fn object_lengths_stay_in_range_and_vary() {
        let lens: Vec<_> = (0..1000).map(object_len).collect();
        assert!(lens.iter().all(|len| (1 << 10..1 << 18).contains(len)));
        let small = lens.iter().filter(|&&len| len < 1 << 14).count();
        assert!((400..600).contains(&small), "{small} of 1000 below the geometric middle");
    }
}
