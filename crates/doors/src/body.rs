//! Bodies of answers and of requests.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use cloud::ByteStream;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

use crate::{budget::Share, problem::Problem};

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

/// Done, and nothing to say.
pub(crate) fn no_content() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Takes and forgets the rest of a body that nobody wants, so that the client comes to reading the answer and the
/// connection can go on. `false` if it is too much for that.
pub(crate) async fn spill(body: &mut Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if body.size_hint().lower() > SPILLED_AT_MOST as u64 {
        return false;
    }
    let all = async {
        let mut left = SPILLED_AT_MOST;
        while let Some(frame) = body.frame().await {
            let length = frame.ok()?.data_ref().map_or(0, Bytes::len);
            left = left.checked_sub(length)?;
        }
        Some(())
    };
    matches!(timeout(SPILLING, all).await, Ok(Some(())))
}

/// How much of an unwanted body is taken, and for how long.
const SPILLED_AT_MOST: usize = 4 << 20;
const SPILLING: Duration = Duration::from_secs(2);

/// Reads a request's body into memory, as far as `share` allows. The request's time-out bounds how long that takes.
///
/// # Errors
/// 413 if it is longer than `most` bytes, 400 if the client stops in the middle, those of the budget.
pub(crate) async fn read(
    body: &mut Incoming,
    most: usize,
    share: &mut Share<'_>,
) -> Result<Bytes, Problem> {
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
        share.take(data.len())?;
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
