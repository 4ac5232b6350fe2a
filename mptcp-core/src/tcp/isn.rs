//! Initial sequence numbers nobody else can predict (RFC 6528), and SYN cookies that remember a
//! handshake in the number itself when the request queue is full (RFC 4987 §3.6).
//!
//! Invariant: nothing here is stored per connection; the secrets never appear in `Debug` output.

use crate::seq::SeqNum;
use crate::time::Instant;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use siphasher::sip::SipHasher24;

/// Chooses initial sequence numbers: a clock of 4 µs plus a keyed hash of the 4-tuple, so that a
/// new incarnation of a connection starts above the old one and other 4-tuples reveal nothing.
#[derive(Clone)]
pub struct IsnGenerator {
    secret: [u8; 16],
}

impl IsnGenerator {
    /// `secret` must be random and stay the same while connections may be reincarnated.
    #[must_use]
    pub fn new(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    /// The ISN for a connection opened `now`.
    #[must_use]
    pub fn isn(&self, now: Instant, local: SocketAddr, remote: SocketAddr) -> SeqNum {
        let clock = low32(now.as_micros() / 4);
        SeqNum(clock).add(low32(hash(&self.secret, Purpose::Isn, local, remote, 0, 0)))
    }

    /// What is added to the timestamp clock of a connection: the same for every incarnation, so
    /// that a peer in TIME-WAIT finds the next one younger (RFC 6191), and different for other
    /// 4-tuples (RFC 7323 §5.4).
    #[must_use]
    pub fn timestamp_offset(&self, local: SocketAddr, remote: SocketAddr) -> u32 {
        low32(hash(&self.secret, Purpose::Timestamp, local, remote, 0, 0))
    }
}

impl fmt::Debug for IsnGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IsnGenerator").finish_non_exhaustive()
    }
}

/// Seconds a cookie's time slot lasts; a cookie is good for its slot and the next.
const SLOT_S: u64 = 64;

/// The segment sizes a cookie can remember: what Linux never goes below, the defaults of IPv4 and
/// IPv6, common tunnels and mobile networks, and Ethernet over both (with and without timestamps
/// or PPPoE taken off).
const MSS_TABLE: [u16; 8] = [88, 536, 1220, 1360, 1400, 1428, 1440, 1460];

/// The part of a cookie below the slot number.
const CHECK_MASK: u32 = 0x00ff_ffff;

/// Makes and checks SYN cookies.
///
/// A cookie is `F1(4-tuple) + irs + (slot << 24) + (F2(4-tuple, irs, slot) + mss index) mod 2^24`.
/// As with ordinary ISNs, a later connection of one 4-tuple starts above an earlier one. Of the
/// 2^32 numbers 16 are valid at any time for one 4-tuple and `irs`.
#[derive(Clone)]
pub struct SynCookies {
    secret: [u8; 16],
}

impl SynCookies {
    /// `secret` must be random and differ from the secret of [`IsnGenerator`].
    #[must_use]
    pub fn new(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    /// Our ISN for the SYN/ACK. `mss` is rounded down to the nearest of eight common sizes (and
    /// up to 88 when it is smaller than that).
    #[must_use]
    pub fn make(
        &self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        irs: SeqNum,
        mss: u16,
    ) -> SeqNum {
        let index = (0u32..).zip(MSS_TABLE).filter(|&(_, size)| size <= mss).last();
        let index = index.map_or(0, |(index, _)| index);
        let slot = slot(now);
        let check = self.check_value(local, remote, irs, slot).wrapping_add(index) & CHECK_MASK;
        self.base(local, remote, irs).add(low32(slot) << 24).add(check)
    }

    /// The MSS that `cookie_ack` remembers, where `cookie_ack` is the acknowledgement number of
    /// the third ACK less one and `irs` its sequence number less one. `None` when we did not make
    /// it for this 4-tuple and `irs` in the current time slot or the one before (64 to 128 s).
    #[must_use]
    pub fn check(
        &self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        irs: SeqNum,
        cookie_ack: SeqNum,
    ) -> Option<u16> {
        let remainder = cookie_ack.since(self.base(local, remote, irs));
        let slot_now = slot(now);
        let age = low32(slot_now).wrapping_sub(remainder >> 24) & 0xff;
        if age > 1 {
            return None;
        }
        let slot = slot_now.checked_sub(u64::from(age))?;
        let check = self.check_value(local, remote, irs, slot);
        let index = remainder.wrapping_sub(check) & CHECK_MASK;
        MSS_TABLE.get(usize::try_from(index).ok()?).copied()
    }

    /// The `n`th candidate for our MPTCP key in the SYN/ACK of number `iss`: whoever echoes it got that
    /// SYN/ACK, and nobody else can compute it. `version` is that of the protocol.
    #[must_use]
    pub fn key(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        [irs, iss]: [SeqNum; 2],
        version: u8,
        n: u8,
    ) -> u64 {
        let extra = u64::from(iss.0) << 32 | u64::from(version) << 8 | u64::from(n);
        hash(&self.secret, Purpose::CookieKey, local, remote, irs.0, extra)
    }

    fn base(&self, local: SocketAddr, remote: SocketAddr, irs: SeqNum) -> SeqNum {
        irs.add(low32(hash(&self.secret, Purpose::CookieBase, local, remote, 0, 0)))
    }

    fn check_value(&self, local: SocketAddr, remote: SocketAddr, irs: SeqNum, slot: u64) -> u32 {
        low32(hash(&self.secret, Purpose::CookieCheck, local, remote, irs.0, slot))
    }
}

impl fmt::Debug for SynCookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SynCookies").finish_non_exhaustive()
    }
}

const OPTION_MASK: u32 = 0x3f;
const WINDOW_SCALE_MASK: u32 = 0x0f;
const NO_WINDOW_SCALE: u32 = 0x0f;
const SACK_BIT: u32 = 0x10;
/// RFC 7323 §2.3.
const WINDOW_SCALE_MAX: u8 = 14;

/// The peer's window scale and SACK-permitted, which a cookie has no room for, in the low 6 bits of
/// the timestamp of our SYN/ACK. The result is at most 64 ticks behind `ts`, never ahead of it.
#[must_use]
pub fn encode_ts(ts: u32, wscale: Option<u8>, sack: bool) -> u32 {
    let scale = wscale.map_or(NO_WINDOW_SCALE, |shift| u32::from(shift.min(WINDOW_SCALE_MAX)));
    let options = scale | if sack { SACK_BIT } else { 0 };
    let encoded = ts & !OPTION_MASK | options;
    if options > ts & OPTION_MASK { encoded.wrapping_sub(OPTION_MASK + 1) } else { encoded }
}

/// Window scale and SACK-permitted from the timestamp the third ACK echoes. Only meaningful when
/// the cookie itself was valid; without timestamps neither option can be remembered.
#[must_use]
pub fn decode_ts(tsecr: u32) -> (Option<u8>, bool) {
    let scale = u8::try_from(tsecr & WINDOW_SCALE_MASK).ok();
    (scale.filter(|&shift| shift <= WINDOW_SCALE_MAX), tsecr & SACK_BIT != 0)
}

/// Separates the hashes of this file from each other.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Purpose {
    Isn = 0,
    CookieBase = 1,
    CookieCheck = 2,
    Timestamp = 3,
    CookieKey = 4,
}

/// SipHash-2-4 over a fixed layout: purpose, addresses (IPv4 as mapped IPv6), ports, `extra`, `slot`.
fn hash(
    secret: &[u8; 16],
    purpose: Purpose,
    local: SocketAddr,
    remote: SocketAddr,
    extra: u32,
    slot: u64,
) -> u64 {
    let mut input = [0; 49];
    let mut rest = input.as_mut_slice();
    let mut put = |bytes: &[u8]| {
        if let Some((head, tail)) = core::mem::take(&mut rest).split_at_mut_checked(bytes.len()) {
            head.copy_from_slice(bytes);
            rest = tail;
        }
    };
    put(&[purpose as u8]);
    put(&octets(local.ip()));
    put(&octets(remote.ip()));
    put(&local.port().to_be_bytes());
    put(&remote.port().to_be_bytes());
    put(&extra.to_be_bytes());
    put(&slot.to_be_bytes());
    SipHasher24::new_with_key(secret).hash(&input)
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

fn slot(now: Instant) -> u64 {
    now.as_millis() / (SLOT_S * 1_000)
}

const fn low32(value: u64) -> u32 {
    let [_, _, _, _, a, b, c, d] = value.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use proptest::prelude::*;

    const SECRET: [u8; 16] = *b"0123456789abcdef";

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn pair() -> (SocketAddr, SocketAddr) {
        (addr("10.1.0.1:1080"), addr("10.1.0.2:40312"))
    }

    #[test]
    fn a_cookies_key_depends_on_everything() {
        let cookies = SynCookies::new(SECRET);
        let (local, remote) = pair();
        let numbers = [SeqNum(1), SeqNum(2)];
        let mut keys = alloc::vec![cookies.key(local, remote, numbers, 0, 0)];
        keys.push(SynCookies::new([1; 16]).key(local, remote, numbers, 0, 0));
        keys.push(cookies.key(local, remote, [SeqNum(2), SeqNum(1)], 0, 0));
        keys.push(cookies.key(local, remote, [SeqNum(1), SeqNum(3)], 0, 0));
        keys.extend(
            [(0, 1), (1, 0), (1, 1)].map(|(v, n)| cookies.key(local, remote, numbers, v, n)),
        );
        keys.extend(neighbours().map(|(l, r)| cookies.key(l, r, numbers, 0, 0)));
        assert_eq!(keys[0], cookies.key(local, remote, numbers, 0, 0));
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    /// The 4-tuples that differ from `pair` in one field.
    fn neighbours() -> [(SocketAddr, SocketAddr); 6] {
        let (local, remote) = pair();
        [
            (addr("10.1.0.3:1080"), remote),
            (addr("10.1.0.1:1081"), remote),
            (local, addr("10.1.0.4:40312")),
            (local, addr("10.1.0.2:40313")),
            (remote, local),
            (addr("[fd00:1::1]:1080"), addr("[fd00:1::2]:40312")),
        ]
    }

    #[test]
    fn isns_follow_the_clock_and_hide_other_tuples() {
        let generator = IsnGenerator::new(SECRET);
        let (local, remote) = pair();
        let now = Instant::from_millis(5);
        let isn = generator.isn(now, local, remote);
        let later = generator.isn(now + Duration::from_micros(4_000), local, remote);
        assert_eq!(later.since(isn), 1_000);
        // The clock wraps after 4.77 hours without a jump.
        let wrap = Instant::from_nanos(4_000 << 32);
        let before = generator.isn(wrap - Duration::from_micros(4), local, remote);
        assert_eq!(generator.isn(wrap, local, remote).since(before), 1);

        for (local, remote) in neighbours() {
            assert_ne!(generator.isn(now, local, remote), isn);
        }
        let other = IsnGenerator::new(*b"another secret !");
        assert_ne!(other.isn(now, local, remote), isn);
    }

    #[test]
    fn cookies_last_for_their_slot_and_the_next() {
        let cookies = SynCookies::new(SECRET);
        let (local, remote) = pair();
        let irs = SeqNum(77);
        // Slot 255 to 257: the eight bits of the slot number wrap.
        let made = Instant::from_millis(255 * 64_000);
        let cookie = cookies.make(made, local, remote, irs, 1460);
        let check = |s| {
            let now = made + Duration::from_secs(s);
            cookies.check(now, local, remote, irs, cookie)
        };
        assert_eq!(check(0), Some(1460));
        assert_eq!(check(63), Some(1460));
        assert_eq!(check(127), Some(1460));
        assert_eq!(check(128), None);
        assert_eq!(check(256 * 64), None, "the slot number comes round, the hash does not");
        let before = made - Duration::from_secs(1);
        assert_eq!(cookies.check(before, local, remote, irs, cookie), None);
    }

    #[test]
    fn cookies_belong_to_one_tuple_and_one_irs() {
        let cookies = SynCookies::new(SECRET);
        let (local, remote) = pair();
        let (now, irs) = (Instant::from_millis(1_000_000), SeqNum(u32::MAX));
        let cookie = cookies.make(now, local, remote, irs, 1400);
        assert_eq!(cookies.check(now, local, remote, irs, cookie), Some(1400));
        for (local, remote) in neighbours() {
            assert_eq!(cookies.check(now, local, remote, irs, cookie), None);
        }
        for other in [irs.add(1), irs.sub(1), irs.add(1 << 24)] {
            assert_eq!(cookies.check(now, local, remote, other, cookie), None);
            // Nor does a cookie for one `irs` tell the one for another.
            let shifted = cookie.add(other.since(irs));
            assert_eq!(cookies.check(now, local, remote, other, shifted), None);
        }
    }

    #[test]
    fn only_eight_numbers_per_slot_are_valid() {
        let cookies = SynCookies::new(SECRET);
        let (local, remote) = pair();
        let (now, irs) = (Instant::from_millis(1_000_000), SeqNum(9));
        let lowest = cookies.make(now, local, remote, irs, 0);
        let near = (0..2_000u32).map(|i| lowest.sub(1_000).add(i));
        // The same distance in every other slot of the wheel.
        let far = (0..=255u32).flat_map(|slot| (0..8).map(move |i| (slot, i)));
        let far = far.map(|(slot, i)| lowest.add(slot << 24).add(i));
        let candidates = near.chain(far.filter(|n| n.since(lowest) > 2_000));
        let valid = candidates.filter_map(|n| cookies.check(now, local, remote, irs, n));
        assert!(valid.eq(MSS_TABLE));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        assert_eq!(std::format!("{:?}", IsnGenerator::new(SECRET)), "IsnGenerator { .. }");
        assert_eq!(std::format!("{:?}", SynCookies::new(SECRET)), "SynCookies { .. }");
    }

    /// Every state of the low bits with every combination of options.
    #[test]
    fn timestamps_carry_options_without_running_ahead() {
        let scales = (0..=WINDOW_SCALE_MAX).map(Some).chain([None]);
        for (wscale, sack) in scales.flat_map(|scale| [(scale, false), (scale, true)]) {
            for ts in (0..200).chain(u32::MAX - 100..=u32::MAX) {
                let encoded = encode_ts(ts, wscale, sack);
                assert!(ts.wrapping_sub(encoded) < 64, "{ts} {encoded}");
                assert_eq!(decode_ts(encoded), (wscale, sack));
            }
        }
        assert_eq!(decode_ts(encode_ts(1_000, Some(200), false)), (Some(14), false));
    }

    proptest! {
        #[test]
        fn cookies_remember_the_mss(
            now_ms in 0u64..1 << 40,
            age_s in 0u64..64,
            irs in any::<u32>(),
            mss in 88u16..,
            secret in any::<[u8; 16]>(),
        ) {
            let cookies = SynCookies::new(secret);
            let (local, remote) = pair();
            let now = Instant::from_millis(now_ms);
            let cookie = cookies.make(now, local, remote, SeqNum(irs), mss);
            let later = now + Duration::from_secs(age_s);
            let remembered = cookies.check(later, local, remote, SeqNum(irs), cookie);
            let largest = MSS_TABLE.into_iter().filter(|size| *size <= mss).max();
            prop_assert_eq!(remembered, largest);
        }
    }
}
