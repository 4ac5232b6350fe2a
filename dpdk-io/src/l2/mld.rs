//! Multicast listener reports (RFC 3810) for the solicited-node groups of our addresses: a switch
//! that snoops passes neighbour solicitations only to ports that asked for them (RFC 4861 §7.2.1).
//! Queries of the first version are answered in the second's way, too.
//!
//! Invariant: a port owes at most one answer, whoever asks however often.

use core::net::Ipv6Addr;
use mptcp_core::time::{Duration, Instant};
use smoltcp::wire::{Icmpv6Packet, IpProtocol, Ipv6Packet, Ipv6Repr};

/// Where reports go: every router that speaks MLD version 2.
pub(crate) const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Groups of one report; an IPv6 packet of the smallest MTU holds them.
pub(crate) const MOST_GROUPS: usize = 60;
/// Reports of a change, the first included, and their distance (RFC 3810 §9.1, §9.11).
const ROBUSTNESS: u8 = 2;
const UNSOLICITED_INTERVAL: Duration = Duration::from_secs(1);

const IPV6_LEN: usize = 40;
const QUERY: u8 = 130;
const REPORT: u8 = 143;
/// Hop-by-hop header with the Router Alert option (RFC 2711), padded.
const ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
const ROUTER_ALERT_OPTION: u8 = 5;

/// Why a report is sent: its record type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// Asked: we listen to every source.
    Answer = 2,
    /// We began to.
    Change = 4,
}

/// What an IPv6 packet to a group, with a hop-by-hop header, is to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parsed {
    /// Who listens to `group` (unspecified: to any)? To be answered within `delay`.
    Query { group: Ipv6Addr, delay: Duration },
    /// Fails a check.
    Invalid,
    /// No query.
    Other,
}

/// Reads an IPv6 packet whose next header is the hop-by-hop options (RFC 3810 §5.1, §6.2).
pub(crate) fn parse(ip: &Ipv6Packet<&[u8]>) -> Parsed {
    let payload = ip.payload();
    let &[58, extra, ..] = payload else { return Parsed::Other };
    let options_len = 8 * (usize::from(extra) + 1);
    let Some((options, message)) = payload.split_at_checked(options_len) else {
        return Parsed::Other;
    };
    if message.first() != Some(&QUERY) {
        return Parsed::Other;
    }
    let Some(&[_, code, _, _, high, low, _, _, ref group @ ..]) = message.first_chunk::<24>()
    else {
        return Parsed::Invalid;
    };
    let group = Ipv6Addr::from(*group);
    let (src, dst) = (ip.src_addr(), ip.dst_addr());
    let valid = ip.hop_limit() == 1
        && code == 0
        && src.is_unicast_link_local()
        && (group.is_unspecified() || group.is_multicast())
        && options.get(2..).is_some_and(has_router_alert)
        && Icmpv6Packet::new_unchecked(message).verify_checksum(&src, &dst);
    if !valid {
        return Parsed::Invalid;
    }
    let code = u16::from_be_bytes([high, low]);
    Parsed::Query { group, delay: max_delay(code) }
}

/// RFC 3810 §5.1.3: milliseconds, large ones as a floating point number. The first version's are
/// never that large.
fn max_delay(code: u16) -> Duration {
    let code = u64::from(code);
    let ms = if code < 0x8000 { code } else { (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3) };
    Duration::from_millis(ms)
}

fn has_router_alert(mut options: &[u8]) -> bool {
    loop {
        options = match *options {
            [0, ref rest @ ..] => rest,
            [ROUTER_ALERT_OPTION, 2, ..] => return true,
            [_, len, ref rest @ ..] => rest.get(usize::from(len)..).unwrap_or_default(),
            _ => return false,
        };
    }
}

/// Bytes of a report of `groups` groups, IPv6 header included.
pub(crate) const fn report_len(groups: usize) -> usize {
    IPV6_LEN + ROUTER_ALERT.len() + 8 + 20 * groups
}

/// Writes the whole IPv6 packet into `out`, which is [`report_len`] bytes long. `src` is our
/// link-local address.
pub(crate) fn write_report(why: Why, groups: &[Ipv6Addr], src: Ipv6Addr, out: &mut [u8]) {
    if out.len() != report_len(groups.len()) {
        return;
    }
    let header = Ipv6Repr {
        src_addr: src,
        dst_addr: ROUTERS,
        next_header: IpProtocol::HopByHop,
        payload_len: out.len() - IPV6_LEN,
        hop_limit: 1,
    };
    header.emit(&mut Ipv6Packet::new_unchecked(&mut *out));
    let Some((_, payload)) = out.split_at_mut_checked(IPV6_LEN) else { return };
    let Some((alert, message)) = payload.split_at_mut_checked(ROUTER_ALERT.len()) else { return };
    alert.copy_from_slice(&ROUTER_ALERT);
    let Some((head, records)) = message.split_first_chunk_mut::<8>() else { return };
    let [high, low] = u16::try_from(groups.len()).unwrap_or(0).to_be_bytes();
    *head = [REPORT, 0, 0, 0, 0, 0, high, low];
    for (record, group) in records.chunks_exact_mut(20).zip(groups) {
        let Some((kind, address)) = record.split_first_chunk_mut::<4>() else { return };
        *kind = [why as u8, 0, 0, 0];
        address.copy_from_slice(&group.octets());
    }
    Icmpv6Packet::new_unchecked(message).fill_checksum(&src, &ROUTERS);
}

/// When reports are due, port by port.
#[derive(Debug)]
pub(crate) struct Reports {
    /// Reports of the start still to be sent, and when.
    changes: u8,
    change_at: Instant,
    answers: Vec<Option<Instant>>,
}

impl Reports {
    /// Nothing was asked yet. With `announce` the start is reported.
    pub(crate) fn new(ports: usize, announce: bool) -> Self {
        let changes = if announce { ROBUSTNESS } else { 0 };
        Self { changes, change_at: Instant::MIN, answers: vec![None; ports] }
    }

    /// A query came in on port `port`; answers spread over `delay` by `spread`, which should differ
    /// from host to host.
    pub(crate) fn asked(&mut self, now: Instant, port: usize, delay: Duration, spread: u64) {
        let Some(answer) = self.answers.get_mut(port) else { return };
        let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX).max(1);
        let at = now + Duration::from_nanos(spread % nanos);
        *answer = Some(answer.map_or(at, |due| due.min(at)));
    }

    /// The next report that is due: on one port, or about the start on all of them (`None`).
    pub(crate) fn poll(&mut self, now: Instant) -> Option<(Option<usize>, Why)> {
        if self.changes > 0 && self.change_at <= now {
            self.changes -= 1;
            self.change_at = now + UNSOLICITED_INTERVAL;
            return Some((None, Why::Change));
        }
        let port = self.answers.iter().position(|due| due.is_some_and(|due| due <= now))?;
        if let Some(answer) = self.answers.get_mut(port) {
            *answer = None;
        }
        Some((Some(port), Why::Answer))
    }

    /// When [`Reports::poll`] next has something.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let change = (self.changes > 0).then_some(self.change_at);
        self.answers.iter().copied().flatten().chain(change).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn query(hop_limit: u8, options: &[u8], message: &[u8]) -> Vec<u8> {
        let header = Ipv6Repr {
            src_addr: ip("fe80::1"),
            dst_addr: ip("ff02::1"),
            next_header: IpProtocol::HopByHop,
            payload_len: options.len() + message.len(),
            hop_limit,
        };
        let mut out = vec![0; IPV6_LEN];
        header.emit(&mut Ipv6Packet::new_unchecked(&mut out[..]));
        let mut message = message.to_vec();
        Icmpv6Packet::new_unchecked(&mut message[..])
            .fill_checksum(&header.src_addr, &header.dst_addr);
        [out, options.to_vec(), message].concat()
    }

    fn read(bytes: &[u8]) -> Parsed {
        parse(&Ipv6Packet::new_checked(bytes).unwrap())
    }

    fn message(code: u16, group: &str, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        out[0] = QUERY;
        out[4..6].copy_from_slice(&code.to_be_bytes());
        out[8..24].copy_from_slice(&ip(group).octets());
        out
    }

    #[test]
    fn queries_of_both_versions_by_the_book() {
        let asked =
            |group: &str, ms| Parsed::Query { group: ip(group), delay: Duration::from_millis(ms) };
        let general = message(10_000, "::", 28);
        assert_eq!(read(&query(1, &ROUTER_ALERT, &general)), asked("::", 10_000));
        let first = message(500, "ff02::1:ff00:1", 24);
        assert_eq!(read(&query(1, &ROUTER_ALERT, &first)), asked("ff02::1:ff00:1", 500));
        // RFC 3810 §5.1.3: (mantissa | 0x1000) << (exponent + 3).
        let long = message(0x8000 | 2 << 12 | 0x234, "::", 28);
        assert_eq!(read(&query(1, &ROUTER_ALERT, &long)), asked("::", 0x1234 << 5));
        let padded = [58, 0, 0, 5, 2, 0, 0, 0];
        assert_eq!(read(&query(1, &padded, &general)), asked("::", 10_000));

        assert_eq!(read(&query(64, &ROUTER_ALERT, &general)), Parsed::Invalid, "hop limit");
        let padding = [58, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(read(&query(1, &padding, &general)), Parsed::Invalid, "no Router Alert");
        let short = general.get(..23).unwrap();
        assert_eq!(read(&query(1, &ROUTER_ALERT, short)), Parsed::Invalid, "short");
        let unicast = message(1, "fd00::1", 28);
        assert_eq!(read(&query(1, &ROUTER_ALERT, &unicast)), Parsed::Invalid, "no group");
        let mut corrupt = query(1, &ROUTER_ALERT, &general);
        corrupt[60] ^= 1;
        assert_eq!(read(&corrupt), Parsed::Invalid, "checksum");
        let mut report = general.clone();
        report[0] = REPORT;
        assert_eq!(read(&query(1, &ROUTER_ALERT, &report)), Parsed::Other);
        assert_eq!(read(&query(1, &[58, 9, 0, 0], &[0; 4])), Parsed::Other, "options too long");
    }

    #[test]
    fn a_report_by_the_book() {
        let mut out = vec![0xff; report_len(2)];
        let groups = [ip("ff02::1:ff00:1"), ip("ff02::1:ff00:2")];
        write_report(Why::Change, &groups, ip("fe80::2"), &mut out);
        let packet = Ipv6Packet::new_checked(&out[..]).unwrap();
        assert_eq!((packet.hop_limit(), packet.dst_addr()), (1, ip("ff02::16")));
        assert_eq!(packet.next_header(), IpProtocol::HopByHop);
        let (alert, message) = packet.payload().split_at(8);
        assert_eq!(alert, [58, 0, 5, 2, 0, 0, 1, 0]);
        let icmp = Icmpv6Packet::new_unchecked(message);
        assert!(icmp.verify_checksum(&packet.src_addr(), &packet.dst_addr()));
        assert_eq!((message[0], message[1], &message[4..8]), (143, 0, &[0, 0, 0, 2][..]));
        assert_eq!(message[8..12], [4, 0, 0, 0]);
        assert_eq!(message[12..28], groups[0].octets());
        assert_eq!(message[28..32], [4, 0, 0, 0]);
        assert_eq!(message[32..], groups[1].octets());
    }

    #[test]
    fn the_start_is_said_twice_and_an_answer_once() {
        let at = |ms: u64| Instant::from_millis(1000 + ms);
        let mut reports = Reports::new(2, true);
        assert_eq!(reports.poll(at(0)), Some((None, Why::Change)));
        assert_eq!((reports.poll(at(0)), reports.poll_timeout()), (None, Some(at(1000))));
        reports.asked(at(0), 1, Duration::from_millis(100), 70_000_000);
        reports.asked(at(10), 1, Duration::from_millis(100), 199_000_000);
        reports.asked(at(10), 7, Duration::ZERO, 0);
        assert_eq!(reports.poll_timeout(), Some(at(70)), "the earlier one stands for both");
        assert_eq!(reports.poll(at(70)), Some((Some(1), Why::Answer)));
        assert_eq!(reports.poll(at(1000)), Some((None, Why::Change)));
        assert_eq!((reports.poll(at(9000)), reports.poll_timeout()), (None, None));
        reports.asked(at(9000), 0, Duration::ZERO, 5);
        assert_eq!(reports.poll(at(9000)), Some((Some(0), Why::Answer)));
    }
}
