//! `stratus quota …`: what one may have, and has.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::quota_options::Amounts;
use crate::cloud::{Api, is_local_id, text_of};
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::session::Session;
use crate::table;

/// Show how much of the cloud you use and may use, and set limits
///
/// Everybody sees their own limits and those of their groups; administrators see and set everybody's.
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Show(Show),
    Set(Set),
}

/// Show your limits, and how much of them is used
///
/// USED is what you have now: machines that are off count, too. FROM tells who set a limit: 'user' for you alone, 'group' for a group, 'default' for everybody. The limits of all groups that you are in hold as well. JSON: {"user", "quota": [{"measure", "used", "limit", "from"}], "groups"}; a "limit" of -1 is none.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus quota show
  stratus quota show --format json
  stratus quota show --user joe
  stratus quota show --group physics")]
struct Show {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Set the limits of a user, or of all members of a group together
///
/// For administrators. Limits that are not named stay as they are. A lower limit takes nothing away from anybody: who has more than it can make nothing new. JSON: {"quota"}.
#[derive(Debug, clap::Args)]
#[command(after_help = "A limit is a number, 'unlimited', or 'default': for a user what the configuration gives everybody, for a group no limit.

Examples:
  stratus quota set --user joe --machines 20 --cpus 40
  stratus quota set --user joe --cpus default --images unlimited
  stratus quota set --group physics --volume-gib 5000")]
struct Set {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    amounts: Amounts,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Whose {
    /// Of this user
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    user: Option<String>,
    /// Of all members of this group together
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            Action::Show(show) => &show.common,
            Action::Set(set) => &set.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::Show(show) => show.run().await,
            Action::Set(set) => set.run().await,
        }
    }
}

impl Whose {
    fn checked(name: &str) -> Result<&str> {
        if is_local_id(name) { Ok(name) } else { Err(Failure::Check(format!("'{name}' is no name of a group or user"))) }
    }

    fn path(&self) -> Result<String> {
        let asked = |kind: &str, name: &str| {
            let name = percent_encoding::utf8_percent_encode(Self::checked(name)?, percent_encoding::NON_ALPHANUMERIC);
            Ok(format!("/stratus/quota?{kind}={name}"))
        };
        match (&self.user, &self.group) {
            (Some(user), _) => asked("user", user),
            (None, Some(group)) => asked("group", group),
            (None, None) => Ok("/stratus/quota".to_owned()),
        }
    }

    fn resource(&self) -> Result<String> {
        match (&self.user, &self.group) {
            (Some(user), _) => Ok(format!("User/{}", Self::checked(user)?)),
            (None, Some(group)) => Ok(format!("Group/{}", Self::checked(group)?)),
            (None, None) => Err(Failure::Check("whose quota? Give --user NAME or --group NAME".to_owned())),
        }
    }
}

impl Show {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let answer = session.api(&self.cloud)?.get(&self.whose.path()?).await?;
        if session.out.is_json() {
            return session.out.json(&answer);
        }
        session.out.line(rows(&answer))?;
        for group in answer.get("groups").and_then(Value::as_array).into_iter().flatten() {
            session.out.line(format_args!("\nAll members of the group {} together:", text_of(group.get("group").unwrap_or(&Value::Null))))?;
            session.out.line(rows(group))?;
        }
        Ok(())
    }
}

/// The table of a user or a group.
fn rows(answer: &Value) -> String {
    let all = answer.get("quota").and_then(Value::as_array).into_iter().flatten();
    let rows = all.map(|row| {
        let text = |name: &str| row.get(name).map(text_of).unwrap_or_default();
        let limit = match text("limit") {
            none if none == "-1" => "unlimited".to_owned(),
            limit => limit,
        };
        vec![named(&text("measure")), text("used"), limit, text("from")]
    });
    table::render(&["WHAT", "USED", "LIMIT", "FROM"], rows)
}

/// A measure as people say it.
fn named(measure: &str) -> String {
    match measure {
        "cpus" => "CPUs",
        "memoryMib" => "memory (MiB)",
        "volumeGib" => "volume space (GiB)",
        "imageGib" => "image space (GiB)",
        "localGib" => "machines' own disks (GiB)",
        "volumeImages" => "volume images",
        "volumeImageGib" => "volume image space (GiB)",
        other => other,
    }
    .to_owned()
}

impl Set {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let resource = self.whose.resource()?;
        let quota = changed(&session.api(&self.cloud)?, &resource, &self.amounts).await?;
        session.out.detail(format_args!("the quota of {resource} is set"));
        if session.out.is_json() { session.out.json(&json!({ "quota": quota })) } else { Ok(()) }
    }
}

/// Sets what is named, and leaves the rest; the quota of a user or group as it is then.
///
/// # Errors
/// [`ApiError`](crate::cloud::ApiError); [`Failure::Check`] if nothing is named.
pub(super) async fn changed(api: &Api, resource: &str, amounts: &Amounts) -> Result<Map<String, Value>> {
    if amounts.is_empty() {
        return Err(Failure::Check("what may they have? Give --machines, --cpus or another; see --help".to_owned()));
    }
    let mut quota = Map::new();
    let revise = |there: &Value| {
        quota = there.as_object().cloned().unwrap_or_default();
        amounts.change(&mut quota);
        Some(Value::Object(quota.clone()))
    };
    api.revise(resource, "quota", revise).await?;
    Ok(quota)
}
