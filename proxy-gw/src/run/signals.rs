//! SIGTERM, SIGINT and SIGHUP as notices; the second one of the former while the driver starts ends the process.

use super::Notice;
use crate::cli::Exit;
use crate::logging;
use core::sync::atomic::{AtomicBool, Ordering};
use crossbeam::channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::io;
use std::sync::Arc;
use std::thread;

/// Watches the signals until dropped.
pub(super) struct SignalWatch {
    handle: Handle,
    /// The driver starts: nobody takes notices yet, and it may never end.
    is_starting: Arc<AtomicBool>,
}

impl SignalWatch {
    /// From here on every SIGTERM and SIGINT is a [`Notice::Terminate`], every SIGHUP a [`Notice::Hangup`]; until
    /// [`SignalWatch::started`] the second one of the former ends the process as failed.
    pub(super) fn start(notices: Sender<Notice>) -> io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let handle = signals.handle();
        let is_starting = Arc::new(AtomicBool::new(true));
        let starts = Arc::clone(&is_starting);
        thread::Builder::new().name("plait-signals".to_owned()).spawn(move || {
            let mut count = 0;
            for signal in signals.forever() {
                if signal == SIGHUP {
                    if notices.send(Notice::Hangup).is_err() {
                        return;
                    }
                    continue;
                }
                count += 1;
                if count > 1 && starts.load(Ordering::Acquire) {
                    logging::fatal(&"a second signal while the driver starts");
                    logging::flush();
                    // Exit handlers might wait for the very driver that hangs.
                    signal_hook::low_level::exit(Exit::Failed.code().into());
                }
                if notices.send(Notice::Terminate).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { handle, is_starting })
    }

    /// The notices are taken from here on.
    pub(super) fn started(&self) {
        self.is_starting.store(false, Ordering::Release);
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.handle.close();
    }
}
