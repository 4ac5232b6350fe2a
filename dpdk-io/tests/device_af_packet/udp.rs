//! A worker that sends every datagram back, its payload as a further segment of the reply.

use dpdk_io::Mbuf;
use mptcp_core::buf::{PacketBuf, TxMeta, TxQueue};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::time::Instant;
use mptcp_core::wire::{IpEmit, IpHeader, UdpHeader, checksum};

const UDP: u8 = 17;

/// Sends every datagram back, its payload as a further segment of the reply.
#[derive(Default)]
pub(crate) struct UdpEcho {
    waiting: Vec<Mbuf>,
    pub(crate) datagrams: u64,
    pub(crate) chained: u64,
}

/// IP and UDP header of the reply, and where the payload is.
fn reply_header(request: &[u8]) -> Option<(Vec<u8>, core::ops::Range<usize>)> {
    let ip = IpHeader::parse(request).ok()?;
    let udp = request.get(ip.header_len..ip.total_len).filter(|_| ip.protocol == UDP)?;
    let [s0, s1, d0, d1, ..] = *udp else { return None };
    let payload = udp.get(8..)?;
    let ports = UdpHeader {
        src_port: u16::from_be_bytes([d0, d1]),
        dst_port: u16::from_be_bytes([s0, s1]),
    };
    let datagram = ports.emit(ip.dst, ip.src, payload.len(), checksum::sum(payload))?;
    let header = IpEmit {
        src: ip.dst,
        dst: ip.src,
        protocol: UDP,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: udp.len(),
        identification: 0,
        dont_fragment: true,
    };
    let mut out = vec![0; header.header_len()];
    header.emit(&mut out);
    out.extend_from_slice(&datagram);
    Some((out, ip.header_len + 8..ip.total_len))
}

impl Worker<Mbuf> for UdpEcho {
    fn handle_burst(&mut self, _now: Instant, burst: &mut Vec<Mbuf>) {
        self.waiting.append(burst);
    }

    fn handle_timeouts(&mut self, _now: Instant, _budget: usize) -> Progress {
        Progress::Done
    }

    fn handle_events(&mut self, _now: Instant) {}

    fn poll_transmit<T: TxQueue<Mbuf>>(&mut self, _now: Instant, tx: &mut T) -> Progress {
        for request in self.waiting.drain(..) {
            let Some((header, payload)) = reply_header(request.data()) else { continue };
            let mut reply = tx.alloc().unwrap();
            reply.append(header.len()).unwrap().copy_from_slice(&header);
            reply.chain(request.slice(payload));
            reply.set_tx_meta(TxMeta { port: request.rx_meta().port, partial_checksum: false });
            self.datagrams += 1;
            self.chained += u64::from(reply.segment_count() > 1);
            tx.push(reply);
        }
        Progress::Done
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_control(&mut self, _now: Instant) -> Control {
        Control::Continue
    }
}
