//! What the main thread does while the shards run: `ready`, drain, abort, exit code.
//!
//! Invariant: it ends when every shard has, or when shards that were told to reset everything do
//! not end in time.

use super::{Notice, Shards};
use crate::cli::Exit;
use crate::control::Order;
use crate::logging;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

/// How long shards may take to end once they were told to reset everything.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);

/// Where the process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Some shard's listeners are not open yet.
    Starting,
    /// Serving.
    Running,
    /// Sessions may finish until then.
    Draining(Instant),
    /// Shards reset everything, until then.
    Aborting(Instant),
}

/// Follows the shards from start to end.
pub(super) struct Supervisor<'a, W> {
    shards: Shards,
    ready: Arc<AtomicBool>,
    drain: Duration,
    phase: Phase,
    ready_count: usize,
    ended_count: usize,
    exit: Exit,
    /// Where `ready` goes.
    stdout: W,
    /// What SIGHUP asks for.
    hangup: &'a dyn Fn(),
}

impl<'a, W: Write> Supervisor<'a, W> {
    pub(super) fn new(
        shards: Shards,
        ready: Arc<AtomicBool>,
        drain: Duration,
        stdout: W,
        hangup: &'a dyn Fn(),
    ) -> Self {
        Self {
            shards,
            ready,
            drain,
            phase: Phase::Starting,
            ready_count: 0,
            ended_count: 0,
            exit: Exit::Ok,
            stdout,
            hangup,
        }
    }

    /// Until every shard has ended.
    pub(super) fn run(&mut self, notices: &Receiver<Notice>) -> Exit {
        while self.ended_count < self.shards.handles.len() {
            match self.next_notice(notices) {
                Ok(Notice::Ready) => self.handle_ready(),
                Ok(Notice::Terminate) => self.handle_terminate(),
                Ok(Notice::Hangup) => (self.hangup)(),
                Ok(Notice::Broken(what)) => self.handle_broken(what),
                Ok(Notice::Ended { shard, result }) => self.handle_ended(shard, result),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(exit) = self.handle_deadline() {
                        return exit;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Exit::Failed,
            }
        }
        self.exit
    }

    fn next_notice(&self, notices: &Receiver<Notice>) -> Result<Notice, RecvTimeoutError> {
        match self.phase {
            Phase::Starting | Phase::Running => {
                notices.recv().map_err(|_| RecvTimeoutError::Disconnected)
            }
            Phase::Draining(deadline) | Phase::Aborting(deadline) => {
                notices.recv_deadline(deadline)
            }
        }
    }

    fn handle_ready(&mut self) {
        self.ready_count += 1;
        if self.ready_count < self.shards.handles.len() || self.phase != Phase::Starting {
            return;
        }
        self.phase = Phase::Running;
        self.ready.store(true, Ordering::Release);
        log::info!("ready");
        // Whoever started us may not care to read it.
        let _ = self.stdout.write_all(b"ready\n").and_then(|()| self.stdout.flush());
    }

    fn handle_terminate(&mut self) {
        match self.phase {
            Phase::Starting | Phase::Running => self.start_drain(),
            Phase::Draining(_) => {
                log::warn!("a second signal: resetting the sessions that are left");
                self.abort(Exit::Ok);
            }
            Phase::Aborting(_) => {}
        }
    }

    fn start_drain(&mut self) {
        log::info!("draining for at most {} s", self.drain.as_secs());
        self.ready.store(false, Ordering::Release);
        self.shards.order(Order::Drain);
        self.phase = Phase::Draining(Instant::now() + self.drain);
    }

    /// New sessions would fail: those that are there may finish, and the process ends as failed.
    fn handle_broken(&mut self, what: &str) {
        logging::fatal(&what);
        self.raise(Exit::Failed);
        if matches!(self.phase, Phase::Starting | Phase::Running) {
            self.start_drain();
        }
    }

    fn handle_ended(&mut self, shard: usize, result: Result<u32, String>) {
        self.ended_count += 1;
        match result {
            Ok(0) => log::info!("shard {shard} ended"),
            Ok(reset) => {
                log::warn!("shard {shard} ended; {reset} sessions were reset");
                self.raise(Exit::NotDrained);
            }
            Err(why) => {
                logging::fatal(&format_args!("shard {shard} failed: {why}"));
                self.raise(Exit::Failed);
            }
        }
        let wanted = matches!(self.phase, Phase::Draining(_) | Phase::Aborting(_));
        if !wanted {
            // Nobody asked for it: without one of its shards the gateway is broken.
            self.abort(Exit::Failed);
        }
    }

    /// A deadline passed; `Some` when the shards do not end by themselves.
    fn handle_deadline(&mut self) -> Option<Exit> {
        if matches!(self.phase, Phase::Aborting(_)) {
            logging::fatal(&"the shards do not end");
            return Some(Exit::Failed);
        }
        log::warn!("the drain deadline passed");
        self.abort(Exit::Ok);
        None
    }

    /// Ends everything now.
    pub(super) fn abort(&mut self, exit: Exit) {
        self.raise(exit);
        self.ready.store(false, Ordering::Release);
        self.shards.order(Order::Abort);
        self.phase = Phase::Aborting(Instant::now() + ABORT_PATIENCE);
    }

    /// A failure outweighs sessions that were reset, and both outweigh success.
    fn raise(&mut self, exit: Exit) {
        let weight = |exit: Exit| match exit {
            Exit::Ok => 0,
            Exit::NotDrained => 1,
            _ => 2,
        };
        if weight(exit) > weight(self.exit) {
            self.exit = exit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Mailbox, mailbox};
    use crate::metrics::DriverCounters;
    use crate::policies::InForce;
    use crossbeam::channel::{Sender, unbounded};

    const LONG: Duration = Duration::from_secs(3600);

    /// A supervisor over shards that the test plays.
    struct Stage {
        supervisor: Supervisor<'static, Vec<u8>>,
        ready: Arc<AtomicBool>,
        notices: Sender<Notice>,
        inbox: Receiver<Notice>,
        mailboxes: Vec<Mailbox>,
    }

    impl Stage {
        fn new(shards: usize, drain: Duration) -> Self {
            let (notices, inbox) = unbounded();
            let (handles, mailboxes) = (0..shards).map(|_| mailbox(Arc::new(|| {}))).unzip();
            let text = crate::gateway::tests::CONFIG;
            let config = crate::config::parse("test", text, &[]).unwrap();
            let shards = Shards {
                notices: notices.clone(),
                handles,
                read_driver: Box::new(DriverCounters::default),
                in_force: Arc::new(InForce::new(&config)),
            };
            let ready = Arc::new(AtomicBool::new(false));
            let supervisor = Supervisor::new(shards, Arc::clone(&ready), drain, Vec::new(), &|| ());
            Self { supervisor, ready, notices, inbox, mailboxes }
        }

        fn notice(&self, notice: Notice) {
            self.notices.send(notice).unwrap();
        }

        fn ended(&self, shard: usize, result: Result<u32, &str>) {
            let result = result.map_err(str::to_owned);
            self.notice(Notice::Ended { shard, result });
        }

        fn run(&mut self) -> Exit {
            self.supervisor.run(&self.inbox)
        }

        /// What a shard is to do.
        fn told(&self, shard: usize) -> Order {
            self.mailboxes[shard].order()
        }
    }

    #[test]
    fn ready_is_said_once_when_every_shard_is() {
        let mut stage = Stage::new(2, LONG);
        stage.supervisor.handle_ready();
        assert!(stage.supervisor.stdout.is_empty() && !stage.ready.load(Ordering::Acquire));
        stage.supervisor.handle_ready();
        assert_eq!(stage.supervisor.stdout, b"ready\n");
        assert!(stage.ready.load(Ordering::Acquire));
    }

    #[test]
    fn the_first_signal_drains() {
        let mut stage = Stage::new(2, LONG);
        stage.notice(Notice::Ready);
        stage.notice(Notice::Ready);
        // That one ends nothing.
        stage.notice(Notice::Hangup);
        stage.notice(Notice::Terminate);
        stage.notice(Notice::Hangup);
        stage.ended(0, Ok(0));
        stage.ended(1, Ok(0));
        assert_eq!(stage.run(), Exit::Ok);
        assert!(!stage.ready.load(Ordering::Acquire));
        assert_eq!((stage.told(0), stage.told(1)), (Order::Drain, Order::Drain));
    }

    #[test]
    fn the_second_signal_aborts_and_further_ones_change_nothing() {
        let mut stage = Stage::new(1, LONG);
        stage.notice(Notice::Ready);
        for _ in 0..3 {
            stage.notice(Notice::Terminate);
        }
        stage.ended(0, Ok(7));
        assert_eq!(stage.run(), Exit::NotDrained);
        assert_eq!(stage.told(0), Order::Abort);
    }

    #[test]
    fn a_broken_part_drains_and_ends_as_failed() {
        let mut stage = Stage::new(1, LONG);
        stage.notice(Notice::Ready);
        stage.notice(Notice::Broken("the verifier panicked"));
        stage.ended(0, Ok(0));
        assert_eq!(stage.run(), Exit::Failed);
        assert_eq!(stage.told(0), Order::Drain, "sessions that are there may finish");
    }

    #[test]
    fn an_abort_with_nothing_left_is_a_drain() {
        let mut stage = Stage::new(1, LONG);
        stage.notice(Notice::Terminate);
        stage.notice(Notice::Terminate);
        stage.ended(0, Ok(0));
        assert_eq!(stage.run(), Exit::Ok);
    }

    #[test]
    fn the_drain_deadline_aborts() {
        let mut stage = Stage::new(1, Duration::ZERO);
        stage.supervisor.handle_ready();
        stage.supervisor.handle_terminate();
        assert_eq!(stage.supervisor.handle_deadline(), None);
        assert_eq!(stage.told(0), Order::Abort);
        stage.ended(0, Ok(1));
        assert_eq!(stage.run(), Exit::NotDrained);
    }

    #[test]
    fn shards_that_do_not_end_are_left_behind() {
        let mut stage = Stage::new(1, Duration::ZERO);
        stage.supervisor.handle_terminate();
        assert_eq!(stage.supervisor.handle_deadline(), None);
        assert_eq!(stage.supervisor.handle_deadline(), Some(Exit::Failed));
    }

    #[test]
    fn a_shard_that_fails_takes_the_others_along() {
        let mut stage = Stage::new(2, LONG);
        stage.notice(Notice::Ready);
        stage.notice(Notice::Ready);
        stage.ended(1, Err("the device was deleted"));
        stage.ended(0, Ok(3));
        assert_eq!(stage.run(), Exit::Failed, "a failure outweighs reset sessions");
        assert_eq!(stage.told(0), Order::Abort);
    }

    #[test]
    fn a_shard_that_ends_unasked_is_a_failure() {
        let mut stage = Stage::new(1, LONG);
        stage.notice(Notice::Ready);
        stage.ended(0, Ok(0));
        assert_eq!(stage.run(), Exit::Failed);
    }

    #[test]
    fn a_signal_before_ready_ends_without_saying_it() {
        let mut stage = Stage::new(1, LONG);
        stage.notice(Notice::Terminate);
        stage.notice(Notice::Ready);
        stage.ended(0, Ok(0));
        assert_eq!(stage.run(), Exit::Ok);
        assert!(stage.supervisor.stdout.is_empty());
    }
}
