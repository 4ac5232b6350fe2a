//! MPTCP with Fast Open (RFC 8684 Appendix B): what the SYN carries is no part of the data sequence
//! space, on either side and in either version.

use crate::harness::*;
use mptcp_core::config::{ChecksumPolicy, PathManagerKind, StackConfig};
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::{Connect, Listen, SocketId};
use mptcp_core::stats::DropReason;
use mptcp_core::wire::{
    CapableFlags, CapableForm, Dss, FastOpenCookie, TcpFlags, TcpOption, Version,
};

const H: CapableFlags = CapableFlags::HMAC;
const REQUEST: FastOpenCookie = FastOpenCookie::REQUEST;

mod server {
    use super::*;

    fn listening_with(version: Version, change: impl FnOnce(&mut StackConfig)) -> Script {
        let mut script = Script::serving(&[Version::V0, Version::V1], version, change);
        let options = Listen { mptcp: true, fast_open: 4, ..Listen::default() };
        script.listener = Some(script.stack.listen(at(A1, PORT), &options).expect("free"));
        script
    }

    fn listening(version: Version) -> Script {
        listening_with(version, |_| {})
    }

    /// The cookie that the peer's address is granted.
    fn granted(script: &mut Script) -> FastOpenCookie {
        let flow = Flow::new(at(P1, 30_000), at(A1, PORT));
        let seg = flow.syn().opt(&offer(script.version, H)).cookie(REQUEST);
        let out = script.send(&flow, &seg);
        assert!(out[0].capable().is_some(), "{out:?}");
        assert_eq!(out[0].ack, flow.isn.wrapping_add(1));
        let reset = flow.seg().seq(flow.isn.wrapping_add(1)).flags(TcpFlags::RST);
        assert!(script.send(&flow, &reset).is_empty());
        out[0].cookie().expect("a cookie")
    }

    /// The SYN/ACK to a SYN with `len` octets of the stream, and where the flow stands then.
    fn half_opened(script: &mut Script, flags: CapableFlags, len: usize) -> (Flow, Out) {
        let good = granted(script);
        let mut flow = Flow::new(at(P1, 40_000), at(A1, PORT));
        let syn = flow.syn().opt(&offer(script.version, flags)).cookie(good);
        let out = script.send(&flow, &syn.data(&stream(0, len)));
        let [syn_ack] = out.as_slice() else { panic!("{out:?}") };
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(1 + len as u32);
        assert_eq!(syn_ack.ack, flow.snd_nxt, "SYN and data are acknowledged: {syn_ack:?}");
        flow.skip_early(len as u32);
        (flow, syn_ack.clone())
    }

    /// A connection whose SYN brought 20 octets, read already.
    fn opened_with(script: &mut Script, flags: CapableFlags) -> (Keys, Flow, SocketId) {
        let (flow, syn_ack) = half_opened(script, flags, 20);
        let checksum =
            (flags | syn_ack.capable().expect("MPTCP").flags).contains(CapableFlags::CHECKSUM);
        let keys = Keys::of(script.version, &syn_ack, checksum);
        let id = script.accept().expect("it is given out");
        script.expect_stream(id, 0, 20);
        (keys, flow, id)
    }

    fn opened(script: &mut Script) -> (Keys, Flow, SocketId) {
        opened_with(script, H)
    }

    fn third(script: &mut Script, keys: &Keys, flow: &Flow) -> Vec<Out> {
        script.send(flow, &flow.seg().opt(&keys.third()))
    }

    /// What our application had to say, and the third ACK. In version 0 the former leaves before the
    /// latter comes; in version 1 the key from which the `DATA_ACK` follows comes with it, and Linux
    /// clients take a first segment without one for fallback.
    fn answered(script: &mut Script, keys: &Keys, flow: &mut Flow, early: Vec<Out>) -> Vec<Out> {
        let syn_acked = flow.seg().opt(&keys.third());
        let late = script.send(flow, &syn_acked);
        let (out, nothing) =
            if script.version == Version::V0 { (early, late) } else { (late, early) };
        assert!(nothing.is_empty(), "{nothing:?}");
        flow.hears(&out);
        out
    }

    /// Figure 19 of RFC 8684.
    #[test]
    fn t76_data_on_the_syn_is_outside_the_data_level() {
        both(|version| {
            let mut script = listening(version);
            let (keys, mut flow, id) = opened(&mut script);
            assert_eq!(script.info(id).mptcp, Some(version as u8));
            let early = script.write(id, 0, 100);
            let out = answered(&mut script, &keys, &mut flow, early);
            let [answer] = out.as_slice() else { panic!("{out:?}") };
            let mapping = answer.mapping().expect("mapped");
            assert!(same(mapping.dsn, keys.stack_dsn(0)), "{answer:?}");
            assert_eq!((mapping.ssn, mapping.len), (1, 100));
            assert!(same(answer.data_ack().unwrap(), keys.peer_dsn(0)));
            let out = script.send_data(&keys, &mut flow, 0, 100, &stream(20, 20));
            assert_eq!(flow.ssn(), 21, "the next one");
            assert!(out.iter().any(|o| same(o.data_ack().unwrap(), keys.peer_dsn(20))), "{out:?}");
            script.expect_stream(id, 20, 20);
            let info = script.info(id);
            assert_eq!((info.bytes_received, info.bytes_sent, info.bytes_acked), (40, 100, 100));
            assert!(info.subflows[0].tcp.syn_data);
            assert_eq!(script.counters().tcp_fast_open_passive, 1);
            assert_eq!(script.counters().mp_capable_ack_rx, 1);
        });
    }

    #[test]
    fn the_first_data_may_take_the_place_of_the_third_ack() {
        both(|version| {
            let mut script = listening(version);
            let (keys, mut flow, id) = opened(&mut script);
            let first = flow.seg().opt(&keys.first_data(&stream(20, 50))).data(&stream(20, 50));
            let out = script.send(&flow, &first);
            assert!(out.iter().any(|o| same(o.data_ack().unwrap(), keys.peer_dsn(50))), "{out:?}");
            flow.snd_nxt = flow.snd_nxt.wrapping_add(50);
            script.expect_stream(id, 20, 50);
            script.send_data(&keys, &mut flow, 50, 0, &stream(70, 10));
            script.expect_stream(id, 70, 10);
            assert_eq!(script.fallback(id), None);
        });
    }

    #[test]
    fn a_third_ack_without_keys_means_tcp() {
        both(|version| {
            for early in [0, 100] {
                let mut script = listening(version);
                let (_, mut flow, id) = opened(&mut script);
                if early > 0 {
                    let out = script.write(id, 0, early);
                    assert_eq!(out.is_empty(), version == Version::V1);
                    flow.hears(&out);
                }
                let out = script.send(&flow, &flow.seg().acks(flow.stack_isn.wrapping_add(1)));
                let text: Vec<u8> = out.iter().flat_map(|o| o.payload.clone()).collect();
                assert_eq!(text.is_empty(), version == Version::V0 || early == 0);
                assert!(text.is_empty() || text == stream(0, early));
                flow.hears(&out);
                assert_eq!(script.fallback(id), Some(FallbackReason::AckWithoutCapable));
                let out = script.send(&flow, &flow.seg().data(&stream(20, 30)));
                script.expect_stream(id, 20, 30);
                assert!(out.iter().all(|o| o.mptcp().is_empty()), "{out:?}");
                let out = script.write(id, early as u64, 40);
                assert_eq!(out.len(), 1);
                assert!(out[0].mptcp().is_empty() && out[0].payload == stream(early as u64, 40));
                assert_eq!(script.counters().mp_capable_fallback_ack, 1);
            }
        });
    }

    #[test]
    fn a_syn_that_comes_again_without_the_option_means_tcp() {
        both(|version| {
            let mut script = listening(version);
            let (_, flow, id) = opened(&mut script);
            let bare = flow.syn().seq(flow.isn.wrapping_sub(20));
            let out = script.send(&flow, &bare);
            let [again] = out.as_slice() else { panic!("{out:?}") };
            assert!(again.is(TcpFlags::SYN) && again.mptcp().is_empty(), "{again:?}");
            assert_eq!(again.ack, flow.snd_nxt, "the data was taken");
            let reason = FallbackReason::SynRepeatedWithoutCapable;
            assert_eq!(script.fallback(id), Some(reason));
            assert!(script.send(&flow, &flow.seg()).is_empty());
            script.send(&flow, &flow.seg().data(&stream(20, 30)));
            script.expect_stream(id, 20, 30);
            let out = script.write(id, 0, 40);
            assert_eq!((out.len(), out[0].mptcp().len()), (1, 0), "{out:?}");
        });
    }

    #[test]
    fn a_syn_that_comes_again_with_the_option_gets_the_same_answer() {
        both(|version| {
            let mut script = listening(version);
            let (keys, flow, id) = opened(&mut script);
            let again = flow.syn().seq(flow.isn.wrapping_sub(20)).opt(&offer(version, H));
            let out = script.send(&flow, &again);
            assert_eq!(out.len(), 1, "{out:?}");
            assert_eq!(Keys::of(version, &out[0], false).stack, keys.stack);
            assert_eq!(out[0].ack, flow.snd_nxt);
            third(&mut script, &keys, &flow);
            assert_eq!(script.fallback(id), None);
        });
    }

    /// Without its key nothing of a peer of version 1 can be placed.
    #[test]
    fn data_ahead_of_the_keys_comes_again() {
        let mut script = listening(Version::V1);
        let (keys, flow, id) = opened(&mut script);
        let ahead = flow.seg().seq(flow.snd_nxt.wrapping_add(10));
        let ahead = ahead.dss(keys.map(10, 11, 10)).data(&stream(30, 10));
        assert!(script.send(&flow, &ahead).is_empty());
        let unkeyed = flow.seg().dss(keys.map(0, 1, 10)).data(&stream(20, 10));
        assert!(script.send(&flow, &unkeyed).is_empty());
        assert_eq!(script.counters().dropped(DropReason::MpCapableMissing), 2);
        assert!(script.would_block(id));
        third(&mut script, &keys, &flow);
        script.send(&flow, &unkeyed);
        script.send(&flow, &ahead);
        script.expect_stream(id, 20, 20);
        assert_eq!(script.fallback(id), None);
    }

    #[test]
    fn who_never_shows_its_keys_is_taken_for_tcp_in_the_end() {
        let mut script = listening(Version::V1);
        let (keys, flow, id) = opened(&mut script);
        let unkeyed = flow.seg().dss(keys.map(0, 1, 10)).data(&stream(20, 10));
        assert!(script.send(&flow, &unkeyed).is_empty());
        let out = script.advance(1_500);
        assert!(out.iter().all(|o| o.is(TcpFlags::SYN) && o.capable().is_some()), "{out:?}");
        assert_eq!(out.len(), 1);
        script.send(&flow, &unkeyed);
        script.expect_stream(id, 20, 10);
        assert_eq!(script.fallback(id), Some(FallbackReason::AckWithoutCapable));
    }

    #[test]
    fn checksums_cover_what_follows_the_syn() {
        both(|version| {
            let mut script = listening_with(version, |config| {
                config.mptcp.checksum = ChecksumPolicy::Require;
            });
            let (keys, mut flow, id) = opened_with(&mut script, H | CapableFlags::CHECKSUM);
            assert!(keys.checksum);
            let early = script.write(id, 0, 100);
            let out = answered(&mut script, &keys, &mut flow, early);
            let mapping = out[0].mapping().unwrap();
            let sum = mptcp_core::wire::checksum::sum(&stream(0, 100));
            let right = mptcp_core::wire::checksum::dss_checksum(keys.stack_dsn(0), 1, 100, sum);
            assert_eq!(mapping.checksum, Some(right));
            script.send_data(&keys, &mut flow, 0, 100, &stream(20, 20));
            script.expect_stream(id, 20, 20);
            assert_eq!(script.fallback(id), None);
        });
    }

    /// RFC 8684 Appendix B.1: beside everything else nine octets are left.
    #[test]
    fn the_cookie_is_as_long_as_there_is_room() {
        both(|version| {
            for (timestamps, len) in [(false, 8), (true, 6)] {
                let mut script = listening_with(version, |c| c.tcp.timestamps = timestamps);
                let flow = Flow::new(at(P1, 30_000), at(A1, PORT));
                let stamps: &[u8] = if timestamps { &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0] } else { &[] };
                let syn = flow.syn().raw(&[3, 3, 7]).raw(stamps).opt(&offer(version, H));
                let out = script.send(&flow, &syn.cookie(REQUEST));
                let cookie = out[0].cookie().expect("a cookie");
                assert_eq!(cookie.as_bytes().len(), len);
                assert!(out[0].capable().is_some());
                // It is good for TCP as well, and with less around it.
                let flow = Flow::new(at(P1, 30_001), at(A1, PORT));
                let syn = flow.syn().cookie(cookie).data(&stream(0, 10));
                let out = script.send(&flow, &syn);
                assert_eq!(out[0].ack, flow.isn.wrapping_add(11));
            }
        });
    }

    #[test]
    fn both_streams_may_end_before_the_third_ack() {
        both(|version| {
            let mut script = listening(version);
            let (keys, mut flow, id) = opened(&mut script);
            let mut early = script.write(id, 0, 100);
            script.stack.shutdown_write(script.now, id);
            early.extend(script.out());
            let out = answered(&mut script, &keys, &mut flow, early);
            assert!(out.iter().any(Out::data_fin), "{out:?}");
            assert!(out.iter().all(|o| !o.is(TcpFlags::FIN)));
            let end = Dss { data_ack: Some(keys.wire(keys.stack_dsn(101))), ..keys.fin(0) };
            let out = script.send(&flow, &flow.seg().dss(end));
            assert!(out.iter().any(|o| o.is(TcpFlags::FIN)), "{out:?}");
            assert!(script.at_end(id));
            assert_eq!(script.stack.error(id), None);
            flow.hears(&out);
            let fin = flow.seg().fin().dss(keys.ack(101));
            script.send(&flow, &fin);
        });
    }

    #[test]
    fn before_its_key_is_known_the_peer_cannot_be_told_of_an_abort() {
        both(|version| {
            let mut script = listening(version);
            let (_, flow, id) = opened(&mut script);
            script.stack.abort(script.now, id);
            script.forget(id);
            let out = script.out();
            let [last] = out.as_slice() else { panic!("{out:?}") };
            assert!(last.rst() && last.mptcp().is_empty(), "{last:?}");
            assert_eq!(last.ack, flow.snd_nxt);
        });
    }

    #[test]
    fn joins_wait_for_the_third_ack_and_never_open_fast() {
        both(|version| {
            let mut script = listening(version);
            let good = granted(&mut script);
            let (keys, flow, id) = opened(&mut script);
            let mut join = Flow::new(at(P2, 41_000), at(A2, PORT));
            let out = script.join_syn(&keys, &mut join, false);
            assert!(out.is_empty(), "{out:?}");
            third(&mut script, &keys, &flow);
            script.send(&flow, &flow.seg().dss(keys.ack(0)));
            let mut join = Flow::new(at(P1, 41_001), at(A1, PORT));
            let syn = mptcp_core::wire::MpJoin::Syn {
                backup: false,
                address_id: 2,
                token: keys.stack_token(),
                nonce: NONCE,
            };
            let option = mptcp_core::wire::MptcpOption::Join(syn);
            let seg = join.syn().opt(&option).cookie(good).data(&stream(0, 10));
            let out = script.send(&join, &seg);
            join.hears(&out);
            let answer = join.of(&out);
            assert_eq!(answer[0].ack, join.isn.wrapping_add(1), "the data is not taken");
            assert_eq!(answer[0].cookie(), None);
            assert!(answer[0].join().is_some());
            assert_eq!(script.counters().tcp_fast_open_passive, 1);
            assert!(script.would_block(id));
        });
    }
}

mod client {
    use super::*;

    fn starting(version: Version, change: impl FnOnce(&mut StackConfig)) -> Script {
        Script::new(version, |config| {
            config.mptcp.path_manager = PathManagerKind::Server;
            change(config);
        })
    }

    /// Our SYN with `len` octets of the stream to go with it.
    fn connect(script: &mut Script, len: usize) -> (Flow, SocketId, Out) {
        let with = Connect {
            local: A1,
            local_port: 0,
            remote: at(P1, PORT),
            mptcp: true,
            timeout: None,
            user_data: 0,
        };
        let opened = script.stack.connect_with_data(script.now, &with, &stream(0, len));
        let (id, queued) = opened.expect("room for a connection");
        assert_eq!(queued, len);
        script.remember(id);
        let out = script.out();
        let [syn] = out.as_slice() else { panic!("{out:?}") };
        let mut flow = Flow::new(at(P1, PORT), syn.src);
        flow.hears(&out);
        (flow, id, syn.clone())
    }

    /// The SYN/ACK that acknowledges `accepted` octets of data, with `MP_CAPABLE`, and what follows.
    fn answer(
        script: &mut Script,
        flow: &mut Flow,
        accepted: u32,
        cookie: Option<FastOpenCookie>,
    ) -> Vec<Out> {
        flow.rcv_nxt = flow.rcv_nxt.wrapping_add(accepted);
        let syn_ack = flow.syn().acks(flow.rcv_nxt).flags(TcpFlags::SYN | TcpFlags::ACK);
        let key = capable(script.version, H, CapableForm::Key(PEER_KEY));
        let mut syn_ack = syn_ack.opt(&key);
        if let Some(cookie) = cookie {
            syn_ack = syn_ack.cookie(cookie);
        }
        let out = script.send(flow, &syn_ack);
        flow.snd_nxt = flow.isn.wrapping_add(1);
        out
    }

    fn keys(script: &Script, out: &[Out]) -> Keys {
        let form = out.iter().find_map(Out::capable).expect("the keys").form;
        let (CapableForm::Keys { sender, .. } | CapableForm::Data { sender, .. }) = form else {
            panic!("{out:?}")
        };
        Keys { peer: PEER_KEY, stack: sender, checksum: false, version: script.version }
    }

    /// A client that has `cookie` of the server.
    fn knowing(version: Version, cookie: FastOpenCookie) -> Script {
        knowing_with(version, cookie, |_| {})
    }

    fn knowing_with(
        version: Version,
        cookie: FastOpenCookie,
        change: impl FnOnce(&mut StackConfig),
    ) -> Script {
        let mut script = starting(version, change);
        let (mut flow, id, syn) = connect(&mut script, 0);
        assert_eq!(syn.cookie(), Some(REQUEST), "{syn:?}");
        assert!(syn.capable().is_some() && syn.payload.is_empty());
        answer(&mut script, &mut flow, 0, Some(cookie));
        script.stack.abort(script.now, id);
        script.forget(id);
        script.out();
        // A fast close of version 0 is repeated for a while.
        script.advance(20_000);
        script
    }

    fn cookie_of(len: usize) -> FastOpenCookie {
        FastOpenCookie::new(&[0xcc; 16][..len]).expect("4 to 16 octets")
    }

    fn eight() -> FastOpenCookie {
        cookie_of(8)
    }

    fn six() -> FastOpenCookie {
        cookie_of(6)
    }

    /// What `out` carries of the stream: offset on the data level, subflow sequence number, octets.
    fn mapped(keys: &Keys, out: &[Out]) -> Vec<(u64, u32, Vec<u8>)> {
        let texts = out.iter().filter(|o| !o.payload.is_empty());
        texts
            .map(|o| {
                let (dsn, ssn) = match (o.capable().map(|c| c.form), o.mapping()) {
                    (Some(CapableForm::Data { data_len, .. }), _) => {
                        assert_eq!(usize::from(data_len), o.payload.len());
                        (keys.stack_dsn(0), 1)
                    }
                    (_, Some(mapping)) => {
                        assert_eq!(usize::from(mapping.len), o.payload.len());
                        let near = keys.stack_dsn(0);
                        let dsn = match mapping.dsn {
                            mptcp_core::wire::WireSeq::Full(full) => mptcp_core::seq::DataSeq(full),
                            mptcp_core::wire::WireSeq::Low(low) => near.expand(low),
                        };
                        (dsn, mapping.ssn)
                    }
                    _ => panic!("unmapped: {o:?}"),
                };
                (dsn.since(keys.stack_dsn(0)), ssn, o.payload.clone())
            })
            .collect()
    }

    #[test]
    fn the_stream_begins_behind_what_the_syn_brought() {
        both(|version| {
            let mut script = knowing(version, eight());
            let (mut flow, id, syn) = connect(&mut script, 20);
            assert_eq!((syn.cookie(), syn.payload.as_slice()), (Some(eight()), &stream(0, 20)[..]));
            assert!(syn.capable().is_some());
            let out = answer(&mut script, &mut flow, 20, None);
            let [third] = out.as_slice() else { panic!("{out:?}") };
            let keys = keys(&script, &out);
            assert_eq!((third.seq, third.payload.len()), (flow.rcv_nxt, 0));
            let out = script.write(id, 20, 30);
            assert_eq!(mapped(&keys, &out), [(0, 1, stream(20, 30))]);
            flow.hears(&out);
            script.send(&flow, &flow.seg().dss(keys.ack(30)));
            let out = script.write(id, 50, 10);
            assert_eq!(mapped(&keys, &out), [(30, 31, stream(50, 10))]);
            let info = script.info(id);
            assert_eq!((info.bytes_sent, info.bytes_acked), (60, 50));
            assert!(info.subflows[0].tcp.syn_data);
            assert_eq!(script.counters().tcp_fast_open_active, 1);
        });
    }

    /// Figures 20 and 21 of RFC 8684.
    #[test]
    fn t77_what_was_not_accepted_is_mapped_from_the_first_number_on() {
        both(|version| {
            for accepted in [0, 1, 500, 999] {
                let mut script = knowing(version, eight());
                let (mut flow, id, syn) = connect(&mut script, 1000);
                assert_eq!(syn.payload.len(), 1000);
                let out = answer(&mut script, &mut flow, accepted as u32, Some(eight()));
                let keys = keys(&script, &out);
                let left = stream(accepted, 1000 - accepted as usize);
                assert_eq!(mapped(&keys, &out), [(0, 1, left)], "{accepted} accepted");
                flow.hears(&out);
                script.send(&flow, &flow.seg().dss(keys.ack(1000 - accepted)));
                assert!(script.advance(20_000).is_empty());
                let info = script.info(id);
                assert_eq!((info.bytes_sent, info.bytes_acked), (1000, 1000));
            }
        });
    }

    /// A server of version 1 cannot write a `DATA_ACK` before it has our key: its data alone is no
    /// proof that it has.
    #[test]
    fn early_data_of_the_server_leaves_the_keys_to_be_told() {
        both(|version| {
            let mut script = knowing(version, eight());
            let (mut flow, id, _) = connect(&mut script, 20);
            let out = answer(&mut script, &mut flow, 20, None);
            let keys = keys(&script, &out);
            let early = match version {
                Version::V1 => keys.map(0, 1, 30),
                Version::V0 => keys.data(&flow, 0, 0, &stream(0, 30)),
            };
            let out = script.send(&flow, &flow.seg().dss(early).data(&stream(0, 30)));
            script.expect_stream(id, 0, 30);
            let [acked] = out.as_slice() else { panic!("{out:?}") };
            flow.snd_nxt = flow.snd_nxt.wrapping_add(30);
            assert_eq!(acked.ack, flow.snd_nxt);
            if version == Version::V1 {
                assert!(matches!(acked.capable().map(|c| c.form), Some(CapableForm::Keys { .. })));
                // The first data has them, too; after a DATA_ACK the server has shown that it knows.
                let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
                assert!(out.iter().any(|o| same(o.data_ack().unwrap(), keys.peer_dsn(30))));
            } else {
                assert!(same(acked.data_ack().unwrap(), keys.peer_dsn(30)));
            }
            let out = script.write(id, 20, 10);
            assert!(same(
                out[0].data_ack().unwrap_or_else(|| panic!("{out:?}")),
                keys.peer_dsn(30)
            ));
        });
    }

    #[test]
    fn a_server_without_mptcp_takes_the_data_all_the_same() {
        both(|version| {
            for accepted in [0, 7, 20] {
                let mut script = knowing(version, eight());
                let (mut flow, id, _) = connect(&mut script, 20);
                flow.rcv_nxt = flow.rcv_nxt.wrapping_add(accepted);
                let out = script.answer(&mut flow, &[]);
                assert_eq!(script.fallback(id), Some(FallbackReason::SynAckWithoutCapable));
                let text: Vec<u8> = out.iter().flat_map(|o| o.payload.clone()).collect();
                assert_eq!(text, stream(u64::from(accepted), 20 - accepted as usize));
                flow.hears(&out);
                let out = script.send(&flow, &flow.seg());
                assert!(out.is_empty(), "{out:?}");
                let out = script.write(id, 20, 10);
                assert_eq!((out.len(), &out[0].payload), (1, &stream(20, 10)));
                assert!(out[0].mptcp().is_empty());
                assert_eq!(script.info(id).bytes_sent, 30);
            }
        });
    }

    #[test]
    fn a_lost_syn_is_repeated_with_mptcp_and_without_data() {
        both(|version| {
            let mut script = knowing(version, eight());
            let (mut flow, _, _) = connect(&mut script, 20);
            let out = script.advance(1_200);
            let [again] = out.as_slice() else { panic!("{out:?}") };
            assert!(again.capable().is_some() && again.cookie().is_none(), "{again:?}");
            assert!(again.payload.is_empty());
            let out = answer(&mut script, &mut flow, 0, None);
            let keys = keys(&script, &out);
            assert_eq!(mapped(&keys, &out), [(0, 1, stream(0, 20))]);
            assert_eq!(script.counters().tcp_fast_open_blackhole, 1);
        });
    }

    #[test]
    fn a_reset_syn_is_repeated_without_anything_and_the_data_follows_once() {
        both(|version| {
            let mut script = knowing(version, eight());
            let (mut flow, id, _) = connect(&mut script, 20);
            let reset = flow.seg().seq(0).acks(flow.rcv_nxt.wrapping_add(20));
            let out = script.send(&flow, &reset.flags(TcpFlags::RST | TcpFlags::ACK));
            let [again] = out.as_slice() else { panic!("{out:?}") };
            assert!(again.is(TcpFlags::SYN) && again.mptcp().is_empty());
            assert_eq!((again.cookie(), again.payload.len()), (None, 0));
            // An answer to the first one would be from beyond the reset.
            let stale = flow.syn().acks(flow.rcv_nxt.wrapping_add(20));
            let out = script.send(&flow, &stale.flags(TcpFlags::SYN | TcpFlags::ACK));
            assert!(out.iter().all(Out::rst), "{out:?}");
            let out = script.answer(&mut flow, &[]);
            let text: Vec<u8> = out.iter().flat_map(|o| o.payload.clone()).collect();
            assert_eq!(text, stream(0, 20));
            assert_eq!(script.fallback(id), Some(FallbackReason::CapableSynReset));
        });
    }

    /// MSS, SACK, timestamps and window scale take 19 octets, `MP_CAPABLE` 4 in version 1 and 12 in
    /// version 0: of a cookie 14 octets fit there, and 6 here.
    #[test]
    fn a_cookie_that_does_not_fit_stays_at_home_with_the_data() {
        let sixteen = cookie_of(16);
        let fourteen = cookie_of(14);
        let cases = [
            (Version::V1, fourteen, true),
            (Version::V1, sixteen, false),
            (Version::V0, six(), true),
            (Version::V0, eight(), false),
        ];
        for (version, cookie, fits) in cases {
            let mut script = knowing_with(version, cookie, |config| config.tcp.timestamps = true);
            let (mut flow, _, syn) = connect(&mut script, 20);
            assert_eq!(syn.cookie(), fits.then_some(cookie), "{syn:?}");
            assert_eq!(syn.payload.len(), if fits { 20 } else { 0 });
            assert_eq!(syn.tcp_options().len(), 5 + usize::from(fits));
            assert!(syn.tcp_options().iter().any(|o| matches!(o, TcpOption::Timestamps { .. })));
            let out = answer(&mut script, &mut flow, 0, Some(cookie));
            let keys = keys(&script, &out);
            assert_eq!(mapped(&keys, &out), [(0, 1, stream(0, 20))], "sent as data");
        }
    }

    #[test]
    fn joins_of_ours_never_open_fast() {
        both(|version| {
            let mut script = knowing_with(version, eight(), |config| {
                config.mptcp.path_manager = PathManagerKind::Fullmesh;
            });
            let (mut flow, _, _) = connect(&mut script, 20);
            let out = answer(&mut script, &mut flow, 20, None);
            let keys = keys(&script, &out);
            let mut out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
            out.extend(script.advance(1_500));
            let joins: Vec<_> = out.iter().filter(|o| o.join().is_some()).collect();
            assert!(!joins.is_empty(), "{out:?}");
            assert!(joins.iter().all(|o| o.cookie().is_none() && o.payload.is_empty()));
        });
    }
}
