//! Which CPU is whose, and what the gateway's one has done.

use core::time::Duration;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::time::Instant;

/// Ticks of `/proc` per second: `USER_HZ`, the same on every Linux of this architecture.
pub(crate) const TICKS_PER_S: f64 = 100.0;

/// The gateway has the last CPU, the load the others.
#[derive(Clone, Debug)]
pub(crate) struct Cpus {
    gateway: usize,
    load: Vec<usize>,
}

impl Cpus {
    /// Divides those this process may use, and moves it to the load's.
    pub(crate) fn divide() -> Result<Self, String> {
        let explain = |error| format!("CPUs: {error}");
        let allowed = sched_getaffinity(Pid::from_raw(0)).map_err(explain)?;
        let mut load: Vec<usize> =
            (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
        let gateway = load.pop().filter(|_| !load.is_empty());
        let gateway = gateway.ok_or("needs two CPUs: one for the gateway and one for the load")?;
        let mut set = CpuSet::new();
        for &cpu in &load {
            set.set(cpu).map_err(explain)?;
        }
        sched_setaffinity(Pid::from_raw(0), &set).map_err(explain)?;
        Ok(Self { gateway, load })
    }

    pub(crate) const fn gateway(&self) -> usize {
        self.gateway
    }

    pub(crate) fn gateway_mask(&self) -> String {
        mask(&[self.gateway])
    }

    /// One of those for the load.
    pub(crate) fn load(&self) -> usize {
        // `divide` left at least one.
        self.load.first().copied().unwrap_or(0)
    }

    pub(crate) fn load_mask(&self) -> String {
        mask(&self.load)
    }

    /// How the gateway's CPU stands now.
    pub(crate) fn read(&self) -> Result<Reading, String> {
        let text = std::fs::read_to_string("/proc/stat").map_err(|error| error.to_string())?;
        let idle = idle_ticks(&text, self.gateway).ok_or("no such CPU in /proc/stat")?;
        Ok(Reading { at: Instant::now(), idle })
    }
}

/// Groups of 32 from the highest down, as `rps_cpus` takes them.
fn mask(cpus: &[usize]) -> String {
    let groups = cpus.iter().max().map_or(0, |most| most / 32) + 1;
    let group = |group: usize| {
        let of_group = cpus.iter().filter(|&&cpu| cpu / 32 == group);
        format!("{:08x}", of_group.fold(0u32, |bits, cpu| bits | 1 << (cpu % 32)))
    };
    (0..groups).rev().map(group).collect::<Vec<_>>().join(",")
}

/// Idle time and time waiting for a disk, which is idle, too.
fn idle_ticks(stat: &str, cpu: usize) -> Option<u64> {
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
    let mut values = line.split_whitespace().skip(4).map(str::parse::<u64>);
    Some(values.next()?.ok()? + values.next()?.ok()?)
}

/// The gateway's CPU at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    at: Instant,
    idle: u64,
}

impl Reading {
    pub(crate) fn until(&self, later: &Self) -> Duration {
        later.at - self.at
    }

    /// Seconds between the two in which the CPU was not idle.
    pub(crate) fn busy_s(&self, later: &Self) -> f64 {
        let idle = later.idle.saturating_sub(self.idle) as f64 / TICKS_PER_S;
        (self.until(later).as_secs_f64() - idle).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_read_of_the_right_cpu() {
        let stat = "cpu  1 2 3 4 5 6\ncpu1 10 0 10 40 2 0 3\ncpu10 1 1 1 7 1 1\nintr 4\n";
        assert_eq!(idle_ticks(stat, 1), Some(42));
        assert_eq!(idle_ticks(stat, 10), Some(8));
        assert_eq!(idle_ticks(stat, 2), None);
    }

    #[test]
    fn masks_are_groups_of_hexadecimal() {
        assert_eq!(mask(&[0]), "00000001");
        assert_eq!(mask(&[1, 3]), "0000000a");
        assert_eq!(mask(&[0, 33]), "00000002,00000001");
    }
}
