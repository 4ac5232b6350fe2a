//! Requests about which the application decides first, with the text of their SYN, and SYNs that go
//! out for somebody else (RFC 8803 §4.2, §6.2.5, §9.3).

use crate::harness::{Peer, Script, Seg, ack, data, rst, rst_ack, syn, syn_ack};
use crate::icmp::icmp;
use mptcp_core::buf::{BufPool, HeapBuf};
use mptcp_core::error::ConnectionError;
use mptcp_core::stack::{Listen, Occupancy, Ready};
use mptcp_core::stats::DropReason;
use mptcp_core::tcp::{State, SynTerms};
use mptcp_core::time::Duration;
use mptcp_core::wire::{FastOpenCookie, TcpFlags};

const ALL: Listen = Listen { deferred: true, only_text: false, ..DEFAULT };
const TEXT: Listen = Listen { only_text: true, ..ALL };
const DEFAULT: Listen = Listen {
    mptcp: false,
    deferred: false,
    only_text: false,
    or_at_once: false,
    fast_open: 0,
    from: None,
    user_data: 0,
};

mod requests {
    use super::*;

    /// An undecided request whose SYN brought `len` octets.
    fn asked(options: Listen, len: usize) -> Script {
        let mut s = Script::new(|_| {});
        s.leg().offer.window = 60_000;
        s.listen_with(options);
        let syn = s.peer_syn().len(len);
        s.inject(syn).expect_nothing().accept();
        s
    }

    fn open(s: &mut Script) {
        let opened = s.stack.open_deferred(s.now, s.id()).expect("there is room");
        s.leg().id = Some(opened);
        s.flush();
    }

    #[test]
    fn the_text_of_the_syn_is_the_first_of_the_stream_and_acknowledged_with_it() {
        let mut s = asked(ALL, 100);
        let octets: Vec<u8> = (1..=100).collect();
        assert_eq!(s.stack.deferred_text(s.id()), Some(&octets[..]));
        s.at(3_000);
        let request = s.id();
        open(&mut s);
        s.expect(Seg { ack: 101, ..syn_ack() });
        assert_eq!(s.state(), State::SynReceived);
        assert_eq!(s.stack.deferred_text(request), None);
        assert!(!s.stack.accept_deferred(s.now, request), "the id is stale");
        assert_eq!(s.ready(), Ready::READABLE);
        s.read(100).read_blocks();
        s.write(20).expect(data(1, 101, 20));
        s.inject(ack(101, 21)).expect_nothing();
        assert_eq!(s.state(), State::Established);
        s.inject(data(101, 21, 10)).read(10);
        assert_eq!(s.stack.accept(s.listener.unwrap()), None, "it is the application's already");
        s.abort().take_all();
        assert_eq!(s.stack.occupancy(), Occupancy::default());
        assert_eq!(s.pool.in_use(), 0);
    }

    #[test]
    fn the_word_of_a_request_goes_on_with_its_connection() {
        let mut s = asked(ALL, 10);
        let request = s.id();
        s.stack.set_user_data(request, 77);
        let opened = s.stack.open_deferred(s.now, request).unwrap();
        let event = s.stack.poll_event().unwrap();
        assert_eq!((event.socket, event.user_data), (opened, 77));
    }

    /// As for a connection: with timestamps they take twelve octets of both sides' segments.
    #[test]
    fn an_exit_asks_for_segments_that_fit_those_of_the_request() {
        for (mss, wanted) in [(Some(1000), 1000), (None, 536), (Some(1460), 1460)] {
            let mut s = Script::new(|_| {});
            s.leg().offer.mss = mss;
            s.listen_with(ALL);
            let syn = s.peer_syn().len(10);
            s.inject(syn).accept();
            let request = s.id();
            s.add_leg("10.0.0.1:5000", "10.0.0.9:80", Peer::default());
            s.start(None);
            assert!(s.stack.fit_segments(s.id(), request));
            let announced = s.flush().take().mss.unwrap();
            // Ours has timestamps, the peer's has none.
            assert_eq!(announced, (wanted + 12).min(1460), "{mss:?}");
        }
    }

    #[test]
    fn text_that_is_not_taken_comes_again() {
        let mut s = asked(ALL, 100);
        assert!(s.stack.accept_deferred(s.now, s.id()));
        assert_eq!(s.stack.deferred_text(s.id()), None);
        s.flush().expect(syn_ack());
        s.inject(data(1, 1, 100)).accept().read(100);
    }

    #[test]
    fn a_syn_without_text_is_opened_in_the_same_way() {
        let mut s = asked(ALL, 0);
        assert_eq!(s.stack.deferred_text(s.id()), None);
        open(&mut s);
        s.expect(syn_ack());
        assert_eq!((s.state(), s.ready()), (State::SynReceived, Ready::empty()));
        s.write(20).expect(data(1, 1, 20));
        s.inject(ack(1, 21)).expect_nothing();
        assert_eq!(s.state(), State::Established);
        s.inject(data(1, 21, 10)).read(10);
        assert_eq!(s.stack.accept(s.listener.unwrap()), None, "it is the application's already");
    }

    /// No SYN/ACK has shown the peer what its first SYN offered.
    #[test]
    fn options_that_the_repeated_syn_leaves_out_are_not_agreed() {
        for opens in [false, true] {
            let mut s = asked(ALL, 0);
            s.at(7_000).inject(syn()).expect_nothing();
            if opens {
                open(&mut s);
            } else {
                assert!(s.stack.accept_deferred(s.now, s.id()));
                s.flush();
            }
            let answer = s.take();
            assert_eq!((answer.mss, answer.wscale), (Some(1460), None), "{opens}");
            assert!(!answer.sack_permitted, "{opens}");
            s.inject(ack(1, 1).window(8_192)).expect_nothing();
            if !opens {
                s.accept();
            }
            s.write(20_000);
            let sent: usize = s.take_all().iter().map(|seg| seg.len).sum();
            assert!((1_460..=8_192).contains(&sent), "{opens}: {sent}");
        }
    }

    #[test]
    fn a_refusal_covers_the_text() {
        let mut s = asked(ALL, 100);
        assert!(s.stack.refuse_deferred(s.now, s.id()));
        s.flush().expect(rst_ack(0, 101));
        assert_eq!((s.stack.occupancy(), s.pool.in_use()), (Occupancy::default(), 0));
        assert_eq!(s.ready(), Ready::empty(), "who decides knows");
    }

    /// Nothing has answered the first one: the peer begins anew, as it would where nobody had heard of it.
    #[test]
    fn another_syn_takes_the_place_of_one_that_waits() {
        for known in [true, false] {
            let mut s = Script::new(|_| {});
            s.leg().offer.window = 60_000;
            s.listen_with(ALL);
            let first = s.peer_syn().len(10);
            s.inject(first).expect_nothing();
            let old = known.then(|| s.accept().id());
            s.drain();
            s.events.clear();
            let later = Seg { seq: 90_000, ..s.peer_syn() };
            s.inject(later).expect_nothing();
            if let Some(old) = old {
                assert!(s.events.contains(&(old, Ready::CLOSED)), "{:?}", s.events);
                assert!(!s.stack.refuse_deferred(s.now, old), "the id is stale");
            }
            s.accept();
            assert_eq!(s.stack.deferred_text(s.id()), None, "the text was the other one's");
            assert_eq!(s.stack.occupancy().requests, 1);
            assert!(s.stack.accept(s.listener.unwrap()).is_none());
            assert!(s.stack.accept_deferred(s.now, s.id()));
            s.flush().expect(Seg { ack: 90_001, ..syn_ack() });
            // That one is answered, and stays (RFC 5961 §4).
            let third = Seg { seq: 180_000, ..s.peer_syn() };
            s.inject(third).expect(ack(1, 90_001));
        }
    }

    #[test]
    fn a_syn_that_comes_again_is_the_same_request_and_is_reported() {
        let mut s = asked(ALL, 100);
        let twice = s.peer_syn().len(100);
        s.at(1_000).inject(twice).expect_nothing();
        assert_eq!(s.ready(), Ready::REPEATED);
        // As Linux repeats it: without the text.
        let bare = s.peer_syn();
        s.at(3_000).inject(bare).expect_nothing();
        assert_eq!(s.ready(), Ready::REPEATED);
        assert_eq!(s.stack.accept(s.listener.unwrap()), None);
        assert_eq!(s.stack.occupancy().requests, 1);
        open(&mut s);
        s.expect(Seg { ack: 101, ..syn_ack() });
        let again = s.peer_syn();
        s.inject(again).expect(Seg { ack: 101, ..syn_ack() });
        s.inject(ack(101, 1)).read(100);
    }

    #[test]
    fn one_that_goes_away_is_reported() {
        for (behind, gone) in [(1, true), (101, true), (50, false), (102, false)] {
            let mut s = asked(ALL, 100);
            s.inject(rst(behind)).expect_nothing();
            assert_eq!(s.ready() == Ready::CLOSED, gone, "{behind}");
            assert_eq!(s.stack.deferred_addresses(s.id()).is_none(), gone);
            assert_eq!(s.stack.open_deferred(s.now, s.id()).is_none(), gone);
        }
        let mut s = asked(ALL, 100);
        s.at(60_001);
        assert_eq!(s.ready(), Ready::CLOSED);
        assert_eq!((s.stack.occupancy(), s.pool.in_use()), (Occupancy::default(), 0));
        // Nobody has its id yet: nobody is told.
        let mut s = Script::new(|_| {});
        s.listen_with(ALL);
        let syn = s.peer_syn().len(10);
        s.inject(syn).inject(rst(11));
        assert_eq!(s.stack.accept(s.listener.unwrap()), None);
        assert!(s.events.iter().all(|(_, ready)| *ready == Ready::ACCEPT));
        assert_eq!(s.stack.occupancy(), Occupancy::default());
    }

    #[test]
    fn only_those_with_text_wait_where_that_is_asked_for() {
        let mut s = Script::new(|_| {});
        s.listen_with(TEXT);
        s.peer_opens();
        s.add_leg("10.0.0.1:80", "10.0.0.3:1", Peer::default());
        let syn = s.peer_syn().len(10);
        s.inject(syn).expect_nothing().accept();
        assert!(s.stack.deferred_text(s.id()).is_some());
    }

    #[test]
    fn beyond_half_the_table_a_handshake_comes_first_and_beyond_all_of_it_a_cookie() {
        let mut s = Script::new(|config| config.limits.half_open = 8);
        s.listen_with(TEXT);
        for n in 0..12 {
            s.add_leg("10.0.0.1:80", &format!("10.0.1.{n}:1"), Peer::default());
            let syn = s.peer_syn().len(10);
            s.inject(syn);
            match n {
                0..4 => s.expect_nothing().accept(),
                _ => s.expect(syn_ack()),
            };
        }
        let counters = s.stack.counters();
        assert_eq!(counters.syncookies_sent, 5);
        assert_eq!(counters.dropped(DropReason::RequestQueueFull), 0);
        // The last one's text, with a cookie.
        s.inject(data(1, 1, 10)).take_all();
        s.accept().read(10);
    }

    #[test]
    fn text_is_not_kept_while_memory_is_short() {
        let mut s = Script::with_reserve(1_000, |_| {});
        s.listen_with(ALL);
        let syn = s.peer_syn().len(10);
        let mut pool = s.pool.clone();
        let mut hoard: Vec<HeapBuf> = core::iter::from_fn(|| pool.alloc()).collect();
        hoard.truncate(90_000);
        s.inject(syn).expect_nothing().accept();
        assert_eq!(s.stack.deferred_text(s.id()), None);
        drop(hoard);
        assert_eq!(s.stack.open_deferred(s.now, s.id()), None);
        assert!(s.stack.accept_deferred(s.now, s.id()));
        // One that only takes those with text answers at once.
        let mut s = Script::with_reserve(1_000, |_| {});
        s.listen_with(TEXT);
        let syn = s.peer_syn().len(10);
        let mut pool = s.pool.clone();
        let mut hoard: Vec<HeapBuf> = core::iter::from_fn(|| pool.alloc()).collect();
        hoard.truncate(90_000);
        s.inject(syn).expect(syn_ack());
    }
}

mod behalf {
    use super::*;

    const ON_DEMAND: SynTerms = SynTerms { on_demand: true, fast_open: None };

    /// A connection to 10.0.0.2:4000 whose first SYN is out.
    fn opening(terms: SynTerms) -> Script {
        let mut s = Script::new(|_| {});
        s.leg().local.set_port(5000);
        s.start(Some(Duration::from_secs(30)));
        assert!(s.stack.set_syn_terms(s.id(), terms));
        s.flush();
        assert!(!s.stack.set_syn_terms(s.id(), terms), "the SYN is out");
        s
    }

    fn repeat(s: &mut Script) -> &mut Script {
        s.stack.repeat_syn(s.now, s.id());
        s.flush()
    }

    #[test]
    fn a_syn_on_demand_is_repeated_by_nothing_else() {
        let mut s = opening(ON_DEMAND);
        s.expect(syn()).at(10_000).expect_nothing();
        repeat(&mut s).expect(syn());
        // What comes twice was asked for once.
        s.at(10_100);
        repeat(&mut s).expect_nothing().at(10_700);
        repeat(&mut s).expect(syn());
        s.at(30_001);
        assert_eq!(s.ready(), Ready::CLOSED | Ready::READABLE);
        assert_eq!(s.stack.error(s.id()), Some(ConnectionError::ConnectTimedOut));
    }

    #[test]
    fn once_it_is_answered_all_is_as_ever() {
        let mut s = opening(ON_DEMAND);
        s.expect(syn()).at(5_000).peer_answers().expect(ack(1, 1));
        repeat(&mut s).expect_nothing();
        s.write(10).expect(data(1, 1, 10));
        s.skip_to(60_000);
        assert!(s.stack.counters().retrans_segs >= 1, "data has its timer");
    }

    #[test]
    fn others_are_not_repeated_on_demand() {
        let mut s = opening(SynTerms::default());
        s.expect(syn());
        s.at(800);
        repeat(&mut s).expect_nothing().until(1_000).expect(syn());
    }

    #[test]
    fn the_options_of_the_syn_ack_are_kept_until_they_are_asked_for() {
        let mut s = opening(SynTerms::default());
        s.expect(syn()).peer_answers().expect(ack(1, 1));
        let answer = s.stack.syn_answer(s.id()).unwrap();
        let mut kinds = Vec::new();
        let mut rest = &answer.options[..];
        while let [kind, others @ ..] = rest {
            kinds.push(*kind);
            let len = if *kind < 2 { 1 } else { usize::from(others[0]) };
            rest = &rest[len..];
        }
        assert!([2, 3, 4].iter().all(|kind| kinds.contains(kind)), "{answer:?}");
        assert_eq!(s.stack.syn_answer(s.id()), None);
        // Nobody asked for those of another one.
        s.add_leg("10.0.0.1:5001", "10.0.0.2:4000", Peer::default());
        s.connect().expect(syn()).peer_answers().expect(ack(1, 1));
        assert_eq!(s.stack.syn_answer(s.id()), None);
    }

    #[test]
    fn the_code_of_what_ended_it_is_kept() {
        for (code, error) in [
            (0, ConnectionError::NetworkUnreachable),
            (1, ConnectionError::HostUnreachable),
            (3, ConnectionError::Refused),
            (13, ConnectionError::Prohibited),
        ] {
            let mut s = opening(ON_DEMAND);
            s.expect(syn());
            icmp(&mut s, code, 0, 0);
            assert_eq!(s.stack.error(s.id()), Some(error));
            assert_eq!(s.stack.syn_answer(s.id()).unwrap().icmp_code, Some(code));
        }
        let mut s = opening(ON_DEMAND);
        s.expect(syn()).inject(rst_ack(0, 1));
        assert_eq!(s.stack.error(s.id()), Some(ConnectionError::Refused));
        assert_eq!(s.stack.syn_answer(s.id()).unwrap().icmp_code, None);
        s.stack.release(s.id());
        assert_eq!(s.stack.occupancy(), Occupancy::default());
    }

    #[test]
    fn a_cookie_is_shown_as_it_was_given_and_what_is_granted_is_reported() {
        let given = FastOpenCookie::new(&[7; 12]).unwrap();
        for cookie in [FastOpenCookie::REQUEST, given] {
            let mut s = opening(SynTerms { on_demand: true, fast_open: Some(cookie) });
            s.expect(syn().cookie(cookie));
            let granted = FastOpenCookie::new(&[9; 8]).unwrap();
            let answer = Seg { ack: 1, ..s.peer_syn() }.flags(TcpFlags::SYN | TcpFlags::ACK);
            s.inject(answer.cookie(granted)).expect(ack(1, 1));
            let options = s.stack.syn_answer(s.id()).unwrap().options;
            let option = [&[34, 10][..], &[9; 8]].concat();
            assert!(options.windows(10).any(|part| part == option), "{options:?}");
            // It is not ours to use.
            s.add_leg("10.0.0.1:5001", "10.0.0.2:4000", Peer::default());
            s.connect_early(10).expect(syn().cookie(FastOpenCookie::REQUEST));
        }
        let mut s = opening(SynTerms { on_demand: true, fast_open: Some(given) });
        s.expect(syn().cookie(given)).at(2_000);
        repeat(&mut s).expect(syn());
    }
}

mod client {
    use super::*;

    fn starting(len: usize) -> Script {
        let mut s = Script::new(|_| {});
        s.leg().local.set_port(5000);
        s.connect_with_text(len);
        s
    }

    fn answer(s: &mut Script, acked: u32) -> Seg {
        Seg { ack: acked, ..s.peer_syn() }.flags(TcpFlags::SYN | TcpFlags::ACK)
    }

    #[test]
    fn text_goes_with_the_syn_without_an_option() {
        let mut s = starting(100);
        s.expect(syn().len(100));
        let taken = answer(&mut s, 101);
        s.inject(taken).expect(ack(101, 1)).write(10).expect(data(101, 1, 10));
        let mut s = starting(100);
        s.expect(syn().len(100));
        let left = answer(&mut s, 1);
        s.inject(left).expect(data(1, 1, 100));
    }

    #[test]
    fn a_syn_that_is_repeated_leaves_it_out() {
        let mut s = starting(100);
        s.expect(syn().len(100)).until(1_000).expect(syn());
        // The first one was heard all the same.
        let taken = answer(&mut s, 101);
        s.inject(taken).expect(ack(101, 1));
    }

    #[test]
    fn what_does_not_fit_follows() {
        let mut s = starting(3_000);
        let first = s.take();
        assert_eq!((first.flags, first.len), (TcpFlags::SYN, 1_420));
    }
}
