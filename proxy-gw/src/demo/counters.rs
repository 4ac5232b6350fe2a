//! The kernel's own counters of a namespace, and which of them must not move.
//!
//! Names are those `nstat` prints (`TcpInSegs`, `MPTcpExtMPJoinSynAckRx`), so a reader can compare.
//! Invariant: a file the kernel changed beyond recognition is an error, never a row of zeros.

use super::process::Error;
use super::topology::Namespace;
use std::collections::BTreeMap;

/// Counters of one namespace at one moment, from `/proc/net/snmp` and `/proc/net/netstat`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mib(BTreeMap<String, i64>);

impl Mib {
    pub(super) fn read(namespace: &Namespace) -> Result<Self, Error> {
        let mut mib = Self::default();
        for file in ["snmp", "netstat"] {
            let text = namespace.proc_net(file)?;
            mib.parse(&text).map_err(Error::in_step(format!("reading /proc/net/{file}")))?;
        }
        Ok(mib)
    }

    /// A difference made by hand.
    #[cfg(test)]
    pub(super) fn from_pairs(pairs: &[(&str, i64)]) -> Self {
        Self(pairs.iter().map(|&(name, value)| (name.to_owned(), value)).collect())
    }

    /// Adds the counters of `text`: pairs of lines `Group: names...` and `Group: values...`.
    fn parse(&mut self, text: &str) -> Result<(), String> {
        let mut lines = text.lines();
        while let Some(names) = lines.next() {
            let values = lines.next().ok_or_else(|| format!("no values follow {names:?}"))?;
            let (group, names) =
                names.split_once(':').ok_or_else(|| format!("no group in {names:?}"))?;
            let values = values
                .strip_prefix(group)
                .and_then(|rest| rest.strip_prefix(':'))
                .ok_or_else(|| format!("{values:?} does not belong to group {group}"))?;
            let names: Vec<_> = names.split_whitespace().collect();
            let values: Vec<_> = values.split_whitespace().collect();
            if names.len() != values.len() {
                return Err(format!("{group}: {} names, {} values", names.len(), values.len()));
            }
            for (name, value) in names.iter().zip(values) {
                let value = value.parse().map_err(|error| format!("{group}{name}: {error}"))?;
                self.0.insert(format!("{group}{name}"), value);
            }
        }
        Ok(())
    }

    /// Zero for a counter this kernel does not have.
    pub(super) fn value(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How far each counter moved since `earlier`; those that did not are left out.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let moved = self.0.iter().filter_map(|(name, &value)| {
            let delta = value - earlier.value(name);
            (delta != 0).then(|| (name.clone(), delta))
        });
        Self(moved.collect())
    }

    /// Every MPTCP counter of a difference, as `name +count` without the group.
    pub(super) fn mptcp_moves(&self) -> Vec<String> {
        let moves = self.0.iter().filter_map(|(name, delta)| {
            name.strip_prefix("MPTcpExt").map(|name| format!("{name} +{delta}"))
        });
        moves.collect()
    }

    /// Those counters of a difference that say the two MPTCP ends disagreed: resets, failed HMACs,
    /// broken mappings or checksums, and fallbacks to TCP, as `name +count`. `NoDSSInWindow` is not
    /// among them: two Linux ends count it on a busy link too.
    pub(super) fn mptcp_faults(&self) -> Vec<String> {
        let faults = self.0.iter().filter(|(name, _)| {
            name.strip_prefix("MPTcpExt").is_some_and(|name| {
                ["DSS", "MPFail", "InfiniteMap"].iter().any(|word| name.starts_with(word))
                    || ["Fallback", "HMac"].iter().any(|word| name.contains(word))
                    || ["MPRstRx", "DataCsumErr", "Blackhole"].contains(&name)
            })
        });
        faults.map(|(name, delta)| format!("{name} +{delta}")).collect()
    }
}

/// Bytes a device carried, layer-2 headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkBytes {
    pub(super) rx: u64,
    pub(super) tx: u64,
}

impl LinkBytes {
    pub(super) fn read(namespace: &Namespace, device: &str) -> Result<Self, Error> {
        let text = namespace.proc_net("dev")?;
        Self::parse(&text, device)
            .ok_or_else(|| Error::new(format!("counters of {device}"), "not in /proc/net/dev"))
    }

    /// `text` is `/proc/net/dev`: `device: rx_bytes` and seven more, then `tx_bytes`.
    fn parse(text: &str, device: &str) -> Option<Self> {
        text.lines().find_map(|line| {
            let (name, fields) = line.split_once(':')?;
            if name.trim() != device {
                return None;
            }
            let mut fields = fields.split_whitespace();
            let rx = fields.next()?.parse().ok()?;
            let tx = fields.nth(7)?.parse().ok()?;
            Some(Self { rx, tx })
        })
    }

    pub(super) const fn since(self, earlier: Self) -> Self {
        Self { rx: self.rx.saturating_sub(earlier.rx), tx: self.tx.saturating_sub(earlier.tx) }
    }

    /// Both directions together.
    pub(super) const fn total(self) -> u64 {
        self.rx + self.tx
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "Ip: Forwarding DefaultTTL\nIp: 2 64\n\
                        Tcp: MaxConn InSegs OutSegs\nTcp: -1 12 7\n";

    fn mib(text: &str) -> Mib {
        let mut mib = Mib::default();
        mib.parse(text).unwrap();
        mib
    }

    #[test]
    fn names_are_those_of_nstat() {
        let mib = mib(SNMP);
        assert_eq!(mib.value("TcpInSegs"), 12);
        assert_eq!(mib.value("TcpMaxConn"), -1);
        assert_eq!(mib.value("TcpNoSuchCounter"), 0);
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let text = std::fs::read_to_string("/proc/net/snmp").unwrap();
        let mib = mib(&text);
        assert!(mib.0.contains_key("TcpInSegs") && mib.0.contains_key("TcpOutSegs"));
    }

    #[test]
    fn unexpected_texts_are_errors() {
        for text in ["Tcp: A B\n", "Tcp: A B\nTcp: 1\n", "Tcp: A\nUdp: 1\n", "A\n1\n", "T: A\nT: x"]
        {
            assert!(Mib::default().parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_difference_keeps_what_moved() {
        let delta = mib("Tcp: A B\nTcp: 5 6\n").since(&mib("Tcp: A B\nTcp: 5 2\n"));
        assert_eq!(delta, mib("Tcp: B\nTcp: 4\n"));
    }

    #[test]
    fn faults_are_told_from_progress() {
        let delta = mib("MPTcpExt: MPJoinSynAckRx MPRstRx DSSNotMatching DssFallback \
             MPJoinSynAckHMacFailure MPRstTx DataCsumErr MPCapableFallbackSYNACK \
             NoDSSInWindow\nMPTcpExt: 9 1 1 1 1 1 1 1 1\nTcp: DSSNotMatching\nTcp: 1\n");
        let mut expected = vec![
            "MPTcpExtDSSNotMatching +1",
            "MPTcpExtDataCsumErr +1",
            "MPTcpExtDssFallback +1",
            "MPTcpExtMPCapableFallbackSYNACK +1",
            "MPTcpExtMPJoinSynAckHMacFailure +1",
            "MPTcpExtMPRstRx +1",
        ];
        expected.sort_unstable();
        assert_eq!(delta.mptcp_faults(), expected);
        assert_eq!(delta.mptcp_moves().len(), 9);
        assert!(delta.mptcp_moves().contains(&"MPJoinSynAckRx +9".to_owned()));
    }

    #[test]
    fn device_bytes_are_found_by_name() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets|bytes packets\n\
                    \x20 lte0: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n\
                    lte01:7 1 0 0 0 0 0 0 8 2 0 0 0 0 0 0\n short0: 1 2\n";
        assert_eq!(LinkBytes::parse(text, "lte0"), Some(LinkBytes { rx: 100, tx: 200 }));
        assert_eq!(LinkBytes::parse(text, "lte01"), Some(LinkBytes { rx: 7, tx: 8 }));
        assert_eq!(LinkBytes::parse(text, "short0"), None);
        assert_eq!(LinkBytes::parse(text, "wlan0"), None);
        let later = LinkBytes { rx: 150, tx: 190 };
        assert_eq!(later.since(LinkBytes { rx: 100, tx: 200 }), LinkBytes { rx: 50, tx: 0 });
        assert_eq!(later.total(), 340);
    }
}
