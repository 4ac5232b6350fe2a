//! Subflows that fall silent, are sidelined and come back (RFC 8684 §3.3.6), and what they tell the
//! other connections of the shard about the path.
//!
//! Silence is judged by what came back over the path for anybody: while somebody's data is
//! acknowledged, a queue has grown and nothing is lost. Probes are repetitions of what is in flight,
//! or segments without data; the stream never waits for them.

use crate::buf::PacketBuf;
use crate::buf::PortId;
use crate::event_log::{Event, ReinjectCause};
use crate::mptcp::path_health::{AccessHealth, PathEvent, PathInfo, PathRef, PathVerdict};
use crate::mptcp::{Phase, Watch};
use crate::stack::Stack;
use crate::tcp::{Outcome, Tcb};
use crate::time::{Duration, Instant};
use crate::wire::reset_reason;
use core::net::IpAddr;

/// A subflow of a crowd that times out more often in a row is taken for dead all the same.
const CROWD_TIMEOUTS: u8 = 4;

/// What a subflow's silence means so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finding {
    /// Too early to tell; ask again then.
    Wait(Instant),
    /// Nothing comes back over the path: what is in flight had better go elsewhere.
    Silent,
    /// It timed out, though something came back lately: its oldest segment is missing. Look again
    /// then.
    Gap(Instant),
    /// It timed out and nothing came back.
    Dead { patience: Duration },
}

impl<B: PacketBuf> Stack<B> {
    /// The paths in use, with what is known of them; a snapshot, O(paths).
    pub fn paths(&self) -> impl Iterator<Item = PathInfo> + '_ {
        self.path_table.iter()
    }

    /// The same in parts, so that a report can be made between packets: those at the first `most`
    /// positions from `from` on (0 at first), and where to go on, if anywhere. O(`most`).
    pub fn paths_page(
        &self,
        from: u32,
        most: u32,
    ) -> (impl Iterator<Item = PathInfo> + '_, Option<u32>) {
        self.path_table.page(from, most)
    }

    /// What connections hold of the path between two addresses over a port; `None` where none uses it.
    #[must_use]
    pub fn path_verdict(&self, local: IpAddr, remote: IpAddr, port: PortId) -> Option<PathVerdict> {
        self.path_table.verdict(local, remote, port)
    }

    /// The paths of each port in numbers, by port.
    pub fn accesses(&self) -> impl Iterator<Item = (PortId, AccessHealth)> + '_ {
        self.path_table.accesses()
    }

    /// The next change of a path's verdict. A few hundred wait to be read; further ones are counted
    /// (`path_event_drop`).
    pub fn poll_path_event(&mut self) -> Option<PathEvent> {
        self.path_table.poll_event()
    }

    /// Finds a subflow's place in the table of paths, once.
    fn enter_path(&mut self, now: Instant, idx: u32) {
        let interval = self.config.mptcp.probe_interval;
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let (port, heard) = (tcb.port, tcb.last_received());
        let Some(subflow) = &mut tcb.subflow else { return };
        if !subflow.path.is_unknown() || !tcb.state.synchronized() {
            return;
        }
        let tuple = tcb.ends.tuple();
        let stats = &mut self.stats;
        subflow.path = self.path_table.enter(now, &tuple, port, heard, interval, stats);
    }

    /// Something sent on this subflow was acknowledged.
    pub(super) fn subflow_delivered(&mut self, now: Instant, idx: u32, outcome: &Outcome) {
        self.enter_path(now, idx);
        let interval = self.config.mptcp.probe_interval;
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let rtt = tcb.rtt.latest();
        let Some(subflow) = &mut tcb.subflow else { return };
        subflow.delivered_at = Some(now);
        let octets = (outcome.delivered, outcome.lost);
        self.path_table.delivered(now, subflow.path, rtt, octets, interval, &mut self.stats);
    }

    /// What a subflow lost holds the stream up for one more of its round trips. Where another one is
    /// twice as fast, that delivers it meanwhile.
    pub(super) fn share_losses(&mut self, now: Instant, owner: u32, idx: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let Some(tcb) = self.tcbs.get(idx).filter(|tcb| tcb.queue.lost_bytes() > 0) else { return };
        // A timeout is judged as silence is.
        let alone = connection.is_alone(&self.tcbs);
        if alone || tcb.rto_count() > 0 {
            return;
        }
        let (Some(slow), Some(this)) = (tcb.rtt.srtt(), &tcb.subflow) else { return };
        // What a crowd loses would crowd the other path as well.
        if self.path_table.is_crowded(now, this.path) {
            return;
        }
        // Nor is what a cap leaves of a path there for what the slower one repairs itself.
        let capped = |port| connection.policy.as_ref().is_some_and(|p| p.capped_until(port) > now);
        let others = connection.subflows.iter().filter(|other| **other != idx);
        let faster = others.filter_map(|other| self.tcbs.get(*other)).any(|other| {
            let Some(subflow) = other.subflow.as_ref().filter(|_| !capped(other.port)) else {
                return false;
            };
            let works = !subflow.stale && subflow.rare.watch.is_none() && other.rto_count() == 0;
            let allowed = this.is_backup() || !subflow.is_backup();
            let fast = other.rtt.srtt().is_some_and(|fast| fast * 2 <= slow);
            works && allowed && fast && other.may_send() && !other.write_closed()
        });
        let Some(tcb) = self.tcbs.get_mut(idx).filter(|_| faster) else { return };
        if connection.reinject_lost(tcb) {
            self.stats.mptcp_retrans += 1;
            self.observe_reinjection(owner, Some(idx), ReinjectCause::Lost);
            self.touch_connection(owner);
        }
    }

    /// TCP acknowledged something new on this subflow, or it answered a probe.
    pub(super) fn subflow_progress(&mut self, owner: u32, idx: u32) {
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        if connection.phase == Phase::Fallback {
            return;
        }
        let Some(subflow) = &mut tcb.subflow else { return };
        if let Some(rare) = subflow.rare.there() {
            rare.probe = None;
        }
        if subflow.stale {
            if self.path_table.is_up(subflow.path) {
                self.recover(owner, idx);
            }
            return;
        }
        if let Some(watch) = subflow.rare.there().and_then(|rare| rare.watch.take())
            && watch.reinjected
        {
            connection.keep_on(tcb);
        }
    }

    /// A segment without news on a sidelined subflow that has nothing in flight: the answer to a
    /// probe.
    pub(super) fn probe_answered(&mut self, now: Instant, owner: u32, idx: u32) {
        let interval = self.config.mptcp.probe_interval;
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let idle = tcb.flight_size() == 0;
        let Some(subflow) = &mut tcb.subflow else { return };
        let probed = subflow.rare.watch.as_ref().is_some_and(|watch| watch.probe_at > watch.since);
        if !subflow.stale || !idle || !probed {
            return;
        }
        self.path_table.answered(now, subflow.path, interval, &mut self.stats);
        self.subflow_progress(owner, idx);
    }

    /// Twice the round trip without a word, or a timeout: the silence of this subflow is judged, now
    /// and as long as it lasts. After fallback there is no other one, and nobody would call it off.
    pub(super) fn watch_subflow(&mut self, now: Instant, owner: u32, idx: u32) {
        if self.connections.get(owner).is_none_or(|c| c.phase == Phase::Fallback) {
            return;
        }
        self.enter_path(now, idx);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let since = tcb.head_sent_at().unwrap_or(now);
        let Some(subflow) = &mut tcb.subflow else { return };
        let since = subflow.delivered_at.map_or(since, |at| at.max(since));
        subflow.rare.watch.get_or_insert(Watch {
            since,
            probe_at: since,
            reinjected: false,
            head_reinjected: false,
        });
        self.judge_silence(now, owner, idx);
        self.touch_connection(owner);
    }

    fn finding(&self, now: Instant, tcb: &Tcb<B>) -> Option<Finding> {
        let subflow = tcb.subflow.as_ref().filter(|subflow| !subflow.stale)?;
        let watch = subflow.rare.watch.as_ref()?;
        let (heard, path_rtt) = self.path_table.last_heard(subflow.path);
        let rtt = tcb.rtt.srtt().unwrap_or_else(|| tcb.rtt.rto()).max(path_rtt);
        let since = subflow.delivered_at.map_or(watch.since, |at| at.max(watch.since));
        if tcb.rto_count() > 0 {
            if let Some(at) = self.crowd_waits(now, tcb, rtt) {
                return Some(Finding::Wait(at));
            }
            let (late_at, dead_at) = (since + rtt * 5 / 4, since + rtt * 2);
            return Some(if now >= dead_at {
                Finding::Dead { patience: rtt * 2 }
            } else if now >= late_at {
                Finding::Gap(dead_at)
            } else {
                Finding::Wait(late_at)
            });
        }
        let since = heard.map_or(since, |at| at.max(since));
        let silent_at = since + rtt * 3 / 2;
        Some(if now >= silent_at { Finding::Silent } else { Finding::Wait(silent_at) })
    }

    /// A subflow timed out on a path that loses much of what many send: that is its share, and what it
    /// sends again now has as good a chance as a copy on another path, which would be crowded out in
    /// turn. So the others get nothing of it until its repair had its chance as well, and then only
    /// if nobody was heard meanwhile, or it goes on for long. Answers when to look again.
    fn crowd_waits(&self, now: Instant, tcb: &Tcb<B>, rtt: Duration) -> Option<Instant> {
        let subflow = tcb.subflow.as_ref()?;
        if tcb.rto_count() > CROWD_TIMEOUTS || !self.path_table.is_crowded(now, subflow.path) {
            return None;
        }
        let tried_at = tcb.rto_base() + rtt * 2;
        if now < tried_at {
            return Some(tried_at);
        }
        let (heard, _) = self.path_table.last_heard(subflow.path);
        heard.is_some_and(|at| at > tcb.rto_base()).then(|| now + rtt * 2)
    }

    /// Draws the consequence of a subflow's silence so far.
    fn judge_silence(&mut self, now: Instant, owner: u32, idx: u32) {
        let Some(finding) = self.tcbs.get(idx).and_then(|tcb| self.finding(now, tcb)) else {
            return;
        };
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let alone = connection.is_alone(&self.tcbs);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let Some(watch) = tcb.subflow.as_mut().and_then(|s| s.rare.there()?.watch.as_mut()) else {
            return;
        };
        match finding {
            Finding::Wait(at) => connection.look_again(at),
            Finding::Gap(at) => {
                let fresh = !core::mem::replace(&mut watch.head_reinjected, true);
                connection.look_again(at);
                if fresh && !alone && !watch.reinjected {
                    connection.reinject_head(tcb);
                    self.stats.mptcp_retrans += 1;
                    self.observe_reinjection(owner, Some(idx), ReinjectCause::TimedOut);
                }
            }
            Finding::Silent if alone => {}
            Finding::Silent => {
                if !core::mem::replace(&mut watch.reinjected, true) {
                    connection.reinject_from(tcb);
                    self.stats.mptcp_retrans += 1;
                    self.observe_reinjection(owner, Some(idx), ReinjectCause::Silent);
                }
            }
            Finding::Dead { patience } => {
                self.path_timed_out(now, idx, patience);
                if !alone {
                    self.sideline(now, owner, idx);
                }
            }
        }
    }

    fn path_timed_out(&mut self, now: Instant, idx: u32, patience: Duration) {
        let interval = self.config.mptcp.probe_interval;
        let Some(subflow) = self.tcbs.get(idx).and_then(|tcb| tcb.subflow.as_ref()) else { return };
        let Some(watch) = &subflow.rare.watch else { return };
        let (path, since) = (subflow.path, watch.since);
        self.path_table.timed_out(now, path, since, patience, interval, &mut self.stats);
    }

    /// Takes a subflow out of use until its path answers, and puts what it carries up for the
    /// others.
    pub(super) fn sideline(&mut self, now: Instant, owner: u32, idx: u32) {
        let interval = self.config.mptcp.probe_interval;
        let Some(connection) = self.connections.get_mut(owner) else { return };
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let in_flight = tcb.flight_size() > 0;
        let Some(subflow) = &mut tcb.subflow else { return };
        if subflow.stale {
            return;
        }
        subflow.stale = true;
        self.stats.subflow_stale += 1;
        let mut news = subflow.path;
        let _verdict = self.path_table.news(&mut news);
        subflow.path = news;
        let watch = subflow.rare.watch.get_or_insert(Watch {
            since: now,
            probe_at: now,
            reinjected: false,
            head_reinjected: false,
        });
        watch.probe_at = now + interval;
        let subflow = subflow.id;
        connection.look_again(now + interval);
        if in_flight {
            connection.reinject_from(tcb);
            self.stats.mptcp_retrans += 1;
            self.observe_reinjection(owner, Some(idx), ReinjectCause::TimedOut);
        }
        self.observe(owner, Event::SubflowStale { subflow });
        self.touch_connection(owner);
    }

    /// A sidelined subflow is used again.
    fn recover(&mut self, owner: u32, idx: u32) {
        let Some(subflow) = self.tcbs.get_mut(idx).and_then(|tcb| tcb.subflow.as_mut()) else {
            return;
        };
        subflow.stale = false;
        // What it missed is nothing to catch up with: the others would wait for it.
        if let Some(rare) = subflow.rare.there() {
            rare.watch = None;
        }
        subflow.served = 0;
        let mut news = subflow.path;
        let _verdict = self.path_table.news(&mut news);
        subflow.path = news;
        let subflow = subflow.id;
        self.stats.subflow_recover += 1;
        self.observe(owner, Event::SubflowRecovered { subflow });
        self.touch_connection(owner);
    }

    /// What others found out about the paths of this connection since it last had something to send.
    pub(in crate::stack) fn heed_verdicts(&mut self, now: Instant, owner: u32) {
        let Some(connection) = self.connections.get(owner) else { return };
        let knows_all = |idx: &u32| {
            let subflow = self.tcbs.get(*idx).and_then(|tcb| tcb.subflow.as_ref());
            subflow.is_some_and(|s| !s.path.is_unknown() && !self.path_table.has_news(s.path))
        };
        if connection.subflows.iter().all(knows_all) || connection.is_alone(&self.tcbs) {
            return;
        }
        for at in 0..connection.subflows.len() {
            let Some(connection) = self.connections.get(owner) else { return };
            let Some(&idx) = connection.subflows.get(at) else { return };
            self.enter_path(now, idx);
            let Some(subflow) = self.tcbs.get(idx).and_then(|tcb| tcb.subflow.as_ref()) else {
                continue;
            };
            let mut path: PathRef = subflow.path;
            match self.path_table.news(&mut path) {
                Some(false) if !subflow.stale => self.sideline(now, owner, idx),
                Some(true) if subflow.stale => {
                    self.recover(owner, idx);
                    if let Some(tcb) = self.tcbs.get_mut(idx)
                        && tcb.flight_size() > 0
                    {
                        tcb.repeat_head(now);
                    }
                    self.touch_tcb(idx);
                }
                _ => {}
            }
        }
    }

    /// Looks after the subflows of a connection that are in doubt or sidelined.
    pub(super) fn health_timeout(&mut self, now: Instant, owner: u32) {
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.health_at = None;
        }
        self.heed_verdicts(now, owner);
        self.judge_witnesses(now, owner);
        for idx in self.subflows_of(owner) {
            let Some(subflow) = self.tcbs.get(idx).and_then(|tcb| tcb.subflow.as_ref()) else {
                continue;
            };
            match (&subflow.rare.watch, subflow.stale) {
                (None, _) => {}
                (Some(_), false) => self.judge_silence(now, owner, idx),
                (Some(_), true) => self.look_after(now, owner, idx),
            }
        }
    }

    /// A sidelined subflow: probed when that is due, reset when it never answers.
    fn look_after(&mut self, now: Instant, owner: u32, idx: u32) {
        let (interval, limit) = (self.config.mptcp.probe_interval, self.config.mptcp.stale_timeout);
        let working = self.has_working(owner);
        let Some(tcb) = self.tcbs.get_mut(idx) else { return };
        let waits = tcb.flight_size() > 0;
        let Some(subflow) = &mut tcb.subflow else { return };
        let Some(watch) = subflow.rare.there().and_then(|rare| rare.watch.as_mut()) else { return };
        if now.since(watch.since) >= limit {
            if working {
                // What it carries the peer has by other ways: better begin anew (RFC 8684 §3.6).
                self.stats.rm_subflow += 1;
                let reason = reset_reason::TOO_MUCH_OUTSTANDING_DATA;
                self.reset_subflow(now, owner, idx, reason, true);
            } else if let Some(connection) = self.connections.get_mut(owner) {
                // TCP's own timer decides, where it has one, unless another one works by then.
                connection.look_again(now + limit.max(interval));
            }
            return;
        }
        let next = if self.path_table.is_up(subflow.path) {
            Some(watch.probe_at).filter(|at| *at > now)
        } else {
            self.path_table.take_probe(now, subflow.path, waits, interval)
        };
        if let Some(next) = next {
            if let Some(connection) = self.connections.get_mut(owner) {
                connection.look_again(next);
            }
            return;
        }
        watch.probe_at = now + interval;
        self.stats.path_probe += 1;
        tcb.repeat_head(now);
        self.touch_tcb(idx);
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.look_again(now + interval);
        }
    }

    /// Another subflow carries the stream.
    fn has_working(&self, owner: u32) -> bool {
        let Some(connection) = self.connections.get(owner) else { return false };
        connection.subflows.iter().filter_map(|&idx| self.tcbs.get(idx)).any(|tcb| {
            let fresh = tcb
                .subflow
                .as_ref()
                .is_some_and(|s| !s.is_joining() && !s.stale && s.rare.watch.is_none());
            fresh && tcb.state.sending() && !tcb.write_closed()
        })
    }

    /// A join can be used. Whatever timed out before, when there was nowhere else to go, moves now.
    pub(in crate::stack) fn subflow_joined(&mut self, now: Instant, owner: u32, joined: u32) {
        self.observe_joined(owner, joined);
        if let Some(connection) = self.connections.get_mut(owner) {
            connection.survives();
            connection.passage.spread();
        }
        for idx in self.subflows_of(owner) {
            let dead = |t: &Tcb<B>| t.state.synchronized() && t.rto_count() > 0;
            if idx != joined && self.tcbs.get(idx).is_some_and(dead) {
                self.sideline(now, owner, idx);
            }
        }
        self.close_kept_subflows(owner);
    }
}
