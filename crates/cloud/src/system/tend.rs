//! Does what is wanted of systems: a step, written down, the next. Looks again whenever a system changes or a job ends.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc, time::Duration};

use accounts::Identity;
use cimi::{
    PrincipalType, Ref, Right, Timestamp,
    model::Kind,
    resources::{Asked, Job, JobGoal, JobState, Made, Member, Resource, System},
};
use documents::{Cached, Documents, DocumentsError, OfType, PART};
use serde_json::{Map, Value, json};

use super::{
    components::with_references,
    state::{failed, has_operations, is_goal_of, part_state},
};
use crate::{Caller, Cloud, CloudError, OpContext, Result, front::by_kind};

/// How long one step may take.
const STEP: Duration = Duration::from_secs(30);
/// What could not be done is tried again after this, if nothing happens before.
const AGAIN: Duration = Duration::from_secs(3);

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// There is more to do.
    Again,
    /// Nothing until something changes.
    Wait,
    /// It could not be done now.
    Later,
}

/// Tends all systems until the caches stop.
pub(crate) async fn tend(cloud: Cloud) {
    let documents = &cloud.0.documents;
    let mut systems = documents.systems.changes();
    let mut jobs = documents.jobs.changes();
    let mut due: BTreeSet<String> = BTreeSet::new();
    let mut later: BTreeSet<String> = BTreeSet::new();
    loop {
        while let Some(system) = due.pop_first() {
            match cloud.step_system(&system).await {
                Ok(Next::Again) => {
                    due.insert(system);
                }
                Ok(Next::Wait) => {}
                Ok(Next::Later) => {
                    later.insert(system);
                }
                Err(error) => {
                    tracing::warn!(system, %error, "trying again later");
                    later.insert(system);
                }
            }
        }
        tokio::select! {
            changed = systems.next() => {
                due.insert(changed.id().to_owned());
            }
            changed = jobs.next() => {
                if changed.present().is_none_or(|job| job.state.is_final()) {
                    let busy = documents.systems.by_index("busy", "yes");
                    due.extend(busy.iter().map(|system| system.id().to_owned()));
                }
            }
            () = tokio::time::sleep(AGAIN), if !later.is_empty() => due.append(&mut later),
        }
    }
}

impl Cloud {
    /// Looks at a system anew and takes one step.
    async fn step_system(&self, local: &str) -> Result<Next> {
        let Some(system) = self.0.documents.systems.get(local) else {
            return Ok(Next::Wait);
        };
        if system.deleted {
            return self.remove_system(&system).await;
        }
        if system.creation.is_some() {
            return self.make_component(&system).await;
        }
        if system.operation.is_some() {
            return self.ask_parts(&system).await;
        }
        Ok(Next::Wait)
    }

    /// As the system's owner, with what the owner may do now.
    fn as_owner(&self, system: &System) -> OpContext {
        let owner = &system.common.acl.owner;
        let roles = match owner.kind {
            PrincipalType::Role => vec![owner.principal.clone()],
            PrincipalType::User => match self.0.documents.users.get(&owner.principal) {
                Some(user) => user.roles.clone(),
                None => Vec::new(),
            },
        };
        Self::in_name_of(system, &owner.principal, roles)
    }

    /// Refuses to act in the name of somebody who may not act any more.
    fn require_enabled(&self, user: &str) -> Result<()> {
        let account = self.0.documents.users.get(user);
        if account.is_some_and(|account| !account.enabled) {
            return Err(CloudError::Forbidden(format!("User/{user} is disabled")));
        }
        Ok(())
    }

    /// As who asked for the operation that goes on, with the roles of then that they still have.
    fn as_asker(&self, system: &System) -> OpContext {
        let asker = system.operation.as_ref().and_then(|o| o.asker.as_ref());
        let Some(asker) = asker else {
            return self.as_owner(system);
        };
        let mut roles = asker.roles.clone();
        let account = self.0.documents.users.get(&asker.user);
        // Members of organisations have no account, and no roles but the organisation's.
        roles.retain(|role| match &account {
            Some(user) => user.roles.contains(role),
            None => role.starts_with('/'),
        });
        Self::in_name_of(system, &asker.user, roles)
    }

    fn in_name_of(system: &System, user: &str, roles: Vec<String>) -> OpContext {
        let identity = Identity {
            user: user.into(),
            roles,
            token: None,
            session: None,
            method: accounts::Method::default(),
            is_limited: false,
            generation: None,
        };
        let name = system.key().into();
        OpContext::new(Caller::User(Arc::new(identity)), name, STEP)
    }

    /// Makes the next component; ends the creation when all are there, or one can't be made.
    async fn make_component(&self, system: &Cached<System>) -> Result<Next> {
        let documents = &self.0.documents;
        let open = system
            .components
            .iter()
            .find(|component| component.made == Made::NotYet);
        let (Some(component), None) = (open, failed(system)) else {
            return self.end_creation(system).await;
        };
        let mark = format!("{}#{}", system.id(), component.name);
        let kind = Kind::from_name(&component.kind);
        let made = match self.marked(kind, &mark) {
            Some(href) => Ok(href),
            None => {
                let names: BTreeMap<&str, &str> = made_by_name(system);
                let body = with_references(&Value::Object(component.body.clone()), &names);
                let mut context = self.as_owner(system);
                context.part_of = Some(mark);
                context.parent_job.clone_from(&system.creation);
                let may = self.require_enabled(&system.common.acl.owner.principal);
                match (may, kind, body) {
                    (Err(error), ..) => Err(error),
                    (Ok(()), Some(kind), Value::Object(body)) => self
                        .create(&context, kind, body)
                        .await
                        .map(|created| created.view.id.to_string()),
                    _ => Err(CloudError::Internal("it is of no known type".to_owned())),
                }
            }
        };
        let made = match made {
            Ok(href) => Made::As { href },
            Err(error) if is_passing(&error) => {
                self.note_trouble(system, Some(error.to_string())).await?;
                return Ok(Next::Later);
            }
            Err(error) => Made::Failed {
                reason: error.to_string(),
            },
        };
        let name = component.name.clone();
        tracing::info!(system = %system.document.id, component = name, ?made, "component of a system");
        documents
            .update(system.id(), |system: &mut System| {
                if let Made::As { href } = &made {
                    remember(system, href);
                }
                let component = system.components.iter_mut().find(|c| c.name == name);
                if let Some(component) = component {
                    component.made = made.clone();
                }
                system.trouble = None;
                Ok::<_, CloudError>(true)
            })
            .await?;
        self.note_parts(system.creation.as_ref()).await?;
        Ok(Next::Again)
    }

    /// What was made with this mark.
    fn marked(&self, kind: Option<Kind>, mark: &str) -> Option<String> {
        fn find<R: OfType>(documents: &Documents, mark: &str) -> Option<String> {
            let found = documents.view::<R>().by_index(PART, mark);
            found.first().map(|document| document.key.to_string())
        }
        let documents = &self.0.documents;
        by_kind!(kind?, R => find::<R>(documents, mark), else None)
    }

    /// Ends the creation when nothing of it goes on any more.
    async fn end_creation(&self, system: &Cached<System>) -> Result<Next> {
        let documents = &self.0.documents;
        let parts: Vec<&str> = system
            .members
            .iter()
            .filter(|member| member.made)
            .map(|member| member.href.as_str())
            .collect();
        let goes_on = |href: &&&str| documents.jobs.count_by_index("open", href) > 0;
        let waiting = parts.iter().filter(goes_on).count();
        if waiting > 0 && failed(system).is_none() {
            self.note_parts(system.creation.as_ref()).await?;
            return Ok(Next::Wait);
        }
        let mut results = Vec::new();
        let mut all_well = true;
        for component in &system.components {
            let (well, result) = match &component.made {
                Made::As { href } => match part_state(documents, href, 0) {
                    Some(state) if state.name == "ERROR" => {
                        (false, state.reason.unwrap_or_else(|| "ERROR".to_owned()))
                    }
                    Some(state) => (true, state.name),
                    None => (true, "OK".to_owned()),
                },
                Made::Failed { reason } => (false, reason.clone()),
                Made::NotYet => (false, "not made".to_owned()),
            };
            all_well &= well;
            results.push(format!("{}: {result}", component.name));
        }
        let affected: Vec<String> = parts.iter().map(|href| (*href).to_owned()).collect();
        let mut next = system.document.0.clone();
        let job = next.creation.take();
        let end = JobEnd {
            all_well,
            results: &results,
            affected: &affected,
        };
        self.end(system, next, job.as_ref(), &end).await
    }

    /// Asks the next part to do what is wanted of all; ends the operation when all have.
    async fn ask_parts(&self, system: &Cached<System>) -> Result<Next> {
        let documents = &self.0.documents;
        let Some(operation) = &system.operation else {
            return Ok(Next::Wait);
        };
        let mut members: Vec<&Member> = system
            .members
            .iter()
            .filter(|member| has_operations(&member.href))
            .collect();
        // What others need is there before them, and goes after them.
        if ["stop", "pause", "suspend"].contains(&operation.action.as_str()) {
            members.reverse();
        }
        let open = members
            .iter()
            .find(|member| !operation.stopped && !operation.asked.contains_key(&member.href));
        if let Some(member) = open {
            let outcome = self
                .ask(system, &member.href, &operation.action, operation.force)
                .await;
            let asked = match outcome {
                Ok(asked) => asked,
                Err(error) if is_passing(&error) => {
                    self.note_trouble(system, Some(error.to_string())).await?;
                    return Ok(Next::Later);
                }
                Err(error) => Asked::Refused {
                    reason: error.to_string(),
                },
            };
            let href = member.href.clone();
            documents
                .update(system.id(), |system: &mut System| {
                    if let Some(operation) = &mut system.operation {
                        operation.asked.insert(href.clone(), asked.clone());
                    }
                    system.trouble = None;
                    Ok::<_, CloudError>(true)
                })
                .await?;
            self.note_parts(Some(&operation.job)).await?;
            return Ok(Next::Again);
        }
        let mut results = Vec::new();
        let (mut all_well, mut waiting) = (!operation.stopped, 0);
        for (href, asked) in &operation.asked {
            let (well, result) = match asked {
                Asked::Done => (true, "OK".to_owned()),
                Asked::Refused { reason } => (false, reason.clone()),
                Asked::Job { href: job } => match self.outcome_of(job) {
                    None => {
                        waiting += 1;
                        continue;
                    }
                    Some(outcome) => outcome,
                },
            };
            all_well &= well;
            results.push(format!("{}: {result}", name_of(system, href)));
        }
        if waiting > 0 {
            self.note_parts(Some(&operation.job)).await?;
            return Ok(Next::Wait);
        }
        for member in &members {
            if !operation.asked.contains_key(&member.href) {
                results.push(format!("{}: not asked", name_of(system, &member.href)));
            }
        }
        let affected: Vec<String> = operation.asked.keys().cloned().collect();
        let mut next = system.document.0.clone();
        let job = next.operation.take().map(|operation| operation.job);
        let end = JobEnd {
            all_well,
            results: &results,
            affected: &affected,
        };
        self.end(system, next, job.as_ref(), &end).await
    }

    /// Asks one part. That it is so already is as good as having done it.
    async fn ask(&self, system: &System, href: &str, action: &str, force: bool) -> Result<Asked> {
        let documents = &self.0.documents;
        let Some((kind, local)) = href.split_once('/') else {
            return Ok(Asked::Done);
        };
        let Some(kind) = Kind::from_name(kind) else {
            return Ok(Asked::Done);
        };
        let body = match json!({"force": force}) {
            Value::Object(body) => body,
            _ => Map::new(),
        };
        // Whoever shares a system lends nobody rights to other things of theirs; and what its owner may not change (any
        // more) isn't done to it because somebody who may is asked to start the system.
        let asked = match self.get(&self.as_owner(system), kind, local) {
            Ok(part) if part.right < Right::Modify => Err(CloudError::Forbidden(format!(
                "{} may not change {href}",
                system.common.acl.owner.principal
            ))),
            Ok(_) => {
                let mut asker = self.as_asker(system);
                asker.parent_job = system.operation.as_ref().map(|o| o.job.clone());
                match self.require_enabled(asker.user().unwrap_or_default()) {
                    Ok(()) => self.act(&asker, kind, local, action, &body).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        match asked {
            Ok(done) => Ok(match done.job {
                Some(href) => Asked::Job { href },
                None => Asked::Done,
            }),
            // Gone: nothing that could be started or stopped. What is there isn't shown to who asked.
            Err(CloudError::NotFound { .. }) if part_state(documents, href, 0).is_none() => {
                Ok(Asked::Done)
            }
            Err(error) => match part_state(documents, href, 0) {
                Some(state) if is_goal_of(action, &state.name) => Ok(Asked::Done),
                _ => Err(error),
            },
        }
    }

    /// What a job came to, once it has ended. One that is forgotten ended long ago.
    fn outcome_of(&self, href: &str) -> Option<(bool, String)> {
        let local = href.split_once('/').map_or(href, |(_, local)| local);
        let Some(job) = self.0.documents.jobs.get(local) else {
            return Some((true, "OK".to_owned()));
        };
        job.state.is_final().then(|| {
            let message = job.status_message.clone().unwrap_or_default();
            (job.state == JobState::Success, message)
        })
    }

    /// Removes what was made for a system, last made first, then the system.
    async fn remove_system(&self, system: &Cached<System>) -> Result<Next> {
        let documents = &self.0.documents;
        // What was created, but not noted down.
        for component in &system.components {
            if component.made != Made::NotYet {
                continue;
            }
            let mark = format!("{}#{}", system.id(), component.name);
            let Some(href) = self.marked(Kind::from_name(&component.kind), &mark) else {
                continue;
            };
            let name = component.name.clone();
            documents
                .update(system.id(), |system: &mut System| {
                    remember(system, &href);
                    let component = system.components.iter_mut().find(|c| c.name == name);
                    if let Some(component) = component {
                        component.made = Made::As { href: href.clone() };
                    }
                    Ok::<_, CloudError>(true)
                })
                .await?;
            return Ok(Next::Again);
        }
        for job in [
            system.creation.as_ref(),
            system.operation.as_ref().map(|o| &o.job),
        ] {
            let end = JobEnd {
                all_well: false,
                results: &["the system was removed before".to_owned()],
                affected: &[],
            };
            self.update_job(job, |job| {
                // One that is being stopped is over when all is gone.
                let ends = job.state != JobState::Stopping;
                if ends {
                    end.write(job, system);
                }
                ends
            })
            .await?;
        }
        let mut context = self.as_owner(system);
        let removal = documents.jobs.by_index("open", &system.key());
        let removal = removal.iter().find(|job| job.goal == JobGoal::Gone);
        let removal = removal.map(|job| job.document.id.clone());
        context.parent_job.clone_from(&removal);
        let mut trouble = None;
        let mut left = 0;
        for member in system.members.iter().rev().filter(|member| member.made) {
            let Some((kind, local)) = member.href.split_once('/') else {
                continue;
            };
            let Some(kind) = Kind::from_name(kind) else {
                continue;
            };
            match self.delete(&context, kind, local).await {
                // Gone at once, or on its way.
                Ok(done) => left += usize::from(done.job.is_some()),
                Err(CloudError::NotFound { .. }) => {}
                Err(error) => {
                    left += 1;
                    trouble = Some(format!("{}: {error}", member.href));
                }
            }
        }
        self.note_parts(removal.as_ref()).await?;
        if left > 0 {
            let stuck = trouble.is_some();
            self.note_trouble(system, trouble).await?;
            return Ok(if stuck { Next::Later } else { Next::Wait });
        }
        match documents.changes().remove(system).commit().await {
            Ok(_) => {
                tracing::info!(system = %system.document.id, "system removed");
                Ok(Next::Wait)
            }
            Err(error) if error.is_conflict() => Ok(Next::Again),
            Err(error) => Err(error.into()),
        }
    }

    async fn note_trouble(&self, system: &Cached<System>, trouble: Option<String>) -> Result<()> {
        if system.trouble == trouble {
            return Ok(());
        }
        self.0
            .documents
            .update(system.id(), |system: &mut System| {
                system.trouble.clone_from(&trouble);
                Ok::<_, CloudError>(true)
            })
            .await?;
        Ok(())
    }

    /// Ends a job together with what it was about: whoever sees that it has ended sees the system as it is then.
    async fn end(
        &self,
        system: &Cached<System>,
        next: System,
        job: Option<&cimi::JobId>,
        end: &JobEnd<'_>,
    ) -> Result<Next> {
        let documents = &self.0.documents;
        let mut changes = documents.changes().replace(system, next);
        let open = job
            .and_then(|job| documents.jobs.get(job.local()))
            .filter(|job| !job.state.is_final());
        if let Some(open) = open {
            let mut ended = open.document.0.clone();
            end.write(&mut ended, system);
            changes = changes.replace(&open, ended);
        }
        match changes.commit().await {
            Ok(_) => Ok(Next::Again),
            Err(error) if error.is_conflict() => Ok(Next::Again),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes a job that has not ended, if it is still there.
    pub(super) async fn update_job(
        &self,
        job: Option<&cimi::JobId>,
        mut edit: impl FnMut(&mut Job) -> bool + Send,
    ) -> Result<()> {
        let Some(job) = job else {
            return Ok(());
        };
        let edited = self.0.documents.update(job.local(), |job: &mut Job| {
            Ok::<_, DocumentsError>(!job.state.is_final() && edit(job))
        });
        match edited.await {
            Ok(_) | Err(DocumentsError::Absent { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// How a job about all parts ended.
struct JobEnd<'a> {
    all_well: bool,
    results: &'a [String],
    affected: &'a [String],
}

impl JobEnd<'_> {
    fn write(&self, job: &mut Job, system: &System) {
        let results = self.results.join("; ");
        if self.all_well {
            job.finish(Ok(()), Timestamp::now());
            job.status_message = Some(results);
        } else {
            job.finish(Err(results), Timestamp::now());
        }
        let own = std::iter::once(system.key());
        job.affected_resources = own
            .chain(self.affected.iter().cloned())
            .map(Ref::to)
            .collect();
    }
}

/// Adds what was made for a system to its members.
fn remember(system: &mut System, href: &str) {
    if system.members.iter().any(|member| member.href == href) {
        return;
    }
    system.members.push(Member {
        key: href.rsplit('/').next().unwrap_or_default().to_owned(),
        href: href.to_owned(),
        made: true,
    });
}

/// What a part is called where it is told of: by the component it was made for; what users added by its id.
fn name_of<'s>(system: &'s System, href: &'s str) -> &'s str {
    let made = |component: &&cimi::resources::Component| matches!(&component.made, Made::As { href: made } if made == href);
    let component = system.components.iter().find(made);
    component.map_or(href, |component| component.name.as_str())
}

fn made_by_name(system: &System) -> BTreeMap<&str, &str> {
    let made = system
        .components
        .iter()
        .filter_map(|component| match &component.made {
            Made::As { href } => Some((component.name.as_str(), href.as_str())),
            Made::NotYet | Made::Failed { .. } => None,
        });
    made.collect()
}

/// Whether it may well be otherwise in a moment.
fn is_passing(error: &CloudError) -> bool {
    matches!(error, CloudError::Unavailable(_) | CloudError::Raced(_))
}
