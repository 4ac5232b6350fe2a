//! Ctrl-C, SIGTERM and SIGHUP: the run ends, and everything it made with it.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

const TICK: Duration = Duration::from_millis(20);

/// Whether the user wants the end.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches them for the rest of the process's life.
    ///
    /// # Errors
    /// Why they cannot be caught.
    pub fn catch() -> Result<Self, String> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .map_err(|error| format!("catching signal {signal}: {error}"))?;
        }
        Ok(Self(flag))
    }

    /// Goes on as long as nobody wants the end.
    ///
    /// # Errors
    /// That somebody does.
    pub fn check(&self) -> Result<(), String> {
        if self.0.load(Ordering::Relaxed) { Err("interrupted".to_owned()) } else { Ok(()) }
    }

    /// Sleeps that long.
    ///
    /// # Errors
    /// That the end is wanted.
    pub fn sleep(&self, time: Duration) -> Result<(), String> {
        self.wait_for(time, || Ok(false)).map(drop)
    }

    /// Whether `done` held before `most` had passed.
    ///
    /// # Errors
    /// That the end is wanted, or the error of `done`.
    pub fn wait_for(
        &self,
        most: Duration,
        mut done: impl FnMut() -> Result<bool, String>,
    ) -> Result<bool, String> {
        let end = Instant::now() + most;
        loop {
            self.check()?;
            if done()? {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(TICK));
        }
    }
}
