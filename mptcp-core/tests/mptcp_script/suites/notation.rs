//! Segments in a short notation that shows what is compared octet by octet: flags, numbers relative
//! to the initial ones, and every option in its place with its length and its padding.
//!
//! `P. 1:101(100) ack 501 <dss dack8=501 dsn8=1 ssn=1 dll=100, nop, nop>` is 100 octets with PSH and
//! ACK; `dack4` and `dack8` are the two widths of a `DATA_ACK`.

use crate::harness::*;
use core::fmt::Write as _;
use mptcp_core::mptcp::key;
use mptcp_core::seq::SeqNum;
use mptcp_core::wire::{
    CapableForm, Dss, MpCapable, MpJoin, MptcpOption, OptionIter, TcpFlags, TcpOption, Version,
    WireSeq,
};

/// What relative numbers are relative to. Before the keys are known there are none.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) flow: &'a Flow,
    pub(super) keys: Option<&'a Keys>,
    pub(super) version: Version,
}

impl Origin<'_> {
    fn relative(&self, ours: bool, wire: WireSeq) -> String {
        let Some(keys) = self.keys else { return "?".into() };
        let key = if ours { keys.stack } else { keys.peer };
        let idsn = key::idsn(self.version, key).0;
        match wire {
            WireSeq::Full(dsn) => format!("8={}", dsn.wrapping_sub(idsn)),
            WireSeq::Low(dsn) => format!("4={}", dsn.wrapping_sub(idsn as u32)),
        }
    }

    fn key(&self, key: u64) -> &'static str {
        match self.keys {
            Some(keys) if key == keys.stack => "own",
            Some(keys) if key == keys.peer => "peer",
            None => "own",
            Some(_) => "unknown",
        }
    }

    fn capable(&self, capable: &MpCapable) -> String {
        let mut text = format!("mpcapable v{} {:#04x}", capable.version, capable.flags.bits());
        let keys = |sender, receiver| format!(" {} {}", self.key(sender), self.key(receiver));
        match capable.form {
            CapableForm::Syn => {}
            CapableForm::Key(key) => _ = write!(text, " {}", self.key(key)),
            CapableForm::Keys { sender, receiver } => text += &keys(sender, receiver),
            CapableForm::Data { sender, receiver, data_len, checksum } => {
                text += &keys(sender, receiver);
                _ = write!(text, " dll={data_len}");
                text += if checksum.is_some() { " sum" } else { "" };
            }
        }
        text
    }

    fn dss(&self, dss: &Dss) -> String {
        let mut text = "dss".to_string();
        if let Some(ack) = dss.data_ack {
            _ = write!(text, " dack{}", self.relative(false, ack));
        }
        if let Some(mapping) = dss.mapping {
            let dsn = self.relative(true, mapping.dsn);
            _ = write!(text, " dsn{dsn} ssn={} dll={}", mapping.ssn, mapping.len);
            text += if mapping.checksum.is_some() { " sum" } else { "" };
        }
        text + if dss.data_fin { " fin" } else { "" }
    }

    fn mptcp(&self, option: &MptcpOption<'_>) -> String {
        match option {
            MptcpOption::Capable(capable) => self.capable(capable),
            MptcpOption::Dss(dss) => self.dss(dss),
            MptcpOption::Join(MpJoin::Syn { backup, address_id, .. }) => {
                format!("mpjoin id={address_id}{}", if *backup { " backup" } else { "" })
            }
            MptcpOption::Join(MpJoin::SynAck { backup, address_id, .. }) => {
                format!("mpjoin id={address_id}{} hmac", if *backup { " backup" } else { "" })
            }
            MptcpOption::Join(MpJoin::Ack { .. }) => "mpjoin hmac".into(),
            MptcpOption::AddAddr(raw) => {
                let add = raw.decode(self.version).expect("of the version");
                let port = add.port.map_or(String::new(), |port| format!(":{port}"));
                let last = if add.echo { " echo" } else { "" };
                let hmac = if add.hmac.is_some() { " hmac" } else { "" };
                format!("add id={} {}{port}{hmac}{last}", add.address_id, add.addr)
            }
            MptcpOption::RemoveAddr(ids) => format!("remove {:?}", ids.iter().collect::<Vec<_>>()),
            MptcpOption::Prio(raw) => {
                let prio = raw.decode(self.version).expect("of the version");
                format!("prio {}", u8::from(prio.backup))
            }
            MptcpOption::Fail { dsn } => {
                format!("fail dsn{}", self.relative(false, WireSeq::Full(*dsn)))
            }
            MptcpOption::Fastclose { key } => format!("fastclose {}", self.key(*key)),
            MptcpOption::Reset(reset) => {
                format!("reset {}{}", reset.reason, if reset.transient { " T" } else { "" })
            }
            other => format!("{other:?}"),
        }
    }

    /// One option, or one octet of padding, at the front of `options`; and what follows it.
    fn option<'o>(&self, options: &'o [u8]) -> (String, &'o [u8]) {
        match options[0] {
            0 => return ("eol".into(), &options[1..]),
            1 => return ("nop".into(), &options[1..]),
            _ => {}
        }
        let (this, rest) = options.split_at(usize::from(options[1]));
        let parsed = OptionIter::new(this).next().expect("one option").expect("a whole one");
        let text = match parsed {
            TcpOption::MaxSegmentSize(mss) => format!("mss {mss}"),
            TcpOption::WindowScale(shift) => format!("wscale {shift}"),
            TcpOption::SackPermitted => "sackOK".into(),
            TcpOption::Timestamps { .. } => "TS".into(),
            TcpOption::Sack(blocks) => {
                let isn = self.flow.isn;
                let place = |seq: SeqNum| seq.0.wrapping_sub(isn);
                let block = |(from, to)| format!(" {}:{}", place(from), place(to));
                "sack".to_owned() + &blocks.iter().map(block).collect::<String>()
            }
            TcpOption::Mptcp(option) => self.mptcp(&option),
            other => format!("{other:?}"),
        };
        (text, rest)
    }

    /// `out`, which is of this flow, in the notation.
    pub(super) fn show(&self, out: &Out) -> String {
        let mut text = String::new();
        let names = [
            (TcpFlags::SYN, 'S'),
            (TcpFlags::FIN, 'F'),
            (TcpFlags::RST, 'R'),
            (TcpFlags::PSH, 'P'),
            (TcpFlags::ACK, '.'),
        ];
        text.extend(names.iter().filter(|(flag, _)| out.is(*flag)).map(|(_, name)| name));
        let seq = out.seq.wrapping_sub(self.flow.stack_isn);
        let len = out.payload.len() as u32;
        _ = write!(text, " {seq}:{}({len})", seq.wrapping_add(len));
        if out.is(TcpFlags::ACK) {
            _ = write!(text, " ack {}", out.ack.wrapping_sub(self.flow.isn));
        }
        let mut rest = out.options.as_slice();
        let mut options = Vec::new();
        while !rest.is_empty() {
            let (option, behind) = self.option(rest);
            options.push(option);
            rest = behind;
        }
        if !options.is_empty() {
            _ = write!(text, " <{}>", options.join(", "));
        }
        text
    }
}
