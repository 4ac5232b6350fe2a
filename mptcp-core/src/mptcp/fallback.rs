//! Why a connection runs as plain TCP although MPTCP was wanted (RFC 8684 §3.7). Every reason has
//! a name for logs and metrics; once a connection fell back it never returns.

/// Reason code of a fallback.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum FallbackReason {
    /// The SYN/ACK carried no usable `MP_CAPABLE`: the peer, or a middlebox, does not speak it.
    SynAckWithoutCapable,
    /// `MP_CAPABLE` SYNs went unanswered and a plain SYN was answered.
    CapableSynUnanswered,
    /// The SYN's `MP_CAPABLE` was of a version we do not serve, or of a form its version has not.
    CapableVersion,
    /// The SYN's `MP_CAPABLE` offered no HMAC algorithm that we have.
    CapableAlgorithm,
    /// The SYN's `MP_CAPABLE` asked for an extension nobody knows (B bit).
    CapableExtensibility,
    /// The peer asked for DSS checksums, which the configuration refuses.
    ChecksumRefused,
    /// `MP_CAPABLE` and `MP_JOIN` in one SYN, or one of them twice.
    ContradictoryOptions,
    /// The SYN came again without its `MP_CAPABLE`.
    SynRepeatedWithoutCapable,
    /// No key with a free token was found.
    NoToken,
    /// The request table was full: a SYN cookie has no room for MPTCP, offered or not.
    SynCookie,
    /// The third ACK and the data with it carried no `MP_CAPABLE`.
    AckWithoutCapable,
    /// The first data on the first subflow carried no mapping.
    FirstDataUnmapped,
    /// Our first data was acknowledged by TCP but never by a `DATA_ACK`.
    NoDataAck,
    /// Data without a mapping, or its end, came before any `DATA_ACK` showed that options pass.
    OptionsLost,
    /// The peer sent an infinite mapping.
    InfiniteMapping,
    /// A DSS checksum was wrong on the only subflow.
    Checksum,
    /// The peer reported a wrong DSS checksum on the only subflow.
    PeerChecksum,
}

impl FallbackReason {
    /// Name in logs, metrics and `/connections`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynAckWithoutCapable => "syn_ack_without_capable",
            Self::CapableSynUnanswered => "capable_syn_unanswered",
            Self::CapableVersion => "capable_version",
            Self::CapableAlgorithm => "capable_algorithm",
            Self::CapableExtensibility => "capable_extensibility",
            Self::ChecksumRefused => "checksum_refused",
            Self::ContradictoryOptions => "contradictory_options",
            Self::SynRepeatedWithoutCapable => "syn_repeated_without_capable",
            Self::NoToken => "no_token",
            Self::SynCookie => "syn_cookie",
            Self::AckWithoutCapable => "ack_without_capable",
            Self::FirstDataUnmapped => "first_data_unmapped",
            Self::NoDataAck => "no_data_ack",
            Self::OptionsLost => "options_lost",
            Self::InfiniteMapping => "infinite_mapping",
            Self::Checksum => "checksum",
            Self::PeerChecksum => "peer_checksum",
        }
    }
}
