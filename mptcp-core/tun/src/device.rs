//! One TUN device: created, configured and brought up here, gone when dropped.
//!
//! Invariant: the descriptor is non-blocking and carries one IP packet per read or write, bare or, with offloads,
//! behind a `virtio_net_hdr`; never with packet information.

use crate::error::TunError;
use ipnet::IpNet;
use nix::sys::uio::writev;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use tun_rs::{DeviceBuilder, SyncDevice};

/// The longest interface name Linux takes (`IFNAMSIZ` less the terminator).
const NAME_MAX_LEN: usize = 15;
/// The smallest MTU at which Linux keeps IPv6 on an interface (RFC 8200 §5).
const IPV6_MIN_MTU: u16 = 1280;
/// The smallest MTU an IPv4 link may have (RFC 791 §3.2).
const IPV4_MIN_MTU: u16 = 68;

/// What the loop needs of a device. [`TunDevice`] is the real one; tests use a datagram socket.
pub trait PacketDevice: AsFd {
    /// Reads one IP packet into the front of `into` and tells its length.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; anything else ends the loop.
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Hands over one IP packet.
    ///
    /// # Errors
    /// `WouldBlock` when the device is full; anything else loses this packet only.
    fn send(&mut self, packet: &[u8]) -> io::Result<()>;

    /// The longest IP packet in bytes.
    fn mtu(&self) -> u16;

    /// What operators call it.
    fn name(&self) -> &str;

    /// Whether each packet, in both directions, has a `virtio_net_hdr` of 10 octets in front of it, in the order of this
    /// machine (the kernel's `IFF_VNET_HDR`): then TCP checksums may be left to the receiver, and a packet
    /// may be segments in one piece, of up to 64 KiB.
    fn has_offloads(&self) -> bool {
        false
    }

    /// Hands over one packet that is in several places. What a device with offloads sends goes this way.
    ///
    /// # Errors
    /// As [`PacketDevice::send`].
    fn send_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let whole: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.send(&whole)
    }
}

/// A device to create.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// Interface name, 1 to 15 bytes; the interface must not exist, or be persistent and unused.
    pub name: String,
    /// Addresses of the *kernel's* end, not of the stack; each brings its on-link route. Optional:
    /// routes may be added by other means. At most one is IPv4.
    pub kernel_addresses: Vec<IpNet>,
    /// Bytes of the longest IP packet, at least 68, and 1280 where IPv6 is used.
    pub mtu: u16,
    /// Segments of one flow go to the kernel and come from it in one piece, and TCP checksums are summed by
    /// whoever needs them: several times cheaper for bulk data, and nothing else changes. Who captures on the
    /// device sees long packets and, as on any card with offloads, checksums that are not complete.
    pub offload: bool,
}

/// A TUN device that is up. Dropping it removes the interface and its routes.
pub struct TunDevice {
    device: SyncDevice,
    name: String,
    mtu: u16,
    offload: bool,
}

impl TunDevice {
    /// Creates the interface in the caller's network namespace, gives it its addresses and MTU,
    /// and brings it up. Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// [`TunError::Config`] before anything is touched, [`TunError::Create`] with the kernel's
    /// answer after.
    pub fn create(config: &TunConfig) -> Result<Self, TunError> {
        let ipv4 = check(config)?;
        let failed =
            |doing| move |source| TunError::Create { device: config.name.clone(), doing, source };
        let mut builder = DeviceBuilder::new()
            .name(&config.name)
            .mtu(config.mtu)
            .packet_information(false)
            .offload(config.offload);
        if let Some(net) = ipv4 {
            builder = builder.ipv4(net.addr(), net.prefix_len(), None);
        }
        let device = builder.build_sync().map_err(failed("create and configure it"))?;
        for net in &config.kernel_addresses {
            if let IpNet::V6(net) = net {
                device
                    .add_address_v6(net.addr(), net.prefix_len())
                    .map_err(failed("add an IPv6 address (is IPv6 enabled in this namespace?)"))?;
            }
        }
        device.set_nonblocking(true).map_err(failed("make it non-blocking"))?;
        let offload = device.tcp_gso();
        Ok(Self { device, name: config.name.clone(), mtu: config.mtu, offload })
    }
}

impl PacketDevice for TunDevice {
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.device.recv(into)
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        // A TUN write takes the whole packet or fails.
        self.device.send(packet).map(|_| ())
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn has_offloads(&self) -> bool {
        self.offload
    }

    fn send_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        writev(&self.device, parts).map(|_| ()).map_err(io::Error::from)
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl core::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TunDevice")
            .field("name", &self.name)
            .field("mtu", &self.mtu)
            .finish_non_exhaustive()
    }
}

/// Refuses what the kernel would take and mangle, or refuse without saying why. Answers the one
/// IPv4 address.
fn check(config: &TunConfig) -> Result<Option<ipnet::Ipv4Net>, TunError> {
    let refuse = |reason: String| TunError::Config { device: config.name.clone(), reason };
    let name = &config.name;
    if name.is_empty() || name.len() > NAME_MAX_LEN {
        return Err(refuse(format!(
            "the name has {} bytes; Linux takes 1 to {NAME_MAX_LEN}",
            name.len()
        )));
    }
    // `%` makes the kernel number the interface, and we would not know the name it got.
    let is_refused = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    if matches!(name.as_str(), "." | "..") || name.contains(is_refused) {
        return Err(refuse("the name may not contain '/', ':', '%' or white space".into()));
    }
    let mut ipv4 = config.kernel_addresses.iter().filter_map(|net| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    });
    let first = ipv4.next();
    if let Some(second) = ipv4.next() {
        return Err(refuse(format!(
            "a second IPv4 address, {second}; add it with `ip address add`"
        )));
    }
    let has_ipv6 = config.kernel_addresses.iter().any(|net| matches!(net, IpNet::V6(_)));
    let min = if has_ipv6 { IPV6_MIN_MTU } else { IPV4_MIN_MTU };
    if config.mtu < min {
        let family = if has_ipv6 { "IPv6" } else { "IPv4" };
        return Err(refuse(format!("mtu = {} is below {min}, the least for {family}", config.mtu)));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, addresses: &[&str], mtu: u16) -> TunConfig {
        let kernel_addresses = addresses.iter().map(|net| net.parse().unwrap()).collect();
        TunConfig { name: name.into(), kernel_addresses, mtu, offload: true }
    }

    #[test]
    fn names_addresses_and_mtus_the_kernel_would_mangle_are_refused() {
        let refused = [
            (config("", &[], 1500), "0 bytes"),
            (config("sixteen-bytes-ab", &[], 1500), "16 bytes"),
            (config("a/b", &[], 1500), "'/'"),
            (config("tun%d", &[], 1500), "'%'"),
            (config("a b", &[], 1500), "white space"),
            (config("..", &[], 1500), "name"),
            (config("t", &["10.0.0.1/24", "10.0.1.1/24"], 1500), "10.0.1.1/24"),
            (config("t", &[], 67), "mtu = 67"),
            (config("t", &["fd00::1/64"], 1279), "1280"),
        ];
        for (config, expected) in refused {
            let error = check(&config).expect_err(&format!("{config:?}")).to_string();
            assert!(error.contains(expected), "{error:?} does not mention {expected:?}");
        }
        let both = config("fifteen-bytes-a", &["fd00::1/64", "10.0.0.1/24"], 1280);
        assert_eq!(check(&both).unwrap(), Some("10.0.0.1/24".parse().unwrap()));
    }
}
