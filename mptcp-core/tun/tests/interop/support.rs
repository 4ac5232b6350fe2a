//! What the tests share: skipping visibly, network namespaces, the kernel as a peer and its counters.

use core::time::Duration;
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// True when the test may run. Otherwise says why not, past the test harness's capture; where nothing
/// may be skipped (`PLAIT_CI` or `CI` is set) it fails.
pub(crate) fn is_root_with(tools: &[&str]) -> bool {
    let missing: Vec<_> = tools.iter().filter(|tool| !is_installed(tool)).collect();
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root".to_owned()
    } else if !missing.is_empty() {
        format!("not installed: {missing:?} (scripts/install-deps)")
    } else {
        return true;
    };
    let must_run = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!must_run, "may not be skipped in CI: {reason}");
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
    false
}

/// Runs commands in this thread's namespace, each of which must succeed.
pub(crate) fn commands(commands: &[&str]) {
    for command in commands {
        let words: Vec<_> = command.split_whitespace().collect();
        let (program, args) = words.split_first().expect("a command");
        run(program, args);
    }
}

/// Moves this thread, and what it starts from now on, into an empty network namespace with
/// loopback up. The namespace ends with the last of them.
pub(crate) fn enter_new_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    run("ip", &["link", "set", "lo", "up"]);
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().expect(program);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(tool).exists())
}

/// Looks until `found` answers, for about a minute: what it waits for takes no time on a machine that is
/// not overloaded.
pub(crate) fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = found() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("did not happen: {what}")
}

/// A counter of this thread's namespace, as nstat names it.
pub(crate) fn nstat(name: &str) -> u64 {
    let output = run("nstat", &["-asz", name]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Bytes that repeat after a prime number of them, so that a shift by any power of two shows.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).expect("below 256")).collect()
}

/// One byte there and back. MPTCP joins only once data was acknowledged (RFC 8684 §3.2).
pub(crate) fn exchange_one(socket: &mut TcpStream) {
    let mut byte = [0];
    socket.write_all(&[0x55]).expect("it is taken");
    socket.read_exact(&mut byte).expect("it comes back");
    assert_eq!(byte, [0x55]);
}

/// Sends `len` bytes on a kernel socket while it reads what comes back, and ends both directions.
/// Panics unless the same bytes come back.
pub(crate) fn exchange(socket: TcpStream, len: usize) {
    exchange_pausing(socket, len, || {});
}

/// Like [`exchange`], but reads nothing before `pause` returns.
pub(crate) fn exchange_pausing(socket: TcpStream, len: usize, pause: impl FnOnce()) {
    let sent = pattern(len);
    let mut writer = socket.try_clone().expect("a second descriptor");
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).expect("everything is taken");
        writer.shutdown(Shutdown::Write).expect("an end");
        sent
    });
    pause();
    let mut received = Vec::new();
    let mut socket = socket;
    socket.read_to_end(&mut received).expect("an orderly end");
    let sent = writing.join().expect("no panic");
    assert_eq!(received.len(), sent.len());
    let first_wrong = received.iter().zip(&sent).position(|(a, b)| a != b);
    assert_eq!(first_wrong, None, "what came back differs from here on");
}

/// A kernel socket of protocol MPTCP.
pub(crate) fn mptcp_socket(domain: Domain) -> Socket {
    Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP)).expect("a kernel with MPTCP")
}

/// An end of a network: a thread in a namespace of its own that runs what it is sent.
pub(crate) struct Host {
    /// Kernel id of the thread: what `ip ... netns` takes to name the namespace.
    pub(crate) id: String,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Host {
    pub(crate) fn new() -> Self {
        let (id_sender, id) = mpsc::channel();
        let (jobs, received) = mpsc::channel::<Job>();
        let thread = std::thread::spawn(move || {
            enter_new_network();
            id_sender.send(nix::unistd::gettid().to_string()).expect("the test waits");
            for job in received {
                job();
            }
        });
        Self { id: id.recv().expect("a host"), jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs `job` there and waits for what it returns; a panic in it is a panic here.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::channel();
        let jobs = self.jobs.as_ref().expect("only drop takes it");
        jobs.send(Box::new(move || {
            let _ = sender.send(job());
        }))
        .expect("the host runs");
        result.recv().expect("a command on the other host failed")
    }

    /// Runs commands there, each of which must succeed.
    pub(crate) fn commands(&self, commands: &'static [&'static str]) {
        self.run(|| self::commands(commands));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
