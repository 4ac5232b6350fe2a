//! The loop: one thread, one `poll(2)`, frames from device to link to device.
//!
//! Times inside the links are exact; what the machine adds is how late a frame is written, and that
//! is measured (`late_us_max`). Every turn drains what is readable and writes what is due.

use crate::control::{Command, Control};
use crate::device::Tap;
use crate::spec::{LinkSpec, apply_settings};
use core::fmt::Write as _;
use core::num::NonZeroU64;
use core::time::Duration;
use netsim::{Direction, Link};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::time::{ClockId, clock_gettime};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Frames read from one device before the others and due deliveries get their turn.
const READ_BURST: usize = 64;
/// Longest frame: the largest MTU plus Ethernet and VLAN headers.
const MAX_FRAME: usize = 65_018;

/// One direction: where frames come from is told by the wire that owns it.
struct Lane {
    link: Link,
    late_ns_max: u64,
    write_errors: u64,
}

/// One `--link` in service.
struct Wire {
    name: String,
    a: Tap,
    b: Tap,
    ab: Lane,
    ba: Lane,
    /// Frames wait on `a`, on `b`: asking a device that has none is a system call for nothing.
    readable: [bool; 2],
}

/// Everything that runs.
pub(crate) struct Engine {
    wires: Vec<Wire>,
    control: Option<Control>,
    signals: UnixStream,
    buffer: Vec<u8>,
    quit: bool,
}

impl Engine {
    /// Creates all devices and the control socket, then says `ready` on stdout.
    pub(crate) fn start(
        specs: &[LinkSpec],
        control: Option<&Path>,
        seed: u64,
    ) -> Result<Self, String> {
        let signals = watch_signals().map_err(|error| format!("cannot watch signals: {error}"))?;
        let control = control.map(Control::listen).transpose()?;
        let wires = specs
            .iter()
            .zip(0_u64..)
            .map(|(spec, index)| Wire::create(spec, seed, index))
            .collect::<Result<Vec<_>, _>>()?;
        // The default slack of 50 us would delay every timer by that much.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))
            .map_err(|error| format!("cannot set the timer slack: {error}"))?;
        let mut stdout = io::stdout();
        writeln!(stdout, "ready")
            .and_then(|()| stdout.flush())
            .map_err(|error| format!("cannot write to stdout: {error}"))?;
        Ok(Self { wires, control, signals, buffer: vec![0; MAX_FRAME], quit: false })
    }

    /// Carries frames until a signal or `quit`.
    pub(crate) fn run(mut self) -> Result<(), String> {
        while !self.quit {
            self.wait()?;
            for wire in &mut self.wires {
                wire.carry(&mut self.buffer)?;
            }
            self.serve_control();
            let mut byte = [0];
            if matches!(self.signals.read(&mut byte), Ok(len) if len > 0) {
                self.quit = true;
            }
        }
        Ok(())
    }

    /// Sleeps until a descriptor is readable or a frame is due.
    fn wait(&mut self) -> Result<(), String> {
        let now = now_ns();
        let due = self.wires.iter().filter_map(Wire::next_deadline).min();
        let timeout = due.map(|due| timespec(due.saturating_sub(now)));
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        for wire in &self.wires {
            fds.push(PollFd::new(&wire.a, PollFlags::IN));
            fds.push(PollFd::new(&wire.b, PollFlags::IN));
        }
        fds.extend(self.control.iter().flat_map(Control::poll_fds));
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(format!("poll failed: {error}")),
        }
        // What is not plainly empty is read: that tells what is wrong with it.
        let readable: Vec<bool> = fds.iter().skip(1).map(|fd| !fd.revents().is_empty()).collect();
        for (wire, ends) in self.wires.iter_mut().zip(readable.chunks_exact(2)) {
            wire.readable.copy_from_slice(ends);
        }
        Ok(())
    }

    fn serve_control(&mut self) {
        let Self { control, wires, quit, .. } = self;
        if let Some(control) = control {
            control.serve(|line| match execute(line, wires, quit) {
                Ok(answer) => answer,
                Err(error) => format!("error: {error}"),
            });
        }
    }
}

fn execute(line: &str, wires: &mut [Wire], quit: &mut bool) -> Result<String, String> {
    match Command::parse(line)? {
        Command::Get => return Ok(report(wires)),
        Command::Quit => *quit = true,
        Command::Set { link, settings } => {
            let wire = wires
                .iter_mut()
                .find(|wire| wire.name == link)
                .ok_or_else(|| format!("there is no link '{link}'"))?;
            let mut ab = wire.ab.link.config().clone();
            let mut ba = wire.ba.link.config().clone();
            apply_settings(&mut ab, &mut ba, settings.iter().map(String::as_str))?;
            let now = now_ns();
            wire.ab.link.reconfigure(now, ab);
            wire.ba.link.reconfigure(now, ba);
        }
    }
    Ok("ok".to_owned())
}

impl Wire {
    fn create(spec: &LinkSpec, seed: u64, index: u64) -> Result<Self, String> {
        let lane = |config, dir: Direction| Lane {
            link: Link::new(config, seed, index * 2 + dir.index()),
            late_ns_max: 0,
            write_errors: 0,
        };
        Ok(Self {
            name: spec.name.clone(),
            a: Tap::create(&spec.a, spec.mtu)?,
            b: Tap::create(&spec.b, spec.mtu)?,
            ab: lane(spec.ab.clone(), Direction::AtoB),
            ba: lane(spec.ba.clone(), Direction::BtoA),
            readable: [true; 2],
        })
    }

    /// Reads what waits on both devices and writes what is due on both.
    fn carry(&mut self, buffer: &mut [u8]) -> Result<(), String> {
        let [from_a, from_b] = self.readable;
        if from_a {
            self.ab.read_from(&self.a, buffer)?;
        }
        if from_b {
            self.ba.read_from(&self.b, buffer)?;
        }
        self.ab.write_to(&self.b);
        self.ba.write_to(&self.a);
        Ok(())
    }

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

/// One line of JSON. Names need no escaping: `LinkSpec` admits only plain ones.
fn report(wires: &[Wire]) -> String {
    let mut text = String::from("{");
    for (index, wire) in wires.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let (ab, ba) = (lane_report(&wire.ab), lane_report(&wire.ba));
        let _ = write!(text, "{comma}\"{}\": {{\"ab\": {ab}, \"ba\": {ba}}}", wire.name);
    }
    text.push('}');
    text
}

fn lane_report(lane: &Lane) -> String {
    let (counters, config) = (lane.link.counters(), lane.link.config());
    let rate = config.rate_bps.map_or_else(|| "null".to_owned(), |rate| rate.to_string());
    let fields = [
        ("packets", counters.pushed_packets),
        ("bytes", counters.pushed_bytes),
        ("delivered_packets", counters.delivered_packets),
        ("delivered_bytes", counters.delivered_bytes),
        ("dropped_queue", counters.dropped_queue),
        ("dropped_loss", counters.dropped_loss),
        ("dropped_mtu", counters.dropped_mtu),
        ("blackholed", counters.dropped_blackhole),
        ("write_errors", lane.write_errors),
        ("queue_bytes", lane.link.queue_bytes() as u64),
        ("queue_bytes_max", counters.queue_bytes_max),
        ("late_us_max", lane.late_ns_max / 1_000),
        ("delay_us", config.delay_ns / 1_000),
    ];
    let mut text = String::from("{");
    for (name, value) in fields {
        let _ = write!(text, "\"{name}\": {value}, ");
    }
    let _ = write!(text, "\"rate_bps\": {rate}, \"blackhole\": {}}}", config.blackhole);
    text
}

/// A socket that becomes readable when the process is asked to end.
fn watch_signals() -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

/// The monotonic clock.
fn now_ns() -> u64 {
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
