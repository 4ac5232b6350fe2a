//! One shard as its packet loop sees it: a stack, the gateway on it, and their mailboxes.

use crate::auth::VerifierClient;
use crate::control::{Command, Mailbox, Order, PathPage, SessionPage, ShardCounters};
use crate::gateway::Gateway;
use core::time::Duration;
use mptcp_core::buf::{PacketBuf, TxQueue};
use mptcp_core::driver::{Control, Progress, Worker};
use mptcp_core::stack::Stack;
use mptcp_core::steering::{SteeringNote, Tuple};
use mptcp_core::time::Instant;
use tokio::sync::oneshot;

/// Positions of sessions or paths looked at per page of a report.
const PAGE: u32 = 128;
/// Positions of sessions that a change is carried to in one turn.
const POLICY_PORTION: u32 = 256;
/// Commands and verdicts handled per turn.
const CONTROL_BUDGET: usize = 16;
/// How long a drained shard goes on for closing connections whose last segments are under way.
const LAST_SEGMENTS: Duration = Duration::from_secs(2);

/// See the module.
pub struct ShardWorker<B: PacketBuf> {
    stack: Stack<B>,
    gateway: Gateway,
    mailbox: Mailbox,
    verifier: Option<VerifierClient>,
    /// The order that was carried out last.
    obeyed: Order,
    /// When the last session ended, once draining.
    drained_at: Option<Instant>,
    /// Sessions that were reset because the drain had to end.
    aborted: u32,
    /// Who waits until all sessions go by what is in force.
    carrying: Vec<oneshot::Sender<()>>,
    /// Every password is right.
    #[cfg(test)]
    trusting: bool,
}

impl<B: PacketBuf> ShardWorker<B> {
    /// A shard whose listeners are open.
    #[must_use]
    pub fn new(
        stack: Stack<B>,
        gateway: Gateway,
        mailbox: Mailbox,
        verifier: Option<VerifierClient>,
    ) -> Self {
        Self {
            stack,
            gateway,
            mailbox,
            verifier,
            obeyed: Order::Serve,
            drained_at: None,
            aborted: 0,
            carrying: Vec::new(),
            #[cfg(test)]
            trusting: false,
        }
    }

    /// With nobody to check passwords, takes them all.
    #[cfg(test)]
    pub(super) fn trusting(self) -> Self {
        Self { trusting: true, ..self }
    }

    /// Sessions that were reset by [`Order::Abort`].
    pub(crate) fn aborted(&self) -> u32 {
        self.aborted
    }

    fn obey(&mut self, now: Instant) {
        let order = self.mailbox.order();
        if core::mem::replace(&mut self.obeyed, order) == order {
            return;
        }
        // To abort takes several turns: `abort_some`.
        if order == Order::Drain {
            self.gateway.drain(now, &mut self.stack);
        }
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Sessions { from, reply } => {
                let (sessions, next) = self.gateway.snapshot(now, &self.stack, from, PAGE);
                // Whoever asked may have gone.
                let _ = reply.send(SessionPage { sessions, next });
            }
            Command::Paths { from, reply } => {
                let (paths, next) = self.stack.paths_page(from, PAGE);
                let _ = reply.send(PathPage { now, paths: paths.collect(), next });
            }
            Command::Policies { in_force, done } => {
                self.gateway.set_policies(in_force);
                self.carrying.push(done);
            }
            Command::Counters { reply } => {
                let counters = ShardCounters {
                    gateway: self.gateway.counters().clone(),
                    sessions: self.gateway.session_count(),
                    dns: *self.gateway.resolver().counters(),
                    stack: self.stack.counters().clone(),
                    occupancy: self.stack.occupancy(),
                    accesses: self.stack.accesses().collect(),
                };
                let _ = reply.send(Box::new(counters));
            }
        }
    }

    /// Hands credentials to the verifier; what it does not take is refused at once.
    fn submit_verifications(&mut self, now: Instant) {
        while let Some(request) = self.gateway.poll_verification() {
            #[cfg(test)]
            if self.trusting {
                let right = request.answered(true);
                self.gateway.handle_verified(now, &mut self.stack, &right);
                continue;
            }
            let refused = match &self.verifier {
                Some(verifier) => verifier.submit(request).err().map(|request| *request),
                None => Some(request),
            };
            if let Some(request) = refused {
                let unanswered = request.answered(false);
                self.gateway.handle_unverifiable(now, &mut self.stack, &unanswered);
            }
        }
    }

    /// Carries what changed to a portion of the sessions.
    fn carry_policies(&mut self, now: Instant) {
        let progress = self.gateway.carry_policies(now, &mut self.stack, POLICY_PORTION);
        if progress == Progress::Done {
            for done in self.carrying.drain(..) {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    /// Resets as many sessions as the stack can tell all subflows and exits of.
    fn abort_some(&mut self, now: Instant) {
        let resets = usize::from(self.stack.config().mptcp.max_subflows) + 1;
        let most = u32::try_from(self.stack.reset_room() / resets).unwrap_or(u32::MAX);
        self.aborted += self.gateway.abort(now, &mut self.stack, most);
    }

    /// Whether nothing is left that this shard owes its peers.
    fn is_finished(&mut self, now: Instant) -> bool {
        if !self.gateway.is_drained() {
            return false;
        }
        let drained_at = *self.drained_at.get_or_insert(now);
        self.is_quiet() || now >= drained_at + LAST_SEGMENTS
    }

    /// Nothing is open, and everything there was to say about that is said.
    fn is_quiet(&self) -> bool {
        let occupancy = self.stack.occupancy();
        occupancy.tcbs == 0 && occupancy.connections == 0 && self.stack.transmit_idle()
    }
}

impl<B: PacketBuf> Worker<B> for ShardWorker<B> {
    fn handle_burst(&mut self, now: Instant, burst: &mut Vec<B>) {
        self.stack.handle_burst(now, burst);
    }

    fn handle_timeouts(&mut self, now: Instant, budget: usize) -> Progress {
        let stack = self.stack.handle_timeouts(now, budget);
        let gateway = self.gateway.handle_timeouts(now, &mut self.stack, budget);
        if stack == Progress::Done { gateway } else { Progress::More }
    }

    fn handle_events(&mut self, now: Instant) {
        self.gateway.handle_events(now, &mut self.stack);
        self.submit_verifications(now);
        while let Some(event) = self.stack.poll_path_event() {
            self.gateway.log_path(now, &event);
        }
    }

    fn poll_transmit<T: TxQueue<B>>(&mut self, now: Instant, tx: &mut T) -> Progress {
        self.stack.poll_transmit(now, tx)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let last_segments = self.drained_at.map(|at| at + LAST_SEGMENTS);
        let asked = self.mailbox.is_waiting().then_some(Instant::from_nanos(0));
        // A loop that sleeps between its turns must not do so before the next portion, or the end.
        let drained = self.gateway.is_drained();
        let portions = self.obeyed == Order::Abort || self.gateway.carries_policies();
        let at_once = if drained { self.is_quiet() } else { portions };
        let at_once = at_once.then_some(Instant::MIN);
        let deadlines =
            [self.stack.poll_timeout(), self.gateway.poll_timeout(), last_segments, asked, at_once];
        deadlines.into_iter().flatten().min()
    }

    fn poll_control(&mut self, now: Instant) -> Control {
        self.obey(now);
        for _ in 0..CONTROL_BUDGET {
            let Some(command) = self.mailbox.poll() else { break };
            // A page allocates for each of its entries: packets come before the next one.
            let is_last = matches!(command, Command::Sessions { .. } | Command::Paths { .. });
            self.handle_command(now, command);
            if is_last {
                break;
            }
        }
        for _ in 0..CONTROL_BUDGET {
            let verdict = self.verifier.as_ref().and_then(VerifierClient::poll);
            let Some(verdict) = verdict else { break };
            self.gateway.handle_verified(now, &mut self.stack, &verdict);
        }
        self.carry_policies(now);
        if self.obeyed == Order::Abort && !self.gateway.is_drained() {
            self.abort_some(now);
        }
        if self.is_finished(now) { Control::Stop } else { Control::Continue }
    }

    fn reassemble(&mut self, now: Instant, fragment: B) -> Option<B> {
        self.stack.reassemble(now, fragment)
    }

    fn has_flow(&self, tuple: &Tuple) -> bool {
        self.stack.has_flow(tuple)
    }

    fn poll_steering_note(&mut self) -> Option<SteeringNote> {
        self.stack.poll_steering_note()
    }
}
