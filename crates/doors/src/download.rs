//! `GET /cimi/MachineImage/<id>/data`: the content of an image, whole or in part.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use bytes::Bytes;
use cloud::{Download, DownloadRequest};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use parking_lot::Mutex;

use crate::{body::ResponseBody, problem::Problem};

/// Downloads at once by those who aren't logged in, and of these from one network.
const PLACES: usize = 16;
const PLACES_OF_NETWORK: usize = 4;

/// Places of those who download without a login.
#[derive(Debug)]
pub(crate) struct Places<N>(Arc<Mutex<HashMap<N, usize>>>);

impl<N> Default for Places<N> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One of them; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place<N: Hash + Eq>(Arc<Mutex<HashMap<N, usize>>>, N);

impl<N: Hash + Eq + Clone> Places<N> {
    /// One for somebody of this network.
    ///
    /// # Errors
    /// 503 if all are taken, 429 if the network has its part.
    pub(crate) fn take(&self, network: N) -> Result<Place<N>, Problem> {
        let mut taken = self.0.lock();
        let own = taken.get(&network).copied().unwrap_or(0);
        let (status, text) = if own >= PLACES_OF_NETWORK {
            (
                429,
                format!(
                    "{own} downloads without a login are under way from your network; try again when one has ended"
                ),
            )
        } else if taken.values().sum::<usize>() >= PLACES {
            (
                503,
                format!(
                    "{PLACES} downloads without a login are under way; try again later, or log in"
                ),
            )
        } else {
            *taken.entry(network.clone()).or_default() += 1;
            return Ok(Place(Arc::clone(&self.0), network));
        };
        let retry = HeaderValue::from_static("60");
        Err(Problem::new(status, text).with(header::RETRY_AFTER, retry))
    }
}

impl<N: Hash + Eq> Drop for Place<N> {
    fn drop(&mut self) {
        let mut taken = self.0.lock();
        if let Some(own) = taken.get_mut(&self.1) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.1);
            }
        }
    }
}

/// A download that holds a place until its last byte is sent, or its reader is gone.
pub(crate) fn holding<N>(download: Download, place: Place<N>) -> Download
where
    N: Hash + Eq + Send + Sync + 'static,
{
    let content = download.content.inspect(move |_| {
        let _ = &place;
    });
    Download {
        content: Box::pin(content),
        ..download
    }
}

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
    fn strangers_have_so_many_places_and_each_network_a_part_of_them() {
        let places = Places::default();
        let mut taken: Vec<_> = (0..PLACES)
            .map(|number| places.take(number / PLACES_OF_NETWORK).unwrap())
            .collect();
        let status = |network| places.take(network).unwrap_err().status().as_u16();
        assert_eq!((status(0), status(99)), (429, 503));
        taken.pop();
        drop(places.take(99).unwrap());
        drop(taken);
        assert!(places.0.lock().is_empty());
    }

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
