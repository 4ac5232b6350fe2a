//! Scripts for each shape of mapping, and a random comparison with one entry per byte.

use super::*;

const IRS: SeqNum = SeqNum(u32::MAX - 1_000);
const IDSN: DataSeq = DataSeq(u64::MAX - 500);

fn at(offset: u32) -> SeqNum {
    IRS.add(offset)
}

fn data(offset: u64) -> DataSeq {
    IDSN.add(offset)
}

fn span(offset: u64, len: u32) -> Option<Span> {
    Some(Span { dsn: data(offset), len })
}

#[test]
fn repeats_of_one_mapping_are_one_entry() {
    let mut store = MappingStore::new();
    for segment in 0..21 {
        let rcv_nxt = at(segment * 1_428);
        assert_eq!(store.insert(rcv_nxt, at(0), data(0), 30_000, None), Ok(()));
        store.release(rcv_nxt);
        assert_eq!(store.len(), 1);
        let left = 30_000 - segment * 1_428;
        assert_eq!(store.find(rcv_nxt), span(u64::from(30_000 - left), left));
    }
    store.release(at(30_000));
    assert!(store.is_empty());
}
