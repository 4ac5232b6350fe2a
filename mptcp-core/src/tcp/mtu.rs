//! The path's MTU: as ICMP tells it (RFC 1191, RFC 8201), and where nobody tells it, found out by what
//! arrives (RFC 4821, RFC 2923 §2.1).
//!
//! A path that loses long packets in silence shows as timeouts of a long segment. Two in a row cut the
//! segment size to what nearly every path takes; when short segments arrive then, the losses were no
//! congestion, and larger sizes are tried with single segments of new data. When short ones are lost too
//! it was no black hole, and the old size holds again.
//!
//! Invariant: `Tcb::mss` is a size that passes as far as is known; `PathMtu` exists only while it is
//! smaller than what both ends take. A lost probe alone reduces no window.

use super::rare::mtu_of;
use super::recovery::Kind;
use super::{Env, Segment, Tcb, TcbFlags};
use crate::buf::PacketBuf;
use crate::config::MtuProbing;
use crate::seq::SeqNum;
use crate::time::{Duration, Instant};
use alloc::boxed::Box;

/// Packets that a black hole lets through, in the order they are tried (RFC 4821 §7.2, RFC 791).
const FLOORS_V4: [u16; 2] = [1024, 576];
/// RFC 8200 §5
const IPV6_MTU_MIN: u16 = 1280;
/// No ICMP message makes segments smaller, whatever it says.
const ICMP_MSS_MIN: u16 = 488;
/// Timeouts in a row of a long segment that make a black hole.
const TIMEOUTS: u8 = 2;
/// So many probes of one size must be lost (RFC 8899 §5.1.2).
const MAX_PROBES: u8 = 3;
/// A search that is so close to its end, in octets, is over.
const PRECISION: u16 = 16;
/// Full segments behind a probe, so that its loss shows without a timeout.
const FOLLOWERS: u32 = 2;
/// Round trips, and time at least, between a probe that was lost and the next one.
const PAUSE_RTTS: u32 = 8;
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// The path may have changed after so long (RFC 4821 §7.3).
const RAISE: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Cut after timeouts: what is acknowledged next tells whether that was right.
    Cut {
        at: Instant,
        /// The size before.
        from: u16,
        /// End of the oldest segment, as short as it goes out now.
        end: SeqNum,
        /// Timeouts in a row by then.
        retries: u8,
    },
    /// Short segments are lost as well: no cut until something is acknowledged.
    Dead,
    /// Larger sizes are tried.
    Search,
    /// As much passes as can be found out; to be tried again later.
    Rest,
}

/// A segment that is longer than what is known to pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Probe {
    start: SeqNum,
    end: SeqNum,
    size: u16,
    /// It was lost and is being repaired.
    lost: bool,
}

/// What is known of a path that may take less than both ends do. Sizes are those of `Tcb::mss`.
#[derive(Debug)]
pub(crate) struct PathMtu {
    /// What both ends take.
    limit: u16,
    /// The most that may pass.
    high: u16,
    /// The next probe has that size; it is the middle otherwise.
    try_high: bool,
    /// Probes of this size that were lost.
    lost: u8,
    stage: Stage,
    probe: Option<Probe>,
    /// No probe before, and no new search.
    next_at: Instant,
}

impl PathMtu {
    fn new(limit: u16, now: Instant) -> Box<Self> {
        Box::new(Self {
            limit,
            high: limit,
            try_high: true,
            lost: 0,
            stage: Stage::Search,
            probe: None,
            next_at: now,
        })
    }

    /// Searches between what passes and `high`, which is tried first.
    fn search(&mut self, high: u16) {
        self.stage = Stage::Search;
        (self.high, self.try_high, self.lost) = (high, true, 0);
    }

    fn rest(&mut self, now: Instant) {
        self.stage = Stage::Rest;
        self.next_at = now + RAISE;
    }

    /// The size to try next, if any is worth it.
    fn candidate(&self, low: u16) -> Option<u16> {
        let gap = self.high.saturating_sub(low);
        if self.try_high && gap > 0 {
            return Some(self.high);
        }
        (gap >= PRECISION).then(|| low + gap / 2)
    }
}

impl<B: PacketBuf> Tcb<B> {
    /// IP and TCP headers without options.
    fn header_len(&self) -> u16 {
        if self.ends.is_ipv4() { 40 } else { 60 }
    }

    /// The largest segment size below the present one that is worth trying after timeouts of a segment
    /// of `size`.
    fn floor_below(&self, size: u32) -> Option<u16> {
        let packets: &[u16] = if self.ends.is_ipv4() { &FLOORS_V4 } else { &[IPV6_MTU_MIN] };
        let floors = packets.iter().map(|packet| packet - self.header_len());
        floors.filter(|floor| *floor < self.mss && u32::from(*floor) < size).max()
    }

    /// Option octets of a full segment.
    fn option_len(&self) -> u32 {
        u32::from(self.mss).saturating_sub(self.payload_mss())
    }

    /// RFC 8899 §3: a larger size must not let more octets out.
    fn set_segment_size(&mut self, mss: u16) {
        let cwnd = self.cwnd();
        self.mss = mss;
        self.refresh_mss();
        let cwnd = cwnd.max(self.payload_mss());
        if let Some(sender) = &mut self.sender {
            sender.congestion.set_cwnd(cwnd);
            self.cwnd = sender.congestion.cwnd();
        }
    }

    /// Segments begin small where every path is searched.
    pub(super) fn begin_search(&mut self, env: &Env<'_>) {
        if env.config.mtu_probing != MtuProbing::Always
            || !self.flags.contains(TcbFlags::SACK)
            || self.mtu().is_some()
        {
            return;
        }
        if let Some(floor) = self.floor_below(u32::MAX) {
            let mss = self.mss;
            self.rare().mtu = Some(PathMtu::new(mss, env.now));
            self.mss = floor;
        }
    }

    /// The peer takes no more than `both` ends do; before it said so, ICMP may have told of the path.
    pub(super) fn limit_search(&mut self, both: u16) {
        let Some(mtu) = mtu_of(&mut self.rare) else { return };
        mtu.limit = mtu.limit.min(both);
        mtu.high = mtu.high.min(both);
        self.forget_search_at_limit();
    }

    /// A path MTU learnt from ICMP (RFC 1191, 8201): nothing longer is sent; it raises nothing.
    pub(crate) fn set_path_mtu(&mut self, env: &Env<'_>, mtu: u16) {
        let v4 = self.ends.is_ipv4();
        if !v4 && mtu < IPV6_MTU_MIN {
            // No IPv6 link has such an MTU (RFC 8201 §4).
            return;
        }
        let told = mtu.saturating_sub(self.header_len()).max(ICMP_MSS_MIN);
        let high = self.mtu().map_or(self.mss, |mtu| mtu.high);
        if told >= high {
            return;
        }
        if self.mtu().is_none() && env.config.mtu_probing != MtuProbing::Off {
            let mss = self.mss;
            self.rare().mtu = Some(PathMtu::new(mss, env.now));
        }
        let options = self.option_len();
        if let Some(state) = mtu_of(&mut self.rare) {
            state.probe = state.probe.map(|probe| Probe { lost: true, ..probe });
            if told <= self.mss {
                state.search(told);
                state.rest(env.now);
            } else if matches!(state.stage, Stage::Cut { .. }) {
                state.high = told;
            } else {
                // Whether that much passes is tried at once.
                state.search(told);
            }
        }
        if told < self.mss {
            self.mss = told;
            self.refresh_mss();
        }
        // What is in flight at a larger size was dropped where the ICMP came from.
        let fits = u32::from(told).saturating_sub(options);
        let lost = self.queue.lost_total();
        for idx in 0..self.queue.len() {
            if self.queue.get(idx).is_some_and(|s| s.len > fits) {
                self.queue.mark_lost(idx);
            }
        }
        // By a router that was not congested.
        let lost = self.queue.lost_total().wrapping_sub(lost);
        self.excuse_lost(lost);
    }

    // Black holes.

    /// The retransmission timer fired for the oldest segment: is it its length?
    pub(super) fn doubt_segment_size(&mut self, env: &Env<'_>) {
        if let Some(mtu) = mtu_of(&mut self.rare) {
            // Nothing is excused any more.
            mtu.probe = None;
        }
        if env.config.mtu_probing == MtuProbing::Off || self.rtt.retries < TIMEOUTS {
            return;
        }
        let stage = self.mtu().map_or(Stage::Rest, |mtu| mtu.stage);
        let (from, before) = match stage {
            Stage::Dead => return,
            Stage::Cut { from, retries, .. } => (from, Some(retries)),
            Stage::Search | Stage::Rest => (self.mss, None),
        };
        let Some(head) = self.queue.get(0) else { return };
        let (start, size) = (head.seq, head.len + self.option_len());
        match (self.floor_below(size), before) {
            (Some(floor), _) => {
                let limit = self.mss;
                self.mss = floor;
                self.refresh_mss();
                let (retries, end) = (self.rtt.retries, start.add(self.payload_mss()));
                let mtu = self.rare().mtu.get_or_insert_with(|| PathMtu::new(limit, env.now));
                mtu.stage = Stage::Cut { at: env.now, from, end, retries };
            }
            (_, Some(before)) if self.rtt.retries >= before.saturating_add(TIMEOUTS) => {
                self.take_cut_back(Stage::Dead);
            }
            _ => {}
        }
    }

    /// The segments were cut, and nothing that was acknowledged since tells whether that was right.
    pub(super) fn doubts_segment_size(&self) -> bool {
        self.mtu().is_some_and(|mtu| matches!(mtu.stage, Stage::Cut { .. }))
    }

    /// The segment size was not to blame.
    fn take_cut_back(&mut self, stage: Stage) {
        let Some(mtu) = mtu_of(&mut self.rare) else { return };
        let Stage::Cut { from, .. } = mtu.stage else { return };
        mtu.stage = stage;
        let mss = from.min(mtu.high);
        self.set_segment_size(mss);
        self.forget_search_at_limit();
    }

    /// With nothing left to find out there is nothing to remember, but for a path that is dead.
    fn forget_search_at_limit(&mut self) {
        let mss = self.mss;
        if let Some(rare) = &mut self.rare {
            rare.mtu.take_if(|mtu| mss >= mtu.limit && mtu.stage != Stage::Dead);
        }
    }

    /// A timeout was spurious: what was long is there.
    pub(super) fn long_segment_arrived(&mut self) {
        self.take_cut_back(Stage::Search);
    }

    /// What an acknowledgement says about the size of segments.
    pub(super) fn digest_mtu(&mut self, env: &mut Env<'_>, segment: &Segment, advanced: bool) {
        let Some(mtu) = mtu_of(&mut self.rare) else { return };
        match mtu.stage {
            Stage::Cut { at, from, end, .. } if advanced => {
                // What acknowledges more than was sent short, or answers what was sent before, is
                // about the long segment.
                let late = self.snd_una.gt(end) || self.echoes_before(at, segment);
                if late {
                    return self.long_segment_arrived();
                }
                self.black_hole_found(env, from);
            }
            Stage::Dead if advanced => {
                mtu.stage = Stage::Search;
                self.forget_search_at_limit();
            }
            _ => {}
        }
        self.digest_probe(env);
    }

    /// The timestamp of `segment` echoes one of ours from before `at`.
    fn echoes_before(&self, at: Instant, segment: &Segment) -> bool {
        let echo = segment.timestamps.map(|(_, tsecr)| tsecr);
        self.flags.contains(TcbFlags::TIMESTAMPS)
            && echo.is_some_and(|tsecr| self.timestamp(at).wrapping_sub(tsecr).cast_signed() > 0)
    }

    /// Short segments arrive where long ones, of size `from`, did not. Timeouts are as good as probes,
    /// but the last one is yet to come: the path may just have been dead.
    fn black_hole_found(&mut self, env: &mut Env<'_>, from: u16) {
        if let Some(mtu) = mtu_of(&mut self.rare) {
            mtu.search(from.min(mtu.high));
            mtu.lost = MAX_PROBES - 1;
            mtu.next_at = env.now;
        }
        env.stats.tcp_mtu_black_holes += 1;
        self.undo_timeout(env.now);
    }

    /// The timeouts were no congestion: what they did to the window is undone.
    fn undo_timeout(&mut self, now: Instant) {
        if self.recovery().is_some_and(|recovery| recovery.kind == Kind::Timeout) {
            self.tell_congestion(now, |congestion| congestion.undo(now));
            self.flags.remove(TcbFlags::ECN_REDUCED);
            self.sender(now).lost_told = self.queue.lost_total();
        }
    }

    // Probes.

    /// Payload octets of the next segment of new data, if it can be a probe: `waiting` octets are there
    /// to be sent.
    #[inline]
    pub(crate) fn probe_payload(&mut self, now: Instant, waiting: u32) -> Option<u32> {
        self.mtu()?;
        self.next_probe(now, waiting)
    }

    fn next_probe(&mut self, now: Instant, waiting: u32) -> Option<u32> {
        let in_recovery = self.in_recovery();
        let mtu = mtu_of(&mut self.rare)?;
        let busy = matches!(mtu.stage, Stage::Cut { .. } | Stage::Dead) || mtu.probe.is_some();
        // Without SACK the loss of one segment looks like that of any other.
        let trouble = in_recovery
            || self.rtt.retries > 0
            || self.queue.lost_bytes() > 0
            || !self.flags.contains(TcbFlags::SACK);
        if busy || trouble || now < mtu.next_at {
            return None;
        }
        if mtu.stage == Stage::Rest {
            let limit = mtu.limit;
            mtu.search(limit);
        }
        let Some(size) = mtu.candidate(self.mss) else {
            mtu.rest(now);
            return None;
        };
        let payload = u32::from(size).saturating_sub(self.option_len());
        let run = payload + FOLLOWERS * self.payload_mss();
        let room = waiting.min(self.usable_window()).min(self.cwnd());
        (run <= room).then_some(payload)
    }

    /// New data left in `start..end`; what is longer than usual is a probe.
    pub(super) fn note_probe(&mut self, start: SeqNum, end: SeqNum) {
        if self.mtu().is_none() {
            return;
        }
        let (mss, options) = (self.mss, self.option_len());
        let Some(mtu) = mtu_of(&mut self.rare) else { return };
        let size = u16::try_from(end.since(start) + options).unwrap_or(u16::MAX);
        if size > mss {
            mtu.probe = Some(Probe { start, end, size, lost: false });
        }
    }

    fn digest_probe(&mut self, env: &mut Env<'_>) {
        let Some(mtu) = mtu_of(&mut self.rare) else { return };
        let Some(probe) = mtu.probe else { return };
        let acknowledged = self.snd_una.ge(probe.end);
        if probe.lost {
            mtu.probe = mtu.probe.filter(|_| !acknowledged);
            return;
        }
        if !acknowledged && !self.queue.is_sacked(probe.start) {
            return;
        }
        mtu.probe = None;
        mtu.lost = 0;
        env.stats.tcp_mtup_success += 1;
        let size = probe.size.min(mtu.high);
        self.set_segment_size(size.max(self.mss));
        self.forget_search_at_limit();
    }

    /// Losses were found: true when they are no congestion, because nothing but a probe is missing
    /// (RFC 4821 §7.5).
    pub(super) fn lost_only_a_probe(&mut self, env: &mut Env<'_>) -> bool {
        let Some(mtu) = mtu_of(&mut self.rare) else { return false };
        let Some(probe) = mtu.probe else { return false };
        let octets = self.queue.lost_once(probe.start, probe.end);
        if octets == 0 || octets != self.queue.lost_bytes() {
            // It is repaired like everything else, and nothing is learnt.
            mtu.probe = mtu.probe.filter(|_| octets == 0);
            return false;
        }
        if !probe.lost {
            self.probe_was_lost(env);
            self.excuse_lost(octets);
        }
        true
    }

    /// What becomes of a probe says nothing once its octets were sent again among others (RFC 4821
    /// §7.6.3).
    pub(super) fn forget_probe(&mut self, idx: usize) {
        let Some(mtu) = mtu_of(&mut self.rare) else { return };
        let Some(segment) = self.queue.get(idx) else { return };
        let other =
            |probe: &Probe| probe.lost || segment.seq.lt(probe.start) || segment.seq.ge(probe.end);
        mtu.probe = mtu.probe.filter(other);
    }

    /// The segment at `seq` goes out again to find out what became of it. True when it is a probe, which
    /// counts as lost.
    pub(super) fn gives_up_probe(&mut self, env: &mut Env<'_>, seq: SeqNum) -> bool {
        let probe = self.mtu().and_then(|mtu| mtu.probe);
        let repeated = probe.filter(|probe| seq.ge(probe.start) && seq.lt(probe.end));
        if repeated.is_some_and(|probe| !probe.lost) {
            self.probe_was_lost(env);
        }
        repeated.is_some()
    }

    fn probe_was_lost(&mut self, env: &mut Env<'_>) {
        let low = self.mss;
        let srtt = self.rtt.srtt().unwrap_or_default();
        let Some(mtu) = mtu_of(&mut self.rare) else { return };
        let Some(probe) = &mut mtu.probe else { return };
        probe.lost = true;
        env.stats.tcp_mtup_fail += 1;
        mtu.next_at = env.now + (srtt * PAUSE_RTTS).max(PAUSE_MIN);
        mtu.lost += 1;
        if mtu.lost >= MAX_PROBES {
            mtu.high = mtu.high.min(probe.size - 1).max(low);
            (mtu.try_high, mtu.lost) = (false, 0);
        }
    }
}
