//! Captures: block by block against a reader of the format's rules, and by tshark where there is one.

use mptcp_core::pcapng::{Direction, Packet, Writer};
use mptcp_core::time::Instant;
use mptcp_core::wire::{IpEmit, UdpHeader, checksum};
use proptest::collection::vec;
use proptest::prelude::*;
use std::process::Command;

/// A block as the format's rules read it.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    kind: u32,
    fixed: Vec<u32>,
    data: Vec<u8>,
    options: Vec<(u16, Vec<u8>)>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes")))
}

/// Reads blocks until the file ends; panics where a rule is broken.
fn read(mut file: &[u8]) -> Vec<Block> {
    let mut blocks = Vec::new();
    while !file.is_empty() {
        let (kind, len) = (u32_at(file, 0), u32_at(file, 4) as usize);
        assert_eq!(len % 4, 0, "blocks are aligned");
        assert_eq!(u32_at(file, len - 4) as usize, len, "the length stands at both ends");
        let body = &file[8..len - 4];
        file = &file[len..];
        let fixed_len = match kind {
            0x0a0d_0d0a => 16,
            1 => 8,
            6 => 20,
            other => panic!("block type {other:x}"),
        };
        let fixed: Vec<u32> = (0..fixed_len / 4).map(|i| u32_at(body, 4 * i)).collect();
        let data_len = if kind == 6 { fixed[3] as usize } else { 0 };
        let data = body[fixed_len..fixed_len + data_len].to_vec();
        let options = &body[fixed_len + data_len.next_multiple_of(4)..];
        assert!(body[fixed_len + data_len..].len() - options.len() < 4);
        blocks.push(Block { kind, fixed, data, options: read_options(options) });
    }
    blocks
}

fn read_options(mut options: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let (code, len) = (u16_at(options, 0) as u16, u16_at(options, 2));
        if code == 0 {
            assert_eq!((len, options.len()), (0, 4), "the end is the end");
            return all;
        }
        all.push((code, options[4..4 + len].to_vec()));
        let padded = 4 + len.next_multiple_of(4);
        assert!(options[4 + len..padded].iter().all(|byte| *byte == 0));
        options = &options[padded..];
    }
}

#[test]
fn a_section_is_header_interfaces_and_packets() {
    let mut writer = Writer::new(Vec::new());
    let lte = writer.interface("lte");
    let wifi = writer.interface("wifi 5 GHz");
    writer.packet(&Packet {
        interface: wifi,
        at: Instant::from_nanos(0x0000_0005_8000_0007),
        direction: Direction::Inbound,
        data: &[0x45, 1, 2],
        comment: None,
    });
    writer.packet(&Packet {
        interface: lte,
        at: Instant::from_nanos(7),
        direction: Direction::Outbound,
        data: &[0x60, 1, 2, 3],
        comment: Some("why"),
    });
    let blocks = read(&writer.into_sink());
    let block = |kind, fixed: &[u32], data: &[u8], options: &[(u16, &[u8])]| Block {
        kind,
        fixed: fixed.to_vec(),
        data: data.to_vec(),
        options: options.iter().map(|(code, value)| (*code, value.to_vec())).collect(),
    };
    let ns: (u16, &[u8]) = (9, &[9]);
    let expected = [
        block(0x0a0d_0d0a, &[0x1a2b_3c4d, 1, u32::MAX, u32::MAX], &[], &[(4, b"plait")]),
        block(1, &[101, 262_144], &[], &[(2, b"lte"), ns]),
        block(1, &[101, 262_144], &[], &[(2, b"wifi 5 GHz"), ns]),
        block(6, &[1, 5, 0x8000_0007, 3, 3], &[0x45, 1, 2], &[(2, &[1, 0, 0, 0])]),
        block(6, &[0, 0, 7, 4, 4], &[0x60, 1, 2, 3], &[(2, &[2, 0, 0, 0]), (1, b"why")]),
    ];
    assert_eq!(blocks, expected);
}

#[test]
fn the_sink_gets_whole_blocks() {
    let mut calls = Vec::new();
    let mut writer = Writer::new(|block: &[u8]| calls.push(block.to_vec()));
    let interface = writer.interface("a");
    for n in 0..3 {
        writer.packet(&Packet {
            interface,
            at: Instant::from_nanos(n),
            direction: Direction::Inbound,
            data: &[0x45; 33],
            comment: Some("c"),
        });
    }
    drop(writer);
    assert_eq!(calls.len(), 5);
    for cut in 1..=5 {
        assert_eq!(read(&calls[..cut].concat()).len(), cut, "valid after every block");
    }
}

#[test]
fn what_is_too_long_is_cut() {
    let mut writer = Writer::new(Vec::new());
    // 65,535 bytes end inside the last character.
    let long = "ä".repeat(32_768);
    let interface = writer.interface(&long);
    writer.packet(&Packet {
        interface,
        at: Instant::from_nanos(1),
        direction: Direction::Inbound,
        data: &vec![0x45; 300_000],
        comment: Some(&long),
    });
    let blocks = read(&writer.into_sink());
    let cut = "ä".repeat(32_767).into_bytes();
    assert_eq!(blocks[1].options[0], (2, cut.clone()));
    assert_eq!(blocks[2].options[1], (1, cut));
    assert_eq!((blocks[2].fixed[3], blocks[2].fixed[4]), (262_144, 300_000));
}

proptest! {
    #[test]
    fn whatever_is_written_is_read(
        packets in vec((0..3usize, any::<u64>(), any::<bool>(), vec(any::<u8>(), 0..80),
            prop::option::of(".{0,20}")), 0..20),
    ) {
        let mut writer = Writer::new(Vec::new());
        let interfaces = ["a", "", "ccc"].map(|name| writer.interface(name));
        for (interface, at, inbound, data, comment) in &packets {
            let direction = if *inbound { Direction::Inbound } else { Direction::Outbound };
            writer.packet(&Packet {
                interface: interfaces[*interface],
                at: Instant::from_nanos(*at),
                direction,
                data,
                comment: comment.as_deref(),
            });
        }
        let blocks = read(&writer.into_sink());
        prop_assert_eq!(blocks.len(), 4 + packets.len());
        for (block, (interface, at, inbound, data, comment)) in blocks[4..].iter().zip(&packets) {
            prop_assert_eq!(block.fixed[0] as usize, *interface);
            let time = u64::from(block.fixed[1]) << 32 | u64::from(block.fixed[2]);
            prop_assert_eq!(time, (*at).max(1));
            prop_assert_eq!(&block.data, data);
            let mut options = vec![(2, vec![if *inbound { 1 } else { 2 }, 0, 0, 0])];
            options.extend(comment.as_ref().map(|text| (1, text.clone().into_bytes())));
            prop_assert_eq!(&block.options, &options);
        }
    }
}

/// A datagram of two octets from port 1000 to port 2000.
fn datagram(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let (src, dst) = (src.into(), dst.into());
    let ports = UdpHeader { src_port: 1000, dst_port: 2000 };
    let header = ports.emit(src, dst, 2, checksum::sum(b"hi")).expect("two bytes fit");
    let ip = IpEmit {
        src,
        dst,
        protocol: 17,
        traffic_class: 0,
        hop_limit: 64,
        payload_len: 10,
        identification: 0,
        dont_fragment: true,
    };
    let mut packet = vec![0; 20];
    ip.emit(&mut packet);
    [&packet[..], &header, b"hi"].concat()
}

#[test]
fn tshark_reads_it() {
    if Command::new("tshark").arg("--version").output().is_err() {
        let must_run = ["PLAIT_CI", "CI"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!must_run, "tshark is not installed");
        println!("SKIPPED tshark_reads_it: tshark is not installed");
        return;
    }
    let mut writer = Writer::new(Vec::new());
    let interfaces = ["lte", "wifi"].map(|name| writer.interface(name));
    let (there, back) =
        (datagram([10, 0, 0, 1], [10, 0, 0, 2]), datagram([10, 0, 0, 2], [10, 0, 0, 1]));
    for (interface, at, direction, data, comment) in [
        (0, 1_700_000_000_000_000_123, Direction::Outbound, &there, Some("the query: größe")),
        (1, 1_700_000_000_500_000_000, Direction::Inbound, &back, None),
    ] {
        writer.packet(&Packet {
            interface: interfaces[interface],
            at: Instant::from_nanos(at),
            direction,
            data,
            comment,
        });
    }
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = dir.join(format!("pcapng-{}.pcapng", std::process::id()));
    std::fs::write(&path, writer.into_sink()).unwrap();
    let fields = [
        "frame.time_epoch",
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ip.src",
        "udp.dstport",
        "udp.checksum.status",
        "frame.comment",
    ];
    let mut command = Command::new("tshark");
    command.args(["-o", "udp.check_checksum:TRUE", "-T", "fields", "-r"]).arg(&path);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    for row in &mut rows {
        // Versions differ in how they write the direction: 2 or 0x00000002.
        row[2] = row[2].trim_start_matches("0x").trim_start_matches('0');
    }
    // Direction 2 is outbound, 1 inbound; checksum status 1 is good.
    let expected = [
        ["1700000000.000000123", "lte", "2", "10.0.0.1", "2000", "1", "the query: größe"],
        ["1700000000.500000000", "wifi", "1", "10.0.0.2", "2000", "1", ""],
    ];
    assert_eq!(rows, expected, "{stderr}");
}
