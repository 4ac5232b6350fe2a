//! The gateway under demonstration: its configuration, its process and its admin socket.
//!
//! Invariant: it is this very executable, started as an operator would start it, and everything the
//! demo knows of it comes through the public contract: `ready` on stdout, the exit code, `/connections`.

use super::client::{ORIGIN_NAME, SOCKS_PORT};
use super::process::{Error, Interrupt, Process, in_netns, log_file};
use super::topology::{self, Access, EXIT_DEVICE, GATEWAY_EXIT, GATEWAY_LTE, ORIGIN, Topology};
use core::fmt::{self, Write as _};
use core::time::Duration;
use serde::Deserialize;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;

/// EAL initialisation may have to clear hugepages first.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than the configured drain deadline, so exit 4 is seen as such.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
const ADMIN_TIMEOUT: Duration = Duration::from_millis(500);
/// Cap on an admin answer.
const ANSWER_LEN_MAX: u64 = 16 << 20;

/// What moves the gateway's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Driver {
    /// DPDK ports: `net_af_packet` on virtual Ethernet
    Dpdk,
    /// TUN devices: no DPDK needed
    Tun,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Dpdk => "dpdk",
            Self::Tun => "tun",
        })
    }
}

/// The TUN device of the port on kernel device `cable`.
pub(super) fn tun_device(cable: &str) -> String {
    cable.replace("gw-", "tun-")
}

/// The gateway's configuration file.
///
/// `cpu` is the one its shard is pinned to.
fn config(driver: Driver, cpu: usize, admin: &Path) -> String {
    let cables = [Access::Lte.gateway_device(), Access::Wifi.gateway_device(), EXIT_DEVICE];
    let admin = format!("unix:{}", admin.display());
    match driver {
        Driver::Dpdk => {
            let devices = [0, 1, 2].map(|index| format!("net_af_packet{index}"));
            let vdevs = devices.iter().zip(cables);
            let mut eal = vec!["--in-memory".to_owned(), "--no-pci".to_owned()];
            eal.extend(vdevs.map(|(device, cable)| format!("--vdev={device},iface={cable}")));
            let driver = format!("kind = \"dpdk\"\neal = {eal:?}\nmemory_mb = 512\n");
            config_on(&driver, &devices, cpu, &admin)
        }
        Driver::Tun => config_on("kind = \"tun\"\n", &cables.map(tun_device), cpu, &admin),
    }
}

/// The same on any devices: those of LTE, Wi-Fi and the exit. `driver` is the `[driver]` table but
/// for its cores.
pub(super) fn config_on(driver: &str, devices: &[String; 3], cpu: usize, admin: &str) -> String {
    let ports_of = [
        ("lte", GATEWAY_LTE, Some(topology::CORE_LTE)),
        ("wifi", topology::GATEWAY_WIFI, Some(topology::CORE_WIFI)),
        ("exit", GATEWAY_EXIT, None),
    ];
    let mut ports = String::new();
    for ((name, address, router), device) in ports_of.into_iter().zip(devices) {
        let gateway = router.map_or(String::new(), |router| format!("gateway = [\"{router}\"]\n"));
        // Formatting into a String cannot fail.
        let _ = write!(
            ports,
            "\n[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\n\
             addresses = [\"{address}/24\"]\n{gateway}mtu = 1500\n"
        );
    }
    format!(
        "[driver]\n{driver}cores = [{cpu}]\n{ports}\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"{ORIGIN}\"\nport = \"exit\"\n\n\
         [limits]\nconnections = 10000\nhalf_open = 4096\n\n\
         [timeouts]\ndrain_s = 10\n\n\
         [socks5]\nlisten = [\"{GATEWAY_LTE}:{SOCKS_PORT}\"]\nauth = \"none\"\n\n\
         [egress]\nallow = [\"{ORIGIN}/32\"]\n\n\
         [hosts]\n\"{ORIGIN_NAME}\" = [\"{ORIGIN}\"]\n\n\
         [admin]\nlisten = [{admin:?}]\n"
    )
}

/// The running gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    process: Process,
    admin: PathBuf,
    log: PathBuf,
}

impl Gateway {
    /// Writes the configuration into `dir`, starts the gateway in its namespace and waits until it
    /// is ready.
    pub(super) fn start(
        topology: &Topology,
        executable: &Path,
        driver: Driver,
        dir: &Path,
        log: PathBuf,
        interrupt: &Interrupt,
    ) -> Result<Self, Error> {
        let admin = dir.join("admin.sock");
        let file = dir.join("gateway.toml");
        std::fs::write(&file, config(driver, last_allowed_cpu(), &admin))
            .map_err(Error::in_step(format!("writing {}", file.display())))?;
        let mut command = in_netns(topology.gateway.name(), executable);
        command.args(["run", "-c"]).arg(&file);
        command.stdout(Stdio::piped()).stderr(log_file(&log)?);
        let mut process = Process::spawn("the gateway", &mut command)?;
        let stdout = process.take_stdout()?;
        let ready = thread::spawn(move || {
            let mut lines = BufReader::new(stdout);
            let mut line = String::new();
            let first = lines.read_line(&mut line);
            // The contract says nothing else is printed; reading on keeps the pipe open regardless.
            thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
            first.is_ok() && line.trim() == "ready"
        });
        let mut gateway = Self { process, admin, log };
        if !interrupt.wait_for(READY_TIMEOUT, || ready.is_finished())? {
            return Err(gateway.failure("no `ready` within a minute"));
        }
        if !ready.join().unwrap_or(false) {
            let status = gateway.process.terminate(Duration::from_secs(2));
            return Err(gateway.failure(&describe_exit(status)));
        }
        if driver == Driver::Tun {
            topology.forward_to_tun(tun_device)?;
        }
        Ok(gateway)
    }

    /// Why it has ended, if it has; it should not before [`Self::drain`].
    pub(super) fn end(&mut self) -> Option<Error> {
        let status = self.process.try_status()?;
        Some(self.failure(&describe_exit(Some(status))))
    }

    /// What the gateway says of its connections.
    pub(super) fn connections(&self) -> Result<Vec<Connection>, Error> {
        let step = || format!("GET /connections on {}", self.admin.display());
        let answer = self.fetch("/connections").map_err(Error::in_step(step()))?;
        parse_connections(&answer).map_err(Error::in_step(step()))
    }

    /// SIGTERM, as an operator would; `Err` describes anything but exit code 0.
    pub(super) fn drain(mut self) -> Result<(), Error> {
        let status = self.process.terminate(DRAIN_TIMEOUT);
        match status {
            Some(status) if status.success() => Ok(()),
            _ => Err(self.failure(&describe_exit(status))),
        }
    }

    fn fetch(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut stream = connect_now(&self.admin)?;
        stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
        stream.set_write_timeout(Some(ADMIN_TIMEOUT))?;
        // Version 1.0: the answer ends with the connection and is not chunked.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: plait\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_LEN_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }

    /// `cause` with the end of the gateway's own log.
    fn failure(&self, cause: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n    ");
        let log = if tail.is_empty() { String::new() } else { format!("; it logged:\n    {tail}") };
        Error::new("the gateway", format!("{cause}{log}"))
    }
}

/// Connects without waiting for a place in the listener's queue.
fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(std::os::fd::OwnedFd::from(socket).into())
}

/// The exit codes of `proxy-gw run` in words.
fn describe_exit(status: Option<ExitStatus>) -> String {
    let Some(status) = status else {
        return "did not end after SIGTERM and was killed".to_owned();
    };
    let meaning = match status.code() {
        Some(0) => "it drained, unasked",
        Some(1) => "it failed while running",
        Some(2) => "it refused its configuration",
        Some(3) => "a driver or port is missing",
        Some(4) => "the drain deadline passed",
        _ => "killed, or an unknown code",
    };
    format!("ended with {status}: {meaning}")
}

/// One element of `GET /connections`; unknown keys are left alone.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Connection {
    pub(super) mptcp: Option<u8>,
    pub(super) fallback: Option<String>,
    pub(super) subflows: Vec<Subflow>,
}

/// A subflow as the gateway sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Subflow {
    pub(super) port: String,
    pub(super) state: String,
    pub(super) stale: bool,
    pub(super) srtt_us: u64,
    pub(super) cwnd: u64,
    pub(super) retransmitted: u64,
    pub(super) reinjected: u64,
}

/// `answer` is the whole HTTP answer.
fn parse_connections(answer: &[u8]) -> Result<Vec<Connection>, String> {
    let at = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .ok_or_else(|| format!("no HTTP answer in {} bytes", answer.len()))?;
    let (head, body) = answer.split_at(at);
    let status = String::from_utf8_lossy(head.split(|&byte| byte == b'\r').next().unwrap_or(head));
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("answered {status:?}"));
    }
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

/// The highest CPU this process may run on: the shard busy-polls, and everything else of the demo
/// gathers on the lower ones.
fn last_allowed_cpu() -> usize {
    let allowed = rustix::thread::sched_getaffinity(None);
    allowed.map_or(0, |set| {
        (0..rustix::thread::CpuSet::MAX_CPU).rev().find(|&cpu| set.is_set(cpu)).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dpdk_configuration_names_vdevs_and_return_paths() {
        let text = config(Driver::Dpdk, 1, Path::new("/tmp/x/admin.sock"));
        for line in [
            "kind = \"dpdk\"",
            "eal = [\"--in-memory\", \"--no-pci\", \"--vdev=net_af_packet0,iface=gw-lte\", \
             \"--vdev=net_af_packet1,iface=gw-wifi\", \"--vdev=net_af_packet2,iface=gw-exit\"]",
            "cores = [1]",
            "device = \"net_af_packet2\"",
            "addresses = [\"10.71.0.1/24\"]",
            "gateway = [\"10.71.0.254\"]",
            "listen = [\"10.71.0.1:1080\"]",
            "allow = [\"10.71.9.2/32\"]",
            "listen = [\"unix:/tmp/x/admin.sock\"]",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
        }
    }

    #[test]
    fn the_tun_configuration_names_no_eal() {
        let text = config(Driver::Tun, 0, Path::new("/tmp/x/admin.sock"));
        for device in ["tun-lte", "tun-wifi", "tun-exit"] {
            assert!(text.contains(&format!("device = \"{device}\"")), "{text}");
        }
        assert!(!text.contains("eal") && !text.contains("af_packet"), "{text}");
    }

    #[test]
    fn the_gateway_accepts_both_configurations() {
        for driver in [Driver::Dpdk, Driver::Tun] {
            let text = config(driver, 1, Path::new("/tmp/plait \"x\"/admin.sock"));
            let parsed = crate::config::parse("gateway.toml", &text, &[]);
            assert!(parsed.is_ok(), "{:?}\n{text}", parsed.err());
        }
    }

    #[test]
    fn connections_are_read_from_the_contract() {
        let answer = concat!(
            "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n",
            r#"[{"id": "1f", "front_end": "socks5", "client": "10.1.0.2:40312", "mptcp": 1,"#,
            r#" "fallback": null, "bytes_up": 120, "age_s": 12.4, "subflows": [{"id": 0,"#,
            r#" "port": "lte", "state": "established", "backup": false, "stale": true,"#,
            r#" "srtt_us": 40211, "cwnd": 146000, "bytes_sent": 62914560, "bytes_received": 120,"#,
            r#" "retransmitted": 3, "reinjected": 2}]}]"#
        );
        let connections = parse_connections(answer.as_bytes()).unwrap();
        assert_eq!((connections.len(), connections[0].mptcp), (1, Some(1)));
        let plain = parse_connections(b"HTTP/1.0 200 OK\r\n\r\n[{\"mptcp\": null}]").unwrap();
        assert_eq!(plain[0].mptcp, None);
        assert_eq!(connections[0].fallback, None);
        let subflow = &connections[0].subflows[0];
        assert_eq!((subflow.port.as_str(), subflow.srtt_us, subflow.cwnd), ("lte", 40211, 146_000));
        assert_eq!((subflow.retransmitted, subflow.reinjected, subflow.stale), (3, 2, true));
        assert_eq!(subflow.state, "established");
    }

    #[test]
    fn other_answers_are_errors() {
        for answer in
            ["", "HTTP/1.0 503 No\r\n\r\n[]", "HTTP/1.0 200 OK\r\n\r\n{", "HTTP/1.0 200 OK\r\n"]
        {
            assert!(parse_connections(answer.as_bytes()).is_err(), "{answer:?}");
        }
    }

    #[test]
    fn some_cpu_is_allowed() {
        let set = rustix::thread::sched_getaffinity(None).unwrap();
        assert!(set.is_set(last_allowed_cpu()));
    }
}
