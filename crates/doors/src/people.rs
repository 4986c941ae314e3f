//! Pages for people: logging in, one's own sessions, registration, profile.
//!
//! - `page`: which URLs there are, and who may use them how.
//! - `cookies`: what browsers are given to be known by.
//! - `visit`: a request for a page, and what it sent.
//! - `form`: how forms look, and what was wrong in them.
//! - `login`, `oidc`, `command`, `registration`, `profile`, `action`, `sessions`, `requests`: the pages.
//!
//! What changes something comes by POST (or PUT), from a page of this very host, and from who is logged in with the token of
//! the session's forms. All of it works without scripts.

mod action;
mod command;
pub(crate) mod cookies;
mod form;
mod login;
mod oidc;
mod page;
mod profile;
mod registration;
mod requests;
mod sessions;
mod visit;

use std::sync::Arc;

use accounts::{
    Accounts,
    oidc::{Configured, Oidc},
};
use cloud::{Cloud, CloudError};
use http::{HeaderValue, Method, Response, StatusCode, header};

use crate::{
    body::ResponseBody,
    pages::{self, Link, Status},
    problem::Problem,
};

pub(crate) use cookies::session_secret;
pub(crate) use page::Page;
pub(crate) use visit::{Visit, is_a_look, is_for_people, is_from_elsewhere, is_same_origin};

/// What an answer is made of here.
type Answer = Result<Response<ResponseBody>, Problem>;

/// Where people go who asked for nothing else.
const HOME: &str = "/register/";

/// What pages for people need.
pub struct People {
    cloud: Cloud,
    accounts: Arc<Accounts>,
    provider: Configured,
}

impl std::fmt::Debug for People {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("People")
    }
}

impl People {
    /// For the people of a cloud, who log in in the ways that are configured.
    #[must_use]
    pub fn new(cloud: Cloud, accounts: Arc<Accounts>) -> Self {
        Self {
            cloud,
            accounts,
            provider: Configured::default(),
        }
    }

    /// The provider of identities that people can log in by now.
    fn oidc(&self) -> Option<Arc<Oidc>> {
        self.provider.of(&self.accounts.methods())
    }

    /// Answers a request for a page: what goes wrong is a page, too, for who wants pages.
    pub(crate) async fn answer(&self, page: &Page<'_>, visit: &Visit<'_>) -> Answer {
        match self.dispatch(page, visit).await {
            Err(problem) if visit.wants_html() => {
                let status = problem.status();
                if status == StatusCode::UNAUTHORIZED && visit.method() == Method::GET {
                    return Ok(redirect(&visit.login_url()));
                }
                if let Some(text) = problem.internal_text() {
                    tracing::error!(error = text, "a page failed");
                }
                let what = Status {
                    page: visit.page("Something went wrong"),
                    is_error: true,
                    heading: heading(status).to_owned(),
                    paragraphs: vec![problem.detail().to_owned()],
                    onward: Some(Link::to(HOME, "To the start")),
                };
                let mut response = pages::html(status, &what)?;
                problem.add_headers(response.headers_mut());
                Ok(response)
            }
            other => other,
        }
    }

    async fn dispatch(&self, page: &Page<'_>, visit: &Visit<'_>) -> Answer {
        let reads = matches!(*visit.method(), Method::GET | Method::HEAD);
        match page {
            Page::Login if reads => self.login_form(visit, None),
            Page::Login => self.log_in(visit).await,
            Page::Logout => self.log_out(visit).await,
            Page::OidcStart => self.start_oidc(visit).await,
            Page::OidcCallback => self.finish_oidc(visit).await,
            Page::Command if reads => self.ask_for_command(visit),
            Page::Command => self.let_command(visit).await,
            Page::CommandToken => self.command_token(visit).await,
            Page::Home => self.home(visit),
            Page::Policies => self.policies(visit),
            Page::Register => self.register_form(visit),
            Page::Users => self.sign_up(visit).await,
            Page::Success => self.done(visit, "Almost done", registration::SUCCESS),
            Page::Profile if reads => self.profile_form(visit).await,
            Page::Profile => self.change_profile(visit).await,
            Page::ProfileUpdated => self.profile_updated(visit),
            Page::Reset if reads => self.reset_form(visit),
            Page::Reset => self.request_reset(visit).await,
            Page::ResetStarted => self.done(visit, "Look into your mail", profile::RESET_STARTED),
            Page::Action(secret) if reads => self.action_page(visit, secret),
            Page::Action(secret) => self.act(visit, secret).await,
            Page::Sessions if reads => self.sessions(visit),
            Page::Sessions => self.end_sessions(visit).await,
            Page::Requests if reads => self.requests(visit),
            Page::Requests => self.decide(visit).await,
        }
    }

    /// A page that says how something ended.
    fn done(&self, visit: &Visit<'_>, heading: &str, paragraphs: &[&str]) -> Answer {
        let what = Status {
            page: visit.page(heading),
            is_error: false,
            heading: heading.to_owned(),
            paragraphs: paragraphs.iter().map(|text| (*text).to_owned()).collect(),
            onward: Some(Link::to(HOME, "To the start")),
        };
        pages::html(StatusCode::OK, &what)
    }
}

/// The first words of a page about an error.
const fn heading(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "Please log in",
        403 => "This is not for you",
        404 => "There is nothing here",
        409 | 412 => "That can't be done now",
        429 => "Too often",
        500.. => "That didn't work",
        _ => "Something is not right",
    }
}

/// On to another page (of ours, or of a provider).
/// Leads who opened the address of the cloud to the first page. The same address is the entry of the interface for programs.
pub(crate) fn to_the_start() -> Response<ResponseBody> {
    let mut response = redirect(HOME);
    let vary = HeaderValue::from_static("Accept");
    response.headers_mut().insert(header::VARY, vary);
    response
}

/// Where a browser is led that has to log in first: to the page for that, and not to its own dialogue.
pub(crate) fn to_the_login(head: &http::request::Parts) -> Response<ResponseBody> {
    let mut response = redirect(&visit::login_url(head));
    let vary = HeaderValue::from_static("Accept, Authorization, Cookie");
    response.headers_mut().insert(header::VARY, vary);
    response
}

/// The page for an address of nothing: which addresses there are is no secret, what is behind them is.
pub(crate) fn nothing_here(path: &str) -> Answer {
    let shown: String = path.chars().take(200).collect();
    let page = Status {
        page: pages::Page::new("Nothing here", "Stratus", HOME),
        is_error: true,
        heading: "There is nothing here".to_owned(),
        paragraphs: vec![format!("This cloud has no page {shown}.")],
        onward: Some(Link::to(HOME, "To the start")),
    };
    let mut response = pages::html(StatusCode::NOT_FOUND, &page)?;
    let vary = HeaderValue::from_static("Accept");
    response.headers_mut().insert(header::VARY, vary);
    Ok(response)
}

fn redirect(to: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::from_str(to) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// Too often is a status of its own here.
fn refusal(error: CloudError) -> Problem {
    match error {
        CloudError::Exhausted(text) => {
            Problem::new(429, text).with(header::RETRY_AFTER, HeaderValue::from_static("600"))
        }
        other => other.into(),
    }
}
