//! Tokens: made by who logged in with a password, shown once, revoked by deletion.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use cimi::{
    Common, Right, Timestamp,
    model::{Kind, describe},
    resources::{MailLink, Token, TokenScope, User},
};
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, OpContext, Rel, Result, View, access,
    catalogue::{self, Public, object},
};

/// How long a token lives if nobody says.
const DAYS: u64 = 30;
/// How long one may live.
const DAYS_AT_MOST: u64 = 366;

impl Cloud {
    /// Makes a token of the caller. The answer is the only one that holds the token itself.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for who is here by a token, [`CloudError::Invalid`].
    pub async fn create_token(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        self.token_for(context, body, None).await
    }

    /// The same, for a link that is used up in the same transaction.
    pub(crate) async fn token_for(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
        instead_of: Option<&documents::Cached<MailLink>>,
    ) -> Result<Created> {
        let user = access::require_user(context)?.to_owned();
        // Whoever finds a token could otherwise keep the access that its revocation is to end.
        access::require_login(context, "make tokens")?;
        let account = self.0.documents.users.get(&user).ok_or_else(|| {
            CloudError::Forbidden(format!("there is no User/{user} that a token could be of"))
        })?;
        access::require_current(context.generation(), &account)?;
        let now = Timestamp::now();
        let scope = match body.get("scope") {
            Some(scope) => serde_json::from_value(scope.clone())
                .map_err(|_| CloudError::invalid("scope", "is `full` or `read-only`"))?,
            None => TokenScope::Full,
        };
        let types = types(&body)?;
        let expires = match body.get("expires") {
            Some(time) => serde_json::from_value(time.clone())
                .map_err(|error| CloudError::invalid("expires", error.to_string()))?,
            None => now.after(days(DAYS)),
        };
        if expires <= now || expires > now.after(days(DAYS_AT_MOST)) {
            let text = format!("must be in the future, and at most {DAYS_AT_MOST} days from now");
            return Err(CloudError::invalid("expires", text));
        }
        let secret = accounts::token::generate();
        let mut token = Token {
            id: cimi::TokenId::generate(),
            common: Common::new(Self::acl_for(context, false)?, now),
            user,
            digest: accounts::token::digest(&secret),
            scope,
            types,
            expires,
            last_used: None,
            last_address: None,
            unknown: Map::new(),
        };
        for name in ["name", "description", "properties"] {
            if let Some(value) = body.get(name) {
                catalogue::edit_common(&mut token.common, name, Some(value))?;
            }
        }
        catalogue::check_size(&token)?;
        let documents = &self.0.documents;
        self.write_one_within::<Token>(context, |changes| {
            let changes = changes.unchanged::<User>(&account).create(&token);
            match instead_of {
                Some(link) => changes.remove(link),
                None => changes,
            }
        })
        .await?;
        tracing::info!(user = token.user, token = %token.id, "token made");
        let mut attributes = catalogue::shown(documents, &token);
        attributes.insert("token".to_owned(), secret.into());
        Ok(Created {
            view: View {
                kind: Kind::Token,
                id: token.id.to_string().into(),
                // Kept nowhere.
                stamp: None,
                right: Right::All,
                document: std::sync::Arc::new(catalogue::Plain {
                    attributes,
                    operations: vec![Rel::Edit, Rel::Delete],
                }),
            },
            job: None,
            existed: false,
        })
    }

    /// Writes down that a token was used. That fails in silence: the use itself was right.
    pub(crate) async fn note_token(&self, token: &Token, now: Timestamp, address: Option<IpAddr>) {
        let noted = self
            .0
            .documents
            .update(token.id.local(), |token: &mut Token| {
                token.last_used = Some(now);
                token.last_address = address.map(|address| address.to_string());
                Ok::<bool, CloudError>(true)
            })
            .await;
        if let Err(error) = noted {
            tracing::debug!(token = %token.id, %error, "the use of a token was not written down");
        }
    }
}

/// The types of resources that a token is to be for.
fn types(body: &Map<String, Value>) -> Result<Vec<String>> {
    let Some(types) = body.get("types") else {
        return Ok(Vec::new());
    };
    let mut types: Vec<String> = serde_json::from_value(types.clone())
        .map_err(|error| CloudError::invalid("types", error.to_string()))?;
    if types.is_empty() {
        let problem = "names no type of resources; leave it out for a token that is for all";
        return Err(CloudError::invalid("types", problem.to_owned()));
    }
    let is_one = |name: &String| {
        Kind::from_name(name).is_some_and(|kind| describe(kind).collection.is_some())
    };
    if let Some((at, name)) = types.iter().enumerate().find(|(_, name)| !is_one(name)) {
        let problem = format!("is `{name}`, which is no type of resources that has a list");
        return Err(CloudError::invalid(format!("types[{at}]"), problem));
    }
    let mut named = HashSet::new();
    types.retain(|name| named.insert(name.clone()));
    Ok(types)
}

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

impl Public for Token {
    const KIND: Kind = Kind::Token;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "user": self.user,
            "scope": self.scope,
            "expires": self.expires,
        }));
        if !self.types.is_empty() {
            out.insert("types".to_owned(), json!(self.types));
        }
        if let Some(time) = self.last_used {
            out.insert("lastUsed".to_owned(), json!(time));
        }
        if let Some(address) = &self.last_address {
            out.insert("lastAddress".to_owned(), address.as_str().into());
        }
        out
    }
}
