//! Fragments in any order, of any cut, some over others: what becomes whole is what was cut, memory stays within its
//! bound, and every fragment is counted once.

use crate::input::Input;
use core::net::IpAddr;
use core::time::Duration;
use mptcp_core::buf::{HeapBuf, PacketBuf};
use mptcp_core::fragments::{Outcome, Reassembler, ReassemblyLimits};
use mptcp_core::rng::Rng;
use mptcp_core::stats::{Counters, DropReason};
use mptcp_core::time::Instant;
use mptcp_core::wire::{Fragment, IpEmit, IpHeader, is_fragment};
use std::collections::BTreeSet;

const LIMITS: ReassemblyLimits = ReassemblyLimits { datagrams: 8, bytes: 32 << 10 };
const UDP: u8 = 17;

/// The octet that stands at `at` in the datagram of `host` with this identification.
fn octet(host: u8, id: u32, at: usize) -> u8 {
    (at / 8 * 31 + at) as u8 ^ host.wrapping_mul(37) ^ (id as u8).wrapping_mul(101)
}

/// Takes each few octets of `data` as a fragment: whose, where, how long, and when.
pub fn fragments(data: &[u8]) {
    let mut input = Input::new(data);
    let mut reassembler = Reassembler::new(LIMITS, &mut Rng::from_seed([3; 32]));
    let mut stats = Counters::default();
    let mut now = Instant::from_millis(1);
    let (mut fragments, mut malformed) = (0, 0);
    // Octets that were changed.
    let mut wrong = BTreeSet::new();
    // Where datagrams end, as their last fragments say.
    let mut ends_of = BTreeSet::new();
    while !input.is_empty() {
        let choice = input.u8();
        let (is_v4, host, id) = (choice & 1 == 0, choice >> 1 & 7, u32::from(choice >> 4 & 3));
        let offset = usize::from(input.u8()) * if choice & 0x40 == 0 { 1 } else { 32 };
        let len = usize::from(input.u8());
        let flags = input.u8();
        now = now + Duration::from_secs(u64::from(flags >> 4));
        while reassembler.expire(now, &mut stats).is_some() {}
        let ends: [IpAddr; 2] = if is_v4 {
            [[10, 0, host, 1].into(), [10, 9, 9, 9].into()]
        } else {
            [
                [0xfd00, 0, 0, u16::from(host), 0, 0, 0, 1].into(),
                [0xfd00, 9, 0, 0, 0, 0, 0, 9].into(),
            ]
        };
        let part = Fragment { id, offset: offset * 8, more: flags & 1 != 0 };
        let mut payload: Vec<u8> = (0..len).map(|n| octet(host, id, offset * 8 + n)).collect();
        let is_good = flags & 2 == 0;
        if !is_good && let Some(last) = payload.last_mut() {
            *last ^= 0x55;
            wrong.insert((is_v4, host, id, offset * 8 + len - 1));
        }
        let header = IpEmit {
            src: ends[0],
            dst: ends[1],
            protocol: UDP,
            traffic_class: flags >> 2 & 3,
            hop_limit: 64,
            payload_len: len,
            identification: 0,
            dont_fragment: false,
        };
        let mut packet = vec![0; Fragment::MAX_HEADERS];
        let header_len = header.emit_fragment(&part, &mut packet);
        packet.truncate(header_len);
        packet.extend(&payload);
        if header_len == 0 {
            continue;
        }
        fragments += 1;
        if !part.more {
            ends_of.insert((is_v4, host, id, part.offset + len));
        }
        if !is_fragment(&packet) {
            malformed += 1;
        }
        let buf = HeapBuf::from_slice(&packet);
        let outcome = reassembler.push(now, buf, &mut stats, |len| {
            assert!((20..=65_575).contains(&len));
            Some(HeapBuf::with_capacity(0, len))
        });
        assert!(reassembler.held() <= LIMITS.bytes && reassembler.len() <= LIMITS.datagrams);
        let whole = match outcome {
            Outcome::Whole(whole) => whole,
            Outcome::Taken => continue,
            Outcome::Refused(_, refused) => {
                assert_eq!(refused.data(), packet);
                continue;
            }
        };
        let bytes = whole.data();
        let header = IpHeader::parse(bytes).expect("a packet");
        assert!(!header.fragment && header.total_len == bytes.len());
        assert_eq!((header.src, header.dst, header.protocol), (ends[0], ends[1], UDP));
        let whole_len = header.total_len - header.header_len;
        assert!(ends_of.contains(&(is_v4, host, id, whole_len)), "it ends at {whole_len}");
        for (at, value) in bytes[header.header_len..].iter().enumerate() {
            let right = octet(host, id, at);
            let was_sent = *value == right ^ 0x55 && wrong.contains(&(is_v4, host, id, at));
            assert!(*value == right || was_sent, "an octet of another datagram, or place");
        }
    }
    now = now + Duration::from_secs(60);
    while reassembler.expire(now, &mut stats).is_some() {}
    assert!(reassembler.is_empty() && reassembler.held() == 0);
    assert_eq!(stats.ip_reasm_reqds, fragments);
    let dropped = stats.dropped(DropReason::IpFragment) + stats.dropped(DropReason::Duplicate);
    assert!(dropped <= fragments && malformed <= stats.ip_reasm_malformed);
    // What is whole took one fragment at least, and each other one was dropped.
    assert!(dropped + stats.ip_reasm_oks <= fragments);
    assert!(stats.ip_reasm_oks > 0 || dropped == fragments);
}
