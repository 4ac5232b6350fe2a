//! Front ends: how a client splits its bytes changes nothing, a handshake ends, and it never takes a byte
//! that belongs to what follows.

use proxy_gw::config::Auth;
use proxy_gw::front_end::convert::Asked;
use proxy_gw::front_end::udp::Stream;
use proxy_gw::front_end::{FrontEnd, Handshake, Host, Step};

/// More than any handshake has: method, verification, its status, the connection.
const MAX_STEPS: usize = 4;

/// SOCKS5: takes the first byte of `data` as configuration and piece size, the rest as what a client sends.
pub fn socks5(data: &[u8]) {
    check(FrontEnd::Socks5, data);
}

/// HTTP CONNECT: the same.
pub fn http(data: &[u8]) {
    check(FrontEnd::Http, data);
}

/// Convert: the same.
pub fn convert(data: &[u8]) {
    check(FrontEnd::Convert, data);
}

fn check(front_end: FrontEnd, data: &[u8]) {
    let Some((choice, stream)) = data.split_first() else { return };
    let auth = if choice & 1 == 0 { Auth::None } else { Auth::Password };
    let at = ([10, 1, 0, 1], 1080).into();
    let run = |piece| run(Handshake::new(front_end, auth, at), stream, piece);
    let whole = run(usize::MAX);
    let piece = usize::from(choice >> 1).max(1);
    assert_eq!(run(piece), whole, "in pieces of {piece}");
    assert_eq!(run(1), whole, "byte by byte");
    for step in &whole.0 {
        check_step(front_end, step);
    }
}

/// Every step but the reads, and behind a request the bytes that were not asked for: they belong to
/// the relay. Credentials are always right.
fn run(mut handshake: Handshake, stream: &[u8], piece: usize) -> (Vec<Step>, Option<usize>) {
    let mut left = stream;
    let mut steps = Vec::new();
    loop {
        match handshake.step() {
            Step::Read(wanted) => {
                let count = wanted.min(piece).min(left.len());
                if count == 0 {
                    assert!(wanted > 0, "a read of nothing never ends");
                    return (steps, None);
                }
                let input = handshake.input(wanted);
                assert_eq!(input.len(), wanted, "the buffer holds what it asks for");
                let (now, later) = left.split_at(count);
                input[..count].copy_from_slice(now);
                left = later;
                handshake.advance(count);
            }
            Step::Wait => {
                let is_served = matches!(
                    steps.last(),
                    Some(
                        Step::Connect { .. }
                            | Step::Bind { .. }
                            | Step::Associate { .. }
                            | Step::Convert(_)
                    )
                );
                return (steps, is_served.then_some(left.len()));
            }
            step => {
                if matches!(step, Step::Verify(_)) {
                    assert!(handshake.is_verifying());
                    handshake.verified();
                }
                steps.push(step);
                assert!(steps.len() <= MAX_STEPS, "{steps:?}");
            }
        }
    }
}

fn check_step(front_end: FrontEnd, step: &Step) {
    match step {
        Step::Verify(credentials) if front_end == FrontEnd::Socks5 => {
            assert!((1..=255).contains(&credentials.user.len()));
            assert!((1..=255).contains(&credentials.password.len()));
        }
        Step::Connect { target, .. } => {
            let is_stream = front_end == FrontEnd::Socks5 && Stream::asked_by(target).is_some();
            assert!(target.port != 0 || is_stream);
            if let Host::Name(name) = &target.host {
                let name = name.to_string();
                assert!((1..=253).contains(&name.len()), "{name:?}");
                assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?} reaches logs");
            }
        }
        Step::Convert(asked) => check_message(asked),
        Step::Send(reply) => assert!((2..=22).contains(&reply.len())),
        Step::Refuse(_, reply) if front_end == FrontEnd::Convert => {
            assert_eq!(reply.len(), usize::from(reply[1]) * 4, "the length is in the header");
            assert!(reply.len() <= 1020);
        }
        Step::Refuse(_, reply) => assert!(reply.len() <= 300),
        Step::Verify(_)
        | Step::Bind { .. }
        | Step::Associate { .. }
        | Step::Read(_)
        | Step::Reset(_)
        | Step::Wait => {}
    }
}

/// A message asks for something, within its own length, at an address that may be one host's.
fn check_message(asked: &Asked) {
    assert!(asked.len.is_multiple_of(4) && (8..=1020).contains(&asked.len));
    assert!(asked.info || asked.connect.is_some());
    assert!(asked.cookie.as_ref().is_none_or(|cookie| cookie.len() < asked.len));
    let Some(connect) = &asked.connect else { return };
    assert_ne!(connect.target.port, 0);
    let Host::Address(address) = connect.target.host else { panic!("a name in a Connect TLV") };
    assert!(!address.is_multicast() && !address.is_loopback());
    let mut kinds = connect.unsupported.clone();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), connect.unsupported.len(), "each once");
    // What is answered to it fits a message.
    assert!(connect.unsupported.len() < 256);
}
