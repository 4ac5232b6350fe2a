//! The turn of a test at the one EAL of its process.

use dpdk_io::dpdk::eal::Eal;
use dpdk_io::dpdk::pool::{HEADROOM, MbufPool, PoolSize};
use dpdk_io::{EalConfig, Hugepages};
use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<u32> = Mutex::new(0);

/// Without hugepages; the segments of vhost want their memory in single files.
pub(crate) fn config() -> EalConfig {
    let words =
        ["--in-memory", "--no-pci", "--no-telemetry", "--single-file-segments", "--log-level=3"];
    EalConfig {
        words: words.iter().map(|&word| word.to_owned()).collect(),
        hugepages: Hugepages::Off,
        memory_mb: 128,
        ..EalConfig::default()
    }
}

/// The calling thread's affinity.
fn allowed_cpus() -> Option<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find(|line| line.starts_with("Cpus_allowed:")).map(str::to_owned)
}

/// A test's turn at the EAL.
pub(crate) struct Turn {
    pub(crate) eal: &'static Eal,
    /// Of this test alone, for names.
    pub(crate) number: u32,
    _turn: MutexGuard<'static, u32>,
}

impl Turn {
    pub(crate) fn take() -> Self {
        let mut turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        *turn += 1;
        let number = *turn;
        let before = allowed_cpus();
        let eal = Eal::start(&config()).unwrap();
        assert_eq!(allowed_cpus(), before, "the EAL may not pin the thread that starts it");
        Self { eal, number, _turn: turn }
    }

    /// A pool that stays until the process ends.
    pub(crate) fn pool(&self, count: u32) -> MbufPool {
        let size = PoolSize { count, data_room: 2048 + HEADROOM };
        MbufPool::create(self.eal, &format!("test{}", self.number), size, -1).unwrap()
    }
}
