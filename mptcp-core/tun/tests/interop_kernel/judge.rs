//! tshark as an independent judge of captures.

use std::path::PathBuf;
use std::process::Command;

/// Where packets of the calling test are kept.
pub(crate) fn capture_file() -> PathBuf {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").replace("::", "-");
    std::env::temp_dir().join(format!("plait-interop-{}-{test}.pcap", std::process::id()))
}

/// Every octet is mapped and every checksum right, or this panics.
pub(crate) fn capture(pcap: &[u8]) {
    let path = capture_file();
    std::fs::write(&path, pcap).expect("a file");
    let output = Command::new("tshark")
        .args(["-n", "-r"])
        .arg(&path)
        .args(["-o", "mptcp.analyze_mptcp:TRUE", "-o", "mptcp.analyze_mappings:TRUE"])
        .args(["-o", "mptcp.intersubflows_retransmission:TRUE", "-o", "tcp.check_checksum:TRUE"])
        .args(["-Y", FAULTS, "-T", "fields"])
        .args(["-e", "frame.number", "-e", "ip.src", "-e", "ipv6.src", "-e", "tcp.stream"])
        .args(["-e", "tcp.len", "-e", "mptcp.dss.missing_mapping", "-e", "_ws.expert.message"])
        .output()
        .expect("tshark runs");
    let faults = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
    let shown: String = faults.lines().take(20).flat_map(|line| [line, "\n"]).collect();
    assert!(faults.is_empty(), "tshark on {}:\n{shown}", path.display());
    std::fs::remove_file(&path).expect("it was just read");
}

/// What no packet of either end may be. Segments without payload have no mapping to miss, and data
/// outside a known connection means that a join's token or a key did not fit. The kernel writes a
/// checksum of zero as 0xffff, which means the same (RFC 1624).
const FAULTS: &str = "(tcp.len > 0 && mptcp.dss.missing_mapping) || mptcp.dss.infinite_mapping || \
    mptcp.connection.echoed_key_mismatch || mptcp.connection.missing_algorithm || \
    mptcp.connection.unsupported_algorithm || \
    (tcp.checksum.status == 0 && tcp.checksum != 0xffff) || \
    (tcp.len > 0 && tcp.option_kind == 30 && !mptcp.stream) || _ws.malformed";
