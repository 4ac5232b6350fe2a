//! The bed of a test: a gateway in a network namespace of its own whose kernel plays both its clients, at
//! 10.1.0.2 behind the port `lte` and at 10.2.0.2 behind `wifi` where there is one, and its origins, at
//! 10.9.0.2 behind `exit`.
//!
//! Everything ends with the bed: its programs are killed, and the namespace goes with the last of them.

use super::gateway::Gateway;
use super::skip::{is_root_with, skip};
use super::{Helper, Scratch, eventually};
use core::fmt::Write as _;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

/// What the gateway is beside its ports.
const TABLES: &str = r#"
[[route]]
to = "0.0.0.0/0"
via = "10.9.0.2"
port = "exit"
[socks5]
listen = ["10.1.0.1:1080"]
[http]
listen = ["10.1.0.1:8080"]
[convert]
listen = ["10.1.0.1:1234"]
[egress]
allow = ["10.9.0.0/24"]
"#;

const DPDK: &str = r#"[driver]
kind = "dpdk"
eal = ["--in-memory", "--no-pci", "--no-telemetry", "--vdev=net_af_packet0,iface=gw0", "--vdev=net_af_packet1,iface=gw1", "--vdev=net_af_packet2,iface=gw2"]
hugepages = "off"
memory_mb = 256
"#;

/// Nothing here is IPv6. An address of its own that an interface gets a second later has Chromium begin anew with
/// every connection, and give up those it is just opening.
const WITHOUT_IPV6: &str = "for i in all default; do
echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6
done";

/// The interfaces of DPDK's ports, with their checksums computed, and the kernel behind them.
const BEHIND_DPDK: &str = "for i in 0 1 2; do
ip link add gw$i type veth peer name far$i
ethtool -K far$i tx off tso off gso off gro off >/dev/null
ip link set gw$i up
ip link set far$i up
done
ip link set lo up
ip addr add 10.1.0.2/24 dev far0
ip addr add 10.2.0.2/24 dev far1
ip addr add 10.9.0.2/24 dev far2
ip mptcp limits set subflow 8 add_addr_accepted 8
ip mptcp endpoint add 10.2.0.2 dev far1 subflow
ip rule add from 10.2.0.2 table 102
ip route add default via 10.2.0.1 dev far1 table 102";

/// The origin's address where nothing else is.
const ORIGIN: [&str; 3] = [
    "ip link set lo up",
    "ip addr add 10.9.0.2/32 dev lo",
    "ip route add 10.9.0.1/32 dev texit src 10.9.0.2",
];

/// What gives the kernel its addresses on TUN devices.
const BEHIND_TUN: [&str; 3] =
    ["ip link set lo up", "ip addr add 10.1.0.2/24 dev tlte", "ip addr add 10.9.0.2/24 dev texit"];

/// The second access of clients, from which their MPTCP joins.
const BEHIND_WIFI: [&str; 5] = [
    "ip addr add 10.2.0.2/24 dev twifi",
    "ip rule add from 10.2.0.2 table 102",
    "ip route add default dev twifi table 102",
    "ip mptcp limits set subflows 4 add_addr_accepted 0",
    "ip mptcp endpoint add 10.2.0.2 dev twifi subflow",
];

fn port(name: &str, device: &str, net: u8) -> String {
    let address = format!("10.{net}.0.1/24");
    format!("[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\naddresses = [\"{address}\"]\n")
}

/// A bed before it starts.
pub(crate) struct Setup {
    name: String,
    needs: Vec<&'static str>,
    config: String,
    settings: Vec<String>,
    /// The kernel's devices of `lte` and `wifi`.
    accesses: [&'static str; 2],
    /// Shell lines in the namespace before the gateway starts.
    before: &'static str,
    /// Commands in the namespace once it is ready.
    after: Vec<String>,
}

impl Setup {
    /// A gateway on TUN devices with a directory called `name`.
    pub(crate) fn tun(name: &str) -> Self {
        let ports = port("lte", "tlte", 1) + &port("exit", "texit", 9);
        Self {
            name: name.to_owned(),
            needs: vec!["unshare", "nsenter", "ip", "curl", "python3", "/dev/net/tun"],
            config: format!("[driver]\nkind = \"tun\"\n{ports}{TABLES}"),
            settings: Vec::new(),
            accesses: ["tlte", "twifi"],
            before: "",
            after: BEHIND_TUN.map(str::to_owned).to_vec(),
        }
    }

    /// One on DPDK's ports over packet sockets, with both accesses.
    pub(crate) fn dpdk(name: &str) -> Self {
        let ports = [("lte", 1), ("wifi", 2), ("exit", 9)].into_iter().enumerate();
        let ports: String =
            ports.map(|(i, (name, net))| port(name, &format!("net_af_packet{i}"), net)).collect();
        Self {
            name: name.to_owned(),
            needs: vec!["unshare", "nsenter", "ip", "ethtool", "python3"],
            config: format!("{DPDK}{ports}{TABLES}"),
            settings: Vec::new(),
            accesses: ["far0", "far1"],
            before: BEHIND_DPDK,
            after: Vec::new(),
        }
    }

    /// Skipped without this program, too.
    pub(crate) fn needs(mut self, program: &'static str) -> Self {
        self.needs.push(program);
        self
    }

    /// A second access on TUN, and a client's MPTCP that joins from there.
    pub(crate) fn wifi(mut self) -> Self {
        let exit = "[[port]]\nname = \"exit\"";
        self.config = self.config.replacen(exit, &(port("wifi", "twifi", 2) + exit), 1);
        self.commands(&BEHIND_WIFI)
    }

    /// Clients are in a namespace of their own, which has the gateway for its router: here is the origin alone.
    pub(crate) fn transparent(mut self) -> Self {
        let exit = "[[port]]\nname = \"exit\"";
        self.config = self.config.replacen(exit, &(port("wifi", "twifi", 2) + exit), 1);
        let served = self.config.split("[socks5]").next().unwrap_or_default();
        self.config = format!(
            "{served}[transparent]\nports = [\"lte\", \"wifi\"]\n[egress]\nallow = [\"10.9.0.0/24\"]\n"
        );
        self.after = ORIGIN.map(str::to_owned).to_vec();
        self.needs("ss")
    }

    /// So many queues on each of DPDK's ports.
    pub(crate) fn queues(mut self, count: u32) -> Self {
        self.config = self.config.replace("iface=gw", &format!("qpairs={count},iface=gw"));
        let queues = (0..3).map(|port| format!("port.{port}.queues={count}"));
        self.settings.extend(queues);
        self
    }

    /// A value of the configuration, as `--set` takes it.
    pub(crate) fn set(mut self, setting: impl Into<String>) -> Self {
        self.settings.push(setting.into());
        self
    }

    /// Tables behind those that every bed has.
    pub(crate) fn tables(mut self, text: &str) -> Self {
        let _ = writeln!(self.config, "{text}");
        self
    }

    /// Commands in the namespace once the gateway is ready.
    pub(crate) fn commands(mut self, commands: &[&str]) -> Self {
        self.after.extend(commands.iter().map(|&command| command.to_owned()));
        self
    }

    /// Starts the bed; `None` when the test is to be skipped, which has been said.
    pub(crate) fn start(self) -> Option<Bed> {
        let after = self.after.clone();
        let bed = self.launch()?;
        bed.gateway.wait_until_ready();
        for command in &after {
            bed.said(command);
        }
        Some(bed)
    }

    /// Starts a gateway that is to end by itself: exit code and log.
    pub(crate) fn fail(self) -> Option<(Option<i32>, String)> {
        Some(self.launch()?.gateway.end())
    }

    fn launch(self) -> Option<Bed> {
        if !is_root_with(&self.needs) || !has_driver(&self.config) {
            return None;
        }
        let scratch = Scratch::new(&self.name);
        let config = scratch.file("gw.toml", &self.config);
        let admin = format!("admin.listen=['unix:{}']", scratch.path("admin.sock"));
        let settings = [vec![admin], self.settings].concat();
        let log = scratch.path("gw.log");
        let before = format!("{WITHOUT_IPV6}\n{}", self.before);
        let gateway = Gateway::start(&before, &config, &settings, log);
        Some(Bed { helpers: Vec::new(), gateway, scratch, accesses: self.accesses })
    }
}

/// True when the program has the driver that the configuration asks for; it is said when not.
fn has_driver(config: &str) -> bool {
    let version = Command::new(env!("CARGO_BIN_EXE_proxy-gw")).arg("--version").output();
    let version = version.expect("it runs").stdout;
    if !config.contains("kind = \"dpdk\"")
        || String::from_utf8_lossy(&version).contains("tun, dpdk")
    {
        return true;
    }
    skip("built without libdpdk");
    false
}

/// A running gateway with what is beside it.
pub(crate) struct Bed {
    helpers: Vec<Helper>,
    gateway: Gateway,
    pub(crate) scratch: Scratch,
    /// The kernel's devices of `lte` and `wifi`.
    pub(crate) accesses: [&'static str; 2],
}

impl Bed {
    /// A command in the namespace.
    pub(crate) fn inside(&self, line: &str) -> Command {
        self.gateway.inside(line)
    }

    /// Runs a command in the namespace, whatever comes of it.
    pub(crate) fn run(&self, line: &str) -> Output {
        self.inside(line).output().expect("nsenter runs")
    }

    /// The CPUs that the gateway's thread of this name may run on.
    pub(crate) fn cpus_of(&self, thread: &str) -> String {
        self.gateway.cpus_of(thread)
    }

    /// The kernel's sockets hold 64 KiB at most that nobody has read: a slow reader's download cannot end in them.
    pub(crate) fn small_windows(&self) {
        let mut command = self.inside("sysctl -q -w");
        let done = command.arg("net.ipv4.tcp_rmem=4096 65536 65536").status();
        assert!(done.expect("sysctl runs").success());
    }

    /// Runs a command in the namespace that must succeed: what it printed.
    pub(crate) fn said(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs curl, with `proxy` to say by which way.
    pub(crate) fn curl(&self, proxy: &str, arguments: &str) -> Output {
        self.run(&format!("curl -q -sS --noproxy x -m 50 {proxy} {arguments}"))
    }

    /// Starts a program in the namespace that runs as long as the bed, and waits until it has said `sign`.
    pub(crate) fn serve(&mut self, line: &str, sign: &str) {
        let helper = Helper::serving(self.inside(line), sign);
        self.helpers.push(helper);
    }

    /// Serves the files of the bed's directory by HTTP at port 8000 of every address.
    pub(crate) fn serve_files(&mut self) {
        let dir = self.scratch.dir().display();
        let line = format!("python3 -u -m http.server --directory {dir} 8000");
        self.serve(&line, "Serving");
    }

    /// A name server at 10.9.0.2 that knows these records, as unbound's `local-data` has them.
    pub(crate) fn serve_names(&mut self, records: &[String]) {
        let mut config = "server:\n chroot: \"\"\n username: \"\"\n pidfile: \"\"\n do-daemonize: no\n \
             use-syslog: no\n verbosity: 1\n interface: 10.9.0.2\n access-control: 10.9.0.0/24 allow\n \
             local-zone: \"plait.test.\" static\n"
            .to_owned();
        for record in records {
            let _ = writeln!(config, " local-data: \"{record}\"");
        }
        config.push_str("remote-control:\n control-enable: no\n");
        let file = self.scratch.file("unbound.conf", &config);
        self.serve(&format!("unbound -d -c {file}"), "start of service");
    }

    /// Asks the admin endpoint.
    pub(crate) fn get(&self, target: &str) -> String {
        let mut stream =
            UnixStream::connect(self.scratch.path("admin.sock")).expect("the admin endpoint");
        write!(stream, "GET {target} HTTP/1.0\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// The sum of a metric's values: of all whose line begins with `name`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let metrics = self.get("/metrics");
        let mut lines = metrics.lines().filter(|line| line.starts_with(name)).peekable();
        assert!(lines.peek().is_some(), "no {name}: {metrics}");
        let value = |line: &str| -> Option<u64> { line.rsplit(' ').next()?.parse().ok() };
        lines.map(|line| value(line).expect("a number")).sum()
    }

    pub(crate) fn terminate(&self) {
        self.gateway.signal(Signal::TERM);
    }

    /// Has the gateway read this configuration; what it says about that, up to the line that ends with `last`.
    /// Lines of sessions that end meanwhile come before it and behind it.
    pub(crate) fn hang_up(&self, config: &str, last: &str) -> String {
        let before = self.gateway.log().len();
        self.scratch.file("gw.toml", config);
        self.gateway.signal(Signal::HUP);
        eventually(last, || {
            let said = self.gateway.log().split_off(before);
            let end = said.find(&format!("{last}\n"))? + last.len() + 1;
            Some(said[..end].to_owned())
        })
    }

    /// What the gateway was started with.
    pub(crate) fn config(&self) -> String {
        std::fs::read_to_string(self.scratch.path("gw.toml")).expect("its configuration")
    }

    /// Waits for the gateway's end: exit code and log.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        self.gateway.end()
    }

    /// Drains the gateway, which nothing holds up; gives its log.
    pub(crate) fn finish(mut self) -> String {
        self.terminate();
        let (code, log) = self.end();
        assert_eq!(code, Some(0), "{log}");
        log
    }
}
