//! The program as scripts see it: exit codes, what goes to stdout and what to stderr.

use crate::support::Scratch;
use std::fs::File;
use std::io::Write;
use std::process::{Command, Output, Stdio};

const MINIMAL: &str = "[driver]\nkind = 'tun'\n[[port]]\nname = 'p'\ndevice = 'tun0'\n\
                       addresses = ['10.1.0.1/24']\n[socks5]\nlisten = ['10.1.0.1:1080']\n";

fn proxy_gw(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_proxy-gw")).args(arguments).output().expect("it runs")
}

fn fed(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_proxy-gw"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn check_prints_the_resolved_configuration_which_checks_to_itself() {
    let scratch = Scratch::new("check");
    let file = scratch.file("gw.toml", MINIMAL);
    let first = proxy_gw(&["check", "-c", &file, "--set", "port.0.mtu=1400"]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    assert!(stdout(&first).contains("mtu = 1400") && stdout(&first).contains("idle_s = 7200"));
    let resolved = scratch.file("resolved.toml", &stdout(&first));
    let second = proxy_gw(&["check", "-c", &resolved]);
    assert_eq!(stdout(&second), stdout(&first));
}

#[test]
fn a_bad_configuration_is_code_2_and_every_problem_is_on_stderr() {
    let scratch = Scratch::new("bad");
    let file = scratch.file("gw.toml", &MINIMAL.replace("listen", "lisen"));
    for command in ["check", "run"] {
        let refused = proxy_gw(&[command, "-c", &file, "--set", "mptcp.versions=[2]"]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(refused.stdout.is_empty());
        let said = stderr(&refused);
        let expected = format!(
            "error: {file}:8: socks5.lisen: unknown key; the nearest known key is socks5.listen \
             (known: auth, listen, profile)"
        );
        assert!(said.lines().any(|line| line == expected), "{said}");
        assert!(
            said.contains("mptcp.versions = [2]: expected a whole number from 0 to 1"),
            "{said}"
        );
    }
    let missing = proxy_gw(&["run", "-c", "/nonexistent/gw.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("/nonexistent/gw.toml: cannot be read"));
}

/// What is written to `/dev/full` finds a full disk.
#[test]
fn the_exit_code_does_not_depend_on_where_complaints_go() {
    let scratch = Scratch::new("full");
    let good = scratch.file("gw.toml", MINIMAL);
    let bad = scratch.file("bad.toml", &MINIMAL.replace("listen", "lisen"));
    let warns = "admin.listen=['0.0.0.0:9180']";
    let cases: [(&[&str], i32); 3] = [
        (&["check", "-c", &bad], 2),
        (&["run", "-c", &bad], 2),
        (&["check", "-c", &good, "--set", warns], 0),
    ];
    for (arguments, code) in cases {
        let full = File::options().write(true).open("/dev/full").expect("it is there");
        let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-gw"));
        let ended = command.args(arguments).stdout(Stdio::null()).stderr(full).status();
        assert_eq!(ended.expect("it runs").code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn wrong_usage_is_code_2_and_help_has_examples() {
    assert_eq!(proxy_gw(&[]).status.code(), Some(2));
    assert_eq!(proxy_gw(&["run"]).status.code(), Some(2), "-c is needed");
    for command in ["run", "check", "demo", "hash-password"] {
        let help = proxy_gw(&[command, "--help"]);
        assert_eq!(help.status.code(), Some(0));
        assert!(stdout(&help).contains("Examples:\n  "), "{command}");
    }
    let help = stdout(&proxy_gw(&["--help"]));
    assert!(help.contains("3 driver or port missing") && help.contains("Examples:\n  "), "{help}");
    assert!(stdout(&proxy_gw(&["demo", "--help"])).contains("130 interrupted"));
}

#[test]
fn the_version_names_the_drivers() {
    let version = stdout(&proxy_gw(&["--version"]));
    let mut lines = version.lines();
    assert_eq!(lines.next(), Some(concat!("proxy-gw ", env!("CARGO_PKG_VERSION"))));
    assert!(lines.next().is_some_and(|line| line.starts_with("drivers: tun")), "{version}");
}

#[test]
fn a_password_from_stdin_becomes_a_hash_the_configuration_takes() {
    let hashed = fed(&["hash-password"], b"s3cret\n");
    assert_eq!(hashed.status.code(), Some(0), "{}", stderr(&hashed));
    let hash = stdout(&hashed);
    assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
    let scratch = Scratch::new("user");
    let user = format!(
        "{MINIMAL}auth = 'password'\n[[user]]\nname = 'a'\npassword_hash = '{}'\n",
        hash.trim()
    );
    let file = scratch.file("gw.toml", &user);
    let check = proxy_gw(&["check", "-c", &file]);
    assert_eq!(check.status.code(), Some(0), "{}", stderr(&check));
}

#[test]
fn passwords_socks_cannot_carry_are_refused() {
    for input in [&b"\n"[..], b"", &[b'x'; 300]] {
        let refused = fed(&["hash-password"], input);
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stdout.is_empty());
        assert!(stderr(&refused).contains("1 to 255 bytes (RFC 1929)"));
    }
}
