//! `/api`: the interface for people, as one page without scripts. The types and attributes are those of the model, the
//! paths those of the router: as with [`openapi`](crate::openapi), nothing of it is written by hand but the words.

use std::{fmt::Write as _, sync::LazyLock};

use ::cimi::model::{
    Access, Attribute, COMMON, Creation, Kind, Limit, Namespace, Shape, Type, describe,
};
use bytes::Bytes;
use http::{HeaderValue, Response, header};

use crate::{
    body::ResponseBody,
    openapi,
    routes::{Route, all_routes},
};

static PAGE: LazyLock<Bytes> = LazyLock::new(|| page().into());

/// The page.
pub(crate) fn answer() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(PAGE.clone()));
    let headers = response.headers_mut();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, html);
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>Stratus: the interface</title><style>\
body{font:15px/1.5 sans-serif;max-width:64em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;width:100%;margin:.5em 0 1.5em}\
td,th{border-bottom:1px solid #ddd;padding:.25em .6em;text-align:left;vertical-align:top}\
code{font:13px monospace}nav a{margin-right:.8em}h2{margin-top:2em;border-top:2px solid #ddd;padding-top:.5em}\
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}a{color:#8bf}td,th,h2{border-color:#444}}\
</style>";

const INTRODUCTION: &str = "<h1>The interface of Stratus</h1>\
<p>Stratus speaks CIMI (DMTF DSP0263) with the types that StratusLab and Stratus add. For programs, the same is at \
<a href=\"/api/openapi.json\"><code>/api/openapi.json</code></a>.</p>\
<h2 id=\"use\">Use</h2>\
<table>\
<tr><th>Who asks</th><td>HTTP Basic with user name and password, or <code>Authorization: Bearer</code> with a \
<a href=\"#Token\">token</a></td></tr>\
<tr><th>Representation</th><td>JSON or XML, by <code>Accept</code> or <code>$format=json|xml</code>; a body's by \
<code>Content-Type</code>. Attributes that are empty are left out</td></tr>\
<tr><th>Lists</th><td><code>$filter=state='STARTED' and cpu&gt;1</code>, <code>$orderby=name,created:desc</code>, \
<code>$first=1&amp;$last=100</code>, <code>$select=id,name</code>, <code>$expand=*</code>. <code>count</code> tells how \
many match in all; a page has at most 5000</td></tr>\
<tr><th>Changes</th><td><code>PUT</code> with the whole resource, or with <code>?$select=name</code> to change some \
attributes only. With <code>If-Match</code> (of <code>ETag</code>), only if nobody else has changed it since: else 412</td></tr>\
<tr><th>What takes time</th><td>201 or 202, and <code>CIMI-Job-URI</code> names the <a href=\"#Job\">Job</a> that tells how \
it ends</td></tr>\
<tr><th>What happens</th><td><code>GET</code> of a list with <code>Accept: text/event-stream</code> goes on as it changes\
</td></tr>\
<tr><th>Errors</th><td><code>application/problem+json</code>: <code>detail</code> says what is wrong with which value and \
what to do. 400 not valid, 401 log in, 403 not allowed, 404 not there (or not to be seen), 405 not possible, 406 and 415 \
unknown representation, 409 not now, 412 changed meanwhile, 413 too large, 429 too many, 503 try again</td></tr>\
</table>";

fn page() -> String {
    let mut out = format!("{HEAD}{INTRODUCTION}");
    let offered = || Kind::ALL.iter().map(|kind| describe(*kind));
    out.push_str("<h2 id=\"types\">Types</h2><nav>");
    for described in offered() {
        let name = described.kind;
        let _ = write!(out, "<a href=\"#{name}\">{name}</a> ");
    }
    out.push_str("</nav><p>All have:</p>");
    attributes(&mut out, COMMON);
    for described in offered() {
        section(&mut out, described);
    }
    out.push_str("<h2 id=\"other\">Beside CIMI</h2><table>");
    for listed in all_routes() {
        if listed.kind.is_none() {
            paths(&mut out, &listed.path);
        }
    }
    out.push_str("</table></html>\n");
    out
}

/// One type.
fn section(out: &mut String, described: &'static Type) {
    let kind = described.kind;
    let origin = match described.namespace {
        Namespace::Cimi => "of the standard",
        Namespace::StratusLab => "of StratusLab and Stratus",
    };
    let _ = write!(
        out,
        "<h2 id=\"{kind}\">{kind}</h2><p>{origin}; <code>{}</code></p>",
        described.uri()
    );
    match described.creation {
        Creation::Template {
            member,
            kind: template,
            beside,
        } => {
            let _ = write!(
                out,
                "<p>Made from <code>{{\"{member}\": …}}</code>: a <a href=\"#{template}\">{template}</a> by value, or \
                 <code>{{\"href\": …}}</code> of one.</p>"
            );
            if !beside.is_empty() {
                out.push_str("<p>Beside it:</p>");
                attributes(out, beside);
            }
        }
        Creation::Plain { .. } => {
            out.push_str("<p>Made from its attributes.</p>");
        }
        Creation::Never => {}
    }
    if !described.attributes.is_empty() {
        attributes(out, described.attributes);
    }
    let own = all_routes();
    let mut own = own.iter().filter(|listed| listed.kind == Some(kind));
    let Some(first) = own.next() else {
        return;
    };
    out.push_str("<table>");
    paths(out, &first.path);
    for listed in own {
        paths(out, &listed.path);
    }
    out.push_str("</table>");
}

fn attributes(out: &mut String, attributes: &[Attribute]) {
    out.push_str("<table><tr><th>Attribute</th><th>Value</th><th>Written by</th></tr>");
    rows(out, "", attributes);
    out.push_str("</table>");
}

/// A row for each attribute; those of structures by their path.
fn rows(out: &mut String, above: &str, all: &[Attribute]) {
    for attribute in all {
        let name = format!("{above}{}", attribute.name);
        let writer = match attribute.access {
            Access::ReadOnly => "the cloud",
            Access::Write => "the client",
            Access::Create => "the client, at creation",
            Access::Secret => "the client; never shown",
        };
        let needed = if attribute.required { ", needed" } else { "" };
        let (value, inner) = shape(&attribute.shape);
        let allowed = limit(attribute);
        let _ = write!(
            out,
            "<tr><td><code>{name}</code></td><td>{value}{allowed}</td><td>{writer}{needed}</td></tr>"
        );
        rows(out, &format!("{name}."), inner);
    }
}

/// In words, and the attributes of what has some.
fn shape(shape: &Shape) -> (String, &'static [Attribute]) {
    let word = |text: &str| (text.to_owned(), &[][..]);
    match shape {
        Shape::Boolean => word("true or false"),
        Shape::Integer => word("whole number"),
        Shape::Decimal => word("number"),
        Shape::String => word("text"),
        Shape::DateTime => word("time"),
        Shape::Uri => word("URI"),
        Shape::Ref([]) => word("reference"),
        Shape::Ref(kinds) => {
            let links: Vec<_> = kinds.iter().map(|kind| link(*kind)).collect();
            (format!("reference to {}", links.join(" or ")), &[])
        }
        Shape::RefOrValue(kind) => (format!("{} by reference or value", link(*kind)), &[]),
        Shape::Map => word("texts by keys"),
        Shape::Struct(inner) | Shape::Flattened(inner, _) => ("structure".to_owned(), inner),
        Shape::Array(of) => {
            let (of, inner) = self::shape(of);
            (format!("list: {of}"), inner)
        }
        Shape::Collection(kind) => (format!("collection of {}", link(*kind)), &[]),
    }
}

fn link(kind: Kind) -> String {
    format!("<a href=\"#{kind}\">{kind}</a>")
}

fn limit(attribute: &Attribute) -> String {
    match attribute.limit {
        Limit::Usual => String::new(),
        Limit::Range(least, most) => format!(", {least} to {most}"),
        Limit::OneOf(allowed) => format!(": <code>{}</code>", allowed.join("</code>, <code>")),
        Limit::Text(most) => format!(", at most {most} bytes"),
        Limit::Base64(most) => format!(", base64 of at most {most} characters"),
    }
}

/// A row for each method of a path.
fn paths(out: &mut String, path: &str) {
    let example = path.replace("{id}", "7").replace("{member}", "8");
    let Some(route) = Route::of(&example) else {
        return;
    };
    for method in route.methods().split(", ") {
        if matches!(method, "HEAD" | "OPTIONS") {
            continue;
        }
        let summary = openapi::summary(&route, method);
        let _ = write!(
            out,
            "<tr><td><code>{method} {path}</code></td><td>{summary}</td></tr>"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_every_attribute_and_every_path_is_on_the_page() {
        let page = page();
        for kind in Kind::ALL {
            assert!(page.contains(&format!("<h2 id=\"{kind}\">")), "{kind}");
            for attribute in describe(*kind).attributes {
                let row = format!("<td><code>{}</code></td>", attribute.name);
                assert!(page.contains(&row), "{kind}.{}", attribute.name);
            }
        }
        for listed in all_routes() {
            for method in listed.methods.split(", ") {
                let row = format!("<code>{method} {}</code>", listed.path);
                let is_told = !matches!(method, "HEAD" | "OPTIONS");
                assert_eq!(page.contains(&row), is_told, "{row}");
            }
        }
    }

    #[test]
    fn every_link_of_the_page_leads_somewhere_on_it() {
        let page = page();
        let mut links = 0;
        for part in page.split("href=\"#").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{name}\"")), "{name}");
            links += 1;
        }
        assert!(links > 30, "{links}");
    }
}
