//! What endorsers do who are signed in: by a cookie, and forms that carry a token of the session. Without scripts.

use accounts::session::{form_token, is_form_token};
use http::{Response, StatusCode};
use marketplace_service::{Marketplace, Opened, Session};

use super::{Call, FORM_AT_MOST, on_to, pages::Pages, place::Form, problem_of};
use crate::{
    body::ResponseBody,
    cimi::negotiation::{self, Parameters},
    people::{self, cookies},
    problem::Problem,
};

type Answer = Result<Response<ResponseBody>, Problem>;

/// What pages of who is signed in stand on.
pub(super) struct SignedIn<'c> {
    secret: &'c str,
    pub(super) session: std::sync::Arc<Session>,
}

impl SignedIn<'_> {
    /// What forms have to carry.
    pub(super) fn token(&self) -> String {
        form_token(self.secret)
    }
}

fn signed_in<'c>(service: &Marketplace, call: &Call<'c>) -> Option<SignedIn<'c>> {
    let secret = cookies::endorser_secret(call.headers)?;
    let session = service.session(secret)?;
    Some(SignedIn { secret, session })
}

fn account_path(call: &Call<'_>) -> String {
    format!("{}/account", call.root)
}

/// `GET /account`: what the endorser has here, or how to sign in.
pub(super) async fn show(service: &Marketplace, call: &Call<'_>) -> Answer {
    let pages = Pages::new(service, call);
    match signed_in(service, call) {
        Some(signed_in) => {
            let account = service.account(&signed_in.session.email).await;
            pages.account(&signed_in, &account.map_err(problem_of)?)
        }
        None => {
            let own = call
                .certificate
                .map(|certificate| service.addresses_of(certificate));
            let is_plain = call.origin.starts_with("http://");
            pages.sign_in(own.unwrap_or_default(), is_plain)
        }
    }
}

/// `POST /action/{link}/sign-in`
pub(super) async fn sign_in(service: &Marketplace, call: &Call<'_>, link: &str) -> Answer {
    refuse_elsewhere(call)?;
    let opened = service.sign_in(link, call.source).await;
    Ok(welcome(call, &opened.map_err(problem_of)?))
}

fn welcome(call: &Call<'_>, opened: &Opened) -> Response<ResponseBody> {
    let mut response = on_to(&account_path(call));
    cookies::set_endorser(&mut response, &opened.secret);
    response
}

/// The page of another site would sign somebody in as somebody else.
fn refuse_elsewhere(call: &Call<'_>) -> Result<(), Problem> {
    if people::is_from_elsewhere(call.headers, &call.origin) {
        return Err(Problem::new(
            403,
            "signing in has to come from a page of this Marketplace",
        ));
    }
    Ok(())
}

/// `POST /account/…`
pub(super) async fn form(service: &Marketplace, call: &Call<'_>, form: Form) -> Answer {
    if call.body.len() > FORM_AT_MOST {
        return Err(Problem::new(413, "the form is too long"));
    }
    let text = String::from_utf8_lossy(call.body);
    let fields = negotiation::parameters(Some(&text));
    match form {
        Form::Letter => {
            refuse_elsewhere(call)?;
            let email = field(&fields, "email").trim();
            let asked = service.ask_to_sign_in(email, call.source).await;
            asked.map_err(problem_of)?;
            Pages::new(service, call).letter_asked_for(email)
        }
        Form::Certificate => {
            refuse_elsewhere(call)?;
            let certificate = call.certificate.ok_or_else(|| {
                let text = "no certificate came with this request; sign in by a letter";
                Problem::new(403, text)
            })?;
            let email = field(&fields, "email");
            let opened = service.sign_in_by_certificate(certificate, email, call.source);
            Ok(welcome(call, &opened.await.map_err(problem_of)?))
        }
        Form::Uploads | Form::Reminders | Form::SignOut => {
            let Some(signed_in) = signed_in(service, call) else {
                return Ok(on_to(&account_path(call)));
            };
            check(call, &signed_in, &fields)?;
            of_account(service, call, form, &signed_in, &fields).await
        }
    }
}

/// Refuses what isn't of a page of the very session.
fn check(
    call: &Call<'_>,
    signed_in: &SignedIn<'_>,
    fields: &Parameters<'_>,
) -> Result<(), Problem> {
    let is_ours = people::is_same_origin(call.method, call.headers, &call.origin);
    if is_ours && is_form_token(signed_in.secret, field(fields, "form-token")) {
        return Ok(());
    }
    Err(Problem::new(
        403,
        "this form is not of a page that you are signed in with now; load the page anew and try again",
    ))
}

async fn of_account(
    service: &Marketplace,
    call: &Call<'_>,
    form: Form,
    signed_in: &SignedIn<'_>,
    fields: &Parameters<'_>,
) -> Answer {
    let session = &signed_in.session;
    let pages = Pages::new(service, call);
    match (form, field(fields, "do")) {
        (Form::Uploads, "confirm") => {
            let record = service.confirm_own(session, field(fields, "upload")).await;
            let record = record.map_err(problem_of)?;
            let text = "metadata entry created";
            return pages.done(StatusCode::CREATED, text, Some(&record));
        }
        (Form::Uploads, "discard") => {
            let discarded = service.discard_own(session, field(fields, "upload"));
            discarded.await.map_err(problem_of)?;
        }
        (Form::Reminders, wanted @ ("on" | "off")) => {
            let set = service.set_reminders(&session.email, wanted == "on");
            set.await.map_err(problem_of)?;
        }
        (Form::SignOut, wanted @ ("here" | "everywhere")) => {
            let ended = if wanted == "here" {
                service.sign_out(signed_in.secret).await
            } else {
                service.sign_out_everywhere(&session.email).await
            };
            ended.map_err(problem_of)?;
            let mut response = on_to(&account_path(call));
            cookies::clear_endorser(&mut response);
            return Ok(response);
        }
        _ => {
            let text = "`do` doesn't say what is to be done; use the buttons of the page";
            return Err(Problem::new(400, text));
        }
    }
    Ok(on_to(&account_path(call)))
}

fn field<'f>(fields: &'f Parameters<'_>, name: &str) -> &'f str {
    let found = fields.iter().find(|(given, _)| given == name);
    found.map_or("", |(_, value)| value.as_ref())
}
