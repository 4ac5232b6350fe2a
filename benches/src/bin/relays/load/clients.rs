//! Clients: streams, sessions and single octets.

use super::{CHUNK, DISCARD, ECHO, PACED, PATIENCE, SEND};
use crate::interrupt::Interrupt;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Instant;

/// How a client gets to the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// Whoever it connects to, is or leads to the server.
    Straight,
    /// It asks for this address by SOCKS5.
    Socks5(SocketAddr),
}

/// What clients connect to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) way: Way,
    pub(crate) mptcp: bool,
}

impl Target {
    /// A connection to the server that has been told what is wanted. A buffer that is set later would be
    /// smaller than the window that was offered.
    fn open(&self, wish: &[u8], buffer: Option<usize>) -> io::Result<Socket> {
        let protocol = if self.mptcp { Protocol::MPTCP } else { Protocol::TCP };
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(protocol))?;
        if let Some(octets) = buffer {
            socket.set_recv_buffer_size(octets)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect_timeout(&self.address.into(), PATIENCE)?;
        if let Way::Socks5(destination) = self.way {
            ask(&socket, destination)?;
        }
        (&socket).write_all(wish)?;
        Ok(socket)
    }
}

/// SOCKS5 without a password.
fn ask(mut socket: &Socket, destination: SocketAddr) -> io::Result<()> {
    let SocketAddr::V4(destination) = destination else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    socket.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    socket.read_exact(&mut method)?;
    let mut request = vec![5, 1, 0, 1];
    request.extend(destination.ip().octets());
    request.extend(destination.port().to_be_bytes());
    socket.write_all(&request)?;
    let mut reply = [0; 10];
    socket.read_exact(&mut reply)?;
    if method != [5, 0] || reply[..4] != [5, 0, 0, 1] {
        return Err(io::Error::other(format!("SOCKS5 refused: {method:?} {reply:?}")));
    }
    Ok(())
}

/// Which way a stream goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// Streams to measure.
pub(crate) struct Bulk<'a> {
    pub(crate) target: Target,
    pub(crate) direction: Direction,
    pub(crate) streams: usize,
    /// What the server has received: an upload counts there.
    pub(crate) at_server: &'a AtomicU64,
    /// Octets that each stream of a download is offered in a [`TICK`](super::TICK); `None`: as many as go.
    pub(crate) pace: Option<u32>,
}

/// Runs the streams; once they have run for `warm_up`, calls `measure`, which gets the count of octets
/// that arrived so far.
pub(crate) fn bulk<T>(
    load: &Bulk<'_>,
    warm_up: Duration,
    interrupt: &Interrupt,
    measure: impl FnOnce(&AtomicU64) -> Result<T, String>,
) -> Result<T, String> {
    let mut wish = vec![if load.direction == Direction::Down { SEND } else { DISCARD }];
    if let Some(octets) = load.pace {
        wish = [&[PACED][..], &octets.to_be_bytes()].concat();
    }
    let open = |_| load.target.open(&wish, None).map_err(|error| format!("connecting: {error}"));
    let sockets = (0..load.streams).map(open).collect::<Result<Vec<_>, _>>()?;
    for socket in &sockets {
        // Closed, they reset. Without that relays go on sending to MPTCP sockets that were shut down,
        // into the next load, which then had a fiftieth of its rate.
        socket.set_linger(Some(Duration::ZERO)).map_err(|error| error.to_string())?;
    }
    let (is_over, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    let run = |mut socket: &Socket| -> io::Result<()> {
        let mut buffer = vec![0xa5; CHUNK];
        while !is_over.load(Ordering::Relaxed) {
            if load.direction == Direction::Up {
                socket.write_all(&buffer)?;
                continue;
            }
            match socket.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => arrived.fetch_add(n as u64, Ordering::Relaxed),
            };
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> =
            sockets.iter().map(|socket| scope.spawn(move || run(socket))).collect();
        let counted = if load.direction == Direction::Down { &arrived } else { load.at_server };
        let measured = interrupt.sleep(warm_up).and_then(|()| measure(counted));
        let broken = threads.iter().filter(|thread| thread.is_finished()).count();
        is_over.store(true, Ordering::Relaxed);
        for socket in &sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        if broken > 0 {
            return Err(format!("{broken} of {} streams broke off", load.streams));
        }
        measured
    })
}

/// Sessions one after the other on `clients` threads: connect, an octet there and back, close. Calls
/// `measure` with the count of those that ended well.
pub(crate) fn sessions<T>(
    target: Target,
    clients: usize,
    warm_up: Duration,
    interrupt: &Interrupt,
    measure: impl FnOnce(&AtomicU64) -> Result<T, String>,
) -> Result<T, String> {
    let (is_over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let run = || -> io::Result<()> {
        while !is_over.load(Ordering::Relaxed) {
            let mut socket = &target.open(&[ECHO], None)?;
            exchange(&mut socket)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(run)).collect();
        let measured = interrupt.sleep(warm_up).and_then(|()| measure(&done));
        is_over.store(true, Ordering::Relaxed);
        let ends = threads.into_iter().map(|thread| thread.join());
        let failed: Vec<_> = ends.filter_map(|end| end.ok().and_then(Result::err)).collect();
        match failed.first() {
            Some(error) => Err(format!("{} of {clients} clients failed: {error}", failed.len())),
            None => measured,
        }
    })
}

/// Round trips of an octet for that long, in nanoseconds, in ascending order.
pub(crate) fn ping_pong(target: Target, time: Duration) -> Result<Vec<u64>, String> {
    let explain = |error: io::Error| format!("ping-pong: {error}");
    let mut socket = &target.open(&[ECHO], None).map_err(explain)?;
    let mut trips = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        exchange(&mut socket).map_err(explain)?;
        trips.push(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    // The first ones meet cold caches, and an MPTCP connection that is not established in full.
    trips.drain(..trips.len() / 10);
    trips.sort_unstable();
    Ok(trips)
}

/// Trips before those that count: they meet cold caches, and an MPTCP connection whose second subflow is
/// only being made.
const FIRST_TRIPS: usize = 200;

/// Round trips of an octet, one in every `every` of the time, in nanoseconds and in ascending order. Where one
/// takes longer than that, those that would have begun meanwhile and ended with it are added: what holds up
/// many is not seen once.
pub(crate) fn probe(target: Target, time: Duration, every: Duration) -> Result<Vec<u64>, String> {
    let explain = |error: io::Error| format!("probe: {error}");
    let mut socket = &target.open(&[ECHO], None).map_err(explain)?;
    for _ in 0..FIRST_TRIPS {
        exchange(&mut socket).map_err(explain)?;
    }
    let mut trips = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        exchange(&mut socket).map_err(explain)?;
        let trip = sent.elapsed();
        trips.extend(with_those_it_held_up(trip, every));
        std::thread::sleep(every.saturating_sub(trip));
    }
    trips.sort_unstable();
    Ok(trips)
}

/// A trip, and what is left of it for each that would have begun while it went on.
fn with_those_it_held_up(trip: Duration, every: Duration) -> impl Iterator<Item = u64> {
    let next = move |trip: &Duration| trip.checked_sub(every).filter(|left| !left.is_zero());
    let trips = core::iter::successors(Some(trip), next);
    trips.map(|trip| u64::try_from(trip.as_nanos()).unwrap_or(u64::MAX))
}

/// Round trips of an octet after so long a silence each.
pub(crate) fn after_silence(
    target: Target,
    trips: usize,
    silence: Duration,
    interrupt: &Interrupt,
) -> Result<Vec<u64>, String> {
    let explain = |error: io::Error| format!("after silence: {error}");
    let mut socket = &target.open(&[ECHO], None).map_err(explain)?;
    for _ in 0..FIRST_TRIPS {
        exchange(&mut socket).map_err(explain)?;
    }
    let trip = |_| {
        interrupt.sleep(silence)?;
        let sent = Instant::now();
        exchange(&mut socket).map_err(explain)?;
        Ok(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX))
    };
    let mut trips = (0..trips).map(trip).collect::<Result<Vec<_>, String>>()?;
    trips.sort_unstable();
    Ok(trips)
}

fn exchange(socket: &mut &Socket) -> io::Result<()> {
    let mut octet = [0x33];
    socket.write_all(&octet)?;
    octet = [0];
    socket.read_exact(&mut octet)?;
    if octet == [0x33] { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Sends `octets` and returns as many as came back, read late and through a small window: the relay has to
/// hold what cannot go on. The end is not sent before: some relays take the end of one direction for that of
/// both.
pub(crate) fn echo(target: Target, octets: &[u8]) -> Result<Vec<u8>, String> {
    let explain = |error: io::Error| format!("echo: {error}");
    let socket = target.open(&[ECHO], Some(16 << 10)).map_err(explain)?;
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| (&socket).write_all(octets));
        std::thread::sleep(Duration::from_millis(100));
        let mut back = vec![0; octets.len()];
        let read = (&socket).read_exact(&mut back);
        let sent = sent.join().map_err(|_| "a thread panicked".to_owned())?;
        sent.and(read).map_err(explain)?;
        socket.shutdown(Shutdown::Write).map_err(explain)?;
        match (&socket).read(&mut [0]) {
            Ok(1) => Err("echo: more came back than was sent".to_owned()),
            _ => Ok(back),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_trip_stands_for_all_that_it_held_up() {
        let trips = |us| {
            let (trip, every) = (Duration::from_micros(us), Duration::from_micros(500));
            with_those_it_held_up(trip, every).collect::<Vec<_>>()
        };
        assert_eq!(trips(80), [80_000]);
        assert_eq!(trips(500), [500_000]);
        assert_eq!(trips(1_700), [1_700_000, 1_200_000, 700_000, 200_000]);
    }
}
