//! `netsim-live` for real: two namespaces, a link between them, datagrams and a TCP stream through
//! it, changes while it runs, a clean end. Needs root; judges by what arrives and by lower bounds.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_netsim-live");

/// True when the test may run; otherwise it says why not, and in CI it fails.
fn is_root(test: &str) -> bool {
    // Tests run side by side: each probes with a name of its own.
    static PROBES: AtomicU32 = AtomicU32::new(0);
    let probe = format!("nsl{}p{}", std::process::id(), PROBES.fetch_add(1, Ordering::Relaxed));
    let created = Command::new("ip").args(["netns", "add", &probe]).output();
    if created.as_ref().is_ok_and(|output| output.status.success()) {
        run("ip", &["netns", "delete", &probe]);
        return true;
    }
    let reason = format!("cannot create a network namespace (root, iproute2): {created:?}");
    let must_run = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!must_run, "may not be skipped in CI: {reason}");
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    false
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output
}

/// Runs `job` on a thread inside a namespace.
fn inside<T: Send + 'static>(
    namespace: &str,
    job: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = File::open(format!("/var/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        job()
    })
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}

/// Two namespaces and a running `netsim-live` with one link, all gone when dropped.
struct Bed {
    a: String,
    b: String,
    socket: PathBuf,
    /// Running once there is one.
    child: Option<Child>,
}

impl Bed {
    fn new(name: &str, settings: &str) -> Self {
        let id = std::process::id();
        let (a, b) = (format!("nsl{id}{name}a"), format!("nsl{id}{name}b"));
        let socket = std::env::temp_dir().join(format!("nsl{id}{name}.sock"));
        let mut bed = Self { a, b, socket, child: None };
        let (a, b) = (&bed.a, &bed.b);
        for namespace in [a, b] {
            // One of a process that had this number before and was killed.
            let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
            run("ip", &["netns", "add", namespace]);
        }
        let link = format!(
            "lte a={a}:left b={b}:right a.addr=10.7.0.1/24 b.addr=10.7.0.2/24 a.addr=fd07::1/64 \
             b.addr=fd07::2/64 {settings}"
        );
        let mut child = Command::new(PROGRAM)
            .args(["run", "--seed", "9", "--link", &link, "--control"])
            .arg(&bed.socket)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        bed.child = Some(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        bed
    }

    fn ctl(&self, words: &str) -> Output {
        let socket = self.socket.to_str().unwrap();
        let words = words.split_whitespace();
        Command::new(PROGRAM).args(["ctl", socket]).args(words).output().unwrap()
    }

    fn set(&self, settings: &str) {
        let output = self.ctl(&format!("set lte {settings}"));
        assert_eq!(output.stdout, b"ok\n", "{output:?}");
    }

    /// A counter of one direction out of the JSON of `get`.
    fn counter(&self, direction: &str, name: &str) -> u64 {
        let text = String::from_utf8(self.ctl("get").stdout).unwrap();
        let (_, rest) = text.split_once(&format!("\"{direction}\": {{")).unwrap();
        let (_, rest) = rest.split_once(&format!("\"{name}\": ")).unwrap();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }

    /// Sends a datagram from `a` and waits for its echo: the time it took.
    fn echo(&self, far: &'static str) -> Option<Duration> {
        self.echo_within(far, Duration::from_secs(60))
    }

    /// The same; `None` when nothing came back in time.
    fn echo_within(&self, far: &'static str, patience: Duration) -> Option<Duration> {
        inside(&self.a, move || {
            let socket = UdpSocket::bind(if far.contains("::") { "[::]:0" } else { "0.0.0.0:0" });
            let socket = socket.unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            let start = now();
            socket.send_to(b"ping", far).unwrap();
            match socket.recv(&mut [0; 9]) {
                Ok(len) => {
                    assert_eq!(len, 4);
                    Some(now() - start)
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => None,
                Err(error) => panic!("{error}"),
            }
        })
        .join()
        .unwrap()
    }

    /// Echoes `count` datagrams on `address` in `b`.
    fn serve(&self, address: &'static str, count: usize) {
        let (ready, bound) = std::sync::mpsc::channel();
        inside(&self.b, move || {
            let socket = UdpSocket::bind(address).unwrap();
            ready.send(()).unwrap();
            for _ in 0..count {
                let mut buffer = [0; 9];
                let Ok((len, peer)) = socket.recv_from(&mut buffer) else { return };
                let _ = socket.send_to(&buffer[..len], peer);
            }
        });
        bound.recv().unwrap();
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_file(&self.socket);
        for namespace in [&self.a, &self.b] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
        }
    }
}

#[test]
fn datagrams_take_their_time_and_a_cut_is_silent() {
    if !is_root("datagrams_take_their_time_and_a_cut_is_silent") {
        return;
    }
    let bed = Bed::new("u", "delay=20ms");
    bed.serve("10.7.0.2:9", 3);
    bed.serve("[fd07::2]:9", 1);
    assert!(bed.echo("10.7.0.2:9").unwrap() >= Duration::from_millis(40));
    assert!(bed.echo("[fd07::2]:9").unwrap() >= Duration::from_millis(40));
    assert!(bed.counter("ba", "delivered_packets") >= 2);

    bed.set("ab.blackhole=1");
    let before = bed.counter("ab", "blackholed");
    assert_eq!(bed.echo_within("10.7.0.2:9", Duration::from_millis(300)), None);
    // Each question takes a process: thousands of them are patience enough.
    let counted = (0..5_000).any(|_| bed.counter("ab", "blackholed") > before);
    assert!(counted, "the cut counts nothing");
    bed.set("blackhole=0 ab.delay=60ms");
    assert!(bed.echo("10.7.0.2:9").unwrap() >= Duration::from_millis(80));
    assert_eq!(bed.counter("ab", "delay_us"), 60_000);
}

#[test]
fn a_tcp_stream_survives_loss_reordering_and_duplicates() {
    if !is_root("a_tcp_stream_survives_loss_reordering_and_duplicates") {
        return;
    }
    let bed = Bed::new(
        "t",
        "rate=100mbit delay=2ms loss=1% reorder=1% reorder-by=2ms duplicate=1% queue=64KiB",
    );
    let data: Vec<u8> =
        (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let (ready, bound) = std::sync::mpsc::channel();
    let server = inside(&bed.b, move || {
        let listener = TcpListener::bind("10.7.0.2:80").unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    bound.recv().unwrap();
    let sent = data.clone();
    let client = inside(&bed.a, move || {
        TcpStream::connect("10.7.0.2:80").unwrap().write_all(&sent).unwrap();
    });
    client.join().unwrap();
    assert!(server.join().unwrap() == data, "the stream arrived changed");
    assert!(bed.counter("ab", "dropped_loss") > 0);
    assert!(bed.counter("ab", "delivered_bytes") > 3_000_000);
    assert!(bed.counter("ab", "queue_bytes_max") <= 64 << 10);
}

#[test]
fn it_ends_cleanly_and_explains_mistakes() {
    if !is_root("it_ends_cleanly_and_explains_mistakes") {
        return;
    }
    let mut bed = Bed::new("e", "rate=1mbit");
    for (words, wanted) in [
        ("set wifi rate=1mbit", "no link 'wifi'"),
        ("set lte rate=fast", "'fast' is not a rate"),
        ("set lte mtu=900", "at start"),
        ("dance", "unknown command 'dance'"),
    ] {
        let output = bed.ctl(words);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(wanted), "{words}: {text}");
    }
    // A second process may not take the socket of a running one.
    let second = Command::new(PROGRAM)
        .args(["run", "--link", &format!("x a={}:x b={}:x", bed.a, bed.b), "--control"])
        .arg(&bed.socket)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process uses it"));

    let child = bed.child.as_mut().unwrap();
    run("kill", &["-TERM", &child.id().to_string()]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!bed.socket.exists());
    let device = Command::new("ip").args(["-n", &bed.a, "link", "show", "left"]).output().unwrap();
    assert!(!device.status.success(), "the device outlived its process");
}

#[test]
fn a_bad_command_line_ends_with_one_line() {
    for (link, wanted) in [
        ("lte a=nowhere-at-all:x b=:y", "ip netns add nowhere-at-all"),
        ("lte a=:x b=:y speed=9", "unknown key 'speed'"),
    ] {
        let output = Command::new(PROGRAM).args(["run", "--link", link]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains(wanted), "{text}");
        assert!(output.stdout.is_empty());
    }
}
