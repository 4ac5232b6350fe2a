//! The main thread: it starts a thread for each link, answers the control socket, and ends everything.

use crate::control::{Command, Control};
use crate::spec::{LinkSpec, apply_settings};
use crate::wire::{Lane, Wire, now_ns};
use core::fmt::Write as _;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Everything that runs.
pub(crate) struct Engine {
    wires: Vec<Wire>,
    control: Option<Control>,
    signals: UnixStream,
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
            .map(|(spec, index)| Wire::start(spec, seed, index))
            .collect::<Result<Vec<_>, _>>()?;
        let mut stdout = io::stdout();
        writeln!(stdout, "ready")
            .and_then(|()| stdout.flush())
            .map_err(|error| format!("cannot write to stdout: {error}"))?;
        Ok(Self { wires, control, signals, quit: false })
    }

    /// Runs until a signal, `quit`, or a link that cannot go on.
    pub(crate) fn run(mut self) -> Result<(), String> {
        while !self.quit {
            self.wait()?;
            self.serve_control();
            let mut byte = [0];
            if matches!(self.signals.read(&mut byte), Ok(len) if len > 0) {
                self.quit = true;
            }
            // A thread says nothing on its line; it closes it when it ends.
            self.quit |= self.wires.iter_mut().any(|w| matches!(w.line.read(&mut byte), Ok(0)));
        }
        let ends: Vec<_> = self.wires.into_iter().map(Wire::stop).collect();
        ends.into_iter().collect()
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> Result<(), String> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.wires.iter().map(|wire| PollFd::new(&wire.line, PollFlags::IN)));
        fds.extend(self.control.iter().flat_map(Control::poll_fds));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(format!("poll failed: {error}")),
        }
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
            wire.with(|lanes| {
                let mut ab = lanes.ab.link.config().clone();
                let mut ba = lanes.ba.link.config().clone();
                apply_settings(&mut ab, &mut ba, settings.iter().map(String::as_str))?;
                let now = now_ns();
                lanes.ab.link.reconfigure(now, ab);
                lanes.ba.link.reconfigure(now, ba);
                Ok::<_, String>(())
            })?;
        }
    }
    Ok("ok".to_owned())
}

/// One line of JSON. Names need no escaping: `LinkSpec` admits only plain ones.
fn report(wires: &mut [Wire]) -> String {
    let mut text = String::from("{");
    for (index, wire) in wires.iter_mut().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let (ab, ba) = wire.with(|lanes| (lane_report(&lanes.ab), lane_report(&lanes.ba)));
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
