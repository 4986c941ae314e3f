//! What the daemon that keeps the images answers entries of its cloud which don't: content to be sent and taken, and Marketplaces
//! asked anew. Who asks has all of the cloud's documents and has asked the rules.
//!
//! | method | path | does |
//! |---|---|---|
//! | GET | `/images/ID?format=F`, `Range` | sends the content |
//! | PUT | `/images/ID` | takes it |
//! | POST | `/images/ID/look-again` | has the Marketplaces asked; 204 if nothing is new |
//!
//! Either says what of the store it has seen ([`trust::REVISION_HEADER`]). Failures come as [`cloud::Relayed`], in JSON.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::SystemTime};

use cloud::{CloudError, Duplex, Relayed, Upload};
use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyDataStream, BodyExt as _, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use store::Revision;
use tokio::time::sleep;
use trust::{IMAGES_PATH, LOOK_AGAIN_PATH, REVISION_HEADER};

use super::{AnyBody, Ending, HostDoor, LAST_WORDS, connections, empty, images::in_turn};
use crate::{cimi::negotiation, download};

/// Requests of one entry at once: each is a user's.
const STREAMS: u32 = 1024;

/// What an answer holds, in the header [`CONTENT_HEADER`].
#[derive(Debug, Serialize, Deserialize)]
pub struct SentContent {
    /// As in [`cloud::Download`].
    pub format: String,
    /// The same.
    pub length: Option<u64>,
    /// The same.
    pub part: Option<(u64, u64)>,
    /// The same.
    pub identifier: Option<String>,
}

/// The header that says what content comes.
pub const CONTENT_HEADER: &str = "x-stratus-content";

impl HostDoor {
    /// One connection of an entry, until its certificate ends.
    pub(super) async fn serve_entry(
        self: &Arc<Self>,
        stream: impl Duplex + 'static,
        until: SystemTime,
        from: SocketAddr,
        ending: &Ending,
    ) {
        let service = service_fn(|request: Request<Incoming>| {
            let door = Arc::clone(self);
            async move { Ok::<_, Infallible>(door.for_entry(request).await) }
        });
        let served = connections(STREAMS).serve_connection(TokioIo::new(stream), service);
        let mut served = std::pin::pin!(served);
        let left = until.duration_since(SystemTime::now()).unwrap_or_default();
        tracing::debug!(%from, "an entry asks for content of images");
        tokio::select! {
            _ = served.as_mut() => return,
            () = sleep(left) => {}
            () = ending.closing.cancelled() => {}
        }
        served.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_WORDS, served).await;
    }

    async fn for_entry(&self, request: Request<Incoming>) -> Response<AnyBody> {
        match self.done_for_entry(request).await {
            Ok(answer) => answer,
            Err(error) => {
                let status = match error {
                    CloudError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
                    CloudError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                let told = serde_json::to_vec(&Relayed::from(error)).unwrap_or_default();
                let body = Full::from(told).map_err(|never| match never {});
                let mut answer = Response::new(body.boxed_unsync());
                *answer.status_mut() = status;
                answer
            }
        }
    }

    async fn done_for_entry(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<AnyBody>, CloudError> {
        let (head, body) = request.into_parts();
        let Some(image) = head.uri.path().strip_prefix(IMAGES_PATH) else {
            return Ok(empty(StatusCode::NOT_FOUND));
        };
        let seen = revision(&head.headers);
        let cloud = &self.cloud;
        match (&head.method, image.strip_suffix(LOOK_AGAIN_PATH)) {
            (&Method::POST, Some(image)) => {
                Ok(match cloud.look_again_for_entry(image, seen).await? {
                    Some(shown) => done(shown),
                    None => empty(StatusCode::NO_CONTENT),
                })
            }
            (&Method::PUT, None) => {
                let length = head.headers.get(header::CONTENT_LENGTH);
                let content = BodyDataStream::new(body).map_err(io::Error::other);
                let upload = Upload {
                    length: length.and_then(|length| length.to_str().ok()?.parse().ok()),
                    content: Box::pin(content),
                };
                Ok(done(cloud.content_from_entry(image, seen, upload).await?))
            }
            (&Method::GET, None) => {
                let parameters = negotiation::parameters(head.uri.query());
                let pairs = parameters.iter().map(|(a, b)| (a.as_ref(), b.as_ref()));
                let asked = download::request(&head.headers, pairs);
                let content = cloud.content_for_entry(image, seen, asked).await?;
                let sent = SentContent {
                    format: content.format.to_owned(),
                    length: content.length,
                    part: content.part,
                    identifier: content.identifier,
                };
                let sent = serde_json::to_string(&sent).unwrap_or_default();
                let sent = HeaderValue::try_from(sent)
                    .map_err(|error| CloudError::Internal(error.to_string()))?;
                let content = in_turn(content.content, Arc::clone(&self.reading_for_entries));
                let content = StreamBody::new(content.map_ok(Frame::data));
                let mut answer = Response::new(content.boxed_unsync());
                answer.headers_mut().insert(CONTENT_HEADER, sent);
                Ok(answer)
            }
            _ => Ok(empty(StatusCode::NOT_FOUND)),
        }
    }
}

fn revision(headers: &HeaderMap) -> Revision {
    let said = headers.get(REVISION_HEADER);
    let said = said.and_then(|value| value.to_str().ok()?.parse().ok());
    Revision(said.unwrap_or_default())
}

fn done(shown: Revision) -> Response<AnyBody> {
    let mut answer = empty(StatusCode::OK);
    answer
        .headers_mut()
        .insert(REVISION_HEADER, HeaderValue::from(shown.0));
    answer
}
