//! Host names as a SOCKS client may send them and `[hosts]` may list them.
//!
//! Invariant: a [`HostName`] is lower-case, without a trailing dot, and can never be mistaken for
//! an address by any parser, however lenient: its last label is not a number.

use core::fmt;

/// A valid host name (RFC 1123 §2.1; underscores are tolerated), 1 to 253 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

/// Why a text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// Empty, too long, an empty or too long label, or a byte that no host name has.
    Malformed,
    /// Its last label is a number (`2130706433`, `0x7f.1`): lenient parsers read it as an address.
    Numeric,
}

impl HostName {
    /// Checks and normalises `name`; one trailing dot is dropped.
    ///
    /// # Errors
    /// See [`BadName`].
    pub fn new(name: &[u8]) -> Result<Self, BadName> {
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_empty() || name.len() > 253 {
            return Err(BadName::Malformed);
        }
        if !name.split(|byte| *byte == b'.').all(is_label) {
            return Err(BadName::Malformed);
        }
        if name.rsplit(|byte| *byte == b'.').next().is_none_or(is_number) {
            return Err(BadName::Numeric);
        }
        let text = str::from_utf8(name).map_err(|_| BadName::Malformed)?;
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// The normalised text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &[u8]) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&label.len())
        && label.iter().all(inner)
        && label.first() != Some(&b'-')
        && label.last() != Some(&b'-')
}

/// Decimal, or hexadecimal as `inet_aton` takes it.
fn is_number(label: &[u8]) -> bool {
    let hex = label.strip_prefix(b"0x").or_else(|| label.strip_prefix(b"0X"));
    match hex {
        Some(digits) => digits.iter().all(u8::is_ascii_hexdigit),
        None => label.iter().all(u8::is_ascii_digit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        let name = HostName::new(b"Origin.EXAMPLE.").unwrap();
        assert_eq!(name.as_str(), "origin.example");
        assert_eq!(HostName::new(b"a_b.x-1.c0m").unwrap().as_str(), "a_b.x-1.c0m");
        assert_eq!(HostName::new(b"3com.7x").unwrap().as_str(), "3com.7x");
    }

    #[test]
    fn malformed_names_are_refused() {
        let long_label = [b'a'; 64];
        let long_name = [b"abcdefg.".as_slice(); 32].concat();
        let bad: [&[u8]; 12] = [
            b"",
            b".",
            b"a..b",
            b".a",
            b"a.b..",
            b"-a",
            b"a-.b",
            b"a b",
            b"a\0b",
            b"\xff.b",
            &long_label,
            &long_name,
        ];
        for name in bad {
            assert_eq!(HostName::new(name), Err(BadName::Malformed), "{name:?}");
        }
    }

    #[test]
    fn what_a_lenient_parser_takes_for_an_address_is_no_name() {
        for name in
            ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "0x7F000001", "1.0x", "10.0.0.1."]
        {
            assert_eq!(HostName::new(name.as_bytes()), Err(BadName::Numeric), "{name}");
        }
    }
}
