//! What the demo measured, judged and put into words.
//!
//! Invariant: a check that could not be made is never a pass. The exit code is 0 only if every run
//! took place and every check passed; the gates (ratio and gap) may be excused by name.

use super::clients::Tally;
use super::content::Digest;
use super::counters::{LinkBytes, Mib};
use super::table::{mbps, mega, per_cent};
use super::topology::Access;
use core::fmt::{self, Write as _};
use core::time::Duration;

/// Least goodput of (a) relative to the sum of what single-path TCP got on each path alone.
const RATIO_GATE: f64 = 0.95;
/// Longest pause in (c).
const GAP_GATE: Duration = Duration::from_secs(1);
/// A path that carried less than this share of a run carried nothing: acknowledgements and ARP.
const SHARE_MIN_PER_CENT: f64 = 1.0;

/// The same for (e): what a thousand sessions open and close with is already more than a per cent.
const SESSIONS_SHARE_MIN_PER_CENT: f64 = 5.0;
/// The whole demo, once built.
const TIME_GATE: Duration = Duration::from_secs(120);

/// One of the demo's transfers with curl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Single-path TCP bound to one access: the yardstick of the download.
    Alone(Access),
    Download,
    Upload,
    Cut,
    PlainTcp,
}

impl Run {
    pub(super) const fn is_mptcp(self) -> bool {
        matches!(self, Self::Download | Self::Upload | Self::Cut)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alone(Access::Lte) => "    LTE alone, TCP",
            Self::Alone(Access::Wifi) => "    Wi-Fi alone, TCP",
            Self::Download => "(a) download, MPTCP",
            Self::Upload => "(b) upload, MPTCP",
            Self::Cut => "(c) Wi-Fi cut, MPTCP",
            Self::PlainTcp => "(d) plain TCP client",
        })
    }
}

/// How a transfer went.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    pub(super) run: Run,
    /// Payload asked for and payload that arrived.
    pub(super) wanted: u64,
    pub(super) len: u64,
    /// From starting curl to the last byte.
    pub(super) elapsed: Duration,
    /// What the phone's devices carried meanwhile.
    pub(super) paths: [LinkBytes; 2],
    /// In what curl delivered; of no meaning for an upload.
    pub(super) longest_gap: Duration,
    pub(super) longest_gap_at: Duration,
    /// As hashed where it was sent and where it arrived.
    pub(super) sent: Option<Digest>,
    pub(super) received: Option<Digest>,
    /// What curl or the demo complained of.
    pub(super) error: Option<String>,
}

impl Transfer {
    pub(super) fn goodput_mbps(&self) -> f64 {
        mbps(self.len, self.elapsed)
    }

    /// Why this transfer does not count as carried intact.
    pub(super) fn fault(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        if self.len != self.wanted {
            return Some(format!("{} of {} bytes arrived", self.len, self.wanted));
        }
        match (self.sent, self.received) {
            (Some(sent), Some(received)) if sent == received => None,
            (Some(_), Some(_)) => Some("what arrived is not what was sent".to_owned()),
            _ => Some("one side did not report its SHA-256".to_owned()),
        }
    }
}

/// Per cent of all bytes on the devices.
fn share(paths: &[LinkBytes; 2], access: Access) -> f64 {
    let total = paths.iter().map(|path| path.total()).sum();
    per_cent(paths[access as usize].total(), total)
}

/// How the concurrent sessions went.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    pub(super) wanted: u32,
    pub(super) tally: Tally,
    pub(super) losses: Vec<String>,
    pub(super) elapsed: Duration,
    pub(super) paths: [LinkBytes; 2],
    /// Over TCP only because the kernel has no MPTCP.
    pub(super) is_mptcp: bool,
}

/// A check's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail,
    /// What it judges did not take place.
    NotRun,
}

/// One line of the verdict.
#[derive(Clone, Debug)]
struct Check {
    verdict: Verdict,
    /// A goal of performance; `--no-gates` excuses it.
    is_gate: bool,
    text: String,
}

impl Check {
    fn new(passed: bool, text: impl Into<String>) -> Self {
        let verdict = if passed { Verdict::Pass } else { Verdict::Fail };
        Self { verdict, is_gate: false, text: text.into() }
    }

    fn not_run(text: impl Into<String>) -> Self {
        Self { verdict: Verdict::NotRun, is_gate: false, text: text.into() }
    }

    fn gate(mut self) -> Self {
        self.is_gate = true;
        self
    }
}

/// Everything the demo found out.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) transfers: Vec<Transfer>,
    /// When Wi-Fi carried again, after it came back in (c).
    pub(super) wifi_back_after: Option<Duration>,
    pub(super) sessions: Option<Sessions>,
    /// How the counters of the gateway's namespace and the phone's moved over all runs.
    pub(super) gateway_mib: Option<Mib>,
    pub(super) phone_mib: Option<Mib>,
    /// What Wi-Fi brought while it was cut, once what was under way had arrived.
    pub(super) wifi_during_cut: Option<u64>,
    /// From the first namespace to the last; `None`: it is not over.
    pub(super) took: Option<Duration>,
    /// `None`: not asked.
    pub(super) kernel_addresses: Option<Vec<String>>,
    /// `None`: it never came to draining.
    pub(super) drained: Option<Result<(), String>>,
    /// What the demo made and could not remove.
    pub(super) left_behind: Vec<String>,
    /// Steps that could not be done.
    pub(super) failures: Vec<String>,
}

impl Report {
    pub(super) fn transfer(&self, run: Run) -> Option<&Transfer> {
        self.transfers.iter().find(|transfer| transfer.run == run)
    }

    /// Goodput of (a) over the sum of the single paths' goodput.
    fn ratio(&self) -> Option<f64> {
        let alone = |access| self.transfer(Run::Alone(access)).map(Transfer::goodput_mbps);
        let sum = alone(Access::Lte)? + alone(Access::Wifi)?;
        let together = self.transfer(Run::Download)?.goodput_mbps();
        (sum > 0.0).then(|| together / sum)
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.check_content(), self.check_paths(), self.check_yardsticks()];
        checks.push(self.check_sessions());
        checks.push(self.check_cut());
        checks.push(self.check_ratio().gate());
        checks.push(self.check_gap().gate());
        checks.push(self.check_time().gate());
        checks.push(self.check_gateway_kernel());
        checks.push(self.check_addresses());
        checks.push(self.check_joins());
        checks.push(self.check_faults());
        checks.push(match &self.drained {
            Some(Ok(())) => Check::new(true, "the gateway drained on SIGTERM, exit code 0"),
            Some(Err(cause)) => Check::new(false, format!("the gateway did not drain: {cause}")),
            None => Check::not_run("the gateway's drain on SIGTERM"),
        });
        checks.push(if self.left_behind.is_empty() {
            Check::new(true, "nothing is left behind")
        } else {
            Check::new(false, format!("left behind: {}", self.left_behind.join(", ")))
        });
        checks.extend(self.failures.iter().map(|failure| Check::new(false, failure.clone())));
        checks
    }

    fn check_content(&self) -> Check {
        if self.transfers.is_empty() {
            return Check::not_run("content as sent");
        }
        let faults: Vec<_> = self
            .transfers
            .iter()
            .filter_map(|transfer| {
                let fault = transfer.fault()?;
                Some(format!("{}: {fault}", transfer.run.to_string().trim()))
            })
            .collect();
        if faults.is_empty() {
            let count = self.transfers.len();
            return Check::new(true, format!("all {count} transfers arrived as they were sent"));
        }
        Check::new(false, format!("content: {}", faults.join("; ")))
    }

    fn check_paths(&self) -> Check {
        let transfers = self.transfers.iter().filter(|transfer| transfer.run.is_mptcp());
        let sessions = self.sessions.iter().filter(|sessions| sessions.is_mptcp);
        let mptcp: Vec<_> =
            transfers
                .map(|transfer| (transfer.run.to_string(), &transfer.paths, SHARE_MIN_PER_CENT))
                .chain(sessions.map(|sessions| {
                    ("(e)".to_owned(), &sessions.paths, SESSIONS_SHARE_MIN_PER_CENT)
                }))
                .collect();
        if mptcp.is_empty() {
            return Check::not_run("both paths carry");
        }
        let mut idle = Vec::new();
        for (name, paths, least) in mptcp {
            for access in Access::BOTH {
                let share = share(paths, access);
                if share < least {
                    idle.push(format!("{access} in {name} {share:.1} %"));
                }
            }
        }
        if idle.is_empty() {
            return Check::new(true, "both paths carried every MPTCP run");
        }
        Check::new(false, format!("a path carried nothing: {}", idle.join(", ")))
    }

    fn check_yardsticks(&self) -> Check {
        let alone = Access::BOTH.map(|access| (access, self.transfer(Run::Alone(access))));
        let mut strays = Vec::new();
        for (access, transfer) in alone {
            let Some(transfer) = transfer else {
                return Check::not_run("single-path yardsticks");
            };
            let share = share(&transfer.paths, access);
            if share < 100.0 - SHARE_MIN_PER_CENT {
                strays.push(format!("{access} {share:.1} %"));
            }
        }
        if strays.is_empty() {
            return Check::new(true, "single-path TCP kept to its path");
        }
        Check::new(false, format!("single-path TCP left its path: {}", strays.join(", ")))
    }

    fn check_sessions(&self) -> Check {
        let Some(Sessions { wanted, tally, losses, .. }) = &self.sessions else {
            return Check::not_run("concurrent sessions");
        };
        if tally.done == *wanted && tally.open == *wanted && tally.lost == 0 {
            return Check::new(true, format!("none of {wanted} concurrent sessions was lost"));
        }
        let lost = wanted.saturating_sub(tally.done);
        let examples: Vec<_> = losses.iter().take(3).map(String::as_str).collect();
        Check::new(
            false,
            format!("{lost} of {wanted} concurrent sessions lost: {}", examples.join("; ")),
        )
    }

    /// A cut that lets something through, or a path that never comes back, shows nothing.
    fn check_cut(&self) -> Check {
        if self.transfer(Run::Cut).is_none() {
            return Check::not_run("Wi-Fi cut and back in (c)");
        }
        match (self.wifi_during_cut, self.wifi_back_after) {
            (Some(0), Some(_)) => {
                Check::new(true, "Wi-Fi was silent while cut in (c), and came back")
            }
            (Some(0), None) => Check::new(false, "Wi-Fi did not carry again after the cut in (c)"),
            (Some(bytes), _) => {
                Check::new(false, format!("Wi-Fi carried {bytes} bytes while it was cut in (c)"))
            }
            (None, _) => Check::new(false, "Wi-Fi was not cut in (c)"),
        }
    }

    fn check_time(&self) -> Check {
        self.took.map_or_else(
            || Check::not_run("time of the whole demo"),
            |took| {
                let (took_s, gate_s) = (took.as_secs(), TIME_GATE.as_secs());
                let text = format!("the demo took {took_s} s (gate: at most {gate_s} s)");
                Check::new(took <= TIME_GATE, text)
            },
        )
    }

    fn check_ratio(&self) -> Check {
        self.ratio().map_or_else(
            || Check::not_run("goodput of (a) against the sum of the paths alone"),
            |ratio| {
                Check::new(
                    ratio >= RATIO_GATE,
                    format!(
                        "goodput of (a) is {ratio:.3} of the sum of the paths alone \
                         (gate: at least {RATIO_GATE})"
                    ),
                )
            },
        )
    }

    fn check_gap(&self) -> Check {
        self.transfer(Run::Cut).map_or_else(
            || Check::not_run("longest gap in (c)"),
            |transfer| {
                Check::new(
                    transfer.longest_gap <= GAP_GATE,
                    format!(
                        "longest gap in (c) is {} ms (gate: at most {} ms)",
                        transfer.longest_gap.as_millis(),
                        GAP_GATE.as_millis()
                    ),
                )
            },
        )
    }

    fn check_gateway_kernel(&self) -> Check {
        let Some(mib) = &self.gateway_mib else {
            return Check::not_run("no kernel TCP in the gateway's namespace");
        };
        let (received, sent) = (mib.value("TcpInSegs"), mib.value("TcpOutSegs"));
        Check::new(
            received == 0 && sent == 0,
            format!("gateway's namespace: TcpInSegs +{received}, TcpOutSegs +{sent}"),
        )
    }

    fn check_addresses(&self) -> Check {
        match &self.kernel_addresses {
            None => Check::not_run("no kernel address in the gateway's namespace"),
            Some(found) if found.is_empty() => {
                Check::new(true, "gateway's namespace: no kernel address on any device")
            }
            Some(found) => {
                Check::new(false, format!("gateway's namespace: kernel has {}", found.join(", ")))
            }
        }
    }

    fn check_joins(&self) -> Check {
        let mptcp_ran = self.transfers.iter().any(|transfer| transfer.run.is_mptcp())
            || self.sessions.as_ref().is_some_and(|sessions| sessions.is_mptcp);
        match &self.phone_mib {
            Some(mib) if mptcp_ran => {
                let joins = mib.value("MPTcpExtMPJoinSynAckRx");
                let asked = mib.value("MPTcpExtMPJoinSynTx");
                // Older kernels, Debian 12's among them, do not count what they ask for.
                let of = if asked > 0 { format!(" of {asked} asked for") } else { String::new() };
                Check::new(joins > 0, format!("phone: MPJoinSynAckRx +{joins}{of}"))
            }
            _ => Check::not_run("joins by the phone's counters"),
        }
    }

    fn check_faults(&self) -> Check {
        let Some(mib) = &self.phone_mib else {
            return Check::not_run("no MPTCP errors by the phone's counters");
        };
        let faults = mib.mptcp_faults();
        if faults.is_empty() {
            return Check::new(true, "phone: no MPRstRx, no DSS or HMAC error, no fallback");
        }
        Check::new(false, format!("phone: {}", faults.join(", ")))
    }

    /// Whether every check passed, with the gates excused if they are `only_shown`.
    pub(super) fn passed(&self, gates_only_shown: bool) -> bool {
        self.checks().iter().all(|check| match check.verdict {
            Verdict::Pass => true,
            Verdict::Fail => check.is_gate && gates_only_shown,
            Verdict::NotRun => false,
        })
    }

    /// Whether every failure is a run that was left out.
    pub(super) fn is_only_incomplete(&self) -> bool {
        self.checks().iter().all(|check| check.verdict != Verdict::Fail)
    }

    /// The text the demo ends with.
    pub(super) fn render(&self, gates_only_shown: bool) -> String {
        // Writing to a String cannot fail.
        let mut text = String::new();
        let _ = self.write(&mut text, gates_only_shown);
        text
    }

    fn write(&self, out: &mut String, gates_only_shown: bool) -> fmt::Result {
        writeln!(
            out,
            "{:24}{:>9}{:>8}{:>9}  {:>16}  {:>16}{:>9}",
            "summary", "MB", "s", "Mbit/s", "MB over LTE", "MB over Wi-Fi", "gap ms"
        )?;
        for transfer in &self.transfers {
            let gap = if transfer.run == Run::Upload {
                "-".to_owned()
            } else {
                transfer.longest_gap.as_millis().to_string()
            };
            write!(out, "{:24}", transfer.run)?;
            let (len, elapsed) = (transfer.len, transfer.elapsed);
            write_figures(out, len, elapsed, &transfer.paths)?;
            writeln!(out, "{gap:>9}")?;
        }
        if let Some(Sessions { tally, elapsed, paths, .. }) = &self.sessions {
            write!(out, "{:24}", format!("(e) {} sessions", tally.done))?;
            write_figures(out, tally.bytes, *elapsed, paths)?;
            writeln!(out, "{:>9}", "-")?;
            writeln!(out, "    {} sessions open at once", tally.open)?;
        }
        if let Some(cut) = self.transfer(Run::Cut) {
            let at = cut.longest_gap_at.as_secs_f64();
            write!(out, "    (c): longest gap began at {at:.1} s; ")?;
            match self.wifi_back_after {
                Some(after) => {
                    let after = after.as_secs_f64();
                    writeln!(out, "Wi-Fi carried again {after:.1} s after its return")?;
                }
                None => writeln!(out, "Wi-Fi did not carry again before the end")?,
            }
        }
        writeln!(out, "\nSHA-256")?;
        for transfer in &self.transfers {
            let digest = |digest: Option<Digest>| {
                digest.map_or_else(|| "not reported".to_owned(), |digest| digest.to_string())
            };
            writeln!(out, "{:24}sent     {}", transfer.run, digest(transfer.sent))?;
            writeln!(out, "{:24}received {}", "", digest(transfer.received))?;
        }
        writeln!(out)?;
        if let Some(mib) = &self.phone_mib {
            write_wrapped(out, "phone's MPTCP counters:", &mib.mptcp_moves())?;
        }
        for check in self.checks() {
            let word = match check.verdict {
                Verdict::Pass => "pass",
                Verdict::Fail if check.is_gate && gates_only_shown => "miss",
                Verdict::Fail => "FAIL",
                Verdict::NotRun => "----",
            };
            let not_run = if check.verdict == Verdict::NotRun { ": not run" } else { "" };
            writeln!(out, "{word}  {}{not_run}", check.text)?;
        }
        Ok(())
    }
}

/// Words after a heading, in lines that fit a usual terminal; then an empty line.
fn write_wrapped(out: &mut String, heading: &str, words: &[String]) -> fmt::Result {
    const WIDTH: usize = 96;
    let mut column = heading.len();
    out.push_str(heading);
    for word in words {
        if column + 2 + word.len() > WIDTH {
            out.push_str("\n   ");
            column = 3;
        }
        write!(out, "  {word}")?;
        column += word.len() + 2;
    }
    writeln!(out, "\n")
}

fn write_figures(
    out: &mut String,
    len: u64,
    elapsed: Duration,
    paths: &[LinkBytes; 2],
) -> fmt::Result {
    let rate = mbps(len, elapsed);
    write!(out, "{:9.1}{:8.2}{rate:9.1}", mega(len), elapsed.as_secs_f64())?;
    for access in Access::BOTH {
        let bytes = paths[access as usize].total();
        write!(out, "  {:10.1}{:4.0} %", mega(bytes), share(paths, access))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
