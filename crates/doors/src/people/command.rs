//! A command asks for a token by way of the browser (RFC 8252): the user says yes on a page of ours, the browser brings a
//! code to the command on this very computer, or the user copies it.

use askama::Template;
use cloud::{CloudError, people::Grant};
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use crate::{
    audit::Told,
    health,
    pages::{self, Page},
    problem::Problem,
};

use super::{
    Answer, People, Visit, redirect, refusal,
    visit::{encoded, field},
};

/// A question with some answers to choose from.
#[derive(Template)]
#[template(path = "people/choice.html")]
pub(super) struct Choice {
    pub(super) page: Page,
    pub(super) heading: String,
    pub(super) paragraphs: Vec<String>,
    pub(super) facts: Vec<(&'static str, String)>,
    /// To be copied.
    pub(super) code: String,
    pub(super) action: String,
    pub(super) hidden: Vec<(&'static str, String)>,
    /// What is sent, what is read, how it looks.
    pub(super) choices: Vec<(&'static str, &'static str, &'static str)>,
}

impl Choice {
    pub(super) fn new(visit: &Visit<'_>, heading: impl Into<String>) -> Self {
        let heading = heading.into();
        let token = visit.form_token();
        Self {
            page: visit.page(&heading),
            heading,
            paragraphs: Vec::new(),
            facts: Vec::new(),
            code: String::new(),
            action: String::new(),
            hidden: if token.is_empty() {
                Vec::new()
            } else {
                vec![("form-token", token)]
            },
            choices: Vec::new(),
        }
    }
}

/// The port on the user's computer that the command listens at.
fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port >= 1024)
}

impl People {
    /// `GET /cimi/command?challenge=…&name=…[&port=…&state=…]`
    pub(super) fn ask_for_command(&self, visit: &Visit<'_>) -> Answer {
        let user = visit.context.user();
        let user = user.ok_or_else(|| Problem::new(401, "log in first"))?;
        let parameter = |name| visit.parameter(name).unwrap_or_default();
        let grant = Grant::read(&parameter("challenge"), &parameter("name")).map_err(refusal)?;
        let mut choice = Choice::new(visit, "Let a command log in?");
        choice.paragraphs = vec![format!(
            "A command wants to act for {user} in this cloud, for 30 days. Say yes only if you have just started it yourself."
        )];
        choice.facts = vec![("Command", grant.name.clone())];
        choice.action = "/cimi/command".to_owned();
        choice.hidden.push(("challenge", grant.challenge));
        choice.hidden.push(("name", grant.name));
        choice.hidden.push(("port", parameter("port")));
        choice.hidden.push(("state", parameter("state")));
        choice.choices = vec![("yes", "Let it", ""), ("no", "No", "danger")];
        let mut response = pages::html(StatusCode::OK, &choice)?;
        if let Some(port) = port(&parameter("port")) {
            // Browsers count where a form leads in the end.
            let policy = pages::POLICY.replace(
                "form-action 'self'",
                &format!("form-action 'self' http://127.0.0.1:{port}"),
            );
            if let Ok(policy) = HeaderValue::from_str(&policy) {
                response
                    .headers_mut()
                    .insert(header::CONTENT_SECURITY_POLICY, policy);
            }
        }
        Ok(response)
    }

    /// `POST /cimi/command`
    pub(super) async fn let_command(&self, visit: &Visit<'_>) -> Answer {
        if visit.context.user().is_none() {
            return Err(Problem::new(401, "log in first"));
        }
        let form = visit.form()?;
        visit.check_token(&form)?;
        let port = port(field(&form, "port"));
        if field(&form, "choice") != "yes" {
            let port = port.map(|port| format!("http://127.0.0.1:{port}/?error=refused"));
            return match port {
                Some(to) => Ok(redirect(&to)),
                None => self.done(visit, "The command may not", &["Nothing was given to it."]),
            };
        }
        let grant =
            Grant::read(field(&form, "challenge"), field(&form, "name")).map_err(refusal)?;
        let code = self
            .cloud
            .grant_command(visit.context, &grant)
            .await
            .map_err(refusal)?;
        if let Some(port) = port {
            let state = encoded(field(&form, "state"));
            return Ok(redirect(&format!(
                "http://127.0.0.1:{port}/?code={code}&state={state}"
            )));
        }
        let mut choice = Choice::new(visit, "Almost done");
        choice.paragraphs =
            vec!["Give this code to the command. It works once, for five minutes.".to_owned()];
        choice.code = code;
        pages::html(StatusCode::OK, &choice)
    }

    /// `POST /cimi/command/token` with `{"code", "verifier"}`: the token, as the creation of a Token shows it.
    pub(super) async fn command_token(&self, visit: &Visit<'_>) -> Answer {
        let form = visit.form()?;
        let (code, verifier) = (field(&form, "code"), field(&form, "verifier"));
        let whose = self.cloud.whose_code(code);
        let made = self
            .cloud
            .command_token(visit.context, code, verifier)
            .await;
        let view = match made {
            Ok(made) => made.view,
            Err(error) => {
                let is_known = matches!(error, CloudError::Forbidden(_));
                let mut problem = refusal(error);
                // A code that somebody was given is used up. What was no code at all anybody can send as often as they like.
                problem.audited = is_known.then(|| Box::new(Told::by_code(whose)));
                return Err(problem);
            }
        };
        let mut shown = view.document.attributes(view.right);
        shown.insert("id".to_owned(), Value::String(view.id.to_string()));
        let owner = shown
            .get("acl")
            .and_then(|acl| acl.pointer("/owner/principal"));
        let user = owner.and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut response = health::json_answer(StatusCode::OK, &Value::Object(shown));
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let told = Told::user(&user, "command").making(view.id.to_string());
        response.extensions_mut().insert(told);
        Ok(response)
    }
}
