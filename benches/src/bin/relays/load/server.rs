//! Sends, discards or echoes, as the client's first octet asks.

use super::{CHUNK, DISCARD, ECHO, PACED, PATIENCE, SEND, TICK};
use crate::bed::Bed;
use core::net::{Ipv4Addr, SocketAddr};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// Where it listens, on every address.
pub(crate) const PORT: u16 = 9000;
/// Connections served at a time.
const THREADS: usize = 160;

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Arc<Socket>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    received: AtomicU64,
    /// Connections that are served now.
    active: AtomicUsize,
    is_over: AtomicBool,
}

impl Server {
    pub(crate) fn start(bed: &Bed) -> Result<Self, String> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
            socket.listen(1024)?;
            Ok(socket)
        };
        let listener = bed.server.enter(open)?.map_err(|error| format!("the server: {error}"))?;
        let (listener, shared) = (Arc::new(listener), Arc::new(Shared::default()));
        let thread = |_| {
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            std::thread::spawn(move || {
                let mut buffer = vec![0x5a; CHUNK];
                while let Ok((client, _)) = listener.accept() {
                    if shared.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    shared.active.fetch_add(1, Ordering::Relaxed);
                    // A client that has seen enough closes or resets.
                    let _ = serve(&client, &mut buffer, &shared);
                    drop(client);
                    shared.active.fetch_sub(1, Ordering::Relaxed);
                }
            })
        };
        Ok(Self { threads: (0..THREADS).map(thread).collect(), listener, shared })
    }

    /// Whether nobody is served: a relay may hold much of what a client sent before its end.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.active.load(Ordering::Relaxed) == 0
    }

    /// Octets that clients had discarded so far.
    pub(crate) fn received(&self) -> &AtomicU64 {
        &self.shared.received
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes every `accept`.
        let _ = self.listener.shutdown(std::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(mut client: &Socket, buffer: &mut [u8], shared: &Shared) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    client.set_tcp_nodelay(true)?;
    let mut wish = [0];
    client.read_exact(&mut wish)?;
    while !shared.is_over.load(Ordering::Relaxed) {
        match wish[0] {
            SEND => {
                buffer.fill(0x5a);
                while !shared.is_over.load(Ordering::Relaxed) {
                    client.write_all(buffer)?;
                }
            }
            PACED => {
                let mut octets = [0; 4];
                client.read_exact(&mut octets)?;
                let octets = usize::try_from(u32::from_be_bytes(octets)).unwrap_or(CHUNK);
                let mut due = Instant::now();
                while !shared.is_over.load(Ordering::Relaxed) {
                    client.write_all(&buffer[..octets.min(CHUNK)])?;
                    // What could not go in time is not offered again.
                    due = (due + TICK).max(Instant::now());
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            }
            wish @ (DISCARD | ECHO) => {
                let read = client.read(buffer)?;
                if read == 0 {
                    break;
                }
                if wish == ECHO {
                    client.write_all(&buffer[..read])?;
                } else {
                    shared.received.fetch_add(read as u64, Ordering::Relaxed);
                }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}
