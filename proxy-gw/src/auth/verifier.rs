//! The thread that checks passwords: a check takes milliseconds, which no shard has.
//!
//! Invariant: every request is answered; should the thread end by itself, somebody is told.

use super::authenticator::{MAX_PENDING, VerifyRequest, VerifyResult};
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
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
    /// Starts a verifier.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn start(wake: Wake, failed: Failed) -> io::Result<Self> {
        let (requests, inbox) = bounded::<VerifyRequest>(MAX_PENDING);
        let (outbox, results) = bounded(MAX_PENDING);
        thread::Builder::new().name("plait-auth".to_owned()).spawn(move || {
            let _on_panic = OnPanic(Some(failed));
            for request in inbox {
                let correct = request.users.check(&request.credentials);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Authenticator;
    use crate::auth::users::Users;
    use crate::auth::users::tests::{user, users};
    use crate::front_end::Credentials;
    use core::net::{IpAddr, Ipv4Addr};
    use mptcp_core::time::Instant;
    use std::sync::Arc;
    use zeroize::Zeroizing;

    #[test]
    fn the_thread_answers_every_request() {
        let users = Arc::new(users(&[user("alice", b"right")], &Users::default(), 0));
        let (woken, wakes) = crossbeam::channel::unbounded();
        let client = VerifierClient::start(
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
            authenticator.begin(now, session, source, credentials, &users);
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
        let (failed, failures) = crossbeam::channel::unbounded();
        let client = VerifierClient::start(
            Box::new(|| panic!("intended")),
            Box::new(move || failed.send(()).unwrap()),
        )
        .unwrap();
        let mut authenticator = Authenticator::alone([1; 32]);
        let password = Zeroizing::new((*b"right").into());
        let credentials = Credentials { user: b"alice".as_slice().into(), password };
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let users = Arc::new(Users::default());
        authenticator.begin(Instant::from_millis(1), 0, source, credentials, &users);
        client.submit(authenticator.next_request().unwrap()).unwrap();
        failures.recv().unwrap();
    }
}
