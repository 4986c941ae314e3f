//! How forms look, and what was wrong in them.

use askama::Template;
use cloud::CloudError;
use http::StatusCode;

use crate::pages::{self, Link, Page};

use super::{Answer, Visit, refusal, visit::field};

/// A field of a form.
#[derive(Clone, Debug, Default)]
pub(super) struct Field {
    /// As it is sent.
    pub(super) name: &'static str,
    /// What people read.
    pub(super) label: &'static str,
    /// `text`, `email`, `password`, `checkbox`, `area`; `fixed` can't be changed.
    pub(super) kind: &'static str,
    /// What browsers fill it with.
    pub(super) autocomplete: &'static str,
    /// What it has now.
    pub(super) value: String,
    /// What to write.
    pub(super) hint: &'static str,
    /// Whether it may be left out.
    pub(super) optional: bool,
    /// What was wrong.
    pub(super) error: Option<String>,
}

/// A form.
#[derive(Template)]
#[template(path = "people/form.html")]
pub(super) struct Form {
    pub(super) page: Page,
    pub(super) heading: &'static str,
    pub(super) lead: String,
    /// What went wrong as a whole.
    pub(super) error: Option<String>,
    pub(super) action: String,
    pub(super) fields: Vec<Field>,
    pub(super) submit: &'static str,
    /// Hidden: where to go afterwards, the token.
    pub(super) hidden: Vec<(&'static str, String)>,
    /// Another way to the same.
    pub(super) instead: Option<Link>,
    pub(super) links: Vec<Link>,
    /// Whether the whole can be cancelled, which is sent to the same place.
    pub(super) cancels: bool,
}

impl Form {
    pub(super) fn new(
        visit: &Visit<'_>,
        heading: &'static str,
        action: &str,
        submit: &'static str,
    ) -> Self {
        let token = visit.form_token();
        Self {
            page: visit.page(heading),
            heading,
            lead: String::new(),
            error: None,
            action: action.to_owned(),
            fields: Vec::new(),
            submit,
            hidden: if token.is_empty() {
                Vec::new()
            } else {
                vec![("form-token", token)]
            },
            instead: None,
            links: Vec::new(),
            cancels: false,
        }
    }

    /// With what was written into it, but for passwords.
    pub(super) fn filled(mut self, with: &[(String, String)]) -> Self {
        for one in &mut self.fields {
            if !matches!(one.kind, "password" | "fixed") {
                field(with, one.name).clone_into(&mut one.value);
            }
        }
        self
    }

    /// With what was wrong in it: beside the field if it is about one.
    pub(super) fn refused(mut self, visit: &Visit<'_>, error: CloudError) -> Answer {
        if !visit.wants_html() {
            return Err(refusal(error));
        }
        let status = if let CloudError::Invalid { violations } = &error {
            for violation in violations {
                match self
                    .fields
                    .iter_mut()
                    .find(|field| field.name == violation.path)
                {
                    Some(field) => field.error = Some(violation.problem.clone()),
                    None => self.error = Some(violation.problem.clone()),
                }
            }
            StatusCode::BAD_REQUEST
        } else {
            let problem = refusal(error);
            self.error = Some(problem.detail().to_owned());
            problem.status()
        };
        pages::html(status, &self)
    }

    pub(super) fn answer(self) -> Answer {
        pages::html(StatusCode::OK, &self)
    }
}
