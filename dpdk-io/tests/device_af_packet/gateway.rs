//! The gateway's process: a service on three `net_af_packet` ports until its input ends.

use crate::tcp::TcpEcho;
use crate::udp::UdpEcho;
use dpdk_io::{Driver, DropReason, EalConfig, Hugepages, L2Event, Mbuf, PortConfig, ShardCounters};
use mptcp_core::driver::Worker;
use std::io::{Read, Write};

/// The first argument of a gateway process; the second names the service.
pub(crate) const ARGUMENT: &str = "gateway";

/// A CPU this process may run on.
fn cpu() -> usize {
    core_affinity::get_core_ids().unwrap()[0].id
}

fn eal(shards: usize, vdevs: impl Iterator<Item = String>) -> EalConfig {
    let words = ["--in-memory", "--no-pci", "--no-telemetry", "--log-level=4"];
    EalConfig {
        words: words.iter().map(|&word| word.to_owned()).chain(vdevs).collect(),
        hugepages: Hugepages::Off,
        memory_mb: 128,
        cores: vec![cpu(); shards],
        ..EalConfig::default()
    }
}

/// A port that verifies and completes TCP checksums: the packets' sums are not ours.
fn start_tap() -> Driver {
    let port = PortConfig {
        addresses: vec!["10.1.0.1/24".parse().unwrap(), "fd00:1::1/64".parse().unwrap()],
        ..PortConfig::new("lte", "net_tap0")
    };
    let vdev = "--vdev=net_tap0,iface=gwtap".to_owned();
    let driver = Driver::start(eal(1, [vdev].into_iter()), vec![port], Vec::new()).unwrap();
    let status = &driver.ports()[0];
    assert!(status.tx_checksum && status.rx_checksum, "{status:?}");
    assert!(!status.promiscuous, "its filters suffice: {status:?}");
    driver
}

fn start(shards: usize) -> Driver {
    let queues = u16::try_from(shards).unwrap();
    let vdev = |i| format!("--vdev=net_af_packet{i},iface=gw{i},qpairs={queues}");
    let lte = PortConfig {
        addresses: vec!["10.1.0.1/24".parse().unwrap(), "fd00:1::1/64".parse().unwrap()],
        gateway: vec!["10.1.0.2".parse().unwrap()],
        queues,
        ..PortConfig::new("lte", "net_af_packet0")
    };
    let wifi = PortConfig {
        addresses: vec!["10.2.0.1/24".parse().unwrap()],
        queues,
        ..PortConfig::new("wifi", "net_af_packet1")
    };
    let dsl = PortConfig {
        addresses: vec!["10.3.0.1/24".parse().unwrap()],
        vlan: 7,
        queues,
        ..PortConfig::new("dsl", "net_af_packet2")
    };
    Driver::start(eal(shards, (0..3).map(vdev)), vec![lte, wifi, dsl], Vec::new()).unwrap()
}

/// Runs one shard per worker until the input ends.
fn serve<W: Worker<Mbuf> + Send>(driver: &Driver, workers: &mut [W]) {
    std::thread::scope(|scope| {
        let shards: Vec<_> = workers
            .iter_mut()
            .enumerate()
            .map(|(shard, worker)| scope.spawn(move || driver.run(shard, cpu(), worker)))
            .collect();
        let mut stdout = std::io::stdout();
        writeln!(stdout, "ready").unwrap();
        stdout.flush().unwrap();
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        driver.stop();
        for shard in shards {
            shard.join().unwrap().unwrap();
        }
    });
}

fn say(name: &str, value: u64) {
    println!("{name} {value}");
}

pub(crate) fn run(service: &str) {
    let driver = match service {
        // The kernel spreads flows over two queues; answers of neighbours arrive on either.
        "udp" => {
            let driver = start(2);
            let mut workers: [UdpEcho; 2] = Default::default();
            serve(&driver, &mut workers);
            say("datagrams", workers.iter().map(|worker| worker.datagrams).sum());
            say("chained", workers.iter().map(|worker| worker.chained).sum());
            driver
        }
        _ => {
            let driver = if service == "tap" { start_tap() } else { start(1) };
            let mut workers = [TcpEcho::new(&driver)];
            serve(&driver, &mut workers);
            let [worker] = workers;
            say("echoed", worker.echoed);
            for (name, value) in worker.counters() {
                say(&format!("stack_{name}"), value);
            }
            driver
        }
    };
    let sum = |count: &dyn Fn(&ShardCounters) -> u64| -> u64 {
        driver.counters().iter().map(|counters| count(counters)).sum()
    };
    for &event in L2Event::ALL {
        say(event.name(), sum(&|counters| counters.events(event)));
    }
    for &reason in DropReason::ALL {
        say(reason.name(), sum(&|counters| counters.drops(reason)));
    }
    for (i, name) in driver.ports().into_iter().map(|port| port.name).enumerate() {
        say(&format!("{name}_rx_packets"), sum(&|c| c.ports()[i].rx_packets.value()));
        say(&format!("{name}_tx_packets"), sum(&|c| c.ports()[i].tx_packets.value()));
    }
    // Drivers keep buffers in their rings until they are closed.
    let pool = driver.pool(0);
    driver.close();
    say("in_use", pool.in_use().into());
    say("views_in_use", pool.clones_in_use().into());
}
