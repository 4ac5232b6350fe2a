//! The codec on bytes: what messages say, and what they are answered with.

use super::*;
use crate::front_end::{Host, Reject, Step, Target};
use core::net::IpAddr;

/// What the handshake makes of `stream`, and how much it leaves.
fn run(stream: &[u8]) -> (Option<Step>, usize) {
    let mut handshake = Handshake::new();
    let mut left = stream;
    loop {
        match handshake.step() {
            Step::Read(wanted) => {
                let count = wanted.min(left.len());
                if count == 0 {
                    return (None, 0);
                }
                let (now, later) = left.split_at(count);
                handshake.input(wanted)[..count].copy_from_slice(now);
                handshake.advance(count);
                left = later;
            }
            step => {
                assert_eq!(handshake.step(), Step::Wait, "one message per connection");
                return (Some(step), left.len());
            }
        }
    }
}

fn asked(stream: &[u8]) -> Asked {
    match run(stream).0 {
        Some(Step::Convert(asked)) => *asked,
        other => panic!("{other:?}"),
    }
}

fn target(address: &str, port: u16) -> Target {
    let address: IpAddr = address.parse().unwrap();
    Target { host: Host::Address(address), port }
}

/// Figures 13 and 17 of RFC 8803, for 192.0.2.1:443.
const BASE: &[u8] = b"\x01\x06\x22\x63\x0a\x05\x01\xbb\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01";

#[test]
fn a_base_connect() {
    let message = asked(BASE);
    assert_eq!((message.len, message.info, message.cookie), (24, false, None));
    let connect = message.connect.unwrap();
    assert_eq!(connect.target, target("192.0.2.1", 443));
    assert!(!connect.extended && !connect.mptcp && connect.unsupported.is_empty());
    let v6 = b"\x01\x06\x22\x63\x0a\x05\0\x50\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07";
    assert_eq!(asked(v6).connect.unwrap().target, target("2001:db8::7", 80));
}

#[test]
fn what_is_behind_the_message_is_left() {
    let stream = [BASE, b"hello"].concat();
    assert_eq!(run(&stream).1, 5);
}

#[test]
fn an_info_with_a_cookie() {
    let message = asked(b"\x01\x04\x22\x63\x01\x01\0\0\x16\x02\0\0abcd");
    assert!(message.info && message.connect.is_none());
    assert_eq!(message.cookie.as_deref(), Some(&b"abcd"[..]));
}

#[test]
fn an_option_counts_as_it_comes_first() {
    let tlv = [&BASE[4..24], &[34, 6, 1, 2, 3, 4, 34, 2]].concat();
    let mut stream = [&BASE[..4], &tlv].concat();
    (stream[1], stream[5]) = (8, 7);
    let connect = asked(&stream).connect.unwrap();
    assert_eq!(connect.fast_open.unwrap().as_bytes(), [1, 2, 3, 4]);
}

#[test]
fn the_version_is_looked_at_once_it_is_convert() {
    let step = |header: [u8; 4]| run(&header).0;
    let refused = |step: Option<Step>| match step {
        Some(Step::Refuse(why, _)) => Some(why),
        _ => None,
    };
    assert_eq!(refused(step([2, 6, 0x22, 0x63])), Some(Reject::Version));
    assert_eq!(refused(step([2, 6, 0x22, 0x64])), Some(Reject::NotConvert));
    assert_eq!(step([2, 0, 0x22, 0x63]), Some(Step::Reset(Reject::Request)));
    assert_eq!(step([1, 6, 0x22, 0x63]), None, "the rest is waited for");
}

/// Every answer is framed: its length is in its header, and in that of its only TLV.
#[test]
fn errors_are_framed_and_no_longer_than_a_message_can_be() {
    let longest = [7; MAX_MESSAGE_LEN];
    for reply in [
        malformed(&longest),
        malformed(&longest[..5]),
        unsupported_message(&[]),
        unsupported_options(&(6..=255).collect::<Vec<u8>>()),
        unsupported_version(),
        not_authorized(),
        resources_exceeded(),
        missing_cookie(&[1; 16]),
        supported(),
        connected(false, Some(&[9; 40])),
    ] {
        assert_eq!(usize::from(reply[1]) * 4, reply.len());
        assert_eq!(usize::from(reply[5]) * 4, reply.len() - 4, "{reply:?}");
    }
    let cut = malformed(&longest);
    assert_eq!(cut.len(), MAX_MESSAGE_LEN);
    assert_eq!(cut[4..8], [30, 254, 1, 0]);
}

#[test]
fn a_success_has_the_header_alone() {
    assert_eq!(connected(false, None), [1, 1, 0x22, 0x63]);
}

#[test]
fn cookies_are_of_an_address() {
    use core::time::Duration;
    use mptcp_core::rng::Rng;
    use mptcp_core::time::Instant;
    let cookies = Cookies::new(&mut Rng::from_seed([1; 32]));
    let (mine, other): (IpAddr, IpAddr) =
        ("10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let now = Instant::from_millis(5);
    let cookie = cookies.make(now, mine);
    assert_ne!(cookie, cookies.make(now, other));
    assert_eq!(cookies.check(now, mine, None), Worth::Missing);
    assert_eq!(cookies.check(now, mine, Some(&cookie)), Worth::Good);
    assert_eq!(cookies.check(now, other, Some(&cookie)), Worth::Wrong);
    let longer = [&cookie[..], &[0; 4]].concat();
    for wrong in [&cookie[..8], &longer[..], &[]] {
        assert_eq!(cookies.check(now, mine, Some(wrong)), Worth::Wrong);
    }
    let later = |hours: u64| now + Duration::from_secs(hours * 3600);
    assert_eq!(cookies.check(later(23), mine, Some(&cookie)), Worth::Good);
    assert_eq!(cookies.check(later(24), mine, Some(&cookie)), Worth::Wrong);
    let cookie = cookies.make(later(24), mine);
    assert_eq!(cookies.check(later(100), mine, Some(&cookie)), Worth::Wrong);
    let cookie = cookies.make(later(100), mine);
    assert_eq!(cookies.check(later(111), mine, Some(&cookie)), Worth::Good);
}
