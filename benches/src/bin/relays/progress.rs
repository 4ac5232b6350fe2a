//! Which step of how many runs, and how long the rest takes if it goes on like this.

use core::fmt::Write as _;
use core::time::Duration;
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    done: u32,
    all: u32,
}

impl Progress {
    pub(crate) fn new(all: usize) -> Self {
        Self { began: Instant::now(), done: 0, all: u32::try_from(all).unwrap_or(u32::MAX) }
    }

    /// Says on standard error that a step begins.
    pub(crate) fn begin(&mut self, what: &str) {
        eprintln!("{}", self.line(what, self.began.elapsed()));
        self.done += 1;
    }

    fn line(&self, what: &str, elapsed: Duration) -> String {
        let mut line = format!("{} of {}: {what}", self.done + 1, self.all);
        if self.done > 0 {
            let left = elapsed / self.done * self.all.saturating_sub(self.done);
            let seconds = left.as_secs();
            // Formatting into a String cannot fail.
            let _ = write!(line, "; about {}:{:02} min left", seconds / 60, seconds % 60);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_a_step_as_what_was_done() {
        let mut progress = Progress::new(10);
        assert_eq!(progress.line("a", Duration::ZERO), "1 of 10: a");
        progress.done = 4;
        let line = progress.line("b", Duration::from_secs(80));
        assert_eq!(line, "5 of 10: b; about 2:00 min left");
    }
}
