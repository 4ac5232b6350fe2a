//! One shard of several: what the others' steering asks this stack.

use super::Stack;
use crate::buf::PacketBuf;
use crate::tcp::Tuple;

impl<B: PacketBuf> Stack<B> {
    /// A connection, a pending request or a TIME-WAIT entry has this 4-tuple.
    #[must_use]
    pub fn has_flow(&self, tuple: &Tuple) -> bool {
        self.demux.find(tuple).is_some()
    }
}
