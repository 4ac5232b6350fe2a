//! Option lists as a whole: writing what was read and reading it again changes nothing.

use mptcp_core::wire::options::MAX_OPTIONS_LEN;
use mptcp_core::wire::{OptionIter, OptionWriter, TcpOption, laws};

/// Takes `data` as an option area, and its first 40 bytes as one that fits a header.
pub fn options(data: &[u8]) {
    assert_eq!(laws::check(data), Ok(()));
    let area = data.get(..MAX_OPTIONS_LEN).unwrap_or(data);
    let read: Vec<TcpOption<'_>> = OptionIter::new(area).filter_map(Result::ok).collect();
    let mut writer = OptionWriter::new();
    for option in &read {
        assert!(writer.push(option), "{option:?} came from {area:?} and must fit");
    }
    let again: Vec<_> = writer.iter().collect();
    let expected: Vec<_> = read.iter().copied().map(Ok).collect();
    assert_eq!(again, expected, "written as {:?}", writer.as_bytes());
    assert!(writer.len() <= area.len(), "encoding made the options longer");
}
