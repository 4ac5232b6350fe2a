//! Peers that do whatever the RFCs allow, at random: one that sends, one that receives. Neither is ever reset, and
//! what is sent arrives, in both versions.

mod receiver;
mod sender;

use crate::harness::*;
use mptcp_core::seq::DataSeq;
use mptcp_core::wire::WireSeq;

fn wire(dsn: DataSeq, wide: bool) -> WireSeq {
    if wide { WireSeq::Full(dsn.0) } else { WireSeq::Low(dsn.0 as u32) }
}
