//! What hosts are answered, and what is written down of it.

use std::{io, sync::Arc};

use ::cimi::{
    HostId, Timestamp,
    resources::{HostToken, Resource as _},
};
use bytes::Bytes;
use cloud::OpContext;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use serde::Serialize;
use trust::{JOIN_PATH, Joined, REMOVED, RENEW_PATH};

use crate::{
    audit::{AuditLog, Audited},
    problem::Problem,
};

pub(super) type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

/// gRPC's status of what is refused (`PERMISSION_DENIED`).
const GRPC_DENIED: u16 = 7;

/// A certificate that somebody wants, as the audit log knows it.
pub(super) struct Wanted {
    path: &'static str,
    /// Who has made the token, and which that is.
    by: Option<(String, String)>,
    about: Option<String>,
}

impl Wanted {
    /// The first one; by a token, if that is known.
    pub(super) fn joining(token: Option<&HostToken>) -> Self {
        Self {
            path: JOIN_PATH,
            by: token.map(|token| (token.user.clone(), token.key())),
            about: None,
        }
    }

    /// The next one of a host.
    pub(super) fn renewing(host: &HostId) -> Self {
        Self {
            path: RENEW_PATH,
            by: None,
            about: Some(host.to_string()),
        }
    }

    /// The answer, written down.
    pub(super) async fn answered(
        self,
        audit: &dyn AuditLog,
        context: &OpContext,
        outcome: cloud::Result<Joined>,
    ) -> Response<AnyBody> {
        let (status, made, body) = match outcome {
            Ok(joined) => {
                let body = serde_json::to_vec(&joined).unwrap_or_default();
                (StatusCode::OK, Some(joined.host), body)
            }
            Err(error) => {
                let problem = Problem::from(error);
                if let Some(text) = problem.internal_text() {
                    tracing::error!(
                        request_id = &*context.request_id,
                        error = text,
                        "a host got no certificate"
                    );
                } else {
                    tracing::info!(from = ?context.peer, reason = problem.detail(), "a host got no certificate");
                }
                (problem.status(), None, said(problem.detail()))
            }
        };
        if let Some(address) = context.peer {
            let (maker, token) = self.by.unzip();
            // Who has tried in vain need not be whom the token was made for.
            let user = maker.filter(|_| made.is_some());
            let entry = Audited {
                time: Timestamp::now(),
                request_id: Arc::clone(&context.request_id),
                authenticated_by: user.is_some().then_some("host-token"),
                user: user.map(Into::into),
                token,
                claimed: None,
                address,
                method: Method::POST.to_string(),
                path: self.path.to_owned(),
                about: self.about,
                made,
                status: status.as_u16(),
                outcome: None,
                others: 0,
            };
            audit.record(entry).await;
        }
        answer(status, body.into())
    }
}

/// That the host is one no more, in the language that was asked in.
pub(super) fn removed<B>(request: &Request<B>) -> Response<AnyBody> {
    if request.uri().path() == RENEW_PATH {
        return answer(StatusCode::FORBIDDEN, said(REMOVED).into());
    }
    let mut answer = empty(StatusCode::OK);
    let headers = answer.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    headers.insert("grpc-status", GRPC_DENIED.into());
    headers.insert("grpc-message", HeaderValue::from_static(REMOVED));
    answer
}

fn said(text: &str) -> Vec<u8> {
    serde_json::json!({"error": text}).to_string().into_bytes()
}

/// In JSON.
pub(super) fn told(what: &impl Serialize) -> Response<AnyBody> {
    match serde_json::to_vec(what) {
        Ok(text) => answer(StatusCode::OK, text.into()),
        Err(error) => {
            tracing::error!(%error, "an answer to a host can't be written");
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

pub(super) fn empty(status: StatusCode) -> Response<AnyBody> {
    answer(status, Bytes::new())
}

fn answer(status: StatusCode, body: Bytes) -> Response<AnyBody> {
    let body = Full::new(body)
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}
