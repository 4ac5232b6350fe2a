//! What the demo needs from the machine, found out before anything is set up.
//!
//! Invariant: whatever is missing is named with what that costs and the Debian package that has it;
//! only what nothing can be shown without stops the demo.

use super::gateway::Driver;
use core::fmt;
use std::path::{Path, PathBuf};

/// What losing a requirement costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    /// Nothing can be shown.
    Everything,
    /// The words say what is left out.
    Part(&'static str),
}

/// Something the machine does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    what: String,
    cost: Cost,
    /// Debian package, or another remedy in words.
    package: Option<&'static str>,
    remedy: Option<&'static str>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(remedy) = self.remedy {
            write!(f, " ({remedy})")?;
        }
        match self.cost {
            Cost::Everything => f.write_str(": the demo cannot run"),
            Cost::Part(left_out) => write!(f, ": {left_out}"),
        }
    }
}

/// The machine as the demo found it.
#[derive(Clone, Debug)]
pub(super) struct Requirements {
    pub(super) missing: Vec<Missing>,
    pub(super) has_curl: bool,
    /// `mptcpize` and a kernel with MPTCP.
    pub(super) has_mptcp_curl: bool,
    pub(super) has_kernel_mptcp: bool,
    pub(super) has_nft: bool,
    pub(super) has_ethtool: bool,
    /// The one asked for, unless only the other can run.
    pub(super) driver: Driver,
}

/// A program and where Debian has it.
struct Tool {
    program: &'static str,
    package: &'static str,
    cost: Cost,
}

impl Tool {
    /// One that nothing can be shown without.
    const fn vital(program: &'static str, package: &'static str) -> Self {
        Self { program, package, cost: Cost::Everything }
    }

    fn missing(&self) -> Option<Missing> {
        find_program(self.program).is_none().then(|| Missing {
            what: self.program.to_owned(),
            cost: self.cost,
            package: Some(self.package),
            remedy: None,
        })
    }
}

const TOOLS: [Tool; 6] = [
    Tool::vital("ip", "iproute2"),
    Tool::vital("setpriv", "util-linux"),
    Tool::vital("sysctl", "procps"),
    Tool {
        program: "curl",
        package: "curl",
        cost: Cost::Part("every run but the concurrent sessions is left out"),
    },
    Tool {
        program: "mptcpize",
        package: "mptcpize",
        cost: Cost::Part("the runs of curl over MPTCP are left out"),
    },
    Tool { program: "nft", package: "nftables", cost: Cost::Part("the Wi-Fi router is not a NAT") },
];

const NIC_TOOLS: [Tool; 8] = [
    Tool::vital("ip", "iproute2"),
    Tool::vital("setpriv", "util-linux"),
    Tool::vital("curl", "curl"),
    Tool::vital("mptcpize", "mptcpize"),
    Tool::vital("qemu-system-x86_64", "qemu-system-x86"),
    Tool::vital("busybox", "busybox-static"),
    Tool::vital("cpio", "cpio"),
    Tool::vital("ldd", "libc-bin"),
];

impl Requirements {
    /// Looks at the machine; `drivers` are those of this build, `emulator` is the link emulator.
    pub(super) fn probe(driver: Driver, drivers: &[&str], emulator: &Path) -> Self {
        let mut missing = missing_basics();
        missing.extend(TOOLS.iter().filter_map(Tool::missing));
        if !emulator.exists() {
            missing.push(Missing {
                what: format!("the link emulator {}", emulator.display()),
                cost: Cost::Everything,
                package: None,
                remedy: Some("cargo build --release --package netsim --features live"),
            });
        }
        let has_kernel_mptcp = has_kernel_mptcp();
        if !has_kernel_mptcp {
            missing.push(no_kernel_mptcp(Cost::Part("every run over MPTCP is left out")));
        }
        let has_ethtool = find_program("ethtool").is_some();
        let driver = Self::choose_driver(driver, drivers, has_ethtool, &mut missing);
        let has = |program| find_program(program).is_some();
        Self {
            has_curl: has("curl"),
            has_mptcp_curl: has("curl") && has("mptcpize") && has_kernel_mptcp,
            has_kernel_mptcp,
            has_nft: has("nft"),
            has_ethtool,
            driver,
            missing,
        }
    }

    fn choose_driver(
        wanted: Driver,
        drivers: &[&str],
        has_ethtool: bool,
        missing: &mut Vec<Missing>,
    ) -> Driver {
        const INSTEAD: Cost = Cost::Part("the gateway runs on TUN devices instead");
        if wanted == Driver::Tun {
            return Driver::Tun;
        }
        let mut driver = Driver::Dpdk;
        if !drivers.contains(&"dpdk") {
            missing.push(Missing {
                what: "the DPDK driver in this build".to_owned(),
                cost: INSTEAD,
                package: Some("libdpdk-dev dpdk pkg-config"),
                remedy: Some("install and build again with --features dpdk"),
            });
            driver = Driver::Tun;
        }
        if !has_ethtool {
            missing.push(Missing {
                what: "ethtool".to_owned(),
                cost: INSTEAD,
                package: Some("ethtool"),
                remedy: Some("DPDK must not be left to fill in the kernel's checksums"),
            });
            driver = Driver::Tun;
        }
        driver
    }

    /// Whether anything at all can be shown.
    pub(super) fn allow_a_run(&self) -> bool {
        self.missing.iter().all(|missing| missing.cost != Cost::Everything)
    }
}

/// The line that installs every missing package; `None` if none would help.
pub(super) fn apt_line(missing: &[Missing]) -> Option<String> {
    let packages: Vec<_> = missing.iter().filter_map(|missing| missing.package).collect();
    (!packages.is_empty()).then(|| format!("apt-get install {}", packages.join(" ")))
}

/// What `demo nic` lacks; any of it stops it. `kernel` is the guest's, unpacked.
pub(super) fn missing_for_nics(drivers: &[&str], kernel: &Path) -> Vec<Missing> {
    let mut missing = missing_basics();
    missing.extend(NIC_TOOLS.iter().filter_map(Tool::missing));
    if !has_kernel_mptcp() {
        missing.push(no_kernel_mptcp(Cost::Everything));
    }
    if !drivers.contains(&"dpdk") {
        missing.push(Missing {
            what: "the DPDK driver in this build".to_owned(),
            cost: Cost::Everything,
            package: Some("libdpdk-dev dpdk pkg-config"),
            remedy: Some("install and build again with --features dpdk"),
        });
    }
    if !kernel.join("vmlinuz").is_file() {
        missing.push(Missing {
            what: format!("the guest's kernel {}", kernel.join("vmlinuz").display()),
            cost: Cost::Everything,
            package: None,
            remedy: Some("scripts/guest-kernel unpacks it"),
        });
    }
    missing
}

/// Those of root's rights and devices that every demo needs and that are not there.
fn missing_basics() -> Vec<Missing> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push(Missing {
            what: "root's rights".to_owned(),
            cost: Cost::Everything,
            package: None,
            remedy: Some("network namespaces and devices need them; use sudo"),
        });
    }
    if !Path::new("/dev/net/tun").exists() {
        missing.push(Missing {
            what: "/dev/net/tun".to_owned(),
            cost: Cost::Everything,
            package: None,
            remedy: Some("modprobe tun; in a container, pass the device in"),
        });
    }
    missing
}

fn has_kernel_mptcp() -> bool {
    std::fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|on| on.trim() == "1")
}

fn no_kernel_mptcp(cost: Cost) -> Missing {
    Missing {
        what: "MPTCP in this kernel".to_owned(),
        cost,
        package: None,
        remedy: Some("CONFIG_MPTCP and sysctl net.mptcp.enabled=1"),
    }
}

/// Looks along `PATH` and where Debian keeps root's programs.
pub(super) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(driver: Driver, drivers: &[&str]) -> Requirements {
        Requirements::probe(driver, drivers, Path::new("/nonexistent/netsim-live"))
    }

    #[test]
    fn a_missing_emulator_stops_the_demo_and_says_how_to_build_it() {
        let requirements = probe(Driver::Tun, &[]);
        assert!(!requirements.allow_a_run());
        let told = requirements.missing.iter().map(Missing::to_string).collect::<Vec<_>>();
        assert!(
            told.iter().any(|line| line.contains("netsim-live") && line.contains("cargo build")),
            "{told:?}"
        );
    }

    #[test]
    fn a_build_without_dpdk_falls_back_to_tun_and_names_the_packages() {
        let requirements = probe(Driver::Dpdk, &["tun"]);
        assert_eq!(requirements.driver, Driver::Tun);
        assert!(apt_line(&requirements.missing).unwrap().contains("libdpdk-dev"));
        let without_ethtool = find_program("ethtool").is_none();
        let expected = if without_ethtool { Driver::Tun } else { Driver::Dpdk };
        assert_eq!(probe(Driver::Dpdk, &["tun", "dpdk"]).driver, expected);
    }

    #[test]
    fn nics_need_a_kernel_for_the_guest_and_dpdk() {
        let missing = missing_for_nics(&["tun"], Path::new("/nonexistent"));
        let told = missing.iter().map(Missing::to_string).collect::<Vec<_>>().join("\n");
        assert!(told.contains("/nonexistent/vmlinuz (scripts/guest-kernel unpacks it)"), "{told}");
        assert!(told.contains("the DPDK driver in this build"), "{told}");
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert!(find_program("plait-no-such-program").is_none());
    }

    #[test]
    fn a_partial_loss_does_not_stop_the_demo() {
        let missing = Missing {
            what: "nft".to_owned(),
            cost: Cost::Part("no NAT"),
            package: Some("nftables"),
            remedy: None,
        };
        assert_eq!(missing.to_string(), "nft: no NAT");
        let requirements = Requirements { missing: vec![missing], ..probe(Driver::Tun, &[]) };
        assert!(requirements.allow_a_run());
        assert_eq!(apt_line(&requirements.missing).unwrap(), "apt-get install nftables");
    }
}
