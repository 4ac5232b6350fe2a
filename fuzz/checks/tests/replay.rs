//! Every corpus file through its target, with every prefix and with every single byte changed.

use std::fs;
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    files
}

fn replay(target: &str, check: fn(&[u8])) {
    for file in corpus(target) {
        let mut data =
            fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        check(&data);
        for len in 0..data.len() {
            check(&data[..len]);
        }
        for at in 0..data.len() {
            let original = data[at];
            for value in [0, 1, 2, 0x7f, 0xff, original ^ 1, original ^ 0x10, original ^ 0x80] {
                data[at] = value;
                check(&data);
            }
            data[at] = original;
        }
    }
}

#[test]
fn options() {
    replay("options", fuzz_checks::options);
}

#[test]
fn tcp_header() {
    replay("tcp_header", fuzz_checks::tcp_header);
}

#[test]
fn udp() {
    replay("udp", fuzz_checks::udp);
}

#[test]
fn ip_packet() {
    replay("ip_packet", fuzz_checks::ip_packet);
}

#[test]
fn socks5() {
    replay("socks5", fuzz_checks::socks5);
}

#[test]
fn config() {
    replay("config", fuzz_checks::config);
}

/// A target without a corpus would be fuzzed but never replayed.
#[test]
fn every_target_is_replayed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let names = |dir: &str| {
        let entries = fs::read_dir(root.join(dir)).expect(dir);
        let mut names: Vec<_> = entries
            .map(|entry| {
                let path = entry.expect("an entry").path();
                path.file_stem().expect("a name").to_string_lossy().into_owned()
            })
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names("fuzz_targets"),
        ["config", "ip_packet", "options", "socks5", "tcp_header", "udp"]
    );
    assert_eq!(names("corpus"), names("fuzz_targets"));
}
