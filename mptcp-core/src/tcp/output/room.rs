//! How much payload a segment takes beside its options.

use crate::buf::PacketBuf;
use crate::mptcp::DssFormat;
use crate::tcp::send_queue::TxMapping;
use crate::tcp::{State, Tcb, TcbFlags};

/// Nobody is asked for smaller segments than IPv4's default (RFC 9293 §3.7.1).
const MSS_ASKED_MIN: u16 = 536;

impl<B: PacketBuf> Tcb<B> {
    /// Payload octets of a full segment of new data, the options it always carries taken off.
    pub(crate) fn payload_mss(&self) -> u32 {
        self.payload_beside(self.subflow.as_ref().map_or(0, |subflow| subflow.dss_len()))
    }

    /// The same of one that carries `mapping` again: its sequence number keeps its width.
    pub(super) fn payload_mss_with(&self, mapping: Option<TxMapping>) -> u32 {
        let len = match (&self.subflow, mapping) {
            (Some(subflow), Some(mapping)) => subflow.dss_len_of(mapping.wide),
            (Some(subflow), None) => subflow.dss_len(),
            (None, _) => 0,
        };
        self.payload_beside(len)
    }

    /// Room beside so many octets of the data level's option.
    fn payload_beside(&self, dss: u32) -> u32 {
        let timestamps = if self.flags.contains(TcbFlags::TIMESTAMPS) { 12 } else { 0 };
        u32::from(self.mss).saturating_sub(timestamps + dss).max(1)
    }

    /// What the DSS of this subflow's segments looks like from now on.
    pub(crate) fn set_dss_format(&mut self, format: DssFormat) {
        if let Some(subflow) = &mut self.subflow
            && subflow.set_format(format)
        {
            self.refresh_mss();
        }
    }

    /// Before the SYN: asks the peer for segments with `payload` octets at most, if it uses the options that
    /// the SYN offers.
    pub(crate) fn ask_for_segments(&mut self, payload: u32) {
        let timestamps = if self.flags.contains(TcbFlags::TIMESTAMPS) { 12 } else { 0 };
        let wanted = u16::try_from(payload + timestamps).unwrap_or(u16::MAX);
        if self.state == State::SynSent && wanted >= MSS_ASKED_MIN {
            self.local_mss = self.local_mss.min(wanted);
            self.mss = self.mss.min(wanted);
            self.refresh_mss();
        }
    }

    /// The options of every segment changed: what a full segment carries did too.
    pub(crate) fn refresh_mss(&mut self) {
        let payload = self.payload_mss();
        self.congestion.set_mss(payload);
    }
}
