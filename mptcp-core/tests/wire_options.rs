//! Option lists: known bytes and the laws that encoding and decoding keep.

use mptcp_core::seq::SeqNum;
use mptcp_core::wire::*;

#[test]
fn a_version_1_third_ack_reads_as_it_was_written() {
    let capable = MpCapable {
        version: 1,
        flags: CapableFlags::HMAC,
        form: CapableForm::Keys { sender: 1, receiver: 2 },
    };
    let mut options = OptionWriter::new();
    assert!(options.push_timestamps(7, 9));
    assert!(options.push_mptcp(&MptcpOption::Capable(capable), Version::V1));
    let header = TcpHeader { src_port: 1, dst_port: 2, seq: SeqNum(3), ..TcpHeader::default() };
    let mut bytes = [0xff; 64];
    let len = header.emit(&options, &mut bytes);
    assert_eq!((len, len), (52, header.len(&options)));
    let segment = TcpSegment::parse(&bytes).unwrap();
    let read: Vec<_> = segment.options().map(Result::unwrap).collect();
    assert_eq!(
        read,
        [
            TcpOption::Timestamps { tsval: 7, tsecr: 9 },
            TcpOption::Mptcp(MptcpOption::Capable(capable))
        ]
    );
    assert_eq!(segment.payload, [0xff; 12]);
}
