//! Wires: so many packets a tick at most, a fixed delay, and a queue that drops what it cannot hold. Rough ones lose
//! some of what they carry.

use crate::packet::Packet;
use mptcp_core::buf::PortId;
use mptcp_core::rng::Rng;
use std::collections::VecDeque;

/// Ticks under way.
const DELAY: u64 = 2;
/// Packets that wait at most.
const QUEUE: usize = 1024;

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Wire {
    rate: usize,
    delay: u64,
    /// One packet in so many is lost, at random.
    losses: Option<(u32, Rng)>,
    waiting: VecDeque<Packet>,
    flying: VecDeque<(u64, Packet)>,
    lost: u64,
}

impl Wire {
    /// Carries `rate` packets a tick.
    pub(crate) fn new(rate: usize) -> Self {
        let (waiting, flying) = (VecDeque::new(), VecDeque::new());
        Self { rate, delay: DELAY, losses: None, waiting, flying, lost: 0 }
    }

    /// Carries packets for `ticks` more and loses one in `losses`.
    pub(crate) fn roughen(&mut self, ticks: u64, losses: u32) {
        self.delay += ticks;
        self.losses = Some((losses, Rng::from_seed([9; 32])));
    }

    /// Takes a packet at one end.
    pub(crate) fn send(&mut self, packet: Packet) {
        if self.waiting.len() < QUEUE {
            self.waiting.push_back(packet);
        } else {
            self.lost += 1;
        }
    }

    /// Lets what `tick` has room for leave, and hands out what has arrived, at `port`.
    pub(crate) fn step(&mut self, tick: u64, port: PortId, arrived: &mut Vec<Packet>) {
        let leaving = self.rate.min(self.waiting.len());
        let at = tick + self.delay;
        for packet in self.waiting.drain(..leaving) {
            let lost = self.losses.as_mut().is_some_and(|(of, rng)| rng.next_u32() % *of == 0);
            if !lost {
                self.flying.push_back((at, packet));
            }
        }
        while self.flying.front().is_some_and(|(at, _)| *at <= tick) {
            arrived.extend(self.flying.pop_front().map(|(_, packet)| packet.arrived(port)));
        }
    }

    /// Packets there was no room for.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Nothing is on it.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flying.is_empty()
    }
}
