//! `docs/conformance/tcp.md` and the code agree: every test and every file a row names exists, every
//! row names a test or says why we do otherwise, and every label of RFC 9293 Appendix B has its row.

use std::collections::BTreeSet;
use tables::{check_paths, check_tests, columns, known_tests, page};

#[path = "conformance/tables.rs"]
mod tables;

/// Labels of RFC 9293 Appendix B, which counts each kind from 1 without a gap.
const LABELS: [(&str, usize); 4] = [("MUST", 69), ("SHLD", 31), ("MAY", 18), ("REC", 1)];

#[test]
fn every_row_about_tcp_is_true() {
    let Some(text) = page("conformance/tcp.md") else { return };
    let known = known_tests(&["src", "tests", "netsim/src"]);
    let mut ids = BTreeSet::new();
    for row in text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| row ")) {
        let columns = columns(row);
        let [id, what, level, place, test] = columns[..] else { panic!("five columns: {row}") };
        assert!(ids.insert(id), "{id} is there twice");
        assert!(what.len() > 8 && !level.is_empty(), "{id} says nothing");
        check_paths(id, place);
        check_tests(id, test, &known, &["deviation: ", "not applicable: "]);
    }
    for (kind, count) in LABELS {
        let missing = (1..=count).map(|n| format!("{kind}-{n}"));
        let missing: Vec<_> = missing.filter(|label| !ids.contains(label.as_str())).collect();
        assert!(missing.is_empty(), "without a row: {missing:?}");
    }
}
