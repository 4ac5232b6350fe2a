//! The network: a client with two emulated links to a server.
//!
//! ```text
//!   client  wlan0 10.61.1.2 ═══ link a ═══ 10.61.1.1 x0  server ── lo   10.61.9.1  the kernel
//!           lte0  10.61.2.2 ═══ link b ═══ 10.61.2.1 x1         └─ tun0 10.61.8.1  our stack
//! ```
//!
//! Both senders are behind the same links; packets of ours are forwarded by the server's kernel.

use crate::scenario::Link;
use core::net::Ipv4Addr;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plait_bench::netns::{Namespace, run};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The client's addresses, one per link.
pub(crate) const CLIENT: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 61, 1, 2), Ipv4Addr::new(10, 61, 2, 2)];
/// Where the kernel's sender listens, and ours.
pub(crate) const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 61, 9, 1);
pub(crate) const OURS: Ipv4Addr = Ipv4Addr::new(10, 61, 8, 1);
/// The server's kernel, as our stack's TUN device sees it.
pub(crate) const TUN_KERNEL: &str = "10.61.8.254/24";

/// The two namespaces and the links between them.
#[derive(Debug)]
pub(crate) struct Bed {
    links: Links,
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
}

impl Bed {
    /// `links`: a and b. `recv_max`: the client's largest receive buffer, in octets.
    pub(crate) fn create(links: [Link; 2], recv_max: u32, seed: u64) -> Result<Self, String> {
        let client = Namespace::create("client")?;
        let server = Namespace::create("server")?;
        for setting in ["all.rp_filter=0", "default.rp_filter=0", "all.forwarding=1"] {
            let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
            server.sysctl(&format!("net.ipv4.conf.{name}"), value)?;
        }
        let links = Links::start(&client, &server, links, seed)?;
        for (path, device, address) in [(1, "wlan0", CLIENT[0]), (2, "lte0", CLIENT[1])] {
            let gateway = format!("via 10.61.{path}.1 dev {device}");
            client.ip(&format!("rule add from {address} table {path}"))?;
            client.ip(&format!("route add default {gateway} table {path}"))?;
            client.ip(&format!("route add default {gateway} metric {path}"))?;
            // On an access link nobody asks for the next hop's address across the whole path.
            let far = format!("x{}", path - 1);
            let (near_mac, far_mac) =
                (format!("02:00:00:00:0{path}:02"), format!("02:00:00:00:0{path}:01"));
            client.ip(&format!("link set dev {device} address {near_mac}"))?;
            server.ip(&format!("link set dev {far} address {far_mac}"))?;
            let neighbour = "nud permanent lladdr";
            client.ip(&format!("neigh add 10.61.{path}.1 dev {device} {neighbour} {far_mac}"))?;
            server.ip(&format!("neigh add {address} dev {far} {neighbour} {near_mac}"))?;
        }
        server.ip(&format!("addr add {KERNEL}/32 dev lo"))?;
        client.ip("mptcp limits set subflows 2 add_addr_accepted 0")?;
        client.ip(&format!("mptcp endpoint add {} dev lte0 subflow", CLIENT[1]))?;
        server.ip("mptcp limits set subflows 2 add_addr_accepted 0")?;
        let initial = recv_max.min(131_072);
        client.sysctl("net.ipv4.tcp_rmem", &format!("4096 {initial} {recv_max}"))?;
        server.sysctl("net.ipv4.tcp_wmem", "4096 65536 33554432")?;
        Ok(Self { links, client, server })
    }

    /// Lets link a swallow everything both ways, telling nobody.
    pub(crate) fn cut_link_a(&self) -> Result<(), String> {
        self.links.control("set a blackhole=1")
    }
}

/// The emulator process, ended on drop.
#[derive(Debug)]
struct Links {
    emulator: PathBuf,
    socket: PathBuf,
    process: Child,
}

impl Links {
    fn start(
        client: &Namespace,
        server: &Namespace,
        links: [Link; 2],
        seed: u64,
    ) -> Result<Self, String> {
        let emulator = sibling("netsim-live")?;
        let socket = std::env::temp_dir().join(format!("plait-paths-{}.sock", std::process::id()));
        let mut command = Command::new("chrt");
        // A link that waits for a CPU has another rate and delay.
        command.args(["--fifo", "10", "setpriv", "--pdeathsig", "KILL"]).arg(&emulator);
        command.args(["run", "--seed", &seed.to_string(), "--control"]).arg(&socket);
        for ((name, device, path), link) in [("a", "wlan0", 1), ("b", "lte0", 2)].iter().zip(links)
        {
            let (client, server, far) = (client.name(), server.name(), path - 1);
            let (ours, theirs) = (CLIENT[path - 1], format!("10.61.{path}.1"));
            command.arg("--link").arg(format!(
                "{name} a={client}:{device} b={server}:x{far} a.addr={ours}/24 \
                 b.addr={theirs}/24 {}",
                link.words()
            ));
        }
        // Ctrl-C is ours to answer.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let process = command.spawn();
        let process =
            process.map_err(|error| format!("starting {}: {error}", emulator.display()))?;
        let mut links = Self { emulator, socket, process };
        let stdout = links.process.stdout.take().ok_or("no pipe from the emulator")?;
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        if read.is_err() || line.trim() != "ready" {
            return Err("the link emulator did not start; its complaint is above".to_owned());
        }
        Ok(links)
    }

    fn control(&self, words: &str) -> Result<(), String> {
        let mut args = vec!["ctl", self.socket.to_str().ok_or("a path that is no text")?];
        args.extend(words.split(' '));
        run(self.emulator.to_str().ok_or("a path that is no text")?, &args)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            // Not waited for yet: the id is its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.process.wait();
    }
}

/// A program built beside this one.
fn sibling(name: &str) -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    let path = this.parent().unwrap_or(Path::new(".")).join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(format!("{} is missing: make build", path.display()))
}
