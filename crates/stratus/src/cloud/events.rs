//! A list as it goes on: the cloud tells what changes (`text/event-stream`), so that nobody asks again and again.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::{Api, ApiError};

const MEDIA: &str = "text/event-stream";
/// The cloud says something every 15 s: who is silent for longer is not there any more.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// The longest event that is read.
const EVENT_MAX_BYTES: usize = 16 << 20;

/// What the cloud tells of a list.
#[derive(Debug)]
pub struct Events {
    response: reqwest::Response,
    /// What came and is no whole event yet.
    rest: Vec<u8>,
}

/// Something that was told.
#[derive(Debug, PartialEq)]
pub struct Told {
    /// `changed`, `removed`, …
    pub event: String,
    /// What it is about.
    pub data: Value,
}

impl Api {
    /// Follows a list, all of whose members are told first. None if this cloud doesn't tell.
    ///
    /// # Errors
    /// [`ApiError`] of the network.
    pub async fn follow(&self, list: &str) -> Result<Option<Events>, ApiError> {
        let response = match self.open_as(list, MEDIA).await {
            Ok(response) => response,
            Err(ApiError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let media = response.headers().get(CONTENT_TYPE);
        let tells = media.is_some_and(|media| media.as_bytes().starts_with(MEDIA.as_bytes()));
        Ok(tells.then(|| Events {
            response,
            rest: Vec::new(),
        }))
    }
}

impl Events {
    /// The next thing told; none when it has ended or broken off. Nothing is lost when it isn't waited for to the end.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(told) = first_of(&mut self.rest) {
                return Some(told);
            }
            if self.rest.len() > EVENT_MAX_BYTES {
                return None;
            }
            let chunk = tokio::time::timeout(LONGEST_SILENCE, self.response.chunk()).await;
            self.rest.extend_from_slice(&chunk.ok()?.ok()??);
        }
    }
}

/// Takes the first whole event out of what came. What isn't one of ours is passed over.
fn first_of(rest: &mut Vec<u8>) -> Option<Told> {
    loop {
        let end = rest.windows(2).position(|two| two == b"\n\n")?;
        let event: Vec<u8> = rest.drain(..end + 2).collect();
        let text = String::from_utf8_lossy(&event);
        let field = |name: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name));
            lines.map(|value| value.trim_start()).collect::<String>()
        };
        let (event, data) = (field("event:"), field("data:"));
        if let Ok(data) = serde_json::from_str(&data)
            && !event.is_empty()
        {
            return Some(Told { event, data });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_read_however_they_come() {
        let text = b"retry: 1000\n\nevent: changed\ndata: {\"id\":\"Job/1\",\ndata: \"state\":\"RUNNING\"}\n\n:\n\nid: 7\nevent: current\ndata: {\"revision\":7}\n\nid:\n\n";
        for pieces in [1, 7, text.len()] {
            let (mut rest, mut told) = (Vec::new(), Vec::new());
            for piece in text.chunks(pieces) {
                rest.extend_from_slice(piece);
                told.extend(std::iter::from_fn(|| first_of(&mut rest)));
            }
            let told: Vec<_> = told
                .into_iter()
                .map(|told| (told.event, told.data))
                .collect();
            assert_eq!(
                told,
                [
                    (
                        "changed".to_owned(),
                        json!({"id": "Job/1", "state": "RUNNING"})
                    ),
                    ("current".to_owned(), json!({"revision": 7})),
                ]
            );
        }
    }
}
