//! Ethernet ports: found by name, configured with what both sides can do, started, counted.
//!
//! Invariant: a [`Port`] is started as long as it exists; queue handles keep it alive, and each
//! queue is handed out to one owner at a time.

use super::arrival;
use super::batch::{TxBatch, TxCapabilities};
use super::eal::Eal;
use super::mbuf::Mbuf;
use super::pool::MbufPool;
use super::reason;
use crate::config::{MacConfig, Offload, PortConfig};
use crate::eal_args;
use crate::error::DriverError;
use crate::nic::{BURST, Flushed, Pushed, Received};
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering};
use dpdk_sys::{
    DIO_RSS_TCP4, DIO_RSS_TCP6, DIO_RX_TCP_CKSUM, DIO_RX_TCP_LRO, DIO_TX_IPV4_CKSUM,
    DIO_TX_MULTI_SEGS, DIO_TX_TCP_CKSUM, DIO_TX_TCP_TSO, Link, PortConf, PortInfo, PortStats,
};
use mptcp_core::buf::PortId;
use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

/// Descriptors asked for per queue; drivers adjust them.
pub const DESCRIPTORS: u16 = 1024;
/// Buffers of one packet, if the port has no lower limit: a quarter of the shortest queues.
const MOST_BUFFERS: u16 = 64;

/// One started port.
#[derive(Debug)]
pub struct Port {
    dpdk_id: u16,
    id: PortId,
    device: String,
    info: PortInfo,
    mac: [u8; 6],
    tx: TxCapabilities,
    rx_checksum: bool,
    lro: bool,
    rss: bool,
    rx_claimed: Vec<AtomicBool>,
    /// By shard.
    tx_claimed: Vec<AtomicBool>,
    /// By transmit queue: held while somebody sends, where shards share a queue.
    tx_turns: Vec<Mutex<()>>,
}

/// Errors of one step, with the device filled in.
struct Steps<'a>(&'a PortConfig);

impl Steps<'_> {
    fn check(&self, step: &'static str, ret: i32, remedy: &'static str) -> Result<(), DriverError> {
        if ret >= 0 {
            return Ok(());
        }
        let device = self.0.device.clone();
        Err(DriverError::Port { device, step, reason: reason(ret), remedy })
    }

    fn warn(&self, what: &str, ret: i32, instead: &str) {
        if ret < 0 {
            log::warn!("device {}: {what}: {}; {instead}", self.0.device, reason(ret));
        }
    }
}

impl Port {
    /// Brings up `config.device` as access port `id`, with one transmit queue per shard, or as many as
    /// the device has. Queue `i` receives into `rx_pools[i % len]`; where the device lets us choose,
    /// flows whose hash ends in `i` go to the queue of shard `redirection[i]`.
    ///
    /// # Errors
    /// [`DriverError::PortMissing`], [`DriverError::Port`], or [`DriverError::Config`] when the
    /// device cannot do what is asked.
    pub fn open(
        _eal: &Eal,
        config: &PortConfig,
        id: PortId,
        shards: u16,
        redirection: &[u8],
        rx_pools: &[MbufPool],
    ) -> Result<Arc<Self>, DriverError> {
        let missing =
            || DriverError::PortMissing { device: config.device.clone(), present: present() };
        let dpdk_id = find(&config.device).ok_or_else(missing)?;
        let steps = Steps(config);
        let mut info = PortInfo::default();
        // SAFETY: the EAL runs and `info` has the layout the shim fills in.
        let ret = unsafe { dpdk_sys::dio_port_info(dpdk_id, &raw mut info) };
        steps.check(
            "reading its capabilities",
            ret,
            "check that its driver supports this device",
        )?;
        check_limits(config, &info)?;

        let lro = if joins_segments(config, &info) { DIO_RX_TCP_LRO } else { 0 };
        let most_buffers = most_buffers(config, &info);
        let tso = if most_buffers > 0 { DIO_TX_TCP_TSO | DIO_TX_IPV4_CKSUM } else { 0 };
        let wanted_rx = DIO_RX_TCP_CKSUM | lro;
        let wanted_tx = DIO_TX_MULTI_SEGS | DIO_TX_TCP_CKSUM | tso;
        let mut conf = PortConf {
            rx_queues: config.queues,
            tx_queues: shards.min(info.max_tx_queues).max(1),
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
            mtu: config.mtu,
            rx_offloads: wanted_rx & info.rx_offloads,
            tx_offloads: wanted_tx & info.tx_offloads,
            rss: info.rss,
        };
        let pools = rx_pools.iter().cycle().map(MbufPool::raw);
        let mut pools: Vec<_> = pools.take(usize::from(config.queues)).collect();
        if pools.is_empty() {
            let reason = "no receive pool was given".to_owned();
            return Err(DriverError::Memory { what: format!("device {}", config.device), reason });
        }
        // SAFETY: the port exists, `conf` is complete, and `pools` has one entry per receive queue.
        let mut configure = |conf: &PortConf| unsafe {
            dpdk_sys::dio_port_configure(dpdk_id, core::ptr::from_ref(conf), pools.as_mut_ptr())
        };
        let mut ret = configure(&conf);
        if ret < 0 && (lro | tso) != 0 {
            // Some offer what the other end, or the whole of what is asked for, does not allow.
            steps.warn("having it cut and join segments", ret, "it does neither");
            conf.rx_offloads &= DIO_RX_TCP_CKSUM;
            conf.tx_offloads &= DIO_TX_MULTI_SEGS | DIO_TX_TCP_CKSUM;
            ret = configure(&conf);
        }
        let as_many = conf.rx_queues.min(shards).min(info.max_tx_queues);
        if ret < 0 && conf.tx_queues != as_many {
            // Some drivers (tap) want as many of one kind as of the other.
            conf.tx_queues = as_many;
            ret = configure(&conf);
        }
        steps.check("configuring its queues", ret, "lower `queues`, or raise driver.memory_mb")?;
        let (mac, accepted) = apply_addressing(&steps, dpdk_id, &info)?;
        // SAFETY: the port was configured above.
        let ret = unsafe { dpdk_sys::dio_port_start(dpdk_id) };
        steps.check("starting it", ret, "see the EAL's messages above")?;
        apply_filters(&steps, dpdk_id, accepted);
        let rss = conf.rx_queues > 1 && spread(&steps, dpdk_id, &info, redirection);
        if shards > 1 && !rss {
            let queues = config.queues;
            log::info!("device {}: shards hand over what its {queues} queues bring", config.device);
        }

        let claims = |count: u16| (0..count).map(|_| AtomicBool::new(false)).collect();
        Ok(Arc::new(Self {
            dpdk_id,
            id,
            device: config.device.clone(),
            info,
            mac,
            tx: TxCapabilities {
                multi_segs: conf.tx_offloads & DIO_TX_MULTI_SEGS != 0,
                tcp_checksum: conf.tx_offloads & DIO_TX_TCP_CKSUM != 0,
                ip_checksum: conf.tx_offloads & DIO_TX_IPV4_CKSUM != 0,
                most_buffers: if conf.tx_offloads & DIO_TX_TCP_TSO != 0 { most_buffers } else { 0 },
            },
            rx_checksum: conf.rx_offloads & DIO_RX_TCP_CKSUM != 0,
            lro: conf.rx_offloads & DIO_RX_TCP_LRO != 0,
            rss,
            rx_claimed: claims(config.queues),
            tx_claimed: claims(shards),
            tx_turns: (0..conf.tx_queues).map(|_| Mutex::new(())).collect(),
        }))
    }

    /// Its place in the configuration.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.id
    }

    pub(super) fn dpdk_id(&self) -> u16 {
        self.dpdk_id
    }

    /// The device's name.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The driver's name.
    #[must_use]
    pub fn driver(&self) -> &str {
        CStr::from_bytes_until_nul(&self.info.driver)
            .ok()
            .and_then(|name| name.to_str().ok())
            .unwrap_or("unknown")
    }

    /// Station address in use.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// NUMA node; -1 when unknown.
    #[must_use]
    pub fn socket(&self) -> i32 {
        self.info.socket
    }

    /// What sending can leave to the port.
    #[must_use]
    pub fn tx_capabilities(&self) -> TxCapabilities {
        self.tx
    }

    /// Whether received TCP checksums are verified by the port.
    #[must_use]
    pub fn verifies_checksums(&self) -> bool {
        self.rx_checksum
    }

    /// Whether it joins the segments it receives. Some do, at their peer's wish, without being asked to.
    #[must_use]
    pub fn joins_segments(&self) -> bool {
        self.lro
    }

    /// Whether the link is up, and its speed in Mbit/s when known.
    #[must_use]
    pub fn link(&self) -> (bool, Option<u32>) {
        let mut link = Link::default();
        // SAFETY: the port is started; `link` has the layout the shim fills in.
        let ret = unsafe { dpdk_sys::dio_port_link(self.dpdk_id, &raw mut link) };
        let speed = Some(link.speed_mbps).filter(|&speed| speed != u32::MAX && speed != 0);
        (ret == 0 && link.up != 0, speed)
    }

    /// The port's own counters; zero where it has none.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        let mut stats = PortStats::default();
        // SAFETY: the port is started; `stats` has the layout the shim fills in.
        let ret = unsafe { dpdk_sys::dio_port_stats(self.dpdk_id, &raw mut stats) };
        if ret == 0 { stats } else { PortStats::default() }
    }

    /// The driver's extended statistics, by its own names.
    #[must_use]
    pub fn xstats(&self) -> Vec<(String, u64)> {
        let none = core::ptr::null_mut();
        // SAFETY: the port is started; with n = 0 nothing is written.
        let count =
            unsafe { dpdk_sys::dio_port_xstats(self.dpdk_id, none, core::ptr::null_mut(), 0) };
        let Some(count) = usize::try_from(count).ok().filter(|&count| count > 0) else {
            return Vec::new();
        };
        let mut names = vec![[0_u8; 64]; count];
        let mut values = vec![0_u64; count];
        let n = u32::try_from(count).unwrap_or(u32::MAX);
        // SAFETY: both arrays hold n entries.
        let filled = unsafe {
            dpdk_sys::dio_port_xstats(self.dpdk_id, names.as_mut_ptr(), values.as_mut_ptr(), n)
        };
        let filled = usize::try_from(filled).unwrap_or(0);
        let named = names.iter().zip(values).take(filled);
        named.map(|(name, value)| (text(name), value)).collect()
    }

    /// Whether frames for other stations come in too.
    #[must_use]
    pub fn is_promiscuous(&self) -> bool {
        // SAFETY: the port exists while this value does.
        unsafe { dpdk_sys::dio_port_is_promiscuous(self.dpdk_id) > 0 }
    }

    /// Receive queues.
    #[must_use]
    pub fn rx_queue_count(&self) -> u16 {
        u16::try_from(self.rx_claimed.len()).unwrap_or(u16::MAX)
    }

    /// Transmit queues; shards share them where there are fewer.
    #[must_use]
    pub fn tx_queue_count(&self) -> u16 {
        u16::try_from(self.tx_turns.len()).unwrap_or(u16::MAX)
    }

    /// Whether the port itself spreads flows over its queues as it was told to.
    #[must_use]
    pub fn spreads_flows(&self) -> bool {
        self.rss
    }

    /// Its redirection table, where it has one: the queue of each value of a hash's low bits.
    #[must_use]
    pub fn redirection(&self) -> Vec<u16> {
        let mut queues = vec![0; usize::from(self.info.reta_size)];
        // SAFETY: the port is started; `queues` has as many entries as it is told.
        let ret = unsafe {
            dpdk_sys::dio_port_reta(self.dpdk_id, queues.as_mut_ptr(), self.info.reta_size)
        };
        if ret == 0 { queues } else { Vec::new() }
    }

    /// Receive queue `queue`; `None` when it does not exist or somebody has it.
    #[must_use]
    pub fn rx_queue(self: &Arc<Self>, queue: u16, pool: MbufPool) -> Option<RxQueue> {
        claim(&self.rx_claimed, queue)?;
        Some(RxQueue { port: Arc::clone(self), queue, pool })
    }

    /// What shard `shard` sends with; `None` when there is no such shard or it has its own already.
    #[must_use]
    pub fn tx_queue(
        self: &Arc<Self>,
        shard: u16,
        pool: MbufPool,
        capacity: usize,
    ) -> Option<TxQueue> {
        claim(&self.tx_claimed, shard)?;
        let queue = shard % self.tx_queue_count().max(1);
        let shared = self.tx_claimed.len() > self.tx_turns.len();
        let (port, batch) = (Arc::clone(self), TxBatch::new(capacity));
        Some(TxQueue { port, shard, queue, shared, tx: self.tx, pool, batch })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // SAFETY: no queue handle exists any more (each keeps the port alive), so nobody polls it.
        let ret = unsafe { dpdk_sys::dio_port_stop(self.dpdk_id) };
        if ret != 0 {
            log::warn!("device {}: stopping it: {}", self.device, reason(ret));
        }
        // SAFETY: stopped above; the id is not used again.
        let ret = unsafe { dpdk_sys::dio_port_close(self.dpdk_id) };
        if ret != 0 {
            log::warn!("device {}: closing it: {}", self.device, reason(ret));
        }
    }
}

/// The one receiver of a queue.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Port>,
    queue: u16,
    pool: MbufPool,
}

impl RxQueue {
    /// Appends what has arrived, at most [`BURST`] frames, to `into`.
    pub fn receive(&mut self, into: &mut Vec<Mbuf>) -> Received {
        // SAFETY: the claim makes this handle the queue's only user, and the port is started.
        unsafe { arrival::receive(self.port.dpdk_id, self.queue, self.port.id, &self.pool, into) }
    }
}

impl Drop for RxQueue {
    fn drop(&mut self) {
        release(&self.port.rx_claimed, self.queue);
    }
}

/// One shard's way to a transmit queue, with what waits for it.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Port>,
    shard: u16,
    queue: u16,
    /// Other shards send on this queue, too.
    shared: bool,
    tx: TxCapabilities,
    pool: MbufPool,
    batch: TxBatch,
}

impl TxQueue {
    /// Queues a complete Ethernet frame.
    pub fn push(&mut self, frame: Mbuf) -> Pushed {
        self.batch.push(frame, self.tx, &self.pool)
    }

    /// Sends what the port takes; where others use the queue, too, when it is this shard's turn.
    pub fn flush(&mut self) -> Flushed {
        let prepare = self.tx.tcp_checksum;
        let turn = self.port.tx_turns.get(usize::from(self.queue)).filter(|_| self.shared);
        let _turn = turn.map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner));
        // SAFETY: the claim, or the lock, makes this handle the queue's only user, and the port is
        // started.
        unsafe { self.batch.flush(self.port.dpdk_id, self.queue, prepare) }
    }

    /// Frees what waits; returns how many frames that were.
    pub fn clear(&mut self) -> usize {
        self.batch.clear()
    }

    /// Whether segments that follow on each other leave in one piece.
    #[must_use]
    pub fn cuts_segments(&self) -> bool {
        self.tx.cuts_segments()
    }

    /// What a test knows of a driver that does not tell: `net_vhost` passes on what its guest takes in one piece.
    #[doc(hidden)]
    pub fn assume(&mut self, tx: TxCapabilities) {
        self.tx = tx;
    }

    /// Frames waiting.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.batch.len()
    }

    /// Frames that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.batch.room()
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        release(&self.port.tx_claimed, self.shard);
    }
}

/// Every `--vdev` of the EAL words must have become a port: the EAL starts happily without it when
/// its arguments were wrong.
///
/// # Errors
/// [`DriverError::PortMissing`] naming the first that did not.
pub fn check_vdevs(_eal: &Eal, words: &[String]) -> Result<(), DriverError> {
    let mut networks =
        eal_args::vdev_names(words).into_iter().filter(|name| name.starts_with("net_"));
    match networks.find(|name| find(name).is_none()) {
        Some(device) => Err(DriverError::PortMissing { device, present: present() }),
        None => Ok(()),
    }
}

fn find(device: &str) -> Option<u16> {
    let name = CString::new(device).ok()?;
    let mut id = u16::MAX;
    // SAFETY: the EAL runs (callers hold an `Eal`); the name is NUL-terminated.
    let ret = unsafe { dpdk_sys::dio_port_by_name(name.as_ptr(), &raw mut id) };
    (ret == 0).then_some(id)
}

fn present() -> Vec<String> {
    let mut names = Vec::new();
    let mut from = 0_u16;
    loop {
        let mut name = [0_u8; 64];
        // SAFETY: the EAL runs; the buffer has the size the shim expects.
        let id = unsafe { dpdk_sys::dio_port_next(from, &raw mut name) };
        if id == u16::MAX {
            return names;
        }
        names.push(text(&name));
        from = id + 1;
    }
}

/// Tells the port which queue gets what. False when flows go where the port likes.
fn spread(steps: &Steps<'_>, dpdk_id: u16, info: &PortInfo, redirection: &[u8]) -> bool {
    const ELSEWHERE: &str = "shards hand each other over what arrives at the wrong queue";
    let device = &steps.0.device;
    let tcp = DIO_RSS_TCP4 | DIO_RSS_TCP6;
    // SAFETY: the port is started.
    let has_key = info.rss & tcp != 0 && unsafe { dpdk_sys::dio_port_set_rss_key(dpdk_id) } == 0;
    if !has_key || info.reta_size == 0 {
        log::warn!(
            "device {device} spreads flows over its queues by a rule of its own; {ELSEWHERE}"
        );
        return false;
    }
    let queue_of = |shard: &u8| u16::from(*shard) % steps.0.queues.max(1);
    let size = usize::from(info.reta_size);
    let queues: Vec<u16> = redirection.iter().cycle().map(queue_of).take(size).collect();
    if queues.len() < size {
        return false;
    }
    // SAFETY: the port is started; `queues` has as many entries as it is told.
    let ret = unsafe { dpdk_sys::dio_port_set_reta(dpdk_id, queues.as_ptr(), info.reta_size) };
    steps.warn("setting its redirection table", ret, ELSEWHERE);
    ret >= 0
}

/// Most buffers of a packet that the port is to cut into segments; 0: it is to cut none.
///
/// A frame on the wire is made from headers and a segment's text, which may be in two buffers. One driver cuts
/// in software, and IPv4 only (`net_tap`): there is nothing to gain.
fn most_buffers(config: &PortConfig, info: &PortInfo) -> u16 {
    let needed = DIO_TX_MULTI_SEGS | DIO_TX_TCP_CKSUM | DIO_TX_TCP_TSO;
    let cuts = config.tso == Offload::Auto
        && info.tx_offloads & needed == needed
        && info.tx_mtu_segments > 2
        && !info.driver.starts_with(b"net_tap\0");
    if cuts { info.tx_segments.min(MOST_BUFFERS) } else { 0 }
}

/// Only with verified checksums: what was joined has none of its own.
fn joins_segments(config: &PortConfig, info: &PortInfo) -> bool {
    let needed = DIO_RX_TCP_CKSUM | DIO_RX_TCP_LRO;
    config.lro == Offload::Auto && info.rx_offloads & needed == needed
}

fn check_limits(config: &PortConfig, info: &PortInfo) -> Result<(), DriverError> {
    let most = info.max_rx_queues;
    if config.queues > most {
        return Err(DriverError::Config {
            key: format!("port {}: queues", config.name),
            value: config.queues.to_string(),
            remedy: format!("device {} has at most {most}", config.device),
        });
    }
    if config.mtu > info.max_mtu && config.mtu > info.mtu {
        return Err(DriverError::Config {
            key: format!("port {}: mtu", config.name),
            value: config.mtu.to_string(),
            remedy: format!("device {} takes at most {}", config.device, info.max_mtu),
        });
    }
    Ok(())
}

/// MTU and station address; returns the address in use, and whether the port accepted it.
fn apply_addressing(
    steps: &Steps<'_>,
    dpdk_id: u16,
    info: &PortInfo,
) -> Result<([u8; 6], bool), DriverError> {
    let config = steps.0;
    if config.mtu != info.mtu {
        // SAFETY: the port is configured.
        let ret = unsafe { dpdk_sys::dio_port_set_mtu(dpdk_id, config.mtu) };
        if config.mtu > info.mtu {
            steps.check("setting its MTU", ret, "lower `mtu`")?;
        } else {
            steps.warn("setting its MTU", ret, "it will accept longer packets than it should");
        }
    }
    let mut mac = info.mac;
    let mut accepted = true;
    if let MacConfig::Fixed(fixed) = config.mac {
        // SAFETY: the port is configured; the address is six bytes.
        let ret = unsafe { dpdk_sys::dio_port_set_mac(dpdk_id, &raw const fixed) };
        steps.warn("setting its station address", ret, "relying on promiscuous mode");
        accepted = ret >= 0;
        mac = fixed;
    }
    Ok((mac, accepted))
}

/// Which frames come in. `accepted`: the port knows its station address.
///
/// The port runs: vmxnet3 tells its card at once, which before that would look for it at address 0, where an
/// IOMMU stops it.
fn apply_filters(steps: &Steps<'_>, dpdk_id: u16, accepted: bool) {
    // SAFETY: the port is started.
    let filtered = unsafe { dpdk_sys::dio_port_allmulticast(dpdk_id) } >= 0 && accepted;
    // What others say to others stays outside where the port can tell it apart.
    if !filtered {
        // SAFETY: as above.
        let ret = unsafe { dpdk_sys::dio_port_promiscuous(dpdk_id) };
        steps.warn("receiving every frame", ret, "frames for us may not reach it");
    }
}

fn claim(claims: &[AtomicBool], queue: u16) -> Option<()> {
    let claimed = claims.get(usize::from(queue))?;
    (!claimed.swap(true, Ordering::AcqRel)).then_some(())
}

fn release(claims: &[AtomicBool], queue: u16) {
    if let Some(claimed) = claims.get(usize::from(queue)) {
        claimed.store(false, Ordering::Release);
    }
}

fn text(name: &[u8; 64]) -> String {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned()
}

const _: () = assert!(BURST <= u16::MAX as usize);
