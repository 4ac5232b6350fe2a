//! What several shards share on DPDK's software devices: rings between them, transmit queues they take
//! turns at, and ports that spread flows as they are told.
//!
//! `support` says how tests of devices are run.

#![cfg_attr(have_dpdk, expect(clippy::unwrap_used, reason = "helpers of tests are tests"))]

#[cfg(have_dpdk)]
#[path = "support/bench.rs"]
mod bench;
mod support;

#[cfg(not(have_dpdk))]
#[test]
fn skipped_without_libdpdk() {
    support::skip("shards");
}

#[cfg(have_dpdk)]
mod shards {
    use crate::bench::Bench;
    use dpdk_io::PortConfig;
    use dpdk_io::dpdk::eal::Lcore;
    use dpdk_io::dpdk::mbuf::Mbuf;
    use dpdk_io::dpdk::port::Port;
    use dpdk_io::dpdk::ring::MbufRings;
    use dpdk_io::nic::Pushed;
    use dpdk_io::rings::{BURST, RING_SIZE, Rings, Sent};
    use mptcp_core::buf::{BufPool, PacketBuf, PortId, RxChecksum};
    use mptcp_core::steering::Layout;
    use std::sync::Arc;

    fn open(bench: &Bench, device: &str, queues: u16, shards: u8) -> Arc<Port> {
        let config = PortConfig { queues, ..PortConfig::new("lte", device) };
        let layout = Layout::new(shards).unwrap();
        let (shards, table) = (u16::from(shards), layout.redirection());
        Port::open(bench.eal, &config, PortId(0), shards, table, &[bench.pool]).unwrap()
    }

    /// `n` frames as a port gives them: `net_ring` gives back what is sent.
    fn received(bench: &Bench, n: u8) -> Vec<Mbuf> {
        let device = bench.vdev("net_ring", "");
        let config = PortConfig::new("lte", &device);
        let table = *Layout::new(1).unwrap().redirection();
        let port = Port::open(bench.eal, &config, PortId(5), 1, &table, &[bench.pool]).unwrap();
        let mut tx = port.tx_queue(0, bench.pool, 64).unwrap();
        for n in 0..n {
            assert_eq!(tx.push(bench.buffer(&[n; 60])), Pushed::Queued);
        }
        tx.flush();
        let mut frames = Vec::new();
        port.rx_queue(0, bench.pool).unwrap().receive(&mut frames);
        frames
    }

    #[test]
    fn packets_cross_with_their_range_their_port_and_in_their_order() {
        let bench = Bench::new(511);
        let mut rings = MbufRings::network(bench.eal, &[-1; 3]).unwrap();
        let mut packets = received(&bench, 20);
        for packet in &mut packets {
            packet.trim_front(14);
            packet.truncate(40);
        }
        // One that somebody still looks at crosses as a view of its own.
        let kept = packets[3].slice(0..10);
        assert_eq!(rings[0].send(2, &mut packets), Sent { moved: 20, ..Sent::default() });
        assert!(packets.is_empty());
        assert_eq!(bench.pool.clones_in_use(), 1);
        let mut there = std::thread::scope(|scope| {
            let third = &mut rings[2];
            let taken = scope.spawn(move || {
                let mut taken = Vec::new();
                assert_eq!(third.receive(&mut taken), 20);
                taken
            });
            taken.join().unwrap()
        });
        let mut none = Vec::new();
        assert_eq!(rings[0].receive(&mut none) + rings[1].receive(&mut none), 0);
        for (packet, n) in there.iter().zip(0..) {
            assert_eq!((packet.data(), packet.packet_len()), (&[n; 40][..], 40));
            assert_eq!(packet.rx_meta().port, PortId(5));
            assert_eq!(packet.rx_meta().checksum, RxChecksum::Unknown);
        }
        assert_eq!(kept.data(), [3; 10]);
        assert!(there[3].data_mut().is_none() && there[4].data_mut().is_some());
        drop((there, kept));
        bench.assert_empty();
    }

    #[test]
    fn a_full_ring_frees_what_it_does_not_take_and_frees_the_rest_at_the_end() {
        let bench = Bench::new(2047);
        let mut rings = MbufRings::network(bench.eal, &[-1; 2]).unwrap();
        let mut sent = Sent::default();
        let most = RING_SIZE as usize - 1;
        for _ in 0..most / BURST + 2 {
            let mut burst = (0..BURST).map(|_| bench.buffer(&[1; 60])).collect();
            let one = rings[1].send(0, &mut burst);
            sent.moved += one.moved;
            sent.full += one.full;
        }
        let all = (most / BURST + 2) * BURST;
        assert_eq!(sent, Sent { moved: most, full: all - most, no_memory: 0 });
        assert_eq!(bench.pool.in_use() as usize, most);
        let mut nobody = vec![bench.buffer(&[1; 60])];
        assert_eq!(rings[1].send(1, &mut nobody).full, 1, "none leads to oneself");
        assert_eq!(rings[1].send(2, &mut vec![bench.buffer(&[1; 60])]).full, 1);
        let first = rings.remove(0);
        drop(first);
        assert_eq!(bench.pool.in_use() as usize, most, "the sender still has its end");
        drop(rings);
        bench.assert_empty();
    }

    #[test]
    fn shards_take_turns_at_a_transmit_queue() {
        const EACH: u16 = 60_000;
        let bench = Bench::new(2047);
        let device = bench.vdev("net_ring", "");
        // The driver has 16 queues, so the first is that of shards 0, 16, 32 and 48.
        let port = open(&bench, &device, 1, 64);
        assert_eq!((port.rx_queue_count(), port.tx_queue_count()), (1, 16));
        assert!(port.tx_queue(64, bench.pool, 8).is_none(), "no such shard");
        let mut rx = port.rx_queue(0, bench.pool).unwrap();
        let (mut next, mut strange) = ([0_u16; 4], 0);
        let sender = |shard: u16| {
            let _lcore = Lcore::register(bench.eal).unwrap();
            let mut tx = port.tx_queue(shard, bench.pool, 64).unwrap();
            assert!(port.tx_queue(shard, bench.pool, 64).is_none(), "one each");
            let (mut number, mut idle) = (0_u16, 0);
            // Without turns a queue can get stuck for good.
            while (number < EACH || tx.backlog() > 0) && idle < 1_000_000 {
                // One at a time: what two would do at once, they do often.
                if number < EACH
                    && tx.room() > 0
                    && let Some(mut frame) = { bench.pool }.alloc()
                {
                    let bytes = [shard.to_be_bytes(), number.to_be_bytes()].concat();
                    frame.append(4).unwrap().copy_from_slice(&bytes);
                    assert_eq!(tx.push(frame), Pushed::Queued);
                    number += 1;
                }
                if tx.flush().sent > 0 {
                    idle = 0;
                } else {
                    idle += 1;
                    std::thread::yield_now();
                }
            }
        };
        std::thread::scope(|scope| {
            let sender = &sender;
            let senders = [0, 16, 32, 48_u16].map(|shard| scope.spawn(move || sender(shard)));
            let mut frames = Vec::new();
            loop {
                let ended = senders.iter().all(|sender| sender.is_finished());
                rx.receive(&mut frames);
                if ended && frames.is_empty() {
                    break;
                }
                for frame in frames.drain(..) {
                    let Some(&[s1, s0, n1, n0]) = frame.data().first_chunk() else {
                        strange += 1;
                        continue;
                    };
                    let shard = usize::from(u16::from_be_bytes([s1, s0]) / 16);
                    let expected = next.get_mut(shard).filter(|next| **next < EACH);
                    match expected {
                        Some(next) if *next == u16::from_be_bytes([n1, n0]) => *next += 1,
                        _ => strange += 1,
                    }
                }
            }
        });
        assert_eq!((strange, next), (0, [EACH; 4]));
        drop(rx);
        drop(port);
        bench.assert_empty();
    }

    #[test]
    fn a_port_that_can_is_told_how_to_spread_flows() {
        let bench = Bench::new(8191);
        let spread = |device: &str, queues| {
            // A port is gone with the last that uses it.
            let port = open(&bench, &bench.vdev(device, ""), queues, 3);
            assert_eq!(port.tx_queue_count(), 3);
            (port.spreads_flows(), port.redirection())
        };
        let queue_is_shard = (0..128).map(|bucket| bucket % 3).collect();
        assert_eq!(spread("net_null_a", 4), (true, queue_is_shard));
        // Fewer queues than shards: shard 2's flows come in by shard 0's queue.
        let two_queues = (0..128).map(|bucket| bucket % 3 % 2).collect();
        assert_eq!(spread("net_null_b", 2), (true, two_queues));
        assert!(!spread("net_null_c", 1).0, "there is nothing to spread over");
        assert_eq!(spread("net_ring_d", 2), (false, Vec::new()));
        bench.assert_empty();
    }
}
