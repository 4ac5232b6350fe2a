//! How much payload a segment takes beside its options.

use crate::buf::PacketBuf;
use crate::mptcp::{DssFormat, INFINITE_LEN, Subflow};
use crate::tcp::send_queue::TxMapping;
use crate::tcp::{State, Tcb, TcbFlags};

/// Nobody is asked for smaller segments than IPv4's default (RFC 9293 §3.7.1).
const MSS_ASKED_MIN: u16 = 536;

impl<B: PacketBuf> Tcb<B> {
    /// Payload octets of a full segment of new data, the options it always carries taken off.
    pub(crate) fn payload_mss(&self) -> u32 {
        payload_of(self.mss, self.flags, self.subflow.as_deref())
    }

    /// Cuts what goes again, at `idx` in the queue, and so what is behind it, to what a segment takes now. Answers
    /// where it is then. While the size is in doubt the others are left alone: it may be taken back.
    pub(super) fn fit(&mut self, idx: usize) -> usize {
        let doubt = self.doubts_segment_size();
        let Self { queue, subflow, mss, flags, .. } = self;
        let room = |mapping| payload_again(*mss, *flags, subflow.as_deref(), mapping);
        if doubt {
            let mapping = queue.get(idx).and_then(|segment| segment.mapping);
            queue.split(idx, room(mapping));
            return idx;
        }
        queue.split_all(idx, |segment| room(segment.mapping))
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
    /// the SYN offers. Ours may be longer: what is passed on has the length it came with.
    pub(crate) fn ask_for_segments(&mut self, payload: u32) {
        let timestamps = if self.flags.contains(TcbFlags::TIMESTAMPS) { 12 } else { 0 };
        let wanted = u16::try_from(payload + timestamps).unwrap_or(u16::MAX);
        if self.state != State::SynSent || wanted < MSS_ASKED_MIN {
            return;
        }
        let least = self.local_mss.saturating_sub(4 * u16::from(u8::MAX - self.asked_less));
        if wanted < least {
            // Too much to remember: ours will not be much longer either.
            self.local_mss = wanted;
            self.asked_less = u8::MAX;
            return;
        }
        let less = self.local_mss.saturating_sub(wanted).div_ceil(4);
        self.local_mss -= 4 * less;
        self.asked_less += less as u8;
    }
}

/// See [`Tcb::payload_mss`].
pub(in crate::tcp) fn payload_of(mss: u16, flags: TcbFlags, subflow: Option<&Subflow>) -> u32 {
    payload_beside(mss, flags, subflow.map_or(0, Subflow::dss_len))
}

/// The same of a segment that carries `mapping` again: its sequence number keeps its width, and only those with an
/// infinite mapping need the room for it.
fn payload_again(
    mss: u16,
    flags: TcbFlags,
    subflow: Option<&Subflow>,
    mapping: Option<TxMapping>,
) -> u32 {
    let len = match (subflow, mapping) {
        (Some(subflow), Some(mapping)) => subflow.dss_len_again(&mapping),
        (Some(subflow), None) => subflow.dss_len(),
        (None, _) => 0,
    };
    let whole = payload_beside(mss, flags, len);
    let infinite = mapping.is_some_and(|mapping| mapping.len == 0);
    if infinite { whole.saturating_sub(INFINITE_LEN).max(1) } else { whole }
}

/// Room beside so many octets of the data level's option.
fn payload_beside(mss: u16, flags: TcbFlags, dss: u32) -> u32 {
    let timestamps = if flags.contains(TcbFlags::TIMESTAMPS) { 12 } else { 0 };
    u32::from(mss).saturating_sub(timestamps + dss).max(1)
}

#[cfg(test)]
mod tests {
    use crate::buf::{HeapBuf, PortId};
    use crate::config::TcpConfig;
    use crate::seq::SeqNum;
    use crate::stats::Counters;
    use crate::tcp::{Env, Tcb, Tuple};
    use crate::time::Instant;

    /// A relay whose exit sent no longer segments than it asks for would cut, and so copy, all that its
    /// inner leg receives with options of another length.
    #[test]
    fn what_is_asked_for_bounds_the_peer_alone() {
        let (config, mut stats) = (TcpConfig::default(), Counters::default());
        let env = Env { now: Instant::from_millis(1), config: &config, stats: &mut stats };
        let [local_addr, remote_addr] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(Into::into);
        let tuple = Tuple { local_addr, remote_addr, local_port: 1, remote_port: 2 };
        let mut tcb = Tcb::<HeapBuf>::connect(&env, tuple, PortId(0), SeqNum(7), 0, 1460);
        tcb.ask_for_segments(1424);
        tcb.set_peer_mss(&env, Some(1460));
        assert_eq!((tcb.local_mss, tcb.mss, tcb.payload_mss()), (1436, 1460, 1448));
        let mut long = Tcb::<HeapBuf>::connect(&env, tuple, PortId(0), SeqNum(7), 0, 8960);
        long.ask_for_segments(1424);
        long.set_peer_mss(&env, Some(8960));
        assert_eq!((long.local_mss, long.mss), (1436, 1436 + 1020));
    }
}
