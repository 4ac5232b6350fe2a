//! Every section but ports and routes, and the checks across sections.

use super::ports::{PlacedPort, Ports, check_unique, network, read_ports, read_routes};
use super::problem::Problem;
use super::profiles::{Names, read_plan, read_profiles};
use super::reader::{Placed, Problems, Section, choose, integer, parsed, read_list, text};
use super::tree::{Node, Value};
use super::{
    Admin, AdminAddress, Auth, Config, Convert, CookiePolicy, Dns, Driver, DriverKind, Egress,
    Entry, HostName, Hugepages, Idle, Limits, Log, LogFormat, Mptcp, Tcp, Timeouts, Udp, User,
};
use crate::auth::PasswordHash;
use crate::egress::{Destination, Exits};
use core::net::{IpAddr, SocketAddr};
use ipnet::{IpNet, Ipv6Net};
use log::LevelFilter;
use mptcp_core::config::{
    ChecksumPolicy, CongestionAlgorithm, EcnPolicy, Marking, MtuProbing, PathManagerKind,
    SchedulerKind,
};
use mptcp_core::steering::MAX_SHARDS;
use mptcp_core::wire::Version;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Longest time any timeout can be set to: 30 days.
const MAX_SECONDS: u32 = 30 * 24 * 3600;

/// Reads the whole tree. The result is meaningful only when `problems` stays empty.
pub(super) fn read(root: &Node, problems: &Problems) -> Config {
    let mut root = Section::new(String::new(), root, problems);
    let driver = read_driver(root.section("driver"));
    let ports = read_ports(&mut root, driver.kind, problems);
    let routes = read_routes(&mut root, driver.kind, &ports, problems);
    let routes_complete = routes.len() == root.written("route");
    let (profiles, names) = read_profiles(&mut root, &ports, problems);
    let transparent = root.section("transparent");
    let needed = transparent.lacks("ports");
    let front_ends = read_front_ends(&mut root, &ports, (&names, needed), problems);
    let listen = [&front_ends.socks5, &front_ends.http, &front_ends.convert.entry];
    let listen = listen.into_iter().flat_map(|entry| entry.listen.iter().copied());
    let bind = super::bind::read(root.section("bind"), listen, driver.cores.len());
    let transparent =
        super::transparent::read(transparent, &ports, &routes, (&names, &bind), problems);
    let users = read_users(&mut root, &names, &ports, problems);
    let (dns, servers) = read_dns(root.section("dns"));
    let ports_complete = ports.complete;
    let config = Config {
        driver,
        routes,
        profiles,
        mptcp: read_mptcp(root.section("mptcp")),
        tcp: read_tcp(root.section("tcp")),
        limits: read_limits(root.section("limits")),
        timeouts: read_timeouts(root.section("timeouts")),
        socks5: front_ends.socks5,
        http: front_ends.http,
        convert: front_ends.convert,
        transparent,
        ports: ports.all.into_iter().map(PlacedPort::into_port).collect(),
        users,
        egress: read_egress(root.section("egress")),
        dns,
        udp: read_udp(root.section("udp")),
        bind,
        hosts: read_hosts(&root.section("hosts"), problems),
        admin: read_admin(root.section("admin"), problems),
        log: read_log(root.section("log")),
    };
    root.finish();
    let exits = Exits::new(&config);
    for server in &servers {
        let complete = ports_complete && routes_complete;
        if complete && exits.local_address(server.value.ip()).is_err() {
            server.refuse(problems, "no [[route]] and no port of the gateway leads there");
        }
    }
    config
}

fn read_udp(mut section: Section<'_>) -> Udp {
    let udp = Udp {
        associations: section.integer("associations", 0..=1_000_000, 1_000),
        per_client: section.integer("per_client", 1..=100_000, 64),
    };
    section.finish();
    udp
}

/// Also answers where each server is written: whether it can be reached depends on ports and routes.
fn read_dns(mut section: Section<'_>) -> (Dns, Vec<Placed<SocketAddr>>) {
    let servers = section.list("servers", |value| {
        let expected = "expected a server's address, such as \"10.9.0.53\" or \"[fd00::53]:53\"";
        if let Ok(address) = parsed::<IpAddr>(value, expected) {
            return Ok(SocketAddr::new(address, 53));
        }
        let address: SocketAddr = parsed(value, expected)?;
        if address.port() == 0 { Err(expected.to_owned()) } else { Ok(address) }
    });
    let servers = servers.unwrap_or_default();
    let dns = Dns {
        servers: servers.iter().map(|server| server.value).collect(),
        timeout: section.seconds("timeout_s", 1..=60, 5),
        cache: section.integer("cache", 0..=1_000_000, 10_000),
        lookups: section.integer("lookups", 1..=16_384, 1024),
    };
    section.finish();
    (dns, servers)
}

fn read_driver(mut section: Section<'_>) -> Driver {
    let kinds = [("dpdk", DriverKind::Dpdk), ("tun", DriverKind::Tun)];
    if !section.has("kind") {
        section.missing("kind", "expected \"dpdk\" or \"tun\"");
    }
    let kind = section.choice("kind", &kinds, DriverKind::Dpdk);
    let driver = Driver {
        kind,
        eal: bare(section.list("eal", eal_argument)),
        cores: section
            .read("cores", |value| cores(value, kind))
            .map_or_else(|| vec![0], |cores| cores.value),
        hugepages: section.choice(
            "hugepages",
            &[("auto", Hugepages::Auto), ("require", Hugepages::Require), ("off", Hugepages::Off)],
            Hugepages::Auto,
        ),
        memory_mb: section.integer("memory_mb", 64..=1 << 20, 512),
        idle: section.choice(
            "idle",
            &[Idle::Adaptive, Idle::Latency, Idle::Power].map(|idle| (idle.name(), idle)),
            Idle::Adaptive,
        ),
    };
    section.finish();
    driver
}

/// Drops the places of an optional list.
fn bare<T>(list: Option<Vec<Placed<T>>>) -> Vec<T> {
    list.unwrap_or_default().into_iter().map(|placed| placed.value).collect()
}

/// Why the EAL's help is no argument.
const NO_HELP: &str = "the EAL would print its help and end the process; remove it";

/// Refuses what this program passes to the EAL itself, abbreviated forms (`getopt_long`) included.
fn eal_argument(value: &Value) -> Result<String, String> {
    const LONG: [(&str, &str); 8] = [
        ("lcores", "driver.cores"),
        ("main-lcore", "driver.cores"),
        ("master-lcore", "driver.cores"),
        ("coremask", "driver.cores"),
        ("no-huge", "driver.hugepages"),
        ("legacy-mem", "driver.hugepages"),
        ("socket-mem", "driver.memory_mb"),
        ("socket-limit", "driver.memory_mb"),
    ];
    const SHORT: [(char, &str); 5] = [
        ('l', "driver.cores"),
        ('c', "driver.cores"),
        ('s', "driver.cores"),
        ('S', "driver.cores"),
        ('m', "driver.memory_mb"),
    ];
    let argument = text(value, "expected one EAL argument as text")?;
    if argument.is_empty() || argument.contains('\0') {
        return Err("expected one EAL argument as text".to_owned());
    }
    let setting = if let Some(long) = argument.strip_prefix("--") {
        let (name, given) = long.split_once('=').unwrap_or((long, ""));
        let abbreviates = |known: &str| !name.is_empty() && known.starts_with(name);
        if name.is_empty() {
            return Err("the EAL would take no argument behind it; remove it".to_owned());
        }
        if abbreviates("help") || abbreviates("log-level") && given == "help" {
            return Err(NO_HELP.to_owned());
        }
        LONG.iter().find(|(known, _)| abbreviates(known)).map(|(_, setting)| *setting)
    } else {
        let letters = argument.strip_prefix('-').unwrap_or_default();
        // `-v` takes no value: letters may follow it.
        let letter = letters.trim_start_matches('v').chars().next();
        if letter == Some('h') || argument == "help" {
            return Err(NO_HELP.to_owned());
        }
        SHORT.iter().find(|(known, _)| Some(*known) == letter).map(|(_, setting)| *setting)
    };
    match setting {
        Some(setting) => Err(format!("this program chooses it itself; use {setting}")),
        None => Ok(argument.to_owned()),
    }
}

/// CPUs of the shards; a CPU may have several.
fn cores(value: &Value, kind: DriverKind) -> Result<Vec<u16>, String> {
    let expected = format!("expected a list of 1 to {MAX_SHARDS} CPU numbers, such as [0, 1]");
    let Value::Array(elements) = value else { return Err(expected) };
    let cpus: Result<Vec<u16>, String> =
        elements.iter().map(|element| integer(&element.value, &(0..=1023))).collect();
    match cpus?.as_slice() {
        [] => Err(expected),
        [_, _, ..] if kind == DriverKind::Tun => {
            Err("a TUN device has one queue, and the driver one shard; name one CPU".to_owned())
        }
        cpus if cpus.len() > usize::from(MAX_SHARDS) => Err(expected),
        cpus => Ok(cpus.to_vec()),
    }
}

fn read_mptcp(mut section: Section<'_>) -> Mptcp {
    let versions = section.read("versions", versions);
    let mptcp = Mptcp {
        versions: versions
            .map_or_else(|| vec![Version::V0, Version::V1], |versions| versions.value),
        checksum: section.choice(
            "checksum",
            &[
                ("require", ChecksumPolicy::Require),
                ("accept", ChecksumPolicy::Accept),
                ("refuse", ChecksumPolicy::Refuse),
            ],
            ChecksumPolicy::Accept,
        ),
        scheduler: section.choice(
            "scheduler",
            &SchedulerKind::ALL.map(|kind| (kind.name(), kind)),
            SchedulerKind::Default,
        ),
        path_manager: section.choice(
            "path_manager",
            &[("fullmesh", PathManagerKind::Fullmesh), ("server", PathManagerKind::Server)],
            PathManagerKind::Fullmesh,
        ),
        max_subflows: section.integer("max_subflows", 1..=32, 8),
        max_remote_addresses: section.integer("max_remote_addresses", 1..=32, 8),
        rate: section.rate("rate"),
        close_timeout: section.seconds("close_timeout_s", 0..=3600, 60),
        probe_interval: section.seconds("probe_interval_s", 1..=60, 1),
        stale_timeout: section.seconds("stale_timeout_s", 1..=3600, 60),
    };
    section.finish();
    mptcp
}

/// The versions served, oldest first.
fn versions(value: &Value) -> Result<Vec<Version>, String> {
    let expected = "expected a list of MPTCP versions: [0, 1], [1] or [0]";
    let Value::Array(elements) = value else { return Err(expected.to_owned()) };
    let numbers: Result<Vec<i64>, String> =
        elements.iter().map(|element| integer(&element.value, &(0..=1))).collect();
    match numbers?.as_slice() {
        [0] => Ok(vec![Version::V0]),
        [1] => Ok(vec![Version::V1]),
        [0, 1] | [1, 0] => Ok(vec![Version::V0, Version::V1]),
        [] => Err(expected.to_owned()),
        _ => Err("each version at most once: write [0, 1]".to_owned()),
    }
}

fn read_tcp(mut section: Section<'_>) -> Tcp {
    // Window scale 14 announces at most 1 GiB (RFC 7323 §2.3).
    let buffer = 64 << 10..=1 << 30;
    let hops = section.integer("ttl", 1..=255, 64_u8);
    let dscp = section.integer("dscp", 0..=63, 0_u8);
    let tcp = Tcp {
        marking: Marking::new(hops, dscp).unwrap_or_default(),
        congestion: section.choice(
            "congestion",
            &CongestionAlgorithm::ALL.map(|kind| (kind.name(), kind)),
            CongestionAlgorithm::default(),
        ),
        ecn: section.choice(
            "ecn",
            &EcnPolicy::ALL.map(|policy| (policy.name(), policy)),
            EcnPolicy::default(),
        ),
        fast_open: section.choice("fast_open", &[("off", false), ("accept", true)], false),
        mtu_probing: section.choice(
            "mtu_probing",
            &MtuProbing::ALL.map(|choice| (choice.name(), choice)),
            MtuProbing::default(),
        ),
        recv_buffer_max: section.size("recv_buffer_max", buffer.clone(), 6 << 20),
        send_buffer_max: section.size("send_buffer_max", buffer, 6 << 20),
    };
    section.finish();
    tcp
}

fn read_limits(mut section: Section<'_>) -> Limits {
    let limits = Limits {
        connections: section.integer("connections", 1..=4_000_000, 10_000),
        half_open: section.integer("half_open", 1..=1_000_000, 4_096),
    };
    section.finish();
    limits
}

fn read_timeouts(mut section: Section<'_>) -> Timeouts {
    let range = 1..=MAX_SECONDS;
    let timeouts = Timeouts {
        handshake: section.seconds("handshake_s", range.clone(), 10),
        connect: section.seconds("connect_s", range.clone(), 30),
        idle: section.seconds("idle_s", range.clone(), 7200),
        half_closed: section.seconds("half_closed_s", range, 120),
        drain: section.seconds("drain_s", 0..=MAX_SECONDS, 30),
    };
    section.finish();
    timeouts
}

/// The ways in.
struct FrontEnds {
    socks5: Entry,
    http: Entry,
    convert: Convert,
}

/// All front ends: one of them at least listens where there is no other way in, and no two at one address.
fn read_front_ends(
    root: &mut Section<'_>,
    ports: &Ports,
    (names, needed): (&Names, bool),
    problems: &Problems,
) -> FrontEnds {
    let nobody = root.lacks("user");
    let [mut socks5, mut http, mut convert] =
        ["socks5", "http", "convert"].map(|name| root.section(name));
    if needed && socks5.lacks("listen") && http.lacks("listen") && convert.lacks("listen") {
        let expected = "where clients connect, such as [\"10.1.0.1:1080\"]; or http.listen, convert.listen or \
                        transparent.ports";
        socks5.missing("listen", expected);
    }
    let sections = [(&mut socks5, 1080), (&mut http, 8080), (&mut convert, 1234)];
    let listen = sections.map(|(section, usual)| read_listen(section, usual));
    let own: BTreeSet<IpAddr> = ports.addresses().collect();
    let mut seen: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    for address in listen.iter().flatten() {
        if ports.complete && !own.contains(&address.value.ip()) {
            let known: Vec<String> = own.iter().map(ToString::to_string).collect();
            let expected = format!("no [[port]] has this address; ours: {}", known.join(", "));
            address.refuse(problems, &expected);
        }
        if let Some(first) = seen.insert(address.value, &address.key) {
            address.refuse(problems, &format!("the same as {first}; keep one of them"));
        }
    }
    let [socks5_listen, http_listen, convert_listen] = listen;
    FrontEnds {
        socks5: read_entry(socks5, socks5_listen, nobody, names, problems),
        http: read_entry(http, http_listen, nobody, names, problems),
        convert: read_convert(convert, convert_listen, names),
    }
}

fn read_convert(
    mut section: Section<'_>,
    listen: Vec<Placed<SocketAddr>>,
    names: &Names,
) -> Convert {
    let cookies = [("off", CookiePolicy::Off), ("require", CookiePolicy::Require)];
    let convert = Convert {
        entry: Entry {
            listen: listen.into_iter().map(|placed| placed.value).collect(),
            auth: Auth::None,
            profile: read_profile(&mut section, names),
        },
        cookie: section.choice("cookie", &cookies, CookiePolicy::Off),
        pending_per_client: section.integer("pending_per_client", 1..=65_536, 64),
    };
    section.finish();
    convert
}

fn read_listen(section: &mut Section<'_>, usual_port: u16) -> Vec<Placed<SocketAddr>> {
    let listen = section.list("listen", |value| {
        let expected = format!("expected an address and port, such as \"10.1.0.1:{usual_port}\"");
        let address: SocketAddr = parsed(value, &expected)?;
        // Without a scope: packets do not say it, and the address is one of a port.
        let address = SocketAddr::new(address.ip(), address.port());
        if address.port() == 0 { Err(expected) } else { Ok(address) }
    });
    listen.unwrap_or_default()
}

fn read_entry(
    mut section: Section<'_>,
    listen: Vec<Placed<SocketAddr>>,
    nobody: bool,
    names: &Names,
    problems: &Problems,
) -> Entry {
    let auths = [("none", Auth::None), ("password", Auth::Password)];
    let auth = section.read("auth", |value| choose(value, &auths));
    if let Some(auth) = &auth
        && auth.value == Auth::Password
        && nobody
    {
        problems.push(Problem::value(
            &auth.origin,
            &auth.key,
            &"\"password\"",
            "there is no [[user]]; add one with the output of `proxy-gw hash-password`",
        ));
    }
    let profile = read_profile(&mut section, names);
    section.finish();
    let auth = auth.map_or(Auth::None, |auth| auth.value);
    Entry { listen: bare(Some(listen)), auth, profile }
}

/// The profile of a listener, where it has one.
pub(super) fn read_profile(section: &mut Section<'_>, names: &Names) -> Option<usize> {
    section.read("profile", |value| names.find(value)).map(|placed| placed.value)
}

fn read_users(
    root: &mut Section<'_>,
    profiles: &Names,
    ports: &Ports,
    problems: &Problems,
) -> Vec<User> {
    let mut names = Vec::new();
    let mut users = Vec::new();
    for mut section in root.sections("user") {
        let name = section.read("name", |value| {
            let expected = "expected 1 to 255 bytes (RFC 1929)";
            let name = text(value, expected)?;
            let fits = (1..=255).contains(&name.len());
            if fits { Ok(name.to_owned()) } else { Err(expected.to_owned()) }
        });
        let hash = section.secret("password_hash", |given| {
            PasswordHash::parse(given)
                .map_err(|why| format!("{why}; `proxy-gw hash-password` makes one from a password"))
        });
        for key in ["name", "password_hash"] {
            if !section.has(key) {
                section.missing(key, "every [[user]] has a name and a password_hash");
            }
        }
        let plan = read_plan(&mut section, profiles, ports, problems);
        section.finish();
        let (Some(name), Some(password_hash)) = (name, hash) else { continue };
        users.push(User { name: name.value.clone(), password_hash, plan });
        names.push(name);
    }
    check_unique(names.iter(), problems);
    users
}

fn read_egress(mut section: Section<'_>) -> Egress {
    let egress = Egress {
        allow: bare(section.list("allow", destinations)),
        deny: bare(section.list("deny", destinations)),
        deny_ports: bare(section.list("deny_ports", |value| integer(value, &(1..=u16::MAX)))),
        deny_udp_ports: bare(
            section.list("deny_udp_ports", |value| integer(value, &(1..=u16::MAX))),
        ),
        nat64: section.read("nat64", nat64_prefix).map(|prefix| prefix.value),
    };
    section.finish();
    egress
}

/// RFC 6052 §2.2: the lengths there are, and no bits behind the prefix.
fn nat64_prefix(value: &Value) -> Result<Ipv6Net, String> {
    let expected =
        "expected an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits, such as \"64:ff9b::/96\"";
    let net: Ipv6Net = parsed(value, expected)?;
    let bits = net.prefix_len();
    // Bits 64 to 71 must be zero.
    let reserved = net.addr().octets().get(8).is_some_and(|&octet| octet != 0);
    if ![32, 40, 48, 56, 64, 96].contains(&bits) || net.addr() != net.network() || reserved {
        return Err(expected.to_owned());
    }
    Ok(net)
}

/// A set of destinations. Addresses that are IPv4 in another spelling are judged as IPv4: a prefix of
/// such spellings would never match.
fn destinations(value: &Value) -> Result<IpNet, String> {
    let net = network(value)?;
    let IpNet::V6(v6) = net else { return Ok(net) };
    let IpAddr::V4(first) = Destination::new(IpAddr::V6(v6.network())).target else {
        return Ok(net);
    };
    match v6.prefix_len().checked_sub(96) {
        Some(len) => Err(format!("these addresses are judged as IPv4: write \"{first}/{len}\"")),
        None => Ok(net),
    }
}

/// Most addresses tried for one name.
const MAX_ADDRESSES_PER_NAME: usize = 16;

fn read_hosts(section: &Section<'_>, problems: &Problems) -> BTreeMap<HostName, Vec<IpAddr>> {
    let mut hosts = BTreeMap::new();
    for (written, key, node) in section.entries() {
        let refuse = |expected: &str| {
            problems.push(Problem::value(&node.origin, &key, &node.value, expected));
        };
        let Ok(name) = HostName::new(written.as_bytes()) else {
            refuse("the key must be a host name, such as \"origin.example\"");
            continue;
        };
        let mut read = |value: &Value| parsed::<IpAddr>(value, "expected an IP address");
        let addresses = read_list(node, &key, problems, &mut read);
        if !(1..=MAX_ADDRESSES_PER_NAME).contains(&section.written(written)) {
            refuse(&format!("a name has 1 to {MAX_ADDRESSES_PER_NAME} addresses"));
        }
        let addresses = addresses.into_iter().map(|address| address.value).collect();
        if hosts.insert(name, addresses).is_some() {
            refuse("the name is listed twice (case and a trailing dot do not count)");
        }
    }
    hosts
}

fn read_admin(mut section: Section<'_>, problems: &Problems) -> Admin {
    let listen = section.list("listen", admin_address).unwrap_or_default();
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for address in &listen {
        if let Some(first) = seen.insert(address.value.to_string(), &address.key) {
            address.refuse(problems, &format!("the same as {first}; keep one of them"));
        }
    }
    section.finish();
    Admin { listen: listen.into_iter().map(|address| address.value).collect() }
}

fn admin_address(value: &Value) -> Result<AdminAddress, String> {
    let expected = "expected \"unix:/absolute/path\" or an address and port of this machine, such as \
         \"127.0.0.1:9180\"";
    let given = text(value, expected)?;
    let Some(path) = given.strip_prefix("unix:") else {
        return given.parse().map(AdminAddress::Tcp).map_err(|_| expected.to_owned());
    };
    // sockaddr_un holds 108 bytes with the terminating NUL.
    let is_path = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
    if is_path && path.len() <= 107 {
        Ok(AdminAddress::Unix(PathBuf::from(path)))
    } else {
        Err(format!("{expected}; a socket path has at most 107 bytes"))
    }
}

fn read_log(mut section: Section<'_>) -> Log {
    let levels = [
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let log = Log {
        level: section.choice("level", &levels, LevelFilter::Info),
        format: section.choice("format", &formats, LogFormat::Text),
    };
    section.finish();
    log
}
