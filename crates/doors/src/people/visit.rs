//! A request for a page: who comes, from which page, with what.

use accounts::session;
use cloud::OpContext;
use http::{HeaderMap, Method, header, request::Parts};
use serde_json::Value;

use crate::{
    cimi::negotiation,
    pages::{Link, Page},
    problem::Problem,
};

use super::cookies;

/// Fields of a form that are read.
const FIELDS_AT_MOST: usize = 64;
/// Longest path that one is sent back to after logging in.
const NEXT_AT_MOST: usize = 1_000;

/// A request for a page.
pub(crate) struct Visit<'v> {
    /// Who comes.
    pub(crate) context: &'v OpContext,
    /// The request.
    pub(crate) head: &'v Parts,
    /// What it sent.
    pub(crate) body: &'v [u8],
    /// Whether this cloud has a Marketplace.
    pub(crate) has_marketplace: bool,
}

/// Whether an answer is for a person to read.
pub(crate) fn is_for_people(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT);
    accept
        .and_then(|accept| accept.to_str().ok())
        // Programs in Java accept pages if nobody tells them otherwise; no browser has a range of one `*`.
        .is_some_and(|accept| accept.contains("text/html") && !accept.contains(", *;"))
}

/// Whether a request is that of a browser that shows a person what is there, without any sign of who that is.
pub(crate) fn is_a_look(head: &Parts) -> bool {
    matches!(head.method, Method::GET | Method::HEAD)
        && is_for_people(&head.headers)
        && !head.headers.contains_key(header::AUTHORIZATION)
}

/// The login page, from which one comes back to what was asked for.
pub(crate) fn login_url(head: &Parts) -> String {
    let here = head.uri.path_and_query().map_or("/", |path| path.as_str());
    format!("/cimi/login?next={}", encoded(here))
}

impl Visit<'_> {
    pub(super) fn method(&self) -> &Method {
        &self.head.method
    }

    /// The secret of the session that the caller is here by.
    pub(super) fn session(&self) -> Option<&str> {
        self.context.session()?;
        cookies::session_secret(&self.head.headers)
    }

    /// What forms have to carry; empty for who isn't logged in.
    pub(super) fn form_token(&self) -> String {
        self.session().map(session::form_token).unwrap_or_default()
    }

    /// Whether the answer is for a person to read.
    pub(super) fn wants_html(&self) -> bool {
        is_for_people(&self.head.headers)
    }

    /// Whether the answer is for a program.
    pub(super) fn wants_json(&self) -> bool {
        let accept = self.head.headers.get(header::ACCEPT);
        accept
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("application/json"))
    }

    /// A parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let parameters = negotiation::parameters(self.head.uri.query());
        parameters
            .into_iter()
            .find_map(|(given, value)| (given == name).then(|| value.into_owned()))
    }

    /// The fields of a form, from a form or a JSON object of texts.
    ///
    /// # Errors
    /// 415 for other content, 400 for what isn't what it says.
    pub(super) fn form(&self) -> Result<Vec<(String, String)>, Problem> {
        let kind = self.head.headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        match kind.to_ascii_lowercase().as_str() {
            "application/x-www-form-urlencoded" => self.encoded_form(),
            "application/json" => self.json_form(),
            _ => Err(Problem::new(
                415,
                "send a form (application/x-www-form-urlencoded) or a JSON object (application/json)",
            )),
        }
    }

    /// The fields of a login, whatever type it says to be of: StratusLab's Python client calls all that it sends JSON, its
    /// form, too. What begins with `{` is JSON, all else a form.
    ///
    /// # Errors
    /// 400 for what isn't what it begins as.
    pub(super) fn login(&self) -> Result<Vec<(String, String)>, Problem> {
        if self.body.trim_ascii_start().starts_with(b"{") {
            self.json_form()
        } else {
            self.encoded_form()
        }
    }

    fn encoded_form(&self) -> Result<Vec<(String, String)>, Problem> {
        let text = std::str::from_utf8(self.body)
            .map_err(|_| Problem::new(400, "the form is not written in UTF-8"))?;
        let pairs = negotiation::parameters(Some(text)).into_iter();
        Ok(pairs
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect())
    }

    fn json_form(&self) -> Result<Vec<(String, String)>, Problem> {
        let no_object = || Problem::new(400, "the body has to be a JSON object of texts");
        let value: Value = serde_json::from_slice(self.body).map_err(|_| no_object())?;
        let fields = value.as_object().ok_or_else(no_object)?.iter();
        fields
            .take(FIELDS_AT_MOST)
            .map(|(name, value)| match value {
                Value::String(text) => Ok((name.clone(), text.clone())),
                Value::Bool(true) => Ok((name.clone(), "on".to_owned())),
                Value::Bool(false) | Value::Null => Ok((name.clone(), String::new())),
                _ => Err(no_object()),
            })
            .collect()
    }

    /// Refuses a form of who is logged in that doesn't carry the token of the session's forms. What other sites' pages can't
    /// send needs none: see [`is_same_origin`].
    ///
    /// # Errors
    /// 403
    pub(super) fn check_token(&self, form: &[(String, String)]) -> Result<(), Problem> {
        let Some(secret) = self.session() else {
            return Ok(());
        };
        let given = field(form, "form-token");
        let header = self.head.headers.get("x-csrf-token");
        let header = header
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if session::is_form_token(secret, given) || session::is_form_token(secret, header) {
            return Ok(());
        }
        Err(Problem::new(
            403,
            "this form is not of the session that you are logged in with now; load the page anew and try again",
        ))
    }

    /// Where to go after logging in: only to paths of our own.
    pub(super) fn next(&self, form: &[(String, String)]) -> String {
        let asked = self.parameter("next").unwrap_or_default();
        let given = field(form, "next");
        let next = if given.is_empty() { &asked } else { given };
        own_path(next).unwrap_or(super::HOME).to_owned()
    }

    /// The login page, from which one comes back here.
    pub(super) fn login_url(&self) -> String {
        login_url(self.head)
    }

    /// What stands around a page.
    pub(super) fn page(&self, title: &str) -> Page {
        let mut links = vec![Link::to("/register/", "Start")];
        if self.context.user().is_some() {
            links.push(Link::to("/register/profile", "Profile"));
            links.push(Link::to("/register/sessions", "Sessions"));
            if self.context.is_admin() {
                links.push(Link::to("/register/requests", "Registrations"));
            }
            links.push(Link::to("/cimi/logout", "Log out"));
        } else {
            links.push(Link::to("/cimi/login", "Log in"));
        }
        let path = self.head.uri.path();
        Page::new(title, "Stratus", super::HOME).with_links(links, path)
    }
}

/// A field of a form; empty if it isn't there.
pub(super) fn field<'f>(form: &'f [(String, String)], name: &str) -> &'f str {
    form.iter()
        .find(|(given, _)| given == name)
        .map_or("", |(_, value)| value)
}

/// A path of ours, and nothing that a browser would take for another host.
pub(super) fn own_path(path: &str) -> Option<&str> {
    let is_own = path.len() <= NEXT_AT_MOST
        && path.starts_with('/')
        && !path.starts_with("//")
        && path
            .bytes()
            .all(|b| (0x21..0x7f).contains(&b) && b != b'\\');
    is_own.then_some(path)
}

/// As a value in a query.
pub(super) fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Whether a browser says that the page of another site makes it send this.
pub(crate) fn is_from_elsewhere(headers: &HeaderMap, origin: &str) -> bool {
    let site = headers.get("sec-fetch-site");
    if site.is_some_and(|site| site == "cross-site" || site == "same-site") {
        return true;
    }
    // Older browsers say only this.
    headers.get(header::ORIGIN).is_some_and(|given| {
        // A proxy that nobody told us to trust may have taken the encryption off.
        let host = |text: &str| {
            text.split_once("://")
                .map(|(_, host)| host.to_ascii_lowercase())
        };
        let given = given.to_str().ok().and_then(host);
        given.is_none() || given != host(origin)
    })
}

/// Whether a request that comes with a cookie can't be of another site's page: the browser says that it is of ours, or it
/// is one that a page of another site can't make a browser send without asking us first (which we never answer).
pub(crate) fn is_same_origin(method: &Method, headers: &HeaderMap, origin: &str) -> bool {
    if is_from_elsewhere(headers, origin) {
        return false;
    }
    if headers.contains_key("sec-fetch-site") || headers.contains_key(header::ORIGIN) {
        return true;
    }
    let simple = [
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain",
    ];
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let needs_asking = matches!(*method, Method::PUT | Method::DELETE | Method::PATCH)
        || (!kind.is_empty() && !simple.contains(&kind.as_str()));
    needs_asking || headers.contains_key("x-csrf-token")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_is_sent_on_to_our_own_pages_only() {
        for path in ["/", "/register/profile?a=b", "/cimi/Machine"] {
            assert_eq!(own_path(path), Some(path));
        }
        for path in [
            "",
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/a\r\nSet-Cookie: b",
            "javascript:x",
            "/\tx",
        ] {
            assert_eq!(own_path(path), None, "{path}");
        }
    }

    #[test]
    fn requests_with_a_cookie_have_to_be_of_our_own_pages() {
        let origin = "https://cloud.example:8443";
        let same = |method: Method, all: &[(&'static str, &'static str)]| {
            let headers: HeaderMap = all
                .iter()
                .map(|(name, value)| {
                    (
                        http::HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    )
                })
                .collect();
            is_same_origin(&method, &headers, origin)
        };
        assert!(same(Method::POST, &[("sec-fetch-site", "same-origin")]));
        assert!(same(
            Method::POST,
            &[("origin", "https://cloud.example:8443")]
        ));
        assert!(!same(Method::POST, &[("origin", "https://evil.example")]));
        assert!(!same(Method::POST, &[("origin", "null")]));
        assert!(!same(
            Method::POST,
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "https://cloud.example:8443")
            ]
        ));
        assert!(!same(Method::POST, &[]));
        assert!(!same(
            Method::POST,
            &[("content-type", "text/plain; charset=utf-8")]
        ));
        assert!(same(Method::POST, &[("content-type", "application/json")]));
        assert!(same(Method::DELETE, &[]));
        assert!(!same(Method::DELETE, &[("sec-fetch-site", "cross-site")]));
    }
}
