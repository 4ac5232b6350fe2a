//! What is refused while readers are slow, and what is not.

use super::harness::{FAIR_SHARE, LIMIT, Pair, RESERVE};
use mptcp_core::buf::{BufPool, HEADROOM, HeapBuf, PacketBuf};
use mptcp_core::error::ConnectionError;
use mptcp_core::stack::SocketId;

/// Octets on each connection: together several times what the host can hold.
const STREAM: usize = 256 << 10;

/// Octet `n` of connection `which`.
fn octet(which: usize, n: usize) -> u8 {
    (n % 251) as u8 ^ (which as u8) << 5
}

fn stream(which: usize) -> Vec<u8> {
    (0..STREAM).map(|n| octet(which, n)).collect()
}

#[test]
fn text_is_refused_while_memory_is_short_and_nothing_else() {
    let mut pair = Pair::new();
    let clients: Vec<SocketId> = (0..6).map(|n| pair.connect(n % 2 == 0)).collect();
    pair.run(10);
    let servers = pair.accepted();
    assert_eq!(servers.len(), clients.len());
    for (which, id) in clients.iter().enumerate() {
        assert_eq!(pair.client.stack.send(pair.now, *id, &stream(which)), Ok(STREAM));
        pair.client.stack.shutdown_write(pair.now, *id);
    }
    pair.run(3000);
    assert!(pair.refused() > 0);
    let in_use = pair.server.pool.in_use();
    // Below this everybody is served, above it who holds less than its share, and nobody in the reserve.
    let low = LIMIT - RESERVE - LIMIT / 8;
    assert!((low..LIMIT - RESERVE).contains(&in_use), "{in_use}");

    // A connection can be opened, and data of ours is acknowledged by segments whose text is
    // refused: the other kind is lost.
    let late = pair.connect(true);
    pair.run(1000);
    assert!(pair.server.stack.accept(pair.listener).is_some());
    for id in &servers {
        assert_eq!(pair.server.stack.send(pair.now, *id, b"answer"), Ok(6));
    }
    pair.run_losing(30_000, &|_, text| text.is_empty());
    for id in &servers {
        assert_eq!(pair.server.stack.info(*id).unwrap().bytes_acked, 6);
    }
    assert_eq!(pair.server.pool.in_use(), in_use);

    // Once the reader goes on, every stream is complete.
    let mut received = vec![Vec::new(); servers.len()];
    let mut shares = Vec::new();
    for id in &servers {
        let mut share = 0;
        while let Ok(Some(buf)) = pair.server.stack.recv_buf(pair.now, *id) {
            share += buf.truesize();
            received[shares.len()].extend_from_slice(buf.data());
        }
        shares.push(share);
    }
    // While memory was short each got its share all the same, and together they held what was in use.
    let buffer = HeapBuf::with_capacity(HEADROOM, 1500).truesize();
    // Who has less of it in order holds the rest behind a hole.
    let missing: usize = shares.iter().map(|share| FAIR_SHARE.saturating_sub(*share)).sum();
    let behind = in_use * buffer - shares.iter().sum::<usize>();
    assert!(missing <= behind && behind < FAIR_SHARE, "{shares:?}, {behind} behind holes");
    assert!(shares.iter().any(|&share| share < FAIR_SHARE + buffer), "{shares:?}");
    for _ in 0..600 {
        pair.run(200);
        for (id, into) in servers.iter().zip(&mut received) {
            pair.read(*id, into);
        }
    }
    for (which, received) in received.iter().enumerate() {
        assert_eq!(received.len(), STREAM, "connection {which}");
        assert!(received.iter().enumerate().all(|(n, &byte)| byte == octet(which, n)));
    }
    assert_eq!(pair.server.stack.error(servers[0]), None);
    assert_eq!(pair.server.pool.in_use(), 0);
    pair.client.stack.abort(pair.now, late);
}

/// Peers that do not read leave all memory queued for them, and answer every probe.
#[test]
fn who_never_reads_does_not_keep_the_memory() {
    for mptcp in [false, true] {
        let mut pair = Pair::new();
        let silent: Vec<SocketId> = (0..8).map(|_| pair.connect(mptcp)).collect();
        pair.run(10);
        let writers = pair.accepted();
        let asks = pair.connect(mptcp);
        pair.run(10);
        let [served] = pair.accepted()[..] else { panic!("one connection") };
        assert_eq!(writers.len(), silent.len());
        for id in silent.iter().chain([&asks]) {
            assert_eq!(pair.client.stack.send(pair.now, *id, b"first"), Ok(5));
        }
        pair.run(100);
        let mut heard = Vec::new();
        for id in writers.iter().chain([&served]) {
            pair.read(*id, &mut heard);
        }
        assert_eq!(heard.len(), 5 * 9);
        // What the windows take, and then all that may be kept.
        for _ in 0..100 {
            for id in &writers {
                while pair.server.stack.send(pair.now, *id, &[7; 1_400]).is_ok() {}
            }
            pair.run(20);
        }
        let in_use = pair.server.pool.in_use();
        assert!(in_use >= LIMIT - RESERVE / 2, "{in_use}");

        assert_eq!(pair.client.stack.send(pair.now, asks, b"question"), Ok(8));
        let mut asked = Vec::new();
        pair.run(2_000);
        pair.read(served, &mut asked);
        assert!(asked.is_empty() && pair.refused() > 0, "there is no memory for it");
        pair.run(30_000);
        pair.read(served, &mut asked);
        assert_eq!(asked, b"question");
        assert_eq!(pair.server.stack.error(served), None);
        let errors = writers.iter().filter_map(|id| pair.server.stack.error(*id));
        let errors: Vec<ConnectionError> = errors.collect();
        assert!(!errors.is_empty() && errors.iter().all(|e| *e == ConnectionError::TimedOut));
        assert_eq!(pair.server.stack.counters().stalled_resets, errors.len() as u64);
    }
}

/// Octets of two buffers go out in two segments when there is no third buffer to join them in.
#[test]
fn a_stream_in_small_buffers_is_sent_without_copies() {
    for mptcp in [false, true] {
        let mut pair = Pair::new();
        let client = pair.connect(mptcp);
        pair.run(10);
        let server = pair.server.stack.accept(pair.listener).unwrap();
        let sent: Vec<u8> = (0..20_000).map(|n| octet(1, n)).collect();
        for part in sent.chunks(999) {
            let mut buf = pair.client.pool.alloc().unwrap();
            buf.append(part.len()).unwrap().copy_from_slice(part);
            pair.client.stack.send_buf(client, buf).unwrap();
        }
        let mut received = Vec::new();
        for _ in 0..100 {
            pair.run(20);
            pair.read(server, &mut received);
        }
        assert!(received == sent, "{} of {} octets", received.len(), sent.len());
    }
}
