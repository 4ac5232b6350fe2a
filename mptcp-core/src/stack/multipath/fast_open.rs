//! MPTCP connections that began with Fast Open (RFC 8684 Appendix B): a server's third ACK, which
//! finds the connection in use already, and a client whose peer may answer before it has heard that.

use super::Effect;
use crate::buf::PacketBuf;
use crate::mptcp::{FallbackReason, Phase};
use crate::stack::handshake::Shown;
use crate::stack::options;
use crate::stack::{Sock, Stack};
use crate::tcp::{Outcome, Segment};
use crate::time::Instant;
use crate::wire::Version;

impl<B: PacketBuf> Stack<B> {
    /// The third ACK of a connection that was given out before. False when the subflow is gone.
    pub(super) fn third_ack_of_fast_open(
        &mut self,
        now: Instant,
        owner: u32,
        idx: u32,
        segment: &Segment,
        outcome: &Outcome,
    ) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        if connection.phase != Phase::Fallback {
            let (version, keys) = (connection.version, connection.keys);
            let checksum = connection.checksum;
            match self.shown_keys(version, [keys.local, keys.remote], checksum, segment) {
                Shown::Keys(agreed) => {
                    let Some(connection) = self.connections.get_mut(owner) else { return false };
                    let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
                    if version == Version::V1 {
                        connection.set_remote_key(agreed.keys.remote);
                    }
                    connection.checksum = agreed.checksum;
                    let window = u64::from(tcb.window_of(segment));
                    connection.snd_edge = connection.snd_edge.max(window);
                    if let Some(subflow) = &mut tcb.subflow {
                        subflow.set_format(connection.dss_format());
                    }
                    tcb.refresh_mss();
                }
                Shown::Nothing | Shown::Wrong => {
                    self.stats.mp_capable_fallback_ack += 1;
                    let tell = options::has_dss(segment.options.as_bytes());
                    self.fall_back(owner, idx, FallbackReason::AckWithoutCapable, tell);
                    self.post_writable(now, Sock::Mptcp(owner));
                }
            }
        }
        let effect = if outcome.acceptable {
            self.read_options(now, owner, idx, segment, outcome)
        } else {
            Effect::None
        };
        self.apply(now, owner, idx, effect)
    }

    /// The server of an early client may send before it has our key, though ours does not: a DSS of its
    /// proves that it has only with a `DATA_ACK`, which nobody can write without.
    pub(super) fn answers_early(&self, owner: u32, idx: u32) -> bool {
        let client = |c: &crate::mptcp::Connection<B>| c.client && c.version == Version::V1;
        self.connections.get(owner).is_some_and(client)
            && self.tcbs.get(idx).is_some_and(|tcb| tcb.syn_data_acked())
    }
}
