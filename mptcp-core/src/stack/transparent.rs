//! Connections to addresses that are not ours: routers send them here, and the stack speaks for whoever the
//! peer asked for.
//!
//! Invariant: only segments of TCP, and ICMP errors about them, get past the check of addresses, and the rest is
//! refused by an error where there is a listener; without a
//! listener for the port they came in by, and without a connection or one to join, nothing answers them. What an address of
//! ours sent is never taken for a peer's: it is what our own exits say to the world, led back here by mistake.

use super::fast_open::Backlog;
use super::{Listen, Listener, Ready, Sock, SocketId, Stack};
use crate::buf::{PacketBuf, PortId};
use crate::error::OpenError;
use crate::tcp::{PROTOCOL_TCP, Tuple};
use crate::time::Instant;
use crate::wire::{IcmpErrorKind, IpHeader};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

/// Who takes what is not for us.
#[derive(Debug, Default)]
pub(super) struct Transparent {
    /// Ports and their listeners.
    listeners: Vec<(PortId, u32)>,
    /// There was one: connections of its may be left.
    used: bool,
}

impl Transparent {
    pub(super) fn forget(&mut self, listener: u32) {
        self.listeners.retain(|(_, idx)| *idx != listener);
    }
}

impl<B: PacketBuf> Stack<B> {
    /// Listens on every address that a host can have but ours, and on every port of these, for what comes in
    /// by `ports`. Peers are asked not to join the address they connected to (the C flag, RFC 8684 §3.1):
    /// routers may lead a second subflow past us. Our endpoints are announced to them as to others, with
    /// [`crate::config::MptcpConfig::join_port`] where it is set. Text of SYNs is not kept: it comes again.
    ///
    /// What is sent goes out by the port that the SYN came in by.
    ///
    /// # Errors
    /// [`OpenError::AddressInUse`] when one of `ports` has such a listener, [`OpenError::LimitReached`] at
    /// `limits.listeners`.
    pub fn listen_transparent(
        &mut self,
        ports: &[PortId],
        options: &Listen,
    ) -> Result<SocketId, OpenError> {
        if ports.iter().any(|port| self.transparent.listeners.iter().any(|(of, _)| of == port)) {
            return Err(OpenError::AddressInUse);
        }
        let local = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let idx = self.add_listener(local, options)?;
        self.transparent.listeners.extend(ports.iter().map(|port| (*port, idx)));
        self.transparent.used = true;
        self.socket_id(Sock::Listener(idx)).ok_or(OpenError::LimitReached)
    }

    pub(super) fn add_listener(
        &mut self,
        local: SocketAddr,
        options: &Listen,
    ) -> Result<u32, OpenError> {
        let listener = Listener {
            local,
            options: *options,
            marking: self.config.tcp.marking,
            pending: Ready::empty(),
            queue: VecDeque::new(),
            stale: 0,
            requests: 0,
            deferred: 0,
            fast_open: Backlog::default(),
            congestion: None,
        };
        self.listeners.insert(listener).ok_or(OpenError::LimitReached)
    }

    /// A packet to an address that is not ours may be of a connection all the same, or open one.
    pub(super) fn passes(&self, header: &IpHeader) -> bool {
        self.transparent.used
            && matches!(header.protocol, PROTOCOL_TCP | PROTOCOL_ICMP | PROTOCOL_ICMPV6)
            && is_elsewhere(header.dst)
    }

    /// What is no TCP ends here where TCP is taken: its sender hears so, and need not wait to try something else
    /// (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
    pub(super) fn refuse_transit(&mut self, now: Instant, header: &IpHeader, packet: &B) {
        let port = packet.rx_meta().port;
        let is_led_here = self.transparent.listeners.iter().any(|(of, _)| *of == port)
            && is_elsewhere(header.dst)
            && self.local_address(header.dst).is_none()
            && self.local_address(header.src).is_none();
        let own = self
            .own_addresses()
            .map(|local| (local.addr, local.port))
            .find(|(addr, of)| *of == port && addr.is_ipv4() == header.dst.is_ipv4())
            .filter(|_| is_led_here);
        if let Some((own, _)) = own {
            self.say_error(now, IcmpErrorKind::Prohibited, own, packet);
        }
    }

    /// The flow is with an address that is not ours.
    pub(super) fn is_foreign(&self, tuple: &Tuple) -> bool {
        self.local_address(tuple.local_addr).is_none()
    }

    /// A join to where this flow leads would not come here.
    pub(super) fn denies_joins(&self, tuple: &Tuple) -> bool {
        self.config.mptcp.deny_initial || self.is_foreign(tuple)
    }

    /// Who takes a foreign flow that comes in by `port`.
    pub(super) fn find_transparent(&self, tuple: &Tuple, port: PortId) -> Option<u32> {
        let ours = self.local_address(tuple.remote_addr).is_some();
        let found = self.transparent.listeners.iter().find(|(of, _)| *of == port);
        found.filter(|_| !ours && tuple.local_port != 0).map(|(_, idx)| *idx)
    }

    pub(super) fn is_transparent(&self, listener: u32) -> bool {
        self.transparent.listeners.iter().any(|(_, idx)| *idx == listener)
    }
}

/// An address of a host that can be behind a router.
fn is_elsewhere(addr: IpAddr) -> bool {
    let near = match addr {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !near && !addr.is_loopback() && !crate::tcp::is_no_host(&addr)
}
