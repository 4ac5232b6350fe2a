//! A client's message, read (RFC 8803 §6). Framing comes first, then what appears twice, then what is
//! not known, then what each TLV says.

use super::{HEADER_LEN, MAGIC, VERSION, WORD, option, tlv};
use crate::front_end::{Host, Target};
use core::net::{IpAddr, Ipv6Addr};
use mptcp_core::wire::FastOpenCookie;

/// The longest there is: its length is one octet of 32-bit words.
pub const MAX_MESSAGE_LEN: usize = 255 * WORD;

/// Type, length, port and address.
const BASE_CONNECT_LEN: usize = 5 * WORD;
const TLV_HEAD_LEN: usize = 4;

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// Not the magic number: not a Convert client.
    Magic,
    Version,
    /// A length of zero: nothing may answer but a reset.
    Empty,
    Malformed,
    /// A TLV that a converter does not take.
    Unsupported,
}

/// What a whole message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Octets of the message; what is behind it is the user's.
    pub len: usize,
    /// The client wants to know what is supported.
    pub info: bool,
    /// The cookie it has.
    pub cookie: Option<Vec<u8>>,
    /// Where it wants to go, unless it only asks.
    pub connect: Option<Connect>,
}

/// A Connect TLV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Where to.
    pub target: Target,
    /// It names options, even if none that counts: the client hears what the server answered.
    pub extended: bool,
    /// Offer the server MPTCP.
    pub mptcp: bool,
    /// Show the server this, or ask it for a cookie.
    pub fast_open: Option<FastOpenCookie>,
    /// Kinds of options that are not served, each once.
    pub unsupported: Vec<u8>,
}

/// The length of the message that begins with `header`.
pub(super) fn whole_len(header: [u8; HEADER_LEN]) -> Result<usize, Problem> {
    let [version, words, magic @ ..] = header;
    if magic != MAGIC {
        return Err(Problem::Magic);
    }
    if words == 0 {
        return Err(Problem::Empty);
    }
    if version != VERSION {
        return Err(Problem::Version);
    }
    Ok(usize::from(words) * WORD)
}

/// Reads `message`, which is as long as its header says.
pub(super) fn parse(message: &[u8]) -> Result<Asked, Problem> {
    let (_, tlvs) = message.split_at_checked(HEADER_LEN).ok_or(Problem::Malformed)?;
    let tlvs = frame(tlvs)?;
    if has_twice(&tlvs) {
        return Err(Problem::Malformed);
    }
    let known = |(kind, _): &(u8, &[u8])| [tlv::INFO, tlv::CONNECT, tlv::COOKIE].contains(kind);
    if !tlvs.iter().all(known) {
        return Err(Problem::Unsupported);
    }
    let mut asked = Asked { len: message.len(), info: false, cookie: None, connect: None };
    for (kind, tlv) in tlvs {
        match kind {
            tlv::INFO if tlv.len() == TLV_HEAD_LEN => asked.info = true,
            tlv::COOKIE => {
                asked.cookie = Some(tlv.get(TLV_HEAD_LEN..).unwrap_or_default().to_vec());
            }
            tlv::CONNECT => asked.connect = Some(connect(tlv)?),
            _ => return Err(Problem::Malformed),
        }
    }
    if !asked.info && asked.connect.is_none() {
        return Err(Problem::Malformed);
    }
    Ok(asked)
}

/// The TLVs with their types, heads included, when they fill `rest` exactly.
fn frame(mut rest: &[u8]) -> Result<Vec<(u8, &[u8])>, Problem> {
    let mut tlvs = Vec::new();
    while let Some((&kind, behind)) = rest.split_first() {
        let words = *behind.first().ok_or(Problem::Malformed)?;
        if words == 0 {
            return Err(Problem::Malformed);
        }
        let (tlv, others) =
            rest.split_at_checked(usize::from(words) * WORD).ok_or(Problem::Malformed)?;
        tlvs.push((kind, tlv));
        rest = others;
    }
    if tlvs.is_empty() { Err(Problem::Malformed) } else { Ok(tlvs) }
}

fn has_twice(tlvs: &[(u8, &[u8])]) -> bool {
    let mut seen = [false; 256];
    tlvs.iter().any(|(kind, _)| {
        let seen = seen.get_mut(usize::from(*kind));
        seen.is_some_and(|seen| core::mem::replace(seen, true))
    })
}

fn connect(tlv: &[u8]) -> Result<Connect, Problem> {
    let (base, options) = tlv.split_at_checked(BASE_CONNECT_LEN).ok_or(Problem::Malformed)?;
    let [_, _, high, low, address @ ..] = base else { return Err(Problem::Malformed) };
    let port = u16::from_be_bytes([*high, *low]);
    let address = <[u8; 16]>::try_from(address).map_err(|_| Problem::Malformed)?;
    let address = Ipv6Addr::from(address).to_canonical();
    if port == 0 || is_invalid(address) {
        return Err(Problem::Malformed);
    }
    let target = Target { host: Host::Address(address), port };
    let mut connect = Connect {
        target,
        extended: !options.is_empty(),
        mptcp: false,
        fast_open: None,
        unsupported: Vec::new(),
    };
    read_options(options, &mut connect)?;
    Ok(connect)
}

/// Addresses that must not be asked for (RFC 8803 §6.2.5).
fn is_invalid(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    address.is_loopback() || address.is_multicast() || broadcast
}

/// RFC 8803 §7: what our stack says in every SYN may be asked for without a value, MPTCP and Fast Open
/// are said when asked for. An option that is there twice counts once, as it comes first.
fn read_options(mut rest: &[u8], connect: &mut Connect) -> Result<(), Problem> {
    while let Some((&kind, behind)) = rest.split_first() {
        if kind == option::END || kind == option::NOP {
            // They have no length, and may be padding.
            rest = behind;
            continue;
        }
        let len = behind.first().copied().map_or(0, usize::from);
        if len < 2 {
            return Err(Problem::Malformed);
        }
        let (option, others) = rest.split_at_checked(len).ok_or(Problem::Malformed)?;
        let value = option.get(2..).unwrap_or_default();
        rest = others;
        let served = match kind {
            option::MSS | option::WINDOW_SCALE | option::SACK => true,
            option::SACK_PERMITTED | option::TIMESTAMPS => value.is_empty(),
            option::MPTCP => {
                connect.mptcp = true;
                value.is_empty()
            }
            option::FAST_OPEN => {
                let cookie = match value {
                    [] => Some(FastOpenCookie::REQUEST),
                    value => FastOpenCookie::new(value),
                };
                connect.fast_open = connect.fast_open.or(cookie);
                cookie.is_some()
            }
            _ => false,
        };
        if !served && !connect.unsupported.contains(&kind) {
            connect.unsupported.push(kind);
        }
    }
    Ok(())
}
