//! What a requested address really leads to: IPv4 inside IPv6, in every form that some router,
//! translator or kernel would unwrap behind our back.
//!
//! Invariant: a policy that judges [`Destination::target`] and every address of
//! [`Destination::embedded`] has judged every host the packets could reach.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A requested address, normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// What to connect to. An IPv4-mapped (RFC 4291 §2.5.5.2) or well-known-prefix NAT64 address
    /// (RFC 6052 §2.1) has become IPv4.
    pub target: IpAddr,
    /// IPv4 addresses that tunnels and translators may deliver to instead; at most four.
    embedded: [Option<Ipv4Addr>; 4],
}

impl Destination {
    /// Normalises `requested`.
    #[must_use]
    pub fn new(requested: IpAddr) -> Self {
        match requested {
            IpAddr::V4(_) => Self { target: requested, embedded: [None; 4] },
            IpAddr::V6(v6) => match same_host_in_v4(v6) {
                Some(v4) => Self { target: IpAddr::V4(v4), embedded: [None; 4] },
                None => Self { target: requested, embedded: embedded(v6) },
            },
        }
    }

    /// The hidden IPv4 addresses, which a policy must judge too.
    pub fn embedded(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.embedded.iter().flatten().copied()
    }
}

/// The IPv4 host that `v6` merely spells differently.
fn same_host_in_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let is_mapped = [a, b, c, d, e, f] == [0, 0, 0, 0, 0, 0xffff];
    let is_nat64 = [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0];
    (is_mapped || is_nat64).then(|| joined(high, low))
}

/// IPv4 addresses inside `v6`, by every format whose prefix matches.
fn embedded(v6: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let last = joined(high, low);
    match (a, b) {
        // IPv4-compatible, deprecated (RFC 4291 §2.5.5.1).
        (0, 0) if [c, d, e, f] == [0; 4] => [Some(last), None, None, None],
        // IPv4-translated, of stateless translators (RFC 2765 §2.1).
        (0, 0) if [c, d, e, f] == [0, 0, 0xffff, 0] => [Some(last), None, None, None],
        // 6to4 (RFC 3056 §2), possibly with ISATAP behind it.
        (0x2002, _) => [Some(joined(b, c)), isatap(e, f, last), None, None],
        // Teredo (RFC 4380 §4): the server, and the client's address with its bits inverted.
        (0x2001, 0) => [Some(joined(c, d)), Some(joined(!high, !low)), None, None],
        // NAT64 for local use (RFC 8215): the operator's prefix length is unknown, so read the
        // address at every length of RFC 6052 §2.2 that fits behind 48 bits.
        (0x64, 0xff9b) => {
            let [_, _, _, _, _, _, b6, b7, _, b9, b10, b11, b12, ..] = v6.octets();
            [
                Some(Ipv4Addr::new(b6, b7, b9, b10)),
                Some(Ipv4Addr::new(b7, b9, b10, b11)),
                Some(Ipv4Addr::new(b9, b10, b11, b12)),
                Some(last),
            ]
        }
        _ => [isatap(e, f, last), None, None, None],
    }
}

/// ISATAP interface identifiers (RFC 5214 §6.1), whatever the prefix; the universal bit may be set.
fn isatap(e: u16, f: u16, last: Ipv4Addr) -> Option<Ipv4Addr> {
    (e & !0x0200 == 0 && f == 0x5efe).then_some(last)
}

fn joined(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(text: &str) -> (String, Vec<String>) {
        let destination = Destination::new(text.parse().unwrap());
        let embedded = destination.embedded().map(|v4| v4.to_string()).collect();
        (destination.target.to_string(), embedded)
    }

    #[test]
    fn other_spellings_of_ipv4_become_ipv4() {
        for text in ["10.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a00:1"] {
            assert_eq!(new(text), ("10.0.0.1".to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn tunnels_and_translators_show_what_is_inside() {
        for (text, inside) in [
            ("::10.0.0.1", vec!["10.0.0.1"]),
            ("::1", vec!["0.0.0.1"]),
            ("::ffff:0:10.0.0.1", vec!["10.0.0.1"]),
            ("2002:a00:1::1", vec!["10.0.0.1"]),
            ("2002:808:808::5efe:127.0.0.1", vec!["8.8.8.8", "127.0.0.1"]),
            ("2001:0:808:808:0:0:f5ff:fffe", vec!["8.8.8.8", "10.0.0.1"]),
            ("2a00::5efe:10.0.0.1", vec!["10.0.0.1"]),
            ("2a00::200:5efe:10.0.0.1", vec!["10.0.0.1"]),
            ("2a00::1", vec![]),
        ] {
            assert_eq!(
                new(text),
                (
                    text.parse::<Ipv6Addr>().unwrap().to_string(),
                    inside.into_iter().map(str::to_owned).collect()
                ),
                "{text}"
            );
        }
    }

    /// RFC 6052 §2.4: 192.0.2.33 behind prefixes of 48, 56, 64 and 96 bits.
    #[test]
    fn local_nat64_is_read_at_every_prefix_length() {
        for text in [
            "64:ff9b:1:c000:2:2100::",
            "64:ff9b:1:c0:0:221::",
            "64:ff9b:1:0:c0:2:2100:0",
            "64:ff9b:1::192.0.2.33",
        ] {
            let (target, inside) = new(text);
            assert!(inside.iter().any(|v4| v4 == "192.0.2.33"), "{text}: {inside:?}");
            assert_ne!(target, "192.0.2.33");
        }
    }
}
