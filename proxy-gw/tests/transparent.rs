//! Connections to a server's own address, led through the gateway's TUN devices by routes of the Linux
//! kernel, whose TCP and MPTCP are the clients: in a namespace of theirs, so that nothing goes around.

use gateway::Gateway;
use skip::is_root_with;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use support::Scratch;

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/skip.rs"]
mod skip;
mod support;

const NEEDS: [&str; 7] = ["unshare", "nsenter", "ip", "ss", "curl", "python3", "/dev/net/tun"];

const CONFIG: &str = r#"
[driver]
kind = "tun"
[[port]]
name = "lte"
device = "tlte"
addresses = ["10.1.0.1/24"]
[[port]]
name = "wifi"
device = "twifi"
addresses = ["10.2.0.1/24"]
[[port]]
name = "exit"
device = "texit"
addresses = ["10.9.0.1/24"]
[[route]]
to = "0.0.0.0/0"
via = "10.9.0.2"
port = "exit"
[transparent]
ports = ["lte", "wifi"]
[egress]
allow = ["10.9.0.0/24"]
"#;

/// The origin is in the gateway's namespace.
const ORIGIN: [&str; 3] = [
    "ip link set lo up",
    "ip addr add 10.9.0.2/32 dev lo",
    "ip route add 10.9.0.1/32 dev texit src 10.9.0.2",
];

/// What a client needs that has the gateway for its router, on both accesses.
const CLIENT: [&str; 10] = [
    "ip link set lo up",
    "ip link set tlte up",
    "ip link set twifi up",
    "ip addr add 10.1.0.2/24 dev tlte",
    "ip addr add 10.2.0.2/24 dev twifi",
    "ip route add default dev tlte src 10.1.0.2",
    "ip rule add from 10.2.0.2 table 102",
    "ip route add default dev twifi src 10.2.0.2 table 102",
    "ip mptcp limits set subflows 4 add_addr_accepted 4",
    "ip mptcp endpoint add 10.2.0.2 dev twifi subflow",
];

/// A process that is killed at the end.
struct Running(Child);

impl Running {
    /// Waits until it has said a line that starts so.
    fn saying(mut command: Command, first: &str) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("it runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert!(line.starts_with(first), "{line}");
        Self(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway, an origin with an object, and a client in a namespace of its own.
struct Bed {
    gateway: Gateway,
    client: Running,
    _origin: Running,
    scratch: Scratch,
}

impl Bed {
    fn new(name: &str, settings: &[&str], object: &str) -> Self {
        let scratch = Scratch::new(name);
        scratch.file("object", object);
        let config = scratch.file("gw.toml", CONFIG);
        let admin = format!("admin.listen=['unix:{}']", scratch.0.join("admin.sock").display());
        let gateway = Gateway::start(&config, &[&[admin.as_str()], settings].concat());
        let gateway = gateway.ready(&ORIGIN);
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "echo up; exec sleep 600"]);
        let client = Running::saying(command, "up");
        for device in ["tlte", "twifi"] {
            let line = format!("ip link set {device} netns {}", client.0.id());
            assert!(gateway.inside(&line).status().expect("ip runs").success(), "{line}");
        }
        let dir = scratch.0.display();
        let line = format!("python3 -u -m http.server --bind 10.9.0.2 --directory {dir} 8000");
        let origin = Running::saying(gateway.inside(&line), "Serving");
        let bed = Self { gateway, client, _origin: origin, scratch };
        for line in CLIENT {
            let ran = bed.inside(line);
            assert!(ran.status.success(), "{line}: {ran:?}");
        }
        bed
    }

    /// A command at the client's.
    fn inside(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.client.0.id()));
        command.args(line.split_whitespace()).output().expect(line)
    }

    fn curl(&self, url: &str) -> Output {
        self.inside(&format!("curl -q -sS --noproxy x -m 50 {url}"))
    }

    fn get(&self, target: &str) -> String {
        get(&self.scratch.0.join("admin.sock"), target)
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
fn plain_clients_reach_servers_and_hear_what_they_say() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let object = "plait\n".repeat(200_000);
    let mut bed = Bed::new("passing", &[], &object);
    let fetched = bed.curl("http://10.9.0.2:8000/object");
    assert!(fetched.stdout == object.as_bytes(), "{:?}", fetched.stderr);
    // Nobody listens there; the gateway itself; a network that is denied.
    for url in ["http://10.9.0.2:9/", "http://10.1.0.1:8000/", "http://192.168.7.7/"] {
        let refused = bed.curl(url);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(7) && !said.contains("timed out"), "{url}: {said}");
    }
    let metrics = bed.get("/metrics");
    assert!(metrics.contains("reason=\"refused\"} 1\n"), "{metrics}");
    assert!(metrics.contains("reason=\"denied\"} 1\n"), "{metrics}");
    bed.gateway.terminate();
    let (code, log) = bed.gateway.end();
    assert_eq!(code, Some(0), "{log}");
}

/// The kernel's client leaves the server's address alone, as the C flag asks, and joins an address of the
/// gateway's that it was told.
#[test]
fn a_kernel_client_joins_by_the_address_it_is_told() {
    if !is_root_with(&NEEDS) {
        return;
    }
    let object = "plait\n".repeat(2_000_000);
    for (name, settings, port) in
        [("joins", &[][..], 8000), ("joins-port", &["transparent.join_port=4433"][..], 4433)]
    {
        let bed = Bed::new(name, settings, &object);
        let hash = bed.inside(&format!("sha256sum {}", bed.scratch.0.join("object").display()));
        let hash =
            String::from_utf8_lossy(&hash.stdout).split_whitespace().next().map(str::to_owned);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transparent.py");
        let ran = bed.inside(&format!("python3 -u {script} 10.9.0.2 8000"));
        assert!(ran.status.success(), "{ran:?}");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let (peers, heard) = said.split_once('\n').expect("two lines");
        assert_eq!(Some(heard.trim()), hash.as_deref());
        let mut peers: Vec<&str> = peers.split_whitespace().collect();
        peers.retain(|peer| *peer != "10.9.0.2:8000");
        assert!(!peers.is_empty(), "nothing joined: {said}{}", bed.get("/metrics"));
        let announced = ["10.1.0.1", "10.2.0.1"].map(|own| format!("{own}:{port}"));
        assert!(peers.iter().all(|peer| announced.iter().any(|own| own == peer)), "{peers:?}");
    }
}
