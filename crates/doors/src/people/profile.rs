//! One's own profile, and a forgotten password.

use std::sync::Arc;

use accounts::LoginError;
use cloud::{
    Caller, CloudError, OpContext,
    people::{DirectoryEntry, ProfileChange},
};
use http::{HeaderValue, header};

use crate::{audit::Told, pages::Link, problem::Problem};

use super::{
    Answer, People, Visit, cookies,
    form::{Field, Form},
    redirect, refusal,
    visit::field,
};

/// What `/register/reset_started` says, whoever was named.
pub(super) const RESET_STARTED: &[&str] = &[
    "If there is such an account with an e-mail address, a letter with a link is on its way to it.",
    "The link works once, for an hour.",
];

impl People {
    /// `GET /register/profile`
    pub(super) async fn profile_form(&self, visit: &Visit<'_>) -> Answer {
        if visit.context.user().is_none() {
            return Err(Problem::new(401, "log in first").with(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(crate::auth::CHALLENGE),
            ));
        }
        let person = self.cloud.profile(visit.context).await.map_err(refusal)?;
        self.profile_page(visit, &person).answer()
    }

    fn profile_page(&self, visit: &Visit<'_>, person: &DirectoryEntry) -> Form {
        let mut form = Form::new(visit, "Your profile", "/register/profile", "Save");
        form.lead = "What you leave blank stays as it is. Your current password is needed for every change.".to_owned();
        form.fields = vec![
            Field {
                name: "uid",
                label: "User name",
                kind: "fixed",
                value: person.uid.clone(),
                ..Field::default()
            },
            Field {
                name: "givenName",
                label: "Given name(s)",
                kind: "text",
                autocomplete: "given-name",
                value: person.given_name.clone(),
                optional: true,
                ..Field::default()
            },
            Field {
                name: "sn",
                label: "Family name",
                kind: "text",
                autocomplete: "family-name",
                value: person.sn.clone(),
                optional: true,
                ..Field::default()
            },
        ];
        if self.cloud.registration().is_some() {
            form.fields.push(Field {
                name: "mail",
                label: "E-mail address",
                kind: "email",
                autocomplete: "email",
                value: person.mail.clone(),
                hint: "a new one counts once it is confirmed there",
                optional: true,
                ..Field::default()
            });
        }
        form.fields.extend([
            Field {
                name: "newUserPassword",
                label: "New password",
                kind: "password",
                autocomplete: "new-password",
                hint: "8 to 128 characters; ends all sessions and tokens",
                optional: true,
                ..Field::default()
            },
            Field {
                name: "newUserPasswordCheck",
                label: "New password, once more",
                kind: "password",
                autocomplete: "new-password",
                optional: true,
                ..Field::default()
            },
            Field {
                name: "userPassword",
                label: "Current password",
                kind: "password",
                autocomplete: "current-password",
                ..Field::default()
            },
        ]);
        form.links = vec![Link::to("/register/sessions", "Where you are logged in")];
        form
    }

    /// `PUT` and `POST /register/profile`
    pub(super) async fn change_profile(&self, visit: &Visit<'_>) -> Answer {
        let user = visit.context.user();
        let user = user.ok_or_else(|| Problem::new(401, "log in first"))?;
        let form = visit.form()?;
        visit.check_token(&form)?;
        let named = field(&form, "uid");
        if !named.is_empty() && named != user {
            return Err(Problem::new(
                401,
                "You cannot update another user's profile.",
            ));
        }
        let person = self.cloud.profile(visit.context).await.map_err(refusal)?;
        let page = || self.profile_page(visit, &person).filled(&form);
        let change = match ProfileChange::read(&form) {
            Ok(change) => change,
            Err(error) => return page().refused(visit, error),
        };
        let current = field(&form, "userPassword");
        if current.is_empty() {
            let missing =
                CloudError::invalid("userPassword", "Your current password must be provided.");
            return page().refused(visit, missing);
        }
        let identity = match self
            .accounts
            .verify(user, current, visit.context.peer)
            .await
        {
            Ok(identity) if &*identity.user == user => identity,
            Ok(_) | Err(LoginError::Wrong | LoginError::Token) => {
                if !visit.wants_html() {
                    return Err(Problem::new(401, "incorrect password"));
                }
                let wrong = CloudError::invalid("userPassword", "incorrect password");
                let mut response = page().refused(visit, wrong)?;
                *response.status_mut() = http::StatusCode::UNAUTHORIZED;
                response.extensions_mut().insert(Told::claimed(user));
                return Ok(response);
            }
            Err(error @ LoginError::Blocked(_)) => {
                return Err(Problem::new(429, error.to_string()));
            }
            Err(error) => return Err(Problem::new(503, error.to_string())),
        };
        // By the password, which was just shown.
        let context = OpContext {
            caller: Caller::User(Arc::new(accounts::Identity {
                token: None,
                session: None,
                ..(*identity).clone()
            })),
            ..visit.context.clone()
        };
        match self.cloud.change_profile(&context, change).await {
            Ok(outcome) if outcome.new_password => {
                // The session ended with the old password.
                let mut response =
                    redirect("/cimi/login?next=%2Fregister%2Fprofile_updated%3Fpassword");
                cookies::clear_session(&mut response);
                Ok(response)
            }
            Ok(outcome) if outcome.confirms_address => {
                Ok(redirect("/register/profile_updated?mail"))
            }
            Ok(_) => Ok(redirect("/register/profile_updated")),
            Err(error) => page().refused(visit, error),
        }
    }

    /// `GET /register/profile_updated`
    pub(super) fn profile_updated(&self, visit: &Visit<'_>) -> Answer {
        let query = visit.head.uri.query().unwrap_or_default();
        let more = match query {
            "mail" => {
                "A letter is on its way to the new e-mail address. It counts once you follow the link in it."
            }
            "password" => {
                "Your password is the new one. Whatever was logged in with the old one isn't any more."
            }
            _ => "Everything is as you wrote it.",
        };
        self.done(visit, "Your profile was updated", &[more])
    }

    /// `GET /register/reset`
    pub(super) fn reset_form(&self, visit: &Visit<'_>) -> Answer {
        self.require_registration()?;
        reset(visit).answer()
    }

    /// `POST /register/reset`: the same answer for everybody.
    pub(super) async fn request_reset(&self, visit: &Visit<'_>) -> Answer {
        self.require_registration()?;
        let form = visit.form()?;
        visit.check_token(&form)?;
        let username = field(&form, "uid").trim();
        if username.is_empty() {
            let missing = CloudError::invalid("uid", "A username must be provided.");
            return reset(visit).refused(visit, missing);
        }
        match self.cloud.request_reset(visit.context, username).await {
            Ok(()) => Ok(redirect("/register/reset_started")),
            Err(error) => reset(visit).refused(visit, error),
        }
    }
}

fn reset(visit: &Visit<'_>) -> Form {
    let mut form = Form::new(
        visit,
        "Forgot your password?",
        "/register/reset",
        "Send me a link",
    );
    form.lead = "You get a letter with a link by which you can choose a new one.".to_owned();
    form.fields = vec![Field {
        name: "uid",
        label: "User name",
        kind: "text",
        autocomplete: "username",
        ..Field::default()
    }];
    form
}
