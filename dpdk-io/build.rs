//! Sets `cfg(have_dpdk)` when dpdk-sys found libdpdk.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(have_dpdk)");
    println!("cargo::rerun-if-env-changed=DEP_DPDK_FOUND");
    if std::env::var("DEP_DPDK_FOUND").as_deref() == Ok("1") {
        println!("cargo::rustc-cfg=have_dpdk");
    }
}
