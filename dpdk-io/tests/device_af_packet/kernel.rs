//! The kernel's side, and the referee.

use crate::gateway;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// Sends datagrams of many sizes to our address and expects every one back; then one whose checksum comes to
/// zero, which goes as all ones (over IPv6 the kernel drops a zero).
const UDP_CLIENT: &str = r"
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
if len(sys.argv) > 2:
    s.bind((sys.argv[2], 0))
s.connect((sys.argv[1], 7))
s.settimeout(5)
for i in range(200):
    sent = bytes((i + j) % 251 for j in range(1 + i * 7))
    s.send(sent)
    got = s.recv(4096)
    assert got == sent, 'datagram %d: %d bytes sent, %d received' % (i, len(sent), len(got))
ends = [s.getsockname(), s.getpeername()]
head = b''.join(socket.inet_pton(family, e[0]) + e[1].to_bytes(2, 'big') for e in ends) + bytes([0, 17, 0, 10, 0, 10])
total = sum(int.from_bytes(head[i:i + 2], 'big') for i in range(0, len(head), 2))
while total > 65535:
    total = (total >> 16) + (total & 65535)
sent = (65535 - total).to_bytes(2, 'big')
s.send(sent)
assert s.recv(4096) == sent, 'others came back'
";

/// Asks for our address in a tagged frame and expects a tagged answer; asks untagged and expects
/// none. Raw frames, because not every kernel has VLAN devices.
const VLAN_CLIENT: &str = r"
import socket, struct
SOL_PACKET, PACKET_AUXDATA, ALL = 263, 8, 3
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
s.bind(('p2', 0))
mac = open('/sys/class/net/p2/address').read().strip().replace(':', '')
mac = bytes.fromhex(mac)
arp = bytes.fromhex('0001080006040001') + mac + bytes([10, 3, 0, 2]) + bytes(6) + bytes([10, 3, 0, 1])
def ask(tag, wait):
    s.settimeout(wait)
    s.send(bytes([255] * 6) + mac + tag + bytes([8, 6]) + arp)
    try:
        while True:
            data, aux, _, _ = s.recvmsg(2048, 256)
            if data[0:6] != mac:
                continue
            tci = [struct.unpack_from('=H', d, 16)[0] for l, t, d in aux if (l, t) == (SOL_PACKET, PACKET_AUXDATA)]
            return data, tci
    except socket.timeout:
        return None
data, tci = ask(bytes([0x81, 0, 0, 7]), 5)
at = data.index(bytes.fromhex('0001080006040002'))
assert data[at + 14:at + 18] == bytes([10, 3, 0, 1]), data.hex()
assert tci == [7] or data[12:16] == bytes([0x81, 0, 0, 7]), (tci, data.hex())
assert ask(bytes(0), 0.3) is None, 'an untagged question was answered'
assert ask(bytes([0x81, 0, 0, 8]), 0.3) is None, 'another VLAN was answered'
";

/// Sends 6 MB over MPTCP (a second subflow joins from p1) or TCP while reading them back.
const STREAM_CLIENT: &str = r"
import hashlib, socket, sys, threading
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM, int(sys.argv[2]))
s.settimeout(60)
s.connect((sys.argv[1], 7))
data = b''.join(hashlib.sha256(b'%d' % i).digest() for i in range(6 * 32768))
def send():
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
got = bytearray()
while True:
    part = s.recv(65536)
    if not part:
        break
    got += part
assert bytes(got) == data, '%d bytes sent, %d received' % (len(data), len(got))
";

/// Sixteen MPTCP connections at once that read back what they send: half a megabyte, and another one when
/// the kernel has joined a second subflow to each.
const STREAMS_CLIENT: &str = r"
import hashlib, socket, threading, time
data = b''.join(hashlib.sha256(b'%d' % i).digest() for i in range(16384))
wrong = []
go_on = threading.Event()
ready = threading.Semaphore(0)
def joins():
    names, values = [l.split() for l in open('/proc/net/netstat') if l.startswith('MPTcpExt:')]
    return int(dict(zip(names, values))['MPJoinSynAckRx'])
def exchange(s):
    sender = threading.Thread(target=s.sendall, args=(data,))
    sender.start()
    got = bytearray()
    while len(got) < len(data):
        part = s.recv(65536)
        assert part, '%d bytes received' % len(got)
        got += part
    sender.join()
    assert bytes(got) == data, 'others came back'
def one():
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        s.settimeout(60)
        s.connect(('10.1.0.1', 7))
        exchange(s)
        ready.release()
        go_on.wait()
        exchange(s)
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b''
    except Exception as e:
        wrong.append(repr(e))
        ready.release()
before = joins()
all = [threading.Thread(target=one) for i in range(16)]
[t.start() for t in all]
[ready.acquire() for t in all]
for i in range(600):
    if wrong or joins() - before == 16:
        break
    time.sleep(0.1)
joined = joins() - before
go_on.set()
[t.join() for t in all]
assert not wrong, wrong
assert joined == 16, joined
";

/// Two namespaces, removed when dropped.
struct Namespaces {
    phone: String,
    gateway: String,
}

impl Namespaces {
    fn new() -> Self {
        let pid = std::process::id();
        let all = Self { phone: format!("plait-p{pid}"), gateway: format!("plait-g{pid}") };
        for name in [&all.phone, &all.gateway] {
            // One may be left of a process that had this id and was killed.
            Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status().ok();
            command(&format!("ip netns add {name}"));
        }
        all
    }

    fn phone(&self, line: &str) {
        command(&format!("ip netns exec {} {line}", self.phone));
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [&self.phone, &self.gateway] {
            Command::new("ip").args(["netns", "del", name]).status().ok();
        }
    }
}

/// A counter of the kernel's, in a namespace.
fn kernel_counter(space: &str, name: &str) -> u64 {
    let nstat = ["netns", "exec", space, "nstat", "-asz", name];
    let output = Command::new("ip").args(nstat).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.first() == Some(&name));
    row.unwrap_or_else(|| panic!("no {name} in {text}"))[1].parse().unwrap()
}

fn command(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stdout));
}

fn build(spaces: &Namespaces) {
    let (p, g) = (&spaces.phone, &spaces.gateway);
    for (ours, theirs) in [("gw0", "p0"), ("gw1", "p1"), ("gw2", "p2")] {
        command(&format!(
            "ip -n {g} link add {ours} type veth peer name {theirs} netns {p} && \
             ip netns exec {g} sh -c 'echo 1 > /proc/sys/net/ipv6/conf/{ours}/disable_ipv6' && \
             ip -n {g} link set {ours} up && ip -n {p} link set {theirs} up && \
             ip netns exec {p} ethtool -K {theirs} tx off tso off gso off gro off"
        ));
    }
    command(&format!(
        "ip -n {p} link set lo up && \
         ip -n {p} addr add 10.1.0.2/24 dev p0 && \
         ip -n {p} addr add fd00:1::2/64 dev p0 nodad && \
         ip -n {p} addr add 192.0.2.7/32 dev lo && \
         ip -n {p} addr add 10.2.0.2/24 dev p1"
    ));
}

/// The gateway's process and what it says at its end.
struct Gateway {
    child: Child,
}

impl Gateway {
    fn start(spaces: &Namespaces, service: &str) -> Self {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &spaces.gateway])
            .arg(std::env::current_exe().unwrap())
            .args([gateway::ARGUMENT, service])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        // One byte at a time: what follows belongs to the next reader.
        let mut byte = [0];
        while std::io::Read::read(stdout, &mut byte).unwrap() == 1 && byte != [b'\n'] {
            line.push(char::from(byte[0]));
        }
        if line != "ready" {
            child.wait().ok();
            panic!("the gateway did not start: {line:?}");
        }
        Self { child }
    }

    /// Closing its input ends it.
    fn finish(mut self) -> BTreeMap<String, u64> {
        drop(self.child.stdin.take());
        let stdout = BufReader::new(self.child.stdout.take().unwrap());
        let report = stdout
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| {
                let (name, value) = line.split_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the gateway failed: {status}");
        report
    }
}

/// Runs `checks` while the gateway serves, and returns the gateway's counters.
fn during(spaces: &Namespaces, service: &str, checks: impl FnOnce()) -> BTreeMap<String, u64> {
    let gateway = Gateway::start(spaces, service);
    let checked = std::panic::catch_unwind(core::panic::AssertUnwindSafe(checks));
    let report = gateway.finish();
    if let Err(panic) = checked {
        writeln!(std::io::stderr(), "the gateway counted {report:?}").ok();
        std::panic::resume_unwind(panic);
    }
    assert_eq!(report["in_use"] + report["views_in_use"], 0, "{report:?}");
    report
}

fn datagrams(spaces: &Namespaces) {
    let report = during(spaces, "udp", || {
        spaces.phone("ping -n -c 5 -i 0.01 -W 5 10.1.0.1");
        spaces.phone("ping -n -c 5 -i 0.01 -W 5 -s 1472 -M do 10.1.0.1");
        spaces.phone("ping -n -c 5 -i 0.01 -W 5 fd00:1::1");
        spaces.phone("ping -n -c 5 -i 0.01 -W 5 10.2.0.1");
        // To the other port's address by way of this one.
        spaces.phone("ip route add 10.1.0.1/32 dev p1 via 10.2.0.1");
        spaces.phone("ping -n -c 5 -i 0.01 -W 5 -I 10.2.0.2 10.1.0.1");
        spaces.phone("ip route del 10.1.0.1/32 dev p1");
        spaces.phone(&format!("python3 -c \"{VLAN_CLIENT}\""));
        // Behind a router: our port's gateway takes the replies.
        spaces.phone("ping -n -c 5 -i 0.01 -W 5 -I 192.0.2.7 10.1.0.1");
        for target in ["10.1.0.1", "fd00:1::1", "10.2.0.1", "10.1.0.1 192.0.2.7"] {
            spaces.phone(&format!("python3 -c \"{UDP_CLIENT}\" {target}"));
        }
        let p = &spaces.phone;
        command(&format!("ip -n {p} neigh show 10.1.0.1 | grep -q lladdr"));
        command(&format!("ip -n {p} neigh show fd00:1::1 | grep -q lladdr"));
    });
    let value = |name: &str| report.get(name).copied().unwrap_or(0);
    assert_eq!((value("echo_replies"), value("datagrams")), (30, 804), "{report:?}");
    assert!(value("chained") >= 400, "{report:?}");
    assert!(value("arp_replies") >= 2 && value("neighbour_adverts") >= 1, "{report:?}");
    assert!(value("wrong_vlan") >= 2, "{report:?}");
    assert_eq!(value("tx_queue_full") + value("no_buffer"), 0, "{report:?}");
}

/// Pings that take several packets each, there and back. Fragments of IPv4 are put together by the kernel in front of
/// `net_af_packet` (`PACKET_FANOUT_FLAG_DEFRAG`), and what is longer than a frame is lost there.
fn long_pings(namespace: &str, targets: &[&str]) {
    for len in [4_000, 60_000] {
        for target in targets {
            let ping = format!("ping -n -c 5 -i 0.05 -W 5 -s {len} {target}");
            command(&format!("ip netns exec {namespace} {ping}"));
        }
    }
}

/// Packets that all shards have made of fragments.
fn put_together(report: &BTreeMap<String, u64>) -> u64 {
    let of_shards = report.iter().filter(|(name, _)| name.ends_with("_ip_reasm_oks"));
    of_shards.map(|(_, value)| value).sum()
}

fn streams(spaces: &Namespaces) {
    let p = &spaces.phone;
    command(&format!(
        "ip -n {p} mptcp limits set subflow 8 add_addr_accepted 8 && \
         ip -n {p} mptcp endpoint add 10.2.0.2 dev p1 subflow && \
         ip -n {p} rule add from 10.2.0.2 table 102 && \
         ip -n {p} route add default via 10.2.0.1 dev p1 table 102"
    ));
    let (tcp, mptcp) = (6, 262);
    let report = during(spaces, "tcp", || {
        long_pings(p, &["fd00:1::1"]);
        for (target, protocol) in [("10.1.0.1", tcp), ("fd00:1::1", tcp), ("10.1.0.1", mptcp)] {
            spaces.phone(&format!("python3 -c \"{STREAM_CLIENT}\" {target} {protocol}"));
        }
    });
    let value = |name: &str| report.get(name).copied().unwrap_or(0);
    assert_eq!(value("echoed"), 3 * 6 * 32768 * 32, "{report:?}");
    assert_eq!(put_together(&report), 10, "{report:?}");
    // The kernel agrees that a second subflow was joined, to the address of the other port.
    assert_eq!(kernel_counter(p, "MPTcpExtMPJoinSynAckRx"), 1);
    assert!(value("wifi_rx_packets") > 20 && value("wifi_tx_packets") > 20, "{report:?}");
    assert_eq!(value("tx_queue_full") + value("no_buffer"), 0, "{report:?}");
}

/// Four shards, and joins that belong to another one than where they arrive. Nothing is lost between them; but
/// they share what CPUs there are, and while one waits for its turn its ring may fill up: then once more.
fn shards(spaces: &Namespaces, service: &str) {
    let mut lost = Vec::new();
    while lost.len() < 3 && !lost.contains(&0) {
        lost.push(lost_between_shards(spaces, service));
    }
    assert!(lost.contains(&0), "packets that found a ring full, by run: {lost:?}");
}

/// One run of them.
fn lost_between_shards(spaces: &Namespaces, service: &str) -> u64 {
    let report = during(spaces, service, || {
        long_pings(&spaces.phone, &["fd00:1::1"]);
        spaces.phone(&format!("python3 -c \"{STREAMS_CLIENT}\""));
    });
    let value = |name: &str| report.get(name).copied().unwrap_or(0);
    assert_eq!(value("echoed"), 16 * 32768 * 32, "{report:?}");
    assert!(value("serving_shards") > 1, "{report:?}");
    assert!(value("joins_steered") > 0 && value("sent_to_owner") > 20, "{report:?}");
    assert_eq!(put_together(&report), 10, "{report:?}");
    // Some may be under way when the loops end.
    let crossed = value("handed_over") - value("taken_over");
    assert!(value("handed_over") > 100 && crossed < 100, "{report:?}");
    assert_eq!(value("no_buffer") + value("tx_queue_full"), 0, "{report:?}");
    let strays: u64 = report
        .iter()
        .filter(|(name, _)| name.ends_with("_mp_join_no_token_found"))
        .map(|(_, value)| value)
        .sum();
    assert_eq!(strays, 0, "{report:?}");
    value("ring_full")
}

/// TCP whose checksums a port completes and verifies; the kernel drops what is wrong.
fn offloaded(spaces: &Namespaces) {
    let g = &spaces.gateway;
    let report = during(spaces, "tap", || {
        // The driver gives both ends of a TAP one station address.
        command(&format!(
            "ip -n {g} link set gwtap address 02:00:00:00:00:77 && \
             ip -n {g} addr add 10.1.0.2/24 dev gwtap && \
             ip -n {g} addr add fd00:1::2/64 dev gwtap nodad && ip -n {g} link set gwtap up"
        ));
        long_pings(g, &["10.1.0.1", "fd00:1::1"]);
        for target in ["10.1.0.1", "fd00:1::1"] {
            command(&format!("ip netns exec {g} python3 -c \"{STREAM_CLIENT}\" {target} 6"));
        }
    });
    assert_eq!(report["echoed"], 2 * 6 * 32768 * 32, "{report:?}");
    assert_eq!(put_together(&report), 20, "{report:?}");
    assert_eq!(kernel_counter(g, "TcpInCsumErrors"), 0);
}

pub(crate) fn run() {
    let spaces = Namespaces::new();
    build(&spaces);
    datagrams(&spaces);
    streams(&spaces);
    shards(&spaces, "four_shards_one_queue");
    shards(&spaces, "four_shards_four_queues");
    offloaded(&spaces);
    writeln!(std::io::stdout(), "test device_af_packet ... ok").ok();
}
