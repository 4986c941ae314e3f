//! How a command gets its token by way of the browser: the user lets it on a page, the page gives a code, and the code
//! brings the token to whoever knows what the code was asked with (RFC 7636). Neither password nor token passes the browser.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use cimi::resources::{MailLink, Purpose, User};
use serde_json::{Map, Value, json};

use crate::{Cloud, CloudError, Created, OpContext, Result, access};

/// How long a code works.
const CODE_LASTS: Duration = Duration::from_secs(300);
/// Characters of a challenge or verifier.
const VERIFIER_AT_LEAST: usize = 43;
const VERIFIER_AT_MOST: usize = 128;

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// SHA-256 of the verifier, base64 for URLs.
    pub challenge: String,
    /// What the token is to be called: the command and its host.
    pub name: String,
}

impl Grant {
    /// Checks what a request says.
    ///
    /// # Errors
    /// [`CloudError::Invalid`].
    pub fn read(challenge: &str, name: &str) -> Result<Self> {
        let is_digest = BASE64_URL_SAFE_NO_PAD
            .decode(challenge)
            .is_ok_and(|bytes| bytes.len() == 32);
        if !is_digest {
            return Err(CloudError::invalid("challenge", "is no SHA-256 digest"));
        }
        let name: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
        Ok(Self {
            challenge: challenge.to_owned(),
            name: if name.trim().is_empty() {
                "stratus".to_owned()
            } else {
                name
            },
        })
    }
}

impl Cloud {
    /// The user lets a command have a token; returns the code that brings it.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for who is here by a token.
    pub async fn grant_command(&self, context: &OpContext, grant: &Grant) -> Result<String> {
        let username = access::require_user(context)?.to_owned();
        access::require_login(context, "let commands log in")?;
        loop {
            let user = self.0.documents.users.get(&username);
            let user = user.ok_or_else(|| CloudError::not_found(format!("User/{username}")))?;
            access::require_current(context.generation(), &user)?;
            let purpose = Purpose::Command {
                username: username.clone(),
                challenge: grant.challenge.clone(),
                name: grant.name.clone(),
            };
            let (changes, secret) = self.with_link(
                self.0.documents.changes().unchanged::<User>(&user),
                purpose,
                CODE_LASTS,
            );
            match changes.commit().await {
                Ok(_) => return Ok(secret),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whose code this is, if it is one that still works: for the record of what becomes of it.
    #[must_use]
    pub fn whose_code(&self, code: &str) -> Option<String> {
        match &self.find_link(code).ok()?.purpose {
            Purpose::Command { username, .. } => Some(username.clone()),
            _ => None,
        }
    }

    /// The token that a code brings; the code works no more, right or wrong.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] for a code that is none, [`CloudError::Forbidden`] with a wrong verifier.
    pub async fn command_token(
        &self,
        context: &OpContext,
        code: &str,
        verifier: &str,
    ) -> Result<Created> {
        let link = self.find_link(code)?;
        let Purpose::Command {
            username,
            challenge,
            name,
        } = link.purpose.clone()
        else {
            return Err(CloudError::not_found("such code"));
        };
        let read: &documents::Cached<MailLink> = &link;
        let used_up = || self.0.documents.changes().remove(read).commit();
        let fits = (VERIFIER_AT_LEAST..=VERIFIER_AT_MOST).contains(&verifier.len())
            && BASE64_URL_SAFE_NO_PAD.encode(accounts::token::sha256(verifier)) == challenge;
        if !fits {
            used_up().await?;
            return Err(CloudError::Forbidden(
                "this code was asked for by somebody else; log in again".to_owned(),
            ));
        }
        let user = self.0.documents.users.get(&username);
        let user = user
            .as_ref()
            .map(|user| &user.document.0)
            .filter(|user| user.enabled && user.common.created <= link.common.created);
        let Some(user) = user else {
            used_up().await?;
            return Err(CloudError::Forbidden(format!(
                "User/{username} can't log in"
            )));
        };
        let context = OpContext {
            caller: crate::Caller::User(std::sync::Arc::new(accounts::Identity::of(user))),
            ..context.clone()
        };
        let body: Map<String, Value> = crate::catalogue::object(json!({"name": name}));
        // In one transaction with the code's end: whatever drops the code, such as another password, comes before the token or
        // ends it.
        self.token_for(&context, body, Some(read)).await
    }
}
