//! The running program over TUN devices, in a network namespace of its own whose kernel plays both
//! client and origin: readiness, admin endpoint, drain, abort, exit codes.

use core::time::Duration;
use gateway::Gateway;
use skip::is_root_with;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use support::Scratch;

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/skip.rs"]
mod skip;
mod support;

const NEEDS: [&str; 6] = ["unshare", "nsenter", "ip", "curl", "python3", "/dev/net/tun"];

const CONFIG: &str = r#"
[driver]
kind = "tun"
[[port]]
name = "lte"
device = "tlte"
addresses = ["10.1.0.1/24"]
[[port]]
name = "exit"
device = "texit"
addresses = ["10.9.0.1/24"]
[[route]]
to = "0.0.0.0/0"
via = "10.9.0.2"
port = "exit"
[socks5]
listen = ["10.1.0.1:1080"]
[http]
listen = ["10.1.0.1:8080"]
[egress]
allow = ["10.9.0.0/24"]
"#;

/// What gives the kernel its addresses and its routes to the gateway's.
const KERNEL: [&str; 5] = [
    "ip link set lo up",
    "ip addr add 10.1.0.2/32 dev lo",
    "ip addr add 10.9.0.2/32 dev lo",
    "ip route add 10.1.0.1/32 dev tlte src 10.1.0.2",
    "ip route add 10.9.0.1/32 dev texit src 10.9.0.2",
];

fn curl(gateway: &Gateway, arguments: &str) -> Output {
    curl_by(gateway, "--socks5 10.1.0.1:1080", arguments)
}

fn curl_by(gateway: &Gateway, proxy: &str, arguments: &str) -> Output {
    let line = format!("curl -q -sS --noproxy x -m 50 {proxy} {arguments}");
    gateway.inside(&line).output().expect("curl runs")
}

/// An origin inside a gateway's namespace.
struct Origin(Child);

impl Origin {
    fn start(gateway: &Gateway, dir: &Path) -> Self {
        Self::bound(gateway, dir, "10.9.0.2")
    }

    fn bound(gateway: &Gateway, dir: &Path, address: &str) -> Self {
        let dir = dir.display();
        let line = format!("python3 -u -m http.server --bind {address} --directory {dir} 8000");
        Self::serving(gateway, &line)
    }

    /// A program that says `Serving` once it does.
    fn serving(gateway: &Gateway, line: &str) -> Self {
        let mut command = gateway.inside(line);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("python3 runs");
        let mut first = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut first).expect("it says that it serves");
        assert!(first.starts_with("Serving"), "{first}");
        Self(child)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(socket: &Path, target: &str) -> String {
    let mut stream = UnixStream::connect(socket).expect("the admin endpoint");
    write!(stream, "GET {target} HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_gateway_on_tun_serves_reports_and_drains() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let scratch = Scratch::new("serves");
    let content = "plait\n".repeat(200_000);
    scratch.file("object", &content);
    let socket = scratch.0.join("admin.sock");
    let admin = format!("admin.listen=['unix:{}']", socket.display());
    let config = scratch.file("gw.toml", CONFIG);
    let mut gateway = Gateway::start(&config, &[&admin]).ready(&KERNEL);
    let origin = Origin::start(&gateway, &scratch.0);
    assert!(get(&socket, "/ready").starts_with("HTTP/1.0 200 "));
    let fetched = curl(&gateway, "http://10.9.0.2:8000/object");
    assert!(fetched.status.success(), "{fetched:?}");
    assert!(fetched.stdout == content.as_bytes(), "the content differs");
    let refused = curl(&gateway, "http://127.0.0.1:8000/object");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("(2)"), "{refused:?}");
    let http = "--proxytunnel -x http://10.1.0.1:8080";
    let fetched = curl_by(&gateway, http, "http://10.9.0.2:8000/object");
    assert!(fetched.stdout == content.as_bytes(), "by HTTP: {:?}", fetched.stderr);
    let refused = curl_by(&gateway, http, "http://127.0.0.1:8000/object");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("403"), "{refused:?}");
    // A session is counted when it ended, which the client's FIN decides.
    let mut metrics = get(&socket, "/metrics");
    for _ in 0..100 {
        if metrics.contains("plait_sessions{shard=\"0\"} 0\n") {
            break;
        }
        std::thread::sleep(core::time::Duration::from_millis(50));
        metrics = get(&socket, "/metrics");
    }
    assert!(metrics.contains("reason=\"denied\"} 2\n"), "{metrics}");
    assert!(metrics.contains("reason=\"completed\"} 2\n"), "{metrics}");
    drop(origin);
    gateway.terminate();
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!socket.exists(), "the socket file is removed");
}

/// A name server inside a gateway's namespace.
struct NameServer(Child);

impl NameServer {
    fn start(gateway: &Gateway, scratch: &Scratch) -> Self {
        use core::fmt::Write as _;
        let mut config = "server:\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n do-daemonize: no\n \
             use-syslog: no\n verbosity: 1\n interface: 10.9.0.2\n access-control: 10.9.0.0/24 allow\n \
             local-zone: \"plait.test.\" static\n local-data: \"www.plait.test. A 10.9.0.2\"\n \
             local-data: \"inside.plait.test. A 192.168.0.1\"\n"
            .to_owned();
        // More than a datagram holds.
        for last in 130..230 {
            let _ = writeln!(config, " local-data: \"many.plait.test. A 10.9.0.{last}\"");
        }
        config.push_str("remote-control:\n control-enable: no\n");
        let file = scratch.file("unbound.conf", &config);
        let mut command = gateway.inside(&format!("unbound -d -c {file}"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("unbound runs");
        let stderr = child.stderr.take().expect("a pipe");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("start of service")), "unbound does not start");
        // Whoever writes into a closed pipe ends.
        std::thread::spawn(move || lines.count());
        Self(child)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn names_are_looked_up_at_a_real_server() {
    if !is_root_with(&[&NEEDS[..], &["unbound"]].concat()) {
        return;
    }
    let scratch = Scratch::new("names");
    let content = "plait\n".repeat(2_000);
    scratch.file("object", &content);
    let socket = scratch.0.join("admin.sock");
    let admin = format!("admin.listen=['unix:{}']", socket.display());
    let config = scratch.file("gw.toml", CONFIG);
    let commands = [&KERNEL[..], &["ip route add local 10.9.0.128/25 dev lo"]].concat();
    let gateway = Gateway::start(&config, &[&admin, "dns.servers=['10.9.0.2']"]).ready(&commands);
    let _origin = Origin::bound(&gateway, &scratch.0, "0.0.0.0");
    let _server = NameServer::start(&gateway, &scratch);
    let by_name = "--socks5-hostname 10.1.0.1:1080";
    for host in ["www.plait.test", "many.plait.test", "WWW.plait.test"] {
        for proxy in [by_name, "--proxytunnel -x http://10.1.0.1:8080"] {
            let fetched = curl_by(&gateway, proxy, &format!("http://{host}:8000/object"));
            assert!(fetched.stdout == content.as_bytes(), "{host}: {fetched:?}");
        }
    }
    let refused = curl_by(&gateway, by_name, "http://none.plait.test:8000/object");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("(4)"), "{refused:?}");
    let refused = curl_by(&gateway, by_name, "http://inside.plait.test:8000/object");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("(2)"), "{refused:?}");
    let metrics = get(&socket, "/metrics");
    assert!(metrics.contains("plait_dns_tcp_queries_total{shard=\"0\"} 1\n"), "{metrics}");
    assert!(!metrics.contains("plait_dns_cached_total{shard=\"0\"} 0\n"), "{metrics}");
    assert!(metrics.contains("plait_dns_timeouts_total{shard=\"0\"} 0\n"), "{metrics}");
}

/// What `scripts/socks-checks` asks of a SOCKS5 server.
#[test]
fn a_socks_server_like_no_other() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let scratch = Scratch::new("checks");
    let config = scratch.file("gw.toml", CONFIG);
    let gateway = Gateway::start(&config, &[]).ready(&KERNEL);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/socks-checks");
    let ran = gateway.inside(&format!("{script} check 10.1.0.1 1080")).output();
    let ran = ran.expect("python3 runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 18, "{said}");
}

/// Datagrams of a client of the kernel's MPTCP come from either of the networks its control connection
/// uses, and from no other.
#[test]
fn an_association_follows_its_client_from_network_to_network() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let scratch = Scratch::new("roaming");
    let wifi =
        "[[port]]\nname = \"wifi\"\ndevice = \"twifi\"\naddresses = [\"10.2.0.1/24\"]\n[[route]]";
    let config = scratch.file("gw.toml", &CONFIG.replacen("[[route]]", wifi, 1));
    let socket = scratch.0.join("admin.sock");
    let admin = format!("admin.listen=['unix:{}']", socket.display());
    let commands = [
        &KERNEL[..],
        &[
            "ip addr add 10.2.0.2/32 dev twifi",
            "ip addr add 10.3.0.2/32 dev lo",
            "ip rule add from 10.2.0.2 table 102",
            "ip route add default dev twifi src 10.2.0.2 table 102",
            "ip route add 10.2.0.1/32 dev twifi src 10.2.0.2",
            "ip rule add from 10.3.0.2 table 103",
            "ip route add default dev tlte src 10.3.0.2 table 103",
            "ip mptcp limits set subflows 4 add_addr_accepted 0",
            "ip mptcp endpoint add 10.2.0.2 dev twifi subflow",
        ],
    ]
    .concat();
    let gateway = Gateway::start(&config, &[&admin]).ready(&commands);
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let _echo = Origin::serving(&gateway, &format!("python3 -u {here}/echo.py 10.9.0.2 7"));
    let line =
        format!("python3 -u {here}/roaming.py 10.1.0.1 1080 10.9.0.2 7 10.1.0.2 10.2.0.2 10.3.0.2");
    let ran = gateway.inside(&line).output().expect("python3 runs");
    let metrics = get(&socket, "/metrics");
    assert!(ran.status.success(), "{ran:?}\n{metrics}");
    assert_eq!(ran.stdout, b"associated\nfirst\nsecond\nstranger\n");
    assert!(!metrics.contains("fate=\"strangers\"} 0\n"), "{metrics}");
}

/// A client of the kernel's MPTCP waits, and the peer that it named comes, as an FTP server's data would.
#[test]
fn a_peer_comes_to_a_client_that_waits() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let scratch = Scratch::new("bind");
    let config = scratch.file("gw.toml", CONFIG);
    let commands = [&KERNEL[..], &["ip addr add 10.9.0.3/32 dev lo"]].concat();
    let gateway = Gateway::start(&config, &["bind.waiting=4"]).ready(&commands);
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let line = format!("python3 -u {here}/bind.py 10.1.0.1 1080 10.9.0.2 10.9.0.3");
    let ran = gateway.inside(&line).output().expect("python3 runs");
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(ran.stdout, b"waits\nrefused\nconnected\nthrough\n");
}

/// A running curl.
struct Download(Child);

impl Drop for Download {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a download that takes its time and waits until it is in the list of sessions.
fn slow_download(gateway: &Gateway, socket: &Path) -> Download {
    let line = "curl -q -s --noproxy x --limit-rate 100k --socks5 10.1.0.1:1080 -o /dev/null \
                http://10.9.0.2:8000/object";
    let download = Download(gateway.inside(line).spawn().expect("curl runs"));
    for _ in 0..600 {
        let connections = get(socket, "/connections");
        if connections.contains("\"destination\":\"10.9.0.2:8000\"") {
            assert!(connections.contains("\"front_end\":\"socks5\""), "{connections}");
            return download;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the session does not show up");
}

#[test]
fn sessions_that_outlast_the_drain_are_reset_and_the_code_is_4() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let scratch = Scratch::new("drain");
    scratch.file("object", &"plait\n".repeat(2_000_000));
    let config = scratch.file("gw.toml", CONFIG);
    for (drain_s, signals) in [(1, 1), (3600, 2)] {
        let socket = scratch.0.join("admin.sock");
        let admin = format!("admin.listen=['unix:{}']", socket.display());
        let drain = format!("timeouts.drain_s={drain_s}");
        let mut gateway = Gateway::start(&config, &[&admin, &drain]).ready(&KERNEL);
        let _origin = Origin::start(&gateway, &scratch.0);
        let mut download = slow_download(&gateway, &socket);
        gateway.terminate();
        if signals == 2 {
            let draining = (0..1500).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                get(&socket, "/ready").starts_with("HTTP/1.0 503 ")
            });
            assert!(draining, "the first signal starts the drain");
            gateway.terminate();
        }
        let (code, log) = gateway.end();
        assert_eq!(code, Some(4), "{log}");
        assert!(log.contains("1 sessions were reset"), "{log}");
        assert!(!download.0.wait().expect("curl ends").success(), "curl heard of it");
    }
}

#[test]
fn a_device_that_cannot_be_had_is_code_3_and_a_taken_admin_address_code_1() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let scratch = Scratch::new("codes");
    let config = scratch.file("gw.toml", CONFIG);
    let mut gateway = Gateway::start(&config, &["port.0.device=lo"]);
    let (code, log) = gateway.end();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("\"lo\""), "{log}");
    let file = scratch.file("taken", "not a socket");
    let mut gateway = Gateway::start(&config, &[&format!("admin.listen=['unix:{file}']")]);
    let (code, log) = gateway.end();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("is no socket"), "{log}");
}

/// curl's exit code 97: the proxy refused.
#[test]
fn passwords_decide_who_is_served() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let scratch = Scratch::new("passwords");
    scratch.file("object", "plait\n");
    let hash = proxy_gw::auth::PasswordHash::of(b"right").expect("a hash");
    let user = format!("[[user]]\nname = \"alice\"\npassword_hash = \"{}\"\n", hash.as_str());
    let config = scratch.file("gw.toml", &(CONFIG.to_owned() + &user));
    let socket = scratch.0.join("admin.sock");
    let admin = format!("admin.listen=['unix:{}']", socket.display());
    let mut gateway = Gateway::start(&config, &[&admin, "socks5.auth=password"]).ready(&KERNEL);
    let _origin = Origin::start(&gateway, &scratch.0);
    for (credentials, code) in [
        ("--proxy-user alice:right", 0),
        ("--proxy-user alice:wrong", 97),
        ("--proxy-user bob:right", 97),
        ("--proxy-user alice:right", 0),
        ("", 97),
    ] {
        let fetched = curl(&gateway, &format!("{credentials} http://10.9.0.2:8000/object"));
        assert_eq!(fetched.status.code(), Some(code), "{credentials:?}: {fetched:?}");
        assert_eq!(fetched.stdout == b"plait\n", code == 0, "{credentials:?}");
    }
    gateway.terminate();
    let (code, log) = gateway.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("right") && !log.contains("wrong"), "no password in the log: {log}");
}

#[test]
fn why_it_failed_is_said_with_the_log_off() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let scratch = Scratch::new("log-off");
    let config = scratch.file("gw.toml", CONFIG);
    let mut gateway = Gateway::start(&config, &["port.0.device=lo", "log.level='off'"]);
    let (code, said) = gateway.end();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.starts_with("error: ") && said.contains("\"lo\""), "{said}");
}
