//! Every kind of configuration error with its exact message, and what good files resolve to.

use super::*;
use mptcp_core::wire::Version;

/// The configuration of the documentation, every key in it.
const FULL: &str = r#"
[driver]
kind = "dpdk"
eal = ["--in-memory", "--no-pci", "--vdev=net_af_packet0,iface=gw-lte"]
cores = [0]
hugepages = "auto"
memory_mb = 512
idle = "adaptive"

[[port]]
name = "lte"
device = "net_af_packet0"
addresses = ["10.1.0.1/24", "fd00:1::1/64"]
gateway = ["10.1.0.254", "fd00:1::fe"]
mtu = 1500
mac = "auto"
vlan = 0
queues = 1
tso = "auto"
lro = "off"
priority = 0
weight = 1
rate = "unlimited"
total_rate = "10Gbit"

[[port]]
name = "exit"
device = "net_af_packet1"
addresses = ["10.9.0.1/24"]

[[route]]
to = "0.0.0.0/0"
via = "10.9.0.2"
port = "exit"
from = ["10.9.0.1"]

[[profile]]
name = "lte-first"
mode = "priority"
access = ["lte"]

[mptcp]
versions = [0, 1]
checksum = "accept"
scheduler = "default"
path_manager = "fullmesh"
max_subflows = 8
max_remote_addresses = 8
rate = "unlimited"
close_timeout_s = 60
probe_interval_s = 1
stale_timeout_s = 60

[tcp]
congestion = "bbr"
ecn = "accept"
fast_open = "off"
mtu_probing = "black_hole"
ttl = 64
dscp = 0
recv_buffer_max = "6MiB"
send_buffer_max = "6MiB"

[limits]
connections = 10000
half_open = 4096

[timeouts]
handshake_s = 10
connect_s = 30
idle_s = 7200
half_closed_s = 120
drain_s = 30

[socks5]
listen = ["10.1.0.1:1080", "[fd00:1::1]:1080"]
auth = "none"

[convert]
listen = ["10.1.0.1:1234"]
cookie = "require"
pending_per_client = 7

[transparent]
ports = ["lte"]
join_port = 443
pending_per_client = 256

[http]
listen = ["10.1.0.1:8080"]
auth = "password"

[[user]]
name = "a"
password_hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A"

[egress]
allow = ["10.9.0.0/24"]
deny = []
deny_ports = [25, 465]
deny_udp_ports = [443]

[udp]
associations = 1000
per_client = 64

[bind]
waiting = 10
per_client = 2
ports = "50000-50099"
timeout_s = 60

[dns]
servers = ["10.9.0.53:53"]
timeout_s = 5
cache = 10000
lookups = 1024

[hosts]
"origin.example" = ["10.9.0.2"]

[admin]
listen = ["unix:/run/plait.sock", "127.0.0.1:9180"]

[log]
level = "info"
format = "text"
"#;

const MINIMAL: &str = r#"[driver]
kind = "tun"
[[port]]
name = "p"
device = "tun0"
addresses = ["10.1.0.1/24"]
[socks5]
listen = ["10.1.0.1:1080"]
"#;

fn settings(all: &[&str]) -> Vec<String> {
    all.iter().map(|setting| (*setting).to_owned()).collect()
}

/// Messages for `text`, one per line.
fn problems(text: &str) -> String {
    let problems = parse("gw.toml", text, &[]).unwrap_err();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The one message for MINIMAL with `--set setting`, without the echo of the setting in front.
fn refused(setting: &str) -> String {
    let all = parse("gw.toml", MINIMAL, &settings(&[setting])).unwrap_err();
    let [one] = all.as_slice() else { panic!("{setting}: {all:#?}") };
    let text = one.to_string();
    text.strip_prefix(&format!("--set {setting}: ")).unwrap_or(&text).to_owned()
}

#[test]
fn the_documented_file_is_valid_and_resolves_to_what_it_says() {
    let config = parse("gw.toml", FULL, &[]).unwrap();
    assert_eq!(config.ports[0].addresses[1].to_string(), "fd00:1::1/64");
    assert_eq!(config.routes[0].port, 1);
    assert_eq!(config.tcp.recv_buffer_max, 6 << 20);
    assert_eq!(config.timeouts.half_closed, Duration::from_secs(120));
    assert_eq!(config.admin.listen[0], AdminAddress::Unix(PathBuf::from("/run/plait.sock")));
    assert_eq!(config.log.level, log::LevelFilter::Info);
    assert_eq!(config.warnings().len(), 1, "users without auth = \"password\"");
}

#[test]
fn defaults_are_those_of_the_documented_file() {
    let full = parse("gw.toml", FULL, &[]).unwrap();
    let minimal = parse("gw.toml", MINIMAL, &[]).unwrap();
    assert_eq!(minimal.mptcp, full.mptcp);
    assert_eq!(minimal.tcp, full.tcp);
    assert_eq!(minimal.limits, full.limits);
    assert_eq!(minimal.timeouts, full.timeouts);
    assert_eq!(minimal.log, full.log);
    assert_eq!(minimal.driver.memory_mb, full.driver.memory_mb);
    assert_eq!((minimal.ports[0].mtu, minimal.ports[0].mac), (1500, None));
    assert!(minimal.warnings().is_empty());
}

#[test]
fn the_resolved_file_reads_back_to_the_same_configuration() {
    for text in [FULL, MINIMAL] {
        let config = parse("gw.toml", text, &[]).unwrap();
        let resolved = config.to_toml();
        assert_eq!(parse("resolved", &resolved, &[]).unwrap(), config, "{resolved}");
    }
    let set = settings(&["port.0.mac=02:00:00:00:00:0a", "tcp.recv_buffer_max=100000"]);
    let config = parse("gw.toml", FULL, &set).unwrap();
    assert_eq!(config.ports[0].mac, Some([2, 0, 0, 0, 0, 10]));
    assert_eq!(parse("resolved", &config.to_toml(), &[]).unwrap(), config);
}

#[test]
fn a_port_cuts_segments_where_it_can_and_joins_them_where_it_is_asked_to() {
    let set = settings(&["port.0.tso='off'", "port.1.lro='auto'"]);
    let config = parse("gw.toml", FULL, &set).unwrap();
    let offloads: Vec<_> = config.ports.iter().map(|port| (port.tso, port.lro)).collect();
    let (auto, off) = (dpdk_io::Offload::Auto, dpdk_io::Offload::Off);
    assert_eq!(offloads, [(off, off), (auto, auto)]);
}

#[test]
fn dpdk_has_a_shard_for_each_core_named_and_a_core_may_repeat() {
    let set = settings(&["driver.cores=[0,0,1,1]", "port.0.queues=4"]);
    let config = parse("gw.toml", FULL, &set).unwrap();
    assert_eq!((config.driver.cores, config.ports[0].queues), (vec![0, 0, 1, 1], 4));
    let many = format!("driver.cores={:?}", [0; 65]);
    let message = parse("gw.toml", FULL, &settings(&[&many])).unwrap_err()[0].to_string();
    assert!(message.ends_with("expected a list of 1 to 64 CPU numbers, such as [0, 1]"));
}

#[test]
fn a_shard_s_share_leaves_room_for_uneven_spreading() {
    let config = parse("gw.toml", FULL, &[]).unwrap();
    assert_eq!(config.share(1), config);
    let quarter = config.share(4).limits;
    assert_eq!((quarter.connections, quarter.half_open), (2500 + 625 + 64, 1024));
    let few = parse("gw.toml", FULL, &settings(&["limits.connections=10", "limits.half_open=2"]));
    let few = few.unwrap().share(4).limits;
    assert_eq!((few.connections, few.half_open), (10, 1), "one shard may have them all");
}

#[test]
fn set_overlays_the_file() {
    let set = settings(&["driver.kind=tun", "port.0.mtu=1400", "log.level=\"debug\""]);
    let config = parse("gw.toml", FULL, &set).unwrap();
    assert_eq!(config.driver.kind, DriverKind::Tun);
    assert_eq!(config.ports[0].mtu, 1400);
    assert_eq!(config.log.level, log::LevelFilter::Debug);
}

#[test]
fn unknown_keys_name_file_line_and_the_nearest_key() {
    let text = "[drivr]\nkind='tun'\n".to_owned() + MINIMAL + "auht = 'none'\n";
    assert_eq!(
        problems(&text),
        "gw.toml:1: drivr: unknown key; the nearest known key is driver (known: admin, bind, convert, \
         dns, driver, egress, hosts, http, limits, log, mptcp, port, profile, route, socks5, tcp, timeouts, transparent, udp, user)\n\
         gw.toml:11: socks5.auht: unknown key; the nearest known key is socks5.auth \
         (known: auth, listen, profile)"
    );
    assert_eq!(
        refused("port.0.mut=1"),
        "port.0.mut: unknown key; the nearest known key is port.0.mtu (known: addresses, device, \
         gateway, lro, mac, mtu, name, priority, queues, rate, total_rate, tso, vlan, weight)"
    );
}

#[test]
fn one_run_reports_everything() {
    let text = "[driver]\nkind = 'dpkd'\n[log]\nlevel = 7\n[limits]\nconnections = 0\n";
    assert_eq!(
        problems(text),
        "gw.toml:1: port: missing; write a [[port]] for every access and exit\n\
         gw.toml:1: socks5.listen: missing; where clients connect, such as [\"10.1.0.1:1080\"]; or http.listen, \
         convert.listen or transparent.ports\n\
         gw.toml:2: driver.kind = \"dpkd\": expected \"dpdk\" or \"tun\"; did you mean \"dpdk\"?\n\
         gw.toml:4: log.level = 7: expected \"off\" or \"error\" or \"warn\" or \"info\" or \
         \"debug\" or \"trace\"\n\
         gw.toml:6: limits.connections = 0: expected a whole number from 1 to 4000000"
    );
}

#[test]
fn files_that_are_not_there_or_not_toml_are_named() {
    let missing = load("/nonexistent/gw.toml", &[]).unwrap_err();
    assert_eq!(
        missing[0].to_string(),
        "/nonexistent/gw.toml: cannot be read: No such file or directory (os error 2)"
    );
    assert!(problems("[driver]\nkind = \n").starts_with("gw.toml:2: "));
    assert!(problems("[a]\nb = 1\nb = 2\n").starts_with("gw.toml:3: duplicate key"));
}

#[test]
fn the_driver_section_is_checked() {
    assert_eq!(
        refused("driver.eal=['-l', '0']"),
        "driver.eal.0 = \"-l\": this program chooses it itself; use driver.cores"
    );
    for (argument, setting) in [
        ("--lcores=0@1", "driver.cores"),
        ("--lco=0", "driver.cores"),
        ("-m512", "driver.memory_mb"),
        ("--no-huge", "driver.hugepages"),
        ("--no-hu", "driver.hugepages"),
        // What the driver would refuse at the start.
        ("--legacy-mem", "driver.hugepages"),
        ("--master-lcore=1", "driver.cores"),
    ] {
        let message = refused(&format!("driver.eal=['{argument}']"));
        assert!(message.ends_with(&format!("use {setting}")), "{message}");
    }
    for argument in ["-h", "-vh", "--help", "--he", "--log-level=help", "--log-l=help", "help"] {
        let message = refused(&format!("driver.eal=['{argument}']"));
        assert!(message.ends_with("print its help and end the process; remove it"), "{message}");
    }
    assert_eq!(
        refused("driver.eal=['--']"),
        "driver.eal.0 = \"--\": the EAL would take no argument behind it; remove it"
    );
    for argument in ["--log-level=lib.eal:debug", "--huge-unlink", "-v", "-a0000:01:00.0"] {
        let set = settings(&[&format!("driver.eal=['{argument}']")]);
        assert!(parse("gw.toml", MINIMAL, &set).is_ok(), "{argument}");
    }
    assert_eq!(
        refused("driver.cores=[0,1]"),
        "driver.cores = [0, 1]: a TUN device has one queue, and the driver one shard; name one CPU"
    );
    assert_eq!(
        refused("driver.cores=[]"),
        "driver.cores = []: expected a list of 1 to 64 CPU numbers, such as [0, 1]"
    );
    assert_eq!(
        refused("driver.memory_mb=1"),
        "driver.memory_mb = 1: expected a whole number from 64 to 1048576"
    );
    assert_eq!(
        refused("driver.hugepages=on"),
        "driver.hugepages = \"on\": expected \"auto\" or \"require\" or \"off\""
    );
    assert_eq!(
        refused("driver.idle=sleep"),
        "driver.idle = \"sleep\": expected \"adaptive\" or \"latency\" or \"power\""
    );
}

#[test]
fn ports_are_checked() {
    for (setting, message) in [
        (
            "port.0.name='a b'",
            "port.0.name = \"a b\": expected 1 to 32 letters, digits, '-' or '_'",
        ),
        (
            "port.0.device=sixteen-chars-xx",
            "port.0.device = \"sixteen-chars-xx\": expected an interface name of 1 to 15 visible characters \
             without '/', '%' and ':'",
        ),
        (
            "port.0.device='eth0:1'",
            "port.0.device = \"eth0:1\": expected an interface name of 1 to 15 visible characters \
             without '/', '%' and ':'",
        ),
        (
            "port.0.addresses=['10.1.0.1']",
            "port.0.addresses.0 = \"10.1.0.1\": expected an address with its prefix length, such as \"10.1.0.1/24\"",
        ),
        (
            "port.0.addresses=['10.1.0.1/24','10.1.0.1/16']",
            "port.0.addresses.1 = \"10.1.0.1/16\": the address is already used by port.0.addresses.0",
        ),
        (
            "port.0.gateway=['10.2.0.1']",
            "port.0.gateway.0 = \"10.2.0.1\": a gateway must be inside one of the port's subnets",
        ),
        (
            "port.0.gateway=['fe80::1']",
            "port.0.gateway.0 = \"fe80::1\": a gateway must be inside one of the port's subnets",
        ),
        (
            "port.0.gateway=['10.1.0.1']",
            "port.0.gateway.0 = \"10.1.0.1\": this is our own address; name the router behind the port",
        ),
        (
            "port.0.gateway=['10.1.0.2','10.1.0.3']",
            "port.0.gateway.1 = \"10.1.0.3\": at most one gateway per address family",
        ),
        ("port.0.mtu=100", "port.0.mtu = 100: expected a whole number from 576 to 9600"),
        (
            "port.0.mac='01:00:5e:00:00:01'",
            "port.0.mac = \"01:00:5e:00:00:01\": expected \"auto\" or a unicast address such as \"02:00:00:00:00:01\"",
        ),
        (
            "port.0.mac='02:00:00:00:00:01'",
            "port.0.mac = \"02:00:00:00:00:01\": a TUN device has no hardware address; write \"auto\"",
        ),
        (
            "port.0.vlan=7",
            "port.0.vlan = 7: a TUN device carries bare IP packets: there is no VLAN; write 0",
        ),
        ("port.0.vlan=4095", "port.0.vlan = 4095: expected a whole number from 0 to 4094"),
        ("port.0.queues=4", "port.0.queues = 4: a TUN device has one queue; write 1"),
        (
            "port.0.tso='of'",
            "port.0.tso = \"of\": expected \"auto\" or \"off\"; did you mean \"off\"?",
        ),
        ("port.0.lro=true", "port.0.lro = true: expected \"auto\" or \"off\""),
    ] {
        assert_eq!(refused(setting), message);
    }
}

#[test]
fn subnet_and_foreign_addresses_are_no_port_addresses() {
    for (address, why) in [
        ("10.1.0.0/24", "a host address there is \"10.1.0.1/24\""),
        ("10.1.0.255/24", "a host address there is \"10.1.0.1/24\""),
        ("127.0.0.1/8", "expected a unicast address that is not loopback"),
        ("224.0.0.1/8", "expected a unicast address that is not loopback"),
        ("::ffff:10.0.0.1/120", "expected a unicast address that is not loopback"),
        ("ff02::1/64", "expected a unicast address that is not loopback"),
    ] {
        let text = MINIMAL.replace("\"10.1.0.1/24\"", &format!("\"10.1.0.1/24\", \"{address}\""));
        let message = problems(&text);
        assert!(message.ends_with(why) && message.starts_with("gw.toml:6: "), "{message}");
    }
    let text = MINIMAL.replace("\"10.1.0.1/24\"]", "\"10.1.0.1/24\", \"fd00::1/64\"]\nmtu = 1000");
    assert_eq!(
        problems(&text),
        "gw.toml:7: port.0.mtu = \"1000\": a port with an IPv6 address needs at least 1280"
    );
}

#[test]
fn port_names_and_devices_are_unique_and_complete() {
    let twice = MINIMAL.to_owned()
        + "[[port]]\nname = 'p'\ndevice = 'tun0'\naddresses = ['10.2.0.1/24']\n\
           [[port]]\nname = 'q'\n";
    assert_eq!(
        problems(&twice),
        "gw.toml:10: port.1.name = \"p\": already used by port.0.name; choose another\n\
         gw.toml:11: port.1.device = \"tun0\": already used by port.0.device; choose another\n\
         gw.toml:13: port.2.addresses: missing; our addresses here, such as [\"10.1.0.1/24\"]\n\
         gw.toml:13: port.2.device: missing; the driver's device, such as \"net_af_packet0\""
    );
}

#[test]
fn a_driver_takes_so_many_ports() {
    for (kind, most) in [("dpdk", 64), ("tun", 254)] {
        let text = |count: usize| {
            let mut text = MINIMAL.replace("\"tun\"", &format!("\"{kind}\""));
            for n in 1..count {
                text +=
                    &format!("[[port]]\nname='p{n}'\ndevice='t{n}'\naddresses=['10.2.{n}.1/24']\n");
            }
            text
        };
        assert!(parse("gw.toml", &text(most), &[]).is_ok(), "{kind}");
        let message = problems(&text(most + 1));
        let expected = format!("the {} driver takes at most {most} ports", kind.to_uppercase());
        assert!(message.ends_with(&expected), "{message}");
        assert!(message.contains(&format!(": port.{most}")), "{message}");
    }
}

/// What a stack would refuse once the driver runs is known before.
#[test]
fn there_are_as_many_addresses_as_have_an_id() {
    let text = |count: u8| {
        let own: Vec<String> = (1..=count).map(|n| format!("\"10.1.0.{n}/16\"")).collect();
        MINIMAL.replace("\"10.1.0.1/24\"", &own.join(", "))
    };
    let config = parse("gw.toml", &text(254), &[]).unwrap();
    assert!(crate::run::stack_config(&config, [7; 32]).is_ok());
    assert_eq!(
        problems(&text(255)),
        "gw.toml:6: port.0.addresses.254 = \"10.1.0.255/16\": at most 254 addresses over all ports"
    );
}

#[test]
fn routes_fit_the_ports() {
    let route = |to: &str, via: &str, port: &str| {
        problems(&format!("{MINIMAL}[[route]]\nto='{to}'\nvia='{via}'\nport='{port}'\n"))
    };
    assert_eq!(
        route("0.0.0.0/0", "10.1.0.2", "q"),
        "gw.toml:12: route.0.port = \"q\": expected \"p\""
    );
    assert_eq!(
        route("10.0.0.1/8", "10.1.0.2", "p"),
        "gw.toml:10: route.0.to = \"10.0.0.1/8\": bits are set behind the prefix; did you mean \
         \"10.0.0.0/8\"?"
    );
    assert_eq!(
        route("0.0.0.0/0", "10.2.0.2", "p"),
        "gw.toml:11: route.0.via = \"10.2.0.2\": the next hop must be inside a subnet of port \"p\""
    );
    assert_eq!(
        route("::/0", "10.1.0.2", "p"),
        "gw.toml:11: route.0.via = \"10.1.0.2\": not of the same address family as ::/0"
    );
    assert_eq!(
        route("0.0.0.0/0", "10.1.0.1", "p"),
        "gw.toml:11: route.0.via = \"10.1.0.1\": this is our own address; name the next router"
    );
    let one = "[[route]]\nto='0.0.0.0/0'\nvia='10.1.0.2'\nport='p'\n";
    let dpdk = MINIMAL.replace("tun\"", "dpdk\"");
    assert_eq!(
        problems(&format!("{dpdk}{one}{one}[[route]]\n")),
        "gw.toml:14: route.1.to = \"0.0.0.0/0\": the same destinations as route.0.to; keep one of \
         them\n\
         gw.toml:17: route.2.port: missing; the name of the port it leaves by\n\
         gw.toml:17: route.2.to: missing; the destinations, such as \"0.0.0.0/0\"\n\
         gw.toml:17: route.2.via: missing; the next hop, such as \"10.9.0.2\""
    );
}

#[test]
fn the_kernel_behind_tun_devices_knows_next_hops() {
    let text = format!("{MINIMAL}[[route]]\nto='0.0.0.0/0'\nport='p'\n");
    let config = parse("gw.toml", &text, &[]).unwrap();
    assert_eq!(config.routes[0].via, None);
    assert_eq!(parse("again", &config.to_toml(), &[]).unwrap(), config);
}

#[test]
fn versions_are_a_list_without_repetitions() {
    use Version::{V0, V1};
    for (versions, resolved) in
        [("[0]", vec![V0]), ("[1]", vec![V1]), ("[0, 1]", vec![V0, V1]), ("[1, 0]", vec![V0, V1])]
    {
        let setting = format!("mptcp.versions={versions}");
        let config = parse("gw.toml", MINIMAL, &settings(&[&setting])).unwrap();
        assert_eq!(config.mptcp.versions, resolved);
    }
    assert_eq!(
        refused("mptcp.versions=[2]"),
        "mptcp.versions = [2]: expected a whole number from 0 to 1"
    );
    assert_eq!(
        refused("mptcp.versions=[1, 1]"),
        "mptcp.versions = [1, 1]: each version at most once: write [0, 1]"
    );
    assert_eq!(
        refused("mptcp.versions=1"),
        "mptcp.versions = 1: expected a list of MPTCP versions: [0, 1], [1] or [0]"
    );
}

#[test]
fn protocol_settings_are_checked() {
    for (setting, message) in [
        (
            "mptcp.checksum=accpet",
            "mptcp.checksum = \"accpet\": expected \"require\" or \"accept\" or \"refuse\"; did you mean \"accept\"?",
        ),
        (
            "mptcp.scheduler=blast",
            "mptcp.scheduler = \"blast\": expected \"default\" or \"lowest_rtt\" or \"round_robin\" or \"weighted\" or \"redundant\" or \"blest\" or \"ecf\" or \"active_backup\" or \"overflow\"; did you mean \"blest\"?",
        ),
        (
            "mptcp.rate=20MB",
            "mptcp.rate = \"20MB\": expected \"unlimited\", or a rate from 8kbit to 1000Gbit, such as \"20Mbit\" or a number of bits per second",
        ),
        (
            "mptcp.probe_interval_s=0",
            "mptcp.probe_interval_s = 0: expected a whole number from 1 to 60",
        ),
        ("mptcp.max_subflows=33", "mptcp.max_subflows = 33: expected a whole number from 1 to 32"),
        (
            "tcp.congestion=bbr4",
            "tcp.congestion = \"bbr4\": expected \"bbr\" or \"cubic\" or \"newreno\" or \"lia\" or \"olia\" or \"balia\"; did you mean \"bbr\"?",
        ),
        (
            "tcp.mtu_probing=blackhole",
            "tcp.mtu_probing = \"blackhole\": expected \"off\" or \"black_hole\" or \"always\"; did you mean \"black_hole\"?",
        ),
        ("tcp.ttl=0", "tcp.ttl = 0: expected a whole number from 1 to 255"),
        ("tcp.dscp=64", "tcp.dscp = 64: expected a whole number from 0 to 63"),
        ("tcp.ecn=on", "tcp.ecn = \"on\": expected \"off\" or \"accept\" or \"request\""),
        ("tcp.fast_open=on", "tcp.fast_open = \"on\": expected \"off\" or \"accept\""),
        (
            "tcp.recv_buffer_max=6MB",
            "tcp.recv_buffer_max = \"6MB\": expected a size from 64KiB to 1GiB, such as \"256KiB\", \"6MiB\" or a number of bytes",
        ),
        (
            "tcp.send_buffer_max=2GiB",
            "tcp.send_buffer_max = \"2GiB\": expected a size from 64KiB to 1GiB, such as \"256KiB\", \"6MiB\" or a number of bytes",
        ),
        ("timeouts.idle_s=0", "timeouts.idle_s = 0: expected a whole number from 1 to 2592000"),
    ] {
        assert_eq!(refused(setting), message);
    }
}

#[test]
fn a_complaint_is_one_line_whatever_it_quotes() {
    let text = format!("\"a\\nb\" = 1\n{MINIMAL}");
    assert!(problems(&text).starts_with("gw.toml:1: a\\nb: unknown key; "));
    let set = settings(&["log.level=a\nb"]);
    let refused = parse("gw.toml", MINIMAL, &set).unwrap_err()[0].to_string();
    assert!(refused.starts_with("--set log.level=a\\nb: log.level = \"a\\nb\": "), "{refused}");
    assert!(!refused.contains(char::is_control), "{refused:?}");
}

#[test]
fn listeners_are_on_addresses_of_ours() {
    assert_eq!(
        refused("socks5.listen=['10.7.0.1:1080']"),
        "socks5.listen.0 = \"10.7.0.1:1080\": no [[port]] has this address; ours: 10.1.0.1"
    );
    assert_eq!(
        refused("socks5.listen=['10.1.0.1:1080','10.1.0.1:1080']"),
        "socks5.listen.1 = \"10.1.0.1:1080\": the same as socks5.listen.0; keep one of them"
    );
    let scoped =
        ["port.0.addresses=['fe80::1/64']", "socks5.listen=['[fe80::1%3]:1080','[fe80::1]:1080']"];
    assert_eq!(
        parse("gw.toml", MINIMAL, &settings(&scoped)).unwrap_err()[0].to_string(),
        format!(
            "--set {}: socks5.listen.1 = \"[fe80::1]:1080\": the same as socks5.listen.0; keep one of them",
            scoped[1]
        )
    );
    assert_eq!(
        refused("socks5.listen=['10.1.0.1:0']"),
        "socks5.listen.0 = \"10.1.0.1:0\": expected an address and port, such as \"10.1.0.1:1080\""
    );
    assert_eq!(
        parse("gw.toml", MINIMAL, &settings(&["user=[]", "socks5.auth=password"]))
            .unwrap_err()
            .len(),
        1
    );
    assert_eq!(
        refused("socks5.auth=password"),
        "socks5.auth = \"password\": there is no [[user]]; add one with the output of \
         `proxy-gw hash-password`"
    );
}

#[test]
fn users_are_checked_and_hashes_never_repeated() {
    let text = MINIMAL.to_owned() + "[[user]]\nname = 'a'\npassword_hash = 'hunter2'\n";
    assert_eq!(
        problems(&text),
        "gw.toml:11: user.0.password_hash = (hidden): not a password hash in PHC form \
         ($argon2id$...); `proxy-gw hash-password` makes one from a password"
    );
    let text = MINIMAL.to_owned() + "[[user]]\nname = ''\n";
    assert_eq!(
        problems(&text),
        "gw.toml:9: user.0.password_hash: missing; every [[user]] has a name and a password_hash\n\
         gw.toml:10: user.0.name = \"\": expected 1 to 255 bytes (RFC 1929)"
    );
}

#[test]
fn who_lets_everybody_in_beside_users_is_named() {
    let user = "[[user]]\nname = 'a'\npassword_hash = '$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A'\n";
    let warnings = |set: &[&str]| {
        let text = MINIMAL.to_owned() + user;
        parse("gw.toml", &text, &settings(set)).unwrap().warnings()
    };
    let of = |name: &str| {
        format!(
            "{name}.auth = \"none\" lets everybody in although users are configured; \
             set {name}.auth = \"password\""
        )
    };
    let password = "socks5.auth='password'";
    assert_eq!(warnings(&[]), [of("socks5")]);
    assert!(warnings(&[password]).is_empty());
    // Who does not listen lets nobody in.
    let only_http = ["socks5.listen=[]", "http.listen=['10.1.0.1:8080']"];
    assert_eq!(warnings(&only_http), [of("http")]);
    assert!(warnings(&[&only_http[..], &["http.auth='password'"]].concat()).is_empty());
}

/// Without it, clients would not be told of a port that a route leaves by.
#[test]
fn what_a_gateway_is_good_for_on_tun_is_said() {
    let exit = "route=[{ to = '0.0.0.0/0', port = 'p' }]";
    let elsewhere = ["socks5.listen=[]", "transparent.ports=['q']", exit];
    let other = "[[port]]\nname = 'q'\ndevice = 'q'\naddresses = ['10.2.0.1/24']\n";
    let text = MINIMAL.replacen("[socks5]", &format!("{other}[socks5]"), 1);
    let config = |more: &[&str]| {
        parse("gw.toml", &text, &settings(&[&elsewhere[..], more].concat())).unwrap()
    };
    let without = config(&[]);
    assert!(!without.is_access(0) && without.warnings().is_empty());
    let with = config(&["port.0.gateway=['10.1.0.254']"]);
    assert!(with.is_access(0));
    let [warning] = &with.warnings()[..] else { panic!() };
    assert!(
        warning.starts_with("port \"p\": under driver.kind = \"tun\" a gateway makes"),
        "{warning}"
    );
}

#[test]
fn hashes_are_not_repeated_with_the_setting_they_came_by() {
    let text = MINIMAL.to_owned() + "[[user]]\nname = 'a'\n";
    for setting in [
        "user.0.password_hash=hunter2",
        "user.0.password=hunter2",
        "user=[{ name = 'a', password = 'hunter2' }]",
        "user=[{ name = 'a', password_hash = 'hunter2' }]",
        "user=[{ name = 'a', password_hash = 'hunter2'",
    ] {
        let refused = parse("gw.toml", &text, &settings(&[setting])).unwrap_err();
        assert!(!refused.is_empty(), "{setting}");
        for problem in refused {
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}

#[test]
fn egress_hosts_and_admin_are_checked() {
    for (setting, message) in [
        (
            "egress.allow=['10.9.0.2']",
            "egress.allow.0 = \"10.9.0.2\": expected addresses with their prefix length, such as \"10.9.0.0/24\"; one address is \"10.9.0.2/32\"",
        ),
        (
            "egress.deny=['10.9.0.2/24']",
            "egress.deny.0 = \"10.9.0.2/24\": bits are set behind the prefix; did you mean \"10.9.0.0/24\"?",
        ),
        (
            "egress.deny=['::ffff:8.8.8.0/120']",
            "egress.deny.0 = \"::ffff:8.8.8.0/120\": these addresses are judged as IPv4: write \"8.8.8.0/24\"",
        ),
        (
            "egress.deny_ports=[25,0]",
            "egress.deny_ports.1 = 0: expected a whole number from 1 to 65535",
        ),
        (
            "egress.deny_udp_ports=['quic']",
            "egress.deny_udp_ports.0 = \"quic\": expected a whole number from 1 to 65535",
        ),
        (
            "egress.allow=['64:ff9b::/96']",
            "egress.allow.0 = \"64:ff9b::/96\": these addresses are judged as IPv4: write \"0.0.0.0/0\"",
        ),
        (
            "hosts.\"2130706433\"=['10.0.0.1']",
            "hosts.\"2130706433\" = [\"10.0.0.1\"]: the key must be a host name, such as \"origin.example\"",
        ),
        ("hosts.a=['b']", "hosts.\"a\".0 = \"b\": expected an IP address"),
        (
            "admin.listen=['unix:plait.sock']",
            "admin.listen.0 = \"unix:plait.sock\": expected \"unix:/absolute/path\" or an address and port of this machine, such as \"127.0.0.1:9180\"; a socket path has at most 107 bytes",
        ),
        (
            "admin.listen=['localhost:9180']",
            "admin.listen.0 = \"localhost:9180\": expected \"unix:/absolute/path\" or an address and port of this machine, such as \"127.0.0.1:9180\"",
        ),
    ] {
        let all = parse("gw.toml", MINIMAL, &settings(&[setting])).unwrap_err();
        assert_eq!(all[0].to_string(), format!("--set {setting}: {message}"));
    }
    let open = parse("gw.toml", MINIMAL, &settings(&["admin.listen=['0.0.0.0:9180']"])).unwrap();
    assert_eq!(
        open.warnings(),
        [
            "admin.listen = \"0.0.0.0:9180\" shows every session to whoever reaches it; the endpoint \
          has no authentication"
        ]
    );
    let mapped = ["admin.listen=['[::ffff:127.0.0.1]:9180']"];
    assert!(parse("gw.toml", MINIMAL, &settings(&mapped)).unwrap().warnings().is_empty());
}

#[test]
fn no_text_panics() {
    use proptest::prelude::*;
    proptest!(|(text in "\\PC{0,200}", set in "[a-z0-9.\"'=\\[\\]{} ]{0,40}")| {
        let _ = parse("f", &text, &[]);
        let _ = parse("f", FULL, &[set]);
    });
}

#[test]
fn what_follows_from_another_mistake_is_not_said() {
    let text = "[driver]\nkind = 'tun'\n[[port]]\nname = 'a'\n[[port]]\nname = 'b'\n\
                [transparent]\nports = ['a', 'b']\n";
    assert!(!problems(text).contains("transparent"), "{}", problems(text));
    let route = "route=[{ to = '10.9.0.0', port = 'p' }]";
    let set = settings(&[route, "dns.servers=['10.9.0.53']"]);
    let all = parse("gw.toml", MINIMAL, &set).unwrap_err();
    let [one] = all.as_slice() else { panic!("{all:#?}") };
    assert!(one.to_string().contains("route.0.to = \"10.9.0.0\": "), "{one}");
}

#[test]
fn ports_for_connections_to_others_are_access_ports() {
    assert_eq!(refused("transparent.ports=['q']"), "transparent.ports.0 = \"q\": expected \"p\"");
    assert_eq!(
        refused("transparent.ports=['p','p']"),
        "transparent.ports.1 = \"p\": named twice; once is enough"
    );
    assert_eq!(
        refused("transparent.join_port=0"),
        "transparent.join_port = 0: expected a whole number from 1 to 65535"
    );
    assert_eq!(
        refused("transparent.pending_per_client=0"),
        "transparent.pending_per_client = 0: expected a whole number from 1 to 65536"
    );
    let join = settings(&["bind.waiting=1", "transparent.join_port=61005"]);
    let problem = parse("gw.toml", MINIMAL, &join).unwrap_err()[0].to_string();
    assert_eq!(
        problem,
        "--set transparent.join_port=61005: transparent.join_port = 61005: expected a port outside \
         of bind.ports = \"61000-61999\", where clients of BIND wait"
    );
    let outside = ["bind.waiting=1", "bind.ports='61006-61999'", "transparent.join_port=61005"];
    for fine in [&outside[..], &["transparent.join_port=61005"]] {
        assert!(parse("gw.toml", MINIMAL, &settings(fine)).is_ok());
    }
    let set = settings(&["transparent.ports=['exit']"]);
    assert_eq!(
        parse("gw.toml", FULL, &set).unwrap_err()[0].to_string(),
        "--set transparent.ports=['exit']: transparent.ports.0 = \"exit\": a [[route]] leaves by this port: \
         what comes in there are answers; name access ports"
    );
    // No front end need listen beside it.
    let alone =
        MINIMAL.replace("[socks5]\nlisten = [\"10.1.0.1:1080\"]", "[transparent]\nports = [\"p\"]");
    let config = parse("gw.toml", &alone, &[]).unwrap();
    assert_eq!(config.transparent.ports, [0]);
    assert!(config.is_access(0) && config.warnings().is_empty());
    assert_eq!(parse("resolved", &config.to_toml(), &[]).unwrap(), config);
    let set = settings(&["mptcp.path_manager='server'"]);
    let [warning] = &parse("gw.toml", &alone, &set).unwrap().warnings()[..] else { panic!() };
    assert!(warning.contains("announces no address"), "{warning}");
}

#[test]
fn ports_to_wait_at_are_set_aside() {
    let bad = "expected a first and a last port from 1024 on, such as \"61000-61999\"";
    for ports in ["61000", "80-1999", "61999-61000", "a-b", "61000-70000"] {
        let message = format!("bind.ports = \"{ports}\": {bad}");
        assert_eq!(refused(&format!("bind.ports='{ports}'")), message);
    }
    let set = settings(&["bind.waiting=1", "bind.ports='1024-2000'"]);
    let problems = parse("gw.toml", MINIMAL, &set).unwrap_err();
    let [one] = problems.as_slice() else { panic!("{problems:?}") };
    let said = one.to_string();
    let why =
        "bind: a front end listens at 10.1.0.1:1080, within ports = \"1024-2000\"; choose others";
    assert!(said.ends_with(why), "{said}");
    // Nobody waits: nothing is set aside.
    let config = parse("gw.toml", MINIMAL, &settings(&["bind.ports='1024-2000'"])).unwrap();
    assert_eq!(config.bind.listening(), None);
    let full = parse("gw.toml", FULL, &[]).unwrap();
    assert_eq!(full.bind.listening().map(|ports| ports.count()), Some(100));
}

/// Who comes goes to the shard that the port names: a shard without a port has no BIND.
#[test]
fn every_shard_has_a_port_to_wait_at() {
    for (shards, ports, fine) in [
        (1, "61001-61001", true),
        (4, "61001-61004", true),
        (4, "61001-61003", false),
        // Ports are told apart by their last six bits, of which 48 shards have not the same number each.
        (48, "61024-61071", false),
        (48, "61024-61087", true),
        (64, "61000-61062", false),
    ] {
        let cores = format!("driver.cores={:?}", vec![0; shards]);
        let range = format!("bind.ports='{ports}'");
        let set = settings(&[&cores, "bind.waiting=1", &range]);
        let said = parse("gw.toml", FULL, &set).err();
        assert_eq!(said.is_none(), fine, "{shards} {ports}: {said:?}");
        if let Some(said) = said {
            let why =
                format!("bind.ports: \"{ports}\" has no port for some of the {shards} shards");
            assert!(said[0].to_string().contains(&why), "{said:?}");
        }
    }
    // Nobody waits.
    let set = settings(&["driver.cores=[0,0]", "bind.waiting=0", "bind.ports='61001-61001'"]);
    assert!(parse("gw.toml", FULL, &set).is_ok());
}
