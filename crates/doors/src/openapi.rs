//! `/api/openapi.json`: everything that the doors answer, as an OpenAPI 3.1 document. The paths are those of the router,
//! the schemas those of the model: nothing of it is written by hand but the words.

use std::sync::LazyLock;

use ::cimi::{
    model::{
        Kind,
        schema::{reference, schemas},
    },
    uri::SPECIFICATION_VERSION,
};
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Map, Value, json};

use crate::{
    body::ResponseBody,
    routes::{Listed, Route, all_routes},
};

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());

/// The document.
pub(crate) fn answer() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(DOCUMENT.clone()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn document() -> Value {
    let mut paths = Map::new();
    for listed in all_routes() {
        let example = listed.path.replace("{id}", "7").replace("{member}", "8");
        let Some(route) = Route::of(&example) else {
            continue;
        };
        let mut item = json!({"parameters": path_parameters(&listed.path)});
        for method in listed.methods.split(", ") {
            item[method.to_ascii_lowercase()] = operation(&listed, &route, method);
        }
        paths.insert(listed.path, item);
    }
    let mut components = json!({
        "securitySchemes": {"password": {"type": "http", "scheme": "basic"},
            "certificate": {"type": "mutualTLS"}},
        "responses": {"Problem": {
            "description": "What went wrong, with which value, and what to do",
            "content": {
                "application/problem+json": {"schema": reference("Problem")},
                "application/xml": {}}}},
        "parameters": query_parameters(),
    });
    let mut all = schemas();
    all.insert("Problem".to_owned(), problem());
    components["schemas"] = all.into();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Stratus",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!("CIMI {SPECIFICATION_VERSION} in JSON and XML, StratusLab profile."),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "security": [{"password": []}, {"certificate": []}],
        "paths": paths,
        "components": components,
    })
}

fn problem() -> Value {
    json!({"type": "object", "required": ["status", "detail", "message", "code", "requestId"], "properties": {
        "type": {"type": "string"}, "title": {"type": "string"},
        "status": {"type": "integer"}, "code": {"type": "integer"},
        "detail": {"type": "string"}, "message": {"type": "string"}, "requestId": {"type": "string"},
        "violations": {"type": "array", "items": {"type": "object", "properties": {
            "path": {"type": "string"}, "problem": {"type": "string"}}}}}})
}

/// Parameters of queries, by the name under which operations refer to them.
fn query_parameters() -> Value {
    let parameter = |name: &str, description: &str| json!({"name": name, "in": "query", "description": description, "schema": {"type": "string"}});
    let number = |name: &str, description: &str| {
        json!({"name": name, "in": "query", "description": description,
            "schema": {"type": "integer", "minimum": 1}})
    };
    json!({
        "select": parameter("$select", "Only these attributes, separated by commas"),
        "expand": parameter("$expand", "What is referred to in the place of these references; `*`: all"),
        "filter": parameter("$filter", "Only members of which this holds: `state='STARTED' and cpu>1`"),
        "orderby": parameter("$orderby", "Sorted by these attributes: `name,created:desc`"),
        "first": number("$first", "From this member on, counted from 1 after filtering"),
        "last": number("$last", "Up to this member"),
        "format": json!({"name": "$format", "in": "query", "description": "Instead of Accept",
            "schema": {"type": "string", "enum": ["json", "xml"]}}),
        "since": parameter("$since", "As text/event-stream: what changed after this revision, or `now`"),
        "lastEventId": json!({"name": "Last-Event-ID", "in": "header", "schema": {"type": "integer"},
            "description": "As text/event-stream: what changed after this revision"}),
        "ofUser": parameter("user", "Of this user only"),
        "ofGroup": parameter("group", "Of the members of this group together"),
        "from": parameter("from", "What ended before this time is left out"),
        "to": parameter("to", "What began at this time or later is left out"),
        "limit": number("limit", "So many at most"),
        "lastEntries": number("last", "So many of the newest"),
        "after": parameter("after", "Go on: the `next` of the page before"),
        "ifMatch": json!({"name": "If-Match", "in": "header", "schema": {"type": "string"},
            "description": "Only if it still is what has this ETag; else 412"}),
        "ifNoneMatch": json!({"name": "If-None-Match", "in": "header", "schema": {"type": "string"},
            "description": "304 if it still is what has this ETag"}),
    })
}

fn path_parameters(path: &str) -> Value {
    let named = ["id", "member"].into_iter();
    named
        .filter(|name| path.contains(&format!("{{{name}}}")))
        .map(|name| {
            json!({"name": name, "in": "path", "required": true,
                "schema": {"type": "string", "minLength": 1, "maxLength": 200}})
        })
        .collect::<Vec<_>>()
        .into()
}

fn operation(listed: &Listed, route: &Route<'_>, method: &str) -> Value {
    let id = format!("{} {}", method.to_ascii_lowercase(), listed.path);
    let id: String = id
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let parameters: Vec<Value> = parameters(route, method)
        .iter()
        .map(|name| json!({"$ref": format!("#/components/parameters/{name}")}))
        .collect();
    let mut responses = success(route, method);
    responses["default"] = json!({"$ref": "#/components/responses/Problem"});
    let mut operation = json!({"operationId": id, "summary": summary(route, method),
        "responses": responses});
    if let Some(kind) = listed.kind {
        operation["tags"] = json!([kind.name()]);
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = body(route, method) {
        operation["requestBody"] = body;
    }
    let is_open = matches!(
        route,
        Route::EntryPoint
            | Route::Health
            | Route::Load
            | Route::OpenApi
            | Route::Authentication
            | Route::Manual
            | Route::Asset(_)
            | Route::People(_)
            | Route::Collection(Kind::ServiceMessage)
            | Route::Resource(Kind::ServiceMessage, _)
            | Route::Marketplace(_)
    );
    if is_open {
        // An empty requirement: nobody needs to log in.
        operation["security"] = json!([{"password": []}, {}]);
    }
    operation
}

fn parameters(route: &Route<'_>, method: &str) -> &'static [&'static str] {
    match (route, method) {
        (Route::Collection(_) | Route::OwnCollection(..), "GET") => &[
            "filter",
            "orderby",
            "first",
            "last",
            "select",
            "expand",
            "format",
            "since",
            "lastEventId",
            "ifNoneMatch",
        ],
        (Route::Collection(_) | Route::OwnCollection(..), "HEAD") => &[
            "filter",
            "orderby",
            "first",
            "last",
            "select",
            "expand",
            "format",
            "ifNoneMatch",
        ],
        (Route::EntryPoint | Route::Resource(..) | Route::Member(..), "GET" | "HEAD") => {
            &["select", "expand", "format", "ifNoneMatch"]
        }
        (Route::Resource(..), "PUT") => &["select", "format", "ifMatch"],
        (Route::Resource(..) | Route::Action(..) | Route::Member(..), "POST" | "DELETE") => {
            &["ifMatch"]
        }
        (Route::Collection(_) | Route::OwnCollection(..), "POST") => &["format"],
        (Route::Audit, "GET" | "HEAD") => &["lastEntries", "ofUser"],
        (Route::Quota, "GET" | "HEAD") => &["ofUser", "ofGroup"],
        (Route::Accounting, "GET" | "HEAD") => &["from", "to", "ofUser", "limit", "after"],
        _ => &[],
    }
}

/// What is made, changed or done, by the name of its schema.
fn body(route: &Route<'_>, method: &str) -> Option<Value> {
    let (schema, required) = match (route, method) {
        (Route::Collection(kind) | Route::OwnCollection(_, _, _, kind), "POST") => {
            (format!("{kind}Create"), true)
        }
        (Route::Resource(kind, _), "PUT") => (format!("{kind}Edit"), true),
        (Route::Resource(..), "POST") => ("Action".to_owned(), true),
        (Route::Action(..), "POST") => ("Action".to_owned(), false),
        (Route::ImageData(_), "PUT") => {
            return Some(json!({"required": true, "content": {"application/octet-stream": {}}}));
        }
        (Route::People(_), "POST" | "PUT") => {
            let fields =
                json!({"schema": {"type": "object", "additionalProperties": {"type": "string"}}});
            return Some(json!({"required": true, "content": {
                "application/x-www-form-urlencoded": fields, "application/json": fields}}));
        }
        _ => return None,
    };
    Some(json!({"required": required, "content": {
        "application/json": {"schema": reference(&schema)},
        "application/xml": {"schema": {"type": "string"}}}}))
}

fn success(route: &Route<'_>, method: &str) -> Value {
    let shown = |schema: String| {
        json!({"description": "As it is now", "headers": {"ETag": {"schema": {"type": "string"}}},
            "content": {"application/json": {"schema": reference(&schema)}, "application/xml": {}}})
    };
    let plain = |description: &str| json!({"description": description});
    let job = || {
        json!({"description": "It goes on; the job tells how it ends",
            "headers": {"CIMI-Job-URI": {"schema": {"type": "string"}}}})
    };
    let read =
        |schema: String| json!({"200": shown(schema), "304": plain("It is what the client has")});
    let list = |schema: String| {
        let mut responses = read(schema);
        // The collection as it goes on.
        responses["200"]["content"]["text/event-stream"] = json!({});
        responses
    };
    match (route, method) {
        (_, "OPTIONS") => json!({"204": plain("`Allow` says what may be done")}),
        (Route::Health, "HEAD") => {
            let body = json!({"application/json": {}});
            json!({"200": plain("It works"), "503": {"description": "It doesn't", "content": body}})
        }
        (_, "HEAD") => {
            json!({"200": plain("As GET, without the body"), "304": plain("It is what the client has")})
        }
        (Route::EntryPoint, _) => read(Kind::CloudEntryPoint.name().to_owned()),
        (Route::Collection(kind) | Route::OwnCollection(_, _, _, kind), "GET") => {
            list(format!("{kind}Collection"))
        }
        (Route::Resource(kind, _) | Route::Member(_, _, _, kind, _), "GET") => {
            read(kind.name().to_owned())
        }
        (Route::Collection(kind) | Route::OwnCollection(_, _, _, kind), _) => {
            let mut made = shown(kind.name().to_owned());
            made["headers"]["Location"] = json!({"schema": {"type": "string"}});
            made["headers"]["CIMI-Job-URI"] = json!({"schema": {"type": "string"}});
            json!({"201": made, "200": shown(kind.name().to_owned())})
        }
        (Route::Resource(kind, _), "PUT") => {
            json!({"200": shown(kind.name().to_owned()), "202": job(), "204": plain("Done")})
        }
        (Route::Resource(..) | Route::Member(..) | Route::Action(..), _) => {
            json!({"202": job(), "204": plain("Done")})
        }
        (Route::ImageData(_), "GET") => {
            json!({"200": {"description": "The content", "content": {"application/octet-stream": {}}}})
        }
        (Route::ImageData(_), _) => json!({"200": shown(Kind::MachineImage.name().to_owned())}),
        (Route::Console(_) | Route::Load | Route::Metrics, _) => {
            json!({"200": {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}})
        }
        (Route::Manual, _) => {
            json!({"200": {"description": "A page", "content": {"text/html": {"schema": {"type": "string"}}}}})
        }
        (Route::Health, _) => {
            let body = json!({"application/json": {"schema": {"type": "object"}}});
            json!({"200": {"description": "It works", "content": body},
                "503": {"description": "It doesn't", "content": body}})
        }
        (Route::People(_), _) => {
            json!({"200": {"description": "A page, or for programs JSON", "content": {"text/html": {}, "application/json": {}}},
                "202": plain("Taken, and to be confirmed by a letter"), "303": plain("On to another page")})
        }
        (Route::Marketplace(_), "POST") => {
            json!({"200": plain("Done, or a list"), "201": plain("It is an entry"), "202": plain("A letter goes to the endorser"), "303": plain("Done; on to the account")})
        }
        (Route::Marketplace(_), _) => {
            let forms = json!({"application/xml": {}, "application/json": {}, "text/html": {}});
            json!({"200": {"description": "What was asked for", "content": forms}, "404": plain("Nothing matches")})
        }
        (Route::HostToken(_), _) => json!({"204": plain("It is good for nothing any more")}),
        (Route::Asset(_), _) => {
            json!({"200": plain("The file"), "304": plain("It is what the client has")})
        }
        (
            Route::Authentication
            | Route::Status
            | Route::Doctor
            | Route::Audit
            | Route::Catalogue
            | Route::Quota
            | Route::Accounting
            | Route::HostTokens
            | Route::OpenApi,
            _,
        ) => {
            json!({"200": {"description": "What was asked for",
                "content": {"application/json": {"schema": {"type": "object"}}}}})
        }
    }
}

pub(crate) fn summary(route: &Route<'_>, method: &str) -> String {
    match (route, method) {
        (_, "OPTIONS") => "What may be done here".to_owned(),
        (Route::EntryPoint, _) => "Where everything is".to_owned(),
        (Route::Collection(kind) | Route::OwnCollection(_, _, _, kind), "GET" | "HEAD") => {
            format!("List: {kind}")
        }
        (Route::Collection(kind), _) => format!("Make: {kind}"),
        (Route::OwnCollection(parent, _, _, kind), _) => format!("Add to a {parent}: {kind}"),
        (Route::Resource(kind, _) | Route::Member(_, _, _, kind, _), "GET" | "HEAD") => {
            format!("Show: {kind}")
        }
        (Route::Resource(kind, _), "PUT") => format!("Change: {kind}"),
        (Route::Resource(kind, _), "DELETE") => format!("Delete: {kind}"),
        (Route::Member(parent, _, _, kind, _), _) => format!("Take out of a {parent}: {kind}"),
        (Route::Resource(kind, _), _) => format!("Do what the Action says: {kind}"),
        (Route::Action(kind, _, action), _) => format!("{action}: {kind}"),
        (Route::ImageData(_), "GET" | "HEAD") => {
            "The content of an image, as it is kept or as another format".to_owned()
        }
        (Route::ImageData(_), _) => "Send the content of an image made with upload:".to_owned(),
        (Route::Console(_), _) => "The serial console".to_owned(),
        (Route::Authentication, _) => "Who asks, and how to log in".to_owned(),
        (Route::Health, _) => "How well the cloud is".to_owned(),
        (Route::Load, _) => "How full the hosts are".to_owned(),
        (Route::Metrics, _) => "Figures for Prometheus".to_owned(),
        (Route::Status, _) => "What there is, for administrators".to_owned(),
        (Route::Doctor, _) => "What belongs to nobody, for administrators".to_owned(),
        (Route::Audit, _) => "Who did what, for administrators".to_owned(),
        (Route::Catalogue, _) => {
            "Where images are found by name, or what a catalogue has (?name=NAME)".to_owned()
        }
        (Route::Quota, _) => "What a user or a group has and may have".to_owned(),
        (Route::Accounting, _) => "Who used what from when to when: a page of it".to_owned(),
        (Route::HostTokens, "GET" | "HEAD") => {
            "The tokens that hosts can join by, without their secret, for administrators".to_owned()
        }
        (Route::HostToken(_), _) => {
            "Withdraw a token that no host has joined by, for administrators".to_owned()
        }
        (Route::HostTokens, _) => {
            "Make a token that one host joins by, for administrators: {\"name\"?, \"hours\"?}"
                .to_owned()
        }
        (Route::Manual, _) => "The interface, for people".to_owned(),
        (Route::OpenApi, _) => "The interface, for programs: an OpenAPI document".to_owned(),
        (Route::Asset(_), _) => "A file that pages load".to_owned(),
        (Route::Marketplace(_), "POST") => "Publish, or confirm, in the Marketplace".to_owned(),
        (Route::Marketplace(_), _) => "Read the Marketplace".to_owned(),
        (Route::People(_), "POST" | "PUT") => "What the form of a page for people sends".to_owned(),
        (Route::People(_), _) => "A page for people".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ::cimi::model::{Creation, describe};

    use super::*;

    #[test]
    fn every_route_of_the_router_is_told_with_every_method() {
        let document = document();
        let mut ids = BTreeSet::new();
        for listed in all_routes() {
            for method in listed.methods.split(", ") {
                let operation = &document["paths"][&listed.path][method.to_ascii_lowercase()];
                let id = operation["operationId"].as_str().unwrap_or_default();
                assert!(!id.is_empty(), "{method} {}", listed.path);
                assert!(ids.insert(id.to_owned()), "{id}");
                assert!(operation["responses"]["default"].is_object());
            }
        }
    }

    #[test]
    fn what_is_referred_to_is_in_the_document() {
        let document = document();
        let text = document.to_string();
        let mut found = 0;
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            found += 1;
        }
        assert!(found > 200, "{found}");
        for kind in Kind::ALL {
            let creatable = !matches!(describe(*kind).creation, Creation::Never);
            let there = document
                .pointer(&format!("/components/schemas/{kind}Create"))
                .is_some();
            assert_eq!(creatable, there, "{kind}");
        }
    }
}
