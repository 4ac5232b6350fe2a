//! What is measured: the calls of [`counted`], and nothing around them.
//!
//! Invariant: callgrind collects inside of [`counted`] only (`--toggle-collect`), so what a workload
//! prepares between two calls costs nothing; calls do not nest, since the second would end the collection.

use core::time::Duration;
use std::time::Instant;

/// As callgrind knows [`counted`].
pub(crate) const SYMBOL: &str = "workloads::meter::counted";

/// Sums up what one workload did.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    operations: f64,
    elapsed: Duration,
    notes: Vec<String>,
}

impl Meter {
    /// Measures `work`.
    pub(crate) fn measure(&mut self, mut work: impl FnMut()) {
        let begin = Instant::now();
        counted(&mut work);
        self.elapsed += begin.elapsed();
    }

    /// What was measured is `count` operations more.
    pub(crate) fn add(&mut self, count: f64) {
        self.operations += count;
    }

    /// Something to know about it.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Operations so far.
    pub(crate) fn operations(&self) -> f64 {
        self.operations
    }

    /// How long all of it took.
    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Nanoseconds per operation.
    pub(crate) fn ns(&self) -> f64 {
        self.elapsed.as_secs_f64() * 1e9 / self.operations
    }
}

/// Neither inlined nor left by a jump: callgrind sees it begin and end.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    core::hint::black_box(());
}
