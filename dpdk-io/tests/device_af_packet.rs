//! `net_af_packet` ports against the Linux kernel: ARP, NDISC, ping, UDP with replies in several
//! segments, a VLAN, and a peer behind a router.
//!
//! The kernel's side is namespace P; the gateway runs in namespace G, where no kernel address
//! exists. Namespaces are named by our process id and removed at the end. Needs root, libdpdk, ip,
//! ethtool, ping and python3; says SKIPPED otherwise, and fails where CI forbids that.

#![cfg_attr(have_dpdk, expect(clippy::unwrap_used, reason = "helpers of tests are tests"))]

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    #[cfg(have_dpdk)]
    if arguments.first().is_some_and(|argument| argument == gateway::ARGUMENT) {
        gateway::run();
        return ExitCode::SUCCESS;
    }
    match missing() {
        None => {
            #[cfg(have_dpdk)]
            kernel::run();
            ExitCode::SUCCESS
        }
        Some(what) => {
            writeln!(std::io::stderr(), "SKIPPED: device_af_packet: {what}").ok();
            let required = std::env::var("PLAIT_CI").is_ok_and(|value| value == "1")
                || std::env::var("CI").is_ok_and(|value| value == "true");
            if required { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}

/// What this machine lacks.
fn missing() -> Option<&'static str> {
    if cfg!(not(have_dpdk)) {
        return Some("built without libdpdk (apt-get install libdpdk-dev)");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status.lines().any(|line| {
        line.strip_prefix("Uid:").and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
    });
    if !root {
        return Some("needs root for network namespaces");
    }
    let found = |tool: &&str| {
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
            .iter()
            .any(|dir| std::path::Path::new(dir).join(tool).exists())
    };
    if !["ip", "ethtool", "ping", "python3"].iter().all(found) {
        return Some("needs ip, ethtool, ping and python3");
    }
    None
}

/// The kernel's side and the referee.
#[cfg(have_dpdk)]
mod kernel {
    use super::gateway;
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};

    /// Sends datagrams of many sizes to our address and expects every one back.
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

    fn command(line: &str) {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{line}: {text}{}",
            String::from_utf8_lossy(&output.stdout)
        );
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

    fn start_gateway(spaces: &Namespaces) -> Child {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &spaces.gateway])
            .arg(std::env::current_exe().unwrap())
            .arg(gateway::ARGUMENT)
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
        child
    }

    pub(super) fn run() {
        let spaces = Namespaces::new();
        build(&spaces);
        let mut gateway = start_gateway(&spaces);
        let checks = std::panic::catch_unwind(|| {
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
        // Closing its input ends the gateway, whatever happened.
        drop(gateway.stdin.take());
        let stdout = BufReader::new(gateway.stdout.take().unwrap());
        let report: BTreeMap<String, u64> = stdout
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| {
                let (name, value) = line.split_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect();
        let status = gateway.wait().unwrap();
        if let Err(panic) = checks {
            writeln!(std::io::stderr(), "the gateway counted {report:?}").ok();
            drop(spaces);
            std::panic::resume_unwind(panic);
        }
        assert!(status.success(), "the gateway failed: {status}");
        let value = |name: &str| report.get(name).copied().unwrap_or(0);
        assert_eq!(value("echo_replies"), 30, "{report:?}");
        assert_eq!(value("datagrams"), 800, "{report:?}");
        assert!(value("chained") >= 400, "{report:?}");
        assert!(
            value("arp_replies") >= 2
                && value("wrong_vlan") >= 2
                && value("neighbour_adverts") >= 1,
            "{report:?}"
        );
        assert_eq!(value("in_use") + value("views_in_use"), 0, "{report:?}");
        assert_eq!(value("tx_queue_full") + value("no_buffer"), 0, "{report:?}");
        writeln!(std::io::stdout(), "test device_af_packet ... ok").ok();
    }
}

/// The gateway: answers datagrams on two `net_af_packet` ports until its input ends.
#[cfg(have_dpdk)]
mod gateway {
    use dpdk_io::{
        Driver, DropReason, EalConfig, Hugepages, L2Event, Mbuf, PortConfig, ShardCounters,
    };
    use mptcp_core::buf::{PacketBuf, TxMeta, TxQueue};
    use mptcp_core::driver::{Control, Progress, Worker};
    use mptcp_core::time::Instant;
    use mptcp_core::wire::{Checksum, IpEmit, IpHeader, checksum};
    use std::io::{Read, Write};

    /// The first argument of a gateway process.
    pub(super) const ARGUMENT: &str = "gateway";

    const UDP: u8 = 17;

    /// The kernel spreads flows over two queues; answers of neighbours arrive on either.
    const SHARDS: usize = 2;
    const QUEUES: u16 = 2;

    /// Sends every datagram back, its payload as a further segment of the reply.
    #[derive(Default)]
    struct UdpEcho {
        waiting: Vec<Mbuf>,
        datagrams: u64,
        chained: u64,
    }

    /// IP and UDP header of the reply, and where the payload is.
    fn reply_header(request: &[u8]) -> Option<(Vec<u8>, core::ops::Range<usize>)> {
        let ip = IpHeader::parse(request).ok()?;
        let udp = request.get(ip.header_len..ip.total_len).filter(|_| ip.protocol == UDP)?;
        let [s0, s1, d0, d1, ..] = *udp else { return None };
        let payload = udp.get(8..)?;
        let len = u16::try_from(udp.len()).ok()?.to_be_bytes();
        let header = IpEmit {
            src: ip.dst,
            dst: ip.src,
            protocol: UDP,
            traffic_class: 0,
            hop_limit: 64,
            payload_len: udp.len(),
            identification: 0,
            dont_fragment: true,
        };
        let mut out = vec![0; header.header_len()];
        header.emit(&mut out);
        let mut sum = Checksum::new();
        sum.add_sum(
            checksum::pseudo_header(ip.dst, ip.src, UDP, u32::try_from(udp.len()).ok()?),
            0,
        );
        let head = [d0, d1, s0, s1, len[0], len[1]];
        sum.add_bytes(&head);
        sum.add_bytes(payload);
        out.extend_from_slice(&head);
        out.extend_from_slice(&sum.finish().to_be_bytes());
        Some((out, ip.header_len + 8..ip.total_len))
    }

    impl Worker<Mbuf> for UdpEcho {
        fn handle_burst(&mut self, _now: Instant, burst: &mut Vec<Mbuf>) {
            self.waiting.append(burst);
        }

        fn handle_timeouts(&mut self, _now: Instant, _budget: usize) -> Progress {
            Progress::Done
        }

        fn handle_events(&mut self, _now: Instant) {}

        fn poll_transmit<T: TxQueue<Mbuf>>(&mut self, _now: Instant, tx: &mut T) -> Progress {
            for request in self.waiting.drain(..) {
                let Some((header, payload)) = reply_header(request.data()) else { continue };
                let mut reply = tx.alloc().unwrap();
                reply.append(header.len()).unwrap().copy_from_slice(&header);
                reply.chain(request.slice(payload));
                reply.set_tx_meta(TxMeta { port: request.rx_meta().port, partial_checksum: false });
                self.datagrams += 1;
                self.chained += u64::from(reply.segment_count() > 1);
                tx.push(reply);
            }
            Progress::Done
        }

        fn poll_timeout(&self) -> Option<Instant> {
            None
        }

        fn poll_control(&mut self, _now: Instant) -> Control {
            Control::Continue
        }
    }

    fn start() -> Driver {
        let words = [
            "--in-memory",
            "--no-pci",
            "--no-telemetry",
            "--log-level=4",
            "--vdev=net_af_packet0,iface=gw0,qpairs=2",
            "--vdev=net_af_packet1,iface=gw1,qpairs=2",
            "--vdev=net_af_packet2,iface=gw2,qpairs=2",
        ];
        let eal = EalConfig {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            hugepages: Hugepages::Off,
            memory_mb: 128,
            cores: vec![0; SHARDS],
        };
        let lte = PortConfig {
            addresses: vec!["10.1.0.1/24".parse().unwrap(), "fd00:1::1/64".parse().unwrap()],
            gateway: vec!["10.1.0.2".parse().unwrap()],
            queues: QUEUES,
            ..PortConfig::new("lte", "net_af_packet0")
        };
        let wifi = PortConfig {
            addresses: vec!["10.2.0.1/24".parse().unwrap()],
            queues: QUEUES,
            ..PortConfig::new("wifi", "net_af_packet1")
        };
        let dsl = PortConfig {
            addresses: vec!["10.3.0.1/24".parse().unwrap()],
            vlan: 7,
            queues: QUEUES,
            ..PortConfig::new("dsl", "net_af_packet2")
        };
        Driver::start(eal, vec![lte, wifi, dsl], Vec::new()).unwrap()
    }

    pub(super) fn run() {
        let driver = start();
        let mut workers: [UdpEcho; SHARDS] = Default::default();
        std::thread::scope(|scope| {
            let driver = &driver;
            let shards: Vec<_> = workers
                .iter_mut()
                .enumerate()
                .map(|(shard, worker)| scope.spawn(move || driver.run(shard, 0, worker)))
                .collect();
            let mut stdout = std::io::stdout();
            writeln!(stdout, "ready").unwrap();
            stdout.flush().unwrap();
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
            driver.stop();
            for shard in shards {
                shard.join().unwrap().unwrap();
            }
        });
        let sum = |count: &dyn Fn(&ShardCounters) -> u64| -> u64 {
            driver.counters().iter().map(|counters| count(counters)).sum()
        };
        let mut out = std::io::stdout().lock();
        for &event in L2Event::ALL {
            writeln!(out, "{} {}", event.name(), sum(&|c| c.events(event))).unwrap();
        }
        for &reason in DropReason::ALL {
            writeln!(out, "{} {}", reason.name(), sum(&|c| c.drops(reason))).unwrap();
        }
        let pool = driver.pools()[0];
        for (name, value) in [
            ("datagrams", workers.iter().map(|worker| worker.datagrams).sum::<u64>()),
            ("chained", workers.iter().map(|worker| worker.chained).sum::<u64>()),
            ("in_use", pool.in_use.into()),
            ("views_in_use", pool.views_in_use.into()),
        ] {
            writeln!(out, "{name} {value}").unwrap();
        }
        driver.close();
    }
}
