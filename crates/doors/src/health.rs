//! What stands beside CIMI and needs no more than a call: health, status, doctor, who am I.

use bytes::Bytes;
use cloud::{Health, HealthStatus};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::ResponseBody;

/// An answer in JSON.
pub(crate) fn json_answer(status: StatusCode, value: &Value) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// `GET /health`: 503 once it doesn't work; details only for administrators.
pub(crate) fn health(health: &Health, details: bool) -> Response<ResponseBody> {
    let (status, word) = match health.status {
        HealthStatus::Ok => (StatusCode::OK, "ok"),
        HealthStatus::Degraded => (StatusCode::OK, "degraded"),
        HealthStatus::Failing => (StatusCode::SERVICE_UNAVAILABLE, "failing"),
    };
    let mut body = json!({"status": word});
    if details {
        let checks: Vec<_> = health
            .checks
            .iter()
            .map(|check| json!({"name": check.name, "ok": check.ok, "detail": check.detail}))
            .collect();
        body["checks"] = checks.into();
        body["version"] = env!("CARGO_PKG_VERSION").into();
    }
    json_answer(status, &body)
}
