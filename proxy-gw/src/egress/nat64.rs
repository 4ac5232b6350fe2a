//! IPv4 destinations by way of a translator (RFC 6052, RFC 6146).

use core::net::{Ipv4Addr, Ipv6Addr};
use ipnet::Ipv6Net;

/// The well-known prefix, which no address may be put into that is not global (RFC 6052 §3.1).
const WELL_KNOWN: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

/// `v4` behind `prefix`, whose length is one of RFC 6052 §2.2; `None` where it must not be translated.
/// Octet 8 stays zero whatever the length.
#[must_use]
pub fn translated(v4: Ipv4Addr, prefix: Ipv6Net) -> Option<Ipv6Addr> {
    let private = v4.is_private() || v4.is_link_local() || v4.is_loopback() || is_shared(v4);
    if private && prefix.network() == WELL_KNOWN {
        return None;
    }
    let mut octets = prefix.network().octets();
    let mut at = usize::from(prefix.prefix_len() / 8);
    for octet in v4.octets() {
        if at == 8 {
            at += 1;
        }
        *octets.get_mut(at)? = octet;
        at += 1;
    }
    Some(Ipv6Addr::from(octets))
}

/// The IPv4 address that a translator with this prefix reads in `v6`, whatever octet 8 and what is behind it
/// are; `None` where it is not the translator's.
pub(super) fn inside(v6: Ipv6Addr, prefix: Ipv6Net) -> Option<Ipv4Addr> {
    if !prefix.contains(&v6) {
        return None;
    }
    let numbered = v6.octets().into_iter().enumerate().skip(usize::from(prefix.prefix_len() / 8));
    let mut octets = numbered.filter(|(at, _)| *at != 8).map(|(_, octet)| octet);
    Some(Ipv4Addr::new(octets.next()?, octets.next()?, octets.next()?, octets.next()?))
}

/// RFC 6598.
fn is_shared(v4: Ipv4Addr) -> bool {
    let [a, b, ..] = v4.octets();
    a == 100 && b & 0xc0 == 64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(v4: &str, prefix: &str) -> Option<String> {
        let translated = translated(v4.parse().unwrap(), prefix.parse().unwrap());
        translated.map(|address| address.to_string())
    }

    /// The table of RFC 6052 §2.4.
    #[test]
    fn every_prefix_length_of_the_rfc() {
        for (prefix, expected) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
            ("64:ff9b::/96", "64:ff9b::c000:221"),
        ] {
            assert_eq!(at("192.0.2.33", prefix).as_deref(), Some(expected), "{prefix}");
        }
    }

    #[test]
    fn what_is_put_in_is_read_again() {
        let v4: Ipv4Addr = "192.0.2.33".parse().unwrap();
        for prefix in [
            "2001:db8::/32",
            "2001:db8:100::/40",
            "2001:db8:122::/48",
            "2001:db8:122:300::/56",
            "2001:db8:122:344::/64",
            "2001:db8:122:344::/96",
        ] {
            let prefix: Ipv6Net = prefix.parse().unwrap();
            let v6 = translated(v4, prefix).unwrap();
            assert_eq!(inside(v6, prefix), Some(v4), "{prefix}");
        }
        let elsewhere = "2001:db9::1".parse().unwrap();
        assert_eq!(inside(elsewhere, "2001:db8::/32".parse().unwrap()), None);
    }

    #[test]
    fn private_addresses_do_not_go_into_the_well_known_prefix() {
        for private in ["10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "169.254.0.1"] {
            assert_eq!(at(private, "64:ff9b::/96"), None, "{private}");
            assert!(at(private, "2001:db8::/96").is_some());
        }
    }
}
