//! A collection as it goes on: server-sent events (`text/event-stream`), for those who would poll otherwise.
//!
//! | event | data |
//! |---|---|
//! | `reset` | `{}`: what is known counts no more; all members follow |
//! | `changed` | a member, new or changed, as it is shown in a list; with `$select`, only if that is otherwise than before |
//! | `removed` | `{"id": "Machine/…"}`: it is gone, or not for the caller, or satisfies the filter no more |
//! | `current` | `{"revision": n}`, with `id: n`: all up to here has been told |
//!
//! Whoever comes back with the last `id` in `Last-Event-ID` (browsers do) goes on from there. A stream ends after
//! [`LIFE`], when the server ends, and when the caller's rights end or become others: then the last thing it says is an
//! empty `id`, so that who comes back begins anew and keeps nothing that isn't for them any more.

use std::{sync::Arc, time::Duration};

use ::cimi::{model::Kind, query::Select};
use bytes::Bytes;
use cloud::{ByteStream, Since, Watched};
use futures::{StreamExt, future, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use serde_json::json;
use tokio::time::sleep;

use super::{
    Asked, Cimi,
    negotiation::{Format, Parameters},
    rendered::Rendered,
};
use crate::{body::ResponseBody, problem::Problem, routes::Route};

/// How long a stream goes on at most.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// How often something is sent at least, so that nobody in between takes the connection for dead.
const PULSE: Duration = Duration::from_secs(15);
const MEDIA: &str = "text/event-stream";

/// What can be followed.
pub(crate) enum List<'r> {
    /// All of a type.
    Of(Kind),
    /// What a resource has of its own: its type and id, the attribute, the type of the members.
    Within(Kind, &'r str, &'static str, Kind),
}

impl<'r> List<'r> {
    /// That of a route, if it leads to one.
    pub(crate) fn of(route: &'r Route<'_>) -> Option<Self> {
        match route {
            Route::Collection(kind) => Some(Self::Of(*kind)),
            Route::OwnCollection(parent, id, name, members) => {
                Some(Self::Within(*parent, id, name, *members))
            }
            _ => None,
        }
    }
}

/// Whether a client wants a collection as it goes on.
pub(crate) fn are_wanted(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .any(|media| media.trim().eq_ignore_ascii_case(MEDIA))
}

/// Why there is no form in which something could be sent, for who wants it as it goes on and can't have that: of collections only.
pub(crate) fn instead_of(route: &Route<'_>, headers: &HeaderMap, problem: Problem) -> Problem {
    if !are_wanted(headers) {
        return problem;
    }
    let instead = match route {
        Route::Resource(kind, id) => {
            let (kind, id) = (kind.name(), id.chars().take(80).collect::<String>());
            // Machines have numbers, too.
            let filter = if id.bytes().all(|byte| byte.is_ascii_digit()) {
                format!("vmid={id}")
            } else {
                format!("id='{kind}/{id}'")
            };
            format!("GET /cimi/{kind}?$filter={filter} tells of this one alone")
        }
        _ => "GET /cimi/Machine, for example".to_owned(),
    };
    Problem::new(
        406,
        format!("only collections are sent as they go on ({MEDIA}): {instead}"),
    )
}

/// From where on: `Last-Event-ID`, or for a first request the parameter `$since` (`now`, or a revision).
fn since(headers: &HeaderMap, parameters: &Parameters<'_>) -> Result<Since, Problem> {
    let last = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .map(str::trim);
    let asked = || {
        let found = parameters.iter().find(|(name, _)| name == "$since");
        found.map(|(_, value)| value.trim())
    };
    match last.filter(|last| !last.is_empty()).or_else(asked) {
        None | Some("") => Ok(Since::Beginning),
        Some("now") => Ok(Since::Now),
        Some(revision) => revision.parse().map(Since::Revision).map_err(|_| {
            let shown: String = revision.chars().take(50).collect();
            Problem::new(
                400,
                format!(
                    "`{shown}` is no id of an event; send one that a stream gave, `now`, or nothing"
                ),
            )
        }),
    }
}

impl Cimi {
    /// The answer; its body goes on until `end`, as long as the caller's rights are what they were, and for [`LIFE`] at most.
    pub(crate) async fn watch(
        &self,
        list: &List<'_>,
        asked: &Asked<'_>,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Response<ResponseBody>, Problem> {
        let since = since(asked.headers, asked.parameters)?;
        let context = asked.context;
        let (query, watching) = match *list {
            List::Of(kind) => {
                let query = asked.query_of(kind)?;
                let watching = self.api.watch(context, kind, &query, since).await?;
                (query, watching)
            }
            List::Within(parent, id, name, members) => {
                let query = asked.query_of(members)?;
                let watching = self
                    .api
                    .watch_members(context, parent, id, name, &query, since)
                    .await?;
                (query, watching)
            }
        };
        let (rendered, select, format) = (Arc::clone(&self.rendered), query.select, asked.format);
        let events = watching
            .filter_map(move |watched| future::ready(event(&watched, &rendered, &select, format)))
            .map(Some)
            .chain(stream::iter([Some(Bytes::from_static(b"id:\n\n")), None]));
        let pulse = stream::unfold((), async |()| {
            sleep(PULSE).await;
            Some((Some(Bytes::from_static(b":\n\n")), ()))
        });
        let begin = stream::iter([Bytes::from_static(b"retry: 1000\n\n")]);
        let content: ByteStream = Box::pin(
            begin
                .map(Some)
                .chain(stream::select(events, pulse))
                .take_while(|sent| future::ready(sent.is_some()))
                .filter_map(future::ready)
                .map(Ok)
                .take_until(end)
                .take_until(sleep(LIFE)),
        );
        let mut response = Response::new(ResponseBody::Streaming(content));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // nginx would otherwise hold it back until a buffer is full.
        headers.insert(
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        );
        Ok(response)
    }
}

/// What is told of it; nothing of a change that makes no difference to what is selected.
fn event(watched: &Watched, rendered: &Rendered, select: &Select, format: Format) -> Option<Bytes> {
    let (name, id, data) = match watched {
        Watched::Reset => ("reset", None, Bytes::from_static(b"{}")),
        Watched::Changed { now, before } => {
            let data = rendered.represent(now, select, format);
            let is_selected = *select != Select::All;
            if let Some(before) = before.as_ref().filter(|_| is_selected)
                && rendered.represent(before, select, format) == data
            {
                return None;
            }
            ("changed", None, data)
        }
        Watched::Removed(id) => ("removed", None, json!({"id": id}).to_string().into()),
        Watched::UpTo(revision) => {
            let data = json!({"revision": revision}).to_string().into();
            ("current", Some(*revision), data)
        }
    };
    let mut out = Vec::with_capacity(data.len() + 64);
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    out.extend_from_slice(format!("event: {name}\n").as_bytes());
    // A line break would end the data; in XML texts may have some.
    for line in data.split(|byte| *byte == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_go_on_is_what_the_last_event_said() {
        let asked = |header: Option<&str>, query: &str| {
            let headers = header
                .map(|value| {
                    (
                        HeaderName::from_static("last-event-id"),
                        value.parse().unwrap(),
                    )
                })
                .into_iter()
                .collect();
            let parameters = super::super::negotiation::parameters(Some(query));
            since(&headers, &parameters).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(asked(None, ""), Ok(Since::Beginning));
        assert_eq!(asked(None, "$since=now"), Ok(Since::Now));
        assert_eq!(asked(None, "$since=7"), Ok(Since::Revision(7)));
        assert_eq!(asked(Some("9"), "$since=7"), Ok(Since::Revision(9)));
        assert_eq!(asked(Some(""), ""), Ok(Since::Beginning));
        assert_eq!(asked(Some("-1"), ""), Err(400));
        assert_eq!(asked(None, "$since=x"), Err(400));
    }

    #[test]
    fn data_never_ends_before_its_end() {
        let rendered = Rendered::new(0);
        let text = |watched: Watched| {
            let bytes = event(&watched, &rendered, &Select::All, Format::Json).unwrap();
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        assert_eq!(
            text(Watched::UpTo(7)),
            "id: 7\nevent: current\ndata: {\"revision\":7}\n\n"
        );
        assert_eq!(
            text(Watched::Removed("Machine/\n7".into())),
            "event: removed\ndata: {\"id\":\"Machine/\\n7\"}\n\n"
        );
    }
}
