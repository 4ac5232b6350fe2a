//! The EAL: started once per process, with its log in the `log` crate.
//!
//! Invariant: an [`Eal`] reference exists only after `rte_eal_init` succeeded, so whatever takes
//! one may call DPDK.

use super::reason;
use crate::config::EalConfig;
use crate::eal_args;
use crate::error::DriverError;
use crate::hugepages::{self, Backing, Reservation};
use core::ffi::{c_char, c_int};
use core::sync::atomic::{AtomicBool, Ordering};
use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Proof that the EAL runs.
#[derive(Debug)]
pub struct Eal {
    config: EalConfig,
    reservation: Reservation,
    /// What was reserved has been given back.
    released: AtomicBool,
    huge: bool,
    /// `rte_eal_init` keeps pointers into its words.
    _words: Vec<CString>,
}

static EAL: OnceLock<Result<Eal, DriverError>> = OnceLock::new();

impl Eal {
    /// Starts the EAL, or returns the one that runs when it was started with the same `config`.
    ///
    /// The calling thread keeps its CPU affinity (DPDK would pin it, and every thread it starts
    /// later). A failed start is final for the process, as it is in DPDK.
    ///
    /// # Errors
    /// [`DriverError::Config`], [`DriverError::Hugepages`], [`DriverError::Eal`], or
    /// [`DriverError::AlreadyStarted`].
    pub fn start(config: &EalConfig) -> Result<&'static Self, DriverError> {
        eal_args::check_words(&config.words)?;
        let eal = EAL.get_or_init(|| Self::init(config)).as_ref().map_err(Clone::clone)?;
        if eal.config != *config {
            return Err(DriverError::AlreadyStarted);
        }
        Ok(eal)
    }

    /// Whether memory comes from hugepages.
    #[must_use]
    pub fn hugepages(&self) -> bool {
        self.huge
    }

    /// Gives hugepages reserved at the start back to the machine, once; they become free when the
    /// process unmaps them.
    pub fn release_hugepages(&self) {
        if !self.released.swap(true, Ordering::Relaxed) {
            self.reservation.release();
        }
    }

    fn init(config: &EalConfig) -> Result<Self, DriverError> {
        let backing = hugepages::choose(config.hugepages, config.memory_mb)?;
        let (huge, reservation) = match backing {
            Backing::Huge(reservation) => (true, reservation),
            Backing::Ordinary(why) => {
                log::warn!("packet memory on ordinary pages: {why}");
                (false, Reservation::default())
            }
        };
        let words = eal_args::build(config, huge, hugepages::hugetlbfs_mounted());
        let line = words.join(" ");
        log::info!("starting the EAL: {line}");
        // SAFETY: the sink is a plain function that lives as long as the process.
        let ret = unsafe { dpdk_sys::dio_log_to(log_sink) };
        if ret != 0 {
            log::warn!("EAL messages go to stderr: {}", reason(ret));
        }
        let mut kept: Vec<CString> =
            words.into_iter().filter_map(|word| CString::new(word).ok()).collect();
        let argc = c_int::try_from(kept.len()).unwrap_or(c_int::MAX);
        // The EAL permutes this vector and may look at it later: it is never freed.
        let argv: &'static mut [*mut c_char] = kept
            .iter_mut()
            .map(|word| word.as_ptr().cast_mut())
            .chain([core::ptr::null_mut()])
            .collect::<Vec<_>>()
            .leak();
        let ret = {
            let _diverted = stdout_to_stderr();
            // SAFETY: argv holds argc valid C strings and a terminating NULL, all alive for good: the
            // vector is leaked, the strings are kept in the static EAL (or leaked below).
            unsafe { dpdk_sys::dio_eal_init(argc, argv.as_mut_ptr()) }
        };
        if ret < 0 {
            reservation.release();
            core::mem::forget(kept);
            let last = last_error().clone();
            let reason = if last.is_empty() { reason(ret) } else { last };
            if reason.contains(BAD_ARGUMENTS) {
                return Err(DriverError::Config {
                    key: "driver.eal".to_owned(),
                    value: format!("{:?}", config.words),
                    remedy: format!("the EAL refuses it ({reason}); what it takes is on stderr"),
                });
            }
            return Err(DriverError::Eal { words: line, reason });
        }
        let released = AtomicBool::new(false);
        Ok(Self { config: config.clone(), reservation, released, huge, _words: kept })
    }
}

/// What the EAL says last when it does not understand its words.
const BAD_ARGUMENTS: &str = "Invalid 'command line' arguments";

/// Whatever the EAL prints goes to stderr until the guard is dropped: stdout is the program's
/// contract with its supervisor.
fn stdout_to_stderr() -> Option<impl Drop> {
    struct Restore(std::os::fd::OwnedFd);
    impl Drop for Restore {
        fn drop(&mut self) {
            // It was open when it was kept; nothing can be said on a stdout that is gone.
            let _ = rustix::stdio::dup2_stdout(&self.0);
        }
    }
    let kept = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).ok()?;
    rustix::stdio::dup2_stdout(std::io::stderr()).ok()?;
    Some(Restore(kept))
}

/// This thread as an lcore: it has a mempool cache and may poll queues. Undone when dropped.
#[derive(Debug)]
pub struct Lcore {
    /// Registration belongs to the thread.
    _not_send: core::marker::PhantomData<*mut ()>,
}

impl Lcore {
    /// Registers the calling thread, which should be pinned already.
    ///
    /// # Errors
    /// DPDK's reason: no lcore id is left, or multi-process mode is in use.
    pub fn register(_eal: &Eal) -> Result<Self, String> {
        // SAFETY: the EAL runs (`_eal`); registering is allowed from any thread.
        let ret = unsafe { dpdk_sys::dio_thread_register() };
        if ret != 0 {
            return Err(format!("rte_thread_register: {}", reason(ret)));
        }
        Ok(Self { _not_send: core::marker::PhantomData })
    }

    /// NUMA node of this thread.
    #[must_use]
    pub fn socket(&self) -> i32 {
        // SAFETY: reads a thread-local variable of a registered thread.
        unsafe { dpdk_sys::dio_thread_socket() }
    }
}

impl Drop for Lcore {
    fn drop(&mut self) {
        // SAFETY: this thread registered itself (the type is not Send) and does so once.
        unsafe { dpdk_sys::dio_thread_unregister() }
    }
}

static PARTIAL_LINE: Mutex<String> = Mutex::new(String::new());
static LAST_ERROR: Mutex<String> = Mutex::new(String::new());

/// A driver without line ends must not grow the buffer.
const LONGEST_LINE: usize = 4096;

fn last_error() -> MutexGuard<'static, String> {
    LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Called by the EAL, on any of its threads, with pieces of its log.
extern "C" fn log_sink(level: u32, text: *const c_char, len: usize) {
    if text.is_null() {
        return;
    }
    // SAFETY: the shim passes `len` readable bytes that stay valid during the call.
    let bytes = unsafe { core::slice::from_raw_parts(text.cast::<u8>(), len) };
    let mut line = PARTIAL_LINE.lock().unwrap_or_else(PoisonError::into_inner);
    for piece in String::from_utf8_lossy(bytes).split_inclusive('\n') {
        line.push_str(piece);
        if piece.ends_with('\n') || line.len() > LONGEST_LINE {
            log_line(level, line.trim_end());
            line.clear();
        }
    }
}

fn log_line(level: u32, line: &str) {
    if line.is_empty() {
        return;
    }
    let level = match level {
        0..=4 => log::Level::Error,
        5 => log::Level::Warn,
        6 => log::Level::Info,
        7 => log::Level::Debug,
        _ => log::Level::Trace,
    };
    if level == log::Level::Error {
        line.clone_into(&mut last_error());
    }
    log::log!(target: "dpdk", level, "{line}");
}

/// Creates a vdev after the EAL started.
///
/// # Errors
/// DPDK's reason.
pub fn create_vdev(_eal: &Eal, name: &str, args: &str) -> Result<(), String> {
    let (Ok(name), Ok(args)) = (CString::new(name), CString::new(args)) else {
        return Err("a NUL in the vdev's name or arguments".to_owned());
    };
    // SAFETY: the EAL runs; both strings are NUL-terminated and copied by the EAL.
    let ret = unsafe { dpdk_sys::dio_vdev_create(name.as_ptr(), args.as_ptr()) };
    if ret == 0 { Ok(()) } else { Err(reason(ret)) }
}

/// Removes a vdev made by [`create_vdev`]; its port must be closed or unused.
///
/// # Errors
/// DPDK's reason.
pub fn remove_vdev(_eal: &Eal, name: &str) -> Result<(), String> {
    let Ok(name) = CString::new(name) else {
        return Err("a NUL in the vdev's name".to_owned());
    };
    // SAFETY: the EAL runs; the string is NUL-terminated.
    let ret = unsafe { dpdk_sys::dio_vdev_remove(name.as_ptr()) };
    if ret == 0 { Ok(()) } else { Err(reason(ret)) }
}
