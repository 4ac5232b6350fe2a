//! Which destinations are allowed: the public Internet and `[egress] allow`, without `deny`.
//!
//! Invariant: no spelling of an address changes the verdict; our own addresses, and addresses that
//! name no single remote host, are refused whatever is configured.

use super::{AddressSet, Destination, nat64};
use crate::config::{AdminAddress, Config, Egress};
use core::net::IpAddr;
use ipnet::{IpNet, Ipv6Net};

/// Why a destination is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Ours, the admin endpoint's, a broadcast address of ours, unspecified, loopback, multicast or broadcast.
    Never,
    /// Listed in `[egress] deny`.
    Configured,
    /// Neither public nor listed in `[egress] allow`.
    NotPublic,
}

/// Addresses no configuration opens: "this network", loopback, multicast, reserved with broadcast.
const NEVER: [&str; 7] =
    ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "ff00::/8"];

/// IPv4 addresses that are not globally reachable (IANA special-purpose registry, RFC 6890).
const PRIVATE_V4: [&str; 11] = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
];

/// What IANA has handed out as global unicast.
const PUBLIC_V6: &str = "2000::/3";
/// The parts of it that are not for traffic: protocol assignments, that is 2001::/23 but Teredo
/// (2001::/32, whose inside is judged), and documentation.
const PRIVATE_V6: [&str; 11] = [
    "2001:1::/32",
    "2001:2::/31",
    "2001:4::/30",
    "2001:8::/29",
    "2001:10::/28",
    "2001:20::/27",
    "2001:40::/26",
    "2001:80::/25",
    "2001:100::/24",
    "2001:db8::/32",
    "3fff::/20",
];

/// The verdict on destinations.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Of connections, and of datagrams.
    denied_ports: [Vec<u16>; 2],
    never: AddressSet,
    deny: AddressSet,
    allow: AddressSet,
    private: AddressSet,
    public_v6: AddressSet,
    /// The translator's prefix: whose addresses it has are IPv4's.
    nat64: Option<Ipv6Net>,
}

impl Policy {
    /// The policy of `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let own = config.ports.iter().flat_map(|port| &port.addresses);
        // The machine's own, on the operator's network: what routes there is no exit.
        let admin = config.admin.listen.iter().filter_map(|address| match address {
            AdminAddress::Tcp(tcp) => Some(IpNet::from(tcp.ip().to_canonical())),
            AdminAddress::Unix(_) => None,
        });
        Self::with(&config.egress, own, admin)
    }

    fn with<'a>(
        egress: &Egress,
        own: impl Iterator<Item = &'a IpNet>,
        admin: impl Iterator<Item = IpNet>,
    ) -> Self {
        let mut never = parsed(&NEVER);
        never.extend(admin);
        for address in own {
            never.push(IpNet::from(address.addr()));
            // A directed broadcast reaches every host of a subnet of ours.
            if address.addr().is_ipv4() && address.prefix_len() < 31 {
                never.extend([IpNet::from(address.network()), IpNet::from(address.broadcast())]);
            }
        }
        let private: Vec<IpNet> = [parsed(&PRIVATE_V4), parsed(&PRIVATE_V6)].concat();
        Self {
            denied_ports: [egress.deny_ports.clone(), egress.deny_udp_ports.clone()],
            never: AddressSet::new(&never),
            deny: AddressSet::new(&egress.deny),
            allow: AddressSet::new(&egress.allow),
            private: AddressSet::new(&private),
            public_v6: AddressSet::new(&parsed(&[PUBLIC_V6])),
            nat64: egress.nat64,
        }
    }

    /// The address to connect to for `requested`.
    ///
    /// # Errors
    /// See [`Denied`].
    pub fn check(&self, requested: IpAddr) -> Result<IpAddr, Denied> {
        let destination = Destination::new(requested);
        // A denied prefix may hold other spellings of addresses that are open.
        if self.deny.contains(requested) {
            return Err(Denied::Configured);
        }
        self.judge(destination.target)?;
        let by_translator = match (destination.target, self.nat64) {
            (IpAddr::V6(v6), Some(prefix)) => nat64::inside(v6, prefix),
            _ => None,
        };
        for inside in destination.embedded().chain(by_translator) {
            self.judge(IpAddr::V4(inside))?;
        }
        Ok(destination.target)
    }

    /// Whether no connection may be made to this port, wherever it is.
    #[must_use]
    pub fn denies_port(&self, port: u16) -> bool {
        let [connections, _] = &self.denied_ports;
        connections.contains(&port)
    }

    /// The same of datagrams.
    #[must_use]
    pub fn denies_udp_port(&self, port: u16) -> bool {
        let [_, datagrams] = &self.denied_ports;
        datagrams.contains(&port)
    }

    fn judge(&self, address: IpAddr) -> Result<(), Denied> {
        if self.never.contains(address) {
            return Err(Denied::Never);
        }
        if self.deny.contains(address) {
            return Err(Denied::Configured);
        }
        let public = address.is_ipv4() || self.public_v6.contains(address);
        if (public && !self.private.contains(address)) || self.allow.contains(address) {
            Ok(())
        } else {
            Err(Denied::NotPublic)
        }
    }
}

fn parsed(prefixes: &[&str]) -> Vec<IpNet> {
    prefixes.iter().filter_map(|prefix| prefix.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn policy(allow: &[&str], deny: &[&str]) -> Policy {
        let egress = Egress { allow: nets(allow), deny: nets(deny), ..Egress::default() };
        let own = nets(&["10.1.0.1/24", "198.41.0.4/24", "2a00:1::1/64"]);
        Policy::with(&egress, own.iter(), nets(&["192.168.7.1/32"]).into_iter())
    }

    fn check(policy: &Policy, text: &str) -> Result<String, Denied> {
        policy.check(text.parse().unwrap()).map(|address| address.to_string())
    }

    #[test]
    fn every_constant_parses() {
        for list in [NEVER.as_slice(), &PRIVATE_V4, &PRIVATE_V6, &[PUBLIC_V6]] {
            assert_eq!(parsed(list).len(), list.len());
            assert!(parsed(list).iter().all(|net| net.addr() == net.network()));
        }
    }

    #[test]
    fn the_public_internet_is_open() {
        let policy = policy(&[], &[]);
        for text in ["8.8.8.8", "1.1.1.1", "223.255.255.254", "2001:4860:4860::8888", "2a00::1"] {
            assert_eq!(check(&policy, text).as_deref(), Ok(text));
        }
        assert_eq!(check(&policy, "::ffff:8.8.8.8").as_deref(), Ok("8.8.8.8"));
        assert_eq!(check(&policy, "64:ff9b::808:808").as_deref(), Ok("8.8.8.8"));
        assert!(check(&policy, "2002:808:808::1").is_ok());
        assert!(check(&policy, "2001:0:808:808::f7f7:f7f7").is_ok());
    }

    /// Ways to reach a private host that other proxies let through.
    const BYPASSES: [&str; 46] = [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:0.0.0.0",
        "::127.0.0.1",
        "::10.0.0.1",
        "::8.8.8.8",
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::1",
        "2002:a00:1::",
        "2002:c0a8:101::1",
        "2001:0:a00:1::f7f7:f7f7",
        "2001:0:808:808::80ff:fffe",
        "2a00::5efe:10.0.0.1",
        "2a00::200:5efe:127.0.0.1",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "100::1",
    ];

    #[test]
    fn no_bypass_of_the_corpus_works() {
        let policy = policy(&[], &[]);
        for text in BYPASSES {
            assert!(check(&policy, text).is_err(), "{text}");
        }
    }

    #[test]
    fn our_own_addresses_are_refused_even_when_allowed() {
        let policy = policy(&["0.0.0.0/0", "::/0"], &[]);
        for text in [
            "10.1.0.1",
            "10.1.0.0",
            "10.1.0.255",
            "198.41.0.4",
            "::ffff:198.41.0.4",
            "64:ff9b::198.41.0.4",
            "2002:c629:4::1",
            "2a00:1::1",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "::ffff:0:10.1.0.1",
            "192.168.7.1",
            "::ffff:192.168.7.1",
        ] {
            assert_eq!(check(&policy, text), Err(Denied::Never), "{text}");
        }
        assert!(check(&policy, "10.1.0.2").is_ok());
        assert!(check(&policy, "fd00::1").is_ok());
        assert!(check(&policy, "192.168.7.2").is_ok());
    }

    #[test]
    fn the_admin_endpoint_is_no_destination() {
        let text = "[driver]\nkind='tun'\n[[port]]\nname='p'\ndevice='p'\n\
                    addresses=['10.1.0.1/24']\n[socks5]\nlisten=['10.1.0.1:1080']\n\
                    [egress]\nallow=['192.168.0.0/16']\n\
                    [admin]\nlisten=['192.168.7.1:9180', '[::ffff:192.168.7.3]:9180', 'unix:/run/x']\n";
        let policy = Policy::new(&crate::config::parse("t", text, &[]).unwrap());
        assert_eq!(check(&policy, "192.168.7.1"), Err(Denied::Never));
        // The kernel listens at the IPv4 address that is written so.
        assert_eq!(check(&policy, "192.168.7.3"), Err(Denied::Never));
        assert!(check(&policy, "192.168.7.2").is_ok());
    }

    #[test]
    fn allow_adds_and_deny_wins() {
        let policy = policy(&["10.9.0.0/24"], &["10.9.0.128/25", "8.8.8.0/24"]);
        assert!(check(&policy, "10.9.0.2").is_ok());
        assert_eq!(check(&policy, "::ffff:10.9.0.2").as_deref(), Ok("10.9.0.2"));
        assert_eq!(check(&policy, "10.9.0.129"), Err(Denied::Configured));
        assert_eq!(check(&policy, "8.8.8.8"), Err(Denied::Configured));
        assert_eq!(check(&policy, "2002:808:808::1"), Err(Denied::Configured));
        assert_eq!(check(&policy, "10.9.1.2"), Err(Denied::NotPublic));
        let v4_only = super::tests::policy(&[], &["::/0"]);
        assert_eq!(check(&v4_only, "64:ff9b::8.8.8.8"), Err(Denied::Configured));
        assert_eq!(check(&v4_only, "::ffff:8.8.8.8"), Err(Denied::Configured));
        assert!(check(&v4_only, "8.8.8.8").is_ok());
    }

    /// A client, or whoever answers for a name, may write what we would translate ourselves.
    #[test]
    fn what_the_translator_leads_to_is_judged() {
        for prefix in ["2a00:64::/32", "2a00:64::/48", "2a00:64::/64", "2a00:64::/96"] {
            let prefix: Ipv6Net = prefix.parse().unwrap();
            let deny = nets(&["8.8.4.0/24"]);
            let egress = Egress { deny, nat64: Some(prefix), ..Egress::default() };
            let own = nets(&["198.41.0.4/24"]);
            let policy = Policy::with(&egress, own.iter(), core::iter::empty());
            let check = |v4: &str| {
                let v6 = nat64::translated(v4.parse().unwrap(), prefix).unwrap();
                policy.check(IpAddr::V6(v6)).map(|to| assert_eq!(to, IpAddr::V6(v6)))
            };
            assert_eq!(check("8.8.8.8"), Ok(()), "{prefix}");
            assert_eq!(check("8.8.4.4"), Err(Denied::Configured), "{prefix}");
            assert_eq!(check("10.0.0.1"), Err(Denied::NotPublic), "{prefix}");
            assert_eq!(check("127.0.0.1"), Err(Denied::Never), "{prefix}");
            assert_eq!(check("198.41.0.4"), Err(Denied::Never), "{prefix}");
        }
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_refused_ipv4_address_gets_through(v4: core::net::Ipv4Addr) {
            let policy = policy(&[], &[]);
            let verdict = policy.check(IpAddr::V4(v4)).is_ok();
            let [a, b, c, d] = v4.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            let v6 = |segments: [u16; 8]| policy.check(IpAddr::V6(segments.into())).is_ok();
            prop_assert_eq!(v6([0, 0, 0, 0, 0, 0xffff, high, low]), verdict);
            prop_assert_eq!(v6([0x64, 0xff9b, 0, 0, 0, 0, high, low]), verdict);
            prop_assert_eq!(v6([0x2002, high, low, 0, 0, 0, 0, 1]), verdict);
            prop_assert_eq!(v6([0x2a00, 0, 0, 0, 0, 0x5efe, high, low]), verdict);
            prop_assert_eq!(v6([0x2001, 0, 0x808, 0x808, 0, 0, !high, !low]), verdict);
            prop_assert!(!v6([0, 0, 0, 0, 0, 0, high, low]));
            prop_assert!(!v6([0, 0, 0, 0, 0xffff, 0, high, low]));
        }
    }
}
