//! `docs/conformance.md` and the tests agree: every test a row names exists, and every row names a
//! test or says why there is none.

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

#[test]
fn every_row_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let doc = root.join("../docs/conformance.md");
    if !doc.exists() {
        // Inside a published package the documentation of the workspace is not there.
        println!("skipped: {} is not there", doc.display());
        return;
    }
    let mut known = BTreeSet::new();
    tests(&root.join("tests"), &mut known);
    let text = std::fs::read_to_string(doc).expect("UTF-8");
    let mut rows = 0;
    for row in text.lines().filter(|l| l.starts_with("| T") || l.starts_with("| A")) {
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
