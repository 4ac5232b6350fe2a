//! What clients hear (RFC 8803 §6.2.3 to §6.2.8).

use super::message::MAX_MESSAGE_LEN;
use super::{HEADER_LEN, MAGIC, VERSION, WORD, option, tlv};
use crate::front_end::Failure;

/// Error codes (RFC 8803 §6.2.8).
mod code {
    pub(super) const UNSUPPORTED_VERSION: u8 = 0;
    pub(super) const MALFORMED_MESSAGE: u8 = 1;
    pub(super) const UNSUPPORTED_MESSAGE: u8 = 2;
    pub(super) const MISSING_COOKIE: u8 = 3;
    pub(super) const NOT_AUTHORIZED: u8 = 32;
    pub(super) const UNSUPPORTED_TCP_OPTION: u8 = 33;
    pub(super) const RESOURCE_EXCEEDED: u8 = 64;
    pub(super) const NETWORK_FAILURE: u8 = 65;
    pub(super) const CONNECTION_RESET: u8 = 96;
    pub(super) const DESTINATION_UNREACHABLE: u8 = 97;
}

/// Wait as long as the RFC says: half a minute at least.
const DEFAULT_DELAY: u8 = 0;

/// Options that a client may ask for in the SYN to its server (RFC 8803 §7).
const SUPPORTED: [u8; 4] =
    [option::SACK_PERMITTED, option::TIMESTAMPS, option::MPTCP, option::FAST_OPEN];

/// The header and what was asked for: what is supported, and the options of the server's SYN/ACK.
#[must_use]
pub fn connected(info: bool, options: Option<&[u8]>) -> Vec<u8> {
    let mut tlvs = Vec::new();
    if info {
        push(&mut tlvs, tlv::SUPPORTED_TCP_EXTENSIONS, &[0, 0], &SUPPORTED);
    }
    if let Some(options) = options {
        push(&mut tlvs, tlv::EXTENDED_TCP_HEADER, &[0, 0], options);
    }
    message(&tlvs)
}

/// The answer to who only asks.
#[must_use]
pub fn supported() -> Vec<u8> {
    connected(true, None)
}

/// Error 0.
#[must_use]
pub fn unsupported_version() -> Vec<u8> {
    error(code::UNSUPPORTED_VERSION, &[VERSION])
}

/// Error 1, with `received` as far as it fits.
#[must_use]
pub fn malformed(received: &[u8]) -> Vec<u8> {
    echo(code::MALFORMED_MESSAGE, received)
}

/// Error 2, with `received` as far as it fits.
#[must_use]
pub fn unsupported_message(received: &[u8]) -> Vec<u8> {
    echo(code::UNSUPPORTED_MESSAGE, received)
}

/// Error 3, with the cookie to use.
#[must_use]
pub fn missing_cookie(cookie: &[u8]) -> Vec<u8> {
    echo(code::MISSING_COOKIE, cookie)
}

/// Error 32.
#[must_use]
pub fn not_authorized() -> Vec<u8> {
    error(code::NOT_AUTHORIZED, &[0])
}

/// Error 33, with the kinds that are not served.
#[must_use]
pub fn unsupported_options(kinds: &[u8]) -> Vec<u8> {
    error(code::UNSUPPORTED_TCP_OPTION, kinds)
}

/// Error 64.
#[must_use]
pub fn resources_exceeded() -> Vec<u8> {
    error(code::RESOURCE_EXCEEDED, &[DEFAULT_DELAY])
}

/// The error for an exit that was not reached, with the code of the ICMP error if that was why.
pub(crate) fn failed(failure: Failure, icmp_code: Option<u8>) -> Vec<u8> {
    let unreachable = |icmp: u8| error(code::DESTINATION_UNREACHABLE, &[icmp]);
    let network = || error(code::NETWORK_FAILURE, &[DEFAULT_DELAY]);
    match failure {
        Failure::Credentials
        | Failure::TooManyAttempts
        | Failure::CannotVerify
        | Failure::NotSupported
        | Failure::NotAllowed => not_authorized(),
        Failure::Exhausted | Failure::Internal => resources_exceeded(),
        Failure::Refused => {
            icmp_code.map_or_else(|| error(code::CONNECTION_RESET, &[0]), unreachable)
        }
        Failure::NetworkUnreachable | Failure::HostUnreachable => {
            icmp_code.map_or_else(network, unreachable)
        }
        Failure::UnknownName
        | Failure::NameFailed
        | Failure::NoFamily
        | Failure::TimedOut
        | Failure::TtlExpired => network(),
    }
}

/// An Error TLV whose value begins with a zero octet, which keeps what follows aligned.
fn echo(code: u8, received: &[u8]) -> Vec<u8> {
    let room = MAX_MESSAGE_LEN - HEADER_LEN - WORD;
    let received = received.get(..room).unwrap_or(received);
    let mut tlvs = Vec::new();
    push(&mut tlvs, tlv::ERROR, &[code, 0], received);
    message(&tlvs)
}

fn error(code: u8, value: &[u8]) -> Vec<u8> {
    let mut tlvs = Vec::new();
    push(&mut tlvs, tlv::ERROR, &[code], value);
    message(&tlvs)
}

/// Appends a TLV with a value of two parts, which fit a message, padded.
fn push(tlvs: &mut Vec<u8>, kind: u8, first: &[u8], rest: &[u8]) {
    let words = (2 + first.len() + rest.len()).div_ceil(WORD);
    tlvs.extend([kind, u8::try_from(words).unwrap_or(u8::MAX)]);
    tlvs.extend(first);
    tlvs.extend(rest);
    tlvs.resize(tlvs.len().next_multiple_of(WORD), 0);
}

fn message(tlvs: &[u8]) -> Vec<u8> {
    let words = (HEADER_LEN + tlvs.len()) / WORD;
    debug_assert!(words <= usize::from(u8::MAX));
    let [high, low] = MAGIC;
    let header = [VERSION, u8::try_from(words).unwrap_or(u8::MAX), high, low];
    [&header, tlvs].concat()
}
