//! Tokens that hosts join by: made by administrators, listed without their secret, withdrawn.
//!
//! ```text
//!  made ──▶ used by Host/H ──▶ forgotten
//!      ├──▶ expired ─────────▶ forgotten
//!      └──▶ withdrawn
//! ```

use std::{sync::Arc, time::Duration};

use cimi::{
    Acl, Common, Timestamp,
    ids::HostTokenId,
    resources::{HostToken, Resource as _, User},
};
use documents::Cached;
use serde_json::{Map, Value, json};
use trust::{JoinSecret, JoinToken};

use crate::{
    Cloud, CloudError, OpContext, Result, access, host_trust::defect, user::is_administrator,
};

/// How long a token is good if nobody says, and at most, in hours.
const HOURS: u64 = 1;
const HOURS_AT_MOST: u64 = 168;
/// Longest name of a host, in bytes: that of a label in DNS.
const NAME_AT_MOST: usize = 63;

impl Cloud {
    /// Makes a token that one host joins by, once: `{"name"?, "hours"?}`. The answer is the only one that holds it.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for all but administrators in person, [`CloudError::Invalid`], [`CloudError::Conflict`] if
    /// there is a host of that name.
    pub async fn create_host_token(
        &self,
        context: &OpContext,
        body: &Map<String, Value>,
    ) -> Result<Value> {
        access::require_admin(context, "let hosts join")?;
        access::require_change(context)?;
        // Whoever finds a token could otherwise have a host here after it was revoked.
        access::require_login(context, "let hosts join")?;
        let user = access::require_user(context)?.to_owned();
        let account = self.0.documents.users.get(&user);
        let account = account.ok_or_else(|| {
            CloudError::Forbidden(format!("there is no User/{user} that a token could be of"))
        })?;
        access::require_current(context.generation(), &account)?;
        let (host_name, hours) = asked_for(body)?;
        if let Some(name) = &host_name {
            self.require_new_name(name)?;
        }
        let (now, secret) = (Timestamp::now(), JoinSecret::generate().map_err(defect)?);
        let token = HostToken {
            id: HostTokenId::from_local(&secret.digest())
                .map_err(|error| CloudError::Internal(error.to_string()))?,
            common: Common::new(Acl::owned_by_admin(), now),
            user,
            generation: account.generation,
            host_name,
            expires: now.after(Duration::from_secs(hours * 3600)),
            used_by: None,
            unknown: Map::new(),
        };
        let (_, authority) = self.host_authority(context).await?;
        let changes = self.0.documents.changes();
        changes.unchanged(&account).create(&token).commit().await?;
        let word = JoinToken {
            authority: authority.fingerprint(),
            secret,
        };
        tracing::info!(user = token.user, host = token.host_name, expires = %token.expires, "a token for a host was made");
        Ok(json!({"token": word.word(), "name": token.host_name, "expires": token.expires}))
    }

    /// The tokens that a host can join by now, the oldest first, without what makes them tokens: `{"tokens": [{"id", "user",
    /// "name"?, "created", "expires"}]}`.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for all but administrators.
    pub fn host_tokens(&self, context: &OpContext) -> Result<Value> {
        access::require_admin(context, "see the tokens of hosts")?;
        let now = Timestamp::now();
        let mut tokens = self.0.documents.host_tokens.all();
        tokens.retain(|token| {
            token.used_by.is_none() && now < token.expires && self.maker_of(token).is_ok()
        });
        tokens.sort_by_key(|token| token.common.created);
        let shown = tokens.iter().map(|token| {
            json!({
                "id": token.local_id(),
                "user": token.user,
                "name": token.host_name,
                "created": token.common.created,
                "expires": token.expires,
            })
        });
        Ok(json!({"tokens": shown.collect::<Vec<_>>()}))
    }

    /// Withdraws a token that no host has joined by: it is good for nothing from then on.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for all but administrators, [`CloudError::NotFound`], [`CloudError::Conflict`] if a host has
    /// joined by it.
    pub async fn withdraw_host_token(&self, context: &OpContext, id: &str) -> Result<()> {
        access::require_admin(context, "withdraw the tokens of hosts")?;
        access::require_change(context)?;
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let token = documents.host_tokens.get(id);
            let token = token
                .ok_or_else(|| CloudError::not_found(format!("{}/{id}", HostToken::COLLECTION)))?;
            if let Some(host) = &token.used_by {
                return Err(CloudError::Conflict(format!(
                    "{host} has joined by this token already: remove that host if it isn't wanted"
                )));
            }
            match documents.changes().remove(&token).commit().await {
                Ok(_) => {
                    tracing::info!(
                        user = context.user(),
                        token = id,
                        "a token for a host was withdrawn"
                    );
                    return Ok(());
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is known of a token by its secret.
    #[must_use]
    pub fn host_token_of(&self, secret: &JoinSecret) -> Option<Arc<Cached<HostToken>>> {
        self.0.documents.host_tokens.get(&secret.digest())
    }

    /// Who made a token, as long as they could make it again: whoever was thrown out lets nobody in.
    pub(crate) fn maker_of(&self, token: &HostToken) -> Result<Arc<Cached<User>>> {
        let maker = self.0.documents.users.get(&token.user);
        maker
            .filter(|maker| maker.enabled && is_administrator(maker))
            .filter(|maker| maker.generation == token.generation)
            // Not somebody else who has the name now.
            .filter(|maker| maker.common.created <= token.common.created)
            .ok_or_else(|| {
                CloudError::Forbidden(format!(
                    "this token is good no more: {}, who made it, is no administrator any more, or has another password or \
                     other roles since; make another with `stratus host token`",
                    token.user
                ))
            })
    }
}

/// What a token is asked for: the name of the host, and hours.
fn asked_for(body: &Map<String, Value>) -> Result<(Option<String>, u64)> {
    if let Some(other) = body
        .keys()
        .find(|key| !["name", "hours"].contains(&&***key))
    {
        let known = "is not known here: `name` and `hours` are";
        return Err(CloudError::invalid(other.as_str(), known));
    }
    let name = match body.get("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => {
            check_name(name)?;
            Some(name.clone())
        }
        Some(_) => return Err(CloudError::invalid("name", "is a text")),
    };
    let hours = match body.get("hours") {
        None | Some(Value::Null) => HOURS,
        Some(hours) => hours
            .as_u64()
            .filter(|hours| (1..=HOURS_AT_MOST).contains(hours))
            .ok_or_else(|| {
                CloudError::invalid("hours", format!("is a number from 1 to {HOURS_AT_MOST}"))
            })?,
    };
    Ok((name, hours))
}

/// Refuses what nobody would want to call a host.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins_well = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if begins_well && name.len() <= NAME_AT_MOST && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(CloudError::invalid(
        "name",
        format!(
            "of a host is made of letters, digits, `-`, `_` and `.`, begins with a letter or digit, and has up to \
             {NAME_AT_MOST}"
        ),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_are_plain() {
        for name in ["n", "node-1.example", "0"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-x", "a b", "a/b", "é", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
