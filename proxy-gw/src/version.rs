//! What `--version` says: this program's version and the drivers it was built with.

/// Version and drivers, on separate lines.
#[must_use]
pub(crate) fn long() -> String {
    format!("{}\ndrivers: {}", env!("CARGO_PKG_VERSION"), drivers().join(", "))
}

/// Drivers of this build, as `driver.kind` names them.
#[must_use]
pub(crate) fn drivers() -> Vec<&'static str> {
    vec!["tun", dpdk_io::drivers()]
}
