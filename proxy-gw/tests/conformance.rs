//! `docs/conformance/front-ends.md` names tests that exist.

#![expect(clippy::expect_used, reason = "a test that cannot read the sources has failed")]

#[path = "../../mptcp-core/tests/conformance/tables.rs"]
#[expect(dead_code, reason = "shared with the tests of mptcp-core, which use more of it")]
mod tables;

use tables::{check_tests, columns, known_tests, page};

#[test]
fn every_rule_of_a_front_end_names_its_test() {
    let Some(text) = page("conformance/front-ends.md") else { return };
    let known = known_tests(&["src", "tests", "../mptcp-core/src", "../mptcp-core/tests"]);
    let (rules, beside) =
        text.split_once("## Beside other SOCKS5 servers").expect("both parts are there");
    let mut rows = 0;
    for row in rules.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule ")) {
        let columns = columns(row);
        let [rule, _, tests] = columns[..] else { panic!("three columns: {row}") };
        check_tests(rule, tests, &known, &[]);
        rows += 1;
    }
    assert!(rows > 40, "{rows} rows");
    let ours = beside.lines().filter(|line| line.starts_with("| ")).map(|row| columns(row)[3]);
    let failed: Vec<&str> = ours.skip(1).filter(|cell| *cell != "ok").collect();
    assert!(failed.is_empty(), "{failed:?}");
}
