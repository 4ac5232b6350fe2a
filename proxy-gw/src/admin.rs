//! The operator's endpoint: HTTP on the kernel's network, on a thread of its own.
//!
//! Invariant: nothing here can make a shard wait; a shard that does not answer in time is a 503.
//! Whoever connects holds one of a few places, for a bounded time.

mod terms;

pub use terms::{TakenUp, Terms};

use crate::config::AdminAddress;
use crate::control::{ShardHandle, Unreachable};
use crate::metrics::{self, ReadDriver};
use crate::report::{self, Connection};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use core::net::IpAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::Mode;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, watch};

/// How long the shards may take to answer a request, all pages together.
const SHARD_PATIENCE: Duration = Duration::from_secs(5);

/// Connections served at a time; more wait in the kernel's queue, but for one of each listener.
const CONNECTIONS: usize = 32;

/// Longest change, bytes.
const MAX_BODY: usize = 64 << 10;

/// How long a client may take.
#[derive(Clone, Copy)]
struct Patience {
    /// For its request.
    request: Duration,
    /// For everything, the answer's last byte included.
    connection: Duration,
}

impl Patience {
    const DEFAULT: Self =
        Self { request: Duration::from_secs(10), connection: Duration::from_secs(60) };
}

/// What requests are answered from.
pub struct Source {
    /// The shards, in order.
    pub shards: Vec<ShardHandle>,
    /// Names of the ports, in order.
    pub ports: Vec<String>,
    /// Reads the driver's counters.
    pub read_driver: ReadDriver,
    /// Whether new sessions are taken.
    pub ready: Arc<AtomicBool>,
    /// What is in force, and can be changed.
    pub terms: Arc<Terms>,
}

/// The running endpoint. Dropping it closes the listeners and removes the socket files.
pub struct Admin {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    files: Vec<SocketFile>,
}

/// A socket's file, removed when dropped unless another has taken its place.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode));
        if is_ours {
            // Somebody may have removed it meanwhile.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why the endpoint cannot be had.
#[derive(Debug)]
pub struct AdminError {
    address: AdminAddress,
    error: io::Error,
}

impl core::fmt::Display for AdminError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "admin.listen = \"{}\": cannot listen there: {}", self.address, self.error)
    }
}

impl core::error::Error for AdminError {}

/// A listener that is open but not served yet.
enum Bound {
    Unix(UnixListener),
    Tcp(std::net::TcpListener),
}

impl Admin {
    /// Opens every listener and serves them.
    ///
    /// # Errors
    /// The first address that cannot be listened on.
    pub fn start(addresses: &[AdminAddress], source: Source) -> Result<Self, AdminError> {
        Self::start_with(addresses, source, Patience::DEFAULT)
    }

    fn start_with(
        addresses: &[AdminAddress],
        source: Source,
        patience: Patience,
    ) -> Result<Self, AdminError> {
        let (stop, stopped) = watch::channel(false);
        let mut admin = Self { stop, thread: None, files: Vec::new() };
        let mut listeners = Vec::new();
        for address in addresses {
            let failed = |error| AdminError { address: address.clone(), error };
            listeners.push(match address {
                AdminAddress::Tcp(tcp) => {
                    Bound::Tcp(std::net::TcpListener::bind(tcp).map_err(failed)?)
                }
                AdminAddress::Unix(path) => {
                    let listener = bind_unix(path).map_err(failed)?;
                    admin.files.push(SocketFile::new(path).map_err(failed)?);
                    Bound::Unix(listener)
                }
            });
        }
        if let Some(first) = addresses.first() {
            let failed = |error| AdminError { address: first.clone(), error };
            let thread = thread::Builder::new().name("plait-admin".to_owned());
            let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
            let served = move || runtime.block_on(serve_all(listeners, source, patience, stopped));
            admin.thread = Some(thread.spawn(served).map_err(failed)?);
        }
        Ok(admin)
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // Whoever is connected loses the connection: the process ends.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Owner and group may connect.
const RIGHTS: Mode = Mode::from_raw_mode(0o660);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens at `path`, in place of a socket that nobody listens on any more. The owner and the group
/// may connect.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            let text = "the file exists and is no socket; remove it or choose another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        if is_listening(path)? {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        fs::remove_file(path)?;
    }
    // Linux makes the file with the socket's own rights, less the umask: it is never there with others than these.
    let socket = unix_socket()?;
    rustix::fs::fchmod(&socket, RIGHTS)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    rustix::fs::chmod(path, RIGHTS)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn unix_socket() -> io::Result<socket2::Socket> {
    socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)
}

/// Whether somebody listens on a socket, found out without waiting: one whose queue is full does.
fn is_listening(path: &Path) -> io::Result<bool> {
    let socket = unix_socket()?;
    socket.set_nonblocking(true)?;
    match socket.connect(&socket2::SockAddr::unix(path)?) {
        Err(error) => Ok(error.kind() != io::ErrorKind::ConnectionRefused),
        Ok(()) => Ok(true),
    }
}

async fn serve_all(
    listeners: Vec<Bound>,
    source: Source,
    patience: Patience,
    mut stopped: watch::Receiver<bool>,
) {
    let server = Server { patience, places: Arc::new(Semaphore::new(CONNECTIONS)) };
    let router = router(source);
    for listener in listeners {
        let (server, router) = (server.clone(), router.clone());
        let started = match listener {
            Bound::Tcp(listener) => nonblocking_tcp(listener).map(|listener| {
                tokio::spawn(server.serve_tcp(listener, router));
            }),
            Bound::Unix(listener) => nonblocking_unix(listener).map(|listener| {
                tokio::spawn(server.serve_unix(listener, router));
            }),
        };
        if let Err(error) = started {
            log::error!("an admin listener is not served: {error}");
        }
    }
    // An error means that the sender is gone: stop as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// What all listeners share.
#[derive(Clone)]
struct Server {
    patience: Patience,
    places: Arc<Semaphore>,
}

impl Server {
    async fn serve_tcp(self, listener: tokio::net::TcpListener, router: Router) {
        let local = listener.local_addr().map(|local| local.ip().to_canonical());
        let is_loopback = local.is_ok_and(|local| local.is_loopback());
        let router = if is_loopback {
            router.layer(middleware::from_fn(refuse_foreign_names))
        } else {
            router.layer(middleware::from_fn(refuse_changes))
        };
        self.serve(router, || async { Ok(listener.accept().await?.0) }).await;
    }

    async fn serve_unix(self, listener: tokio::net::UnixListener, router: Router) {
        self.serve(router, || async { Ok(listener.accept().await?.0) }).await;
    }

    /// Takes connections, which wait for a place. A listener has none: there may be more of them than places.
    async fn serve<S, F>(&self, router: Router, accept: impl Fn() -> F)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<S>>,
    {
        loop {
            let stream = match accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    log::warn!("the admin endpoint cannot take a connection: {error}");
                    // Out of files, most likely: some may be closed meanwhile.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let (router, patience) = (router.clone(), self.patience);
            tokio::spawn(async move {
                let _place = place;
                serve_one(stream, router, patience).await;
            });
        }
    }
}

/// One request and its answer.
async fn serve_one<S>(stream: S, router: Router, patience: Patience)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.request)
        .keep_alive(false)
        // Who has said all it has to say may shut its side, and waits.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Whatever ends it, timeouts included, concerns that client only.
    let _ = tokio::time::timeout(patience.connection, connection).await;
}

/// On a loopback address a request by a name that is not this machine's comes from a browser whose
/// page had that name resolve to us (DNS rebinding).
async fn refuse_foreign_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    if host.is_none_or(is_local_name) {
        next.run(request).await
    } else {
        let text = "ask by address: this endpoint has no name\n";
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    }
}

/// Whoever reaches an address that others can reach may read there, and change nothing.
async fn refuse_changes(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        next.run(request).await
    } else {
        let text = "changes are taken on a Unix socket or a loopback address only\n";
        (StatusCode::FORBIDDEN, text).into_response()
    }
}

/// An address or `localhost`, with or without a port.
fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok()
        || host.parse::<IpAddr>().is_ok()
}

fn nonblocking_tcp(listener: std::net::TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn nonblocking_unix(listener: UnixListener) -> io::Result<tokio::net::UnixListener> {
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

fn router(source: Source) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/connections", get(connections))
        .route("/paths", get(paths))
        .merge(terms::routes())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(source))
}

type Shared = State<Arc<Source>>;

async fn ready(State(source): Shared) -> Response {
    if source.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn metrics(State(source): Shared) -> Response {
    let collected = async {
        let mut shards = Vec::with_capacity(source.shards.len());
        for shard in &source.shards {
            shards.push(*shard.counters().await?);
        }
        let failing = metrics::has_failing_paths(&shards);
        let paths = if failing { collect_paths(&source).await? } else { Vec::new() };
        Ok((shards, paths))
    };
    match in_time(collected).await {
        Ok((shards, paths)) => {
            let is_ready = source.ready.load(Ordering::Acquire);
            let driver = (source.read_driver)();
            let text = metrics::render(is_ready, &shards, &driver, &source.ports, &paths);
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(why) => unavailable(&why),
    }
}

async fn connections(State(source): Shared) -> Response {
    let collected = async {
        let mut connections = Vec::new();
        for shard in &source.shards {
            let mut from = Some(0);
            while let Some(position) = from {
                let page = shard.sessions(position).await?;
                let ports = &source.ports;
                let listed = page.sessions.into_iter();
                connections.extend(listed.map(|session| {
                    let user = session.user.and_then(|user| source.terms.user_name(user));
                    Connection::new(session, ports, user)
                }));
                from = page.next;
            }
        }
        Ok(connections)
    };
    match in_time(collected).await {
        Ok(connections) => axum::Json(connections).into_response(),
        Err(why) => unavailable(&why),
    }
}

async fn collect_paths(source: &Source) -> Result<Vec<report::Path>, Unreachable> {
    let mut paths = Vec::new();
    for (number, shard) in source.shards.iter().enumerate() {
        let mut from = Some(0);
        while let Some(position) = from {
            let page = shard.paths(position).await?;
            let listed = page.paths.into_iter();
            paths.extend(
                listed.map(|path| report::Path::new(number, &path, page.now, &source.ports)),
            );
            from = page.next;
        }
    }
    Ok(paths)
}

async fn paths(State(source): Shared) -> Response {
    match in_time(collect_paths(&source)).await {
        Ok(paths) => axum::Json(paths).into_response(),
        Err(why) => unavailable(&why),
    }
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

/// The answer, or why there is none.
async fn in_time<T>(answer: impl Future<Output = Result<T, Unreachable>>) -> Result<T, String> {
    match tokio::time::timeout(SHARD_PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(unreachable)) => Err(unreachable.to_string()),
        Err(_) => Err(format!("no answer from the shards within {} s", SHARD_PATIENCE.as_secs())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::control::{Command, PathPage, SessionPage, ShardCounters, mailbox};
    use crate::policies::InForce;
    use mptcp_core::time::Instant;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    /// What changes are tried on.
    const TERMS: &str = include_str!("admin/terms/tests.toml");

    /// A directory of this test's own, removed at its end.
    pub(super) struct Scratch(PathBuf);

    impl Scratch {
        pub(super) fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("plait-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        pub(super) fn socket(&self) -> PathBuf {
            self.0.join("admin.sock")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn get(path: &Path, target: &str) -> (String, String) {
        let mut stream = UnixStream::connect(path).unwrap();
        write!(stream, "GET {target} HTTP/1.0\r\nHost: plait\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// A shard that answers every report: two pages without sessions.
    pub(super) fn source(ready: &Arc<AtomicBool>) -> (Source, JoinHandle<()>) {
        let config = crate::config::parse("test", TERMS, &[]).unwrap();
        let (woken, wakes) = mpsc::channel();
        let (handle, mailbox) = mailbox(Arc::new(move || {
            let _ = woken.send(());
        }));
        let shard = thread::spawn(move || {
            while wakes.recv().is_ok() {
                match mailbox.poll() {
                    Some(Command::Sessions { from, reply }) => {
                        let next = (from == 0).then_some(1);
                        let _ = reply.send(SessionPage { sessions: vec![], next });
                    }
                    Some(Command::Paths { from, reply }) => {
                        let next = (from == 0).then_some(1);
                        let now = Instant::from_nanos(0);
                        let _ = reply.send(PathPage { now, paths: vec![], next });
                    }
                    Some(Command::Counters { reply }) => {
                        let _ = reply.send(Box::new(ShardCounters {
                            gateway: crate::gateway::Counters::default(),
                            sessions: 5,
                            dns: crate::dns::Counters::default(),
                            stack: mptcp_core::stats::Counters::default(),
                            occupancy: mptcp_core::stack::Occupancy::default(),
                            accesses: Vec::new(),
                        }));
                    }
                    Some(Command::Policies { done, .. }) => {
                        let _ = done.send(());
                    }
                    None => {}
                }
            }
        });
        let source = Source {
            shards: vec![handle],
            ports: vec!["lte".to_owned()],
            read_driver: Box::new(crate::metrics::DriverCounters::default),
            ready: Arc::clone(ready),
            terms: Arc::new(Terms::new(&config, Arc::new(InForce::new(&config)))),
        };
        (source, shard)
    }

    #[test]
    fn the_pages_answer_over_a_unix_socket_that_is_removed() {
        let scratch = Scratch::new("paths");
        let ready = Arc::new(AtomicBool::new(false));
        let (source, shard) = source(&ready);
        let addresses = [AdminAddress::Unix(scratch.socket())];
        let admin = Admin::start(&addresses, source).unwrap();
        let mode = fs::metadata(scratch.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert_eq!(get(&scratch.socket(), "/ready").0, "HTTP/1.0 503 Service Unavailable");
        ready.store(true, Ordering::Release);
        assert_eq!(get(&scratch.socket(), "/ready").0, "HTTP/1.0 200 OK");
        let (status, body) = get(&scratch.socket(), "/metrics");
        assert_eq!(status, "HTTP/1.0 200 OK");
        assert!(body.contains("plait_sessions{shard=\"0\"} 5\n"));
        let (status, body) = get(&scratch.socket(), "/connections");
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.0 200 OK", "[]"));
        let (status, body) = get(&scratch.socket(), "/paths");
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.0 200 OK", "[]"));
        assert_eq!(get(&scratch.socket(), "/other").0, "HTTP/1.0 404 Not Found");
        drop(admin);
        assert!(!scratch.socket().exists());
        shard.join().unwrap();
    }

    /// As `nc -N` asks, and whoever pipes a request into `socat`.
    #[test]
    fn a_client_may_finish_sending_before_it_is_answered() {
        let scratch = Scratch::new("finish");
        let ready = Arc::new(AtomicBool::new(true));
        let (source, shard) = source(&ready);
        let admin = Admin::start(&[AdminAddress::Unix(scratch.socket())], source).unwrap();
        for page in ["/ready", "/metrics", "/connections"] {
            let mut stream = UnixStream::connect(scratch.socket()).unwrap();
            write!(stream, "GET {page} HTTP/1.0\r\n\r\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{page}: {answer:?}");
        }
        drop(admin);
        shard.join().unwrap();
    }

    #[test]
    fn a_shard_that_has_ended_is_a_503() {
        let scratch = Scratch::new("ended");
        let ready = Arc::new(AtomicBool::new(true));
        let (mut source, shard) = source(&ready);
        let (handle, gone) = mailbox(Arc::new(|| {}));
        drop(gone);
        source.shards = vec![handle];
        shard.join().unwrap();
        let _admin = Admin::start(&[AdminAddress::Unix(scratch.socket())], source).unwrap();
        let (status, body) = get(&scratch.socket(), "/connections");
        assert_eq!(status, "HTTP/1.0 503 Service Unavailable");
        assert!(body.contains("does not answer"));
    }

    #[test]
    fn stale_sockets_are_replaced_and_live_or_foreign_files_are_not() {
        let scratch = Scratch::new("stale");
        let path = scratch.socket();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a socket nobody listens on is left");
        let live = bind_unix(&path).unwrap();
        let refused = bind_unix(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(live);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        let refused = bind_unix(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_socket_with_a_full_queue_is_live_and_anothers_file_is_left() {
        let scratch = Scratch::new("full");
        let path = scratch.socket();
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let _queued = UnixStream::connect(&path).unwrap();
        let refused = bind_unix(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "found out without waiting");
        let ours = SocketFile::new(&path).unwrap();
        // Kept open elsewhere, so that the inode is not used again.
        fs::rename(&path, scratch.0.join("moved")).unwrap();
        let _another = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists(), "the file of another process");
    }

    #[test]
    fn a_half_sent_request_is_given_up() {
        let scratch = Scratch::new("half");
        let ready = Arc::new(AtomicBool::new(true));
        let (source, shard) = source(&ready);
        let patience =
            Patience { request: Duration::from_millis(20), connection: Duration::from_secs(3600) };
        let address = AdminAddress::Unix(scratch.socket());
        let admin = Admin::start_with(&[address], source, patience).unwrap();
        let mut streams: Vec<UnixStream> =
            (0..2 * CONNECTIONS).map(|_| UnixStream::connect(scratch.socket()).unwrap()).collect();
        for (stream, said) in streams.iter_mut().zip(["", "GET /rea"].into_iter().cycle()) {
            stream.write_all(said.as_bytes()).unwrap();
        }
        let mut answer = Vec::new();
        for stream in &mut streams {
            // An end, however it looks: without the limit this would wait for ever.
            let _ = stream.read_to_end(&mut answer);
        }
        assert_eq!(get(&scratch.socket(), "/ready").0, "HTTP/1.0 200 OK");
        drop(admin);
        shard.join().unwrap();
    }

    #[test]
    fn as_many_listeners_as_one_likes_are_served() {
        let scratch = Scratch::new("many");
        let ready = Arc::new(AtomicBool::new(true));
        let (source, _shard) = source(&ready);
        let path = |number: usize| scratch.0.join(format!("{number}.sock"));
        let addresses: Vec<_> = (0..=CONNECTIONS).map(|n| AdminAddress::Unix(path(n))).collect();
        let _admin = Admin::start(&addresses, source).unwrap();
        for number in 0..=CONNECTIONS {
            let mut stream = UnixStream::connect(path(number)).unwrap();
            // Only how long a broken test hangs.
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            write!(stream, "GET /ready HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.0 200 "), "{number}: {answer}");
        }
    }

    #[test]
    fn a_loopback_address_answers_to_addresses_and_localhost_only() {
        for host in ["127.0.0.1:9180", "127.0.0.1", "localhost", "LOCALHOST:1", "[::1]:9180", "::1"]
        {
            assert!(is_local_name(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9180", "", ":9180", "localhost.evil", "127.0.0.1.x"]
        {
            assert!(!is_local_name(host), "{host}");
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = free.local_addr().unwrap();
        drop(free);
        let ready = Arc::new(AtomicBool::new(true));
        let (source, _shard) = source(&ready);
        let _admin = Admin::start(&[AdminAddress::Tcp(local)], source).unwrap();
        for (host, status) in [("evil.example", "421"), (&local.to_string(), "200")] {
            let mut stream = std::net::TcpStream::connect(local).unwrap();
            write!(stream, "GET /ready HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_had_is_named() {
        let ready = Arc::new(AtomicBool::new(true));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = AdminAddress::Tcp(taken.local_addr().unwrap());
        let (source, _shard) = source(&ready);
        let error = Admin::start(core::slice::from_ref(&address), source).err().unwrap();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("admin.listen = \"{address}\": cannot listen")),
            "{text}"
        );
    }
}
