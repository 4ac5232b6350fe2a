//! The data level of Multipath TCP (RFC 8684).

pub mod key;
pub mod mapping;

/// Why a connection runs as plain TCP although MPTCP was wanted (`protocol.md` 1.H numbering is
/// kept in `docs/conformance.md`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum FallbackReason {
    /// The SYN/ACK (or the SYN) carried no usable `MP_CAPABLE`.
    NoCapable,
}
