//! What both ends know of an MPTCP connection, and the options that follow from it.

use super::{Flow, Out, PEER_KEY};
use mptcp_core::mptcp::key::{self, KeyPair};
use mptcp_core::seq::DataSeq;
use mptcp_core::wire::{
    CapableFlags, CapableForm, Dss, Mapping, MpCapable, MptcpOption, Version, WireSeq, checksum,
};

/// What both ends know of an MPTCP connection, from the peer's point of view.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) peer: u64,
    pub(crate) stack: u64,
    pub(crate) checksum: bool,
    pub(crate) version: Version,
}

impl Keys {
    /// Of the peer's own key and the one in the stack's SYN/ACK.
    pub(crate) fn of(version: Version, syn_ack: &Out, checksum: bool) -> Self {
        let Some(CapableForm::Key(stack)) = syn_ack.capable().map(|c| c.form) else {
            panic!("no key: {syn_ack:?}")
        };
        Self { peer: PEER_KEY, stack, checksum, version }
    }

    /// The third ACK's option.
    pub(crate) fn third(&self) -> MptcpOption<'static> {
        let form = CapableForm::Keys { sender: self.peer, receiver: self.stack };
        capable(self.version, self.flags(), form)
    }

    /// The option of the peer's first data, all of which is `payload`, at a server.
    pub(crate) fn first_data(&self, payload: &[u8]) -> MptcpOption<'static> {
        let mapping = self.mapping(0, 1, payload);
        if self.version == Version::V0 {
            return MptcpOption::Dss(Dss { mapping: Some(mapping), ..self.ack(0) });
        }
        let form = CapableForm::Data {
            sender: self.peer,
            receiver: self.stack,
            data_len: payload.len() as u16,
            checksum: mapping.checksum,
        };
        capable(self.version, self.flags(), form)
    }

    fn flags(&self) -> CapableFlags {
        let mut flags = CapableFlags::HMAC;
        flags.set(CapableFlags::CHECKSUM, self.checksum);
        flags
    }

    /// A data sequence number as peers write it: those of version 0 use 32 bits.
    pub(crate) fn wire(&self, dsn: DataSeq) -> WireSeq {
        match self.version {
            Version::V0 => WireSeq::Low(dsn.0 as u32),
            Version::V1 => WireSeq::Full(dsn.0),
        }
    }

    pub(crate) fn pair(&self) -> KeyPair {
        KeyPair { local: self.peer, remote: self.stack }
    }

    pub(crate) fn stack_token(&self) -> u32 {
        key::token(self.version, self.stack)
    }

    /// DSN of octet `offset` of the peer's stream.
    pub(crate) fn peer_dsn(&self, offset: u64) -> DataSeq {
        key::idsn(self.version, self.peer).add(1 + offset)
    }

    /// DSN of octet `offset` of the stack's stream.
    pub(crate) fn stack_dsn(&self, offset: u64) -> DataSeq {
        key::idsn(self.version, self.stack).add(1 + offset)
    }

    pub(crate) fn ack(&self, offset: u64) -> Dss {
        let data_ack = Some(self.wire(self.stack_dsn(offset)));
        Dss { data_ack, ..Dss::default() }
    }

    /// A mapping with the checksum of `payload` where one is agreed on.
    pub(crate) fn mapping(&self, offset: u64, ssn: u32, payload: &[u8]) -> Mapping {
        let (dsn, len) = (self.peer_dsn(offset), payload.len() as u16);
        let sum = || checksum::dss_checksum(dsn, ssn, len, checksum::sum(payload));
        let checksum = self.checksum.then(sum);
        Mapping { dsn: self.wire(dsn), ssn, len, checksum }
    }

    /// The same with a length of its own and no checksum.
    pub(crate) fn map(&self, offset: u64, ssn: u32, len: u16) -> Dss {
        let dsn = self.wire(self.peer_dsn(offset));
        let mapping = Some(Mapping { dsn, ssn, len, checksum: None });
        Dss { mapping, ..Dss::default() }
    }

    /// A `DATA_FIN` on its own behind `offset` octets.
    pub(crate) fn fin(&self, offset: u64) -> Dss {
        let (dsn, ssn, len) = (self.peer_dsn(offset), 0, 1);
        let checksum = self.checksum.then(|| checksum::dss_checksum(dsn, ssn, len, 0));
        let mapping = Some(Mapping { dsn: self.wire(dsn), ssn, len, checksum });
        Dss { mapping, data_fin: true, ..Dss::default() }
    }

    /// A DSS that maps `payload` to `offset` at the flow's next octet and acknowledges `acked`.
    pub(crate) fn data(&self, flow: &Flow, offset: u64, acked: u64, payload: &[u8]) -> Dss {
        let mapping = Some(self.mapping(offset, flow.ssn(), payload));
        Dss { mapping, ..self.ack(acked) }
    }
}

/// True when `wire` is `dsn` in either width.
pub(crate) fn same(wire: WireSeq, dsn: DataSeq) -> bool {
    match wire {
        WireSeq::Full(full) => full == dsn.0,
        WireSeq::Low(low) => low == dsn.0 as u32,
    }
}

pub(crate) const fn capable(
    version: Version,
    flags: CapableFlags,
    form: CapableForm,
) -> MptcpOption<'static> {
    MptcpOption::Capable(MpCapable { version: version as u8, flags, form })
}

/// The option of the peer's SYN: version 0 shows its key there.
pub(crate) const fn offer(version: Version, flags: CapableFlags) -> MptcpOption<'static> {
    let form = match version {
        Version::V0 => CapableForm::Key(PEER_KEY),
        Version::V1 => CapableForm::Syn,
    };
    capable(version, flags, form)
}
