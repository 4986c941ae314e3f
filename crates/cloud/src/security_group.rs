//! Security groups: what may reach the machines that are in them, and what these may begin.
//!
//! Which machines are in a group stands in the machines; hosts carry out both (`network`). A group is removed in two steps, so
//! that nothing can begin to use it in between: first it is marked, which every machine and rule that is to use it sees, and then
//! it goes, if nothing does.

pub(crate) mod reached;
mod rule;

use std::{collections::BTreeMap, sync::Arc};

use cimi::{
    Ref, Right, Timestamp,
    ids::SecurityGroupId,
    model::{Changes as Edits, Kind},
    resources::{Event, Machine, Nic, Resource as _, SecurityGroup, SecurityRule, Unknown},
};
use documents::{Cached, Changes, Documents};
use placement::Means;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Rel, Result, View, access,
    catalogue::{self, Plain, Public},
    resolve,
};

/// Most rules of one group.
pub(crate) const MOST_RULES: usize = 100;
/// Most groups of one machine.
pub(crate) const MOST_OF_MACHINE: usize = 8;
/// The attribute of machines that names them.
pub(crate) const OF_MACHINE: &str = "securityGroups";
/// Attempts against others who change the same group at the same moment.
const ATTEMPTS: usize = 16;
/// Most users of a group that are named to whoever may not remove it.
const NAMED_USERS: usize = 5;

impl Cloud {
    /// Makes a group without rules: its machines are reached by nobody.
    ///
    /// # Errors
    /// [`CloudError::Exhausted`] with too many of them.
    pub async fn create_security_group(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let now = Timestamp::now();
        let mut group = SecurityGroup {
            id: SecurityGroupId::generate(),
            common: Self::common_for(context, now)?,
            rules: Vec::new(),
            reached: BTreeMap::new(),
            problem: None,
            leaving: false,
            unknown: Unknown::new(),
        };
        for (name, value) in &body {
            if ["name", "description", "properties"].contains(&name.as_str()) {
                catalogue::edit_common(&mut group.common, name, Some(value))?;
            }
        }
        catalogue::check_size(&group)?;
        let event = Event::request(&group, "add", context.user().unwrap_or_default(), now);
        self.write_one_within::<SecurityGroup>(context, |changes| {
            changes.create(&group).create(&event)
        })
        .await?;
        tracing::info!(group = %group.id, owner = context.user(), "security group made");
        let read =
            access::find::<SecurityGroup>(documents, context, group.id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(documents, context, read),
            job: None,
            existed: false,
        })
    }

    /// Removes a group.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while a machine is in it or a rule of another group names it.
    pub async fn delete_security_group(&self, context: &OpContext, local: &str) -> Result<Done> {
        let documents = &self.0.documents;
        for _ in 0..ATTEMPTS {
            context.in_time()?;
            let read = access::find::<SecurityGroup>(documents, context, local, Right::Modify)?;
            let users = users_of(documents, context, &read);
            let group = read.document.0.clone();
            let changes = match (read.leaving, users) {
                (false, None) => {
                    let next = SecurityGroup {
                        leaving: true,
                        ..group
                    };
                    documents.changes().replace(&read, next)
                }
                (true, None) => {
                    let user = context.user().unwrap_or_default();
                    let event = Event::request(&group, "delete", user, Timestamp::now());
                    documents.changes().remove(&read).create(&event)
                }
                (false, Some(users)) => {
                    return Err(CloudError::Conflict(format!(
                        "{} is in use by {users}; take it from these first",
                        read.id
                    )));
                }
                // Somebody came before the mark.
                (true, Some(_)) => {
                    let next = SecurityGroup {
                        leaving: false,
                        ..group
                    };
                    documents.changes().replace(&read, next)
                }
            };
            match changes.commit().await {
                Ok(_) if documents.security_groups.get(local).is_none() => {
                    tracing::info!(
                        group = local,
                        user = context.user(),
                        "security group removed"
                    );
                    return Ok(Done::default());
                }
                Ok(_) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(too_many())
    }

    /// The rules of a group, as members of a collection of its own, and whether the caller may add one.
    pub(crate) fn rules_of_group(
        &self,
        context: &OpContext,
        id: &str,
    ) -> Result<(Vec<View>, bool)> {
        let documents = &self.0.documents;
        let group = access::find::<SecurityGroup>(documents, context, id, Right::View)?;
        let right = context.right_on(group.acl()).unwrap_or(Right::View);
        let may_change = right >= Right::Modify;
        let rules = group.rules.iter();
        let rules = rules.map(|rule| rule_view(&group, rule, right, may_change));
        Ok((rules.collect(), may_change))
    }

    /// Adds a rule; its id.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for what can't be, [`CloudError::Conflict`] for what it allows already.
    pub(crate) async fn add_rule(
        &self,
        context: &OpContext,
        id: &str,
        body: &Map<String, Value>,
    ) -> Result<String> {
        let documents = &self.0.documents;
        for _ in 0..ATTEMPTS {
            context.in_time()?;
            let read = access::find::<SecurityGroup>(documents, context, id, Right::Modify)?;
            not_leaving(&read)?;
            let rule = rule::parse(body)?;
            if let Some(same) = read.rules.iter().find(|other| other.allows_as(&rule)) {
                return Err(CloudError::Conflict(format!(
                    "{} allows that already, by its rule {}",
                    read.id, same.id
                )));
            }
            if read.rules.len() >= MOST_RULES {
                return Err(CloudError::Exhausted(format!(
                    "{} has {MOST_RULES} rules, and more are not possible: remove some, or make another group, since a machine can be in {MOST_OF_MACHINE}",
                    read.id
                )));
            }
            let mut group = read.document.0.clone();
            let mut changes = documents.changes();
            if let Some(named) = &rule.group
                && named.href != read.id
            {
                let local = named.href.local();
                let found = access::find::<SecurityGroup>(documents, context, local, Right::View);
                let named = resolve::at("group", found)?;
                not_leaving(&named)?;
                changes = changes.unchanged(&named);
            }
            let made = rule.id.clone();
            group.rules.push(rule);
            catalogue::check_size(&group)?;
            let user = context.user().unwrap_or_default();
            let event = Event::request(&group, "add of a rule", user, Timestamp::now());
            match changes.replace(&read, group).create(&event).commit().await {
                Ok(_) => {
                    tracing::info!(group = %read.id, rule = made, user, "security group: rule added");
                    return Ok(made);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(too_many())
    }

    /// Takes a rule out.
    ///
    /// # Errors
    /// [`CloudError::NotFound`].
    pub(crate) async fn remove_rule(
        &self,
        context: &OpContext,
        id: &str,
        rule: &str,
    ) -> Result<()> {
        let documents = &self.0.documents;
        for _ in 0..ATTEMPTS {
            context.in_time()?;
            let read = access::find::<SecurityGroup>(documents, context, id, Right::Modify)?;
            let mut group = read.document.0.clone();
            group.rules.retain(|one| one.id != rule);
            if group.rules.len() == read.rules.len() {
                return Err(CloudError::not_found(format!("{}/rules/{rule}", read.id)));
            }
            let user = context.user().unwrap_or_default();
            let event = Event::request(&group, "removal of a rule", user, Timestamp::now());
            let changes = documents.changes().replace(&read, group).create(&event);
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(group = %read.id, rule, user, "security group: rule removed");
                    return Ok(());
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(too_many())
    }

    /// The groups named, which the caller may put machines into: by that they get what others allow these.
    pub(crate) fn joinable_groups(
        &self,
        context: &OpContext,
        named: &[Map<String, Value>],
        path: &str,
    ) -> Result<Vec<Arc<Cached<SecurityGroup>>>> {
        let named = named_by(named, path)?;
        let groups = named
            .iter()
            .map(|local| self.joinable_group(context, local, path));
        groups.collect()
    }

    fn joinable_group(
        &self,
        context: &OpContext,
        local: &str,
        path: &str,
    ) -> Result<Arc<Cached<SecurityGroup>>> {
        let documents = &self.0.documents;
        let found = access::find::<SecurityGroup>(documents, context, local, Right::Modify);
        let group = resolve::at(path, found)?;
        not_leaving(&group)?;
        Ok(group)
    }

    /// Refuses groups where none can be carried out.
    pub(crate) fn can_be_filtered(&self, nics: &[Nic], path: &str) -> Result<()> {
        for nic in nics {
            let network = self.0.documents.networks.get(nic.network.local());
            if network.is_some_and(|network| network.forwarded) {
                return Err(CloudError::invalid(
                    path,
                    format!(
                        "can't be had on {}: its machines are reached by ports of their host, which no group is asked about",
                        nic.network
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Changes the groups of a machine, and whatever else is changed with them.
    pub(crate) async fn regroup_machine(
        &self,
        context: &OpContext,
        local: &str,
        mut edits: Edits,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        let named = edits.remove(OF_MACHINE).flatten();
        let named = named.as_ref().and_then(Value::as_array);
        let entries = named.into_iter().flatten();
        let named: Vec<_> = entries.filter_map(Value::as_object).cloned().collect();
        let named = named_by(&named, OF_MACHINE)?;
        for _ in 0..ATTEMPTS {
            context.in_time()?;
            let read = access::find::<Machine>(documents, context, local, Right::Modify)?;
            let mut next = read.document.0.clone();
            let edited = catalogue::apply(documents, context, &mut next, &edits)?;
            let mut changes = documents.changes();
            let mut groups = Vec::new();
            for local in &named {
                let mut had = read.security_groups.iter();
                // What it has may stay, whosever it is.
                if let Some(group) = had.find(|group| group.href.local() == local) {
                    groups.push(group.clone());
                    continue;
                }
                let group = self.joinable_group(context, local, OF_MACHINE)?;
                groups.push(Ref::to(group.document.id.clone()));
                changes = changes.unchanged(&group);
            }
            if !groups.is_empty() {
                self.can_be_filtered(&read.nics, OF_MACHINE)?;
                let needs = Means {
                    security_groups: true,
                    ..Means::default()
                };
                let told = ("that is too old for security groups", "have it upgraded");
                self.require_means(&read, needs, told)?;
            }
            if !edited && groups == read.security_groups {
                return Ok(done(documents, context, read));
            }
            next.security_groups = groups;
            catalogue::check_size(&next)?;
            let user = context.user().unwrap_or_default();
            let event = Event::request(&next, "edit", user, Timestamp::now());
            match changes.replace(&read, next).create(&event).commit().await {
                Ok(_) => {
                    tracing::info!(machine = %read.document.id, user, "security groups of a machine changed");
                    let read = access::find::<Machine>(documents, context, local, Right::View)?;
                    return Ok(done(documents, context, read));
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(too_many())
    }
}

/// The local parts of the ids of the groups that references name, each once.
fn named_by(entries: &[Map<String, Value>], path: &str) -> Result<Vec<String>> {
    let mut named: Vec<String> = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let path = format!("{path}[{number}]");
        let href = resolve::href_of(entry)
            .ok_or_else(|| CloudError::invalid(path.clone(), "needs `href`"))?;
        let local = resolve::local_part::<SecurityGroup>(href, &path)?;
        if !named.iter().any(|other| other == local) {
            named.push(local.to_owned());
        }
    }
    if named.len() > MOST_OF_MACHINE {
        let text = format!(
            "names {} groups; a machine is in at most {MOST_OF_MACHINE}",
            named.len()
        );
        return Err(CloudError::invalid(path, text));
    }
    Ok(named)
}

/// Adds to the transaction that the groups are as they were read.
pub(crate) fn guard<'a>(
    groups: &[Arc<Cached<SecurityGroup>>],
    changes: Changes<'a>,
) -> Changes<'a> {
    let all = groups.iter();
    all.fold(changes, |changes, group| changes.unchanged(group))
}

fn done(documents: &Documents, context: &OpContext, read: Arc<Cached<Machine>>) -> Done {
    Done {
        view: Some(catalogue::view(documents, context, read)),
        job: None,
    }
}

fn not_leaving(group: &SecurityGroup) -> Result<()> {
    match group.leaving {
        false => Ok(()),
        true => Err(CloudError::Conflict(format!(
            "{} is being removed",
            group.id
        ))),
    }
}

/// Who uses a group, in words; none if nobody does. What the caller may not see is counted only.
fn users_of(documents: &Documents, context: &OpContext, group: &SecurityGroup) -> Option<String> {
    let local = group.id.local();
    let machines = documents.machines.by_index("securityGroup", local);
    let groups = documents.security_groups.by_index("names", local);
    let machines = machines
        .iter()
        .map(|machine| (context.right_on(machine.acl()), &machine.document.id))
        .map(|(right, id)| right.map(|_| id.to_string()));
    let groups = groups
        .iter()
        .filter(|other| other.document.id != group.id)
        .map(|other| (context.right_on(other.acl()), &other.document.id))
        .map(|(right, id)| right.map(|_| id.to_string()));
    let (named, unseen): (Vec<_>, Vec<_>) = machines.chain(groups).partition(Option::is_some);
    if named.is_empty() && unseen.is_empty() {
        return None;
    }
    let rest = unseen.len() + named.len().saturating_sub(NAMED_USERS);
    let mut words: Vec<String> = named.into_iter().flatten().take(NAMED_USERS).collect();
    if rest > 0 {
        words.push(format!("{rest} more"));
    }
    Some(words.join(", "))
}

fn rule_view(
    group: &Cached<SecurityGroup>,
    rule: &SecurityRule,
    right: Right,
    deletable: bool,
) -> View {
    let mut attributes = match json!(rule) {
        Value::Object(attributes) => attributes,
        _ => Map::new(),
    };
    attributes.remove("id");
    View {
        kind: Kind::SecurityGroupRule,
        id: format!("{}/rules/{}", group.document.id, rule.id).into(),
        stamp: None,
        right,
        document: Arc::new(Plain {
            attributes,
            operations: match deletable {
                true => vec![Rel::Delete],
                false => Vec::new(),
            },
        }),
    }
}

fn too_many() -> CloudError {
    CloudError::Unavailable("too many others change this security group: try again".to_owned())
}

impl Public for SecurityGroup {
    const KIND: Kind = Kind::SecurityGroup;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let rules = json!({"href": format!("{}/rules", self.id)});
        let problem = self
            .problem
            .clone()
            .map(|problem| ("problem", json!(problem)));
        let shown = [("rules", rules)].into_iter().chain(problem);
        shown
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}
