//! A slow link between the stack and a device: what the stack sends takes its turn at [`RATE`] and
//! arrives so much later.
//!
//! All of a path's round trip is spent on the way to the kernel; neither end can tell.

use core::time::Duration;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

/// Octets per second: 20 Mbit/s.
const RATE: u64 = 2_500_000;

/// The longest a packet waits for its turn: 256 KiB of queue.
const QUEUE: Duration = Duration::from_nanos((256 << 10) * 1_000_000_000 / RATE);

/// A thread that hands packets to a device when their time comes. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct DelayLine {
    packets: Option<mpsc::Sender<(Instant, Vec<u8>)>>,
    thread: Option<JoinHandle<()>>,
    /// When the link is done with what was sent so far.
    free_at: Instant,
}

impl DelayLine {
    pub(crate) fn start(device: OwnedFd) -> Self {
        let (packets, due) = mpsc::channel::<(Instant, Vec<u8>)>();
        let thread = std::thread::spawn(move || {
            let mut device = File::from(device);
            for (at, packet) in due {
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                // What a device has no room for is lost, as on any path.
                let _ = device.write(&packet);
            }
        });
        Self { packets: Some(packets), thread: Some(thread), free_at: Instant::now() }
    }

    /// Loses the packet when the queue is full.
    pub(crate) fn send(&mut self, packet: &[u8], delay: Duration) {
        let now = Instant::now();
        let turn = self.free_at.max(now);
        if turn - now > QUEUE {
            return;
        }
        self.free_at = turn + Duration::from_nanos(packet.len() as u64 * 1_000_000_000 / RATE);
        let packets = self.packets.as_ref().expect("taken when dropped only");
        packets.send((self.free_at + delay, packet.to_vec())).expect("the thread runs");
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        drop(self.packets.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}
