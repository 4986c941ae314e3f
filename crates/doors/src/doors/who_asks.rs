//! `/cimi/authn`: who the caller is to the cloud, and how one can log in.

use accounts::Methods;

use ::cimi::{model::xml::escape_text, uri};
use bytes::Bytes;
use cloud::OpContext;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{body::ResponseBody, cimi::negotiation::Format, health};

/// The answer. Whoever is not logged in has no `identity`; with what was `refused` of a certificate that was shown.
pub(super) fn who_asks(
    context: &OpContext,
    methods: &Methods,
    refused: Option<&str>,
    format: Format,
) -> Response<ResponseBody> {
    let mut body = json!({"identity": context.user(), "roles": context.roles(),
        "methods": methods.names()});
    if let Some(refused) = refused {
        body["refused"] = refused.into();
    }
    if let Some(method) = context.method() {
        body["method"] = method.name().into();
    }
    if let Some(token) = context.token() {
        let scope = if token.is_read_only {
            "read-only"
        } else {
            "full"
        };
        body["token"] = json!({"href": token.id.to_string(), "scope": scope});
        if token.is_narrow() {
            body["token"]["types"] = json!(token.types);
        }
    }
    if let Some(session) = context.session() {
        body["session"] = json!({"href": session.to_string()});
    }
    match format {
        Format::Json => health::json_answer(StatusCode::OK, &body),
        Format::Xml => {
            let mut response = Response::new(ResponseBody::Whole(xml(&body)));
            let media = HeaderValue::from_static("application/xml");
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            response
                .headers_mut()
                .insert(header::VARY, HeaderValue::from_static("Accept"));
            response
        }
    }
}

/// `<Authentication><identity>alice</identity><methods><method>password</method>…</methods>…</Authentication>`
fn xml(body: &Value) -> Bytes {
    let mut out = Vec::with_capacity(400);
    let namespace = uri::STRATUSLAB;
    out.extend_from_slice(format!("<Authentication xmlns=\"{namespace}\">").as_bytes());
    for (name, value) in body.as_object().into_iter().flatten() {
        element(name, value, &mut out);
    }
    out.extend_from_slice(b"</Authentication>");
    out.into()
}

/// One member by its name, which is ours: of several values each in an element of its own within it.
fn element(name: &str, value: &Value, out: &mut Vec<u8>) {
    if value.is_null() {
        return;
    }
    out.extend_from_slice(format!("<{name}>").as_bytes());
    match value {
        Value::Array(all) => {
            let one = name.strip_suffix('s').unwrap_or(name);
            for value in all {
                element(one, value, out);
            }
        }
        Value::Object(all) => {
            for (name, value) in all {
                element(name, value, out);
            }
        }
        Value::String(text) => escape_text(text, out),
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
    out.extend_from_slice(format!("</{name}>").as_bytes());
}
