//! Declarations that mirror `shim/shim.h` one to one.

use core::ffi::{c_char, c_int};
use core::sync::atomic::AtomicU16;

/// A mempool; only ever behind a pointer.
#[repr(C)]
pub struct RteMempool {
    opaque: [u8; 0],
}

/// A ring between two threads; only ever behind a pointer.
#[repr(C)]
pub struct RteRing {
    opaque: [u8; 0],
}

/// A rule of a port; only ever behind a pointer.
#[repr(C)]
pub struct RteFlow {
    opaque: [u8; 0],
}

/// The packet descriptor: the fields used from Rust, at the offsets `shim.c` asserts.
#[repr(C, align(64))]
pub struct RteMbuf {
    /// Start of the buffer (not of the data).
    pub buf_addr: *mut u8,
    buf_iova: u64,
    /// Where the data starts in the buffer.
    pub data_off: u16,
    /// References to this descriptor, views of ours and the NIC's alike.
    pub refcnt: AtomicU16,
    /// Segments of the packet; meaningful in the first one.
    pub nb_segs: u16,
    /// Receiving port.
    pub port: u16,
    /// `RX_*` results, `INDIRECT` and `EXTERNAL`.
    pub ol_flags: u64,
    /// Packet type as the driver classified it.
    pub packet_type: u32,
    /// Bytes of all segments; meaningful in the first one.
    pub pkt_len: u32,
    /// Bytes of this segment.
    pub data_len: u16,
    vlan_tci: u16,
    /// RSS hash, when the port computed one.
    pub rss: u32,
    rest_of_hash: u32,
    vlan_tci_outer: u16,
    /// Bytes of the buffer.
    pub buf_len: u16,
    /// Where the descriptor returns to.
    pub pool: *mut RteMempool,
    /// Next segment.
    pub next: *mut Self,
    second_line: [u64; 7],
}

const _: () = {
    assert!(size_of::<RteMbuf>() == 128);
    assert!(core::mem::offset_of!(RteMbuf, data_off) == 16);
    assert!(core::mem::offset_of!(RteMbuf, refcnt) == 18);
    assert!(core::mem::offset_of!(RteMbuf, nb_segs) == 20);
    assert!(core::mem::offset_of!(RteMbuf, port) == 22);
    assert!(core::mem::offset_of!(RteMbuf, ol_flags) == 24);
    assert!(core::mem::offset_of!(RteMbuf, packet_type) == 32);
    assert!(core::mem::offset_of!(RteMbuf, pkt_len) == 36);
    assert!(core::mem::offset_of!(RteMbuf, data_len) == 40);
    assert!(core::mem::offset_of!(RteMbuf, rss) == 44);
    assert!(core::mem::offset_of!(RteMbuf, buf_len) == 54);
    assert!(core::mem::offset_of!(RteMbuf, pool) == 56);
    assert!(core::mem::offset_of!(RteMbuf, next) == 64);
};

/// `ol_flags`: the port found the L4 checksum wrong. With [`RX_L4_CKSUM_GOOD`]: not correct in
/// the bytes, but the data is known to be intact.
pub const RX_L4_CKSUM_BAD: u64 = 1 << 3;
/// `ol_flags`: the driver took the VLAN tag out of the frame.
pub const RX_VLAN_STRIPPED: u64 = 1 << 6;
/// `ol_flags`: the port verified the L4 checksum.
pub const RX_L4_CKSUM_GOOD: u64 = 1 << 8;
/// `ol_flags`: the buffer belongs to something other than an mbuf.
pub const EXTERNAL: u64 = 1 << 61;
/// `ol_flags`: the buffer belongs to another mbuf.
pub const INDIRECT: u64 = 1 << 62;

/// Receive offload bit of [`PortInfo`] and [`PortConf`]: TCP checksum verification.
pub const DIO_RX_TCP_CKSUM: u32 = 1;
/// Receive offload bit: segments of one flow are joined.
pub const DIO_RX_TCP_LRO: u32 = 2;
/// Transmit offload bit: packets of several segments.
pub const DIO_TX_MULTI_SEGS: u32 = 1;
/// Transmit offload bit: TCP checksum completion.
pub const DIO_TX_TCP_CKSUM: u32 = 2;
/// Transmit offload bit: TCP segmentation.
pub const DIO_TX_TCP_TSO: u32 = 4;
/// Transmit offload bit: IPv4 header checksum.
pub const DIO_TX_IPV4_CKSUM: u32 = 8;
/// RSS bit of [`PortInfo`]: flows of TCP over IPv4.
pub const DIO_RSS_TCP4: u32 = 1;
/// RSS bit: flows of TCP over IPv6.
pub const DIO_RSS_TCP6: u32 = 2;

/// `struct dio_port_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PortInfo {
    /// Driver name, NUL-terminated.
    pub driver: [u8; 32],
    /// Current station address.
    pub mac: [u8; 6],
    /// Current MTU.
    pub mtu: u16,
    /// Largest MTU.
    pub max_mtu: u16,
    /// Most receive queues.
    pub max_rx_queues: u16,
    /// Most transmit queues.
    pub max_tx_queues: u16,
    /// `DIO_RX_*` the port is capable of.
    pub rx_offloads: u32,
    /// `DIO_TX_*` the port is capable of.
    pub tx_offloads: u32,
    /// `DIO_RSS_*`: which TCP flows can be spread over queues.
    pub rss: u32,
    /// Entries of the redirection table; 0 when it cannot be set.
    pub reta_size: u16,
    /// Most mbufs of a packet to be sent.
    pub tx_segments: u16,
    /// Most of them that a frame on the wire is made from.
    pub tx_mtu_segments: u16,
    /// NUMA node; -1 when unknown.
    pub socket: i32,
}

/// `struct dio_port_conf`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PortConf {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors per receive queue; adjusted to what the driver takes.
    pub rx_descriptors: u16,
    /// Descriptors per transmit queue; adjusted likewise.
    pub tx_descriptors: u16,
    /// Largest IP packet.
    pub mtu: u16,
    /// `DIO_RX_*` to enable; must be among the capabilities.
    pub rx_offloads: u32,
    /// `DIO_TX_*` to enable; must be among the capabilities.
    pub tx_offloads: u32,
    /// 1 spreads flows over the receive queues.
    pub rss: u32,
}

/// `struct dio_port_stats`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets the port dropped because no descriptor was free.
    pub rx_missed: u64,
    /// Erroneous packets received.
    pub rx_errors: u64,
    /// Receive buffer allocation failures.
    pub rx_nombuf: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// `struct dio_flow`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Source address in network order; IPv4 in the first four octets.
    pub src: [u8; 16],
    /// Destination address likewise.
    pub dst: [u8; 16],
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// 1 for IPv6.
    pub v6: u32,
}

/// `struct dio_tso`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Tso {
    /// Length of the Ethernet header.
    pub l2_len: u16,
    /// Length of the IP header.
    pub l3_len: u16,
    /// Length of the TCP header.
    pub l4_len: u16,
    /// Text of each segment.
    pub mss: u16,
    /// 1 for IPv6.
    pub v6: u32,
    /// 1 where the port works out checksums of IPv4 headers.
    pub ip_checksum: u32,
}

/// `struct dio_link`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// 1 when the link is up.
    pub up: u32,
    /// Speed in Mbit/s; `u32::MAX` when unknown.
    pub speed_mbps: u32,
}

/// Receives one piece of EAL log text: `RTE_LOG_*` level, bytes (not NUL-terminated), length.
pub type LogSink = extern "C" fn(level: u32, text: *const c_char, len: usize);

#[expect(missing_docs, reason = "shim.h, which this mirrors line by line, documents them")]
unsafe extern "C" {
    pub fn dio_version() -> *const c_char;
    pub fn dio_strerror(error: c_int) -> *const c_char;

    pub fn dio_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int;
    pub fn dio_eal_cleanup() -> c_int;
    pub fn dio_log_to(sink: LogSink) -> c_int;
    pub fn dio_thread_register() -> c_int;
    pub fn dio_thread_unregister();
    pub fn dio_thread_socket() -> c_int;

    pub fn dio_pool_create(
        name: *const c_char,
        count: u32,
        cache: u32,
        data_room: u16,
        clones: *mut RteMempool,
        socket: c_int,
        error: *mut c_int,
    ) -> *mut RteMempool;
    pub fn dio_pool_free(pool: *mut RteMempool);
    pub fn dio_pool_in_use(pool: *const RteMempool) -> u32;
    pub fn dio_pool_shared(pool: *const RteMempool) -> u32;
    pub fn dio_pool_element_size(pool: *const RteMempool) -> u32;
    pub fn dio_clones_of(pool: *mut RteMempool) -> *mut RteMempool;

    pub fn dio_alloc(pool: *mut RteMempool) -> *mut RteMbuf;
    pub fn dio_alloc_bulk(pool: *mut RteMempool, into: *mut *mut RteMbuf, n: u32) -> c_int;
    pub fn dio_free_chain(mbuf: *mut RteMbuf);
    pub fn dio_free_segment(mbuf: *mut RteMbuf);
    pub fn dio_free_bulk(mbufs: *mut *mut RteMbuf, n: u32);
    pub fn dio_clone(mbuf: *mut RteMbuf, off: u16, len: u16) -> *mut RteMbuf;
    pub fn dio_copy_flat(pool: *mut RteMempool, packet: *mut RteMbuf) -> *mut RteMbuf;

    pub fn dio_port_by_name(name: *const c_char, port: *mut u16) -> c_int;
    pub fn dio_port_next(port: u16, name: *mut [u8; 64]) -> u16;
    pub fn dio_port_info(port: u16, info: *mut PortInfo) -> c_int;
    pub fn dio_port_configure(
        port: u16,
        conf: *const PortConf,
        rx_pools: *mut *mut RteMempool,
    ) -> c_int;
    pub fn dio_port_start(port: u16) -> c_int;
    pub fn dio_port_set_reta(port: u16, queues: *const u16, size: u16) -> c_int;
    pub fn dio_port_reta(port: u16, queues: *mut u16, size: u16) -> c_int;
    pub fn dio_port_set_rss_key(port: u16) -> c_int;
    pub fn dio_port_stop(port: u16) -> c_int;
    pub fn dio_port_close(port: u16) -> c_int;
    pub fn dio_port_promiscuous(port: u16) -> c_int;
    pub fn dio_port_is_promiscuous(port: u16) -> c_int;
    pub fn dio_port_allmulticast(port: u16) -> c_int;
    pub fn dio_port_set_mac(port: u16, mac: *const [u8; 6]) -> c_int;
    pub fn dio_port_set_mtu(port: u16, mtu: u16) -> c_int;
    pub fn dio_port_link(port: u16, link: *mut Link) -> c_int;
    pub fn dio_port_stats(port: u16, stats: *mut PortStats) -> c_int;
    pub fn dio_port_xstats(port: u16, names: *mut [u8; 64], values: *mut u64, n: u32) -> c_int;
    pub fn dio_flow_create(
        port: u16,
        flow: *const Flow,
        queue: u16,
        error: *mut c_int,
    ) -> *mut RteFlow;
    pub fn dio_flow_destroy(port: u16, rule: *mut RteFlow) -> c_int;
    pub fn dio_ring_create(size: u32, socket: c_int, error: *mut c_int) -> *mut RteRing;
    pub fn dio_ring_free(ring: *mut RteRing);
    pub fn dio_ring_enqueue(ring: *mut RteRing, mbufs: *mut *mut RteMbuf, n: u32) -> u32;
    pub fn dio_ring_dequeue(ring: *mut RteRing, into: *mut *mut RteMbuf, n: u32) -> u32;
    pub fn dio_vdev_create(name: *const c_char, args: *const c_char) -> c_int;
    pub fn dio_vdev_remove(name: *const c_char) -> c_int;

    pub fn dio_rx_burst(port: u16, queue: u16, into: *mut *mut RteMbuf, n: u16) -> u16;
    pub fn dio_tx_burst(port: u16, queue: u16, mbufs: *mut *mut RteMbuf, n: u16) -> u16;
    pub fn dio_tx_prepare(port: u16, queue: u16, mbufs: *mut *mut RteMbuf, n: u16) -> u16;
    pub fn dio_vlan_restore(mbuf: *mut *mut RteMbuf) -> c_int;
    pub fn dio_request_tcp_checksum(mbuf: *mut RteMbuf, l2_len: u16, l3_len: u16, v6: c_int);
    pub fn dio_request_tso(mbuf: *mut RteMbuf, tso: *const Tso);
}
