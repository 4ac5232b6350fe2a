//! Random faulted transfers: one seed decides everything, and all of them are judged together.

use crate::boxes::Effect;
use crate::plan::{LARGE, Plan};
use crate::transfer::Report;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::Mutex;

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// What all runs came to.
#[derive(Debug, Default)]
struct Totals {
    failed: Vec<u64>,
    /// Transfers of more than 4 MiB in one direction.
    large: u64,
    bytes: u64,
    mptcp: u64,
    boxed: u64,
    /// Why connections fell back that nothing on the path forced to.
    fallbacks: BTreeMap<&'static str, u64>,
    /// Over all traces, whatever thread ran them: the same build gives the same number again.
    digest: u64,
    /// The longest pauses in milliseconds, the most octets on the links for a thousand of the streams, and
    /// whose these are.
    pauses: Vec<(u64, u64)>,
    waste: Vec<(u64, u64)>,
    /// Some that had a subflow reset where no box stood and nothing was cut.
    reset: Vec<u64>,
    /// By counter.
    moved: BTreeMap<&'static str, u64>,
}

/// What is worth a look is the end of the row.
const SHOWN: usize = 8;

fn note(row: &mut Vec<(u64, u64)>, value: u64, seed: u64) {
    row.push((value, seed));
    row.sort_unstable_by(|a, b| b.cmp(a));
    row.truncate(SHOWN);
}

impl Totals {
    fn add(&mut self, plan: &Plan, outcome: Option<(u64, Report)>) {
        assert!(plan.is_faulted(), "{plan:?}");
        self.large += u64::from(plan.up.max(plan.down) > LARGE);
        self.bytes += plan.up + plan.down;
        self.mptcp += u64::from(plan.mptcp);
        self.boxed += u64::from(!plan.boxes.is_empty());
        let Some((digest, report)) = outcome else { return self.failed.push(plan.seed) };
        self.digest = self.digest.wrapping_add(digest);
        note(&mut self.pauses, report.longest_gap.as_millis() as u64, plan.seed);
        // Of small ones the handshakes are the most.
        if plan.up + plan.down > 1 << 20 {
            note(&mut self.waste, report.carried * 1_000 / (plan.up + plan.down), plan.seed);
        }
        if report.moved.0["estab_resets"] > 0 && plan.cuts_nothing() && self.reset.len() < SHOWN {
            self.reset.push(plan.seed);
        }
        for (&name, count) in &report.moved.0 {
            *self.moved.entry(name).or_default() += count;
        }
        if let Some(reason) = report.fallback().filter(|_| plan.effect() == Effect::Kept) {
            println!("sim: seed {} fell back: {:?}", plan.seed, report.ends);
            *self.fallbacks.entry(reason.name()).or_default() += 1;
        }
    }
}

/// Runs `count` seeds from `first` on, on all cores.
pub(crate) fn each_seed(first: u64, count: u64, run: impl Fn(u64) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
}

/// `PLAIT_SIM_SEEDS` transfers (300 unless told) from seed `PLAIT_SIM_FIRST` (0) on, of at most
/// `PLAIT_SIM_MOST` octets each way.
#[test]
fn random_faulted_transfers() {
    let (first, count) = (number("PLAIT_SIM_FIRST", 0), number("PLAIT_SIM_SEEDS", 300));
    let most = number("PLAIT_SIM_MOST", u64::MAX);
    let totals = Mutex::new(Totals::default());
    each_seed(first, count, |seed| {
        let plan = Plan::new(seed).at_most(most);
        let run = std::panic::catch_unwind(AssertUnwindSafe(|| plan.run()));
        if run.is_err() {
            let packets = crate::capture::of_seed(seed, || plan.run());
            eprintln!("FAILED seed {seed}, see {}: {plan:#?}", packets.display());
        }
        totals.lock().expect("no poison").add(&plan, run.ok());
    });
    let mut totals = totals.into_inner().expect("no poison");
    let moved = core::mem::take(&mut totals.moved);
    let still = moved.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name);
    println!("sim: nothing moved {:?}", still.collect::<Vec<_>>());
    println!("sim: seeds {first}..{}: {totals:?}, digest {:016x}", first + count, totals.digest);
    assert!(totals.failed.is_empty(), "failing seeds: {:?}", totals.failed);
    assert!(totals.large >= count / 10 || most <= LARGE, "{totals:?}");
    assert!(totals.fallbacks.values().sum::<u64>() <= 2 + totals.mptcp / 100, "{totals:?}");
}

/// Runs other plans and answers how many of them were `kept`.
fn transfers(
    first: u64,
    count: u64,
    of: impl Fn(u64) -> Plan + Sync,
    kept: impl Fn(&Report) -> bool + Sync,
) -> u64 {
    let results = Mutex::new((Vec::new(), 0));
    each_seed(first, count, |seed| {
        let plan = of(seed);
        let run = std::panic::catch_unwind(AssertUnwindSafe(|| plan.run()));
        if run.is_err() {
            let packets = crate::capture::of_seed(seed, || plan.run());
            eprintln!("FAILED seed {seed}, see {}: {plan:#?}", packets.display());
        }
        let mut results = results.lock().expect("no poison");
        match run {
            Ok((_, report)) => results.1 += u64::from(kept(&report)),
            Err(_) => results.0.push(seed),
        }
    });
    let (failed, kept) = results.into_inner().expect("no poison");
    println!("sim: seeds {first}..{}, {kept} of them kept", first + count);
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
    kept
}

/// The same with version 0, `PLAIT_V0_SEEDS` of them (100 unless told).
#[test]
fn random_faulted_transfers_of_version_0() {
    let (first, count) = (number("PLAIT_SIM_FIRST", 0), number("PLAIT_V0_SEEDS", 100));
    let version_0 = |report: &Report| report.ends.map(|(version, _)| version) == [Some(0); 2];
    let of = |seed| Plan::new(seed).at_most(LARGE).of_version_0();
    let kept = transfers(first, count, of, version_0);
    assert!(kept > count * 3 / 4, "{kept} of {count} were MPTCP to the end");
}

/// The same behind a proxy on the only path that is cut (RFC 8684 §3.3.6): what the proxy acknowledged it
/// repairs, and the subflow lives to see it. `PLAIT_PROXY_SEEDS` of them (100 unless told).
#[test]
fn random_transfers_behind_a_proxy() {
    let (first, count) = (number("PLAIT_SIM_FIRST", 0), number("PLAIT_PROXY_SEEDS", 100));
    let mptcp = |report: &Report| report.fallback().is_none();
    let kept = transfers(first, count, Plan::behind_a_proxy, mptcp);
    assert!(kept > count / 4, "{kept} of {count} were MPTCP to the end");
}

/// The same behind boxes that take single options away or complain of what they pass on (RFC 5927, RFC 8684 §6).
/// `PLAIT_BOX_SEEDS` of them (100 unless told).
#[test]
fn random_transfers_behind_other_boxes() {
    let (first, count) = (number("PLAIT_SIM_FIRST", 0), number("PLAIT_BOX_SEEDS", 100));
    let mptcp = |report: &Report| report.fallback().is_none();
    let kept = transfers(first, count, Plan::behind_other_boxes, mptcp);
    assert!(kept > count / 2, "{kept} of {count} were what they began as to the end");
}

/// Seeds that found something once, as the plans were drawn then. Without SACK and timestamps each loss in a
/// repair waited for two minutes (428,380); the second copy of a SYN came when all was over, which the check did
/// not allow for (606,423; 875,148).
const SEEDS_THAT_ONCE_FAILED: [u64; 4] = [607_062, 428_380, 606_423, 875_148];

#[test]
fn seeds_that_once_failed() {
    for seed in SEEDS_THAT_ONCE_FAILED {
        Plan::new(seed).run();
    }
}

/// One seed gives one trace, another seed another.
#[test]
fn one_seed_one_trace() {
    let digests: Vec<u64> = (4710..4730).map(|seed| Plan::new(seed).run().0).collect();
    let again: Vec<u64> = (4710..4730).map(|seed| Plan::new(seed).run().0).collect();
    assert_eq!(digests, again);
    let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), digests.len());
}
