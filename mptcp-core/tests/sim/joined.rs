//! Mappings that the segments of a burst share, as where a port sends them in one piece (TSO).

use crate::transfer::{run, settle};
use crate::{link, lossy, pair, world};
use core::cell::RefCell;
use core::time::Duration;
use mptcp_core::wire::{IpHeader, MptcpOption, TcpOption, TcpSegment, WireSeq};
use netsim::link::LinkConfig;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a segment says of its octets: where in the stream, on the subflow, how many.
type Said = (WireSeq, u32, u16);

/// What every octet of every subflow was sent with, a repetition included.
#[derive(Default)]
struct Wire {
    /// By port and sequence number of a segment's first octet: its length and its mapping.
    said: BTreeMap<(u16, u32), (u32, Said)>,
    /// Segments whose mapping covers more than themselves.
    shared: usize,
    repeated: usize,
}

impl Wire {
    /// Linux drops a subflow whose octets are mapped in two ways.
    fn see(&mut self, packet: &[u8]) {
        let header = IpHeader::parse(packet).expect("one of ours");
        let segment = TcpSegment::parse(&packet[header.header_len..]).expect("one of ours");
        let dss = segment.options().flatten().find_map(|option| match option {
            TcpOption::Mptcp(MptcpOption::Dss(dss)) => dss.mapping,
            _ => None,
        });
        let len = segment.payload.len() as u32;
        let Some(mapping) = dss.filter(|_| len > 0) else { return };
        let said = (mapping.dsn, mapping.ssn, mapping.len);
        self.shared += usize::from(u32::from(mapping.len) > len);
        let key = (segment.dst_port, segment.seq.0);
        match self.said.insert(key, (len, said)) {
            None => {}
            Some((_, before)) => {
                self.repeated += 1;
                assert_eq!(said, before, "{key:?} is mapped in another way when it goes again");
            }
        }
    }
}

/// A download over `links` whose server sends in pieces; how many segments said more than themselves, and how
/// many went again.
fn download(seed: u64, links: &[(LinkConfig, LinkConfig)], octets: u64) -> (usize, usize) {
    let mut world = world(seed, links);
    world.tick = Some(mptcp_core::time::Duration::from_millis(1));
    let wire = Rc::new(RefCell::new(Wire::default()));
    let seen = Rc::clone(&wire);
    world.server.join_segments();
    world.server.watch = Some(Box::new(move |packet| seen.borrow_mut().see(packet)));
    run(&mut world, true, 100, octets, Duration::from_secs(600));
    settle(&mut world);
    world.assert_empty();
    world.net.referee().expect("every world has one").assert_clean();
    let wire = wire.borrow();
    (wire.shared, wire.repeated)
}

#[test]
fn a_burst_has_one_mapping() {
    let (shared, _) = download(1, &[pair(link(600, 20)), pair(link(400, 7))], 16 << 20);
    assert!(shared > 8000, "{shared} of 11,800 or so");
}

#[test]
fn what_goes_again_has_the_mapping_it_had() {
    let mut all = 0;
    for seed in 0..4 {
        let links = [pair(lossy(50, 10, 20_000)), pair(lossy(20, 30, 20_000))];
        let (shared, repeated) = download(seed, &links, 4 << 20);
        assert!(shared > 200, "seed {seed}: {shared}");
        all += repeated;
    }
    assert!(all > 100, "{all}");
}
