//! The head of a request: how far it goes, and what it says.
//!
//! Invariant: [`Scan::needs`] never asks for a byte beyond the blank line, and what it has accepted or
//! refused more bytes would not change.

use crate::front_end::{BadHost, Credentials, Host, Reject, Target};
use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

/// Longest request line, octets.
const MAX_REQUEST_LINE: usize = 8 << 10;
/// Longest head, octets.
const MAX_HEAD: usize = 16 << 10;
/// Most header fields.
const MAX_FIELDS: usize = 64;

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// At least so many more bytes belong to the head.
    Needs(usize),
    /// It ends here.
    Complete,
    /// It will never be a head that is served.
    Rejected(BadHead),
}

/// What is wrong with a request, by the status that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    /// No HTTP: nothing is said.
    NotHttp,
    /// 400.
    Malformed,
    /// 400: a destination that only a lenient parser understands.
    NumericName,
    /// 405.
    Method,
    /// 407.
    Credentials,
    /// 414.
    LineTooLong,
    /// 431.
    HeadTooLong,
    /// 505.
    Version,
}

impl From<BadHead> for Reject {
    fn from(bad: BadHead) -> Self {
        match bad {
            BadHead::NotHttp => Self::NotHttp,
            BadHead::Malformed | BadHead::Version => Self::Request,
            BadHead::NumericName => Self::NumericName,
            BadHead::Method => Self::Command,
            BadHead::Credentials => Self::NoMethod,
            BadHead::LineTooLong | BadHead::HeadTooLong => Self::RequestTooLong,
        }
    }
}

/// Looks for the end of a head, every byte once.
#[derive(Default)]
pub(super) struct Scan {
    /// Bytes looked at.
    seen: usize,
    /// The request line is over.
    line_over: bool,
}

impl Scan {
    /// How far `bytes` go, which are those of the last call and more.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scanned {
        while let Some(&byte) = bytes.get(self.seen) {
            // An empty line in front is nothing (RFC 9112 §2.2).
            let begins = match self.seen {
                0 => is_token(byte) || byte == b'\r',
                2 if bytes.starts_with(b"\r\n") => is_token(byte),
                _ => true,
            };
            if !begins {
                return Scanned::Rejected(BadHead::NotHttp);
            }
            let before = self.seen.checked_sub(1).and_then(|at| bytes.get(at));
            // A line ends with CR LF, and neither comes alone (RFC 9112 §2.2).
            if (byte == b'\n') != (before == Some(&b'\r')) || byte == 0 {
                return Scanned::Rejected(BadHead::Malformed);
            }
            self.seen += 1;
            self.line_over |= byte == b'\n' && self.seen > 2;
            if !self.line_over && self.seen > MAX_REQUEST_LINE {
                return Scanned::Rejected(BadHead::LineTooLong);
            }
        }
        if bytes.ends_with(b"\r\n\r\n") {
            return Scanned::Complete;
        }
        if self.seen >= MAX_HEAD {
            return Scanned::Rejected(BadHead::HeadTooLong);
        }
        Scanned::Needs(match bytes {
            [.., b'\r', b'\n', b'\r'] => 1,
            [.., b'\r', b'\n'] => 2,
            [.., b'\r'] => 3,
            _ => 4,
        })
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A CONNECT request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) target: Target,
    /// As far as asked for.
    pub(super) credentials: Option<Credentials>,
}

/// Reads a complete head.
pub(super) fn parse(head: &[u8], authenticated: bool) -> Result<Request, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(BadHead::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead::HeadTooLong),
        Err(httparse::Error::Version) => return Err(BadHead::Version),
        Err(_) => return Err(BadHead::Malformed),
    }
    if request.method != Some("CONNECT") {
        return Err(BadHead::Method);
    }
    let fields = || request.headers.iter();
    let named = |name: &'static str| fields().filter(move |f| f.name.eq_ignore_ascii_case(name));
    // RFC 9112 §3.2: exactly one in HTTP/1.1, and never two.
    let hosts = named("host").count();
    if hosts > 1 || hosts == 0 && request.version == Some(1) {
        return Err(BadHead::Malformed);
    }
    let target = authority(request.path.unwrap_or_default())?;
    let mut given = named("proxy-authorization");
    let credentials = match (given.next(), given.next()) {
        _ if !authenticated => None,
        (Some(one), None) => Some(basic(one.value).ok_or(BadHead::Credentials)?),
        _ => return Err(BadHead::Credentials),
    };
    Ok(Request { target, credentials })
}

/// `host:port`, the port mandatory and an IPv6 address in brackets (RFC 9112 §3.2.3).
fn authority(text: &str) -> Result<Target, BadHead> {
    let (host, port) = text.rsplit_once(':').ok_or(BadHead::Malformed)?;
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    if bare_v6 || port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadHead::Malformed);
    }
    let port = port.parse().ok().filter(|&port: &u16| port != 0).ok_or(BadHead::Malformed)?;
    match Host::parse(host.as_bytes()) {
        Ok(host) => Ok(Target { host, port }),
        Err(BadHost::Malformed) => Err(BadHead::Malformed),
        Err(BadHost::Numeric) => Err(BadHead::NumericName),
    }
}

/// The Basic scheme, its name in any case: user and password in base64, parted by the first colon.
fn basic(value: &[u8]) -> Option<Credentials> {
    let at = value.iter().position(|&byte| byte == b' ')?;
    let (scheme, encoded) = value.split_at_checked(at)?;
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let encoded = str::from_utf8(encoded).ok()?.trim_matches(' ');
    let decoded = Zeroizing::new(Base64::decode_vec(encoded).ok()?);
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let (user, rest) = decoded.split_at_checked(colon)?;
    let password = Zeroizing::new(rest.get(1..)?.to_vec());
    Some(Credentials { user: user.to_vec(), password })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result for `text` as far as it is read, and how far that is.
    fn scan(text: &[u8]) -> (Scanned, usize) {
        let mut scan = Scan::default();
        let mut taken = 0;
        loop {
            match scan.scan(&text[..taken]) {
                Scanned::Needs(more) if taken < text.len() => taken = text.len().min(taken + more),
                scanned => return (scanned, taken),
            }
        }
    }

    fn target(line: &str) -> Result<String, BadHead> {
        let head = format!("CONNECT {line} HTTP/1.1\r\nHost: x\r\n\r\n");
        parse(head.as_bytes(), false).map(|request| match request.target.host {
            Host::Address(address) => format!("{address} {}", request.target.port),
            Host::Name(name) => format!("{name} {}", request.target.port),
        })
    }

    #[test]
    fn a_head_is_read_to_its_blank_line_and_no_further() {
        let head = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
        let (scanned, taken) = scan(&[head, &b"\x16\x03\x01 tunnel"[..]].concat());
        assert_eq!((scanned, taken), (Scanned::Complete, head.len()));
        let no_fields = b"CONNECT a:1 HTTP/1.0\r\n\r\n";
        assert_eq!(scan(no_fields), (Scanned::Complete, no_fields.len()));
        let behind_a_line = b"\r\nCONNECT a:1 HTTP/1.0\r\n\r\n";
        assert_eq!(scan(behind_a_line), (Scanned::Complete, behind_a_line.len()));
        assert!(parse(behind_a_line, false).is_ok());
    }

    #[test]
    fn what_is_no_head_is_told_early() {
        let rejected = |text: &[u8]| match scan(text).0 {
            Scanned::Rejected(why) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(rejected(b"\x16\x03\x01\x02\x00"), BadHead::NotHttp);
        assert_eq!(rejected(b"\x05\x01\x00\x05"), BadHead::NotHttp);
        assert_eq!(rejected(b"\r\n\r\n"), BadHead::NotHttp);
        assert_eq!(rejected(b"CONNECT a:1 HTTP/1.1\n\n\n\n"), BadHead::Malformed);
        assert_eq!(rejected(b"CONNECT a:1 HTTP/1.1\rHost: a"), BadHead::Malformed);
        assert_eq!(rejected(b"CONNECT a:1 HTTP/1.1\r\nHost: \0 "), BadHead::Malformed);
        for begin in ["CONNECT ", "\r\nCONNECT "] {
            let long = [begin.as_bytes(), &[b'a'; MAX_REQUEST_LINE]].concat();
            assert_eq!(rejected(&long), BadHead::LineTooLong);
        }
        let line = b"CONNECT a:1 HTTP/1.1\r\n".to_vec();
        let long = [line, b"X: aaaaaaaa\r\n".repeat(MAX_HEAD / 13 + 1)].concat();
        assert_eq!(rejected(&long), BadHead::HeadTooLong);
    }

    #[test]
    fn authorities_are_strict() {
        assert_eq!(target("Origin.Example:443").as_deref(), Ok("origin.example 443"));
        assert_eq!(target("192.0.2.1:80").as_deref(), Ok("192.0.2.1 80"));
        assert_eq!(target("[2001:db8::1]:8080").as_deref(), Ok("2001:db8::1 8080"));
        for bad in [
            "a.example",
            "a.example:",
            "a.example:0",
            "a.example:65536",
            "a.example:+80",
            ":80",
            "2001:db8::1:80",
            "[2001:db8::1]",
            "[::1:80",
            "[192.0.2.1]:80",
            "user@a.example:80",
            "http://a.example:80",
            "a%2eexample:80",
            "/",
        ] {
            assert_eq!(target(bad), Err(BadHead::Malformed), "{bad}");
        }
        for lenient in ["2130706433:80", "0x7f.1:80", "127.1:80"] {
            assert_eq!(target(lenient), Err(BadHead::NumericName), "{lenient}");
        }
    }

    #[test]
    fn heads_that_are_wrong() {
        let wrong = |text: &str| parse(text.as_bytes(), false).map(drop);
        assert_eq!(wrong("CONNECT a:1 HTTP/1.0\r\n\r\n"), Ok(()));
        assert_eq!(wrong("CONNECT a:1 HTTP/1.1\r\n\r\n"), Err(BadHead::Malformed));
        let two_hosts = "CONNECT a:1 HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n";
        assert_eq!(wrong(two_hosts), Err(BadHead::Malformed));
        assert_eq!(wrong("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"), Err(BadHead::Method));
        assert_eq!(wrong("connect a:1 HTTP/1.1\r\nHost: a\r\n\r\n"), Err(BadHead::Method));
        assert_eq!(wrong("PRI * HTTP/2.0\r\n\r\n"), Err(BadHead::Version));
        for field in ["Host : a", " folded", "Host: a\r\n folded", "no colon", "X: a\u{1}b"] {
            let text = format!("CONNECT a:1 HTTP/1.1\r\n{field}\r\n\r\n");
            assert_eq!(wrong(&text), Err(BadHead::Malformed), "{field}");
        }
        let many = format!("CONNECT a:1 HTTP/1.0\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(wrong(&many), Err(BadHead::HeadTooLong));
    }

    #[test]
    fn credentials_are_basic() {
        let given = |fields: &str| {
            let head = format!("CONNECT a:1 HTTP/1.0\r\n{fields}\r\n");
            let credentials = parse(head.as_bytes(), true)?.credentials.unwrap();
            let password = credentials.password.to_vec();
            Ok((String::from_utf8(credentials.user).unwrap(), String::from_utf8(password).unwrap()))
        };
        let both = |user: &str, password: &str| Ok((user.to_owned(), password.to_owned()));
        // RFC 7617 §2.
        let example = "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n";
        assert_eq!(given(example), both("Aladdin", "open sesame"));
        assert_eq!(given("proxy-authorization: bASIC  OmE6Yg== \r\n"), both("", "a:b"));
        for bad in [
            "",
            "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n",
            "Proxy-Authorization: Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n",
            "Proxy-Authorization: Basic\r\n",
            "Proxy-Authorization: Basic QWxhZGRpbg==\r\n",
            "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=\r\n",
            "Proxy-Authorization: Basic Og==\r\nProxy-Authorization: Basic Og==\r\n",
        ] {
            assert_eq!(given(bad), Err(BadHead::Credentials), "{bad}");
        }
    }
}
