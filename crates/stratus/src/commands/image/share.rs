//! `stratus image share` and `unshare`: who else may use an image.

use serde_json::{Value, json};

use crate::cloud::{ImageView, text_of};
use crate::commands::image_name::Use;
use crate::failure::{Failure, Result};
use crate::options::{Cloud, Common};
use crate::session::Session;

/// Let particular people use an image, or change it
///
/// VIEW, which counts if nothing else is said: to see the image and start machines from it. MODIFY: also to change and delete it.
/// ALL: also to say who may. For everybody there is 'image update --public'. Who has a right already gets the new one instead of it.
/// A name that nobody has is not refused, since the cloud tells nobody who its users are: 'image show' shows who it is shared with.
///
/// Prints nothing; -v: who may what. JSON: {"image", "shared": [{"principal", "type", "right"}]}.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus image share --with ann --with bob:MODIFY debian-12
  stratus image share --with-group physics debian-12")]
pub struct Share {
    /// Identifier, UUID or name
    #[arg(value_name = "IMAGE")]
    image: String,
    /// A user, and the right: VIEW, MODIFY or ALL; may be repeated
    #[arg(long = "with", value_name = "USER[:RIGHT]", required_unless_present = "groups")]
    users: Vec<Grant>,
    /// The members of a group, and the right; may be repeated
    #[arg(long = "with-group", id = "groups", value_name = "GROUP[:RIGHT]")]
    groups: Vec<Grant>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Take rights on an image back
///
/// Machines that were started from it go on. One with whom it is not shared is told. Prints nothing; -v: who may what.
///
/// JSON: as of 'image share'.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  stratus image unshare --with bob debian-12
  stratus image unshare --all debian-12")]
pub struct Unshare {
    /// Identifier, UUID or name
    #[arg(value_name = "IMAGE")]
    image: String,
    /// A user; may be repeated
    #[arg(long = "with", value_name = "USER", required_unless_present_any = ["groups", "all"])]
    users: Vec<String>,
    /// The members of a group; may be repeated
    #[arg(long = "with-group", id = "groups", value_name = "GROUP")]
    groups: Vec<String>,
    /// All users and groups; whether the image is public stays as it is
    #[arg(long, conflicts_with_all = ["users", "groups"])]
    all: bool,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Rights, from the least on.
const RIGHTS: [&str; 3] = ["VIEW", "MODIFY", "ALL"];
/// What the roles begin with that the cloud itself gives, such as that of everybody: no groups.
const BUILT_IN: &str = "::";

/// `NAME` or `NAME:RIGHT`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    name: String,
    right: &'static str,
}

impl std::str::FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, right) = text.rsplit_once(':').unwrap_or((text, RIGHTS[0]));
        let known = RIGHTS.into_iter().find(|known| known.eq_ignore_ascii_case(right));
        match known {
            Some(right) if is_name(name) => Ok(Self { name: name.to_owned(), right }),
            Some(_) => Err("names nobody: write NAME, or NAME:RIGHT".to_owned()),
            None => Err(format!("has no right that there is: write NAME, or NAME:RIGHT with one of {}", RIGHTS.join(", "))),
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && !name.starts_with(BUILT_IN)
}

/// Users and groups, each by what access lists call them.
fn principals<'a, T>(users: &'a [T], groups: &'a [T]) -> impl Iterator<Item = (&'static str, &'a T)> {
    let users = users.iter().map(|user| ("USER", user));
    users.chain(groups.iter().map(|group| ("ROLE", group)))
}

fn is_about(rule: &Value, kind: &str, name: &str) -> bool {
    rule["type"] == kind && rule["principal"] == name
}

/// Whether a rule is about particular people, and not about everybody.
fn is_particular(rule: &Value) -> bool {
    !rule["principal"].as_str().unwrap_or_default().starts_with(BUILT_IN)
}

/// Whom an access list names besides the owner: `ann (VIEW), group physics (MODIFY)`.
pub(super) fn shown(acl: &Value) -> String {
    let rules = acl["rules"].as_array().into_iter().flatten();
    let shown = rules.filter(|rule| is_particular(rule)).map(|rule| {
        let group = if rule["type"] == "ROLE" { "group " } else { "" };
        format!("{group}{} ({})", text_of(&rule["principal"]), text_of(&rule["right"]))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Changes the rules of an image's access list, as they are then.
async fn change(common: &Common, cloud: &Cloud, image: &str, mut change: impl FnMut(&mut Vec<Value>)) -> Result {
    let session = Session::new(common)?;
    let api = session.api(cloud)?;
    let named = super::image_path(&api, image, Use::Content).await?;
    // An identifier may mean another image meanwhile.
    let path = api.view::<ImageView>(&named).await?.id;
    let mut now = Value::Null;
    api.revise(&path, "acl", |acl| {
        let before = acl["rules"].as_array().cloned().unwrap_or_default();
        let mut rules = before.clone();
        change(&mut rules);
        now = acl.clone();
        now["rules"] = json!(rules);
        (rules != before).then(|| now.clone())
    })
    .await?;
    let with = shown(&now);
    session.out.detail(format_args!("{image} is shared with {}", if with.is_empty() { "nobody" } else { &with }));
    if session.out.is_json() {
        let rules = now["rules"].as_array().into_iter().flatten();
        let shared: Vec<&Value> = rules.filter(|rule| is_particular(rule)).collect();
        return session.out.json(&json!({ "image": path, "shared": shared }));
    }
    Ok(())
}

impl Share {
    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        change(&self.common, &self.cloud, &self.image, |rules| {
            for (kind, Grant { name, right }) in principals(&self.users, &self.groups) {
                rules.retain(|rule| !is_about(rule, kind, name));
                rules.push(json!({ "principal": name, "type": kind, "right": right }));
            }
        })
        .await
    }
}

impl Unshare {
    pub(in crate::commands) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let mut strangers = Vec::new();
        change(&self.common, &self.cloud, &self.image, |rules| {
            strangers.clear();
            if self.all {
                rules.retain(|rule| !is_particular(rule));
            }
            for (kind, name) in principals(&self.users, &self.groups) {
                let before = rules.len();
                rules.retain(|rule| !is_about(rule, kind, name));
                if rules.len() == before {
                    strangers.push(name.clone());
                }
            }
        })
        .await?;
        // Who takes the wrong user's right back believes that somebody lost one who has it still.
        match strangers.as_slice() {
            [] => Ok(()),
            several => Err(Failure::Work(format!("the image is not shared with {}", several.join(", ")))
                .with_hint(format!("stratus image show {} shows with whom it is.", self.image))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_and_shown() {
        let grant = |name: &str, right| Ok(Grant { name: name.to_owned(), right });
        assert_eq!("ann".parse(), grant("ann", "VIEW"));
        assert_eq!("ann:modify".parse(), grant("ann", "MODIFY"));
        for wrong in ["", ":VIEW", "ann:READ", "ann:", "::USER", "::USER:VIEW"] {
            assert!(wrong.parse::<Grant>().is_err(), "{wrong}");
        }
        let acl = json!({ "owner": { "principal": "joe", "type": "USER" }, "rules": [
            { "principal": "ann", "type": "USER", "right": "VIEW" }, { "principal": "physics", "type": "ROLE", "right": "ALL" },
            { "principal": "::USER", "type": "ROLE", "right": "VIEW" }] });
        assert_eq!(shown(&acl), "ann (VIEW), group physics (ALL)");
        assert_eq!(shown(&Value::Null), "");
    }
}
