//! Fast Open (RFC 7413): data on the SYN, in either direction, and a listener's connections before
//! their third ACK. What a block needs for it lives in a box until its handshake is over.
//!
//! Invariant: data that left on a SYN waits in the send queue all the same. What the SYN/ACK
//! acknowledges is taken out of it, the rest goes out like anything else: every octet is part of the
//! stream once, whatever answers the SYN.

use super::output::consume;
use super::{Behalf, Segment, State, Tcb, TcbFlags};
use crate::buf::PacketBuf;
use crate::mptcp::{Stage, Subflow};
use crate::seq::SeqNum;
use crate::time::{Duration, Instant};
use crate::util::slab::SlabId;
use crate::wire::{FastOpenCookie, OptionWriter, TcpFlags, TcpOption, Version};

/// Octets of a cookie that we grant, and of a shorter one where a SYN/ACK has no room for that: with
/// `MP_CAPABLE` nine octets are left (RFC 8684 Appendix B.1).
pub(crate) const COOKIE_LENGTHS: [usize; 2] = [8, 6];

/// What a block keeps of its Fast Open during the handshake.
#[derive(Debug)]
pub(crate) enum Opening<B> {
    Client(Early<B>),
    Server(Pending),
    /// No Fast Open of ours: see [`Behalf`].
    Behalf(Behalf),
}

/// Our SYN has a Fast Open option.
#[derive(Debug)]
pub(crate) struct Early<B> {
    /// Without one, data goes without the option.
    pub(crate) cookie: Option<FastOpenCookie>,
    /// The first octets of the stream with their sum; never with a request for a cookie.
    payload: Option<B>,
    /// A SYN with the option left.
    pub(crate) asked: bool,
    /// A SYN with data left.
    pub(crate) sent: bool,
    /// SYNs go out without option and data from here on: one got lost, or a RST answered it.
    pub(crate) withdrawn: bool,
    /// Octets of data that the peer acknowledged with our SYN.
    pub(crate) accepted: u32,
}

/// The peer's SYN had a good cookie: the connection is the application's before the third ACK.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Who counts it.
    pub(crate) listener: SlabId,
    /// Sequence number of the SYN.
    syn: SeqNum,
    /// A newer cookie than the one that was shown.
    grant: Option<u64>,
    /// When the SYN/ACK went out last.
    sent_at: Option<Instant>,
    /// The SYN came again: which of our SYN/ACKs is acknowledged is not known.
    repeated: bool,
    /// Keys that do not come with the third ACK will not come later either.
    pub(crate) keys_at_once: bool,
    /// Joins must not go to the address that the peer connected to.
    pub(crate) denies: bool,
}

impl Pending {
    pub(crate) const fn new(listener: SlabId, segment: &Segment, grant: Option<u64>) -> Self {
        Self {
            listener,
            syn: segment.seq,
            grant,
            sent_at: None,
            repeated: false,
            keys_at_once: false,
            denies: false,
        }
    }
}

/// Appends the cookie `mac` in the longest form that fits; nothing when none does.
pub(crate) fn push_grant(writer: &mut OptionWriter, mac: u64) {
    let mac = mac.to_be_bytes();
    let mut cookies = COOKIE_LENGTHS.iter().filter_map(|&len| FastOpenCookie::new(mac.get(..len)?));
    let _granted = cookies.any(|cookie| writer.push(&TcpOption::FastOpen(cookie)));
}

impl<B: PacketBuf> Tcb<B> {
    /// The SYN asks for a cookie, or shows one and carries `data` with it, or `data` alone. Data of a
    /// plain connection is queued as well.
    pub(crate) fn open_fast(&mut self, cookie: Option<FastOpenCookie>, data: Option<B>) {
        self.set_opening(Opening::Client(Early {
            cookie,
            payload: data,
            asked: false,
            sent: false,
            withdrawn: false,
            accepted: 0,
        }));
    }

    /// A block that [`Tcb::accepted`] made is given out before its third ACK: our SYN/ACK is due, and
    /// acknowledges the text of the SYN. `text` of a plain connection becomes readable.
    pub(crate) fn await_third_ack(
        &mut self,
        now: Instant,
        segment: &Segment,
        pending: Pending,
        text: Option<B>,
    ) {
        let window = self.rcv_adv.since(self.rcv_nxt);
        self.state = State::SynReceived;
        self.slow_at = None;
        self.flags.insert(TcbFlags::SYN_NOW);
        self.flags.set(TcbFlags::SCALED, segment.window_scale.is_some());
        self.flags.set(TcbFlags::SYN_DATA, segment.len > 0);
        self.snd_wnd = u32::from(segment.window);
        self.max_snd_wnd = self.snd_wnd;
        if let Some(text) = text {
            let budget = self.reassembly_budget();
            let _in_order =
                self.received.insert(self.rcv_nxt, self.rcv_nxt, text, budget, true, &mut 0);
        }
        self.rcv_nxt = self.rcv_nxt.add(segment.len);
        self.rcv_adv = self.rcv_nxt.add(window);
        self.last_ack_sent = self.rcv_nxt;
        self.counters.bytes_received += u64::from(segment.len);
        self.data_in_ms = now.as_millis() as u32;
        if self.subflow.is_some() {
            // Subflow sequence number 1 is the first octet behind it (RFC 8684 Appendix B.2).
            self.irs = self.rcv_nxt.sub(1);
        }
        self.set_opening(Opening::Server(pending));
    }

    /// The SYN/ACK begins at `iss`, which no segment has shown yet.
    pub(crate) fn restart_at(&mut self, iss: SeqNum) {
        self.iss = iss;
        self.snd_una = iss.add(1);
        (self.snd_nxt, self.snd_wl2) = (self.snd_una, self.snd_una);
        if let Some(sender) = &mut self.sender {
            sender.snd_sml = self.snd_una;
        }
    }

    /// A listener's connection before its third ACK.
    pub(crate) fn is_fast_opened(&self) -> bool {
        self.state == State::SynReceived && self.pending().is_some()
    }

    pub(crate) fn pending(&self) -> Option<&Pending> {
        match self.opening() {
            Some(Opening::Server(pending)) => Some(pending),
            _ => None,
        }
    }

    fn early(&mut self) -> Option<&mut Early<B>> {
        match self.opening_mut() {
            Some(Opening::Client(early)) => Some(early),
            _ => None,
        }
    }

    /// Data on a SYN was acknowledged by this handshake (`TCPI_OPT_SYN_DATA`).
    pub(crate) fn syn_data_acked(&self) -> bool {
        self.flags.contains(TcbFlags::SYN_DATA)
    }

    /// New data may go out: a server may answer before the third ACK (RFC 7413 §4.2.2).
    pub(crate) fn may_send(&self) -> bool {
        self.state.sending() || self.may_answer_early() && !self.flags.contains(TcbFlags::SYN_NOW)
    }

    /// It may say more than its SYN/ACK before the third ACK. A server of MPTCP version 1 cannot write
    /// the `DATA_ACK` of what it says without the client's key, and Linux clients take a first
    /// segment without one for fallback.
    pub(super) fn may_answer_early(&self) -> bool {
        let mute =
            |subflow: &Subflow| subflow.version == Version::V1 && subflow.stage != Stage::Fallback;
        self.is_fast_opened() && !self.subflow.as_deref().is_some_and(mute)
    }

    // SYNs and SYN/ACKs.

    /// SYNs leave option and data out from here on.
    pub(crate) fn withdraw_early(&mut self) {
        match self.opening_mut() {
            Some(Opening::Client(early)) => early.withdrawn = true,
            Some(Opening::Behalf(behalf)) => behalf.withdraw(),
            _ => {}
        }
    }

    /// The SYN that was just put together has no room for the cookie, or must not have it.
    pub(super) fn is_early_withdrawn(&mut self) -> bool {
        self.early().is_some_and(|early| early.withdrawn)
    }

    /// What the next SYN carries.
    pub(super) fn early_payload(&mut self) -> Option<B> {
        let early = self.early().filter(|early| !early.withdrawn)?;
        let data = early.payload.as_ref()?;
        Some(data.slice(0..data.data_len()))
    }

    /// The option of a SYN, or of the first SYN/ACK, after all others. A cookie that does not fit is
    /// left out, and the data with it (RFC 7413 §4.2.2): what the other options do lasts longer.
    pub(super) fn write_fast_open(&mut self, writer: &mut OptionWriter) {
        let (first, opens) = (self.rtt.retries == 0, self.state == State::SynSent);
        match self.opening_mut() {
            Some(Opening::Client(early)) if opens && !early.withdrawn => {
                let Some(cookie) = early.cookie else { return };
                early.asked = writer.push(&TcpOption::FastOpen(cookie));
                early.withdrawn = !early.asked;
            }
            Some(Opening::Behalf(behalf)) if opens => {
                let Some(cookie) = behalf.cookie() else { return };
                if !writer.push(&TcpOption::FastOpen(cookie)) {
                    // Beside the key of version 0 the longest has room where there are no NOPs.
                    let mut packed = OptionWriter::new();
                    let others = writer.iter().flatten().all(|option| packed.push(&option));
                    if others && packed.push(&TcpOption::FastOpen(cookie)) {
                        *writer = packed;
                    }
                }
            }
            Some(Opening::Server(Pending { grant: Some(mac), repeated: false, .. })) if first => {
                push_grant(writer, *mac);
            }
            _ => {}
        }
    }

    /// The SYN that shows somebody else's cookie has no room for timestamps beside it: the cookie must be there
    /// (RFC 8803 §6.2.5), they need not.
    pub(super) fn cookie_crowds_out_timestamps(&self) -> bool {
        let Some(Opening::Behalf(behalf)) = self.opening() else { return false };
        let capable = self.subflow.as_deref().map_or(0, |subflow| match subflow.version {
            Version::V0 => 12,
            Version::V1 => 4,
        });
        // What every SYN says takes 20 octets, the option two more than its cookie.
        let fits = |cookie: FastOpenCookie| 20 + capable + 2 + cookie.as_bytes().len() <= 40;
        self.state == State::SynSent && behalf.cookie().is_some_and(|cookie| !fits(cookie))
    }

    /// A SYN or SYN/ACK left, with `octets` of data.
    pub(super) fn note_syn_sent(&mut self, now: Instant, octets: u32) {
        match self.opening_mut() {
            Some(Opening::Client(early)) => early.sent |= octets > 0,
            Some(Opening::Server(pending)) => pending.sent_at = Some(now),
            Some(Opening::Behalf(_)) | None => {}
        }
    }

    // What answers them.

    /// `ack` acknowledges our SYN and perhaps data on it, some or all. The rest has not been sent.
    pub(super) fn settle_early(&mut self, ack: SeqNum) {
        self.snd_una = ack;
        self.snd_nxt = ack;
        let accepted = ack.since(self.iss).saturating_sub(1);
        if accepted == 0 {
            return;
        }
        self.flags.insert(TcbFlags::SYN_DATA);
        self.counters.bytes_sent += u64::from(accepted);
        if let Some(early) = self.early() {
            early.accepted = accepted;
        }
        if self.subflow.is_some() {
            // The data level does not count it: subflow sequence number 1 is what follows.
            self.iss = ack.sub(1);
        } else {
            consume(&mut self.unsent, accepted as usize);
            self.unsent_len = self.unsent_len.saturating_sub(accepted);
        }
    }

    /// The SYN again: our SYN/ACK was lost, or the peer left the option out. True when it was.
    pub(crate) fn syn_came_again(&mut self, segment: &Segment) -> bool {
        let Some(Opening::Server(pending)) = self.opening_mut() else { return false };
        let bare = segment.flags & (TcpFlags::SYN | TcpFlags::ACK | TcpFlags::RST) == TcpFlags::SYN;
        if !bare || segment.seq != pending.syn {
            return false;
        }
        pending.repeated = true;
        if !segment.is_ecn_setup_syn() {
            self.flags.remove(TcbFlags::ECN);
        }
        // Options that it leaves out are not used, as with a request: no SYN/ACK of ours was heard.
        if segment.window_scale.is_none() {
            (self.snd_wscale, self.rcv_wscale) = (0, 0);
            self.flags.remove(TcbFlags::SCALED);
        }
        if !segment.sack_permitted {
            self.flags.remove(TcbFlags::SACK);
        }
        match segment.timestamps {
            Some((tsval, _)) if tsval.wrapping_sub(self.ts_recent).cast_signed() > 0 => {
                self.ts_recent = tsval;
            }
            Some(_) => {}
            None => self.flags.remove(TcbFlags::TIMESTAMPS),
        }
        self.refresh_mss();
        self.flags.insert(TcbFlags::SYN_NOW);
        true
    }

    /// Round trip of the handshake that ends `now`; `None` when it is ambiguous.
    pub(super) fn handshake_rtt(&self, now: Instant) -> Option<Duration> {
        if self.rtt.retries > 0 {
            return None;
        }
        match self.pending() {
            Some(pending) => {
                pending.sent_at.filter(|_| !pending.repeated).map(|sent_at| now.since(sent_at))
            }
            // SYNs that crossed: our SYN is answered, and the last we sent is our SYN/ACK (RFC 6298 §3).
            None if self.state == State::SynReceived => None,
            None => Some(now.since(self.last_sent)),
        }
    }
}
