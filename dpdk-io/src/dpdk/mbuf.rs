//! Owned mbufs as [`PacketBuf`]s.
//!
//! An [`Mbuf`] is one reference to an `rte_mbuf` plus *its own* range of the buffer, so that any
//! number of views with different ranges share one descriptor by its reference count alone. The
//! descriptor's own `data_off`, `data_len` and `next` matter only to a NIC. Invariant: they are
//! written while exactly one reference exists, and never afterwards while a NIC may read them; a
//! view that must be sent while others exist is sent through a descriptor of its own (an indirect
//! mbuf), unless it is the last segment and the descriptor's range happens to be the view's.
//!
//! A chained packet hangs off its head's `next`; only the view with `CHAINED` owns that list.

use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, Ordering, fence};
use dpdk_sys::{EXTERNAL, INDIRECT, RX_L4_CKSUM_BAD, RX_L4_CKSUM_GOOD, RteMbuf};
use mptcp_core::buf::{PacketBuf, PortId, RxChecksum, RxMeta, TxMeta};

use super::pool::MbufPool;

/// `next` of the descriptor lists further segments, owned by this view.
const CHAINED: u8 = 1;
/// A segment was lost for want of descriptors: the packet must not be sent.
const BROKEN: u8 = 1 << 1;
/// `chain` copies into this buffer.
const COPIES_CHAINS: u8 = 1 << 2;
/// [`TxMeta::partial_checksum`].
const PARTIAL_CHECKSUM: u8 = 1 << 3;

/// The descriptor's `next` is another view's: never list the descriptor itself.
const DETACHED: u8 = 1 << 4;
/// `port` is the one it leaves by, not the one it came in on.
const LEAVES: u8 = 1 << 5;

/// What is known of the checksum: two bits.
const CHECKSUM: u8 = 3 << 6;
/// [`RxChecksum::Good`] and [`RxChecksum::Bad`]; else it is unknown.
const GOOD: u8 = 1 << 6;
const BAD: u8 = 2 << 6;
/// The port did not verify it, the stack did, and `sum` is that of the view.
const SUMMED: u8 = 3 << 6;

/// What a port says of the checksum of a packet, and so of its parts.
pub(super) const VERIFIED: u64 = RX_L4_CKSUM_GOOD | RX_L4_CKSUM_BAD;

/// Payloads up to this long are copied behind the headers: cheaper than a descriptor.
const COPY_BREAK: u16 = 192;

/// Far below the 16-bit count's end; reaching it takes as many views of one packet as it has bytes,
/// dozens of times over.
const MOST_REFERENCES: u16 = 0xf000;

/// One owned view of an `rte_mbuf`'s buffer; 16 bytes. `Send`, not `Sync`: the reference count is
/// atomic, everything else belongs to one owner.
pub struct Mbuf {
    raw: NonNull<RteMbuf>,
    off: u16,
    len: u16,
    /// With `SUMMED`.
    sum: u16,
    port: PortId,
    flags: u8,
}

const _: () = assert!(size_of::<Mbuf>() == 16 && size_of::<Option<Mbuf>>() == 16);

// SAFETY: views on different threads share the descriptor's atomic reference count and bytes nobody
// may write while it is above one; the module's invariant covers the rest. DPDK frees mbufs from
// any thread.
unsafe impl Send for Mbuf {}

/// Why a packet could not be handed to a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unsendable {
    /// No descriptor or buffer was left for it.
    NoMemory,
    /// Its segments do not fit into one buffer, and the port takes only one.
    TooLong,
}

impl Mbuf {
    /// Takes over a fresh mbuf.
    pub(crate) fn from_alloc(raw: NonNull<RteMbuf>, copies_chains: bool) -> Self {
        // SAFETY: the caller hands over the only reference to a valid mbuf.
        let off = unsafe { (*raw.as_ptr()).data_off };
        Self {
            raw,
            off,
            len: 0,
            sum: 0,
            port: PortId::ROUTED,
            flags: if copies_chains { COPIES_CHAINS } else { 0 },
        }
    }

    /// The same, still empty, with room for `len` octets: at the cost of its headroom, if need be.
    pub(crate) fn with_room(mut self, len: usize) -> Option<Self> {
        let len = u16::try_from(len).ok()?;
        self.off = self.off.min(self.buffer_len().checked_sub(len)?);
        Some(self)
    }

    /// Takes over a received mbuf in one segment.
    pub(super) fn received(raw: NonNull<RteMbuf>, port: PortId) -> Self {
        // SAFETY: rx_burst handed over the only reference, so that nobody writes the descriptor
        // while this one lives.
        let mbuf: &RteMbuf = unsafe { raw.as_ref() };
        let (off, len, flags) = (mbuf.data_off, mbuf.data_len, checksum_result(mbuf.ol_flags));
        Self { raw, off, len, sum: 0, port, flags }
    }

    /// The same packet, about whose checksum the port said what it said about `other`'s.
    pub(super) fn verified_as(mut self, other: &Self) -> Self {
        self.port = other.port;
        self.flags = self.flags & !CHECKSUM | other.flags & CHECKSUM;
        self
    }

    /// Writes what the next owner must know into the descriptor and gives the packet up, for a ring to
    /// another thread. `None`, with the packet freed, when no descriptor is left for a shared one.
    pub(crate) fn into_ring(mut self) -> Option<NonNull<RteMbuf>> {
        // Received packets are in one piece; nothing else crosses.
        if self.flags & (CHAINED | BROKEN) != 0 {
            return None;
        }
        self.make_head()?;
        let (port, flags) = (self.port, self.flags);
        let raw = self.release();
        // SAFETY: `make_head` left us the only reference, which was given up to the result.
        let mbuf = unsafe { &mut *raw.as_ptr() };
        mbuf.port = u16::from(port.0);
        mbuf.ol_flags &= INDIRECT | EXTERNAL;
        mbuf.ol_flags |= match flags & CHECKSUM {
            GOOD => RX_L4_CKSUM_GOOD,
            BAD => RX_L4_CKSUM_BAD,
            // What was summed here is summed again there.
            _ => 0,
        };
        Some(raw)
    }

    /// Takes over a packet that another thread gave up.
    ///
    /// # Safety
    /// It comes from [`Mbuf::into_ring`], and nobody else has it.
    pub(crate) unsafe fn from_ring(raw: NonNull<RteMbuf>) -> Self {
        // SAFETY: the caller hands over the only reference.
        let mbuf: &RteMbuf = unsafe { raw.as_ref() };
        Self {
            raw,
            off: mbuf.data_off,
            len: mbuf.data_len,
            sum: 0,
            port: PortId(u8::try_from(mbuf.port).unwrap_or(PortId::ROUTED.0)),
            flags: checksum_result(mbuf.ol_flags),
        }
    }

    /// Makes the descriptor (and those behind it) describe this packet and gives it up, for
    /// `tx_burst`. Without `multi_segs` the result is one segment.
    pub(crate) fn into_tx(
        mut self,
        multi_segs: bool,
        pool: &MbufPool,
    ) -> Result<NonNull<RteMbuf>, Unsendable> {
        if self.flags & BROKEN != 0 {
            return Err(Unsendable::NoMemory);
        }
        if self.flags & CHAINED != 0 && !multi_segs {
            self = self.into_flat(pool)?;
        }
        self.make_head().ok_or(Unsendable::NoMemory)?;
        let raw = self.release();
        // SAFETY: `make_head` left us the only reference to the head; its list is ours.
        unsafe { complete_head(raw.as_ptr()) };
        Ok(raw)
    }

    /// References to the descriptor.
    #[must_use]
    pub fn refcnt(&self) -> u16 {
        self.count().load(Ordering::Relaxed)
    }

    /// Segments this packet would be sent as.
    #[must_use]
    pub fn segment_count(&self) -> usize {
        1 + self.tail().count()
    }

    /// The bytes of the packet, segment by segment.
    pub fn segments(&self) -> impl Iterator<Item = &[u8]> {
        core::iter::once(self.data()).chain(self.tail())
    }

    /// True when a segment was lost for want of descriptors; such a packet is dropped when sent.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.flags & BROKEN != 0
    }

    fn count(&self) -> &AtomicU16 {
        // SAFETY: the descriptor is valid while we hold a reference, and its count is atomic, so a
        // shared reference to that field alone aliases nothing.
        unsafe { &(*self.raw.as_ptr()).refcnt }
    }

    fn buffer(&self) -> *mut u8 {
        // SAFETY: written by DPDK before the mbuf reached us, constant while anyone refers to it.
        unsafe { (*self.raw.as_ptr()).buf_addr }
    }

    fn buffer_len(&self) -> u16 {
        // SAFETY: as for `buffer`.
        unsafe { (*self.raw.as_ptr()).buf_len }
    }

    /// Sole reference to the descriptor: its header fields may be written.
    fn is_sole(&self) -> bool {
        if self.count().load(Ordering::Relaxed) != 1 {
            return false;
        }
        // Pairs with the release of whoever gave up the last other reference.
        fence(Ordering::Acquire);
        true
    }

    /// Sole reference to a descriptor that owns its buffer: the bytes may be written.
    fn is_writable(&self) -> bool {
        // SAFETY: `ol_flags` of a descriptor is written only while one reference exists; reading it
        // as the sole owner races with nobody.
        self.is_sole() && unsafe { (*self.raw.as_ptr()).ol_flags } & (INDIRECT | EXTERNAL) == 0
    }

    /// Records this view's range in the descriptor. Only for the sole owner.
    fn write_range(&self) {
        debug_assert!(self.is_sole());
        let mbuf = self.raw.as_ptr();
        // SAFETY: sole owner (above): nobody else, NIC included, looks at this field now.
        unsafe { (*mbuf).data_off = self.off };
        // SAFETY: as above.
        unsafe { (*mbuf).data_len = self.len };
    }

    /// The view or its bytes change: nobody knows their sum any more.
    const fn forget_sum(&mut self) {
        if self.flags & CHECKSUM == SUMMED {
            self.flags &= !CHECKSUM;
        }
    }

    /// Gives up the reference without dropping it.
    fn release(self) -> NonNull<RteMbuf> {
        let raw = self.raw;
        core::mem::forget(self);
        raw
    }

    /// Makes this view the sole owner of its descriptor, with its range recorded and the chain kept.
    /// `None` when no descriptor is left.
    fn make_head(&mut self) -> Option<()> {
        if !self.is_sole() {
            // SAFETY: our reference keeps the descriptor valid; the clone takes its own.
            let clone = unsafe { dpdk_sys::dio_clone(self.raw.as_ptr(), self.off, self.len) };
            let clone = NonNull::new(clone)?;
            let list = self.take_list();
            let shared = core::mem::replace(&mut self.raw, clone);
            // SAFETY: gives up the reference this view held.
            unsafe { dpdk_sys::dio_free_segment(shared.as_ptr()) };
            if !list.is_null() {
                // SAFETY: the clone is ours alone.
                unsafe { (*clone.as_ptr()).next = list };
                self.flags |= CHAINED;
            }
        }
        self.write_range();
        Some(())
    }

    /// Unlinks the further segments; null when there are none.
    fn take_list(&mut self) -> *mut RteMbuf {
        if self.flags & CHAINED == 0 {
            return core::ptr::null_mut();
        }
        self.flags &= !CHAINED;
        let mbuf = self.raw.as_ptr();
        // SAFETY: `next` belongs to the view with CHAINED, which is this one.
        unsafe { core::mem::replace(&mut (*mbuf).next, core::ptr::null_mut()) }
    }

    /// The further segments.
    fn tail(&self) -> Segments<'_> {
        let mut next = core::ptr::null_mut();
        if self.flags & CHAINED != 0 {
            // SAFETY: `next` belongs to this view.
            next = unsafe { (*self.raw.as_ptr()).next };
        }
        Segments { next, _packet: core::marker::PhantomData }
    }

    /// This view as one segment (or list) that can stand behind another, without its wrapper.
    /// `None`, with the packet freed, when no descriptor is left.
    fn into_list(mut self) -> Option<NonNull<RteMbuf>> {
        let as_it_is = self.flags & (CHAINED | DETACHED) == 0
            && !self.is_sole()
            && self.recorded_range() == (self.off, self.len);
        if !as_it_is {
            self.make_head()?;
        }
        Some(self.release())
    }

    /// The packet without its first `n` bytes, which are in its first segment, as what can stand behind
    /// another. `None`, with the packet freed, when no descriptor is left or nothing remains.
    pub(super) fn into_text(mut self, n: usize) -> Option<NonNull<RteMbuf>> {
        self.trim_front(n);
        if self.len == 0 {
            return NonNull::new(self.take_list());
        }
        self.into_list()
    }

    /// The range in the descriptor; that of a shared one was written before it was shared.
    fn recorded_range(&self) -> (u16, u16) {
        let mbuf = self.raw.as_ptr();
        // SAFETY: written only by a sole owner, which we are or which nobody is.
        let off = unsafe { (*mbuf).data_off };
        // SAFETY: as above.
        let len = unsafe { (*mbuf).data_len };
        (off, len)
    }

    /// Hangs `list` behind the last segment.
    fn link(&mut self, list: NonNull<RteMbuf>) -> Option<()> {
        let mut link: *mut *mut RteMbuf = {
            let mbuf = self.raw.as_ptr();
            // SAFETY: the head is ours alone (the caller called `make_head`).
            unsafe { &raw mut (*mbuf).next }
        };
        loop {
            // SAFETY: `link` points into the head or into a segment this packet owns.
            let segment = unsafe { *link };
            if segment.is_null() {
                break;
            }
            // SAFETY: segments of the list are valid while they are in it.
            let own = unsafe { own_segment(segment) }?;
            // SAFETY: as for the read above.
            unsafe { *link = own };
            // SAFETY: `own` has one reference, the list's: its `next` is ours to write.
            link = unsafe { &raw mut (*own).next };
        }
        // SAFETY: as above.
        unsafe { *link = list.as_ptr() };
        self.flags |= CHAINED;
        Some(())
    }

    /// The same packet in one segment.
    pub(crate) fn into_flat(mut self, pool: &MbufPool) -> Result<Self, Unsendable> {
        let tail_len = self.packet_len() - usize::from(self.len);
        let room = usize::from(self.buffer_len() - self.off - self.len);
        if self.is_writable() && tail_len <= room {
            let list = self.take_list();
            let mut rest = Segments { next: list, _packet: core::marker::PhantomData };
            let copied = rest.try_for_each(|bytes| self.copy_behind(bytes));
            // SAFETY: the list was unlinked above: these are its only references.
            unsafe { dpdk_sys::dio_free_chain(list) };
            return copied.map(|()| self).ok_or(Unsendable::TooLong);
        }
        if self.packet_len() > usize::from(pool.room()) {
            return Err(Unsendable::TooLong);
        }
        self.make_head().ok_or(Unsendable::NoMemory)?;
        let (port, flags) = (self.port, self.flags & (LEAVES | PARTIAL_CHECKSUM));
        let raw = self.release();
        // SAFETY: the head and its list are ours alone (`make_head`).
        unsafe { complete_head(raw.as_ptr()) };
        // SAFETY: a complete packet of ours; the copy is another one.
        let flat = unsafe { dpdk_sys::dio_copy_flat(pool.raw(), raw.as_ptr()) };
        // SAFETY: the packet was given up by `release`; the copy is another one.
        unsafe { dpdk_sys::dio_free_chain(raw.as_ptr()) };
        let flat = NonNull::new(flat).ok_or(Unsendable::NoMemory)?;
        let mut packet = Self::from_alloc(flat, false);
        // SAFETY: the copy is ours alone.
        packet.len = unsafe { (*flat.as_ptr()).data_len };
        packet.port = port;
        packet.flags = flags;
        Ok(packet)
    }

    fn copy_behind(&mut self, bytes: &[u8]) -> Option<()> {
        let into = self.append(bytes.len())?;
        into.copy_from_slice(bytes);
        Some(())
    }

    /// Ends the list after `keep` bytes.
    fn truncate_list(&mut self, mut keep: usize) -> Option<()> {
        let mbuf = self.raw.as_ptr();
        // SAFETY: `next` of a chained view is its own.
        let mut link: *mut *mut RteMbuf = unsafe { &raw mut (*mbuf).next };
        loop {
            // SAFETY: `link` points into the head or into a segment with one reference.
            let segment = unsafe { *link };
            if segment.is_null() {
                return Some(());
            }
            // SAFETY: a segment in the list is valid.
            let own = unsafe { own_segment(segment) }?;
            // SAFETY: as for the read above.
            unsafe { *link = own };
            // SAFETY: `own` has one reference, the list's: its fields are ours.
            let mbuf = unsafe { &mut *own };
            let len = usize::from(mbuf.data_len);
            mbuf.data_len = mbuf.data_len.min(to_u16(keep));
            link = &raw mut mbuf.next;
            keep = keep.saturating_sub(len);
            if keep == 0 {
                let rest = core::mem::replace(&mut mbuf.next, core::ptr::null_mut());
                // SAFETY: what followed was this packet's, and is linked nowhere now.
                unsafe { dpdk_sys::dio_free_chain(rest) };
                return Some(());
            }
        }
    }
}

impl PacketBuf for Mbuf {
    fn data(&self) -> &[u8] {
        let start = self.buffer().wrapping_add(usize::from(self.off));
        // SAFETY: the range lies inside the buffer (every change of `off` and `len` checks it), and
        // bytes of a shared buffer are never written.
        unsafe { core::slice::from_raw_parts(start, usize::from(self.len)) }
    }

    fn data_len(&self) -> usize {
        usize::from(self.len)
    }

    fn data_mut(&mut self) -> Option<&mut [u8]> {
        self.forget_sum();
        if !self.is_writable() {
            return None;
        }
        let start = self.buffer().wrapping_add(usize::from(self.off));
        // SAFETY: as for `data`, and no other view of the buffer exists.
        Some(unsafe { core::slice::from_raw_parts_mut(start, usize::from(self.len)) })
    }

    /// Aborts the process, as `Arc` does, should one packet collect some 60,000 views.
    fn slice(&self, range: Range<usize>) -> Self {
        let len = usize::from(self.len);
        let start = range.start.min(len);
        let end = range.end.clamp(start, len);
        if self.is_sole() {
            self.write_range();
            self.count().store(2, Ordering::Relaxed);
        } else if self.count().fetch_add(1, Ordering::Relaxed) > MOST_REFERENCES {
            std::process::abort();
        }
        let detached = if self.flags & CHAINED != 0 { DETACHED } else { 0 };
        let mut part = Self {
            raw: self.raw,
            off: self.off + to_u16(start),
            len: to_u16(end - start),
            sum: self.sum,
            port: self.port,
            flags: self.flags & (BROKEN | DETACHED | LEAVES | CHECKSUM) | detached,
        };
        if part.len != self.len {
            part.forget_sum();
        }
        part
    }

    fn trim_front(&mut self, n: usize) {
        let n = to_u16(n.min(usize::from(self.len)));
        if n > 0 {
            self.forget_sum();
        }
        self.off += n;
        self.len -= n;
    }

    fn truncate(&mut self, len: usize) {
        match len.checked_sub(usize::from(self.len)) {
            None | Some(0) => {
                let list = self.take_list();
                // SAFETY: the list was unlinked: these are its only references; NULL is allowed.
                unsafe { dpdk_sys::dio_free_chain(list) };
                if len < usize::from(self.len) {
                    self.forget_sum();
                    self.len = to_u16(len);
                }
            }
            Some(keep) if self.flags & CHAINED != 0 => {
                if self.truncate_list(keep).is_none() {
                    self.flags |= BROKEN;
                }
            }
            Some(_) => {}
        }
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        let n = u16::try_from(n).ok().filter(|&n| n <= self.off)?;
        if !self.is_writable() {
            return None;
        }
        self.off -= n;
        self.len += n;
        self.data_mut()?.get_mut(..usize::from(n))
    }

    fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        let room = self.buffer_len() - self.off - self.len;
        let n = u16::try_from(n).ok().filter(|&n| n <= room)?;
        if self.flags & CHAINED != 0 || !self.is_writable() {
            return None;
        }
        let from = usize::from(self.len);
        self.len += n;
        self.data_mut()?.get_mut(from..)
    }

    fn chain(&mut self, payload: Self) {
        if payload.flags & BROKEN != 0 {
            self.flags |= BROKEN;
        }
        let small = self.flags & COPIES_CHAINS != 0 || payload.len <= COPY_BREAK;
        if small && payload.flags & CHAINED == 0 && self.copy_behind(payload.data()).is_some() {
            return;
        }
        // Without a descriptor the packet stays incomplete, and is dropped when sent.
        let linked = self.make_head().and_then(|()| {
            let list = payload.into_list()?;
            self.link(list).or_else(|| {
                // SAFETY: `into_list` gave us the list, `link` did not take it.
                unsafe { dpdk_sys::dio_free_chain(list.as_ptr()) };
                None
            })
        });
        if linked.is_none() {
            self.flags |= BROKEN;
        }
    }

    fn packet_len(&self) -> usize {
        usize::from(self.len) + self.tail().map(<[u8]>::len).sum::<usize>()
    }

    fn truesize(&self) -> usize {
        let descriptor = size_of::<RteMbuf>();
        let mut size = descriptor + usize::from(self.buffer_len());
        let mut tail = self.tail();
        while let Some(segment) = tail.step() {
            // SAFETY: a segment in the list is valid; `buf_len` is constant meanwhile.
            size += descriptor + usize::from(unsafe { (*segment.as_ptr()).buf_len });
        }
        size
    }

    fn noted_sum(&self) -> Option<u16> {
        (self.flags & CHECKSUM == SUMMED).then_some(self.sum)
    }

    fn note_sum(&mut self, sum: u16) {
        self.sum = sum;
        self.flags |= SUMMED;
    }

    /// Until it is told by which port to leave.
    fn rx_meta(&self) -> RxMeta {
        let port = if self.flags & LEAVES == 0 { self.port } else { PortId::ROUTED };
        let checksum = match self.flags & CHECKSUM {
            GOOD => RxChecksum::Good,
            BAD => RxChecksum::Bad,
            _ => RxChecksum::Unknown,
        };
        RxMeta { port, checksum }
    }

    fn set_rx_port(&mut self, port: PortId) {
        self.port = port;
        self.flags &= !(CHECKSUM | LEAVES);
    }

    fn set_tx_meta(&mut self, meta: TxMeta) {
        self.port = meta.port;
        self.flags &= !PARTIAL_CHECKSUM;
        self.flags |= LEAVES;
        if meta.partial_checksum {
            self.flags |= PARTIAL_CHECKSUM;
        }
    }

    fn tx_meta(&self) -> TxMeta {
        let port = if self.flags & LEAVES == 0 { PortId::ROUTED } else { self.port };
        TxMeta { port, partial_checksum: self.flags & PARTIAL_CHECKSUM != 0 }
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        let list = self.take_list();
        if !list.is_null() {
            // SAFETY: the list was unlinked: these are its only references.
            unsafe { dpdk_sys::dio_free_chain(list) };
        }
        // SAFETY: gives up the reference this view holds.
        unsafe { dpdk_sys::dio_free_segment(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("off", &self.off)
            .field("len", &self.len)
            .field("packet_len", &self.packet_len())
            .field("refcnt", &self.refcnt())
            .field("broken", &self.is_broken())
            .finish_non_exhaustive()
    }
}

/// The segments behind a head, as bytes.
struct Segments<'a> {
    next: *mut RteMbuf,
    _packet: core::marker::PhantomData<&'a Mbuf>,
}

impl Segments<'_> {
    fn step(&mut self) -> Option<NonNull<RteMbuf>> {
        let segment = NonNull::new(self.next)?;
        // SAFETY: a segment in the list is valid, and its `next` does not change meanwhile.
        self.next = unsafe { (*segment.as_ptr()).next };
        Some(segment)
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.step()?.as_ptr();
        // SAFETY: a listed segment is valid, and this field constant.
        let buffer = unsafe { (*segment).buf_addr };
        // SAFETY: a listed segment's range is not written while the packet is borrowed.
        let off = unsafe { (*segment).data_off };
        // SAFETY: as above.
        let len = unsafe { (*segment).data_len };
        let start = buffer.wrapping_add(usize::from(off));
        // SAFETY: a recorded range lies inside its buffer; bytes in a list are not written.
        Some(unsafe { core::slice::from_raw_parts(start, usize::from(len)) })
    }
}

/// Fills in what `tx_burst` reads in the head besides its range.
///
/// # Safety
/// `head` has one reference, held by the caller, and so its `next` list belongs to the caller.
unsafe fn complete_head(head: *mut RteMbuf) {
    let mut segments: u16 = 0;
    let mut len: u32 = 0;
    let mut segment = head;
    while !segment.is_null() {
        segments = segments.saturating_add(1);
        // SAFETY: a segment of the list is valid; its range does not change while it is listed.
        len += u32::from(unsafe { (*segment).data_len });
        // SAFETY: the list belongs to the caller.
        segment = unsafe { (*segment).next };
    }
    // SAFETY: the caller has the only reference.
    let head = unsafe { &mut *head };
    head.nb_segs = segments;
    head.pkt_len = len;
    // What a receiving driver found out would read as orders to the sending one.
    head.ol_flags &= INDIRECT | EXTERNAL;
}

/// `segment`, or a new descriptor over the same bytes when others refer to it too. `None` when no
/// descriptor is left; the segment then stays where it is.
///
/// # Safety
/// The caller holds a reference to `segment`, which passes to the result; its `next` is the
/// caller's.
pub(super) unsafe fn own_segment(segment: *mut RteMbuf) -> Option<*mut RteMbuf> {
    // SAFETY: valid by contract; the count is atomic.
    let refcnt = unsafe { &(*segment).refcnt };
    if refcnt.load(Ordering::Acquire) == 1 {
        return Some(segment);
    }
    // SAFETY: the range of a shared descriptor does not change.
    let off = unsafe { (*segment).data_off };
    // SAFETY: as above.
    let len = unsafe { (*segment).data_len };
    // SAFETY: valid by contract; the clone takes a reference of its own to the buffer.
    let clone = NonNull::new(unsafe { dpdk_sys::dio_clone(segment, off, len) })?;
    // A shared descriptor is always the last of its list: there is no `next` to carry over.
    // SAFETY: gives up the reference that passes to the clone.
    unsafe { dpdk_sys::dio_free_segment(segment) };
    Some(clone.as_ptr())
}

/// What the receiving port found out about the L4 checksum, as a view keeps it.
fn checksum_result(flags: u64) -> u8 {
    match flags & (RX_L4_CKSUM_BAD | RX_L4_CKSUM_GOOD) {
        0 => 0,
        RX_L4_CKSUM_BAD => BAD,
        // Good, or "not filled in, but the data is intact" (both bits).
        _ => GOOD,
    }
}

/// Positions inside an mbuf's buffer, which is at most 65,535 bytes long.
fn to_u16(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
