//! Fast Open (RFC 7413), both roles.

use crate::harness::{Peer, Script, Seg, ack, data, fin, pattern, rst, rst_ack, syn, syn_ack};
use crate::icmp::icmp;
use mptcp_core::config::StackConfig;
use mptcp_core::error::{ConnectionError, RecvError};
use mptcp_core::stack::{Connect, Listen, Ready};
use mptcp_core::stats::{Counters, DropReason};
use mptcp_core::tcp::State;
use mptcp_core::wire::{FastOpenCookie, TcpFlags};

const REQUEST: FastOpenCookie = FastOpenCookie::REQUEST;

fn cookie(octets: &[u8]) -> FastOpenCookie {
    FastOpenCookie::new(octets).expect("4 to 16 octets")
}

/// Of some server.
fn theirs() -> FastOpenCookie {
    cookie(&[0xc0; 8])
}

fn counters(s: &Script) -> &Counters {
    s.stack.counters()
}

mod server {
    use super::*;

    fn listening_with(limit: u32, change: impl FnOnce(&mut StackConfig)) -> Script {
        let mut s = Script::new(change);
        s.leg().offer.window = 60_000;
        s.listen_with(Listen { fast_open: limit, ..Listen::default() });
        s
    }

    fn listening(limit: u32) -> Script {
        listening_with(limit, |_| {})
    }

    /// Another connection by the same peer.
    fn again(s: &mut Script) -> &mut Script {
        let port = 4000 + s.legs.len();
        let offer = s.leg().offer;
        s.add_leg("10.0.0.1:80", &format!("10.0.0.2:{port}"), offer)
    }

    fn opening(s: &mut Script, cookie: FastOpenCookie, len: usize) -> Seg {
        s.peer_syn().cookie(cookie).len(len)
    }

    /// The cookie that the peer is granted, by a connection of its own.
    fn granted(s: &mut Script) -> FastOpenCookie {
        let request = opening(s, REQUEST, 0);
        let answer = s.inject(request).take();
        assert_eq!((answer.flags, answer.ack), (TcpFlags::SYN | TcpFlags::ACK, 1));
        s.inject(ack(1, 1)).expect_nothing().accept();
        let granted = answer.cookie.expect("a cookie");
        assert_eq!(granted.as_bytes().len(), 8);
        again(s);
        granted
    }

    /// A connection whose SYN brought `len` octets, its SYN/ACK out.
    fn opened(s: &mut Script, cookie: FastOpenCookie, len: usize) {
        let syn = opening(s, cookie, len);
        s.inject(syn).expect(Seg { ack: 1 + len as u32, ..syn_ack() }).accept();
        assert_eq!(s.state(), State::SynReceived);
    }

    #[test]
    fn a_cookie_is_granted_to_who_asks() {
        let mut s = listening(1);
        let first = granted(&mut s);
        assert_eq!(granted(&mut s), first, "the same for every connection of an address");
        assert_eq!(counters(&s).tcp_fast_open_cookie_reqd, 2);
        s.add_leg("10.0.0.1:80", "10.0.0.3:4000", Peer::default());
        assert_ne!(granted(&mut s), first, "and another one for another address");
        s.add_leg("10.0.0.1:80", "10.0.0.2:5000", Peer::default());
        let plain = s.peer_syn();
        assert_eq!(s.inject(plain).take().cookie, None, "nobody asked");
    }

    #[test]
    fn a_listener_that_was_not_told_to_ignores_the_option() {
        let mut s = listening(1);
        let good = granted(&mut s);
        let mut s = Script::new(|_| {});
        s.listen();
        for (cookie, len) in [(REQUEST, 0), (good, 100)] {
            let syn = opening(&mut s, cookie, len);
            s.inject(syn).expect(syn_ack()).inject(ack(1, 1)).expect_nothing().accept();
            s.read_blocks();
            again(&mut s);
        }
        assert_eq!(counters(&s).tcp_fast_open_cookie_reqd, 0);
    }

    #[test]
    fn the_application_has_data_and_answers_before_the_third_ack() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 100);
        assert_eq!(s.ready(), Ready::READABLE);
        s.read(100).read_blocks();
        s.write(300).expect(data(1, 101, 300));
        s.write(50).expect_nothing();
        s.inject(ack(101, 301)).expect(data(301, 101, 50));
        assert_eq!(s.state(), State::Established);
        assert_eq!(s.ready(), Ready::empty(), "it was the application's all the while");
        s.inject(data(101, 351, 10)).read(10);
        let info = s.stack.info(s.id()).unwrap();
        assert!(info.subflows[0].tcp.syn_data);
        assert_eq!((info.bytes_received, info.bytes_sent), (110, 350));
        assert_eq!(counters(&s).tcp_fast_open_passive, 1);
        assert_eq!(counters(&s).tcp_fast_open_passive_fail, 0);
        assert_eq!(counters(&s).passive_opens, 2);
    }

    #[test]
    fn the_third_ack_may_bring_data_and_cover_none_of_ours() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 100);
        s.write(1000).expect(data(1, 101, 1000));
        s.inject(data(101, 1, 20)).expect(ack(1001, 121)).read(120);
        assert_eq!(s.state(), State::Established);
        s.inject(ack(121, 1001)).expect_nothing();
    }

    #[test]
    fn data_ahead_of_the_third_ack_finishes_the_handshake_too() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 100);
        s.inject(data(111, 1, 10)).expect(ack(1, 101).sack(&[(111, 121)]));
        assert_eq!(s.state(), State::Established);
        s.inject(data(101, 1, 10)).expect(ack(1, 121)).read(120);
    }

    #[test]
    fn what_goes_out_early_fills_one_initial_window() {
        let mut s = listening(2);
        let good = granted(&mut s);
        opened(&mut s, good, 1);
        s.write(40_000);
        let sent: usize = s.take_all().iter().map(|seg| seg.len).sum();
        assert_eq!(sent, 14_600, "ten segments (RFC 6928)");
        s.leg().offer.window = 5_000;
        again(&mut s);
        opened(&mut s, good, 1);
        s.write(40_000);
        let sent: usize = s.take_all().iter().map(|seg| seg.len).sum();
        assert!((4_000..=5_000).contains(&sent), "{sent}: the window of a SYN is not scaled");
    }

    #[test]
    fn a_wrong_cookie_costs_the_data_and_brings_a_good_one() {
        let mut s = listening(1);
        let good = granted(&mut s);
        let wrong = [&[0; 8][..], &good.as_bytes()[..4], &[1; 16]];
        for wrong in wrong {
            let syn = opening(&mut s, cookie(wrong), 100);
            s.inject(syn).expect(syn_ack().cookie(good));
            assert!(s.stack.accept(s.listener.unwrap()).is_none(), "nothing is given out");
            s.inject(data(1, 1, 100)).accept().read(100).read_blocks();
            s.take_all();
            again(&mut s);
        }
        assert_eq!(counters(&s).tcp_fast_open_passive_fail, 3);
        assert_eq!(counters(&s).tcp_fast_open_passive, 0);
    }

    #[test]
    fn data_on_a_syn_without_a_cookie_waits_for_the_handshake() {
        let mut s = listening(1);
        for opening in [s.peer_syn().len(100), opening(&mut s, REQUEST, 100)] {
            let answer = s.inject(opening).take();
            assert_eq!(answer.ack, 1);
            s.inject(ack(1, 1)).expect_nothing().accept().read_blocks();
            again(&mut s);
        }
    }

    #[test]
    fn a_shorter_cookie_of_ours_is_as_good() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, cookie(&good.as_bytes()[..6]), 100);
        s.read(100);
    }

    #[test]
    fn a_good_cookie_without_data_lets_the_server_speak_first() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 0);
        s.read_blocks().write(100).expect(data(1, 1, 100));
        s.inject(ack(1, 101)).expect_nothing();
        assert_eq!(s.state(), State::Established);
        assert!(!s.stack.info(s.id()).unwrap().subflows[0].tcp.syn_data);
    }

    #[test]
    fn pending_connections_are_limited() {
        let mut s = listening(2);
        let good = granted(&mut s);
        opened(&mut s, good, 10);
        again(&mut s);
        opened(&mut s, good, 10);
        for asked in [good, REQUEST] {
            again(&mut s);
            let syn = opening(&mut s, asked, 10);
            s.inject(syn).expect(syn_ack());
            s.inject(ack(1, 1)).expect_nothing().accept().read_blocks();
        }
        assert_eq!(counters(&s).tcp_fast_open_listen_overflow, 2);
        assert_eq!(counters(&s).tcp_fast_open_passive, 2);
        // One is proven, and makes room for one.
        s.on(1).inject(ack(11, 1)).expect_nothing();
        again(&mut s);
        opened(&mut s, good, 10);
        again(&mut s);
        let syn = opening(&mut s, good, 10);
        s.inject(syn).expect(syn_ack());
        // So does one that the application gives up.
        s.on(2).abort().expect(rst_ack(1, 11));
        again(&mut s);
        opened(&mut s, good, 10);
    }

    #[test]
    fn a_reset_before_the_third_ack_counts_for_a_minute() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 10);
        s.inject(rst(12)).expect(ack(1, 11));
        assert_eq!(s.state(), State::SynReceived, "not exactly the expected number");
        s.inject(rst(11)).expect_nothing();
        assert_eq!(s.stack.error(s.id()), Some(ConnectionError::Reset));
        assert!(s.ready().contains(Ready::CLOSED));
        s.read(10);
        for (ms, ok) in [(0, false), (59_000, false), (60_001, true)] {
            s.skip_to(ms);
            again(&mut s);
            let syn = opening(&mut s, good, 10);
            let answer = s.inject(syn).take();
            assert_eq!(answer.ack, if ok { 11 } else { 1 }, "at {ms} ms");
            s.take_all();
        }
    }

    #[test]
    fn the_syn_ack_is_repeated_alone_and_data_waits_for_the_handshake() {
        let mut s = listening(1);
        let good = granted(&mut s);
        s.stack.set_fast_open_key([9; 16]);
        let syn = opening(&mut s, good, 100);
        let answer = s.inject(syn).take();
        assert_eq!(answer.ack, 101);
        assert!(answer.cookie.is_some_and(|new| new != good), "one of the new key");
        s.accept().write(300).expect(data(1, 101, 300));
        s.until(1000).expect(Seg { ack: 101, ..syn_ack() });
        s.until(3000).expect(Seg { ack: 101, ..syn_ack() });
        s.inject(ack(101, 1)).expect_nothing();
        let start = s.ms();
        assert_eq!(s.state(), State::Established);
        s.skip_to(start + 3_000);
        s.inject(ack(101, 301)).skip_to(start + 20_000).expect_nothing();
        assert_eq!(counters(&s).tcp_fast_open_passive_alt_key, 1);
    }

    #[test]
    fn data_lost_before_the_third_ack_comes_again_after_it() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 100);
        s.write(300).expect(data(1, 101, 300)).at(100).inject(ack(101, 1)).expect_nothing();
        s.until(400).expect(data(1, 101, 300));
    }

    #[test]
    fn a_syn_that_comes_again_is_answered_again() {
        let mut s = listening(1);
        let good = granted(&mut s);
        let syn = opening(&mut s, good, 100);
        opened(&mut s, good, 100);
        // A repetition has neither data nor option; a duplicate has both.
        let bare = s.peer_syn();
        for again in [bare, syn] {
            s.inject(again).expect(Seg { ack: 101, ..syn_ack() }).expect_nothing();
        }
        s.read(100).read_blocks();
        s.inject(ack(101, 1)).expect_nothing();
        assert_eq!(s.stack.info(s.id()).unwrap().subflows[0].tcp.srtt, None, "of which of them?");
        let bare = s.peer_syn();
        s.inject(bare).expect(ack(1, 101));
        assert_eq!(s.dropped(DropReason::UnexpectedSyn) + s.dropped(DropReason::OutOfWindow), 1);
    }

    /// As with a request that waits for its third ACK: BSD leaves them out of its fourth SYN.
    #[test]
    fn options_that_the_repeated_syn_leaves_out_are_not_agreed() {
        let mut s = listening(1);
        let good = granted(&mut s);
        s.leg().offer.ts = true;
        opened(&mut s, good, 100);
        s.read(100).at(900).inject(syn().window(8_192));
        let answer = s.take();
        assert_eq!((answer.flags, answer.ack), (TcpFlags::SYN | TcpFlags::ACK, 101));
        assert_eq!((answer.mss, answer.wscale, answer.ts), (Some(1460), None, None));
        assert!(!answer.sack_permitted);
        s.inject(ack(101, 1).window(8_192)).expect_nothing();
        assert_eq!(s.state(), State::Established);
        // Neither side shifts its window, and no timestamps take room.
        s.write(20_000);
        let sent = s.take_all();
        assert!(sent[0].len == 1_460 && sent[0].ts.is_none(), "{:?}", sent[0]);
        assert!(sent.iter().map(|seg| seg.len).sum::<usize>() <= 8_192, "{sent:?}");
    }

    #[test]
    fn who_repeats_its_syn_does_not_stay_for_ever() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 100);
        for n in 1..1_000 {
            s.skip_to(n * 500);
            if s.stack.error(s.id()).is_some() {
                break;
            }
            let bare = s.peer_syn();
            s.inject(bare).take_all();
        }
        assert_eq!(s.stack.error(s.id()), Some(ConnectionError::ConnectTimedOut));
        assert!(s.ready().contains(Ready::CLOSED));
        s.read(100);
        again(&mut s);
        opened(&mut s, good, 100);
    }

    /// RFC 7413 §2.1: who cannot bear this must not ask for Fast Open.
    #[test]
    fn a_syn_that_is_late_by_a_connection_opens_another_one() {
        let mut s = listening(1);
        let good = granted(&mut s);
        let syn = opening(&mut s, good, 100);
        s.inject(syn.clone()).expect(Seg { ack: 101, ..syn_ack() }).accept().read(100);
        s.inject(fin(101, 1)).expect(ack(1, 102)).close().expect(fin(1, 102));
        s.inject(ack(102, 2)).expect_nothing();
        s.leg().id = None;
        s.inject(syn).expect(Seg { ack: 101, ..syn_ack() }).accept();
        assert_eq!(s.read_some(0), Ok(0));
        assert_eq!(counters(&s).tcp_fast_open_passive, 2);
    }

    #[test]
    fn a_full_accept_queue_lets_a_handshake_come_first() {
        let mut s = listening_with(10, |config| config.limits.backlog = 1);
        let good = granted(&mut s);
        let syn = opening(&mut s, good, 10);
        s.inject(syn).expect(Seg { ack: 11, ..syn_ack() });
        again(&mut s);
        let syn = opening(&mut s, good, 10);
        s.inject(syn).expect(syn_ack().cookie(good));
        assert_eq!(counters(&s).tcp_fast_open_passive_fail, 1);
    }

    #[test]
    fn syn_cookies_leave_fast_open_out() {
        let mut s = listening_with(10, |config| config.limits.half_open = 2);
        let good = granted(&mut s);
        for _ in 0..2 {
            let syn = s.peer_syn();
            s.inject(syn).expect(syn_ack());
            again(&mut s);
        }
        let syn = opening(&mut s, good, 10);
        s.inject(syn).expect(syn_ack()).inject(data(1, 1, 10)).accept().read(10).read_blocks();
        assert_eq!(counters(&s).syncookies_recv, 1);
        assert_eq!(counters(&s).tcp_fast_open_passive, 0);
    }

    #[test]
    fn where_requests_are_deferred_nothing_is_given_out() {
        let mut s = listening(1);
        let good = granted(&mut s);
        let mut s = Script::new(|_| {});
        s.listen_with(Listen { fast_open: 1, deferred: true, ..Listen::default() });
        let syn = opening(&mut s, good, 10);
        s.inject(syn).expect_nothing();
        let request = s.stack.accept(s.listener.unwrap()).unwrap();
        s.stack.accept_deferred(s.now, request);
        s.flush().expect(syn_ack());
    }

    #[test]
    fn keys_change_and_the_former_one_is_accepted() {
        let mut s = listening(1);
        let old = granted(&mut s);
        let open = |s: &mut Script, shown, acked, grant: Option<FastOpenCookie>| {
            let syn = opening(s, shown, 10);
            let answer = s.inject(syn).take();
            assert_eq!((answer.ack, answer.cookie.is_some()), (acked, grant.is_some()));
            assert!(grant.is_none_or(|not| answer.cookie != Some(not)), "a new one");
            s.inject(ack(answer.ack, 1)).expect_nothing().accept();
            again(s);
            answer.cookie
        };
        s.stack.set_fast_open_key([1; 16]);
        let new = open(&mut s, old, 11, Some(old)).unwrap();
        open(&mut s, new, 11, None);
        s.stack.set_fast_open_key([2; 16]);
        open(&mut s, old, 1, Some(new));
        open(&mut s, new, 11, Some(new));
        // Keys that were set do not age.
        s.skip_to(100 * 3600 * 1000);
        open(&mut s, new, 11, Some(new));
    }

    #[test]
    fn a_key_of_the_stacks_own_ages() {
        let mut s = listening(1);
        let old = granted(&mut s);
        s.skip_to(13 * 3600 * 1000);
        let syn = opening(&mut s, old, 10);
        let answer = s.inject(syn).take();
        assert_eq!(answer.ack, 11);
        let new = answer.cookie.expect("a new one");
        s.inject(ack(11, 1));
        s.skip_to(23 * 3600 * 1000);
        again(&mut s);
        let syn = opening(&mut s, old, 10);
        assert_eq!(s.inject(syn).take().ack, 11);
        s.inject(ack(11, 1));
        s.skip_to(25 * 3600 * 1000);
        again(&mut s);
        let syn = opening(&mut s, old, 10);
        assert_eq!(s.inject(syn).take().ack, 1, "two keys ago");
        again(&mut s);
        let syn = opening(&mut s, new, 10);
        assert_eq!(s.inject(syn).take().ack, 11);
    }

    /// Shards of one host, for instance: at first, and at any later time, whatever each was asked in between.
    #[test]
    fn stacks_with_one_seed_take_each_others_cookies() {
        for (shared, ok) in [(true, true), (false, false)] {
            let shard = |seed| {
                listening_with(10, |config| {
                    config.seed = [seed; 32];
                    config.fast_open_seed = shared.then_some([9; 32]);
                })
            };
            let (mut busy, mut idle) = (shard(1), shard(2));
            for hours in [0, 11, 13, 50, 71] {
                busy.skip_to(hours * 3600 * 1000);
                let cookie = granted(&mut busy);
                if hours % 2 == 0 {
                    idle.skip_to(hours * 3600 * 1000);
                    let syn = opening(&mut idle, cookie, 10);
                    let answer = idle.inject(syn).take();
                    assert_eq!(answer.ack, if ok { 11 } else { 1 }, "after {hours} hours");
                    idle.inject(ack(answer.ack, 1)).expect_nothing().accept();
                    again(&mut idle);
                }
            }
        }
    }

    #[test]
    fn what_is_closed_early_ends_after_the_handshake() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 10);
        s.read(10).write(100).expect(data(1, 11, 100)).close().expect_nothing();
        s.inject(ack(11, 101)).expect(fin(101, 11));
        s.inject(ack(11, 102)).inject(fin(11, 102)).expect(ack(102, 12));
    }

    #[test]
    fn a_closed_listener_resets_what_it_gave_out_to_nobody() {
        let mut s = listening(1);
        let good = granted(&mut s);
        let syn = opening(&mut s, good, 10);
        s.inject(syn).expect(Seg { ack: 11, ..syn_ack() });
        let listener = s.listener.take().unwrap();
        s.stack.close_listener(s.now, listener);
        s.flush().expect(rst_ack(1, 11));
        // One that was given out goes on, and counts for nobody.
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 10);
        let listener = s.listener.take().unwrap();
        s.stack.close_listener(s.now, listener);
        s.flush().expect_nothing().listen_with(Listen { fast_open: 1, ..Listen::default() });
        s.inject(ack(11, 1)).expect_nothing();
        assert_eq!(s.state(), State::Established);
        again(&mut s);
        opened(&mut s, good, 10);
    }

    #[test]
    fn options_of_bad_lengths_are_ignored() {
        let mut s = listening(1);
        let good = granted(&mut s);
        let octets = [good.as_bytes(), &[0; 20]].concat();
        for len in [3_usize, 4, 5, 7, 9, 19, 20] {
            let syn = s.peer_syn().cookie(good).len(10);
            let bytes = s.packet(&syn);
            let at = bytes.windows(2).position(|w| w == [34, 10]).unwrap();
            let broken = rebuilt(&bytes, at, &[&[34, len as u8], &octets[..len - 2]].concat());
            s.inject_bytes(&broken).expect(syn_ack());
            again(&mut s);
        }
        assert_eq!(counters(&s).tcp_fast_open_passive_fail, 0);
        assert_eq!(counters(&s).tcp_fast_open_cookie_reqd, 1, "the one of the good cookie");
    }

    /// The packet with another option at octet `at`, which was the last one.
    fn rebuilt(packet: &[u8], at: usize, option: &[u8]) -> Vec<u8> {
        use crate::harness::build;
        use mptcp_core::wire::{
            IpHeader, OptionIter, OptionWriter, TcpHeader, TcpOption, TcpSegment,
        };
        let ip = IpHeader::parse(packet).unwrap();
        let view = TcpSegment::parse(&packet[ip.header_len..]).unwrap();
        let mut options = OptionWriter::new();
        for kept in OptionIter::new(&packet[ip.header_len + 20..at]).flatten() {
            assert!(options.push(&kept));
        }
        assert!(options.push(&TcpOption::Unknown { kind: option[0], data: &option[2..] }));
        let header = TcpHeader {
            src_port: view.src_port,
            dst_port: view.dst_port,
            seq: view.seq,
            ack: view.ack,
            flags: view.flags,
            window: view.window,
            urgent: 0,
        };
        build(ip.src, ip.dst, &header, &options, view.payload)
    }

    #[test]
    fn an_option_without_a_syn_is_ignored() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 10);
        s.inject(ack(11, 1).cookie(REQUEST)).expect_nothing();
        s.inject(data(11, 1, 10).cookie(good)).expect(ack(1, 21)).read(20);
        assert_eq!(counters(&s).tcp_fast_open_cookie_reqd, 1);
    }

    #[test]
    fn an_icmp_error_before_the_third_ack_ends_nothing() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 10);
        s.write(100).expect(data(1, 11, 100));
        icmp(&mut s, 1, 0, 1);
        assert_eq!(s.state(), State::SynReceived);
        s.inject(ack(11, 101)).expect_nothing();
        assert_eq!(s.state(), State::Established);
    }

    #[test]
    fn acknowledgements_of_nothing_are_reset_and_harm_nobody() {
        let mut s = listening(1);
        let good = granted(&mut s);
        opened(&mut s, good, 10);
        s.inject(ack(11, 0)).expect(rst(0));
        s.inject(ack(11, 2)).expect(rst(2));
        s.inject(syn_ack()).expect(ack(1, 11));
        s.inject(ack(11, 1)).expect_nothing();
        assert_eq!(s.state(), State::Established);
    }

    #[test]
    fn ipv6_and_timestamps() {
        let mut s = Script::new(|_| {});
        let offer = Peer { ts: true, window: 60_000, ..Peer::default() };
        let all: core::net::SocketAddr = "[::]:80".parse().unwrap();
        let options = Listen { fast_open: 1, ..Listen::default() };
        s.listener = Some(s.stack.listen(all, &options).unwrap());
        s.add_leg("[fd00::1]:80", "[fd00::2]:4000", offer);
        let syn = opening(&mut s, REQUEST, 0);
        let good = s.inject(syn).take().cookie.unwrap();
        s.add_leg("[fd00::1]:80", "[fd00::2]:4001", offer);
        let (opening, clock) = (opening(&mut s, good, 100), s.peer_clock());
        let answer = s.inject(opening).take();
        assert_eq!(answer.ack, 101);
        assert_eq!(answer.ts.map(|(_, echo)| echo), Some(clock));
        s.accept().read(100).write(10);
        let sent = s.take();
        assert_eq!((sent.seq, sent.ack, sent.ts.map(|(_, echo)| echo)), (1, 101, Some(clock)));
        let third = Seg { ts: Some((clock + 5, sent.ts.unwrap().0)), ..ack(101, 11) };
        s.inject(third).expect_nothing();
        assert_eq!(s.state(), State::Established);
    }
}

mod client {
    use super::*;

    fn starting(offer: Peer) -> Script {
        let mut s = Script::new(|_| {});
        s.leg().offer = offer;
        s.leg().local.set_port(5000);
        s
    }

    /// Another connection to the same server.
    fn again(s: &mut Script) -> &mut Script {
        let port = 5000 + s.legs.len();
        let offer = s.leg().offer;
        s.add_leg(&format!("10.0.0.1:{port}"), "10.0.0.2:4000", offer)
    }

    fn answer(s: &mut Script, acked: u32) -> Seg {
        Seg { ack: acked, ..s.peer_syn() }.flags(TcpFlags::SYN | TcpFlags::ACK)
    }

    /// A client that has a cookie of the server, on its way to a second connection.
    fn knowing(offer: Peer) -> Script {
        let mut s = starting(offer);
        s.connect_early(100).expect(syn().cookie(REQUEST));
        let granted = answer(&mut s, 1).cookie(theirs());
        s.inject(granted).expect(data(1, 1, 100)).inject(ack(1, 101)).expect_nothing();
        again(&mut s);
        s
    }

    fn known() -> Script {
        knowing(Peer::default())
    }

    /// A SYN with our cookie and `len` octets.
    fn early(len: usize) -> Seg {
        syn().cookie(theirs()).len(len)
    }

    #[test]
    fn the_first_connection_asks_and_the_next_one_brings_data() {
        let mut s = known();
        assert_eq!(counters(&s).tcp_fast_open_active, 0);
        s.connect_early(100).expect(early(100));
        let granted = answer(&mut s, 101);
        s.inject(granted).expect(ack(101, 1)).expect_nothing();
        assert!(s.ready().contains(Ready::CONNECTED));
        let info = s.stack.info(s.id()).unwrap();
        assert!(info.subflows[0].tcp.syn_data);
        assert_eq!((info.bytes_sent, info.bytes_acked), (100, 100));
        s.write(10).expect(data(101, 1, 10)).inject(ack(1, 111)).expect_nothing();
        assert_eq!(counters(&s).tcp_fast_open_active, 1);
        assert_eq!(counters(&s).tcp_fast_open_active_fail, 0);
        // What the application does not ask for is not done.
        again(&mut s);
        s.connect().expect(syn());
    }

    #[test]
    fn what_does_not_fit_follows_the_handshake() {
        for (mss, room) in [(Some(1460), 1420), (Some(1000), 960), (None, 496), (Some(9000), 1420)]
        {
            let mut s = knowing(Peer { mss, window: 60_000, ..Peer::default() });
            s.connect_early(3000).expect(early(room));
            let granted = answer(&mut s, 1 + room as u32);
            s.inject(granted);
            let sent = s.take_all();
            assert_eq!(sent[0].seq, 1 + room as u32, "the cached MSS is {mss:?}");
            assert_eq!(sent.iter().map(|seg| seg.len).sum::<usize>(), 3000 - room);
        }
    }

    #[test]
    fn what_the_syn_ack_leaves_out_is_sent_at_once() {
        for accepted in [0, 1, 40, 99] {
            let mut s = known();
            s.connect_early(100).expect(early(100));
            let granted = answer(&mut s, 1 + accepted).cookie(theirs());
            s.inject(granted).expect(data(1 + accepted, 1, 100 - accepted as usize));
            s.inject(ack(1, 101)).skip_to(10_000).expect_nothing();
            assert_eq!(counters(&s).tcp_fast_open_active, u64::from(accepted > 0));
            assert_eq!(counters(&s).tcp_fast_open_active_fail, u64::from(accepted == 0));
            // A new cookie came: it is used.
            again(&mut s);
            s.connect_early(100).expect(early(100));
        }
    }

    #[test]
    fn a_server_that_forgot_us_is_left_alone_for_a_minute() {
        let mut s = known();
        s.connect_early(100).expect(early(100));
        let granted = answer(&mut s, 1);
        s.inject(granted).expect(data(1, 1, 100)).inject(ack(1, 101));
        again(&mut s);
        s.connect_early(100).expect(syn());
        s.skip_to(61_000);
        again(&mut s);
        s.connect_early(100).expect(syn().cookie(REQUEST));
        assert_eq!(counters(&s).tcp_fast_open_blackhole, 0);
    }

    #[test]
    fn a_server_that_grants_nothing_is_asked_less_and_less_often() {
        let mut s = starting(Peer::default());
        for (ms, asks) in
            [(0, true), (59_000, false), (61_000, true), (180_000, false), (182_000, true)]
        {
            s.skip_to(ms);
            s.connect_early(10);
            assert_eq!(s.take().cookie, asks.then_some(REQUEST), "at {ms} ms");
            let plain = answer(&mut s, 1);
            s.inject(plain).expect(data(1, 1, 10));
            s.inject(ack(1, 11)).abort().take_all();
            again(&mut s);
        }
    }

    #[test]
    fn a_server_written_with_a_scope_is_remembered_too() {
        let mut s = Script::new(|_| {});
        for (port, asked) in [(5000, Some(REQUEST)), (5001, None)] {
            s.add_leg(&format!("[fd00::1]:{port}"), "[fd00::2]:4000", Peer::default());
            let with = Connect {
                local: s.leg().local.ip(),
                local_port: port,
                remote: "[fd00::2%3]:4000".parse().unwrap(),
                mptcp: false,
                timeout: None,
                user_data: 0,
            };
            let (id, _) = s.stack.connect_with_data(s.now, &with, &pattern(1, 10)).unwrap();
            s.leg().id = Some(id);
            assert_eq!(s.flush().take().cookie, asked, "it granted nothing");
            let plain = answer(&mut s, 1);
            s.inject(plain).expect(data(1, 1, 10));
        }
    }

    #[test]
    fn a_lost_syn_is_repeated_without_data_and_option() {
        let mut s = known();
        s.connect_early(100).expect(early(100));
        s.until(1000).expect(syn());
        let plain = answer(&mut s, 1);
        s.inject(plain).expect(data(1, 1, 100)).inject(ack(1, 101)).expect_nothing();
        let start = s.ms();
        assert_eq!(counters(&s).tcp_fast_open_active_fail, 1);
        assert_eq!(counters(&s).tcp_fast_open_blackhole, 1);
        // It may be the data that gets lost: not this way again for a while.
        again(&mut s);
        s.connect_early(100).expect(syn());
        s.add_leg("10.0.0.1:5009", "10.0.0.2:4009", Peer::default());
        s.connect_early(100).expect(early(100));
        s.skip_to(start + 60_001);
        again(&mut s).connect_early(100).expect(early(100));
    }

    #[test]
    fn a_lost_request_is_repeated_without_it() {
        let mut s = starting(Peer::default());
        s.connect_early(100).expect(syn().cookie(REQUEST));
        s.until(1000).expect(syn());
        let plain = answer(&mut s, 1);
        s.inject(plain).expect(data(1, 1, 100));
        again(&mut s);
        s.connect_early(100).expect(syn());
        assert_eq!(counters(&s).tcp_fast_open_active_fail, 0, "there was no data on it");
    }

    #[test]
    fn a_lost_syn_ack_is_no_lost_syn() {
        let mut s = known();
        s.connect_early(100).expect(early(100));
        s.until(1000).expect(syn());
        let late = answer(&mut s, 101);
        s.inject(late).expect(ack(101, 1)).expect_nothing();
        assert_eq!(counters(&s).tcp_fast_open_active, 1);
        assert_eq!(counters(&s).tcp_fast_open_blackhole, 0);
        s.write(10).expect(data(101, 1, 10));
        again(&mut s);
        s.connect_early(100).expect(early(100));
    }

    #[test]
    fn who_does_not_answer_at_all_gets_a_plain_syn_next_time() {
        let unreachable = |s: &mut Script| icmp(s, 1, 0, 0);
        let refused = |s: &mut Script| {
            s.inject(rst_ack(0, 101));
        };
        let silent = |s: &mut Script| {
            while s.stack.error(s.id()).is_none() {
                let ms = s.ms();
                s.skip_to(ms + 5_000);
            }
        };
        type End = dyn Fn(&mut Script);
        let ends: [(&End, _); 3] = [
            (&unreachable, ConnectionError::HostUnreachable),
            (&refused, ConnectionError::Refused),
            (&silent, ConnectionError::ConnectTimedOut),
        ];
        for (end, error) in ends {
            let mut s = known();
            s.connect_early(100).expect(early(100));
            end(&mut s);
            s.take_all();
            assert_eq!(s.stack.error(s.id()), Some(error));
            assert_eq!(s.read_some(1), Err(RecvError::Failed(error)));
            again(&mut s);
            s.connect_early(100).expect(syn());
            assert_eq!(counters(&s).tcp_fast_open_active_fail, 1, "{error:?}");
            assert_eq!(counters(&s).tcp_fast_open_blackhole, 0);
        }
    }

    #[test]
    fn acknowledgements_of_more_or_less_than_was_sent_are_reset() {
        let mut s = known();
        s.connect_early(100).expect(early(100));
        for wrong in [0, 102] {
            let bad = answer(&mut s, wrong);
            s.inject(bad).expect(rst(wrong));
        }
        let good = answer(&mut s, 101);
        s.inject(good).expect(ack(101, 1));
    }

    #[test]
    fn crossing_syns_deliver_early_data_once() {
        for accepted in [0, 100] {
            let mut s = known();
            s.connect_early(100).expect(early(100));
            let crossing = s.peer_syn().cookie(theirs()).len(50);
            s.inject(crossing).expect(syn_ack());
            s.inject(Seg { ack: 1 + accepted, ..syn_ack() });
            if accepted == 0 {
                s.expect(data(1, 1, 100)).inject(ack(1, 101)).expect_nothing();
            } else {
                s.take_all();
            }
            assert_eq!(s.state(), State::Established);
            s.read_blocks().write(10).expect(data(101, 1, 10));
            s.inject(data(1, 111, 50)).read(50);
        }
    }

    #[test]
    fn without_data_no_cookie_is_shown() {
        let mut s = known();
        s.connect_early(0).expect(syn());
        let plain = answer(&mut s, 1);
        s.inject(plain).expect(ack(1, 1));
        again(&mut s);
        s.connect_early(100).expect(early(100));
    }

    #[test]
    fn what_is_written_before_the_syn_ack_stays_in_order() {
        for accepted in [0, 60, 100] {
            let mut s = known();
            s.connect_early(100).expect(early(100));
            s.write(200).shutdown().expect_nothing();
            let granted = answer(&mut s, 1 + accepted).cookie(theirs());
            let left = 300 - accepted as usize;
            let last = Seg { len: left, ..fin(1 + accepted, 1) };
            s.inject(granted).expect(last).inject(ack(1, 302)).expect_nothing();
        }
    }

    #[test]
    fn a_longer_cookie_is_shown_as_it_came() {
        for len in [4, 16] {
            let long = cookie(&[0xab; 16][..len]);
            let mut s = starting(Peer { ts: true, ..Peer::default() });
            s.connect_early(10).expect(syn().cookie(REQUEST));
            let granted = answer(&mut s, 1).cookie(long);
            s.inject(granted).take_all();
            again(&mut s);
            s.connect_early(10).expect(syn().cookie(long).len(10));
        }
    }
}
