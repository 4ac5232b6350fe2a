//! The handshake as a state machine: one message in, one step out.

use super::message::{self, Problem};
use super::{HEADER_LEN, reply};
use crate::front_end::{Reject, Step};

/// One client's handshake.
#[derive(Default)]
pub struct Handshake {
    bytes: Vec<u8>,
    len: usize,
    done: bool,
}

impl Handshake {
    /// A handshake that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// See [`crate::front_end::Handshake::step`].
    pub fn step(&mut self) -> Step {
        if self.done {
            return Step::Wait;
        }
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Step::Read(HEADER_LEN - self.len);
        };
        let parsed = match message::whole_len(*header) {
            Ok(whole) if whole > bytes.len() => return Step::Read(whole - bytes.len()),
            Ok(_) => message::parse(bytes),
            Err(why) => Err(why),
        };
        let step = match parsed {
            Ok(asked) => Step::Convert(Box::new(asked)),
            Err(Problem::Empty) => Step::Reset(Reject::Request),
            Err(Problem::Magic) => Step::Refuse(Reject::NotConvert, reply::malformed(bytes)),
            Err(Problem::Version) => Step::Refuse(Reject::Version, reply::unsupported_version()),
            Err(Problem::Malformed) => Step::Refuse(Reject::Request, reply::malformed(bytes)),
            Err(Problem::Unsupported) => {
                Step::Refuse(Reject::Command, reply::unsupported_message(bytes))
            }
        };
        self.done = true;
        self.bytes = Vec::new();
        step
    }

    /// Octets of the stream that it has seen.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.len
    }

    /// See [`crate::front_end::Handshake::input`].
    pub fn input(&mut self, wanted: usize) -> &mut [u8] {
        let end = self.len + wanted;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes.get_mut(self.len..end).unwrap_or_default()
    }

    /// See [`crate::front_end::Handshake::advance`].
    pub fn advance(&mut self, count: usize) {
        self.len = (self.len + count).min(self.bytes.len());
    }
}
