//! MPTCP SOCKS5 gateway.
