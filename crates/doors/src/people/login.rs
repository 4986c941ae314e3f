//! Logging in and out by a browser.

use accounts::LoginError;
use cloud::people::NewSession;
use http::{HeaderValue, Method, header};

use crate::{audit::Told, pages::Link, problem::Problem};

use super::{
    Answer, HOME, People, Visit, cookies,
    form::{Field, Form},
    redirect, refusal,
    visit::{encoded, field},
};

impl People {
    /// `GET /cimi/login`
    pub(super) fn login_form(&self, visit: &Visit<'_>, error: Option<String>) -> Answer {
        let next = visit.next(&[]);
        if visit.session().is_some() && error.is_none() {
            return Ok(redirect(&next));
        }
        let mut form = Form::new(visit, "Log in", "/cimi/login", "Log in");
        form.error = error.or_else(|| {
            let failed = visit
                .parameter("msg")
                .is_some_and(|msg| msg == "login_failed");
            failed.then(|| {
                "The user name or the password is wrong, or the account is disabled.".to_owned()
            })
        });
        form.fields = vec![
            Field {
                name: "username",
                label: "User name",
                kind: "text",
                autocomplete: "username",
                ..Field::default()
            },
            Field {
                name: "password",
                label: "Password",
                kind: "password",
                autocomplete: "current-password",
                ..Field::default()
            },
        ];
        form.instead = self.oidc().map(|oidc| {
            Link::to(
                format!("/cimi/oidc/start?next={}", encoded(&next)),
                format!("Log in by {}", oidc.label()),
            )
        });
        if self.cloud.registration().is_some() {
            form.links = vec![
                Link::to("/register/register", "Ask for an account"),
                Link::to("/register/reset", "Password forgotten?"),
            ];
        }
        form.hidden.push(("next", next));
        form.answer()
    }

    /// `POST /cimi/login`: a session and on to where one came from; or once more, with what every browser and client of
    /// StratusLab's knows as refusal.
    pub(super) async fn log_in(&self, visit: &Visit<'_>) -> Answer {
        let form = visit.login()?;
        let (username, password) = (field(&form, "username").trim(), field(&form, "password"));
        let next = visit.next(&form);
        let address = visit.context.peer;
        let identity = match self.accounts.verify(username, password, address).await {
            Ok(identity) => identity,
            Err(LoginError::Wrong | LoginError::Token) => {
                tracing::warn!(username, ?address, "login failed");
                let again = format!("/cimi/login?msg=login_failed&next={}", encoded(&next));
                let mut response = redirect(&again);
                response.extensions_mut().insert(Told::claimed(username));
                return Ok(response);
            }
            Err(LoginError::Blocked(wait)) => {
                let problem = Problem::new(429, LoginError::Blocked(wait).to_string());
                let seconds = HeaderValue::from(wait.as_secs().max(1));
                return Err(problem.with(header::RETRY_AFTER, seconds));
            }
            Err(error) => return Err(Problem::new(503, error.to_string())),
        };
        self.begin(visit, &identity, identity.method.name(), &next)
            .await
    }

    /// A new session in place of whatever the browser had, and on to `next`.
    pub(super) async fn begin(
        &self,
        visit: &Visit<'_>,
        identity: &accounts::Identity,
        method: &'static str,
        next: &str,
    ) -> Answer {
        let agent = visit.head.headers.get(header::USER_AGENT);
        let new = NewSession {
            identity,
            method,
            address: visit.context.peer,
            agent: agent.and_then(|agent| agent.to_str().ok()),
            instead_of: cookies::session_secret(&visit.head.headers),
        };
        let secret = self.cloud.begin_session(&new).await.map_err(refusal)?;
        let mut response = redirect(next);
        cookies::set_session(&mut response, &secret);
        response
            .extensions_mut()
            .insert(Told::user(&identity.user, method));
        Ok(response)
    }

    /// `GET` and `POST /cimi/logout`: the session ends. By GET, which StratusLab's clients use, unless another site's page
    /// sends a browser here.
    pub(super) async fn log_out(&self, visit: &Visit<'_>) -> Answer {
        let site = visit.head.headers.get("sec-fetch-site");
        let is_sent = site.is_some_and(|site| site == "cross-site" || site == "same-site");
        if *visit.method() == Method::GET && is_sent {
            return Ok(redirect(HOME));
        }
        if let Some(secret) = cookies::session_secret(&visit.head.headers) {
            self.cloud.end_session(secret).await.map_err(refusal)?;
        }
        let mut response = redirect(HOME);
        cookies::clear_session(&mut response);
        Ok(response)
    }
}
