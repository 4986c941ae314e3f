//! Errors as clients get them: `application/problem+json` (RFC 9457) with StratusLab's `message`
//! and `code` beside, and for those who want XML the `<error>` that CIMI's clients know.

use bytes::Bytes;
use cimi::model::{
    Violation,
    xml::{escape_attribute, escape_text},
};
use cloud::CloudError;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde_json::json;

use crate::{audit::Told, body::ResponseBody, cimi::negotiation::Format};

/// An answer that says what went wrong.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    violations: Vec<Violation>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What only the log is told.
    pub(crate) internal: Option<String>,
    /// Whom or what it is about, for the audit log, where the request doesn't say it.
    pub(crate) audited: Option<Box<Told>>,
}

impl Problem {
    /// With a status of 400 to 599 and a text for the user: what, which value, what to do.
    pub(crate) fn new(status: u16, detail: impl Into<String>) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            detail: detail.into(),
            violations: Vec::new(),
            headers: Vec::new(),
            internal: None,
            audited: None,
        }
    }

    /// No such URL.
    pub(crate) fn not_found(path: &str) -> Self {
        let shown: String = path.chars().take(200).collect();
        Self::new(404, format!("there is nothing at {shown}"))
    }

    /// With another header.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Its status and its text, for doors that have forms of their own.
    pub(crate) fn told(&self) -> (StatusCode, &str) {
        (self.status, &self.detail)
    }

    /// The same, in place.
    pub(crate) fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.push((name, value));
    }

    /// What users read.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// What only the log is told.
    pub(crate) fn internal_text(&self) -> Option<&str> {
        self.internal.as_deref()
    }

    /// Its headers, to an answer that is made otherwise. Without a challenge, which would open a browser's own dialogue.
    pub(crate) fn add_headers(&self, to: &mut http::HeaderMap) {
        for (name, value) in &self.headers {
            if name != header::WWW_AUTHENTICATE {
                to.append(name, value.clone());
            }
        }
    }

    /// Its status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// As an answer in the form that was asked for. Text of the outside is shown in part only.
    pub(crate) fn into_response(
        mut self,
        request_id: &str,
        format: Format,
        request: (&Method, &str),
    ) -> Response<ResponseBody> {
        if self.detail.len() > 4000 {
            self.detail = self.detail.chars().take(1000).chain("…".chars()).collect();
        }
        let (media, body) = match format {
            Format::Json => ("application/problem+json", self.json(request_id)),
            Format::Xml => ("application/xml", self.xml(request_id, request)),
        };
        let mut response = Response::new(ResponseBody::Whole(body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        response.headers_mut().extend(self.headers);
        if let Some(told) = self.audited {
            response.extensions_mut().insert(*told);
        }
        response
    }

    fn json(&self, request_id: &str) -> Bytes {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "message": self.detail,
            "code": self.status.as_u16(),
            "requestId": request_id,
        });
        if !self.violations.is_empty() {
            let violations: Vec<_> = self
                .violations
                .iter()
                .map(|v| json!({"path": v.path, "problem": v.problem}))
                .collect();
            body["violations"] = violations.into();
        }
        body.to_string().into()
    }

    /// `<error status="404" url="…"><code>404</code><message>…</message>…</error>`
    fn xml(&self, request_id: &str, (method, path): (&Method, &str)) -> Bytes {
        let mut out = Vec::with_capacity(400);
        let path: String = path.chars().take(400).collect();
        let code = self.status.as_u16();
        out.extend_from_slice(format!("<error status=\"{code}\" url=\"").as_bytes());
        escape_attribute(&path, &mut out);
        out.extend_from_slice(b"\">");
        let mut leaf = |name: &str, text: &str| {
            out.extend_from_slice(format!("<{name}>").as_bytes());
            escape_text(text, &mut out);
            out.extend_from_slice(format!("</{name}>").as_bytes());
        };
        leaf("code", &code.to_string());
        leaf("message", &self.detail);
        leaf("request", &format!("{method} {path}"));
        leaf("requestId", request_id);
        for violation in &self.violations {
            out.extend_from_slice(b"<violation path=\"");
            escape_attribute(&violation.path, &mut out);
            out.extend_from_slice(b"\">");
            escape_text(&violation.problem, &mut out);
            out.extend_from_slice(b"</violation>");
        }
        out.extend_from_slice(b"</error>");
        out.into()
    }
}

impl From<Vec<Violation>> for Problem {
    fn from(violations: Vec<Violation>) -> Self {
        CloudError::Invalid { violations }.into()
    }
}

/// The one place where errors of the cloud become statuses.
impl From<CloudError> for Problem {
    fn from(error: CloudError) -> Self {
        let detail = error.to_string();
        match error {
            CloudError::NotFound { .. } => Self::new(404, detail),
            CloudError::Forbidden(_) => Self::new(403, detail),
            CloudError::Unauthenticated => Self::new(401, detail).with(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(crate::auth::CHALLENGE),
            ),
            CloudError::Invalid { violations } => {
                let mut problem = Self::new(400, detail);
                problem.violations = violations;
                problem
            }
            // Exhausted, too, is the cloud's present state: nothing is broken, and trying the same
            // again only helps once something is released.
            CloudError::Conflict(_) | CloudError::Raced(_) | CloudError::Exhausted(_) => {
                Self::new(409, detail)
            }
            CloudError::Changed(_) => Self::new(412, detail),
            CloudError::TooLarge(_) => Self::new(413, detail),
            CloudError::Unavailable(_) => {
                Self::new(503, detail).with(header::RETRY_AFTER, HeaderValue::from_static("1"))
            }
            CloudError::Internal(_) => Self::internal(detail),
        }
    }
}

impl Problem {
    /// A defect: the log gets the text, the user only what to look for in it.
    pub(crate) fn internal(text: String) -> Self {
        let mut problem = Self::new(
            500,
            "internal error; the log of the server has more under the requestId given here",
        );
        problem.internal = Some(text);
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status() {
        for (error, status) in [
            (CloudError::not_found("Machine/1"), 404),
            (CloudError::Forbidden(String::new()), 403),
            (CloudError::Unauthenticated, 401),
            (CloudError::invalid("cpu", "is wrong"), 400),
            (CloudError::Conflict(String::new()), 409),
            (CloudError::Exhausted(String::new()), 409),
            (CloudError::Changed(String::new()), 412),
            (CloudError::TooLarge(String::new()), 413),
            (CloudError::Unavailable(String::new()), 503),
            (CloudError::Internal("secret".into()), 500),
        ] {
            let problem = Problem::from(error);
            assert_eq!(problem.status().as_u16(), status);
            assert!(!problem.detail.contains("secret"));
        }
    }
}
