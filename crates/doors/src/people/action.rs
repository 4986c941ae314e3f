//! The links of letters: GET shows what they would do, POST does it. What looks at links on their way changes nothing.

use cloud::people::{LinkKind, new_password};
use http::StatusCode;

use crate::{audit::Told, pages, problem::Problem};

use super::{
    Answer, People, Visit,
    command::Choice,
    form::{Field, Form},
    refusal,
    visit::field,
};

impl People {
    /// `GET /register/action/<secret>`
    pub(super) fn action_page(&self, visit: &Visit<'_>, secret: &str) -> Answer {
        let link = self.cloud.link(secret).map_err(refusal)?;
        let action = format!("/register/action/{secret}");
        let mut choice = Choice::new(visit, "");
        let (heading, text) = match &link.kind {
            LinkKind::Reset => return choose(visit, &action, &link.username).answer(),
            LinkKind::Confirm => {
                choice.choices = vec![
                    ("yes", "Confirm", ""),
                    ("no", "Cancel the registration", "danger"),
                ];
                (
                    "Is this your e-mail address?",
                    format!(
                        "Somebody, hopefully you, asked for the account {} and gave this address.",
                        link.username
                    ),
                )
            }
            LinkKind::Address(email) => {
                choice.choices = vec![("yes", "Confirm", ""), ("no", "No, drop it", "danger")];
                (
                    "Is this your new e-mail address?",
                    format!(
                        "The address of the account {} shall become {email}.",
                        link.username
                    ),
                )
            }
            LinkKind::Decide => {
                choice.choices = vec![("yes", "Approve", ""), ("no", "Reject", "danger")];
                choice.facts = self.applicant(&link.username);
                (
                    "May this person use the cloud?",
                    format!("{} asks for an account.", link.username),
                )
            }
        };
        choice.heading = heading.to_owned();
        choice.page = visit.page(heading);
        choice.paragraphs = vec![text];
        choice.action = action;
        pages::html(StatusCode::OK, &choice)
    }

    /// What an administrator should know who decides.
    fn applicant(&self, username: &str) -> Vec<(&'static str, String)> {
        let Some(found) = self.cloud.documents().registrations.get(username) else {
            return Vec::new();
        };
        let mut facts = vec![
            ("Name", format!("{} {}", found.first_name, found.last_name)),
            ("E-mail", found.email.to_string()),
        ];
        facts.extend(found.x500dn.clone().map(|dn| ("Certificate", dn)));
        facts.extend(found.message.clone().map(|message| ("Message", message)));
        facts
    }

    /// `POST /register/action/<secret>`: uses the link up.
    pub(super) async fn act(&self, visit: &Visit<'_>, secret: &str) -> Answer {
        let form = visit.form()?;
        let link = self.cloud.link(secret).map_err(refusal)?;
        let yes = match field(&form, "choice") {
            "yes" => true,
            "no" => false,
            _ => return Err(Problem::new(400, "choose: `choice` is `yes` or `no`")),
        };
        let name = &link.username;
        let (heading, text) = match (&link.kind, yes) {
            (LinkKind::Confirm, yes) => {
                self.cloud
                    .confirm_registration(secret, yes)
                    .await
                    .map_err(refusal)?;
                if yes {
                    ("Thank you", "Your e-mail address is confirmed. The administrators decide now, and you get a letter.".to_owned())
                } else {
                    (
                        "Cancelled",
                        format!("Nobody asks for the account {name} any more."),
                    )
                }
            }
            (LinkKind::Decide, yes) => {
                self.cloud
                    .decide_by_link(secret, yes)
                    .await
                    .map_err(refusal)?;
                let what = if yes {
                    "may use the cloud"
                } else {
                    "may not use the cloud"
                };
                (
                    "Decided",
                    format!("{name} {what}, and gets a letter about it."),
                )
            }
            (LinkKind::Address(email), yes) => {
                self.cloud
                    .confirm_address(secret, yes)
                    .await
                    .map_err(refusal)?;
                if yes {
                    (
                        "Thank you",
                        format!("{email} is the address of {name} now."),
                    )
                } else {
                    ("Dropped", format!("The address of {name} stays as it was."))
                }
            }
            (LinkKind::Reset, true) => {
                let page = choose(visit, &format!("/register/action/{secret}"), name);
                let password = match new_password(&form) {
                    Ok(password) => password,
                    Err(error) => return page.refused(visit, error),
                };
                if let Err(error) = self
                    .cloud
                    .reset_password(visit.context, secret, password)
                    .await
                {
                    return page.refused(visit, error);
                }
                ("Done", "Log in with your new password. Whatever was logged in with the old one isn't any more.".to_owned())
            }
            (LinkKind::Reset, false) => {
                self.cloud.cancel_reset(secret).await.map_err(refusal)?;
                ("Cancelled", "Your password stays as it was.".to_owned())
            }
        };
        let mut response = self.done(visit, heading, &[&text])?;
        response.extensions_mut().insert(match link.kind {
            // The letter went to the administrators, not to the one who is decided about.
            LinkKind::Decide => {
                let what = if yes { "approve" } else { "reject" };
                Told::by_letter(format!("Registration/{name}/{what}"))
            }
            // Whoever has the letter did it.
            _ => Told::user(name, "link"),
        });
        Ok(response)
    }
}

/// The form by which a new password is chosen.
fn choose(visit: &Visit<'_>, action: &str, username: &str) -> Form {
    let mut form = Form::new(visit, "Choose a new password", action, "Set the password");
    form.lead = format!("For the account {username}.");
    form.hidden.push(("choice", "yes".to_owned()));
    form.fields = vec![
        Field {
            name: "newUserPassword",
            label: "New password",
            kind: "password",
            autocomplete: "new-password",
            hint: "8 to 128 characters",
            ..Field::default()
        },
        Field {
            name: "newUserPasswordCheck",
            label: "New password, once more",
            kind: "password",
            autocomplete: "new-password",
            ..Field::default()
        },
    ];
    form.cancels = true;
    form
}
