//! A TAP device inside a network namespace. A thread of its own enters the namespace, creates the
//! device and ends; the file descriptor keeps the device alive and is used from anywhere.

use crate::spec::End;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io;
use std::process::Command;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// A device that is up. It vanishes when dropped.
pub(crate) struct Tap {
    device: SyncDevice,
    /// Namespace and name, for messages.
    pub(crate) label: String,
}

impl Tap {
    /// Creates the device of `end`, gives it its addresses and brings it up.
    pub(crate) fn create(end: &End, mtu: u16) -> Result<Self, String> {
        let namespace = end.namespace.as_deref();
        let label = format!("{}:{}", namespace.unwrap_or_default(), end.device);
        let created =
            std::thread::scope(|scope| scope.spawn(|| create_in_namespace(end, mtu)).join());
        match created {
            Ok(Ok(device)) => Ok(Self { device, label }),
            Ok(Err(error)) => Err(format!("device {label}: {error}")),
            Err(_) => Err(format!("device {label}: the thread that creates it panicked")),
        }
    }

    /// Reads one frame; `None` when none waits.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.device.recv(buffer) {
                Ok(len) => return Ok(Some(len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Hands one frame to the namespace; fails while the device is down.
    pub(crate) fn write(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match self.device.send(frame) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Runs on a thread that ends afterwards: it never comes back from the namespace.
fn create_in_namespace(end: &End, mtu: u16) -> Result<SyncDevice, String> {
    if let Some(name) = &end.namespace {
        let path = format!("/var/run/netns/{name}");
        let file = File::open(&path)
            .map_err(|error| format!("{path}: {error}; create it with 'ip netns add {name}'"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| format!("cannot enter namespace {name}: {error}"))?;
    }
    // Frames of a stalled process wait in the device; the default of 500 is a few milliseconds.
    let device = DeviceBuilder::new()
        .name(end.device.clone())
        .layer(Layer::L2)
        .mtu(mtu)
        .tx_queue_len(2_000)
        .build_sync()
        .map_err(|error| format!("cannot create it (it needs root and /dev/net/tun): {error}"))?;
    device.set_nonblocking(true).map_err(|error| error.to_string())?;
    for address in &end.addresses {
        add_address(&end.device, address)?;
    }
    device.enabled(true).map_err(|error| format!("cannot bring it up: {error}"))?;
    Ok(device)
}

/// A child process inherits the namespace of the thread that starts it.
fn add_address(device: &str, address: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(["address", "add", address, "dev", device]);
    if address.contains(':') {
        // Without duplicate detection the address works at once.
        command.arg("nodad");
    }
    let output = command.output().map_err(|error| format!("cannot run ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!("cannot add address {address}: {}", reason.trim()))
}
