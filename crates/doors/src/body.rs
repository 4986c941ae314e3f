//! Bodies of answers and of requests.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use cloud::ByteStream;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::problem::Problem;

/// The body of an answer: bytes at hand, or bytes as they come.
pub enum ResponseBody {
    /// All of it; empty when there is nothing to say.
    Whole(Bytes),
    /// Bytes as they come.
    Streaming(ByteStream),
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streaming(stream) => stream
                .as_mut()
                .poll_next(context)
                .map(|next| next.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streaming(_) => SizeHint::default(),
        }
    }
}

/// Reads a request's body into memory. The request's time-out bounds how long that takes.
///
/// # Errors
/// 413 if it is longer than `most` bytes, 400 if the client stops in the middle.
pub(crate) async fn read(mut body: Incoming, most: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            413,
            format!("the body is too large; at most {most} bytes are read"),
        )
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut whole: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(400, "the body ended before its end"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let so_far = whole.as_ref().map_or(first.len(), BytesMut::len);
        if so_far + data.len() > most {
            return Err(too_large());
        }
        match &mut whole {
            Some(whole) => whole.extend_from_slice(&data),
            // Most bodies come in one piece and need no copy.
            None if first.is_empty() => first = data,
            None => {
                let mut both = BytesMut::with_capacity(first.len() + data.len());
                both.extend_from_slice(&first);
                both.extend_from_slice(&data);
                whole = Some(both);
            }
        }
    }
    Ok(whole.map_or(first, BytesMut::freeze))
}
