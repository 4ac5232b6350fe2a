//! The tables of `docs/conformance`: their rows, and what the cells name.

use std::collections::BTreeSet;
use std::path::Path;

/// Names of the functions below `dir` that are tests: `#[test]` or a proptest block's, with nothing
/// but attributes and comments before the name.
fn tests(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("the sources are there") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                tests(&path, into);
            }
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

/// Tests below `dirs`, as seen from the crate; what is not there has none.
pub(crate) fn known_tests(dirs: &[&str]) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for dir in dirs {
        let dir = root().join(dir);
        if dir.exists() {
            tests(&dir, &mut known);
        }
    }
    known
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page of the documentation; nothing inside a published package, which comes without it.
pub(crate) fn page(name: &str) -> Option<String> {
    let path = root().join("../docs").join(name);
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(std::fs::read_to_string(path).expect("UTF-8"))
}

pub(crate) fn columns(row: &str) -> Vec<&str> {
    row.trim_matches('|').split('|').map(str::trim).collect()
}

/// What stands in backticks.
pub(crate) fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Every file or directory in `cell` is one of `mptcp-core/src` or, where that is there, of
/// `proxy-gw/src`.
pub(crate) fn check_paths(row: &str, cell: &str) {
    let sources = ["src", "../proxy-gw/src"].map(|dir| root().join(dir));
    for path in quoted(cell) {
        let there = sources.iter().any(|dir| dir.join(path).exists());
        assert!(there, "{row} names {path}, which is not there");
    }
}

/// `cell` names tests that exist, or says why there is none; what follows a semicolon is a note.
pub(crate) fn check_tests(row: &str, cell: &str, known: &BTreeSet<String>, excuses: &[&str]) {
    if let Some(reason) = excuses.iter().find_map(|excuse| cell.strip_prefix(excuse)) {
        assert!(reason.len() > 5, "{row} gives no reason");
        // It may name the test that pins what is done instead.
        let like_a_test = |name: &&str| name.contains('_') && !name.contains(char::is_uppercase);
        for name in quoted(reason).iter().filter(|name| like_a_test(name)) {
            assert!(known.contains(*name), "{row} names `{name}`, which is no test");
        }
        return;
    }
    let names = cell.split(';').next().unwrap_or_default();
    assert!(!quoted(names).is_empty(), "{row} names no test");
    for name in quoted(names) {
        assert!(known.contains(name), "{row} names `{name}`, which is no test");
    }
}
