//! Seeded links, NAT and referees for packet-level network simulation.
