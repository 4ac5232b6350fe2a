//! The three client messages, read from however many bytes are there.
//!
//! Invariant: each parser is a function of a prefix of the stream. It asks for no byte beyond its
//! message, and once it decides, more bytes would not change the decision: so the result does not
//! depend on how the input was split, and what follows a message is never read by accident.

use crate::front_end::udp::Stream;
use crate::front_end::{BadHost, Credentials, Host, Reject, Target};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zeroize::Zeroizing;

/// The longest message: username and password of 255 bytes each.
pub(super) const MAX_MESSAGE_LEN: usize = 513;

/// Methods of RFC 1928 §3.
pub(super) const NO_AUTHENTICATION: u8 = 0;
/// RFC 1929.
pub(super) const USERNAME_PASSWORD: u8 = 2;

/// What the bytes so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed<T> {
    /// The message has at least this many bytes; more than there are now.
    Needs(usize),
    /// Complete, and exactly as long as the bytes given.
    Complete(T),
    /// It will never be a message we serve.
    Rejected(Reject),
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// A connection to there.
    Connect(Target),
    /// A connection from there, whose port is not known; from anybody when the address is unspecified.
    Bind(Target),
    /// A relay for datagrams. Its address says where the client means to send from: it rarely knows, and is
    /// known better by its connection.
    Associate,
}

/// A request that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) command: Command,
    /// The reserved byte was not zero: tolerated, counted.
    pub(super) reserved_set: bool,
}

/// Greeting, RFC 1928 §3: `05 n methods[n]`. The result is whether `method` is offered.
pub(super) fn greeting(bytes: &[u8], method: u8) -> Parsed<()> {
    let Some((version, rest)) = bytes.split_first() else { return Parsed::Needs(2) };
    match version {
        5 => {}
        4 => return Parsed::Rejected(Reject::Socks4),
        _ => return Parsed::Rejected(Reject::NotSocks),
    }
    let Some((count, methods)) = rest.split_first() else { return Parsed::Needs(2) };
    let count = usize::from(*count);
    if methods.len() < count {
        Parsed::Needs(2 + count)
    } else if methods.contains(&method) {
        Parsed::Complete(())
    } else {
        Parsed::Rejected(Reject::NoMethod)
    }
}

/// RFC 1929 §2: `01 ulen user plen password`.
pub(super) fn credentials(bytes: &[u8]) -> Parsed<Credentials> {
    let Some((version, rest)) = bytes.split_first() else { return Parsed::Needs(2) };
    if *version != 1 {
        return Parsed::Rejected(Reject::Authentication);
    }
    let Some((user_len, rest)) = rest.split_first() else { return Parsed::Needs(2) };
    let user_len = usize::from(*user_len);
    if user_len == 0 {
        return Parsed::Rejected(Reject::Authentication);
    }
    let Some((user, rest)) = rest.split_at_checked(user_len) else {
        return Parsed::Needs(3 + user_len);
    };
    let Some((password_len, password)) = rest.split_first() else {
        return Parsed::Needs(3 + user_len);
    };
    let password_len = usize::from(*password_len);
    if password_len == 0 {
        Parsed::Rejected(Reject::Authentication)
    } else if password.len() < password_len {
        Parsed::Needs(3 + user_len + password_len)
    } else {
        let password = Zeroizing::new(password.to_vec());
        Parsed::Complete(Credentials { user: user.to_vec(), password })
    }
}

/// Request, RFC 1928 §4: `05 cmd rsv atyp address port`.
pub(super) fn request(bytes: &[u8]) -> Parsed<Request> {
    let Some((version, rest)) = bytes.split_first() else { return Parsed::Needs(4) };
    if *version != 5 {
        return Parsed::Rejected(Reject::Request);
    }
    let Some((command, rest)) = rest.split_first() else { return Parsed::Needs(4) };
    if !(1..=3).contains(command) {
        return Parsed::Rejected(Reject::Command);
    }
    let Some((&[reserved, address_type], rest)) = rest.split_first_chunk() else {
        return Parsed::Needs(4);
    };
    let reserved_set = reserved != 0;
    if *command == 3 {
        return match skipped(address_type, rest) {
            Parsed::Complete(()) => {
                Parsed::Complete(Request { command: Command::Associate, reserved_set })
            }
            Parsed::Needs(len) => Parsed::Needs(4 + len),
            Parsed::Rejected(why) => Parsed::Rejected(why),
        };
    }
    let target = match address_type {
        1 => ipv4(rest),
        3 => domain(rest),
        4 => ipv6(rest),
        _ => Parsed::Rejected(Reject::AddressType),
    };
    match target {
        Parsed::Complete(target) => match command {
            2 => Parsed::Complete(Request { command: Command::Bind(target), reserved_set }),
            // Who asks for a stream of datagrams goes to no port: sing-box says 0.
            _ if target.port == 0 && Stream::asked_by(&target).is_none() => {
                Parsed::Rejected(Reject::Request)
            }
            _ => Parsed::Complete(Request { command: Command::Connect(target), reserved_set }),
        },
        Parsed::Needs(len) => Parsed::Needs(4 + len),
        Parsed::Rejected(why) => Parsed::Rejected(why),
    }
}

/// An address that nobody asks about, with its port.
fn skipped(address_type: u8, bytes: &[u8]) -> Parsed<()> {
    let len = match address_type {
        1 => 6,
        4 => 18,
        3 => match bytes.first() {
            Some(len) => 3 + usize::from(*len),
            None => return Parsed::Needs(1),
        },
        _ => return Parsed::Rejected(Reject::AddressType),
    };
    if bytes.len() < len { Parsed::Needs(len) } else { Parsed::Complete(()) }
}

fn ipv4(bytes: &[u8]) -> Parsed<Target> {
    let Some((&[a, b, c, d, high, low], _)) = bytes.split_first_chunk() else {
        return Parsed::Needs(6);
    };
    let host = Host::Address(IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    Parsed::Complete(Target { host, port: u16::from_be_bytes([high, low]) })
}

fn ipv6(bytes: &[u8]) -> Parsed<Target> {
    let Some((address, rest)) = bytes.split_first_chunk::<16>() else { return Parsed::Needs(18) };
    let Some((port, _)) = rest.split_first_chunk() else { return Parsed::Needs(18) };
    let host = Host::Address(IpAddr::V6(Ipv6Addr::from(*address)));
    Parsed::Complete(Target { host, port: u16::from_be_bytes(*port) })
}

fn domain(bytes: &[u8]) -> Parsed<Target> {
    let Some((len, rest)) = bytes.split_first() else { return Parsed::Needs(1) };
    let len = usize::from(*len);
    if len == 0 {
        return Parsed::Rejected(Reject::Request);
    }
    let Some((name, port)) = rest.split_at_checked(len) else { return Parsed::Needs(3 + len) };
    let Some((port, _)) = port.split_first_chunk() else { return Parsed::Needs(3 + len) };
    match Host::parse(name) {
        Ok(host) => Parsed::Complete(Target { host, port: u16::from_be_bytes(*port) }),
        Err(BadHost::Malformed) => Parsed::Rejected(Reject::Request),
        Err(BadHost::Numeric) => Parsed::Rejected(Reject::NumericName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostName;
    use proptest::prelude::*;

    fn connect(host: Host, port: u16) -> Parsed<Request> {
        let command = Command::Connect(Target { host, port });
        Parsed::Complete(Request { command, reserved_set: false })
    }

    fn by_name(name: &[u8]) -> Parsed<Request> {
        let len = u8::try_from(name.len()).unwrap();
        request(&[&[5, 1, 0, 3, len], name, &[0, 80]].concat())
    }

    #[test]
    fn greetings() {
        assert_eq!(greeting(&[], 0), Parsed::Needs(2));
        assert_eq!(greeting(&[5], 0), Parsed::Needs(2));
        assert_eq!(greeting(&[5, 3, 0], 0), Parsed::Needs(5));
        assert_eq!(greeting(&[5, 3, 1, 0, 0], 0), Parsed::Complete(()));
        assert_eq!(greeting(&[5, 2, 0, 2], 2), Parsed::Complete(()));
        assert_eq!(greeting(&[5, 1, 0], 2), Parsed::Rejected(Reject::NoMethod));
        assert_eq!(greeting(&[5, 0], 0), Parsed::Rejected(Reject::NoMethod));
        assert_eq!(greeting(&[4], 0), Parsed::Rejected(Reject::Socks4));
        assert_eq!(greeting(b"G", 0), Parsed::Rejected(Reject::NotSocks));
    }

    #[test]
    fn credentials_are_any_bytes_but_never_empty() {
        let Parsed::Complete(both) = credentials(&[1, 2, b'a', 0xff, 1, 0]) else { panic!() };
        assert_eq!((both.user.as_slice(), both.password.as_slice()), (&[b'a', 0xff][..], &[0][..]));
        for bad in [&[5, 1, b'a', 1, b'b'][..], &[1, 0], &[1, 1, b'a', 0]] {
            assert_eq!(credentials(bad), Parsed::Rejected(Reject::Authentication), "{bad:?}");
        }
        assert_eq!(credentials(&[1, 255]), Parsed::Needs(258));
        let longest = [&[1, 255][..], &[b'u'; 255], &[255], &[b'p'; 255]].concat();
        assert_eq!(longest.len(), MAX_MESSAGE_LEN);
        assert!(matches!(credentials(&longest), Parsed::Complete(_)));
    }

    #[test]
    fn requests_by_address() {
        let v4 = Host::Address("192.0.2.1".parse().unwrap());
        assert_eq!(request(&[5, 1, 0, 1, 192, 0, 2, 1, 1, 187]), connect(v4, 443));
        let v6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let bytes = [&[5, 1, 0, 4][..], &v6.octets(), &[0, 80]].concat();
        assert_eq!(request(&bytes), connect(Host::Address(v6.into()), 80));
        let Parsed::Complete(tolerated) = request(&[5, 1, 9, 1, 192, 0, 2, 1, 0, 80]) else {
            panic!()
        };
        assert!(tolerated.reserved_set);
        let no_port = request(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 0]);
        assert_eq!(no_port, Parsed::Rejected(Reject::Request));
    }

    #[test]
    fn requests_by_name_take_strict_literals() {
        let name = Host::Name(HostName::new(b"origin.example").unwrap());
        assert_eq!(by_name(b"Origin.Example."), connect(name, 80));
        for literal in ["127.0.0.1", "[::1]", "::1", "::ffff:127.0.0.1"] {
            let address = literal.trim_matches(['[', ']']).parse().unwrap();
            assert_eq!(by_name(literal.as_bytes()), connect(Host::Address(address), 80));
        }
        for lenient in ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.1.", "1.2.3.4.5"] {
            assert_eq!(by_name(lenient.as_bytes()), Parsed::Rejected(Reject::NumericName));
        }
        for bad in
            [&b"a\0b"[..], b"[127.0.0.1]", b"[::1", b"fe80::1%eth0", b"a b", &[b'a'; 64], b"."]
        {
            assert_eq!(by_name(bad), Parsed::Rejected(Reject::Request), "{bad:?}");
        }
        assert_eq!(request(&[5, 1, 0, 3, 0]), Parsed::Rejected(Reject::Request));
        let too_long = [b"abcdefg.".repeat(31), b"abcdefg".to_vec()].concat();
        assert_eq!(too_long.len(), 255);
        assert_eq!(by_name(&too_long), Parsed::Rejected(Reject::Request));
    }

    #[test]
    fn streams_of_datagrams_are_asked_for_at_any_port() {
        for name in ["sp.v2.udp-over-tcp.arpa", "SP.udp-over-tcp.arpa."] {
            let len = u8::try_from(name.len()).unwrap();
            let asked = |port: u16| {
                request(&[&[5, 1, 0, 3, len][..], name.as_bytes(), &port.to_be_bytes()].concat())
            };
            let host = Host::Name(HostName::new(name.as_bytes()).unwrap());
            assert_eq!(asked(0), connect(host.clone(), 0));
            assert_eq!(asked(443), connect(host, 443));
        }
        let other = [&[5, 1, 0, 3, 9][..], b"a.example", &[0, 0]].concat();
        assert_eq!(request(&other), Parsed::Rejected(Reject::Request));
    }

    #[test]
    fn what_is_not_served_is_told_by_the_first_byte_that_shows_it() {
        assert_eq!(request(&[1]), Parsed::Rejected(Reject::Request));
        assert_eq!(request(&[5, 4]), Parsed::Rejected(Reject::Command));
        assert_eq!(request(&[5, 0]), Parsed::Rejected(Reject::Command));
        assert_eq!(request(&[5, 1, 0, 2]), Parsed::Rejected(Reject::AddressType));
        assert_eq!(request(&[5, 3, 0, 2]), Parsed::Rejected(Reject::AddressType));
    }

    /// The peer's port is rarely known.
    #[test]
    fn binds_name_a_peer_or_nobody() {
        for (address, port) in [([192, 0, 2, 1], 20), ([192, 0, 2, 1], 0), ([0; 4], 0)] {
            let bytes = [&[5, 2, 0, 1][..], &address, &u16::to_be_bytes(port)].concat();
            let command = Command::Bind(Target { host: Host::Address(address.into()), port });
            assert_eq!(request(&bytes), Parsed::Complete(Request { command, reserved_set: false }));
        }
        assert_eq!(request(&[5, 2, 0, 2]), Parsed::Rejected(Reject::AddressType));
    }

    #[test]
    fn associations_may_name_any_address_or_none() {
        let associate = |rest: &[u8]| request(&[&[5, 3, 0], rest].concat());
        let complete =
            Parsed::Complete(Request { command: Command::Associate, reserved_set: false });
        assert_eq!(associate(&[1, 0, 0, 0, 0, 0, 0]), complete);
        assert_eq!(associate(&[1, 10, 1, 0, 2, 0x9d, 0x78]), complete);
        assert_eq!(associate(&[&[4][..], &[0; 18]].concat()), complete);
        assert_eq!(associate(&[3, 1, b'0', 0, 0]), complete);
        assert_eq!(associate(&[3, 0, 0, 0]), complete);
        assert_eq!(associate(&[1, 0, 0, 0, 0, 0]), Parsed::Needs(10));
        assert_eq!(associate(&[3]), Parsed::Needs(5));
    }

    /// Feeds a parser as much as it asks for, in pieces cut where `cuts` says, as the gateway does.
    fn feed<T>(
        stream: &[u8],
        cuts: &[u8],
        parse: impl Fn(&[u8]) -> Parsed<T>,
    ) -> (Parsed<T>, usize) {
        let mut cuts = cuts.iter().cycle();
        let mut taken = 0;
        loop {
            match parse(&stream[..taken]) {
                Parsed::Needs(len) if taken < stream.len() => {
                    assert!(len > taken, "asks for what it has");
                    let piece = 1 + usize::from(*cuts.next().unwrap()) % (len - taken);
                    taken = stream.len().min(taken + piece);
                }
                // How far a refused client was read depends on the split, and does not matter.
                Parsed::Rejected(why) => return (Parsed::Rejected(why), 0),
                decided => return (decided, taken),
            }
        }
    }

    /// Streams that start like real messages and then go anywhere.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let start = prop_oneof![
            Just(vec![]),
            Just(vec![5]),
            Just(vec![5, 1, 0]),
            Just(vec![5, 1, 0, 1]),
            Just(vec![5, 1, 0, 3]),
            Just(vec![5, 1, 0, 3, 9]),
            Just(vec![5, 1, 0, 4]),
            Just(vec![1, 3]),
        ];
        let rest = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..600),
            proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'.'), Just(3)], 0..600),
        ];
        (start, rest).prop_map(|(start, rest)| [start, rest].concat())
    }

    proptest! {
        #[test]
        fn splitting_changes_nothing(
            stream in stream(),
            cuts in proptest::collection::vec(any::<u8>(), 1..40),
            method in 0..4u8,
        ) {
            let whole = [255];
            prop_assert_eq!(
                feed(&stream, &cuts, |bytes| greeting(bytes, method)),
                feed(&stream, &whole, |bytes| greeting(bytes, method))
            );
            prop_assert_eq!(feed(&stream, &cuts, credentials), feed(&stream, &whole, credentials));
            prop_assert_eq!(feed(&stream, &cuts, request), feed(&stream, &whole, request));
        }

        #[test]
        fn no_message_is_longer_than_the_limit(stream in stream()) {
            for len in 0..=stream.len() {
                let bytes = &stream[..len];
                for needs in [
                    match greeting(bytes, 0) { Parsed::Needs(len) => len, _ => 0 },
                    match credentials(bytes) { Parsed::Needs(len) => len, _ => 0 },
                    match request(bytes) { Parsed::Needs(len) => len, _ => 0 },
                ] {
                    prop_assert!(needs <= MAX_MESSAGE_LEN);
                }
            }
        }
    }
}
