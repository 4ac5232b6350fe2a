//! A turn with a pool of its own, which ends as full as it began.

use crate::support::turn::Turn;
use dpdk_io::dpdk::eal::{self, Eal};
use dpdk_io::dpdk::mbuf::Mbuf;
use dpdk_io::dpdk::pool::MbufPool;
use mptcp_core::buf::{BufPool, PacketBuf};

/// The EAL, this test's turn, and a pool of its own.
pub(crate) struct Bench {
    pub(crate) eal: &'static Eal,
    pub(crate) pool: MbufPool,
    turn: Turn,
}

impl Bench {
    pub(crate) fn new(buffers: u32) -> Self {
        let turn = Turn::take();
        Self { eal: turn.eal, pool: turn.pool(buffers), turn }
    }

    pub(crate) fn buffer(&self, bytes: &[u8]) -> Mbuf {
        let mut buf = { self.pool }.alloc().unwrap();
        buf.append(bytes.len()).unwrap().copy_from_slice(bytes);
        buf
    }

    pub(crate) fn vdev(&self, driver: &str, args: &str) -> String {
        let name = format!("{driver}{}", self.turn.number);
        eal::create_vdev(self.eal, &name, args).unwrap();
        name
    }

    pub(crate) fn assert_empty(&self) {
        assert_eq!((self.pool.in_use(), self.pool.clones_in_use()), (0, 0));
    }
}
