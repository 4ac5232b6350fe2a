//! The application above the stack.

use super::{Out, Script, stream};
use mptcp_core::error::RecvError;
use mptcp_core::mptcp::FallbackReason;
use mptcp_core::stack::{ConnectionInfo, Ready, SocketId};

impl Script {
    pub(crate) fn info(&self, id: SocketId) -> ConnectionInfo {
        self.stack.info(id).expect("the socket exists")
    }

    pub(crate) fn fallback(&self, id: SocketId) -> Option<FallbackReason> {
        self.info(id).fallback
    }

    /// Writes octets `offset..` of the test stream and answers what is sent.
    pub(crate) fn write(&mut self, id: SocketId, offset: u64, len: usize) -> Vec<Out> {
        let data = stream(offset, len);
        let mut sent = 0;
        while sent < len {
            sent += self.stack.send(self.now, id, &data[sent..]).expect("room to write");
        }
        self.out()
    }

    /// Everything readable now; `Err` as the stack says.
    pub(crate) fn read(&mut self, id: SocketId) -> Result<Vec<u8>, RecvError> {
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match self.stack.recv(self.now, id, &mut chunk) {
                Ok(0) => return Ok(all),
                Ok(n) => all.extend_from_slice(&chunk[..n]),
                Err(RecvError::WouldBlock) if !all.is_empty() => return Ok(all),
                Err(error) => return if all.is_empty() { Err(error) } else { Ok(all) },
            }
        }
    }

    /// The reader gets exactly octets `offset..offset + len` of the test stream now.
    pub(crate) fn expect_stream(&mut self, id: SocketId, offset: u64, len: usize) {
        let read = self.read(id).expect("something to read");
        assert!(read == stream(offset, len), "{} octets, wanted {len}", read.len());
    }

    pub(crate) fn at_end(&mut self, id: SocketId) -> bool {
        self.stack.recv(self.now, id, &mut [0; 1]) == Ok(0)
    }

    pub(crate) fn would_block(&mut self, id: SocketId) -> bool {
        self.stack.recv(self.now, id, &mut [0; 1]) == Err(RecvError::WouldBlock)
    }

    /// Readiness reported for `id` so far.
    pub(crate) fn ready(&mut self, id: SocketId) -> Ready {
        let mut ready = Ready::empty();
        while let Some(event) = self.stack.poll_event() {
            if event.socket == id {
                ready |= event.ready;
            }
        }
        ready
    }

    /// To be closed at the end of the script.
    pub(crate) fn remember(&mut self, id: SocketId) {
        self.sockets.push(id);
    }

    /// Lets go of a socket that ended or was closed by the test itself.
    pub(crate) fn forget(&mut self, id: SocketId) {
        self.sockets.retain(|other| *other != id);
    }
}
