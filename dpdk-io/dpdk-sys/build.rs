//! Looks for libdpdk with pkg-config and compiles the shim against it.
//!
//! Every word of `pkg-config --cflags libdpdk` reaches the compiler (`-include rte_config.h` and
//! `-march` belong to the ABI). Tells dependents what was found as `DEP_DPDK_FOUND` (0 or 1) and
//! `DEP_DPDK_VERSION`.

use std::env;
use std::process::Command;

/// Oldest DPDK whose API the shim is written for.
const OLDEST: &str = "22.11";

/// What the shim itself calls; drivers are loaded by the EAL at run time.
const LIBRARIES: [&str; 9] = [
    "rte_ethdev",
    "rte_net",
    "rte_mbuf",
    "rte_mempool",
    "rte_ring",
    "rte_eal",
    "rte_meter",
    "rte_kvargs",
    "rte_telemetry",
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(have_dpdk)");
    println!("cargo::rerun-if-changed=shim/shim.c");
    println!("cargo::rerun-if-changed=shim/shim.h");
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["DPDK_IO", "PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR"] {
        println!("cargo::rerun-if-env-changed={name}");
    }

    let wish = env::var("DPDK_IO").unwrap_or_default();
    if !["", "auto", "off", "require"].contains(&wish.as_str()) {
        println!("cargo::error=DPDK_IO={wish} is none of auto, off, require");
        return;
    }
    let required = wish == "require" || env::var_os("CARGO_FEATURE_REQUIRED").is_some();
    if wish == "off" {
        if required {
            println!("cargo::error=DPDK_IO=off contradicts feature `dpdk`, which requires libdpdk");
        } else {
            absent();
        }
        return;
    }
    match find() {
        Ok((version, cflags, libs)) => {
            compile(&cflags);
            link(&libs);
            println!("cargo::rustc-cfg=have_dpdk");
            println!("cargo::metadata=found=1");
            println!("cargo::metadata=version={version}");
        }
        Err(why) if required => println!("cargo::error={why}; apt-get install libdpdk-dev"),
        Err(why) => {
            println!("cargo::warning=building without DPDK: {why}; apt-get install libdpdk-dev");
            absent();
        }
    }
}

fn absent() {
    println!("cargo::metadata=found=0");
    println!("cargo::metadata=version=");
}

/// Version, compiler words and linker words of libdpdk, or why there is none.
fn find() -> Result<(String, Vec<String>, Vec<String>), String> {
    let version = pkg_config(&["--modversion"])?.join(" ");
    pkg_config(&[&format!("--atleast-version={OLDEST}")])
        .map_err(|_| format!("libdpdk {version} is older than {OLDEST}"))?;
    Ok((version, pkg_config(&["--cflags"])?, pkg_config(&["--libs"])?))
}

fn pkg_config(words: &[&str]) -> Result<Vec<String>, String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = Command::new(&program)
        .args(words)
        .arg("libdpdk")
        .output()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().next().unwrap_or("no libdpdk.pc found");
        return Err(format!("{program} libdpdk: {line}"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn compile(cflags: &[String]) {
    let mut build = cc::Build::new();
    build.file("shim/shim.c").std("gnu11").warnings(true);
    for word in cflags {
        build.flag(word);
    }
    // Clones of one payload share its mbuf between threads: plain refcounts are not an option.
    build.define("_GNU_SOURCE", None).define("ALLOW_EXPERIMENTAL_API", None);
    build.compile("dpdk_io_shim");
}

fn link(libs: &[String]) {
    for word in libs {
        if let Some(dir) = word.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={dir}");
        }
    }
    for name in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={name}");
    }
}
