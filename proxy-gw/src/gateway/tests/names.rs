//! Names that the table does not have: the resolver, and the race between a name's addresses.

use super::*;
use core::net::IpAddr;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use mptcp_core::wire::IcmpErrorKind;

const SERVERS: &str = "dns.servers=['10.9.0.53','10.9.0.54:5353']";

fn world() -> World {
    World::with(&[SERVERS])
}

fn request(name: &str) -> Vec<u8> {
    let len = u8::try_from(name.len()).unwrap();
    [b"\x05\x01\x00\x05\x01\x00\x03", &[len][..], name.as_bytes(), &[0, 80]].concat()
}

/// A query of the resolver's.
struct Query {
    socket: SocketId,
    message: Message,
}

impl Query {
    fn is_v6(&self) -> bool {
        self.message.queries[0].query_type() == RecordType::AAAA
    }

    fn name(&self) -> Name {
        self.message.queries[0].name().clone()
    }

    /// A response without records.
    fn response(&self) -> Message {
        let mut response = Message::response(self.message.metadata.id, OpCode::Query);
        response.add_query(self.message.queries[0].clone());
        response
    }

    fn answer(&self, ttl: u32, address: &str) -> Vec<u8> {
        let data = match address.parse().unwrap() {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        let mut response = self.response();
        response.add_answer(Record::from_rdata(self.name(), ttl, data));
        response.to_vec().unwrap()
    }

    fn error(&self, code: ResponseCode) -> Vec<u8> {
        let mut response = self.response();
        response.metadata.response_code = code;
        response.to_vec().unwrap()
    }
}

impl World {
    /// What was asked since last looked, AAAA first.
    fn asked(&mut self) -> Vec<Query> {
        let sockets = core::mem::take(&mut self.shard.queries);
        let query = |socket| {
            let message = Message::from_bytes(&self.shard.sent(socket)).unwrap();
            Query { socket, message }
        };
        sockets.into_iter().map(query).collect()
    }

    fn datagram(&mut self, query: &Query, bytes: Vec<u8>) {
        self.shard.datagram(query.socket, bytes);
        self.run();
    }

    /// The destinations tried so far.
    fn tried(&self) -> Vec<String> {
        self.shard.connects.iter().map(|(_, with)| with.remote.to_string()).collect()
    }
}

#[test]
fn both_families_are_asked_and_the_answer_is_connected_to() {
    let mut world = world();
    let inner = world.client_saying(&request("Www.Example"));
    let asked = world.asked();
    let [aaaa, a] = asked.as_slice() else { panic!("{} queries", asked.len()) };
    assert!(aaaa.is_v6() && !a.is_v6());
    assert_eq!(world.shard.remote(a.socket).to_string(), "10.9.0.53:53");
    assert_eq!(a.name().to_lowercase().to_ascii(), "www.example.");
    assert_ne!(a.message.metadata.id, aaaa.message.metadata.id);
    world.datagram(aaaa, aaaa.answer(60, "fd00:9::2"));
    assert_eq!(world.tried(), ["[fd00:9::2]:80"], "at once");
    world.datagram(a, a.answer(60, "10.9.0.2"));
    let (outer, _) = world.shard.last_exit();
    world.shard.establish(outer);
    world.run();
    assert_eq!(world.shard.relay_of(inner), Some(outer));
    assert_eq!(world.tried().len(), 1);
    assert!(!world.shard.is_open(a.socket) && !world.shard.is_open(aaaa.socket));
    // The next client's answer is kept.
    world.client_saying(&request("www.example"));
    assert!(world.asked().is_empty());
    assert_eq!(world.tried().len(), 2);
    // Until its time is over.
    world.pass_s(61);
    world.client_saying(&request("www.example"));
    assert_eq!(world.asked().len(), 2);
}

/// Clients leave them to who resolves names for them, who may be Tor.
#[test]
fn names_of_tor_are_asked_of_nobody() {
    let mut world = world();
    for name in ["service.onion", "www.Service.ONION."] {
        let inner = world.client_saying(&request(name));
        assert_eq!(world.heard(inner), [&[5, 0][..], &failure(4)].concat());
    }
    assert!(world.asked().is_empty());
    let inner = world.client_saying(&request("onion.example"));
    let asked = world.asked();
    assert_eq!(asked.len(), 2);
    // Nor where another name leads to them.
    for query in &asked {
        let target = CNAME(Name::from_ascii("service.Onion.").unwrap());
        let mut alias = query.response();
        alias.add_answer(Record::from_rdata(query.name(), 5, RData::CNAME(target)));
        world.datagram(query, alias.to_vec().unwrap());
    }
    assert!(world.asked().is_empty());
    assert_eq!(world.heard(inner), [&[5, 0][..], &failure(4)].concat());
}

#[test]
fn clients_that_ask_at_once_share_a_query() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    world.client_saying(&request("WWW.example."));
    let asked = world.asked();
    assert_eq!(asked.len(), 2);
    world.datagram(&asked[0], asked[0].answer(0, "fd00:9::2"));
    assert_eq!(world.tried().len(), 2, "one answer for both, though it must not be kept");
}

#[test]
fn ipv4_waits_for_ipv6_a_little() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    let asked = world.asked();
    world.datagram(&asked[1], asked[1].answer(60, "10.9.0.2"));
    assert!(world.tried().is_empty());
    world.pass(Duration::from_millis(49));
    assert!(world.tried().is_empty());
    world.pass(Duration::from_millis(1));
    assert_eq!(world.tried(), ["10.9.0.2:80"]);
    // The late answer is the next attempt, not a lost one.
    world.datagram(&asked[0], asked[0].answer(60, "fd00:9::2"));
    world.pass(Duration::from_millis(249));
    assert_eq!(world.tried().len(), 1);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.tried()[1], "[fd00:9::2]:80");
}

/// By way of a translator as well (RFC 8305 §3, RFC 6147 §5.1.1).
#[test]
fn what_needs_a_translator_waits_for_what_needs_none() {
    let mut world = World::with(&[
        "port.1.addresses=['fd00:9::1/64']",
        "route=[{ to = '::/0', via = 'fd00:9::fe', port = 'exit' }]",
        "egress.nat64='fd00:9::/96'",
        "dns.servers=['fd00:9::53']",
    ]);
    world.client_saying(&request("www.example"));
    let asked = world.asked();
    world.datagram(&asked[1], asked[1].answer(60, "8.8.8.8"));
    assert!(world.tried().is_empty());
    world.datagram(&asked[0], asked[0].answer(60, "fd00:9::1:0:2"));
    assert_eq!(world.tried(), ["[fd00:9::1:0:2]:80"]);
    world.pass(Duration::from_millis(250));
    assert_eq!(world.tried()[1..], ["[fd00:9::808:808]:80"]);
    // It wins, and begins from then on.
    let (outer, _) = world.shard.last_exit();
    world.shard.establish(outer);
    world.run();
    world.client_saying(&request("www.example"));
    assert_eq!(world.tried()[2..], ["[fd00:9::808:808]:80"]);
}

#[test]
fn attempts_race_in_turns_and_the_losers_are_reset() {
    let mut world = world();
    let inner = world.client_saying(&request("www.example"));
    let asked = world.asked();
    let mut many = asked[0].response();
    for last in 2..5 {
        let data = RData::AAAA(AAAA(format!("fd00:9::{last}").parse().unwrap()));
        many.add_answer(Record::from_rdata(asked[0].name(), 60, data));
    }
    world.datagram(&asked[1], asked[1].answer(60, "10.9.0.2"));
    world.datagram(&asked[0], many.to_vec().unwrap());
    for _ in 0..9 {
        world.pass(Duration::from_millis(100));
    }
    let order = ["[fd00:9::2]:80", "10.9.0.2:80", "[fd00:9::3]:80", "[fd00:9::4]:80"];
    assert_eq!(world.tried(), order);
    let outers: Vec<SocketId> = world.shard.connects.iter().map(|(id, _)| *id).collect();
    world.shard.end(outers[0], Some(ConnectionError::Refused));
    world.run();
    assert_eq!(world.fate(outers[0]), Some(Fate::Released));
    world.shard.establish(outers[1]);
    world.run();
    assert_eq!(world.shard.relay_of(inner), Some(outers[1]));
    for loser in &outers[2..] {
        assert_eq!(world.fate(*loser), Some(Fate::Aborted));
    }
    assert_eq!(world.gateway.counters().sessions_established, 1);
}

#[test]
fn an_attempt_that_fails_makes_room_at_once_and_the_last_failure_is_told() {
    let mut world = world();
    let inner = world.client_saying(&request("www.example"));
    let asked = world.asked();
    world.datagram(&asked[0], asked[0].answer(60, "fd00:9::2"));
    world.datagram(&asked[1], asked[1].answer(60, "10.9.0.2"));
    let (first, _) = world.shard.last_exit();
    world.shard.end(first, Some(ConnectionError::NetworkUnreachable));
    world.run();
    assert_eq!(world.tried().len(), 2, "no waiting");
    let (second, _) = world.shard.last_exit();
    world.shard.end(second, Some(ConnectionError::Refused));
    world.run();
    assert_eq!(world.heard(inner)[2..], failure(5));
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::Refused);
}

#[test]
fn what_the_answers_lead_to_is_judged() {
    let mut world = world();
    let inner = world.client_saying(&request("rebind.example"));
    let asked = world.asked();
    world.datagram(&asked[0], asked[0].answer(60, "::ffff:127.0.0.1"));
    world.datagram(&asked[1], asked[1].answer(60, "192.168.0.1"));
    assert_eq!(world.heard(inner)[2..], failure(2));
    assert!(world.tried().is_empty());
}

#[test]
fn names_that_do_not_exist_and_servers_that_fail_are_told_apart() {
    for (code, rep, reason) in [
        (ResponseCode::NXDomain, 4, EndReason::UnknownName),
        (ResponseCode::ServFail, 1, EndReason::NameFailed),
    ] {
        let mut world = world();
        let inner = world.client_saying(&request("www.example"));
        for _ in 0..6 {
            for query in world.asked() {
                world.datagram(&query, query.error(code));
            }
        }
        assert_eq!(world.heard(inner)[2..], failure(rep), "{code:?}");
        world.shard.finish(inner);
        world.run();
        world.assert_ended(reason);
    }
}

#[test]
fn a_negative_answer_is_kept_as_long_as_its_zone_says() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    for query in world.asked() {
        let mut none = query.response();
        none.metadata.response_code = ResponseCode::NXDomain;
        let zone = Name::from_ascii("example.").unwrap();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 30);
        none.add_authority(Record::from_rdata(zone, 600, RData::SOA(soa)));
        world.datagram(&query, none.to_vec().unwrap());
    }
    world.client_saying(&request("www.example"));
    assert!(world.asked().is_empty());
    world.pass_s(30);
    world.client_saying(&request("www.example"));
    assert_eq!(world.asked().len(), 2);
}

#[test]
fn a_server_that_is_silent_or_unreachable_is_followed_by_the_next() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    let first = world.asked();
    world.shard.icmp(first[0].socket, IcmpErrorKind::PortUnreachable);
    world.run();
    let again = world.asked();
    assert_eq!(again.len(), 1, "ICMP: at once");
    assert_eq!(world.shard.remote(again[0].socket).to_string(), "10.9.0.54:5353");
    world.pass_s(1);
    let silent = world.asked();
    assert_eq!(silent.len(), 2, "one second each");
    assert!(first.iter().all(|query| !world.shard.is_open(query.socket)));
    let v4 = silent.iter().find(|query| !query.is_v6()).unwrap();
    world.datagram(v4, v4.answer(60, "10.9.0.2"));
    world.pass(Duration::from_millis(50));
    assert_eq!(world.tried(), ["10.9.0.2:80"]);
}

#[test]
fn a_lookup_without_an_answer_ends_and_is_remembered() {
    let mut world = world();
    let inner = world.client_saying(&request("www.example"));
    for _ in 0..5 {
        world.pass_s(1);
    }
    assert_eq!(world.heard(inner)[2..], failure(1));
    world.shard.finish(inner);
    world.run();
    world.assert_ended(EndReason::NameFailed);
    world.shard.queries.clear();
    let again = world.client_saying(&request("www.example"));
    assert_eq!(world.heard(again)[2..], failure(1), "RFC 9520: not asked again at once");
    assert!(world.asked().is_empty());
}

#[test]
fn forged_responses_are_ignored_and_many_of_them_lead_to_tcp() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    let asked = world.asked();
    let aaaa = &asked[0];
    let mut forged = Message::from_bytes(&aaaa.answer(60, "fd00:9::66")).unwrap();
    forged.metadata.id ^= 0x5555;
    for _ in 0..7 {
        world.datagram(aaaa, forged.to_vec().unwrap());
    }
    assert!(world.shard.is_open(aaaa.socket) && world.tried().is_empty());
    world.datagram(aaaa, forged.to_vec().unwrap());
    assert!(!world.shard.is_open(aaaa.socket));
    assert_eq!(world.tried(), ["10.9.0.53:53"], "the same server by TCP");
}

#[test]
fn what_is_too_long_for_udp_comes_by_tcp() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    let asked = world.asked();
    let mut truncated = asked[0].response();
    truncated.metadata.truncation = true;
    world.datagram(&asked[0], truncated.to_vec().unwrap());
    let (stream, with) = world.shard.last_exit();
    assert_eq!(with.remote.to_string(), "10.9.0.53:53");
    world.shard.establish(stream);
    world.run();
    let framed = world.shard.sent(stream);
    assert_eq!(usize::from(u16::from_be_bytes([framed[0], framed[1]])), framed.len() - 2);
    let message = Message::from_bytes(&framed[2..]).unwrap();
    let query = Query { socket: stream, message };
    let answer = query.answer(60, "fd00:9::2");
    let framed = [&u16::try_from(answer.len()).unwrap().to_be_bytes()[..], &answer].concat();
    for byte in framed {
        world.shard.feed(stream, &[byte]);
        world.run();
    }
    assert_eq!(world.fate(stream), Some(Fate::Aborted), "one question per connection");
    assert_eq!(world.tried()[1], "[fd00:9::2]:80");
}

/// Not every server repeats the letters as they were; by TCP it is known who answers.
#[test]
fn a_server_that_does_not_keep_the_case_is_believed_by_tcp() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    let asked = world.asked();
    let lowered = |query: &Query| {
        let mut answer = Message::from_bytes(&query.answer(60, "fd00:9::2")).unwrap();
        answer.queries[0].set_name(query.name().to_lowercase());
        answer.to_vec().unwrap()
    };
    world.datagram(&asked[0], lowered(&asked[0]));
    let (stream, with) = world.shard.last_exit();
    assert_eq!(with.remote.to_string(), "10.9.0.53:53");
    world.shard.establish(stream);
    world.run();
    let message = Message::from_bytes(&world.shard.sent(stream)[2..]).unwrap();
    let answer = lowered(&Query { socket: stream, message });
    let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
    world.shard.feed(stream, &[&len[..], &answer].concat());
    world.run();
    assert_eq!(world.tried()[1..], ["[fd00:9::2]:80"]);
}

#[test]
fn an_alias_without_its_address_is_asked_for() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    let asked = world.asked();
    let mut alias = asked[0].response();
    let target = Name::from_ascii("cdn.example.").unwrap();
    alias.add_answer(Record::from_rdata(asked[0].name(), 5, RData::CNAME(CNAME(target.clone()))));
    world.datagram(&asked[0], alias.to_vec().unwrap());
    let next = world.asked();
    assert_eq!(next[0].name(), target);
    world.datagram(&next[0], next[0].answer(600, "fd00:9::2"));
    assert_eq!(world.tried(), ["[fd00:9::2]:80"]);
    // As long as the alias holds.
    world.pass_s(4);
    world.client_saying(&request("www.example"));
    assert!(world.asked().iter().all(|query| !query.is_v6()));
    world.pass_s(1);
    world.client_saying(&request("www.example"));
    assert!(world.asked().iter().any(Query::is_v6));
}

#[test]
fn one_client_cannot_use_up_the_lookups() {
    let mut world = world();
    for n in 0..33 {
        world.client_saying(&request(&format!("n{n}.example")));
    }
    assert_eq!(world.asked().len(), 64, "two for each of 32 names");
    let other = world.shard.client("10.1.0.99:7", 1080);
    world.run();
    world.say(other, &request("other.example"));
    assert_eq!(world.asked().len(), 2);
}

#[test]
fn a_client_looks_up_so_much_on_all_shards_together() {
    let mut shards = World::shards(2, &[SERVERS]);
    for n in 0..32 {
        shards[n % 2].client_saying(&request(&format!("n{n}.example")));
    }
    let asked = shards[0].asked();
    assert_eq!((asked.len(), shards[1].asked().len()), (32, 32));
    let refused = shards[1].client_saying(&request("more.example"));
    assert!(shards[1].asked().is_empty());
    assert_eq!(shards[1].heard(refused)[2..4], [5, 1]);
    // What is answered on one shard makes room on the other.
    shards[0].datagram(&asked[0], asked[0].error(ResponseCode::NXDomain));
    shards[1].client_saying(&request("again.example"));
    assert_eq!(shards[1].asked().len(), 1, "one family of it");
}

#[test]
fn a_client_that_leaves_while_its_name_is_looked_up_leaves_nothing_behind() {
    let mut world = world();
    let inner = world.client_saying(&request("www.example"));
    let asked = world.asked();
    world.shard.end(inner, Some(ConnectionError::Reset));
    world.run();
    for query in &asked {
        world.datagram(query, query.error(ResponseCode::NXDomain));
    }
    world.assert_ended(EndReason::ClientGone);
}

/// IPv6 had begun and IPv4 was reached: IPv4 begins until IPv6 wins, or for ten minutes.
#[test]
fn the_family_that_won_begins_the_next_time() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    let asked = world.asked();
    world.datagram(&asked[0], asked[0].answer(86_400, "fd00:9::2"));
    world.datagram(&asked[1], asked[1].answer(86_400, "10.9.0.2"));
    // The order of the attempts, and the one that is reached by then.
    let race = |world: &mut World, order: [&str; 2], reached: usize| {
        for _ in 0..reached {
            world.pass(Duration::from_millis(250));
        }
        let tried = world.tried();
        assert_eq!(tried, order[..=reached], "at {:?}", world.now);
        let (outer, _) = world.shard.last_exit();
        world.shard.establish(outer);
        world.run();
        world.shard.connects.clear();
    };
    let (v6, v4) = ("[fd00:9::2]:80", "10.9.0.2:80");
    race(&mut world, [v6, v4], 1);
    let again = |world: &mut World, order, reached| {
        world.client_saying(&request("www.example"));
        race(world, order, reached);
    };
    again(&mut world, [v4, v6], 0);
    // The other one comes soon, wins, and begins from then on.
    again(&mut world, [v4, v6], 1);
    again(&mut world, [v6, v4], 1);
    again(&mut world, [v4, v6], 0);
    // A connection that begins with IPv4 says nothing about IPv6.
    world.pass_s(300);
    again(&mut world, [v4, v6], 0);
    world.pass_s(300);
    again(&mut world, [v6, v4], 0);
    again(&mut world, [v6, v4], 0);
    // Another name, and another port of the same, are none of it.
    let plain = request("www.example");
    let on_443 = [&plain[..plain.len() - 2], &[1, 187]].concat();
    again(&mut world, [v6, v4], 1);
    world.client_saying(&on_443);
    assert_eq!(world.tried(), ["[fd00:9::2]:443"]);
}

/// The family to begin with has its answer waited for, whichever that is.
#[test]
fn the_answer_of_the_family_that_won_is_waited_for() {
    let mut world = world();
    world.client_saying(&request("www.example"));
    let asked = world.asked();
    world.datagram(&asked[0], asked[0].answer(1, "fd00:9::2"));
    world.datagram(&asked[1], asked[1].answer(1, "10.9.0.2"));
    let (first, _) = world.shard.last_exit();
    world.shard.end(first, Some(ConnectionError::NetworkUnreachable));
    world.run();
    let (second, _) = world.shard.last_exit();
    world.shard.establish(second);
    world.pass_s(2);
    world.shard.connects.clear();
    world.client_saying(&request("www.example"));
    let asked = world.asked();
    world.datagram(&asked[0], asked[0].answer(1, "fd00:9::2"));
    assert!(world.tried().is_empty());
    world.datagram(&asked[1], asked[1].answer(1, "10.9.0.2"));
    assert_eq!(world.tried(), ["10.9.0.2:80"]);
}

/// A stream for one destination is a connected socket: it is looked up once, however short the answer holds, and hears
/// of nobody else.
#[test]
fn a_stream_for_one_name_stays_with_its_host() {
    let mut world = world();
    let inner = world.client_saying(&request("sp.v2.udp-over-tcp.arpa"));
    assert_eq!(world.heard(inner)[3], 0);
    world.say(inner, b"\x01\x03\x0bwww.example\0\x35\0\x01a");
    let asked = world.asked();
    world.datagram(&asked[0], asked[0].error(ResponseCode::NXDomain));
    world.datagram(&asked[1], asked[1].answer(0, "10.9.0.2"));
    let exit = world.shard.queries.pop().unwrap();
    world.say(inner, b"\0\x01b\0\x01c");
    assert!(world.shard.queries.is_empty(), "nobody asks again");
    let there: SocketAddr = "10.9.0.2:53".parse().unwrap();
    let sent = world.shard.datagrams_sent(exit);
    assert_eq!(sent, [b"a", b"b", b"c"].map(|data| (there, data.to_vec())));
    // A frame does not say whose it is.
    world.shard.datagram_from(exit, "10.9.0.2:54".parse().unwrap(), b"x".to_vec());
    world.shard.datagram_from(exit, there, b"y".to_vec());
    world.run();
    assert_eq!(world.heard(inner), b"\0\x01y");
    assert_eq!(world.gateway.counters().udp.unsolicited, 1);
}

/// All datagrams for a name go to one host, whichever answer came first.
#[test]
fn datagrams_for_a_name_do_not_change_their_host() {
    let mut world = world();
    let inner = world.client_saying(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0");
    assert_eq!(world.heard(inner)[3], 0);
    let relay = *world.shard.queries.last().unwrap();
    world.shard.queries.clear();
    let datagram = [&b"\0\0\0\x03\x0bwww.example"[..], &[0, 80], b"data"].concat();
    let home: SocketAddr = "10.1.0.2:5000".parse().unwrap();
    world.shard.datagram_from(relay, home, datagram.clone());
    world.run();
    let asked = world.asked();
    world.datagram(&asked[1], asked[1].answer(60, "10.9.0.2"));
    world.datagram(&asked[0], asked[0].answer(60, "fd00:9::2"));
    world.shard.datagram_from(relay, home, datagram);
    world.run();
    let exits = core::mem::take(&mut world.shard.queries);
    let sent: Vec<_> =
        exits.iter().flat_map(|exit| world.shard.datagrams_sent(*exit)).map(|(to, _)| to).collect();
    assert_eq!(sent, ["[fd00:9::2]:80".parse().unwrap(); 2]);
}

/// Many names lead elsewhere each time they are asked for: what was begun with a host goes on there while it answers.
#[test]
fn datagrams_for_a_name_stay_with_the_host_that_answers() {
    let mut world = world();
    let inner = world.client_saying(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0");
    assert_eq!(world.heard(inner)[3], 0);
    let relay = world.shard.queries.pop().unwrap();
    let datagram = [&b"\0\0\0\x03\x0bwww.example"[..], &[0, 80], b"data"].concat();
    let send = |world: &mut World| {
        let home: SocketAddr = "10.1.0.2:5000".parse().unwrap();
        world.shard.datagram_from(relay, home, datagram.clone());
        world.run();
    };
    let leads_to = |world: &mut World, address: &str| {
        let asked = world.asked();
        world.datagram(&asked[0], asked[0].error(ResponseCode::NXDomain));
        world.datagram(&asked[1], asked[1].answer(1, address));
    };
    send(&mut world);
    leads_to(&mut world, "10.9.0.2");
    let exit = world.shard.queries.pop().unwrap();
    let there: SocketAddr = "10.9.0.2:80".parse().unwrap();
    for _ in 0..2 {
        world.pass_s(200);
        world.shard.datagram_from(exit, there, b"answer".to_vec());
        world.run();
    }
    send(&mut world);
    assert!(world.shard.queries.is_empty(), "nobody is asked");
    // It is silent, and the name leads elsewhere.
    world.pass_s(300);
    send(&mut world);
    leads_to(&mut world, "10.9.0.3");
    let sent = world.shard.datagrams_sent(exit).into_iter().map(|(to, _)| to.to_string());
    assert!(sent.eq(["10.9.0.2:80", "10.9.0.2:80", "10.9.0.3:80"]));
}

/// IPv4 may win the race of a connection to the same name meanwhile: that is no reason to go elsewhere.
#[test]
fn datagrams_for_a_name_do_not_follow_the_race_of_a_connection() {
    let mut world = world();
    let inner = world.client_saying(b"\x05\x01\x00\x05\x03\x00\x01\0\0\0\0\0\0");
    assert_eq!(world.heard(inner)[3], 0);
    let relay = world.shard.queries.pop().unwrap();
    let datagram = [&b"\0\0\0\x03\x0bwww.example"[..], &[0, 80], b"data"].concat();
    let home: SocketAddr = "10.1.0.2:5000".parse().unwrap();
    world.shard.datagram_from(relay, home, datagram.clone());
    world.run();
    let asked = world.asked();
    world.datagram(&asked[0], asked[0].answer(60, "fd00:9::2"));
    world.datagram(&asked[1], asked[1].answer(60, "10.9.0.2"));
    let exit = world.shard.queries.pop().unwrap();
    world.client_saying(&request("www.example"));
    world.pass(Duration::from_millis(250));
    let (outer, with) = world.shard.last_exit();
    assert_eq!(with.remote.to_string(), "10.9.0.2:80");
    world.shard.establish(outer);
    world.run();
    world.shard.datagram_from(relay, home, datagram);
    world.run();
    assert!(world.shard.queries.is_empty(), "no other exit");
    assert_eq!(world.shard.datagrams_sent(exit).len(), 2);
}
