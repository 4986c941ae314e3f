//! What a request's body says, in whichever form it is.

use cimi::model::xml::{self, Expected};
use http::{HeaderMap, header};
use serde_json::Value;

use crate::problem::Problem;

/// A body by its look.
enum Sent<'b> {
    Nothing,
    Json(&'b [u8]),
    Xml(&'b [u8]),
}

/// A request's body as JSON, whatever its Content-Type says: clients label everything as JSON, or nothing at all, and
/// what it is shows in its first character. An empty body is `null`.
///
/// # Errors
/// 415 if it is something else by its type and its look, 400 if it is broken or not what was expected.
pub(super) fn read(headers: &HeaderMap, body: &[u8], expected: Expected) -> Result<Value, Problem> {
    match look(headers, body)? {
        Sent::Nothing => Ok(Value::Null),
        Sent::Json(body) => serde_json::from_slice(body)
            .map_err(|error| Problem::new(400, format!("the body is not JSON: {error}"))),
        Sent::Xml(body) => {
            let text = std::str::from_utf8(body).map_err(|error| {
                let place = error.valid_up_to();
                let text = format!("the body is not UTF-8 from byte {place} on; send it in UTF-8");
                Problem::new(400, text)
            })?;
            xml::read(text, expected).map_err(|error| Problem::new(400, error.to_string()))
        }
    }
}

fn look<'b>(headers: &HeaderMap, body: &'b [u8]) -> Result<Sent<'b>, Problem> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let named = |kind: &str| {
        let media = media.to_ascii_lowercase();
        media == format!("application/{kind}")
            || media == format!("text/{kind}")
            || media.ends_with(&format!("+{kind}"))
    };
    match body.trim_ascii_start().first() {
        None => Ok(Sent::Nothing),
        Some(b'{' | b'[') => Ok(Sent::Json(body)),
        Some(b'<') => Ok(Sent::Xml(body)),
        // What a client sends that has nothing to say.
        Some(b'n') if body.trim_ascii() == b"null" => Ok(Sent::Nothing),
        Some(_) if media.is_empty() || named("json") => Ok(Sent::Json(body)),
        Some(_) if named("xml") => Ok(Sent::Xml(body)),
        Some(_) => {
            let shown: String = media.chars().take(100).collect();
            Err(Problem::new(
                415,
                format!("the body is `{shown}`; application/json and application/xml are read"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use ::cimi::model::Kind;
    use http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn body(kind: Option<&str>, body: &[u8]) -> Result<Value, u16> {
        let headers = kind
            .map(|value| (header::CONTENT_TYPE, HeaderValue::from_str(value).unwrap()))
            .into_iter()
            .collect();
        read(&headers, body, Expected::Change(Kind::Machine))
            .map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn bodies_are_known_by_their_look() {
        let named = json!({"name": "a"});
        for kind in [
            None,
            Some("text/plain"),
            Some("application/xml"),
            Some("application/json"),
        ] {
            assert_eq!(
                body(kind, b" {\"name\":\"a\"}"),
                Ok(named.clone()),
                "{kind:?}"
            );
            let xml = b"\n<Machine><name>a</name></Machine>";
            assert_eq!(body(kind, xml), Ok(named.clone()), "{kind:?}");
            assert_eq!(body(kind, b" \n"), Ok(Value::Null));
            assert_eq!(body(kind, b"null"), Ok(Value::Null));
        }
        assert_eq!(body(None, "\u{feff}{}".as_bytes()), Ok(json!({})));
        assert_eq!(body(None, "\u{feff}<Machine/>".as_bytes()), Ok(json!({})));
    }

    #[test]
    fn what_is_neither_is_refused() {
        assert_eq!(body(Some("text/plain"), b"hello"), Err(415));
        assert_eq!(
            body(Some("application/x-www-form-urlencoded"), b"a=b"),
            Err(415)
        );
        for kind in [
            "application/json",
            "application/xml",
            "application/vnd.x+json",
        ] {
            assert_eq!(body(Some(kind), b"hello"), Err(400), "{kind}");
        }
        assert_eq!(body(None, b"{\"a\":"), Err(400));
        assert_eq!(body(None, "[".repeat(100_000).as_bytes()), Err(400));
        assert_eq!(body(None, b"<Machine>"), Err(400));
        assert_eq!(
            body(None, b"<Machine><name>\xe9</name></Machine>"),
            Err(400)
        );
        // UTF-16
        assert_eq!(body(Some("application/xml"), b"\xfe\xff\0<\0M"), Err(400));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = body(None, &bytes);
        }
    }
}
