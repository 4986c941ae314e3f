//! Leads what comes over TLS to a program of this computer, and back: how volumes of another computer reach a guest.
//!
//! ```text
//!  QEMU ──▶ relay ──TLS──▶ relay ──▶ qemu-storage-daemon
//! ```
//!
//! A guest that reads in small pieces, one after the other, waits for each hop of each piece. So each way is a thread that blocks in
//! the kernel until there is something, and sends it on with one call: in place of tasks, which wait for readiness first, read
//! TLS in pieces of 4 KiB and share their threads with everything else. It costs two threads a connection, and room for what they
//! have read at once: some pages where small pieces are said, half a MiB once large ones have gone both ways.

#![forbid(unsafe_code)]

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use parking_lot::Mutex;
use rustls::Connection;
use tokio::sync::oneshot;
use tokio_rustls::TlsStream;

/// A connection to another computer.
pub type Remote = TlsStream<tokio::net::TcpStream>;

/// What is read before it is sent on, each way.
const PIECE_BYTES: usize = 128 * 1024;
/// Of a thread: it is in the kernel or in the cipher, a few calls deep.
const STACK_BYTES: usize = 256 * 1024;

/// How many bytes were led each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// To the other computer.
    pub sent: u64,
    /// From it.
    pub received: u64,
}

/// Leads what comes over `remote` to `local` and back, until both have ended: the end of one way is passed on, and the other goes on.
/// When this is dropped both connections are ended at once.
///
/// What may keep a way waiting for ever is up to its sockets: their time-outs and user time-outs hold.
///
/// # Errors
/// What broke either connection; one that ends without TLS saying so is broken. Too few threads.
pub async fn relay(remote: Remote, local: tokio::net::UnixStream) -> io::Result<Relayed> {
    let (tcp, tls) = match remote {
        TlsStream::Client(stream) => {
            let (tcp, tls) = stream.into_inner();
            (tcp, Connection::Client(tls))
        }
        TlsStream::Server(stream) => {
            let (tcp, tls) = stream.into_inner();
            (tcp, Connection::Server(tls))
        }
    };
    let ends = Arc::new(Ends {
        tls: Mutex::new(tls),
        tcp: tcp.into_std()?,
        local: local.into_std()?,
    });
    ends.tcp.set_nonblocking(false)?;
    ends.local.set_nonblocking(false)?;
    let ended = EndOnDrop(Arc::clone(&ends));
    let sending = way(&ends, "relay-out", Ends::send)?;
    let receiving = way(&ends, "relay-in", Ends::receive)?;
    let (sent, received) = tokio::try_join!(sending, receiving)?;
    drop(ended);
    Ok(Relayed { sent, received })
}

/// Has a thread lead one way.
fn way(
    ends: &Arc<Ends>,
    name: &str,
    lead: fn(&Ends) -> io::Result<u64>,
) -> io::Result<impl Future<Output = io::Result<u64>> + use<>> {
    let (tell, told) = oneshot::channel();
    let ends = Arc::clone(ends);
    let work = move || {
        let _ = tell.send(lead(&ends));
    };
    let thread = thread::Builder::new().name(name.to_owned());
    let begun = thread.stack_size(STACK_BYTES).spawn(work);
    begun.map_err(|error| io::Error::other(format!("no more threads can be had: {error}")))?;
    Ok(async {
        told.await
            .map_err(|_| io::Error::other("its thread ended"))?
    })
}

/// Both connections.
struct Ends {
    /// Never locked while a socket is waited for: else neither way would go on when both are full.
    tls: Mutex<Connection>,
    tcp: TcpStream,
    local: UnixStream,
}

struct EndOnDrop(Arc<Ends>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        // Threads that wait in the kernel come back. These fail for sockets that have ended already.
        let _ = self.0.tcp.shutdown(Shutdown::Both);
        let _ = self.0.local.shutdown(Shutdown::Both);
    }
}

impl Ends {
    /// What `local` says, to the other computer. The only one that writes there.
    fn send(&self) -> io::Result<u64> {
        let mut plain = vec![0; PIECE_BYTES];
        let mut sealed = Vec::new();
        let mut sent = 0;
        // As much as is read at once.
        self.tls.lock().set_buffer_limit(None);
        loop {
            let read = once(|| (&self.local).read(&mut plain))?;
            {
                let mut tls = self.tls.lock();
                match read {
                    0 => tls.send_close_notify(),
                    _ => tls.writer().write_all(&plain[..read])?,
                }
                sealed.clear();
                while tls.wants_write() {
                    tls.write_tls(&mut sealed)?;
                }
            }
            (&self.tcp).write_all(&sealed).map_err(in_words)?;
            if read == 0 {
                self.tcp.shutdown(Shutdown::Write)?;
                return Ok(sent);
            }
            sent += read as u64;
        }
    }

    /// What the other computer says, to `local`.
    fn receive(&self) -> io::Result<u64> {
        let mut sealed = vec![0; PIECE_BYTES];
        let mut plain = Vec::new();
        let mut received = 0;
        // Some may have come with what was said before.
        let mut read = 0;
        loop {
            plain.clear();
            let is_over = self.open(&sealed[..read], &mut plain)?;
            (&self.local).write_all(&plain)?;
            received += plain.len() as u64;
            if is_over {
                self.local.shutdown(Shutdown::Write)?;
                return Ok(received);
            }
            read = once(|| (&self.tcp).read(&mut sealed))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Deciphers what has come, and what had come before. Whether the other end has said that it says no more.
    fn open(&self, mut sealed: &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
        let mut tls = self.tls.lock();
        loop {
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let begun = plain.len();
            plain.resize(begun + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut plain[begun..])?;
            if state.peer_has_closed() {
                return Ok(true);
            }
            if sealed.is_empty() {
                return Ok(false);
            }
            tls.read_tls(&mut sealed)?;
        }
    }
}

/// What the time-out of a socket says, in words.
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, "the other computer takes nothing")
        }
        _ => error,
    }
}

/// A call that is made again when a signal came between.
fn once(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
