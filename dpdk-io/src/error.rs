//! Why the driver could not start or run; every variant names the thing, the value and a remedy.

use core::fmt;

/// Failure of [`crate::Driver`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DriverError {
    /// This program was built without DPDK.
    Missing {
        /// Debian package to install before building again.
        package: &'static str,
    },
    /// A value of the configuration cannot be used.
    Config {
        /// Which.
        key: String,
        /// What was given.
        value: String,
        /// What to do.
        remedy: String,
    },
    /// Hugepages were required and are not there.
    Hugepages {
        /// MiB asked for.
        needed_mb: u32,
        /// MiB free.
        free_mb: u64,
    },
    /// The EAL did not start.
    Eal {
        /// The words it was given.
        words: String,
        /// What it said last.
        reason: String,
    },
    /// The EAL can be started once per process, and was, with other words.
    AlreadyStarted,
    /// A device of the configuration is not there: its vdev did not come up or its driver is not
    /// bound.
    PortMissing {
        /// The device.
        device: String,
        /// The devices that are there.
        present: Vec<String>,
    },
    /// A step of bringing a port up failed.
    Port {
        /// The device.
        device: String,
        /// The step.
        step: &'static str,
        /// DPDK's reason.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Packet memory could not be had.
    Memory {
        /// For what.
        what: String,
        /// DPDK's reason, or the arithmetic.
        reason: String,
    },
    /// A thread could not become the lcore of its shard.
    Thread {
        /// The shard.
        shard: usize,
        /// Its CPU.
        cpu: usize,
        /// Why.
        reason: String,
    },
}

impl DriverError {
    /// True when the configuration is to blame rather than the machine.
    #[must_use]
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Config { .. })
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { package } => write!(
                f,
                "driver dpdk: this program was built without DPDK; apt-get install {package} and \
                 build again with --features dpdk, or use driver.kind = \"tun\""
            ),
            Self::Config { key, value, remedy } => write!(f, "{key} = {value}: {remedy}"),
            Self::Hugepages { needed_mb, free_mb } => write!(
                f,
                "driver.hugepages = require: {needed_mb} MiB needed, {free_mb} MiB free; raise \
                 /proc/sys/vm/nr_hugepages or set driver.hugepages = \"auto\""
            ),
            Self::Eal { words, reason } => {
                write!(f, "the EAL did not start with \"{words}\": {reason}; check driver.eal")
            }
            Self::AlreadyStarted => f.write_str(
                "the EAL runs already with other words; it starts once per process: restart",
            ),
            Self::PortMissing { device, present } => {
                let present =
                    if present.is_empty() { "none".to_owned() } else { present.join(", ") };
                write!(
                    f,
                    "device {device} did not come up (present: {present}); check its --vdev \
                     arguments in driver.eal, or its PCI driver binding"
                )
            }
            Self::Port { device, step, reason, remedy } => {
                write!(f, "device {device}: {step}: {reason}; {remedy}")
            }
            Self::Memory { what, reason } => {
                write!(f, "no memory for {what}: {reason}; raise driver.memory_mb")
            }
            Self::Thread { shard, cpu, reason } => {
                write!(f, "shard {shard} on CPU {cpu}: {reason}; check driver.cores")
            }
        }
    }
}

impl core::error::Error for DriverError {}
