//! Connections to programs of this computer that speak NBD.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// A connection by a Unix socket whose other end's reading wakes nobody here, unless it was waited for.
///
/// That of tokio is told each time when what it sent was read. Where a volume is read in small pieces, one after the other, each
/// then costs a thread that is woken for nothing, just when the other end has what it waited for.
#[derive(Debug)]
pub struct LocalStream {
    socket: AsyncFd<UnixStream>,
    /// The same socket again, as long as the other end has no room for what is to be written.
    full: Option<AsyncFd<UnixStream>>,
}

impl LocalStream {
    /// To be called where tokio runs.
    ///
    /// # Errors
    /// If there are too many descriptors.
    pub fn of(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: watched(socket, Interest::READABLE)?,
            full: None,
        })
    }
}

/// A socket of which the kernel tells this much.
#[expect(
    deprecated,
    reason = "unsound for what doesn't own its descriptor, as a socket does; what takes its place is unsafe"
)]
fn watched(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsyncRead for LocalStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            let Ok(read) = ready.try_io(|socket| socket.get_ref().read(room)) else {
                continue;
            };
            let read = read?;
            // All that was there, so that nobody needs to ask once more. Nothing at all is the end, and stays.
            if read > 0 && read < room.len() {
                ready.clear_ready();
            }
            buffer.advance(read);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(full) = &self.full {
                let mut ready = ready!(full.poll_write_ready(context))?;
                let Ok(written) = ready.try_io(|socket| socket.get_ref().write(bytes)) else {
                    continue;
                };
                self.full = None;
                return Poll::Ready(written);
            }
            match self.socket.get_ref().write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let again = self.socket.get_ref().try_clone()?;
                    self.full = Some(watched(again, Interest::WRITABLE)?);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.get_ref().shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use std::{fs, os::fd::AsRawFd as _, thread};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// `EPOLLOUT`: that there is room for more.
    const ROOM: u32 = 0x4;

    /// What the kernel tells of this socket, as the kernel lists it.
    fn told_of(socket: &AsyncFd<UnixStream>) -> u32 {
        let number = socket.as_raw_fd();
        let mut told = None;
        for listed in fs::read_dir("/proc/self/fdinfo").unwrap() {
            // Of another test's it may be gone.
            let text = fs::read_to_string(listed.unwrap().path()).unwrap_or_default();
            for line in text.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                if let ["tfd:", of, "events:", events, ..] = *words
                    && of.parse() == Ok(number)
                {
                    told = Some(u32::from_str_radix(events, 16).unwrap());
                }
            }
        }
        told.unwrap()
    }

    #[tokio::test]
    async fn nobody_is_told_of_room_that_nobody_waits_for() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut near, mut far) = (
            LocalStream::of(near).unwrap(),
            LocalStream::of(far).unwrap(),
        );
        let mut said = [0; 5];
        near.write_all(b"hello").await.unwrap();
        far.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
        assert_eq!(told_of(&near.socket) & ROOM, 0);
        assert!(near.full.is_none());

        // Until there is none left.
        let filling = async { while near.write(&[7; 4096]).await.is_ok() {} };
        tokio::select! {
            biased;
            () = filling => {}
            () = std::future::ready(()) => {}
        }
        assert_ne!(told_of(near.full.as_ref().unwrap()) & ROOM, 0);
    }

    #[tokio::test]
    async fn what_has_no_room_comes_whole_and_both_ways_at_once() {
        const BYTES: usize = 8 << 20;
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut near = LocalStream::of(near).unwrap();
        let text: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
        // Sends back what it has read, in pieces that don't fit those that were written.
        let other = thread::spawn(move || {
            let mut piece = vec![0; 30_011];
            loop {
                match far.read(&mut piece).unwrap() {
                    0 => return,
                    read => far.write_all(&piece[..read]).unwrap(),
                }
            }
        });
        let (mut from, mut to) = tokio::io::split(&mut near);
        let writing = async {
            to.write_all(&text).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let (_, read) = tokio::join!(writing, from.read_to_end(&mut back));
        assert_eq!(read.unwrap(), BYTES);
        assert!(back == text);
        other.join().unwrap();
    }

    #[tokio::test]
    async fn who_waits_for_room_hears_that_the_other_end_is_gone() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut near = LocalStream::of(near).unwrap();
        let mut far = Some(far);
        let writing = async {
            loop {
                if let Err(error) = near.write(&[0; 4096]).await {
                    return error.kind();
                }
            }
        };
        let mut writing = std::pin::pin!(writing);
        let ended = std::future::poll_fn(|context| {
            let polled = writing.as_mut().poll(context);
            // Only once nothing more has room.
            if polled.is_pending() {
                far = None;
            }
            polled
        });
        assert_eq!(ended.await, io::ErrorKind::BrokenPipe);
        assert_eq!(near.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}
