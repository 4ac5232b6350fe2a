//! Writer of capture files with nanosecond times, for the packets of a failing seed. tshark and
//! tcpdump read them. Link types as in the tcpdump registry: raw IP or Ethernet.

use std::io::{self, Write};

/// What a captured packet starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkType {
    /// An IPv4 or IPv6 header (LINKTYPE_RAW, 101).
    Raw,
    /// An Ethernet header (LINKTYPE_ETHERNET, 1).
    Ethernet,
}

/// Magic number of the format with nanoseconds, written in little-endian order.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const SNAP_LEN: u32 = 262_144;

/// Writes one capture to any sink. The sink should be buffered: each packet is two writes.
#[derive(Debug)]
pub struct PcapWriter<W: Write> {
    sink: W,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file header.
    ///
    /// # Errors
    /// Whatever the sink reports.
    pub fn new(mut sink: W, link_type: LinkType) -> io::Result<Self> {
        let link_type: u32 = match link_type {
            LinkType::Raw => 101,
            LinkType::Ethernet => 1,
        };
        let mut header = [0; 24];
        let fields = [MAGIC_NANOSECONDS, 0x0004_0002, 0, 0, SNAP_LEN, link_type];
        for (to, field) in header.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        sink.write_all(&header)?;
        Ok(Self { sink })
    }

    /// Adds a packet seen at `now` nanoseconds after the start of the run.
    ///
    /// # Errors
    /// Whatever the sink reports. Times beyond 2^32 seconds are capped.
    pub fn write(&mut self, now: u64, packet: &[u8]) -> io::Result<()> {
        let seconds = u32::try_from(now / 1_000_000_000).unwrap_or(u32::MAX);
        let nanoseconds = u32::try_from(now % 1_000_000_000).unwrap_or(0);
        let len = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let mut header = [0; 16];
        let fields = [seconds, nanoseconds, len.min(SNAP_LEN), len];
        for (to, field) in header.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        self.sink.write_all(&header)?;
        let kept = packet.len().min(usize::try_from(SNAP_LEN).unwrap_or(usize::MAX));
        self.sink.write_all(packet.get(..kept).unwrap_or(packet))
    }

    /// Flushes and gives the sink back.
    ///
    /// # Errors
    /// Whatever the sink reports.
    pub fn finish(mut self) -> io::Result<W> {
        self.sink.flush()?;
        Ok(self.sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_header_then_records() {
        let mut writer = PcapWriter::new(Vec::new(), LinkType::Raw).unwrap();
        writer.write(3_000_000_007, &[0x45, 1, 2]).unwrap();
        let file = writer.finish().unwrap();
        assert_eq!(file[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
        assert_eq!(file[4..8], [2, 0, 4, 0]);
        assert_eq!(file[20..24], [101, 0, 0, 0]);
        assert_eq!(file[24..40], [3, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(file[40..], [0x45, 1, 2]);
    }
}
