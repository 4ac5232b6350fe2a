//! Mbufs, pools and ports on DPDK's software devices, without privileges or hugepages.
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
    support::skip("device tests");
}

#[cfg(have_dpdk)]
mod device {
    use crate::bench::Bench;
    use crate::support::turn::config;
    use core::cell::RefCell;
    use dpdk_io::dpdk::batch::{TxBatch, TxCapabilities};
    use dpdk_io::dpdk::eal::{self, Eal, Lcore};
    use dpdk_io::dpdk::mbuf::Mbuf;
    use dpdk_io::dpdk::pool::MbufPool;
    use dpdk_io::dpdk::port::{self, Port, RxQueue, TxQueue};
    use dpdk_io::nic::{Flushed, Pushed};
    use dpdk_io::{DriverError, EalConfig, PortConfig};
    use mptcp_core::buf::{BufPool, PacketBuf, PortId, TxMeta};
    use mptcp_core::wire::checksum;
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    fn bytes(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i % 251).unwrap().wrapping_add(seed)).collect()
    }

    #[test]
    fn long_buffers_hold_the_longest_packet() {
        let bench = Bench::new(7);
        let mut none = bench.pool;
        assert!(none.alloc_long(3_000).is_none(), "there are none beside this one");
        let mut pool = bench.pool.with_long(bench.eal, "long", 3, -1).unwrap();
        let text = bytes(65_535, 1);
        let mut longest = pool.alloc_long(text.len()).unwrap();
        longest.append(text.len()).unwrap().copy_from_slice(&text);
        assert!(longest.data() == text && longest.append(1).is_none());
        assert!(longest.prepend(1).is_none(), "all of it is in use");
        let mut shorter = pool.alloc_long(20_000).unwrap();
        assert!(shorter.append(20_000).is_some() && shorter.prepend(100).is_some());
        assert!(shorter.truesize() > 65_535, "it pins all of it");
        assert!(pool.alloc_long(65_536).is_none());
        let last = pool.alloc_long(1).unwrap();
        assert!(pool.alloc_long(1).is_none(), "three there are");
        // Views are the pool's own.
        let part = longest.slice(60_000..60_010);
        drop((longest, shorter, last));
        assert_eq!(part.data(), &text[60_000..60_010]);
        drop(part);
        assert!(pool.alloc_long(65_535).is_some());
        bench.assert_empty();
    }

    #[test]
    fn views_share_memory_until_the_last_goes() {
        let bench = Bench::new(511);
        let mut whole = bench.buffer(&bytes(1000, 3));
        assert!(whole.data_mut().is_some());
        assert_eq!(whole.truesize(), 2048 + 128 + 128);

        let mut part = whole.slice(100..300);
        assert_eq!((whole.refcnt(), bench.pool.in_use()), (2, 1), "no copy was made");
        assert!(whole.data_mut().is_none() && part.data_mut().is_none());
        assert!(whole.prepend(1).is_none() && whole.append(1).is_none());
        assert_eq!(part.data(), &bytes(1000, 3)[100..300]);

        let inner = part.slice(50..usize::MAX);
        assert_eq!(inner.data(), &bytes(1000, 3)[150..300]);
        assert_eq!(part.slice(500..600).data(), b"");
        drop(whole);
        part.trim_front(10);
        part.truncate(20);
        assert_eq!(part.data(), &bytes(1000, 3)[110..130]);
        drop(inner);
        part.data_mut().unwrap().fill(7);
        assert_eq!(part.prepend(2).unwrap().len(), 2);
        assert_eq!(part.data()[2..], [7; 20]);
        drop(part);
        bench.assert_empty();
    }

    #[test]
    fn growth_stops_at_the_buffer_s_ends() {
        let bench = Bench::new(511);
        let mut buf = { bench.pool }.alloc().unwrap();
        assert_eq!(buf.data(), b"");
        assert!(buf.append(2049).is_none() && buf.append(usize::MAX).is_none());
        assert!(buf.append(2048).is_some() && buf.append(1).is_none());
        assert!(buf.prepend(129).is_none() && buf.prepend(usize::MAX).is_none());
        assert!(buf.prepend(128).is_some() && buf.prepend(1).is_none());
        assert_eq!(buf.packet_len(), 2176);
        buf.truncate(5000);
        assert_eq!(buf.packet_len(), 2176);
        buf.trim_front(5000);
        assert_eq!(buf.packet_len(), 0);
        drop(buf);
        bench.assert_empty();
    }

    #[test]
    fn chains_copy_what_is_small_and_link_what_is_not() {
        let bench = Bench::new(511);
        let payload = bench.buffer(&bytes(1400, 9));

        let mut small = bench.buffer(b"head");
        small.chain(payload.slice(0..100));
        assert_eq!((small.segment_count(), small.packet_len()), (1, 104));
        assert_eq!(&small.data()[4..], payload.slice(0..100).data());

        // The whole payload: its own descriptor can be the last segment of several packets.
        let mut linked = bench.buffer(b"head");
        linked.chain(payload.slice(0..1400));
        let mut again = bench.buffer(b"HEAD");
        again.chain(payload.slice(0..1400));
        assert_eq!((linked.segment_count(), linked.packet_len()), (2, 1404));
        assert_eq!((payload.refcnt(), bench.pool.clones_in_use()), (3, 0));

        // A part of it needs a descriptor of its own.
        let mut part = bench.buffer(b"head");
        part.chain(payload.slice(700..1400));
        assert_eq!((part.segment_count(), part.packet_len()), (2, 704));
        assert_eq!((payload.refcnt(), bench.pool.clones_in_use()), (4, 1));

        // Behind a shared last segment nothing can hang: it gets a descriptor first.
        linked.chain(payload.slice(300..900));
        assert_eq!((linked.segment_count(), linked.packet_len()), (3, 2004));
        assert_eq!(again.packet_len(), 1404, "the other packet is as it was");
        linked.truncate(1504);
        assert_eq!((linked.segment_count(), linked.packet_len()), (3, 1504));
        linked.truncate(1000);
        assert_eq!((linked.segment_count(), linked.packet_len()), (2, 1000));
        linked.truncate(3);
        assert_eq!((linked.segment_count(), linked.data()), (1, &b"hea"[..]));

        drop((small, linked, again, part));
        assert_eq!(payload.refcnt(), 1);
        drop(payload);
        bench.assert_empty();
    }

    #[test]
    fn a_shared_head_keeps_its_bytes_and_its_chain() {
        let bench = Bench::new(511);
        let mut packet = bench.buffer(&bytes(300, 1));
        let watcher = packet.slice(0..300);
        packet.chain(bench.buffer(&bytes(500, 2)));
        assert_eq!((packet.packet_len(), bench.pool.clones_in_use()), (800, 1));
        assert_eq!(watcher.refcnt(), 2);

        let head = packet.slice(0..usize::MAX);
        assert_eq!((head.packet_len(), head.data()), (300, &bytes(300, 1)[..]));
        packet.chain(bench.buffer(&bytes(400, 3)));
        assert_eq!(packet.packet_len(), 1200);
        let mut outer = bench.buffer(b"x");
        outer.chain(packet);
        assert_eq!((outer.segment_count(), outer.packet_len()), (4, 1201));
        drop(outer);
        assert_eq!(head.data(), bytes(300, 1));
        drop((head, watcher));
        bench.assert_empty();
    }

    #[test]
    fn an_exhausted_pool_refuses_and_broken_packets_are_not_sent() {
        let bench = Bench::new(7);
        let mut pool = bench.pool;
        let mut held: Vec<Mbuf> = core::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((held.len(), bench.pool.in_use()), (7, 7));

        let mut payload = held.pop().unwrap();
        payload.append(1000).unwrap();
        let mut heads: Vec<Mbuf> = (0..4).map(|_| held.pop().unwrap()).collect();
        for head in &mut heads {
            head.append(60).unwrap();
            for i in 0..4 {
                head.chain(payload.slice(i..i + 500));
            }
        }
        let broken = heads.iter().filter(|head| head.is_broken()).count();
        assert!((1..4).contains(&broken), "7 descriptors for 16 partial views: {broken} broken");
        let name = bench.vdev("net_null", "");
        let port = open(&bench, &name);
        let mut queue = port.tx_queue(0, bench.pool, 8).unwrap();
        let results: Vec<Pushed> = heads.into_iter().map(|head| queue.push(head)).collect();
        let refused = results.iter().filter(|&&result| result == Pushed::NoMemory).count();
        assert_eq!(refused, broken);
        drop((queue, held, payload, port));
        bench.assert_empty();
    }

    #[test]
    fn a_reserve_is_left_to_packets_that_pass_through() {
        let bench = Bench::new(2047);
        let (mut any, mut kept) = (bench.pool, bench.pool.with_reserve(64));
        // Up to that many may sit in this thread's cache, which counts as used.
        let cached = 384;
        let mut held = Vec::new();
        while !kept.is_short() {
            held.push(any.alloc().unwrap());
        }
        assert!((2047 - 64 - cached..=2047 - 64).contains(&held.len()), "{}", held.len());
        held.extend(core::iter::from_fn(|| kept.alloc()));
        let most = 2047 - 32;
        assert!(
            (most - cached..=most).contains(&held.len()),
            "half is for answers: {}",
            held.len()
        );
        held.extend(core::iter::from_fn(|| any.alloc()));
        assert_eq!((held.len(), any.is_short()), (2047, false));
        held.truncate(1000);
        assert!(!kept.is_short());
        drop(held);
        bench.assert_empty();
    }

    #[test]
    fn headers_that_a_port_must_find_come_in_one_segment() {
        let bench = Bench::new(511);
        let tx =
            TxCapabilities { multi_segs: true, tcp_checksum: true, ..TxCapabilities::default() };
        for (partial, buffers) in [(true, 1), (false, 2)] {
            let mut batch = TxBatch::new(8);
            let mut frame = bench.buffer(&[[2; 12].as_slice(), &[8, 0]].concat());
            frame.set_tx_meta(TxMeta { port: PortId(3), partial_checksum: partial });
            let mut packet = bench.buffer(&bytes(1400, 1));
            packet.data_mut().unwrap()[0] = 0x45;
            frame.chain(packet);
            assert_eq!(frame.segment_count(), 2);
            assert_eq!(batch.push(frame, tx, &bench.pool), Pushed::Queued);
            assert_eq!(bench.pool.in_use(), buffers, "partial: {partial}");
        }
        bench.assert_empty();
    }

    /// Plain TCP over IPv4.
    fn segment(at: usize, text: usize) -> Vec<u8> {
        let length = u16::try_from(40 + text).unwrap().to_be_bytes();
        let seq = u32::try_from(at).unwrap().to_be_bytes();
        let ip = [&[0x45_u8, 0][..], &length, &[0, 0, 0x40, 0, 64, 6, 0, 0], &[10; 8]].concat();
        let rest = [0_u8, 0, 0, 7, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
        let tcp = [&[0_u8, 80, 0, 81][..], &seq, &rest].concat();
        [&[2_u8; 12][..], &[8, 0], &ip, &tcp, &bytes(text, 1)].concat()
    }

    #[test]
    fn no_card_is_asked_to_cut_what_it_may_refuse() {
        let bench = Bench::new(511);
        let cuts = TxCapabilities {
            multi_segs: true,
            tcp_checksum: true,
            most_buffers: 64,
            ..TxCapabilities::default()
        };
        for (text, packets) in [(170, 3), (255, 3), (256, 1), (1400, 1)] {
            let mut batch = TxBatch::new(8);
            for at in [0, text, 2 * text] {
                let frame = bench.buffer(&segment(at, text));
                assert_eq!(batch.push(frame, cuts, &bench.pool), Pushed::Queued);
            }
            assert_eq!(batch.len(), packets, "three segments of {text} octets");
        }
        bench.assert_empty();
    }

    #[test]
    fn what_does_not_fit_and_what_finds_no_memory_are_told_apart() {
        let bench = Bench::new(7);
        let mut pool = bench.pool;
        let flat = TxCapabilities::default();
        let mut batch = TxBatch::new(8);
        let part = bench.buffer(&bytes(1500, 1));
        let mut long = bench.buffer(&[0; 54]);
        long.chain(part.slice(0..1500));
        long.chain(part.slice(0..1500));
        assert_eq!(batch.push(long, flat, &bench.pool), Pushed::TooLong);
        let mut head = bench.buffer(&[0; 54]);
        let shared = head.slice(0..1);
        head.chain(part.slice(0..1500));
        let held: Vec<Mbuf> = core::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(batch.push(head, flat, &bench.pool), Pushed::NoMemory);
        drop((held, shared, part));
        bench.assert_empty();
    }

    fn open(bench: &Bench, device: &str) -> std::sync::Arc<Port> {
        let config = PortConfig::new("p", device);
        Port::open(bench.eal, &config, PortId(3), 1, &[0], &[bench.pool]).unwrap()
    }

    #[test]
    fn a_ring_loops_packets_back_as_they_were() {
        let bench = Bench::new(511);
        let name = bench.vdev("net_ring", "");
        let port = open(&bench, &name);
        assert_eq!(port.driver(), "net_ring");
        assert!(port.link().0, "the ring's link is up");
        let mut tx = port.tx_queue(0, bench.pool, 64).unwrap();
        let mut rx = port.rx_queue(0, bench.pool).unwrap();
        assert!(port.rx_queue(0, bench.pool).is_none(), "one receiver per queue");
        assert!(port.tx_queue(1, bench.pool, 1).is_none(), "there is one queue");

        let payload = bench.buffer(&bytes(1200, 5));
        let mut expected = Vec::new();
        for i in 0..40_u8 {
            let mut frame = bench.buffer(&[i; 54]);
            frame.set_tx_meta(TxMeta { port: PortId(3), partial_checksum: false });
            let range = usize::from(i) * 10..usize::from(i) * 10 + 700;
            frame.chain(payload.slice(range.clone()));
            expected.push([&[i; 54], payload.slice(range).data()].concat());
            assert_eq!(tx.push(frame), Pushed::Queued);
        }
        // What is shared with a packet that is itself the only segment goes out through a view.
        let alone = bench.buffer(b"alone");
        assert_eq!(tx.push(alone.slice(1..5)), Pushed::Queued);
        expected.push(b"lone".to_vec());
        let bytes = expected.iter().map(|frame| frame.len() as u64).sum();
        assert_eq!(tx.flush(), Flushed { sent: 41, bytes, ..Flushed::default() });
        assert_eq!(tx.backlog(), 0);

        let mut received = Vec::new();
        for _ in 0..4 {
            assert_eq!(rx.receive(&mut received).no_buffer, 0);
        }
        assert_eq!(received.len(), 41);
        for (packet, expected) in received.iter().zip(&expected) {
            assert_eq!(packet.data(), expected);
            assert_eq!(packet.rx_meta().port, PortId(3));
        }
        let stats = port.stats();
        assert_eq!((stats.rx_packets, stats.tx_packets), (41, 41));
        assert!(
            port.xstats().iter().any(|(name, value)| name == "rx_good_packets" && *value == 41)
        );
        drop((received, payload, alone, tx, rx, port));
        bench.assert_empty();
    }

    #[test]
    fn a_port_that_works_out_ipv4_checksums_finds_none() {
        let bench = Bench::new(511);
        let name = bench.vdev("net_ring", "");
        let port = open(&bench, &name);
        let mut tx = port.tx_queue(0, bench.pool, 8).unwrap();
        let mut rx = port.rx_queue(0, bench.pool).unwrap();
        for ip_checksum in [false, true] {
            tx.assume(TxCapabilities {
                multi_segs: true,
                tcp_checksum: true,
                ip_checksum,
                most_buffers: 64,
            });
            for at in [0, 600] {
                assert_eq!(tx.push(bench.buffer(&segment(at, 600))), Pushed::Queued);
            }
            let flushed = tx.flush();
            assert_eq!((flushed.sent, flushed.joined), (1, 2));
            let mut received = Vec::new();
            assert_eq!(rx.receive(&mut received).no_buffer, 0);
            let ip = &received[0].data()[14..34];
            assert_eq!(ip[2..4], 1240_u16.to_be_bytes());
            let right = checksum::sum(ip) == 0xffff;
            assert_eq!((ip[10..12] == [0, 0], right), (ip_checksum, !ip_checksum));
        }
        drop((rx, tx, port));
        bench.assert_empty();
    }

    #[test]
    fn ports_of_one_segment_get_one() {
        let bench = Bench::new(511);
        let file = std::env::temp_dir().join(format!("plait-flat-{}.pcap", std::process::id()));
        let name = bench.vdev("net_pcap", &format!("tx_pcap={}", file.display()));
        let port = open(&bench, &name);
        assert!(!port.tx_capabilities().multi_segs);
        let mut tx = port.tx_queue(0, bench.pool, 8).unwrap();

        // Room behind the head: the payload is copied there.
        let mut roomy = bench.buffer(&[1; 60]);
        roomy.chain(bench.buffer(&bytes(700, 1)));
        // No room, because the head is a view of something: all of it is copied.
        let shared = bench.buffer(&[2; 60]);
        let mut view = shared.slice(0..60);
        view.chain(bench.buffer(&bytes(700, 2)));
        view.chain(bench.buffer(&bytes(500, 3)));
        // No room for it at all.
        let mut long = bench.buffer(&[3; 60]);
        long.chain(bench.buffer(&bytes(1500, 4)));
        long.chain(bench.buffer(&bytes(1500, 5)));
        assert_eq!((roomy.segment_count(), view.segment_count(), long.segment_count()), (2, 3, 3));
        let expected = [content(&roomy), content(&view)];
        assert_eq!(tx.push(roomy), Pushed::Queued);
        assert_eq!(tx.push(view), Pushed::Queued);
        assert_eq!(tx.push(long), Pushed::TooLong);
        assert_eq!(tx.flush().sent, 2);
        drop((shared, tx, port));
        bench.assert_empty();

        let written = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let first = &written[24 + 16..];
        assert_eq!(first[..760], expected[0]);
        assert_eq!(first[760 + 16..], expected[1]);
    }

    #[test]
    fn what_was_not_sent_is_kept_and_freed_when_dropped() {
        let bench = Bench::new(511);
        let name = bench.vdev("net_ring", "");
        let port = open(&bench, &name);
        let mut tx = port.tx_queue(0, bench.pool, 400).unwrap();
        let mut rx = port.rx_queue(0, bench.pool).unwrap();
        let mut sent = 0;
        // Fill the ring until it refuses.
        for _ in 0..20 {
            for _ in 0..200 {
                let Some(mut frame) = { bench.pool }.alloc() else { break };
                frame.append(60).unwrap();
                assert_eq!(tx.push(frame), Pushed::Queued);
            }
            sent += tx.flush().sent;
        }
        let backlog = tx.backlog();
        assert_eq!(sent + backlog, 511, "every buffer is in the ring or waits");
        drop(tx);
        assert_eq!(usize::try_from(bench.pool.in_use()).unwrap(), sent);
        let mut received = Vec::new();
        while rx.receive(&mut received).frames > 0 {}
        assert_eq!(received.len(), sent);
        drop((received, rx, port));
        bench.assert_empty();
    }

    #[test]
    fn ports_come_up_again_after_they_were_closed() {
        let bench = Bench::new(511);
        let name = bench.vdev("net_null", "");
        let port = open(&bench, &name);
        assert!(!port.tx_capabilities().multi_segs && !port.verifies_checksums());
        drop(port);
        // Closing a vdev's port removes the port; the device can be made anew.
        eal::remove_vdev(bench.eal, &name).ok();
        eal::create_vdev(bench.eal, &name, "").unwrap();
        drop(open(&bench, &name));
        bench.assert_empty();
    }

    #[test]
    fn what_did_not_come_up_is_named() {
        let bench = Bench::new(511);
        let config = PortConfig::new("lte", "net_af_packet7");
        let error = Port::open(bench.eal, &config, PortId(0), 1, &[0], &[bench.pool]).unwrap_err();
        assert!(
            matches!(&error, DriverError::PortMissing { device, .. } if device == "net_af_packet7")
        );
        let words = ["--vdev=net_null77,size=64".to_owned(), "--vdev=crypto_null0".to_owned()];
        let error = port::check_vdevs(bench.eal, &words).unwrap_err();
        assert!(error.to_string().starts_with("device net_null77 did not come up"), "{error}");

        let name = bench.vdev("net_ring", "");
        let config = PortConfig { queues: 9000, ..PortConfig::new("lte", &name) };
        let error = Port::open(bench.eal, &config, PortId(0), 1, &[0], &[bench.pool]).unwrap_err();
        assert!(error.is_config() && error.to_string().contains("queues = 9000"), "{error}");
    }

    #[test]
    fn the_eal_starts_once() {
        let bench = Bench::new(511);
        let other = EalConfig { memory_mb: 99, ..config() };
        assert_eq!(Eal::start(&other).unwrap_err(), DriverError::AlreadyStarted);
        assert!(!bench.eal.hugepages());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Alloc(usize),
        Slice(usize, usize, usize),
        TrimFront(usize, usize),
        Truncate(usize, usize),
        Prepend(usize, usize, u8),
        Append(usize, usize, u8),
        Fill(usize, u8),
        Chain(usize, usize),
        /// Notes the sum of what is in view.
        Note(usize),
        Drop(usize),
        Send(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let view = 0_usize..8;
        let len = || prop_oneof![0_usize..4, 0_usize..300, 0_usize..2300];
        prop_oneof![
            3 => len().prop_map(Step::Alloc),
            4 => (view.clone(), len(), len()).prop_map(|(i, a, b)| Step::Slice(i, a, b)),
            2 => (view.clone(), len()).prop_map(|(i, n)| Step::TrimFront(i, n)),
            2 => (view.clone(), len()).prop_map(|(i, n)| Step::Truncate(i, n)),
            2 => (view.clone(), 0_usize..140, any::<u8>()).prop_map(|(i, n, b)| Step::Prepend(i, n, b)),
            2 => (view.clone(), len(), any::<u8>()).prop_map(|(i, n, b)| Step::Append(i, n, b)),
            2 => (view.clone(), any::<u8>()).prop_map(|(i, b)| Step::Fill(i, b)),
            4 => (view.clone(), view.clone()).prop_map(|(i, j)| Step::Chain(i, j)),
            3 => view.clone().prop_map(Step::Note),
            1 => view.clone().prop_map(Step::Drop),
            2 => view.prop_map(Step::Send),
        ]
    }

    fn content(view: &Mbuf) -> Vec<u8> {
        view.segments().flatten().copied().collect()
    }

    /// A view with the bytes it must show, whatever happens to others; `chained` ones are final.
    struct Twin {
        view: Mbuf,
        bytes: Vec<u8>,
    }

    fn apply(step: Step, bench: &Bench, twins: &mut Vec<Twin>, tx: &mut TxQueue, rx: &mut RxQueue) {
        let count = twins.len();
        let final_ = |twin: &Twin| twin.view.segment_count() > 1;
        match step {
            Step::Alloc(len) if count < 8 => {
                let len = len.min(2048);
                let bytes = bytes(len, u8::try_from(len % 256).unwrap());
                twins.push(Twin { view: bench.buffer(&bytes), bytes });
            }
            Step::Slice(i, a, b) if i < count && count < 8 => {
                let twin = &twins[i];
                let first = twin.view.data().len();
                let (start, end) = (a.min(first), (a + b).min(first));
                let view = twin.view.slice(a..a + b);
                let bytes = twin.bytes[start..end].to_vec();
                twins.push(Twin { view, bytes });
            }
            Step::TrimFront(i, n) if i < count && !final_(&twins[i]) => {
                let twin = &mut twins[i];
                twin.view.trim_front(n);
                twin.bytes.drain(..n.min(twin.bytes.len()));
            }
            Step::Truncate(i, n) if i < count => {
                twins[i].view.truncate(n);
                twins[i].bytes.truncate(n);
            }
            Step::Prepend(i, n, byte) if i < count => {
                let twin = &mut twins[i];
                if let Some(front) = twin.view.prepend(n) {
                    front.fill(byte);
                    twin.bytes.splice(0..0, core::iter::repeat_n(byte, n));
                }
            }
            Step::Append(i, n, byte) if i < count => {
                let twin = &mut twins[i];
                if let Some(end) = twin.view.append(n) {
                    end.fill(byte);
                    twin.bytes.extend(core::iter::repeat_n(byte, n));
                }
            }
            Step::Fill(i, byte) if i < count => {
                let twin = &mut twins[i];
                if let Some(data) = twin.view.data_mut() {
                    data.fill(byte);
                    let len = data.len();
                    twin.bytes[..len].fill(byte);
                }
            }
            Step::Chain(i, j) if i < count && j < count && i != j => {
                let payload = twins.swap_remove(j);
                let head = if i == twins.len() { j } else { i };
                twins[head].view.chain(payload.view);
                twins[head].bytes.extend(payload.bytes);
            }
            Step::Note(i) if i < count => {
                let sum = checksum::sum(twins[i].view.data());
                twins[i].view.note_sum(sum);
            }
            Step::Drop(i) if i < count => drop(twins.swap_remove(i)),
            Step::Send(i) if i < count => {
                let twin = twins.swap_remove(i);
                // What arrives in several segments must fit into one buffer.
                let lost = final_(&twin) && twin.bytes.len() > 2048;
                assert_eq!(tx.push(twin.view), Pushed::Queued);
                assert_eq!(tx.flush().sent, 1);
                let mut received = Vec::new();
                assert_eq!(rx.receive(&mut received).no_buffer, usize::from(lost));
                for view in received {
                    assert_eq!(view.data(), twin.bytes);
                    twins.push(Twin { view, bytes: twin.bytes.clone() });
                }
            }
            _ => {}
        }
    }

    #[test]
    fn views_behave_like_byte_vectors() {
        let bench = Bench::new(511);
        let name = bench.vdev("net_ring", "");
        let port = open(&bench, &name);
        let tx = RefCell::new(port.tx_queue(0, bench.pool, 8).unwrap());
        let rx = RefCell::new(port.rx_queue(0, bench.pool).unwrap());
        let steps = prop::collection::vec(step(), 1..60);
        let config =
            ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() };
        TestRunner::new(config)
            .run(&steps, |steps| {
                let mut twins = Vec::new();
                for step in steps {
                    apply(step, &bench, &mut twins, &mut tx.borrow_mut(), &mut rx.borrow_mut());
                    for twin in &twins {
                        prop_assert!(!twin.view.is_broken());
                        prop_assert_eq!(twin.view.packet_len(), twin.bytes.len());
                        prop_assert_eq!(content(&twin.view), &twin.bytes[..]);
                        let sum = twin.view.noted_sum();
                        prop_assert!(sum.is_none_or(|sum| sum == checksum::sum(twin.view.data())));
                    }
                }
                drop(twins);
                prop_assert_eq!((bench.pool.in_use(), bench.pool.clones_in_use()), (0, 0));
                Ok(())
            })
            .unwrap();
        drop((tx, rx, port));
        bench.assert_empty();
    }

    /// Sends views of `packet` around until the counts would show a lost update.
    fn churn(packet: &Mbuf, mut pool: MbufPool) {
        let mut kept = Vec::new();
        for i in 0..20_000_usize {
            let mut head = pool.alloc().unwrap();
            head.append(40).unwrap().fill(1);
            head.chain(packet.slice(i % 100..i % 100 + 300));
            kept.push(head);
            if kept.len() > 20 {
                kept.clear();
            }
        }
    }

    #[test]
    fn two_threads_share_one_buffer() {
        let bench = Bench::new(511);
        let name = bench.vdev("net_ring", "");
        let port = open(&bench, &name);
        let mut tx = port.tx_queue(0, bench.pool, 8).unwrap();
        let mut rx = port.rx_queue(0, bench.pool).unwrap();
        let direct = bench.buffer(&bytes(1000, 4));
        // Sent while shared, it arrives as a descriptor over somebody else's buffer.
        assert_eq!(tx.push(direct.slice(0..900)), Pushed::Queued);
        assert_eq!(tx.flush().sent, 1);
        let mut received = Vec::new();
        rx.receive(&mut received);
        let indirect = received.pop().unwrap();
        assert_eq!((indirect.refcnt(), bench.pool.clones_in_use()), (1, 1));
        let (eal, pool) = (bench.eal, bench.pool);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let views = [direct.slice(0..1000), indirect.slice(0..900)];
                scope.spawn(move || {
                    let _lcore = Lcore::register(eal).unwrap();
                    views.iter().for_each(|view| churn(view, pool));
                });
            }
        });
        assert_eq!((direct.refcnt(), indirect.refcnt()), (2, 1));
        assert_eq!(direct.data(), bytes(1000, 4));
        drop((direct, indirect, tx, rx, port));
        bench.assert_empty();
    }

    #[test]
    fn threads_become_lcores_and_packets_cross_them() {
        let bench = Bench::new(511);
        let eal = bench.eal;
        let mut pool = bench.pool;
        let packet = bench.buffer(&bytes(100, 1));
        let view = packet.slice(10..20);
        let sum = std::thread::spawn(move || {
            let lcore = Lcore::register(eal).unwrap();
            assert!(lcore.socket() >= 0);
            let fresh = pool.alloc().unwrap();
            drop(fresh);
            view.data().iter().map(|&byte| u32::from(byte)).sum::<u32>()
        });
        let expected = packet.data()[10..20].iter().map(|&byte| u32::from(byte)).sum::<u32>();
        assert_eq!(sum.join().unwrap(), expected);
        assert_eq!(packet.refcnt(), 1);
        drop(packet);
        bench.assert_empty();
    }
}
