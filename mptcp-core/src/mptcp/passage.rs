//! Whether MPTCP's options pass on the way of a connection that has had one subflow only, and what
//! silence at its data level means then (RFC 8684 §3.3.6, §3.7).
//!
//! ```text
//!             a DATA_ACK of ours,            a join works,
//!         or our half of a join's opening    or sent again
//!   Unproven ────────────────────▶ Proven ────────────────────────▶ Spread
//!       │ └────────────────────────────────────────────────────────────▲
//!       ▼ no DSS where one must be
//!     Plain ◀── a wrong checksum or an infinite mapping, in both of the former
//! ```
//!
//! From `Spread` a peer's `MP_FAIL` leads to plain TCP as well, when one subflow is left and what is on its way there
//! is [contiguous](super::Connection::contiguous).
//!
//! | | `Unproven` | `Proven` | `Spread` |
//! |---|---|---|---|
//! | an acknowledgement of data, or a FIN, without a DSS | plain TCP | the peer's TCP lives | the same |
//! | data without a mapping | held, then plain TCP | held up to a window, then RST | the same |
//! | ... and a DSS came meanwhile | held, then RST; RST too where the first line says plain TCP | no difference | no difference |
//! | ... with mapped data behind it | held, then RST | the same | the same |
//! | no `DATA_ACK` in time | the peer is asked | the peer is asked | sent again |
//!
//! The peer is asked by a probe below what it is known to have: its own answer comes, whatever a box
//! on the way acknowledged for it. After three rounds of that timer, and as many at whose end TCP had nothing in
//! flight,
//!
//! - an answer with a DSS says that options pass and that the peer lacks the head: it goes again under
//!   new numbers, and the connection is `Spread`, unless something without a DSS came behind it;
//! - answers of its TCP alone, in so many rounds without a DSS between them, say that options do not
//!   pass any more: the subflow is reset;
//! - no answer says nothing: a proxy may be repairing what it acknowledged, the path may be cut. It is
//!   asked on, and given up when TCP would be, after [`TcpConfig::retries`] rounds.
//!
//! Invariant: what may be read as a second copy by a peer that fell back is not sent before a DSS of
//! the same round, with nothing plain behind it, showed that it did not, so long after everything we sent arrived
//! that it will not do so meanwhile.
//!
//! [`TcpConfig::retries`]: crate::config::TcpConfig::retries

use super::FallbackReason;

/// Rounds of the data-level timer in which the peer is only asked, and rounds that only its TCP answered.
const ROUNDS: u8 = 3;

/// How far it got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// No `DATA_ACK` covered anything of ours: the peer may be plain TCP already, and so may we
    /// become. A mapping from the peer proves the way to us only.
    Unproven,
    /// One did: options passed in both directions. The peer, who cannot know that of us, may still fall
    /// back. Or a join has its third ACK, or its SYN/ACK of ours, and the peer may have taken it: then it may send a
    /// second time what read as plain TCP would be a second copy.
    Proven,
    /// Another subflow carried some of the stream, or some of it went twice: it is contiguous on none, so
    /// nobody falls back any more.
    Spread,
    /// Plain TCP; `concluded` from the lack of options, or of other subflows, so that the peer may go on with
    /// mappings.
    Plain { concluded: bool },
}

/// What the peer's TCP had to answer since the data-level timer fired last, and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Round {
    /// The question alone.
    Silent,
    /// It answered that, without a DSS.
    Bare,
    /// New data: a proxy may answer that, more than once.
    Busy,
}

/// Whether a DSS came in a round.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum Heard {
    #[default]
    No,
    Dss,
    /// Something without one came after it: the peer may have fallen back in between.
    Doubted,
}

/// What a round of the data-level timer without anything acknowledged calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Silence {
    /// The peer is asked, and nothing sent that it may have.
    Ask,
    /// The head of the stream goes again.
    SendAgain,
    /// Options do not pass any more.
    Reset,
}

/// What is known of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passage {
    stage: Stage,
    /// What came since the data-level timer fired last.
    heard: Heard,
    round: Round,
    /// Rounds that only TCP answered since one with a DSS.
    bare_rounds: u8,
    /// Rounds in a row at whose end TCP had nothing in flight: what the peer would conclude from the last of
    /// it, it has concluded.
    settled: u8,
    /// A DSS came since data waits for its mapping: the peer did not fall back.
    heard_waiting: bool,
}

impl Passage {
    pub(crate) const fn new() -> Self {
        Self {
            stage: Stage::Unproven,
            heard: Heard::No,
            round: Round::Silent,
            bare_rounds: 0,
            settled: 0,
            heard_waiting: false,
        }
    }

    // What happens.

    /// Something of ours was acknowledged at the data level, or a join goes out to be taken, or one is answered.
    pub(crate) fn prove(&mut self) {
        if self.stage == Stage::Unproven {
            self.stage = Stage::Proven;
        }
    }

    /// A subflow joined, or something is sent a second time.
    pub(crate) fn spread(&mut self) {
        if self.is_single() {
            self.stage = Stage::Spread;
        }
    }

    /// The connection goes on as plain TCP.
    pub(crate) fn fall_back(&mut self, reason: FallbackReason) {
        // Of a stream that was spread the peer may still send parts again, with mappings that tell.
        let concluded = self.is_spread()
            || matches!(reason, FallbackReason::NoDataAck | FallbackReason::OptionsLost);
        self.stage = Stage::Plain { concluded };
    }

    /// A DSS came; `infinite` if it ends the use of them.
    pub(crate) fn hear(&mut self, infinite: bool) {
        self.heard = Heard::Dss;
        self.heard_waiting |= !infinite;
    }

    /// A DSS other than an infinite mapping came below the window of TCP.
    pub(crate) fn hear_below(&mut self) {
        self.heard_waiting = true;
    }

    /// A segment without a DSS came, and without any other option of MPTCP.
    pub(crate) fn hear_plain(&mut self) {
        if self.heard == Heard::Dss {
            self.heard = Heard::Doubted;
        }
    }

    /// Data waits for its mapping from now on.
    pub(crate) fn await_mapping(&mut self) {
        self.heard_waiting = false;
    }

    /// An acknowledgement without a DSS, of nothing new, came while nothing was in flight.
    pub(crate) fn hear_bare(&mut self) {
        if self.round == Round::Silent {
            self.round = Round::Bare;
        }
    }

    /// New data goes out.
    pub(crate) fn send(&mut self) {
        self.round = Round::Busy;
    }

    // What that means.

    /// All of our stream went over the first subflow, once: plain TCP could go on from here, and the
    /// peer may have.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self.stage, Stage::Unproven | Stage::Proven)
    }

    /// The lack of options means fallback.
    pub(crate) fn is_unproven(&self) -> bool {
        self.stage == Stage::Unproven
    }

    /// Several subflows carry the stream, or did, or some of it went twice.
    pub(crate) fn is_spread(&self) -> bool {
        self.stage == Stage::Spread
    }

    /// We fell back and the peer may not know.
    pub(crate) fn is_concluded(&self) -> bool {
        self.stage == Stage::Plain { concluded: true }
    }

    /// A DSS other than an infinite mapping came since data waits for its mapping.
    pub(crate) fn heard_waiting(&self) -> bool {
        self.heard_waiting
    }

    /// The data-level timer fired after it had done so `asked` times without anything acknowledged;
    /// `repeats` while TCP has something in flight: behind that nothing arrives anyway.
    pub(crate) fn judge_silence(&mut self, asked: u8, repeats: bool) -> Silence {
        let before = if asked == 0 { 0 } else { self.settled };
        self.settled = if repeats { 0 } else { before.saturating_add(1) };
        let heard = core::mem::take(&mut self.heard);
        let bare = core::mem::replace(&mut self.round, Round::Silent) == Round::Bare;
        if heard != Heard::No {
            self.bare_rounds = 0;
        } else if bare {
            self.bare_rounds = self.bare_rounds.saturating_add(1);
        }
        if !self.is_single() {
            Silence::SendAgain
        } else if asked < ROUNDS || self.settled <= ROUNDS {
            Silence::Ask
        } else if heard == Heard::Dss {
            Silence::SendAgain
        } else if self.bare_rounds >= ROUNDS {
            self.bare_rounds = 0;
            Silence::Reset
        } else {
            Silence::Ask
        }
    }
}
