//! Which version and which representation client and server agree on.

use std::borrow::Cow;

use cimi::uri::SPECIFICATION_VERSION;
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

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

/// The two forms that everything of CIMI has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// `application/json`
    #[default]
    Json,
    /// `application/xml`
    Xml,
}

/// In which form the client wants its answer: by `$format` or `format`, else by `Accept`, else as it sends. JSON if it
/// doesn't matter to it; of two that are equally welcome the one that is named rather than meant by a `*`.
///
/// # Errors
/// 406 if it wants neither.
pub(crate) fn format(headers: &HeaderMap, parameters: &Parameters<'_>) -> Result<Format, Problem> {
    let asked = parameters
        .iter()
        .find(|(name, _)| name == "$format" || name == "format")
        .map(|(_, value)| value.trim());
    let format = match asked {
        Some(media) if is_media(media, JSON) || media.eq_ignore_ascii_case("json") => {
            Some(Format::Json)
        }
        Some(media) if is_media(media, XML) || media.eq_ignore_ascii_case("xml") => {
            Some(Format::Xml)
        }
        Some("") | None => accepted(headers),
        Some(_) => None,
    };
    format.ok_or_else(|| {
        Problem::new(
            406,
            "only application/json and application/xml can be sent; leave out $format and Accept, or let them name one of \
             these",
        )
    })
}

const JSON: [&str; 2] = ["application/json", "text/json"];
const XML: [&str; 2] = ["application/xml", "text/xml"];

fn is_media(media: &str, known: [&str; 2]) -> bool {
    known.iter().any(|known| media.eq_ignore_ascii_case(known))
}

/// What `Accept` prefers (RFC 9110 §12.5.1): of the ranges that include a form, the most specific one says how welcome
/// it is.
fn accepted(headers: &HeaderMap) -> Option<Format> {
    /// How specific the range was, and how welcome it makes the form, in thousandths.
    type Welcome = Option<(u8, u32)>;
    let (mut json, mut xml): (Welcome, Welcome) = (None, None);
    let mut says_something = false;
    let ranges = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty());
    for range in ranges {
        says_something = true;
        let (media, quality) = quality(range);
        let (is_json, is_xml, specific) = match media {
            "*" | "*/*" => (true, true, 0),
            _ if media.eq_ignore_ascii_case("application/*") => (true, true, 1),
            _ if is_media(media, JSON) => (true, false, 2),
            _ if is_media(media, XML) => (false, true, 2),
            _ => continue,
        };
        for (form, meant) in [(&mut json, is_json), (&mut xml, is_xml)] {
            if meant && form.is_none_or(|(before, q)| (specific, quality) > (before, q)) {
                *form = Some((specific, quality));
            }
        }
    }
    if !says_something {
        return Some(of_the_body(headers));
    }
    let welcome = |form: Welcome| form.filter(|(_, quality)| *quality > 0);
    match (welcome(json), welcome(xml)) {
        (None, None) => None,
        (Some(_), None) => Some(Format::Json),
        (None, Some(_)) => Some(Format::Xml),
        (Some((json_named, json)), Some((xml_named, xml))) => {
            if (xml, xml_named) > (json, json_named) {
                Some(Format::Xml)
            } else {
                Some(Format::Json)
            }
        }
    }
}

/// The form in which the request itself is sent, JSON if it doesn't say: who writes XML reads XML.
fn of_the_body(headers: &HeaderMap) -> Format {
    let sent = headers.get(header::CONTENT_TYPE);
    let (media, _) = quality(
        sent.and_then(|value| value.to_str().ok())
            .unwrap_or_default(),
    );
    if is_media(media, XML) {
        Format::Xml
    } else {
        Format::Json
    }
}

/// A media range without its parameters, and its `q` in thousandths.
fn quality(range: &str) -> (&str, u32) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let q = parts
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
        .and_then(|(_, q)| q.trim().parse::<f32>().ok())
        .filter(|q| q.is_finite())
        .unwrap_or(1.0);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1000"
    )]
    (media, (q.clamp(0.0, 1.0) * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

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
    fn the_more_welcome_form_is_sent_and_json_if_it_does_not_matter() {
        let asked = |accept, query| {
            let query = parameters(Some(query));
            format(&headers("accept", accept), &query).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(asked(None, ""), Ok(Format::Json));
        for (accept, form) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("application/json", Format::Json),
            ("Application/JSON; charset=utf-8", Format::Json),
            ("application/json, application/xml", Format::Json),
            ("text/html, application/*;q=0.9", Format::Json),
            (
                "application/json;q=0.2, application/xml;q=0.1",
                Format::Json,
            ),
            ("application/xml;q=0, */*", Format::Json),
            ("application/xml", Format::Xml),
            ("text/xml", Format::Xml),
            ("APPLICATION/XML;Q=0.5", Format::Xml),
            ("application/xml, */*", Format::Xml),
            ("application/xml, application/json;q=0.9", Format::Xml),
            ("application/json;q=0, */*;q=0.1", Format::Xml),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                Format::Xml,
            ),
        ] {
            assert_eq!(asked(Some(accept), ""), Ok(form), "{accept}");
        }
        for accept in [
            "text/html",
            "application/json;q=0",
            "junk",
            "text/*",
            "*/*;q=0",
        ] {
            assert_eq!(asked(Some(accept), ""), Err(406), "{accept}");
        }
        assert_eq!(
            asked(Some("application/xml"), "$format=json"),
            Ok(Format::Json)
        );
        assert_eq!(asked(Some("text/html"), "$format="), Err(406));
        assert_eq!(asked(None, "%24format=xml"), Ok(Format::Xml));
        assert_eq!(asked(None, "format=application/xml"), Ok(Format::Xml));
        assert_eq!(asked(None, "$format=yaml"), Err(406));
    }

    #[test]
    fn who_sends_xml_and_accepts_whatever_comes_gets_xml() {
        for (sent, form) in [
            ("application/xml; charset=utf-8", Format::Xml),
            ("text/xml", Format::Xml),
            ("application/json", Format::Json),
            ("text/plain", Format::Json),
        ] {
            let mut headers = headers("content-type", Some(sent));
            assert_eq!(format(&headers, &Vec::new()).ok(), Some(form), "{sent}");
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::ACCEPT, json);
            assert_eq!(format(&headers, &Vec::new()).ok(), Some(Format::Json));
        }
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
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert("accept", value.clone());
                headers.insert("cimi-specification-version", value);
                let _ = version(&headers);
                let _ = format(&headers, &Vec::new());
            }
        }
    }
}
