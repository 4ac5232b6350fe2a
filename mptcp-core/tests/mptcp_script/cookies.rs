//! SYN cookies with `MP_CAPABLE`: a server that keeps nothing of a SYN (RFC 8684 §3.1, RFC 4987).

use crate::harness::*;
use core::net::IpAddr;
use mptcp_core::config::{ChecksumPolicy, StackConfig};
use mptcp_core::mptcp::{FallbackReason, key};
use mptcp_core::wire::{CapableFlags, CapableForm, Version};

const H: CapableFlags = CapableFlags::HMAC;
const SUM: CapableFlags = CapableFlags::HMAC.union(CapableFlags::CHECKSUM);

/// A server whose request table is full.
fn flooded(v: Version, configure: impl FnOnce(&mut StackConfig)) -> Script {
    let mut script = Script::server_with(v, configure);
    for n in 0..40_u8 {
        let flow = Flow::new(at(IpAddr::from([10, 5, 0, n]), 4000), at(A1, PORT));
        script.send(&flow, &flow.syn());
    }
    assert!(script.counters().syncookies_sent > 0);
    script
}

/// The SYN/ACK of a cookie, and that nothing is kept for it.
fn cookie(script: &mut Script, flags: CapableFlags) -> (Flow, Keys) {
    let (requests, tokens) = (script.stack.occupancy().requests, script.stack.occupancy().tokens);
    let (flow, answer) = script.half_open(4000, flags);
    let after = script.stack.occupancy();
    assert_eq!((after.requests, after.tokens), (requests, tokens), "nothing is kept");
    let option = answer.capable().expect("MPTCP is offered");
    assert_eq!(option.version, script.version as u8);
    let checksum = option.flags.contains(CapableFlags::CHECKSUM);
    (flow, Keys::of(script.version, &answer, checksum))
}

#[test]
fn a_cookie_carries_mptcp_and_joins_find_it() {
    both(|v| {
        for flags in [H, SUM] {
            let mut script = flooded(v, |_| {});
            let (mut flow, keys) = cookie(&mut script, flags);
            assert_eq!(keys.checksum, flags == SUM);
            assert!(script.send(&flow, &flow.seg().opt(&keys.third())).is_empty());
            let id = script.accept().expect("established");
            assert_eq!((script.info(id).mptcp, script.fallback(id)), (Some(v as u8), None));
            script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
            let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
            script.send_data(&keys, &mut join, 100, 0, &stream(100, 100));
            script.expect_stream(id, 0, 200);
        }
    });
}

#[test]
fn first_data_makes_up_for_the_lost_third_ack_of_a_version_1_cookie() {
    let mut script = flooded(Version::V1, |_| {});
    let (flow, keys) = cookie(&mut script, SUM);
    let data = stream(0, 100);
    let out = script.send(&flow, &flow.seg().opt(&keys.first_data(&data)).data(&data));
    let id = script.accept().expect("established");
    assert_eq!(script.info(id).mptcp, Some(1));
    assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(100)), "{out:?}");
    script.expect_stream(id, 0, 100);
}

/// The peer's key was in the SYN, which nobody kept.
#[test]
fn t14_the_lost_third_ack_of_a_version_0_cookie_means_tcp() {
    let mut script = flooded(Version::V0, |_| {});
    let (mut flow, keys) = cookie(&mut script, H);
    let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
    assert!(out.iter().all(|o| !o.rst() && o.mptcp().is_empty()), "{out:?}");
    let id = script.accept().expect("established");
    assert_eq!(script.fallback(id), Some(FallbackReason::SynCookie));
    script.expect_stream(id, 0, 100);
    let out = script.write(id, 0, 100);
    assert!(out[0].payload == stream(0, 100) && out[0].mptcp().is_empty(), "{out:?}");
}

#[test]
fn a_key_that_was_not_in_the_cookie_means_tcp() {
    both(|v| {
        let other = if v == Version::V0 { Version::V1 } else { Version::V0 };
        for (version, flip, sender) in [(v, 1, PEER_KEY), (other, 0, PEER_KEY), (v, 0, 0)] {
            let mut script = flooded(v, |_| {});
            let (flow, keys) = cookie(&mut script, H);
            let form = CapableForm::Keys { sender, receiver: keys.stack ^ flip };
            script.send(&flow, &flow.seg().opt(&capable(version, H, form)));
            let id = script.accept().expect("established");
            assert_eq!(script.fallback(id), Some(FallbackReason::SynCookie));
        }
        // Confirmed with no method, or with an extension that nobody knows.
        for flags in [CapableFlags::empty(), H | CapableFlags::EXTENSIBILITY] {
            let mut script = flooded(v, |_| {});
            let (flow, keys) = cookie(&mut script, H);
            let form = CapableForm::Keys { sender: PEER_KEY, receiver: keys.stack };
            script.send(&flow, &flow.seg().opt(&capable(v, flags, form)));
            let id = script.accept().expect("established");
            assert_eq!(script.fallback(id), Some(FallbackReason::SynCookie), "{flags:?}");
        }
        // Checksums that policy refuses, asked for in the third ACK only.
        let mut script = flooded(v, |c| c.mptcp.checksum = ChecksumPolicy::Refuse);
        let (flow, keys) = cookie(&mut script, H);
        let keys = Keys { checksum: true, ..keys };
        script.send(&flow, &flow.seg().opt(&keys.third()));
        let id = script.accept().expect("established");
        assert_eq!(script.fallback(id), Some(FallbackReason::SynCookie));
    });
}

#[test]
fn the_token_of_a_cookies_key_is_of_this_shard() {
    both(|v| {
        let mut script = flooded(v, |c| (c.token_mask, c.token_value) = (7, 5));
        let (flow, keys) = cookie(&mut script, H);
        assert_eq!(key::token(v, keys.stack) & 7, 5);
        script.send(&flow, &flow.seg().opt(&keys.third()));
        let first = script.accept().expect("established");
        assert_eq!(script.info(first).mptcp, Some(v as u8));
        // No key fits: the cookie offers plain TCP.
        let impossible = |c: &mut StackConfig| (c.token_mask, c.token_value) = (u32::MAX, 1);
        let mut script = flooded(v, impossible);
        let (_, answer) = script.half_open(4000, H);
        assert!(answer.mptcp().is_empty(), "{answer:?}");
    });
}

/// T45 for first subflows: what a flood of `MP_CAPABLE` leaves behind is bounded, and what is
/// established does not notice.
#[test]
fn a_flood_of_offers_costs_a_bounded_number_of_entries_and_tokens() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        for n in 0..20_000_u32 {
            let peer = IpAddr::from([10, 6, (n >> 8) as u8, n as u8]);
            let attacker = Flow::new(at(peer, 4000), at(A1, PORT));
            script.inject(&attacker, &attacker.syn().opt(&offer(v, H)));
            if n % 16 == 0 {
                script.out();
            }
        }
        let occupancy = script.stack.occupancy();
        assert_eq!((occupancy.requests, occupancy.tokens), (28, 29));
        assert!(script.counters().stateless_reply_limited > 0, "cookies are rate limited");
        script.out();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 100));
        script.expect_stream(id, 0, 100);
        script.join(&keys, at(P2, 5000), at(A2, PORT));
        assert_eq!(script.info(id).subflows.len(), 2);
    });
}
