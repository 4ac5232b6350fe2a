//! The gateway's process: a service on three `net_af_packet` ports until its input ends.

use crate::tcp::TcpEcho;
use crate::udp::UdpEcho;
use dpdk_io::{Driver, DropReason, EalConfig, Hugepages, L2Event, Mbuf, PortConfig, ShardCounters};
use mptcp_core::driver::Worker;
use std::io::{Read, Write};

/// The first argument of a gateway process; the second names the service.
pub(crate) const ARGUMENT: &str = "gateway";

/// A CPU for each shard: those this process may run on, in turn.
fn cpu(shard: usize) -> usize {
    let all = core_affinity::get_core_ids().unwrap();
    all[shard % all.len()].id
}

fn eal(shards: usize, vdevs: impl Iterator<Item = String>) -> EalConfig {
    let words = ["--in-memory", "--no-pci", "--no-telemetry", "--log-level=4"];
    EalConfig {
        words: words.iter().map(|&word| word.to_owned()).chain(vdevs).collect(),
        hugepages: Hugepages::Off,
        memory_mb: if shards > 2 { 256 } else { 128 },
        cores: (0..shards).map(cpu).collect(),
        ..EalConfig::default()
    }
}

/// A port that verifies and completes TCP checksums: the packets' sums are not ours. Two shards share it.
fn start_tap() -> Driver {
    let port = PortConfig {
        addresses: vec!["10.1.0.1/24".parse().unwrap(), "fd00:1::1/64".parse().unwrap()],
        ..PortConfig::new("lte", "net_tap0")
    };
    let vdev = "--vdev=net_tap0,iface=gwtap".to_owned();
    let driver = Driver::start(eal(2, [vdev].into_iter()), vec![port], Vec::new()).unwrap();
    let status = &driver.ports()[0];
    // It has more of either kind, but wants as many of both.
    assert_eq!((status.rx_queues, status.tx_queues), (1, 1), "{status:?}");
    assert!(status.tx_checksum && status.rx_checksum, "{status:?}");
    assert!(!status.promiscuous, "its filters suffice: {status:?}");
    driver
}

fn start(shards: usize, queues: u16) -> Driver {
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
            .map(|(shard, worker)| scope.spawn(move || driver.run(shard, cpu(shard), worker)))
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
            let driver = start(2, 2);
            let mut workers: [UdpEcho; 2] = Default::default();
            serve(&driver, &mut workers);
            say("datagrams", workers.iter().map(|worker| worker.datagrams).sum());
            say("chained", workers.iter().map(|worker| worker.chained).sum());
            driver
        }
        _ => {
            let driver = match service {
                "tap" => start_tap(),
                // Four shards: one gets everything and hands it over, or the kernel's fan-out does
                // as it likes.
                "four_shards_one_queue" => start(4, 1),
                "four_shards_four_queues" => start(4, 4),
                _ => start(1, 1),
            };
            let shards = 0..driver.shards();
            let mut workers: Vec<_> = shards.map(|shard| TcpEcho::new(&driver, shard)).collect();
            serve(&driver, &mut workers);
            say("echoed", workers.iter().map(|worker| worker.echoed).sum());
            say("serving_shards", workers.iter().filter(|it| it.echoed > 0).count() as u64);
            for (shard, worker) in workers.iter().enumerate() {
                for (name, value) in worker.counters() {
                    say(&format!("stack{shard}_{name}"), value);
                }
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
    say("handed_over", sum(&|counters| counters.handed_over.value()));
    say("taken_over", sum(&|counters| counters.taken_over.value()));
    say("sent_to_owner", sum(&|counters| counters.sent_to_owner.value()));
    say("joins_steered", sum(&|counters| counters.joins_steered.value()));
    say("steered_flows", sum(&|counters| counters.confirmed_flows.value()));
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
