//! How many things each client has at a time, whichever shards they are on, without locks.
//!
//! A client (an IPv4 address, an IPv6 /64) is counted in a word of the row that a keyed hash of it names. Its words
//! are two only for as long as two shards took one each at once; they count together. Where a row has no word left
//! the client is refused: with four words for whatever may be counted at all that takes more clients than
//! hash there by chance.
//!
//! Invariant: the words of a client add up to what entered and has not left, or is being refused.

use super::session::{Phase, Session};
use super::{Common, Gateway};
use crate::auth::source_prefix;
use crate::config::Config;
use crate::front_end::FrontEnd;
use core::hash::Hasher;
use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use mptcp_core::rng::Rng;
use siphasher::sip::SipHasher13;

/// Words of a row.
const ROW: usize = 16;
/// Words for each thing that may be counted.
const ROOM: usize = 4;
/// Bits of a word that count; the others say whose it is.
const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
/// Lookups that one client may wait for.
const LOOKUPS: u32 = 64;
/// Clients that have room to wait for lookups at a time: in the table of as many sessions as there may be, the rest is not worth
/// its memory.
const LOOKING_UP: u32 = 1 << 18;
/// Another shard may move what is looked for; it does not do so again and again.
const LOOKS: usize = 64;

/// See the module.
pub(crate) struct PerClient {
    most: u64,
    key: [u8; 16],
    rows: Vec<[AtomicU64; ROW]>,
}

impl core::fmt::Debug for PerClient {
    /// Without the key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PerClient").field("most", &self.most).finish_non_exhaustive()
    }
}

impl PerClient {
    /// `most` for each; all clients together have no more than `in_all`.
    fn new(most: u32, in_all: u32, rng: &mut Rng) -> Self {
        let mut key = [0; 16];
        rng.fill(&mut key);
        let words = usize::try_from(in_all).unwrap_or(0).saturating_mul(ROOM);
        let rows = (0..words.div_ceil(ROW).max(1)).map(|_| Default::default()).collect();
        Self { most: u64::from(most).min(COUNT / 2), key, rows }
    }

    /// One more of `source`; false when it has as many as it may.
    pub(crate) fn enter(&self, source: IpAddr) -> bool {
        let Some((row, mark)) = self.place(source) else { return false };
        if !self.add(row, mark) {
            return false;
        }
        // All of it is counted where two shards began with a client at once.
        let all: u64 = row
            .iter()
            .map(|word| word.load(Ordering::SeqCst))
            .filter(|word| word & !COUNT == mark)
            .map(|word| word & COUNT)
            .sum();
        if all > self.most {
            self.leave(source);
        }
        all <= self.most
    }

    fn add(&self, row: &[AtomicU64; ROW], mark: u64) -> bool {
        let more = |word: u64| {
            (word & !COUNT == mark && word & COUNT > 0 && word & COUNT < self.most)
                .then_some(word + 1)
        };
        for word in row {
            match update(word, more) {
                Ok(_) => return true,
                Err(word) if word & !COUNT == mark && word > 0 => return false,
                Err(_) => {}
            }
        }
        let free = |word| if word == 0 { Some(mark + 1) } else { more(word) };
        self.most > 0 && row.iter().any(|word| update(word, free).is_ok())
    }

    /// One less.
    pub(crate) fn leave(&self, source: IpAddr) {
        let Some((row, mark)) = self.place(source) else { return };
        let less = |word: u64| match word & COUNT {
            0 => None,
            _ if word & !COUNT != mark => None,
            1 => Some(0),
            _ => Some(word - 1),
        };
        // The last first: who has two words has one again soon.
        let left = (0..LOOKS).any(|_| row.iter().rev().any(|word| update(word, less).is_ok()));
        debug_assert!(left, "who leaves has entered");
    }

    fn place(&self, source: IpAddr) -> Option<(&[AtomicU64; ROW], u64)> {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u128(source_prefix(source));
        let hash = hasher.finish();
        let row = (u128::from(hash) * self.rows.len() as u128) >> 64;
        // The row is of the upper bits; the mark is of what is behind them as well.
        let mark = hash << COUNT_BITS;
        Some((self.rows.get(usize::try_from(row).ok()?)?, mark))
    }

    /// Words in use.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.rows.iter().flatten().filter(|word| word.load(Ordering::SeqCst) > 0).count()
    }
}

fn update(word: &AtomicU64, next: impl Fn(u64) -> Option<u64>) -> Result<u64, u64> {
    word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
}

/// What is counted.
#[derive(Debug)]
pub(super) struct Clients {
    /// Associations.
    pub(super) associations: PerClient,
    /// Those that wait for somebody to connect.
    pub(super) binds: PerClient,
    /// Requests that wait for their destinations, from the start of the exit until the SYN is answered or it is
    /// gone: of Convert, and of those who know of no gateway.
    converting: PerClient,
    passing: PerClient,
    /// Lookups that it waits for.
    pub(super) lookups: PerClient,
}

impl Clients {
    pub(super) fn new(config: &Config, rng: &mut Rng) -> Self {
        let Config { udp, bind, convert, transparent, limits, dns, .. } = config;
        let if_any = |any: bool| if any { limits.half_open } else { 0 };
        let converts = if_any(!convert.entry.listen.is_empty());
        let looks_up = match dns.servers.is_empty() {
            true => 0,
            false => limits.connections.min(LOOKING_UP),
        };
        let passes = if_any(!transparent.ports.is_empty());
        Self {
            associations: PerClient::new(udp.per_client, udp.associations, rng),
            binds: PerClient::new(bind.per_client, bind.waiting, rng),
            converting: PerClient::new(convert.pending_per_client, converts, rng),
            passing: PerClient::new(transparent.pending_per_client, passes, rng),
            lookups: PerClient::new(LOOKUPS, looks_up, rng),
        }
    }

    /// Words in use.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let Self { associations, binds, converting, passing, lookups } = self;
        [associations, binds, converting, passing, lookups].map(PerClient::count).iter().sum()
    }
}

impl Common {
    /// Requests of clients of `front_end`.
    pub(super) fn pending(&self, front_end: FrontEnd) -> &PerClient {
        match front_end {
            FrontEnd::Transparent => &self.clients().passing,
            FrontEnd::Convert | FrontEnd::Socks5 | FrontEnd::Http => &self.clients().converting,
        }
    }
}

impl Gateway {
    /// The request of a session, which is in the slab or was until now, waits no longer.
    pub(super) fn settle(&self, front_end: FrontEnd, source: Option<IpAddr>) {
        if let Some(source) = source {
            self.common.pending(front_end).leave(source);
        }
    }
}

impl Session {
    /// For whom its request counts; it does not any more.
    pub(super) fn take_pending(&mut self) -> Option<IpAddr> {
        match &mut self.phase {
            Phase::Connecting(attempts) => attempts.pending_for.take(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;
    use std::collections::BTreeMap;

    fn client(n: u32) -> IpAddr {
        IpAddr::from((0x0a01_0000 + n).to_be_bytes())
    }

    fn per_client(most: u32, in_all: u32) -> PerClient {
        PerClient::new(most, in_all, &mut Rng::from_seed([3; 32]))
    }

    #[test]
    fn it_counts_as_a_map_does() {
        let table = per_client(3, 500);
        let mut model: BTreeMap<u32, u32> = BTreeMap::new();
        let mut rng = Rng::from_seed([4; 32]);
        for _ in 0..100_000 {
            let n = rng.below(300);
            let count = model.entry(n).or_default();
            if rng.below(2) == 0 {
                let allowed = *count < 3 && model.values().sum::<u32>() < 500;
                if allowed {
                    assert!(table.enter(client(n)), "{n}");
                    *model.entry(n).or_default() += 1;
                } else if model[&n] == 3 {
                    assert!(!table.enter(client(n)), "{n}");
                }
            } else if *count > 0 {
                *count -= 1;
                table.leave(client(n));
            }
            model.retain(|_, count| *count > 0);
        }
        assert_eq!(table.count(), model.len());
    }

    /// As many clients as there may be, each with one: nobody finds a full row.
    #[test]
    fn there_is_room_for_all() {
        let table = per_client(1, 50_000);
        assert!((0..50_000).all(|n| table.enter(client(n))));
        assert!((0..50_000).all(|n| !table.enter(client(n))));
        (0..50_000).for_each(|n| table.leave(client(n)));
        assert_eq!(table.count(), 0);
    }

    /// One row for all, so that words are taken and given back all the time.
    #[test]
    fn shards_never_let_in_more_and_lose_none() {
        let table = per_client(3, 1);
        let held: Vec<AtomicU32> = (0..4).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for shard in 0..4_u8 {
                let (table, held) = (&table, &held);
                scope.spawn(move || {
                    let mut rng = Rng::from_seed([shard; 32]);
                    let mut own = Vec::new();
                    for _ in 0..50_000 {
                        let n = rng.below(4);
                        if rng.below(2) == 0 && table.enter(client(n)) {
                            let now = held[n as usize].fetch_add(1, Ordering::SeqCst) + 1;
                            assert!(now <= 3, "{now} of {n}");
                            own.push(n);
                        } else if let Some(n) = own.pop() {
                            held[n as usize].fetch_sub(1, Ordering::SeqCst);
                            table.leave(client(n));
                        }
                    }
                    own.into_iter().for_each(|n| {
                        held[n as usize].fetch_sub(1, Ordering::SeqCst);
                        table.leave(client(n));
                    });
                });
            }
        });
        assert_eq!(table.count(), 0);
    }

    #[test]
    fn nobody_may_have_any() {
        assert!(!per_client(0, 10).enter(client(1)));
    }
}
