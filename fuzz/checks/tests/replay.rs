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

/// The same for targets where an input is a whole run: fewer of its changes are tried.
fn replay_runs(target: &str, check: fn(&[u8])) {
    for file in corpus(target) {
        let mut data =
            fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        check(&data);
        for at in (0..data.len()).step_by(1 + data.len() / 8) {
            check(&data[..at]);
            let original = data[at];
            data[at] ^= 0x80;
            check(&data);
            data[at] = original;
        }
    }
}

type Check = fn(&[u8]);

/// The targets where an input is a whole run.
const RUNS: [(&str, Check); 5] = [
    ("fragments", fuzz_checks::fragments),
    ("states", fuzz_checks::states),
    ("mappings", fuzz_checks::mappings),
    ("reassembly", fuzz_checks::reassembly),
    ("exchange", fuzz_checks::exchange),
];

/// The targets that take octets as they come.
const PARSERS: [(&str, Check); 10] = [
    ("options", fuzz_checks::options),
    ("tcp_header", fuzz_checks::tcp_header),
    ("udp", fuzz_checks::udp),
    ("ip_packet", fuzz_checks::ip_packet),
    ("socks5", fuzz_checks::socks5),
    ("datagrams", fuzz_checks::datagrams),
    ("dns", fuzz_checks::dns),
    ("convert", fuzz_checks::convert),
    ("http", fuzz_checks::http),
    ("config", fuzz_checks::config),
];

/// The target whose name is the beginning of `name`.
fn target_of(name: &str) -> Option<(&'static str, Check)> {
    RUNS.into_iter().chain(PARSERS).find(|(target, _)| name.starts_with(target))
}

#[test]
fn states() {
    replay_runs("states", fuzz_checks::states);
}

#[test]
fn exchange() {
    replay_runs("exchange", fuzz_checks::exchange);
}

#[test]
fn fragments() {
    replay_runs("fragments", fuzz_checks::fragments);
}

#[test]
fn mappings() {
    replay_runs("mappings", fuzz_checks::mappings);
}

#[test]
fn reassembly() {
    replay_runs("reassembly", fuzz_checks::reassembly);
}

/// Without a corpus, too: noise of a fixed generator through the targets that make runs of it, but for
/// `exchange`, which has not been fuzzed for long yet.
#[test]
fn noise() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..300 {
        let data: Vec<u8> = (0..64 + round * 4)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        for (target, check) in RUNS.into_iter().filter(|(name, _)| *name != "exchange") {
            if std::panic::catch_unwind(|| check(&data)).is_err() {
                let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(target);
                fs::write(&file, &data).expect("target is writable");
                panic!("{target} fails, see {}", file.display());
            }
        }
    }
}

/// `PLAIT_FUZZ=FILE`, with its whole path, runs that file alone through the target it is named after.
#[test]
fn one_file() {
    let Some(file) = std::env::var_os("PLAIT_FUZZ").map(PathBuf::from) else { return };
    let data = fs::read(&file).expect("the file");
    let name = file.file_name().expect("a name").to_string_lossy();
    let (_, check) = target_of(&name).expect("the name begins with that of a target");
    check(&data);
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
fn datagrams() {
    replay("datagrams", fuzz_checks::datagrams);
}

#[test]
fn dns() {
    replay("dns", fuzz_checks::dns);
}

#[test]
fn convert() {
    replay("convert", fuzz_checks::convert);
}

#[test]
fn http() {
    replay("http", fuzz_checks::http);
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
        [
            "config",
            "convert",
            "datagrams",
            "dns",
            "exchange",
            "fragments",
            "http",
            "ip_packet",
            "mappings",
            "options",
            "reassembly",
            "socks5",
            "states",
            "tcp_header",
            "udp"
        ]
    );
    assert_eq!(names("corpus"), names("fuzz_targets"));
    for name in names("fuzz_targets") {
        let found = target_of(&format!("{name}-crash-0123")).map(|(target, _)| target);
        assert_eq!(found, Some(name.as_str()), "`PLAIT_FUZZ` takes inputs of each");
    }
}
