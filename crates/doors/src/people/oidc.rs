//! Logging in by a provider of identities.

use std::sync::Arc;

use accounts::oidc::{Oidc, OidcError, Returned};
use http::{HeaderValue, header};

use crate::problem::Problem;

use super::{Answer, People, Visit, cookies, redirect, refusal, visit::own_path};

impl People {
    fn provider(&self) -> Result<Arc<Oidc>, Problem> {
        self.oidc()
            .ok_or_else(|| Problem::new(404, "no login provider is configured here"))
    }

    /// `GET /cimi/oidc/start?next=…`: off to the provider.
    pub(super) async fn start_oidc(&self, visit: &Visit<'_>) -> Answer {
        let begun = self
            .provider()?
            .begin(&visit.next(&[]))
            .await
            .map_err(problem)?;
        let mut response = redirect(&begun.url);
        cookies::set_login_under_way(&mut response, &begun.cookie);
        Ok(response)
    }

    /// `GET /cimi/oidc/callback`: back from it. What belongs to the login is used up, whatever comes of it.
    pub(super) async fn finish_oidc(&self, visit: &Visit<'_>) -> Answer {
        let mut answer = self.back(visit).await;
        match &mut answer {
            Ok(response) => cookies::clear_login_under_way(response),
            Err(problem) => {
                let mut cleared = redirect("/");
                cookies::clear_login_under_way(&mut cleared);
                if let Some(cookie) = cleared.headers().get(header::SET_COOKIE) {
                    problem.add(header::SET_COOKIE, cookie.clone());
                }
            }
        }
        answer
    }

    async fn back(&self, visit: &Visit<'_>) -> Answer {
        let provider = self.provider()?;
        let cookie = cookies::login_under_way(&visit.head.headers)
            .ok_or_else(|| problem(OidcError::NotBegun))?;
        let returned = Returned {
            code: visit.parameter("code"),
            state: visit.parameter("state"),
            issuer: visit.parameter("iss"),
            error: visit.parameter("error"),
            error_description: visit.parameter("error_description"),
        };
        let person = provider.finish(cookie, returned).await.map_err(problem)?;
        let creates = provider.settings().create_users;
        if let Some(name) = self.cloud.newcomers_name(&person, creates) {
            // The directory's users have their names whether they were here or not.
            match self.accounts.has_in_directory(name).await {
                Ok(false) => {}
                Ok(true) => {
                    let text = format!(
                        "you can't have the name `{name}`: it is that of a user of the directory already; if that is you, the \
                         administrators can link the account with {}",
                        person.subject
                    );
                    return Err(Problem::new(403, text));
                }
                Err(error) => {
                    tracing::warn!(name, %error, "a newcomer's name can't be looked up");
                    let text = "whether your name is free can't be seen now: try again later";
                    let problem = Problem::new(503, text);
                    return Err(problem.with(header::RETRY_AFTER, HeaderValue::from_static("10")));
                }
            }
        }
        let identity = self
            .cloud
            .provided(&person, creates)
            .await
            .map_err(refusal)?;
        let next = own_path(&person.next).unwrap_or(super::HOME).to_owned();
        self.begin(visit, &identity, "oidc", &next).await
    }
}

fn problem(error: OidcError) -> Problem {
    tracing::warn!(%error, "a login by the provider failed");
    let text = error.to_string();
    match error {
        OidcError::Provider(_) => {
            Problem::new(503, text).with(header::RETRY_AFTER, HeaderValue::from_static("10"))
        }
        OidcError::Refused(_) | OidcError::Unwelcome(_) | OidcError::Token(_) => {
            Problem::new(403, text)
        }
        OidcError::NotBegun => Problem::new(400, text),
    }
}
