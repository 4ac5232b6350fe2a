//! Judges the host that took a capture: `judge FILE...`, each from `tcpdump -i any` on one host
//! (Linux cooked v2 tells outgoing packets from incoming ones). Devices must not offload
//! segmentation or checksums, or the capture shows what was never on the wire.

use netsim::{NodeId, Point, Referee};
use std::process::ExitCode;

/// Length of a cooked v2 header; its protocol and packet type are at 0 and 10.
const COOKED_LEN: usize = 20;
const LINKTYPE_LINUX_SLL2: u32 = 276;
const OUTGOING: u8 = 4;

fn main() -> ExitCode {
    // Where nothing was judged nothing is clean.
    let mut clean = std::env::args().len() > 1;
    for path in std::env::args().skip(1) {
        match std::fs::read(&path).map_err(|error| error.to_string()).and_then(|file| judge(&file))
        {
            Ok(referee) => {
                for violation in referee.violations() {
                    println!("{path}: {violation}");
                }
                println!("{path}: broken {:?}, {:?}", referee.broken(), referee.seen());
                clean &= referee.violation_count() == 0 && referee.seen().segments > 0;
            }
            Err(error) => {
                eprintln!("{path}: {error}");
                clean = false;
            }
        }
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn judge(file: &[u8]) -> Result<Referee, String> {
    let (header, mut rest) = file.split_first_chunk::<24>().ok_or("the file has no header")?;
    let magic = word(header, 0)?;
    let unit = match magic {
        0xa1b2_c3d4 => 1_000,
        0xa1b2_3c4d => 1,
        _ => return Err(format!("{magic:#x} is not a little-endian pcap file")),
    };
    let link_type = word(header, 20)?;
    if link_type != LINKTYPE_LINUX_SLL2 {
        return Err(format!("link type is {link_type}, not {LINKTYPE_LINUX_SLL2}: use -i any"));
    }
    let mut referee = Referee::new();
    while let Some((record, after)) = rest.split_first_chunk::<16>() {
        let len = usize::try_from(word(record, 8)?).map_err(|error| error.to_string())?;
        let (frame, after) = after.split_at_checked(len).ok_or("the last packet is cut")?;
        rest = after;
        let now = u64::from(word(record, 0)?) * 1_000_000_000 + u64::from(word(record, 4)?) * unit;
        let Some((cooked, packet)) = frame.split_first_chunk::<COOKED_LEN>() else { continue };
        if matches!(u16::from_be_bytes([cooked[0], cooked[1]]), 0x0800 | 0x86dd) {
            let point = if cooked[10] == OUTGOING { Point::Sent } else { Point::Delivered };
            referee.observe(now, NodeId(0), point, packet);
        }
    }
    Ok(referee)
}

fn word(bytes: &[u8], at: usize) -> Result<u32, String> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or("a header is cut")?;
    Ok(u32::from_le_bytes(*bytes))
}
