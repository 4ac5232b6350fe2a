//! The configuration in `docs/operations.md` is one that the program accepts.

use std::path::Path;
use std::process::Command;

#[test]
fn the_documented_configuration_is_accepted() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let text = std::fs::read_to_string(&docs).expect("the page");
    let (_, rest) = text.split_once("```toml\n").expect("a TOML block");
    let (toml, _) = rest.split_once("```").expect("its end");
    let file = std::env::temp_dir().join(format!("plait-docs-{}.toml", std::process::id()));
    std::fs::write(&file, toml).expect("a temporary file");
    let check = Command::new(env!("CARGO_BIN_EXE_proxy-gw"))
        .args(["check", "-c"])
        .arg(&file)
        .output()
        .expect("the program runs");
    let _ = std::fs::remove_file(&file);
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(check.status.success(), "{said}");
    let resolved = String::from_utf8_lossy(&check.stdout);
    assert!(resolved.contains("origin.example"), "{resolved}");
}
