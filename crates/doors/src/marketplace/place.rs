//! What a path of the Marketplace names, and which representation its reader wants.

use std::borrow::Cow;

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

use crate::{cimi::negotiation::Parameters, problem::Problem};

/// What a path names, below `/marketplace` or, where the Marketplace is alone, below `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place<'p> {
    /// Nothing in particular: the list of images.
    Home,
    /// `metadata`, and up to three of identifier, endorser's address, time of the endorsement.
    Metadata(Vec<Cow<'p, str>>),
    /// `tag/{email}/{tag}`
    Tag(Cow<'p, str>, Cow<'p, str>),
    /// `endorsers`
    Endorsers,
    /// `endorsers/{email}`
    Endorser(Cow<'p, str>),
    /// `endorsers/{email}/tags`
    Tags(Cow<'p, str>),
    /// `query`
    Query,
    /// `upload`
    Upload,
    /// `action/{name}/confirm`, `…/abort`, `…/abuse`
    Action(Cow<'p, str>, Act),
    /// `action/{name}/sign-in`
    SignIn(Cow<'p, str>),
    /// `account`: what an endorser has here.
    Account,
    /// `account/{what}`: what its forms send.
    AccountForm(Form),
    /// `feed.atom`
    Atom,
    /// `feed.rss`
    Rss,
}

/// What an endorser may do with an upload that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Confirm,
    Abort,
    Abuse,
}

/// A form of an endorser's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Asks for a letter to sign in by.
    Letter,
    /// Signs in by a certificate.
    Certificate,
    /// Confirms or discards what waits.
    Uploads,
    /// Switches reminders.
    Reminders,
    /// Signs out, here or everywhere.
    SignOut,
}

/// Longest part of a path.
const PART_AT_MOST: usize = 300;

impl<'p> Place<'p> {
    /// What `path` names, if anything; several slashes count as one, and one at the end as none.
    pub(crate) fn of(path: &'p str) -> Option<Self> {
        let mut parts = Vec::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if parts.len() == 4 {
                return None;
            }
            let part = percent_decode_str(part).decode_utf8().ok()?;
            if part.len() > PART_AT_MOST || part.chars().any(char::is_control) {
                return None;
            }
            parts.push(part);
        }
        let mut parts = parts.into_iter();
        let Some(first) = parts.next() else {
            return Some(Self::Home);
        };
        let rest: Vec<_> = parts.collect();
        Some(match (&*first, rest.as_slice()) {
            ("metadata", _) => Self::Metadata(rest),
            ("tag", [email, tag]) => Self::Tag(email.clone(), tag.clone()),
            ("endorsers", []) => Self::Endorsers,
            ("endorsers", [email]) => Self::Endorser(email.clone()),
            ("endorsers", [email, tags]) if tags == "tags" => Self::Tags(email.clone()),
            ("query", []) => Self::Query,
            ("upload", []) => Self::Upload,
            ("feed.atom", []) => Self::Atom,
            ("feed.rss", []) => Self::Rss,
            ("account", []) => Self::Account,
            ("account", [form]) => Self::AccountForm(match &**form {
                "letter" => Form::Letter,
                "certificate" => Form::Certificate,
                "uploads" => Form::Uploads,
                "reminders" => Form::Reminders,
                "sign-out" => Form::SignOut,
                _ => return None,
            }),
            ("action", [name, act]) if act == "sign-in" => Self::SignIn(name.clone()),
            ("action", [name, act]) => Self::Action(
                name.clone(),
                match &**act {
                    "confirm" => Act::Confirm,
                    "abort" => Act::Abort,
                    "abuse" => Act::Abuse,
                    _ => return None,
                },
            ),
            _ => return None,
        })
    }

    /// The methods that may be used on it.
    pub(crate) fn methods(&self) -> &'static str {
        match self {
            Self::Action(..) | Self::SignIn(_) => "GET, HEAD, POST, OPTIONS",
            Self::AccountForm(_) => "POST, OPTIONS",
            Self::Metadata(parts) if parts.is_empty() => "GET, HEAD, POST, OPTIONS",
            _ => "GET, HEAD, OPTIONS",
        }
    }

    /// Examples of all of them, for who wants to try each.
    pub(crate) const EXAMPLES: [&'static str; 24] = [
        "/marketplace",
        "/marketplace/metadata",
        "/marketplace/metadata/MMZu9WvwKIro-rtBQfDk4PsKO7_",
        "/marketplace/metadata/MMZu9WvwKIro-rtBQfDk4PsKO7_/alice@example.org",
        "/marketplace/metadata/MMZu9WvwKIro-rtBQfDk4PsKO7_/alice@example.org/2030-01-15T08:05:00Z",
        "/marketplace/metadata/alice@example.org",
        "/marketplace/tag/alice@example.org/base",
        "/marketplace/endorsers",
        "/marketplace/endorsers/alice@example.org",
        "/marketplace/endorsers/alice@example.org/tags",
        "/marketplace/query",
        "/marketplace/upload",
        "/marketplace/feed.atom",
        "/marketplace/feed.rss",
        "/marketplace/action/00000000-0000-4000-8000-000000000000/confirm",
        "/marketplace/action/00000000-0000-4000-8000-000000000000/abort",
        "/marketplace/action/00000000-0000-4000-8000-000000000000/abuse",
        "/marketplace/action/00000000-0000-4000-8000-000000000000/sign-in",
        "/marketplace/account",
        "/marketplace/account/letter",
        "/marketplace/account/certificate",
        "/marketplace/account/uploads",
        "/marketplace/account/reminders",
        "/marketplace/account/sign-out",
    ];
}

/// The representations there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Xml,
    Json,
    Html,
}

fn media_of(text: &str) -> Option<Media> {
    Some(match text.to_ascii_lowercase().as_str() {
        "application/xml"
        | "text/xml"
        | "application/rdf+xml"
        | "application/atom+xml"
        | "application/sparql-results+xml"
        | "xml" => Media::Xml,
        "application/json"
        | "text/json"
        | "application/rdf+json"
        | "application/sparql-results+json"
        | "json" => Media::Json,
        "text/html" | "application/xhtml+xml" | "html" => Media::Html,
        _ => return None,
    })
}

/// What `Accept` names first of what we have, by its weights; `None` if it names none of it.
pub(crate) fn named(headers: &HeaderMap) -> Option<Media> {
    let text = headers.get(header::ACCEPT)?.to_str().ok()?;
    let mut best: Option<(f32, Media)> = None;
    for range in text.split(',').take(32) {
        let mut parts = range.split(';');
        let Some(media) = parts.next().and_then(|media| media_of(media.trim())) else {
            continue;
        };
        let weight = parts
            .find_map(|part| part.trim().strip_prefix("q=")?.parse::<f32>().ok())
            .unwrap_or(1.0);
        if weight > 0.0 && best.is_none_or(|(before, _)| weight > before) {
            best = Some((weight, media));
        }
    }
    best.map(|(_, media)| media)
}

/// Whether a browser asks.
pub(crate) fn is_browser(headers: &HeaderMap) -> bool {
    headers
        .get(header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .is_some_and(|agent| agent.contains("Mozilla/"))
}

/// The representation to answer with: `media`, else what `Accept` names, else a page for browsers and XML for the rest.
///
/// # Errors
/// 400 for a `media` that there isn't.
pub(crate) fn wanted(headers: &HeaderMap, parameters: &Parameters<'_>) -> Result<Media, Problem> {
    let asked = parameters.iter().find(|(name, _)| name == "media");
    if let Some((_, value)) = asked.filter(|(_, value)| !value.is_empty()) {
        return media_of(value).ok_or_else(|| {
            let shown: String = value.chars().take(60).collect();
            let text = format!("`media` can't be `{shown}`; it is xml, json or html");
            Problem::new(400, text)
        });
    }
    Ok(named(headers).unwrap_or(if is_browser(headers) {
        Media::Html
    } else {
        Media::Xml
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_places() {
        assert_eq!(Place::of(""), Some(Place::Home));
        assert_eq!(Place::of("metadata"), Some(Place::Metadata(vec![])));
        let email = Cow::Borrowed("a@x");
        assert_eq!(
            Place::of("//metadata//a@x/"),
            Some(Place::Metadata(vec![email.clone()]))
        );
        assert_eq!(
            Place::of("tag/a%40x/my%20tag"),
            Some(Place::Tag(email.clone(), "my tag".into()))
        );
        assert_eq!(Place::of("endorsers/a@x/tags"), Some(Place::Tags(email)));
        for nothing in [
            "x",
            "metadata/a/b/c/d",
            "action/x",
            "action/x/y",
            "upload/x",
            "account/x",
            "metadata/%00",
        ] {
            assert_eq!(Place::of(nothing), None, "{nothing}");
        }
        for example in Place::EXAMPLES {
            let path = example.strip_prefix("/marketplace").unwrap();
            assert!(Place::of(path).is_some(), "{example}");
        }
    }

    #[test]
    fn readers_get_what_they_can_read() {
        let wanted = |accept: &str, agent: &str, media: Option<&str>| {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            headers.insert(header::USER_AGENT, agent.parse().unwrap());
            let parameters = media.map(|media| ("media".into(), media.into()));
            wanted(&headers, &parameters.into_iter().collect()).unwrap()
        };
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(wanted("", "Python-urllib/2.7", None), Media::Xml);
        assert_eq!(wanted("*/*", "curl/8", None), Media::Xml);
        assert_eq!(wanted("*/*", "Mozilla/5.0", None), Media::Html);
        assert_eq!(wanted(browser, "Mozilla/5.0", None), Media::Html);
        assert_eq!(wanted(browser, "Mozilla/5.0", Some("xml")), Media::Xml);
        assert_eq!(wanted("application/json", "Mozilla/5.0", None), Media::Json);
        assert_eq!(wanted("text/html;q=0.1, text/xml", "x", None), Media::Xml);
    }
}
