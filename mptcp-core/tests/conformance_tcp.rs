//! `docs/conformance/tcp.md` and the code agree: every test and every file a row names exists, every
//! row names a test or says why we do otherwise, and every label of RFC 9293 Appendix B has its row.

use std::collections::BTreeSet;
use std::path::Path;

/// Labels of RFC 9293 Appendix B, which counts each kind from 1 without a gap.
const LABELS: [(&str, usize); 4] = [("MUST", 69), ("SHLD", 31), ("MAY", 18), ("REC", 1)];

/// Names of the functions below `dir` that are tests, a proptest block's included.
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

/// What stands in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn every_row_about_tcp_is_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let doc = root.join("../docs/conformance/tcp.md");
    if !doc.exists() {
        // Inside a published package the documentation of the workspace is not there.
        println!("skipped: {} is not there", doc.display());
        return;
    }
    let mut known = BTreeSet::new();
    for dir in ["src", "tests", "netsim/src"] {
        tests(&root.join(dir), &mut known);
    }
    let text = std::fs::read_to_string(doc).expect("UTF-8");
    let mut ids = BTreeSet::new();
    for row in text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| row ")) {
        let columns: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [id, what, level, place, test] = columns[..] else { panic!("five columns: {row}") };
        assert!(ids.insert(id), "{id} is there twice");
        assert!(what.len() > 8 && !level.is_empty(), "{id} says nothing");
        for path in quoted(place) {
            assert!(root.join("src").join(path).exists(), "{id} names {path}, which is not there");
        }
        for name in quoted(test) {
            assert!(known.contains(name), "{id} names `{name}`, which is no test");
        }
        let excuse = ["deviation: ", "not applicable: "];
        match excuse.iter().find_map(|excuse| test.strip_prefix(excuse)) {
            Some(reason) => assert!(reason.len() > 8, "{id} gives no reason"),
            None => assert!(test.starts_with('`'), "{id} names no test"),
        }
    }
    for (kind, count) in LABELS {
        let missing = (1..=count).map(|n| format!("{kind}-{n}"));
        let missing: Vec<_> = missing.filter(|label| !ids.contains(label.as_str())).collect();
        assert!(missing.is_empty(), "without a row: {missing:?}");
    }
}
