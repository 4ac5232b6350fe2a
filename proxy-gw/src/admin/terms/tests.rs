//! Requests as operators make them, over the socket.

use crate::admin::tests::{Scratch, source};
use crate::admin::{Admin, Source};
use crate::config::AdminAddress;
use crate::control::{Command, mailbox};
use core::sync::atomic::AtomicBool;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

/// Status and body.
fn ask(mut stream: impl Read + Write, head: &str, body: &str) -> (String, String) {
    let length = body.len();
    let request = format!("{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n");
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    // It may have answered before it has read all.
    let _ = write!(stream, "{request}{kind}\r\n{body}");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].to_owned(), body.to_owned())
}

fn at(path: &Path, head: &str, body: &str) -> (String, String) {
    ask(UnixStream::connect(path).unwrap(), head, body)
}

fn json_of((status, body): (String, String)) -> Value {
    assert_eq!(status, "200", "{body}");
    serde_json::from_str(&body).unwrap()
}

fn start(name: &str) -> (Scratch, Admin) {
    let scratch = Scratch::new(name);
    let (source, _shard) = source(&Arc::new(AtomicBool::new(true)));
    let admin = Admin::start(&[AdminAddress::Unix(scratch.socket())], source).unwrap();
    (scratch, admin)
}

#[test]
fn what_is_in_force_is_listed() {
    let (scratch, _admin) = start("terms-list");
    let get = |target: &str| json_of(at(&scratch.socket(), &format!("GET {target}"), ""));
    assert_eq!(
        get("/profiles"),
        json!([
            {"name": "wifi-first", "mode": "active_standby", "scheduler": "active_backup",
             "access": ["wifi", "lte"], "weights": []},
            {"name": "shares", "mode": "load_balancing", "scheduler": "weighted",
             "access": ["wifi", "lte"], "weights": [80, 20]},
        ])
    );
    assert_eq!(
        get("/listeners"),
        json!([
            {"front_end": "socks5", "listen": ["10.1.0.1:1080"], "profile": "wifi-first"},
            {"front_end": "convert", "listen": ["10.1.0.1:1234"], "profile": null},
        ])
    );
    let user = |name: &str, profile: Value, rate: &str, access: Value| {
        json!({"name": name, "profile": profile, "rate": rate, "upload_rate": "unlimited",
               "access_rates": access, "sessions": 0, "sessions_ended": 0,
               "relayed_up_bytes": 0, "relayed_down_bytes": 0})
    };
    let second = user("b c", json!("shares"), "50Mbit", json!({"lte": "5Mbit"}));
    assert_eq!(get("/users"), json!([user("a", Value::Null, "unlimited", json!({})), second]));
    assert_eq!(get("/users/b%20c"), second);
    assert_eq!(
        get("/ports"),
        json!([{"name": "lte", "total_rate": "unlimited"}, {"name": "wifi", "total_rate": "1Gbit"}])
    );
}

#[test]
fn changes_are_merged_and_answered_with_what_is_in_force() {
    let (scratch, _admin) = start("terms-change");
    let path = scratch.socket();
    let patch = |target: &str, body: Value| {
        json_of(at(&path, &format!("PATCH {target}"), &body.to_string()))
    };
    let changed = patch("/users/b%20c", json!({"rate": 8_000, "upload_rate": "1Mbit"}));
    assert_eq!(
        (&changed["rate"], &changed["upload_rate"], &changed["profile"], &changed["access_rates"]),
        (&json!("8kbit"), &json!("1Mbit"), &json!("shares"), &json!({"lte": "5Mbit"}))
    );
    let changed = patch(
        "/users/b%20c",
        json!({"profile": null, "rate": null, "access_rates": {"lte": null, "wifi": "2Mbit"}}),
    );
    assert_eq!(
        (&changed["rate"], &changed["upload_rate"], &changed["profile"], &changed["access_rates"]),
        (&json!("unlimited"), &json!("1Mbit"), &Value::Null, &json!({"wifi": "2Mbit"}))
    );
    assert_eq!(changed, json_of(at(&path, "GET /users/b%20c", "")));
    let changed = patch("/users/b%20c", json!({"access_rates": null}));
    assert_eq!(
        (&changed["upload_rate"], &changed["access_rates"]),
        (&json!("1Mbit"), &json!({})),
        "null takes away all of them"
    );
    let changed = patch("/listeners/convert", json!({"profile": "shares"}));
    assert_eq!(changed["profile"], "shares");
    assert_eq!(patch("/listeners/socks5", json!({}))["profile"], "wifi-first");
    let changed = patch("/profiles/shares", json!({"weights": [50, 50]}));
    assert_eq!(
        (&changed["mode"], &changed["access"], &changed["weights"]),
        (&json!("load_balancing"), &json!(["wifi", "lte"]), &json!([50, 50]))
    );
    let changed =
        patch("/profiles/shares", json!({"mode": "priority", "access": ["lte"], "weights": null}));
    assert_eq!(
        (&changed["name"], &changed["scheduler"], &changed["access"], &changed["weights"]),
        (&json!("shares"), &json!("overflow"), &json!(["lte"]), &json!([]))
    );
    assert_eq!(changed, json_of(at(&path, "GET /profiles/shares", "")));
    assert_eq!(changed, json_of(at(&path, "GET /profiles", ""))[1]);
    assert_eq!(patch("/ports/wifi", json!({"total_rate": "unlimited"}))["total_rate"], "unlimited");
}

#[test]
fn what_is_wrong_with_a_change_is_said_and_changes_nothing() {
    let (scratch, _admin) = start("terms-wrong");
    let path = scratch.socket();
    let before = ["/users", "/profiles"].map(|all| json_of(at(&path, &format!("GET {all}"), "")));
    for (head, body, status, text) in [
        (
            "PATCH /users/a",
            "{\"rate\":\"20MB\"}",
            "400",
            "rate = \"20MB\": expected \"unlimited\", or a rate from 8kbit to 1000Gbit",
        ),
        ("PATCH /users/a", "{\"rate\":true}", "400", "rate = true: expected"),
        (
            "PATCH /users/a",
            "{\"rate\":\"1Mbit\",\"profil\":null}",
            "400",
            "profil: unknown key, known: access_rates, profile, rate, upload_rate; did you mean \"profile\"?",
        ),
        (
            "PATCH /users/a",
            "{\"profile\":\"none\"}",
            "400",
            "profile = \"none\": expected null, or the name of a [[profile]] (\"wifi-first\", \"shares\")",
        ),
        (
            "PATCH /users/a",
            "{\"access_rates\":{\"dsl\":null}}",
            "400",
            "access_rates.dsl: no such port; there are lte, wifi",
        ),
        (
            "PATCH /users/a",
            "{\"access_rates\":7}",
            "400",
            "access_rates = 7: expected null, or an object",
        ),
        ("PATCH /users/a", "[1]", "400", "expected an object with what changes"),
        ("PATCH /users/a", "{\"rate\":", "400", ""),
        ("PATCH /users/nobody", "{}", "404", "\"nobody\": there is none of that name"),
        ("PATCH /listeners/http", "{}", "404", "\"http\": there is none of that name"),
        ("PATCH /ports/lte", "{\"rate\":\"1Mbit\"}", "400", "rate: unknown key, known: total_rate"),
        ("PATCH /profiles", "{}", "405", ""),
        ("PATCH /profiles/none", "{}", "404", "\"none\": there is none of that name"),
        (
            "PATCH /profiles/shares",
            "{\"name\":\"x\"}",
            "400",
            "name: unknown key, known: access, mode, weights",
        ),
        (
            "PATCH /profiles/shares",
            "{\"mode\":\"fast\"}",
            "400",
            "mode = \"fast\": expected one of active_standby, smallest_delay, load_balancing, priority, redundant",
        ),
        (
            "PATCH /profiles/shares",
            "{\"mode\":\"redundant\"}",
            "400",
            "access: mode \"redundant\" has no use for it; null takes it away",
        ),
        (
            "PATCH /profiles/shares",
            "{\"mode\":\"priority\"}",
            "400",
            "weights: mode \"priority\" has no use for it; null takes it away",
        ),
        (
            "PATCH /profiles/shares",
            "{\"access\":null}",
            "400",
            "access: the ports that weights are for",
        ),
        (
            "PATCH /profiles/shares",
            "{\"access\":[\"lte\"]}",
            "400",
            "weights: one for each of access",
        ),
        (
            "PATCH /profiles/wifi-first",
            "{\"access\":[\"lte\",\"lte\"]}",
            "400",
            "each port at most once",
        ),
        (
            "PATCH /profiles/shares",
            "{\"access\":[\"dsl\"]}",
            "400",
            "access = [\"dsl\"]: expected a list of ports (lte, wifi)",
        ),
        (
            "PATCH /profiles/shares",
            "{\"weights\":[0,1]}",
            "400",
            "weights = [0,1]: expected a list of whole numbers from 1 to 65535",
        ),
        ("PUT /users/a", "{}", "405", ""),
        ("PATCH /metrics", "{}", "405", ""),
        ("PATCH /users/a", "", "415", ""),
    ] {
        let (code, said) = at(&path, head, body);
        assert_eq!(code, status, "{head} {body}: {said}");
        assert!(said.contains(text), "{head} {body}: {said}");
    }
    let long = format!("{{\"profile\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(at(&path, "PATCH /users/a", &long).0, "413");
    let after = ["/users", "/profiles"].map(|all| json_of(at(&path, &format!("GET {all}"), "")));
    assert_eq!(after, before);
}

/// A page in a browser cannot: PATCH takes a preflight, which nothing here answers. Who reaches an address of
/// the network may look.
#[test]
fn changes_are_taken_where_only_this_machine_reaches_us() {
    let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (source, _shard) = source(&Arc::new(AtomicBool::new(true)));
    let everywhere = AdminAddress::Tcp(([0, 0, 0, 0], port).into());
    let admin = Admin::start(&[everywhere], source).unwrap();
    let connect = || std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(ask(connect(), "GET /users/a", "").0, "200");
    let (status, said) = ask(connect(), "PATCH /users/a", "{\"rate\":\"1Mbit\"}");
    assert_eq!(status, "403", "{said}");
    assert!(said.contains("a Unix socket or a loopback address only"), "{said}");
    assert_eq!(ask(connect(), "OPTIONS /users/a", "").0, "403");
    drop(admin);
}

#[test]
fn a_shard_that_has_ended_is_told_of_and_a_full_mailbox_is_waited_for() {
    let scratch = Scratch::new("terms-gone");
    let (mut source, shard): (Source, _) = source(&Arc::new(AtomicBool::new(true)));
    let (handle, gone) = mailbox(Arc::new(|| {}));
    drop(gone);
    let (full, slow) = mailbox(Arc::new(|| {}));
    while full.send(Command::Sessions { from: 0, reply: tokio::sync::oneshot::channel().0 }).is_ok()
    {
    }
    source.shards = vec![full.clone()];
    shard.join().unwrap();
    let admin = Admin::start(&[AdminAddress::Unix(scratch.socket())], source).unwrap();
    let answers = std::thread::spawn(move || {
        loop {
            if let Some(Command::Policies { in_force, done }) = slow.poll() {
                done.send(()).unwrap();
                return in_force.version();
            }
        }
    });
    let (status, _) = at(&scratch.socket(), "PATCH /users/a", "{\"rate\":\"1Mbit\"}");
    assert_eq!((status.as_str(), answers.join().unwrap()), ("200", 1));
    drop(admin);
    let (mut source, _shard) = crate::admin::tests::source(&Arc::new(AtomicBool::new(true)));
    let (living, hears) = mailbox(Arc::new(|| {}));
    source.shards = vec![handle, living];
    let _admin = Admin::start(&[AdminAddress::Unix(scratch.socket())], source).unwrap();
    let (status, said) = at(&scratch.socket(), "PATCH /users/a", "{\"rate\":\"1Mbit\"}");
    assert_eq!(status, "503", "{said}");
    assert!(said.contains("does not answer"), "{said}");
    assert!(matches!(hears.poll(), Some(Command::Policies { .. })), "the others hear of it");
    let user = json_of(at(&scratch.socket(), "GET /users/a", ""));
    assert_eq!(user["rate"], "1Mbit", "it is in force for whoever hears of it");
}
