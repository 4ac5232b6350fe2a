//! Why a device or its loop could not start, or ended.

use std::io;

/// What failed, on which device, and what to do about it.
#[derive(Debug)]
pub enum TunError {
    /// The configuration names something a TUN device cannot have; nothing was created.
    Config {
        /// The interface name as configured.
        device: String,
        /// The value and the remedy.
        reason: String,
    },
    /// The kernel refused to create or configure the device.
    Create {
        /// The interface name as configured.
        device: String,
        /// What was being done.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device no longer delivers packets: it was deleted.
    Device {
        /// The interface name.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The loop itself cannot wait for events.
    Wait {
        /// The kernel's answer.
        source: io::Error,
    },
}

impl core::fmt::Display for TunError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Config { device, reason } => write!(f, "TUN device {device:?}: {reason}"),
            Self::Create { device, doing, source } => {
                write!(f, "TUN device {device:?}: cannot {doing}: {source}")?;
                match source.kind() {
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("; run as root or grant CAP_NET_ADMIN")
                    }
                    io::ErrorKind::NotFound => f.write_str("; is the kernel's tun module loaded?"),
                    io::ErrorKind::ResourceBusy => {
                        f.write_str("; an interface of that name is in use")
                    }
                    _ => Ok(()),
                }
            }
            Self::Device { device, source } => {
                write!(f, "TUN device {device:?} stopped delivering packets: {source}")
            }
            Self::Wait { source } => write!(f, "the TUN loop cannot wait for packets: {source}"),
        }
    }
}

impl core::error::Error for TunError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Config { .. } => None,
            Self::Create { source, .. } | Self::Device { source, .. } | Self::Wait { source } => {
                Some(source)
            }
        }
    }
}
