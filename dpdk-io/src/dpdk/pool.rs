//! Packet memory: one mempool of buffers per NUMA node, and beside it one of bare descriptors for
//! further views of those buffers.
//!
//! Invariant: pools live until the process ends, so packets carry no lifetime.

use super::eal::Eal;
use super::mbuf::Mbuf;
use super::reason;
use crate::error::DriverError;
use core::ptr::NonNull;
use dpdk_sys::RteMempool;
use mptcp_core::buf::BufPool;
use std::ffi::CString;

/// Headroom of a fresh buffer (`RTE_PKTMBUF_HEADROOM`).
pub const HEADROOM: u16 = 128;

/// Buffers hold at least what every driver's default receive buffer holds.
const SMALLEST_DATA: u32 = 2048;

/// Size of an ordinary page.
const PAGE: u64 = 4096;

/// Objects a thread keeps for itself; mempools refuse caches above two thirds of the pool.
const CACHE: u32 = 256;

/// How large a pool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolSize {
    /// Buffers.
    pub count: u32,
    /// Bytes of each buffer, headroom included.
    pub data_room: u16,
}

impl PoolSize {
    /// What fits into `memory_mb` MiB beside the ports' rings, for frames of packets up to `mtu`.
    /// On ordinary pages (`!huge`) a mempool starts every buffer on a page of its own, because
    /// buffers must be contiguous for devices too.
    #[must_use]
    pub fn for_memory(memory_mb: u32, mtu: u16, huge: bool) -> Self {
        // Ethernet header, VLAN tag, and slack for a driver that counts the FCS.
        let data = (u32::from(mtu) + 14 + 4 + 8).next_multiple_of(64).max(SMALLEST_DATA);
        let data_room = u16::try_from(data + u32::from(HEADROOM)).unwrap_or(u16::MAX);
        // Descriptor, mempool header, padding to spread elements over memory channels.
        let element = u64::from(data_room) + 128 + 192;
        let element = if huge { element } else { element.next_multiple_of(PAGE) };
        let bytes = u64::from(memory_mb) * 1024 * 1024 / 4 * 3;
        let count = u32::try_from(bytes / element).unwrap_or(u32::MAX >> 1);
        Self { count, data_room }
    }
}

/// A handle on a pool; cheap to copy, usable from any thread.
#[derive(Clone, Copy, Debug)]
pub struct MbufPool {
    buffers: NonNull<RteMempool>,
    clones: NonNull<RteMempool>,
    /// Buffers for the longest packets, few.
    long: Option<NonNull<RteMempool>>,
    count: u32,
    /// Bytes that fit into a buffer behind its headroom.
    room: u16,
    /// Buffers this handle leaves to others.
    reserve: u32,
    copies_chains: bool,
}

// SAFETY: mempools are made for concurrent use by any thread; the handle holds nothing else.
unsafe impl Send for MbufPool {}
// SAFETY: as above; every operation through `&MbufPool` is one the mempool synchronises.
unsafe impl Sync for MbufPool {}

impl MbufPool {
    /// Makes a pool on NUMA node `socket` (-1: any). `name` must be new to the process and at most
    /// 20 bytes long.
    ///
    /// # Errors
    /// [`DriverError::Memory`].
    pub fn create(
        _eal: &Eal,
        name: &str,
        size: PoolSize,
        socket: i32,
    ) -> Result<Self, DriverError> {
        let clones = create_mempool(&format!("{name}_v"), size.count, 0, None, socket)?;
        let made = create_mempool(name, size.count, size.data_room, Some(clones), socket);
        if made.is_err() {
            // SAFETY: created above and not used by anything.
            unsafe { dpdk_sys::dio_pool_free(clones.as_ptr()) };
        }
        let buffers = made?;
        Ok(Self {
            buffers,
            clones,
            long: None,
            count: size.count,
            room: size.data_room - HEADROOM,
            reserve: 0,
            copies_chains: false,
        })
    }

    /// The same pool with `count` buffers for the longest packets beside it, for [`BufPool::alloc_long`]. `name` as
    /// for [`MbufPool::create`].
    ///
    /// # Errors
    /// [`DriverError::Memory`].
    pub fn with_long(
        self,
        _eal: &Eal,
        name: &str,
        count: u32,
        socket: i32,
    ) -> Result<Self, DriverError> {
        let long = create_mempool(name, count, u16::MAX, Some(self.clones), socket)?;
        Ok(Self { long: Some(long), ..self })
    }

    /// The same pool for what keeps its buffers: this handle is short ([`BufPool::is_short`]) when
    /// `reserve` buffers are left, and refuses when half of them are. The other half lets an
    /// application that only answers go on.
    #[must_use]
    pub fn with_reserve(self, reserve: u32) -> Self {
        Self { reserve, ..self }
    }

    /// The same pool, whose buffers copy what is chained to them: for use where no port sends
    /// packets of several segments.
    #[must_use]
    pub fn copying_chains(self) -> Self {
        Self { copies_chains: true, ..self }
    }

    /// Buffers held by anyone: packets of the stack, ports' receive rings, packets being sent.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives until the process ends.
        unsafe { dpdk_sys::dio_pool_in_use(self.buffers.as_ptr()) }
    }

    /// Descriptors of further views held by anyone.
    #[must_use]
    pub fn clones_in_use(&self) -> u32 {
        // SAFETY: the pool lives until the process ends.
        unsafe { dpdk_sys::dio_pool_in_use(self.clones.as_ptr()) }
    }

    /// Buffers in all.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of memory per buffer, descriptor and padding included.
    #[must_use]
    pub fn element_size(&self) -> u32 {
        // SAFETY: the pool lives until the process ends.
        unsafe { dpdk_sys::dio_pool_element_size(self.buffers.as_ptr()) }
    }

    /// Nothing is left for this handle but `reserve` buffers. Counted is what any thread can have,
    /// without what others keep in their caches.
    fn reaches(&self, reserve: u32) -> bool {
        // SAFETY: the pool lives until the process ends.
        self.reserve > 0 && unsafe { dpdk_sys::dio_pool_shared(self.buffers.as_ptr()) } <= reserve
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.buffers == other.buffers
    }

    /// Bytes that fit into a buffer behind its headroom.
    pub(crate) fn room(&self) -> u16 {
        self.room
    }

    pub(crate) fn raw(&self) -> *mut RteMempool {
        self.buffers.as_ptr()
    }
}

impl BufPool<Mbuf> for MbufPool {
    fn alloc(&mut self) -> Option<Mbuf> {
        if self.reaches(self.reserve / 2) {
            return None;
        }
        // SAFETY: the pool lives until the process ends; the mbuf returned is ours alone.
        let raw = NonNull::new(unsafe { dpdk_sys::dio_alloc(self.buffers.as_ptr()) })?;
        Some(Mbuf::from_alloc(raw, self.copies_chains))
    }

    fn alloc_long(&mut self, len: usize) -> Option<Mbuf> {
        // SAFETY: the pool lives until the process ends; the mbuf returned is ours alone.
        let raw = NonNull::new(unsafe { dpdk_sys::dio_alloc(self.long?.as_ptr()) })?;
        Mbuf::from_alloc(raw, self.copies_chains).with_room(len)
    }

    fn is_short(&self) -> bool {
        self.reaches(self.reserve)
    }

    fn is_low(&self) -> bool {
        self.reserve > 0 && self.reaches(self.reserve.saturating_add(self.count / 8))
    }
}

fn create_mempool(
    name: &str,
    count: u32,
    data_room: u16,
    clones: Option<NonNull<RteMempool>>,
    socket: i32,
) -> Result<NonNull<RteMempool>, DriverError> {
    let what = format!("{count} packet buffers of {data_room} bytes ({name})");
    let Ok(c_name) = CString::new(name) else {
        return Err(DriverError::Memory { what, reason: "a NUL in the pool's name".to_owned() });
    };
    let cache = CACHE.min(count / 2);
    let clones = clones.map_or(core::ptr::null_mut(), NonNull::as_ptr);
    let mut error = 0;
    // SAFETY: the EAL runs (the caller holds an `Eal`); the name is NUL-terminated and copied.
    let pool = unsafe {
        dpdk_sys::dio_pool_create(
            c_name.as_ptr(),
            count,
            cache,
            data_room,
            clones,
            socket,
            &raw mut error,
        )
    };
    NonNull::new(pool).ok_or_else(|| DriverError::Memory { what, reason: reason(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fit_the_memory_and_the_mtu() {
        let plain = PoolSize::for_memory(512, 1500, true);
        assert_eq!(plain.data_room, 2048 + 128);
        assert!(u64::from(plain.count) * (2176 + 192) < 512 << 20);
        let ordinary = PoolSize::for_memory(512, 1500, false);
        assert_eq!(u64::from(ordinary.count), (384 << 20) / 4096);
        let jumbo = PoolSize::for_memory(512, 9000, true);
        assert!(jumbo.data_room >= 128 + 9000 + 18 && jumbo.count < plain.count);
        assert!(PoolSize::for_memory(1 << 20, u16::MAX, false).count > 1 << 20);
    }
}
