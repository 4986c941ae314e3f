//! The door of the Marketplace: StratusLab's routes, and pages for browsers.
//!
//! No document needs a login: its signature and the confirmation of its endorser are the authorization. Endorsers may sign in to see
//! what they have here ([`account`]). The same is answered below `/marketplace` and, where a daemon is nothing but a Marketplace, below `/`.
//!
//! - [`place`]: what a path names, and who wants which representation
//! - [`asked`]: from parameters to a query
//! - [`results`], [`feed`]: for programs
//! - [`pages`]: for people
//! - [`account`]: what endorsers do who are signed in
//! - [`multipart`]: files sent by forms

mod account;
mod asked;
mod feed;
mod multipart;
mod pages;
pub(crate) mod place;
mod results;

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use marketplace::catalogue::{Found, Name, Order, Query, Record};
use marketplace_service::{Marketplace, Refused, Uploaded};

use crate::{
    body::ResponseBody,
    cimi::negotiation::{self, Parameters},
    problem::Problem,
};
use asked::Asked;
use pages::Pages;
use place::{Act, Media, Place, is_browser, named, wanted};
use results::answer;

/// Days of an endorser's history that are shown if nobody says otherwise.
const HISTORY_DAYS: u32 = 30;
/// Longest body of a form that asks for a list.
const FORM_AT_MOST: usize = 16 << 10;
/// Rows of a page for people.
const ROWS: usize = 25;

/// A request, as far as this door needs it.
pub(crate) struct Call<'r> {
    pub(crate) method: &'r Method,
    pub(crate) headers: &'r HeaderMap,
    pub(crate) query: Option<&'r str>,
    /// What was sent, for POST.
    pub(crate) body: &'r [u8],
    pub(crate) source: IpAddr,
    /// Where this door is, as its operator or a proxy that is trusted says: `https://host/marketplace/`. Never what the caller says.
    pub(crate) base: String,
    /// `https://host:port`, as the caller knows this server: what its own pages' requests come from.
    pub(crate) origin: String,
    /// The certificate (DER) whose key the caller has, if it showed one.
    pub(crate) certificate: Option<&'r [u8]>,
    /// The path of it: `/marketplace`, or nothing.
    pub(crate) root: &'static str,
}

impl Call<'_> {
    /// The media type of errors and of short answers.
    fn is_page(&self) -> bool {
        named(self.headers) == Some(Media::Html)
            || (named(self.headers).is_none() && is_browser(self.headers))
    }
}

/// Answers; what goes wrong is an answer in the form the caller wants, too.
pub(crate) async fn answered(
    service: &Marketplace,
    place: &Place<'_>,
    call: &Call<'_>,
) -> Result<Response<ResponseBody>, Problem> {
    match reply(service, place, call).await {
        Ok(response) => Ok(response),
        // What only the log is told stays one.
        Err(problem) if problem.internal.is_some() => Err(problem),
        Err(problem) => error(service, call, &problem),
    }
}

async fn reply(
    service: &Marketplace,
    place: &Place<'_>,
    call: &Call<'_>,
) -> Result<Response<ResponseBody>, Problem> {
    let parameters = negotiation::parameters(call.query);
    let media = wanted(call.headers, &parameters)?;
    let pages = Pages::new(service, call);
    match (place, call.method) {
        (Place::Metadata(_), &Method::POST) => post(service, call).await,
        (Place::Action(link, act), &Method::POST) => act_on(service, call, link, *act).await,
        (Place::Action(link, act), _) => {
            let (waiting, described) = service.waiting_described(link).await.map_err(problem_of)?;
            pages.action(&waiting, described, *act)
        }
        (Place::SignIn(link), &Method::POST) => account::sign_in(service, call, link).await,
        (Place::SignIn(link), _) => {
            let email = service.who_signs_in(link).await.map_err(problem_of)?;
            pages.signs_in(&email)
        }
        (Place::Account, _) => account::show(service, call).await,
        (Place::AccountForm(form), _) => account::form(service, call, *form).await,
        (Place::Home, _) => Ok(on_to(&format!("{}/metadata", call.root))),
        (Place::Metadata(parts), _) => metadata(service, call, parts, &parameters, media).await,
        (Place::Tag(email, tag), _) => tagged(service, call, email, tag, media).await,
        (Place::Endorsers, _) => {
            let all: Vec<[String; 3]> = service.ask(|catalogue| {
                let all = catalogue.endorsers();
                all.map(|(email, subject, issuer)| [email, subject, issuer].map(str::to_owned))
                    .collect()
            });
            if media == Media::Html {
                return pages.endorsers(&all);
            }
            let rows = all.into_iter().map(|row| row.map(Some).to_vec());
            Ok(results::sparql(
                &["email", "subject", "issuer"],
                rows,
                media,
            ))
        }
        (Place::Endorser(email), _) => {
            let days = parameters
                .iter()
                .find(|(name, _)| name == "range")
                .and_then(|(_, value)| value.parse().ok())
                .unwrap_or(HISTORY_DAYS);
            endorser(service, &pages, email, days, media)
        }
        (Place::Tags(email), _) => {
            let tags = service.ask(|catalogue| catalogue.tags(email));
            if media == Media::Html {
                return pages.tags(email, tags);
            }
            let rows = tags.into_iter().map(|tag| vec![Some(tag)]);
            Ok(results::sparql(&["tag"], rows, media))
        }
        (Place::Query, _) => queried(service, &pages, &parameters, media).await,
        (Place::Upload, _) => pages.upload(),
        (Place::Atom | Place::Rss, _) => {
            let last = service.ask(|catalogue| catalogue.arrivals(feed::LENGTH));
            let make = if *place == Place::Atom {
                feed::atom
            } else {
                feed::rss
            };
            Ok(make(&call.base, &service.settings().title, &last))
        }
    }
}

/// To another page.
fn on_to(path: &str) -> Response<ResponseBody> {
    let mut response = answer(StatusCode::SEE_OTHER, "text/plain; charset=utf-8", "");
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}

/// `GET /metadata…`: a list, or one document.
async fn metadata(
    service: &Marketplace,
    call: &Call<'_>,
    parts: &[std::borrow::Cow<'_, str>],
    parameters: &Parameters<'_>,
    media: Media,
) -> Result<Response<ResponseBody>, Problem> {
    if parts.len() > 3 {
        return Err(nothing_found());
    }
    let pairs = parameters.iter().map(|(a, b)| (a.as_ref(), b.as_ref()));
    let asked = Asked::of(parts.iter().map(AsRef::as_ref), pairs)?;
    let Query {
        identifier,
        email,
        created,
        tag,
        ..
    } = &asked.query;
    if parts.len() == 3 {
        let missing = || Problem::new(404, "metadata entry not found.");
        let (Some(identifier), Some(email), Some(created)) = (identifier, email, created) else {
            return Err(missing());
        };
        let name: Name = (*identifier, email.as_str().into(), *created);
        let record = service
            .ask(|catalogue| catalogue.named(&name).cloned())
            .ok_or_else(missing)?;
        return document(service, call, &record, media).await;
    }
    // An endorser's tag names one document; among other conditions it is one of them.
    if let (1, Some(email), Some(tag), None) = (parts.len(), email, tag, identifier) {
        return tagged(service, call, email, tag, media).await;
    }
    if media == Media::Html {
        return Pages::new(service, call).find(&asked, parameters, parts);
    }
    list(service, &asked, media)
}

fn list(
    service: &Marketplace,
    asked: &Asked,
    media: Media,
) -> Result<Response<ResponseBody>, Problem> {
    let search = |offset, limit| {
        if asked.finds_nothing {
            Ok(Found::default())
        } else {
            service
                .search(&asked.query, asked.order, offset, limit)
                .map_err(problem_of)
        }
    };
    if media == Media::Json {
        let (offset, limit) = asked.page();
        let found = search(offset, limit)?;
        let value = if asked.is_plain {
            results::list(&found, offset, limit)
        } else {
            results::table(&found, asked.echo)
        };
        return Ok(results::json_answer(&value));
    }
    let found = match asked.limit {
        Some(limit) => search(asked.offset.unwrap_or(0), limit)?,
        None => search(asked.offset.unwrap_or(0), usize::MAX)?,
    };
    if found.page.is_empty() {
        return Err(nothing_found());
    }
    let names = found.page.iter().map(|record| record.name()).collect();
    Ok(results::documents(service, names))
}

fn nothing_found() -> Problem {
    Problem::new(404, "no metadata matching query found")
}

async fn tagged(
    service: &Marketplace,
    call: &Call<'_>,
    email: &str,
    tag: &str,
    media: Media,
) -> Result<Response<ResponseBody>, Problem> {
    let tag = tag.trim_matches('"');
    let record = service
        .ask(|catalogue| catalogue.tagged(email, tag))
        .ok_or_else(|| Problem::new(404, "metadata entry not found."))?;
    document(service, call, &record, media).await
}

/// One document, whatever its status.
async fn document(
    service: &Marketplace,
    call: &Call<'_>,
    record: &Record,
    media: Media,
) -> Result<Response<ResponseBody>, Problem> {
    let document = service
        .document(&record.name())
        .await
        .map_err(problem_of)?
        .ok_or_else(|| Problem::new(404, "metadata entry not found."))?;
    let (media, suffix, body) = match media {
        Media::Html => return Pages::new(service, call).entry(record, &document),
        Media::Xml => ("application/rdf+xml", "xml", document),
        Media::Json => {
            let graph = marketplace::rdf::json(document.as_bytes())
                .map_err(|error| Problem::internal(error.to_string()))?;
            ("application/json", "json", graph.to_string())
        }
    };
    let mut response = answer(StatusCode::OK, media, body);
    let disposition = format!("attachment; filename={}.{suffix}", record.identifier);
    if let Ok(value) = HeaderValue::from_str(&disposition) {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// `GET /query`: an answer in SPARQL's forms, or a page with the form.
async fn queried(
    service: &Marketplace,
    pages: &Pages<'_>,
    parameters: &Parameters<'_>,
    media: Media,
) -> Result<Response<ResponseBody>, Problem> {
    let text = parameters.iter().find(|(name, _)| name == "query");
    let text = text.map_or("", |(_, text)| text.trim());
    if text.is_empty() {
        return match media {
            Media::Html => pages.query("", None),
            _ => Ok(answer(
                StatusCode::NO_CONTENT,
                "application/sparql-results+xml",
                "",
            )),
        };
    }
    match (service.query(text).await, media) {
        (Ok(table), Media::Html) => pages.query(text, Some(Ok(&table))),
        (Ok(table), media) => Ok(results::answered_query(&table, media)),
        (Err(refused), Media::Html) => pages.query(text, Some(Err(problem_of(refused)))),
        (Err(refused), _) => Err(problem_of(refused)),
    }
}

fn endorser(
    service: &Marketplace,
    pages: &Pages<'_>,
    email: &str,
    days: u32,
    media: Media,
) -> Result<Response<ResponseBody>, Problem> {
    let now = jiff::Timestamp::now().as_second();
    let since = now.saturating_sub(i64::from(days.min(100_000)) * 86_400);
    let since = marketplace::UtcTime::from_unix_seconds(since)
        .ok_or_else(|| Problem::internal("a time".to_owned()))?;
    let (is_known, history) = service.ask(|catalogue| {
        (
            catalogue.knows_endorser(email),
            catalogue.of_endorser(email, since),
        )
    });
    if media == Media::Html {
        return if is_known {
            pages.endorser(email, days, &history)
        } else {
            Err(Problem::new(
                404,
                format!("nobody with the address {email} has endorsed an image here"),
            ))
        };
    }
    let mut rows = Vec::new();
    for record in history.iter().take(asked::ROWS_AT_MOST) {
        let row = |location: Option<&String>| {
            vec![
                Some(record.identifier.to_string()),
                Some(record.created.to_string()),
                record.description.clone(),
                location.cloned(),
                record.deprecated.clone(),
                Some(record.email.to_string()),
            ]
        };
        if record.locations.is_empty() {
            rows.push(row(None));
        }
        rows.extend(record.locations.iter().map(|location| row(Some(location))));
    }
    let variables = [
        "identifier",
        "created",
        "description",
        "location",
        "deprecated",
        "email",
    ];
    Ok(results::sparql(&variables, rows.into_iter(), media))
}

/// `POST /metadata`: a document, or a question as a form.
async fn post(service: &Marketplace, call: &Call<'_>) -> Result<Response<ResponseBody>, Problem> {
    let content_type = call
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        if call.body.len() > FORM_AT_MOST {
            return Err(Problem::new(413, "the form is too long"));
        }
        let text = String::from_utf8_lossy(call.body);
        let parameters = negotiation::parameters(Some(&text));
        let pairs = parameters.iter().map(|(a, b)| (a.as_ref(), b.as_ref()));
        return list(service, &Asked::of([], pairs)?, Media::Json);
    }
    let document = match multipart::boundary(content_type) {
        Some(boundary) => multipart::first_file(call.body, &boundary)
            .ok_or_else(|| Problem::new(400, "no valid file uploaded"))?,
        None if media_type.starts_with("multipart/") => {
            return Err(Problem::new(400, "no valid file uploaded"));
        }
        None => call.body,
    };
    if document.is_empty() {
        return Err(Problem::new(400, "post with null entity"));
    }
    let uploaded = service
        .upload(document, call.source)
        .await
        .map_err(problem_of)?;
    let known = match &uploaded {
        Uploaded::Known(record) => what_is_known(service, &call.base, record),
        _ => String::new(),
    };
    let (status, text, record) = match uploaded {
        Uploaded::Created(record) => (StatusCode::CREATED, "metadata entry created", Some(record)),
        Uploaded::Known(record) => (StatusCode::OK, known.as_str(), Some(record)),
        Uploaded::Waiting => (
            StatusCode::ACCEPTED,
            "confirmation email sent for new metadata entry",
            None,
        ),
    };
    done(service, call, status, text, record.as_deref())
}

/// What became of an entry that is uploaded once more: nothing is changed by that.
fn what_is_known(service: &Marketplace, base: &str, record: &Record) -> String {
    let newest = service.ask(|catalogue| {
        let newest = catalogue.newest(record.identifier, &record.email);
        newest.map(|newest| (newest.path(), newest.created, newest.deprecated.clone()))
    });
    let exists = "metadata entry exists";
    match newest {
        Some((_, _, Some(reason))) if record.deprecated.is_none() => format!(
            "{exists}, and its endorser has withdrawn it: {reason}. To publish the image again, sign its description anew and upload that"
        ),
        Some((path, created, _)) if created > record.created => format!(
            "{exists}, and its endorser has replaced it by a newer one: {base}metadata/{path}"
        ),
        _ => exists.to_owned(),
    }
}

async fn act_on(
    service: &Marketplace,
    call: &Call<'_>,
    link: &str,
    act: Act,
) -> Result<Response<ResponseBody>, Problem> {
    match act {
        Act::Confirm => {
            let record = service.confirm(link).await.map_err(problem_of)?;
            let text = "metadata entry created";
            done(service, call, StatusCode::CREATED, text, Some(&record))
        }
        Act::Abort => {
            let waiting = service.withdraw(link).await.map_err(problem_of)?;
            let text = format!("aborted addition of metadata entry {}", waiting.identifier);
            done(service, call, StatusCode::OK, &text, None)
        }
        Act::Abuse => {
            service.report(link).await.map_err(problem_of)?;
            let text = "thank you; the administrators have been told and may get in touch with you";
            done(service, call, StatusCode::OK, text, None)
        }
    }
}

/// How something ended well, with where it is now.
fn done(
    service: &Marketplace,
    call: &Call<'_>,
    status: StatusCode,
    text: &str,
    record: Option<&Record>,
) -> Result<Response<ResponseBody>, Problem> {
    let mut response = if call.is_page() {
        Pages::new(service, call).done(status, text, record)?
    } else {
        answer(status, "text/plain; charset=utf-8", format!("{text}\n"))
    };
    if let Some(record) = record {
        let location = format!("{}metadata/{}", call.base, record.path());
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
    }
    Ok(response)
}

/// An error as StratusLab's Marketplace answers it, by what the caller reads.
fn error(
    service: &Marketplace,
    call: &Call<'_>,
    problem: &Problem,
) -> Result<Response<ResponseBody>, Problem> {
    let (status, text) = problem.told();
    let mut response = match named(call.headers) {
        Some(Media::Xml) => {
            let body = format!(
                "{}<error>{}</error>\n",
                results::DECLARATION,
                marketplace_query::escaped(text)
            );
            answer(status, "application/xml", body)
        }
        Some(Media::Json) => {
            let name = status.as_u16().to_string();
            let body = serde_json::json!({ name: text }).to_string();
            answer(status, "application/json", body)
        }
        None if !is_browser(call.headers)
            && (*call.method == Method::POST || takes_anything(call.headers)) =>
        {
            answer(status, "text/plain; charset=utf-8", format!("{text}\n"))
        }
        _ => Pages::new(service, call).failed(status, text)?,
    };
    problem.add_headers(response.headers_mut());
    Ok(response)
}

/// Whether a program says nothing of what it reads, or that it reads anything.
fn takes_anything(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT);
    accepted.is_none_or(|accepted| accepted.to_str().is_ok_and(|text| text.contains("*/*")))
}

fn problem_of(refused: Refused) -> Problem {
    let text = refused.to_string();
    match refused {
        Refused::TooLong(_) => Problem::new(413, text),
        Refused::Invalid(_) | Refused::Query(_) | Refused::TooMuch(_) => Problem::new(400, text),
        Refused::Taken(_) | Refused::Reported => Problem::new(409, text),
        Refused::NobodyToAsk(_)
        | Refused::NoLetters
        | Refused::NotTheirs(_)
        | Refused::ByLetterOnly => Problem::new(403, text),
        Refused::TooManyLetters(_) => {
            Problem::new(429, text).with(header::RETRY_AFTER, HeaderValue::from_static("3600"))
        }
        Refused::ReadOnly => Problem::new(403, text),
        Refused::NoMail(_) => Problem::new(500, text),
        Refused::TooMany(_) => {
            Problem::new(429, text).with(header::RETRY_AFTER, HeaderValue::from_static("86400"))
        }
        Refused::NotWaiting | Refused::NoSignIn => Problem::new(404, text),
        Refused::Store(_) | Refused::Busy => {
            Problem::new(503, text).with(header::RETRY_AFTER, HeaderValue::from_static("5"))
        }
        Refused::Internal(_) => Problem::internal(text),
    }
}

/// The order and the page that people see when they say nothing.
fn page_of(asked: &Asked) -> (Order, usize, usize) {
    (
        asked.order,
        asked.offset.unwrap_or(0),
        asked.limit.unwrap_or(ROWS).clamp(1, 200),
    )
}
