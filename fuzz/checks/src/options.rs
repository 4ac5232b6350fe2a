//! TCP and MPTCP options: reading loses nothing, so writing what was read and reading it again
//! changes nothing.

use mptcp_core::wire::options::MAX_OPTIONS_LEN;
use mptcp_core::wire::{MptcpOption, OptionIter, OptionWriter, TcpOption, Version};

/// Takes `data` as an option area, and its first 40 bytes as one that fits a header.
pub fn options(data: &[u8]) {
    check_iteration(data);
    let area = data.get(..MAX_OPTIONS_LEN).unwrap_or(data);
    let read: Vec<TcpOption<'_>> = OptionIter::new(area).filter_map(Result::ok).collect();
    let mut writer = OptionWriter::new();
    for option in &read {
        assert!(writer.push(option), "{option:?} came from {area:?} and must fit");
        if let TcpOption::Mptcp(option) = option {
            check_versions(option);
        }
    }
    let again: Vec<_> = writer.iter().collect();
    let expected: Vec<_> = read.iter().copied().map(Ok).collect();
    assert_eq!(again, expected, "written as {:?}", writer.as_bytes());
    assert!(writer.len() <= area.len(), "encoding made the options longer");
}

/// Iteration ends, at the first error at the latest, and stays at its end.
fn check_iteration(data: &[u8]) {
    let mut iter = OptionIter::new(data);
    let mut count = 0;
    while let Some(option) = iter.next() {
        count += 1;
        assert!(count <= data.len(), "an option takes at least a byte");
        if option.is_err() {
            assert!(iter.next().is_none(), "nothing may follow an error");
        }
    }
    assert!(iter.next().is_none());
}

/// What a version has, it can write and read back.
fn check_versions(option: &MptcpOption<'_>) {
    for version in [Version::V0, Version::V1] {
        let mut writer = OptionWriter::new();
        assert_eq!(
            writer.push_mptcp(option, version),
            option.is_in(version),
            "{option:?} in {version:?}"
        );
        let mut writer = OptionWriter::new();
        let rewritten = match *option {
            MptcpOption::AddAddr(raw) => {
                raw.decode(version).map(|add| add.encode(&mut writer, version))
            }
            MptcpOption::Prio(raw) => {
                raw.decode(version).map(|prio| prio.encode(&mut writer, version))
            }
            _ => None,
        };
        let Some(encoded) = rewritten else { continue };
        assert!(encoded, "{option:?} was read in {version:?} and must be writable");
        let again = writer.iter().next();
        let same = match (*option, again) {
            (MptcpOption::AddAddr(a), Some(Ok(TcpOption::Mptcp(MptcpOption::AddAddr(b))))) => {
                a.decode(version) == b.decode(version)
            }
            (MptcpOption::Prio(a), Some(Ok(TcpOption::Mptcp(MptcpOption::Prio(b))))) => {
                a.decode(version) == b.decode(version)
            }
            _ => false,
        };
        assert!(same, "{option:?} became {again:?} in {version:?}");
    }
}
