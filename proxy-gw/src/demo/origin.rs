//! The demo's web server: an ordinary HTTP/1.1 server on kernel sockets.
//!
//! `GET /BYTES?seed=N` answers with that much of stream `N`; `PUT` or `POST` with a Content-Length
//! answers with the SHA-256 of the body. Invariant: one line on standard output per transfer that
//! was carried to its end, with what was hashed *here*, so the demo compares both ends' words.

use super::content::{CHUNK_LEN, Content, Digest, Hasher};
use super::process::{Error, Interrupt, Process, in_netns, log_file};
use super::topology::{Namespace, ORIGIN};
use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

const PORT: u16 = 80;
/// Longest accepted request line plus headers.
const HEAD_LEN_MAX: usize = 8 * 1024;
/// Longest accepted object, either way.
const BODY_LEN_MAX: u64 = 1 << 40;
/// Connections served at once; more are closed unanswered.
const CONNECTIONS_MAX: usize = 4096;
const BACKLOG: i32 = 4096;
/// A client that neither sends nor takes a byte for this long is given up.
const IO_TIMEOUT: Duration = Duration::from_secs(60);

/// Options of the hidden process that serves.
#[derive(clap::Args, Debug)]
pub(super) struct OriginArgs {
    /// Address and port to serve on
    #[arg(long)]
    listen: SocketAddr,
}

/// One finished transfer, as the origin's own hash has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    Sent { seed: u64, len: u64, digest: Digest },
    Received { len: u64, digest: Digest },
}

impl Transfer {
    pub(super) const fn digest(self) -> Digest {
        match self {
            Self::Sent { digest, .. } | Self::Received { digest, .. } => digest,
        }
    }

    fn to_line(self) -> String {
        match self {
            Self::Sent { seed, len, digest } => format!("sent {seed} {len} {digest}"),
            Self::Received { len, digest } => format!("received {len} {digest}"),
        }
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        match words.next()? {
            "sent" => Some(Self::Sent {
                seed: words.next()?.parse().ok()?,
                len: words.next()?.parse().ok()?,
                digest: Digest::parse(words.next()?)?,
            }),
            "received" => Some(Self::Received {
                len: words.next()?.parse().ok()?,
                digest: Digest::parse(words.next()?)?,
            }),
            _ => None,
        }
    }
}

/// The server as the demo holds it.
#[derive(Debug)]
pub(super) struct Origin {
    transfers: Receiver<Transfer>,
    process: Process,
}

impl Origin {
    pub(super) fn start(
        namespace: &Namespace,
        executable: &Path,
        log: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self, Error> {
        let listen = SocketAddr::from((ORIGIN, PORT)).to_string();
        let mut command = in_netns(namespace.name(), executable);
        command.args(["demo", "origin", "--listen", &listen]);
        command.stdout(Stdio::piped()).stderr(log_file(log)?);
        let mut process = Process::spawn("the web server", &mut command)?;
        let mut lines = BufReader::new(process.take_stdout()?).lines();
        let (ready, is_ready) = mpsc::channel();
        let (sender, transfers) = mpsc::channel();
        thread::spawn(move || {
            let mut ready = Some(ready);
            while let Some(Ok(line)) = lines.next() {
                match Transfer::from_line(&line) {
                    Some(transfer) if sender.send(transfer).is_err() => break,
                    Some(_) => {}
                    None => drop(ready.take().map(|ready| ready.send(()))),
                }
            }
        });
        if !interrupt.wait_for(Duration::from_secs(10), || is_ready.try_recv().is_ok())? {
            let cause = std::fs::read_to_string(log).unwrap_or_default();
            return Err(Error::new("starting the web server", cause.trim()));
        }
        Ok(Self { transfers, process })
    }

    /// The first report from now on that `wanted` accepts; `None` if there is none within `timeout`.
    pub(super) fn report(
        &self,
        timeout: Duration,
        interrupt: &Interrupt,
        wanted: impl Fn(&Transfer) -> bool,
    ) -> Result<Option<Transfer>, Error> {
        let mut found = None;
        interrupt.wait_for(timeout, || {
            found = self.transfers.try_iter().find(&wanted);
            found.is_some()
        })?;
        Ok(found)
    }

    /// Whether the server still runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.process.try_status().is_none()
    }
}

/// The request target for the first `len` bytes of stream `seed`.
pub(super) fn path(len: u64, seed: u64) -> String {
    format!("/{len}?seed={seed}")
}

/// Where the server listens, as seen from the gateway's exit.
pub(super) fn address() -> SocketAddr {
    SocketAddr::from((ORIGIN, PORT))
}

/// Serves until killed.
pub(super) fn serve(args: &OriginArgs) -> ExitCode {
    match listen(args.listen) {
        Ok(listener) => serve_on(&listener),
        Err(error) => {
            eprintln!("demo origin: listening on {}: {error}", args.listen);
            ExitCode::FAILURE
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted connections inherit it. This link has no delay to speak of and loses nothing: the
    // emulated ones are the gateway's to fill, and BBR's pacing here would only blur that.
    if let Err(error) = socket.set_tcp_congestion(b"cubic") {
        eprintln!("demo origin: no CUBIC, keeping the kernel's default: {error}");
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn serve_on(listener: &TcpListener) -> ExitCode {
    let output = Arc::new(Mutex::new(io::stdout()));
    let served = Arc::new(AtomicUsize::new(0));
    report(&output, "ready");
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back as connections end.
                eprintln!("demo origin: accepting: {error}");
                thread::sleep(Duration::from_millis(10));
                continue;
            }
        };
        if served.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            served.fetch_sub(1, Ordering::Relaxed);
            eprintln!("demo origin: more than {CONNECTIONS_MAX} connections at once, one closed");
            continue;
        }
        let (output, served_here) = (Arc::clone(&output), Arc::clone(&served));
        let spawned = thread::Builder::new().stack_size(256 * 1024).spawn(move || {
            match answer(stream) {
                Ok(Some(transfer)) => report(&output, &transfer.to_line()),
                Ok(None) => {}
                Err(error) => eprintln!("demo origin: {error}"),
            }
            served_here.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            eprintln!("demo origin: no thread for a connection: {error}");
            served.fetch_sub(1, Ordering::Relaxed);
        }
    }
    ExitCode::FAILURE
}

fn report(output: &Mutex<io::Stdout>, line: &str) {
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() {
        eprintln!("demo origin: nobody reads: {line}");
    }
}

/// Serves one request; `None` if it was refused.
fn answer(mut stream: TcpStream) -> io::Result<Option<Transfer>> {
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    let Some(head_len) = read_head(&mut stream, &mut received)? else {
        return refuse(&mut stream, "431 Request Header Fields Too Large");
    };
    let body = received.split_off(head_len);
    match Request::parse(&received) {
        Ok(Request::Get { len, seed }) => send_content(&mut stream, len, seed).map(Some),
        Ok(Request::Put { len, expects_continue }) => {
            if expects_continue {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            receive_body(&mut stream, &body, len).map(Some)
        }
        Err(status) => refuse(&mut stream, status),
    }
}

/// Reads up to the empty line; its end, or `None` if the head is too long.
fn read_head(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Option<usize>> {
    let mut chunk = [0; 1024];
    loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        if received.len() >= HEAD_LEN_MAX {
            return Ok(None);
        }
        let len = stream.read(&mut chunk)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&chunk[..len]);
    }
}

fn refuse(stream: &mut TcpStream, status: &str) -> io::Result<Option<Transfer>> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    Ok(None)
}

fn send_content(stream: &mut TcpStream, len: u64, seed: u64) -> io::Result<Transfer> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut content = Content::new(seed);
    let mut hasher = Hasher::default();
    let mut chunk = vec![0; CHUNK_LEN];
    while hasher.len() < len {
        let step = usize::try_from(len - hasher.len()).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
        content.fill(&mut chunk[..step]);
        stream.write_all(&chunk[..step])?;
        hasher.update(&chunk[..step]);
    }
    Ok(Transfer::Sent { seed, len, digest: hasher.finish() })
}

fn receive_body(stream: &mut TcpStream, begun: &[u8], len: u64) -> io::Result<Transfer> {
    let mut hasher = Hasher::default();
    let begun_len = usize::try_from(len).unwrap_or(usize::MAX).min(begun.len());
    hasher.update(&begun[..begun_len]);
    let mut chunk = vec![0; CHUNK_LEN];
    while hasher.len() < len {
        let step = usize::try_from(len - hasher.len()).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
        let got = stream.read(&mut chunk[..step])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(&chunk[..got]);
    }
    let digest = hasher.finish();
    let reply = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 65\r\n\
         Connection: close\r\n\r\n{digest}\n"
    );
    stream.write_all(reply.as_bytes())?;
    Ok(Transfer::Received { len, digest })
}

/// What a request asks for; the error is the status line that refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Get { len: u64, seed: u64 },
    Put { len: u64, expects_continue: bool },
}

impl Request {
    /// `head` ends with the empty line.
    fn parse(head: &[u8]) -> Result<Self, &'static str> {
        const BAD: &str = "400 Bad Request";
        let head = core::str::from_utf8(head).map_err(|_| BAD)?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next().ok_or(BAD)?.split(' ');
        let (method, target, version) = (words.next(), words.next(), words.next());
        let (Some(method), Some(target), Some("HTTP/1.0" | "HTTP/1.1"), None) =
            (method, target, version, words.next())
        else {
            return Err(BAD);
        };
        let headers = lines.filter_map(|line| line.split_once(':'));
        match method {
            "GET" => parse_target(target).ok_or("404 Not Found"),
            "PUT" | "POST" => Self::parse_upload(headers),
            _ => Err("405 Method Not Allowed"),
        }
    }

    fn parse_upload<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, &'static str> {
        let (mut len, mut expects_continue) = (None, false);
        for (name, value) in headers {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                len = Some(value.parse().map_err(|_| "400 Bad Request")?);
            } else if name.eq_ignore_ascii_case("expect") {
                expects_continue = value.eq_ignore_ascii_case("100-continue");
            }
        }
        match len {
            None => Err("411 Length Required"),
            Some(len) if len > BODY_LEN_MAX => Err("413 Content Too Large"),
            Some(len) => Ok(Self::Put { len, expects_continue }),
        }
    }
}

/// `/BYTES` or `/BYTES?seed=N`; the seed is 0 if it is not given.
fn parse_target(target: &str) -> Option<Request> {
    let (path, seed) = match target.split_once('?') {
        Some((path, query)) => (path, query.strip_prefix("seed=")?.parse().ok()?),
        None => (target, 0),
    };
    let len = path.strip_prefix('/')?.parse().ok()?;
    (len <= BODY_LEN_MAX).then_some(Request::Get { len, seed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    fn parse(head: &str) -> Result<Request, &'static str> {
        Request::parse(head.as_bytes())
    }

    #[test]
    fn targets_name_length_and_seed() {
        let get = |len, seed| Ok(Request::Get { len, seed });
        assert_eq!(parse("GET /100 HTTP/1.1\r\n\r\n"), get(100, 0));
        assert_eq!(parse("GET /0?seed=9 HTTP/1.0\r\nHost: x\r\n\r\n"), get(0, 9));
    }

    #[test]
    fn uploads_need_a_length() {
        let put = |len, expects_continue| Ok(Request::Put { len, expects_continue });
        assert_eq!(parse("PUT / HTTP/1.1\r\ncontent-length: 7\r\n\r\n"), put(7, false));
        let expecting = "POST /x HTTP/1.1\r\nContent-Length:8\r\nExpect: 100-Continue\r\n\r\n";
        assert_eq!(parse(expecting), put(8, true));
        assert_eq!(parse("PUT / HTTP/1.1\r\n\r\n"), Err("411 Length Required"));
        let huge = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", u64::MAX);
        assert_eq!(parse(&huge), Err("413 Content Too Large"));
    }

    #[test]
    fn bad_requests_are_refused_by_status() {
        for (head, status) in [
            ("GET  /1 HTTP/1.1\r\n\r\n", "400 Bad Request"),
            ("GET /1\r\n\r\n", "400 Bad Request"),
            ("GET /1 HTTP/2\r\n\r\n", "400 Bad Request"),
            ("GET /1 HTTP/1.1 x\r\n\r\n", "400 Bad Request"),
            ("GET /1k HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("GET 1 HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("GET /1?sed=1 HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("GET /18446744073709551615 HTTP/1.1\r\n\r\n", "404 Not Found"),
            ("HEAD /1 HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
            ("PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400 Bad Request"),
        ] {
            assert_eq!(parse(head), Err(status), "{head:?}");
        }
        assert_eq!(Request::parse(b"GET /\xff HTTP/1.1\r\n\r\n"), Err("400 Bad Request"));
    }

    #[test]
    fn reports_survive_the_pipe() {
        let digest = Digest::of_content(1, 10);
        for transfer in
            [Transfer::Sent { seed: 3, len: 10, digest }, Transfer::Received { len: 11, digest }]
        {
            assert_eq!(Transfer::from_line(&transfer.to_line()), Some(transfer));
        }
        for line in ["", "ready", "sent 1 2", "received x", "sent 1 2 3"] {
            assert_eq!(Transfer::from_line(line), None, "{line:?}");
        }
    }

    /// One exchange with a server on loopback: what the client read, and the server's report.
    fn exchange(request: &[u8]) -> (Vec<u8>, io::Result<Option<Transfer>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || answer(listener.accept().unwrap().0));
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request).unwrap();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).unwrap();
        (reply, server.join().unwrap())
    }

    #[test]
    fn a_download_is_the_content_asked_for() {
        let len = CHUNK_LEN as u64 * 3 + 17;
        let request = format!("GET /{len}?seed=5 HTTP/1.1\r\nHost: x\r\n\r\n");
        let (reply, report) = exchange(request.as_bytes());
        let body = reply.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let mut hasher = Hasher::default();
        hasher.update(&reply[body..]);
        let digest = Digest::of_content(5, len);
        assert_eq!(hasher.finish(), digest);
        assert_eq!(report.unwrap(), Some(Transfer::Sent { seed: 5, len, digest }));
    }

    #[test]
    fn an_upload_is_answered_with_its_hash() {
        let mut request = b"PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\n".to_vec();
        request.extend_from_slice(b"plait and more");
        let (reply, report) = exchange(&request);
        let mut hasher = Hasher::default();
        hasher.update(b"plait");
        let digest = hasher.finish();
        assert!(String::from_utf8(reply).unwrap().ends_with(&format!("\r\n\r\n{digest}\n")));
        assert_eq!(report.unwrap(), Some(Transfer::Received { len: 5, digest }));
    }

    #[test]
    fn an_endless_head_is_refused() {
        let (reply, report) = exchange(&vec![b'a'; HEAD_LEN_MAX]);
        assert!(reply.starts_with(b"HTTP/1.1 431 "));
        assert_eq!(report.unwrap(), None);
    }
}
