//! The configurations in `docs/operations.md` are ones that the program accepts.

use crate::support::Scratch;
use std::path::Path;
use std::process::{Command, Output};

fn check(toml: &str) -> Output {
    let scratch = Scratch::new("docs");
    let file = scratch.file("gateway.toml", toml);
    let check = Command::new(env!("CARGO_BIN_EXE_proxy-gw")).args(["check", "-c", &file]).output();
    check.expect("the program runs")
}

#[test]
fn the_documented_configuration_is_accepted() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let text = std::fs::read_to_string(&docs).expect("the page");
    let blocks: Vec<&str> = text
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split_once("```").expect("its end").0)
        .collect();
    let whole = check(blocks.first().expect("a TOML block"));
    let said = String::from_utf8_lossy(&whole.stderr);
    assert!(whole.status.success(), "{said}");
    let resolved = String::from_utf8_lossy(&whole.stdout);
    assert!(resolved.contains("origin.example"), "{resolved}");
    // The others are parts of one: nothing is wrong but what they leave out.
    for part in &blocks[1..] {
        let part = check(part);
        let said = String::from_utf8_lossy(&part.stderr);
        assert!(said.lines().all(|line| line.contains(": missing; ")), "{said}");
    }
}
