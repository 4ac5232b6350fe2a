//! `docs/conformance.md` and the tests agree: every test a row names exists, and every row names a
//! test or says why there is none.

use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stats::{Counters, DropReason};
use mptcp_core::wire::reset_reason;
use std::collections::BTreeSet;
use std::path::Path;

/// Names of the functions below `dir` that are tests: `#[test]` or a proptest block's, with nothing
/// but attributes and comments before the name.
fn tests(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("the sources are there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            tests(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            let mut marked = false;
            for line in text.lines().map(str::trim_start) {
                if let Some(name) = line.strip_prefix("fn ").and_then(|l| l.split('(').next()) {
                    into.extend(marked.then(|| name.to_owned()));
                }
                marked = line == "#[test]"
                    || marked && (line.starts_with("#[") || line.starts_with("//"));
            }
        }
    }
}

/// A document; inside a published package it is not there.
fn document(name: &str) -> Option<String> {
    let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if !doc.exists() {
        println!("skipped: {} is not there", doc.display());
        return None;
    }
    Some(std::fs::read_to_string(doc).expect("UTF-8"))
}

/// Words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// All 35 cases have a row, every `FallbackReason` is in the table and nothing there is made up:
/// neither reasons, nor counters, nor tests.
#[test]
fn every_fallback_reason_has_a_row() {
    let Some(text) = document("conformance.md") else { return };
    let mut known = BTreeSet::new();
    tests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut known);
    let section = text.split("\n## Fallback reasons\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its rows");
    let resets: BTreeSet<_> = (0..8).map(reset_reason::name).collect();
    let reasons: BTreeSet<_> = FallbackReason::ALL.iter().map(|r| r.name()).collect();
    let drops: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
    let counters = Counters::default();
    let counters: BTreeSet<_> = counters.iter().map(|(name, _)| name).collect();
    let (mut numbers, mut named) = (BTreeSet::new(), BTreeSet::new());
    for row in section.lines().filter(|l| l.starts_with("| H") || l.starts_with("| - ")) {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [number, _, _, codes, counted, names] = columns[..] else { panic!("six: {row}") };
        numbers.extend(number.strip_prefix('H').map(|n| n.parse::<u32>().expect("a number")));
        for code in quoted(codes).filter(|code| !code.starts_with("SubflowEnd::")) {
            assert!(reasons.contains(code) || resets.contains(code), "{number}: `{code}`");
            named.insert(code);
        }
        for counter in quoted(counted) {
            assert!(counters.contains(counter) || drops.contains(counter), "{number}: {counter}");
        }
        let own = number.to_lowercase() + "_";
        let mut has_own = number == "-";
        for name in quoted(names) {
            assert!(known.contains(name), "{number} names `{name}`, which is no test");
            has_own |= name.starts_with(&own);
        }
        assert!(has_own, "{number} has no test of its own");
    }
    assert_eq!(numbers, (1..=35).collect(), "all cases have a row");
    let missing: Vec<_> = reasons.difference(&named).collect();
    assert!(missing.is_empty(), "reasons without a row: {missing:?}");
}

/// The table of Linux's counters in `docs/operations.md` has all of them, and names counters that
/// exist.
#[test]
fn every_linux_counter_has_a_row() {
    let Some(text) = document("operations.md") else { return };
    let section = text.split("\n## Counters\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its rows");
    let counters = Counters::default();
    let counters: BTreeSet<_> = counters.iter().map(|(name, _)| name).collect();
    let mut names = BTreeSet::new();
    for row in section.lines().filter(|l| l.starts_with("| ")).skip(1) {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [linux, here] = columns[..] else { panic!("two columns: {row}") };
        assert!(names.insert(linux), "{linux} twice");
        if here.starts_with("none: ") {
            continue;
        }
        let name = quoted(here).next().expect("a name or a reason");
        assert!(counters.contains(name), "{linux}: `{name}` is no counter");
    }
    assert_eq!(names.len(), 76);
}

#[test]
fn every_row_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(text) = document("conformance.md") else { return };
    let mut known = BTreeSet::new();
    tests(&root.join("tests"), &mut known);
    tests(&root.join("src"), &mut known);
    let mut rows = 0;
    let numbered = |l: &&str| l.starts_with("| T") || l.starts_with("| V");
    for row in text.lines().filter(numbered) {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [number, _, _, _, tests] = columns[..] else { panic!("five columns: {row}") };
        rows += 1;
        if tests.starts_with("not yet (") || tests.starts_with("not applicable: ") {
            continue;
        }
        for test in tests.split(", ") {
            let name = test.trim_matches('`');
            assert!(known.contains(name), "{number} names `{name}`, which is no test");
        }
    }
    assert!(rows > 100, "{rows} rows");
}
