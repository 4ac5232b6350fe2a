//! Datagrams of clients: the header in front of each by UDP (RFC 1928 §7), and their framing inside a
//! stream ("UDP over TCP" version 2 of sing-box, and its first version).
//!
//! Invariant: nothing is read beyond one message, and how a stream is cut changes nothing.

use super::{Host, Target};
use core::net::{IpAddr, SocketAddr};

/// Asking to be connected to this name means that datagrams follow in the stream.
const STREAM_V2: &str = "sp.v2.udp-over-tcp.arpa";
/// The same without a request in front.
const STREAM_V1: &str = "sp.udp-over-tcp.arpa";

/// How addresses are tagged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tags {
    /// RFC 1928 §5: IPv4 1, name 3, IPv6 4.
    Socks,
    /// IPv4 0, IPv6 1, name 2.
    Stream,
}

impl Tags {
    const fn v4_v6_name(self) -> [u8; 3] {
        match self {
            Self::Socks => [1, 4, 3],
            Self::Stream => [0, 1, 2],
        }
    }
}

/// Why a datagram, or a stream of them, is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDatagram {
    /// Too short, an unknown address type, a bad name, port 0.
    Malformed,
    /// A part of a datagram: they are not put together, which RFC 1928 §7 allows.
    Fragment,
    /// Nothing says where the next one of the stream begins.
    Lost,
}

/// An address of an unknown type: nothing says how long it is.
struct UnknownType;

/// Where a datagram goes, and its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Where to.
    pub target: Target,
    /// What.
    pub data: &'a [u8],
}

/// Reads a datagram of a SOCKS client: `00 00 frag atyp address port data`. What is reserved is not
/// looked at.
///
/// # Errors
/// See [`BadDatagram`].
pub fn parse(bytes: &[u8]) -> Result<Datagram<'_>, BadDatagram> {
    let (&[_, _, fragment], rest) = bytes.split_first_chunk::<3>().ok_or(BadDatagram::Malformed)?;
    if fragment != 0 {
        return Err(BadDatagram::Fragment);
    }
    let Ok(Some((Some(target), len))) = address(rest, Tags::Socks) else {
        return Err(BadDatagram::Malformed);
    };
    Ok(Datagram { target, data: rest.get(len..).unwrap_or_default() })
}

/// The header in front of a datagram from `source`.
#[must_use]
pub fn header(source: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0];
    push_address(&mut bytes, source, Tags::Socks);
    bytes
}

fn push_address(bytes: &mut Vec<u8>, address: SocketAddr, tags: Tags) {
    let [v4, v6, _] = tags.v4_v6_name();
    match address.ip() {
        IpAddr::V4(address) => {
            bytes.push(v4);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(v6);
            bytes.extend(address.octets());
        }
    }
    bytes.extend(address.port().to_be_bytes());
}

/// An address in front of `bytes`, if it is one to send to, and its length; `None` while it is not complete.
fn address(bytes: &[u8], tags: Tags) -> Result<Option<(Option<Target>, usize)>, UnknownType> {
    let Some((&tag, rest)) = bytes.split_first() else { return Ok(None) };
    let [v4, v6, name] = tags.v4_v6_name();
    let (host, len) = if tag == v4 {
        let Some(octets) = rest.first_chunk::<4>() else { return Ok(None) };
        (Some(Host::Address(IpAddr::from(*octets))), 4)
    } else if tag == v6 {
        let Some(octets) = rest.first_chunk::<16>() else { return Ok(None) };
        (Some(Host::Address(IpAddr::from(*octets))), 16)
    } else if tag == name {
        let Some((&len, rest)) = rest.split_first() else { return Ok(None) };
        let Some(text) = rest.get(..usize::from(len)) else { return Ok(None) };
        (Host::parse(text).ok(), 1 + usize::from(len))
    } else {
        return Err(UnknownType);
    };
    let Some(port) = rest.get(len..).and_then(<[u8]>::first_chunk::<2>) else { return Ok(None) };
    let port = u16::from_be_bytes(*port);
    let target = host.filter(|_| port != 0).map(|host| Target { host, port });
    Ok(Some((target, 1 + len + 2)))
}

/// A stream of datagrams, as its client has begun it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The request is still to come.
    begins: bool,
    /// Where all of them go, if the client said so in front.
    connected: Option<Target>,
    /// What was read and not handed out yet.
    bytes: Vec<u8>,
}

/// One message of a stream.
struct Message {
    /// `None` where there is nothing to forward.
    datagram: Option<Result<(Target, Vec<u8>), BadDatagram>>,
    /// Octets of the stream.
    len: usize,
}

/// Longest message: an address with a name, a length, the longest datagram.
const MAX_MESSAGE: usize = 1 + 1 + 255 + 2 + 2 + u16::MAX as usize;

impl Stream {
    /// The stream that asking for `target` opens, if it is one.
    #[must_use]
    pub fn asked_by(target: &Target) -> Option<Self> {
        let Host::Name(name) = &target.host else { return None };
        let begins = match name.as_str() {
            STREAM_V2 => true,
            STREAM_V1 => false,
            _ => return None,
        };
        Some(Self { begins, connected: None, bytes: Vec::new() })
    }

    /// All datagrams go where the client said in front.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.is_some()
    }

    /// Where all of them go, if the client said so in front.
    #[must_use]
    pub fn destination(&self) -> Option<&Target> {
        self.connected.as_ref()
    }

    /// All of them go to this address of that destination from now on.
    pub fn settle(&mut self, address: IpAddr) {
        if let Some(target) = &mut self.connected {
            target.host = Host::Address(address);
        }
    }

    /// How many more bytes it takes now: none while a whole message waits to be handed out.
    #[must_use]
    pub fn room(&self) -> usize {
        MAX_MESSAGE.saturating_sub(self.bytes.len())
    }

    /// Bytes came in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The next datagram, if it is complete: where it goes and its data. One without data is left out.
    ///
    /// # Errors
    /// [`BadDatagram::Malformed`]: a datagram has no destination, and is passed over.
    /// [`BadDatagram::Lost`]: the stream makes no sense from here on.
    pub fn pop(&mut self) -> Result<Option<(Target, Vec<u8>)>, BadDatagram> {
        let mut at = 0;
        let mut found = Ok(None);
        while let Some(message) = self.next(at)? {
            at += message.len;
            if let Some(datagram) = message.datagram {
                found = datagram.map(Some);
                break;
            }
        }
        self.bytes.drain(..at);
        found
    }

    /// The message at `at`, if it is complete.
    fn next(&mut self, at: usize) -> Result<Option<Message>, BadDatagram> {
        let bytes = self.bytes.get(at..).unwrap_or_default();
        let lost = |_: UnknownType| BadDatagram::Lost;
        if self.begins {
            let Some((&connected, rest)) = bytes.split_first() else { return Ok(None) };
            if connected > 1 {
                return Err(BadDatagram::Lost);
            }
            // Where datagrams carry their own addresses it may be anything, port 0 included.
            let Some((target, len)) = address(rest, Tags::Socks).map_err(lost)? else {
                return Ok(None);
            };
            self.begins = false;
            if connected == 1 {
                // Without it no datagram goes anywhere.
                self.connected = Some(target.ok_or(BadDatagram::Lost)?);
            }
            return Ok(Some(Message { datagram: None, len: 1 + len }));
        }
        let (target, head) = match &self.connected {
            Some(target) => (Some(target.clone()), 0),
            None => match address(bytes, Tags::Stream).map_err(lost)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        let Some(len) = bytes.get(head..).and_then(<[u8]>::first_chunk::<2>) else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*len));
        let Some(data) = bytes.get(head + 2..head + 2 + len) else { return Ok(None) };
        let datagram = match target {
            None => Some(Err(BadDatagram::Malformed)),
            Some(target) => (len > 0).then(|| Ok((target, data.to_vec()))),
        };
        Ok(Some(Message { datagram, len: head + 2 + len }))
    }

    /// A datagram from `source` as the client reads it; `None` when it is longer than any.
    #[must_use]
    pub fn frame(&self, source: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
        let len = u16::try_from(data.len()).ok()?;
        let mut bytes = Vec::with_capacity(21 + data.len());
        if self.connected.is_none() {
            push_address(&mut bytes, source, Tags::Stream);
        }
        bytes.extend(len.to_be_bytes());
        bytes.extend(data);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostName;
    use proptest::prelude::*;

    fn target(address: &str, port: u16) -> Target {
        Target { host: Host::Address(address.parse().unwrap()), port }
    }

    fn name(text: &str) -> Target {
        Target { host: Host::Name(HostName::new(text.as_bytes()).unwrap()), port: 53 }
    }

    #[test]
    fn datagrams_of_socks_clients() {
        let bytes = [&[0, 0, 0, 1, 192, 0, 2, 1, 0, 53][..], b"data"].concat();
        let v4 = target("192.0.2.1", 53);
        assert_eq!(parse(&bytes), Ok(Datagram { target: v4, data: b"data" }));
        let bytes = [&[7, 7, 0, 3, 9][..], b"a.example", &[0, 53]].concat();
        assert_eq!(parse(&bytes), Ok(Datagram { target: name("a.example"), data: b"" }));
        let v6: core::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let bytes = [&[0, 0, 0, 4][..], &v6.octets(), &[1, 187], b"x"].concat();
        assert_eq!(parse(&bytes).unwrap().target, target("2001:db8::1", 443));
        for (bad, why) in [
            (&b"\0\0"[..], BadDatagram::Malformed),
            (b"\0\0\x01\x01\x08\x08\x08\x08\0\x35", BadDatagram::Fragment),
            (b"\0\0\x80\x01\x08\x08\x08\x08\0\x35", BadDatagram::Fragment),
            (b"\0\0\0\x01\x08\x08\x08\x08\0", BadDatagram::Malformed),
            (b"\0\0\0\x01\x08\x08\x08\x08\0\0", BadDatagram::Malformed),
            (b"\0\0\0\x02\x08\x08\x08\x08\0\x35", BadDatagram::Malformed),
            (b"\0\0\0\x03\0\0\x35", BadDatagram::Malformed),
            (b"\0\0\0\x03\x0a2130706433\0\x35", BadDatagram::Malformed),
        ] {
            assert_eq!(parse(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn headers_are_read_back() {
        for source in ["192.0.2.1:53", "[2001:db8::1]:443"] {
            let source: SocketAddr = source.parse().unwrap();
            let bytes = [header(source), b"data".to_vec()].concat();
            let datagram = parse(&bytes).unwrap();
            assert_eq!(datagram.target, target(&source.ip().to_string(), source.port()));
            assert_eq!(datagram.data, b"data");
        }
    }

    fn stream(host: &str) -> Option<Stream> {
        Stream::asked_by(&Target { host: name(host).host, port: 1 })
    }

    /// Everything that `bytes` hold, pushed in pieces of `piece` bytes.
    fn all(
        mut stream: Stream,
        bytes: &[u8],
        piece: usize,
    ) -> Result<Vec<(Target, Vec<u8>)>, BadDatagram> {
        let mut found = Vec::new();
        for piece in bytes.chunks(piece) {
            stream.push(piece);
            loop {
                match stream.pop() {
                    Ok(Some(datagram)) => found.push(datagram),
                    Ok(None) => break,
                    Err(BadDatagram::Malformed) => {}
                    Err(lost) => return Err(lost),
                }
            }
        }
        Ok(found)
    }

    #[test]
    fn streams_with_an_address_in_front_of_each() {
        let v2 = stream(STREAM_V2).unwrap();
        let begin = b"\0\x01\0\0\0\0\0\0";
        let one = b"\0\xc0\0\x02\x01\0\x35\0\x02hi";
        let empty = b"\0\xc0\0\x02\x01\0\x35\0\0";
        let two = b"\x02\x09a.example\0\x35\0\x03yes";
        let bytes = [&begin[..], one, empty, two].concat();
        let expected =
            vec![(target("192.0.2.1", 53), b"hi".to_vec()), (name("a.example"), b"yes".to_vec())];
        assert_eq!(all(v2.clone(), &bytes, 1), Ok(expected.clone()));
        let v1 = stream(STREAM_V1).unwrap();
        assert_eq!(all(v1, &bytes[begin.len()..], 1000), Ok(expected));
        let framed = v2.frame("192.0.2.1:53".parse().unwrap(), b"hi");
        assert_eq!(framed.as_deref(), Some(&b"\0\xc0\0\x02\x01\0\x35\0\x02hi"[..]));
        assert_eq!(v2.frame("192.0.2.1:53".parse().unwrap(), &[0; 65_536]), None);
        assert_eq!(stream("udp-over-tcp.arpa"), None);
    }

    #[test]
    fn streams_with_one_address_for_all() {
        let mut v2 = stream(STREAM_V2).unwrap();
        v2.push(b"\x01\x03\x09a.example\0\x35\0\x02hi\0\x01!");
        assert_eq!(v2.pop(), Ok(Some((name("a.example"), b"hi".to_vec()))));
        assert_eq!(v2.pop(), Ok(Some((name("a.example"), b"!".to_vec()))));
        assert_eq!(v2.pop(), Ok(None));
        let framed = v2.frame("192.0.2.1:53".parse().unwrap(), b"hi");
        assert_eq!(framed.as_deref(), Some(&b"\0\x02hi"[..]));
    }

    #[test]
    fn streams_that_make_no_sense() {
        for bad in [
            &b"\x02\x01\0\0\0\0\0\x35"[..],
            b"\x01\x02\0\0\0\0\0\x35",
            b"\x01\x01\x08\x08\x08\x08\0\0",
            b"\0\x01\0\0\0\0\0\0\x03\x08\x08\x08\x08\0\x35\0\x01x",
        ] {
            let v2 = stream(STREAM_V2).unwrap();
            assert_eq!(all(v2, bad, 1000), Err(BadDatagram::Lost), "{bad:?}");
        }
    }

    /// Their lengths say where the next one begins.
    #[test]
    fn datagrams_without_a_destination_are_passed_over() {
        let bad = [
            &b"\0\x08\x08\x08\x08\0\0\0\x01x"[..],
            b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0",
            b"\x02\0\0\x35\0\x02xx",
            b"\x02\x0a2130706433\0\x35\0\x03xxx",
            b"\x02\x01\xff\0\x35\0\x01x",
        ];
        let good = b"\0\xc0\0\x02\x01\0\x35\0\x02hi";
        for piece in [1, 1000] {
            let mut v1 = stream(STREAM_V1).unwrap();
            let mut passed_over = 0;
            let mut found = 0;
            for bytes in bad.iter().flat_map(|bad| [*bad, good]).flat_map(|b| b.chunks(piece)) {
                v1.push(bytes);
                loop {
                    match v1.pop() {
                        Ok(None) => break,
                        Ok(Some(datagram)) => {
                            assert_eq!(datagram, (target("192.0.2.1", 53), b"hi".to_vec()));
                            found += 1;
                        }
                        Err(why) => {
                            assert_eq!(why, BadDatagram::Malformed);
                            passed_over += 1;
                        }
                    }
                }
            }
            assert_eq!((passed_over, found), (5, 5));
        }
    }

    proptest! {
        #[test]
        fn how_a_stream_is_cut_changes_nothing(
            bytes in proptest::collection::vec(prop_oneof![0..5u8, any::<u8>()], 0..200),
            piece in 1..20usize,
            first: bool,
        ) {
            let new = || stream(if first { STREAM_V1 } else { STREAM_V2 }).unwrap();
            let whole = all(new(), &bytes, 1000);
            let cut = all(new(), &bytes, piece);
            prop_assert_eq!(whole, cut);
        }
    }
}
