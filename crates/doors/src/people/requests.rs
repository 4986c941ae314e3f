//! Who asked for an account: for administrators.

use ::cimi::{model::Kind, resources::RegistrationState};
use askama::Template;
use http::StatusCode;
use serde_json::Map;

use crate::{pages, problem::Problem};

use super::{Answer, People, Visit, redirect, refusal, sessions::minute, visit::field};

#[derive(Template)]
#[template(path = "people/requests.html")]
struct Requests {
    page: pages::Page,
    token: String,
    rows: Vec<Row>,
}

struct Row {
    username: String,
    name: String,
    email: String,
    x500dn: Option<String>,
    message: Option<String>,
    created: String,
    decided_by: Option<String>,
    reason: Option<String>,
    state: &'static str,
    look: &'static str,
    approves: bool,
    rejects: bool,
}

impl People {
    /// `GET /register/requests`
    pub(super) fn requests(&self, visit: &Visit<'_>) -> Answer {
        require_admin(visit)?;
        let mut all = self.cloud.documents().registrations.all();
        all.sort_unstable_by_key(|one| {
            (
                one.state != RegistrationState::ApprovalPending,
                std::cmp::Reverse(one.common.created),
            )
        });
        let rows = all.iter().map(|one| {
            let (state, look) = match one.state {
                RegistrationState::EmailPending => ("e-mail not confirmed", ""),
                RegistrationState::ApprovalPending => ("waits for you", "warn"),
                RegistrationState::Approved => ("approved, on the way into the directory", "good"),
                RegistrationState::Rejected => ("rejected", "bad"),
            };
            Row {
                username: one.username.clone(),
                name: format!("{} {}", one.first_name, one.last_name),
                email: one.email.to_string(),
                x500dn: one.x500dn.clone(),
                message: one.message.clone(),
                created: minute(&one.common.created.to_string()),
                decided_by: one.decided_by.clone(),
                reason: one.reason.clone(),
                state,
                look,
                approves: one.state == RegistrationState::ApprovalPending,
                rejects: matches!(
                    one.state,
                    RegistrationState::ApprovalPending | RegistrationState::Approved
                ),
            }
        });
        let page = Requests {
            page: visit.page("Registrations"),
            token: visit.form_token(),
            rows: rows.collect(),
        };
        pages::html(StatusCode::OK, &page)
    }

    /// `POST /register/requests` with `username` and `choice`: `approve` or `reject`.
    pub(super) async fn decide(&self, visit: &Visit<'_>) -> Answer {
        require_admin(visit)?;
        let form = visit.form()?;
        visit.check_token(&form)?;
        let (username, choice) = (field(&form, "username"), field(&form, "choice"));
        self.cloud
            .act(
                visit.context,
                Kind::Registration,
                username,
                choice,
                &Map::new(),
            )
            .await
            .map_err(refusal)?;
        Ok(redirect("/register/requests"))
    }
}

fn require_admin(visit: &Visit<'_>) -> Result<(), Problem> {
    if visit.context.is_admin() {
        Ok(())
    } else if visit.context.user().is_none() {
        Err(Problem::new(401, "log in first"))
    } else {
        Err(Problem::new(403, "registrations are for administrators"))
    }
}
