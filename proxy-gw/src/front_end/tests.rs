//! What holds for every front end.

use super::*;
use proptest::prelude::*;

/// Runs a handshake over `stream`, read in pieces of `piece` bytes at most; credentials are always
/// right. Returns every step that is not a read, and what was left unread.
pub(super) fn run(mut handshake: Handshake, stream: &[u8], piece: usize) -> (Vec<Step>, usize) {
    let mut left = stream;
    let mut steps = Vec::new();
    loop {
        match handshake.step() {
            Step::Read(wanted) => {
                let count = wanted.min(piece).min(left.len());
                if count == 0 {
                    return (steps, left.len());
                }
                let input = handshake.input(wanted);
                assert_eq!(input.len(), wanted);
                let (now, later) = left.split_at(count);
                input[..count].copy_from_slice(now);
                left = later;
                handshake.advance(count);
            }
            Step::Wait => return (steps, left.len()),
            step => {
                if matches!(step, Step::Verify(_)) {
                    assert!(handshake.is_verifying());
                    handshake.verified();
                }
                steps.push(step);
            }
        }
    }
}

/// Requests as they should be.
const WHOLE: [(FrontEnd, &[u8]); 7] = [
    (FrontEnd::Socks5, b"\x05\x01\x00\x05\x01\x00\x03\x09a.example\x01\xbb"),
    (FrontEnd::Socks5, b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0"),
    (FrontEnd::Socks5, b"\x05\x01\x00\x05\x02\x00\x01\x08\x08\x08\x08\x00\x00"),
    (FrontEnd::Socks5, b"\x05\x02\x00\x02\x01\x01a\x01b\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50"),
    (FrontEnd::Http, b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"),
    (
        FrontEnd::Http,
        b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
    ),
    (
        FrontEnd::Convert,
        b"\x01\x06\x22\x63\x0a\x05\0\x50\0\0\0\0\0\0\0\0\0\0\xff\xff\x08\x08\x08\x08",
    ),
];

fn new(front_end: FrontEnd, auth: Auth) -> Handshake {
    Handshake::new(front_end, auth, SocketAddr::from(([10, 9, 0, 2], 80)))
}

/// In pieces of every length; what is behind belongs to the relay, and a part of it is waited for.
#[test]
fn whole_requests_are_served_however_they_are_split() {
    for (front_end, request) in WHOLE {
        let wants_password = request.windows(2).any(|two| two == b"Ba" || two == b"\x01a");
        let auth = if wants_password { Auth::Password } else { Auth::None };
        let stream = [request, b"tunnel"].concat();
        let (whole, left) = run(new(front_end, auth), &stream, usize::MAX);
        assert_eq!(left, 6, "{request:?}: {whole:?}");
        for piece in 1..stream.len() {
            let (split, left) = run(new(front_end, auth), &stream, piece);
            assert_eq!((&split, left), (&whole, 6), "{request:?} in pieces of {piece}");
        }
        for cut in 0..request.len() {
            let (steps, left) = run(new(front_end, auth), &stream[..cut], usize::MAX);
            assert!(whole.starts_with(&steps) && steps.len() < whole.len(), "{request:?} to {cut}");
            assert_eq!(left, 0);
        }
    }
}

/// Bytes that go anywhere, and texts that look like requests.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let words: [&[u8]; 17] = [
        b"\x01\x07\x22\x63",
        b"\x01\x01\0\0",
        b"\x0a\x05\0\x50\0\0\0\0\0\0\0\0\0\0\xff\xff\x08\x08\x08\x08",
        b"CONNECT ",
        b"GET ",
        b"a.example:443",
        b"[::1]:80",
        b" HTTP/1.1",
        b"\r\n",
        b"\r\n\r\n",
        b"Host: a",
        b"Proxy-Authorization: Basic YTpi",
        b"\x05\x01\x00",
        b"\x05\x02\x00\x02",
        b"\x01\x01a\x01b",
        b"\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50",
        b"tunnel",
    ];
    let word = prop_oneof![
        4 => proptest::sample::select(words.to_vec()).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 1..8),
    ];
    proptest::collection::vec(word, 0..12).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn streams_end_the_same_however_they_are_split(
        stream in stream(), piece in 1..64usize, password: bool, which in 0..3usize,
    ) {
        let auth = if password { Auth::Password } else { Auth::None };
        let front_end = [FrontEnd::Socks5, FrontEnd::Http, FrontEnd::Convert][which];
        let handshake = || new(front_end, auth);
        let (whole, left) = run(handshake(), &stream, usize::MAX);
        let (split, left_split) = run(handshake(), &stream, piece);
        prop_assert_eq!(&whole, &split);
        let served = matches!(
            whole.last(),
            Some(
                Step::Connect { .. }
                    | Step::Convert(_)
                    | Step::Associate { .. }
                    | Step::Bind { .. }
            )
        );
        if served {
            prop_assert_eq!(left, left_split, "what is behind a request belongs to the relay");
        }
    }
}
