//! SIGTERM and SIGINT as notices.

use super::Notice;
use crossbeam::channel::Sender;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::io;
use std::thread;

/// Watches the signals until dropped.
pub(super) struct SignalWatch(Handle);

impl SignalWatch {
    /// From here on every SIGTERM and SIGINT is a [`Notice::Terminate`].
    pub(super) fn start(notices: Sender<Notice>) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let handle = signals.handle();
        thread::Builder::new().name("plait-signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                if notices.send(Notice::Terminate).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self(handle))
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.0.close();
    }
}
