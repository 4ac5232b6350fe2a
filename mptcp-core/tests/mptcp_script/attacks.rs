//! Hostile input: option bytes of every kind in every state, blind injection, floods. Nothing may
//! panic, grow or reach the stream (RFC 8684 §5).

use crate::harness::*;
use core::net::IpAddr;
use mptcp_core::config::{PathManagerKind, StackConfig};
use mptcp_core::mptcp::key;
use mptcp_core::stack::SocketId;
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{
    AddAddr, AddressIds, CapableFlags, CapableForm, Dss, Mapping, MpJoin, MptcpOption,
    OptionWriter, TcpFlags, Version, WireSeq,
};
use proptest::prelude::*;

/// Where a connection stands when the hostile segments come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Listening,
    HalfOpen,
    Unconfirmed,
    Confirmed,
    Joined,
    HalfJoined,
    FellBack,
    Closing,
    Finished,
    ClientSynSent,
    ClientUnconfirmed,
    ClientJoining,
}

const STAGES: [Stage; 12] = [
    Stage::Listening,
    Stage::HalfOpen,
    Stage::Unconfirmed,
    Stage::Confirmed,
    Stage::Joined,
    Stage::HalfJoined,
    Stage::FellBack,
    Stage::Closing,
    Stage::Finished,
    Stage::ClientSynSent,
    Stage::ClientUnconfirmed,
    Stage::ClientJoining,
];

fn fullmesh(config: &mut StackConfig) {
    config.mptcp.path_manager = PathManagerKind::Fullmesh;
}

/// A stack in `stage`: the flow under attack, the keys, and the socket where there is one.
fn enter(v: Version, stage: Stage, flags: CapableFlags) -> (Script, Flow, Keys, Option<SocketId>) {
    let unknown = Keys { peer: PEER_KEY, stack: 1, checksum: false, version: v };
    match stage {
        Stage::Listening => {
            (Script::server(v), Flow::new(at(P1, 4000), at(A1, PORT)), unknown, None)
        }
        Stage::HalfOpen => {
            let mut script = Script::server(v);
            let (flow, answer) = script.half_open(4000, flags);
            let keys = Keys::of(v, &answer, false);
            (script, flow, keys, None)
        }
        Stage::Unconfirmed => {
            let mut script = Script::server_with(v, fullmesh);
            let (keys, flow, id) = script.unconfirmed_with(flags);
            (script, flow, keys, Some(id))
        }
        Stage::Confirmed => {
            let mut script = Script::server_with(v, fullmesh);
            let (keys, flow, id) = script.confirmed_with(flags);
            (script, flow, keys, Some(id))
        }
        Stage::Joined => {
            let mut script = Script::server(v);
            let (keys, _, id) = script.confirmed_with(flags);
            let flow = script.join(&keys, at(P2, 5000), at(A2, PORT));
            script.write(id, 0, 50_000);
            (script, flow, keys, Some(id))
        }
        Stage::HalfJoined => {
            let mut script = Script::server(v);
            let (keys, _, id) = script.confirmed_with(flags);
            let mut flow = Flow::new(at(P2, 5000), at(A2, PORT));
            script.join_syn(&keys, &mut flow, false);
            (script, flow, keys, Some(id))
        }
        Stage::FellBack => {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.unconfirmed_with(flags);
            script.send(&flow, &flow.seg().data(b"x"));
            flow.snd_nxt += 1;
            (script, flow, keys, Some(id))
        }
        Stage::Closing => {
            let mut script = Script::server(v);
            let (keys, flow, id) = script.confirmed_with(flags);
            script.write(id, 0, 1_000);
            script.stack.shutdown_write(script.now, id);
            script.out();
            (script, flow, keys, Some(id))
        }
        Stage::Finished => {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.confirmed_with(flags);
            script.stack.shutdown_write(script.now, id);
            let mut out = script.out();
            out.extend(script.send(&flow, &flow.seg().dss(keys.fin(0))));
            out.extend(script.send(&flow, &flow.seg().dss(keys.ack(1))));
            flow.hears(&out);
            (script, flow, keys, Some(id))
        }
        Stage::ClientSynSent => {
            let mut script = Script::new(v, fullmesh);
            let (flow, id, _) = script.connect();
            (script, flow, unknown, Some(id))
        }
        Stage::ClientUnconfirmed => {
            let mut script = Script::new(v, fullmesh);
            let (keys, flow, id) = script.connected_with(flags);
            (script, flow, keys, Some(id))
        }
        Stage::ClientJoining => {
            let mut script = Script::new(v, fullmesh);
            let (keys, flow, id) = script.connected_with(flags);
            let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
            let syn = out.iter().find(|o| o.join().is_some()).expect("a join").clone();
            let mut join = Flow::new(syn.dst, syn.src);
            join.hears(&[syn]);
            (script, join, keys, Some(id))
        }
    }
}

fn seq(keys: Keys) -> impl Strategy<Value = WireSeq> {
    prop_oneof![
        (0_u64..3_000).prop_map(move |o| WireSeq::Full(keys.peer_dsn(o).0)),
        (0_u64..3_000).prop_map(move |o| WireSeq::Low(keys.peer_dsn(o).0 as u32)),
        (0_u64..3_000).prop_map(move |o| WireSeq::Full(keys.stack_dsn(o).0)),
        any::<u64>().prop_map(WireSeq::Full),
        any::<u32>().prop_map(WireSeq::Low),
    ]
}

/// An option area: pure noise, MPTCP options with noise inside, or well-formed hostile ones.
fn options(keys: Keys) -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..=40);
    let mptcp = (0_u8..16, 0_u8..16, proptest::collection::vec(any::<u8>(), 0..=36)).prop_map(
        |(subtype, low, rest)| {
            let mut bytes = vec![30, rest.len() as u8 + 3, subtype << 4 | low];
            bytes.extend_from_slice(&rest);
            bytes
        },
    );
    let mapping = (seq(keys), any::<u32>(), any::<u16>(), any::<Option<u16>>());
    let dss = (
        proptest::option::of(seq(keys)),
        proptest::option::of(mapping),
        0_u32..2_000,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(data_ack, mapping, near, use_near, data_fin)| {
            let mapping = mapping.map(|(dsn, ssn, len, checksum)| Mapping {
                dsn,
                ssn: if use_near { near } else { ssn },
                len: if use_near { len % 2_000 } else { len },
                checksum,
            });
            MptcpOption::Dss(Dss { data_ack, mapping, data_fin: data_fin && mapping.is_some() })
        });
    let other = prop_oneof![
        Just(MptcpOption::Fail { dsn: keys.stack_dsn(0).0 }),
        any::<u64>().prop_map(|key| MptcpOption::Fastclose { key }),
        Just(MptcpOption::Fastclose { key: keys.stack }),
        any::<[u8; 20]>().prop_map(|hmac| MptcpOption::Join(MpJoin::Ack { hmac })),
        (any::<bool>(), any::<u8>(), any::<u32>()).prop_map(move |(backup, address_id, nonce)| {
            let token = keys.stack_token();
            MptcpOption::Join(MpJoin::Syn { backup, address_id, token, nonce })
        }),
        (any::<u64>(), any::<u32>()).prop_map(|(hmac, nonce)| {
            MptcpOption::Join(MpJoin::SynAck { backup: false, address_id: 1, hmac, nonce })
        }),
        Just(MptcpOption::RemoveAddr(AddressIds::new(&[0, 1, 2, 255]).expect("ids"))),
        (any::<u16>(), any::<Option<u16>>()).prop_map(move |(data_len, checksum)| {
            let (sender, receiver) = (keys.peer, keys.stack);
            let form = CapableForm::Data { sender, receiver, data_len, checksum };
            capable(Version::V1, CapableFlags::HMAC, form)
        }),
    ];
    let encode = |option: MptcpOption<'static>| {
        let mut writer = OptionWriter::new();
        let _fits = writer.push_mptcp(&option, Version::V1);
        writer.as_bytes().to_vec()
    };
    prop_oneof![1 => noise, 2 => mptcp, 4 => dss.prop_map(encode), 3 => other.prop_map(encode)]
}

#[derive(Clone, Debug)]
struct Hostile {
    options: Vec<u8>,
    flags: u8,
    seq: i32,
    ack: i32,
    window: u16,
    len: usize,
    wait: u64,
    act: u8,
}

fn hostile(keys: Keys) -> impl Strategy<Value = Hostile> {
    let flags = prop_oneof![6 => Just(0x10_u8), 2 => Just(0x11), 1 => Just(0x14), 1 => Just(0x02),
        1 => Just(0x12), 1 => any::<u8>()];
    let near = || prop_oneof![5 => Just(0), 2 => -1500_i32..3000, 1 => any::<i32>()];
    (
        options(keys),
        flags,
        near(),
        near(),
        any::<u16>(),
        prop_oneof![Just(0_usize), 1_usize..1400],
        prop_oneof![4 => Just(0_u64), 1 => 0_u64..5_000],
        any::<u8>(),
    )
        .prop_map(|(options, flags, seq, ack, window, len, wait, act)| Hostile {
            options,
            flags,
            seq,
            ack,
            window,
            len,
            wait,
            act,
        })
}

/// Runs hostile segments against a stage. `Script` asserts well-formed output on the way and empty
/// tables at the end.
fn attack(v: Version, stage: Stage, checksum: bool, segments: &[Hostile]) {
    let mut flags = CapableFlags::HMAC;
    flags.set(CapableFlags::CHECKSUM, checksum);
    let (mut script, mut flow, _, id) = enter(v, stage, flags);
    script.any_version = true;
    for hostile in segments {
        let mut options = hostile.options.clone();
        options.truncate(40);
        let seg = flow
            .seg()
            .seq(flow.snd_nxt.wrapping_add_signed(hostile.seq))
            .acks(flow.rcv_nxt.wrapping_add_signed(hostile.ack))
            .flags(TcpFlags::from_bits_retain(hostile.flags))
            .window(hostile.window)
            .raw(&options)
            .data(&stream(0, hostile.len));
        let out = script.send(&flow, &seg);
        if hostile.act & 1 == 0 {
            flow.hears(&out);
        }
        if hostile.seq == 0 && hostile.act & 2 == 0 {
            flow.snd_nxt = flow.snd_nxt.wrapping_add(hostile.len as u32);
        }
        if let Some(id) = id {
            match hostile.act >> 4 {
                0 => {
                    let _sent = script.stack.send(script.now, id, &stream(0, 3_000));
                }
                1..4 => {
                    let _read = script.read(id);
                }
                4 => script.stack.shutdown_write(script.now, id),
                5 => {
                    script.stack.set_backup(id, 0, hostile.act & 4 == 0);
                }
                _ => {}
            }
            let out = script.out();
            flow.hears(&out);
        }
        script.advance(hostile.wait);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn random_options_in_every_state_neither_panic_nor_leak(
        stage in 0..STAGES.len(),
        checksum in any::<bool>(),
        // The keys of a stack made from the fixed seed: the same in every case.
        (v, segments) in prop_oneof![Just(Version::V0), Just(Version::V1)].prop_flat_map(|v| {
            (Just(v), proptest::collection::vec(hostile(fixed_keys(v)), 1..24))
        }),
    ) {
        attack(v, STAGES[stage], checksum, &segments);
    }
}

/// The keys of the first connection of a scripted server, so that strategies can aim at it.
fn fixed_keys(v: Version) -> Keys {
    static KEYS: std::sync::OnceLock<[Keys; 2]> = std::sync::OnceLock::new();
    let of = |v| {
        let mut script = Script::server(v);
        let (_, answer) = script.half_open(4000, CapableFlags::HMAC);
        Keys::of(v, &answer, false)
    };
    KEYS.get_or_init(|| [of(Version::V0), of(Version::V1)])[usize::from(v as u8)]
}

#[test]
fn a_blind_injector_never_reaches_the_data_level() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let far = flow.snd_nxt.wrapping_add(1 << 24);
        let dss = keys.data(&flow, 0, 0, b"evil");
        // Authentic, were it the peer that sent it.
        let hmac = key::add_addr_hmac(v, keys.peer, keys.stack, 3, P2, None);
        let hmac = (v == Version::V1).then_some(hmac);
        let add_addr = AddAddr { address_id: 3, addr: P2, port: None, echo: false, hmac };
        let mut writer = OptionWriter::new();
        assert!(add_addr.encode(&mut writer, v));
        let announced = writer.as_bytes().to_vec();
        let gone = MptcpOption::RemoveAddr(AddressIds::new(&[0]).expect("one id"));
        let unsent = flow.rcv_nxt.wrapping_add(1_000_000);
        for seg in [
            flow.seg().seq(far).raw(&announced),
            flow.seg().seq(far).opt(&gone),
            flow.seg().acks(unsent).raw(&announced),
            flow.seg().acks(unsent).opt(&gone),
            flow.seg().acks(unsent).raw(&[30, 3, 0x51]),
            flow.seg().acks(unsent).opt(&MptcpOption::Fastclose { key: keys.stack }),
            flow.seg().seq(far).dss(dss).data(b"evil"),
            flow.seg().seq(far).opt(&MptcpOption::Fastclose { key: keys.stack }),
            flow.seg().seq(far).opt(&MptcpOption::Fail { dsn: 0 }),
            flow.seg().seq(far).raw(&[30, 3, 0x51]),
            flow.seg().seq(far).dss(keys.fin(0)),
            flow.seg()
                .seq(far)
                .flags(TcpFlags::RST)
                .opt(&MptcpOption::Fastclose { key: keys.stack }),
            // In the window but not the next octet: a challenge, no more (RFC 5961).
            flow.seg()
                .seq(flow.snd_nxt + 1)
                .flags(TcpFlags::RST)
                .opt(&MptcpOption::Fastclose { key: keys.stack }),
            // Acknowledges what was never sent.
            flow.seg().acks(unsent).dss(dss).data(b"evil"),
        ] {
            let out = script.send(&flow, &seg);
            assert!(out.iter().all(|o| !o.rst()), "{seg:?}: {out:?}");
        }
        let info = script.info(id);
        assert!(
            info.mptcp == Some(v as u8) && info.subflows.len() == 1 && !info.subflows[0].backup
        );
        assert!(script.would_block(id));
        let read = |script: &Script| {
            let counters = script.counters();
            [counters.add_addr, counters.rm_addr, counters.mp_prio_rx, counters.mp_fastclose_rx]
        };
        assert_eq!(read(&script), [0; 4]);
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
        // From the peer they count.
        script.send(&flow, &flow.seg().raw(&announced).opt(&gone).raw(&[30, 3, 0x51]));
        assert_eq!(read(&script), [1, 1, 1, 0]);
    });
}

#[test]
fn the_third_ack_of_a_stranger_is_no_use() {
    both(|v| {
        // A known token, a half-open join of somebody else, an HMAC of the wrong key.
        let mut script = Script::server(v);
        let (keys, _, id) = script.confirmed();
        let mut flow = Flow::new(at(P2, 5000), at(A1, PORT));
        let out = script.join_syn(&keys, &mut flow, false);
        let Some(MpJoin::SynAck { nonce, .. }) = out[0].join() else { panic!("{out:?}") };
        let stranger = Keys { peer: PEER_KEY ^ 1, ..keys };
        let hmac = stranger.pair().sent_join_hmac(v, NONCE, nonce).full();
        let out = script.send(&flow, &flow.seg().opt(&MptcpOption::Join(MpJoin::Ack { hmac })));
        assert!(out[0].rst(), "{out:?}");
        assert_eq!(script.info(id).subflows.len(), 1);
    });
}

#[test]
fn half_open_mptcp_syns_are_bounded_and_cost_nothing_later() {
    both(|v| {
        let mut script = Script::server(v);
        for n in 0..5_000_u32 {
            let peer = IpAddr::from([10, 5, (n >> 8) as u8, n as u8]);
            let flow = Flow::new(at(peer, 4000), at(A1, PORT));
            script.send(&flow, &flow.syn().opt(&offer(v, CapableFlags::HMAC)));
        }
        // An eighth of the table is kept for joins.
        assert_eq!(script.stack.occupancy().requests, 28);
        assert!(script.counters().syncookies_sent > 4_000);
        // Beyond the queue a cookie remembers all that is needed, and MPTCP works.
        let (keys, mut flow, id) = script.confirmed();
        script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        script.expect_stream(id, 0, 10);
        assert_eq!(script.counters().syncookies_recv, 1);
        script.advance(300_000);
        assert_eq!(script.stack.occupancy().requests, 0);
    });
}

#[test]
fn a_flood_of_syns_does_not_stop_joins() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, _, id) = script.confirmed();
        for n in 0..1_000_u32 {
            let peer = IpAddr::from([10, 5, (n >> 8) as u8, n as u8]);
            let flow = Flow::new(at(peer, 4000), at(A1, PORT));
            script.send(&flow, &flow.syn());
        }
        assert!(script.counters().syncookies_sent > 900);
        script.join(&keys, at(P2, 5000), at(A2, PORT));
        assert_eq!(script.info(id).subflows.len(), 2);
    });
}

#[test]
fn a_flood_of_syns_does_not_silence_resets() {
    both(|v| {
        let mut script = Script::server_with(v, |c| c.limits.stateless_replies_per_s = 100);
        for n in 0..1_000_u32 {
            let peer = IpAddr::from([10, 5, (n >> 8) as u8, n as u8]);
            let flow = Flow::new(at(peer, 4000), at(A1, PORT));
            script.send(&flow, &flow.syn());
        }
        assert_eq!(script.counters().syncookies_sent, 100);
        let stray = Flow::new(at(P1, 4000), at(A1, 9));
        let out = script.send(&stray, &stray.seg());
        assert!(out.len() == 1 && out[0].rst(), "{out:?}");
    });
}

#[test]
fn an_undecided_application_does_not_use_the_request_table_up() {
    both(|v| {
        let mut script = Script::server(v);
        let options = mptcp_core::stack::Listen { deferred: true, ..Default::default() };
        let deferred = script.stack.listen(at(A1, 81), &options).expect("a free port");
        let syn = |script: &mut Script, n: u32| {
            let peer = IpAddr::from([10, 5, (n >> 8) as u8, n as u8]);
            let flow = Flow::new(at(peer, 4000), at(A1, 81));
            script.send(&flow, &flow.syn());
        };
        for n in 0..100 {
            syn(&mut script, n);
        }
        assert_eq!(script.stack.occupancy().requests, 16);
        assert_eq!(script.counters().dropped(DropReason::RequestQueueFull), 84);
        // Others still get an entry, and so does the next one once there was a decision.
        let (keys, ..) = script.confirmed();
        assert_ne!(keys.stack, 0);
        let first = script.stack.accept(deferred).expect("offered");
        assert!(script.stack.refuse_deferred(script.now, first));
        syn(&mut script, 200);
        assert_eq!(script.stack.occupancy().requests, 16);
        let second = script.stack.accept(deferred).expect("offered");
        assert!(script.stack.accept_deferred(script.now, second));
        syn(&mut script, 201);
        assert_eq!(script.stack.occupancy().requests, 17);
        script.stack.close_listener(script.now, deferred);
    });
}

#[test]
fn mappings_that_never_get_their_data_are_bounded() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.confirmed();
        // Ever new mappings on pure ACKs, none contiguous with another.
        for n in 0..40_000_u32 {
            let dss = keys.map(u64::from(n) * 10 + 5_000_000, 10 + n * 7, 5);
            let out = script.send(&flow, &flow.seg().dss(dss));
            if out.iter().any(|o| o.rst()) {
                break;
            }
        }
        assert!(script.would_block(id));
    });
}

/// Octets of the stream that come twice with other contents, over one subflow or another: the first copy
/// stays, also where it waits behind a hole, and each octet is delivered once.
#[test]
fn of_two_copies_of_the_stream_the_first_one_stays() {
    both(|v| {
        for other in [false, true] {
            let mut script = Script::server(v);
            let (keys, mut flow, id) = script.confirmed();
            let mut join = script.join(&keys, at(P2, 5000), at(A2, PORT));
            script.send_data(&keys, &mut flow, 500, 0, &stream(500, 500));
            let lie = vec![0xee; 1_400];
            let second = if other { &mut join } else { &mut flow };
            // Across all of what waits, and inside of it.
            script.send_data(&keys, second, 300, 0, &lie[..900]);
            script.send_data(&keys, second, 600, 0, &lie[..100]);
            script.send_data(&keys, second, 0, 0, &stream(0, 300));
            let got = script.read(id).expect("the stream");
            assert_eq!(got.len(), 1_200, "other {other}");
            assert_eq!(got[..300], stream(0, 300));
            assert_eq!(got[500..1_000], stream(500, 500), "other {other}");
            assert!(got[300..500].iter().chain(&got[1_000..]).all(|octet| *octet == 0xee));
            assert_eq!(script.info(id).bytes_received, 1_200);
        }
    });
}

/// `DATA_ACK`s of single octets and windows of single octets: a segment of a peer's gets one of ours at
/// most, and what we hold stays within the send buffer.
#[test]
fn a_data_level_that_opens_by_octets_costs_little() {
    both(|v| {
        let mut script = Script::server_with(v, |config| config.tcp.send_buffer_max = 64 << 10);
        let (keys, mut flow, id) = script.confirmed();
        let shut = flow.seg().window(0).dss(keys.ack(0));
        script.send(&flow, &shut);
        let mut written = 0;
        while let Ok(count) = script.stack.send(script.now, id, &[7; 1_000]) {
            written += count;
        }
        assert!(written <= 2 * (64 << 10), "{written}");
        let mut out = script.out();
        let taken = |flow: &Flow| u64::from(flow.rcv_nxt.wrapping_sub(flow.stack_isn)) - 1;
        // What was promised before stays promised.
        while out.iter().any(|o| !o.payload.is_empty()) {
            flow.hears(&out);
            out = script.send(&flow, &flow.seg().window(0).dss(keys.ack(taken(&flow))));
        }
        let pinned = script.sent_in_use();
        let mut segments = 0;
        for n in 0..600_u32 {
            let seg = flow.seg().window(1).dss(keys.ack(taken(&flow)));
            let mut out = script.send(&flow, &seg);
            assert!(out.len() <= 1, "{n}: {out:?}");
            out.extend(script.advance(100));
            flow.hears(&out);
            segments += out.len();
        }
        assert!(segments < 1_300, "{segments} segments in a minute");
        assert!(script.sent_in_use() <= pinned + 4, "{} buffers", script.sent_in_use());
    });
}
