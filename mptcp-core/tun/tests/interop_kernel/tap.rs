//! A TUN device under observation: every packet that crosses it is shown to the referee and kept
//! for tshark, and it can be cut or made to lose packets.
//!
//! Invariant: the referee sees exactly what our stack sent and received, in that order; what a
//! fault swallows counts as sent, never as delivered.

use crate::delay::DelayLine;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use mptcp_tun::{PacketDevice, TunDevice};
use netsim::pcap::{LinkType, PcapWriter};
use netsim::{NodeId, Point, Referee, Rng};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The only judged host: our stack.
const OURS: NodeId = NodeId(0);

/// Packets captured at most: what tshark takes grows faster than the capture.
const CAPTURED: u32 = 2_500;

/// Faults and counters of one device.
#[derive(Debug, Default)]
pub(crate) struct Path {
    /// A silent black hole in both directions.
    pub(crate) cut: AtomicBool,
    /// Milliseconds added to the round trip; the link is a slow one then ([`DelayLine`]).
    pub(crate) delay_ms: AtomicU64,
    /// Losses per 10,000 packets, each way.
    pub(crate) loss: AtomicU64,
    /// Payload-carrying packets' octets delivered to the stack.
    pub(crate) rx_bytes: AtomicU64,
    /// Octets the stack sent that were not swallowed.
    pub(crate) tx_bytes: AtomicU64,
}

/// What all devices of one stack share.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) paths: Vec<Path>,
    state: Mutex<State>,
    begin: Instant,
}

#[derive(Debug)]
struct State {
    referee: Option<Referee>,
    capture: Option<PcapWriter<Vec<u8>>>,
    captured: u32,
    rng: Rng,
}

impl Tap {
    /// `judged` shows packets to a referee. The first [`CAPTURED`] packets are kept.
    pub(crate) fn new(path_count: usize, judged: bool) -> Arc<Self> {
        let capture = PcapWriter::new(Vec::new(), LinkType::Raw).expect("memory takes it");
        let state = State {
            referee: judged.then(Referee::new),
            capture: Some(capture),
            captured: 0,
            rng: Rng::new(0x7a9),
        };
        Arc::new(Self {
            paths: (0..path_count).map(|_| Path::default()).collect(),
            state: Mutex::new(state),
            begin: Instant::now(),
        })
    }

    /// Swallows everything on a path, or no longer.
    pub(crate) fn cut(&self, path: usize, cut: bool) {
        self.paths[path].cut.store(cut, Relaxed);
    }

    /// The capture so far, unless it was taken before; nothing is captured from then on.
    pub(crate) fn take_capture(&self) -> Option<Vec<u8>> {
        let capture = self.lock().capture.take()?;
        Some(capture.finish().expect("memory takes it"))
    }

    /// The referee's findings: panics when there are any, or when it saw nothing.
    pub(crate) fn assert_clean(&self) {
        if let Some(referee) = &self.lock().referee {
            assert!(referee.seen().segments > 0, "the referee saw nothing");
            referee.assert_clean();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The referee panics while it is locked; the packets behind it are good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn swallows(&self, path: usize, state: &mut State) -> bool {
        let path = &self.paths[path];
        path.cut.load(Relaxed) || state.rng.below(10_000) < path.loss.load(Relaxed)
    }

    fn observe(&self, state: &mut State, point: Point, packet: &[u8]) {
        let now = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Some(referee) = &mut state.referee {
            referee.observe(now, OURS, point, packet);
        }
        if let Some(capture) = &mut state.capture
            && state.captured < CAPTURED
        {
            state.captured += 1;
            capture.write(now, packet).expect("memory takes it");
        }
    }
}

/// The device.
#[derive(Debug)]
pub(crate) struct TappedDevice {
    pub(crate) device: TunDevice,
    pub(crate) tap: Arc<Tap>,
    pub(crate) path: usize,
    line: Option<DelayLine>,
}

impl TappedDevice {
    pub(crate) fn new(device: TunDevice, tap: Arc<Tap>, path: usize) -> Self {
        Self { device, tap, path, line: None }
    }

    /// Hands a packet to the device, or to the line that leads there.
    fn forward(&mut self, packet: &[u8]) -> io::Result<()> {
        let delay = self.tap.paths[self.path].delay_ms.load(Relaxed);
        if delay == 0 {
            return self.device.send(packet);
        }
        if self.line.is_none() {
            self.line = Some(DelayLine::start(self.device.as_fd().try_clone_to_owned()?));
        }
        let line = self.line.as_mut().expect("just made");
        line.send(packet, Duration::from_millis(delay));
        Ok(())
    }
}

impl PacketDevice for TappedDevice {
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.device.recv(into)?;
            let state = &mut *self.tap.lock();
            if self.tap.swallows(self.path, state) {
                continue;
            }
            self.tap.paths[self.path].rx_bytes.fetch_add(len as u64, Relaxed);
            self.tap.observe(state, Point::Delivered, &into[..len]);
            return Ok(len);
        }
    }

    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let tap = Arc::clone(&self.tap);
        let state = &mut *tap.lock();
        if tap.swallows(self.path, state) {
            tap.observe(state, Point::Sent, packet);
            return Ok(());
        }
        let result = self.forward(packet);
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            tap.paths[self.path].tx_bytes.fetch_add(packet.len() as u64, Relaxed);
            tap.observe(state, Point::Sent, packet);
        }
        result
    }

    fn mtu(&self) -> u16 {
        self.device.mtu()
    }

    fn name(&self) -> &str {
        self.device.name()
    }
}

impl AsFd for TappedDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
