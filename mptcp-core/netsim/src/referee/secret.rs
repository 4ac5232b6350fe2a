//! What a host must compute from keys, numbers and data: tokens, HMACs and DSS checksums of both versions of
//! MPTCP, on their own so that no error is shared with the host that is judged.

use crate::packet::checksum;
use core::net::IpAddr;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A key and what it stands for: SHA-256 gives the token and the initial DSN (RFC 8684 §3.1), in version 0 SHA-1
/// (RFC 6824 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub(super) version: u8,
    pub(super) key: u64,
    pub(super) token: u32,
    pub(super) idsn: u64,
}

impl Key {
    pub(super) fn new(version: u8, key: u64) -> Self {
        let octets = key.to_be_bytes();
        let hash = match version {
            0 => Sha1::digest(octets).to_vec(),
            _ => Sha256::digest(octets).to_vec(),
        };
        let token = hash.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let idsn = hash.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Self { version, key, token, idsn }
    }
}

/// Keys of a connection as one end sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KeyPair {
    pub(super) version: u8,
    pub(super) local: u64,
    pub(super) remote: u64,
}

impl KeyPair {
    /// What the local end shows in MP_JOIN (§3.2): its own key and nonce come first.
    pub(super) fn join(&self, local_nonce: u32, remote_nonce: u32) -> Vec<u8> {
        self.sign(&[&local_nonce.to_be_bytes(), &remote_nonce.to_be_bytes()])
    }

    /// What the local end shows in ADD_ADDR (§3.4.1): the last 64 bits. A port that is left out
    /// counts as zero.
    pub(super) fn address(&self, id: u8, address: IpAddr, port: Option<u16>) -> u64 {
        let (v4, v6);
        let address: &[u8] = match address {
            IpAddr::V4(address) => {
                v4 = address.octets();
                &v4
            }
            IpAddr::V6(address) => {
                v6 = address.octets();
                &v6
            }
        };
        let hash = self.sign(&[&[id], address, &port.unwrap_or(0).to_be_bytes()]);
        hash.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    fn sign(&self, message: &[&[u8]]) -> Vec<u8> {
        let key = [self.local.to_be_bytes(), self.remote.to_be_bytes()].concat();
        let message = message.concat();
        match self.version {
            0 => {
                let mac = Hmac::<Sha1>::new_from_slice(&key).expect("a key of any length will do");
                mac.chain_update(message).finalize().into_bytes().to_vec()
            }
            _ => {
                let mac =
                    Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length will do");
                mac.chain_update(message).finalize().into_bytes().to_vec()
            }
        }
    }
}

/// The DSS checksum (§3.3.1): over the mapping with all 64 bits of the DSN, and the data it covers.
pub(super) fn dss_checksum(dsn: u64, ssn: u32, len: u16, data: &[u8]) -> u16 {
    let mut header = [0; 16];
    header[..8].copy_from_slice(&dsn.to_be_bytes());
    header[8..12].copy_from_slice(&ssn.to_be_bytes());
    header[12..14].copy_from_slice(&len.to_be_bytes());
    !checksum::fold(checksum::sum(&header) + checksum::sum(data))
}
