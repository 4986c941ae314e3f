//! What belongs to a system.

use cimi::{
    Right,
    model::{Kind, Shape, describe},
    resources::{Member, Resource, System},
};
use serde_json::{Map, Value};

use super::state::has_operations;
use crate::{
    Cloud, CloudError, OpContext, Result, View, access, own_collections::reference, resolve,
};

/// Most members of one system.
const MOST: usize = 1_000;

impl Cloud {
    /// The members of one of a system's collections.
    pub(crate) fn system_members(
        &self,
        context: &OpContext,
        id: &str,
        collection: &str,
        kind: Kind,
    ) -> Result<(Vec<View>, bool)> {
        let system = access::find::<System>(&self.0.documents, context, id, Right::View)?;
        let right = context.right_on(system.acl()).unwrap_or(Right::View);
        let (attribute, of) = refers_to(kind)?;
        let prefix = format!("{of}/");
        let members = system
            .members
            .iter()
            .filter(|member| member.href.starts_with(&prefix))
            .map(|member| {
                let id = format!("{}/{collection}/{}", system.document.id, member.key);
                let deletable = right >= Right::Modify;
                reference(kind, &id, attribute, &member.href, right, deletable)
            })
            .collect();
        Ok((members, right >= Right::Modify && !system.deleted))
    }

    /// Adds a resource that the caller may see; the member's key.
    pub(crate) async fn add_to_system(
        &self,
        context: &OpContext,
        id: &str,
        kind: Kind,
        body: &Map<String, Value>,
    ) -> Result<String> {
        let documents = &self.0.documents;
        let (attribute, of) = refers_to(kind)?;
        let href = body
            .get(attribute)
            .and_then(Value::as_object)
            .and_then(resolve::href_of)
            .unwrap_or_default();
        access::find::<System>(documents, context, id, Right::Modify)?;
        let local = href.rsplit('/').next().unwrap_or_default();
        // By its own id: a machine may have been named by its number.
        let seen = resolve::at(attribute, self.get(context, of, local))?;
        let found = seen.id.to_string();
        // What is asked of the system is asked of these.
        if has_operations(&found) && seen.right < Right::Modify {
            return Err(CloudError::Forbidden(format!(
                "you may see {found}, not change it; so you can't add it to a system, which starts and stops it"
            )));
        }
        if found == format!("{}/{id}", Kind::System) {
            return Err(CloudError::invalid(attribute, "is the system itself"));
        }
        let key = found.rsplit('/').next().unwrap_or_default().to_owned();
        let add = |system: &mut System| {
            context.in_time()?;
            access::require(context, system, Right::Modify)?;
            if system.deleted {
                return Err(CloudError::Conflict(format!(
                    "{} is being removed",
                    system.id
                )));
            }
            if system.members.iter().any(|member| member.href == found) {
                return Err(CloudError::Conflict(format!(
                    "{found} is in {} already",
                    system.id
                )));
            }
            if system.members.len() >= MOST {
                return Err(CloudError::Exhausted(format!(
                    "a system has at most {MOST} members"
                )));
            }
            system.members.push(Member {
                key: key.clone(),
                href: found.clone(),
                made: false,
            });
            Ok(true)
        };
        documents.update(id, add).await?;
        Ok(key)
    }

    /// Takes a resource out; it stays, also when the system is removed.
    pub(crate) async fn take_from_system(
        &self,
        context: &OpContext,
        id: &str,
        kind: Kind,
        key: &str,
    ) -> Result<()> {
        let documents = &self.0.documents;
        access::find::<System>(documents, context, id, Right::Modify)?;
        let (_, of) = refers_to(kind)?;
        let href = format!("{of}/{key}");
        let take = |system: &mut System| {
            context.in_time()?;
            access::require(context, system, Right::Modify)?;
            if system.creation.is_some() {
                return Err(CloudError::Conflict(format!("{} is being made", system.id)));
            }
            let before = system.members.len();
            system.members.retain(|member| member.href != href);
            if system.members.len() == before {
                return Err(CloudError::not_found(format!(
                    "{}/{of}/{key}",
                    system.key()
                )));
            }
            Ok(true)
        };
        documents.update(id, take).await?;
        Ok(())
    }
}

/// The attribute of a member type that refers to the resource, and the resource's type.
fn refers_to(kind: Kind) -> Result<(&'static str, Kind)> {
    let attribute = describe(kind).attributes.first();
    match attribute.map(|attribute| (attribute.name, attribute.shape)) {
        Some((name, Shape::Ref([of]))) => Ok((name, *of)),
        _ => Err(CloudError::not_found(kind)),
    }
}
