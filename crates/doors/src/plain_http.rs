//! HTTP without TLS on a port that speaks TLS, as from somebody who typed `http://` for `https://`: they are told the address that
//! works. Nothing else is answered; what they sent has gone over the network for everybody to read.

use std::{convert::Infallible, io};

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::{
    body::ResponseBody,
    origin::Connection,
    server::{Limits, linger},
    stall::Stalling,
};

/// Whether the client speaks HTTP: its first byte, which stays unread, begins a method. A TLS handshake begins with 22.
pub(crate) async fn is_spoken(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let length = stream.peek(&mut first).await?;
    Ok(length == 1 && first[0].is_ascii_uppercase())
}

/// Answers one request and ends the connection.
pub(crate) async fn answer(stream: TcpStream, connection: Connection, limits: &Limits) {
    let connection = Connection {
        // Nobody is believed who passes passwords on in the clear.
        trusted: false,
        ..connection
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = with_the_address(&connection, &request);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.max(64 * 1024))
        .keep_alive(false);
    let stream = TokioIo::new(Stalling::new(stream, limits.write_stall));
    let mut served = builder.serve_connection(stream, service);
    // Whether it was HTTP after all makes no difference: this was the end.
    let _ = std::future::poll_fn(|context| served.poll_without_shutdown(context)).await;
    linger(served.into_parts().io.into_inner()).await;
}

fn with_the_address(
    connection: &Connection,
    request: &Request<Incoming>,
) -> Response<ResponseBody> {
    let base = connection.base_uri(request.uri(), request.headers());
    let origin = base.trim_end_matches("/cimi/");
    let path = request.uri().path();
    let path = if path.starts_with('/') { path } else { "/" };
    let text = format!("this port speaks https, not plain http: use {origin}{path}\n");
    let mut response = Response::new(ResponseBody::Whole(text.into()));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONNECTION, "close"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
