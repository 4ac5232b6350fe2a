//! TCP and MPTCP options: round trips of every type, every length, the 40-byte limit, broken lists,
//! known bytes, and smoltcp as a second opinion.

mod mptcp;
mod strategies;
mod tcp;
