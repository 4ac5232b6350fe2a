//! The network: a client with two paths to a gateway, and a server behind it.
//!
//! ```text
//!   client  a0 10.62.1.2 ──── g-a 10.62.1.1  gateway  g-exit 10.62.9.1 ──── x0 10.62.9.2  server
//!           b0 10.62.2.2 ──── g-b 10.62.2.1
//! ```
//!
//! The cables are veth pairs, and nothing is emulated. What arrives at the gateway is taken in on its own
//! CPU, what arrives elsewhere on the other ones: all the gateway's work, and only that, is on its CPU. But for
//! devices with an XDP program or with GRO: NAPI runs on the sender's CPU, and RPS comes behind it.

use crate::cpus::Cpus;
use core::net::Ipv4Addr;
use plait_bench::netns::{Namespace, run};

pub(crate) const CLIENT: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 62, 1, 2), Ipv4Addr::new(10, 62, 2, 2)];
pub(crate) const GATEWAY: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 62, 1, 1), Ipv4Addr::new(10, 62, 2, 1)];
pub(crate) const EXIT: Ipv4Addr = Ipv4Addr::new(10, 62, 9, 1);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 62, 9, 2);
/// The server's address where nothing but a bridge is between it and the client.
pub(crate) const SERVER_BRIDGED: Ipv4Addr = Ipv4Addr::new(10, 62, 1, 9);
/// The gateway's devices: two accesses and the exit.
pub(crate) const DEVICES: [&str; 3] = ["g-a", "g-b", "g-exit"];

/// Linux's default; ours is what the machine is set to use, and a namespace cannot change that.
const CONGESTION: &str = "congctl cubic";

/// Who holds the gateway's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    /// The gateway's kernel.
    Kernel,
    /// A stack of ours on the devices.
    Devices,
    /// A stack of ours on TUN devices, to which the gateway's kernel forwards.
    Tun,
    /// Nobody: the first access and the exit are one network.
    Bridge,
}

/// How packets travel the cables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Frames {
    /// One by one everywhere, checksums summed in software.
    Single,
    /// One by one on the cables; the gateway's kernel joins what it receives and splits what it sends.
    Joined,
}

/// The three namespaces.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) client: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) server: Namespace,
}

impl Bed {
    pub(crate) fn create(holder: Holder, frames: Frames, cpus: &Cpus) -> Result<Self, String> {
        let bed = Self {
            client: Namespace::create("client")?,
            gateway: Namespace::create("gateway")?,
            server: Namespace::create("server")?,
        };
        bed.settings(holder)?;
        for cable in 0..3 {
            bed.lay(cable, holder, frames, cpus)?;
        }
        bed.two_paths(holder)?;
        Ok(bed)
    }

    fn settings(&self, holder: Holder) -> Result<(), String> {
        let forward = u8::from(matches!(holder, Holder::Kernel));
        for (namespace, forward) in [(&self.client, 0), (&self.gateway, forward), (&self.server, 0)]
        {
            let forward = format!("net.ipv4.ip_forward={forward}");
            let settings = [
                // First: it sets others to their defaults.
                &forward,
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
                "net.ipv6.conf.all.disable_ipv6=1",
                "net.ipv6.conf.default.disable_ipv6=1",
                "net.ipv4.ip_local_port_range=1100 65000",
                "net.ipv4.tcp_tw_reuse=1",
            ];
            let mut words = vec!["netns", "exec", namespace.name(), "sysctl", "-qw"];
            words.extend(settings);
            run("ip", &words)?;
        }
        Ok(())
    }

    /// Cable 0 and 1 are the accesses, 2 is the exit.
    fn lay(&self, cable: usize, holder: Holder, frames: Frames, cpus: &Cpus) -> Result<(), String> {
        let near = DEVICES[cable];
        let (far, device, address, gateway) = match cable {
            2 => (&self.server, "x0", SERVER, EXIT),
            access => (&self.client, ["a0", "b0"][access], CLIENT[access], GATEWAY[access]),
        };
        self.gateway.ip(&format!(
            "link add {near} address {} numrxqueues 1 numtxqueues 1 type veth peer name {device} \
             address {} numrxqueues 1 numtxqueues 1 netns {}",
            near_mac(cable),
            far_mac(cable),
            far.name()
        ))?;
        // Bulk traffic is not lost for want of a place while one CPU serves several parties.
        self.gateway.ip(&format!("link set {near} txqueuelen 10000"))?;
        let joined = if frames == Frames::Joined { "on" } else { "off" };
        offloads(&self.gateway, near, joined)?;
        offloads(far, device, "off")?;
        far.ip(&format!("addr add {address}/24 dev {device}"))?;
        far.ip(&format!("link set {device} up"))?;
        self.gateway.ip(&format!("link set {near} up"))?;
        receive_on(&self.gateway, near, cpus.gateway_mask())?;
        receive_on(far, device, cpus.load_mask())?;
        let net = network(address);
        far.ip(&format!("route replace {net} dev {device} src {address} {CONGESTION}"))?;
        if holder == Holder::Kernel {
            self.gateway.ip(&format!("addr add {gateway}/24 dev {near}"))?;
            self.gateway
                .ip(&format!("route replace {net} dev {near} src {gateway} {CONGESTION}"))?;
        }
        if holder == Holder::Bridge {
            return if cable == 2 { self.bridge() } else { Ok(()) };
        }
        // Nobody needs to ask for the other end in the middle of a run.
        let near_at = format!("{gateway} lladdr {} dev {device} nud permanent", near_mac(cable));
        far.ip(&format!("neigh replace {near_at}"))
    }

    fn bridge(&self) -> Result<(), String> {
        self.server.ip(&format!("addr add {SERVER_BRIDGED}/24 dev x0"))?;
        let net = network(SERVER_BRIDGED);
        self.server.ip(&format!("route replace {net} dev x0 src {SERVER_BRIDGED} {CONGESTION}"))
    }

    /// The client's second subflow leaves by its second device and reaches the same address.
    fn two_paths(&self, holder: Holder) -> Result<(), String> {
        if holder == Holder::Bridge {
            return Ok(());
        }
        for (path, device) in [(0, "a0"), (1, "b0")] {
            let (own, gateway, table) = (CLIENT[path], GATEWAY[path], path + 1);
            self.client.ip(&format!("rule add from {own} table {table}"))?;
            self.client.ip(&format!(
                "route add default via {gateway} dev {device} table {table} {CONGESTION}"
            ))?;
        }
        let (own, gateway) = (CLIENT[0], GATEWAY[0]);
        self.client
            .ip(&format!("route add default via {gateway} dev a0 src {own} {CONGESTION}"))?;
        self.client.ip("mptcp limits set subflows 2 add_addr_accepted 0")?;
        self.client.ip(&format!("mptcp endpoint add {} dev b0 subflow", CLIENT[1]))?;
        self.gateway.ip("mptcp limits set subflows 2 add_addr_accepted 0")?;
        self.server.ip(&format!("route add default via {EXIT} {CONGESTION}"))
    }

    /// For TUN devices, once they exist: the gateway's kernel passes packets between each cable and the
    /// device of the same port.
    pub(crate) fn forward_to_tun(&self) -> Result<(), String> {
        self.gateway.sysctl("net.ipv4.ip_forward", "1")?;
        for (cable, near) in DEVICES.into_iter().enumerate() {
            let (tun, far) = (tun_device(near), [CLIENT[0], CLIENT[1], SERVER][cable]);
            let (inward, outward) = (210 + cable, 220 + cable);
            for line in [
                format!("link set {tun} txqueuelen 8192"),
                format!("neigh replace {far} lladdr {} dev {near} nud permanent", far_mac(cable)),
                format!("rule add iif {near} table {inward}"),
                format!("route add default dev {tun} table {inward}"),
                format!("rule add iif {tun} table {outward}"),
                // Without an address of its own the kernel takes a next hop only if it finds a route.
                format!("route add {far}/32 dev {near}"),
                format!("route add default via {far} dev {near} table {outward}"),
            ] {
                self.gateway.ip(&line)?;
            }
        }
        Ok(())
    }

    /// How often a second subflow was made so far, as the client's kernel counts.
    pub(crate) fn joins(&self) -> Result<u64, String> {
        let read = || std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap_or_default();
        Ok(counter(&self.client.enter(read)?, "MPTcpExt:", "MPJoinSynAckRx"))
    }
}

/// The TUN device of the port on a cable.
pub(crate) fn tun_device(near: &str) -> String {
    near.replace("g-", "tun-")
}

fn near_mac(cable: usize) -> String {
    format!("02:62:00:00:{cable:02x}:01")
}

fn far_mac(cable: usize) -> String {
    format!("02:62:00:00:{cable:02x}:fe")
}

fn network(address: Ipv4Addr) -> String {
    let [a, b, c, _] = address.octets();
    format!("{a}.{b}.{c}.0/24")
}

fn offloads(namespace: &Namespace, device: &str, on: &str) -> Result<(), String> {
    let mut words = vec!["netns", "exec", namespace.name(), "ethtool", "-K", device];
    words.extend(["tx", on, "tso", on, "gso", on, "gro", on]);
    run("ip", &words)
}

/// Packets that come in on `device` are taken in on the CPUs of `mask`.
fn receive_on(namespace: &Namespace, device: &str, mask: String) -> Result<(), String> {
    let line = format!("echo {mask} > /sys/class/net/{device}/queues/rx-0/rps_cpus");
    run("ip", &["netns", "exec", namespace.name(), "sh", "-c", &line])
}

/// A counter of `/proc/net/netstat`: a line of names and one of values for each group.
fn counter(text: &str, group: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let at = names.split_whitespace().position(|found| found == name);
    let value = at.and_then(|at| values.split_whitespace().nth(at));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_group_and_name() {
        let text = "TcpExt: A B\nTcpExt: 1 2\nMPTcpExt: A B\nMPTcpExt: 3 4\n";
        assert_eq!(counter(text, "MPTcpExt:", "B"), 4);
        assert_eq!(counter(text, "TcpExt:", "A"), 1);
        assert_eq!(counter(text, "MPTcpExt:", "C"), 0);
    }
}
