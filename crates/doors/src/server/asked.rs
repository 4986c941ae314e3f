//! The requests of one connection, and whether its client takes what it is answered.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

use crate::body::ResponseBody;

/// The requests of one connection, and how what is sent to its client gets on.
#[derive(Default)]
pub(super) struct Asked {
    ever: AtomicUsize,
    /// Those whose answers haven't been sent whole.
    open: AtomicUsize,
    /// Answers of which the client has yet to take something before more can be sent, and since when.
    unread: Mutex<BTreeMap<usize, Instant>>,
    /// How often something was written.
    writes: AtomicUsize,
}

/// How much of an answer is sent at once by HTTP/2: who takes so much of it takes something.
pub(super) const PIECE_BYTES: usize = 16 * 1024;

/// One request, to the end of its answer; over when dropped.
pub(super) struct Asking {
    of: Arc<Asked>,
    number: usize,
}

impl Asked {
    pub(super) fn one_more(self: &Arc<Self>) -> Asking {
        self.open.fetch_add(1, Ordering::Relaxed);
        Asking {
            of: Arc::clone(self),
            number: self.ever.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Waits until there was no request for this time, or twice as long.
    pub(super) async fn is_idle_for(&self, time: Duration) {
        loop {
            let before = self.ever.load(Ordering::Relaxed);
            sleep(time).await;
            let is_new = self.ever.load(Ordering::Relaxed) != before;
            if !is_new && self.open.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }

    /// Waits until nothing was written for this time, or twice as long.
    async fn is_silent_for(&self, time: Duration) {
        loop {
            let before = self.writes.load(Ordering::Relaxed);
            sleep(time).await;
            if self.writes.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Waits until the client has taken nothing for this time, or twice as long, of an answer that waits for that: whatever else it
    /// says and is told meanwhile.
    pub(super) async fn takes_nothing_for(&self, time: Duration) {
        loop {
            let first = self.unread.lock().values().min().copied();
            let waited = first.map_or(Duration::ZERO, |since| since.elapsed());
            let Some(left) = time.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return;
            };
            sleep(left).await;
        }
    }

    /// Waits until nothing was written for this time, or twice as long, while no request is being worked on.
    pub(super) async fn says_nothing_for(&self, time: Duration) {
        loop {
            self.is_silent_for(time).await;
            if self.open.load(Ordering::Relaxed) == 0 {
                return;
            }
        }
    }
}

impl Asking {
    /// A piece was asked for, and is the client's to take; or there is none yet.
    fn unread(&self, is_unread: bool) {
        let mut unread = self.of.unread.lock();
        if is_unread {
            unread.insert(self.number, Instant::now());
        } else {
            unread.remove(&self.number);
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.unread(false);
        self.of.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, with the request that it is the answer of.
pub(super) struct Answering {
    body: ResponseBody,
    /// What has come of it, and isn't sent.
    rest: Bytes,
    /// How much is sent at once.
    piece: usize,
    asking: Asking,
}

impl Body for Answering {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = self.next_piece(context);
        // It is asked for the next piece when there is room for it: until then it is the client who is waited for.
        self.asking.unread(matches!(frame, Poll::Ready(Some(_))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

impl Answering {
    /// Sent in pieces of up to so many bytes.
    pub(super) const fn new(body: ResponseBody, piece: usize, asking: Asking) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            piece,
            asking,
        }
    }

    fn next_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(self.piece);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// A stream whose writes are counted.
pub(super) struct Counted<S> {
    inner: S,
    asked: Arc<Asked>,
}

impl<S> Counted<S> {
    /// Of this connection.
    pub(super) fn new(inner: S, asked: Arc<Asked>) -> Self {
        Self { inner, asked }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.asked.writes.fetch_add(1, Ordering::Relaxed);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, data);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
