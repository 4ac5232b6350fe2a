//! What a port's receive queue gave, as packets in one segment each.
//!
//! What the port has joined (LRO, or TSO of a virtual machine) comes as a chain of buffers that is longer than one
//! buffer holds. It is taken apart where its buffers end, and each gets the headers of the whole in front of
//! its text, where the driver left room: nothing is copied, and the stack, which joins what follows on each other
//! itself, sees segments. Where there is no room (mlx5 leaves it to the first buffer alone) some of the text goes into
//! a buffer of its own to make it; of a buffer that is not ours to write all of it does. Their checksums were verified
//! for the whole.
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
/// They stand in the first segment.
///
/// # Safety
/// The frame is the caller's alone.
unsafe fn joined(raw: NonNull<RteMbuf>) -> Option<Whole> {
    // SAFETY: the frame is the caller's.
    let mbuf = unsafe { raw.as_ref() };
    if mbuf.ol_flags & RX_L4_CKSUM_GOOD == 0 {
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

/// Makes packets of each segment of a frame; answers how many found no buffer.
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
        if text > 0 {
            lost += with_headers(part, whole, at, pool, into);
            at += text;
        }
    }
    lost
}

/// Puts headers in front of a part of a frame, whose text is the whole's from `at` on. As long as there is no room for
/// them the front of it becomes a packet of its own, which is a copy. Answers how many packets found no buffer.
fn with_headers(
    mut part: Mbuf,
    whole: &Whole,
    mut at: usize,
    pool: &MbufPool,
    into: &mut Vec<Mbuf>,
) -> usize {
    let headers = whole.headers;
    let most = usize::from(pool.room()).saturating_sub(headers.all()).max(1);
    let mut lost = 0;
    loop {
        let text = part.data().len();
        if let Some(front) = part.prepend(headers.all()) {
            let place = (at, text, at + text == whole.text);
            match headers.write_part(&whole.bytes, place, front) {
                Some(()) => into.push(part),
                None => lost += 1,
            }
            return lost;
        }
        // What is ours to write has room once so much is out of the way.
        let enough = if part.data_mut().is_some() { headers.all() } else { most };
        let count = text.min(enough);
        match front_of(&part, count, whole, at, pool) {
            Some(copy) => into.push(copy),
            None => lost += 1,
        }
        if count == text {
            return lost;
        }
        part.trim_front(count);
        at += count;
    }
}

/// A packet of the first `count` octets of a part, which are the whole's from `at` on, in a buffer of its own.
fn front_of(part: &Mbuf, count: usize, whole: &Whole, at: usize, pool: &MbufPool) -> Option<Mbuf> {
    let headers = whole.headers;
    let mut copy = { *pool }.alloc()?.verified_as(part);
    let room = copy.append(headers.all() + count)?;
    let (front, text) = room.split_at_mut_checked(headers.all())?;
    text.copy_from_slice(part.data().get(..count)?);
    headers.write_part(&whole.bytes, (at, count, at + count == whole.text), front)?;
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
