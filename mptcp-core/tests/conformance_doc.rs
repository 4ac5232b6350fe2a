//! `docs/conformance.md`, the pages of the RFCs in `docs/conformance/` and the code agree:
//! every test and every file a row names exists, every row names a test or says why there is none,
//! and no keyword of the RFCs is without its row. `docs/conformance/suites.md` names what exists and
//! counts every script once.

use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stats::{Counters, DropReason};
use mptcp_core::wire::reset_reason;
use std::collections::BTreeSet;
use tables::{check_paths, check_tests, columns, known_tests, page, quoted};

#[path = "conformance/tables.rs"]
mod tables;

/// Keywords of each RFC, counted in its text without the section that defines them.
const KEYWORDS: [(&str, usize); 3] = [("rfc8684", 144), ("rfc6824", 116), ("rfc8803", 79)];

/// Where the tests of the crates that speak MPTCP are.
const SPEAKERS: [&str; 6] = ["src", "tests", "netsim", "tun", "../proxy-gw", "../fuzz"];

/// What a keyword may be.
const LEVELS: [&str; 5] = ["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "RECOMMENDED"];

#[test]
fn every_row_names_a_test_that_exists() {
    let Some(text) = page("conformance.md") else { return };
    let known = known_tests(&SPEAKERS);
    let mut rows = 0;
    let numbered = |l: &&str| ["| T", "| V", "| A"].iter().any(|start| l.starts_with(start));
    for row in text.lines().filter(numbered) {
        let columns = columns(row);
        let [number, _, _, place, tests] = columns[..] else { panic!("five columns: {row}") };
        rows += 1;
        check_paths(number, place);
        check_tests(number, tests, &known, &["not yet (", "not applicable: "]);
    }
    assert!(rows > 100, "{rows} rows");
}

/// A row of one keyword.
struct Keyword<'a> {
    id: &'a str,
    what: &'a str,
    level: &'a str,
    place: &'a str,
    test: &'a str,
}

/// The rows of a page; asserts that each section has as many as its title says, in order.
fn keywords<'a>(name: &str, text: &'a str) -> Vec<Keyword<'a>> {
    let mut rows: Vec<Keyword<'a>> = Vec::new();
    let mut section: Option<(&str, usize, usize)> = None;
    let complete = |section: Option<(&str, usize, usize)>| {
        if let Some((title, wanted, found)) = section {
            assert_eq!(found, wanted, "{name}, section {title}: rows for each keyword");
        }
    };
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            complete(section);
            let number = title.split(' ').next().expect("a number");
            let count = title.rsplit_once('(').and_then(|(_, n)| n.strip_suffix(')'));
            let count = count.and_then(|n| n.parse().ok()).expect("(number of keywords)");
            section = Some((number, count, 0));
        } else if line.starts_with("| ") && !line.starts_with("| row ") {
            let columns = columns(line);
            let [id, what, level, place, test] = columns[..] else { panic!("five: {line}") };
            let (number, _, found) = section.as_mut().expect("rows are in sections");
            *found += 1;
            assert_eq!(id, format!("{number}-{found}"), "{name}: rows are numbered");
            rows.push(Keyword { id, what, level, place, test });
        }
    }
    complete(section);
    rows
}

#[test]
fn every_keyword_of_the_rfcs_has_a_row_that_is_true() {
    let known = known_tests(&SPEAKERS);
    let mut first: Vec<String> = Vec::new();
    for (name, total) in KEYWORDS {
        let Some(text) = page(&format!("conformance/{name}.md")) else { return };
        let said = text.lines().find_map(|l| l.strip_prefix("Keywords: "));
        assert_eq!(said.and_then(|n| n.parse().ok()), Some(total), "{name}");
        let rows = keywords(name, &text);
        assert_eq!(rows.len(), total, "{name}");
        for Keyword { id, what, level, place, test } in &rows {
            let row = format!("{name} {id}");
            assert!(LEVELS.contains(level), "{row}: {level}");
            assert!(what.len() > 8, "{row} says nothing");
            check_paths(&row, place);
            if let Some(other) = test.strip_prefix("as 8684 ") {
                let other = other.split(';').next().unwrap_or_default();
                assert!(first.iter().any(|id| id == other), "{row} refers to {other}");
                continue;
            }
            check_tests(&row, test, &known, &["deviation: ", "not applicable: "]);
        }
        if first.is_empty() {
            first = rows.iter().map(|row| row.id.to_owned()).collect();
        }
    }
}

/// All 35 cases have a row, every `FallbackReason` is in the table and nothing there is made up:
/// neither reasons, nor counters, nor tests.
#[test]
fn every_fallback_reason_has_a_row() {
    let Some(text) = page("conformance.md") else { return };
    let known = known_tests(&SPEAKERS);
    let section = text.split("\n## Fallback reasons\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its rows");
    let resets: BTreeSet<_> = (0..8).map(reset_reason::name).collect();
    let reasons: BTreeSet<_> = FallbackReason::ALL.iter().map(|r| r.name()).collect();
    let drops: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
    let counters = Counters::default();
    let counters: BTreeSet<_> = counters.iter().map(|(name, _)| name).collect();
    let (mut numbers, mut named) = (BTreeSet::new(), BTreeSet::new());
    for row in section.lines().filter(|l| l.starts_with("| H") || l.starts_with("| - ")) {
        let columns = columns(row);
        let [number, _, _, codes, counted, names] = columns[..] else { panic!("six: {row}") };
        numbers.extend(number.strip_prefix('H').map(|n| n.parse::<u32>().expect("a number")));
        for code in quoted(codes).into_iter().filter(|code| !code.starts_with("SubflowEnd::")) {
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
    let Some(text) = page("operations.md") else { return };
    let section = text.split("\n## Counters\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its rows");
    let counters = Counters::default();
    let counters: BTreeSet<_> = counters.iter().map(|(name, _)| name).collect();
    let mut names = BTreeSet::new();
    for row in section.lines().filter(|l| l.starts_with("| ")).skip(1) {
        let columns = columns(row);
        let [linux, here] = columns[..] else { panic!("two columns: {row}") };
        assert!(names.insert(linux), "{linux} twice");
        if here.starts_with("none: ") {
            continue;
        }
        let name = quoted(here).first().copied().expect("a name or a reason");
        assert!(counters.contains(name), "{linux}: `{name}` is no counter");
    }
    assert_eq!(names.len(), 76);
}

/// Verdicts of `docs/conformance/suites.md`; a reason follows some of them.
const VERDICTS: [&str; 5] = ["same", "followed", "allowed: ", "not applicable: ", "not yet ("];

#[test]
fn every_row_about_packet_suites_is_true() {
    let Some(text) = page("conformance/suites.md") else { return };
    let known = known_tests(&SPEAKERS);
    let mut rows = 0;
    for section in text.split("\n## ").skip(1) {
        let title = section.lines().next().expect("a title");
        let total = title.rsplit_once('(').and_then(|(_, n)| n.strip_suffix(')'));
        let total: Option<u32> = total.map(|n| n.parse().expect("(number of scripts)"));
        let mut counted = 0;
        for row in section.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| scripts |"))
        {
            let columns = columns(row);
            let (verdict, tests) = match (total, &columns[..]) {
                (Some(_), [_, n, _, verdict, tests]) => {
                    counted += n.parse::<u32>().expect("a number of scripts");
                    (*verdict, *tests)
                }
                (None, [_, _, verdict, tests]) => (*verdict, *tests),
                _ => panic!("columns: {row}"),
            };
            rows += 1;
            assert!(VERDICTS.iter().any(|v| verdict.starts_with(v)), "{row}");
            let none = verdict.starts_with("not ");
            assert_eq!(tests == "-", none, "{row}: a test, or why there is none");
            if !none {
                check_tests(row, tests, &known, &[]);
            }
        }
        assert_eq!(total.unwrap_or(counted), counted, "{title}: scripts without a row");
    }
    assert!(rows > 50, "{rows} rows");
}
