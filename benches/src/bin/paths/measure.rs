//! One run of one peer, and what is read from it.

use crate::bed::{Bed, KERNEL, OURS};
use crate::receiver::{Arrivals, Via, download};
use crate::scenario::{Load, Scenario};
use crate::{kernel, ours};
use core::time::Duration;
use mptcp_core::config::CongestionAlgorithm;
use plait_bench::interrupt::Interrupt;

/// Who sends, and over what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Peer {
    /// The kernel's TCP (CUBIC) over one link.
    TcpA,
    TcpB,
    /// The kernel's MPTCP over both.
    KernelCubic,
    KernelBbr,
    /// Our MPTCP over both.
    Ours(CongestionAlgorithm),
}

impl Peer {
    /// Those a scenario compares.
    pub(crate) fn of(load: Load, ours: &[CongestionAlgorithm]) -> Vec<Self> {
        let kernels: &[Self] = match load {
            Load::Cut { .. } => &[Self::KernelCubic, Self::KernelBbr],
            _ => &[Self::TcpA, Self::TcpB, Self::KernelCubic, Self::KernelBbr],
        };
        kernels.iter().copied().chain(ours.iter().copied().map(Self::Ours)).collect()
    }
}

/// What one run showed; what does not apply to its load is zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Value {
    /// Megabits of payload per second after the first second.
    pub(crate) rate: f64,
    /// The same in the first second.
    pub(crate) first_second: f64,
    /// The longest time without an arrival, in milliseconds.
    pub(crate) gap_ms: f64,
    /// From the first SYN to the last octet, in milliseconds.
    pub(crate) took_ms: f64,
    /// What a cut cost, as milliseconds of the other link's capacity.
    pub(crate) deficit_ms: f64,
}

/// Ramp-up that a rate leaves out.
const RAMP: Duration = Duration::from_secs(1);
/// When a stream counts as steady.
const STEADY: Duration = Duration::from_secs(2);
/// How long after a cut its cost is counted.
const COST: Duration = Duration::from_secs(3);

/// Makes the network, runs the transfer and takes both down again.
pub(crate) fn run(
    scenario: &Scenario,
    peer: Peer,
    seed: u64,
    interrupt: &Interrupt,
) -> Result<Value, String> {
    let bed = Bed::create(scenario.links, scenario.recv_max, seed)?;
    let arrivals = match peer {
        Peer::Ours(congestion) => {
            let _server = ours::Server::start(&bed, congestion)?;
            download(&bed, OURS, Via::Both, scenario.load, interrupt)?
        }
        _ => {
            let congestion = if peer == Peer::KernelBbr { "bbr" } else { "cubic" };
            let via = match peer {
                Peer::TcpA => Via::TcpA,
                Peer::TcpB => Via::TcpB,
                _ => Via::Both,
            };
            let _server = kernel::Server::start(&bed, congestion)?;
            download(&bed, KERNEL, via, scenario.load, interrupt)?
        }
    };
    Ok(value(scenario, &arrivals))
}

fn value(scenario: &Scenario, arrivals: &Arrivals) -> Value {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    match scenario.load {
        Load::Stream(duration) => Value {
            rate: arrivals.rate(RAMP, duration),
            first_second: arrivals.rate(Duration::ZERO, RAMP),
            gap_ms: ms(arrivals.longest_gap(STEADY, duration)),
            ..Value::default()
        },
        Load::Transfer(_) => Value { took_ms: ms(arrivals.end()), ..Value::default() },
        Load::Cut { .. } => {
            let cut = arrivals.cut.unwrap_or_default();
            let survivor = f64::from(scenario.links[1].mbit) * 0.94;
            let missing = survivor - arrivals.rate(cut, cut + COST);
            Value {
                gap_ms: ms(arrivals.longest_gap(cut, cut + COST)),
                deficit_ms: missing / survivor * ms(COST),
                ..Value::default()
            }
        }
    }
}
