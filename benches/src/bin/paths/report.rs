//! Medians, and the tables as Markdown.

use crate::measure::{Peer, Value};
use crate::scenario::{Load, Scenario};
use core::fmt::Write as _;
use std::collections::BTreeMap;

/// What every run of one scenario gave, by peer.
pub(crate) type Runs = BTreeMap<Peer, Vec<Value>>;

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

fn middle(runs: &Runs, peer: Peer, of: impl Fn(&Value) -> f64) -> f64 {
    median(runs.get(&peer).map(|values| values.iter().map(of).collect()).unwrap_or_default())
}

/// The table header of a row of the suite; the rows of one kind follow each other.
pub(crate) fn header(scenario: &Scenario) -> String {
    let columns: &[&str] = match scenario.load {
        Load::Stream(_) => &[
            "row",
            "links (Mbit/s / ms one way)",
            "TCP a",
            "TCP b",
            "kernel cubic",
            "kernel bbr",
            "**ours**",
            "ours / links",
            "ours / best TCP",
            "ours / kernel",
            "first second",
            "longest gap",
        ],
        Load::Transfer(_) => &[
            "row",
            "links, size",
            "TCP a",
            "TCP b",
            "kernel cubic",
            "kernel bbr",
            "**ours**",
            "ours / best TCP",
            "kernel / best TCP",
        ],
        Load::Cut { .. } => &[
            "row",
            "links",
            "gap: kernel cubic",
            "kernel bbr",
            "**ours**",
            "deficit: kernel cubic",
            "kernel bbr",
            "**ours**",
        ],
    };
    let rule: String = columns.iter().map(|_| "---|").collect();
    format!("\n| {} |\n|{rule}", columns.join(" | "))
}

/// One line of the table.
pub(crate) fn line(scenario: &Scenario, runs: &Runs) -> String {
    let mut line = format!("| {} | {} |", scenario.row, scenario.title);
    match scenario.load {
        Load::Stream(_) => stream_line(&mut line, scenario, runs),
        Load::Transfer(_) => transfer_line(&mut line, runs),
        Load::Cut { .. } => cut_line(&mut line, runs),
    }
    line
}

const COLUMNS: [Peer; 5] = [Peer::TcpA, Peer::TcpB, Peer::KernelCubic, Peer::KernelBbr, Peer::Ours];

fn stream_line(line: &mut String, scenario: &Scenario, runs: &Runs) {
    let rate = |peer| middle(runs, peer, |value| value.rate);
    for peer in COLUMNS {
        let _ = write!(line, " {:.1} |", rate(peer));
    }
    let carried: u32 = scenario.links.iter().map(|link| link.mbit).sum();
    let ours = rate(Peer::Ours);
    let kernel = rate(Peer::KernelCubic).max(rate(Peer::KernelBbr));
    let best = rate(Peer::TcpA).max(rate(Peer::TcpB));
    for ratio in [ours / (f64::from(carried) * PAYLOAD), ours / best, ours / kernel] {
        let _ = write!(line, " {ratio:.3} |");
    }
    let first = middle(runs, Peer::Ours, |value| value.first_second);
    let gap = middle(runs, Peer::Ours, |value| value.gap_ms);
    let _ = write!(line, " {first:.0} | {gap:.0} ms |");
}

/// Payload of a full segment with its DSS over what it takes on a link.
const PAYLOAD: f64 = 0.94;

fn transfer_line(line: &mut String, runs: &Runs) {
    let took = |peer| middle(runs, peer, |value| value.took_ms);
    for peer in COLUMNS {
        let _ = write!(line, " {:.0} ms |", took(peer));
    }
    let best = took(Peer::TcpA).min(took(Peer::TcpB));
    let kernel = took(Peer::KernelCubic).min(took(Peer::KernelBbr));
    let _ = write!(line, " {:.3} | {:.3} |", took(Peer::Ours) / best, kernel / best);
}

fn cut_line(line: &mut String, runs: &Runs) {
    let peers = [Peer::KernelCubic, Peer::KernelBbr, Peer::Ours];
    for peer in peers {
        let _ = write!(line, " {:.0} ms |", middle(runs, peer, |value| value.gap_ms));
    }
    for peer in peers {
        let _ = write!(line, " {:.0} ms |", middle(runs, peer, |value| value.deficit_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
