//! The third ACK and the first data: whether both keys arrived.

use super::*;

#[test]
fn t11_first_data_makes_up_for_a_lost_third_ack() {
    both(|v| {
        let mut script = Script::server(v);
        let (flow, answer) = script.half_open(4000, H);
        let keys = Keys::of(v, &answer, false);
        let data = stream(0, 100);
        let out = script.send(&flow, &flow.seg().opt(&keys.first_data(&data)).data(&data));
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, Some(v as u8));
        assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(100)), "{out:?}");
        script.expect_stream(id, 0, 100);
    });
}

#[test]
fn t12_the_syn_ack_is_repeated_and_the_third_ack_answers() {
    both(|v| {
        let mut script = Script::server(v);
        let (flow, first) = script.half_open(4000, H);
        let again = script.advance(1_100);
        let [again] = again.as_slice() else { panic!("{again:?}") };
        assert_eq!((again.seq, again.capable()), (first.seq, first.capable()));
        let keys = Keys::of(v, &first, false);
        script.send(&flow, &flow.seg().opt(&keys.third()));
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, Some(v as u8));

        // As a client: a repeated SYN/ACK is answered with the third ACK, keys included.
        let mut script = Script::new(v, |_| {});
        let (keys, mut flow, _) = script.connected();
        let out = script.answer(&mut flow, &[capable(v, H, CapableForm::Key(PEER_KEY))]);
        let form = out[0].capable().map(|c| c.form);
        assert_eq!(form, Some(CapableForm::Keys { sender: keys.stack, receiver: PEER_KEY }));
    });
}

#[test]
fn t15_a_third_ack_without_keys_means_plain_tcp_for_good() {
    both(|v| {
        let mut script = Script::server(v);
        let (flow, _) = script.half_open(4000, H);
        script.send(&flow, &flow.seg());
        let id = script.accept().expect("established");
        let mut out = script.send(&flow, &flow.seg().data(b"hello"));
        assert_eq!(script.read(id).expect("plain data"), b"hello");
        out.extend(script.write(id, 0, 5000));
        out.extend(script.advance(3_000));
        assert!(out.iter().all(|o| o.mptcp().is_empty()), "{out:?}");
        assert_eq!(script.fallback(id), Some(FallbackReason::AckWithoutCapable));
        assert_eq!(script.counters().mp_capable_fallback_ack, 1);
        assert_eq!(script.counters().fallback, 1);
    });
}

#[test]
fn t15_a_window_without_keys_is_asked_about_once() {
    let v = Version::V1;
    let mut script = Script::server(v);
    let (mut flow, answer) = script.half_open(4000, H);
    let keys = Keys::of(v, &answer, false);
    // Third ACK and first data are lost, the rest of the window arrives.
    let start = flow.snd_nxt;
    for n in 1..10_u32 {
        flow.snd_nxt = start.wrapping_add(100 * n);
        let data = stream(100 * u64::from(n), 100);
        let seg = flow.seg().dss(keys.map(100 * u64::from(n), 1 + 100 * n, 100)).data(&data);
        let out = script.send(&flow, &seg);
        assert_eq!(out.len(), usize::from(n == 1), "{out:?}");
    }
    assert!(script.accept().is_none());
    flow.snd_nxt = start;
    let data = stream(0, 100);
    script.send(&flow, &flow.seg().opt(&keys.first_data(&data)).data(&data));
    let id = script.accept().expect("established");
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (Some(1), None));

    // Asked three times, each time with more patience, a peer without keys speaks plain TCP.
    let mut script = Script::server(v);
    let (mut flow, answer) = script.half_open(4000, H);
    let keys = Keys::of(v, &answer, false);
    flow.snd_nxt = flow.snd_nxt.wrapping_add(100);
    let data = stream(100, 100);
    let seg = flow.seg().dss(keys.map(100, 101, 100)).data(&data);
    // After a second the SYN/ACK was repeated on its own account, which starts the last wait anew.
    for patience in [0, 200, 400, 1_400] {
        assert!(script.accept().is_none());
        script.advance(patience);
        script.send(&flow, &seg);
    }
    let id = script.accept().expect("established");
    assert_eq!(script.fallback(id), Some(FallbackReason::AckWithoutCapable));
}

#[test]
fn a_wrong_key_echo_means_plain_tcp() {
    both(|v| {
        let mut wrong = vec![(PEER_KEY, 1), (0, 0)];
        if v == Version::V0 {
            // Its SYN showed another key.
            wrong.push((PEER_KEY ^ 1, 0));
        }
        for (sender, flip) in wrong {
            let mut script = Script::server(v);
            let (flow, answer) = script.half_open(4000, H);
            let keys = Keys::of(v, &answer, false);
            let form = CapableForm::Keys { sender, receiver: keys.stack ^ flip };
            script.send(&flow, &flow.seg().opt(&capable(v, H, form)));
            let id = script.accept().expect("established");
            assert_eq!(script.info(id).mptcp, None);
        }
    });
}

#[test]
fn t16_copies_of_the_first_data_option_are_one_mapping() {
    both(|v| {
        let mut script = Script::server(v);
        let (mut flow, answer) = script.half_open(4000, H);
        let keys = Keys::of(v, &answer, false);
        let data = stream(0, 2000);
        let option = keys.first_data(&data);
        script.send(&flow, &flow.seg().opt(&option).data(&data[..1000]));
        flow.snd_nxt += 1000;
        let out = script.send(&flow, &flow.seg().opt(&option).data(&data[1000..]));
        let id = script.accept().expect("established");
        script.expect_stream(id, 0, 2000);
        assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(2000)), "{out:?}");
    });
}

#[test]
fn t17_first_data_with_checksum_has_24_octets() {
    let v = Version::V1;
    for (cut, good) in [(false, true), (true, false)] {
        let mut script = Script::server(v);
        let (flow, answer) = script.half_open(4000, H | CapableFlags::CHECKSUM);
        let keys = Keys::of(v, &answer, true);
        let data = stream(0, 11);
        let mut option = keys.first_data(&data);
        if cut && let MptcpOption::Capable(MpCapable { form, .. }) = &mut option {
            // The form without checksum although the A bit is set.
            *form = CapableForm::Data {
                sender: PEER_KEY,
                receiver: keys.stack,
                data_len: 11,
                checksum: None,
            };
        }
        let out = script.send(&flow, &flow.seg().opt(&option).data(&data));
        let id = script.accept().expect("established");
        if good {
            script.expect_stream(id, 0, 11);
        } else {
            assert!(out[0].rst(), "{out:?}");
            out[0].assert_reset(reset_reason::MPTCP_SPECIFIC, false);
        }
    }
}

#[test]
fn t18_data_of_both_sides_crosses() {
    both(|v| {
        let mut script = Script::server(v);
        let (keys, flow, id) = script.unconfirmed();
        let out = script.write(id, 0, 50);
        let mapping = out[0].mapping().expect("a DSS");
        assert!(same(mapping.dsn, keys.stack_dsn(0)) && mapping.ssn == 1 && mapping.len == 50);
        let data = stream(0, 30);
        let out = script.send(&flow, &flow.seg().opt(&keys.first_data(&data)).data(&data));
        assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(30)));
        script.expect_stream(id, 0, 30);
        // The same range again as an ordinary mapping agrees with it.
        let again = flow.seg().dss(keys.map(0, 1, 30)).data(&data);
        let out = script.send(&flow, &again);
        assert!(out.iter().all(|o| !o.rst()), "{out:?}");
    });
}

#[test]
fn tokens_and_idsn_follow_from_the_keys() {
    both(|v| {
        // Known answers for the key of the scripted peer.
        let (token, idsn) = match v {
            Version::V0 => (0xdd57_83bc, 0x3a95_ed6e_4ebb_4ad5),
            Version::V1 => (0x6684_0dda, 0xf5a1_01d3_d29d_6f72),
        };
        assert_eq!((key::token(v, PEER_KEY), key::idsn(v, PEER_KEY).0), (token, idsn));
        // The first octet of either stream is IDSN + 1.
        let mut script = Script::server(v);
        let (keys, mut flow, id) = script.confirmed();
        let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 1));
        assert_eq!(out[0].data_ack(), Some(keys.wire(mptcp_core::seq::DataSeq(idsn + 2))));
        let out = script.write(id, 0, 1);
        let dsn = key::idsn(v, keys.stack).0 + 1;
        assert!(same(out[0].mapping().expect("a mapping").dsn, mptcp_core::seq::DataSeq(dsn)));
    });
}

#[test]
fn a_server_that_speaks_first_proves_the_keys_arrived() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (keys, mut flow, id) = script.connected();
        let out = script.send_data(&keys, &mut flow, 0, 0, &stream(0, 10));
        assert!(same(out[0].data_ack().expect("DATA_ACK"), keys.peer_dsn(10)), "{out:?}");
        assert_eq!(out[0].capable(), None);
        script.expect_stream(id, 0, 10);
    });
}

#[test]
fn data_that_overtakes_the_keys_waits_for_them() {
    both(|v| {
        // The third ACK is lost and the second data segment, which has an ordinary DSS, comes first.
        let mut script = Script::server(v);
        let (mut flow, answer) = script.half_open(4000, H);
        let keys = Keys::of(v, &answer, false);
        let data = stream(0, 200);
        let first = flow.seg().opt(&keys.first_data(&data[..100])).data(&data[..100]);
        flow.snd_nxt += 100;
        let second = flow.seg().dss(keys.map(100, 101, 100)).data(&data[100..]);
        script.send(&flow, &second);
        script.send(&flow, &first);
        script.send(&flow, &second);
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, Some(v as u8));
        script.expect_stream(id, 0, 200);
    });
}

#[test]
fn a_dss_without_keys_asks_for_them_again_unless_they_are_known() {
    both(|v| {
        // The third ACK is lost; the client has nothing to send and closes: DATA_FIN on a pure ACK.
        let mut script = Script::server(v);
        let (flow, answer) = script.half_open(4000, H);
        let keys = Keys::of(v, &answer, false);
        let out = script.send(&flow, &flow.seg().dss(keys.fin(0)));
        assert_eq!(out.len(), 1, "{out:?}");
        if v == Version::V1 {
            assert_eq!((out[0].flags, out[0].capable()), (answer.flags, answer.capable()));
            script.send(&flow, &flow.seg().opt(&keys.third()));
        }
        // In version 0 the SYN had the key, and the DSS shows that options pass.
        let id = script.accept().expect("established");
        assert_eq!(script.info(id).mptcp, Some(v as u8));
        script.send(&flow, &flow.seg().dss(keys.fin(0)));
        assert!(script.at_end(id));
    });
}

/// Linux sends the text of a SYN that nobody took again without a mapping, and its keys with what is behind that, whose
/// mapping begins with number 1 all the same. To another Linux this is plain TCP.
#[test]
fn text_of_a_syn_that_comes_again_unmapped_means_tcp() {
    let v = Version::V1;
    let data = stream(0, 120);
    let opening = || {
        let mut script = Script::server(v);
        let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
        let syn = flow.syn().opt(&offer(v, H)).data(&data[..20]);
        let answer = syn_ack(&mut script, &mut flow, &syn);
        let keys = Keys::of(v, &answer, false);
        (script, flow, keys)
    };
    for lost in [false, true] {
        let (mut script, mut flow, keys) = opening();
        let text = flow.seg().dss(keys.ack(0)).data(&data[..20]);
        flow.snd_nxt = flow.snd_nxt.wrapping_add(20);
        let third = flow.seg().opt(&keys.third());
        let rest = flow.seg().opt(&keys.first_data(&data[20..])).data(&data[20..]);
        if !lost {
            script.send(&flow, &text);
        }
        // The SYN/ACK that asks for the keys is answered, too.
        for seg in [&rest, &third, &text, &rest] {
            script.send(&flow, seg);
        }
        let id = script.accept().expect("established");
        assert_eq!(script.fallback(id), Some(FallbackReason::AckWithoutCapable), "{lost}");
        script.expect_stream(id, 0, 120);
    }
    // Who maps it shows its keys in front of it, whatever comes first.
    let (mut script, mut flow, keys) = opening();
    let text = flow.seg().opt(&keys.first_data(&data[..20])).data(&data[..20]);
    flow.snd_nxt = flow.snd_nxt.wrapping_add(20);
    let rest = flow.seg().dss(keys.data(&flow, 20, 0, &data[20..])).data(&data[20..]);
    for seg in [&rest, &text, &rest] {
        script.send(&flow, seg);
    }
    let id = script.accept().expect("established");
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (Some(1), None));
    script.expect_stream(id, 0, 120);
}

/// `MP_CAPABLE` with data maps the first octets of the subflow, whatever else was sent before it.
#[test]
fn t11_only_the_first_octet_of_the_subflow_goes_with_the_keys() {
    both(|v| {
        let mut script = Script::new(v, |_| {});
        let (keys, mut flow, id) = script.connected();
        let out = script.write(id, 0, 1_000);
        assert!(out[0].capable().is_some() == (v == Version::V1) && !out[0].payload.is_empty());
        flow.hears(&out);
        // TCP acknowledges it beside a signal that leaves no room for a DATA_ACK.
        let out = script.send(&flow, &flow.seg().raw(&[30, 3, 0x50]));
        assert!(out.is_empty() && script.fallback(id).is_none(), "{out:?}");
        let out = script.advance(20_000);
        assert!(!out.is_empty(), "it asks for the DATA_ACK");
        assert!(out.iter().all(|o| o.payload.is_empty()), "{out:?}");
        let out = script.send(&flow, &flow.seg().dss(keys.ack(1_000)));
        assert_eq!(
            (script.info(id).bytes_acked, script.info(id).mptcp),
            (1_000, Some(v as u8)),
            "{out:?}"
        );
    });
}

/// Both keys, an announcement and timestamps use every octet that options may have.
#[test]
fn t120_a_third_ack_with_an_announcement_fills_the_option_area() {
    let v = Version::V0;
    let mut script = Script::server_with(v, |c| c.tcp.timestamps = true);
    let stamps = |tsval: u32, tsecr: u32| {
        [&[1, 1, 8, 10][..], &tsval.to_be_bytes(), &tsecr.to_be_bytes()].concat()
    };
    let mut flow = Flow::new(at(P1, 4000), at(A1, PORT));
    let seg = flow.syn().raw(&stamps(1, 0)).opt(&offer(v, H));
    let answer = syn_ack(&mut script, &mut flow, &seg);
    let keys = Keys::of(v, &answer, false);
    let ts = answer.tcp_options().iter().find_map(|o| match o {
        TcpOption::Timestamps { tsval, .. } => Some(*tsval),
        _ => None,
    });
    let stamps = stamps(2, ts.expect("timestamps are agreed on"));
    let third = flow.seg().raw(&stamps).opt(&keys.third()).raw(&[30, 8, 0x34, 3, 10, 2, 0, 2]);
    assert_eq!(third.option_len(), 40);
    let out = script.send(&flow, &third);
    assert!(out.iter().all(|o| !o.rst()), "{out:?}");
    let id = script.accept().expect("established");
    assert_eq!((script.info(id).mptcp, script.fallback(id)), (Some(0), None));
    assert_eq!(script.counters().add_addr, 1, "the address is known");
}

/// Version 0: a DSS that acknowledges nothing, in place of the third ACK or beside it, where timestamps leave
/// room. The window of that segment is the handshake's: nothing else would ever open one.
#[test]
fn the_window_of_a_dss_without_a_data_ack_begins_the_stream() {
    for (lost, flags) in [(true, H), (true, H | CapableFlags::CHECKSUM), (false, H)] {
        let mut script = Script::server(Version::V0);
        let (mut flow, syn_ack) = script.half_open(40_000, flags);
        let keys = Keys::of(Version::V0, &syn_ack, flags != H);
        flow.window = 2_000;
        let text = stream(0, 100);
        let dss = Dss { data_ack: None, ..keys.data(&flow, 0, 0, &text) };
        let seg = if lost { flow.seg() } else { flow.seg().opt(&keys.third()) };
        script.send(&flow, &seg.dss(dss).data(&text));
        let id = script.accept().expect("it is established");
        assert_eq!(script.info(id).mptcp, Some(0));
        script.expect_stream(id, 0, 100);
        let out = script.write(id, 0, 5_000);
        assert!(out.iter().all(|o| o.mapping().is_some()), "{out:?}");
        let sent: usize = out.iter().map(|o| o.payload.len()).sum();
        assert!((1_400..=2_000).contains(&sent), "{sent} octets");
    }
}

/// iOS (version 1) repeats its keys on every acknowledgement until it has said something itself: what they
/// acknowledge has arrived, be it more than a window.
#[test]
fn the_keys_of_who_only_reads_acknowledge() {
    let mut script = Script::server(Version::V1);
    let (keys, mut flow, id) = script.unconfirmed_within(8_000, 40_000, CapableFlags::HMAC);
    let mut out = script.write(id, 0, 40_000);
    let begin = flow.rcv_nxt;
    while !out.is_empty() {
        assert!(out.iter().all(|o| o.payload.is_empty() || o.dss().is_some()), "{out:?}");
        flow.hears(&out);
        out = script.send(&flow, &flow.seg().opt(&keys.third()));
        out.extend(script.advance(100));
    }
    assert_eq!(flow.rcv_nxt.wrapping_sub(begin), 40_000);
    assert_eq!((script.info(id).bytes_acked, script.fallback(id)), (40_000, None));
    // Nobody is asked, and what it says at last counts as ever.
    assert!(script.advance(60_000).is_empty());
    script.send(&flow, &flow.seg().data(b"GET").opt(&keys.first_data(b"GET")));
    assert_eq!((script.read(id), script.fallback(id)), (Ok(b"GET".to_vec()), None));
    // Another key acknowledges nothing.
    let (mut other, mut flow, id) = script.unconfirmed_within(8_000, 40_001, CapableFlags::HMAC);
    other.peer ^= 1;
    let out = script.write(id, 0, 1_000);
    flow.hears(&out);
    script.send(&flow, &flow.seg().opt(&other.third()));
    assert_eq!(script.info(id).bytes_acked, 0);
}
