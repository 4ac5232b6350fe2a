//! SIGHUP, as an operator sends it.

use crate::support::{Helper, Setup, eventually};
use proxy_gw::auth::PasswordHash;

const SOCKS: &str = "--socks5-hostname 10.1.0.1:1080";

fn user(name: &str, password: &[u8]) -> String {
    let hash = PasswordHash::of(password).expect("a hash");
    format!("[[user]]\nname = \"{name}\"\npassword_hash = \"{}\"\n", hash.as_str())
}

/// Users, names and the log's level are those of the file from then on, what needs a restart is said, a bad file
/// changes nothing, and the session that was there lasts to the end.
#[test]
fn a_hangup_takes_up_what_needs_no_restart_and_sessions_stay() {
    let alice = user("alice", b"first");
    let setup = Setup::tun("hangup").tables(&alice).set("socks5.auth=password");
    let Some(mut bed) = setup.set("timeouts.drain_s=1").start() else { return };
    bed.small_windows();
    bed.scratch.file("object", &"plait\n".repeat(2_000_000));
    bed.scratch.file("small", "plait\n");
    bed.serve_files();
    let line = format!(
        "curl -q -s --noproxy x --limit-rate 50k {SOCKS} --proxy-user alice:first -o /dev/null \
         http://10.9.0.2:8000/object"
    );
    let mut download = Helper::start(bed.inside(&line));
    let is_there = |connections: &str| connections.contains("\"user\":\"alice\"");
    eventually("the session shows up", || is_there(&bed.get("/connections")).then_some(()));

    let before = bed.config();
    let others = user("alice", b"second") + &user("bob", b"third");
    let after = before.replace(&alice, &others)
        + "[hosts]\n\"new.example\" = [\"10.9.0.2\"]\n[tcp]\nttl = 63\n";
    let said =
        bed.hang_up(&after, "SIGHUP: not in force, needs a restart: tcp.ttl = 63 instead of 64");
    assert!(
        said.contains(
            "SIGHUP: in force now: hosts.new.example = [\"10.9.0.2\"] instead of none; \
             user.alice.password_hash is another; user.bob is new\n"
        ),
        "{said}"
    );
    let codes = |bed: &crate::support::Bed| {
        ["alice:first", "alice:second", "bob:third"].map(|who| {
            let fetched =
                bed.curl(SOCKS, &format!("--proxy-user {who} http://new.example:8000/small"));
            fetched.status.code()
        })
    };
    // curl's exit code 97: the proxy refused.
    assert_eq!(codes(&bed), [Some(97), Some(0), Some(0)]);

    let bad = before.replace("10.9.0.0/24\"]", "10.9.0.0/24\"]\ndeny = [\"10.9.0.0\"]");
    let said = bed.hang_up(&bad, "SIGHUP: nothing was changed");
    let file = bed.scratch.path("gw.toml");
    assert!(said.contains(&format!("SIGHUP: {file}:")), "{said}");
    assert!(
        said.contains("egress.deny.0 = \"10.9.0.0\": expected addresses with their prefix"),
        "{said}"
    );
    assert_eq!(codes(&bed), [Some(97), Some(0), Some(0)]);

    let quiet = format!("{after}[log]\nlevel = \"off\"\n");
    bed.hang_up(&quiet, "SIGHUP: not in force, needs a restart: tcp.ttl = 63 instead of 64");
    let said = bed.hang_up(&before, "user.bob is gone");
    assert!(
        said.contains(
            "log.level = \"info\" instead of \"off\"; user.alice.password_hash is another"
        ),
        "{said}"
    );
    assert!(is_there(&bed.get("/connections")), "it lasts");
    bed.terminate();
    let (code, log) = bed.end();
    assert_eq!(code, Some(4), "{log}");
    assert!(log.contains("1 sessions were reset"), "{log}");
    assert!(!log.contains("argon2"), "{log}");
    assert!(!download.wait(), "curl heard of it");
}
