//! Forwarding groups: networks whose machines reach each other through the host. Administrators make them, as they make
//! the networks.
//!
//! That a network is in a group stands in the network, so that it is in one at most, whoever asks at the same moment. The
//! host of its machines carries it out.

use std::{collections::BTreeSet, sync::Arc};

use cimi::{
    Acl, Common, Ref, Right, Timestamp,
    common::USER_ROLE,
    ids::ForwardingGroupId,
    model::Kind,
    resources::{
        Event, ForwardingGroup, ForwardingGroupTemplate, Network, NetworkState, Resource, Unknown,
    },
};
use documents::{Cached, Changes, Documents};
use serde_json::{Map, Value};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, View, access,
    catalogue::{self, Public},
    own_collections::reference,
    resolve,
};

const TEMPLATE: &str = "forwardingGroupTemplate";
/// Attempts against others who change the same networks at the same moment.
const ATTEMPTS: usize = 16;

impl Cloud {
    /// Makes a group of networks (ForwardingGroupCreate).
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for all but administrators, [`CloudError::Conflict`] for a network that is in a group.
    pub async fn create_forwarding_group(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Created> {
        access::require_admin(context, "make a forwarding group")?;
        let documents = &self.0.documents;
        let Some(Value::Object(given)) = body.remove(TEMPLATE) else {
            return Err(CloudError::invalid(TEMPLATE, "is missing"));
        };
        let template =
            resolve::resolve::<ForwardingGroupTemplate>(documents, context, given, TEMPLATE)?;
        let path = format!("{TEMPLATE}.networks");
        let mut names = BTreeSet::new();
        for network in template
            .get("networks")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let href = network.as_object().and_then(resolve::href_of);
            let href = href.ok_or_else(|| CloudError::invalid(path.clone(), "are references"))?;
            names.insert(resolve::local_part::<Network>(href, &path)?.to_owned());
        }
        let now = Timestamp::now();
        let acl = Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View);
        let mut group = ForwardingGroup {
            id: ForwardingGroupId::generate(),
            common: Common::new(acl, now),
            unknown: Unknown::new(),
        };
        for (name, value) in &body {
            if ["name", "description", "properties"].contains(&name.as_str()) {
                catalogue::edit_common(&mut group.common, name, Some(value))?;
            }
        }
        catalogue::check_size(&group)?;
        let event = Event::request(&group, "add", context.user().unwrap_or_default(), now);
        for _ in 0..ATTEMPTS {
            context.in_time()?;
            let mut changes = documents.changes().create(&group).create(&event);
            for name in &names {
                let network = self.joinable(context, name, &path)?;
                let mut joined = network.document.0.clone();
                joined.forwarding_group = Some(Ref::to(group.id.clone()));
                changes = changes.replace(&network, joined);
            }
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(group = %group.id, networks = ?names, "forwarding group made");
                    let id = group.id.local();
                    let read =
                        access::find::<ForwardingGroup>(documents, context, id, Right::View)?;
                    return Ok(Created {
                        view: catalogue::view(documents, context, read),
                        job: None,
                        existed: false,
                    });
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(too_many())
    }

    /// Removes a group; its networks stay, each by itself.
    ///
    /// # Errors
    /// Those of lookup and store.
    pub async fn delete_forwarding_group(&self, context: &OpContext, local: &str) -> Result<Done> {
        let documents = &self.0.documents;
        for _ in 0..ATTEMPTS {
            context.in_time()?;
            let read = access::find::<ForwardingGroup>(documents, context, local, Right::Modify)?;
            access::require_admin(context, "remove a forwarding group")?;
            let user = context.user().unwrap_or_default();
            let event = Event::request(&read.document.0, "delete", user, Timestamp::now());
            let mut changes = documents.changes().remove(&read).create(&event);
            for network in networks_of(documents, local) {
                let mut alone = network.document.0.clone();
                alone.forwarding_group = None;
                changes = changes.replace(&network, alone);
            }
            match changes.commit().await {
                Ok(_) => return Ok(Done::default()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(too_many())
    }

    /// The networks of a group that the caller may see.
    pub(crate) fn grouped_networks(
        &self,
        context: &OpContext,
        id: &str,
        collection: &str,
        kind: Kind,
    ) -> Result<(Vec<View>, bool)> {
        let documents = &self.0.documents;
        let group = access::find::<ForwardingGroup>(documents, context, id, Right::View)?;
        let right = context.right_on(group.acl()).unwrap_or(Right::View);
        let networks = networks_of(documents, group.local_id());
        let seen = networks
            .iter()
            .filter(|network| context.right_on(network.acl()).is_some());
        let members = seen.map(|network| {
            let id = format!("{}/{collection}/{}", group.document.id, network.local_id());
            let href = network.document.id.to_string();
            reference(kind, &id, "network", &href, right, context.is_admin())
        });
        Ok((members.collect(), context.is_admin()))
    }

    /// Adds a network to a group; the member's key.
    pub(crate) async fn add_to_forwarding_group(
        &self,
        context: &OpContext,
        id: &str,
        body: &Map<String, Value>,
    ) -> Result<String> {
        let documents = &self.0.documents;
        let name = resolve::named::<Network>(body, "network", "")?;
        for _ in 0..ATTEMPTS {
            context.in_time()?;
            let group = access::find::<ForwardingGroup>(documents, context, id, Right::View)?;
            access::require_admin(context, "change which networks reach each other")?;
            let network = self.joinable(context, &name, "network")?;
            let mut joined = network.document.0.clone();
            joined.forwarding_group = Some(Ref::to(group.document.id.clone()));
            // The group changes, too: a removal that didn't see this network must not go through.
            let changes = changed(documents, context, &group, "add of a network");
            match changes.replace(&network, joined).commit().await {
                Ok(_) => {
                    tracing::info!(group = %group.document.id, network = name, "network joined a forwarding group");
                    return Ok(name);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(too_many())
    }

    /// Takes a network out of a group.
    pub(crate) async fn take_from_forwarding_group(
        &self,
        context: &OpContext,
        id: &str,
        name: &str,
    ) -> Result<()> {
        let documents = &self.0.documents;
        for _ in 0..ATTEMPTS {
            context.in_time()?;
            let group = access::find::<ForwardingGroup>(documents, context, id, Right::View)?;
            access::require_admin(context, "change which networks reach each other")?;
            let missing =
                || CloudError::not_found(format!("{}/networks/{name}", group.document.id));
            let network = networks_of(documents, id)
                .into_iter()
                .find(|network| network.local_id() == name)
                .ok_or_else(missing)?;
            let mut alone = network.document.0.clone();
            alone.forwarding_group = None;
            let changes = changed(documents, context, &group, "removal of a network");
            match changes.replace(&network, alone).commit().await {
                Ok(_) => {
                    tracing::info!(group = %group.document.id, network = name, "network left a forwarding group");
                    return Ok(());
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(too_many())
    }

    /// A network that can be in a group, and is in none.
    fn joinable(
        &self,
        context: &OpContext,
        name: &str,
        path: &str,
    ) -> Result<Arc<Cached<Network>>> {
        let found = access::find::<Network>(&self.0.documents, context, name, Right::View);
        let network = resolve::at(path, found)?;
        let id = &network.document.id;
        if network.state != NetworkState::Started {
            return Err(CloudError::Conflict(format!("{id} is not in use any more")));
        }
        if network.bridge.is_some() {
            return Err(CloudError::Conflict(format!(
                "{id} is on the site's Ethernet, whose router says where its machines' packets go"
            )));
        }
        if network.forwarded {
            return Err(CloudError::Conflict(format!(
                "machines of {id} are reached by ports of their host: nothing can be forwarded to them"
            )));
        }
        // One that is gone holds nothing.
        let groups = &self.0.documents.forwarding_groups;
        let is_there = |group: &&Ref<ForwardingGroupId>| groups.get(group.href.local()).is_some();
        match network.forwarding_group.as_ref().filter(is_there) {
            None => Ok(network),
            Some(group) => Err(CloudError::Conflict(format!(
                "{id} is in {} already; a network is in one group",
                group.href
            ))),
        }
    }
}

/// A change of a group's members, as one of the group.
fn changed<'d>(
    documents: &'d Documents,
    context: &OpContext,
    group: &Cached<ForwardingGroup>,
    what: &str,
) -> Changes<'d> {
    let user = context.user().unwrap_or_default();
    let event = Event::request(&group.document.0, what, user, Timestamp::now());
    let next = group.document.0.clone();
    documents.changes().replace(group, next).create(&event)
}

fn networks_of(documents: &Documents, group: &str) -> Vec<Arc<Cached<Network>>> {
    documents.networks.by_index("forwardingGroup", group)
}

fn too_many() -> CloudError {
    CloudError::Unavailable("too many others change these networks: try again".to_owned())
}

impl Public for ForwardingGroup {
    const KIND: Kind = Kind::ForwardingGroup;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        Map::new()
    }
}
