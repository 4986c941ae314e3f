//! `stratus security-group …`: what may reach machines, and what they may begin.

mod rule;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::each::each;
use super::machine_id::MachineNames;
use crate::cloud::{Api, is_uuid, text_of};
use crate::failure::{Failure, Result};
use crate::options::{Asking, Cloud, Common};
use crate::session::Session;
use crate::table;
use rule::{Peer, RuleView, Traffic};

/// Say what may reach machines, and what they may begin
///
/// A machine in one or more groups is reached by what a rule of these lets in, and by answers to what it asked; a machine in none by
/// whatever its network lets through. It may begin connections to anywhere, unless a group of it has rules with --to or --out: then
/// only what one of these lets out. Changes hold at once for machines that run. What is still allowed goes on undisturbed; what a
/// removed rule had let in ends.
/// Groups are named by UUID, or by a name that only one of them has.
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  stratus security-group create web --description 'the shop'
  stratus security-group allow web tcp/443
  stratus security-group allow web tcp/22 --from 192.0.2.0/24
  stratus security-group allow db tcp/5432 --from web
  stratus run-instance --security-group web IMAGE
  stratus security-group add db 17 18"
)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the groups
    ///
    /// JSON: a list of {"id", "name", "description", "owner"}.
    List(Asking),
    Show(Show),
    Create(Create),
    Delete(Delete),
    Allow(Allow),
    Forbid(Forbid),
    Add(Machines),
    Remove(Machines),
}

/// Show a group, its rules and your machines in it
///
/// JSON: {"id", "name", "description", "rules": [{"id", "direction", "protocol", "firstPort", "lastPort", "icmpType", "icmpCode",
/// "addresses", "group", "description"}], "machines": [NUMBER], "problem"}; "problem" only if rules can't let in whom they name.
#[derive(Debug, clap::Args)]
struct Show {
    /// UUID or name
    #[arg(value_name = "GROUP")]
    group: String,
    #[command(flatten)]
    asking: Asking,
}

/// Make a group, which lets nobody in yet
///
/// Prints 'SECURITY GROUP UUID'. JSON: {"id", "name"}.
#[derive(Debug, clap::Args)]
struct Create {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Remove groups that no machine is in and no other group's rule names
///
/// JSON: a list of the ids.
#[derive(Debug, clap::Args)]
struct Delete {
    /// UUIDs or names
    #[arg(value_name = "GROUP", required = true)]
    groups: Vec<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Add a rule: what may come in, or with --to or --out what may be begun
///
/// WHAT is any, tcp, udp, icmp, icmpv6 or the number of a protocol; of TCP and UDP with a port or ports (tcp/22, udp/6000-6010), of
/// ICMP with a type and code (icmp/8, icmpv6/128/0).
/// PEER is an address, a block of addresses in CIDR notation, or a group: its machines, wherever they run.
/// Prints 'RULE UUID'. JSON: {"id"}.
#[derive(Debug, clap::Args)]
struct Allow {
    /// UUID or name of the group
    #[arg(value_name = "GROUP")]
    group: String,
    /// Protocol, with ports or types
    #[arg(value_name = "WHAT")]
    what: String,
    /// Who may reach its machines [default: anybody]
    #[arg(long, value_name = "PEER", conflicts_with_all = ["to", "out"])]
    from: Option<String>,
    /// Whom its machines may reach
    #[arg(long, value_name = "PEER")]
    to: Option<String>,
    /// Its machines may reach anybody
    #[arg(long, conflicts_with = "to")]
    out: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Remove rules; what they had let in or out ends
///
/// JSON: a list of the rules' UUIDs.
#[derive(Debug, clap::Args)]
struct Forbid {
    /// UUID or name of the group
    #[arg(value_name = "GROUP")]
    group: String,
    /// UUIDs of rules, as 'stratus security-group show' tells them
    #[arg(value_name = "RULE", required = true)]
    rules: Vec<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// Put machines into a group, or take them out, whether they run or not
///
/// JSON: a list of the machines as they were named.
#[derive(Debug, clap::Args)]
struct Machines {
    /// UUID or name of the group
    #[arg(value_name = "GROUP")]
    group: String,
    /// Numbers or names of machines
    #[arg(value_name = "vm-id", required = true)]
    machines: Vec<String>,
    #[command(flatten)]
    cloud: Cloud,
    #[command(flatten)]
    common: Common,
}

/// A group as the cloud shows it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupView {
    id: String,
    name: Option<String>,
    description: Option<String>,
    owner: Option<String>,
    /// Why nobody is let in by a group that rules name.
    problem: Option<String>,
}

impl GroupView {
    fn uuid(&self) -> &str {
        self.id.trim_start_matches("SecurityGroup/")
    }

    fn as_json(&self) -> Value {
        json!({ "id": self.uuid(), "name": self.name, "description": self.description, "owner": self.owner })
    }
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        match &self.action {
            Action::List(asking) => &asking.common,
            Action::Show(show) => &show.asking.common,
            Action::Create(create) => &create.common,
            Action::Delete(delete) => &delete.common,
            Action::Allow(allow) => &allow.common,
            Action::Forbid(forbid) => &forbid.common,
            Action::Add(machines) | Action::Remove(machines) => &machines.common,
        }
    }

    pub(super) async fn run(self) -> Result {
        match self.action {
            Action::List(asking) => list(&asking).await,
            Action::Show(show) => show.run().await,
            Action::Create(create) => create.run().await,
            Action::Delete(delete) => delete.run().await,
            Action::Allow(allow) => allow.run().await,
            Action::Forbid(forbid) => forbid.run().await,
            Action::Add(machines) => machines.run(true).await,
            Action::Remove(machines) => machines.run(false).await,
        }
    }
}

async fn list(asking: &Asking) -> Result {
    let (session, api) = asking.begin()?;
    let groups: Vec<GroupView> = api.views("SecurityGroup").await?;
    if session.out.is_json() {
        return session.out.json(&groups.iter().map(GroupView::as_json).collect::<Vec<_>>());
    }
    let rows = groups.iter().map(|group| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        vec![group.uuid().to_owned(), text(&group.name), text(&group.description)]
    });
    session.out.line(table::render(&["UUID", "NAME", "DESCRIPTION"], rows))
}

impl Show {
    async fn run(self) -> Result {
        let (session, api) = self.asking.begin()?;
        let groups: Vec<GroupView> = api.views("SecurityGroup").await?;
        let group = found(&groups, &self.group)?;
        let path = format!("SecurityGroup/{}", group.uuid());
        let rules = rules_of(&api, &path).await?;
        let machines: Vec<Value> = api.list("Machine").await?;
        let is_in = |machine: &&Value| named_groups(&machine["securityGroups"]).any(|href| href == path);
        let machines: Vec<&Value> = machines.iter().filter(is_in).map(|machine| &machine["vmid"]).collect();
        if session.out.is_json() {
            let mut shown = group.as_json();
            shown["rules"] = rules.iter().map(RuleView::as_json).collect();
            shown["machines"] = json!(machines);
            if let Some(problem) = &group.problem {
                shown["problem"] = json!(problem);
            }
            return session.out.json(&shown);
        }
        session.out.line(format_args!("{} {}", group.uuid(), group.name.as_deref().unwrap_or_default()))?;
        if let Some(text) = &group.description {
            session.out.line(format_args!("{text}"))?;
        }
        let name_of = |uuid: &str| {
            let known = groups.iter().find(|group| group.uuid() == uuid);
            known.and_then(|group| group.name.clone()).unwrap_or_else(|| uuid.to_owned())
        };
        let rows = rules.iter().map(|rule| rule.row(name_of));
        session.out.line(table::render(&["RULE", "DIRECTION", "WHAT", "PEER", "DESCRIPTION"], rows))?;
        if let Some(problem) = &group.problem {
            session.out.line(format_args!("Problem: {problem}"))?;
        }
        let machines: Vec<String> = machines.into_iter().map(text_of).collect();
        session.out.line(format_args!("Machines: {}", if machines.is_empty() { "none".to_owned() } else { machines.join(" ") }))
    }
}

async fn rules_of(api: &Api, path: &str) -> Result<Vec<RuleView>> {
    let shown = api.get(&format!("{path}/rules")).await?;
    let members = shown.get("securityGroupRules").cloned().unwrap_or_else(|| json!([]));
    Ok(api.viewed(path, members)?)
}

impl Create {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let mut body = json!({ "name": self.name });
        if let Some(text) = &self.description {
            body["description"] = json!(text);
        }
        let made = api.post("SecurityGroup", &body).await?;
        let group: GroupView = api.viewed("SecurityGroup", made.body)?;
        if session.out.is_json() {
            return session.out.json(&json!({ "id": group.uuid(), "name": group.name }));
        }
        session.out.line(format_args!("SECURITY GROUP {}", group.uuid()))
    }
}

impl Delete {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let outcome = each(&self.groups, async |named| {
            let id = group_named(&api, named).await?;
            api.delete(&format!("SecurityGroup/{id}")).await?;
            session.out.detail(format_args!("the security group {named} is removed"));
            Ok(id)
        })
        .await;
        if session.out.is_json() {
            session.out.json(&outcome.done.iter().map(|(_, id)| id).collect::<Vec<_>>())?;
        }
        outcome.result()
    }
}

impl Allow {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let traffic = Traffic::read(&self.what)?;
        let api = session.api(&self.cloud)?;
        let id = group_named(&api, &self.group).await?;
        let outward = self.out || self.to.is_some();
        let mut body = json!({ "direction": if outward { "out" } else { "in" } });
        traffic.tell(&mut body);
        if let Some(named) = self.from.as_ref().or(self.to.as_ref()) {
            match Peer::read(named) {
                Peer::Addresses(block) => body["addresses"] = json!(block),
                Peer::Group(name) => {
                    let id = group_named(&api, &name).await?;
                    body["group"] = json!({ "href": format!("SecurityGroup/{id}") });
                }
            }
        }
        if let Some(text) = &self.description {
            body["description"] = json!(text);
        }
        let made = api.post(&format!("SecurityGroup/{id}/rules"), &body).await?;
        let rule: RuleView = api.viewed("SecurityGroup", made.body)?;
        if session.out.is_json() {
            return session.out.json(&json!({ "id": rule.uuid() }));
        }
        session.out.line(format_args!("RULE {}", rule.uuid()))
    }
}

impl Forbid {
    async fn run(self) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let id = group_named(&api, &self.group).await?;
        let outcome = each(&self.rules, async |rule| {
            if !is_uuid(rule) {
                return Err(Failure::Check(format!("'{rule}' is no UUID of a rule; stratus security-group show {} tells them", self.group)));
            }
            api.delete(&format!("SecurityGroup/{id}/rules/{}", rule.to_lowercase())).await?;
            session.out.detail(format_args!("the rule {rule} is removed"));
            Ok(())
        })
        .await;
        if session.out.is_json() {
            session.out.json(&outcome.names())?;
        }
        outcome.result()
    }
}

impl Machines {
    async fn run(self, is_in: bool) -> Result {
        let session = Session::new(&self.common)?;
        let api = session.api(&self.cloud)?;
        let href = format!("SecurityGroup/{}", group_named(&api, &self.group).await?);
        let names = MachineNames::of(&api);
        let outcome = each(&self.machines, async |named| {
            let machine = names.find(named).await?;
            let revise = |groups: &Value| {
                let mut groups: Vec<String> = named_groups(groups).map(str::to_owned).collect();
                if groups.contains(&href) == is_in {
                    return None;
                }
                groups.retain(|group| *group != href);
                if is_in {
                    groups.push(href.clone());
                }
                Some(groups.iter().map(|href| json!({ "href": href })).collect())
            };
            let is_changed = api.revise(&machine.path(), "securityGroups", revise).await?;
            // Who takes the wrong machine out believes that it is free of the group.
            if !is_in && !is_changed {
                return Err(Failure::Work(format!("machine {named} is not in the security group {}", self.group)));
            }
            session.out.detail(format_args!("machine {named} is {} the security group {}", if is_in { "in" } else { "not in" }, self.group));
            Ok(())
        })
        .await;
        if session.out.is_json() {
            session.out.json(&outcome.names())?;
        }
        outcome.result()
    }
}

/// The groups that a machine names, as `SecurityGroup/UUID`.
fn named_groups(groups: &Value) -> impl Iterator<Item = &str> {
    let all = groups.as_array().into_iter().flatten();
    all.filter_map(|group| {
        let href = group["href"].as_str()?;
        Some(href.find("SecurityGroup/").and_then(|at| href.get(at..)).unwrap_or(href))
    })
}

/// The UUID of the group that a user named.
pub(super) async fn group_named(api: &Api, text: &str) -> Result<String> {
    let local = text.trim().trim_start_matches("SecurityGroup/");
    if is_uuid(local) {
        return Ok(local.to_lowercase());
    }
    let groups: Vec<GroupView> = api.views("SecurityGroup").await?;
    Ok(found(&groups, text)?.uuid().to_owned())
}

fn found<'g>(groups: &'g [GroupView], text: &str) -> Result<&'g GroupView> {
    let local = text.trim().trim_start_matches("SecurityGroup/").to_lowercase();
    let is_it = |group: &&GroupView| group.uuid() == local || group.name.as_deref() == Some(text);
    let named: Vec<&GroupView> = groups.iter().filter(is_it).collect();
    match named.as_slice() {
        [] => Err(Failure::Work(format!("there is no security group '{text}'")).with_hint("stratus security-group list shows those that are there.")),
        [group] => Ok(group),
        several => {
            let ids: Vec<&str> = several.iter().map(|group| group.uuid()).collect();
            Err(Failure::Work(format!("{} security groups have the name '{text}'; take one of {}", ids.len(), ids.join(", "))))
        }
    }
}
