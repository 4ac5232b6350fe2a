//! TUN driver for mptcp-core.
