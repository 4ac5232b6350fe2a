//! Why a connection runs as plain TCP although MPTCP was wanted (RFC 8684 §3.7). Every reason has
//! a name for logs and metrics and a counter ([`crate::stats::Counters::fell_back`]); once a
//! connection fell back it never returns.

macro_rules! fallback_reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// Reason code of a fallback.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        #[non_exhaustive]
        pub enum FallbackReason { $($(#[doc = $doc])* $name,)* }

        impl FallbackReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Name in logs, metrics and `/connections`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

fallback_reasons! {
    /// Server: the SYN carried no `MP_CAPABLE`, because the peer does not speak it or a middlebox
    /// took it away.
    SynWithoutCapable = "syn_without_capable",
    /// The SYN/ACK carried no usable `MP_CAPABLE`: the peer, or a middlebox, does not speak it.
    SynAckWithoutCapable = "syn_ack_without_capable",
    /// `MP_CAPABLE` SYNs went unanswered and a plain SYN was answered.
    CapableSynUnanswered = "capable_syn_unanswered",
    /// Nothing was offered: SYNs with `MP_CAPABLE` from this address to this destination went
    /// unanswered, or were reset, not long ago.
    KnownPlain = "known_plain",
    /// An `MP_CAPABLE` SYN was answered with a RST and a plain SYN was not.
    CapableSynReset = "capable_syn_reset",
    /// The SYN's `MP_CAPABLE` was of a version we do not serve, or of a form its version has not.
    CapableVersion = "capable_version",
    /// The SYN's `MP_CAPABLE` offered no HMAC algorithm that we have.
    CapableAlgorithm = "capable_algorithm",
    /// The SYN's `MP_CAPABLE` asked for an extension nobody knows (B bit).
    CapableExtensibility = "capable_extensibility",
    /// The peer asked for DSS checksums, which the configuration refuses.
    ChecksumRefused = "checksum_refused",
    /// `MP_CAPABLE` and `MP_JOIN` in one SYN, or one of them twice.
    ContradictoryOptions = "contradictory_options",
    /// The SYN came again without its `MP_CAPABLE`.
    SynRepeatedWithoutCapable = "syn_repeated_without_capable",
    /// Both ends opened at once: neither SYN was answered, so neither key was.
    SimultaneousOpen = "simultaneous_open",
    /// No key with a free token was found.
    NoToken = "no_token",
    /// The request table was full, and what answered the SYN cookie did not bring the keys back, were they offered
    /// or not.
    SynCookie = "syn_cookie",
    /// The third ACK and the data with it carried no `MP_CAPABLE`.
    AckWithoutCapable = "ack_without_capable",
    /// The first data on the first subflow carried no mapping.
    FirstDataUnmapped = "first_data_unmapped",
    /// Our first data was acknowledged by TCP but never by a `DATA_ACK`.
    NoDataAck = "no_data_ack",
    /// Data without a mapping, or its end, came before any `DATA_ACK` showed that options pass.
    OptionsLost = "options_lost",
    /// The peer sent an infinite mapping.
    InfiniteMapping = "infinite_mapping",
    /// A DSS checksum was wrong on the only subflow.
    Checksum = "checksum",
    /// The peer reported a wrong DSS checksum on the only subflow.
    PeerChecksum = "peer_checksum",
}

impl FallbackReason {
    /// MPTCP was offered by one end, at least; otherwise nothing was, and [`fallback`] does not count
    /// it.
    ///
    /// [`fallback`]: crate::stats::Counters::fallback
    #[must_use]
    pub const fn is_offered(self) -> bool {
        !matches!(self, Self::SynWithoutCapable | Self::KnownPlain)
    }
}
