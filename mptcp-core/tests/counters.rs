//! Every counter is counted: one that nobody touches is 0 whatever happens, and who asserts that proves nothing.

use mptcp_core::stats::Counters;
use std::fs;
use std::path::Path;

/// The code below `dir`, without its tests.
fn code(dir: &Path, into: &mut String) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            code(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && !path.ends_with("tests.rs")
        {
            into.push_str(&fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn every_counter_is_counted_somewhere() {
    let mut text = String::new();
    code(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let counters = Counters::default();
    let is_counted = |name: &str| {
        let field = format!(".{name}");
        let continues = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut uses = text.match_indices(&field);
        uses.any(|(at, _)| !text[at + field.len()..].starts_with(continues))
    };
    let names = counters.iter().map(|(name, _)| name);
    let (counted, never): (Vec<_>, Vec<_>) = names.partition(|name| is_counted(name));
    assert!(never.is_empty(), "nobody counts {never:?}");
    assert!(counted.len() > 100, "{counted:?}");
}
