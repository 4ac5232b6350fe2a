//! Decides between hugepages and ordinary pages, reserving hugepages when allowed to.
//!
//! Invariant: pages reserved here are given back by [`Reservation::release`], or at once when they
//! turn out not to be enough.

use crate::config::Hugepages;
use crate::error::DriverError;
use std::fs;
use std::path::Path;

/// Hugepages of the default size, from `/proc/meminfo`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Meminfo {
    total: u64,
    free: u64,
    page_kb: u64,
}

/// What memory the EAL is told to use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Backing {
    /// Hugepages.
    Huge(Reservation),
    /// Ordinary pages, and why.
    Ordinary(String),
}

/// Hugepages that were added for us.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Reservation {
    added: u64,
}

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl Reservation {
    /// Gives back what was added; pages still mapped return to the kernel when they are unmapped.
    /// Others may have changed the number meanwhile, so it is lowered, not restored.
    pub(crate) fn release(&self) {
        if self.added == 0 {
            return;
        }
        let total = meminfo().total.saturating_sub(self.added);
        if let Err(error) = fs::write(NR_HUGEPAGES, total.to_string()) {
            log::warn!("cannot give hugepages back through {NR_HUGEPAGES}: {error}");
        }
    }
}

/// Chooses for `memory_mb` MiB.
pub(crate) fn choose(wish: Hugepages, memory_mb: u32) -> Result<Backing, DriverError> {
    if wish == Hugepages::Off {
        return Ok(Backing::Ordinary("driver.hugepages = off".to_owned()));
    }
    let info = meminfo();
    if info.free_mb() >= u64::from(memory_mb) {
        return Ok(Backing::Huge(Reservation::default()));
    }
    if let Some(reservation) = reserve(info, memory_mb) {
        return Ok(Backing::Huge(reservation));
    }
    match wish {
        Hugepages::Require => {
            Err(DriverError::Hugepages { needed_mb: memory_mb, free_mb: info.free_mb() })
        }
        _ => Ok(Backing::Ordinary(format!(
            "{memory_mb} MiB of hugepages needed, {} MiB free and no more to be had",
            info.free_mb()
        ))),
    }
}

#[cfg(have_dpdk)]
/// True when a hugetlbfs is mounted; without one the EAL needs `--in-memory`.
pub(crate) fn hugetlbfs_mounted() -> bool {
    fs::read_to_string("/proc/mounts")
        .is_ok_and(|mounts| mounts.lines().any(|line| line.split(' ').nth(2) == Some("hugetlbfs")))
}

fn reserve(info: Meminfo, memory_mb: u32) -> Option<Reservation> {
    if info.page_kb == 0 || !Path::new(NR_HUGEPAGES).exists() {
        return None;
    }
    let needed = (u64::from(memory_mb) * 1024).div_ceil(info.page_kb);
    let wanted = info.total + needed.saturating_sub(info.free);
    fs::write(NR_HUGEPAGES, wanted.to_string()).ok()?;
    let now = meminfo();
    // The kernel adds as many as it finds.
    let reservation = Reservation { added: now.total.saturating_sub(info.total) };
    if now.free >= needed {
        log::info!("reserved {} hugepages of {} kB", reservation.added, info.page_kb);
        return Some(reservation);
    }
    reservation.release();
    None
}

fn meminfo() -> Meminfo {
    fs::read_to_string("/proc/meminfo").map(|text| Meminfo::parse(&text)).unwrap_or_default()
}

impl Meminfo {
    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or(0)
        };
        Self {
            total: value("HugePages_Total"),
            free: value("HugePages_Free").saturating_sub(value("HugePages_Rsvd")),
            page_kb: value("Hugepagesize"),
        }
    }

    fn free_mb(self) -> u64 {
        self.free.saturating_mul(self.page_kb) / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_counts_what_is_free_and_not_promised() {
        let text = "MemTotal: 1 kB\nHugePages_Total:     256\nHugePages_Free:      200\n\
                    HugePages_Rsvd:       50\nHugepagesize:       2048 kB\n";
        let info = Meminfo::parse(text);
        assert_eq!(info, Meminfo { total: 256, free: 150, page_kb: 2048 });
        assert_eq!(info.free_mb(), 300);
        assert_eq!(Meminfo::parse("garbage\nHugePages_Free: x"), Meminfo::default());
    }

    #[test]
    fn off_never_looks() {
        assert!(matches!(choose(Hugepages::Off, u32::MAX), Ok(Backing::Ordinary(_))));
    }
}
