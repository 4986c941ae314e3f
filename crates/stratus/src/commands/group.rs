//! `stratus group …`: people who share something.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{each::each, quota, quota_options::Amounts};
use crate::cloud::{Api, ApiError, GroupView, is_local_id, text_of};
use crate::failure::{Failure, Result};
use crate::options::{Asking, Cloud, Common};
use crate::session::Session;
use crate::table;

/// Make, list and remove groups, set their quotas, put users in and take them out
///
/// For administrators; members see their groups. Resources are shared with a group by a rule of their acl:
/// {"principal": GROUP, "type": "ROLE", "right": "VIEW"}.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    /// List the groups with their members, and what these have and may have
    ///
    /// JSON: a list of {"groupname", "description", "members", "quota", "used"}.
    List(Asking),
    Quota(SetQuota),
    Add(Add),
    Remove(Remove),
    Delete(Delete),
}

/// Make a group
///
/// Prints 'GROUP NAME'. JSON: {"groupname", "quota"}.
#[derive(Debug, clap::Args)]
struct Create {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    quota: Amounts,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Set what the members of a group may have together
///
/// Limits that are not named stay as they are; 'default' takes one away. JSON: {"groupname", "quota"}.
#[derive(Debug, clap::Args)]
struct SetQuota {
    /// Name of the group
    #[arg(value_name = "GROUP")]
    group: String,
    #[command(flatten)]
    quota: Amounts,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Put users into a group
///
/// One who is refused does not keep the others out; it is said who is in. JSON: a list of the names of those who are.
#[derive(Debug, clap::Args)]
struct Add {
    #[command(flatten)]
    named: Named,
}

/// Take users out of a group
///
/// Who is not in it is refused; the others are taken out all the same, and it is said who. JSON: a list of their names.
#[derive(Debug, clap::Args)]
struct Remove {
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Name of the group
    #[arg(value_name = "GROUP")]
    group: String,
    /// Names of the users
    #[arg(value_name = "USER", required = true)]
    users: Vec<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Remove a group that has no members
///
/// JSON: {"groupname"}.
#[derive(Debug, clap::Args)]
struct Delete {
    /// Name of the group
    #[arg(value_name = "GROUP")]
    group: String,
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
            Action::Quota(quota) => &quota.common,
            Action::Add(add) => &add.named.common,
            Action::Remove(remove) => &remove.named.common,
            Action::Delete(delete) => &delete.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::Create(create) => create.run().await,
            Action::List(asking) => list(&asking).await,
            Action::Quota(quota) => quota.run().await,
            Action::Add(add) => add.named.run(true).await,
            Action::Remove(remove) => remove.named.run(false).await,
            Action::Delete(delete) => delete.run().await,
        }
    }
}

impl Create {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let mut body = json!({ "groupname": self.name, "quota": self.quota.as_json() });
        if let Some(text) = &self.description {
            body["description"] = json!(text);
        }
        api.post("Group", &body).await?;
        if session.out.is_json() {
            return session.out.json(&json!({ "groupname": self.name, "quota": self.quota.as_json() }));
        }
        session.out.line(format_args!("GROUP {}", self.name))
    }
}

async fn list(asking: &Asking) -> Result {
    let (session, api) = asking.begin()?;
    let groups: Vec<GroupView> = api.views("Group").await?;
    if session.out.is_json() {
        let all = groups.iter().map(|group| {
            json!({ "groupname": group.groupname, "description": group.description, "members": group.members, "quota": group.quota, "used": group.used })
        });
        return session.out.json(&all.collect::<Vec<_>>());
    }
    let rows = groups.iter().map(|group| {
        let of = |what: &str| {
            let most = group.quota.get(what).map_or_else(|| "-".to_owned(), text_of);
            format!("{}/{most}", group.used.get(what).map(text_of).unwrap_or_default())
        };
        vec![group.groupname.clone(), of("machines"), of("volumes"), of("images"), group.members.join(",")]
    });
    session.out.line(table::render(&["NAME", "MACHINES", "VOLUMES", "IMAGES", "MEMBERS"], rows))
}

impl SetQuota {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let quota = quota::changed(&api, &format!("Group/{}", checked(&self.group)?), &self.quota).await?;
        session.out.detail(format_args!("the quota of {} is set", self.group));
        if session.out.is_json() { session.out.json(&json!({ "groupname": self.group, "quota": quota })) } else { Ok(()) }
    }
}

impl Named {
    async fn run(self, is_in: bool) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let group = checked(&self.group)?;
        if is_in {
            let found: std::result::Result<GroupView, _> = api.view(&format!("Group/{group}")).await;
            found.map_err(|error| {
                let is_missing = matches!(&error, ApiError::Refused { status: 404, .. });
                let failure = Failure::from(error);
                if is_missing { failure.with_hint(format!("Make it first: stratus group create {group}")) } else { failure }
            })?;
        }
        let outcome = each(&self.users, async |user| {
            let is_changed = set_member(&api, group, checked(user)?, is_in).await?;
            // Who takes the wrong user out believes that somebody lost a right who has it still.
            if !is_in && !is_changed {
                return Err(Failure::Work(format!("'{user}' is not a member of {group}")));
            }
            session.out.detail(format_args!("{user} is {} {group}", if is_in { "in" } else { "not in" }));
            Ok(())
        })
        .await;
        if session.out.is_json() {
            session.out.json(&outcome.names())?;
        }
        outcome.result()
    }
}

/// Puts a user into a group, or takes one out: the group is one of the roles. Whether that changed anything.
async fn set_member(api: &Api, group: &str, user: &str, is_in: bool) -> std::result::Result<bool, ApiError> {
    let revise = |roles: &Value| {
        let mut roles: Vec<String> = roles.as_array().into_iter().flatten().map(text_of).collect();
        if roles.iter().any(|role| role == group) == is_in {
            return None;
        }
        roles.retain(|role| role != group);
        if is_in {
            roles.push(group.to_owned());
        }
        Some(json!(roles))
    };
    api.revise(&format!("User/{user}"), "roles", revise).await
}

impl Delete {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        api.delete(&format!("Group/{}", checked(&self.group)?)).await?;
        session.out.detail(format_args!("the group {} is removed", self.group));
        if session.out.is_json() { session.out.json(&json!({ "groupname": self.group })) } else { Ok(()) }
    }
}

/// A name as a part of a URL.
fn checked(name: &str) -> Result<&str> {
    if !is_local_id(name) {
        return Err(Failure::Check(format!("'{name}' is no name of a group or user")));
    }
    Ok(name)
}
