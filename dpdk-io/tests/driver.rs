//! The whole driver over files: `net_pcap` reads prepared frames and writes what is sent.
//!
//! The one EAL of this process is the driver's own, so this binary holds one test. Without libdpdk it
//! says SKIPPED, and fails where CI forbids that.

#![cfg_attr(have_dpdk, expect(clippy::unwrap_used, reason = "helpers of tests are tests"))]

#[cfg(not(have_dpdk))]
mod support;

#[cfg(not(have_dpdk))]
#[test]
fn skipped_without_libdpdk() {
    use dpdk_io::{Driver, DriverError, EalConfig, PortConfig};
    let ports = vec![PortConfig::new("lte", "net_af_packet0")];
    let error = Driver::start(EalConfig::default(), ports, Vec::new()).unwrap_err();
    assert_eq!(error, DriverError::Missing { package: "libdpdk-dev" });
    assert!(dpdk_io::drivers().contains("without libdpdk"));
    support::skip("driver test");
}

#[cfg(have_dpdk)]
mod driver {
    use dpdk_io::{
        Driver, DriverError, DropReason, EalConfig, Hugepages, L2Event, MacConfig, Mbuf,
        PortConfig, RouteConfig,
    };
    use mptcp_core::buf::{BufPool, PacketBuf, TxMeta, TxQueue};
    use mptcp_core::driver::{Control, Progress, Worker};
    use mptcp_core::time::Instant;
    use mptcp_core::wire::{Checksum, IpEmit};
    use std::path::Path;

    const US: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn frame(dst: [u8; 6], src: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
        [&dst[..], &src, &kind.to_be_bytes(), payload].concat()
    }

    fn arp(op: u8, src: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, op];
        [&head[..], &src, &sender, &[0; 6], &target].concat()
    }

    fn packet(src: [u8; 4], dst: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header = IpEmit {
            src: src.into(),
            dst: dst.into(),
            protocol,
            traffic_class: 0,
            hop_limit: 64,
            payload_len: payload.len(),
            identification: 0,
            dont_fragment: true,
        };
        let mut out = vec![0; 20];
        header.emit(&mut out);
        out.extend_from_slice(payload);
        out
    }

    fn echo_request(data: &[u8]) -> Vec<u8> {
        let mut message = [&[8, 0, 0, 0, 0, 1, 0, 1][..], data].concat();
        let mut sum = Checksum::new();
        sum.add_bytes(&message);
        message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
        packet([10, 1, 0, 2], [10, 1, 0, 1], 1, &message)
    }

    fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
        let mut out = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for frame in frames {
            let len = u32::try_from(frame.len()).unwrap();
            for word in [0, 0, len, len] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(frame);
        }
        std::fs::write(path, out).unwrap();
    }

    fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = &bytes[24..];
        let mut frames = Vec::new();
        while let Some((head, behind)) = rest.split_first_chunk::<16>() {
            let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
            let (frame, behind) = behind.split_at(usize::try_from(len).unwrap());
            frames.push(frame.to_vec());
            rest = behind;
        }
        frames
    }

    /// Answers every datagram with header and payload in two segments, and stops at the last one.
    struct Echo {
        expected: usize,
        waiting: Vec<Mbuf>,
        seen: Vec<Vec<u8>>,
    }

    impl Worker<Mbuf> for Echo {
        fn handle_burst(&mut self, _now: Instant, burst: &mut Vec<Mbuf>) {
            self.seen.extend(burst.iter().map(|packet| packet.data().to_vec()));
            self.waiting.append(burst);
        }

        fn handle_timeouts(&mut self, _now: Instant, _budget: usize) -> Progress {
            Progress::Done
        }

        fn handle_events(&mut self, _now: Instant) {}

        fn poll_transmit<T: TxQueue<Mbuf>>(&mut self, _now: Instant, tx: &mut T) -> Progress {
            for request in self.waiting.drain(..) {
                assert!(tx.room() > 0);
                let mut reply = tx.alloc().unwrap();
                let data = request.data();
                let source: [u8; 4] = data[12..16].try_into().unwrap();
                let header = packet([10, 1, 0, 1], source, 17, &data[20..]);
                reply.append(20).unwrap().copy_from_slice(&header[..20]);
                let port = request.rx_meta().port;
                reply.chain(request.slice(20..usize::MAX));
                reply.set_tx_meta(TxMeta { port, partial_checksum: false });
                tx.push(reply);
            }
            Progress::Done
        }

        fn poll_timeout(&self) -> Option<Instant> {
            None
        }

        fn poll_control(&mut self, _now: Instant) -> Control {
            if self.seen.len() >= self.expected { Control::Stop } else { Control::Continue }
        }
    }

    fn config(dir: &Path) -> (EalConfig, PortConfig) {
        let vdev = format!(
            "--vdev=net_pcap0,rx_pcap={},tx_pcap={}",
            dir.join("in.pcap").display(),
            dir.join("out.pcap").display()
        );
        let words = ["--in-memory", "--no-pci", "--no-telemetry", "--log-level=4", &vdev];
        let eal = EalConfig {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            hugepages: Hugepages::Off,
            memory_mb: 128,
            cores: vec![cpu()],
            ..EalConfig::default()
        };
        let port = PortConfig {
            addresses: vec!["10.1.0.1/24".parse().unwrap()],
            gateway: vec!["10.1.0.254".parse().unwrap()],
            mac: MacConfig::Fixed(US),
            ..PortConfig::new("lte", "net_pcap0")
        };
        (eal, port)
    }

    /// A CPU this process may run on.
    fn cpu() -> usize {
        core_affinity::get_core_ids().unwrap()[0].id
    }

    #[test]
    fn frames_in_frames_out() {
        let dir = std::env::temp_dir().join(format!("plait-driver-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let host = |last: u8| [10, 1, 0, last];
        let big = vec![0x5a; 1400];
        let datagrams: Vec<Vec<u8>> =
            (0..40).map(|i| packet(host(2), host(1), 17, &[&[i; 8][..], &big].concat())).collect();
        let mut frames = vec![
            frame([0xff; 6], PEER, 0x0806, &arp(1, PEER, host(2), host(1))),
            frame(US, PEER, 0x0800, &echo_request(b"ping")),
            frame(US, PEER, 0x0800, &packet(host(2), [10, 2, 0, 1], 17, &[0; 8])),
            frame(US, PEER, 0x88cc, b"lldp"),
        ];
        frames.extend(datagrams.iter().map(|packet| frame(US, PEER, 0x0800, packet)));
        write_pcap(&dir.join("in.pcap"), &frames);

        let (eal, port) = config(&dir);
        let route = RouteConfig {
            to: "0.0.0.0/0".parse().unwrap(),
            via: "10.1.0.254".parse().unwrap(),
            port: "exit".to_owned(),
        };
        let refused = Driver::start(eal.clone(), vec![port.clone()], vec![route]).unwrap_err();
        assert!(refused.is_config() && refused.to_string().contains("exit"), "{refused}");
        let cores = EalConfig { cores: vec![4000], ..eal.clone() };
        let refused = Driver::start(cores, vec![port.clone()], Vec::new()).unwrap_err();
        assert!(refused.to_string().starts_with("driver.cores = 4000"), "{refused}");

        let driver = Driver::start(eal.clone(), vec![port.clone()], Vec::new()).unwrap();
        assert!(dpdk_io::drivers().starts_with("DPDK "), "{}", dpdk_io::drivers());
        assert_eq!(driver.shards(), 1);
        let mut worker = Echo { expected: 40, waiting: Vec::new(), seen: Vec::new() };
        std::thread::scope(|scope| {
            let running = scope.spawn(|| driver.run(0, cpu(), &mut worker));
            running.join().unwrap().unwrap();
        });
        assert_eq!(worker.seen, datagrams);

        let counters = &driver.counters()[0];
        assert_eq!(counters.ports()[0].rx_packets.value(), 44);
        assert_eq!(counters.drops(DropReason::NotForUs), 1);
        assert_eq!(counters.drops(DropReason::UnknownEtherType), 1);
        assert_eq!(counters.all_drops(), 2);
        assert_eq!(counters.events(L2Event::EchoReplies), 1);
        let status = driver.ports();
        assert_eq!((status[0].name.as_str(), status[0].driver.as_str()), ("lte", "net_pcap"));
        assert_eq!(status[0].mac, US);
        assert!(!status[0].multi_segs && status[0].up);
        assert!(status[0].statistics.iter().any(|(name, n)| name == "rx_good_packets" && *n == 44));

        // Everything was freed, and what no shard exists for does not run.
        let pools = driver.pools();
        assert_eq!(pools.len(), 1);
        assert_eq!((pools[0].in_use, pools[0].views_in_use), (0, 0));
        assert!(pools[0].count > 1000 && pools[0].element_size > 2048 + 128);
        assert!(driver.pool(0).alloc().is_some());
        assert!(matches!(driver.run(1, cpu(), &mut worker), Err(DriverError::Thread { .. })));
        driver.close();

        let sent = read_pcap(&dir.join("out.pcap"));
        let of_kind = |kind: u16| {
            sent.iter().filter(move |frame| frame[12..14] == kind.to_be_bytes()).collect::<Vec<_>>()
        };
        let arps = of_kind(0x0806);
        // Questions are repeated by the clock, the answer is not.
        let arp_of = |to: [u8; 6], opcode: u8, target: [u8; 4]| {
            let like =
                |arp: &&&Vec<u8>| arp[..6] == to && arp[21] == opcode && arp[38..42] == target;
            arps.iter().filter(like).count()
        };
        assert!(arp_of([0xff; 6], 1, host(1)) >= 1, "an announcement: {arps:02x?}");
        assert!(arp_of([0xff; 6], 1, host(254)) >= 1, "the question for the gateway: {arps:02x?}");
        assert_eq!(arp_of(PEER, 2, host(2)), 1, "the answer: {arps:02x?}");
        assert!(arp_of(PEER, 1, host(2)) >= 1, "the probe of the peer: {arps:02x?}");
        let packets = of_kind(0x0800);
        assert_eq!(packets.len(), 41);
        assert!(packets.iter().all(|frame| frame[..6] == PEER && frame[6..12] == US));
        assert_eq!((packets[0][34], &packets[0][42..]), (0, &b"ping"[..]));
        for (sent, received) in packets[1..].iter().zip(&datagrams) {
            assert_eq!(sent[34..], received[20..]);
        }
        assert_eq!(sent.len(), arps.len() + packets.len(), "and nothing else");

        // The EAL is still there, the port is not.
        let again = Driver::start(eal, vec![port], Vec::new()).unwrap_err();
        assert!(matches!(&again, DriverError::PortMissing { device, .. } if device == "net_pcap0"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
