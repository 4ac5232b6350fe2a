//! The driver of a build without libdpdk: the same API, nothing behind it.
//!
//! Invariant: no value of these types exists, so nothing here can run but [`Driver::start`].

use super::{PoolStatus, PortStatus};
use crate::clock::Clock;
use crate::config::{self, EalConfig, PortConfig, RouteConfig};
use crate::counters::ShardCounters;
use crate::error::DriverError;
use core::convert::Infallible;
use core::ops::Range;
use mptcp_core::buf::{BufPool, PacketBuf, PortId, RxMeta, TxMeta};
use mptcp_core::driver::Worker;
use mptcp_core::steering::Layout;
use std::sync::Arc;

/// A packet of a driver that does not exist.
#[derive(Debug)]
pub enum Mbuf {}

impl PacketBuf for Mbuf {
    fn data(&self) -> &[u8] {
        match *self {}
    }
    fn data_mut(&mut self) -> Option<&mut [u8]> {
        match *self {}
    }
    fn slice(&self, _range: Range<usize>) -> Self {
        match *self {}
    }
    fn trim_front(&mut self, _n: usize) {
        match *self {}
    }
    fn truncate(&mut self, _len: usize) {
        match *self {}
    }
    fn prepend(&mut self, _n: usize) -> Option<&mut [u8]> {
        match *self {}
    }
    fn append(&mut self, _n: usize) -> Option<&mut [u8]> {
        match *self {}
    }
    fn chain(&mut self, _payload: Self) {
        match *self {}
    }
    fn packet_len(&self) -> usize {
        match *self {}
    }
    fn truesize(&self) -> usize {
        match *self {}
    }
    fn rx_meta(&self) -> RxMeta {
        match *self {}
    }
    fn set_rx_port(&mut self, _port: PortId) {
        match *self {}
    }
    fn set_tx_meta(&mut self, _meta: TxMeta) {
        match *self {}
    }
    fn tx_meta(&self) -> TxMeta {
        match *self {}
    }
}

/// A pool of a driver that does not exist. Outside of this file nobody sees that, or what a program does with
/// its pool would be unreachable to the compiler, which warns of it.
#[derive(Clone, Copy, Debug)]
pub struct MbufPool(Infallible);

impl BufPool<Mbuf> for MbufPool {
    fn alloc(&mut self) -> Option<Mbuf> {
        match self.0 {}
    }
}

/// A driver that does not exist.
#[derive(Debug)]
pub enum Driver {}

impl Driver {
    /// # Errors
    /// [`DriverError::Config`] as with DPDK, else [`DriverError::Missing`].
    pub fn start(
        eal: EalConfig,
        ports: Vec<PortConfig>,
        routes: Vec<RouteConfig>,
    ) -> Result<Self, DriverError> {
        config::validate(&eal, &ports, &routes)?;
        Err(DriverError::Missing { package: "libdpdk-dev" })
    }

    /// See the build with DPDK.
    #[must_use]
    pub fn shards(&self) -> usize {
        match *self {}
    }

    /// See the build with DPDK.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        match *self {}
    }

    /// See the build with DPDK.
    #[must_use]
    pub fn clock(&self) -> Clock {
        match *self {}
    }

    /// See the build with DPDK.
    #[must_use]
    pub fn pool(&self, _shard: usize) -> MbufPool {
        match *self {}
    }

    /// # Errors
    /// None: there is nothing to call it on.
    pub fn run(
        &self,
        _shard: usize,
        _core: usize,
        _worker: &mut impl Worker<Mbuf>,
    ) -> Result<(), DriverError> {
        match *self {}
    }

    /// See the build with DPDK.
    #[must_use]
    pub fn counters(&self) -> &[Arc<ShardCounters>] {
        match *self {}
    }

    /// See the build with DPDK.
    #[must_use]
    pub fn ports(&self) -> Vec<PortStatus> {
        match *self {}
    }

    /// See the build with DPDK.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolStatus> {
        match *self {}
    }

    /// See the build with DPDK.
    pub fn stop(&self) {
        match *self {}
    }

    /// See the build with DPDK.
    pub fn close(self) {
        match self {}
    }
}
