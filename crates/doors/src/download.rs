//! `GET /cimi/MachineImage/<id>/data`: the content of an image, whole or in part.

use bytes::Bytes;
use cloud::{Download, DownloadRequest};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::{body::ResponseBody, problem::Problem};

/// What a query and its headers ask for. A range is understood as `bytes=N-` and `bytes=N-M`; anything else there is
/// ignored, as RFC 9110 §14.2 allows.
pub(crate) fn request<'q>(
    headers: &HeaderMap,
    parameters: impl IntoIterator<Item = (&'q str, &'q str)>,
) -> DownloadRequest {
    let format = parameters.into_iter().find(|(name, _)| *name == "format");
    DownloadRequest {
        format: format.map(|(_, format)| format.chars().take(40).collect()),
        part: headers
            .get(header::RANGE)
            .and_then(|value| range(value.to_str().ok()?)),
    }
}

fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (start, end) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let start = start.trim().parse().ok()?;
    let end = match end.trim() {
        "" => None,
        last => Some(last.parse::<u64>().ok()?.saturating_add(1)),
    };
    (end.is_none_or(|end| end > start)).then_some((start, end))
}

/// Whether a part of another version must not be given: then the whole is.
pub(crate) fn is_other(headers: &HeaderMap, tag: &str) -> bool {
    let wanted = headers.get(header::IF_RANGE).map(HeaderValue::as_bytes);
    wanted.is_some_and(|wanted| wanted != quoted(tag).as_bytes())
}

fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

/// The answer.
///
/// # Errors
/// If what names the content can't be a header.
pub(crate) fn answer(
    method: &Method,
    download: Download,
) -> Result<Response<ResponseBody>, Problem> {
    let text = |text: String| {
        HeaderValue::try_from(text).map_err(|error| Problem::internal(error.to_string()))
    };
    let whole = download.length;
    let sent = match download.part {
        Some((start, end)) => Some(end - start),
        None => whole,
    };
    let body = if method == Method::HEAD {
        ResponseBody::Whole(Bytes::new())
    } else {
        ResponseBody::Streaming(download.content)
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_DISPOSITION,
        text(format!(
            "attachment; filename=\"{}.{}\"",
            name(&download.tag),
            download.format
        ))?,
    );
    headers.insert(header::ETAG, text(quoted(&download.tag))?);
    if let Some(identifier) = &download.identifier {
        headers.insert(
            HeaderName::from_static("x-image-identifier"),
            text(identifier.clone())?,
        );
    }
    if let Some(length) = sent {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let (Some((start, end)), Some(whole)) = (download.part, whole) {
        headers.insert(
            header::CONTENT_RANGE,
            text(format!("bytes {start}-{}/{whole}", end - 1))?,
        );
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    } else {
        let takes = if ["raw", "qcow2"].contains(&download.format) {
            "bytes"
        } else {
            "none"
        };
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static(takes));
    }
    Ok(response)
}

/// The identifier in a tag, as a file is called.
fn name(tag: &str) -> String {
    let identifier = tag
        .rsplit_once('-')
        .map_or(tag, |(identifier, _)| identifier);
    identifier
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood_or_left_out() {
        assert_eq!(range("bytes=0-"), Some((0, None)));
        assert_eq!(range("bytes=5-9"), Some((5, Some(10))));
        for other in [
            "bytes=-5",
            "bytes=9-5",
            "bytes=a-b",
            "items=0-1",
            "bytes=0-1,3-4",
            "",
            "bytes=0-18446744073709551616",
        ] {
            assert_eq!(range(other), None, "{other}");
        }
        assert_eq!(
            range("bytes=0-18446744073709551615"),
            Some((0, Some(u64::MAX)))
        );
    }
}
