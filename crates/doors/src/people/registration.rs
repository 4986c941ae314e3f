//! Asking for an account.

use cloud::people::Application;
use http::StatusCode;
use serde_json::json;

use crate::{health, pages, pages::Link};
use askama::Template;

use super::{
    Answer, People, Visit,
    form::{Field, Form},
    redirect, refusal,
};

/// What `/register/success` says.
pub(super) const SUCCESS: &[&str] = &[
    "A letter is on its way to your e-mail address. Please follow the link in it within three days.",
    "Then the administrators decide, and you get another letter.",
];

/// The terms, as long as the operator gives no others.
const POLICIES: &[&str] = &[
    "Use the cloud for what you were given access for, and keep your password to yourself.",
    "What you run and store is yours to answer for. The administrators may stop what harms others.",
    "Your name, your e-mail address and what you do in the cloud (who, when, from where) are recorded to run it, and shown to its administrators only.",
];

/// The start.
#[derive(Template)]
#[template(path = "people/home.html")]
struct Home {
    page: pages::Page,
    user: Option<String>,
    registers: bool,
    entries: Vec<(Link, &'static str)>,
}

impl People {
    /// `GET /register`
    pub(super) fn home(&self, visit: &Visit<'_>) -> Answer {
        let registers = self.cloud.registration().is_some();
        let user = visit.context.user().map(str::to_owned);
        let mut entries = Vec::new();
        if user.is_some() {
            entries.push((
                Link::to("/register/profile", "Your profile"),
                "names, e-mail address, password",
            ));
            entries.push((
                Link::to("/register/sessions", "Your sessions"),
                "where you are logged in",
            ));
        } else {
            entries.push((Link::to("/cimi/login", "Log in"), ""));
        }
        if registers {
            if user.is_none() {
                entries.push((
                    Link::to("/register/register", "Register"),
                    "ask for an account",
                ));
            }
            entries.push((
                Link::to("/register/reset", "Reset your password"),
                "if you forgot it",
            ));
        }
        if visit.context.is_admin() {
            entries.push((
                Link::to("/register/requests", "Registrations"),
                "who asked for an account",
            ));
        }
        if visit.has_marketplace {
            entries.push((
                Link::to("/marketplace/", "Images"),
                "the Marketplace of this cloud",
            ));
        }
        entries.push((Link::to("/api", "Interface"), "for programs and commands"));
        entries.push((Link::to("/register/policies", "Terms and policies"), ""));
        let home = Home {
            page: visit.page("Your account"),
            user,
            registers,
            entries,
        };
        pages::html(StatusCode::OK, &home)
    }

    /// `GET /register/policies`
    pub(super) fn policies(&self, visit: &Visit<'_>) -> Answer {
        self.done(visit, "Terms, conditions and policies", POLICIES)
    }

    /// `GET /register/register`
    pub(super) fn register_form(&self, visit: &Visit<'_>) -> Answer {
        self.require_registration()?;
        register(visit).answer()
    }

    /// `POST /register/users`
    pub(super) async fn sign_up(&self, visit: &Visit<'_>) -> Answer {
        self.require_registration()?;
        let form = visit.form()?;
        visit.check_token(&form)?;
        let application = match Application::read(&form) {
            Ok(application) => application,
            Err(error) => {
                let error = self.cloud.with_taken_name(visit.context, &form, error);
                return register(visit).filled(&form).refused(visit, error);
            }
        };
        let username = application.username.clone();
        if let Err(error) = self.cloud.sign_up(visit.context, application).await {
            return register(visit).filled(&form).refused(visit, error);
        }
        if visit.wants_json() {
            let body = json!({"username": username, "state": "EMAIL_PENDING",
                "message": "a letter is on its way: follow the link in it"});
            return Ok(health::json_answer(StatusCode::ACCEPTED, &body));
        }
        Ok(redirect("/register/success"))
    }

    /// # Errors
    /// 404 if nobody can register here.
    pub(super) fn require_registration(&self) -> Result<(), crate::problem::Problem> {
        if self.cloud.registration().is_some() {
            return Ok(());
        }
        Err(refusal(cloud::CloudError::not_found(
            "registration here: ask the administrators for an account",
        )))
    }
}

fn register(visit: &Visit<'_>) -> Form {
    let mut form = Form::new(visit, "Ask for an account", "/register/users", "Register");
    form.lead = "You get a letter to confirm your e-mail address; then the administrators decide."
        .to_owned();
    form.fields = vec![
        Field {
            name: "uid",
            label: "User name",
            kind: "text",
            autocomplete: "username",
            hint: "3 to 20 letters, digits and underscores",
            ..Field::default()
        },
        Field {
            name: "mail",
            label: "E-mail address",
            kind: "email",
            autocomplete: "email",
            ..Field::default()
        },
        Field {
            name: "givenName",
            label: "Given name(s)",
            kind: "text",
            autocomplete: "given-name",
            ..Field::default()
        },
        Field {
            name: "sn",
            label: "Family name",
            kind: "text",
            autocomplete: "family-name",
            ..Field::default()
        },
        Field {
            name: "newUserPassword",
            label: "Password",
            kind: "password",
            autocomplete: "new-password",
            hint: "8 to 128 characters",
            ..Field::default()
        },
        Field {
            name: "newUserPasswordCheck",
            label: "Password, once more",
            kind: "password",
            autocomplete: "new-password",
            ..Field::default()
        },
        Field {
            name: "seeAlso",
            label: "Certificate name (X.500 DN)",
            kind: "text",
            autocomplete: "off",
            hint: "CN=Alice Endorser,O=Example Org,C=EU",
            optional: true,
            ..Field::default()
        },
        Field {
            name: "message",
            label: "Message to the administrators",
            kind: "area",
            hint: "who you are, and what for",
            optional: true,
            ..Field::default()
        },
        Field {
            name: "agreement",
            label: "I agree to the terms, conditions and policies",
            kind: "checkbox",
            ..Field::default()
        },
    ];
    form.links = vec![
        Link::to("/register/policies", "Terms, conditions and policies"),
        Link::to("/cimi/login", "I have an account"),
    ];
    form
}
