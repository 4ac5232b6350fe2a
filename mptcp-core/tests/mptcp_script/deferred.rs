//! MPTCP connections made of deferred requests with the text of their SYN (RFC 8803 with RFC 8684
//! Appendix B): what the SYN carries is no part of the data sequence space.

use crate::harness::*;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::{Connect, Event, Listen, Ready, SocketId};
use mptcp_core::tcp::SynTerms;
use mptcp_core::wire::{CapableFlags, FastOpenCookie, TcpFlags, Version, checksum};

const H: CapableFlags = CapableFlags::HMAC;

fn listening(version: Version) -> Script {
    let mut script = Script::serving(&[Version::V0, Version::V1], version, |_| {});
    let options = Listen { mptcp: true, deferred: true, only_text: true, ..Listen::default() };
    script.listener = Some(script.stack.listen(at(A1, PORT), &options).expect("free"));
    script
}

/// An undecided request whose SYN brought the first 20 octets of the stream.
fn asked(script: &mut Script) -> (Flow, SocketId) {
    let flow = Flow::new(at(P1, 40_000), at(A1, PORT));
    let syn = flow.syn().opt(&offer(script.version, H)).data(&stream(0, 20));
    let out = script.send(&flow, &syn);
    assert!(out.is_empty(), "{out:?}");
    let request = script.accept().expect("it is offered");
    assert_eq!(script.stack.deferred_text(request), Some(&stream(0, 20)[..]));
    (flow, request)
}

/// The connection of that request, its SYN/ACK out.
fn opened(script: &mut Script, flow: &mut Flow, request: SocketId) -> (Keys, SocketId) {
    let id = script.stack.open_deferred(script.now, request).expect("there is room");
    script.remember(id);
    let out = script.out();
    let [syn_ack] = out.as_slice() else { panic!("{out:?}") };
    flow.hears(&out);
    flow.snd_nxt = flow.isn.wrapping_add(21);
    assert_eq!(syn_ack.ack, flow.snd_nxt, "SYN and text are acknowledged: {syn_ack:?}");
    flow.skip_early(20);
    let keys = Keys::of(script.version, syn_ack, false);
    script.expect_stream(id, 0, 20);
    (keys, id)
}

/// What Linux does, too: the first data behind the SYN has the first data sequence number.
#[test]
fn the_text_is_outside_the_data_level() {
    both(|version| {
        let mut script = listening(version);
        let (mut flow, request) = asked(&mut script);
        script.advance(2_000);
        let (keys, id) = opened(&mut script, &mut flow, request);
        let early = script.write(id, 0, 100);
        let third = flow.seg().opt(&keys.third());
        let late = script.send(&flow, &third);
        let answer = if version == Version::V0 {
            early
        } else {
            assert!(early.is_empty(), "without the key there is no DATA_ACK: {early:?}");
            late
        };
        flow.hears(&answer);
        let mapping = answer[0].mapping().expect("mapped");
        assert!(same(mapping.dsn, keys.stack_dsn(0)) && mapping.ssn == 1, "{answer:?}");
        assert!(same(answer[0].data_ack().unwrap(), keys.peer_dsn(0)));
        let out = script.send_data(&keys, &mut flow, 0, 100, &stream(20, 20));
        assert!(out.iter().any(|o| same(o.data_ack().unwrap(), keys.peer_dsn(20))), "{out:?}");
        script.expect_stream(id, 20, 20);
        assert_eq!(script.fallback(id), None);
    });
}

#[test]
fn a_syn_repeated_without_the_option_while_undecided_means_tcp() {
    both(|version| {
        let mut script = listening(version);
        let (mut flow, request) = asked(&mut script);
        assert!(script.send(&flow, &flow.syn()).is_empty());
        let id = script.stack.open_deferred(script.now, request).expect("there is room");
        script.remember(id);
        let out = script.out();
        assert!(out.len() == 1 && out[0].mptcp().is_empty(), "{out:?}");
        flow.hears(&out);
        flow.snd_nxt = flow.isn.wrapping_add(21);
        script.send(&flow, &flow.seg());
        script.expect_stream(id, 0, 20);
        let info = script.info(id);
        assert_eq!(info.mptcp, None);
        assert_eq!(info.fallback, Some(FallbackReason::SynRepeatedWithoutCapable));
    });
}

/// What Linux 6.18 does when it has repeated its SYN without the text: a DSS that acknowledges, and
/// never its key. It hears at once that this is TCP.
#[test]
fn who_repeated_its_syn_without_the_text_shows_its_keys_with_the_third_ack_or_never() {
    for repeats in [false, true] {
        let mut script = listening(Version::V1);
        let (mut flow, request) = asked(&mut script);
        if repeats {
            let bare = flow.syn().opt(&offer(Version::V1, H));
            assert!(script.send(&flow, &bare).is_empty());
        }
        let (keys, id) = opened(&mut script, &mut flow, request);
        script.write(id, 0, 100);
        let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
        let expected = repeats.then_some(FallbackReason::AckWithoutCapable);
        assert_eq!(script.fallback(id), expected);
        let text: Vec<u8> = out.iter().flat_map(|o| o.payload.clone()).collect();
        assert_eq!(text == stream(0, 100), repeats, "{out:?}");
        if !repeats {
            script.send(&flow, &flow.seg().opt(&keys.third()));
            assert_eq!(script.fallback(id), None);
        }
    }
}

#[test]
fn a_reset_takes_the_request_and_its_token_away() {
    both(|version| {
        let mut script = listening(version);
        let (flow, request) = asked(&mut script);
        script.stack.set_user_data(request, 7);
        let seq = flow.isn.wrapping_add(21);
        assert!(script.send(&flow, &flow.seg().seq(seq).flags(TcpFlags::RST)).is_empty());
        let gone = Event { socket: request, ready: Ready::CLOSED, user_data: 7 };
        let mut events = core::iter::from_fn(|| script.stack.poll_event());
        assert!(events.any(|event| event == gone));
        assert_eq!(script.stack.occupancy().tokens, 0);
        assert_eq!(script.stack.occupancy().requests, 0);
    });
}

/// Offers MPTCP to a server in somebody else's name, who may have a cookie for it; answers the SYN.
fn offer_on_behalf(script: &mut Script, fast_open: Option<FastOpenCookie>) -> (SocketId, Vec<Out>) {
    let with = Connect {
        local: A1,
        local_port: 5_000,
        remote: at(P1, 80),
        mptcp: true,
        timeout: None,
        user_data: 0,
    };
    let id = script.stack.connect(script.now, &with).expect("room");
    assert!(script.stack.set_syn_terms(id, SynTerms { on_demand: true, fast_open }));
    let syn = script.out();
    assert!(syn.len() == 1 && syn[0].capable().is_some(), "{syn:?}");
    (id, syn)
}

/// An ICMP error of `code` about our SYN.
fn unreachable(script: &mut Script, syn: &Out, code: u8) {
    let octets = |addr: core::net::IpAddr| match addr {
        core::net::IpAddr::V4(v4) => v4.octets(),
        core::net::IpAddr::V6(_) => panic!("an IPv4 test"),
    };
    let mut quoted = vec![0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6, 0, 0];
    quoted.extend(octets(syn.src.ip()));
    quoted.extend(octets(syn.dst.ip()));
    let mut sum = checksum::Checksum::new();
    sum.add_bytes(&quoted);
    quoted[10..12].copy_from_slice(&(!sum.folded()).to_be_bytes());
    quoted.extend(syn.src.port().to_be_bytes());
    quoted.extend(syn.dst.port().to_be_bytes());
    quoted.extend(syn.seq.to_be_bytes());
    let mut icmp = vec![3, code, 0, 0, 0, 0, 0, 0];
    icmp.extend(quoted);
    let mut sum = checksum::Checksum::new();
    sum.add_bytes(&icmp);
    let field = sum.finish();
    icmp[2..4].copy_from_slice(&field.to_be_bytes());
    script.inject_ip(syn.dst.ip(), syn.src.ip(), 1, &icmp);
}

/// The connection has no block any more by then.
#[test]
fn the_code_of_what_ended_an_offer_of_mptcp_is_kept() {
    use mptcp_core::error::ConnectionError;
    both(|version| {
        for (code, error) in [
            (0, ConnectionError::NetworkUnreachable),
            (1, ConnectionError::HostUnreachable),
            (3, ConnectionError::Refused),
            (13, ConnectionError::Prohibited),
        ] {
            let mut script = Script::new(version, |_| {});
            let (id, syn) = offer_on_behalf(&mut script, None);
            script.remember(id);
            unreachable(&mut script, &syn[0], code);
            assert_eq!(script.stack.error(id), Some(error));
            let answer = script.stack.syn_answer(id).expect("something answered");
            assert_eq!((answer.icmp_code, answer.options.len()), (Some(code), 0));
            assert_eq!(script.stack.syn_answer(id), None, "it is told once");
        }
    });
}

/// A converter that is asked to offer MPTCP to the server.
#[test]
fn a_syn_on_demand_keeps_its_option_and_reports_what_answered() {
    let mut script = Script::new(Version::V1, |_| {});
    let (id, _) = offer_on_behalf(&mut script, None);
    assert!(script.advance(5_000).is_empty());
    script.stack.repeat_syn(script.now, id);
    let again = script.out();
    assert!(again.len() == 1 && again[0].capable().is_some(), "{again:?}");
    script.stack.abort(script.now, id);
}

/// A cookie that a client wants shown is shown, also where our timestamps have no room beside it, and the longest one.
#[test]
fn a_cookie_of_a_clients_comes_before_our_timestamps() {
    both(|version| {
        for len in [8, 16] {
            let cookie = FastOpenCookie::new(&[7; 16][..len]).expect("a cookie");
            let mut script = Script::new(version, |c| c.tcp.timestamps = true);
            let (id, syn) = offer_on_behalf(&mut script, Some(cookie));
            assert_eq!(syn[0].cookie(), Some(cookie), "{syn:?}");
            script.stack.abort(script.now, id);
        }
    });
}
