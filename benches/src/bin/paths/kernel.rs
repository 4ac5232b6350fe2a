//! The peer: the kernel's MPTCP as the sender.

use crate::bed::{Bed, KERNEL};
use crate::receiver::PORT;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Serves one client after the other until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Socket,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `congestion` is the kernel's name of it: `cubic`, `bbr`.
    pub(crate) fn start(bed: &Bed, congestion: &'static str) -> Result<Self, String> {
        let open = move || -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))?;
            socket.set_reuse_address(true)?;
            socket.set_tcp_congestion(congestion.as_bytes())?;
            socket.bind(&SocketAddr::from((KERNEL, PORT)).into())?;
            socket.listen(16)?;
            Ok(socket)
        };
        let explain = |error| format!("the kernel's sender ({congestion}): {error}");
        let listener = bed.server.enter(open)?.map_err(explain)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (accepting, stop) = (listener.try_clone().map_err(explain)?, Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // A client that has seen enough resets the connection, or its reset is lost: then
                // the thread ends with the namespace.
                std::thread::spawn(move || serve(&client));
            }
        });
        Ok(Self { listener, stopping, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes `accept`.
        let _ = self.listener.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut client: &Socket) -> io::Result<()> {
    let mut length = [0; 8];
    client.read_exact(&mut length)?;
    let mut left = u64::from_be_bytes(length);
    let octets = vec![0x5a; 64 << 10];
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(octets.len());
        left -= client.write(&octets[..len])? as u64;
    }
    client.shutdown(std::net::Shutdown::Write)
}
