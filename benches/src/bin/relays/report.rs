//! The tables.

use crate::load::Direction;
use crate::measure::{Load, Outcome, Plan, Sample};
use crate::peer::Peer;
use core::fmt::Write as _;
use std::collections::BTreeMap;

/// All samples, by peer, client and load.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<(Peer, bool, Load), Vec<Sample>>,
    /// Shares of the gateway's CPU that others used.
    bases: Vec<f64>,
}

impl Results {
    pub(crate) fn add(&mut self, peer: Peer, mptcp: bool, outcomes: Vec<Outcome>, base: f64) {
        self.bases.push(base);
        for (load, outcome) in outcomes {
            match outcome {
                Ok(sample) => self.samples.entry((peer, mptcp, load)).or_default().push(sample),
                Err(message) => eprintln!("  {load:?} failed: {message}"),
            }
        }
    }

    /// The median of what `of` takes from the samples.
    pub(crate) fn median(
        &self,
        key: (Peer, bool, Load),
        of: impl Fn(&Sample) -> f64,
    ) -> Option<f64> {
        median(self.samples.get(&key)?.iter().map(of).collect())
    }

    fn has(&self, peer: Peer, mptcp: bool) -> bool {
        self.samples.keys().any(|&(found, client, _)| (found, client) == (peer, mptcp))
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

/// A column: its title, its load, what it shows of the samples, and with how many decimals.
type Column = (String, Load, fn(&Sample) -> f64, usize);

pub(crate) fn tables(results: &Results, plan: &Plan) -> String {
    let bulk: Vec<_> = plan.loads.iter().copied().filter(|l| matches!(l, Load::Bulk(..))).collect();
    let column = |load: &Load, of: fn(&Sample) -> f64| -> Column {
        let Load::Bulk(direction, streams) = *load else { return (String::new(), *load, of, 2) };
        let way = if direction == Direction::Down { "down" } else { "up" };
        (format!("{way}, {streams}"), *load, of, 2)
    };
    let costs: Vec<_> = bulk.iter().map(|load| column(load, |sample| sample.cost)).collect();
    let rates: Vec<_> = bulk.iter().map(|load| column(load, |sample| sample.rate)).collect();
    let others: Vec<Column> = vec![
        ("sessions/s".to_owned(), Load::Sessions, |sample| sample.rate, 0),
        ("CPU µs/session".to_owned(), Load::Sessions, |sample| sample.cost, 0),
        ("p50 µs".to_owned(), Load::PingPong, |sample| sample.trips[0], 0),
        ("p99 µs".to_owned(), Load::PingPong, |sample| sample.trips[1], 0),
        ("p99.9 µs".to_owned(), Load::PingPong, |sample| sample.trips[2], 0),
    ];
    let mut text = String::new();
    for (title, columns) in [
        ("CPU seconds per GB, by direction and streams:", costs),
        ("Goodput, Gbit/s:", rates),
        ("Sessions, and round trips of an octet:", others),
    ] {
        // Formatting into a String cannot fail.
        let _ = writeln!(text, "{title}\n\n{}", table(results, &columns));
    }
    if let Some(base) = median(results.bases.clone()) {
        let _ = writeln!(
            text,
            "Others used {:.1} % of the gateway's CPU before (subtracted).",
            base * 100.0
        );
    }
    text
}

fn table(results: &Results, columns: &[Column]) -> String {
    let titles: Vec<_> = columns.iter().map(|(title, ..)| title.as_str()).collect();
    let mut text = format!("| relay | client | {} |\n", titles.join(" | "));
    let _ = writeln!(text, "|---|---|{}", "---|".repeat(columns.len()));
    for peer in Peer::ALL {
        for mptcp in [false, true] {
            if !results.has(peer, mptcp) {
                continue;
            }
            let client = if mptcp { "MPTCP" } else { "TCP" };
            let cells = columns.iter().map(|&(_, load, of, decimals)| {
                let value = results.median((peer, mptcp, load), of);
                value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
            });
            let cells: Vec<_> = cells.collect();
            let _ = writeln!(text, "| {} | {client} | {} |", peer.title(), cells.join(" | "));
        }
    }
    text
}
