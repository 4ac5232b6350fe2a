//! The live view of both paths: redrawn in place on a terminal, a line a second elsewhere.
//!
//! Invariant: figures are differences of the phone's device counters; what the gateway reports of
//! its subflows stands beside them and never replaces them.

use super::counters::LinkBytes;
use super::gateway::Subflow;
use super::topology::Access;
use core::time::Duration;
use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write as _};

/// Rates are averages over this long.
const RATE_WINDOW: Duration = Duration::from_secs(1);
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Bits per second in megabits, of `bytes` in `time`; 0 for no time at all.
pub(super) fn mbps(bytes: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { mega(bytes) * 8.0 / seconds } else { 0.0 }
}

/// Millions, exact to far more digits than are ever shown.
pub(super) fn mega(bytes: u64) -> f64 {
    let (millions, rest) = (bytes / 1_000_000, bytes % 1_000_000);
    let whole = f64::from(u32::try_from(millions).unwrap_or(u32::MAX));
    whole + f64::from(u32::try_from(rest).unwrap_or(0)) / 1e6
}

/// `part` of `whole` in per cent; 0 of nothing.
pub(super) fn per_cent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { mega(part) * 100.0 / mega(whole) }
}

/// A counter's rate over the last second.
#[derive(Debug, Default)]
struct RateMeter(VecDeque<(Duration, LinkBytes)>);

impl RateMeter {
    fn record(&mut self, at: Duration, bytes: LinkBytes) {
        self.0.push_back((at, bytes));
        // The oldest sample kept is the last one outside the window.
        while self.0.get(1).is_some_and(|(second, _)| at - *second >= RATE_WINDOW) {
            self.0.pop_front();
        }
    }

    /// Mbit/s towards the phone and from it.
    fn mbps(&self) -> (f64, f64) {
        let (Some((from, old)), Some((to, new))) = (self.0.front(), self.0.back()) else {
            return (0.0, 0.0);
        };
        let moved = new.since(*old);
        (mbps(moved.rx, *to - *from), mbps(moved.tx, *to - *from))
    }
}

/// One path at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct PathView {
    /// Since the run began.
    pub(super) bytes: LinkBytes,
    /// The emulated link swallows everything.
    pub(super) is_cut: bool,
    /// The gateway's subflow here; of several, the busiest. `None` if there is none.
    pub(super) subflow: Option<Subflow>,
}

/// Where the view goes.
#[derive(Debug)]
pub(super) struct Table {
    is_terminal: bool,
    /// Lines on the terminal that the next redraw replaces.
    drawn_len: usize,
    last_shown: Duration,
    rates: [RateMeter; 2],
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            is_terminal: io::stdout().is_terminal(),
            drawn_len: 0,
            last_shown: Duration::ZERO,
            rates: Default::default(),
        }
    }

    /// Starts the view of another run.
    pub(super) fn begin(&mut self, title: &str) {
        self.drawn_len = 0;
        self.last_shown = Duration::ZERO;
        self.rates = Default::default();
        println!("\n{title}");
    }

    /// Takes a sample `at` this time into the run and shows it if it is time to.
    ///
    /// `progress` is the run's own figure, such as the bytes curl delivered.
    pub(super) fn update(&mut self, at: Duration, progress: &str, paths: &[PathView; 2]) {
        for (rate, path) in self.rates.iter_mut().zip(paths) {
            rate.record(at, path.bytes);
        }
        let interval = if self.is_terminal { REDRAW_INTERVAL } else { LINE_INTERVAL };
        if at < self.last_shown + interval {
            return;
        }
        self.last_shown = at;
        self.show(at, progress, paths);
    }

    /// Shows the last sample of the run whatever the time, and leaves it standing.
    pub(super) fn end(&mut self, at: Duration, progress: &str, paths: &[PathView; 2]) {
        self.show(at, progress, paths);
        self.drawn_len = 0;
    }

    fn show(&mut self, at: Duration, progress: &str, paths: &[PathView; 2]) {
        let rates = [self.rates[0].mbps(), self.rates[1].mbps()];
        let text = if self.is_terminal {
            let lines = table(at, progress, paths, rates);
            let up = self.drawn_len;
            self.drawn_len = lines.len();
            in_place(&lines, up, terminal_width())
        } else {
            format!("{}\n", one_line(at, progress, paths, rates))
        };
        let mut output = io::stdout();
        // A closed terminal ends the demo by SIGHUP, not here.
        let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    }
}

fn terminal_width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    size.map_or(80, |size| usize::from(size.ws_col).max(20))
}

/// Moves up over what was drawn and draws `lines`, each cut to the terminal so that none wraps.
fn in_place(lines: &[String], up: usize, width: usize) -> String {
    let mut text = if up > 0 { format!("\x1b[{up}A") } else { String::new() };
    for line in lines {
        text.extend(line.chars().take(width));
        text.push_str("\x1b[K\n");
    }
    text
}

fn table(
    at: Duration,
    progress: &str,
    paths: &[PathView; 2],
    rates: [(f64, f64); 2],
) -> Vec<String> {
    let total = paths.iter().map(|path| path.bytes.total()).sum();
    let mut lines = vec![
        format!("  {:5.1} s  {progress}", at.as_secs_f64()),
        format!(
            "  {:4}  {:>8} {:>8} {:>9} {:>6} {:>8} {:>8} {:>8}  state",
            "path", "Mb/s dn", "Mb/s up", "MB", "share", "srtt", "cwnd", "retrans"
        ),
    ];
    for ((access, path), (down, up)) in Access::BOTH.into_iter().zip(paths).zip(rates) {
        let (srtt, cwnd, retransmitted, state) = subflow_cells(path);
        lines.push(format!(
            "  {access:4}  {down:8.1} {up:8.1} {:9.1} {:4.0} % {srtt:>8} {cwnd:>8} \
             {retransmitted:>8}  {state}",
            mega(path.bytes.total()),
            per_cent(path.bytes.total(), total),
        ));
    }
    lines
}

fn one_line(at: Duration, progress: &str, paths: &[PathView; 2], rates: [(f64, f64); 2]) -> String {
    let total = paths.iter().map(|path| path.bytes.total()).sum();
    let mut line = format!("  {:5.1} s  {progress}", at.as_secs_f64());
    for ((access, path), (down, up)) in Access::BOTH.into_iter().zip(paths).zip(rates) {
        let bytes = path.bytes.total();
        line.push_str(&format!(
            " | {access} {down:.1}/{up:.1} Mbit/s {:.1} MB {:.0} %{}",
            mega(bytes),
            per_cent(bytes, total),
            if path.is_cut { " CUT" } else { "" }
        ));
    }
    line
}

fn subflow_cells(path: &PathView) -> (String, String, String, String) {
    let dash = || "-".to_owned();
    let Some(subflow) = &path.subflow else {
        let state = if path.is_cut { "CUT".to_owned() } else { dash() };
        return (dash(), dash(), dash(), state);
    };
    let mut state = if path.is_cut { "CUT, ".to_owned() } else { String::new() };
    state.push_str(&subflow.state);
    if subflow.stale {
        state.push_str(", stale");
    }
    if subflow.reinjected > 0 {
        state.push_str(&format!(", {} reinjected", subflow.reinjected));
    }
    (
        format!("{} ms", subflow.srtt_us / 1000),
        format!("{} KB", subflow.cwnd / 1000),
        subflow.retransmitted.to_string(),
        state,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn figures_are_what_they_say() {
        assert!((mbps(1_250_000, ms(1000)) - 10.0).abs() < 1e-9);
        assert!(mbps(1, Duration::ZERO).abs() < 1e-9);
        assert!((mega(104_857_600) - 104.8576).abs() < 1e-9);
        assert!((per_cent(60, 100) - 60.0).abs() < 1e-9);
        assert!(per_cent(0, 0).abs() < 1e-9);
    }

    #[test]
    fn a_rate_forgets_what_is_over_a_second_old() {
        let mut rate = RateMeter::default();
        assert_eq!(rate.mbps(), (0.0, 0.0));
        // 1 MB every 100 ms for two seconds, then nothing for two.
        for step in 0..=40_u64 {
            rate.record(ms(step * 100), LinkBytes { rx: step.min(20) * 1_000_000, tx: 0 });
            if step == 20 {
                assert!((rate.mbps().0 - 80.0).abs() < 1e-6, "{:?}", rate.mbps());
            }
        }
        assert_eq!(rate.mbps(), (0.0, 0.0));
        assert!(rate.0.len() <= 12, "kept {}", rate.0.len());
    }

    fn paths() -> [PathView; 2] {
        let lte = PathView {
            bytes: LinkBytes { rx: 59_000_000, tx: 1_000_000 },
            is_cut: false,
            subflow: Some(Subflow {
                state: "established".to_owned(),
                srtt_us: 40_211,
                cwnd: 146_000,
                retransmitted: 3,
                reinjected: 2,
                ..Subflow::default()
            }),
        };
        let wifi =
            PathView { bytes: LinkBytes { rx: 40_000_000, tx: 0 }, is_cut: true, subflow: None };
        [lte, wifi]
    }

    #[test]
    fn a_table_row_has_the_path_its_share_and_the_subflow() {
        let lines = table(ms(6200), "71.3 MB", &paths(), [(55.1, 1.2), (0.0, 0.0)]);
        assert_eq!(lines.len(), 4);
        let words: Vec<_> = lines[2].split_whitespace().collect();
        let expected = "lte 55.1 1.2 60.0 60 % 40 ms 146 KB 3 established, 2 reinjected";
        assert_eq!(words.join(" "), expected);
        let words: Vec<_> = lines[3].split_whitespace().collect();
        assert_eq!(words.join(" "), "wifi 0.0 0.0 40.0 40 % - - - CUT");
    }

    #[test]
    fn a_plain_line_has_both_paths() {
        let line = one_line(ms(6200), "71.3 MB", &paths(), [(55.1, 1.2), (0.0, 0.0)]);
        let expected = "    6.2 s  71.3 MB | lte 55.1/1.2 Mbit/s 60.0 MB 60 % \
                        | wifi 0.0/0.0 Mbit/s 40.0 MB 40 % CUT";
        assert_eq!(line, expected);
    }

    #[test]
    fn redrawing_moves_up_and_never_wraps() {
        let lines = ["abcdef".to_owned(), "gh".to_owned()];
        assert_eq!(in_place(&lines, 0, 4), "abcd\x1b[K\ngh\x1b[K\n");
        assert_eq!(in_place(&lines, 2, 80), "\x1b[2Aabcdef\x1b[K\ngh\x1b[K\n");
    }
}
