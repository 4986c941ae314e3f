//! `stratus registration …`: who asks for an account.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cloud::is_local_id;
use crate::commands::each::each;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::output::write_stderr;
use crate::session::Session;
use crate::table;

/// List, approve and reject who asks for an account
///
/// For administrators. People ask at https://HOST:PORT/register/ if the cloud offers that.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(List),
    Approve(Approve),
    Reject(Reject),
}

/// List who asks for an account
///
/// JSON: a list of {"username", "name", "email", "state", "message", "x500dn", "reason", "created"}.
#[derive(Debug, clap::Args)]
struct List {
    /// Also those whose address isn't confirmed, and those who were rejected
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Give them an account; they get a letter
///
/// JSON: a list of the names.
#[derive(Debug, clap::Args)]
struct Approve {
    #[command(flatten)]
    named: Named,
}

/// Give them none; they get a letter
///
/// JSON: a list of the names.
#[derive(Debug, clap::Args)]
struct Reject {
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// User names, as 'stratus registration list' shows them
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// A registration as the cloud shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registration {
    username: String,
    first_name: Option<String>,
    last_name: Option<String>,
    email: Option<String>,
    state: Option<String>,
    message: Option<String>,
    x500dn: Option<String>,
    reason: Option<String>,
    created: Option<String>,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            Action::List(list) => &list.common,
            Action::Approve(approve) => &approve.named.common,
            Action::Reject(reject) => &reject.named.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::List(list) => list.run().await,
            Action::Approve(approve) => approve.named.run("approve").await,
            Action::Reject(reject) => reject.named.run("reject").await,
        }
    }
}

impl List {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let mut all: Vec<Registration> = session.api(&self.cloud)?.views("Registration").await?;
        let waits = |one: &Registration| matches!(one.state.as_deref(), Some("APPROVAL_PENDING" | "APPROVED"));
        let known = all.len();
        all.retain(|one| self.all || waits(one));
        let hidden = known - all.len();
        if session.out.is_json() {
            return session.out.json(&all.iter().map(Registration::as_json).collect::<Vec<_>>());
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let rows = all.iter().map(|one| {
            let said = one.reason.as_ref().or(one.message.as_ref());
            vec![one.username.clone(), one.name(), text(&one.email), text(&one.state), text(&one.created), said.cloned().unwrap_or_default()]
        });
        session.out.line(table::render(&["USER", "NAME", "EMAIL", "STATE", "ASKED", "SAYS"], rows))?;
        if hidden > 0 && self.common.quiet == 0 {
            write_stderr(&format!("{hidden} more didn't confirm their address yet, or were rejected: --all shows them\n"));
        }
        Ok(())
    }
}

impl Registration {
    fn name(&self) -> String {
        let parts = [&self.first_name, &self.last_name];
        parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    fn as_json(&self) -> Value {
        json!({ "username": self.username, "name": self.name(), "email": self.email, "state": self.state,
            "message": self.message, "x500dn": self.x500dn, "reason": self.reason, "created": self.created })
    }
}

impl Named {
    async fn run(self, action: &str) -> Result {
        let session = Session::new(&self.common)?;
        let done = if action == "approve" { "approved" } else { "rejected" };
        let api = session.api(&self.cloud)?;
        let outcome = each(&self.names, async |name| {
            if !is_local_id(name) {
                return Err(Failure::Check(format!("'{name}' can't be the name of a user: stratus registration list shows them")));
            }
            api.post(&format!("Registration/{name}/{action}"), &json!({ "action": action })).await?;
            session.out.step(format_args!("{name} is {done}"));
            Ok(())
        })
        .await;
        if session.out.is_json() {
            session.out.json(&outcome.names())?;
        }
        outcome.shown()
    }
}
