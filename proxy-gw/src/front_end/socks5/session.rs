//! The handshake as a state machine: bytes in, steps out, no sockets.
//!
//! Invariant: at most one message is buffered, and never a byte beyond it.

use super::parser::{self, Command, MAX_MESSAGE_LEN, NO_AUTHENTICATION, Parsed, USERNAME_PASSWORD};
use super::reply::{self, Rep};
use crate::config::Auth;
use crate::front_end::{Reject, Step};
use zeroize::Zeroize;

/// Which message is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Credentials,
    Verifying,
    Verified,
    Request,
    Done,
}

/// One client's handshake.
pub struct Handshake {
    stage: Stage,
    auth: Auth,
    len: usize,
    bytes: Box<[u8; MAX_MESSAGE_LEN]>,
}

impl Handshake {
    /// A handshake that has seen nothing yet.
    #[must_use]
    pub fn new(auth: Auth) -> Self {
        Self { stage: Stage::Greeting, auth, len: 0, bytes: Box::new([0; MAX_MESSAGE_LEN]) }
    }

    /// What is to be done, given what was read so far.
    pub fn step(&mut self) -> Step {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        match self.stage {
            Stage::Greeting => {
                let method = self.method();
                match parser::greeting(bytes, method) {
                    Parsed::Needs(len) => self.read(len),
                    Parsed::Complete(()) => {
                        self.enter(match self.auth {
                            Auth::None => Stage::Request,
                            Auth::Password => Stage::Credentials,
                        });
                        Step::Send(reply::method(method))
                    }
                    Parsed::Rejected(why) => self.refuse(why),
                }
            }
            Stage::Credentials => match parser::credentials(bytes) {
                Parsed::Needs(len) => self.read(len),
                Parsed::Complete(credentials) => {
                    self.enter(Stage::Verifying);
                    Step::Verify(credentials)
                }
                Parsed::Rejected(why) => self.refuse(why),
            },
            Stage::Verified => {
                self.enter(Stage::Request);
                Step::Send(reply::authentication(true))
            }
            Stage::Request => match parser::request(bytes) {
                Parsed::Needs(len) => self.read(len),
                Parsed::Complete(request) => {
                    self.enter(Stage::Done);
                    let reserved_set = request.reserved_set;
                    match request.command {
                        Command::Connect(target) => Step::Connect { target, reserved_set },
                        Command::Bind(target) => Step::Bind { target, reserved_set },
                        Command::Associate => Step::Associate { reserved_set },
                    }
                }
                Parsed::Rejected(why) => self.refuse(why),
            },
            Stage::Verifying | Stage::Done => Step::Wait,
        }
    }

    /// Where the bytes of a [`Step::Read`] go: exactly as long as was asked for.
    pub fn input(&mut self, wanted: usize) -> &mut [u8] {
        let end = (self.len + wanted).min(MAX_MESSAGE_LEN);
        self.bytes.get_mut(self.len..end).unwrap_or_default()
    }

    /// `count` bytes were written into [`Handshake::input`].
    pub fn advance(&mut self, count: usize) {
        self.len = (self.len + count).min(MAX_MESSAGE_LEN);
    }

    /// The credentials are right. (When they are wrong, the handshake is over.)
    pub fn verified(&mut self) {
        if self.stage == Stage::Verifying {
            self.stage = Stage::Verified;
        }
    }

    /// Whether credentials are being checked.
    #[must_use]
    pub fn is_verifying(&self) -> bool {
        self.stage == Stage::Verifying
    }

    fn method(&self) -> u8 {
        match self.auth {
            Auth::None => NO_AUTHENTICATION,
            Auth::Password => USERNAME_PASSWORD,
        }
    }

    fn read(&self, len: usize) -> Step {
        Step::Read(len.saturating_sub(self.len).max(1))
    }

    /// The message is consumed: passwords do not stay behind.
    fn enter(&mut self, stage: Stage) {
        self.wipe();
        self.len = 0;
        self.stage = stage;
    }

    /// Nothing was ever written behind the message.
    fn wipe(&mut self) {
        if let Some(message) = self.bytes.get_mut(..self.len) {
            message.zeroize();
        }
    }

    fn refuse(&mut self, why: Reject) -> Step {
        self.enter(Stage::Done);
        let reply = match why {
            Reject::NoMethod => reply::method(0xff),
            Reject::Authentication => reply::authentication(false),
            Reject::Command => reply::failure(Rep::CommandNotSupported),
            Reject::AddressType => reply::failure(Rep::AddressTypeNotSupported),
            Reject::NumericName => reply::failure(Rep::HostUnreachable),
            Reject::Request | Reject::RequestTooLong => reply::failure(Rep::GeneralFailure),
            Reject::Socks4
            | Reject::NotSocks
            | Reject::NotHttp
            | Reject::NotConvert
            | Reject::Version => Vec::new(),
        };
        Step::Refuse(why, reply)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front_end::{FrontEnd, Host};
    use proptest::prelude::*;

    /// Every step but the reads, and what was left unread.
    fn run(auth: Auth, stream: &[u8], piece: usize) -> (Vec<Step>, usize) {
        let at = ([10, 1, 0, 1], 1080).into();
        let handshake = crate::front_end::Handshake::new(FrontEnd::Socks5, auth, at);
        crate::front_end::tests::run(handshake, stream, piece)
    }

    const PIPELINED: &[u8] =
        b"\x05\x02\x00\x02\x01\x01a\x01b\x05\x01\x00\x01\x08\x08\x08\x08\x00\x50GET /";

    #[test]
    fn a_password_does_not_stay_behind() {
        let mut handshake = Handshake::new(Auth::Password);
        let mut stream = &PIPELINED[..9];
        while !handshake.is_verifying() {
            if let Step::Read(wanted) = handshake.step() {
                assert!(!stream.is_empty(), "all of it was read");
                let into = handshake.input(wanted);
                let count = into.len().min(stream.len());
                into[..count].copy_from_slice(&stream[..count]);
                stream = &stream[count..];
                handshake.advance(count);
            }
        }
        assert_eq!(handshake.bytes.iter().max(), Some(&0));
        // What came before its end goes with the handshake.
        handshake.input(3).copy_from_slice(b"abc");
        handshake.advance(3);
        assert_eq!(handshake.bytes.iter().max(), Some(&b'c'));
        handshake.wipe();
        assert_eq!(handshake.bytes.iter().max(), Some(&0));
    }

    #[test]
    fn a_pipelined_client_is_read_up_to_its_request_and_no_further() {
        for piece in 1..=PIPELINED.len() {
            let (steps, left) = run(Auth::Password, PIPELINED, piece);
            assert_eq!(left, b"GET /".len());
            let [
                Step::Send(method),
                Step::Verify(both),
                Step::Send(status),
                Step::Connect { target, .. },
            ] = steps.as_slice()
            else {
                panic!("{steps:?}")
            };
            assert_eq!((method.as_slice(), status.as_slice()), (&[5, 2][..], &[1, 0][..]));
            assert_eq!((both.user.as_slice(), both.password.as_slice()), (&b"a"[..], &b"b"[..]));
            assert_eq!(target.port, 80);
            assert_eq!(target.host, Host::Address("8.8.8.8".parse().unwrap()));
        }
    }

    #[test]
    fn authentication_without_its_method_is_a_bad_request() {
        let (steps, _) = run(Auth::None, PIPELINED, 600);
        let failure = reply::failure(Rep::GeneralFailure);
        assert_eq!(steps, [Step::Send(reply::method(0)), Step::Refuse(Reject::Request, failure)]);
    }

    #[test]
    fn refusals_say_what_the_table_says() {
        let refusal = |stream: &[u8]| match run(Auth::None, stream, 600).0.pop() {
            Some(Step::Refuse(why, reply)) => (why, reply),
            step => panic!("{step:?}"),
        };
        let failure = |rep: u8| vec![5, rep, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(refusal(b"\x04\x01"), (Reject::Socks4, vec![]));
        assert_eq!(refusal(b"GET / HTTP/1.1\r\n"), (Reject::NotSocks, vec![]));
        assert_eq!(refusal(b"\x16\x03\x01"), (Reject::NotSocks, vec![]));
        assert_eq!(refusal(b"\x05\x00"), (Reject::NoMethod, vec![5, 0xff]));
        assert_eq!(refusal(b"\x05\x01\x02"), (Reject::NoMethod, vec![5, 0xff]));
        assert_eq!(refusal(b"\x05\x01\x00\x05\x04").1, failure(7));
        assert_eq!(refusal(b"\x05\x01\x00\x05\x01\x00\x07"), (Reject::AddressType, failure(8)));
        assert_eq!(refusal(b"\x05\x01\x00\x05\x01\x00\x03\x00"), (Reject::Request, failure(1)));
        assert_eq!(
            refusal(b"\x05\x01\x00\x05\x01\x00\x03\x0a2130706433\x00\x50"),
            (Reject::NumericName, failure(4))
        );
    }

    #[test]
    fn a_bad_authentication_message_fails_with_status_1() {
        let (steps, _) = run(Auth::Password, b"\x05\x01\x02\x05\x01a\x01b", 600);
        let failed = reply::authentication(false);
        assert_eq!(steps.last(), Some(&Step::Refuse(Reject::Authentication, failed)));
    }

    proptest! {
        #[test]
        fn random_bytes_end_the_same_however_they_are_split(
            stream in proptest::collection::vec(prop_oneof![0..8u8, any::<u8>()], 0..700),
            piece in 1..64usize,
            password: bool,
        ) {
            let auth = if password { Auth::Password } else { Auth::None };
            let (whole, _) = run(auth, &stream, usize::MAX);
            let (split, _) = run(auth, &stream, piece);
            prop_assert_eq!(whole, split);
        }
    }
}
