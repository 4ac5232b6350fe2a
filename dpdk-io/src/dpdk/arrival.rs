//! What a port's receive queue gave, as packets in one segment each.
//!
//! What the port has joined (LRO, or TSO of a virtual machine) comes as a chain of buffers that is longer than one
//! buffer holds. It is taken apart where its buffers end, and each gets the headers of the whole in front of
//! its text, where the driver left room: nothing is copied, and the stack, which joins what follows on each other
//! itself, sees segments. Their checksums were verified for the whole.
//!
//! Invariant: every frame taken in becomes packets or is freed.

use super::mbuf::Mbuf;
use super::pool::MbufPool;
use crate::nic::{BURST, Received};
use core::ptr::NonNull;
use dpdk_sys::{EXTERNAL, INDIRECT, RX_L4_CKSUM_GOOD, RX_VLAN_STRIPPED, RteMbuf};
use mptcp_core::buf::{BufPool, PacketBuf, PortId};
use mptcp_core::segmentation::{Headers, MAX_HEADERS};

/// Receives at most [`BURST`] frames and appends what they hold to `into`.
///
/// # Safety
/// The queue exists, its port is started, and no other thread receives on it meanwhile.
pub(crate) unsafe fn receive(
    port: u16,
    queue: u16,
    id: PortId,
    pool: &MbufPool,
    into: &mut Vec<Mbuf>,
) -> Received {
    let mut burst = [core::ptr::null_mut::<RteMbuf>(); BURST];
    let most = u16::try_from(BURST).unwrap_or(u16::MAX);
    // SAFETY: the caller vouches for the queue; the array holds BURST pointers.
    let count = unsafe { dpdk_sys::dio_rx_burst(port, queue, burst.as_mut_ptr(), most) };
    let mut received = Received { frames: usize::from(count), ..Received::default() };
    for raw in burst.iter().take(usize::from(count)).filter_map(|&raw| NonNull::new(raw)) {
        // SAFETY: rx_burst handed the packet over.
        unsafe { take(raw, id, pool, into, &mut received) };
    }
    received
}

/// Takes over one frame.
///
/// # Safety
/// The caller hands over the only reference to it.
unsafe fn take(
    raw: NonNull<RteMbuf>,
    port: PortId,
    pool: &MbufPool,
    into: &mut Vec<Mbuf>,
    received: &mut Received,
) {
    let Some(raw) = with_vlan_tag(raw) else {
        received.no_buffer += 1;
        return;
    };
    // SAFETY: the packet is ours.
    let several = unsafe { (*raw.as_ptr()).nb_segs } > 1;
    // SAFETY: as above.
    if several && let Some(headers) = unsafe { joined(raw) } {
        received.pieces += 1;
        let before = into.len();
        // SAFETY: as above, and `headers` are its.
        received.no_buffer += unsafe { take_apart(raw, &headers, port, pool, into) };
        received.parts += into.len() - before;
        return;
    }
    match contiguous(raw, pool) {
        Some(raw) => into.push(Mbuf::received(raw, port)),
        None => received.no_buffer += 1,
    }
}

/// The headers of a frame in several segments that can be taken apart: TCP whose checksum needs no further look.
/// They stand in the first segment, whose buffer is nobody else's.
///
/// # Safety
/// The frame is the caller's alone.
unsafe fn joined(raw: NonNull<RteMbuf>) -> Option<Whole> {
    // SAFETY: the frame is the caller's.
    let mbuf = unsafe { raw.as_ref() };
    if mbuf.ol_flags & RX_L4_CKSUM_GOOD == 0 || mbuf.ol_flags & (INDIRECT | EXTERNAL) != 0 {
        return None;
    }
    let start = mbuf.buf_addr.wrapping_add(usize::from(mbuf.data_off));
    // SAFETY: the range of a received segment lies inside its buffer, and nobody writes it.
    let first = unsafe { core::slice::from_raw_parts(start, usize::from(mbuf.data_len)) };
    let len = mbuf.pkt_len as usize;
    let headers = Headers::of_frame(first, len).filter(|headers| headers.is_plain(first, len))?;
    let mut bytes = [0; MAX_HEADERS];
    bytes.get_mut(..headers.all())?.copy_from_slice(first.get(..headers.all())?);
    Some(Whole { headers, bytes, text: len - headers.all() })
}

/// A frame that is to be taken apart.
struct Whole {
    headers: Headers,
    bytes: [u8; MAX_HEADERS],
    /// Octets behind the headers.
    text: usize,
}

/// Makes a packet of each segment of a frame; answers how many found no room for headers.
///
/// # Safety
/// The frame is the caller's alone, and `whole` tells its headers.
unsafe fn take_apart(
    raw: NonNull<RteMbuf>,
    whole: &Whole,
    port: PortId,
    pool: &MbufPool,
    into: &mut Vec<Mbuf>,
) -> usize {
    let (mut at, mut lost, mut next) = (0, 0, Some(raw));
    // SAFETY: the frame is the caller's.
    let verified = unsafe { (*raw.as_ptr()).ol_flags } & super::mbuf::VERIFIED;
    let mut front = whole.headers.all();
    while let Some(segment) = next {
        // SAFETY: each segment is the frame's, and so the caller's alone.
        let mbuf = unsafe { &mut *segment.as_ptr() };
        next = NonNull::new(core::mem::replace(&mut mbuf.next, core::ptr::null_mut()));
        mbuf.nb_segs = 1;
        mbuf.ol_flags = mbuf.ol_flags & (INDIRECT | EXTERNAL) | verified;
        let mut part = Mbuf::received(segment, port);
        // Only the first has the headers, and the driver's last may hold nothing.
        part.trim_front(core::mem::take(&mut front));
        let text = part.data().len();
        if text == 0 {
            continue;
        }
        let place = (at, text, at + text == whole.text);
        at += text;
        match with_headers(part, whole, place, pool) {
            Some(part) => into.push(part),
            None => lost += 1,
        }
    }
    lost
}

/// A part of a frame with headers of its own: in front of it, or in front of a copy where there is no room.
fn with_headers(
    mut part: Mbuf,
    whole: &Whole,
    place: (usize, usize, bool),
    pool: &MbufPool,
) -> Option<Mbuf> {
    let headers = whole.headers;
    if let Some(front) = part.prepend(headers.all()) {
        headers.write_part(&whole.bytes, place, front)?;
        return Some(part);
    }
    let mut copy = { *pool }.alloc()?.verified_as(&part);
    copy.append(part.data().len())?.copy_from_slice(part.data());
    headers.write_part(&whole.bytes, place, copy.prepend(headers.all())?)?;
    Some(copy)
}

/// A received packet in one segment; freed, with `None`, when it cannot be.
fn contiguous(raw: NonNull<RteMbuf>, pool: &MbufPool) -> Option<NonNull<RteMbuf>> {
    // SAFETY: rx_burst handed the packet over.
    if unsafe { (*raw.as_ptr()).nb_segs } == 1 {
        return Some(raw);
    }
    // SAFETY: the packet is ours; the copy is another one.
    let flat = unsafe { dpdk_sys::dio_copy_flat(pool.raw(), raw.as_ptr()) };
    // SAFETY: as above.
    unsafe { dpdk_sys::dio_free_chain(raw.as_ptr()) };
    NonNull::new(flat)
}

/// A frame whose driver took the VLAN tag out, with the tag back in: which frames are ours is
/// decided in one place. Freed, with `None`, when there is no room for it.
fn with_vlan_tag(raw: NonNull<RteMbuf>) -> Option<NonNull<RteMbuf>> {
    // SAFETY: rx_burst handed the packet over.
    if unsafe { (*raw.as_ptr()).ol_flags } & RX_VLAN_STRIPPED == 0 {
        return Some(raw);
    }
    let mut mbuf = raw.as_ptr();
    // SAFETY: the packet is ours.
    if unsafe { dpdk_sys::dio_vlan_restore(&raw mut mbuf) } == 0 {
        return NonNull::new(mbuf);
    }
    // SAFETY: as above.
    unsafe { dpdk_sys::dio_free_chain(mbuf) };
    None
}
