//! `PUT /cimi/MachineImage/<id>/data`: content on its way in, no faster than it is taken.

use std::{io, time::Duration};

use cloud::Upload;
use futures::stream;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

/// A request's body as an upload that fails when the client sends nothing for `patience`.
/// The body is read only as the upload is: TCP and HTTP/2 windows slow the client down.
pub(crate) fn upload(body: Incoming, patience: Duration) -> Upload {
    let length = body.size_hint().exact();
    let content = stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        loop {
            match timeout(patience, body.frame()).await {
                Err(_) => {
                    let text = format!("nothing was received for {} s", patience.as_secs());
                    return Some((Err(io::Error::new(io::ErrorKind::TimedOut, text)), None));
                }
                Ok(None) => return None,
                Ok(Some(Err(error))) => {
                    // Its words are about libraries, and their pages.
                    tracing::debug!(%error, "an upload broke off");
                    let text = "the connection ended before all was sent";
                    let error = io::Error::new(io::ErrorKind::ConnectionAborted, text);
                    return Some((Err(error), None));
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Some((Ok(data), Some(body)));
                    }
                }
            }
        }
    });
    Upload {
        length,
        content: Box::pin(content),
    }
}
