//! Connections that are opened for somebody else, who decides about the SYN (RFC 8803).

use super::{Sock, SocketId, Stack, env};
use crate::buf::PacketBuf;
use crate::tcp::SynTerms;
use crate::time::Instant;
use alloc::vec::Vec;

/// What answered a SYN.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SynAnswer {
    /// The options of the SYN/ACK as on the wire; none when it had none, or none came.
    pub options: Vec<u8>,
    /// Code field of the last ICMP error about the SYN.
    pub icmp_code: Option<u8>,
}

impl<B: PacketBuf> Stack<B> {
    /// Right after [`Stack::connect`], before the SYN is out: what is special about it. From here on
    /// what answers it is kept for [`Stack::syn_answer`]. False when the id is stale or the SYN is out.
    pub fn set_syn_terms(&mut self, id: SocketId, terms: SynTerms) -> bool {
        let Some(idx) = self.blocks_of(id).first().copied() else { return false };
        let Some(tcb) = self.tcbs.get_mut(idx) else { return false };
        let fresh = tcb.is_syn_due();
        if fresh {
            tcb.open_on(terms);
        }
        fresh
    }

    /// Sends the SYN of a connection again that [`SynTerms::on_demand`] holds back. What asks twice
    /// within half a second asked once. No effect on others.
    pub fn repeat_syn(&mut self, now: Instant, id: SocketId) {
        let Some(idx) = self.blocks_of(id).first().copied() else { return };
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let outcome = tcb.repeat_syn(&mut env!(self, now));
        if outcome.timed_out {
            self.dispatch_outcome(now, idx, &outcome);
            self.touch_tcb(idx);
        }
    }

    /// What answered the SYN of a connection with [`SynTerms`], once: it is not kept any longer.
    pub fn syn_answer(&mut self, id: SocketId) -> Option<SynAnswer> {
        let Some(idx) = self.blocks_of(id).first().copied() else {
            return self.answer_without_block(id);
        };
        let tcb = self.tcbs.get_mut(idx)?;
        let behalf = tcb.behalf()?;
        let options = behalf.answer.as_bytes().to_vec();
        let answer = SynAnswer { options, icmp_code: behalf.icmp_code };
        if tcb.state.synchronized() {
            let _told = tcb.take_opening();
        }
        Some(answer)
    }

    /// What ended the opening of an MPTCP connection, which took its only block with it.
    fn answer_without_block(&mut self, id: SocketId) -> Option<SynAnswer> {
        let Some(Sock::Mptcp(owner)) = self.resolve(id) else { return None };
        let rare = self.connections.get_mut(owner)?.rare.there()?;
        let icmp_code = Some(rare.icmp_code.take()?);
        Some(SynAnswer { options: Vec::new(), icmp_code })
    }
}
