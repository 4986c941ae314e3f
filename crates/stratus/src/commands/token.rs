//! `stratus token …`: what programs log in with in place of a password.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cloud::{Api, TokenView};
use crate::commands::each::each;
use crate::failure::{Failure, Result};
use crate::options::{Asking, Cloud, Common};
use crate::session::Session;
use crate::table;

/// Make, list and revoke tokens, which programs log in with in place of a password
///
/// A token is used as STRATUS_TOKEN (or token in the configuration file), as 'Authorization: Bearer TOKEN', or in place of
/// the password of its user.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    /// List your tokens, and when they were last used
    ///
    /// Administrators see everybody's. JSON: a list of {"id", "user", "name", "scope", "types", "expires", "lastUsed", "lastAddress"}.
    List(Asking),
    Revoke(Revoke),
}

/// Make a token
///
/// Prints the token, which is never shown again. Needs the password: a token makes no tokens.
/// JSON: {"id", "token", "name", "scope", "types", "expires"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus token create --read-only --days 90 monitoring > token
  STRATUS_TOKEN=$(cat token) stratus describe-instance
  stratus token create --only Volume,Job backup")]
struct Create {
    /// What it is for
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Sees what you see, and changes nothing
    #[arg(long)]
    read_only: bool,
    /// For resources of these types only, by their names in CIMI
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    only: Option<Vec<String>>,
    /// Days until it ends
    #[arg(long, value_name = "NUMBER", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=366))]
    days: u16,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Revoke tokens: nobody logs in with them any more
///
/// JSON: a list of the ids.
#[derive(Debug, clap::Args)]
struct Revoke {
    /// Ids of the tokens, as 'stratus token list' shows them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            Action::Create(create) => &create.common,
            Action::List(asking) => &asking.common,
            Action::Revoke(revoke) => &revoke.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::Create(create) => create.run().await,
            Action::List(asking) => list(&asking).await,
            Action::Revoke(revoke) => revoke.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * i64::from(self.days));
        let mut body = json!({
            "scope": if self.read_only { "read-only" } else { "full" },
            "expires": until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        if let Some(name) = &self.name {
            body["name"] = json!(name);
        }
        if let Some(only) = &self.only {
            // An unset variable of a script must not make a token for everything.
            if only.iter().all(|name| name.trim().is_empty()) {
                return Err(Failure::Usage("--only names no type; leave it out for a token that is for all".to_owned()));
            }
            body["types"] = json!(only);
        }
        let accepted = api.post("Token", &body).await?;
        let made: TokenView = api.viewed("Token", accepted.body)?;
        let token = made.token.clone().ok_or_else(|| Failure::Work("the cloud answered without the token".to_owned()))?;
        if session.out.is_json() {
            let (id, name, scope, types, expires) = (made.local_id(), &made.name, &made.scope, &made.types, &made.expires);
            return session.out.json(&json!({ "id": id, "token": token, "name": name, "scope": scope, "types": types, "expires": expires }));
        }
        session.out.detail(format_args!("the token {} ends {}", made.local_id(), made.expires.as_deref().unwrap_or_default()));
        session.out.line(token)
    }
}

async fn list(asking: &Asking) -> Result {
    let (session, api) = asking.begin()?;
    let tokens: Vec<TokenView> = api.views("Token").await?;
    if session.out.is_json() {
        return session.out.json(&tokens.iter().map(as_json).collect::<Vec<_>>());
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let rows = tokens.iter().map(|token| {
        let used = token.last_used.as_ref().map_or_else(|| "never".to_owned(), |time| format!("{time} {}", text(&token.last_address)));
        let scope = [text(&token.scope), token.types.join(",")].join(" ");
        let scope = scope.trim().to_owned();
        vec![token.local_id().to_owned(), text(&token.user), text(&token.name), scope, text(&token.expires), used]
    });
    session.out.line(table::render(&["ID", "USER", "NAME", "SCOPE", "EXPIRES", "LAST USED"], rows))
}

impl Revoke {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let outcome = each(&self.ids, async |id| {
            revoke(&api, id).await?;
            session.out.detail(format_args!("{id} is revoked"));
            Ok(())
        })
        .await;
        if session.out.is_json() {
            session.out.json(&outcome.names())?;
        }
        outcome.result()
    }
}

async fn revoke(api: &Api, id: &str) -> Result {
    if !crate::cloud::is_uuid(id) {
        return Err(Failure::Check(format!("'{id}' is not the id of a token: stratus token list shows them")));
    }
    api.delete(&format!("Token/{id}")).await?;
    Ok(())
}

fn as_json(token: &TokenView) -> Value {
    json!({ "id": token.local_id(), "user": token.user, "name": token.name, "scope": token.scope, "types": token.types,
        "expires": token.expires, "lastUsed": token.last_used, "lastAddress": token.last_address })
}
