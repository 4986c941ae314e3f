//! The pages to publish, to confirm, and to say how something ended.

use askama::Template;
use http::{Response, StatusCode};
use marketplace::catalogue::Record;
use marketplace_service::{Described, Waiting};

use super::{super::place::Act, Pages};
use crate::{
    body::ResponseBody,
    pages::{Link, Page, Status as StatusPage, html},
    problem::Problem,
};

#[derive(Template)]
#[template(path = "marketplace/upload.html")]
struct UploadPage {
    page: Page,
    root: &'static str,
    is_read_only: bool,
    confirms: bool,
    /// Whether endorsers can be asked.
    asks: bool,
    endpoint: String,
}

#[derive(Template)]
#[template(path = "marketplace/action.html")]
struct ActionPage {
    page: Page,
    heading: &'static str,
    text: &'static str,
    button: &'static str,
    class: &'static str,
    waiting: Waiting,
    described: Option<Described>,
}

impl Pages<'_> {
    /// The form to publish.
    pub(crate) fn upload(&self) -> Result<Response<ResponseBody>, Problem> {
        let settings = self.service.settings();
        html(
            StatusCode::OK,
            &UploadPage {
                page: self.page("Publish", "upload"),
                root: self.root,
                is_read_only: settings.is_read_only,
                confirms: settings.confirms,
                asks: settings.sends_letters,
                endpoint: self.endpoint(),
            },
        )
    }

    /// What a link in a letter leads to: a page whose button does it.
    pub(crate) fn action(
        &self,
        waiting: &Waiting,
        described: Option<Described>,
        act: Act,
    ) -> Result<Response<ResponseBody>, Problem> {
        let (heading, text, button, class) = match act {
            Act::Confirm => (
                "Is this description yours?",
                "Once you confirm, everybody can find it under your name.",
                "Confirm and publish",
                "",
            ),
            Act::Abort => (
                "Withdraw this upload?",
                "It is forgotten, and nothing is published.",
                "Withdraw it",
                "danger",
            ),
            Act::Abuse => (
                "Not yours?",
                "The administrators are told that somebody uploads in your name, and it can't be published any more.",
                "Report it",
                "danger",
            ),
        };
        html(
            StatusCode::OK,
            &ActionPage {
                page: self.page(heading, ""),
                heading,
                text,
                button,
                class,
                waiting: waiting.clone(),
                described,
            },
        )
    }

    /// How something ended well.
    pub(crate) fn done(
        &self,
        status: StatusCode,
        text: &str,
        record: Option<&Record>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let (heading, paragraphs) = match status {
            StatusCode::CREATED => ("Published", vec![text, "Everybody can find it now."]),
            StatusCode::ACCEPTED => (
                "Nearly done",
                vec![
                    text,
                    "Open the link in the letter to publish the description. Without that it is forgotten after some days.",
                ],
            ),
            _ => ("Done", vec![text]),
        };
        let onward = match record {
            Some(record) => Link::to(self.entry_href(record), "See the entry"),
            None => Link::to(format!("{}/metadata", self.root), "To the images"),
        };
        html(
            status,
            &StatusPage {
                page: self.page(heading, ""),
                is_error: false,
                heading: heading.to_owned(),
                paragraphs: paragraphs.into_iter().map(sentence).collect(),
                onward: Some(onward),
            },
        )
    }

    /// What went wrong.
    pub(crate) fn failed(
        &self,
        status: StatusCode,
        text: &str,
    ) -> Result<Response<ResponseBody>, Problem> {
        let name = status.canonical_reason().unwrap_or("Error");
        html(
            status,
            &StatusPage {
                page: self.page(name, ""),
                is_error: true,
                heading: name.to_owned(),
                paragraphs: vec![text.to_owned()],
                onward: Some(Link::to(format!("{}/metadata", self.root), "To the images")),
            },
        )
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{}{}{end}", first.unwrap_or_default(), letters.as_str())
}
