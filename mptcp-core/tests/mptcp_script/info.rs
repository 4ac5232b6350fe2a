//! What `Stack::info` and the event log say of a connection whose every packet is known.

use crate::cases::V;
use crate::harness::*;
use mptcp_core::config::MtuProbing;
use mptcp_core::event_log::{Event, ReinjectCause, SubflowEnd, Why};
use mptcp_core::stack::SocketId;
use mptcp_core::tcp::CongestionState;
use mptcp_core::time::{Duration, Instant};
use mptcp_core::wire::{CapableFlags, TcpFlags, Version, reset_reason};

fn events(script: &Script, id: SocketId) -> Vec<Event> {
    script.stack.event_log(id).expect("a log").iter().map(|record| record.event).collect()
}

#[test]
fn the_data_level_in_numbers() {
    let mut script = Script::server_with(V, |c| c.mptcp.max_subflows = 5);
    let (keys, mut flow, id) = script.confirmed_with(CapableFlags::HMAC);
    script.advance(100);
    let sent_at = script.now;
    let out = script.write(id, 0, 1_000);
    flow.hears(&out);
    script.advance(30);
    script.send(&flow, &flow.seg().dss(keys.ack(600)));
    script.advance(30);
    script.send_data(&keys, &mut flow, 0, 600, &stream(0, 250));
    let info = script.info(id);
    let level = info.data_level.expect("an MPTCP connection");
    assert!(!level.client && level.remote_key_known && !level.checksum);
    assert_eq!(level.local_token, keys.stack_token());
    assert_eq!(level.remote_token, mptcp_core::mptcp::key::token(Version::V1, keys.peer));
    assert_eq!(level.write_seq, keys.stack_dsn(1_000));
    assert_eq!((level.snd_una, level.snd_nxt), (keys.stack_dsn(600), keys.stack_dsn(1_000)));
    assert_eq!(level.rcv_nxt, keys.peer_dsn(250));
    // What the peer offered counts from its DATA_ACK on.
    assert_eq!(level.snd_wnd, 60_000);
    assert!(level.rcv_wnd > 10_000, "{level:?}");
    assert_eq!((level.subflows_max, level.subflows_ended, level.last_subflow_end), (5, 0, None));
    assert_eq!((level.retransmits, level.bytes_retrans, level.half_open_joins), (0, 0, 0));
    assert_eq!(level.last_data_sent, Some(sent_at));
    assert_eq!(level.last_data_received, Some(script.now));
    assert_eq!(level.last_ack_received, Some(script.now));
    assert_eq!((info.bytes_sent, info.bytes_acked, info.bytes_received), (1_000, 600, 250));
}

#[test]
fn a_subflow_in_numbers() {
    // What is repeated has the length it had.
    let mut script = Script::server_with(V, |c| c.tcp.mtu_probing = MtuProbing::Off);
    let (keys, mut flow, id) = script.confirmed();
    let out = script.write(id, 0, 3_000);
    let count = flow.of(&out).len() as u32;
    let tcp = script.info(id).subflows[0].tcp;
    assert_eq!((tcp.unacked, tcp.bytes_sent, tcp.bytes_acked), (count, 3_000, 0));
    assert_eq!((tcp.pipe, tcp.lost, tcp.sacked), (3_000, 0, 0));
    assert_eq!((tcp.timestamps, tcp.sack), (false, true));
    assert_eq!((tcp.snd_wscale, tcp.rcv_wscale), (0, 0));
    // 1,460 less a DSS of 24 octets.
    assert_eq!((tcp.adv_mss, tcp.snd_mss, tcp.pmtu), (1_460, 1_436, 1_500));
    assert_eq!((tcp.congestion, tcp.congestion_state), ("cubic", CongestionState::Open));
    assert_eq!((tcp.snd_ssthresh, tcp.last_data_received), (None, None));
    // Third ACK, DSS; SYN/ACKs come from no block.
    assert_eq!((tcp.segs_in, tcp.segs_out), (2, count));
    script.advance(40);
    flow.hears(&out);
    script.send(&flow, &flow.seg().dss(keys.ack(3_000)));
    let tcp = script.info(id).subflows[0].tcp;
    assert_eq!((tcp.unacked, tcp.bytes_acked, tcp.pipe), (0, 3_000, 0));
    // The handshake took no time, the data 40 ms: an eighth of it counts (RFC 6298 §2.3).
    assert!(tcp.min_rtt < tcp.srtt && tcp.srtt <= Some(Duration::from_millis(6)), "{tcp:?}");
    // The script's stack does not pace; what a window per round trip comes to is known now.
    let srtt = tcp.srtt.expect("measured").as_secs_f64();
    let window_rate = f64::from(tcp.cwnd) / srtt;
    assert_eq!(tcp.pacing_rate, None);
    assert!((tcp.delivery_rate.expect("known") as f64 / window_rate - 1.0).abs() < 0.01, "{tcp:?}");
    assert!(tcp.rttvar.is_some() && tcp.rto >= Duration::from_millis(200));
    // A loss: everything goes out again. (The short last segment was sent twice already, by the
    // tail loss probe.)
    let before = (tcp.bytes_retrans, u64::from(tcp.total_retrans));
    assert_eq!(before, (128, 1));
    script.write(id, 3_000, 1_000);
    let again = script.advance(2_000);
    let again: u64 = flow.of(&again).iter().map(|o| o.payload.len() as u64).sum();
    let tcp = script.info(id).subflows[0].tcp;
    assert!(again > 0);
    assert_eq!(tcp.bytes_retrans, before.0 + again);
    assert_eq!(u64::from(tcp.total_retrans), before.1 + again / 1_000);
    assert!(tcp.retransmits > 0 && tcp.backoff > 0, "{tcp:?}");
    assert_eq!(tcp.congestion_state, CongestionState::Loss);
    assert!(tcp.snd_ssthresh.is_some() && tcp.cwnd <= 2 * 1_460, "{tcp:?}");
}

/// A life with a join, a priority, a reset and an end, record by record.
#[test]
fn a_log_tells_a_life_in_order() {
    let mut script = Script::server(V);
    let listener = script.listener.expect("a server");
    assert!(script.stack.log_events(listener, 100));
    let (keys, mut first, id) = script.confirmed();
    let join = script.join(&keys, at(P2, 5000), at(A2, PORT));
    script.advance(5);
    assert!(script.stack.set_backup(id, 0, true));
    script.out();
    let out = script.write(id, 0, 100);
    assert!(!join.of(&out).is_empty(), "{out:?}");
    script.send(&join, &join.seg().flags(TcpFlags::RST).raw(&[30, 4, 0x80, 0x05]));
    script.out();
    let told = events(&script, id);
    let (local, remote) = (at(A1, PORT), at(P1, 40_000));
    let expected = [
        Event::Started { client: false, local, remote, version: Some(1) },
        Event::Established { version: Some(1), checksum: false },
        Event::SubflowJoined {
            subflow: 1,
            local: at(A2, PORT),
            remote: at(P2, 5000),
            local_id: 2,
            remote_id: 2,
            backup: false,
        },
        Event::Priority { subflow: 0, backup: true, peer: false },
        Event::Scheduled { subflow: Some(1), why: Why::Preferred, repeated: 0 },
        Event::SubflowClosed {
            subflow: 1,
            end: SubflowEnd::PeerReset(Some(reset_reason::UNACCEPTABLE_PERFORMANCE)),
        },
        Event::Reinjected { subflow: Some(1), cause: ReinjectCause::SubflowEnded },
        Event::Scheduled { subflow: Some(0), why: Why::Preferred, repeated: 0 },
    ];
    assert_eq!(told, expected, "{told:#?}");
    let times: Vec<Instant> =
        script.stack.event_log(id).expect("a log").iter().map(|record| record.at).collect();
    assert!(times.is_sorted() && times[4] > times[2], "{times:?}");
    // What is taken is gone, what comes later is there.
    while script.stack.take_event(id).is_some() {}
    first.rcv_nxt = first.rcv_nxt.wrapping_add(100);
    let fastclose = mptcp_core::wire::MptcpOption::Fastclose { key: keys.stack };
    script.send(&first, &first.seg().opt(&fastclose));
    let error = Some(mptcp_core::error::ConnectionError::Reset);
    assert_eq!(events(&script, id).last(), Some(&Event::Closed { error }));
    // The log goes with the id.
    script.stack.release(id);
    script.forget(id);
    assert!(script.stack.event_log(id).is_none() && !script.stack.log_events(id, 10));
    assert_eq!(script.stack.event_logs().count(), 1, "the listener's");
}

#[test]
fn addresses_congestion_and_the_end_of_a_log() {
    let mut script = Script::new(V, |c| {
        c.mptcp.path_manager = mptcp_core::config::PathManagerKind::Fullmesh;
    });
    let (keys, mut flow, id) = script.connected();
    assert!(script.stack.event_log(id).is_none(), "nobody asked");
    assert!(script.stack.log_events(id, 1_000));
    let out = script.send(&flow, &flow.seg().dss(keys.ack(0)));
    let syn = out.iter().find(|o| o.join().is_some()).expect("a join");
    let opened =
        Event::SubflowOpened { subflow: 1, local: syn.src, remote: syn.dst, backup: false };
    assert!(events(&script, id).contains(&opened));
    // REMOVE_ADDR of an id that nobody has, MP_PRIO of the first subflow.
    script.send(&flow, &flow.seg().raw(&[30, 4, 0x40, 9]));
    script.send(&flow, &flow.seg().raw(&[30, 3, 0x51]));
    let told = events(&script, id);
    assert!(told.contains(&Event::AddressWithdrawn { id: 9 }), "{told:?}");
    assert!(told.contains(&Event::Priority { subflow: 0, backup: true, peer: true }));
    script.write(id, 0, 1_000);
    script.advance(3_000);
    let told = events(&script, id);
    let lost =
        |e: &Event| matches!(e, Event::Congestion { subflow: 0, state: CongestionState::Loss, .. });
    assert!(told.iter().any(lost), "{told:?}");
    flow.rcv_nxt = flow.rcv_nxt.wrapping_add(1_000);
    script.send(&flow, &flow.seg().dss(keys.ack(1_000)));
    let open =
        |e: &Event| matches!(e, Event::Congestion { subflow: 0, state: CongestionState::Open, .. });
    assert!(events(&script, id).iter().any(open));
    assert!(script.stack.log_events(id, 0));
    assert!(script.stack.event_log(id).is_none());
}
