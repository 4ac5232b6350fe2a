//! What applications are told about one socket when they ask.

use super::{ConnectionInfo, DataLevelInfo, Sock, SocketId, Stack, SubflowInfo};
use crate::buf::PacketBuf;
use crate::error::ConnectionError;
use crate::mptcp::{Connection, Subflow};
use crate::tcp::Tcb;
use core::net::SocketAddr;

impl<B: PacketBuf> Stack<B> {
    /// Attaches a word that comes back in every event, in place of the one of
    /// [`Listen`](super::Listen) or [`Connect`](super::Connect). No effect on listeners.
    pub fn set_user_data(&mut self, id: SocketId, user_data: u64) {
        let Some(sock) = self.resolve(id) else { return };
        if let Sock::Udp(idx) = sock
            && let Some(socket) = self.udp.get_mut(idx)
        {
            socket.user_data = user_data;
        } else if let Sock::Request(idx) = sock {
            self.deferrals.set_user_data(idx, user_data);
        } else if let Some(app) = self.app(sock) {
            app.user_data = user_data;
        }
    }

    /// Why a connection ended, if it ended with an error; `None` also for stale ids.
    #[must_use]
    pub fn error(&self, id: SocketId) -> Option<ConnectionError> {
        match self.resolve(id)? {
            Sock::Plain(idx) => self.tcbs.get(idx)?.app.error,
            Sock::Mptcp(idx) => self.connections.get(idx)?.app.error,
            _ => None,
        }
    }

    /// Our address and the peer's, those of the first subflow; `None` where [`Stack::info`] has none.
    #[must_use]
    pub fn addresses(&self, id: SocketId) -> Option<(SocketAddr, SocketAddr)> {
        let tuple = match self.resolve(id)? {
            Sock::Plain(idx) => self.tcbs.get(idx)?.ends.tuple(),
            Sock::Mptcp(idx) => self.connections.get(idx)?.first(),
            _ => return None,
        };
        Some((tuple.local(), tuple.remote()))
    }

    /// Octets of the stream that were written and received, as [`Stack::info`] has them.
    #[must_use]
    pub fn octets(&self, id: SocketId) -> Option<(u64, u64)> {
        match self.resolve(id)? {
            Sock::Plain(idx) => {
                let tcb = self.tcbs.get(idx)?;
                let counters = &tcb.counters;
                Some((counters.bytes_sent + u64::from(tcb.unsent_len), counters.bytes_received))
            }
            Sock::Mptcp(idx) => {
                let connection = self.connections.get(idx)?;
                let sent = connection.data_end + u64::from(connection.early_sent);
                Some((sent, connection.data_rcv_nxt + u64::from(connection.early_received)))
            }
            _ => None,
        }
    }

    /// A snapshot of a connection; `None` for stale ids, listeners, requests and datagram sockets.
    /// Allocates one list, of at most [`max_subflows`] entries and one for each join in progress, some hundred octets
    /// each, and walks nothing else.
    ///
    /// [`max_subflows`]: crate::config::MptcpConfig::max_subflows
    #[must_use]
    pub fn info(&self, id: SocketId) -> Option<ConnectionInfo> {
        let (local, remote) = self.addresses(id)?;
        let (bytes_sent, bytes_received) = self.octets(id)?;
        match self.resolve(id)? {
            Sock::Plain(idx) => {
                let tcb = self.tcbs.get(idx)?;
                Some(ConnectionInfo {
                    local,
                    remote,
                    mptcp: None,
                    fallback: tcb.fallback,
                    bytes_sent,
                    bytes_acked: tcb.bytes_acked(),
                    bytes_received,
                    subflows: alloc::vec![subflow_info(tcb)],
                    data_level: None,
                    error: tcb.app.error,
                })
            }
            Sock::Mptcp(idx) => {
                let connection = self.connections.get(idx)?;
                let subflows = connection.subflows.iter().filter_map(|&i| self.tcbs.get(i));
                Some(ConnectionInfo {
                    local,
                    remote,
                    mptcp: connection.fallback.is_none().then_some(connection.version as u8),
                    fallback: connection.fallback,
                    bytes_sent,
                    bytes_acked: connection.data_snd_una + u64::from(connection.early_sent),
                    bytes_received,
                    subflows: subflows.map(subflow_info).collect(),
                    data_level: Some(self.data_level_info(connection)),
                    error: connection.app.error,
                })
            }
            _ => None,
        }
    }

    fn data_level_info(&self, connection: &Connection<B>) -> DataLevelInfo {
        let subflows = || connection.subflows.iter().filter_map(|&i| self.tcbs.get(i));
        let times = || subflows().map(Tcb::info);
        DataLevelInfo {
            client: connection.client,
            local_token: connection.local_token,
            remote_token: connection.remote_token,
            remote_key_known: connection.keys.remote != 0,
            checksum: connection.checksum,
            write_seq: connection.local_dsn(connection.data_end),
            snd_una: connection.local_dsn(connection.data_snd_una),
            snd_nxt: connection.local_dsn(connection.data_snd_nxt),
            rcv_nxt: connection.remote_dsn(connection.data_rcv_nxt),
            snd_wnd: connection.snd_edge.saturating_sub(connection.data_snd_una),
            rcv_wnd: connection.promised(),
            retransmits: connection.rtx_shift,
            bytes_retrans: connection.bytes_retrans,
            subflows_max: self.config.mptcp.max_subflows,
            subflows_ended: connection.subflows_ended,
            last_subflow_end: connection.last_end,
            half_open_joins: connection.half_open,
            add_addr_signalled: connection.announced,
            add_addr_accepted: connection.paths.remote_count(),
            add_addr_accepted_max: self.config.mptcp.max_remote_addresses,
            deny_join_initial: connection.paths.deny_initial,
            last_data_sent: times().filter_map(|t| t.last_data_sent).max(),
            last_data_received: times().filter_map(|t| t.last_data_received).max(),
            last_ack_received: times().filter_map(|t| t.last_ack_received).max(),
        }
    }

    /// Subflows of a connection, as many as [`Stack::info`] lists: 1 for plain TCP, 0 for stale ids.
    #[must_use]
    pub fn subflow_count(&self, id: SocketId) -> u8 {
        match self.resolve(id) {
            Some(Sock::Plain(_)) => 1,
            Some(Sock::Mptcp(idx)) => {
                let count = self.connections.get(idx).map_or(0, |c| c.subflows.len());
                u8::try_from(count).unwrap_or(u8::MAX)
            }
            _ => 0,
        }
    }
}

fn subflow_info<B: PacketBuf>(tcb: &Tcb<B>) -> SubflowInfo {
    let extension = tcb.subflow.as_deref();
    SubflowInfo {
        id: extension.map_or(0, |s| s.id),
        port: tcb.port,
        local: tcb.ends.tuple().local(),
        remote: tcb.ends.tuple().remote(),
        state: tcb.state,
        fully_established: tcb.state.synchronized() && extension.is_none_or(Subflow::is_confirmed),
        backup: extension.is_some_and(Subflow::is_backup),
        stale: extension.is_some_and(|s| s.stale),
        srtt: tcb.rtt.srtt().unwrap_or_default(),
        cwnd: tcb.cwnd(),
        bytes_sent: tcb.counters.bytes_sent,
        bytes_received: tcb.counters.bytes_received,
        retransmitted: u64::from(tcb.retransmitted().0),
        reinjected: extension.map_or(0, |s| s.reinjected),
        local_id: extension.map_or(0, |s| s.local_id),
        remote_id: extension.map_or(0, |s| s.remote_id),
        tcp: tcb.info(),
    }
}
