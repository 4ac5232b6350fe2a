//! All memory waits behind holes: what fills them is taken, whoever keeps the rest.

use super::harness::{LIMIT, Pair, RESERVE};
use core::net::IpAddr;
use mptcp_core::stack::SocketId;

/// Octets on each connection.
const STREAM: usize = 64 << 10;
/// So many connections fill the memory with what they have in flight.
const MANY: u8 = 60;
/// The address of a path that brings nothing.
const DIES: &str = "10.0.0.1";
/// Octets that arrive in any case, so that a connection is confirmed and its second path joins.
const FIRST: usize = 8;
/// The connections of which what follows never arrives.
const MALICIOUS: u8 = 100;

/// Words that count, so that every run of octets tells its place, with the connection above them.
fn stream(which: u8) -> Vec<u8> {
    let word = |n| u32::from(which) << 24 | n;
    (0..STREAM as u32 / 4).flat_map(|n| word(n).to_be_bytes()).collect()
}

/// The connection and its first octet, of a segment's text.
fn place(text: &[u8]) -> Option<(u8, usize)> {
    let word = |at: usize| Some(u32::from_be_bytes(text.get(at..at + 4)?.try_into().ok()?));
    (0..4).find_map(|skip| {
        let (first, second) = (word(skip)?, word(skip + 4)?);
        let at = (first & 0xff_ffff) as usize * 4;
        (first + 1 == second).then_some(((first >> 24) as u8, at.wrapping_sub(skip)))
    })
}

/// The octet behind the first ones is in it.
fn is_head(text: &[u8]) -> bool {
    place(text).is_some_and(|(_, at)| (at..at + text.len()).contains(&FIRST))
}

fn is_malicious(text: &[u8]) -> bool {
    is_head(text) && place(text).is_some_and(|(which, _)| which >= MALICIOUS)
}

struct Reader {
    client: SocketId,
    server: SocketId,
    which: u8,
    received: Vec<u8>,
}

impl Pair {
    /// Connections on which the first octets arrived, with all their paths.
    fn open(&mut self, which: impl Iterator<Item = (u8, bool)>) -> Vec<Reader> {
        let mut open = |(which, mptcp)| {
            let client = self.connect(mptcp);
            self.run_losing(10, &|_, text| is_malicious(text));
            let [server] = self.accepted()[..] else { panic!("one connection") };
            let mut reader = Reader { client, server, which, received: Vec::new() };
            let first = &stream(which)[..FIRST];
            assert_eq!(self.client.stack.send(self.now, client, first), Ok(FIRST));
            self.run_losing(50, &|_, text| is_malicious(text));
            self.read(server, &mut reader.received);
            assert_eq!(reader.received, first);
            reader
        };
        which.map(&mut open).collect()
    }

    /// The clients write all the rest of their streams.
    fn write(&mut self, readers: &[Reader]) {
        for reader in readers {
            let rest = &stream(reader.which)[FIRST..];
            assert_eq!(self.client.stack.send(self.now, reader.client, rest), Ok(rest.len()));
        }
    }

    /// Runs until every stream is complete, two minutes at most, within so much memory.
    fn finish(
        &mut self,
        readers: &mut [Reader],
        within: usize,
        lost: &dyn Fn(IpAddr, &[u8]) -> bool,
    ) {
        for _ in 0..12_000 {
            self.run_losing(10, lost);
            assert!(self.server.pool.in_use() <= within, "{}", self.server.pool.in_use());
            for reader in readers.iter_mut() {
                self.read(reader.server, &mut reader.received);
            }
            if readers.iter().all(|reader| reader.received.len() == STREAM) {
                break;
            }
        }
        for reader in readers {
            let Reader { server, which, received, .. } = reader;
            assert_eq!(received.len(), STREAM, "connection {which}");
            assert!(*received == stream(*which), "connection {which}");
            assert_eq!(self.server.stack.error(*server), None);
        }
    }

    /// The next segment finds the reserve only, and there is nothing to read.
    fn assert_stuck(&mut self, readers: &mut [Reader]) {
        let in_use = self.server.pool.in_use() + 1;
        assert!(in_use >= LIMIT - RESERVE, "{in_use}");
        for reader in readers {
            self.read(reader.server, &mut reader.received);
            assert_eq!(reader.received.len(), FIRST);
        }
    }
}

/// Everybody waits for what is behind the first octets, and the rest has all memory.
#[test]
fn heads_are_taken_when_holes_hold_all_memory() {
    for mptcp in [false, true] {
        let mut pair = Pair::new();
        let mut readers = pair.open((0..MANY).map(|which| (which, mptcp)));
        pair.write(&readers);
        pair.run_losing(1000, &|_, text| is_head(text));
        pair.assert_stuck(&mut readers);
        pair.finish(&mut readers, LIMIT - RESERVE / 2, &|_, _| false);
        assert_eq!(pair.server.pool.in_use(), 0);
    }
}

/// One path of each connection dies with the head of its stream. What the other path brought is
/// acknowledged by TCP.
#[test]
fn heads_are_taken_when_holes_of_the_data_level_hold_all_memory() {
    let mut pair = Pair::from(&[DIES, "10.0.1.1"]);
    let mut readers = pair.open((0..MANY).map(|which| (which, true)));
    pair.write(&readers);
    let lost = |src: IpAddr, text: &[u8]| src.to_string() == DIES && !text.is_empty();
    pair.run_losing(100, &|src, text| lost(src, text) || is_head(text));
    pair.assert_stuck(&mut readers);
    pair.finish(&mut readers, LIMIT - RESERVE / 2, &lost);
}

/// Connections that leave their holes open for ever keep nobody else from anything.
#[test]
fn who_leaves_holes_open_does_not_keep_the_memory() {
    for mptcp in [false, true] {
        for malicious in [1, MANY] {
            let mut pair = Pair::new();
            let mut waiting = pair.open((0..malicious).map(|n| (MALICIOUS + n, mptcp)));
            pair.write(&waiting);
            pair.run_losing(1000, &|_, text| is_malicious(text));
            if malicious > 1 {
                pair.assert_stuck(&mut waiting);
            }
            for round in 0..4 {
                let mut honest = pair.open((0..8).map(|n| (8 * round + n, n % 2 == 0)));
                pair.write(&honest);
                pair.finish(&mut honest, LIMIT - RESERVE, &|_, text| is_malicious(text));
            }
        }
    }
}

/// The same where TCP acknowledged what waits, so that only the data level can throw it away.
#[test]
fn who_leaves_holes_in_the_stream_does_not_keep_the_memory() {
    let mut pair = Pair::from(&[DIES, "10.0.1.1"]);
    let mut waiting = pair.open((0..MANY).map(|n| (MALICIOUS + n, true)));
    pair.write(&waiting);
    let lost = |src: IpAddr, text: &[u8]| {
        let theirs = place(text).is_some_and(|(which, _)| which >= MALICIOUS);
        theirs && src.to_string() == DIES || is_malicious(text)
    };
    pair.run_losing(100, &lost);
    pair.assert_stuck(&mut waiting);
    for round in 0..4 {
        let mut honest = pair.open((0..8).map(|n| (8 * round + n, n % 2 == 0)));
        pair.write(&honest);
        pair.finish(&mut honest, LIMIT - RESERVE / 2, &lost);
    }
}
