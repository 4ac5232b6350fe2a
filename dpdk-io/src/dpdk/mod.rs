//! The safe side of libdpdk: the EAL, mempools, owned mbufs, ports and bursts. All `unsafe` of the
//! crate is below this module.

pub(crate) mod arrival;
pub mod batch;
pub mod eal;
pub mod mbuf;
pub mod pool;
pub mod port;
pub mod ring;
pub(crate) mod rules;

use core::ffi::CStr;

/// DPDK's words for an errno.
fn reason(error: i32) -> String {
    // SAFETY: rte_strerror returns a pointer to a static or thread-local string, never NULL; it is
    // copied before anything else can overwrite it.
    let text = unsafe { CStr::from_ptr(dpdk_sys::dio_strerror(error)) };
    text.to_string_lossy().into_owned()
}

/// The version of the library in use, e.g. "DPDK 22.11.11".
pub(crate) fn version() -> &'static str {
    // SAFETY: rte_version returns a NUL-terminated string that lives as long as the process.
    let text: &'static CStr = unsafe { CStr::from_ptr(dpdk_sys::dio_version()) };
    text.to_str().unwrap_or("DPDK")
}
