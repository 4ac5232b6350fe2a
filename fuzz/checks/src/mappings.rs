//! The mapping store against a model with one entry per octet (RFC 8684 §3.3.1).

use crate::input::Input;
use mptcp_core::mptcp::mapping::{Checked, MappingError, MappingStore, Span};
use mptcp_core::seq::{DataSeq, SeqNum};
use std::collections::BTreeMap;

/// Both sequence spaces wrap inside the range that is used.
const START: SeqNum = SeqNum(u32::MAX - 300);
const IDSN: DataSeq = DataSeq(u64::MAX - 500);
const SPACE: u32 = 1_024;
const LIMIT: usize = 12;
const MAX_STEPS: usize = 200;

/// A mapped octet: its place in the data, and the mapping with a checksum that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Octet {
    data: u32,
    checked: Option<Whole>,
}

/// A mapping with a checksum, which stays as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Whole {
    start: u32,
    data: u32,
    len: u32,
    checksum: u16,
}

#[derive(Default)]
struct Model {
    octets: BTreeMap<u32, Octet>,
    delivered: u32,
}

impl Model {
    fn insert(
        &mut self,
        start: u32,
        data: u32,
        len: u32,
        checksum: Option<u16>,
    ) -> Result<(), MappingError> {
        let behind = self.delivered.saturating_sub(start);
        if behind >= len {
            return Ok(());
        }
        let (from, end) = (start + behind, start + len);
        let known: Vec<(u32, Octet)> =
            self.octets.range(from..end).map(|(a, o)| (*a, *o)).collect();
        if known.iter().any(|(at, octet)| octet.data != data + (at - start)) {
            return Err(MappingError::Conflict);
        }
        let one_entry = known.windows(2).all(|pair| continues(pair[0], pair[1]));
        if known.len() == (end - from) as usize && one_entry {
            return Ok(());
        }
        let all_new = known.is_empty() && behind == 0;
        let touches_whole = known.iter().any(|(_, octet)| octet.checked.is_some());
        if checksum.is_some() && !all_new || touches_whole {
            return Err(MappingError::Conflict);
        }
        let whole = checksum.map(|checksum| Whole { start, data, len, checksum });
        let before = self.octets.clone();
        let entries = self.entries();
        for at in from..end {
            let octet = Octet { data: data + (at - start), checked: whole };
            self.octets.entry(at).or_insert(octet);
        }
        if entries >= LIMIT && self.entries() > entries {
            self.octets = before;
            return Err(MappingError::Full);
        }
        Ok(())
    }

    fn release(&mut self, up_to: u32) {
        self.delivered = up_to;
        self.octets.retain(|at, octet| match octet.checked {
            Some(whole) => whole.start + whole.len > up_to,
            None => *at >= up_to,
        });
    }

    fn find(&self, at: u32) -> Option<Span> {
        let first = *self.octets.get(&at)?;
        let mut len = 1;
        while let Some(next) = self.octets.get(&(at + len))
            && continues((at + len - 1, self.octets[&(at + len - 1)]), (at + len, *next))
        {
            len += 1;
        }
        Some(Span { dsn: IDSN.add(u64::from(first.data)), len })
    }

    fn checked_at(&self, at: u32) -> Option<Checked> {
        let whole = self.octets.get(&at)?.checked?;
        Some(Checked {
            start: START.add(whole.start),
            dsn: IDSN.add(u64::from(whole.data)),
            len: whole.len,
            checksum: whole.checksum,
        })
    }

    fn entries(&self) -> usize {
        let octets: Vec<(u32, Octet)> = self.octets.iter().map(|(a, o)| (*a, *o)).collect();
        let breaks = octets.windows(2).filter(|pair| !continues(pair[0], pair[1])).count();
        breaks + usize::from(!octets.is_empty())
    }
}

/// Whether two mapped octets are of one entry.
fn continues(a: (u32, Octet), b: (u32, Octet)) -> bool {
    a.0 + 1 == b.0 && a.1.data + 1 == b.1.data && a.1.checked == b.1.checked
}

/// Takes `data` as mappings that arrive, octets that are delivered, and questions.
pub fn mappings(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut store, mut model) = (MappingStore::new(), Model::default());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            return;
        }
        let choice = input.u8();
        match choice {
            0..200 => {
                let start = input.below(SPACE);
                let len = if choice & 1 == 0 { input.below(64) } else { input.below(600) };
                // Mostly the stream as it is, sometimes moved.
                let data = start + if choice < 150 { 100 } else { u32::from(input.u8()) };
                let checksum = (choice & 2 != 0).then(|| input.u16());
                let delivered = START.add(model.delivered);
                let (at, dsn) = (START.add(start), IDSN.add(u64::from(data)));
                let stored = store.insert_within(LIMIT, delivered, at, dsn, len, checksum);
                assert_eq!(stored, model.insert(start, data, len, checksum), "{start} {len}");
            }
            200..230 => {
                model.release(model.delivered + input.below(100));
                store.release(START.add(model.delivered));
            }
            230..252 => {
                let at = model.delivered + input.below(SPACE);
                assert_eq!(store.find(START.add(at)), model.find(at), "find {at}");
                assert_eq!(store.checked_at(START.add(at)), model.checked_at(at), "{at}");
                let next = model.octets.range(at..).next().map(|(at, _)| START.add(*at));
                assert_eq!(store.next_start(START.add(at)), next, "next_start {at}");
            }
            _ => {
                // Wherever it is, an empty mapping says nothing.
                let at = START.add(input.u32());
                assert_eq!(store.insert(START, at, IDSN, 0, None), Ok(()));
            }
        }
        assert_eq!(store.len(), model.entries(), "entries");
        assert_eq!(store.is_empty(), model.octets.is_empty());
    }
    store.clear();
    assert!(store.is_empty());
}
