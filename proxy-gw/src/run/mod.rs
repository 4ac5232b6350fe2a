//! `run`: driver, shards, admin endpoint and signals, from start to drain.
//!
//! Invariant: stdout carries `ready`, once, when the listeners are open; every way out goes through
//! one [`Exit`].

mod dpdk;
mod hangup;
mod shard;
mod signals;
#[cfg(test)]
mod sim;
mod stack_config;
mod supervisor;
mod tun;
mod worker;

use hangup::Hangup;
pub use hangup::Load;
pub use stack_config::stack_config;
pub use worker::ShardWorker;

use crate::admin::{Admin, Source, Terms};
use crate::cli::Exit;
use crate::config::{Config, DriverKind};
use crate::control::{Order, ShardHandle, Waker, mailbox};
use crate::gateway::Common;
use crate::logging;
use crate::metrics::{DriverCounters, ReadDriver};
use crate::policies::InForce;
use core::sync::atomic::AtomicBool;
use crossbeam::channel::{Sender, unbounded};
use mptcp_core::rng::Rng;
use mptcp_core::steering::Sharding;
use shard::{ShardCell, seed};
use signals::SignalWatch;
use std::io::stdout;
use std::sync::Arc;
use std::thread;
use supervisor::Supervisor;

/// What happens while the gateway runs.
#[derive(Debug)]
enum Notice {
    /// SIGTERM or SIGINT.
    Terminate,
    /// SIGHUP.
    Hangup,
    /// Something every new session may need has ended.
    Broken(&'static str),
    /// A shard's listeners are open.
    Ready,
    /// A shard's loop ended.
    Ended {
        shard: usize,
        /// How many sessions it had to reset, or why it failed.
        result: Result<u32, String>,
    },
}

/// Why a driver did not start.
#[derive(Debug)]
enum DriverError {
    /// The configuration asks for what it cannot have.
    Config(String),
    /// The driver, or one of its ports, is not there.
    Missing(String),
    /// Anything else.
    Failed(String),
}

impl DriverError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::BadConfig,
            Self::Missing(_) => Exit::NoDriver,
            Self::Failed(_) => Exit::Failed,
        }
    }
}

impl core::fmt::Display for DriverError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (Self::Config(why) | Self::Missing(why) | Self::Failed(why)) = self;
        f.write_str(why)
    }
}

/// A shard's place among those of the gateway.
#[derive(Clone)]
struct Place {
    common: Arc<Common>,
    /// Cookies that one shard grants are taken by all.
    fast_open_seed: [u8; 32],
    /// Which one it is, where there are several.
    sharding: Option<Sharding>,
}

impl Place {
    /// That of a gateway's only shard.
    fn alone(config: &Config, in_force: &Arc<InForce>) -> Result<Self, DriverError> {
        let seed = || seed().map_err(DriverError::Failed);
        let mut rng = Rng::from_seed(seed()?);
        let common = Arc::new(Common::with(config, Arc::clone(in_force), &mut rng));
        Ok(Self { common, fast_open_seed: seed()?, sharding: None })
    }

    fn shards(&self) -> u32 {
        self.sharding.as_ref().map_or(1, |sharding| sharding.layout.shards().into())
    }
}

/// The shards' control sides, as the drivers add them.
struct Shards {
    notices: Sender<Notice>,
    handles: Vec<ShardHandle>,
    read_driver: ReadDriver,
    /// At the start.
    in_force: Arc<InForce>,
}

impl Shards {
    /// A further shard, woken by `wake`.
    fn add(&mut self, wake: Waker) -> ShardCell {
        let (handle, mailbox) = mailbox(Arc::clone(&wake));
        let shard = self.handles.len();
        self.handles.push(handle);
        ShardCell::new(shard, self.notices.clone(), mailbox, wake)
    }

    fn order(&self, order: Order) {
        for handle in &self.handles {
            handle.order(order);
        }
    }
}

/// Runs the gateway until it is drained or fails; `load` reads the configuration again.
#[must_use]
pub fn run(config: &Config, load: Load) -> Exit {
    let exit = match logging::start(config.log) {
        Ok(()) => run_logged(config, load),
        Err(error) => {
            eprintln!("error: cannot start logging: {error}");
            Exit::Failed
        }
    };
    logging::flush();
    exit
}

fn run_logged(config: &Config, load: Load) -> Exit {
    for warning in config.warnings() {
        log::warn!("{warning}");
    }
    let (sender, notices) = unbounded();
    // Before anything else is started, so that no signal finds nobody.
    let signals = SignalWatch::start(sender.clone());
    let mut shards = Shards {
        notices: sender,
        handles: Vec::new(),
        read_driver: Box::new(DriverCounters::default),
        in_force: Arc::new(InForce::new(config)),
    };
    let started = match (signals, config.driver.kind) {
        (Err(error), _) => Err(DriverError::Failed(format!("cannot watch signals: {error}"))),
        (Ok(signals), DriverKind::Tun) => tun::start(config, &mut shards).map(|()| signals),
        (Ok(signals), DriverKind::Dpdk) => dpdk::start(config, &mut shards).map(|()| signals),
    };
    let signals = match started {
        Ok(signals) => signals,
        Err(error) => {
            logging::fatal(&error);
            return error.exit();
        }
    };
    signals.started();
    let ready = Arc::new(AtomicBool::new(false));
    let terms = Arc::new(Terms::new(config, Arc::clone(&shards.in_force)));
    let source = Source {
        shards: shards.handles.clone(),
        ports: config.ports.iter().map(|port| port.name.clone()).collect(),
        read_driver: core::mem::replace(&mut shards.read_driver, Box::new(DriverCounters::default)),
        ready: Arc::clone(&ready),
        terms: Arc::clone(&terms),
    };
    let admin = Admin::start(&config.admin.listen, source);
    let hangup = Hangup::start(load, terms, &shards);
    let hangup = hangup.inspect_err(|error| log::error!("SIGHUP will not be heard: {error}"));
    let hangup = || {
        if let Ok(hangup) = &hangup {
            hangup.ask();
        }
    };
    let mut supervisor = Supervisor::new(shards, ready, config.timeouts.drain, stdout(), &hangup);
    match admin {
        Ok(_admin) => supervisor.run(&notices),
        Err(error) => {
            logging::fatal(&error);
            supervisor.abort(Exit::Failed);
            supervisor.run(&notices)
        }
    }
}

/// Runs a shard on a thread of its own: `run` reports through the cell when it is ready.
fn spawn_shard(
    cell: ShardCell,
    run: impl FnOnce(&mut ShardCell) -> Result<u32, String> + Send + 'static,
) -> Result<(), DriverError> {
    let name = format!("plait-shard-{}", cell.shard);
    let body = move || {
        let mut cell = cell;
        let result = run(&mut cell);
        cell.report_end(result);
    };
    let spawned = thread::Builder::new().name(name).spawn(body);
    spawned.map(drop).map_err(|error| DriverError::Failed(format!("cannot make a thread: {error}")))
}

/// Pins this thread, if the CPU is there and may be used.
fn pin(cpu: u16) {
    let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: usize::from(cpu) });
    if !pinned {
        log::warn!("driver.cores: CPU {cpu} cannot be used; the shard runs on any");
    }
}
