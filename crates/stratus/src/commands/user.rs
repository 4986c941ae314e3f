//! `stratus user …`: who may use the cloud.

use clap::Subcommand;
use serde_json::{Value, json};

use super::each::{Outcome, each};
use crate::cloud::{Api, ApiError, UserView, is_local_id};
use crate::failure::{Failure, Result};
use crate::kept_logins::KeptLogins;
use crate::options::{Asking, Cloud, Common};
use crate::session::{Session, ask_password};
use crate::table;

/// The role of administrators.
const ADMINISTRATOR: &str = "::ADMIN";
/// The longest password that is read from standard input.
const PASSWORD_MAX_BYTES: u64 = 4096;

/// Add, list, disable, enable and delete users, set passwords
///
/// For administrators; everybody may set the own password.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Add(Add),
    /// List the users
    ///
    /// JSON: a list of {"username", "uri", "roles", "enabled", "email"}.
    List(Asking),
    Disable(Disable),
    Enable(Enable),
    Delete(Delete),
    Password(Password),
}

/// Add a user
///
/// The password is asked for twice, or read from standard input. Prints 'USER NAME'. JSON: {"username", "uri", "roles", "enabled"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus user add joe
  echo \"$PASSWORD\" | stratus user add --password-stdin --email joe@example.org joe")]
struct Add {
    /// Name to log in with
    #[arg(value_name = "NAME")]
    name: String,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// May administer the cloud
    #[arg(long)]
    admin: bool,
    /// Mail address
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Given name
    #[arg(long, value_name = "NAME")]
    first_name: Option<String>,
    /// Family name
    #[arg(long, value_name = "NAME")]
    last_name: Option<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Lock users out
///
/// One who is refused does not keep the others; it is said who. Their machines, volumes and images stay as they are. JSON: a list of the names.
#[derive(Debug, clap::Args)]
struct Disable {
    #[command(flatten)]
    named: Named,
}

/// Let users in again
///
/// JSON: a list of the names.
#[derive(Debug, clap::Args)]
struct Enable {
    #[command(flatten)]
    named: Named,
}

/// Remove users who own nothing any more
///
/// A user who still has machines, volumes, images or the like is refused, with what is left; disable is the way to lock such a user out.
/// One who is refused does not keep the others; it is said who is gone. JSON: a list of their names.
#[derive(Debug, clap::Args)]
struct Delete {
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Names of the users
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Set a user's password
///
/// The new password is asked for twice, or read from standard input. All sessions and tokens of the user end. Says nothing on success.
/// JSON: {"username"}.
#[derive(Debug, clap::Args)]
struct Password {
    /// Name of the user [default: you]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Read the new password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            Action::Add(add) => &add.common,
            Action::List(asking) => &asking.common,
            Action::Disable(disable) => &disable.named.common,
            Action::Enable(enable) => &enable.named.common,
            Action::Delete(delete) => &delete.named.common,
            Action::Password(password) => &password.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::Add(add) => add.run().await,
            Action::List(asking) => list(&asking).await,
            Action::Disable(disable) => disable.named.set_enabled(false).await,
            Action::Enable(enable) => enable.named.set_enabled(true).await,
            Action::Delete(delete) => delete.named.delete().await,
            Action::Password(password) => password.run().await,
        }
    }
}

impl Add {
    async fn run(self) -> Result {
        // Before a password is asked for.
        path_of(&self.name)?;
        let session = Session::new(&self.common)?;
        let api = if self.admin { session.api_in_person(&self.cloud)? } else { session.api(&self.cloud)? };
        let password = new_password(&self.name, self.password_stdin)?;
        let mut body = json!({ "username": self.name, "password": password, "enabled": true });
        if self.admin {
            body["roles"] = json!([ADMINISTRATOR]);
        }
        for (name, value) in [("email", &self.email), ("first-name", &self.first_name), ("last-name", &self.last_name)] {
            if let Some(value) = value {
                body[name] = json!(value);
            }
        }
        let accepted = api.post("User", &body).await?;
        let user: UserView = if accepted.body.is_null() { UserView { username: Some(self.name.clone()), ..UserView::default() } } else { api.viewed("User", accepted.body)? };
        if session.out.is_json() { session.out.json(&as_json(&user)) } else { session.out.line(format_args!("USER {}", self.name)) }
    }
}

async fn list(asking: &Asking) -> Result {
    let (session, api) = asking.begin()?;
    let mut users: Vec<UserView> = api.views("User").await?;
    users.sort_by(|left, right| left.username.cmp(&right.username));
    if session.out.is_json() {
        return session.out.json(&users.iter().map(as_json).collect::<Vec<_>>());
    }
    let rows = users.iter().map(|user| {
        let state = if user.enabled == Some(false) { "disabled" } else { "enabled" };
        vec![user.username.clone().unwrap_or_default(), state.to_owned(), user.shown_roles(), user.email.clone().unwrap_or_default()]
    });
    session.out.line(table::render(&["NAME", "STATE", "ROLES", "EMAIL"], rows))
}

impl Named {
    async fn set_enabled(self, enabled: bool) -> Result {
        let session = Session::new(&self.common)?;
        let mut api = session.api(&self.cloud)?;
        if enabled && any_administrator(&api, &self.names).await {
            api = session.api_in_person(&self.cloud)?;
        }
        let outcome = each(&self.names, async |name| Ok(edit(&api, &path_of(name)?, "enabled", json!(enabled)).await?)).await;
        told(&session, outcome, if enabled { "enabled" } else { "disabled" })
    }

    async fn delete(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let outcome = each(&self.names, async |name| Ok(api.delete(&path_of(name)?).await?)).await;
        told(&session, outcome, "deleted")
    }

}

impl Password {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let own = own_name(&session, &self.cloud);
        let (name, is_own) = match (&self.name, own) {
            (Some(name), own) => (name.clone(), own.is_ok_and(|own| own == *name)),
            (None, own) => (own?, true),
        };
        let path = path_of(&name)?;
        // The own password and an administrator's are changed by who shows a password.
        let api = if is_own || is_administrator(&session.api(&self.cloud)?, &name).await? {
            session.api_in_person(&self.cloud)?
        } else {
            session.api(&self.cloud)?
        };
        edit(&api, &path, "password", json!(new_password(&name, self.password_stdin)?)).await?;
        session.out.detail(format_args!("the password of {name} is changed"));
        if session.out.is_json() { session.out.json(&json!({ "username": name })) } else { Ok(()) }
    }
}

/// Says for whom it was done.
fn told<T>(session: &Session, outcome: Outcome<'_, T>, what: &str) -> Result {
    let done = outcome.names();
    for name in &done {
        session.out.detail(format_args!("{name} is {what}"));
    }
    if session.out.is_json() {
        session.out.json(&done)?;
    }
    outcome.result()
}

/// Whether one of them is an administrator. Who can't be seen is refused when it is their turn.
async fn any_administrator(api: &Api, names: &[String]) -> bool {
    for name in names {
        if is_administrator(api, name).await.unwrap_or(false) {
            return true;
        }
    }
    false
}

async fn is_administrator(api: &Api, name: &str) -> Result<bool> {
    let user: UserView = api.view(&path_of(name)?).await?;
    Ok(user.roles.as_array().is_some_and(|roles| roles.iter().any(|role| role == ADMINISTRATOR)))
}

/// Who asks: as configured, else as logged in.
fn own_name(session: &Session, cloud: &Cloud) -> Result<String> {
    if let Some(name) = session.settings.text(cloud.username.as_deref(), "username") {
        return Ok(name);
    }
    let (endpoint, kept) = (session.endpoint(cloud)?, KeptLogins::load()?);
    let name = kept.of(&endpoint).map(|login| login.username.clone());
    name.ok_or_else(|| Failure::Usage("Missing the name of the user".to_owned()))
}

/// Changes one attribute and nothing else.
async fn edit(api: &Api, path: &str, attribute: &str, value: Value) -> std::result::Result<(), ApiError> {
    api.put(&format!("{path}?$select={attribute}"), &json!({ attribute: value })).await?;
    Ok(())
}

/// The user's path below the CloudEntryPoint.
fn path_of(name: &str) -> Result<String> {
    if !is_local_id(name) {
        return Err(Failure::Check(format!("'{name}' is not a user name")));
    }
    Ok(format!("User/{name}"))
}

fn as_json(user: &UserView) -> Value {
    let roles = if user.roles.is_null() { json!([]) } else { user.roles.clone() };
    json!({ "username": user.username, "uri": user.id, "roles": roles, "enabled": user.enabled, "email": user.email })
}

/// The new password: a line of standard input, or asked for twice.
fn new_password(name: &str, from_stdin: bool) -> Result<String> {
    if from_stdin {
        let mut line = String::new();
        let mut stdin = std::io::Read::take(std::io::stdin().lock(), PASSWORD_MAX_BYTES);
        std::io::BufRead::read_line(&mut stdin, &mut line).map_err(|error| Failure::Work(format!("standard input cannot be read: {error}")))?;
        let password = line.trim_end_matches(['\r', '\n']);
        return if password.is_empty() { Err(Failure::Check("standard input has no password in its first line".to_owned())) } else { Ok(password.to_owned()) };
    }
    let ask = |prompt: &str| ask_password(prompt).map_err(|failure| failure.with_hint("Without a terminal, give it as a line of standard input: --password-stdin."));
    let password = ask(&format!("new password of {name}: "))?;
    if ask("retype password: ")? != password {
        return Err(Failure::Work("Passwords did not match".to_owned()));
    }
    Ok(password)
}
