//! The congestion control of one connection, where it is not the stack's.

use super::{Sock, SocketId, Stack};
use crate::buf::PacketBuf;
use crate::tcp::congestion::CongestionChoice;
use crate::time::Instant;

impl<B: PacketBuf> Stack<B> {
    /// Chooses the congestion control of one connection instead of `tcp.congestion`: a
    /// [`crate::config::CongestionAlgorithm`], or one of the application's. An MPTCP connection has it
    /// on all subflows, later ones included; a listener gives it to what it accepts from now on. One
    /// that takes over in the middle goes on with the window it finds. False for other sockets.
    ///
    /// ```
    /// # use mptcp_core::buf::{HeapBuf, HeapPool};
    /// # use mptcp_core::config::{CongestionAlgorithm, StackConfig};
    /// # use mptcp_core::stack::{Listen, Stack};
    /// # use mptcp_core::time::Instant;
    /// # let memory = Box::new(HeapPool::new(10, 1_700));
    /// # let now = Instant::from_millis(1);
    /// # let mut stack: Stack<HeapBuf> = Stack::new(StackConfig::default(), now, memory);
    /// let listener = stack.listen("0.0.0.0:80".parse()?, &Listen::default())?;
    /// assert!(stack.set_congestion(now, listener, CongestionAlgorithm::Cubic));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn set_congestion(
        &mut self,
        now: Instant,
        id: SocketId,
        choice: impl Into<CongestionChoice>,
    ) -> bool {
        let choice = choice.into();
        match self.resolve(id) {
            Some(Sock::Listener(idx)) => {
                if let Some(listener) = self.listeners.get_mut(idx) {
                    listener.congestion = Some(choice);
                }
                return true;
            }
            Some(Sock::Mptcp(owner)) => {
                if let Some(connection) = self.connections.get_mut(owner) {
                    connection.set_congestion(choice.clone());
                }
                self.touch_connection(owner);
            }
            Some(Sock::Plain(_)) => {}
            _ => return false,
        }
        for idx in self.blocks_of(id) {
            if let Some(tcb) = self.tcbs.get_mut(idx) {
                tcb.set_congestion(now, &choice);
            }
            self.touch_tcb(idx);
        }
        true
    }
}
