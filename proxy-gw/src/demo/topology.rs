//! The demo's network: five namespaces joined by virtual cables.
//!
//! ```text
//!          lte0 ═ emulated LTE ═══ router ─────── gw-lte
//!   phone                                                 gateway  gw-exit ─── origin
//!          wlan0 ═ emulated Wi-Fi ═ router (NAT) ─ gw-wifi
//! ```
//!
//! Invariant: everything is inside namespaces whose names carry this process's id, and dropping
//! [`Topology`] deletes them and nothing else. The gateway's namespace has no kernel address; with
//! DPDK its kernel does not forward either, with TUN it forwards packets and ends no connection.

use super::process::{Error, Process, in_netns, run, run_with_input};
use core::fmt;
use core::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// The phone's two addresses and the routers in front of them.
pub(super) const PHONE_LTE: Ipv4Addr = Ipv4Addr::new(10, 71, 1, 2);
pub(super) const PHONE_WIFI: Ipv4Addr = Ipv4Addr::new(10, 71, 2, 2);
const ROUTER_LTE: Ipv4Addr = Ipv4Addr::new(10, 71, 1, 1);
const ROUTER_WIFI: Ipv4Addr = Ipv4Addr::new(10, 71, 2, 1);
/// The gateway's address on each access and what stands behind it there.
pub(super) const GATEWAY_LTE: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 1);
pub(super) const GATEWAY_WIFI: Ipv4Addr = Ipv4Addr::new(10, 71, 3, 1);
pub(super) const CORE_LTE: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 254);
pub(super) const CORE_WIFI: Ipv4Addr = Ipv4Addr::new(10, 71, 3, 254);
/// The gateway's exit and the web server.
pub(super) const GATEWAY_EXIT: Ipv4Addr = Ipv4Addr::new(10, 71, 9, 1);
pub(super) const ORIGIN: Ipv4Addr = Ipv4Addr::new(10, 71, 9, 2);

/// One of the phone's two ways to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The phone's default route: the connection starts here.
    Lte,
    /// Joins later, through a NAT.
    Wifi,
}

impl Access {
    pub(super) const BOTH: [Self; 2] = [Self::Lte, Self::Wifi];

    /// The network device in the phone.
    pub(super) const fn phone_device(self) -> &'static str {
        match self {
            Self::Lte => "lte0",
            Self::Wifi => "wlan0",
        }
    }

    /// The gateway's kernel device; with DPDK `net_af_packet` owns its traffic.
    pub(super) const fn gateway_device(self) -> &'static str {
        match self {
            Self::Lte => "gw-lte",
            Self::Wifi => "gw-wifi",
        }
    }

    pub(super) const fn phone_address(self) -> Ipv4Addr {
        match self {
            Self::Lte => PHONE_LTE,
            Self::Wifi => PHONE_WIFI,
        }
    }

    const fn phone_router(self) -> Ipv4Addr {
        match self {
            Self::Lte => ROUTER_LTE,
            Self::Wifi => ROUTER_WIFI,
        }
    }

    pub(super) const fn gateway_address(self) -> Ipv4Addr {
        match self {
            Self::Lte => GATEWAY_LTE,
            Self::Wifi => GATEWAY_WIFI,
        }
    }

    /// The router's address towards the gateway.
    pub(super) const fn core_router(self) -> Ipv4Addr {
        match self {
            Self::Lte => CORE_LTE,
            Self::Wifi => CORE_WIFI,
        }
    }

    /// Routing table of the phone for packets from this access's address.
    const fn phone_table(self) -> u32 {
        match self {
            Self::Lte => 101,
            Self::Wifi => 102,
        }
    }
}

/// The name operators would give the access; the gateway's port has it too.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lte => "lte",
            Self::Wifi => "wifi",
        })
    }
}

/// The gateway's device towards the web server, and the server's own.
pub(super) const EXIT_DEVICE: &str = "gw-exit";
pub(super) const ORIGIN_DEVICE: &str = "eth0";
/// A router's device towards the phone, one end of the emulated link, and the one towards the gateway.
pub(super) const ROUTER_DOWN: &str = "phone";
const ROUTER_UP: &str = "core";

/// A cable between the gateway's namespace and another one.
struct Cable<'a> {
    gateway_device: &'static str,
    gateway_address: Ipv4Addr,
    far: &'a Namespace,
    far_device: &'static str,
    far_address: Ipv4Addr,
    /// Distinguishes the MAC addresses and, with TUN, the routing tables.
    index: u8,
}

impl Cable<'_> {
    fn gateway_mac(&self) -> String {
        format!("02:71:00:00:{:02x}:01", self.index)
    }

    fn far_mac(&self) -> String {
        format!("02:71:00:00:{:02x}:fe", self.index)
    }
}

/// Where `ip netns` keeps its names.
const NETNS_DIR: &str = "/run/netns";

/// One network namespace with a process in it through which its counters can be read.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
    /// `None` only while the namespace is being made or deleted.
    holder: Option<Process>,
}

impl Namespace {
    /// Creates `plait-PID-role`, deleting a leftover of that name: only a dead process of the same
    /// id can have made it.
    pub(super) fn create(role: &str) -> Result<Self, Error> {
        let name = format!("plait-{}-{role}", std::process::id());
        if Path::new(NETNS_DIR).join(&name).exists() {
            run("deleting a leftover namespace", Command::new("ip").args(["netns", "del", &name]))?;
        }
        run("creating a network namespace", Command::new("ip").args(["netns", "add", &name]))?;
        let mut namespace = Self { name, holder: None };
        let mut sleep = in_netns(&namespace.name, "sleep");
        namespace.holder = Some(Process::spawn("sleep", sleep.arg("infinity"))?);
        Ok(namespace)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The text of `/proc/PID/net/FILE` as a process in this namespace sees it.
    pub(super) fn proc_net(&self, file: &str) -> Result<String, Error> {
        let pid = self.holder.as_ref().map_or(0, Process::pid);
        let path = format!("/proc/{pid}/net/{file}");
        std::fs::read_to_string(&path).map_err(Error::in_step(format!("reading {path}")))
    }

    /// Runs `program` to its end in here.
    pub(super) fn run<const N: usize>(
        &self,
        program: &str,
        args: [&str; N],
    ) -> Result<String, Error> {
        run("setting up the network", in_netns(&self.name, program).args(args))
    }

    /// Runs `ip -n NAME` with the words of `line`.
    pub(super) fn ip(&self, line: &str) -> Result<(), Error> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(line.split_whitespace());
        run("setting up the network", &mut command).map(drop)
    }

    fn sysctl(&self, setting: &str) -> Result<(), Error> {
        self.run("sysctl", ["-qw", setting]).map(drop)
    }
}

/// Namespaces of this process that exist; none once [`Topology`] is dropped.
pub(super) fn leftovers() -> Vec<String> {
    let prefix = format!("plait-{}-", std::process::id());
    let entries = std::fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.holder = None;
        let mut delete = Command::new("ip");
        delete.args(["netns", "del", &self.name]);
        if let Err(error) = run("deleting a network namespace", &mut delete) {
            eprintln!("demo: {error}");
        }
    }
}

/// The five namespaces, joined but for the emulated links.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) phone: Namespace,
    lte: Namespace,
    wifi: Namespace,
    pub(super) gateway: Namespace,
    pub(super) origin: Namespace,
}

impl Topology {
    /// Makes the namespaces, routers, cables and the web server's network.
    ///
    /// `nat`: the Wi-Fi router masquerades (needs nft). `offloads_off`: the kernel ends of the
    /// cables compute their checksums themselves (needs ethtool; DPDK cannot work without it).
    pub(super) fn create(nat: bool, offloads_off: bool) -> Result<Self, Error> {
        let topology = Self {
            phone: Namespace::create("phone")?,
            lte: Namespace::create("lte")?,
            wifi: Namespace::create("wifi")?,
            gateway: Namespace::create("gw")?,
            origin: Namespace::create("origin")?,
        };
        topology.silence_gateway_kernel()?;
        for cable in topology.cables() {
            topology.lay(&cable, offloads_off)?;
        }
        for access in Access::BOTH {
            topology.router(access).sysctl("net.ipv4.ip_forward=1")?;
        }
        // The phone reaches the gateway's LTE address over Wi-Fi too: a join goes where the
        // connection went.
        topology.wifi.ip(&format!("route add {GATEWAY_LTE}/32 via {GATEWAY_WIFI}"))?;
        topology.origin.ip(&format!("route add default via {GATEWAY_EXIT}"))?;
        if nat {
            topology.masquerade()?;
        }
        Ok(topology)
    }

    /// Addresses and routes of the phone, once its two links exist.
    pub(super) fn attach_phone(&self) -> Result<(), Error> {
        self.phone.ip("link set lo up")?;
        for access in Access::BOTH {
            let router = access.phone_router();
            self.router(access).ip(&format!("addr add {router}/24 dev {ROUTER_DOWN}"))?;
            self.router(access).ip(&format!("link set {ROUTER_DOWN} up"))?;
            attach(&self.phone, access, access.phone_address(), router)?;
        }
        Ok(())
    }

    /// Lets the phone's kernel open its second subflow over Wi-Fi; fails where it has no MPTCP.
    pub(super) fn enable_mptcp(&self) -> Result<(), Error> {
        enable_mptcp(&self.phone, PHONE_WIFI)
    }

    /// For the TUN driver, once its devices exist: the gateway's kernel passes packets between each
    /// cable and the TUN device of the same port, both ways, and to nothing else.
    ///
    /// `tun_device` names the device of the port on the given cable device.
    pub(super) fn forward_to_tun(&self, tun_device: impl Fn(&str) -> String) -> Result<(), Error> {
        self.gateway.sysctl("net.ipv4.ip_forward=1")?;
        for cable in self.cables() {
            let (device, tun) = (cable.gateway_device, tun_device(cable.gateway_device));
            let (inward, outward) = (210 + u32::from(cable.index), 220 + u32::from(cable.index));
            // No kernel address, hence no ARP: both ends are told who is there.
            cable.far.ip(&format!(
                "neigh replace {} lladdr {} dev {} nud permanent",
                cable.gateway_address,
                cable.gateway_mac(),
                cable.far_device
            ))?;
            for line in [
                // The usual 500 packets overflow when a thousand clients speak at once and the
                // gateway does not get a CPU for a moment.
                format!("link set {tun} txqueuelen 8192"),
                format!(
                    "neigh replace {} lladdr {} dev {device} nud permanent",
                    cable.far_address,
                    cable.far_mac()
                ),
                format!("rule add iif {device} table {inward}"),
                format!("route add {GATEWAY_LTE}/32 dev {tun} table {inward}"),
                format!("route add {GATEWAY_WIFI}/32 dev {tun} table {inward}"),
                format!("route add {GATEWAY_EXIT}/32 dev {tun} table {inward}"),
                format!("rule add iif {tun} table {outward}"),
                // In the main table: without any address of its own the kernel takes a next hop only
                // if it finds a route to it.
                format!("route add {}/32 dev {device}", cable.far_address),
                format!("route add default via {} dev {device} table {outward}", cable.far_address),
            ] {
                self.gateway.ip(&line)?;
            }
        }
        Ok(())
    }

    /// The IP addresses the gateway's kernel has; the demo promises none.
    pub(super) fn gateway_kernel_addresses(&self) -> Result<Vec<String>, Error> {
        let mut list = Command::new("ip");
        list.args(["-n", self.gateway.name(), "-o", "addr", "show"]);
        let text = run("listing the gateway's kernel addresses", &mut list)?;
        // "2: gw-lte    inet 10.0.0.1/24 scope ...": the device and its address.
        let words = text.lines().map(|line| line.split_whitespace().skip(1));
        Ok(words.map(|words| words.take(3).collect::<Vec<_>>().join(" ")).collect())
    }

    pub(super) const fn router(&self, access: Access) -> &Namespace {
        match access {
            Access::Lte => &self.lte,
            Access::Wifi => &self.wifi,
        }
    }

    fn cables(&self) -> [Cable<'_>; 3] {
        let access = |access: Access, index| Cable {
            gateway_device: access.gateway_device(),
            gateway_address: access.gateway_address(),
            far: self.router(access),
            far_device: ROUTER_UP,
            far_address: access.core_router(),
            index,
        };
        let exit = Cable {
            gateway_device: EXIT_DEVICE,
            gateway_address: GATEWAY_EXIT,
            far: &self.origin,
            far_device: ORIGIN_DEVICE,
            far_address: ORIGIN,
            index: 3,
        };
        [access(Access::Lte, 1), access(Access::Wifi, 2), exit]
    }

    /// A new namespace may inherit forwarding from the host: then the kernel would answer the
    /// gateway's packets with ICMP errors.
    fn silence_gateway_kernel(&self) -> Result<(), Error> {
        for setting in [
            "net.ipv4.ip_forward=0",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv6.conf.all.disable_ipv6=1",
            "net.ipv6.conf.default.disable_ipv6=1",
        ] {
            self.gateway.sysctl(setting)?;
        }
        Ok(())
    }

    fn lay(&self, cable: &Cable<'_>, offloads_off: bool) -> Result<(), Error> {
        let (near, far) = (cable.gateway_device, cable.far_device);
        self.gateway.ip(&format!(
            "link add {near} address {} type veth peer name {far} address {} netns {}",
            cable.gateway_mac(),
            cable.far_mac(),
            cable.far.name()
        ))?;
        if offloads_off {
            // A checksum left to the device would never be computed: DPDK sees the raw packet.
            cable.far.run(
                "ethtool",
                ["-K", far, "tx", "off", "tso", "off", "gso", "off", "gro", "off"],
            )?;
        }
        self.gateway.ip(&format!("link set {near} up"))?;
        cable.far.ip(&format!("addr add {}/24 dev {far}", cable.far_address))?;
        cable.far.ip(&format!("link set {far} up"))
    }

    fn masquerade(&self) -> Result<(), Error> {
        let rules = format!(
            "table ip plait {{\n  chain postrouting {{\n    \
             type nat hook postrouting priority srcnat;\n    \
             oifname \"{ROUTER_UP}\" masquerade\n  }}\n}}\n"
        );
        let mut nft = in_netns(self.wifi.name(), "nft");
        run_with_input("setting up the Wi-Fi router's NAT", nft.args(["-f", "-"]), &rules)
    }
}

/// Gives the phone `address` on its device of this access, with a way back of its own.
///
/// A join leaves by its own access only with a rule on its source and a route bound to the device;
/// without them the counters look right while the second link carries nothing.
pub(super) fn attach(
    phone: &Namespace,
    access: Access,
    address: Ipv4Addr,
    router: Ipv4Addr,
) -> Result<(), Error> {
    let (device, table) = (access.phone_device(), access.phone_table());
    let net = Ipv4Addr::from(u32::from(address) & 0xffff_ff00);
    for line in [
        format!("addr add {address}/24 dev {device}"),
        format!("link set {device} up"),
        format!("rule add from {address} table {table}"),
        format!("route add {net}/24 dev {device} table {table}"),
        format!("route add default via {router} dev {device} table {table}"),
        format!("route add default via {router} dev {device} metric {table}"),
    ] {
        phone.ip(&line)?;
    }
    Ok(())
}

/// Lets the phone's kernel open subflows from `address`, that of its Wi-Fi.
pub(super) fn enable_mptcp(phone: &Namespace, address: Ipv4Addr) -> Result<(), Error> {
    phone.ip("mptcp limits set subflows 4 add_addr_accepted 0")?;
    let device = Access::Wifi.phone_device();
    phone.ip(&format!("mptcp endpoint add {address} dev {device} subflow"))
}

#[cfg(test)]
mod tests {
    use super::super::counters::Mib;
    use super::super::gateway::tun_device;
    use super::*;

    /// What the runs stand on, with devices made by hand in place of the emulator's and the
    /// gateway's; ends in a panic to show that one leaves nothing behind.
    fn set_up_and_panic() {
        let topology = Topology::create(true, true).unwrap();
        assert_eq!(leftovers().len(), 5);
        for access in Access::BOTH {
            topology
                .phone
                .ip(&format!(
                    "link add {} type veth peer name {ROUTER_DOWN} netns {}",
                    access.phone_device(),
                    topology.router(access).name()
                ))
                .unwrap();
        }
        topology.attach_phone().unwrap();
        topology.enable_mptcp().unwrap();
        for cable in topology.cables() {
            let device = tun_device(cable.gateway_device);
            topology.gateway.ip(&format!("tuntap add dev {device} mode tun")).unwrap();
            topology.gateway.ip(&format!("link set {device} up")).unwrap();
        }
        topology.forward_to_tun(tun_device).unwrap();
        assert_eq!(topology.gateway_kernel_addresses().unwrap(), [""; 0]);
        assert!(!topology.origin.proc_net("dev").unwrap().contains("lte0"));
        assert!(topology.phone.proc_net("dev").unwrap().contains("lte0"));
        assert_eq!(Mib::read(&topology.gateway).unwrap().value("TcpInSegs"), 0);
        panic!("intended");
    }

    #[test]
    fn the_network_comes_up_and_a_panic_takes_it_down() {
        if !crate::skip::is_root_with(&["ip", "sysctl", "nft", "ethtool", "/dev/net/tun"]) {
            return;
        }
        let panic = std::panic::catch_unwind(set_up_and_panic).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"intended"), "failed earlier");
        assert_eq!(leftovers(), [""; 0]);
    }
}
