//! What follows from the keys of a connection: tokens, initial data sequence numbers, and the HMACs
//! that authenticate `MP_JOIN` and `ADD_ADDR` (RFC 8684 §3.1, §3.2, §3.4.1; RFC 6824 for SHA-1).
//!
//! Keys are numbers in host order here and big-endian in every hash. Invariant: whoever holds an
//! [`HmacVerified`] compared an HMAC in constant time and found it right.

use crate::seq::DataSeq;
use crate::wire::Version;
use core::fmt;
use core::hint::black_box;
use core::net::IpAddr;
use hmac::digest::{Key, Output};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Both keys of a connection. `Debug` does not show them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyPair {
    /// Ours.
    pub local: u64,
    /// The peer's.
    pub remote: u64,
}

impl KeyPair {
    /// The HMAC we send in an `MP_JOIN`.
    #[must_use]
    pub fn sent_join_hmac(
        &self,
        version: Version,
        local_nonce: u32,
        remote_nonce: u32,
    ) -> JoinHmac {
        join_hmac(version, self.local, self.remote, local_nonce, remote_nonce)
    }

    /// The HMAC we expect in the peer's `MP_JOIN`.
    #[must_use]
    pub fn expected_join_hmac(
        &self,
        version: Version,
        local_nonce: u32,
        remote_nonce: u32,
    ) -> JoinHmac {
        join_hmac(version, self.remote, self.local, remote_nonce, local_nonce)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

/// A key of ours with what follows from it, which takes one hash of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OwnKey {
    /// The key.
    pub key: u64,
    /// See [`token`].
    pub token: u32,
    /// See [`idsn`].
    pub idsn: DataSeq,
}

impl OwnKey {
    /// What follows from `key`.
    #[must_use]
    pub fn new(version: Version, key: u64) -> Self {
        let (token, idsn) = token_and_idsn(version, key);
        Self { key, token, idsn }
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnKey").finish_non_exhaustive()
    }
}

/// The token that names the connection of `key` in an `MP_JOIN`: the most significant 32 bits of
/// the key's hash.
#[must_use]
pub fn token(version: Version, key: u64) -> u32 {
    let input = key.to_be_bytes();
    u32::from_be_bytes(match version {
        Version::V0 => leftmost(&Sha1::digest(input)),
        Version::V1 => leftmost(&Sha256::digest(input)),
    })
}

/// The initial data sequence number of the side that owns `key`: the least significant 64 bits of
/// the key's hash. The first byte of data is one above it.
#[must_use]
pub fn idsn(version: Version, key: u64) -> DataSeq {
    let input = key.to_be_bytes();
    DataSeq(u64::from_be_bytes(match version {
        Version::V0 => rightmost(&Sha1::digest(input)),
        Version::V1 => rightmost(&Sha256::digest(input)),
    }))
}

/// Both [`token`] and [`idsn`], of one hash.
#[must_use]
pub fn token_and_idsn(version: Version, key: u64) -> (u32, DataSeq) {
    let input = key.to_be_bytes();
    let ends = |hash: &[u8]| {
        (u32::from_be_bytes(leftmost(hash)), DataSeq(u64::from_be_bytes(rightmost(hash))))
    };
    match version {
        Version::V0 => ends(&Sha1::digest(input)),
        Version::V1 => ends(&Sha256::digest(input)),
    }
}

/// The HMAC of an `MP_JOIN`, as far as it can be sent.
#[derive(Clone, Copy)]
pub struct JoinHmac([u8; 20]);

impl JoinHmac {
    /// The left-most 64 bits: the field of the SYN/ACK.
    #[must_use]
    pub fn truncated64(&self) -> u64 {
        u64::from_be_bytes(leftmost(&self.0))
    }

    /// The left-most 160 bits: the field of the third ACK.
    #[must_use]
    pub fn full(&self) -> [u8; 20] {
        self.0
    }
}

impl fmt::Debug for JoinHmac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinHmac").finish_non_exhaustive()
    }
}

/// The HMAC that the host with `local_key` and `local_nonce` sends: keyed with both keys, over both
/// nonces, its own first. For what the peer sends, swap local and remote.
#[must_use]
pub fn join_hmac(
    version: Version,
    local_key: u64,
    remote_key: u64,
    local_nonce: u32,
    remote_nonce: u32,
) -> JoinHmac {
    let nonces = [local_nonce.to_be_bytes(), remote_nonce.to_be_bytes()];
    let message: &[&[u8]] = &[nonces.as_flattened()];
    JoinHmac(match version {
        Version::V0 => leftmost(&hmac::<Hmac<Sha1>>(local_key, remote_key, message)),
        Version::V1 => leftmost(&hmac::<Hmac<Sha256>>(local_key, remote_key, message)),
    })
}

/// An HMAC as received in an `MP_JOIN`.
#[derive(Clone, Copy, Debug)]
pub enum ReceivedHmac<'a> {
    /// From a SYN/ACK.
    Truncated64(u64),
    /// From a third ACK.
    Full(&'a [u8; 20]),
}

/// Proof that a peer showed the right HMAC; only [`verify_join`] makes one.
#[derive(Debug)]
#[must_use]
pub struct HmacVerified(());

/// Compares in constant time. `expected` is [`join_hmac`] from the peer's point of view.
pub fn verify_join(expected: &JoinHmac, received: ReceivedHmac<'_>) -> Option<HmacVerified> {
    let equal = match received {
        ReceivedHmac::Truncated64(hmac) => black_box(expected.truncated64() ^ hmac) == 0,
        ReceivedHmac::Full(hmac) => {
            let pairs = expected.0.iter().zip(hmac);
            pairs.fold(0, |difference, (a, b)| black_box(difference | a ^ b)) == 0
        }
    };
    equal.then_some(HmacVerified(()))
}

/// The HMAC of an `ADD_ADDR` (RFC 8684 §3.4.1): the right-most 64 bits over id, address and port,
/// where an absent port counts as 0. The sender of the option is the host with `sender_key`.
/// Version 0 announces addresses without one; asked for it, this uses its hash.
#[must_use]
pub fn add_addr_hmac(
    version: Version,
    sender_key: u64,
    receiver_key: u64,
    address_id: u8,
    addr: IpAddr,
    port: Option<u16>,
) -> u64 {
    let port = port.unwrap_or(0).to_be_bytes();
    let (v4, v6);
    let addr: &[u8] = match addr {
        IpAddr::V4(addr) => {
            v4 = addr.octets();
            &v4
        }
        IpAddr::V6(addr) => {
            v6 = addr.octets();
            &v6
        }
    };
    let message: &[&[u8]] = &[&[address_id], addr, &port];
    u64::from_be_bytes(match version {
        Version::V0 => rightmost(&hmac::<Hmac<Sha1>>(sender_key, receiver_key, message)),
        Version::V1 => rightmost(&hmac::<Hmac<Sha256>>(sender_key, receiver_key, message)),
    })
}

fn hmac<M: Mac + KeyInit>(first_key: u64, second_key: u64, message: &[&[u8]]) -> Output<M> {
    // HMAC pads short keys with zeros to the block size: doing that here leaves nothing to fail.
    let mut key = Key::<M>::default();
    let keys = [first_key.to_be_bytes(), second_key.to_be_bytes()];
    for (to, from) in key.iter_mut().zip(keys.as_flattened()) {
        *to = *from;
    }
    let mut mac = <M as KeyInit>::new(&key);
    for part in message {
        mac.update(part);
    }
    mac.finalize().into_bytes()
}

/// The first `N` bytes; every hash here is at least 20 bytes long.
fn leftmost<const N: usize>(hash: &[u8]) -> [u8; N] {
    hash.first_chunk().copied().unwrap_or([0; N])
}

/// The last `N` bytes.
fn rightmost<const N: usize>(hash: &[u8]) -> [u8; N] {
    hash.last_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use Version::{V0, V1};

    /// Keys and nonces of one connection and what must follow from them, per version.
    struct Vector {
        version: Version,
        keys: [u64; 2],
        tokens: [u32; 2],
        idsns: [u64; 2],
        nonces: [u32; 2],
        /// Of the SYN/ACK, which B sends.
        hmac_b: u64,
        /// Of the third ACK, which A sends.
        hmac_a: &'static str,
    }

    /// The first is from packets of a Linux 6.18 kernel; its version 0 twin and the other two were
    /// computed by independent code.
    const VECTORS: [Vector; 4] = [
        Vector {
            version: V1,
            keys: [0x973f_b0aa_73f5_8dcc, 0x61bc_cd9c_a864_9f48],
            tokens: [0xd6fc_8484, 0xa484_4514],
            idsns: [0xe29c_6dd5_14ca_05b9, 0x2cf1_1f49_c981_8257],
            nonces: [0xcd27_dfa9, 0xbea2_e80b],
            hmac_b: 0x8390_8e25_270f_91ef,
            hmac_a: "04b3b8dc23a0abe98e94854be72d818e09fb79c4",
        },
        Vector {
            version: V0,
            keys: [0x973f_b0aa_73f5_8dcc, 0x61bc_cd9c_a864_9f48],
            tokens: [0x9cd1_05c3, 0x7bde_81dc],
            idsns: [0x4855_e6cc_5552_d9c1, 0xe501_e088_db6d_5ef4],
            nonces: [0xcd27_dfa9, 0xbea2_e80b],
            hmac_b: 0x08fd_64db_5e1a_4b53,
            hmac_a: "71d2561fca5c2a92dc335f84279c3d9441dee63c",
        },
        Vector {
            version: V1,
            keys: [0x0102_0304_0506_0708, 0x1112_1314_1516_1718],
            tokens: [0x6684_0dda, 0xccad_45ac],
            idsns: [0xf5a1_01d3_d29d_6f72, 0x535b_eea3_8e08_7c8e],
            nonces: [0x0102_0304, 0x1112_1314],
            hmac_b: 0x65b1_3efb_0324_66b9,
            hmac_a: "ebe1904f60783da390651bcd4a4896b78d9e26fd",
        },
        Vector {
            version: V0,
            keys: [0x0102_0304_0506_0708, 0x1112_1314_1516_1718],
            tokens: [0xdd57_83bc, 0x3383_d918],
            idsns: [0x3a95_ed6e_4ebb_4ad5, 0x9e1a_e42f_7026_27a9],
            nonces: [0x0102_0304, 0x1112_1314],
            hmac_b: 0xdd7e_d55c_0c08_c676,
            hmac_a: "4ae89d0f6b277c65db82aae81f80477c6f69acf3",
        },
    ];

    fn hex(text: &str) -> [u8; 20] {
        core::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    }

    #[test]
    fn tokens_and_idsns_match_the_vectors() {
        for vector in VECTORS {
            assert_eq!(vector.keys.map(|key| token(vector.version, key)), vector.tokens);
            assert_eq!(vector.keys.map(|key| idsn(vector.version, key).0), vector.idsns);
            for key in vector.keys {
                let both = (token(vector.version, key), idsn(vector.version, key));
                assert_eq!(token_and_idsn(vector.version, key), both);
                let own = OwnKey::new(vector.version, key);
                assert_eq!((own.key, (own.token, own.idsn)), (key, both));
            }
        }
    }

    #[test]
    fn join_hmacs_match_the_vectors_from_both_ends() {
        for Vector { version, keys, nonces, hmac_b, hmac_a, .. } in VECTORS {
            let a = KeyPair { local: keys[0], remote: keys[1] };
            let b = KeyPair { local: keys[1], remote: keys[0] };
            let [nonce_a, nonce_b] = nonces;
            assert_eq!(b.sent_join_hmac(version, nonce_b, nonce_a).truncated64(), hmac_b);
            assert_eq!(a.expected_join_hmac(version, nonce_a, nonce_b).truncated64(), hmac_b);
            assert_eq!(a.sent_join_hmac(version, nonce_a, nonce_b).full(), hex(hmac_a));
            assert_eq!(b.expected_join_hmac(version, nonce_b, nonce_a).full(), hex(hmac_a));
        }
    }

    #[test]
    fn every_single_bit_of_a_join_hmac_matters() {
        for Vector { version, keys, nonces, hmac_b, hmac_a, .. } in VECTORS {
            let third_ack = join_hmac(version, keys[0], keys[1], nonces[0], nonces[1]);
            let syn_ack = join_hmac(version, keys[1], keys[0], nonces[1], nonces[0]);
            assert!(verify_join(&syn_ack, ReceivedHmac::Truncated64(hmac_b)).is_some());
            assert!(verify_join(&third_ack, ReceivedHmac::Full(&hex(hmac_a))).is_some());
            for bit in 0..64 {
                let wrong = ReceivedHmac::Truncated64(hmac_b ^ 1 << bit);
                assert!(verify_join(&syn_ack, wrong).is_none());
            }
            for bit in 0..160 {
                let mut wrong = hex(hmac_a);
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(verify_join(&third_ack, ReceivedHmac::Full(&wrong)).is_none());
            }
        }
    }

    #[test]
    fn add_addr_hmacs_match_the_vectors() {
        let [a, b] = VECTORS[2].keys;
        let v4 = "192.0.2.1".parse().unwrap();
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!(add_addr_hmac(V1, a, b, 3, v4, None), 0x485b_edf7_0475_26e4);
        assert_eq!(add_addr_hmac(V1, a, b, 3, v4, Some(0)), 0x485b_edf7_0475_26e4);
        assert_eq!(add_addr_hmac(V1, a, b, 3, v4, Some(8080)), 0xe41f_c399_d809_7c83);
        assert_eq!(add_addr_hmac(V1, a, b, 5, v6, None), 0xc861_db63_200c_1a82);
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let keys = KeyPair { local: 0x1234_5678, remote: 0x9abc_def0 };
        assert_eq!(std::format!("{keys:?}"), "KeyPair { .. }");
        assert_eq!(std::format!("{:?}", OwnKey::new(V1, 1)), "OwnKey { .. }");
        let hmac = keys.sent_join_hmac(V1, 1, 2);
        assert_eq!(std::format!("{hmac:?}"), "JoinHmac(..)");
    }
}
