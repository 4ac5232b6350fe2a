//! One TCP connection, subflow or plain (RFC 9293).

pub mod congestion;
pub mod isn;
pub mod rtt;

/// Connection states of RFC 9293 §3.3.2. LISTEN and SYN-RECEIVED of passive opens live outside the
/// control block, as listeners and request entries; TIME-WAIT as a 64-byte entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Our SYN is out.
    SynSent,
    /// Both SYNs are out, ours is not acknowledged.
    SynReceived,
    /// Data flows.
    Established,
    /// Our FIN is out.
    FinWait1,
    /// Our FIN is acknowledged.
    FinWait2,
    /// The peer's FIN is in; ours is not out.
    CloseWait,
    /// Both FINs are out, ours is not acknowledged.
    Closing,
    /// The peer's FIN came first and ours is out.
    LastAck,
    /// Both FINs are acknowledged; waiting for stray segments to die.
    TimeWait,
    /// Gone.
    Closed,
}
