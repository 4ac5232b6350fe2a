//! Everything that is measured, and how each is started.

use crate::bed::{DEVICES, EXIT, Frames, GATEWAY, Holder, SERVER, SERVER_BRIDGED, tun_device};
use crate::load::{PORT, Target, Way};
use crate::vhost;
use core::fmt::Write as _;
use core::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where relays listen.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(core::net::IpAddr::V4(GATEWAY[0]), 1080);

/// The gateway's admin socket in the run's directory.
pub(crate) const ADMIN: &str = "admin.sock";

/// What stands between client and server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Peer {
    /// The gateway's kernel forwards packets; nothing ends the connection.
    Routed,
    Copy,
    Splice,
    /// The same while the kernel joins what it receives and splits what it sends.
    SpliceJoined,
    Haproxy,
    Dante,
    Microsocks,
    Tun,
    AfPacket,
    AfXdp,
    /// The same with another `driver.idle`: in the table of latencies alone.
    AfXdpLatency,
    AfXdpPower,
    /// DPDK's own program passes frames between the first access and the exit: the ceiling of a device.
    TestpmdAfPacket,
    TestpmdAfXdp,
    /// Ours between stacks of ours, through memory: in a table of its own.
    Vhost,
    /// The same while it sends segments in one piece.
    VhostTso,
}

impl Peer {
    pub(crate) const ALL: [Self; 12] = [
        Self::Routed,
        Self::Copy,
        Self::Splice,
        Self::SpliceJoined,
        Self::Haproxy,
        Self::Dante,
        Self::Microsocks,
        Self::Tun,
        Self::AfPacket,
        Self::AfXdp,
        Self::TestpmdAfPacket,
        Self::TestpmdAfXdp,
    ];

    /// Whose latency is looked at under load, too.
    pub(crate) const LATENCY: [Self; 9] = [
        Self::Routed,
        Self::Splice,
        Self::Haproxy,
        Self::Dante,
        Self::Tun,
        Self::AfPacket,
        Self::AfXdp,
        Self::AfXdpLatency,
        Self::AfXdpPower,
    ];

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::SpliceJoined => "splice-gro",
            Self::Haproxy => "haproxy",
            Self::Dante => "dante",
            Self::Microsocks => "microsocks",
            Self::Tun => "tun",
            Self::AfPacket => "af_packet",
            Self::AfXdp => "af_xdp",
            Self::AfXdpLatency => "af_xdp-latency",
            Self::AfXdpPower => "af_xdp-power",
            Self::TestpmdAfPacket => "testpmd-af_packet",
            Self::TestpmdAfXdp => "testpmd-af_xdp",
            Self::Vhost => "vhost",
            Self::VhostTso => "vhost-tso",
        }
    }

    /// Its name in the tables.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Routed => "forwarded, no relay",
            Self::Copy => "epoll relay, copy",
            Self::Splice => "epoll relay, splice",
            Self::SpliceJoined => "the same, GRO and GSO",
            Self::Haproxy => "HAProxy",
            Self::Dante => "Dante",
            Self::Microsocks => "microsocks",
            Self::Tun => "**Plait, TUN**",
            Self::AfPacket => "**Plait, af_packet**",
            Self::AfXdp => "**Plait, af_xdp**",
            Self::AfXdpLatency => "**Plait, af_xdp, `latency`**",
            Self::AfXdpPower => "**Plait, af_xdp, `power`**",
            Self::TestpmdAfPacket => "testpmd io, af_packet",
            Self::TestpmdAfXdp => "testpmd io, af_xdp",
            Self::Vhost => "**Plait, vhost**",
            Self::VhostTso => "**Plait, vhost, TSO**",
        }
    }

    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Tun) || self.is_polling()
    }

    /// Whether it looks for packets all the time.
    pub(crate) const fn is_polling(self) -> bool {
        matches!(self, Self::AfPacket | Self::Vhost | Self::VhostTso) || self.is_on_xdp()
    }

    const fn is_on_xdp(self) -> bool {
        matches!(self, Self::AfXdp | Self::AfXdpLatency | Self::AfXdpPower)
    }

    /// Whether what arrives is taken in on the CPU of the load, which is no part of the relay's figures.
    pub(crate) const fn receives_elsewhere(self) -> bool {
        self.is_on_xdp() || matches!(self, Self::SpliceJoined)
    }

    pub(crate) const fn is_testpmd(self) -> bool {
        matches!(self, Self::TestpmdAfPacket | Self::TestpmdAfXdp)
    }

    /// What only forwards over the same devices.
    pub(crate) const fn ceiling(self) -> Option<Self> {
        match self {
            Self::AfPacket => Some(Self::TestpmdAfPacket),
            Self::AfXdp => Some(Self::TestpmdAfXdp),
            _ => None,
        }
    }

    /// Whether ours is judged by it: a relay under the same conditions.
    pub(crate) const fn is_rival(self) -> bool {
        matches!(self, Self::Copy | Self::Splice | Self::Haproxy | Self::Dante | Self::Microsocks)
    }

    /// Whether it can end MPTCP: what only forwards cannot.
    pub(crate) const fn has_mptcp(self) -> bool {
        !matches!(self, Self::Routed) && !self.is_testpmd()
    }

    pub(crate) const fn holder(self) -> Holder {
        match self {
            Self::Tun => Holder::Tun,
            peer if peer.is_polling() => Holder::Devices,
            peer if peer.is_testpmd() => Holder::Bridge,
            _ => Holder::Kernel,
        }
    }

    pub(crate) const fn frames(self) -> Frames {
        if matches!(self, Self::SpliceJoined) { Frames::Joined } else { Frames::Single }
    }

    pub(crate) fn target(self, mptcp: bool) -> Target {
        let server = SocketAddr::from((SERVER, PORT));
        let (address, way) = match self {
            Self::Routed => (server, Way::Straight),
            peer if peer.is_testpmd() => (SocketAddr::from((SERVER_BRIDGED, PORT)), Way::Straight),
            Self::Haproxy => (LISTEN, Way::Straight),
            _ => (LISTEN, Way::Socks5(server)),
        };
        Target { address, way, mptcp }
    }

    /// Programs that must be there besides those that every run needs.
    pub(crate) const fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Haproxy => &["haproxy"],
            Self::Dante => &["danted"],
            Self::Microsocks => &["microsocks"],
            peer if peer.is_testpmd() => &["dpdk-testpmd"],
            _ => &[],
        }
    }

    /// The command line; files it needs are written into `dir`. `None`: there is nothing to start.
    pub(crate) fn command(
        self,
        mptcp: bool,
        cpu: usize,
        dir: &Path,
    ) -> Result<Option<Vec<String>>, String> {
        let file = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text)
                .map_err(|error| format!("writing {}: {error}", path.display()))?;
            Ok::<_, String>(path.display().to_string())
        };
        let words: Vec<String> = match self {
            Self::Routed => return Ok(None),
            Self::Copy | Self::Splice | Self::SpliceJoined => {
                let program = std::env::current_exe().map_err(|error| error.to_string())?;
                let mut words =
                    vec![program.display().to_string(), "relay".to_owned(), "--listen".to_owned()];
                words.push(LISTEN.to_string());
                if self != Self::Copy {
                    words.push("--splice".to_owned());
                }
                if mptcp {
                    words.push("--mptcp".to_owned());
                }
                return Ok(Some(words));
            }
            Self::Haproxy => strings(["haproxy", "-db", "-f", &file("haproxy.cfg", haproxy())?]),
            Self::Dante => strings(["danted", "-f", &file("danted.conf", dante(dir))?]),
            Self::Microsocks => {
                let (address, port) = (LISTEN.ip().to_string(), LISTEN.port().to_string());
                strings(["microsocks", "-i", &address, "-p", &port])
            }
            Self::TestpmdAfPacket | Self::TestpmdAfXdp => return Ok(Some(self.testpmd(cpu))),
            Self::Tun
            | Self::AfPacket
            | Self::AfXdp
            | Self::AfXdpLatency
            | Self::AfXdpPower
            | Self::Vhost
            | Self::VhostTso => {
                let gateway = sibling("proxy-gw")?.display().to_string();
                let config = file("gateway.toml", self.gateway(cpu, dir))?;
                return Ok(Some(strings([&gateway, "run", "-c", &config])));
            }
        };
        // Their sockets to the server are MPTCP ones then, too, and fall back.
        let mptcpize = mptcp.then(|| strings(["mptcpize", "run"])).into_iter().flatten();
        Ok(Some(mptcpize.chain(words).collect()))
    }

    fn vdev(self, at: usize) -> String {
        let driver = match self {
            Self::Vhost | Self::VhostTso => "net_virtio_user",
            Self::TestpmdAfXdp => "net_af_xdp",
            _ if self.is_on_xdp() => "net_af_xdp",
            _ => "net_af_packet",
        };
        format!("{driver}{at}")
    }

    fn vdev_word(self, at: usize, dir: &Path) -> String {
        let vdev = self.vdev(at);
        match self {
            Self::Vhost | Self::VhostTso => {
                format!("--vdev={vdev},path={},queues=1", vhost::socket(dir, at).display())
            }
            _ if vdev.starts_with("net_af_xdp") => {
                format!("--vdev={vdev},iface={},force_copy=1", DEVICES[at])
            }
            _ => format!("--vdev={vdev},iface={}", DEVICES[at]),
        }
    }

    /// Its command line sleeps on the same CPU as the loop that forwards; what it prints comes line by line.
    fn testpmd(self, cpu: usize) -> Vec<String> {
        let mut words = strings([
            "stdbuf",
            "-oL",
            "dpdk-testpmd",
            "--no-pci",
            "--no-huge",
            "--no-shconf",
            "-m",
            "512",
        ]);
        words.extend(["--log-level=4".to_owned(), format!("--lcores=0@{cpu},1@{cpu}")]);
        words.extend([0, 2].map(|at| self.vdev_word(at, Path::new(""))));
        words.extend(strings(["--", "-i", "--auto-start", "--record-core-cycles"]));
        words.extend(strings(["--forward-mode=io", "--nb-cores=1", "--no-lsc-interrupt"]));
        words.push("--total-num-mbufs=32768".to_owned());
        words
    }

    /// The configuration of ours: everything that is not named is at its default.
    fn gateway(self, cpu: usize, dir: &Path) -> String {
        let driver = if self == Self::Tun { "tun" } else { "dpdk" };
        let mut eal = strings(["--in-memory", "--no-pci"]);
        let mut ports = String::new();
        let addresses = [GATEWAY[0], GATEWAY[1], EXIT];
        let tso = if self == Self::Vhost { "tso = \"off\"\n" } else { "" };
        for (at, (near, address)) in DEVICES.into_iter().zip(addresses).enumerate() {
            let device = match self {
                Self::Tun => tun_device(near),
                _ => self.vdev(at),
            };
            if self != Self::Tun {
                eal.push(self.vdev_word(at, dir));
            }
            // Formatting into a String cannot fail.
            let _ = write!(
                ports,
                "\n[[port]]\nname = \"{near}\"\ndevice = \"{device}\"\naddresses = [\"{address}/24\"]\n{tso}"
            );
        }
        let eal = if self == Self::Tun { String::new() } else { format!("eal = {eal:?}\n") };
        let setting = match self {
            Self::AfXdpLatency => "idle = \"latency\"\n",
            Self::AfXdpPower => "idle = \"power\"\n",
            // What needs no privileges is enough.
            Self::Vhost | Self::VhostTso => "hugepages = \"off\"\n",
            _ => "",
        };
        format!(
            "[driver]\nkind = \"{driver}\"\n{eal}cores = [{cpu}]\n{setting}{ports}\n\
             [[route]]\nto = \"0.0.0.0/0\"\nvia = \"{SERVER}\"\nport = \"g-exit\"\n\n\
             [timeouts]\ndrain_s = 1\n\n\
             [socks5]\nlisten = [\"{LISTEN}\"]\nauth = \"none\"\n\n\
             [egress]\nallow = [\"{SERVER}/32\"]\n\n\
             [admin]\nlisten = [{:?}]\n",
            format!("unix:{}", dir.join(ADMIN).display())
        )
    }
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

/// As Debian's default but for the limits: one thread, as every other peer has.
fn haproxy() -> String {
    format!(
        "global\n  maxconn 4000\n  nbthread 1\n\ndefaults\n  mode tcp\n  timeout connect 10s\n  \
         timeout client 60s\n  timeout server 60s\n\nlisten relay\n  bind {LISTEN}\n  \
         server sink {SERVER}:{PORT}\n"
    )
}

fn dante(dir: &Path) -> String {
    format!(
        "errorlog: {}\ninternal: {} port = {}\nexternal: {EXIT}\nclientmethod: none\n\
         socksmethod: none\nuser.privileged: root\nuser.unprivileged: nobody\n\
         client pass {{ from: 0/0 to: 0/0 }}\nsocks pass {{ from: 0/0 to: 0/0 }}\n",
        dir.join("danted.log").display(),
        LISTEN.ip(),
        LISTEN.port()
    )
}

/// A program that was built together with this one.
pub(crate) fn sibling(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    let path = own.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(format!("{} is missing: make build", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_of_our_own_speak_mptcp_with_clients_alone() {
        let words = |peer: Peer, mptcp| {
            peer.command(mptcp, 1, Path::new("/nonexistent")).unwrap().unwrap().join(" ")
        };
        for peer in [Peer::Copy, Peer::Splice, Peer::SpliceJoined] {
            let (with, without) = (words(peer, true), words(peer, false));
            assert!(with.ends_with(" --mptcp") && !with.starts_with("mptcpize"), "{with}");
            assert!(!without.ends_with(" --mptcp"), "{without}");
        }
        assert!(words(Peer::Microsocks, true).starts_with("mptcpize run microsocks "));
    }
}
