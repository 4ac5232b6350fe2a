//! The log as JSON lines: qlog's names and times (draft-ietf-quic-qlog-main-schema, "JSON text
//! sequences" without the record separator), written into any [`Write`].
//!
//! The first line describes the trace; each further one is a record: `time` in milliseconds since
//! the stack's zero, with nanoseconds behind the point, `name` as [`Event::name`] has it, and `data`
//! with the fields of the variant of [`Event`] under their Rust names. Reasons and causes are the
//! words that metrics use. Nothing a peer sends is written as text: no string needs escaping.

use super::{Event, Record, ReinjectCause, SubflowEnd, Why};
use crate::wire::reset_reason;
use core::fmt::{self, Display, Write};

/// The line that begins a trace. `title` must need no escaping in JSON; other characters are left
/// out.
///
/// # Errors
/// Those of `out`.
pub fn write_header(out: &mut impl Write, title: &str) -> fmt::Result {
    out.write_str(r#"{"qlog_version":"0.4","qlog_format":"JSON-SEQ","title":""#)?;
    for c in title.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\\')) {
        out.write_char(c)?;
    }
    out.write_str(r#"","trace":{"vantage_point":{"type":"unknown"},"#)?;
    out.write_str("\"common_fields\":{\"time_format\":\"relative\",\"reference_time\":0}}}\n")
}

/// One record and a line feed.
///
/// # Errors
/// Those of `out`.
pub fn write_record(out: &mut impl Write, record: &Record) -> fmt::Result {
    let nanos = record.at.as_nanos();
    let name = record.event.name();
    write!(
        out,
        r#"{{"time":{}.{:06},"name":"{name}","data":{{"#,
        nanos / 1_000_000,
        nanos % 1_000_000
    )?;
    let mut fields = Fields { out, any: false };
    write_data(&mut fields, &record.event)?;
    out.write_str("}}\n")
}

/// The members of one object.
struct Fields<'a, W> {
    out: &'a mut W,
    any: bool,
}

impl<W: Write> Fields<'_, W> {
    fn key(&mut self, key: &str) -> fmt::Result {
        if self.any {
            self.out.write_char(',')?;
        }
        self.any = true;
        write!(self.out, "\"{key}\":")
    }

    /// A number or a boolean.
    fn plain(&mut self, key: &str, value: impl Display) -> fmt::Result {
        self.key(key)?;
        write!(self.out, "{value}")
    }

    fn text(&mut self, key: &str, value: impl Display) -> fmt::Result {
        self.key(key)?;
        write!(self.out, "\"{value}\"")
    }

    fn maybe(&mut self, key: &str, value: Option<impl Display>) -> fmt::Result {
        match value {
            Some(value) => self.plain(key, value),
            None => self.plain(key, "null"),
        }
    }
}

fn write_data<W: Write>(to: &mut Fields<'_, W>, event: &Event) -> fmt::Result {
    match *event {
        Event::Started { client, local, remote, version } => {
            to.plain("client", client)?;
            to.text("local", local)?;
            to.text("remote", remote)?;
            to.maybe("version", version)
        }
        Event::Established { version, checksum } => {
            to.maybe("version", version)?;
            to.plain("checksum", checksum)
        }
        Event::FellBack { reason } | Event::FallbackRefused { reason } => {
            to.text("reason", reason.name())
        }
        Event::SubflowOpened { subflow, local, remote, backup } => {
            to.plain("subflow", subflow)?;
            to.text("local", local)?;
            to.text("remote", remote)?;
            to.plain("backup", backup)
        }
        Event::SubflowJoined { subflow, local, remote, local_id, remote_id, backup } => {
            to.plain("subflow", subflow)?;
            to.text("local", local)?;
            to.text("remote", remote)?;
            to.plain("local_id", local_id)?;
            to.plain("remote_id", remote_id)?;
            to.plain("backup", backup)
        }
        Event::SubflowClosed { subflow, end } => {
            to.plain("subflow", subflow)?;
            write_end(to, end)
        }
        Event::Scheduled { subflow, why, repeated } => {
            to.maybe("subflow", subflow)?;
            to.text("why", why.name())?;
            to.plain("repeated", repeated)
        }
        Event::Reinjected { subflow, cause } => {
            to.maybe("subflow", subflow)?;
            to.text("cause", cause.name())
        }
        Event::SubflowStale { subflow } | Event::SubflowRecovered { subflow } => {
            to.plain("subflow", subflow)
        }
        Event::AddressAnnounced { id, addr } => {
            to.plain("id", id)?;
            to.text("addr", addr)
        }
        Event::AddressReceived { id, remote, accepted } => {
            to.plain("id", id)?;
            to.text("remote", remote)?;
            to.plain("accepted", accepted)
        }
        Event::AddressEchoed { id }
        | Event::AddressWithdrawn { id }
        | Event::AddressRemoved { id } => to.plain("id", id),
        Event::Priority { subflow, backup, peer } => {
            to.plain("subflow", subflow)?;
            to.plain("backup", backup)?;
            to.plain("peer", peer)
        }
        Event::Mss { subflow, mss } => {
            to.plain("subflow", subflow)?;
            to.plain("mss", mss)
        }
        Event::Congestion { subflow, state, cwnd, ssthresh } => {
            to.plain("subflow", subflow)?;
            to.text("state", state.name())?;
            to.plain("cwnd", cwnd)?;
            to.maybe("ssthresh", (ssthresh != u32::MAX).then_some(ssthresh))
        }
        Event::TcpState { subflow, state } => {
            to.plain("subflow", subflow)?;
            to.text("state", state.name())
        }
        Event::Closed { error } => match error {
            Some(error) => to.text("error", error.name()),
            None => to.plain("error", "null"),
        },
    }
}

fn write_end<W: Write>(to: &mut Fields<'_, W>, end: SubflowEnd) -> fmt::Result {
    let (word, reason) = match end {
        SubflowEnd::Closed => ("closed", None),
        SubflowEnd::Reset(reason) => ("reset", Some(reason)),
        SubflowEnd::PeerReset(reason) => ("peer_reset", reason),
        SubflowEnd::Checksum => ("checksum", None),
        SubflowEnd::FellBack => ("fell_back", None),
        SubflowEnd::Failed(error) => {
            to.text("end", "failed")?;
            return to.text("error", error.name());
        }
    };
    to.text("end", word)?;
    match reason {
        Some(reason) => to.text("reason", reset_reason::name(reason)),
        None => Ok(()),
    }
}

impl ReinjectCause {
    /// The word in the JSON form.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
            Self::SubflowEnded => "subflow_ended",
            Self::DataTimeout => "data_timeout",
            Self::WindowBlocked => "window_blocked",
            Self::PeerChecksum => "peer_checksum",
        }
    }
}

impl Why {
    /// The word in the JSON form.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::Overflow => "overflow",
            Self::NoRoom => "no_room",
            Self::WindowWouldBlock => "window_would_block",
            Self::FasterSoon => "faster_soon",
            Self::Ahead => "ahead",
            Self::AheadOfShare => "ahead_of_share",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ConnectionError;
    use crate::mptcp::FallbackReason;
    use crate::tcp::CongestionState;
    use crate::time::Instant;
    use alloc::string::String;

    fn line(event: Event) -> String {
        let mut text = String::new();
        write_record(&mut text, &Record { at: Instant::from_nanos(1_234_567_890), event })
            .expect("a String takes everything");
        text
    }

    #[test]
    fn lines_are_json_with_qlogs_names() {
        assert_eq!(
            line(Event::FellBack { reason: FallbackReason::NoDataAck }),
            "{\"time\":1234.567890,\"name\":\"mptcp:fallback\",\
             \"data\":{\"reason\":\"no_data_ack\"}}\n"
        );
        let closed = |end| line(Event::SubflowClosed { subflow: 2, end });
        assert!(closed(SubflowEnd::Reset(6)).ends_with(
            "{\"subflow\":2,\"end\":\"reset\",\"reason\":\"middlebox_interference\"}}\n"
        ));
        assert!(closed(SubflowEnd::PeerReset(None)).ends_with("\"end\":\"peer_reset\"}}\n"));
        assert!(
            closed(SubflowEnd::Failed(ConnectionError::TimedOut))
                .ends_with("\"end\":\"failed\",\"error\":\"timed_out\"}}\n")
        );
        let waits = Event::Scheduled { subflow: None, why: Why::FasterSoon, repeated: 7 };
        assert!(line(waits).contains("{\"subflow\":null,\"why\":\"faster_soon\",\"repeated\":7}"));
        let state = CongestionState::Recovery;
        let loss = Event::Congestion { subflow: 0, state, cwnd: 5, ssthresh: u32::MAX };
        assert!(line(loss).contains("\"state\":\"recovery\",\"cwnd\":5,\"ssthresh\":null"));
        let started = Event::Started {
            client: true,
            local: "10.0.0.1:5".parse().expect("an address"),
            remote: "[fd00::1]:80".parse().expect("an address"),
            version: Some(1),
        };
        assert!(line(started).contains("\"local\":\"10.0.0.1:5\",\"remote\":\"[fd00::1]:80\""));
    }

    #[test]
    fn a_title_cannot_break_out() {
        let mut text = String::new();
        write_header(&mut text, "a\"b\\c\nd").expect("a String takes everything");
        assert!(text.contains("\"title\":\"abcd\"") && text.ends_with("}}}\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
