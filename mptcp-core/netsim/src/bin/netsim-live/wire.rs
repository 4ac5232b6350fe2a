//! One link in service: a thread of its own carries frames between two devices.
//!
//! Times inside a link are exact; what the machine adds is how late a frame is written, and that is measured
//! (`late_us_max`). Every turn drains what is readable and writes what is due.

use crate::device::Tap;
use crate::spec::LinkSpec;
use core::num::NonZeroU64;
use core::time::Duration;
use netsim::{Direction, Link};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::time::{ClockId, clock_gettime};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Frames read from one device before the other and due deliveries get their turn.
const READ_BURST: usize = 64;
/// Longest frame: the largest MTU plus Ethernet and VLAN headers.
const MAX_FRAME: usize = 65_018;

/// One direction.
pub(crate) struct Lane {
    pub(crate) link: Link,
    pub(crate) late_ns_max: u64,
    pub(crate) write_errors: u64,
}

/// Both, from device `a` to `b` and back.
pub(crate) struct Lanes {
    pub(crate) ab: Lane,
    pub(crate) ba: Lane,
}

/// A running link, as others see it. Its thread ends when this is dropped or [stopped](Self::stop).
pub(crate) struct Wire {
    pub(crate) name: String,
    lanes: Arc<Mutex<Lanes>>,
    /// Wakes the thread; readable when the thread has ended.
    pub(crate) line: UnixStream,
    thread: JoinHandle<Result<(), String>>,
}

impl Wire {
    /// Creates both devices and begins to carry.
    pub(crate) fn start(spec: &LinkSpec, seed: u64, index: u64) -> Result<Self, String> {
        let lane = |config, dir: Direction| Lane {
            link: Link::new(config, seed, index * 2 + dir.index()),
            late_ns_max: 0,
            write_errors: 0,
        };
        let ab = lane(spec.ab.clone(), Direction::AtoB);
        let ba = lane(spec.ba.clone(), Direction::BtoA);
        let lanes = Arc::new(Mutex::new(Lanes { ab, ba }));
        let explain = |error: io::Error| format!("link {}: {error}", spec.name);
        let (line, theirs) = UnixStream::pair().map_err(explain)?;
        line.set_nonblocking(true).map_err(explain)?;
        theirs.set_nonblocking(true).map_err(explain)?;
        let carrier = Carrier {
            a: Tap::create(&spec.a, spec.mtu)?,
            b: Tap::create(&spec.b, spec.mtu)?,
            lanes: Arc::clone(&lanes),
            line: theirs,
        };
        let thread = std::thread::Builder::new().name(spec.name.clone());
        let thread = thread.spawn(move || carrier.run()).map_err(explain)?;
        Ok(Self { name: spec.name.clone(), lanes, line, thread })
    }

    /// Looks at both directions, or changes them; the thread looks at its deadlines anew.
    pub(crate) fn with<T>(&mut self, work: impl FnOnce(&mut Lanes) -> T) -> T {
        let result = work(&mut lock(&self.lanes));
        // One octet wakes it; when the line is full of them, it is awake.
        let _ = self.line.write(&[0]);
        result
    }

    /// Ends the thread and tells how it went.
    pub(crate) fn stop(self) -> Result<(), String> {
        drop(self.line);
        self.thread.join().unwrap_or_else(|_| Err(format!("the thread of {} panicked", self.name)))
    }
}

/// What carries.
struct Carrier {
    a: Tap,
    b: Tap,
    lanes: Arc<Mutex<Lanes>>,
    line: UnixStream,
}

/// What was found to be readable.
struct Ready {
    a: bool,
    b: bool,
    line: bool,
}

impl Carrier {
    /// Carries frames until the other end of the line is closed.
    fn run(mut self) -> Result<(), String> {
        // The default slack of 50 us would delay every timer by that much.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))
            .map_err(|error| format!("cannot set the timer slack: {error}"))?;
        let mut buffer = vec![0; MAX_FRAME];
        loop {
            // Asking a device that has nothing would be a system call for nothing.
            let ready = self.wait()?;
            if ready.line && matches!(self.line.read(&mut [0; 64]), Ok(0)) {
                return Ok(());
            }
            let lanes = &mut *lock(&self.lanes);
            if ready.a {
                lanes.ab.read_from(&self.a, &mut buffer)?;
            }
            if ready.b {
                lanes.ba.read_from(&self.b, &mut buffer)?;
            }
            lanes.ab.write_to(&self.b);
            lanes.ba.write_to(&self.a);
        }
    }

    /// Sleeps until a descriptor is readable or a frame is due.
    fn wait(&self) -> Result<Ready, String> {
        let due = lock(&self.lanes).next_deadline();
        let timeout = due.map(|due| timespec(due.saturating_sub(now_ns())));
        let mut fds = [
            PollFd::new(&self.a, PollFlags::IN),
            PollFd::new(&self.b, PollFlags::IN),
            PollFd::new(&self.line, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("poll failed: {error}")),
        }
        // What is wrong with a device, reading it tells.
        let [a, b, line] = fds.map(|fd| !fd.revents().is_empty());
        Ok(Ready { a, b, line })
    }
}

impl Lanes {
    fn next_deadline(&self) -> Option<u64> {
        let deadlines = [self.ab.link.next_deadline(), self.ba.link.next_deadline()];
        deadlines.into_iter().flatten().min()
    }
}

impl Lane {
    fn read_from(&mut self, tap: &Tap, buffer: &mut [u8]) -> Result<(), String> {
        for _ in 0..READ_BURST {
            let len = tap
                .read(buffer)
                .map_err(|error| format!("device {} is gone: {error}", tap.label))?;
            let Some(frame) = len.and_then(|len| buffer.get(..len)) else { break };
            self.link.push(now_ns(), frame.to_vec());
        }
        Ok(())
    }

    fn write_to(&mut self, tap: &Tap) {
        let now = now_ns();
        while let Some(due) = self.link.arrival(now) {
            let Some(frame) = self.link.poll(now) else { return };
            self.late_ns_max = self.late_ns_max.max(now - due);
            // A device that was set down refuses frames, as an unplugged one would lose them.
            self.write_errors += u64::from(tap.write(&frame).is_err());
        }
    }
}

/// A thread that panicked left its frames in order.
fn lock(lanes: &Mutex<Lanes>) -> MutexGuard<'_, Lanes> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The monotonic clock.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

fn timespec(ns: u64) -> Timespec {
    // Beyond an hour waking early costs nothing; the loop only looks again.
    let wait = Duration::from_nanos(ns).min(Duration::from_secs(3_600));
    Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(0),
        tv_nsec: wait.subsec_nanos().into(),
    }
}
