//! Queries and what may be believed of responses (RFC 5452 §9, RFC 2308, RFC 6891).
//!
//! Invariant: a response counts only if it repeats the question, by UDP the case of its letters included.

use super::{Answer, Family};
use crate::config::HostName;
use core::net::IpAddr;
use core::time::Duration;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use mptcp_core::rng::Rng;

/// Longest response by UDP, octets (DNS flag day 2020).
const MAX_UDP_RESPONSE: u16 = 1232;
/// Addresses taken from one response.
const MAX_ADDRESSES: usize = 16;
/// Longest chain of aliases within one response and over several.
pub(super) const MAX_ALIASES: u8 = 8;
/// How long answers are believed at most: a day, and a quarter of an hour for what is not there.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(900);

/// A question as it was sent.
#[derive(Clone, Debug)]
pub struct Asked {
    pub(super) id: u16,
    /// Its letters in random case, which a forger must guess as well.
    pub(super) name: Name,
    pub(super) family: Family,
    /// RFC 6891 was offered.
    pub(super) edns: bool,
}

/// What a response is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answers something else, or nothing: as if it had not come.
    Stray,
    /// It answers the question but for the case of its letters: a server that does not keep it, or a
    /// forger. TCP tells.
    CaseDiffers,
    /// TCP has the rest.
    Truncated,
    /// The server does not understand EDNS.
    WithoutEdns,
    /// It has no answer: another server may.
    ServerFailed,
    /// The answer, and how long it holds; `None`: it must not be kept.
    Answer(Answer, Option<Duration>),
    /// Another name has the answer, for so long at most.
    Alias(Name, Duration),
}

impl Asked {
    /// `name`'s letters in random case, under a random identifier.
    #[must_use]
    pub fn new(name: &Name, family: Family, edns: bool, rng: &mut Rng) -> Self {
        let mut bits = 0_u64;
        let mut left = 0;
        let mixed = name.iter().map(|label| {
            let mix = |byte: &u8| {
                if left == 0 {
                    (bits, left) = (rng.next_u64(), 64);
                }
                let upper = bits & 1 == 1;
                (bits, left) = (bits >> 1, left - 1);
                if upper { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() }
            };
            label.iter().map(mix).collect::<Vec<u8>>()
        });
        let labels: Vec<Vec<u8>> = mixed.collect();
        let mut mixed =
            Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap_or_else(|_| name.clone());
        mixed.set_fqdn(true);
        Self { id: rng.next_u64() as u16, name: mixed, family, edns }
    }

    fn record_type(&self) -> RecordType {
        match self.family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        }
    }

    /// The query on the wire; `None` when the codec refuses the name.
    #[must_use]
    pub fn to_vec(&self) -> Option<Vec<u8>> {
        let mut message = Message::new(self.id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(self.name.clone(), self.record_type()));
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_RESPONSE);
            message.set_edns(edns);
        }
        message.to_vec().ok()
    }

    /// Judges what came from the server by UDP, or from who pretends to be it.
    #[must_use]
    pub fn judge(&self, bytes: &[u8]) -> Verdict {
        self.judge_with(bytes, true)
    }

    /// Judges what came by TCP: nobody has to be told from the server by the case of letters.
    #[must_use]
    pub fn judge_stream(&self, bytes: &[u8]) -> Verdict {
        self.judge_with(bytes, false)
    }

    fn judge_with(&self, bytes: &[u8], by_case: bool) -> Verdict {
        let Some((message, is_whole)) = decode(bytes) else { return Verdict::Stray };
        let header = &message.metadata;
        let answers = header.id == self.id
            && header.message_type == MessageType::Response
            && header.op_code == OpCode::Query;
        if !answers {
            return Verdict::Stray;
        }
        let refused = self.edns
            && matches!(header.response_code, ResponseCode::FormErr | ResponseCode::NotImp);
        let [question] = message.queries.as_slice() else {
            // Who cannot read the query may not repeat it.
            return if refused && message.queries.is_empty() {
                Verdict::WithoutEdns
            } else {
                Verdict::Stray
            };
        };
        let same = question.name() == &self.name
            && question.query_type() == self.record_type()
            && question.query_class() == DNSClass::IN;
        if !same {
            return Verdict::Stray;
        }
        if by_case && !question.name().eq_case(&self.name) {
            return Verdict::CaseDiffers;
        }
        if refused {
            return Verdict::WithoutEdns;
        }
        if header.truncation || !is_whole {
            return Verdict::Truncated;
        }
        match header.response_code {
            ResponseCode::NoError => self.read(&message),
            ResponseCode::NXDomain => Verdict::Answer(Answer::NoName, negative_ttl(&message)),
            _ => Verdict::ServerFailed,
        }
    }

    /// Follows the aliases in a response to its addresses (RFC 1034 §3.6.2).
    fn read(&self, message: &Message) -> Verdict {
        let mut owner = self.name.clone();
        let mut ttl = MAX_TTL;
        for _ in 0..=MAX_ALIASES {
            let of_owner = || {
                let records = message.answers.iter();
                records.filter(|record| record.name == owner && record.dns_class == DNSClass::IN)
            };
            let addresses = of_owner().filter_map(|record| {
                let address = match (&record.data, self.family) {
                    (RData::A(a), Family::V4) => IpAddr::V4(a.0),
                    (RData::AAAA(aaaa), Family::V6) => IpAddr::V6(aaaa.0),
                    _ => return None,
                };
                Some((address, record.ttl))
            });
            let found: Vec<_> = addresses.take(MAX_ADDRESSES).collect();
            if let Some(least) = found.iter().map(|(_, ttl)| *ttl).min() {
                let ttl = ttl.min(seconds(least));
                let addresses = found.into_iter().map(|(address, _)| address).collect();
                return Verdict::Answer(Answer::Addresses(addresses), Some(ttl));
            }
            let alias = of_owner().find_map(|record| match &record.data {
                RData::CNAME(target) => Some((target.0.clone(), record.ttl)),
                _ => None,
            });
            match alias {
                Some((target, its_ttl)) => {
                    ttl = ttl.min(seconds(its_ttl));
                    owner = target;
                }
                None if owner == self.name || has_soa(message) => {
                    return Verdict::Answer(Answer::NoAddress, negative_ttl(message));
                }
                None => return Verdict::Alias(owner, ttl),
            }
        }
        Verdict::ServerFailed
    }
}

/// A message, and whether all of it can be read. What does not fit a datagram may be cut off anywhere, with the numbers of
/// records as they were (RFC 1035 §4.2.1; djbdns does so): then it is the header and the question.
fn decode(bytes: &[u8]) -> Option<(Message, bool)> {
    if let Ok(message) = Message::from_bytes(bytes) {
        return Some((message, true));
    }
    let mut begin = bytes.to_vec();
    begin.get_mut(6..12)?.fill(0);
    Some((Message::from_bytes(&begin).ok()?, false))
}

/// The name of a host, as the codec has it.
#[must_use]
pub fn to_name(host: &HostName) -> Option<Name> {
    let mut name = Name::from_ascii(host.as_str()).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn seconds(ttl: u32) -> Duration {
    // RFC 2181 §8: the top bit makes it zero.
    Duration::from_secs(if ttl >> 31 == 1 { 0 } else { ttl.into() }).min(MAX_TTL)
}

fn has_soa(message: &Message) -> bool {
    message.authorities.iter().any(|record| matches!(record.data, RData::SOA(_)))
}

/// RFC 2308 §5: the lesser of the SOA's own time and its last field, and no longer than the aliases hold that lead there;
/// without a SOA nothing is kept.
fn negative_ttl(message: &Message) -> Option<Duration> {
    let aliases = message.answers.iter().filter(|record| matches!(record.data, RData::CNAME(_)));
    let most = aliases.map(|alias| seconds(alias.ttl)).min().unwrap_or(MAX_NEGATIVE_TTL);
    let most = most.min(MAX_NEGATIVE_TTL);
    message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(seconds(record.ttl).min(seconds(soa.minimum)).min(most)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};

    fn name(text: &str) -> Name {
        to_name(&HostName::new(text.as_bytes()).unwrap()).unwrap()
    }

    fn asked(text: &str, family: Family) -> Asked {
        Asked::new(&name(text), family, true, &mut Rng::from_seed([5; 32]))
    }

    /// A response to `asked` that has these answers.
    fn response(asked: &Asked, answers: Vec<Record>) -> Message {
        let mut message = Message::response(asked.id, OpCode::Query);
        message.add_query(Query::query(asked.name.clone(), asked.record_type()));
        message.add_answers(answers);
        message
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(owner), ttl, data)
    }

    fn a(owner: &str, ttl: u32, last: u8) -> Record {
        record(owner, ttl, RData::A(A::new(192, 0, 2, last)))
    }

    fn alias(owner: &str, ttl: u32, to: &str) -> Record {
        record(owner, ttl, RData::CNAME(CNAME(name(to))))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let soa = SOA::new(name("ns.example"), name("admin.example"), 1, 2, 3, 4, minimum);
        record("example", ttl, RData::SOA(soa))
    }

    fn judge(asked: &Asked, message: &Message) -> Verdict {
        asked.judge(&message.to_vec().unwrap())
    }

    fn addresses(last: &[u8], ttl: u64) -> Verdict {
        let addresses = last.iter().map(|&last| IpAddr::from([192, 0, 2, last])).collect();
        Verdict::Answer(Answer::Addresses(addresses), Some(Duration::from_secs(ttl)))
    }

    #[test]
    fn a_query_asks_one_question_in_random_case() {
        let mut rng = Rng::from_seed([1; 32]);
        let cases: std::collections::BTreeSet<String> = (0..64)
            .map(|_| {
                Asked::new(&name("abcdefgh.example"), Family::V6, true, &mut rng).name.to_ascii()
            })
            .collect();
        assert!(cases.len() > 50, "{cases:?}");
        let asked = asked("origin.example", Family::V6);
        let message = Message::from_bytes(&asked.to_vec().unwrap()).unwrap();
        assert_eq!(message.metadata.id, asked.id);
        assert!(message.metadata.recursion_desired);
        assert_eq!(message.queries.len(), 1);
        assert!(message.queries[0].name().eq_case(&asked.name));
        assert_eq!(message.edns.unwrap().max_payload(), 1232);
    }

    #[test]
    fn only_what_repeats_the_question_counts() {
        let asked = asked("origin.example", Family::V4);
        let good = response(&asked, vec![a("origin.example", 60, 1)]);
        assert_eq!(judge(&asked, &good), addresses(&[1], 60));
        let mut other_id = good.clone();
        other_id.metadata.id ^= 1;
        let mut query = good.clone();
        query.metadata.message_type = MessageType::Query;
        let mut twice = good.clone();
        twice.add_query(good.queries[0].clone());
        let mut other_type = good.clone();
        other_type.queries[0].set_query_type(RecordType::AAAA);
        let mut other_name = good.clone();
        other_name.queries[0].set_name(name("other.example"));
        for stray in [other_id, query, twice, other_type, other_name] {
            assert_eq!(judge(&asked, &stray), Verdict::Stray);
        }
        assert_eq!(asked.judge(b""), Verdict::Stray);
        assert_eq!(asked.judge(&good.to_vec().unwrap()[..20]), Verdict::Stray);
        let mut lower = good;
        lower.queries[0].set_name(asked.name.to_lowercase());
        assert_eq!(judge(&asked, &lower), Verdict::CaseDiffers);
    }

    /// TCP has the rest, wherever the cut is. (RFC 2181 §9: what is there does not count.)
    #[test]
    fn what_is_cut_off_is_asked_for_by_tcp() {
        let asked = asked("www.example", Family::V4);
        let answers = vec![a("www.example", 60, 1), a("www.example", 60, 2)];
        let mut message = response(&asked, answers);
        let whole = message.to_vec().unwrap();
        message.metadata.truncation = true;
        let marked = message.to_vec().unwrap();
        let question = 12 + "www.example".len() + 2 + 4;
        for len in question..whole.len() {
            assert_eq!(asked.judge(&marked[..len]), Verdict::Truncated, "{len}");
            assert_eq!(asked.judge(&whole[..len]), Verdict::Truncated, "{len}");
        }
        assert_eq!(asked.judge(&marked), Verdict::Truncated);
        assert_eq!(asked.judge(&marked[..question - 1]), Verdict::Stray);
        let mut forged = marked[..question].to_vec();
        forged[0] ^= 1;
        assert_eq!(asked.judge(&forged), Verdict::Stray);
    }

    #[test]
    fn aliases_are_followed_and_the_shortest_time_counts() {
        let asked = asked("www.example", Family::V4);
        let chain = vec![
            alias("www.example", 300, "cdn.example"),
            alias("cdn.example", 20, "edge.example"),
            a("edge.example", 90, 1),
            a("edge.example", 60, 2),
            a("unrelated.example", 1, 3),
        ];
        assert_eq!(judge(&asked, &response(&asked, chain)), addresses(&[1, 2], 20));
        let open = response(&asked, vec![alias("www.example", 300, "cdn.example")]);
        let elsewhere = Verdict::Alias(name("cdn.example"), Duration::from_secs(300));
        assert_eq!(judge(&asked, &open), elsewhere);
        let circle =
            vec![alias("www.example", 9, "a.example"), alias("a.example", 9, "www.example")];
        assert_eq!(judge(&asked, &response(&asked, circle)), Verdict::ServerFailed);
    }

    #[test]
    fn what_is_not_there_is_kept_as_long_as_its_zone_says() {
        let asked = asked("www.example", Family::V6);
        let mut none = response(&asked, vec![alias("www.example", 300, "cdn.example")]);
        none.add_authority(soa(600, 40));
        let forty = Some(Duration::from_secs(40));
        assert_eq!(judge(&asked, &none), Verdict::Answer(Answer::NoAddress, forty));
        let mut no_name = response(&asked, vec![]);
        no_name.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(judge(&asked, &no_name), Verdict::Answer(Answer::NoName, None));
        no_name.add_authority(soa(100_000, 100_000));
        let longest = Some(MAX_NEGATIVE_TTL);
        assert_eq!(judge(&asked, &no_name), Verdict::Answer(Answer::NoName, longest));
        // An alias that leads to nothing may lead elsewhere once its own time is over.
        let mut dangling = response(&asked, vec![alias("www.example", 5, "gone.example")]);
        dangling.add_authority(soa(600, 600));
        let five = Some(Duration::from_secs(5));
        assert_eq!(judge(&asked, &dangling), Verdict::Answer(Answer::NoAddress, five));
        dangling.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(judge(&asked, &dangling), Verdict::Answer(Answer::NoName, five));
        // The other family's addresses are no answer.
        let v4 = response(&asked, vec![a("www.example", 60, 1)]);
        assert_eq!(judge(&asked, &v4), Verdict::Answer(Answer::NoAddress, None));
        let v6 =
            record("www.example", 1 << 31, RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
        let Verdict::Answer(Answer::Addresses(_), ttl) = judge(&asked, &response(&asked, vec![v6]))
        else {
            panic!()
        };
        assert_eq!(ttl, Some(Duration::ZERO));
    }

    #[test]
    fn servers_that_fail_or_know_no_edns() {
        let asked = asked("www.example", Family::V4);
        let with = |code| {
            let mut message = response(&asked, vec![]);
            message.metadata.response_code = code;
            judge(&asked, &message)
        };
        assert_eq!(with(ResponseCode::ServFail), Verdict::ServerFailed);
        assert_eq!(with(ResponseCode::Refused), Verdict::ServerFailed);
        assert_eq!(with(ResponseCode::FormErr), Verdict::WithoutEdns);
        let mut bare = Message::response(asked.id, OpCode::Query);
        bare.metadata.response_code = ResponseCode::FormErr;
        assert_eq!(judge(&asked, &bare), Verdict::WithoutEdns);
        let mut truncated = response(&asked, vec![]);
        truncated.metadata.truncation = true;
        assert_eq!(judge(&asked, &truncated), Verdict::Truncated);
    }
}
