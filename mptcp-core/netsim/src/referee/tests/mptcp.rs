//! The rules of the data level.

use super::super::secret::{Key, KeyPair};
use super::*;

const KEY_A: u64 = 0x0102_0304_0506_0708;
const KEY_B: u64 = 0x1112_1314_1516_1718;
/// What the two keys stand for, computed independently of this crate.
const IDSN_A: u64 = 0xf5a1_01d3_d29d_6f72;
const IDSN_B: u64 = 0x535b_eea3_8e08_7c8e;
const TOKEN_B: u32 = 0xccad_45ac;

/// What proves the two keys with nonces of nines for A and sevens for B.
const HMAC_B: u64 = 0x361b_744a_4d5d_1ed8;
const HMAC_A: [u8; 20] = [
    0x4f, 0xc2, 0xc4, 0xa3, 0xc8, 0x86, 0x7f, 0x8c, 0xdd, 0x14, 0x88, 0x96, 0xdf, 0x63, 0x46, 0x2e,
    0xec, 0x15, 0xf8, 0x85,
];

const CAPABLE_SYN: [u8; 4] = [30, 4, 0x01, 0x01];

fn capable(keys: &[u64], data_len: Option<u16>) -> Vec<u8> {
    let mut option = vec![30, 0, 0x01, 0x01];
    for key in keys {
        option.extend(key.to_be_bytes());
    }
    option.extend(data_len.iter().flat_map(|len| len.to_be_bytes()));
    option[1] = u8::try_from(option.len()).unwrap();
    option
}

/// A DSS with 64-bit numbers, given as positions.
#[derive(Clone, Copy, Default)]
struct Signal {
    from_b: bool,
    ack: Option<u64>,
    map: Option<(u64, u32, u16)>,
    fin: bool,
    short: bool,
}

impl Signal {
    fn option(self) -> Vec<u8> {
        let (own, peer) = if self.from_b { (IDSN_B, IDSN_A) } else { (IDSN_A, IDSN_B) };
        let mut option = vec![30, 0, 0x20, 0];
        let put = |option: &mut Vec<u8>, value: u64, wide: u8| {
            if self.short {
                option.extend(&value.to_be_bytes()[4..]);
            } else {
                option.extend(value.to_be_bytes());
                option[3] |= wide;
            }
        };
        if let Some(ack) = self.ack {
            option[3] |= 0x01;
            put(&mut option, peer.wrapping_add(ack), 0x02);
        }
        if let Some((data, ssn, len)) = self.map {
            option[3] |= 0x04;
            put(&mut option, own.wrapping_add(data), 0x08);
            option.extend(ssn.to_be_bytes());
            option.extend(len.to_be_bytes());
        }
        if self.fin {
            option[3] |= 0x10;
        }
        option[1] = u8::try_from(option.len()).unwrap();
        option
    }
}

fn from_a(ack: Option<u64>, map: Option<(u64, u32, u16)>) -> Vec<u8> {
    Signal { ack, map, ..Signal::default() }.option()
}

fn from_b(ack: Option<u64>, map: Option<(u64, u32, u16)>) -> Vec<u8> {
    Signal { from_b: true, ack, map, ..Signal::default() }.option()
}

/// A scene after the handshake of version 1.
fn capable_scene() -> Scene {
    let mut scene = Scene::new();
    scene.pass(syn(&[&MSS, &CAPABLE_SYN]));
    scene.pass(syn_ack(&[&MSS, &capable(&[KEY_B], None)]));
    scene.pass(a(1, 1).option(&capable(&[KEY_A, KEY_B], None)));
    scene
}

/// The same, with a joined subflow from port 2000.
fn joined_scene() -> Scene {
    let mut scene = capable_scene();
    scene.pass(a(1, 1).option(&from_a(Some(1), None)));
    scene.pass(b(1, 1).option(&from_b(Some(1), None)));
    let mut join = vec![30, 12, 0x10, 1];
    join.extend(TOKEN_B.to_be_bytes());
    join.extend([9; 4]);
    scene.pass(on_join(syn(&[&MSS, &join])));
    scene.pass(on_join(syn_ack(&[&MSS, &join_answer(HMAC_B)])));
    scene.pass(on_join(a(1, 1).option(&join_proof(&HMAC_A))));
    scene
}

fn join_answer(hmac: u64) -> Vec<u8> {
    [&[30, 16, 0x10, 1][..], &hmac.to_be_bytes(), &[7; 4]].concat()
}

fn join_proof(hmac: &[u8; 20]) -> Vec<u8> {
    [&[30, 24, 0x10, 0][..], hmac].concat()
}

fn on_join(mut build: Build) -> Build {
    for address in [&mut build.src, &mut build.dst] {
        if address.port() == 1_000 {
            address.set_port(2_000);
        }
    }
    build
}

#[test]
fn keys_give_the_known_tokens_and_numbers() {
    let key = Key::new(1, KEY_A);
    assert_eq!((key.token, key.idsn), (0x6684_0dda, IDSN_A));
    let key = Key::new(1, KEY_B);
    assert_eq!((key.token, key.idsn), (TOKEN_B, IDSN_B));
    let key = Key::new(0, KEY_A);
    assert_eq!((key.token, key.idsn), (0xdd57_83bc, 0x3a95_ed6e_4ebb_4ad5));
    let keys = KeyPair { version: 0, local: KEY_B, remote: KEY_A };
    assert!(keys.join(0x1112_1314, 0x0102_0304).starts_with(&[0xdd, 0x7e, 0xd5, 0x5c, 0x0c, 0x08]));
}

#[test]
fn an_ordinary_connection_is_clean() {
    let mut scene = joined_scene();
    scene.pass(a(1, 1).data(&[1; 300]).option(&from_a(Some(1), Some((1, 1, 300)))));
    scene.lose(on_join(a(1, 1)).data(&[2; 300]).option(&from_a(Some(1), Some((301, 1, 300)))));
    // Reinjected on the first subflow, while the second one still has to repeat it.
    scene.pass(a(301, 1).data(&[2; 300]).option(&from_a(Some(1), Some((301, 301, 300)))));
    scene.pass(b(1, 601).option(&from_b(Some(601), None)));
    scene.pass(on_join(a(1, 1)).data(&[2; 300]).option(&from_a(Some(1), Some((301, 1, 300)))));
    scene.pass(on_join(b(1, 301)).option(&from_b(Some(601), None)));
    let fin = Signal { ack: Some(1), map: Some((601, 0, 1)), fin: true, ..Signal::default() };
    scene.pass(a(601, 1).option(&fin.option()));
    scene.pass(b(1, 601).option(&from_b(Some(602), None)));
    scene.clean();
    let seen = scene.referee.seen();
    assert_eq!((seen.connections, seen.flows), (2, 4));
    assert_eq!((seen.data_bytes, seen.data_acks), (1_200, 10));
}

/// Where a box acknowledges more than the peer has, only what is below its DATA_ACK is below its window.
#[test]
fn a_probe_of_the_only_subflow_may_lie_below_what_tcp_acknowledged() {
    let mut scene = capable_scene();
    scene.pass(a(1, 1).data(&[1; 300]).option(&from_a(Some(1), Some((1, 1, 300)))));
    scene.pass(b(1, 301).option(&from_b(Some(101), None)));
    scene.pass(a(100, 1).option(&from_a(Some(1), None)));
    scene.pass(a(300, 1).option(&from_a(Some(1), None)));
    scene.clean();
    let mut join = joined_scene();
    join.pass(on_join(a(1, 1)).data(&[2; 300]).option(&from_a(Some(1), Some((1, 1, 300)))));
    join.pass(on_join(b(1, 301)).option(&from_b(Some(101), None)));
    join.pass(on_join(a(100, 1)).option(&from_a(Some(1), None)));
    join.broke(Rule::NoGap);
}

#[test]
fn first_data_may_carry_the_keys() {
    let mut scene = Scene::new();
    scene.pass(syn(&[&MSS, &CAPABLE_SYN]));
    scene.pass(syn_ack(&[&MSS, &capable(&[KEY_B], None)]));
    scene.lose(a(1, 1).option(&capable(&[KEY_A, KEY_B], None)));
    scene.pass(a(1, 1).data(&[1; 50]).option(&capable(&[KEY_A, KEY_B], Some(50))));
    scene.pass(b(1, 51).option(&from_b(Some(51), None)));
    scene.clean();
    scene.lose(b(1, 51).option(&from_b(Some(52), None)));
    scene.broke(Rule::DataAckAdvances);
}

/// Nobody knows what a DATA_ACK is about before the peer has shown its key.
#[test]
fn a_data_ack_that_cannot_be_judged_is_not_counted() {
    let mut scene = Scene::new();
    scene.pass(syn(&[&MSS, &CAPABLE_SYN]));
    scene.pass(syn_ack(&[&MSS, &capable(&[KEY_B], None)]));
    scene.lose(b(1, 1).option(&from_b(Some(1), None)));
    scene.clean();
    assert_eq!(scene.referee.seen().data_acks, 0);
    scene.pass(a(1, 1).option(&capable(&[KEY_A, KEY_B], None)));
    scene.lose(b(1, 1).option(&from_b(Some(1), None)));
    assert_eq!(scene.referee.seen().data_acks, 1);
}

/// The SYN shows the key, and the third ACK may get lost; numbers and HMACs come from SHA-1 (RFC 6824 §3.1).
#[test]
fn version_0_is_judged_as_well() {
    let (numbers_a, numbers_b) = (Key::new(0, KEY_A), Key::new(0, KEY_B));
    let key = |key: u64| [&[30, 12, 0x00, 0x01][..], &key.to_be_bytes()].concat();
    let keys = [&[30, 20, 0x00, 0x01][..], &KEY_A.to_be_bytes(), &KEY_B.to_be_bytes()].concat();
    let low = |idsn: u64, at: u32| (idsn as u32).wrapping_add(at).to_be_bytes();
    let acked = |at| [&[30, 8, 0x20, 0x01][..], &low(numbers_a.idsn, at)].concat();
    let mapped = |at: u32, ssn: u32, len: u16| {
        let ack = low(numbers_b.idsn, 1);
        let dsn = low(numbers_a.idsn, at);
        [&[30, 18, 0x20, 0x05][..], &ack, &dsn, &ssn.to_be_bytes(), &len.to_be_bytes()].concat()
    };
    let scene = || {
        let mut scene = Scene::new();
        scene.pass(syn(&[&MSS, &key(KEY_A)]));
        scene.pass(syn_ack(&[&MSS, &key(KEY_B)]));
        scene.lose(a(1, 1).option(&keys));
        scene.pass(a(1, 1).data(&[1; 100]).option(&mapped(1, 1, 100)));
        scene
    };
    let mut clean = scene();
    clean.pass(b(1, 101).option(&acked(101)));
    let mut join = vec![30, 12, 0x10, 1];
    join.extend(numbers_b.token.to_be_bytes());
    join.extend([9; 4]);
    clean.pass(on_join(syn(&[&MSS, &join])));
    let proof = KeyPair { version: 0, local: KEY_B, remote: KEY_A };
    let proof = proof.join(u32::from_be_bytes([7; 4]), u32::from_be_bytes([9; 4]));
    let hmac = u64::from_be_bytes(*proof.first_chunk().expect("160 bits"));
    clean.pass(on_join(syn_ack(&[&MSS, &join_answer(hmac)])));
    clean.clean();
    let seen = clean.referee.seen();
    assert_eq!((seen.connections, seen.data_bytes, seen.proofs), (2, 100, 1));
    let mut moved = scene();
    moved.lose(a(101, 1).data(&[2; 50]).option(&mapped(101, 100, 51)));
    moved.broke(Rule::MappingKept);
    let mut ahead = scene();
    ahead.lose(b(1, 101).option(&acked(102)));
    ahead.broke(Rule::DataAckAdvances);
    let mut forged = scene();
    forged.pass(on_join(syn(&[&MSS, &join])));
    forged.lose(on_join(syn_ack(&[&MSS, &join_answer(hmac ^ 1)])));
    forged.broke(Rule::KeyMatches);
}

#[test]
fn a_key_of_version_0_is_kept_from_the_syn_on() {
    let key = |key: u64| [&[30, 12, 0x00, 0x01][..], &key.to_be_bytes()].concat();
    let keys =
        |own: u64| [&[30, 20, 0x00, 0x01][..], &own.to_be_bytes(), &KEY_B.to_be_bytes()].concat();
    let mut repeated = Scene::new();
    repeated.lose(syn(&[&key(KEY_A)]));
    repeated.lose(syn(&[&key(KEY_A)]));
    repeated.lose(syn(&[]));
    repeated.clean();
    repeated.lose(syn(&[&key(KEY_A + 1)]));
    repeated.broke(Rule::HandshakeRepeated);
    for (own, right) in [(KEY_A, true), (KEY_A + 1, false)] {
        let mut confirmed = Scene::new();
        confirmed.pass(syn(&[&key(KEY_A)]));
        confirmed.pass(syn_ack(&[&key(KEY_B)]));
        confirmed.lose(a(1, 1).option(&keys(own)));
        if right { confirmed.clean() } else { confirmed.broke(Rule::KeyMatches) }
    }
}

#[test]
fn thirty_two_bits_are_widened() {
    let mut scene = capable_scene();
    for step in 0..3_u32 {
        let at = u64::from(1 + step * 100);
        let signal = Signal {
            ack: Some(1),
            map: Some((at, 1 + step * 100, 100)),
            short: true,
            ..Signal::default()
        };
        scene.pass(a(1 + step * 100, 1).data(&[1; 100]).option(&signal.option()));
        let ack = Signal { from_b: true, ack: Some(at + 100), short: true, ..Signal::default() };
        scene.pass(b(1, 101 + step * 100).option(&ack.option()));
    }
    scene.clean();
    let old = Signal { from_b: true, ack: Some(201), short: true, ..Signal::default() };
    scene.lose(b(1, 301).window(2_000).option(&old.option()));
    scene.broke(Rule::DataAckAdvances);
}

#[test]
fn keys_and_tokens_are_those_of_the_connection() {
    let mut scene = Scene::new();
    scene.pass(syn(&[&CAPABLE_SYN]));
    scene.lose(syn_ack(&[&capable(&[KEY_B], None)]));
    scene.lose(syn_ack(&[&capable(&[KEY_B + 1], None)]));
    scene.broke(Rule::HandshakeRepeated);

    let mut scene = Scene::new();
    scene.pass(syn(&[&CAPABLE_SYN]));
    scene.pass(syn_ack(&[&capable(&[KEY_B], None)]));
    scene.lose(a(1, 1).option(&capable(&[KEY_A, KEY_B + 1], None)));
    scene.broke(Rule::KeyMatches);

    let mut scene = capable_scene();
    scene.lose(a(1, 1).option(&capable(&[KEY_A + 1, KEY_B], None)));
    scene.broke(Rule::KeyMatches);

    let mut scene = capable_scene();
    let mut join = vec![30, 12, 0x10, 1];
    join.extend((TOKEN_B + 1).to_be_bytes());
    join.extend([9; 4]);
    scene.pass(on_join(syn(&[&join])));
    let mut answer = vec![30, 16, 0x10, 1];
    answer.extend([7; 12]);
    scene.lose(on_join(syn_ack(&[&answer])));
    scene.broke(Rule::KeyMatches);
}

#[test]
fn known_options_have_the_lengths_they_can_have() {
    let others: [&[u8]; 4] =
        [&[30, 3, 0x50], &[30, 4, 0x80, 0], &[30, 4, 0x40, 3], &[30, 8, 0x34, 3, 192, 0, 2, 9]];
    for option in others {
        let mut scene = capable_scene();
        scene.lose(a(1, 1).option(option));
        scene.clean();
    }
    let wrong: [&[u8]; 7] = [
        &[2, 3, 5],
        &[8, 4, 0, 1],
        &[30, 5, 0x20, 0, 0],
        &[30, 11, 0x60, 0, 1, 2, 3, 4, 5, 6, 7],
        // An announcement of version 1 without its proof.
        &[30, 8, 0x30, 3, 192, 0, 2, 9],
        &[30, 3, 0x40],
        &[30, 5, 0x80, 0, 0],
    ];
    for option in wrong {
        let mut scene = capable_scene();
        scene.lose(a(1, 1).option(option));
        scene.broke(Rule::WellFormed);
    }
}

#[test]
fn mptcp_is_answered_only_when_offered() {
    let mut scene = Scene::new();
    scene.pass(syn(&[]));
    scene.lose(syn_ack(&[&capable(&[KEY_B], None)]));
    scene.broke(Rule::OptionAgreed);
    // Refused: plain TCP from then on.
    let mut scene = Scene::new();
    scene.pass(syn(&[&CAPABLE_SYN]));
    scene.pass(syn_ack(&[]));
    scene.pass(a(1, 1));
    scene.clean();
    scene.lose(a(1, 1).option(&from_a(Some(1), None)));
    scene.broke(Rule::OptionAgreed);
}

#[test]
fn after_a_fallback_no_option_comes_back() {
    let mut scene = Scene::new();
    scene.pass(syn(&[&CAPABLE_SYN]));
    scene.pass(syn_ack(&[&capable(&[KEY_B], None)]));
    scene.pass(a(1, 1));
    scene.pass(b(1, 1).data(b"plain"));
    scene.clean();
    scene.lose(b(6, 1).option(&from_b(Some(1), None)));
    scene.broke(Rule::OptionAgreed);
}

#[test]
fn an_octet_keeps_its_mapping() {
    let mut scene = capable_scene();
    scene.lose(a(1, 1).data(&[1; 300]).option(&from_a(None, Some((1, 1, 300)))));
    scene.lose(a(101, 1).data(&[1; 100]).option(&from_a(None, Some((101, 101, 100)))));
    scene.clean();
    scene.lose(a(101, 1).data(&[1; 100]).option(&from_a(None, Some((102, 101, 100)))));
    scene.broke(Rule::MappingKept);
}

#[test]
fn one_data_number_is_one_octet_on_every_subflow() {
    let mut scene = joined_scene();
    scene.lose(a(1, 1).data(b"0123456789").option(&from_a(None, Some((1, 1, 10)))));
    scene.lose(on_join(a(1, 1)).data(b"56789").option(&from_a(None, Some((6, 1, 5)))));
    scene.clean();
    scene.lose(on_join(a(6, 1)).data(b"01x").option(&from_a(None, Some((1, 6, 3)))));
    scene.broke(Rule::SameData);
}

#[test]
fn a_mapping_that_comes_late_is_judged_too() {
    let mut scene = joined_scene();
    scene.lose(a(1, 1).data(b"01234").option(&from_a(None, Some((1, 1, 5)))));
    scene.lose(a(6, 1).data(b"56789"));
    scene.lose(on_join(a(1, 1)).data(b"56x89").option(&from_a(None, Some((6, 1, 5)))));
    scene.clean();
    scene.lose(a(11, 1).data(b"a").option(&from_a(None, Some((6, 6, 6)))));
    scene.broke(Rule::SameData);
}

#[test]
fn data_acks_go_forward_and_tell_the_truth() {
    let mut scene = joined_scene();
    scene.pass(a(1, 1).data(&[1; 100]).option(&from_a(None, Some((1, 1, 100)))));
    scene.lose(b(1, 101).option(&from_b(Some(101), None)));
    scene.clean();
    scene.lose(on_join(b(1, 1)).option(&from_b(Some(100), None)).window(1_001));
    scene.broke(Rule::DataAckAdvances);

    let mut scene = joined_scene();
    scene.lose(a(1, 1).data(&[1; 100]).option(&from_a(None, Some((1, 1, 100)))));
    scene.lose(b(1, 1).option(&from_b(Some(101), None)));
    scene.broke(Rule::DataAckAdvances);
}

#[test]
fn the_shared_right_edge_never_moves_left() {
    let mut scene = joined_scene();
    scene.pass(a(1, 1).data(&[1; 100]).option(&from_a(None, Some((1, 1, 100)))));
    scene.lose(b(1, 101).option(&from_b(Some(101), None)).window(900));
    // The edge of the subflow itself may move: the window counts from DATA_ACK.
    scene.lose(on_join(b(1, 1)).option(&from_b(Some(101), None)).window(900));
    scene.clean();
    scene.lose(on_join(b(1, 1)).option(&from_b(Some(101), None)).window(899));
    scene.broke(Rule::DataWindowKept);
}

#[test]
fn no_data_beyond_the_shared_window() {
    let mut scene = joined_scene();
    scene.pass(b(1, 1).option(&from_b(Some(1), None)).window(1_000));
    // 600 octets on each subflow: within both their windows, beyond the shared one together.
    scene.lose(a(1, 1).data(&[1; 600]).option(&from_a(None, Some((1, 1, 600)))));
    scene.lose(on_join(a(1, 1)).data(&[1; 400]).option(&from_a(None, Some((601, 1, 400)))));
    scene.lose(on_join(a(401, 1)).data(&[1]).option(&from_a(None, Some((1_001, 401, 1)))));
    scene.clean();
    scene.lose(on_join(a(402, 1)).data(&[1; 2]).option(&from_a(None, Some((1_002, 402, 2)))));
    scene.broke(Rule::WithinDataWindow);
}

#[test]
fn the_handshake_opens_the_data_window() {
    let mut scene = capable_scene();
    scene.lose(b(1, 1).data(&[1; 999]).option(&from_b(Some(1), Some((1, 1, 999)))));
    scene.lose(b(1_000, 1).data(&[1; 1]).option(&from_b(Some(1), Some((1_000, 1_000, 1)))));
    scene.clean();
}

#[test]
fn data_fin_is_the_last() {
    let fin = |map| Signal { map: Some(map), fin: true, ..Signal::default() }.option();
    let closing = || {
        let mut scene = capable_scene();
        scene.lose(a(1, 1).data(&[1; 100]).option(&fin((1, 1, 101))));
        scene.lose(a(1, 1).data(&[1; 100]).option(&fin((1, 1, 101))));
        scene.lose(a(101, 1).option(&fin((101, 0, 1))));
        scene.lose(a(101, 1).option(&fin((101, 101, 1))));
        scene.clean();
        scene
    };
    let mut scene = closing();
    scene.lose(a(101, 1).option(&fin((102, 0, 1))));
    scene.broke(Rule::DataFinLast);
    let mut scene = closing();
    scene.lose(a(101, 1).data(b"x").option(&from_a(None, Some((101, 101, 1)))));
    scene.broke(Rule::DataFinLast);
    let mut scene = capable_scene();
    scene.lose(a(1, 1).data(&[1; 100]).option(&from_a(None, Some((1, 1, 100)))));
    scene.lose(a(101, 1).option(&fin((100, 0, 1))));
    scene.broke(Rule::DataFinLast);
}

#[test]
fn an_infinite_mapping_ends_the_judgement_of_the_data_level() {
    let mut scene = capable_scene();
    scene.pass(a(1, 1).data(&[1; 10]).option(&from_a(None, Some((1, 1, 10)))));
    scene.pass(a(11, 1).data(&[2; 10]).option(&from_a(None, Some((11, 11, 0)))));
    scene.pass(a(21, 1).data(&[3; 10]));
    scene.pass(b(1, 31).data(&[4; 10]));
    scene.clean();
    scene.lose(a(21, 11).data(&[9; 10]));
    assert!(!scene.referee.broken().contains_key(&Rule::SameData));
}

#[test]
fn a_hole_is_not_acknowledged() {
    let mut scene = joined_scene();
    scene.lose(a(1, 1).data(&[1; 100]).option(&from_a(None, Some((1, 1, 100)))));
    scene.pass(on_join(a(1, 1)).data(&[2; 100]).option(&from_a(None, Some((101, 1, 100)))));
    scene.pass(on_join(b(1, 101)).option(&from_b(Some(1), None)));
    scene.clean();
    scene.lose(on_join(b(1, 101)).option(&from_b(Some(201), None)));
    scene.broke(Rule::DataAckAdvances);
    // Neither is a mapping whose data is missing.
    let mut scene = capable_scene();
    scene.pass(a(1, 1).data(&[1; 60]).option(&from_a(None, Some((1, 1, 100)))));
    scene.pass(b(1, 61).option(&from_b(Some(61), None)));
    scene.clean();
    scene.lose(b(1, 61).option(&from_b(Some(101), None)));
    scene.broke(Rule::DataAckAdvances);
}

#[test]
fn joins_are_proved_with_both_keys() {
    let mut join = vec![30, 12, 0x10, 1];
    join.extend(TOKEN_B.to_be_bytes());
    join.extend([9; 4]);
    let mut scene = capable_scene();
    scene.pass(on_join(syn(&[&join])));
    scene.lose(on_join(syn_ack(&[&join_answer(HMAC_B ^ 1)])));
    scene.broke(Rule::KeyMatches);
    let mut scene = joined_scene();
    scene.lose(on_join(a(1, 1).option(&join_proof(&HMAC_A))));
    scene.clean();
    let mut wrong = HMAC_A;
    wrong[19] ^= 1;
    scene.lose(on_join(a(1, 1).option(&join_proof(&wrong))));
    scene.broke(Rule::KeyMatches);
}

#[test]
fn announced_addresses_are_signed() {
    let v4 = [192, 0, 2, 9];
    let v6 = core::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).octets();
    for (id, address, port, hmac) in [
        (3, &v4[..], &[][..], 0x447c_35b4_8929_e8db_u64),
        (3, &v4[..], &[0x1f, 0x90][..], 0x7db6_452b_886b_2fc7),
        (4, &v6[..], &[][..], 0xc6c6_d697_687a_6379),
    ] {
        let len = u8::try_from(12 + address.len() + port.len()).unwrap();
        let option =
            |hmac: u64| [&[30, len, 0x30, id], address, port, &hmac.to_be_bytes()].concat();
        let mut scene = capable_scene();
        scene.lose(b(1, 1).option(&option(hmac)));
        scene.clean();
        scene.lose(b(1, 1).option(&option(hmac ^ 1)));
        scene.broke(Rule::KeyMatches);
    }
}

/// B's announcement of 192.0.2.`host`.
fn announcement(id: u8, host: u8) -> Vec<u8> {
    let keys = KeyPair { version: 1, local: KEY_B, remote: KEY_A };
    let hmac = keys.address(id, [192, 0, 2, host].into(), None);
    [&[30, 16, 0x30, id, 192, 0, 2, host][..], &hmac.to_be_bytes()].concat()
}

#[test]
fn an_id_names_one_address_until_it_is_withdrawn() {
    let mut scene = capable_scene();
    for (id, host) in [(3, 9), (3, 9), (4, 10)] {
        scene.pass(b(1, 1).option(&announcement(id, host)));
    }
    scene.pass(b(1, 1).option(&[30, 4, 0x40, 3]));
    scene.pass(b(1, 1).option(&announcement(3, 11)));
    scene.clean();
    scene.lose(b(1, 1).option(&announcement(3, 10)));
    scene.broke(Rule::AddressIdKept);
    // That of the first subflow has the id 0.
    let mut scene = capable_scene();
    scene.lose(b(1, 1).option(&announcement(0, 9)));
    scene.broke(Rule::AddressIdKept);
}

#[test]
fn what_was_withdrawn_carries_no_data() {
    let mut scene = joined_scene();
    let text = || on_join(a(1, 1)).data(&[2; 300]).option(&from_a(Some(1), Some((1, 1, 300))));
    scene.pass(text());
    scene.pass(a(1, 1).option(&[30, 4, 0x40, 1]));
    scene.lose(on_join(a(301, 1)).option(&from_a(Some(1), None)));
    scene.clean();
    scene.lose(text());
    scene.broke(Rule::AddressIdKept);
}

#[test]
fn an_echo_repeats_what_arrived() {
    let echo = |host| vec![30, 8, 0x31, 3, 192, 0, 2, host];
    let mut scene = capable_scene();
    scene.pass(b(1, 1).option(&announcement(3, 9)));
    scene.pass(a(1, 1).option(&echo(9)));
    scene.clean();
    scene.lose(b(1, 1).option(&announcement(4, 10)));
    scene.lose(a(1, 1).option(&echo(10)));
    scene.broke(Rule::AddressIdKept);
}

#[test]
fn a_fast_close_names_the_receivers_key() {
    let fastclose = |key: u64| [&[30, 12, 0x70, 0][..], &key.to_be_bytes()].concat();
    let mut scene = capable_scene();
    scene.lose(a(1, 1).option(&fastclose(KEY_B)));
    scene.lose(b(1, 1).option(&fastclose(KEY_A)).flags(flag::RST));
    scene.clean();
    scene.lose(a(1, 1).option(&fastclose(KEY_A)).flags(flag::RST));
    scene.broke(Rule::KeyMatches);
}

/// A scene in which A asked for checksums.
fn checksum_scene() -> Scene {
    let mut scene = Scene::new();
    scene.pass(syn(&[&MSS, &[30, 4, 0x01, 0x81]]));
    scene.pass(syn_ack(&[&MSS, &capable(&[KEY_B], None)]));
    scene.pass(a(1, 1).option(&capable(&[KEY_A, KEY_B], None)));
    scene
}

fn with_checksum(mut option: Vec<u8>, checksum: u16) -> Vec<u8> {
    option.extend(checksum.to_be_bytes());
    option[1] += 2;
    option
}

#[test]
fn checksums_are_there_when_agreed_and_right() {
    let map = from_a(None, Some((1, 1, 5)));
    let mut scene = checksum_scene();
    scene.lose(a(1, 1).data(b"01234").option(&with_checksum(map.clone(), 0x300f)));
    // In two pieces, and with a DATA_FIN in the sum.
    scene.lose(a(1, 1).data(b"012").option(&with_checksum(map.clone(), 0x300f)));
    let both = Signal { map: Some((1, 1, 6)), fin: true, ..Signal::default() };
    scene.lose(a(1, 1).data(b"01234").option(&with_checksum(both.option(), 0x300e)));
    let fin = Signal { map: Some((6, 0, 1)), fin: true, ..Signal::default() };
    scene.lose(a(6, 1).option(&with_checksum(fin.option(), 0xc673)));
    scene.clean();
    scene.lose(a(6, 1).option(&with_checksum(fin.option(), 0xc674)));
    scene.broke(Rule::ChecksumRight);

    for data in [&b"01234"[..], b"01235"] {
        // The rest of the mapping's data comes without the option.
        let mut scene = checksum_scene();
        scene.lose(a(1, 1).data(&data[..2]).option(&with_checksum(map.clone(), 0x300f)));
        scene.clean();
        scene.lose(a(3, 1).data(&data[2..]));
        if data == b"01234" { scene.clean() } else { scene.broke(Rule::ChecksumRight) }
    }
    let mut scene = checksum_scene();
    scene.lose(a(1, 1).data(b"01234").option(&map));
    scene.broke(Rule::ChecksumRight);
    let mut scene = capable_scene();
    scene.lose(a(1, 1).data(b"01234").option(&with_checksum(map, 0x300f)));
    scene.broke(Rule::ChecksumRight);
}

#[test]
fn data_without_a_mapping_may_wait_for_one_but_not_for_ever() {
    let mut scene = joined_scene();
    scene.pass(a(1, 1).data(b"01234").option(&from_a(None, Some((1, 1, 5)))));
    scene.pass(on_join(a(1, 1)).data(b"56789"));
    scene.pass(a(6, 1).data(b"01234"));
    scene.clean();
    scene.pass(b(1, 11));
    scene.lose(a(11, 1));
    scene.broke(Rule::DataMapped);
    let mut scene = joined_scene();
    scene.pass(on_join(a(1, 1)).data(b"56789"));
    scene.pass(on_join(a(6, 1)).data(b"x").option(&from_a(None, Some((1, 1, 6)))));
    scene.pass(on_join(b(1, 7)).option(&from_b(Some(7), None)));
    scene.pass(on_join(a(7, 1)));
    scene.clean();
    scene.pass(on_join(a(7, 1)).data(b"56789"));
    scene.pass(on_join(b(1, 12)));
    scene.lose(on_join(a(12, 1)));
    scene.broke(Rule::DataMapped);
    // A host that got data without a mapping may fall back silently.
    let mut scene = capable_scene();
    scene.pass(a(1, 1).data(b"01234").option(&from_a(None, Some((1, 1, 5)))));
    scene.pass(b(1, 6).data(b"plain"));
    scene.pass(a(6, 6).data(b"plain"));
    scene.pass(b(6, 11));
    scene.pass(a(11, 6).data(b"more"));
    scene.clean();
}

#[test]
fn another_version_is_left_alone() {
    let mut scene = Scene::new();
    let mut offer = vec![30, 12, 0x02, 0x01];
    offer.extend(KEY_A.to_be_bytes());
    scene.pass(syn(&[&offer]));
    scene.pass(syn_ack(&[&offer]));
    scene.pass(a(1, 1).option(&from_a(Some(700), None)));
    scene.pass(b(1, 1).data(b"x").option(&from_b(Some(9), Some((1, 1, 1)))));
    scene.clean();
}
