//! The thread that checks passwords: a check takes milliseconds, which no shard has.
//!
//! Invariant: every request is answered, and an unknown user costs as much as the costliest known
//! one; should the thread end by itself, somebody is told.

use super::authenticator::{MAX_PENDING, VerifyRequest, VerifyResult};
use super::password::PasswordHash;
use crate::config::User;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use std::collections::HashMap;
use std::io;
use std::thread;

/// Called after each answer, to wake a shard that sleeps.
pub type Wake = Box<dyn Fn() + Send>;

/// Called when the thread ends by itself.
pub type Failed = Box<dyn FnOnce() + Send>;

/// Calls its function if the thread it is on unwinds.
struct OnPanic(Option<Failed>);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(failed) = self.0.take()
        {
            failed();
        }
    }
}

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
    pub fn start(users: &[User], wake: Wake, failed: Failed) -> io::Result<Self> {
        let (requests, inbox) = bounded(MAX_PENDING);
        let (outbox, results) = bounded(MAX_PENDING);
        let verifier = Verifier::new(users);
        thread::Builder::new().name("plait-auth".to_owned()).spawn(move || {
            let _on_panic = OnPanic(Some(failed));
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
    /// Checked, and ignored, for unknown users: the costliest, so that no name answers faster than
    /// a made-up one.
    stand_in: Option<PasswordHash>,
}

impl Verifier {
    fn new(users: &[User]) -> Self {
        let by_name =
            users.iter().map(|user| (user.name.clone().into_bytes(), user.password_hash.clone()));
        Self {
            users: by_name.collect(),
            stand_in: users
                .iter()
                .map(|user| &user.password_hash)
                .max_by_key(|hash| hash.cost())
                .cloned(),
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
    use crate::config::Plan;
    use crate::front_end::Credentials;
    use core::net::{IpAddr, Ipv4Addr};
    use mptcp_core::time::Instant;
    use zeroize::Zeroizing;

    #[test]
    fn the_thread_answers_every_request() {
        let users = [User {
            name: "alice".to_owned(),
            password_hash: PasswordHash::of(b"right").unwrap(),
            plan: Plan::default(),
        }];
        let (woken, wakes) = crossbeam::channel::unbounded();
        let client = VerifierClient::start(
            &users,
            Box::new(move || {
                let _ = woken.send(());
            }),
            Box::new(|| {}),
        )
        .unwrap();
        let mut authenticator = Authenticator::alone([1; 32]);
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

    #[test]
    fn a_thread_that_panics_is_reported() {
        let hash = PasswordHash::of(b"right").unwrap();
        let users = [User { name: "alice".to_owned(), password_hash: hash, plan: Plan::default() }];
        let (failed, failures) = crossbeam::channel::unbounded();
        let client = VerifierClient::start(
            &users,
            Box::new(|| panic!("intended")),
            Box::new(move || failed.send(()).unwrap()),
        )
        .unwrap();
        let mut authenticator = Authenticator::alone([1; 32]);
        let password = Zeroizing::new((*b"right").into());
        let credentials = Credentials { user: b"alice".as_slice().into(), password };
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        authenticator.begin(Instant::from_millis(1), 0, source, credentials);
        client.submit(authenticator.next_request().unwrap()).unwrap();
        failures.recv().unwrap();
    }

    #[test]
    fn the_costliest_hash_stands_in_for_unknown_users() {
        let tail = "$c29tZXNhbHRzb21l$iWh06vD8Fy27wf9npn6FXWiCX4K6pW6Ue1Bnzz07Z8A";
        let user = |name: &str, cost: &str| {
            let hash = PasswordHash::parse(&format!("$argon2id$v=19${cost}{tail}")).unwrap();
            User { name: name.to_owned(), password_hash: hash, plan: Plan::default() }
        };
        let users =
            [user("a", "m=64,t=1,p=1"), user("b", "m=64,t=3,p=1"), user("c", "m=128,t=1,p=1")];
        assert_eq!(Verifier::new(&users).stand_in.as_ref(), Some(&users[1].password_hash));
    }
}
