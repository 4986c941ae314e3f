//! Pages of endorsers who sign in.

use std::sync::Arc;

use askama::Template;
use http::{Response, StatusCode};
use marketplace::catalogue::Record;
use marketplace_service::{Account, Session, Waiting, Way};

use super::{HISTORY, Pages, now, state, title_of};
use crate::{
    body::ResponseBody,
    marketplace::account::SignedIn,
    pages::{Link, Page, Status as StatusPage, html},
    problem::Problem,
};

type Answer = Result<Response<ResponseBody>, Problem>;

/// What ends within so many seconds is marked.
const SOON: i64 = 14 * 86_400;

#[derive(Template)]
#[template(path = "marketplace/sign_in.html")]
struct SignInPage {
    page: Page,
    root: &'static str,
    /// Whether letters can be sent.
    asks: bool,
    /// Addresses that the certificate stands for.
    own: Vec<String>,
    /// Whether browsers keep nothing for this page.
    is_plain: bool,
}

#[derive(Template)]
#[template(path = "marketplace/signs_in.html")]
struct SignsInPage {
    page: Page,
    email: String,
}

#[derive(Template)]
#[template(path = "marketplace/account.html")]
struct AccountPage {
    page: Page,
    root: &'static str,
    token: String,
    session: Arc<Session>,
    is_by_letter: bool,
    sessions: usize,
    waiting: Vec<(String, Waiting)>,
    groups: Vec<Group>,
    more: usize,
    endorser_href: String,
    wants_reminders: bool,
    /// Whether this Marketplace reminds anybody.
    reminds: bool,
}

/// Entries that stand alike.
struct Group {
    heading: &'static str,
    rows: Vec<Row>,
}

struct Row {
    href: String,
    title: String,
    /// Version and description: what tells entries of one title apart.
    about: String,
    identifier: String,
    created: String,
    valid: String,
    ends_soon: bool,
    reason: String,
}

impl Pages<'_> {
    /// How to sign in.
    pub(crate) fn sign_in(&self, own: Vec<String>, is_plain: bool) -> Answer {
        let page = SignInPage {
            page: self.page("Account", "account"),
            root: self.root,
            asks: self.service.settings().sends_letters,
            own,
            is_plain,
        };
        html(StatusCode::OK, &page)
    }

    /// What the link of a letter leads to: a page whose button signs in.
    pub(crate) fn signs_in(&self, email: &str) -> Answer {
        let page = SignsInPage {
            page: self.page("Sign in", "account"),
            email: email.to_owned(),
        };
        html(StatusCode::OK, &page)
    }

    /// The same for every address.
    pub(crate) fn letter_asked_for(&self, email: &str) -> Answer {
        let page = StatusPage {
            page: self.page("Look into your mail", "account"),
            is_error: false,
            heading: "Look into your mail".to_owned(),
            paragraphs: vec![
                format!("If {email} has endorsed an image here, or something waits for its confirmation, a letter with a link is on its way to it."),
                "The link works once, within an hour. No more than three letters go to one address in that time: if none comes any more, use the last one.".to_owned(),
            ],
            onward: Some(Link::to(format!("{}/metadata", self.root), "To the images")),
        };
        html(StatusCode::ACCEPTED, &page)
    }

    /// What an endorser has here.
    pub(crate) fn account(&self, signed_in: &SignedIn<'_>, account: &Account) -> Answer {
        let mut groups = [
            ("valid", "Published"),
            ("expired", "Past their end"),
            ("deprecated", "Withdrawn"),
        ]
        .map(|(word, heading)| {
            let rows = Vec::new();
            (word, Group { heading, rows })
        });
        for record in account.records.iter().take(HISTORY) {
            let word = state(record, now()).word;
            let group = groups.iter_mut().find(|(its, _)| *its == word);
            if let Some((_, group)) = group {
                group.rows.push(self.own_row(record));
            }
        }
        let session = Arc::clone(&signed_in.session);
        let page = AccountPage {
            page: self.page("Account", "account"),
            root: self.root,
            token: signed_in.token(),
            is_by_letter: session.way == Way::Letter,
            sessions: account.sessions,
            waiting: account.waiting.clone(),
            groups: groups
                .into_iter()
                .map(|(_, group)| group)
                .filter(|group| !group.rows.is_empty())
                .collect(),
            more: account.records.len().saturating_sub(HISTORY),
            endorser_href: self.endorser_href(&session.email),
            wants_reminders: account.wants_reminders,
            reminds: self.service.settings().reminds,
            session,
        };
        html(StatusCode::OK, &page)
    }

    fn own_row(&self, record: &Record) -> Row {
        let left = |valid: marketplace::UtcTime| valid.unix_seconds() - now().unix_seconds();
        Row {
            href: self.entry_href(record),
            title: title_of(record),
            about: [&record.version, &record.description]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(": "),
            identifier: record.identifier.to_string(),
            created: record.created.to_string(),
            valid: record
                .valid
                .map_or_else(|| "no end given".to_owned(), |valid| valid.to_string()),
            ends_soon: record
                .valid
                .is_some_and(|valid| (0..SOON).contains(&left(valid))),
            reason: record.deprecated.clone().unwrap_or_default(),
        }
    }
}
