//! Responses of name servers: whatever they hold, an answer is one to the question, of its family and within bounds.

use core::time::Duration;
use mptcp_core::rng::Rng;
use proxy_gw::config::HostName;
use proxy_gw::dns::{Answer, Asked, Family, Verdict, to_name};

const DAY: Duration = Duration::from_secs(24 * 3600);
const NEGATIVE: Duration = Duration::from_secs(900);

/// Takes `data` as a response, and as what follows a question that is repeated rightly: its first octet as what was
/// asked, then flags and the three counts, then records.
pub fn dns(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let family = if choice & 1 == 0 { Family::V4 } else { Family::V6 };
    let name = HostName::new(b"www.example").expect("a name");
    let name = to_name(&name).expect("it can be asked for");
    let asked = Asked::new(&name, family, choice & 2 == 0, &mut Rng::from_seed([5; 32]));
    let query = asked.to_vec().expect("a name that can be asked for");
    assert_eq!(asked.judge(&query), Verdict::Stray, "a question is no answer");
    check(&asked, &query, family, bytes);
    let Some(([flags @ .., answers, authorities, others], records)) =
        bytes.split_first_chunk::<5>()
    else {
        return;
    };
    let [flags_high, flags_low] = flags;
    let counts = [0, 1, 0, *answers, 0, *authorities, 0, *others];
    let question_len = query[12..].iter().position(|octet| *octet == 0).expect("a root") + 1 + 4;
    let message =
        [&query[..2], &[*flags_high, *flags_low], &counts, &query[12..12 + question_len], records]
            .concat();
    check(&asked, &query, family, &message);
}

fn check(asked: &Asked, query: &[u8], family: Family, message: &[u8]) {
    let verdict = asked.judge(message);
    if verdict != Verdict::Stray {
        assert_eq!(message[..2], query[..2], "somebody else's");
        assert_ne!(message[2] & 0x80, 0, "no response");
    }
    match verdict {
        Verdict::Answer(Answer::Addresses(addresses), ttl) => {
            assert!((1..=16).contains(&addresses.len()));
            assert!(addresses.iter().all(|address| Family::of(*address) == family));
            assert!(ttl.is_some_and(|ttl| ttl <= DAY));
        }
        Verdict::Answer(answer, ttl) => {
            assert!(matches!(answer, Answer::NoName | Answer::NoAddress), "{answer:?}");
            assert!(ttl.is_none_or(|ttl| ttl <= NEGATIVE));
        }
        Verdict::Alias(_, ttl) => assert!(ttl <= DAY),
        Verdict::Stray
        | Verdict::CaseDiffers
        | Verdict::Truncated
        | Verdict::WithoutEdns
        | Verdict::ServerFailed => {}
    }
}
