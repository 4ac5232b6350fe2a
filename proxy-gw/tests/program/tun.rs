//! Over TUN devices: readiness, admin endpoint, drain, abort, exit codes.

use crate::support::{Bed, Helper, Scratch, Setup, beside, eventually};
use std::process::Output;

const SOCKS: &str = "--socks5 10.1.0.1:1080";
const SOCKS_BY_NAME: &str = "--socks5-hostname 10.1.0.1:1080";
const HTTP: &str = "--proxytunnel -x http://10.1.0.1:8080";

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_gateway_on_tun_serves_reports_and_drains() {
    let Some(mut bed) = Setup::tun("serves").start() else { return };
    let content = "plait\n".repeat(200_000);
    bed.scratch.file("object", &content);
    bed.serve_files();
    assert!(bed.get("/ready").starts_with("HTTP/1.0 200 "));
    for proxy in [SOCKS, HTTP] {
        let fetched = bed.curl(proxy, "http://10.9.0.2:8000/object");
        assert!(fetched.status.success(), "{fetched:?}");
        assert!(fetched.stdout == content.as_bytes(), "{proxy}: the content differs");
    }
    for (proxy, reply) in [(SOCKS, "(2)"), (HTTP, "403")] {
        let refused = bed.curl(proxy, "http://127.0.0.1:8000/object");
        assert!(complaint(&refused).contains(reply), "{refused:?}");
    }
    // A session is counted when it ended, which the client's FIN decides.
    eventually("the sessions end", || {
        (bed.metric("plait_sessions{shard=\"0\"}") == 0).then_some(())
    });
    let metrics = bed.get("/metrics");
    assert!(metrics.contains("reason=\"denied\"} 2\n"), "{metrics}");
    assert!(metrics.contains("reason=\"completed\"} 2\n"), "{metrics}");
    bed.terminate();
    let (code, log) = bed.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!bed.scratch.dir().join("admin.sock").exists(), "the socket file is removed");
}

#[test]
fn names_are_looked_up_at_a_real_server() {
    let setup = Setup::tun("names").needs("unbound").set("dns.servers=['10.9.0.2']");
    let started = setup.commands(&["ip route add local 10.9.0.128/25 dev lo"]).start();
    let Some(mut bed) = started else { return };
    let content = "plait\n".repeat(2_000);
    bed.scratch.file("object", &content);
    bed.serve_files();
    let one = ["www.plait.test. A 10.9.0.2", "inside.plait.test. A 192.168.0.1"].map(str::to_owned);
    // More than a datagram holds.
    let many = (130..230).map(|last| format!("many.plait.test. A 10.9.0.{last}"));
    bed.serve_names(&one.into_iter().chain(many).collect::<Vec<_>>());
    for host in ["www.plait.test", "many.plait.test", "WWW.plait.test"] {
        for proxy in [SOCKS_BY_NAME, HTTP] {
            let fetched = bed.curl(proxy, &format!("http://{host}:8000/object"));
            assert!(fetched.stdout == content.as_bytes(), "{host}: {fetched:?}");
        }
    }
    for (host, reply) in [("none.plait.test", "(4)"), ("inside.plait.test", "(2)")] {
        let refused = bed.curl(SOCKS_BY_NAME, &format!("http://{host}:8000/object"));
        assert!(complaint(&refused).contains(reply), "{refused:?}");
    }
    assert_eq!(bed.metric("plait_dns_tcp_queries_total"), 1);
    assert_ne!(bed.metric("plait_dns_cached_total"), 0);
    assert_eq!(bed.metric("plait_dns_timeouts_total"), 0);
}

/// What `scripts/socks-checks` asks of a SOCKS5 server.
#[test]
fn a_socks_server_like_no_other() {
    let Some(bed) = Setup::tun("checks").start() else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/socks-checks");
    let said = bed.said(&format!("{script} check 10.1.0.1 1080"));
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 18, "{said}");
}

/// Datagrams of a client of the kernel's MPTCP come from either of the networks its control connection
/// uses, and from no other.
#[test]
fn an_association_follows_its_client_from_network_to_network() {
    let stranger = [
        "ip addr add 10.3.0.2/32 dev lo",
        "ip rule add from 10.3.0.2 table 103",
        "ip route add default dev tlte src 10.3.0.2 table 103",
    ];
    let Some(mut bed) = Setup::tun("roaming").wifi().commands(&stranger).start() else { return };
    bed.serve(&format!("python3 -u {} 10.9.0.2 7", beside("echo.py")), "Serving");
    let client = beside("roaming.py");
    let line = format!("python3 -u {client} 10.1.0.1 1080 10.9.0.2 7 10.1.0.2 10.2.0.2 10.3.0.2");
    assert_eq!(bed.said(&line), "associated\nfirst\nsecond\nstranger\n");
    let metrics = bed.get("/metrics");
    assert!(!metrics.contains("fate=\"strangers\"} 0\n"), "{metrics}");
}

/// A client of the kernel's MPTCP waits, and the peer that it named comes, as an FTP server's data would.
#[test]
fn a_peer_comes_to_a_client_that_waits() {
    let setup = Setup::tun("bind").wifi().set("bind.waiting=4");
    let Some(bed) = setup.commands(&["ip addr add 10.9.0.3/32 dev lo"]).start() else { return };
    let line = format!("python3 -u {} 10.1.0.1 1080 10.9.0.2 10.9.0.3", beside("bind.py"));
    assert_eq!(bed.said(&line), "waits\nrefused\nconnected\nthrough\n");
}

/// Starts a download that takes its time and waits until it is in the list of sessions.
fn slow_download(bed: &Bed) -> Helper {
    bed.small_windows();
    let line = "curl -q -s --noproxy x --limit-rate 100k --socks5 10.1.0.1:1080 -o /dev/null \
                http://10.9.0.2:8000/object";
    let download = Helper::start(bed.inside(line));
    let connections = eventually("the session shows up", || {
        let connections = bed.get("/connections");
        connections.contains("\"destination\":\"10.9.0.2:8000\"").then_some(connections)
    });
    assert!(connections.contains("\"front_end\":\"socks5\""), "{connections}");
    download
}

#[test]
fn sessions_that_outlast_the_drain_are_reset_and_the_code_is_4() {
    for (drain_s, signals) in [(1, 1), (3600, 2)] {
        let setup = Setup::tun("drain").set(format!("timeouts.drain_s={drain_s}"));
        let Some(mut bed) = setup.start() else { return };
        bed.scratch.file("object", &"plait\n".repeat(2_000_000));
        bed.serve_files();
        let mut download = slow_download(&bed);
        bed.terminate();
        if signals == 2 {
            eventually("the first signal starts the drain", || {
                bed.get("/ready").starts_with("HTTP/1.0 503 ").then_some(())
            });
            bed.terminate();
        }
        let (code, log) = bed.end();
        assert_eq!(code, Some(4), "{log}");
        assert!(log.contains("1 sessions were reset"), "{log}");
        assert!(!download.wait(), "curl heard of it");
    }
}

#[test]
fn a_device_that_cannot_be_had_is_code_3_and_a_taken_admin_address_code_1() {
    let failed = Setup::tun("no-device").set("port.0.device=lo").fail();
    let Some((code, log)) = failed else { return };
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("\"lo\""), "{log}");
    let scratch = Scratch::new("taken-by");
    let taken = format!("admin.listen=['unix:{}']", scratch.file("taken", "not a socket"));
    let Some((code, log)) = Setup::tun("taken").set(taken).fail() else { return };
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("is no socket"), "{log}");
}

/// curl's exit code 97: the proxy refused.
#[test]
fn passwords_decide_who_is_served() {
    let hash = proxy_gw::auth::PasswordHash::of(b"right").expect("a hash");
    let user = format!("[[user]]\nname = \"alice\"\npassword_hash = \"{}\"\n", hash.as_str());
    let setup = Setup::tun("passwords").tables(&user).set("socks5.auth=password");
    let Some(mut bed) = setup.start() else { return };
    bed.scratch.file("object", "plait\n");
    bed.serve_files();
    for (credentials, code) in [
        ("--proxy-user alice:right", 0),
        ("--proxy-user alice:wrong", 97),
        ("--proxy-user bob:right", 97),
        ("--proxy-user alice:right", 0),
        ("", 97),
    ] {
        let fetched = bed.curl(SOCKS, &format!("{credentials} http://10.9.0.2:8000/object"));
        assert_eq!(fetched.status.code(), Some(code), "{credentials:?}: {fetched:?}");
        assert_eq!(fetched.stdout == b"plait\n", code == 0, "{credentials:?}");
    }
    let log = bed.finish();
    assert!(!log.contains("right") && !log.contains("wrong"), "no password in the log: {log}");
}

/// The shard has its CPU, and whoever checks passwords any: on one they would take turns, and packets wait meanwhile.
#[test]
fn passwords_are_not_checked_on_the_shard_s_cpu_alone() {
    let hash = proxy_gw::auth::PasswordHash::of(b"right").expect("a hash");
    let user = format!("[[user]]\nname = \"alice\"\npassword_hash = \"{}\"\n", hash.as_str());
    let all = core_affinity::get_core_ids().expect("there is a CPU");
    let cpu = all[0].id;
    let setup = Setup::tun("cpus").tables(&user).set("socks5.auth=password");
    let Some(bed) = setup.set(format!("driver.cores=[{cpu}]")).start() else { return };
    assert_eq!(bed.cpus_of("plait-shard-0"), cpu.to_string());
    assert_eq!(bed.cpus_of("plait-auth"), bed.cpus_of("proxy-gw"));
    bed.finish();
}

#[test]
fn why_it_failed_is_said_with_the_log_off() {
    let setup = Setup::tun("log-off").set("port.0.device=lo").set("log.level='off'");
    let Some((code, said)) = setup.fail() else { return };
    assert_eq!(code, Some(3), "{said}");
    assert!(said.starts_with("error: ") && said.contains("\"lo\""), "{said}");
}
