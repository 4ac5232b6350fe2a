//! What the tests of the program share.

mod bed;
mod gateway;
mod helper;
mod scratch;
mod skip;

pub(crate) use bed::{Bed, Setup};
pub(crate) use helper::Helper;
pub(crate) use scratch::Scratch;

use core::time::Duration;

/// A file beside the tests.
pub(crate) fn beside(name: &str) -> String {
    format!("{}/tests/program/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Looks until `found` answers; what it waits for takes no time on a machine that is not overloaded.
pub(crate) fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(found) = found() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("did not happen: {what}")
}
