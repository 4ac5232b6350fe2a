//! IPv4 and IPv6 beside each other: subflows of both in one connection, and an exit of either.

use super::peers::Wish;
use super::terms::{BULK, LTE, SECOND, WIFI, cut_path, finish, shares_in, start};
use super::world::World;
use mptcp_core::config::StackConfig;

/// LTE is IPv4, Wi-Fi is IPv6: neither has an address of the other.
const WIFI_IS_V6: &str = "port.1.addresses=['fd00:2::1/64']";
/// The exit is IPv6 and leads to a translator.
const EXIT_IS_V6: [&str; 4] = [
    "port.2.addresses=['fd00:9::1/64']",
    "route=[{ to = '::/0', via = 'fd00:9::2', port = 'exit' }]",
    "egress.nat64='fd00:64::/96'",
    "limits.connections=1000",
];

fn phone(config: &mut StackConfig) {
    config.addresses[1].addr = "fd00:2::2".parse().unwrap();
}

#[test]
fn one_connection_has_subflows_of_both_families_and_an_exit_of_either() {
    for exit in [&[][..], &EXIT_IS_V6] {
        let settings = [&[WIFI_IS_V6][..], exit].concat();
        let mut world = World::with_phone(81, 0, &settings, phone);
        world.lead_to_phone("fd00:2::2", "fd00:2::1", WIFI);
        if !exit.is_empty() {
            // 10.9.0.2, as the translator's side has it.
            world.lead_to_server("fd00:64::a09:2", "fd00:9::1");
        }
        start(&mut world, Wish { upload: 100_000, download: 24 << 20, ..BULK });
        start(&mut world, Wish { mptcp: false, download: 1 << 20, ..BULK });
        world.run(2 * SECOND);
        let [v4, v6] = shares_in(&mut world, SECOND);
        assert!(v4 > 1_000_000 && v6 > 500_000, "both carry data: {v4} {v6}");
        // Each takes over from the other.
        for (cut, other) in [(LTE, WIFI), (WIFI, LTE)] {
            cut_path(&mut world, cut, true);
            world.run(SECOND);
            let shares = shares_in(&mut world, SECOND);
            assert!(shares[other] > 500_000, "{cut} is cut: {shares:?}");
            cut_path(&mut world, cut, false);
            world.run(SECOND);
        }
        finish(&mut world);
        assert_eq!(world.server.worker.uploads, 2);
    }
}
