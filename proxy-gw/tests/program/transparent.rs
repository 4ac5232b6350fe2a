//! Connections to a server's own address, led through the gateway's TUN devices by routes of the Linux
//! kernel, whose TCP and MPTCP are the clients: in a namespace of theirs, so that nothing goes around.

use crate::support::{Bed, Helper, Setup, beside};
use std::process::{Command, Output};

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

/// A bed whose client is in a namespace of its own.
struct Routed {
    client: u32,
    bed: Bed,
    // Its namespace goes with it.
    _client: Helper,
}

impl Routed {
    fn start(setup: Setup, object: &str) -> Option<Self> {
        let mut bed = setup.transparent().start()?;
        bed.scratch.file("object", object);
        bed.serve_files();
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "echo up; exec sleep 600"]);
        let client = Helper::serving(command, "up");
        let routed = Self { client: client.id(), bed, _client: client };
        for device in ["tlte", "twifi"] {
            routed.bed.said(&format!("ip link set {device} netns {}", routed.client));
        }
        for line in CLIENT {
            let ran = routed.inside(line);
            assert!(ran.status.success(), "{line}: {ran:?}");
        }
        Some(routed)
    }

    /// A command at the client's.
    fn inside(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.client));
        command.args(line.split_whitespace()).output().expect(line)
    }

    fn curl(&self, url: &str) -> Output {
        self.inside(&format!("curl -q -sS --noproxy x -m 50 {url}"))
    }
}

#[test]
fn plain_clients_reach_servers_and_hear_what_they_say() {
    let object = "plait\n".repeat(200_000);
    let Some(client) = Routed::start(Setup::tun("passing"), &object) else { return };
    let fetched = client.curl("http://10.9.0.2:8000/object");
    assert!(fetched.stdout == object.as_bytes(), "{:?}", fetched.stderr);
    // Nobody listens there; the gateway itself; a network that is denied.
    for url in ["http://10.9.0.2:9/", "http://10.1.0.1:8000/", "http://192.168.7.7/"] {
        let refused = client.curl(url);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(7) && !said.contains("timed out"), "{url}: {said}");
    }
    let metrics = client.bed.get("/metrics");
    assert!(metrics.contains("reason=\"refused\"} 1\n"), "{metrics}");
    assert!(metrics.contains("reason=\"denied\"} 1\n"), "{metrics}");
    client.bed.finish();
}

/// The kernel's client leaves the server's address alone, as the C flag asks, and joins an address of the
/// gateway's that it was told.
#[test]
fn a_kernel_client_joins_by_the_address_it_is_told() {
    let object = "plait\n".repeat(2_000_000);
    for (name, settings, port) in
        [("joins", None, 8000), ("joins-port", Some("transparent.join_port=4433"), 4433)]
    {
        let setup = settings.into_iter().fold(Setup::tun(name), Setup::set);
        let Some(client) = Routed::start(setup, &object) else { return };
        let hash = client.bed.said(&format!("sha256sum {}", client.bed.scratch.path("object")));
        let hash = hash.split_whitespace().next();
        let script = beside("transparent.py");
        let ran = client.inside(&format!("python3 -u {script} 10.9.0.2 8000"));
        assert!(ran.status.success(), "{ran:?}");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let (peers, heard) = said.split_once('\n').expect("two lines");
        assert_eq!(Some(heard.trim()), hash);
        let mut peers: Vec<&str> = peers.split_whitespace().collect();
        peers.retain(|peer| *peer != "10.9.0.2:8000");
        assert!(!peers.is_empty(), "nothing joined: {said}{}", client.bed.get("/metrics"));
        let announced = ["10.1.0.1", "10.2.0.1"].map(|own| format!("{own}:{port}"));
        assert!(peers.iter().all(|peer| announced.iter().any(|own| own == peer)), "{peers:?}");
    }
}
