//! The client: a kernel socket that downloads and notes when what arrived.

use crate::bed::{Bed, CLIENT};
use crate::scenario::Load;
use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use plait_bench::interrupt::Interrupt;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::time::Instant;

/// Port of both senders.
pub(crate) const PORT: u16 = 20_090;

/// Nothing at all for so long ends a run with an error.
const STALLED: Duration = Duration::from_secs(20);
/// Where nothing comes, whether the user wants the end is looked at so often.
const LOOK: Duration = Duration::from_millis(100);

/// How the client connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Via {
    /// MPTCP over both links, the first subflow over link a.
    Both,
    /// TCP over link a or b alone.
    TcpA,
    TcpB,
}

/// What arrived when, from the start of the handshake on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    /// Time of each read and octets so far.
    reads: Vec<(Duration, u64)>,
    /// When link a was cut.
    pub(crate) cut: Option<Duration>,
}

impl Arrivals {
    /// Octets that had arrived by `at`.
    pub(crate) fn by(&self, at: Duration) -> u64 {
        let count = self.reads.partition_point(|(time, _)| *time <= at);
        count.checked_sub(1).map_or(0, |last| self.reads[last].1)
    }

    /// When the last octet arrived.
    pub(crate) fn end(&self) -> Duration {
        self.reads.last().map_or(Duration::ZERO, |(time, _)| *time)
    }

    /// Megabits per second between two times.
    pub(crate) fn rate(&self, from: Duration, to: Duration) -> f64 {
        (self.by(to) - self.by(from)) as f64 * 8.0 / (to - from).as_secs_f64() / 1e6
    }

    /// The longest time without an arrival that begins in `from..to`, whatever ends it.
    pub(crate) fn longest_gap(&self, from: Duration, to: Duration) -> Duration {
        let mut before = from;
        let mut longest = Duration::ZERO;
        for (time, _) in self.reads.iter().filter(|(time, _)| *time > from) {
            longest = longest.max(time.saturating_sub(before));
            before = *time;
            if before >= to {
                return longest;
            }
        }
        longest.max(to.saturating_sub(before))
    }
}

/// Downloads from `server`.
pub(crate) fn download(
    bed: &Bed,
    server: Ipv4Addr,
    via: Via,
    load: Load,
    interrupt: &Interrupt,
) -> Result<Arrivals, String> {
    let explain = |error: io::Error| format!("downloading from {server}: {error}");
    let protocol = if via == Via::Both { Protocol::MPTCP } else { Protocol::TCP };
    let socket = bed
        .client
        .enter(move || Socket::new(Domain::IPV4, Type::STREAM, Some(protocol)))?
        .map_err(explain)?;
    let local = CLIENT[usize::from(via == Via::TcpB)];
    socket.bind(&SocketAddr::from((local, 0)).into()).map_err(explain)?;
    let (limit, length) = match load {
        Load::Stream(duration) => (Some(duration), u64::MAX),
        Load::Transfer(length) => (None, length),
        Load::Cut { watched, .. } => (Some(watched), u64::MAX),
    };
    let start = Instant::now();
    socket
        .connect_timeout(&SocketAddr::from((server, PORT)).into(), STALLED)
        .and_then(|()| (&socket).write_all(&length.to_be_bytes()))
        .map_err(explain)?;
    let cut = match load {
        Load::Cut { before, .. } => Some(before),
        Load::Stream(_) | Load::Transfer(_) => None,
    };
    let mut arrivals = std::thread::scope(|scope| {
        let cutting = scope.spawn(move || {
            let Some(before) = cut else { return Ok(None) };
            interrupt.sleep(before.saturating_sub(start.elapsed()))?;
            bed.cut_link_a().map(|()| Some(start.elapsed()))
        });
        let arrivals = read(&socket, start, limit, length, interrupt).map_err(explain);
        let cut = cutting.join().map_err(|_| "a thread panicked".to_owned())??;
        Ok::<_, String>(Arrivals { cut, ..arrivals? })
    })?;
    interrupt.check()?;
    if limit.is_none() && arrivals.by(Duration::MAX) != length {
        return Err(format!("{server} sent {} of {length} octets", arrivals.by(Duration::MAX)));
    }
    arrivals.reads.shrink_to_fit();
    Ok(arrivals)
}

fn read(
    mut socket: &Socket,
    start: Instant,
    limit: Option<Duration>,
    length: u64,
    interrupt: &Interrupt,
) -> io::Result<Arrivals> {
    let mut octets = vec![0; 256 << 10];
    let mut arrivals = Arrivals::default();
    let (mut total, mut last) = (0, start);
    while total < length && interrupt.check().is_ok() {
        let left = limit.map_or(LOOK, |limit| limit.saturating_sub(start.elapsed()));
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left.min(LOOK)))?;
        match socket.read(&mut octets) {
            Ok(0) => break,
            Ok(len) => {
                total += len as u64;
                last = Instant::now();
                arrivals.reads.push((start.elapsed(), total));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if limit.is_none() && last.elapsed() > STALLED {
                    return Err(error);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(arrivals)
}
