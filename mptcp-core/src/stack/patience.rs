//! How long a silent peer is believed in, and what casts doubt on it meanwhile (RFC 9293 §3.8.3,
//! §3.9.1.8).

use super::{SocketId, Stack};
use crate::buf::PacketBuf;
use crate::error::ConnectionError;

impl<B: PacketBuf> Stack<B> {
    /// Gives a connection up after `retries` retransmissions of one segment, or window probes, that
    /// nothing answered: R2 of RFC 9293 §3.8.3, [`crate::config::TcpConfig::retries`] until it is set
    /// here. For an MPTCP connection it counts on every subflow it has. False when the id is stale.
    pub fn set_retry_limit(&mut self, id: SocketId, retries: u8) -> bool {
        let blocks = self.blocks_of(id);
        for &idx in blocks.iter() {
            if let Some(tcb) = self.tcbs.get_mut(idx) {
                tcb.set_retry_limit(retries);
            }
        }
        !blocks.is_empty()
    }

    /// What casts doubt on a connection that still lives: the last ICMP error about something that is
    /// outstanding, or [`ConnectionError::TimedOut`] after three retransmissions in a row. `None`
    /// again once the peer acknowledges something new. Of several subflows the first that has one.
    /// When the connection is given up this is its error.
    #[must_use]
    pub fn soft_error(&self, id: SocketId) -> Option<ConnectionError> {
        let blocks = self.blocks_of(id);
        blocks.into_iter().find_map(|idx| self.tcbs.get(idx)?.soft_error())
    }
}
