//! The loop: one thread that moves packets between devices and one worker, and sleeps when there is
//! nothing to move.
//!
//! Invariant: every step of a turn is bounded ([`BURST`], [`TX_BURST`], [`TIMER_BUDGET`]), so no
//! device, timer or sender keeps the others from their turn; and the loop sleeps only after a turn
//! that left nothing undone.

use crate::clock::Clock;
use crate::counters::LoopCounters;
use crate::device::PacketDevice;
use crate::error::TunError;
use crate::handle::LoopHandle;
use crate::port::{Port, Received, TunPort};
use crate::routes::RouteTable;
use core::net::IpAddr;
use mptcp_core::buf::{BufPool, HeapBuf, HeapPool, PacketBuf, PortId, RxMeta, TxQueue};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::fragments;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::util::bucket::TokenBucket;
use mptcp_core::wire::{icmp, is_fragment};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::sync::Arc;

/// Packets read from one device in one turn, and the most a worker gets at once.
pub const BURST: usize = 64;
/// Packets a worker may send in one turn.
const TX_BURST: usize = 256;
/// Echo requests answered per second.
const ECHO_PER_S: u32 = 1000;
/// Buffers of the loop's pool that a worker on it should keep none of
/// ([`HeapPool::with_reserve`]): what passes through needs them, headers above all.
pub const RESERVE: usize = 4 * BURST;
/// Timers a worker may run in one turn.
const TIMER_BUDGET: usize = 256;
/// The longest sleep: a worker whose mailbox is filled without [`LoopHandle::wake`] looks that often.
const MAX_SLEEP: Duration = Duration::from_millis(100);
/// How long sending pauses when it finds the pool empty.
const NO_BUFFER_SLEEP: Duration = Duration::from_millis(1);
/// The longest packet received although the pool is empty. Acknowledgements with every option are
/// shorter, and they are what frees buffers.
const SMALL_PACKET_LEN: usize = 128;
/// How long a flush waits at a time for a full device.
const FLUSH_SLEEP: Duration = Duration::from_millis(1);
/// Turns of sending after a stop: together with [`TX_BURST`] the most packets a flush sends.
const FLUSH_TURNS: usize = 64;

const PROTOCOL_TCP: u8 = 6;

/// What a turn left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Turn {
    /// There is more to do at once.
    Busy,
    /// Nothing to do until a packet, a wake-up or the worker's `poll_timeout`.
    Idle,
    /// The worker asked to stop.
    Stop,
}

/// Drives one [`Worker`] over its devices. See the crate's documentation for an example.
pub struct TunLoop<D> {
    ports: Vec<Port<D>>,
    /// Addresses of the stack on any port, sorted.
    addresses: Vec<IpAddr>,
    routes: RouteTable,
    pool: HeapPool,
    /// Where the next packet is read to: empty, and never without room for an MTU.
    reading: HeapBuf,
    burst: Vec<HeapBuf>,
    echo: TokenBucket,
    /// The last turn refused the worker a buffer.
    tx_starved: bool,
    counters: Arc<LoopCounters>,
    handle: LoopHandle,
    clock: Clock,
}

impl<D: PacketDevice> TunLoop<D> {
    /// `ports` become `PortId(0)`, `PortId(1)` and so on. `routes` decide for packets whose flow
    /// names no port. `pool` must be made for the largest MTU and bounds the memory of packets. What a stack
    /// keeps its data in should be a pool of its own, or a handle of this one that leaves it [`RESERVE`]
    /// ([`HeapPool::with_reserve`]): else one can starve the other.
    /// `clock` is where `now` comes from: give the same to whatever else talks to the worker.
    ///
    /// # Errors
    /// [`TunError::Config`] when there is no port, there are more than 255, a route names one that
    /// does not exist, or the pool's buffers are too small; [`TunError::Wait`] when the process is
    /// out of descriptors.
    pub fn new(
        ports: Vec<TunPort<D>>,
        routes: RouteTable,
        mut pool: HeapPool,
        clock: Clock,
    ) -> Result<Self, TunError> {
        let port_count = ports.len();
        if port_count == 0 || port_count > usize::from(PortId::ROUTED.0) {
            let reason =
                format!("a loop takes 1 to {} devices, not {port_count}", PortId::ROUTED.0);
            let device = ports.first().map_or_else(String::new, |p| p.device.name().to_owned());
            return Err(TunError::Config { device, reason });
        }
        if let Some(port) = routes.ports().find(|port| usize::from(port.0) >= port_count) {
            let reason = format!("a route names {port:?}, but there are {port_count} ports");
            return Err(TunError::Config { device: String::new(), reason });
        }
        let reading = reading_buffer(&ports, &mut pool)?;
        let mut addresses: Vec<_> = ports.iter().flat_map(|p| p.addresses.clone()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Self {
            ports: ports.into_iter().map(|port| Port::new(port.device)).collect(),
            addresses,
            routes,
            pool,
            reading,
            burst: Vec::with_capacity(BURST),
            echo: TokenBucket::new(ECHO_PER_S),
            tx_starved: false,
            counters: Arc::new(LoopCounters::new(port_count)),
            handle: LoopHandle::new()?,
            clock,
        })
    }

    /// Turns until the worker or a [`LoopHandle`] asks to stop, then sends what the worker still
    /// has to send (bounded) and returns.
    ///
    /// # Errors
    /// [`TunError::Device`] when a device was deleted, [`TunError::Wait`] when waiting fails.
    pub fn run(&mut self, worker: &mut impl Worker<HeapBuf>) -> Result<(), TunError> {
        while !self.handle.is_stopping() {
            match self.turn(self.clock.now(), worker)? {
                Turn::Busy => {}
                Turn::Idle => self.sleep(worker.poll_timeout())?,
                Turn::Stop => break,
            }
        }
        self.flush(worker);
        Ok(())
    }

    /// One round of everything, without sleeping: for callers with a loop of their own.
    ///
    /// The mailbox comes first: it is what a wake-up announced.
    ///
    /// # Errors
    /// [`TunError::Device`] when a device was deleted.
    pub fn turn(
        &mut self,
        now: Instant,
        worker: &mut impl Worker<HeapBuf>,
    ) -> Result<Turn, TunError> {
        self.counters.count_turn();
        if worker.poll_control(now) == Control::Stop {
            return Ok(Turn::Stop);
        }
        let mut busy = self.receive(now, worker)?;
        busy |= worker.handle_timeouts(now, TIMER_BUDGET) == Progress::More;
        worker.handle_events(now);
        busy |= self.transmit(now, worker) == Progress::More;
        Ok(if busy { Turn::Busy } else { Turn::Idle })
    }

    /// Stops and wakes this loop from other threads.
    #[must_use]
    pub fn handle(&self) -> LoopHandle {
        self.handle.clone()
    }

    /// Live counters.
    #[must_use]
    pub fn counters(&self) -> Arc<LoopCounters> {
        Arc::clone(&self.counters)
    }

    /// Hands the worker one burst from each device; true when a device may have more.
    fn receive(
        &mut self,
        now: Instant,
        worker: &mut impl Worker<HeapBuf>,
    ) -> Result<bool, TunError> {
        let mut more = false;
        for port_idx in 0..self.ports.len() {
            more |= self.read_burst(port_idx)?;
            self.put_together(now, worker);
            self.answer_echo_requests(now, port_idx);
            if !self.burst.is_empty() {
                worker.handle_burst(now, &mut self.burst);
                debug_assert!(self.burst.is_empty(), "the worker takes the whole burst");
                self.burst.clear();
            }
        }
        Ok(more)
    }

    /// Fills `burst` from one device; true when it was filled.
    fn read_burst(&mut self, port_idx: usize) -> Result<bool, TunError> {
        let (Some(port), Some(counters), Ok(id)) = (
            self.ports.get_mut(port_idx),
            self.counters.ports().get(port_idx),
            u8::try_from(port_idx),
        ) else {
            return Ok(false);
        };
        let mtu = usize::from(port.device.mtu());
        let mut packets = 0;
        while packets < BURST {
            self.reading.truncate(0);
            let received = match self.reading.append(mtu) {
                Some(room) => port.recv(room, counters)?,
                None => Received::Nothing,
            };
            packets += 1;
            let (len, checksum) = match received {
                Received::Packet(len, checksum) => (len, checksum),
                Received::Unusable => continue,
                Received::Nothing => return Ok(false),
            };
            self.reading.truncate(len);
            let mut packet = match self.pool.alloc() {
                Some(next) => core::mem::replace(&mut self.reading, next),
                None if len <= SMALL_PACKET_LEN => HeapBuf::from_slice(self.reading.data()),
                None => {
                    counters.count_rx_no_buffer();
                    continue;
                }
            };
            packet.set_rx_meta(RxMeta { port: PortId(id), checksum });
            self.burst.push(packet);
        }
        Ok(true)
    }

    /// Takes fragments out of `burst`, and puts there what has become whole.
    fn put_together(&mut self, now: Instant, worker: &mut impl Worker<HeapBuf>) {
        if !self.burst.iter().any(|packet| is_fragment(packet.data())) {
            return;
        }
        let parts = self.burst.extract_if(.., |packet| is_fragment(packet.data()));
        let parts: Vec<_> = parts.collect();
        self.burst.extend(parts.into_iter().filter_map(|part| worker.reassemble(now, part)));
    }

    /// Takes echo requests to our addresses out of `burst` and answers them where they came from.
    fn answer_echo_requests(&mut self, now: Instant, port_idx: usize) {
        let (Some(port), Some(counters)) =
            (self.ports.get_mut(port_idx), self.counters.ports().get(port_idx))
        else {
            return;
        };
        let addresses = &self.addresses;
        for reply in self.burst.extract_if(.., |packet| turn_into_echo_reply(packet, addresses)) {
            if self.echo.take(now) {
                let mtu = usize::from(port.device.mtu());
                if reply.data().len() <= mtu {
                    counters.count_echo_reply();
                    port.send(reply, counters);
                    continue;
                }
                let pool = &mut self.pool;
                let mut parts = Vec::new();
                let keep = |part| parts.push(part);
                if fragments::send_echo_reply(reply.data(), mtu, || pool.alloc(), keep) {
                    counters.count_echo_reply();
                    parts.into_iter().for_each(|part| port.send(part, counters));
                } else {
                    // Half an answer is none.
                    counters.count_rx_no_buffer();
                }
            } else {
                counters.count_echo_limited();
            }
        }
    }

    /// Lets the worker send one burst. `Done` also when a full device or an empty pool holds packets
    /// back: trying again at once would only spin, and the sleep that follows is made for it.
    fn transmit(&mut self, now: Instant, worker: &mut impl Worker<HeapBuf>) -> Progress {
        for (port, counters) in self.ports.iter_mut().zip(self.counters.ports()) {
            port.send_waiting(counters);
        }
        let mut outbox = Outbox {
            ports: &mut self.ports,
            counters: &self.counters,
            routes: &self.routes,
            pool: &mut self.pool,
            room: TX_BURST,
            is_starved: false,
        };
        let progress = worker.poll_transmit(now, &mut outbox);
        self.tx_starved = outbox.is_starved;
        for (port, counters) in self.ports.iter_mut().zip(self.counters.ports()) {
            port.flush(counters);
        }
        if self.tx_starved { Progress::Done } else { progress }
    }

    /// Waits for a packet, room on a full device, a wake-up or `deadline`.
    fn sleep(&self, deadline: Option<Instant>) -> Result<(), TunError> {
        let longest = if self.tx_starved { NO_BUFFER_SLEEP } else { MAX_SLEEP };
        let timeout = deadline.map_or(longest, |at| at.since(self.clock.now()).min(longest));
        let mut fds = Vec::with_capacity(self.ports.len() + 1);
        fds.push(PollFd::new(self.handle.as_fd(), PollFlags::POLLIN));
        for port in &self.ports {
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, port.is_blocked());
            fds.push(PollFd::new(port.device.as_fd(), events));
        }
        match ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(TunError::Wait { source: errno.into() }),
        }
        self.handle.acknowledge();
        Ok(())
    }

    /// Sends what is left, as long as devices take it; gives up on a device that stays full.
    fn flush(&mut self, worker: &mut impl Worker<HeapBuf>) {
        for _ in 0..FLUSH_TURNS {
            let now = self.clock.now();
            let progress = self.transmit(now, worker);
            let is_blocked = self.ports.iter().any(Port::is_blocked);
            if progress == Progress::Done && !is_blocked {
                return;
            }
            if is_blocked && self.sleep(Some(now + FLUSH_SLEEP)).is_err() {
                return;
            }
        }
    }
}

impl<D: PacketDevice> core::fmt::Debug for TunLoop<D> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let names = self.ports.iter().map(|port| port.device.name());
        f.debug_list().entries(names).finish()
    }
}

/// A buffer from `pool` that was seen to hold the longest packet of every port.
fn reading_buffer<D: PacketDevice>(
    ports: &[TunPort<D>],
    pool: &mut HeapPool,
) -> Result<HeapBuf, TunError> {
    let longest = ports.iter().max_by_key(|port| port.device.mtu());
    let (device, mtu) =
        longest.map_or(("", 0), |TunPort { device, .. }| (device.name(), device.mtu()));
    let refuse = |reason| TunError::Config { device: device.to_owned(), reason };
    let mut buf = pool
        .alloc()
        .ok_or_else(|| refuse(format!("the packet pool of {} is used up", pool.limit())))?;
    if buf.append(usize::from(mtu)).is_none() {
        return Err(refuse(format!("the pool's buffers are too small for mtu = {mtu}")));
    }
    Ok(buf)
}

/// What a worker sends into: each packet goes straight to its device.
struct Outbox<'a, D> {
    ports: &'a mut [Port<D>],
    counters: &'a LoopCounters,
    routes: &'a RouteTable,
    pool: &'a mut HeapPool,
    room: usize,
    is_starved: bool,
}

impl<D: PacketDevice> TxQueue<HeapBuf> for Outbox<'_, D> {
    fn room(&self) -> usize {
        self.room
    }

    /// Leaves a burst of buffers for reading: without them no acknowledgement could come in that
    /// frees what the worker has sent.
    fn alloc(&mut self) -> Option<HeapBuf> {
        let reserved = BURST.min(self.pool.limit() / 2);
        let is_available = self.pool.in_use() + reserved < self.pool.limit();
        let buf = if is_available { self.pool.alloc() } else { None };
        self.is_starved |= buf.is_none();
        buf
    }

    /// Leaves what text is refused for the lack of, see [`RESERVE`].
    fn alloc_copy(&mut self) -> Option<HeapBuf> {
        let is_available =
            self.pool.in_use() + RESERVE.min(self.pool.limit() / 2) < self.pool.limit();
        if is_available { self.pool.alloc() } else { None }
    }

    fn push(&mut self, packet: HeapBuf) {
        self.room = self.room.saturating_sub(1);
        let port = match packet.tx_meta().port {
            PortId::ROUTED => destination(packet.data()).and_then(|to| self.routes.lookup(to)),
            port => Some(port),
        };
        let port_idx = port.map(|port| usize::from(port.0));
        let found = port_idx
            .and_then(|idx| Some((self.ports.get_mut(idx)?, self.counters.ports().get(idx)?)));
        match found {
            Some((port, counters)) => port.send(packet, counters),
            None => self.counters.count_no_route(),
        }
    }

    fn checksum_offload(&self) -> bool {
        self.ports.iter().all(Port::has_offloads)
    }

    fn segmentation_offload(&self, port: PortId) -> bool {
        match self.ports.get(usize::from(port.0)) {
            Some(port) => port.has_offloads(),
            None => self.checksum_offload(),
        }
    }
}

/// Turns an echo request to one of `addresses` (sorted) into its reply; false, and no change, for
/// everything else.
fn turn_into_echo_reply(packet: &mut HeapBuf, addresses: &[IpAddr]) -> bool {
    let bytes = packet.data();
    // IPv6 extension headers may stand before ICMPv6, so only what is surely TCP is let pass here.
    let protocol = match bytes.first().map(|byte| byte >> 4) {
        Some(4) => bytes.get(9),
        _ => bytes.get(6),
    };
    if protocol == Some(&PROTOCOL_TCP) {
        return false;
    }
    let is_ours = destination(bytes).is_some_and(|to| addresses.binary_search(&to).is_ok());
    is_ours && packet.data_mut().is_some_and(icmp::echo_reply)
}

/// The destination field of an IPv4 or IPv6 header.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20)?.first_chunk::<4>().map(|to| IpAddr::from(*to)),
        6 => packet.get(24..40)?.first_chunk::<16>().map(|to| IpAddr::from(*to)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
