//! Wires: so many packets a tick at most, a fixed delay, and a queue that drops what it cannot hold.

use crate::packet::Packet;
use mptcp_core::buf::PortId;
use std::collections::VecDeque;

/// Ticks under way.
const DELAY: u64 = 2;
/// Packets that wait at most.
const QUEUE: usize = 1024;

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Wire {
    rate: usize,
    waiting: VecDeque<Packet>,
    flying: VecDeque<(u64, Packet)>,
    lost: u64,
}

impl Wire {
    /// Carries `rate` packets a tick.
    pub(crate) fn new(rate: usize) -> Self {
        Self { rate, waiting: VecDeque::new(), flying: VecDeque::new(), lost: 0 }
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
        self.flying.extend(self.waiting.drain(..leaving).map(|packet| (tick + DELAY, packet)));
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
