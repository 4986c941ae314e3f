//! What every answer gets before it goes, and what is told of it.

use std::time::Duration;

use ::cimi::uri::SPECIFICATION_VERSION;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::{Body, Incoming};

use super::Exchange;
use crate::{
    audit,
    body::{self, ResponseBody},
    console,
};

static VERSION_HEADER: HeaderName = HeaderName::from_static("cimi-specification-version");
pub(super) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether nothing of the request is left on its way, so that the connection can go on after the answer. What is left
/// is taken, if it isn't too much: a client that is still sending doesn't read.
pub(super) async fn is_received(
    head: &http::request::Parts,
    body: Option<&mut Incoming>,
    status: StatusCode,
) -> bool {
    let Some(body) = body else {
        // An upload: it was read to its end, or the connection is of no use any more.
        return status.is_success();
    };
    // Who waits to be told to send needs not be told: the answer is there.
    let waits = head.headers.contains_key(header::EXPECT) && !body.is_end_stream();
    !waits && body::spill(body).await
}

/// Headers of every answer, and no body for HEAD.
pub(super) fn complete(response: &mut Response<ResponseBody>, method: &Method, request_id: &str) {
    let headers = response.headers_mut();
    headers.insert(
        &VERSION_HEADER,
        HeaderValue::from_static(SPECIFICATION_VERSION),
    );
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(&REQUEST_ID, value);
    }
    if method == Method::HEAD {
        let length = match response.body() {
            ResponseBody::Whole(bytes) => Some(bytes.len()),
            ResponseBody::Streaming(_) => None,
        };
        if let Some(length) = length {
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        *response.body_mut() = console::nothing();
    }
}

/// A line in the log: changes always, reads when somebody looks closely. Paths only: queries,
/// headers and bodies may hold secrets.
pub(super) fn tell(exchange: &Exchange<'_>, status: StatusCode, took: Duration) {
    let head = exchange.head;
    let method = &head.method;
    // Only asked for where the line is written: what isn't logged costs nothing.
    let path = || audit::shown_path(head.uri.path());
    let (request_id, status) = (&**exchange.request_id, status.as_u16());
    let peer = exchange.connection.peer.ip();
    if status >= 500 {
        tracing::warn!(target: "access", request_id, %method, path = path(), status, ?took, %peer);
    } else if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        tracing::debug!(target: "access", request_id, %method, path = path(), status, ?took, %peer);
    } else {
        tracing::info!(target: "access", request_id, %method, path = path(), status, ?took, %peer);
    }
}
