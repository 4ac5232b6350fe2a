//! Which port a connection of ours has: a free one that nobody can foresee and that brings the answers
//! home, or one whose last connection may give way (RFC 6056, RFC 6191).

use super::demux::{Flow, Node};
use super::{Listen, Sock, SocketId, Stack};
use crate::buf::PacketBuf;
use crate::config::EphemeralPorts;
use crate::error::OpenError;
use crate::seq::SeqNum;
use crate::tcp::Tuple;
use crate::time::{Duration, Instant};
use crate::util::wheel::TimerWheel;
use core::net::{IpAddr, SocketAddr};

/// An entry in TIME-WAIT so old gives way to a connection of ours where no other port is left: the clock of its
/// timestamps has ticked by then, even a slow one (RFC 6191).
const TIME_WAIT_USED: Duration = Duration::from_secs(1);
/// Ports looked at near the last one, of those that are this shard's.
const PORT_STEPS: u32 = 32;
/// Ports looked at per connection, of those that are this shard's: with 99 in 100 taken, one of 150 attempts fails.
pub(super) const PORT_TRIES: u32 = 500;

impl<B: PacketBuf> Stack<B> {
    /// An ephemeral port towards `remote`: by random steps, so that none comes again soon (RFC 6056
    /// §3.3.5). Where TIME-WAIT holds most ports of a destination it is found by chance, or not at
    /// all: a look must not cost more the longer it is in vain. Only ports that bring the answers to this
    /// shard are looked at. A port whose last connection to this destination may give way comes second.
    pub(super) fn free_port(
        &mut self,
        now: Instant,
        local: IpAddr,
        remote: SocketAddr,
    ) -> Option<u16> {
        let ports = self.config.ephemeral_ports;
        let mut second = None;
        let shards = self.demux.shards();
        for n in 0..PORT_TRIES * shards {
            let near = n < PORT_STEPS * shards;
            if !near && second.is_some() {
                break;
            }
            let step = if near { 1 + self.rng.below(7) } else { self.rng.below(ports.count()) };
            self.next_port = (self.next_port + step) % ports.count();
            let port = ports.first + self.next_port as u16;
            let tuple = Tuple {
                local_addr: local,
                remote_addr: remote.ip(),
                local_port: port,
                remote_port: remote.port(),
            };
            if !self.demux.is_home(&tuple) {
                continue;
            }
            if self.tuple_free(&tuple) {
                return Some(port);
            }
            if second.is_none() && self.tuple_reusable(now, &tuple) {
                second = Some(port);
            }
        }
        self.stats.ports_exhausted += u64::from(second.is_none());
        second
    }

    /// Listens at `local`, on a port of `ports` that nobody can foresee and where this shard hears whoever comes
    /// ([`crate::steering::Layout::with_listening`]); [`Stack::listening_at`] says which.
    ///
    /// # Errors
    /// [`OpenError::PortsExhausted`] when none was found, otherwise as [`Stack::listen`].
    pub fn listen_at(
        &mut self,
        local: IpAddr,
        ports: EphemeralPorts,
        options: &Listen,
    ) -> Result<SocketId, OpenError> {
        for _ in 0..PORT_TRIES * self.demux.shards() {
            let port = ports.first + self.rng.below(ports.count()) as u16;
            let at = SocketAddr::new(local, port);
            let unspecified = SocketAddr::new(super::unspecified(local), port);
            let taken = [at, unspecified].iter().any(|at| self.listening.contains_key(at));
            if !taken && self.demux.has_listening(port) {
                return self.listen(at, options);
            }
        }
        self.stats.ports_exhausted += 1;
        Err(OpenError::PortsExhausted)
    }

    /// Where a listener listens.
    #[must_use]
    pub fn listening_at(&self, listener: SocketId) -> Option<SocketAddr> {
        let Some(Sock::Listener(idx)) = self.resolve(listener) else { return None };
        self.listeners.get(idx).map(|listener| listener.local)
    }

    /// In TIME-WAIT, long enough for the timestamps of a new connection to be above those of the old one.
    pub(super) fn tuple_reusable(&self, now: Instant, tuple: &Tuple) -> bool {
        let Some(Flow::TimeWait(idx)) = self.find_flow(tuple) else { return false };
        let Some(entry) = self.time_waits.get(idx) else { return false };
        let number = self.numbering.number(Node::TimeWait(idx));
        let since = self.wheel.armed(number).map(|until| until - self.config.tcp.time_wait);
        // The wheel has rounded up.
        let old = since.is_some_and(|since| now.since(since) + TimerWheel::TICK >= TIME_WAIT_USED);
        old && entry.timestamps
            && self.config.tcp.timestamps
            && !entry.mptcp
            && entry.fastclose == 0
    }

    /// Takes the place of a connection in TIME-WAIT; answers what the new one must begin above.
    pub(super) fn displace_time_wait(&mut self, tuple: &Tuple) -> Option<SeqNum> {
        let Some(Flow::TimeWait(idx)) = self.find_flow(tuple) else { return None };
        let snd_nxt = self.time_waits.get(idx)?.snd_nxt;
        self.remove_time_wait(idx);
        self.stats.time_wait_reused += 1;
        Some(snd_nxt)
    }
}
