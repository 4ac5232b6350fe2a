//! What others take for the same steps.

use crate::host::{Load, Wish};
use crate::meter::Meter;
use crate::micro::{self, repeat};
use crate::relay;
use crate::smol::SmolRelay;
use crate::world::Part;
use core::cmp::Reverse;
use core::hint::black_box;
use hmac::{Hmac, KeyInit as _, Mac as _};
use mptcp_core::time::{Duration, Instant};
use sha2::{Digest as _, Sha256};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr, checksum,
};
use std::collections::{BinaryHeap, HashMap};

/// smoltcp's sum of 1460 octets.
pub(crate) fn smol_checksum(meter: &mut Meter) {
    let payload = micro::payload();
    repeat(meter, |_| {
        black_box(checksum::data(black_box(&payload)));
    });
}

const ENDS: [IpAddress; 2] = [IpAddress::v4(10, 1, 0, 1), IpAddress::v4(10, 1, 0, 2)];

/// smoltcp reads the same segment; MPTCP's option it skips.
pub(crate) fn smol_parse(meter: &mut Meter) {
    let bytes = micro::segment();
    let [src, dst] = &ENDS;
    repeat(meter, |_| {
        let packet = TcpPacket::new_checked(black_box(&bytes[..])).expect("a segment");
        let _ = black_box(TcpRepr::parse(&packet, src, dst, &ChecksumCapabilities::ignored()));
    });
}

/// smoltcp writes a header with timestamps, and nothing of MPTCP.
pub(crate) fn smol_emit(meter: &mut Meter) {
    let mut bytes = micro::segment();
    let [src, dst] = &ENDS;
    repeat(meter, |n| {
        let repr = black_box(TcpRepr {
            src_port: 1080,
            dst_port: 40_000,
            control: TcpControl::None,
            seq_number: TcpSeqNumber(n.cast_signed()),
            ack_number: Some(TcpSeqNumber(1)),
            window_len: 4096,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: Some(TcpTimestampRepr::new(n, 900)),
            payload: &[],
        });
        let mut packet = TcpPacket::new_unchecked(&mut bytes[..32]);
        repr.emit(&mut packet, src, dst, &ChecksumCapabilities::ignored());
        black_box(&bytes);
    });
}

/// HMAC-SHA256 as its crate has it, keyed with 16 octets, over 8.
pub(crate) fn plain_hmac(meter: &mut Meter) {
    repeat(meter, |n| {
        let mac = <Hmac<Sha256>>::new_from_slice(black_box(&[7; 16])).expect("any length will do");
        black_box(mac.chain_update(u64::from(n).to_be_bytes()).finalize().into_bytes());
    });
}

/// SHA-256 of 8 octets as its crate has it.
pub(crate) fn plain_hash(meter: &mut Meter) {
    repeat(meter, |n| {
        black_box(Sha256::digest(u64::from(n).to_be_bytes()));
    });
}

type Heap = BinaryHeap<Reverse<(Instant, u32)>>;

fn push_all(heap: &mut Heap, deadlines: &[Instant]) {
    heap.extend((0..).zip(deadlines).map(|(idx, deadline)| Reverse((*deadline, idx))));
}

/// Timers in a binary heap, armed one by one.
pub(crate) fn heap_arm<const COUNT: u32>(meter: &mut Meter) {
    let deadlines = micro::deadlines(COUNT);
    let mut heap = Heap::with_capacity(deadlines.len());
    meter.measure(|| {
        for (idx, deadline) in (0..).zip(&deadlines) {
            heap.push(Reverse((*deadline, idx)));
        }
    });
    meter.add(f64::from(COUNT));
}

/// The same timers due, looked at every millisecond.
pub(crate) fn heap_expire<const COUNT: u32>(meter: &mut Meter) {
    let mut heap = Heap::with_capacity(COUNT as usize);
    push_all(&mut heap, &micro::deadlines(COUNT));
    let mut now = micro::BEGIN;
    meter.measure(|| {
        while !heap.is_empty() {
            now = now + Duration::from_millis(1);
            while heap.peek().is_some_and(|Reverse((deadline, _))| *deadline <= now) {
                black_box(heap.pop());
            }
        }
    });
    meter.add(f64::from(COUNT));
}

/// The standard library's table, keyed as ours is; three cache lines of the block are written.
pub(crate) fn map_lookup<const COUNT: u32>(meter: &mut Meter) {
    type Key = (u32, u32, u16, u16);
    let key = |n: &u32| -> Key { (1, *n & 0xffff, 1080, 40_000 + (*n >> 16) as u16) };
    let order = micro::shuffled(COUNT);
    let map: HashMap<Key, u32> = (0..COUNT).map(|n| (key(&n), n)).collect();
    let asked: Vec<Key> = order.iter().map(key).collect();
    let mut blocks = vec![[0_u64; 24]; COUNT as usize];
    micro::ask_all(meter, &asked, |key| {
        let block = &mut blocks[map[key] as usize];
        for word in [0, 8, 16] {
            block[word] += 1;
        }
    });
}

fn smol_relay(meter: &mut Meter, load: Load) {
    let wish = Wish { mptcp: false, socks5: false, load };
    relay::stream(SmolRelay::new(), meter, wish, Part::Turn);
}

pub(crate) fn smol_down(meter: &mut Meter) {
    smol_relay(meter, Load::Download);
}

pub(crate) fn smol_up(meter: &mut Meter) {
    smol_relay(meter, Load::Upload);
}
