//! Clients that others wrote, with TCP and, through mptcpize, with this machine's kernel's MPTCP over two
//! accesses: curl, PySocks, ssh, Chromium, and dig with a forwarder before it; names are unbound's.
//!
//! `make interop` runs them; what they need is `scripts/install-deps clients`.

use crate::support::{Bed, Helper, Setup, beside, eventually};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

/// Debian's own, which has its packages.
const PYTHON: &str = "/usr/bin/python3 -u";
const PYSOCKS: &str = "/usr/lib/python3/dist-packages/socks.py";
const CHROMIUM: &str = "chromium-headless-shell";

/// What stands before a program's name: nothing, or what has its TCP sockets be MPTCP ones.
const KINDS: [&str; 2] = ["", "mptcpize run "];

/// Gateways with two accesses and a name server, and an HTTP origin and a datagram echo beside each: one on TUN
/// devices and one on DPDK's ports, one after the other.
fn beds(name: &str, needs: &[&'static str]) -> impl Iterator<Item = Bed> {
    let on_tun = Setup::tun(&format!("{name}-tun")).wifi();
    [on_tun, Setup::dpdk(&format!("{name}-dpdk"))].into_iter().filter_map(move |setup| {
        let setup = setup.needs("mptcpize").needs("unbound").set("dns.servers=['10.9.0.2']");
        let mut bed = needs.iter().fold(setup, |setup, need| setup.needs(need)).start()?;
        let one = ["www.plait.test. A 10.9.0.2".to_owned()];
        // More than a datagram holds.
        let many = (100..200).map(|last| format!("many.plait.test. A 192.0.2.{last}"));
        bed.serve_names(&one.into_iter().chain(many).collect::<Vec<_>>());
        bed.serve(&format!("{PYTHON} {} 10.9.0.2 8000", beside("clients/origin.py")), "Serving");
        bed.serve(&format!("{PYTHON} {} 10.9.0.2 7", beside("echo.py")), "Serving");
        Some(bed)
    })
}

/// How many subflows clients have joined to their connections.
fn joined(bed: &Bed) -> u64 {
    bed.metric("plait_mp_join_ack_rx_total")
}

/// What clients with MPTCP have done, and that it was over both accesses; then the end.
fn finish_with_joins(bed: Bed, connections: u64) {
    assert!(bed.metric("plait_mp_capable_ack_rx_total") >= connections);
    assert_ne!(joined(&bed), 0);
    bed.finish();
}

/// Octets that no shift makes the same.
fn content() -> Vec<u8> {
    (0..3_000_000_u64).map(|at| (at * at / 251).to_le_bytes()[0]).collect()
}

#[test]
#[ignore = "make interop"]
fn curl_by_every_way_in() {
    for bed in beds("curl", &[]) {
        let sent = content();
        let file = bed.scratch.path("sent");
        std::fs::write(&file, &sent).expect("a temporary file");
        let mut connections = 0;
        for kind in KINDS {
            for (way, host) in [
                ("--socks5 10.1.0.1:1080", "10.9.0.2"),
                ("--socks5-hostname 10.1.0.1:1080", "www.plait.test"),
                ("--proxytunnel -x http://10.1.0.1:8080", "www.plait.test"),
            ] {
                let line = format!(
                    "{kind}curl -q -sS --noproxy x -m 100 {way} -H Expect: --data-binary @{file} \
                 http://{host}:8000/echo"
                );
                let output = bed.run(&line);
                assert!(output.status.success(), "{line}: {:?}", output.stderr);
                assert!(output.stdout == sent, "{line}: {} octets", output.stdout.len());
                connections += u64::from(!kind.is_empty());
            }
        }
        finish_with_joins(bed, connections);
    }
}

#[test]
#[ignore = "make interop"]
fn pysocks_with_streams_and_datagrams() {
    for bed in beds("pysocks", &[PYSOCKS]) {
        for kind in KINDS {
            let script = beside("clients/pysocks.py");
            let line =
                format!("{kind}{PYTHON} {script} 10.1.0.1 1080 8080 10.9.0.2 www.plait.test");
            assert_eq!(
                bed.said(&line),
                "socks5 10.9.0.2\nsocks5 www.plait.test\nhttp 10.9.0.2\nhttp www.plait.test\nrefused\n\
             datagrams 10.9.0.2\ndatagrams www.plait.test\n"
            );
        }
        finish_with_joins(bed, 6);
    }
}

/// The access that its datagrams go by goes away, comes back, and the other one goes: the client need not do a
/// thing, and its association stays.
#[test]
#[ignore = "make interop"]
fn datagrams_of_a_client_whose_access_goes_away() {
    for bed in beds("changing", &[]) {
        let [lte, wifi] = bed.accesses;
        bed.said(&format!(
            "ip route add 10.1.0.0/24 via 10.2.0.1 dev {wifi} src 10.2.0.2 metric 100"
        ));
        let script = beside("clients/changing.py");
        let mut command = bed.inside(&format!("{PYTHON} {script} 10.1.0.1 1080 10.9.0.2 7"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.spawn().expect("nsenter runs");
        let mut stdin = client.stdin.take().expect("a pipe");
        let mut stdout = BufReader::new(client.stdout.take().expect("a pipe")).lines();
        let mut said = || stdout.next().and_then(Result::ok).expect("a line");
        assert_eq!(said(), "associated");
        eventually("it joins", || (joined(&bed) > 0).then_some(()));
        let mut next = |expected: &str| {
            stdin.write_all(b"go\n").expect("it reads");
            assert_eq!(said(), expected);
        };
        next("20 echoed");
        bed.said(&format!("ip link set {lte} down"));
        next("40 echoed");
        bed.said(&format!("ip link set {lte} up"));
        bed.said(&format!("ip link set {wifi} down"));
        next("60 echoed");
        drop(stdin);
        assert!(client.wait().expect("it ends").success());
        assert_eq!(bed.metric("plait_udp_associations_total"), 1);
        bed.finish();
    }
}

/// An SSH server of the bed's own: its keys are made for the test, and it sees a home directory with nothing but
/// the client's.
fn serve_ssh(bed: &mut Bed) -> String {
    let path = |name: &str| bed.scratch.path(name);
    let (key, host_key) = (path("key"), path("host_key"));
    let mut keygen = bed.inside("ssh-keygen -q -t ed25519 -N");
    assert!(keygen.args(["", "-f", &key]).status().expect("it runs").success());
    let public = bed.said(&format!("dropbearkey -t ed25519 -f {host_key}"));
    let public = public.lines().find(|line| line.starts_with("ssh-")).expect("a public key");
    let known = bed.scratch.file("known_hosts", &format!("www.plait.test {public}\n"));
    let script = bed.scratch.file(
        "sshd",
        &format!(
            "set -e\nhome=$(getent passwd 0 | cut -d: -f6)\nmount -t tmpfs -o mode=700 none \"$home\"\n\
             mkdir -m 700 \"$home/.ssh\"\ncp {key}.pub \"$home/.ssh/authorized_keys\"\n\
             exec dropbear -F -E -s -r {host_key} -P {} -p 10.9.0.2:22\n",
            path("sshd.pid")
        ),
    );
    bed.serve(&format!("unshare -m sh {script}"), "Not backgrounding");
    let by =
        |name: &str, proxy: &str| format!("Host {name}\n ProxyCommand {proxy} www.plait.test 22\n");
    let config = [
        by("socks", "nc -X 5 -x 10.1.0.1:1080"),
        by("http", "nc -X connect -x 10.1.0.1:8080"),
        by("socks-mptcp", "mptcpize run nc -X 5 -x 10.1.0.1:1080"),
        by("http-mptcp", "mptcpize run nc -X connect -x 10.1.0.1:8080"),
        format!(
            "Host *\n HostKeyAlias www.plait.test\n UserKnownHostsFile {known}\n User root\n \
             IdentityFile {key}\n IdentitiesOnly yes\n BatchMode yes\n StrictHostKeyChecking yes\n"
        ),
    ];
    bed.scratch.file("ssh_config", &config.concat())
}

/// Three megabytes there and back, the second half not before `meanwhile` is done.
fn echoed_by(mut command: Command, sent: &[u8], meanwhile: impl FnOnce()) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = child.stdout.take().expect("a pipe");
    let reading = std::thread::spawn(move || {
        let mut heard = Vec::new();
        stdout.read_to_end(&mut heard).map(|_| heard)
    });
    let (first, second) = sent.split_at(sent.len() / 2);
    stdin.write_all(first).expect("it reads");
    meanwhile();
    stdin.write_all(second).expect("it reads");
    drop(stdin);
    let heard = reading.join().expect("no panic").expect("a pipe");
    assert!(heard == sent, "{} octets", heard.len());
    assert!(child.wait().expect("it ends").success());
}

#[test]
#[ignore = "make interop"]
fn ssh_through_netcat() {
    let needs = ["ssh", "ssh-keygen", "nc", "dropbear", "dropbearkey"];
    for mut bed in beds("ssh", &needs) {
        let config = serve_ssh(&mut bed);
        let sent = content();
        for host in ["socks", "http", "socks-mptcp", "http-mptcp"] {
            let before = joined(&bed);
            echoed_by(bed.inside(&format!("ssh -F {config} {host} cat")), &sent, || {
                if host.ends_with("mptcp") {
                    eventually("it joins", || (joined(&bed) > before).then_some(()));
                }
            });
        }
        finish_with_joins(bed, 2);
    }
}

/// Chromium asks for the name, too, at the gateway: there is no other resolver here. A page with TLS is what it
/// uses CONNECT for.
#[test]
#[ignore = "make interop"]
fn chromium_loads_a_page_with_a_hundred_objects() {
    for mut bed in beds("chromium", &[CHROMIUM, "openssl"]) {
        let certificate = bed.scratch.path("certificate.pem");
        bed.said(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN=www.plait.test -keyout {certificate} -out {certificate}"
        ));
        let origin = beside("clients/origin.py");
        bed.serve(&format!("{PYTHON} {origin} 10.9.0.2 8443 {certificate}"), "Serving");
        for kind in KINDS {
            for (proxy, page) in [
                ("socks5://10.1.0.1:1080", "http://www.plait.test:8000/"),
                ("http://10.1.0.1:8080", "https://www.plait.test:8443/"),
            ] {
                let data = bed.scratch.path("chromium");
                let said = bed.said(&format!(
                    "timeout 100 {kind}{CHROMIUM} --no-sandbox --disable-dev-shm-usage --disable-gpu \
                     --ignore-certificate-errors --user-data-dir={data} --proxy-server={proxy} \
                     --dump-dom {page}"
                ));
                assert!(said.contains("100 objects are right"), "{kind}{page}: {said}");
            }
        }
        finish_with_joins(bed, 2);
    }
}

/// dig knows no SOCKS, and `proxychains` no datagrams: what stands before it speaks both.
#[test]
#[ignore = "make interop"]
fn dig_through_an_association() {
    for bed in beds("dig", &["dig", PYSOCKS]) {
        for (n, kind) in (1..).zip(KINDS) {
            let script = beside("clients/forward.py");
            let forwarder = format!("{kind}{PYTHON} {script} 5300 10.1.0.1 1080 www.plait.test 53");
            let forwarder = Helper::serving(bed.inside(&forwarder), "Serving");
            let dig = |words: &str| bed.said(&format!("dig @127.0.0.1 -p 5300 {words}"));
            for _ in 0..20 {
                assert_eq!(dig("+short +notcp www.plait.test"), "10.9.0.2\n");
            }
            assert_eq!(dig("+short +tcp www.plait.test"), "10.9.0.2\n");
            assert!(dig("none.plait.test").contains("status: NXDOMAIN"));
            // Truncated, and asked again by TCP.
            assert_eq!(dig("+short many.plait.test").lines().count(), 100);
            assert_eq!(bed.metric("plait_udp_associations_total"), n);
            drop(forwarder);
        }
        finish_with_joins(bed, 3);
    }
}
