//! The run-to-completion loop of one shard: ports, L2 and the worker, on one thread.
//!
//! Invariant: a turn reads the clock once and is bounded by bursts and budgets; a port that is slow
//! holds up its own packets, one that does not send loses them, and neither costs the others time.

use crate::clock::Clock;
use crate::config::IdleMode;
use crate::counters::{DropReason, ShardCounters};
use crate::idle::{Idle, MAX_SLEEP, Rest};
use crate::l2::{L2, L2Io, NeighbourNews};
use crate::nic::{Nic, Pushed};
use core::sync::atomic::{AtomicBool, Ordering};
use mptcp_core::buf::{PacketBuf, PortId, TxQueue};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::time::{Duration, Instant};
use mptcp_core::util::bucket::TokenBucket;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

mod crossing;

pub use crossing::{Crossing, Exchange};

/// Timers run per turn.
const TIMER_BUDGET: usize = 256;
/// Packets of the worker per turn.
const TURN_PACKETS: usize = 256;
/// A port that has frames but sends none for this long gets no more consideration.
const STALL: Duration = Duration::from_millis(20);
/// Attempts to send what is left when the loop ends; after one that sends nothing it sleeps.
const LAST_FLUSHES: usize = 64;
/// What a turn that finds nothing takes at most. One that takes longer was interrupted: the rest of it was
/// somebody's work.
const EMPTY_TURN: Duration = Duration::from_micros(2);
/// Stalls are logged this often at most: a link may flap.
const LOGS_PER_S: u32 = 1;
/// News from one shard to another that may wait.
const MAX_NEWS: usize = 256;

/// One shard's way of telling the others about neighbours.
#[derive(Debug)]
pub struct News {
    to: Vec<SyncSender<NeighbourNews>>,
    from: Receiver<NeighbourNews>,
}

impl News {
    /// One for each of `shards` shards that share ports.
    #[must_use]
    pub fn network(shards: usize) -> Vec<Self> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| sync_channel(MAX_NEWS)).unzip();
        let others = |own: usize| {
            senders.iter().enumerate().filter(move |(i, _)| *i != own).map(|(_, to)| to.clone())
        };
        let ends = receivers.into_iter().enumerate();
        ends.map(|(own, from)| Self { to: others(own).collect(), from }).collect()
    }
}

/// Whether a port sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    Sending,
    /// Nothing was taken since then.
    Stuck(Instant),
    /// Stuck for longer than [`STALL`]: frames are dropped until one is taken.
    Stalled,
}

/// What a turn did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// There was, or still is, something to do.
    Busy,
    /// There was nothing to do.
    Idle,
    /// The worker is finished.
    Stop,
}

/// Where the time of a turn went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spent {
    Busy,
    Polling,
    Asleep,
}

/// A shard's loop over `N`.
pub struct ShardLoop<B, N> {
    l2: L2<B>,
    nic: N,
    flows: Vec<Flow>,
    logs: TokenBucket,
    counters: Arc<ShardCounters>,
    news: Option<News>,
    crossing: Option<Crossing<B>>,
    idle: Idle,
    frames: Vec<B>,
    packets: Vec<B>,
}

impl<B: PacketBuf, N: Nic<B>> ShardLoop<B, N> {
    /// Puts L2 on top of ports. Sends nothing yet.
    pub fn new(l2: L2<B>, nic: N, counters: Arc<ShardCounters>) -> Self {
        let flows = vec![Flow::Sending; usize::from(nic.ports())];
        Self {
            l2,
            nic,
            flows,
            logs: TokenBucket::new(LOGS_PER_S),
            counters,
            news: None,
            crossing: None,
            idle: Idle::new(IdleMode::default()),
            frames: Vec::new(),
            packets: Vec::new(),
        }
    }

    /// Exchanges news about neighbours with other shards.
    #[must_use]
    pub fn with_news(mut self, news: News) -> Self {
        if !news.to.is_empty() {
            self.l2.share_news();
            self.news = Some(news);
        }
        self
    }

    /// Hands packets over to other shards, and takes theirs.
    #[must_use]
    pub fn with_crossing(mut self, crossing: Crossing<B>) -> Self {
        self.crossing = Some(crossing);
        self
    }

    /// What it does when there is nothing to do.
    #[must_use]
    pub fn with_idle(mut self, mode: IdleMode) -> Self {
        self.idle = Idle::new(mode);
        self
    }

    /// Turns until `stop` is set or the worker stops, then sends what is left. Beside other shards it goes
    /// on until the workers of all have stopped: what arrives here may be for one that still serves.
    pub fn run(&mut self, clock: Clock, worker: &mut impl Worker<B>, stop: &AtomicBool) {
        if let Some(crossing) = &mut self.crossing {
            crossing.begin();
        }
        let mut last = Spent::Asleep;
        let mut begun = clock.now();
        while !stop.load(Ordering::Relaxed) {
            let now = clock.now();
            self.count_time(last, now.since(begun));
            begun = now;
            last = match self.turn(now, worker) {
                Turn::Busy => {
                    self.idle.busy();
                    Spent::Busy
                }
                Turn::Stop => break,
                Turn::Idle => {
                    self.counters.idle_turns.add(1);
                    let deadline = self.poll_timeout(worker);
                    let rest = self.idle.rest(now, deadline);
                    self.rest(rest)
                }
            };
        }
        self.finish(clock, worker);
    }

    /// One turn.
    pub fn turn(&mut self, now: Instant, worker: &mut impl Worker<B>) -> Turn {
        self.counters.turns.add(1);
        let received = self.receive(now, worker) + self.take_over(now, worker);
        self.exchange_news(now);
        let (l2, mut io) = self.parts(now);
        l2.handle_timeouts(now, &mut io);
        self.l2.take_reports(&mut self.packets);
        if !self.packets.is_empty() {
            worker.handle_burst(now, &mut self.packets);
        }
        let timers = worker.handle_timeouts(now, TIMER_BUDGET);
        worker.handle_events(now);
        let (output, pushed) = self.transmit(now, worker);
        let sent = self.flush(now);
        if let Some(crossing) = &mut self.crossing {
            crossing.exchange_notes(now, worker);
            crossing.report(&self.counters);
        }
        let stops = worker.poll_control(now) == Control::Stop;
        if stops && self.crossing.as_mut().is_none_or(Crossing::leave) {
            return Turn::Stop;
        }
        // What only waits for a full port or for memory waits just as well asleep.
        let more = timers == Progress::More || (output == Progress::More && pushed > 0);
        if received > 0 || sent > 0 || more { Turn::Busy } else { Turn::Idle }
    }

    /// Lets the worker send; also answers how many packets it did.
    fn transmit(&mut self, now: Instant, worker: &mut impl Worker<B>) -> (Progress, usize) {
        let (l2, io) = self.parts(now);
        let mut outbox = Outbox { l2, io, now, room: TURN_PACKETS };
        let progress = worker.poll_transmit(now, &mut outbox);
        (progress, TURN_PACKETS - outbox.room)
    }

    /// When the shard next has something to do of its own accord.
    fn poll_timeout(&self, worker: &impl Worker<B>) -> Option<Instant> {
        // One that has stopped waits for others, and may have been due for long.
        let has_left = self.crossing.as_ref().is_some_and(Crossing::has_left);
        let worker = if has_left { None } else { worker.poll_timeout() };
        [self.l2.poll_timeout(), worker].into_iter().flatten().min()
    }

    fn rest(&self, rest: Rest) -> Spent {
        match rest {
            Rest::Spin => {}
            Rest::Pause => core::hint::spin_loop(),
            Rest::Sleep(sleep) => {
                self.counters.sleeps.add(1);
                // Another shard that has something for this one ends it.
                std::thread::park_timeout(sleep);
                return Spent::Asleep;
            }
        }
        Spent::Polling
    }

    /// Counts the time from a turn's reading of the clock to the next one's.
    fn count_time(&self, spent: Spent, time: Duration) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match spent {
            Spent::Busy => self.counters.busy_ns.add(nanos(time)),
            Spent::Polling => self.counters.polling_ns.add(nanos(time.min(EMPTY_TURN))),
            Spent::Asleep => {}
        }
    }

    fn ports(&self) -> impl Iterator<Item = PortId> + use<B, N> {
        (0..self.nic.ports()).map(PortId)
    }

    fn parts(&mut self, now: Instant) -> (&mut L2<B>, PortIo<'_, N>) {
        let io = PortIo {
            nic: &mut self.nic,
            flows: &mut self.flows,
            logs: &mut self.logs,
            counters: &self.counters,
            now,
        };
        (&mut self.l2, io)
    }

    fn receive(&mut self, now: Instant, worker: &mut impl Worker<B>) -> usize {
        let mut total = 0;
        for port in self.ports() {
            let received = self.nic.receive(port, &mut self.frames);
            total += received.frames;
            self.counters.dropped_on(port, DropReason::RxNoBuffer, received.no_buffer);
            if let Some(counters) = self.counters.ports().get(usize::from(port.0)) {
                counters.rx_pieces.add(received.pieces as u64);
                counters.rx_parts.add(received.parts as u64);
                let bytes: usize = self.frames.iter().map(|frame| frame.data().len()).sum();
                counters.rx_packets.add(received.frames as u64);
                counters.rx_bytes.add(bytes as u64);
            }
            let mut frames = core::mem::take(&mut self.frames);
            for frame in frames.drain(..) {
                let (l2, mut io) = self.parts(now);
                let Some(packet) = l2.ingress(now, port, frame, &mut io) else { continue };
                match &mut self.crossing {
                    None => self.packets.push(packet),
                    Some(crossing) => {
                        let (packets, counters) = (&mut self.packets, &self.counters);
                        crossing.arrived(now, packet, worker, packets, counters);
                    }
                }
            }
            self.frames = frames;
        }
        while let Some(fragment) = self.l2.poll_fragment() {
            let own = match &mut self.crossing {
                None => Some(fragment),
                Some(crossing) => crossing.fragment(now, fragment, &self.counters),
            };
            if let Some(fragment) = own {
                self.put_together(now, fragment, worker);
            }
        }
        total
    }

    /// Takes a fragment that is to meet the others here. The whole goes its way like a packet that has just come in.
    fn put_together(&mut self, now: Instant, fragment: B, worker: &mut impl Worker<B>) {
        let Some(whole) = worker.reassemble(now, fragment) else { return };
        let (l2, mut io) = self.parts(now);
        let Some(whole) = l2.reassembled(now, whole, &mut io) else { return };
        match &mut self.crossing {
            None => self.packets.push(whole),
            Some(crossing) => {
                crossing.arrived(now, whole, worker, &mut self.packets, &self.counters);
            }
        }
    }

    /// Takes what other shards have handed over, and hands over what is theirs.
    fn take_over(&mut self, now: Instant, worker: &mut impl Worker<B>) -> usize {
        let Some(crossing) = &mut self.crossing else { return 0 };
        let taken = crossing.take_over(now, worker, &mut self.packets, &self.counters);
        while let Some(fragment) = self.crossing.as_mut().and_then(Crossing::poll_fragment) {
            self.put_together(now, fragment, worker);
        }
        if let Some(crossing) = &mut self.crossing {
            crossing.flush(&self.counters);
        }
        taken
    }

    fn exchange_news(&mut self, now: Instant) {
        let Some(news) = self.news.take() else { return };
        while let Some(item) = self.l2.poll_news() {
            for to in &news.to {
                // Full or gone: the other shard asks for itself.
                let _ = to.try_send(item);
            }
        }
        for item in news.from.try_iter().take(MAX_NEWS) {
            let (l2, mut io) = self.parts(now);
            l2.apply(now, item, &mut io);
        }
        self.news = Some(news);
    }

    fn flush(&mut self, now: Instant) -> usize {
        let ports = self.ports();
        let (_, mut io) = self.parts(now);
        ports.map(|port| if io.nic.backlog(port) > 0 { io.flush(port) } else { 0 }).sum()
    }

    /// Sends what the worker and the queues have left, or drops it when the ports do not take it.
    fn finish(&mut self, clock: Clock, worker: &mut impl Worker<B>) {
        for _ in 0..LAST_FLUSHES {
            let now = clock.now();
            let (progress, _) = self.transmit(now, worker);
            let sent = self.flush(now);
            let empty = self.ports().all(|port| self.nic.backlog(port) == 0);
            if empty && progress == Progress::Done {
                return;
            }
            if sent == 0 {
                std::thread::sleep(MAX_SLEEP);
            }
        }
        for port in self.ports() {
            let dropped = self.nic.clear(port);
            self.counters.dropped_on(port, DropReason::TxQueueFull, dropped);
        }
    }
}

/// Ports as L2 sees them.
struct PortIo<'a, N> {
    nic: &'a mut N,
    flows: &'a mut [Flow],
    logs: &'a mut TokenBucket,
    counters: &'a ShardCounters,
    now: Instant,
}

impl<N> PortIo<'_, N> {
    /// What `port` takes; a stalled port takes anything, and loses it.
    fn room<B: PacketBuf>(&self, port: PortId) -> usize
    where
        N: Nic<B>,
    {
        match self.flows.get(usize::from(port.0)) {
            Some(Flow::Sending | Flow::Stuck(_)) => self.nic.room(port),
            Some(Flow::Stalled) | None => usize::MAX,
        }
    }

    /// Flushes one port, watches whether it sends, and returns how many frames it took.
    fn flush<B: PacketBuf>(&mut self, port: PortId) -> usize
    where
        N: Nic<B>,
    {
        let flushed = self.nic.flush(port);
        self.counters.dropped_on(port, DropReason::TxRefused, flushed.refused);
        if let Some(counters) = self.counters.ports().get(usize::from(port.0)) {
            counters.tx_packets.add(flushed.sent as u64);
            counters.tx_bytes.add(flushed.bytes);
            counters.tx_pieces.add(flushed.pieces as u64);
            counters.tx_joined.add(flushed.joined as u64);
        }
        let Some(flow) = self.flows.get_mut(usize::from(port.0)) else { return flushed.sent };
        let stuck = flushed.sent == 0 && self.nic.backlog(port) > 0;
        *flow = match (stuck, *flow) {
            (false, _) => Flow::Sending,
            (true, Flow::Sending) => Flow::Stuck(self.now),
            (true, Flow::Stuck(since)) if self.now.since(since) >= STALL => {
                if self.logs.take(self.now) {
                    log::warn!("{port:?} has sent nothing for {STALL:?}: dropping what is for it");
                }
                Flow::Stalled
            }
            (true, flow) => flow,
        };
        if *flow == Flow::Stalled {
            let dropped = self.nic.clear(port);
            self.counters.dropped_on(port, DropReason::TxStalled, dropped);
        }
        flushed.sent
    }
}

impl<B: PacketBuf, N: Nic<B>> L2Io<B> for PortIo<'_, N> {
    fn alloc(&mut self) -> Option<B> {
        self.nic.alloc()
    }

    fn send(&mut self, port: PortId, frame: B) {
        if self.nic.room(port) == 0 {
            self.flush(port);
        }
        let reason = match self.nic.push(port, frame) {
            Pushed::Queued => return,
            Pushed::Full => DropReason::TxQueueFull,
            Pushed::NoMemory => DropReason::NoBuffer,
            Pushed::TooLong => DropReason::TxTooLong,
        };
        self.counters.dropped_on(port, reason, 1);
    }
}

/// Where the worker's packets go.
struct Outbox<'a, B, N> {
    l2: &'a mut L2<B>,
    io: PortIo<'a, N>,
    now: Instant,
    /// Packets the worker may still send in this turn.
    room: usize,
}

impl<B: PacketBuf, N: Nic<B>> TxQueue<B> for Outbox<'_, B, N> {
    fn room(&self) -> usize {
        self.room
    }

    /// Where the routes decide, the fullest port that one of them names.
    fn room_on(&self, port: PortId) -> usize {
        let room = match port {
            PortId::ROUTED => self.l2.exits().iter().map(|&port| self.io.room(port)).min(),
            port => Some(self.io.room(port)),
        };
        room.map_or(self.room, |room| room.min(self.room))
    }

    fn alloc(&mut self) -> Option<B> {
        self.io.nic.alloc()
    }

    fn alloc_copy(&mut self) -> Option<B> {
        self.io.nic.alloc_copy()
    }

    fn push(&mut self, packet: B) {
        self.room = self.room.saturating_sub(1);
        self.l2.egress(self.now, packet, &mut self.io);
    }

    fn checksum_offload(&self) -> bool {
        self.io.nic.checksum_offload()
    }

    fn segmentation_offload(&self, port: PortId) -> bool {
        self.io.nic.segmentation_offload(port)
    }
}

#[cfg(test)]
mod tests;
