//! The hash by which ports spread flows over their queues (receive side scaling), with a key that gives both
//! directions of a flow the same hash.
//!
//! Invariant: what [`of_tuple`] says of a 4-tuple is what a port says of its packets that was given
//! [`key`] and hashes addresses and ports of TCP.

use crate::tcp::Tuple;
use core::net::IpAddr;

/// The key repeats these two octets. They are known to spread well, and their sixteen rotations are
/// independent: no bit of what is hashed is lost.
const REPEATED: u16 = 0x6d5a;

/// The key to give to ports that want one of `N` octets; an even number, 40 or 52 with most.
#[must_use]
pub const fn key<const N: usize>() -> [u8; N] {
    let mut key = [0; N];
    let mut at = 0;
    while at < N {
        let [even, odd] = REPEATED.to_be_bytes();
        key[at] = if at % 2 == 0 { even } else { odd };
        at += 1;
    }
    key
}

/// The hash of a flow, in either direction.
#[must_use]
pub fn of_tuple(tuple: &Tuple) -> u32 {
    let addresses = match (tuple.local_addr, tuple.remote_addr) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => local.to_bits() ^ remote.to_bits(),
        (local, remote) => folded(local) ^ folded(remote),
    };
    of_words(addresses ^ u32::from(tuple.local_port) ^ u32::from(tuple.remote_port))
}

/// The hash of all packets between two hosts whose ports are not looked at, fragments among them.
#[must_use]
pub fn of_addresses(src: IpAddr, dst: IpAddr) -> u32 {
    of_words(folded(src) ^ folded(dst))
}

/// The words of an address on top of each other.
fn folded(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let half = (bits >> 64) as u64 ^ bits as u64;
            (half >> 32) as u32 ^ half as u32
        }
    }
}

/// The hash of what has been folded to two words. Each bit that is set contributes the 32 bits of the key
/// that begin at its position. The key repeats after 16 bits, so bits 16 apart contribute the same, and
/// all words of the input may be laid on top of each other first: their sum is what counts.
fn of_words(words: u32) -> u32 {
    let [high, low] = ((words >> 16) as u16 ^ words as u16).to_be_bytes();
    // A window of 32 bits is 16 bits, twice.
    let half = u32::from(HIGH[usize::from(high)] ^ LOW[usize::from(low)]);
    half << 16 | half
}

static HIGH: [u16; 256] = table(8);
static LOW: [u16; 256] = table(0);

/// What each value of the octet that stands `shift` bits from the right contributes.
const fn table(shift: u32) -> [u16; 256] {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        let word = (value as u16) << shift;
        let mut bit = 0;
        while bit < 16 {
            if word & 0x8000 >> bit != 0 {
                table[value] ^= REPEATED.rotate_left(bit);
            }
            bit += 1;
        }
        value += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// The algorithm as it is published, bit by bit.
    fn bit_by_bit(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
        let mut hash = 0;
        for at in (0..input.len() * 8).filter(|at| bit(input, *at) == 1) {
            hash ^= (at..at + 32).fold(0, |window, at| window << 1 | u32::from(bit(key, at)));
        }
        hash
    }

    /// What a port hashes of a packet from `src` to `dst`.
    fn input(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
        let octets = |addr: IpAddr| match addr {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()];
        [octets(src.ip()), octets(dst.ip()), ports.concat()].concat()
    }

    fn tuple(local: SocketAddr, remote: SocketAddr) -> Tuple {
        Tuple {
            local_addr: local.ip(),
            remote_addr: remote.ip(),
            local_port: local.port(),
            remote_port: remote.port(),
        }
    }

    /// Microsoft, "Verifying the RSS hash calculation": destination, source, hash with ports.
    const VERIFICATION: [(&str, &str, u32); 8] = [
        ("161.142.100.80:1766", "66.9.149.187:2794", 0x51cc_c178),
        ("65.69.140.83:4739", "199.92.111.2:14230", 0xc626_b0ea),
        ("12.22.207.184:38024", "24.19.198.95:12898", 0x5c2b_394a),
        ("209.142.163.6:2217", "38.27.205.30:48228", 0xafc7_327f),
        ("202.188.127.2:1303", "153.39.163.191:44251", 0x10e8_28a2),
        ("[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x4020_7d3d),
        ("[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0xdde5_1bbf),
        (
            "[fe80::200:f8ff:fe21:67cf]:38024",
            "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
            0x02d1_feef,
        ),
    ];

    const VERIFICATION_KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn the_reference_of_these_tests_passes_the_published_verification() {
        for (dst, src, hash) in VERIFICATION {
            let input = input(src.parse().unwrap(), dst.parse().unwrap());
            assert_eq!(bit_by_bit(&VERIFICATION_KEY, &input), hash, "{src} to {dst}");
        }
    }

    #[test]
    fn keys_of_all_lengths_repeat_the_two_octets() {
        assert_eq!(key::<6>(), [0x6d, 0x5a, 0x6d, 0x5a, 0x6d, 0x5a]);
        assert_eq!(key::<52>()[..40], key::<40>());
    }

    /// Flows of which every octet counts in the home are spread whatever differs between them.
    #[test]
    fn no_bit_of_what_is_hashed_is_lost() {
        let mut seen = std::collections::HashSet::new();
        assert!((0..=u16::MAX).all(|word| seen.insert(of_words(u32::from(word)))));
    }

    fn address() -> impl Strategy<Value = [IpAddr; 2]> {
        prop_oneof![
            any::<[[u8; 4]; 2]>().prop_map(|both| both.map(IpAddr::from)),
            any::<[[u8; 16]; 2]>().prop_map(|both| both.map(IpAddr::from)),
        ]
    }

    proptest! {
        #[test]
        fn the_hash_is_what_the_published_algorithm_gives_in_both_directions(
            addresses in address(),
            ports in any::<[u16; 2]>(),
        ) {
            let [a, b] = [0, 1].map(|end| SocketAddr::new(addresses[end], ports[end]));
            let hash = of_tuple(&tuple(a, b));
            prop_assert_eq!(hash, bit_by_bit(&key::<40>(), &input(a, b)));
            prop_assert_eq!(hash, bit_by_bit(&key::<40>(), &input(b, a)));
            prop_assert_eq!(hash, of_tuple(&tuple(b, a)));
        }
    }
}
