//! Packets into a stack in every state: most are acceptable to TCP, because they are made from where
//! the connection stands, and carry options that are nearly right.

use crate::bench::{OURS, Seg, THEIRS, at, ip_packet, octet, stream};
use crate::input::Input;
use crate::peer::{Flow, Kind, Peer, Stage, low};
use mptcp_core::mptcp::key;
use mptcp_core::time::Duration;
use mptcp_core::wire::{
    AddAddr, AddressIds, CapableForm, Dss, IcmpErrorKind, Mapping, MpJoin, MptcpOption,
    OptionWriter, TcpFlags, Version, WireSeq, checksum, icmp,
};

/// Steps of one input: a longer one says nothing new and takes longer.
const MAX_STEPS: usize = 64;

/// Takes `data` as the state of a connection and what its peer, its path and its application do.
pub fn states(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = Kind {
        version: input.one_of(&[Some(Version::V1), Some(Version::V0), None]),
        checksum: input.u8() & 1 != 0,
    };
    let stage = input.one_of(&Stage::ALL);
    let mut peer = Peer::new(kind, stage);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut peer, &mut input);
    }
    peer.bench.finish();
}

fn step(peer: &mut Peer, input: &mut Input<'_>) {
    let which = usize::from(input.u8()) % peer.flows.len();
    match input.u8() {
        0..120 => hostile(peer, which, input),
        120..150 => data(peer, which, input),
        150..160 => {
            let ack = peer.keys.ack(u64::from(input.u16()));
            let seg = peer.keys.dss(peer.flows[which].seg(), ack);
            peer.send(&seg);
        }
        160..172 if peer.flows.len() < 12 => peer.join(5_000 + u16::from(input.u8())),
        172..215 => application(peer, input),
        215..235 => {
            let time = Duration::from_millis(u64::from(input.u8()).pow(2));
            let out = peer.bench.advance(time);
            peer.hear(&out);
        }
        235..245 => unreachable(peer, which, input),
        _ => noise(peer, input),
    }
}

/// A segment near what the connection expects, with anything in it.
fn hostile(peer: &mut Peer, which: usize, input: &mut Input<'_>) {
    let flow = peer.flows[which].clone();
    let mut seg = flow.seg();
    let exact = input.u8();
    seg.seq = near(seg.seq, exact & 3, input);
    seg.ack = near(seg.ack, exact >> 2 & 3, input);
    const ACK: TcpFlags = TcpFlags::ACK;
    seg.flags = match input.u8() {
        0..140 => ACK,
        140..170 => ACK | TcpFlags::FIN,
        170..180 => ACK | TcpFlags::PSH,
        180..195 => TcpFlags::RST,
        195..205 => TcpFlags::RST | ACK,
        205..220 => TcpFlags::SYN,
        220..230 => TcpFlags::SYN | ACK,
        _ => TcpFlags::from_bits_retain(input.u8()),
    };
    seg.window = input.one_of(&[60_000, 0, 1, 100, 1_460, u16::MAX, 7, 512]);
    let len = match input.u8() {
        0..100 => 0,
        100..120 => 1,
        120..200 => input.below(300),
        _ => input.below(1_400),
    };
    seg.payload = stream(peer.keys.sent, usize::try_from(len).expect("small"));
    for _ in 0..input.u8() % 3 {
        let option = option(peer, &flow, &seg.payload, input);
        seg.options.extend(option);
    }
    let moves = exact >> 4 & 1 == 0 && seg.seq == flow.snd_nxt;
    peer.send(&seg);
    if moves {
        let taken = len + u32::from(seg.flags.contains(TcpFlags::FIN));
        peer.flows[which].snd_nxt = flow.snd_nxt.wrapping_add(taken);
        peer.keys.sent += u64::from(len);
    }
}

fn near(exact: u32, how: u8, input: &mut Input<'_>) -> u32 {
    match how {
        0 | 1 => exact,
        2 => exact.wrapping_add(u32::from(input.u16())).wrapping_sub(0x4000),
        _ => input.u32(),
    }
}

/// What an honest peer sends.
fn data(peer: &mut Peer, which: usize, input: &mut Input<'_>) {
    let len = 1 + input.below(1_400);
    let payload = stream(peer.keys.sent, usize::try_from(len).expect("small"));
    let flow = &peer.flows[which];
    let dss = peer.keys.map(peer.keys.sent, flow.ssn(), &payload);
    let seg = Seg { payload, ..peer.keys.dss(flow.seg(), dss) };
    peer.send(&seg);
    peer.flows[which].snd_nxt = peer.flows[which].snd_nxt.wrapping_add(len);
    peer.keys.sent += u64::from(len);
}

/// An option, well-formed or not, aimed at this connection.
fn option(peer: &Peer, flow: &Flow, payload: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let keys = &peer.keys;
    let mut writer = OptionWriter::new();
    match input.u8() {
        0..90 => return keys.encode(&MptcpOption::Dss(dss(peer, flow, payload, input))),
        90..100 => {
            let dsn = keys.stack_dsn(u64::from(input.u16()) % 4_096).0;
            return keys.encode(&MptcpOption::Fail { dsn });
        }
        100..108 => {
            let key = if input.u8() & 3 == 0 { u64::from(input.u32()) } else { keys.stack };
            return keys.encode(&MptcpOption::Fastclose { key });
        }
        108..118 => {
            let ids = [input.u8(), input.u8(), input.u8()];
            let ids = &ids[..1 + usize::from(input.u8()) % 3];
            let ids = AddressIds::new(ids).expect("at least one");
            return keys.encode(&MptcpOption::RemoveAddr(ids));
        }
        118..130 => {
            let _fits = add_addr(peer, input).encode(&mut writer, keys.version());
        }
        130..145 => return keys.encode(&MptcpOption::Join(join(peer, input))),
        145..160 => return keys.encode(&keys.capable(capable(peer, payload, input))),
        160..170 => return vec![30, 3, 0x50 | input.u8() & 0xf],
        170..176 => return vec![30, 4, 0x50 | input.u8() & 0xf, input.u8()],
        176..182 => return vec![30, 4, 0x80 | input.u8() & 0xf, input.u8()],
        182..200 => {
            let blocks: Vec<_> = (0..1 + input.u8() % 4)
                .map(|_| {
                    let start = near(flow.rcv_nxt, 2, input);
                    (start, start.wrapping_add(u32::from(input.u16())))
                })
                .map(|(start, end): (u32, u32)| {
                    (mptcp_core::seq::SeqNum(start), mptcp_core::seq::SeqNum(end))
                })
                .collect();
            let _blocks = writer.push_sack(&blocks);
        }
        200..210 => {
            let _fits = writer.push_timestamps(input.u32(), input.u32());
        }
        210..216 => return vec![2, 4, input.u8(), input.u8(), 3, 3, input.u8()],
        216..240 => {
            let value = input.some(36);
            let len = u8::try_from(value.len() + 3).expect("an option");
            return [&[30, len, input.u8()], value].concat();
        }
        _ => return input.some(40).to_vec(),
    }
    writer.as_bytes().to_vec()
}

fn dss(peer: &Peer, flow: &Flow, payload: &[u8], input: &mut Input<'_>) -> Dss {
    let (keys, choice) = (&peer.keys, input.u8());
    let data_ack = match choice & 3 {
        0 => None,
        1 => Some(WireSeq::Full(keys.stack_dsn(u64::from(input.u16())).0)),
        2 => Some(WireSeq::Low(low(keys.stack_dsn(u64::from(input.u16()))))),
        _ => Some(WireSeq::Low(input.u32())),
    };
    if choice & 4 != 0 {
        let data_fin = choice & 8 != 0;
        let fin = if data_fin { keys.fin().mapping } else { None };
        return Dss { data_ack, mapping: fin, data_fin };
    }
    let offset = match choice >> 4 & 3 {
        0 | 1 => keys.sent,
        2 => keys.sent.saturating_sub(u64::from(input.u8())),
        _ => keys.sent + u64::from(input.u16()),
    };
    let ssn = near(flow.ssn(), if choice >> 6 == 3 { 2 } else { 0 }, input);
    let len = match choice >> 6 {
        0 | 1 => u16::try_from(payload.len()).expect("a packet"),
        2 => input.u16() % 3_000,
        _ => 0,
    };
    let sum = checksum::sum(&payload[..payload.len().min(usize::from(len))]);
    let mapping = keys.mapping(offset, ssn, len, sum).mapping;
    let mapping = mapping.map(|mapping| match input.u8() {
        0..200 => mapping,
        200..220 => Mapping { checksum: Some(0), ..mapping },
        220..240 => Mapping { checksum: None, ..mapping },
        _ => Mapping { dsn: WireSeq::Low(low(keys.dsn(offset))), ..mapping },
    });
    Dss { data_ack, mapping, data_fin: choice & 8 != 0 }
}

fn add_addr(peer: &Peer, input: &mut Input<'_>) -> AddAddr {
    let (keys, choice) = (&peer.keys, input.u8());
    let (id, addr) = (input.u8(), THEIRS[usize::from(choice & 1)]);
    let port = (choice & 2 != 0).then(|| input.u16());
    let pair = keys.pair();
    let hmac = key::add_addr_hmac(keys.version(), pair.local, pair.remote, id, addr, port);
    let is_v0 = keys.version() == Version::V0;
    let echo = !is_v0 && choice & 4 != 0;
    let hmac = (!is_v0 && !echo).then_some(if choice & 8 == 0 { hmac } else { 0 });
    AddAddr { address_id: id, addr, port, echo, hmac }
}

fn join(peer: &Peer, input: &mut Input<'_>) -> MpJoin {
    match input.u8() % 3 {
        0 => {
            let token = if input.u8() & 3 == 0 { input.u32() } else { peer.keys.token() };
            MpJoin::Syn { backup: false, address_id: input.u8(), token, nonce: input.u32() }
        }
        1 => {
            let hmac = u64::from(input.u32());
            MpJoin::SynAck { backup: true, address_id: input.u8(), hmac, nonce: input.u32() }
        }
        _ => MpJoin::Ack { hmac: [input.u8(); 20] },
    }
}

fn capable(peer: &Peer, payload: &[u8], input: &mut Input<'_>) -> CapableForm {
    let pair = peer.keys.pair();
    let (sender, receiver) = (pair.local, pair.remote);
    match input.u8() % 5 {
        0 => CapableForm::Syn,
        1 => CapableForm::Key(sender),
        2 => CapableForm::Keys { sender, receiver },
        3 => CapableForm::Keys { sender, receiver: u64::from(input.u32()) },
        _ => {
            let data_len = u16::try_from(payload.len()).expect("a packet");
            let checksum = (input.u8() & 1 != 0).then(|| input.u16());
            CapableForm::Data { sender, receiver, data_len, checksum }
        }
    }
}

fn application(peer: &mut Peer, input: &mut Input<'_>) {
    let Some(&id) = peer.bench.sockets.first() else { return };
    let (stack, now) = (&mut peer.bench.stack, peer.bench.now);
    match input.u8() {
        0..90 => {
            let len = usize::from(input.u16() % 20_000);
            let _sent = stack.send(now, id, &vec![octet(1); len]);
        }
        90..190 => {
            let mut into = vec![0; usize::from(input.u16() % 8_192)];
            let _read = stack.recv(now, id, &mut into);
        }
        190..205 => stack.shutdown_write(now, id),
        205..215 => {
            stack.set_backup(id, input.u8() % 4, input.u8() & 1 == 0);
        }
        215..225 => {
            stack.set_keep_alive(now, id, input.u8() & 1 == 0);
        }
        225..235 => stack.remove_address(now, OURS[usize::from(input.u8() & 1)]),
        235..243 => {
            stack.close(now, id);
        }
        243..250 => stack.abort(now, id),
        _ => {
            stack.abort(now, id);
            stack.release(id);
            peer.bench.sockets.remove(0);
        }
    }
    let out = peer.bench.settle();
    peer.hear(&out);
}

/// An ICMP error about a segment of the stack's, or about none.
fn unreachable(peer: &mut Peer, which: usize, input: &mut Input<'_>) {
    let flow = &peer.flows[which];
    let seq = near(flow.rcv_nxt, input.u8() & 3, input);
    let (src, dst) = (flow.local, flow.peer);
    let ours = Seg { src, dst, seq, ack: flow.snd_nxt, ..flow.seg() }.packet();
    let kind = match input.u8() % 5 {
        0 => IcmpErrorKind::NetworkUnreachable,
        1 => IcmpErrorKind::PortUnreachable,
        2 => IcmpErrorKind::TimeExceeded,
        3 => IcmpErrorKind::Prohibited,
        _ => IcmpErrorKind::FragmentationNeeded { mtu: input.u16() },
    };
    let mut error = Vec::new();
    if icmp::emit_error(kind, &ours, THEIRS[0], &mut error) {
        let out = peer.bench.deliver(&error);
        peer.hear(&out);
    }
}

/// Octets that only look like a packet of ours, or not even that.
fn noise(peer: &mut Peer, input: &mut Input<'_>) {
    let choice = input.u8();
    let body = input.some(255);
    let packet = match choice & 3 {
        0 => body.to_vec(),
        1 => ip_packet(THEIRS[0], OURS[0], 1, body),
        2 => ip_packet(THEIRS[0], OURS[0], 17, body),
        _ => {
            let stray = Flow::new(at(THEIRS[1], input.u16()), at(OURS[0], u16::from(input.u8())));
            let flags = TcpFlags::from_bits_retain(input.u8());
            Seg { flags, options: body.to_vec(), ..stray.seg() }.packet()
        }
    };
    let out = peer.bench.deliver(&packet);
    peer.hear(&out);
}
