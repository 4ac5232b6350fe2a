//! Clients that know of no gateway: routers lead their connections here.

use super::{Host, Step, Target};
use core::net::SocketAddr;

/// A handshake without a word: the first step is the last.
pub struct Handshake {
    target: Option<Target>,
}

impl Handshake {
    /// Of a client that connected to `at`.
    #[must_use]
    pub fn new(at: SocketAddr) -> Self {
        let target = Target { host: Host::Address(at.ip()), port: at.port() };
        Self { target: Some(target) }
    }

    /// See [`crate::front_end::Handshake::step`].
    pub fn step(&mut self) -> Step {
        match self.target.take() {
            Some(target) => Step::Connect { target, reserved_set: false },
            None => Step::Wait,
        }
    }

    /// Never asked for.
    pub fn input(&mut self, _wanted: usize) -> &mut [u8] {
        &mut []
    }

    /// Nothing is read.
    pub fn advance(&mut self, _count: usize) {}
}
