//! The thread that checks passwords: a check takes milliseconds, which no shard has.
//!
//! Invariant: every request is answered, and an unknown user costs as much as a known one.

use super::authenticator::{MAX_PENDING, VerifyRequest, VerifyResult};
use super::password::PasswordHash;
use crate::config::User;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::HashMap;
use std::io;
use std::thread;

/// Called after each answer, to wake a shard that sleeps.
pub type Wake = Box<dyn Fn() + Send>;

/// A shard's connection to the verifier. Dropping it ends the thread.
pub struct VerifierClient {
    requests: Sender<VerifyRequest>,
    results: Receiver<VerifyResult>,
}

impl VerifierClient {
    /// Starts a verifier of `users`.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(users: &[User], wake: Wake) -> io::Result<Self> {
        let (requests, inbox) = bounded(MAX_PENDING);
        let (outbox, results) = bounded(MAX_PENDING);
        let verifier = Verifier::new(users);
        thread::Builder::new().name("plait-auth".to_owned()).spawn(move || {
            for request in inbox {
                let correct = verifier.check(&request);
                if outbox.send(request.answered(correct)).is_err() {
                    return;
                }
                wake();
            }
        })?;
        Ok(Self { requests, results })
    }

    /// Hands over a request; gives it back when the verifier is behind (or gone).
    ///
    /// # Errors
    /// The request itself.
    pub fn submit(&self, request: VerifyRequest) -> Result<(), Box<VerifyRequest>> {
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(request) | TrySendError::Disconnected(request) => Box::new(request),
        })
    }

    /// The next answer, if there is one.
    #[must_use]
    pub fn poll(&self) -> Option<VerifyResult> {
        self.results.try_recv().ok()
    }
}

/// Users by name.
struct Verifier {
    users: HashMap<Vec<u8>, PasswordHash>,
    /// Checked, and ignored, for unknown users.
    stand_in: Option<PasswordHash>,
}

impl Verifier {
    fn new(users: &[User]) -> Self {
        let by_name =
            users.iter().map(|user| (user.name.clone().into_bytes(), user.password_hash.clone()));
        Self {
            users: by_name.collect(),
            stand_in: users.first().map(|user| user.password_hash.clone()),
        }
    }

    fn check(&self, request: &VerifyRequest) -> bool {
        let credentials = &request.credentials;
        match (self.users.get(&credentials.user), &self.stand_in) {
            (Some(hash), _) => hash.verify(&credentials.password),
            (None, Some(stand_in)) => {
                let _ = stand_in.verify(&credentials.password);
                false
            }
            (None, None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Authenticator;
    use crate::front_end::socks5::Credentials;
    use core::net::{IpAddr, Ipv4Addr};
    use mptcp_core::rng::Rng;
    use mptcp_core::time::Instant;
    use zeroize::Zeroizing;

    #[test]
    fn the_thread_answers_every_request() {
        let users =
            [User { name: "alice".to_owned(), password_hash: PasswordHash::of(b"right").unwrap() }];
        let (woken, wakes) = crossbeam::channel::unbounded();
        let client = VerifierClient::start(
            &users,
            Box::new(move || {
                let _ = woken.send(());
            }),
        )
        .unwrap();
        let mut authenticator = Authenticator::new(&mut Rng::from_seed([1; 32]));
        let now = Instant::from_millis(1_000);
        let tries = [("alice", "right"), ("alice", "wrong"), ("bob", "right")];
        for ((user, password), session) in tries.iter().zip(0..) {
            let password = Zeroizing::new((*password).into());
            let credentials = Credentials { user: (*user).into(), password };
            let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
            authenticator.begin(now, session, source, credentials);
            client.submit(authenticator.next_request().unwrap()).unwrap();
        }
        let answers: Vec<(u64, bool)> = (0..3)
            .map(|_| {
                wakes.recv().unwrap();
                let answer = client.poll().unwrap();
                (answer.session, answer.correct)
            })
            .collect();
        assert_eq!(answers, [(0, true), (1, false), (2, false)]);
    }
}
