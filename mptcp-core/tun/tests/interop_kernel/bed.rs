//! The test bed: our stack on one TUN device per path, all of them in a kernel's namespace, and
//! the verdict on counters, packets and what is left behind.
//!
//! Path `p` joins our `10.(p+1).0.1` (`fd00:p+1::1`) to the kernel's `10.(p+1).0.254`
//! (`fd00:p+1::fe`). The kernel routes by source address, so each of its subflows keeps its path.

use crate::judge;
use crate::kernel::{self, Gate, Kernel};
use crate::ours::Ours;
use crate::pattern::Plan;
use crate::tap::{Tap, TappedDevice};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use mptcp_core::buf::PortId;
use mptcp_core::config::{ChecksumPolicy, LocalAddress, StackConfig};
use mptcp_core::stack::{Connect, SocketId};
use mptcp_tun::{RouteTable, TunConfig, TunDevice};
use socket2::Socket;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

/// Our listeners, with MPTCP and without, and the kernel's: ports tshark takes for no protocol.
pub(crate) const MPTCP_PORT: u16 = 20080;
pub(crate) const TCP_PORT: u16 = 20081;
const KERNEL_PORT: u16 = 20082;

/// What does not come within this time never comes.
const PATIENCE: Duration = Duration::from_secs(40);

/// Counters of the kernel that say nothing bad, or are judged where a test is about them.
const KERNEL_BENIGN: &[&str] = &[
    "MPCapableSYNRX",
    "MPCapableSYNTX",
    "MPCapableSYNACKRX",
    "MPCapableACKRX",
    "MPCapableEndpAttempt",
    "MPTCPRetrans",
    "OFOQueueTail",
    "OFOQueue",
    "OFOMerge",
    "DuplicateData",
    "AddAddr",
    "AddAddrTx",
    "EchoAdd",
    "EchoAddTx",
    "SubflowStale",
    "SubflowRecover",
    "SndWndShared",
    "RcvWndShared",
    "RcvWndConflictUpdate",
    "RcvWndConflict",
    "MPCurrEstab",
    "WinProbe",
    "MPJoinSynTx",
];
/// Counters of the kernel's TCP that must be zero like those of its MPTCP.
const KERNEL_TCP: &[&str] = &["InErrs", "InCsumErrors", "AttemptFails", "TCPBacklogDrop"];

/// The same for ours.
const OURS_BENIGN: &[&str] = &[
    "in_segs",
    "out_segs",
    "retrans_segs",
    "mptcp_penalised",
    "tcp_timeouts",
    "tcp_loss_probes",
    "tcp_loss_probe_recovery",
    "tcp_sack_recovery",
    "tcp_undo",
    "tcp_dsack_recv",
    "tcp_dsack_sent",
    "tcp_win_probe",
    "tcp_ofo_queue",
    "tcp_rcv_coalesce",
    "tcp_tw",
    "active_opens",
    "passive_opens",
    "tx_no_buffer",
    "mp_capable_syn_rx",
    "mp_capable_syn_tx",
    "mp_capable_syn_ack_rx",
    "mp_capable_ack_rx",
    "mptcp_retrans",
    "mp_join_syn_tx",
    "ofo_queue",
    "duplicate_data",
    "add_addr",
    "add_addr_tx",
    "echo_add",
    "echo_add_tx",
    "subflow_stale",
    "subflow_recover",
    "path_down",
    "path_up",
    "path_probe",
    "mp_curr_estab",
    "win_probe",
    // Router solicitations and reports of the kernel's IPv6; packets of either end that crossed.
    "drop_not_ours",
    "drop_protocol",
    "drop_duplicate",
    "drop_time_wait",
];

/// Who asks for DSS checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Checksum {
    Nobody,
    Kernel,
    Ours,
}

/// How a bed is laid out.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) v6: bool,
    pub(crate) checksum: Checksum,
    pub(crate) paths: u8,
    /// We announce our further addresses as a server and join from them as a client.
    pub(crate) our_endpoints: bool,
    /// Flags of the kernel's endpoints on the paths after the first; empty for none.
    pub(crate) kernel_endpoints: &'static str,
    /// Announced addresses the kernel connects to.
    pub(crate) kernel_accepts: u8,
    pub(crate) judged: bool,
    /// tshark judges what crossed the devices first.
    pub(crate) captured: bool,
    pub(crate) configure: fn(&mut StackConfig),
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            v6: false,
            checksum: Checksum::Nobody,
            paths: 2,
            our_endpoints: false,
            kernel_endpoints: "",
            kernel_accepts: 0,
            judged: true,
            captured: false,
            configure: |_| {},
        }
    }
}

impl Setup {
    pub(crate) fn ours(&self, path: u8) -> IpAddr {
        self.addr(path, 1)
    }

    pub(crate) fn kernels(&self, path: u8) -> IpAddr {
        self.addr(path, 0xfe)
    }

    fn addr(&self, path: u8, host: u8) -> IpAddr {
        if self.v6 {
            IpAddr::from([0xfd00, u16::from(path) + 1, 0, 0, 0, 0, 0, u16::from(host)])
        } else {
            IpAddr::from([10, path + 1, 0, host])
        }
    }
}

/// A running bed.
pub(crate) struct Bed {
    pub(crate) setup: Setup,
    pub(crate) kernel: Kernel,
    pub(crate) tap: Arc<Tap>,
    pub(crate) ours: Ours,
}

impl Bed {
    pub(crate) fn new(setup: &Setup) -> Self {
        let kernel = Kernel::new();
        let tap = Tap::new(usize::from(setup.paths), setup.judged);
        let devices = (0..setup.paths).map(|path| device(setup, &kernel, path, &tap)).collect();
        prepare_kernel(setup, &kernel);
        let prefix_len = if setup.v6 { 64 } else { 24 };
        let routes: Vec<_> = (0..setup.paths)
            .map(|path| {
                let net = format!("{}/{prefix_len}", setup.ours(path)).parse().expect("a prefix");
                (net, PortId(path))
            })
            .collect();
        let mut config = StackConfig { seed: [7; 32], ..StackConfig::default() };
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut config.seed))
            .expect("random octets");
        let local = |path| LocalAddress {
            addr: setup.ours(path),
            port: PortId(path),
            mtu: 1500,
            endpoint: path == 0 || setup.our_endpoints,
            backup: false,
        };
        config.addresses = (0..setup.paths).map(local).collect();
        // What ends here ends for good; the tables are seen to empty.
        config.tcp.time_wait = Duration::from_secs(1);
        if setup.checksum == Checksum::Ours {
            config.mptcp.checksum = ChecksumPolicy::Require;
        }
        (setup.configure)(&mut config);
        let listen: Vec<_> = (0..setup.paths)
            .flat_map(|path| {
                let addr = setup.ours(path);
                [
                    (SocketAddr::new(addr, MPTCP_PORT), true),
                    (SocketAddr::new(addr, TCP_PORT), false),
                ]
            })
            .collect();
        let ours = Ours::start(devices, config, RouteTable::new(&routes), &listen);
        Self { setup: setup.clone(), kernel, tap, ours }
    }

    /// A socket of the kernel connected to our server over the first path.
    pub(crate) fn kernel_socket(&self, mptcp: bool) -> Socket {
        let remote = SocketAddr::new(self.setup.ours(0), MPTCP_PORT);
        self.kernel.connect(SocketAddr::new(self.setup.kernels(0), 0), remote, mptcp)
    }

    /// The same to another port, where it may fail.
    pub(crate) fn try_kernel_socket(&self, port: u16) -> std::io::Result<Socket> {
        let remote = SocketAddr::new(self.setup.ours(0), port);
        self.kernel.try_connect(SocketAddr::new(self.setup.kernels(0), 0), remote, true)
    }

    /// A server of the kernel for `count` connections.
    pub(crate) fn kernel_server(
        &self,
        mptcp: bool,
        count: usize,
        gate: &Gate,
    ) -> std::thread::JoinHandle<Vec<kernel::Outcome>> {
        let any = if self.setup.v6 { IpAddr::from([0_u16; 8]) } else { IpAddr::from([0; 4]) };
        let listener = self.kernel.listen(SocketAddr::new(any, KERNEL_PORT), mptcp);
        kernel::server(listener, count, gate)
    }

    /// A session of ours to the kernel's server over the first path.
    pub(crate) fn connect(&self, mptcp: bool, plan: Plan) -> SocketId {
        let with = Connect {
            local: self.setup.ours(0),
            local_port: 0,
            remote: SocketAddr::new(self.setup.kernels(0), KERNEL_PORT),
            mptcp,
            timeout: None,
            user_data: 0,
        };
        self.ours.with(move |app, now| app.connect(now, &with, plan))
    }

    /// One whole transfer in either role that must succeed on both sides.
    pub(crate) fn transfer(&self, role: Role, mptcp: bool, plan: Plan) {
        let running = self.begin(role, mptcp, plan, &Gate::at(u64::MAX));
        self.complete(running);
    }

    /// Starts a transfer whose kernel side waits at `gate`.
    pub(crate) fn begin(&self, role: Role, mptcp: bool, plan: Plan, gate: &Gate) -> Running {
        match role {
            Role::OurServer => {
                Running::Client(kernel::client(self.kernel_socket(mptcp), plan, gate))
            }
            Role::OurClient => {
                let server = self.kernel_server(mptcp, 1, gate);
                self.connect(mptcp, plan);
                Running::Server(server)
            }
        }
    }

    /// A transfer of `plan` that both ends hold at `hold` until `meanwhile` is done.
    pub(crate) fn held_transfer(
        &self,
        role: Role,
        plan: Plan,
        hold: u64,
        meanwhile: impl FnOnce(&Self),
    ) -> mptcp_core::stack::ConnectionInfo {
        let gate = Gate::at(hold);
        self.ours.with(move |app, _| app.gate = hold);
        let running = self.begin(role, true, plan, &gate);
        self.wait("the first part arrives", |bed| {
            let expected = hold.min(if role == Role::OurServer { plan.up } else { plan.down });
            bed.ours.with(|app, _| app.received()) == expected
        });
        meanwhile(self);
        gate.open_to(u64::MAX);
        self.ours.with(|app, now| app.open_gate(now, u64::MAX));
        self.complete(running)
    }

    /// Waits for a transfer's end, which must be a success on both sides; gives our report.
    pub(crate) fn complete(&self, running: Running) -> mptcp_core::stack::ConnectionInfo {
        for outcome in running.join() {
            assert!(outcome.complete, "the kernel's side: {outcome:?}\n{}", self.describe());
        }
        self.wait("our session ends", |bed| bed.ours.with(|app, _| !app.done.is_empty()));
        let outcome = self.ours.with(|app, _| app.done.remove(0));
        assert!(outcome.complete && outcome.info.error.is_none(), "our side: {outcome:?}");
        outcome.info
    }

    /// Waits until something holds; what never does fails with the state of both ends.
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !holds(self) {
            assert!(begin.elapsed() < PATIENCE, "never came: {what}\n{}", self.describe());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until our only session has that many established subflows, each confirmed by the peer: the
    /// kernel refuses a join whose third ACK it gets after its own `shutdown`.
    pub(crate) fn wait_subflows(&self, count: usize) {
        self.wait(&format!("{count} subflows"), |bed| {
            let info = bed.ours.with(|app, _| app.info());
            info.is_some_and(|info| {
                let up = |s: &&mptcp_core::stack::SubflowInfo| {
                    s.fully_established && s.state == mptcp_core::tcp::State::Established
                };
                info.subflows.iter().filter(up).count() == count
            })
        });
    }

    /// Octets our stack received over a path.
    pub(crate) fn rx_bytes(&self, path: usize) -> u64 {
        self.tap.paths[path].rx_bytes.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Octets our stack sent over a path.
    pub(crate) fn tx_bytes(&self, path: usize) -> u64 {
        self.tap.paths[path].tx_bytes.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// The value of a counter of the kernel.
    pub(crate) fn kernel_counter(&self, name: &str) -> u64 {
        self.kernel.counters().get(name).copied().unwrap_or(0)
    }

    /// The value of a counter of ours.
    pub(crate) fn our_counter(&self, name: &str) -> u64 {
        self.ours.counters().get(name).copied().unwrap_or(0)
    }

    /// Ends the test: every table empties, no packet broke a rule, and every counter that is not
    /// benign is zero but for what `expected` says, first of the kernel, then of ours: `NAME=2`,
    /// `NAME>=1`, or `NAME?` for any value.
    pub(crate) fn finish(mut self, kernel: &[&str], ours: &[&str]) {
        self.wait("every connection ends", |bed| {
            let occupancy = bed.ours.occupancy();
            (occupancy.connections, occupancy.tcbs, occupancy.requests, occupancy.time_waits)
                == (0, 0, 0, 0)
        });
        assert_eq!(self.ours.occupancy().flows, 0, "{:?}", self.ours.occupancy());
        assert_eq!(self.ours.occupancy().tokens, 0, "{:?}", self.ours.occupancy());
        let mut wrong = check("kernel", &self.kernel.counters(), kernel, |name| {
            let mptcp = name.starts_with("MP")
                || name.starts_with("DSS")
                || MPTCP_EXT.iter().any(|prefix| name.starts_with(prefix));
            (mptcp || KERNEL_TCP.contains(&name)) && !KERNEL_BENIGN.contains(&name)
        });
        wrong.extend(check("ours", &self.ours.counters(), ours, |name| {
            !OURS_BENIGN.contains(&name)
        }));
        assert!(wrong.is_empty(), "{wrong:#?}\n{}", self.describe());
        self.tap.assert_clean();
        if self.setup.captured
            && let Some(capture) = self.tap.take_capture()
        {
            judge::capture(&capture);
        }
        self.ours.stop();
    }

    fn describe(&self) -> String {
        let infos = self.ours.with(|app, _| {
            let sessions = app.sessions();
            let infos: Vec<_> =
                sessions.iter().take(3).filter_map(|id| app.stack.info(*id)).collect();
            format!("{} sessions, {:#?}\ndone: {:?}", sessions.len(), infos, app.done.first())
        });
        format!(
            "ours: {infos}\n{:?}\n{:?}\nkernel (network of thread {}): {:?}",
            self.ours.occupancy(),
            self.ours.counters(),
            self.kernel.host.id,
            self.kernel
                .counters()
                .into_iter()
                .filter(|(name, _)| !KERNEL_NOISE.iter().any(|noise| name.starts_with(noise)))
                .collect::<BTreeMap<_, _>>(),
        )
    }
}

impl Drop for Bed {
    /// What crossed the devices of a test that failed is kept.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(capture) = self.tap.take_capture()
        {
            let path = judge::capture_file();
            match std::fs::write(&path, capture) {
                Ok(()) => eprintln!("packets: {}", path.display()),
                Err(error) => eprintln!("packets: {}: {error}", path.display()),
            }
        }
    }
}

/// Beginnings of the kernel's MPTCP counters that do not start with `MP` or `DSS`.
const MPTCP_EXT: &[&str] = &[
    "InfiniteMap",
    "DataCsumErr",
    "OFO",
    "NoDSS",
    "Duplicate",
    "AddAddr",
    "EchoAdd",
    "PortAdd",
    "Mismatch",
    "RmAddr",
    "RmSubflow",
    "SubflowStale",
    "SubflowRecover",
    "SndWnd",
    "RcvWnd",
    "Blackhole",
    "MD5Sig",
    "DssFallback",
    "SimultConnect",
    "FallbackFailed",
    "WinProbe",
];

/// What only lengthens a failure's text.
const KERNEL_NOISE: &[&str] = &["Icmp", "Ip", "In", "Out", "Frag", "Reasm", "Udp", "Rto", "TCPHP"];

/// The client of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    OurServer,
    OurClient,
}

/// A transfer under way.
pub(crate) enum Running {
    Client(std::thread::JoinHandle<kernel::Outcome>),
    Server(std::thread::JoinHandle<Vec<kernel::Outcome>>),
}

impl Running {
    pub(crate) fn join(self) -> Vec<kernel::Outcome> {
        match self {
            Self::Client(thread) => vec![thread.join().expect("no panic")],
            Self::Server(thread) => thread.join().expect("no panic"),
        }
    }
}

fn device(setup: &Setup, kernel: &Kernel, path: u8, tap: &Arc<Tap>) -> TappedDevice {
    let prefix_len = if setup.v6 { 64 } else { 24 };
    let net = format!("{}/{prefix_len}", setup.kernels(path)).parse().expect("a prefix");
    // The tap and the delay line want packets as they are on a wire.
    let kernel_addresses = vec![net];
    let name = format!("path{path}");
    let config = TunConfig { name, kernel_addresses, mtu: 1500, offload: false };
    let device = kernel.host.run(move || TunDevice::create(&config).expect("a device"));
    TappedDevice::new(device, Arc::clone(tap), usize::from(path))
}

/// Routes by source, limits and endpoints of the kernel's path manager.
fn prepare_kernel(setup: &Setup, kernel: &Kernel) {
    let family = if setup.v6 { "-6" } else { "-4" };
    let mut lines =
        format!("ip mptcp limits set subflow 8 add_addr_accepted {}\n", setup.kernel_accepts);
    for path in 0..setup.paths {
        let (addr, table) = (setup.kernels(path), 100 + u16::from(path));
        if setup.kernel_endpoints.contains("subflow") {
            // Its joins go to our first address by the path of their own. Nothing else may be bent:
            // what we open comes back by the path it came on, which its destination decides.
            lines += &format!(
                "ip {family} route add default dev path{path} table {table}\n\
                 ip {family} rule add from {addr} table {table}\n"
            );
        }
        if path > 0 && !setup.kernel_endpoints.is_empty() {
            let flags = setup.kernel_endpoints;
            lines += &format!("ip mptcp endpoint add {addr} dev path{path} id {path} {flags}\n");
        }
    }
    kernel.commands(&lines);
    kernel.wait_addresses();
    if setup.checksum == Checksum::Kernel {
        kernel.sysctl("net.mptcp.checksum_enabled", "1");
    }
}

/// Compares counters with what a test expects; everything that is `watched` and not named is 0.
fn check(
    whose: &str,
    counters: &BTreeMap<String, u64>,
    expected: &[&str],
    watched: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut named = Vec::new();
    for expectation in expected {
        let at = expectation.find(['=', '>', '?']).expect("NAME=N, NAME>=N or NAME?");
        let (name, rule) = expectation.split_at(at);
        named.push(name);
        let value = counters.get(name).copied().unwrap_or(0);
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let holds = match rule {
            "?" => true,
            rule if rule.starts_with(">=") => value >= number(&rule[2..]),
            rule => value == number(&rule[1..]),
        };
        if !holds {
            wrong.push(format!("{whose}: {name} is {value}, expected {expectation}"));
        }
    }
    for (name, value) in counters {
        if watched(name) && !named.contains(&name.as_str()) {
            wrong.push(format!("{whose}: {name} is {value}, expected 0"));
        }
    }
    wrong
}
