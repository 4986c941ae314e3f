//! Forwarding groups: networks whose machines reach each other. Which networks are in one, the networks say.

use cimi::{
    Ref, Right, Timestamp,
    ids::ForwardingGroupId,
    model::Kind,
    resources::{Event, ForwardingGroup, ForwardingGroupTemplate, Network, Resource},
};
use documents::Documents;
use serde_json::{Map, Value};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, access,
    catalogue::{self, Public},
    resolve,
};

const TEMPLATE: &str = "forwardingGroupTemplate";

impl Cloud {
    /// Makes a group (ForwardingGroupCreate) of networks of the caller, which are in no other.
    ///
    /// # Errors
    /// [`CloudError::Invalid`], [`CloudError::Conflict`] for networks that can't be in it.
    pub async fn create_forwarding_group(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let given = match body.remove(TEMPLATE) {
            Some(Value::Object(given)) => given,
            _ => return Err(CloudError::invalid(TEMPLATE, "is missing")),
        };
        let template =
            resolve::resolve::<ForwardingGroupTemplate>(documents, context, given, TEMPLATE)?;
        let now = Timestamp::now();
        let mut group = ForwardingGroup {
            id: ForwardingGroupId::generate(),
            common: Self::common_for(context, now)?,
            unknown: Map::new(),
        };
        for (name, value) in &body {
            if ["name", "description", "properties"].contains(&name.as_str()) {
                catalogue::edit_common(&mut group.common, name, Some(value))?;
            }
        }
        catalogue::check_size(&group)?;
        let event = Event::request(&group, "add", context.user().unwrap_or_default(), now);
        let mut changes = documents.changes().create(&group).create(&event);
        let networks = template.get("networks").and_then(Value::as_array);
        let mut named = std::collections::BTreeSet::new();
        for reference in networks.into_iter().flatten() {
            let path = format!("{TEMPLATE}.networks");
            let href = reference.as_object().and_then(resolve::href_of);
            let local = resolve::local_part::<Network>(href.unwrap_or_default(), &path)?;
            if !named.insert(local.to_owned()) {
                continue;
            }
            let read = resolve::at(&path, self.own_network(context, local))?;
            let mut network = read.document.0.clone();
            if let Some(other) = &network.forwarding_group {
                return Err(in_another(&network, &other.href));
            }
            network.forwarding_group = Some(Ref::to(group.id.clone()));
            changes = changes.replace(&read, network);
        }
        changes.commit().await?;
        let found =
            access::find::<ForwardingGroup>(documents, context, group.id.local(), Right::View);
        Ok(Created {
            view: catalogue::view(documents, context, found?),
            job: None,
            existed: false,
        })
    }

    /// Puts a network into a group.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if it is in another.
    pub(crate) async fn join_group(
        &self,
        context: &OpContext,
        group: &str,
        network: &str,
    ) -> Result<()> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let group = access::find::<ForwardingGroup>(documents, context, group, Right::Modify)?;
            let read = resolve::at("network", self.own_network(context, network))?;
            let mut next = read.document.0.clone();
            match &next.forwarding_group {
                Some(there) if there.href == group.document.id => return Ok(()),
                Some(other) => return Err(in_another(&next, &other.href)),
                None => next.forwarding_group = Some(Ref::to(group.document.id.clone())),
            }
            let changes = documents.changes().replace(&read, next).unchanged(&group);
            match changes.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes a network out of a group. Who may change the group may do so, whoever's the network is.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if it isn't in it.
    pub(crate) async fn leave_group(
        &self,
        context: &OpContext,
        group: &str,
        network: &str,
    ) -> Result<()> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let group = access::find::<ForwardingGroup>(documents, context, group, Right::Modify)?;
            let read = documents.networks.get(network).filter(|network| {
                let of = network.forwarding_group.as_ref();
                of.is_some_and(|of| of.href == group.document.id)
            });
            let Some(read) = read else {
                let what = format!("{}/networks/{network}", group.document.id);
                return Err(CloudError::not_found(what));
            };
            let mut next = read.document.0.clone();
            next.forwarding_group = None;
            match documents.changes().replace(&read, next).commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes a group; its networks are alone again.
    ///
    /// # Errors
    /// Those of lookup and store.
    pub async fn delete_forwarding_group(&self, context: &OpContext, local: &str) -> Result<Done> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let read = access::find::<ForwardingGroup>(documents, context, local, Right::Modify)?;
            let mut changes = documents.changes().remove(&read);
            for network in documents.networks.by_index("group", local) {
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
    }
}

fn in_another(network: &Network, group: &ForwardingGroupId) -> CloudError {
    CloudError::Conflict(format!(
        "{} is in {group} already; take it out of there first",
        network.key()
    ))
}

impl Public for ForwardingGroup {
    const KIND: Kind = Kind::ForwardingGroup;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        Map::new()
    }
}
