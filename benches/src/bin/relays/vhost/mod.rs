//! The gateway's engine alone: phone and server are stacks of ours in this process, and packets pass
//! between the two processes through memory (vhost here, virtio_user there). No kernel touches them.

mod ends;

use crate::cpus::Cpus;
use crate::interrupt::Interrupt;
use crate::load::Direction;
use crate::measure::Lab;
use crate::peer::Peer;
use crate::process::{Running, Scratch};
use crate::progress::Progress;
use crate::report::median;
use core::fmt::Write as _;
use core::sync::atomic::Ordering;
use core::time::Duration;
use dpdk_io::{Driver, EalConfig, Hugepages, PortConfig};
use ends::{Ends, Order, Seen};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

/// What a relayed amount is told in: a segment's worth.
const SEGMENT: f64 = 1448.0;
/// Until the link is up and streams flow.
const READY_MAX: Duration = Duration::from_secs(20);

/// A vhost port for each of the gateway's devices.
const PORTS: [(&str, &[&str]); 3] =
    [("a", &["10.62.1.2/24"]), ("b", &["10.62.2.2/24"]), ("x", &["10.62.9.2/24", "10.62.1.9/24"])];

/// Where the gateway's device `at` finds its other end.
pub(crate) fn socket(dir: &Path, at: usize) -> PathBuf {
    dir.join(format!("port{at}.sock"))
}

/// How long streams are watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) warm_up: Duration,
    pub(crate) watch: Duration,
    /// With TSO at the gateway, too.
    pub(crate) tso: bool,
}

const LOADS: [(Direction, usize); 4] =
    [(Direction::Down, 1), (Direction::Down, 16), (Direction::Up, 1), (Direction::Up, 16)];
/// Whether the phone speaks MPTCP.
const CLIENTS: [bool; 2] = [false, true];

/// What one load showed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    gbit_per_s: f64,
    /// Of turns that had something to do, for a segment's worth of the streams.
    busy_ns: f64,
}

type Key = (Peer, bool, Direction, usize);
type Results = BTreeMap<Key, Vec<Sample>>;

/// Measures everything `repeat` times; the table as Markdown.
pub(crate) fn run(
    cpus: &Cpus,
    interrupt: &Interrupt,
    repeat: u64,
    plan: Plan,
) -> Result<String, String> {
    let scratch = Scratch::create()?;
    let lab = Lab { cpus, scratch: &scratch, interrupt };
    let mut results = Results::new();
    let peers: &[Peer] = if plan.tso { &[Peer::Vhost, Peer::VhostTso] } else { &[Peer::Vhost] };
    with_ends(&lab, |far| {
        let kinds = CLIENTS.into_iter().flat_map(|mptcp| peers.iter().map(move |p| (mptcp, *p)));
        let kinds: Vec<(bool, Peer)> = kinds.collect();
        let mut progress = Progress::new(kinds.len() * usize::try_from(repeat).unwrap_or(1));
        for round in 1..=repeat {
            for &(mptcp, peer) in &kinds {
                let client = title(peer, mptcp);
                progress.begin(&format!("run {round}, {client}"));
                let relay = Running::start(peer, mptcp, None, cpus, &scratch, interrupt)?;
                for (direction, streams) in LOADS {
                    let load = Load { mptcp, direction, streams };
                    let sample = far.measure(&relay, &lab, load, plan).map_err(|message| {
                        format!("{client}, {direction:?}, {streams}: {message}")
                    })?;
                    let key = (peer, mptcp, direction, streams);
                    results.entry(key).or_default().push(sample);
                }
                far.orders.send(Order::Rest).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    })?;
    Ok(table(&results, peers))
}

#[derive(Clone, Copy, Debug)]
struct Load {
    mptcp: bool,
    direction: Direction,
    streams: usize,
}

/// The other side of the loop with both ends.
struct Far {
    orders: Sender<Order>,
    seen: Arc<Seen>,
}

/// Runs `measure` beside a loop with both ends.
fn with_ends(
    lab: &Lab<'_>,
    measure: impl FnOnce(&Far) -> Result<(), String>,
) -> Result<(), String> {
    let driver = Driver::start(eal(lab), ports(), Vec::new()).map_err(|error| error.to_string())?;
    let (orders, taken) = channel();
    let far = Far { orders, seen: Arc::default() };
    let mut ends = Ends::new(&driver, taken, Arc::clone(&far.seen));
    let core = lab.cpus.load();
    let result = std::thread::scope(|scope| {
        let shard =
            scope.spawn(|| driver.run(0, core, &mut ends).map_err(|error| error.to_string()));
        let measured = measure(&far);
        // The loop ends with the last of those who could tell it something.
        drop(far);
        driver.stop();
        let ran = shard.join().unwrap_or(Err("the loop with both ends panicked".to_owned()));
        measured.and(ran)
    });
    driver.close();
    result
}

fn eal(lab: &Lab<'_>) -> EalConfig {
    let words =
        ["--in-memory", "--no-pci", "--no-telemetry", "--log-level=4", "--single-file-segments"];
    let vdev = |at| {
        let socket = socket(lab.scratch.path(), at);
        // Whether segments come in one piece is the gateway's choice.
        format!("--vdev=net_vhost{at},iface={},queues=1,tso=1", socket.display())
    };
    EalConfig {
        words: words.into_iter().map(str::to_owned).chain((0..PORTS.len()).map(vdev)).collect(),
        cores: vec![lab.cpus.load()],
        hugepages: Hugepages::Off,
        ..EalConfig::default()
    }
}

fn ports() -> Vec<PortConfig> {
    let port = |(at, (name, addresses)): (usize, (&str, &[&str]))| PortConfig {
        // They are written above.
        addresses: addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        ..PortConfig::new(name, &format!("net_vhost{at}"))
    };
    PORTS.into_iter().enumerate().map(port).collect()
}

impl Far {
    fn measure(
        &self,
        relay: &Running,
        lab: &Lab<'_>,
        load: Load,
        plan: Plan,
    ) -> Result<Sample, String> {
        let Load { mptcp, direction, streams } = load;
        let seen = &self.seen;
        let octets = || seen.octets.load(Ordering::Relaxed);
        let joined = seen.joins.load(Ordering::Relaxed);
        let failed = seen.failures.load(Ordering::Relaxed);
        let begun = octets();
        let carry = Order::Carry { target: Peer::Vhost.target(mptcp), direction, streams };
        self.orders.send(carry).map_err(|error| error.to_string())?;
        let flows = || Ok(octets() > begun + streams as u64 * SEGMENT as u64);
        if !lab.interrupt.wait_for(READY_MAX, flows)? {
            return Err("nothing arrived".to_owned());
        }
        lab.interrupt.sleep(plan.warm_up)?;
        let (spent, start, before) = (relay.spent()?, Instant::now(), octets());
        lab.interrupt.sleep(plan.watch)?;
        // Others may have had both CPUs all the while.
        let moved = || Ok(octets() > before);
        if !lab.interrupt.wait_for(READY_MAX, moved)? {
            return Err("the streams stand still".to_owned());
        }
        let (arrived, seconds) = ((octets() - before) as f64, start.elapsed().as_secs_f64());
        let busy_ns = (relay.spent()?.busy_ns - spent.busy_ns) as f64;
        relay.check()?;
        if seen.failures.load(Ordering::Relaxed) > failed {
            return Err("a stream ended by itself".to_owned());
        }
        if mptcp && seen.joins.load(Ordering::Relaxed) == joined {
            return Err("no second subflow was made".to_owned());
        }
        Ok(Sample {
            gbit_per_s: arrived * 8.0 / 1e9 / seconds,
            busy_ns: busy_ns / (arrived / SEGMENT),
        })
    }
}

fn title(peer: Peer, mptcp: bool) -> String {
    let client = if mptcp { "MPTCP, 2 paths" } else { "TCP" };
    format!("{client}{}", if peer == Peer::VhostTso { ", TSO" } else { "" })
}

fn table(results: &Results, peers: &[Peer]) -> String {
    let mhz = tsc_mhz();
    let mut text = String::from(
        "| client | way, streams | Gbit/s | busy ns per 1448 octets | of plain TCP's | cycles per octet |\n\
         |---|---|---|---|---|---|\n",
    );
    let of = |key: Key, value: fn(&Sample) -> f64| {
        results.get(&key).and_then(|samples| median(samples.iter().map(value).collect()))
    };
    for (mptcp, peer) in
        CLIENTS.into_iter().flat_map(|mptcp| peers.iter().map(move |p| (mptcp, *p)))
    {
        for (direction, streams) in LOADS {
            let key = (peer, mptcp, direction, streams);
            let busy = of(key, |sample| sample.busy_ns);
            let plain = of((Peer::Vhost, false, direction, streams), |sample| sample.busy_ns);
            let ratio = busy.zip(plain).map(|(ours, plain)| ours / plain);
            let cycles = busy.zip(mhz).map(|(ns, mhz)| ns * mhz / 1e3 / SEGMENT);
            let way = match direction {
                Direction::Down => "down",
                Direction::Up => "up",
            };
            // Formatting into a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {way}, {streams} | {} | {} | {} | {} |",
                title(peer, mptcp),
                cell(of(key, |sample| sample.gbit_per_s), 2),
                cell(busy, 0),
                cell(ratio, 2),
                cell(cycles, 2),
            );
        }
    }
    text
}

fn cell(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
}

/// The first CPU's clock as the kernel tells it.
fn tsc_mhz() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    line.split_once(": ")?.1.trim().parse().ok()
}
