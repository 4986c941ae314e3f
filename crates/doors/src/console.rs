//! `GET /cimi/Machine/<id>/console`: the serial console as it is and, on request, as it goes on.

use bytes::Bytes;
use cloud::{ByteStream, Console, ConsoleRange};
use futures::StreamExt;
use http::{HeaderName, HeaderValue, Response, header};

use crate::{body::ResponseBody, problem::Problem};

/// The range that a query asks for.
///
/// # Errors
/// 400 if a number is none.
pub(crate) fn range<'q>(
    parameters: impl IntoIterator<Item = (&'q str, &'q str)>,
) -> Result<ConsoleRange, Problem> {
    let mut range = ConsoleRange::default();
    for (name, value) in parameters {
        let number = || {
            value.parse::<u64>().map(Some).map_err(|_| {
                let shown: String = value.chars().take(50).collect();
                Problem::new(
                    400,
                    format!("`{name}` must be a whole number, but is `{shown}`"),
                )
            })
        };
        match name {
            "offset" => range.offset = number()?,
            "last" => range.last = number()?,
            "follow" => range.follow = !matches!(value, "false" | "0" | "no"),
            _ => {}
        }
    }
    Ok(range)
}

/// The answer; it ends when the console does, or with `end`.
pub(crate) fn answer(
    console: Console,
    end: impl Future<Output = ()> + Send + 'static,
) -> Response<ResponseBody> {
    let content: ByteStream = Box::pin(console.content.take_until(end));
    let mut response = Response::new(ResponseBody::Streaming(content));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    // Guests write what they want: no browser may take it for something else.
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would otherwise hold it back until a buffer is full.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    headers.insert(
        HeaderName::from_static("x-console-start"),
        HeaderValue::from(console.start),
    );
    response
}

/// Nothing, for HEAD.
pub(crate) fn nothing() -> ResponseBody {
    ResponseBody::Whole(Bytes::new())
}
