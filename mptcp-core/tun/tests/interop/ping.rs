//! TUN devices against the kernel that creates them: each test in a network namespace of its own.

use crate::support::{Host, commands, enter_new_network, is_root_with, run};
use core::time::Duration;
use mptcp_core::buf::{HeapBuf, HeapPool, TxQueue};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::time::Instant;
use mptcp_tun::{
    Clock, LoopCounters, PacketDevice, RouteTable, TunConfig, TunDevice, TunError, TunLoop, TunPort,
};
use std::sync::Arc;

/// A worker without a stack: what the loop does not answer itself is dropped.
struct Sink;

impl Worker<HeapBuf> for Sink {
    fn handle_burst(&mut self, _now: Instant, burst: &mut Vec<HeapBuf>) {
        burst.clear();
    }

    fn handle_timeouts(&mut self, _now: Instant, _budget: usize) -> Progress {
        Progress::Done
    }

    fn handle_events(&mut self, _now: Instant) {}

    fn poll_transmit<T: TxQueue<HeapBuf>>(&mut self, _now: Instant, _tx: &mut T) -> Progress {
        Progress::Done
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn poll_control(&mut self, _now: Instant) -> Control {
        Control::Continue
    }
}

fn device(name: &str, addresses: &[&str], mtu: u16) -> TunDevice {
    let kernel_addresses = addresses.iter().map(|net| net.parse().expect("a prefix")).collect();
    TunDevice::create(&TunConfig { name: name.into(), kernel_addresses, mtu, offload: true })
        .expect(name)
}

fn port(device: TunDevice, addresses: &[&str]) -> TunPort<TunDevice> {
    TunPort {
        device,
        addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
    }
}

/// Runs a loop over `ports` in a thread while `test` runs in this one.
fn while_looping(ports: Vec<TunPort<TunDevice>>, test: impl FnOnce()) -> Arc<LoopCounters> {
    let pool = HeapPool::new(256, 9000);
    let mut tun = TunLoop::new(ports, RouteTable::default(), pool, Clock::start()).expect("a loop");
    let (handle, counters) = (tun.handle(), tun.counters());
    let thread = std::thread::spawn(move || tun.run(&mut Sink));
    test();
    handle.stop();
    thread.join().expect("no panic").expect("a clean end");
    counters
}

#[test]
fn the_kernel_pings_the_stacks_addresses() {
    if !is_root_with(&["ip", "ping"]) {
        return;
    }
    enter_new_network();
    let lte = device("lte", &["10.1.0.254/24", "fd00:1::fe/64"], 1500);
    let wifi = device("wifi", &["10.2.0.254/24"], 9000);
    let ports = vec![port(lte, &["10.1.0.1", "fd00:1::1"]), port(wifi, &["10.2.0.1"])];
    let counters = while_looping(ports, || {
        run("ping", &["-c", "3", "-i", "0.2", "-W", "10", "10.1.0.1"]);
        run("ping", &["-c", "3", "-i", "0.2", "-W", "10", "-s", "1400", "fd00:1::1"]);
        run("ping", &["-c", "3", "-i", "0.2", "-W", "10", "-s", "8972", "-M", "do", "10.2.0.1"]);
    });
    assert_eq!(counters.ports()[0].echo_replies(), 6);
    assert_eq!(counters.ports()[1].echo_replies(), 3);
    assert_eq!(counters.ports()[0].tx_errors(), 0);
}

#[test]
fn a_device_is_up_with_its_addresses_and_gone_when_dropped() {
    if !is_root_with(&["ip"]) {
        return;
    }
    enter_new_network();
    let created = device("acc", &["192.0.2.9/24", "2001:db8::9/64"], 1280);
    assert_eq!((created.name(), created.mtu()), ("acc", 1280));
    let shown = run("ip", &["address", "show", "dev", "acc", "up"]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    for expected in ["192.0.2.9/24", "2001:db8::9/64", "mtu 1280"] {
        assert!(shown.contains(expected), "{expected} is not in {shown}");
    }
    let config =
        TunConfig { name: "acc".into(), kernel_addresses: vec![], mtu: 1500, offload: true };
    let error = TunDevice::create(&config).expect_err("the name is taken");
    assert!(error.to_string().contains("acc") && error.to_string().contains("in use"), "{error}");
    drop(created);
    // A process that another test is just starting holds a copy of the descriptor until its exec.
    let recreated = (0..1000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        TunDevice::create(&config).ok()
    });
    assert!(recreated.is_some(), "the name stays taken");
}

#[test]
fn deleting_the_device_ends_the_loop() {
    if !is_root_with(&["ip"]) {
        return;
    }
    enter_new_network();
    let ports = vec![port(device("gone", &[], 1500), &[])];
    let pool = HeapPool::new(64, 1500);
    let mut tun = TunLoop::new(ports, RouteTable::default(), pool, Clock::start()).unwrap();
    let thread = std::thread::spawn(move || tun.run(&mut Sink));
    run("ip", &["link", "delete", "gone"]);
    let error = thread.join().unwrap().expect_err("the device is gone");
    assert!(matches!(error, TunError::Device { .. }), "{error}");
}

#[test]
fn a_device_that_goes_down_and_up_again_keeps_working() {
    if !is_root_with(&["ip", "ping"]) {
        return;
    }
    enter_new_network();
    let ports = vec![port(device("flap", &["10.3.0.254/24"], 1500), &["10.3.0.1"])];
    let counters = while_looping(ports, || {
        run("ip", &["link", "set", "flap", "down"]);
        run("ip", &["link", "set", "flap", "up"]);
        run("ping", &["-c", "1", "-W", "10", "10.3.0.1"]);
    });
    assert_eq!(counters.ports()[0].echo_replies(), 1);
}

/// The setup that docs/operations.md gives to operators: a phone behind two access networks, the
/// gateway's kernel forwarding into one device per access, replies leaving by the access they came
/// in on. The main table has no way back to the phone: only the rules lead there.
#[test]
fn the_kernel_forwards_to_the_stack_and_back_by_the_same_access() {
    if !is_root_with(&["ip", "ping"]) {
        return;
    }
    enter_new_network();
    let phone = Host::new();
    commands(&[
        &format!("ip link add eth1 type veth peer name lte0 netns {}", phone.id),
        &format!("ip link add eth2 type veth peer name wlan0 netns {}", phone.id),
        "ip address add 192.0.2.1/30 dev eth1",
        "ip address add 198.51.100.1/30 dev eth2",
        "ip link set eth1 up",
        "ip link set eth2 up",
    ]);
    phone.commands(&[
        "ip address add 10.50.0.1/32 dev lo",
        "ip address add 192.0.2.2/30 dev lte0",
        "ip address add 198.51.100.2/30 dev wlan0",
        "ip link set lte0 up",
        "ip link set wlan0 up",
        "ip route add 10.1.0.1/32 via 192.0.2.1",
        "ip route add 10.2.0.1/32 via 198.51.100.1",
    ]);
    let ports = vec![
        port(device("lte", &[], 1500), &["10.1.0.1"]),
        port(device("wifi", &[], 1500), &["10.2.0.1"]),
    ];
    for interface in ["all", "eth1", "eth2", "lte", "wifi"] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"), "0").unwrap();
    }
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    commands(&[
        "ip route add 10.1.0.1/32 dev lte",
        "ip route add 10.2.0.1/32 dev wifi",
        "ip route add default via 192.0.2.2 dev eth1 table 101",
        "ip route add default via 198.51.100.2 dev eth2 table 102",
        "ip rule add iif lte table 101",
        "ip rule add iif wifi table 102",
    ]);
    let counters = while_looping(ports, || {
        phone.commands(&[
            "ping -c 2 -i 0.2 -W 10 -I 10.50.0.1 10.1.0.1",
            "ping -c 2 -i 0.2 -W 10 -I 10.50.0.1 10.2.0.1",
        ]);
    });
    assert_eq!(counters.ports()[0].echo_replies(), 2);
    assert_eq!(counters.ports()[1].echo_replies(), 2);
}
