//! Where one is logged in, and how that ends.

use ::cimi::model::Kind;
use askama::Template;
use http::StatusCode;

use crate::{pages, problem::Problem};

use super::{Answer, People, Visit, cookies, redirect, refusal, visit::field};

#[derive(Template)]
#[template(path = "people/sessions.html")]
struct Sessions {
    page: pages::Page,
    user: String,
    token: String,
    rows: Vec<Row>,
}

struct Row {
    id: String,
    agent: String,
    address: String,
    method: String,
    since: String,
    last_used: String,
    is_this: bool,
}

impl People {
    /// `GET /register/sessions`
    pub(super) fn sessions(&self, visit: &Visit<'_>) -> Answer {
        let user = visit.context.user();
        let user = user.ok_or_else(|| Problem::new(401, "log in first"))?;
        let mut own = self.cloud.documents().sessions.by_index("user", user);
        own.sort_unstable_by_key(|session| std::cmp::Reverse(session.last_used));
        let rows = own.iter().map(|session| Row {
            id: session.id().to_owned(),
            agent: session
                .agent
                .clone()
                .unwrap_or_else(|| "unknown".to_owned()),
            address: session.last_address.clone().unwrap_or_default(),
            method: session.method.clone(),
            since: minute(&session.common.created.to_string()),
            last_used: minute(&session.last_used.to_string()),
            is_this: visit.context.session() == Some(&session.document.0.id),
        });
        let page = Sessions {
            page: visit.page("Sessions"),
            user: user.to_owned(),
            token: visit.form_token(),
            rows: rows.collect(),
        };
        pages::html(StatusCode::OK, &page)
    }

    /// `POST /register/sessions`: ends one, or `all`.
    pub(super) async fn end_sessions(&self, visit: &Visit<'_>) -> Answer {
        let user = visit.context.user();
        let user = user.ok_or_else(|| Problem::new(401, "log in first"))?;
        let form = visit.form()?;
        visit.check_token(&form)?;
        let named = field(&form, "session");
        let own = self.cloud.documents().sessions.by_index("user", user);
        let mut ended_this = false;
        for session in own
            .iter()
            .filter(|session| named == "all" || session.id() == named)
        {
            ended_this |= visit.context.session() == Some(&session.document.0.id);
            match self
                .cloud
                .delete(visit.context, Kind::Session, session.id())
                .await
            {
                Ok(_) | Err(cloud::CloudError::NotFound { .. }) => {}
                Err(error) => return Err(refusal(error)),
            }
        }
        let mut response = redirect(if ended_this {
            "/cimi/login"
        } else {
            "/register/sessions"
        });
        if ended_this {
            cookies::clear_session(&mut response);
        }
        Ok(response)
    }
}

/// A time as people read it, to the minute.
pub(super) fn minute(time: &str) -> String {
    let minute: String = time.chars().take(16).collect();
    format!("{} UTC", minute.replace('T', " "))
}
