//! Which version and which representation client and server agree on.

use std::borrow::Cow;

use cimi::uri::SPECIFICATION_VERSION;
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::problem::Problem;

/// Decoded query parameters.
pub(crate) type Parameters<'q> = Vec<(Cow<'q, str>, Cow<'q, str>)>;

/// More parameters than these are not read.
const PARAMETERS_AT_MOST: usize = 64;

/// The parameters of a query, decoded as forms are.
pub(crate) fn parameters(query: Option<&str>) -> Parameters<'_> {
    let Some(query) = query else {
        return Vec::new();
    };
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .take(PARAMETERS_AT_MOST)
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

/// Checks `CIMI-Specification-Version`: a list of versions, best first, of which one must be ours
/// in all the parts it gives. What is not `major.minor[.update]` is passed over.
///
/// # Errors
/// 400 if the header is there and nothing in it is ours.
pub(crate) fn version(headers: &HeaderMap) -> Result<(), Problem> {
    let mut values = headers.get_all("cimi-specification-version").iter();
    let Some(first) = values.next() else {
        return Ok(());
    };
    let ours = std::iter::once(first)
        .chain(values)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|version| is_ours(version.trim()));
    if ours {
        return Ok(());
    }
    Err(Problem::new(
        400,
        format!(
            "implementation does not support requested CIMI specification version; it supports \
             {SPECIFICATION_VERSION}"
        ),
    ))
}

fn is_ours(version: &str) -> bool {
    let parts: Vec<&str> = version.split('.').take(4).collect();
    (2..=3).contains(&parts.len())
        && parts
            .iter()
            .zip(SPECIFICATION_VERSION.split('.'))
            .all(|(given, ours)| *given == ours)
}

/// Whether the client takes JSON: by `$format` or `format`, else by `Accept`.
///
/// # Errors
/// 406 if it doesn't.
pub(crate) fn accepts_json(
    headers: &HeaderMap,
    parameters: &Parameters<'_>,
) -> Result<(), Problem> {
    let format = parameters
        .iter()
        .find(|(name, _)| name == "$format" || name == "format")
        .map(|(_, value)| value.as_ref());
    let acceptable = match format {
        Some("json" | "application/json") => true,
        Some("xml" | "application/xml") => false,
        _ => {
            let mut values = headers
                .get_all(header::ACCEPT)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .filter(|range| !range.trim().is_empty())
                .peekable();
            values.peek().is_none() || values.any(takes_json)
        }
    };
    if acceptable {
        return Ok(());
    }
    Err(Problem::new(
        406,
        "only application/json can be sent; leave out Accept, or let it name application/json",
    ))
}

/// Whether a media range of `Accept` includes JSON and isn't refused by `q=0`.
fn takes_json(range: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let refused = parts
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
        .any(|(_, q)| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0));
    let json = ["*/*", "application/*", "application/json", "text/json", "*"];
    !refused && json.iter().any(|known| media.eq_ignore_ascii_case(known))
}

/// A request's body as JSON, whatever its Content-Type says: that it is JSON shows in its first
/// character. An empty body is `null`.
///
/// # Errors
/// 415 if it is something else by its type and its look, 400 if it is broken JSON.
pub(crate) fn json_body(headers: &HeaderMap, body: &[u8]) -> Result<Value, Problem> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let trimmed = body.trim_ascii_start();
    let Some(first) = trimmed.first() else {
        return Ok(Value::Null);
    };
    if *first == b'<' {
        return Err(Problem::new(
            415,
            "the body is XML; only JSON (application/json) is read",
        ));
    }
    let looks_like_json = matches!(first, b'{' | b'[' | b'n');
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let said_json = media.is_empty()
        || media.eq_ignore_ascii_case("application/json")
        || media.to_ascii_lowercase().ends_with("+json");
    if !looks_like_json && !said_json {
        let shown: String = media.chars().take(100).collect();
        return Err(Problem::new(
            415,
            format!("the body is `{shown}`; only JSON (application/json) is read"),
        ));
    }
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(400, format!("the body is not JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn headers(name: &'static str, value: Option<&str>) -> HeaderMap {
        let name = HeaderName::from_static(name);
        value
            .map(|value| (name, HeaderValue::from_str(value).unwrap()))
            .into_iter()
            .collect()
    }

    #[test]
    fn versions_are_matched_as_stratuslab_does() {
        let check = |value| version(&headers("cimi-specification-version", value)).is_ok();
        for value in ["1.0", "1.0.1", " 1.0 , 9.9", "9.9,1.0.1", "junk,1.0"] {
            assert!(check(Some(value)), "{value}");
        }
        assert!(check(None));
        for value in [
            "", " , ", "1", "1.1", "1.0.2", "1.0.0", "1.0.0.", "1.0.1.0", "junk",
        ] {
            assert!(!check(Some(value)), "{value}");
        }
    }

    #[test]
    fn json_is_the_default_and_xml_only_is_refused() {
        let check = |accept, query| {
            accepts_json(&headers("accept", accept), &parameters(Some(query))).is_ok()
        };
        assert!(check(None, ""));
        for accept in [
            "",
            "*/*",
            "application/json",
            "application/xml, application/json;q=0.1",
            "text/html, application/*;q=0.9",
            "Application/JSON; charset=utf-8",
        ] {
            assert!(check(Some(accept), ""), "{accept}");
        }
        for accept in [
            "application/xml",
            "text/html",
            "application/json;q=0",
            "junk",
        ] {
            assert!(!check(Some(accept), ""), "{accept}");
        }
        assert!(check(Some("application/xml"), "$format=json"));
        assert!(!check(None, "%24format=xml"));
    }

    #[test]
    fn bodies_are_known_by_their_look() {
        let read = |kind, body: &str| {
            json_body(&headers("content-type", kind), body.as_bytes())
                .map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(read(Some("text/plain"), " {\"a\":1}"), Ok(json!({"a": 1})));
        assert_eq!(read(None, "\u{feff}{}"), Ok(json!({})));
        assert_eq!(read(Some("application/json"), "null"), Ok(Value::Null));
        assert_eq!(read(Some("application/xml"), ""), Ok(Value::Null));
        assert_eq!(read(Some("application/json"), "<Machine/>"), Err(415));
        assert_eq!(read(Some("text/plain"), "hello"), Err(415));
        assert_eq!(read(Some("application/json"), "hello"), Err(400));
        assert_eq!(read(None, "{\"a\":"), Err(400));
        assert_eq!(read(None, &"[".repeat(100_000)), Err(400));
    }

    #[test]
    fn parameters_are_decoded_as_forms_are() {
        let all = parameters(Some("%24filter=a%3D1+and+b=2&&x&y="));
        let all: Vec<_> = all.iter().map(|(a, b)| (a.as_ref(), b.as_ref())).collect();
        assert_eq!(all, [("$filter", "a=1 and b=2"), ("x", ""), ("y", "")]);
    }

    proptest! {
        #[test]
        fn nothing_makes_negotiation_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let text = String::from_utf8_lossy(&bytes);
            let _ = parameters(Some(&text));
            let _ = json_body(&HeaderMap::new(), &bytes);
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert("accept", value.clone());
                headers.insert("cimi-specification-version", value);
                let _ = version(&headers);
                let _ = accepts_json(&headers, &Vec::new());
            }
        }
    }
}
