//! An active open for somebody else, who decides about its SYN and wants to know what answered it
//! (RFC 8803 §6.2.5, §6.2.6, §9.3).

use super::{Opening, Outcome, RtxKind, State, Tcb, TcbFlags};
use crate::buf::PacketBuf;
use crate::tcp::segment::RawOptions;
use crate::tcp::{Env, Segment};
use crate::time::Duration;
use crate::wire::FastOpenCookie;

/// A SYN that is asked for sooner is the same one: the network repeated what asked for it.
const LEAST_PAUSE: Duration = Duration::from_millis(500);

/// What is special about such a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SynTerms {
    /// Nothing but [`crate::stack::Stack::repeat_syn`] sends it again.
    pub on_demand: bool,
    /// A Fast Open option goes with it, without data: a request for a cookie, or a cookie as the other
    /// one had it. What the server grants is not remembered here. A SYN that is repeated leaves it out.
    pub fast_open: Option<FastOpenCookie>,
}

/// What a block keeps of it, until that is asked for.
#[derive(Debug)]
pub(crate) struct Behalf {
    terms: SynTerms,
    withdrawn: bool,
    /// Options of the SYN/ACK.
    pub(crate) answer: RawOptions,
    /// Code of the last ICMP error about the SYN.
    pub(crate) icmp_code: Option<u8>,
}

impl Behalf {
    /// The option of the next SYN.
    pub(super) fn cookie(&self) -> Option<FastOpenCookie> {
        self.terms.fast_open.filter(|_| !self.withdrawn)
    }

    pub(super) fn withdraw(&mut self) {
        self.withdrawn = true;
    }
}

impl<B: PacketBuf> Tcb<B> {
    /// Before the first SYN is out.
    pub(crate) fn open_on(&mut self, terms: SynTerms) {
        let behalf = Behalf { terms, withdrawn: false, answer: RawOptions::EMPTY, icmp_code: None };
        self.set_opening(Opening::Behalf(behalf));
    }

    /// No SYN of an active open is out yet.
    pub(crate) fn is_syn_due(&self) -> bool {
        self.state == State::SynSent
            && self.snd_nxt == self.iss
            && self.opening().is_none()
            && self.flags.contains(TcbFlags::SYN_NOW)
    }

    pub(crate) fn behalf(&mut self) -> Option<&mut Behalf> {
        match self.opening_mut() {
            Some(Opening::Behalf(behalf)) => Some(behalf),
            _ => None,
        }
    }

    /// No timer repeats the SYN.
    pub(super) fn waits_for_demand(&self) -> bool {
        let on_demand = matches!(
            self.opening(),
            Some(Opening::Behalf(Behalf { terms: SynTerms { on_demand: true, .. }, .. }))
        );
        on_demand && self.state == State::SynSent
    }

    /// The SYN goes out again, as after a timeout; too soon after the last one it does not.
    pub(crate) fn repeat_syn(&mut self, env: &mut Env<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let sent = !self.flags.contains(TcbFlags::SYN_NOW);
        if self.waits_for_demand() && sent && env.now.since(self.last_sent) >= LEAST_PAUSE {
            self.rtt.retries = self.rtt.retries.saturating_add(1);
            self.rtx_kind = RtxKind::Rto;
            self.flags.insert(TcbFlags::SYN_NOW);
            outcome.timed_out = true;
        }
        outcome
    }

    /// The SYN/ACK came.
    pub(crate) fn note_answer(&mut self, segment: &Segment) {
        if let Some(behalf) = self.behalf() {
            behalf.answer = segment.options;
        }
    }
}
