//! What several paths give together: the sum where there is room, never less than the best one alone
//! (RFC 8684 §3.3.5). Rates are payload over what the links can carry of it, in virtual time.

use crate::transfer::run;
use crate::world::World;
use crate::{lossy, pair};
use core::time::Duration;
use mptcp_core::config::StackConfig;
use netsim::link::LinkConfig;

/// Payload of a full segment with a DSS over the octets it takes on a link.
const PAYLOAD: f64 = 0.94;

/// `mbit` per second, `ms` one way, a queue of 256 KiB.
fn path(mbit: u64, ms: u64) -> LinkConfig {
    lossy(mbit, ms, 0)
}

/// Seconds a download of `bytes` takes with a receive buffer of `buffer` octets.
fn seconds(links: &[LinkConfig], bytes: u64, buffer: u32) -> f64 {
    let mut client = StackConfig::default();
    client.tcp.recv_buffer_max = buffer;
    let links: Vec<_> = links.iter().cloned().map(pair).collect();
    let mut world = World::new(7, &links, false, client, StackConfig::default());
    let report = run(&mut world, links.len() > 1, 100, bytes, Duration::from_secs(600));
    world.assert_empty();
    world.net.referee().expect("every world has one").assert_clean();
    report.took.as_secs_f64()
}

const WIDE: u32 = 16 << 20;
const MB: u64 = 1_000_000;

/// Megabits of payload per second.
fn rate(links: &[LinkConfig], bytes: u64, buffer: u32) -> f64 {
    bytes as f64 * 8.0 / seconds(links, bytes, buffer) / 1e6
}

fn best_alone(links: &[LinkConfig], bytes: u64, buffer: u32) -> f64 {
    let alone = links.iter().map(|link| rate(core::slice::from_ref(link), bytes, buffer));
    alone.fold(0.0, f64::max)
}

#[test]
fn paths_with_room_give_what_the_links_can_carry() {
    for (links, least) in
        [([path(100, 10), path(50, 10)], 0.98), ([path(100, 5), path(50, 40)], 0.95)]
    {
        let both = rate(&links, 100 * MB, WIDE) / 150.0 / PAYLOAD;
        println!("{both:.3} of what the links can carry");
        assert!(both >= least, "{both}");
    }
}

/// A slower path beside a small receive buffer: the kernel gives 0.29 and 0.09 of the best path here.
/// What is missing to 1 is the DSS on every segment.
#[test]
fn t133_a_slower_path_does_no_harm() {
    for ms in [40, 100] {
        let links = [path(100, 5), path(50, ms)];
        for buffer in [256 << 10, 1 << 20] {
            let both = rate(&links, 20 * MB, buffer);
            let ratio = both / best_alone(&links, 20 * MB, buffer);
            println!("{ms} ms, {} KiB: {ratio:.3} of the best path", buffer >> 10);
            assert!(ratio >= 0.98, "{ratio}");
        }
    }
}

#[test]
fn short_transfers_are_not_held_up_by_the_slower_path() {
    for ms in [40, 100] {
        let links = [path(100, 5), path(50, ms)];
        for (bytes, most) in [(64 << 10, 1.02), (1 << 20, 1.03), (16 << 20, 1.01)] {
            let ratio = best_alone(&links, bytes, WIDE) / rate(&links, bytes, WIDE);
            println!("{ms} ms, {} KiB: {ratio:.3} of the best path's time", bytes >> 10);
            assert!(ratio <= most, "{ratio}");
        }
    }
}
