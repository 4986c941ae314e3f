//! `stratus host token …`: what hosts join the cloud by.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cloud::{Api, text_of};
use crate::commands::each::each;
use crate::failure::{Failure, Result};
use crate::options::{Asking, Cloud, Common};
use crate::session::Session;
use crate::table;

/// Where tokens of hosts are.
const TOKENS: &str = "/stratus/host-tokens";
/// Characters of an id that are shown: enough to tell tokens apart.
const SHOWN: usize = 12;

/// Make a token that one host joins the cloud by, once; list those that were not used yet, withdraw them
///
/// Prints the token, which is never shown again. On the host: 'stratusd join TOKEN https://ENTRY:8443'.
/// Needs the password: a token makes no tokens. JSON: {"token", "name", "expires"}.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = "Example:
  stratus host token --name node7 > token
  ssh root@node7 stratusd join - https://cloud.example.org:8443 < token")]
pub(super) struct Token {
    #[command(subcommand)]
    action: Option<Action>,
    /// What the host is to be called [default: what it calls itself]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Hours until the token ends
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=168))]
    hours: u16,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the tokens that a host can join by now: who made them, for whom, until when
    ///
    /// JSON: a list of {"id", "user", "name", "created", "expires"}.
    List(Asking),
    Withdraw(Withdraw),
}

/// Withdraw tokens that no host has joined by: they are good for nothing from then on
///
/// JSON: a list of the ids.
#[derive(Debug, clap::Args)]
struct Withdraw {
    /// Ids of the tokens, as 'stratus host token list' shows them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Token {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            None => &self.common,
            Some(Action::List(asking)) => &asking.common,
            Some(Action::Withdraw(withdraw)) => &withdraw.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            None => make(self).await,
            Some(Action::List(asking)) => list(&asking).await,
            Some(Action::Withdraw(withdraw)) => withdraw.run().await,
        }
    }
}

async fn make(asked: Token) -> Result {
    let session = Session::new(&asked.common)?;
    let api = session.api(&asked.cloud)?;
    let made = api.post(TOKENS, &json!({ "name": asked.name, "hours": asked.hours })).await?.body;
    if session.out.is_json() {
        return session.out.json(&made);
    }
    let text = |name: &str| made.get(name).map(text_of).unwrap_or_default();
    session.out.detail(format_args!("one host can join by it until {}", text("expires")));
    session.out.line(text("token"))
}

async fn known(api: &Api) -> Result<Vec<Value>> {
    #[derive(Deserialize)]
    struct Known {
        tokens: Vec<Value>,
    }
    let known: Known = api.view(TOKENS).await?;
    Ok(known.tokens)
}

async fn list(asking: &Asking) -> Result {
    let (session, api) = asking.begin()?;
    let tokens = known(&api).await?;
    if session.out.is_json() {
        return session.out.json(&tokens);
    }
    let rows = tokens.iter().map(|token| {
        let text = |name: &str| token.get(name).filter(|value| !value.is_null()).map(text_of).unwrap_or_default();
        let id = text("id").chars().take(SHOWN).collect();
        vec![id, text("user"), text("name"), text("created"), text("expires")]
    });
    session.out.line(table::render(&["ID", "USER", "HOST", "CREATED", "EXPIRES"], rows))
}

impl Withdraw {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let tokens = known(&api).await?;
        let ids: Vec<&str> = tokens.iter().filter_map(|token| token.get("id")?.as_str()).collect();
        let outcome = each(&self.ids, async |asked| {
            let id = the_one(&ids, asked)?;
            api.delete(&format!("{TOKENS}/{id}")).await?;
            session.out.detail(format_args!("{asked} is withdrawn"));
            Ok(())
        })
        .await;
        if session.out.is_json() {
            session.out.json(&outcome.names())?;
        }
        outcome.result()
    }
}

/// The token whose id begins so.
fn the_one<'a>(ids: &[&'a str], begin: &str) -> Result<&'a str> {
    let mut found = ids.iter().filter(|id| id.starts_with(begin));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (None, _) => Err(Failure::Check(format!("There is no token '{begin}' that a host could join by: stratus host token list shows them"))),
        (Some(_), Some(_)) => Err(Failure::Check(format!("More than one token begins with '{begin}': give more of its id"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_named_by_the_beginning_of_its_id() {
        let ids = ["abc1", "abd2"];
        assert_eq!(the_one(&ids, "abc").unwrap(), "abc1");
        assert!(the_one(&ids, "ab").unwrap_err().to_string().contains("More than one"));
        assert!(the_one(&ids, "x").unwrap_err().to_string().contains("no token 'x'"));
    }
}
