//! Medians, and the tables as Markdown.

use crate::measure::{Peer, Value};
use crate::scenario::{Load, Scenario};
use core::fmt::Write as _;
use mptcp_core::config::CongestionAlgorithm;
use std::collections::HashMap;

/// What every run of one scenario gave, by peer.
pub(crate) type Runs = HashMap<Peer, Vec<Value>>;

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

/// One line of the table, with `ours` in the place of our sender. Which it is stands beside the row
/// unless it is the default.
pub(crate) fn line(scenario: &Scenario, runs: &Runs, ours: CongestionAlgorithm) -> String {
    let named = if ours == CongestionAlgorithm::default() { "" } else { ours.name() };
    let row = format!("{} {named}", scenario.row);
    let mut line = format!("| {} | {} |", row.trim_end(), scenario.title);
    let ours = Peer::Ours(ours);
    match scenario.load {
        Load::Stream(_) => stream_line(&mut line, scenario, runs, ours),
        Load::Transfer(_) => transfer_line(&mut line, runs, ours),
        Load::Cut { .. } => cut_line(&mut line, runs, ours),
    }
    line
}

const COLUMNS: [Peer; 4] = [Peer::TcpA, Peer::TcpB, Peer::KernelCubic, Peer::KernelBbr];

fn stream_line(line: &mut String, scenario: &Scenario, runs: &Runs, own: Peer) {
    let rate = |peer| middle(runs, peer, |value| value.rate);
    for peer in COLUMNS.into_iter().chain([own]) {
        let _ = write!(line, " {:.1} |", rate(peer));
    }
    let carried: u32 = scenario.links.iter().map(|link| link.mbit).sum();
    let ours = rate(own);
    let kernel = rate(Peer::KernelCubic).max(rate(Peer::KernelBbr));
    let best = rate(Peer::TcpA).max(rate(Peer::TcpB));
    for ratio in [ours / (f64::from(carried) * PAYLOAD), ours / best, ours / kernel] {
        let _ = write!(line, " {ratio:.3} |");
    }
    let first = middle(runs, own, |value| value.first_second);
    let gap = middle(runs, own, |value| value.gap_ms);
    let _ = write!(line, " {first:.0} | {gap:.0} ms |");
}

/// Payload of a full segment with its DSS over what it takes on a link.
const PAYLOAD: f64 = 0.94;

fn transfer_line(line: &mut String, runs: &Runs, own: Peer) {
    let took = |peer| middle(runs, peer, |value| value.took_ms);
    for peer in COLUMNS.into_iter().chain([own]) {
        let _ = write!(line, " {:.0} ms |", took(peer));
    }
    let best = took(Peer::TcpA).min(took(Peer::TcpB));
    let kernel = took(Peer::KernelCubic).min(took(Peer::KernelBbr));
    let _ = write!(line, " {:.3} | {:.3} |", took(own) / best, kernel / best);
}

fn cut_line(line: &mut String, runs: &Runs, own: Peer) {
    let peers = [Peer::KernelCubic, Peer::KernelBbr, own];
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
