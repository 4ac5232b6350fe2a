//! What `--version` says: this program's version and the drivers it was built with.

/// Version and drivers, on separate lines.
#[must_use]
pub(crate) fn long() -> String {
    let dpdk = dpdk_io::drivers();
    format!("{}\ndrivers: {} ({dpdk})", env!("CARGO_PKG_VERSION"), drivers().join(", "))
}

/// Drivers of this build, as `driver.kind` names them.
#[must_use]
pub(crate) fn drivers() -> Vec<&'static str> {
    // With libdpdk it is the library's own version string, "DPDK 22.11.1".
    if dpdk_io::drivers().starts_with("DPDK") { vec!["tun", "dpdk"] } else { vec!["tun"] }
}
