//! Captures in the pcapng format (draft-ietf-opsawg-pcapng), which tshark and Wireshark read: the
//! packets of a stack with the interface and the direction they took, to the nanosecond.
//!
//! Invariant: the sink gets whole blocks, one per call, each valid behind any of the blocks before
//! it: a capture that was cut between two calls is a valid capture.
//!
//! ```
//! use mptcp_core::pcapng::{Direction, Packet, Writer};
//! use mptcp_core::time::Instant;
//!
//! let mut writer = Writer::new(Vec::new());
//! let lte = writer.interface("lte");
//! let syn = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
//! writer.packet(&Packet {
//!     interface: lte,
//!     at: Instant::from_millis(1500),
//!     direction: Direction::Outbound,
//!     data: &syn,
//!     comment: Some("the first of its flow"),
//! });
//! let file = writer.into_sink();
//! assert_eq!(file[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
//!
//! // The same into whatever takes bytes; what fails there is the closure's to remember.
//! let mut written = 0;
//! let mut writer = Writer::new(|block: &[u8]| written += block.len());
//! writer.interface("wifi");
//! drop(writer);
//! assert!(written > 0);
//! ```

use crate::time::Instant;
use alloc::vec::Vec;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
/// Tells a reader our byte order, which is little-endian.
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// The length of the section is not known in advance.
const LENGTH_UNKNOWN: u64 = u64::MAX;
/// LINKTYPE_RAW: packets begin with an IPv4 or IPv6 header.
const LINK_TYPE_RAW: u16 = 101;
/// What Wireshark takes of a packet at most; no packet of a stack is longer than 65,575 bytes.
const SNAP_LEN: usize = 262_144;

const OPTION_END: u16 = 0;
const OPTION_COMMENT: u16 = 1;
const SHB_USER_APPLICATION: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TIMESTAMP_RESOLUTION: u16 = 9;
const EPB_FLAGS: u16 = 2;
/// 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Where the blocks go: a `Vec<u8>` they are appended to, or a closure that is called with each.
pub trait Sink {
    /// Takes one whole block.
    fn put(&mut self, block: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, block: &[u8]) {
        self.extend_from_slice(block);
    }
}

impl<F: FnMut(&[u8])> Sink for F {
    fn put(&mut self, block: &[u8]) {
        self(block);
    }
}

/// An interface of one capture.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InterfaceId(u32);

/// Which way a packet went, as the host at the interface sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Received.
    Inbound,
    /// Sent.
    Outbound,
}

/// A packet and what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// From [`Writer::interface`] of the same writer.
    pub interface: InterfaceId,
    /// When it passed. Readers take it as time since 1970: add the wall clock's time at the origin
    /// where dates should be right.
    pub at: Instant,
    /// Which way it went.
    pub direction: Direction,
    /// The packet, from its IP header on. Beyond 262,144 bytes it is cut.
    pub data: &'a [u8],
    /// Shown beside the packet. Beyond 65,535 bytes it is cut.
    pub comment: Option<&'a str>,
}

/// Writes one section. Nothing is buffered beyond the block at hand.
#[derive(Debug)]
pub struct Writer<S> {
    sink: S,
    interfaces: u32,
    block: Vec<u8>,
}

impl<S: Sink> Writer<S> {
    /// Writes the section header.
    pub fn new(sink: S) -> Self {
        let mut writer = Self { sink, interfaces: 0, block: Vec::new() };
        writer.write(SECTION_HEADER, |block| {
            block.extend_from_slice(&BYTE_ORDER_MAGIC.to_le_bytes());
            block.extend_from_slice(&[1, 0, 0, 0]); // version 1.0
            block.extend_from_slice(&LENGTH_UNKNOWN.to_le_bytes());
            put_option(block, SHB_USER_APPLICATION, b"plait");
            put_option(block, OPTION_END, &[]);
        });
        writer
    }

    /// Describes an interface of raw IP packets; `name` is what readers show, cut beyond 65,535 bytes.
    pub fn interface(&mut self, name: &str) -> InterfaceId {
        let id = InterfaceId(self.interfaces);
        self.interfaces += 1;
        self.write(INTERFACE_DESCRIPTION, |block| {
            block.extend_from_slice(&LINK_TYPE_RAW.to_le_bytes());
            block.extend_from_slice(&[0, 0]); // reserved
            block.extend_from_slice(&low32(SNAP_LEN).to_le_bytes());
            put_option(block, IF_NAME, text(name));
            put_option(block, IF_TIMESTAMP_RESOLUTION, &[NANOSECONDS]);
            put_option(block, OPTION_END, &[]);
        });
        id
    }

    /// Adds a packet. One call of the sink.
    pub fn packet(&mut self, packet: &Packet<'_>) {
        let kept = packet.data.get(..SNAP_LEN).unwrap_or(packet.data);
        let flags: u32 = match packet.direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        let at = packet.at.as_nanos();
        self.write(ENHANCED_PACKET, |block| {
            let time = [(at >> 32) as u32, at as u32];
            let lengths = [low32(kept.len()), low32(packet.data.len())];
            let [[high, low], [captured, original]] = [time, lengths];
            for field in [packet.interface.0, high, low, captured, original] {
                block.extend_from_slice(&field.to_le_bytes());
            }
            block.extend_from_slice(kept);
            pad(block);
            put_option(block, EPB_FLAGS, &flags.to_le_bytes());
            if let Some(comment) = packet.comment {
                put_option(block, OPTION_COMMENT, text(comment));
            }
            put_option(block, OPTION_END, &[]);
        });
    }

    /// Gives the sink back.
    pub fn into_sink(self) -> S {
        self.sink
    }

    /// Type and length before the body, the length again behind it.
    fn write(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
        self.block.clear();
        self.block.extend_from_slice(&kind.to_le_bytes());
        self.block.extend_from_slice(&[0; 4]);
        body(&mut self.block);
        let len = low32(self.block.len() + 4).to_le_bytes();
        if let Some(field) = self.block.get_mut(4..8) {
            field.copy_from_slice(&len);
        }
        self.block.extend_from_slice(&len);
        self.sink.put(&self.block);
    }
}

/// `value` is at most 65,535 bytes long; see [`text`].
fn put_option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    block.extend_from_slice(&code.to_le_bytes());
    block.extend_from_slice(&len.to_le_bytes());
    block.extend_from_slice(value);
    pad(block);
}

/// To 32 bits.
fn pad(block: &mut Vec<u8>) {
    block.resize(block.len().next_multiple_of(4), 0);
}

/// As much of `text` as an option holds, whole characters.
fn text(text: &str) -> &[u8] {
    let end = text.floor_char_boundary(usize::from(u16::MAX));
    text.as_bytes().get(..end).unwrap_or_default()
}

fn low32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
