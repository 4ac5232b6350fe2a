//! The tables and the plot.

use crate::load::Direction;
use crate::measure::{Load, NOISE, Outcome, Plan, Sample};
use crate::peer::Peer;
use crate::plot::{self, Bar};
use core::fmt::Write as _;
use std::collections::BTreeMap;

/// What of a sample a column shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    /// Gbit/s, or sessions per second.
    Rate,
    /// CPU seconds per GB, or microseconds per session.
    Cost,
    /// What of it the relay's own processes used.
    OwnCost,
    /// The same of a polling loop's turns that had something to do.
    LoopCost,
    /// A round trip, by its place in the sample.
    Trip(usize),
    /// The same without what it takes when packets are only forwarded.
    Added(usize),
}

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

    /// Whether a run of those that were asked for did not fail: where none was, of any but the forwarding kernel,
    /// which is there for each of the others.
    pub(crate) fn has_any(&self, wanted: &[Peer]) -> bool {
        let asked = |peer: Peer| match wanted {
            [] => peer != Peer::Routed,
            _ => wanted.contains(&peer),
        };
        self.samples.keys().any(|&(peer, ..)| asked(peer))
    }

    fn has(&self, peer: Peer, mptcp: bool) -> bool {
        self.samples.keys().any(|&(found, client, _)| (found, client) == (peer, mptcp))
    }

    /// The median over the runs.
    fn median(&self, peer: Peer, mptcp: bool, load: Load, value: Value) -> Option<f64> {
        let samples = self.samples.get(&(peer, mptcp, load))?;
        let of = |sample: &Sample| match value {
            Value::Rate => sample.rate,
            Value::Cost => sample.cost,
            Value::OwnCost => sample.own_cost,
            Value::LoopCost => sample.loop_cost,
            Value::Trip(at) | Value::Added(at) => sample.trips[at],
        };
        let found = median(samples.iter().map(of).filter(|value| !value.is_nan()).collect())?;
        match value {
            Value::Added(_) if peer == Peer::Routed => None,
            Value::Added(at) => {
                Some(found - self.median(Peer::Routed, false, load, Value::Trip(at))?)
            }
            _ => Some(found),
        }
    }

    /// What the best rival has for the same kind of client.
    fn best(&self, mptcp: bool, load: Load, value: Value) -> Option<(f64, Peer)> {
        let rivals = Peer::ALL.into_iter().filter(|peer| peer.is_rival());
        let found = rivals.filter_map(|peer| Some((self.median(peer, mptcp, load, value)?, peer)));
        let by_value = |a: &(f64, Peer), b: &(f64, Peer)| a.0.total_cmp(&b.0);
        if value == Value::Rate { found.max_by(by_value) } else { found.min_by(by_value) }
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

/// A column: its title, its load, what it shows, and with how many decimals.
type Column = (String, Load, Value, usize);

fn bulk_columns(plan: &Plan, value: Value) -> Vec<Column> {
    let column = |load: &Load| match *load {
        Load::Bulk(Direction::Down, streams) => Some((format!("down, {streams}"), *load, value, 2)),
        Load::Bulk(Direction::Up, streams) => Some((format!("up, {streams}"), *load, value, 2)),
        Load::Sessions | Load::PingPong => None,
    };
    plan.loads.iter().filter_map(column).collect()
}

fn other_columns() -> Vec<Column> {
    let column = |title: &str, load, value| (title.to_owned(), load, value, 0);
    vec![
        column("sessions/s", Load::Sessions, Value::Rate),
        column("CPU µs/session", Load::Sessions, Value::Cost),
        column("in its processes", Load::Sessions, Value::OwnCost),
        column("p50 µs", Load::PingPong, Value::Trip(0)),
        column("added p50", Load::PingPong, Value::Added(0)),
        column("added p99", Load::PingPong, Value::Added(1)),
        column("added p99.9", Load::PingPong, Value::Added(2)),
    ]
}

/// Everything as Markdown.
pub(crate) fn tables(results: &Results, plan: &Plan) -> String {
    let (costs, rates) = (bulk_columns(plan, Value::Cost), bulk_columns(plan, Value::Rate));
    let mut text = String::new();
    for (title, columns) in [
        ("CPU seconds per GB, by direction and streams:", &costs),
        (
            "In the relay's own processes alone, CPU seconds per GB:",
            &bulk_columns(plan, Value::OwnCost),
        ),
        ("Busy turns of polling loops, seconds per GB:", &bulk_columns(plan, Value::LoopCost)),
        ("Goodput, Gbit/s:", &rates),
        ("Sessions, and round trips of an octet in microseconds:", &other_columns()),
    ] {
        // Formatting into a String cannot fail.
        let _ = writeln!(text, "{title}\n\n{}", values(results, columns));
    }
    let judged = [
        ("CPU per session".to_owned(), Load::Sessions, Value::Cost, 2),
        ("added p50".to_owned(), Load::PingPong, Value::Added(0), 2),
    ];
    let judged: Vec<_> = costs.into_iter().chain(judged).collect();
    let _ = writeln!(
        text,
        "Ours / best relay on the kernel's sockets under the same conditions (less is better):\n\n{}",
        ratios(results, &judged)
    );
    let _ = writeln!(
        text,
        "Goodput of ours / testpmd over the same devices (more is better):\n\n{}",
        ceilings(results, &rates)
    );
    let is_there = |peer: &Peer| results.has(*peer, false) || results.has(*peer, true);
    let elsewhere = Peer::ALL.into_iter().filter(|peer| peer.receives_elsewhere());
    let elsewhere: Vec<_> = elsewhere.filter(is_there).map(Peer::title).collect();
    if !elsewhere.is_empty() {
        let _ = writeln!(
            text,
            "CPU lacks what is done with packets that arrive, by NAPI on the load's CPU: {}.\n",
            elsewhere.join("; ")
        );
    }
    if let Some(base) = median(results.bases.clone()) {
        let _ = writeln!(
            text,
            "Others used {:.1} % of the gateway's CPU before each relay started (subtracted).",
            base * 100.0
        );
        if base > NOISE {
            eprintln!("relays: the machine is not quiet: CPU time in all cannot be told");
        }
    }
    text
}

fn head(columns: &[Column]) -> String {
    let titles: Vec<_> = columns.iter().map(|(title, ..)| title.as_str()).collect();
    let rule = "---|".repeat(columns.len());
    format!("| relay | client | {} |\n|---|---|{rule}\n", titles.join(" | "))
}

const fn client(mptcp: bool) -> &'static str {
    if mptcp { "MPTCP" } else { "TCP" }
}

fn values(results: &Results, columns: &[Column]) -> String {
    let mut text = head(columns);
    for (peer, mptcp) in rows() {
        if !results.has(peer, mptcp) {
            continue;
        }
        let cells = columns.iter().map(|&(_, load, value, decimals)| {
            let value = results.median(peer, mptcp, load, value);
            value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
        });
        let cells: Vec<_> = cells.collect();
        if cells.iter().any(|cell| cell != "-") {
            let row = cells.join(" | ");
            let _ = writeln!(text, "| {} | {} | {row} |", peer.title(), client(mptcp));
        }
    }
    text
}

fn ratios(results: &Results, columns: &[Column]) -> String {
    let mut text = head(columns);
    for (peer, mptcp) in rows() {
        if !peer.is_ours() || !results.has(peer, mptcp) {
            continue;
        }
        let cells = columns.iter().map(|&(_, load, value, _)| {
            let ours = results.median(peer, mptcp, load, value);
            match (ours, results.best(mptcp, load, value)) {
                (Some(ours), Some((best, rival))) if best > 0.0 => {
                    format!("{:.2} ({})", ours / best, rival.name())
                }
                _ => "-".to_owned(),
            }
        });
        let cells: Vec<_> = cells.collect();
        let _ = writeln!(text, "| {} | {} | {} |", peer.title(), client(mptcp), cells.join(" | "));
    }
    text
}

/// Ours beside what the same devices carry.
fn ceilings(results: &Results, columns: &[Column]) -> String {
    let mut text = head(columns);
    for (peer, mptcp) in rows() {
        let Some(ceiling) = peer.ceiling().filter(|_| results.has(peer, mptcp)) else { continue };
        let cells = columns.iter().map(|&(_, load, value, _)| {
            let ours = results.median(peer, mptcp, load, value);
            let most = results.median(ceiling, false, load, value);
            ours.zip(most).map_or("-".to_owned(), |(ours, most)| format!("{:.2}", ours / most))
        });
        let cells: Vec<_> = cells.collect();
        let _ = writeln!(text, "| {} | {} | {} |", peer.title(), client(mptcp), cells.join(" | "));
    }
    text
}

fn rows() -> impl Iterator<Item = (Peer, bool)> {
    Peer::ALL.into_iter().flat_map(|peer| [(peer, false), (peer, true)])
}

/// CPU per GB of a download over 16 streams.
pub(crate) fn plot(results: &Results) -> String {
    let load = Load::Bulk(Direction::Down, 16);
    let bars: Vec<_> = rows()
        .filter_map(|(peer, mptcp)| {
            let value = results.median(peer, mptcp, load, Value::Cost)?;
            let label = format!("{}, {}", peer.title().replace("**", ""), client(mptcp));
            Some(Bar { label, value, is_ours: peer.is_ours() })
        })
        .collect();
    plot::bars("CPU seconds per GB relayed: download, 16 streams, frames of 1500 octets", &bars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn results() -> (Results, Plan) {
        let loads = vec![Load::Bulk(Direction::Down, 16), Load::Sessions, Load::PingPong];
        let mut results = Results::default();
        for (peer, cost, trip) in [
            (Peer::Routed, 0.5, 60.0),
            (Peer::Splice, 2.0, 100.0),
            (Peer::Dante, 4.0, 90.0),
            (Peer::AfXdp, 1.0, 75.0),
        ] {
            for run in [0.0, 0.5, 7.0] {
                let sample = Sample {
                    rate: 3.0,
                    cost: cost + run,
                    own_cost: 0.25,
                    loop_cost: f64::NAN,
                    trips: [trip + run; 3],
                };
                let mut outcomes: Vec<_> = loads.iter().map(|&load| (load, Ok(sample))).collect();
                outcomes.push((Load::Bulk(Direction::Up, 16), Err("intended".to_owned())));
                results.add(peer, false, outcomes, 0.01);
            }
        }
        let time = Duration::from_secs(1);
        (results, Plan { loads, warm_up: time, watch: time })
    }

    #[test]
    fn rows_are_medians_and_ratios_name_the_best_rival() {
        let (results, plan) = results();
        let text = tables(&results, &plan);
        for line in [
            "| relay | client | down, 16 |",
            "| epoll relay, splice | TCP | 2.50 |",
            "| **Plait, af_xdp** | TCP | 3 | 2 | 0 | 76 | 15 | 15 | 15 |",
            "| forwarded, no relay | TCP | 3 | 1 | 0 | 60 | - | - | - |",
            "| **Plait, af_xdp** | TCP | 0.60 (splice) | 0.60 (splice) | 0.50 (dante) |",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line}\n{text}");
        }
        assert!(text.contains("Others used 1.0 %"), "{text}");
        assert!(text.contains("on the load's CPU: **Plait, af_xdp**.\n"), "{text}");
    }

    #[test]
    fn what_failed_was_not_measured() {
        let mut results = Results::default();
        results.add(Peer::Tun, false, vec![(Load::Sessions, Err("intended".to_owned()))], 0.0);
        assert!(!results.has_any(&[]) && self::results().0.has_any(&[]));
        results.add(Peer::Routed, false, vec![(Load::Sessions, Ok(Sample::default()))], 0.0);
        assert!(!results.has_any(&[]) && !results.has_any(&[Peer::Tun]));
        assert!(results.has_any(&[Peer::Tun, Peer::Routed]));
    }

    #[test]
    fn the_plot_has_a_bar_for_each_row() {
        let svg = plot(&results().0);
        assert_eq!(svg.matches("height=\"16\"").count(), 4);
        assert!(svg.contains("Plait, af_xdp, TCP") && !svg.contains('*'), "{svg}");
    }
}
