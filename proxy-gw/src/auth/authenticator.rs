//! The shard's side of authentication: what can be decided at once is, everything else becomes a
//! request for the verifier's thread.
//!
//! Invariant: at most [`MAX_PENDING`] checks are queued or under way, and each takes one attempt of
//! its source until it turns out right. Who shows the same credentials meanwhile waits for the same check, and on
//! another shard for one that takes none.

use super::cache::{Cache, Digest};
use super::users::Users;
use crate::front_end::Credentials;
use crate::gateway::Common;
use core::net::IpAddr;
use core::time::Duration;
use mptcp_core::time::Instant;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Checks queued or under way at a time, per shard.
pub const MAX_PENDING: usize = 256;
/// Sessions that wait for a check that another began.
const MAX_JOINED: usize = 256;
/// Credentials remembered.
const CACHE_CAPACITY: usize = 4096;
/// For how long.
const CACHE_LIFETIME: Duration = Duration::from_secs(600);

/// Credentials to be checked.
#[derive(Debug)]
pub struct VerifyRequest {
    /// Whose; opaque to the verifier.
    pub session: u64,
    /// What to check.
    pub credentials: Credentials,
    /// By whom it is checked: those that there were when it came.
    pub(super) users: Arc<Users>,
    digest: Digest,
    source: IpAddr,
    /// It took an attempt of its source.
    paid: bool,
}

impl VerifyRequest {
    /// The answer to this request; consumes it, and with it the password.
    #[must_use]
    pub fn answered(self, correct: bool) -> VerifyResult {
        let Self { session, digest, source, paid, .. } = self;
        VerifyResult { session, correct, digest, source, paid }
    }
}

/// The verifier's answer.
#[derive(Debug)]
pub struct VerifyResult {
    /// Whose.
    pub session: u64,
    /// Whether user and password belong together.
    pub correct: bool,
    digest: Digest,
    source: IpAddr,
    paid: bool,
}

/// What can be said about credentials at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// They were right a short while ago.
    Accepted,
    /// A request was queued.
    Pending,
    /// This source failed too often.
    Limited,
    /// Too many checks are pending.
    Busy,
}

/// See the module.
pub(crate) struct Authenticator {
    cache: Cache,
    /// Has the limiter and the guesses: one for all shards.
    common: Arc<Common>,
    queue: VecDeque<VerifyRequest>,
    /// Who waits for each check, but for the one who began it.
    joined: HashMap<Digest, Vec<u64>>,
    /// Requests handed out and not answered.
    under_way: usize,
}

impl Authenticator {
    /// What turned out right is remembered by each shard for itself.
    pub(crate) fn new(common: Arc<Common>) -> Self {
        Self {
            cache: Cache::new(common.guesses().key(), CACHE_CAPACITY, CACHE_LIFETIME),
            common,
            queue: VecDeque::with_capacity(MAX_PENDING),
            joined: HashMap::new(),
            under_way: 0,
        }
    }

    /// Of a gateway with one shard.
    #[cfg(test)]
    pub(crate) fn alone(seed: [u8; 32]) -> Self {
        let config = crate::gateway::tests::CONFIG;
        let config = crate::config::parse("test", config, &[]).unwrap();
        let rng = &mut mptcp_core::rng::Rng::from_seed(seed);
        Self::new(Arc::new(Common::new(&config, rng)))
    }

    /// Decides about `credentials` of `session`, or queues them.
    pub(crate) fn begin(
        &mut self,
        now: Instant,
        session: u64,
        source: IpAddr,
        credentials: Credentials,
        users: &Arc<Users>,
    ) -> Decision {
        let digest = self.cache.digest(&credentials, users.since(&credentials.user));
        if self.cache.contains(now, &digest) {
            return Decision::Accepted;
        }
        // A client opens many connections at once: that is one guess, and one check.
        if let Some(joined) = self.joined.get_mut(&digest) {
            if joined.len() >= MAX_JOINED {
                return Decision::Busy;
            }
            joined.push(session);
            return Decision::Pending;
        }
        if self.queue.len() + self.under_way >= MAX_PENDING {
            return Decision::Busy;
        }
        let paid = !self.common.guesses().is_under_way(&digest);
        if paid {
            if !self.common.limiter().take(now, source) {
                return Decision::Limited;
            }
            self.common.guesses().begin(&digest);
        }
        self.joined.insert(digest, Vec::new());
        self.queue.push_back(VerifyRequest {
            session,
            credentials,
            users: Arc::clone(users),
            digest,
            source,
            paid,
        });
        Decision::Pending
    }

    /// The next request for the verifier, which owes an answer to each.
    pub(crate) fn next_request(&mut self) -> Option<VerifyRequest> {
        let request = self.queue.pop_front()?;
        self.under_way += 1;
        Some(request)
    }

    /// Takes an answer into account; answers whom it is for.
    pub(crate) fn finish(&mut self, now: Instant, result: &VerifyResult) -> Vec<u64> {
        self.under_way = self.under_way.saturating_sub(1);
        if result.paid {
            self.common.guesses().end(&result.digest);
        }
        if result.correct {
            self.cache.insert(now, result.digest);
        }
        if result.correct && result.paid {
            self.common.limiter().refund(result.source);
        }
        let mut sessions = vec![result.session];
        sessions.extend(self.joined.remove(&result.digest).unwrap_or_default());
        sessions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::PasswordHash;
    use crate::auth::users::tests::users;
    use crate::config::{Plan, User};
    use zeroize::Zeroizing;

    fn credentials(password: &str) -> Credentials {
        Credentials { user: b"a".to_vec(), password: Zeroizing::new(password.into()) }
    }

    /// User `a`, whose password is of this change.
    fn known(version: u64) -> Arc<Users> {
        let hash = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";
        let password_hash = PasswordHash::parse(hash).unwrap();
        let user = User { name: "a".to_owned(), password_hash, plan: Plan::default() };
        Arc::new(users(&[user], &Users::default(), version))
    }

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn source(host: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, host])
    }

    #[test]
    fn right_credentials_are_checked_once() {
        let mut authenticator = Authenticator::alone([1; 32]);
        let mut begin = |now| {
            let decision = authenticator.begin(now, 7, source(1), credentials("right"), &known(0));
            if let Some(request) = authenticator.next_request() {
                let answer = request.answered(true);
                authenticator.finish(now, &answer);
            }
            decision
        };
        assert_eq!(begin(NOW), Decision::Pending);
        assert_eq!(begin(NOW), Decision::Accepted);
        assert_eq!(begin(NOW + CACHE_LIFETIME), Decision::Pending);
    }

    /// What was right with a password that is no more is worth nothing, even where it turns out only now.
    #[test]
    fn another_password_is_checked_anew() {
        let mut authenticator = Authenticator::alone([1; 32]);
        let mut begin =
            |version| authenticator.begin(NOW, 7, source(1), credentials("right"), &known(version));
        assert_eq!(begin(0), Decision::Pending);
        assert_eq!(begin(1), Decision::Pending);
        for _ in 0..2 {
            let answer = authenticator.next_request().unwrap().answered(true);
            authenticator.finish(NOW, &answer);
        }
        let mut begin =
            |version| authenticator.begin(NOW, 7, source(1), credentials("right"), &known(version));
        assert_eq!(begin(1), Decision::Accepted);
        assert_eq!(begin(2), Decision::Pending);
    }

    #[test]
    fn wrong_credentials_are_checked_every_time_until_the_limit() {
        let mut authenticator = Authenticator::alone([1; 32]);
        let mut decisions = Vec::new();
        for _ in 0..12 {
            decisions.push(authenticator.begin(NOW, 7, source(1), credentials("wrong"), &known(0)));
            if let Some(request) = authenticator.next_request() {
                let answer = request.answered(false);
                authenticator.finish(NOW, &answer);
            }
        }
        assert_eq!(decisions[..10], [Decision::Pending; 10]);
        assert_eq!(decisions[10..], [Decision::Limited; 2]);
    }

    #[test]
    fn the_same_credentials_wait_for_one_check() {
        let mut authenticator = Authenticator::alone([1; 32]);
        let begin = |authenticator: &mut Authenticator, session| {
            authenticator.begin(NOW, session, source(1), credentials("right"), &known(0))
        };
        for session in 0..=MAX_JOINED as u64 {
            assert_eq!(begin(&mut authenticator, session), Decision::Pending);
        }
        assert_eq!(begin(&mut authenticator, 1_000), Decision::Busy);
        let answer = authenticator.next_request().unwrap().answered(true);
        assert!(authenticator.next_request().is_none());
        let told = authenticator.finish(NOW, &answer);
        assert!(told.into_iter().eq(0..=MAX_JOINED as u64));
        assert_eq!(begin(&mut authenticator, 1_000), Decision::Accepted);
        assert!(authenticator.joined.is_empty());
    }

    #[test]
    fn pending_checks_are_bounded() {
        let mut authenticator = Authenticator::alone([1; 32]);
        let mut tries = (0..=255u8).flat_map(|host| [1, 2, 3, 4, 5].map(|n| (host, n)));
        let mut begin = |authenticator: &mut Authenticator| {
            let (host, n) = tries.next().unwrap();
            let credentials = credentials(&format!("{host} {n}"));
            authenticator.begin(NOW, 7, source(host), credentials, &known(0))
        };
        for _ in 0..MAX_PENDING / 2 {
            assert_eq!(begin(&mut authenticator), Decision::Pending);
        }
        let request = authenticator.next_request().unwrap();
        for _ in MAX_PENDING / 2..MAX_PENDING {
            assert_eq!(begin(&mut authenticator), Decision::Pending);
        }
        assert_eq!(begin(&mut authenticator), Decision::Busy);
        authenticator.finish(NOW, &request.answered(false));
        assert_eq!(begin(&mut authenticator), Decision::Pending);
    }
}
