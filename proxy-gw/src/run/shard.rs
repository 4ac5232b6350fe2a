//! One shard's thread: what it is made of, and how it reports.

use super::stack_config::stack_config;
use super::worker::ShardWorker;
use super::{Notice, Place};
use crate::auth::VerifierClient;
use crate::config::Config;
use crate::control::{Mailbox, Waker};
use crate::gateway::Gateway;
use crossbeam::channel::Sender;
use mptcp_core::buf::{BufPool, PacketBuf};
use mptcp_core::rng::Rng;
use mptcp_core::stack::Stack;
use mptcp_core::time::Instant;
use std::sync::Arc;

/// A shard's ties to the control side. Dropping it, by a panic too, reports the end.
pub(super) struct ShardCell {
    pub(super) shard: usize,
    notices: Sender<Notice>,
    mailbox: Option<Mailbox>,
    wake: Waker,
    ended: bool,
}

impl ShardCell {
    pub(super) fn new(
        shard: usize,
        notices: Sender<Notice>,
        mailbox: Mailbox,
        wake: Waker,
    ) -> Self {
        Self { shard, notices, mailbox: Some(mailbox), wake, ended: false }
    }

    /// The listeners are open and the loop starts.
    pub(super) fn report_ready(&self) {
        let _ = self.notices.send(Notice::Ready);
    }

    /// The loop ended: how many sessions it reset, or why it failed.
    pub(super) fn report_end(mut self, result: Result<u32, String>) {
        self.ended = true;
        let _ = self.notices.send(Notice::Ended { shard: self.shard, result });
    }

    /// The stack, the gateway with its listeners open, and the verifier.
    pub(super) fn make_worker<B: PacketBuf>(
        &mut self,
        config: &Config,
        place: &Place,
        now: Instant,
        pool: Box<dyn BufPool<B> + Send>,
    ) -> Result<ShardWorker<B>, String> {
        let mailbox = self.mailbox.take().ok_or("a shard was started twice")?;
        let config = &config.share(place.shards());
        let mut stack_config = stack_config(config, seed()?)
            .map_err(|error| format!("cannot make a stack: {error}"))?;
        stack_config.sharding.clone_from(&place.sharding);
        stack_config.fast_open_seed = Some(place.fast_open_seed);
        let mut stack = Stack::new(stack_config, now, pool);
        let common = Arc::clone(&place.common);
        let mut gateway = Gateway::beside(config, common, &mut Rng::from_seed(seed()?));
        gateway
            .listen(&mut stack)
            .map_err(|(address, why)| format!("cannot listen on {address}: {why}"))?;
        let verifier = match config.checks_passwords() {
            false => None,
            true => {
                let wake = Arc::clone(&self.wake);
                let notices = self.notices.clone();
                let failed = move || {
                    let _ =
                        notices.send(Notice::Broken("the thread that checks passwords panicked"));
                };
                let client = VerifierClient::start(Box::new(move || wake()), Box::new(failed));
                Some(client.map_err(|error| format!("cannot start the verifier: {error}"))?)
            }
        };
        Ok(ShardWorker::new(stack, gateway, mailbox, verifier))
    }
}

impl Drop for ShardCell {
    fn drop(&mut self) {
        if !self.ended {
            let result = Err("its thread panicked".to_owned());
            let _ = self.notices.send(Notice::Ended { shard: self.shard, result });
        }
    }
}

/// Fresh entropy of the system.
pub(super) fn seed() -> Result<[u8; 32], String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| format!("no randomness: {error}"))?;
    Ok(seed)
}
