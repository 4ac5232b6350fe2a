//! The handshake as a state machine.

use super::head::{self, Scan, Scanned};
use super::reply;
use crate::config::Auth;
use crate::front_end::{Step, Target};
use zeroize::Zeroizing;

/// Where it stands.
enum Stage {
    Head,
    /// Credentials are being checked.
    Verifying(Target),
    Verified(Target),
    Done,
}

/// One client's handshake.
pub struct Handshake {
    stage: Stage,
    auth: Auth,
    scan: Scan,
    /// What was read, and room for what was asked for; it may hold a password.
    bytes: Zeroizing<Vec<u8>>,
    len: usize,
}

impl Handshake {
    /// A handshake that has seen nothing yet.
    #[must_use]
    pub fn new(auth: Auth) -> Self {
        let bytes = Zeroizing::new(Vec::new());
        Self { stage: Stage::Head, auth, scan: Scan::default(), bytes, len: 0 }
    }

    /// See [`crate::front_end::Handshake::step`].
    pub fn step(&mut self) -> Step {
        match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Head => self.read_head(),
            Stage::Verified(target) => Step::Connect { target, reserved_set: false },
            waiting => {
                self.stage = waiting;
                Step::Wait
            }
        }
    }

    fn read_head(&mut self) -> Step {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        let result = match self.scan.scan(bytes) {
            Scanned::Needs(more) => {
                self.stage = Stage::Head;
                return Step::Read(more);
            }
            Scanned::Complete => head::parse(bytes, self.auth == Auth::Password),
            Scanned::Rejected(why) => Err(why),
        };
        self.bytes = Zeroizing::new(Vec::new());
        self.len = 0;
        match result {
            Ok(request) => match request.credentials {
                Some(credentials) => {
                    self.stage = Stage::Verifying(request.target);
                    Step::Verify(credentials)
                }
                None => Step::Connect { target: request.target, reserved_set: false },
            },
            Err(why) => Step::Refuse(why.into(), reply::rejected(why)),
        }
    }

    /// See [`crate::front_end::Handshake::input`].
    pub fn input(&mut self, wanted: usize) -> &mut [u8] {
        let end = self.len + wanted;
        if self.bytes.len() < end {
            self.bytes.reserve(end - self.len);
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.len..end).unwrap_or_default()
    }

    /// See [`crate::front_end::Handshake::advance`].
    pub fn advance(&mut self, count: usize) {
        self.len = (self.len + count).min(self.bytes.len());
    }

    /// The credentials are right.
    pub fn verified(&mut self) {
        self.stage = match core::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Verifying(target) => Stage::Verified(target),
            other => other,
        };
    }

    /// Whether credentials are being checked.
    #[must_use]
    pub fn is_verifying(&self) -> bool {
        matches!(self.stage, Stage::Verifying(_))
    }
}
