//! The packets of a run that failed, as a pcapng file for tshark and Wireshark.
//!
//! A run is decided by its seed, so captures cost nothing until one fails: it is run again, which is
//! the same packet by packet, and this time written down.

use core::cell::Cell;
use core::panic::AssertUnwindSafe;
use mptcp_core::buf::HeapBuf;
use mptcp_core::event_log;
use mptcp_core::pcapng::{Direction, Packet, Writer};
use mptcp_core::stack::Stack;
use mptcp_core::time::Instant;
use netsim::network::{Network, Tap};
use netsim::referee::Point;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

thread_local! {
    /// Where the next network of this thread writes its packets.
    static WANTED: Cell<Option<PathBuf>> = const { Cell::new(None) };
}

/// Does `run` again, keeps the packets of its first network in `target/sim/seed-SEED.pcapng` and the
/// event logs of its connections in `seed-SEED.jsonl` beside it, and answers the former's path.
pub(crate) fn of_seed<R>(seed: u64, run: impl FnOnce() -> R) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("sim");
    fs::create_dir_all(&dir).expect("target is writable");
    let path = dir.join(format!("seed-{seed}.pcapng"));
    WANTED.set(Some(path.clone()));
    if std::panic::catch_unwind(AssertUnwindSafe(run)).is_ok() {
        eprintln!("seed {seed} did not fail again: its run depends on more than the seed");
    }
    WANTED.set(None);
    path
}

/// Writes down what happens on `net` when that is wanted. `names` are those of its nodes, in order.
/// Answers where its event logs belong then.
pub(crate) fn install(net: &mut Network, names: &'static [&'static str]) -> Option<PathBuf> {
    let path = WANTED.take()?;
    net.set_tap(tap(&path, names));
    Some(path.with_extension("jsonl"))
}

/// Writes the event logs of the hosts, one trace after the other.
pub(crate) fn write_logs(path: &Path, hosts: &[(&str, &Stack<HeapBuf>)]) {
    let mut text = String::new();
    for (name, stack) in hosts {
        for (id, log) in stack.event_logs().filter(|(_, log)| !log.is_empty()) {
            let title = format!("{name} {id:?}, {} records forgotten", log.dropped());
            event_log::write_header(&mut text, &title).expect("a String takes everything");
            for record in log.iter() {
                event_log::write_record(&mut text, record).expect("a String takes everything");
            }
        }
    }
    fs::write(path, text).expect("target is writable");
}

/// One interface per node and path.
fn tap(path: &Path, names: &'static [&'static str]) -> Tap {
    let mut file = BufWriter::new(File::create(path).expect("target is writable"));
    let mut writer =
        Writer::new(move |block: &[u8]| file.write_all(block).expect("there is room on the disk"));
    let mut interfaces = BTreeMap::new();
    Box::new(move |now, node, path, point, data| {
        let interface = *interfaces.entry((node, path)).or_insert_with(|| {
            let name = names.get(node.0).copied().unwrap_or("node");
            writer.interface(&format!("{name} path {}", path.0))
        });
        let direction = match point {
            Point::Sent => Direction::Outbound,
            Point::Delivered => Direction::Inbound,
        };
        let at = Instant::from_nanos(now);
        writer.packet(&Packet { interface, at, direction, data, comment: None });
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::run;
    use crate::{link, pair, world};
    use mptcp_core::time::Duration;

    /// Type and body of every block.
    fn blocks(mut file: &[u8]) -> Vec<(u32, &[u8])> {
        let mut all = Vec::new();
        while let Some((head, _)) = file.split_first_chunk::<8>() {
            let [kind, len] = [0, 4].map(|at| {
                u32::from_le_bytes(head[at..at + 4].try_into().expect("four of eight bytes"))
            });
            let (block, rest) = file.split_at(len as usize);
            all.push((kind, &block[8..block.len() - 4]));
            file = rest;
        }
        all
    }

    #[test]
    fn a_failed_run_leaves_its_packets() {
        // No seed of the swarm. The handshake takes 30 ms: at 15 ms the SYN/ACK is on its way.
        let path = of_seed(u64::MAX, || {
            run(&mut world(1, &[pair(link(10, 10))]), false, 1, 1, Duration::from_millis(15))
        });
        assert!(path.ends_with("target/sim/seed-18446744073709551615.pcapng"), "{path:?}");
        let log = fs::read_to_string(path.with_extension("jsonl")).expect("a log");
        let names: Vec<&str> = log
            .lines()
            .filter_map(|line| line.split("\"name\":\"").nth(1)?.split('"').next())
            .collect();
        assert_eq!(names, ["connectivity:connection_started"], "{log}");
        assert!(log.starts_with("{\"qlog_version\"") && log.contains("client #"), "{log}");
        let file = fs::read(&path).expect("a capture");
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [0x0a0d_0d0a, 1, 6, 1, 6, 6]);
        let names = [&b"client path 0"[..], b"server path 0"];
        for (name, (_, body)) in names.into_iter().zip(blocks.iter().filter(|b| b.0 == 1)) {
            assert_eq!(&body[12..12 + name.len()], name);
        }
        let sent: Vec<(u8, u8, u8)> = blocks
            .iter()
            .filter(|(kind, _)| *kind == 6)
            // Interface, the packet's TCP flags, and the low octet of the direction.
            .map(|(_, body)| (body[0], body[20 + 33], body[body.len() - 8]))
            .collect();
        let (syn, syn_ack) = (0x02, 0x12);
        assert_eq!(sent, [(0, syn, 2), (1, syn, 1), (1, syn_ack, 2)]);
        fs::remove_file(&path).expect("it is there");
        fs::remove_file(path.with_extension("jsonl")).expect("it is there");
        // Only what is asked for is written down.
        let caught = std::panic::catch_unwind(|| {
            run(&mut world(1, &[pair(link(10, 10))]), false, 1, 1, Duration::from_millis(15))
        });
        assert!(caught.is_err() && !path.exists());
    }
}
