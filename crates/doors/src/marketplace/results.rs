//! Answers for programs: lists as XML and JSON, tables as SPARQL results.

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use marketplace::catalogue::{Column, Found, Name, Record};
use marketplace_query::{Table, Value as QueryValue};
use marketplace_service::Marketplace;
use serde_json::{Value, json};

use super::place::Media;
use crate::body::ResponseBody;

pub(crate) const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// An answer of some media type.
pub(crate) fn answer(
    status: StatusCode,
    media: &'static str,
    body: impl Into<Bytes>,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::VARY, HeaderValue::from_static("Accept, User-Agent"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

pub(crate) fn json_answer(value: &Value) -> Response<ResponseBody> {
    answer(StatusCode::OK, "application/json", value.to_string())
}

/// A document without what may stand only at the beginning of a file.
fn inner(document: &str) -> &str {
    let text = document.trim_start_matches('\u{feff}').trim_start();
    match text
        .strip_prefix("<?xml")
        .and_then(|rest| rest.split_once("?>"))
    {
        Some((_, rest)) => rest.trim_start(),
        None => text,
    }
}

/// `<metadata>` around the documents as they are, sent as fast as they are read.
pub(crate) fn documents(service: &Marketplace, names: Vec<Name>) -> Response<ResponseBody> {
    let end = std::iter::once(None);
    let steps = names.into_iter().map(Some).chain(end);
    let state = (service.clone(), steps, true);
    let body = stream::unfold(state, |(service, mut steps, is_first)| async move {
        let begin = if is_first {
            format!("{DECLARATION}<metadata>\n")
        } else {
            String::new()
        };
        let text = match steps.next()? {
            Some(name) => match service.document(&name).await {
                Ok(Some(document)) => format!("{begin}{}\n", inner(&document)),
                // It was there a moment ago.
                Ok(None) => begin,
                Err(error) => {
                    let error = std::io::Error::other(error.to_string());
                    return Some((Err(error), (service, steps, false)));
                }
            },
            None => format!("{begin}</metadata>\n"),
        };
        Some((Ok(Bytes::from(text)), (service, steps, false)))
    });
    let mut response = answer(StatusCode::OK, "application/xml", Bytes::new());
    *response.body_mut() = ResponseBody::Streaming(Box::pin(body));
    response
}

/// The table of DataTables 1.x.
pub(crate) fn table(found: &Found, echo: i64) -> Value {
    let rows: Vec<Value> = found
        .page
        .iter()
        .map(|record| {
            let columns = Column::ALL.iter().map(|column| {
                let text = column.text(record).filter(|text| !text.is_empty());
                Value::from(text.unwrap_or_else(|| "null".to_owned()))
            });
            std::iter::once(Value::from("")).chain(columns).collect()
        })
        .collect();
    let message = if rows.is_empty() {
        "no metadata matching query found"
    } else {
        ""
    };
    json!({
        "sEcho": echo,
        "iTotalRecords": found.of_status,
        "iTotalDisplayRecords": found.matching,
        "rMsg": message,
        "aaData": rows,
    })
}

/// The plain list.
pub(crate) fn list(found: &Found, offset: usize, limit: usize) -> Value {
    let entries: Vec<_> = found.page.iter().map(|record| described(record)).collect();
    json!({
        "count": found.matching,
        "offset": offset,
        "limit": limit,
        "entries": entries,
    })
}

fn described(record: &Record) -> Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert(
            "path".to_owned(),
            format!("metadata/{}", record.path()).into(),
        );
    }
    value
}

/// A table of text as an answer to a query is written.
pub(crate) fn sparql(
    variables: &[&str],
    rows: impl Iterator<Item = Vec<Option<String>>>,
    media: Media,
) -> Response<ResponseBody> {
    let values = |row: Vec<Option<String>>| {
        let values = row.into_iter().map(|text| text.map(QueryValue::Literal));
        values.collect()
    };
    let table = Table {
        variables: variables.iter().map(|name| (*name).to_owned()).collect(),
        rows: rows.map(values).collect(),
    };
    answered_query(&table, media)
}

/// The answer to a query, as XML unless JSON is asked for.
pub(crate) fn answered_query(table: &Table, media: Media) -> Response<ResponseBody> {
    match media {
        Media::Json => answer(
            StatusCode::OK,
            "application/sparql-results+json",
            table.to_json(),
        ),
        Media::Xml | Media::Html => answer(
            StatusCode::OK,
            "application/sparql-results+xml",
            table.to_xml(),
        ),
    }
}
