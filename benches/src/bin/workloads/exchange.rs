//! The gateway between a crowd of phones and their servers, in virtual time. Only the gateway's turns are measured.
//!
//! A tick is 40 µs, and a port has 32 full frames in it at 10 Gbit/s. A turn takes a tick, so what its budgets leave
//! undone is late by one.

use crate::crowd::Crowd;
use crate::meter::Meter;
use crate::packet::{Outbox, Packet};
use crate::world::{self, TICK};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use mptcp_core::driver::{Progress, Worker as _};
use mptcp_core::time::Instant;
use proxy_gw::control::{ShardCounters, ShardHandle};
use proxy_gw::run::ShardWorker;

/// Full frames that a port brings a tick at most, and octets of them.
pub(crate) const FRAMES: usize = 32;
const OCTETS: usize = FRAMES * 1538;
/// Ticks of a second.
pub(crate) const SECOND: u64 = 25_000;

/// See the module.
pub(crate) struct Exchange {
    pub(crate) crowd: Crowd,
    gateway: ShardWorker<Packet>,
    handle: ShardHandle,
    pub(crate) tick: u64,
    pub(crate) meter: Meter,
    /// Turns count: what is prepared before does not.
    pub(crate) measured: bool,
    /// Most that a deadline was passed when its turn came, since this was last set to zero.
    pub(crate) late: Duration,
    inbox: Vec<Packet>,
    outbox: Outbox,
    more: bool,
}

impl Exchange {
    pub(crate) fn new(gateway: ShardWorker<Packet>, handle: ShardHandle, crowd: Crowd) -> Self {
        Self {
            crowd,
            gateway,
            handle,
            tick: 0,
            meter: Meter::default(),
            measured: true,
            late: Duration::ZERO,
            inbox: Vec::new(),
            outbox: Outbox::new(world::TURN_PACKETS),
            more: false,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        world::begin() + TICK * u32::try_from(self.tick).expect("two days of virtual time at most")
    }

    /// One tick, in which the gateway has a turn if there is something to do.
    pub(crate) fn step(&mut self) {
        self.tick += 1;
        let now = self.now();
        self.crowd.advance(self.tick, now.as_millis() as u32);
        self.crowd.arrive(OCTETS, &mut self.inbox);
        let due = self.gateway.poll_timeout().filter(|at| *at <= now);
        if let Some(at) = due {
            self.late = self.late.max(now.since(at));
        }
        if self.inbox.is_empty() && due.is_none() && !self.more {
            return;
        }
        self.turn(now);
    }

    /// A turn of the gateway, measured.
    fn turn(&mut self, now: Instant) {
        let (gateway, inbox, outbox) = (&mut self.gateway, &mut self.inbox, &mut self.outbox);
        let mut output = Progress::Done;
        if self.measured {
            self.meter.measure(|| output = world::turn(gateway, now, inbox, outbox));
        } else {
            output = world::turn(gateway, now, inbox, outbox);
        }
        self.more = output == Progress::More;
        while let Some(packet) = self.outbox.pop() {
            self.crowd.receive(&packet);
        }
        self.crowd.acknowledge();
    }

    /// Ticks until `end`; those in which nothing happens are skipped.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.tick < end {
            if !self.more {
                let due = self.gateway.poll_timeout();
                let ticks = due
                    .map(|at| at.since(world::begin()).as_nanos().div_ceil(TICK.as_nanos()) as u64);
                let next = self.crowd.next_arrival().into_iter().chain(ticks).min();
                self.tick = self.tick.max(next.unwrap_or(u64::MAX).min(end).saturating_sub(1));
            }
            self.step();
        }
    }

    /// Ticks until nothing is under way and nobody has anything to send, `most` of them at most.
    pub(crate) fn run_until_quiet(&mut self, most: u64) {
        let end = self.tick + most;
        while self.tick < end && (self.crowd.next_arrival().is_some() || self.more) {
            self.step();
        }
    }

    /// A turn though nothing is due, in the middle between two deadlines.
    pub(crate) fn idle_turn(&mut self) {
        self.turn(self.now());
    }

    /// What the gateway counted. It answers in a turn.
    pub(crate) fn counters(&mut self) -> ShardCounters {
        let handle = self.handle.clone();
        let mut answer = pin!(handle.counters());
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(counters) = answer.as_mut().poll(&mut context) {
                return *counters.expect("the shard answers");
            }
            self.turn(self.now());
        }
    }

    /// Forgets what was measured.
    pub(crate) fn reset(&mut self) {
        self.meter = Meter::default();
        self.late = Duration::ZERO;
    }
}
