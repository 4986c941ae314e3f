//! The pages of the Marketplace.

mod account;
mod publishing;
mod query;

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use askama::Template;
use http::{Response, StatusCode};
use marketplace::catalogue::{Column, Found, Record, Status};
use marketplace::{Metadata, UtcTime};
use marketplace_service::Marketplace;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Call, asked::Asked, page_of, problem_of};
use crate::{
    body::ResponseBody,
    cimi::negotiation::Parameters,
    pages::{Link, Page, html},
    problem::Problem,
};

/// Choices in a select.
const CHOICES: usize = 100;
/// Rows of histories.
const HISTORY: usize = 200;
/// What stays as it is in a part of a path or of a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'@')
    .remove(b':');

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// Makes pages for one request.
pub(crate) struct Pages<'r> {
    service: &'r Marketplace,
    root: &'static str,
    base: &'r str,
}

/// An image as a row shows it.
struct Row {
    href: String,
    title: String,
    description: String,
    identifier: String,
    os: String,
    arch: String,
    kind: String,
    email: String,
    endorser_href: String,
    created: String,
    size: String,
    state: State,
}

/// How an entry stands.
struct State {
    word: &'static str,
    class: &'static str,
}

fn state(record: &Record, now: UtcTime) -> State {
    let (word, class) = if record.deprecated.is_some() {
        ("deprecated", "bad")
    } else if record.is_valid(now) {
        ("valid", "good")
    } else {
        ("expired", "warn")
    };
    State { word, class }
}

/// `1.5 GiB`
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    #[allow(clippy::cast_precision_loss, reason = "one digit is shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!(
        "{value:.1} {}",
        UNITS.get(unit).copied().unwrap_or_default()
    )
}

fn now() -> UtcTime {
    UtcTime::from_timestamp(jiff::Timestamp::now())
}

/// `2030-01-15`, for lists.
fn day(time: UtcTime) -> String {
    time.to_string().chars().take(10).collect()
}

/// `2030-01-15 08:05:00 UTC`, for histories: a day may have several.
fn moment(time: UtcTime) -> String {
    let text = time.to_string().replace('T', " ");
    format!("{} UTC", text.trim_end_matches('Z'))
}

struct Choice {
    value: String,
    is_chosen: bool,
}

#[derive(Template)]
#[template(path = "marketplace/find.html")]
struct Find {
    page: Page,
    root: &'static str,
    search: String,
    endorser: String,
    status: String,
    systems: Vec<Choice>,
    architectures: Vec<Choice>,
    kinds: Vec<Choice>,
    total: usize,
    of_status: usize,
    rows: Vec<Row>,
    from: usize,
    to: usize,
    before: Option<String>,
    after: Option<String>,
}

#[derive(Template)]
#[template(path = "marketplace/entry.html")]
struct EntryPage {
    page: Page,
    root: &'static str,
    title: String,
    state: State,
    image: Metadata,
    record: Arc<Record>,
    valid: String,
    size: String,
    checksums: Vec<(String, String)>,
    signature: &'static str,
    address: String,
    history: Vec<Row>,
    others: Vec<Row>,
    newer: Option<Newer>,
    temporary: bool,
    endpoint: String,
    endorser_href: String,
}

/// What an endorser said last of an image, where another entry is shown.
struct Newer {
    href: String,
    created: String,
    state: State,
    /// Why it was withdrawn.
    deprecated: Option<String>,
}

#[derive(Template)]
#[template(path = "marketplace/endorsers.html")]
struct Endorsers {
    page: Page,
    endorsers: Vec<(Link, String, String)>,
}

#[derive(Template)]
#[template(path = "marketplace/endorser.html")]
struct EndorserPage {
    page: Page,
    root: &'static str,
    email: String,
    tags_href: String,
    days: u32,
    ranges: Vec<Link>,
    rows: Vec<Row>,
}

#[derive(Template)]
#[template(path = "marketplace/tags.html")]
struct TagsPage {
    page: Page,
    email: String,
    endorser_href: String,
    tags: Vec<Link>,
}

impl<'r> Pages<'r> {
    pub(crate) fn new(service: &'r Marketplace, call: &'r Call<'_>) -> Self {
        Self {
            service,
            root: call.root,
            base: &call.base,
        }
    }

    fn page(&self, title: impl Into<String>, current: &str) -> Page {
        let link = |path: &str, label: &str| Link::to(format!("{}/{path}", self.root), label);
        let links = vec![
            link("metadata", "Images"),
            link("endorsers", "Endorsers"),
            link("upload", "Publish"),
            link("account", "Account"),
            link("query", "Query"),
        ];
        let site = self.service.settings().title.clone();
        Page::new(title, site, format!("{}/metadata", self.root))
            .with_links(links, &format!("{}/{current}", self.root))
    }

    fn row(&self, record: &Record) -> Row {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (os, version) = (text(&record.os), text(&record.os_version));
        Row {
            href: self.entry_href(record),
            title: title_of(record),
            description: text(&record.description),
            identifier: record.identifier.to_string(),
            os: format!("{os} {version}").trim().to_owned(),
            arch: text(&record.os_arch),
            kind: text(&record.kind),
            email: record.email.to_string(),
            endorser_href: self.endorser_href(&record.email),
            created: day(record.created),
            size: size(record.bytes),
            state: state(record, now()),
        }
    }

    fn entry_href(&self, record: &Record) -> String {
        format!(
            "{}/metadata/{}/{}/{}",
            self.root,
            record.identifier,
            encoded(&record.email),
            record.created
        )
    }

    fn endorser_href(&self, email: &str) -> String {
        format!("{}/endorsers/{}", self.root, encoded(email))
    }

    /// What commands call this Marketplace.
    fn endpoint(&self) -> String {
        self.base.trim_end_matches('/').to_owned()
    }

    /// The list of images with its form.
    pub(crate) fn find(
        &self,
        asked: &Asked,
        parameters: &Parameters<'_>,
        parts: &[Cow<'_, str>],
    ) -> Result<Response<ResponseBody>, Problem> {
        let (order, offset, limit) = page_of(asked);
        let found = if asked.finds_nothing {
            Found::default()
        } else {
            self.service
                .search(&asked.query, order, offset, limit)
                .map_err(problem_of)?
        };
        let given = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name == wanted);
            found.map_or("", |(_, value)| value.as_ref()).to_owned()
        };
        let choices = |column, name: &str| {
            let chosen = given(name);
            let mut values = self
                .service
                .ask(|catalogue| catalogue.values(column, CHOICES));
            if !chosen.is_empty() && !values.contains(&chosen) {
                values.push(chosen.clone());
            }
            let choice = |value: String| Choice {
                is_chosen: value == chosen,
                value,
            };
            values.into_iter().map(choice).collect()
        };
        let path = parts.iter().fold("metadata".to_owned(), |path, part| {
            format!("{path}/{}", encoded(part))
        });
        let turned = |offset: usize| {
            let kept = parameters
                .iter()
                .filter(|(name, value)| name != "offset" && !value.is_empty())
                .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
            let query: Vec<_> = kept.chain([format!("offset={offset}")]).collect();
            format!("{}/{path}?{}", self.root, query.join("&"))
        };
        let shown = found.page.len();
        let status = match asked.query.status {
            Status::Valid => "valid",
            Status::Expired => "expired",
            Status::Deprecated => "deprecated",
            Status::Any => "all",
        };
        // What is named by its path isn't there.
        let found_status = if found.page.is_empty() && !parts.is_empty() && offset == 0 {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::OK
        };
        html(
            found_status,
            &Find {
                page: self.page("Images", "metadata"),
                root: self.root,
                search: given("search"),
                endorser: given("endorser"),
                status: status.to_owned(),
                systems: choices(Column::Os, "os"),
                architectures: choices(Column::Arch, "arch"),
                kinds: choices(Column::Kind, "kind"),
                total: found.matching,
                of_status: found.of_status,
                rows: found.page.iter().map(|record| self.row(record)).collect(),
                from: offset + usize::from(shown > 0),
                to: offset + shown,
                before: (offset > 0).then(|| turned(offset.saturating_sub(limit))),
                after: (offset + shown < found.matching && shown > 0)
                    .then(|| turned(offset + shown)),
            },
        )
    }

    /// One entry.
    pub(crate) fn entry(
        &self,
        record: &Record,
        document: &str,
    ) -> Result<Response<ResponseBody>, Problem> {
        let image = Metadata::parse(document.as_bytes())
            .map_err(|error| Problem::internal(format!("{}: {error}", record.path())))?;
        let all = self
            .service
            .ask(|catalogue| catalogue.of_image(record.identifier));
        let (same, others): (Vec<_>, Vec<_>) =
            all.iter().partition(|other| other.email == record.email);
        let newer = same
            .first()
            .filter(|newest| newest.created > record.created)
            .map(|newest| Newer {
                href: self.entry_href(newest),
                created: moment(newest.created),
                state: state(newest, now()),
                deprecated: newest.deprecated.clone(),
            });
        // What its endorser says no more isn't valid, whatever its own end.
        let superseded = State {
            word: "superseded",
            class: "warn",
        };
        let shown_state = match &newer {
            Some(_) if state(record, now()).word == "valid" => superseded,
            _ => state(record, now()),
        };
        let settings = self.service.settings();
        let temporary = settings
            .temporary
            .as_ref()
            .is_some_and(|temporary| temporary.includes(record));
        let mut newest_of = BTreeSet::new();
        let others = others
            .into_iter()
            .filter(|other| newest_of.insert(Arc::clone(&other.email)));
        let checksums = &image.checksums;
        let mut shown: Vec<(String, String)> = Vec::new();
        let mut push = |name: &str, value: Option<String>| {
            shown.extend(value.map(|value| (name.to_owned(), value)));
        };
        push("SHA-512", checksums.sha512.map(|it| it.to_string()));
        push("SHA-256", checksums.sha256.map(|it| it.to_string()));
        push("SHA-1", Some(checksums.sha1.to_string()));
        push("MD5", checksums.md5.map(|it| it.to_string()));
        html(
            StatusCode::OK,
            &EntryPage {
                page: self.page(title_of(record), "metadata"),
                root: self.root,
                title: title_of(record),
                state: shown_state,
                temporary,
                valid: record
                    .valid
                    .map_or_else(|| "no end given".to_owned(), |valid| valid.to_string()),
                size: size(record.bytes),
                checksums: shown,
                signature: if record.uses_sha1 {
                    "verified, with SHA-1 (old)"
                } else {
                    "verified"
                },
                address: format!("{}metadata/{}", self.base, record.path()),
                history: self.history(&same),
                others: others.take(HISTORY).map(|other| self.row(other)).collect(),
                newer,
                endpoint: self.endpoint(),
                endorser_href: self.endorser_href(&record.email),
                image,
                record: Arc::new(record.clone()),
            },
        )
    }

    /// What an endorser said of one image, the newest first: only that counts.
    fn history(&self, same: &[&Arc<Record>]) -> Vec<Row> {
        let row = |(place, record): (usize, &&Arc<Record>)| {
            let mut row = self.row(record);
            row.created = moment(record.created);
            if place > 0 && row.state.word == "valid" {
                row.state = State {
                    word: "superseded",
                    class: "",
                };
            }
            row
        };
        same.iter().take(HISTORY).enumerate().map(row).collect()
    }

    /// All endorsers.
    pub(crate) fn endorsers(&self, all: &[[String; 3]]) -> Result<Response<ResponseBody>, Problem> {
        let row = |[email, subject, issuer]: &[String; 3]| {
            let link = Link::to(self.endorser_href(email), email);
            (link, subject.clone(), issuer.clone())
        };
        html(
            StatusCode::OK,
            &Endorsers {
                page: self.page("Endorsers", "endorsers"),
                endorsers: all.iter().map(row).collect(),
            },
        )
    }

    /// What an endorser published lately.
    pub(crate) fn endorser(
        &self,
        email: &str,
        days: u32,
        history: &[Arc<Record>],
    ) -> Result<Response<ResponseBody>, Problem> {
        let href = self.endorser_href(email);
        let ranges = [30, 60, 90, 3650].map(|range| Link {
            href: format!("{href}?range={range}"),
            label: if range == 3650 {
                "all".to_owned()
            } else {
                format!("{range} days")
            },
            is_current: range == days,
        });
        html(
            StatusCode::OK,
            &EndorserPage {
                page: self.page(email, "endorsers"),
                root: self.root,
                email: email.to_owned(),
                tags_href: format!("{href}/tags"),
                days,
                ranges: ranges.to_vec(),
                rows: history
                    .iter()
                    .take(HISTORY)
                    .map(|record| Row {
                        created: moment(record.created),
                        ..self.row(record)
                    })
                    .collect(),
            },
        )
    }

    /// The tags of an endorser.
    pub(crate) fn tags(
        &self,
        email: &str,
        tags: BTreeSet<String>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let link = |tag: String| {
            let href = format!("{}/tag/{}/{}", self.root, encoded(email), encoded(&tag));
            Link::to(href, tag)
        };
        html(
            StatusCode::OK,
            &TagsPage {
                page: self.page(format!("Tags of {email}"), "endorsers"),
                email: email.to_owned(),
                endorser_href: self.endorser_href(email),
                tags: tags.into_iter().map(link).collect(),
            },
        )
    }
}

fn title_of(record: &Record) -> String {
    let name = record
        .title
        .clone()
        .or_else(|| record.tag.clone())
        .or_else(|| {
            let os = record.os.clone()?;
            let version = record.os_version.clone().unwrap_or_default();
            Some(format!("{os} {version}"))
        });
    name.map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| record.identifier.to_string())
}
