//! Nanoseconds, each beside a peer's in the same run.
//!
//! Both take turns, so that what else the machine does falls on both. What counts is the median of the ratios of
//! neighbours; where other programs share the caches, the ratio of the least times says more.

use crate::meter::Meter;
use crate::{micro, peers, relay};
use core::time::Duration;

/// A run lasts so long at least.
const LEAST: Duration = Duration::from_millis(5);

type Run = fn(&mut Meter);

/// One row: ours, and whom it is held against.
struct Row {
    goal: &'static str,
    what: &'static str,
    ours: Run,
    peer: &'static str,
    theirs: Run,
    /// Hundreds of megabytes, or seconds.
    large: bool,
}

const fn row(
    goal: &'static str,
    what: &'static str,
    ours: Run,
    peer: &'static str,
    theirs: Run,
) -> Row {
    Row { goal, what, ours, peer, theirs, large: false }
}

const fn large(row: Row) -> Row {
    Row { large: true, ..row }
}

const MANY: u32 = 1_000_000;

const ROWS: &[Row] = &[
    row("M1", "sum of 1460 octets", micro::checksum, "smoltcp", peers::smol_checksum),
    row("M2", "header parsed, TS + DSS", micro::parse, "smoltcp, TS", peers::smol_parse),
    row("M2", "header written, TS + DSS", micro::emit, "smoltcp, TS", peers::smol_emit),
    row("M3", "HMAC of an MP_JOIN", micro::hmac, "crate hmac", peers::plain_hmac),
    row("M3", "token of a key", micro::token_of_key, "crate sha2", peers::plain_hash),
    row("M4", "timer armed, 1 k", micro::arm::<1000>, "BinaryHeap", peers::heap_arm::<1000>),
    row("M4", "timer due, 1 k", micro::expire::<1000>, "BinaryHeap", peers::heap_expire::<1000>),
    large(row("M4", "timer armed, 1 M", micro::arm::<MANY>, "ours, 1 k", micro::arm::<1000>)),
    large(row(
        "M4",
        "timer stopped, 1 M",
        micro::cancel::<MANY>,
        "ours, 1 k",
        micro::cancel::<1000>,
    )),
    large(row("M4", "timer due, 1 M", micro::expire::<MANY>, "ours, 1 k", micro::expire::<1000>)),
    row("M5", "lookup + 3 lines, 1", micro::lookup::<1>, "std HashMap", peers::map_lookup::<1>),
    row(
        "M5",
        "lookup + 3 lines, 10 k",
        micro::lookup::<10_000>,
        "std HashMap",
        peers::map_lookup::<10_000>,
    ),
    large(row(
        "M5",
        "lookup + 3 lines, 1 M",
        micro::lookup::<MANY>,
        "std HashMap",
        peers::map_lookup::<MANY>,
    )),
    row(
        "M6",
        "choice of 2 subflows",
        micro::pick::<2, false>,
        "ours, fastest full",
        micro::pick::<2, true>,
    ),
    row(
        "M6",
        "choice of 8 subflows",
        micro::pick::<8, false>,
        "ours, fastest full",
        micro::pick::<8, true>,
    ),
    row("S1", "1448 octets, TCP to TCP, down", relay::tcp_down, "smoltcp", peers::smol_down),
    row("S1", "1448 octets, TCP to TCP, up", relay::tcp_up, "smoltcp", peers::smol_up),
    row(
        "S2",
        "1448 octets, TCP to MPTCP, down",
        relay::mptcp_down,
        "smoltcp, TCP",
        peers::smol_down,
    ),
    row("S2", "1448 octets, MPTCP to TCP, up", relay::mptcp_up, "smoltcp, TCP", peers::smol_up),
    row("S4", "1448 octets, MPTCP, down", relay::mptcp_down, "ours, TCP", relay::tcp_down),
    row("S4", "1448 octets, MPTCP, up", relay::mptcp_up, "ours, TCP", relay::tcp_up),
    row(
        "S10",
        "1448 octets reordered, down",
        relay::down_reordered,
        "ours, even",
        relay::down_even,
    ),
    row("S10", "1448 octets reordered, up", relay::up_reordered, "ours, even", relay::up_even),
    row(
        "S5",
        "SOCKS5 session, MPTCP + join",
        relay::mptcp_sessions,
        "ours, TCP",
        relay::tcp_sessions,
    ),
];

/// Prints every row, `runs` of each contender; `quick` leaves the large ones out.
pub(crate) fn print(runs: usize, quick: bool) {
    println!(
        "| goal | what | **ours, ns** | peer | peer, ns | ours / peer | least / least |\n|---|---|---|---|---|---|---|"
    );
    for row in ROWS.iter().filter(|row| !(quick && row.large)) {
        eprintln!("{} {}", row.goal, row.what);
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..runs {
            let pair = (time(row.ours), time(row.theirs));
            ours.push(pair.0);
            theirs.push(pair.1);
            ratios.push(pair.0 / pair.1);
        }
        let [ours, theirs, ratios] = [ours, theirs, ratios].map(Spread::of);
        println!(
            "| {} | {} | {} | {} | {} | {:.2} | {:.2} |",
            row.goal,
            row.what,
            shown(ours),
            row.peer,
            shown(theirs),
            ratios.median,
            ours.least / theirs.least
        );
    }
}

/// Nanoseconds of an operation.
fn time(run: Run) -> f64 {
    let mut meter = Meter::default();
    while meter.elapsed() < LEAST {
        run(&mut meter);
    }
    meter.ns()
}

/// The least, the middle and the most of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    most: f64,
}

impl Spread {
    /// Of at least one.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[half - 1], values[half]),
            _ => values[half],
        };
        Self { least: values[0], median, most: values[values.len() - 1] }
    }
}

/// As tables have it.
pub(crate) fn shown(of: Spread) -> String {
    format!("{:.1} [{:.1}-{:.1}]", of.median, of.least, of.most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let odd = Spread { least: 1.0, median: 2.0, most: 3.0 };
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), odd);
        let even = Spread { least: 1.0, median: 2.5, most: 4.0 };
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 3.0]), even);
    }

    /// Peers, too, check what they did.
    #[test]
    fn every_peer_runs() {
        for row in ROWS.iter().filter(|row| !row.large) {
            let mut meter = Meter::default();
            (row.theirs)(&mut meter);
            assert!(meter.ns() > 0.0, "{}", row.peer);
        }
    }
}
