//! The collections that resources own, beside those of machines: small members that say what belongs to it.

use std::sync::Arc;

use cimi::{
    Right,
    model::{Kind, describe},
    resources::{Network, Resource as _, Volume},
};
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Rel, Result, View, access, catalogue::Plain,
};

impl Cloud {
    /// The members of a resource's own collection that the caller may see, and whether the caller may add one.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] for collections that there are not, [`CloudError::Unavailable`] for meters of a host that can't
    /// be asked.
    pub async fn members(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
    ) -> Result<(Vec<View>, bool)> {
        access::require_type(context, parent)?;
        let documents = &self.0.documents;
        let none = || CloudError::not_found(format!("{parent}/{id}/{collection}"));
        let members = describe(parent)
            .own_collection(collection)
            .ok_or_else(none)?;
        match (parent, members) {
            (Kind::Machine, _) => self.machine_members(context, id, collection).await,
            (Kind::System, _) => self.system_members(context, id, collection, members),
            (Kind::ForwardingGroup, _) => self.grouped_networks(context, id, collection, members),
            (Kind::SecurityGroup, _) => self.rules_of_group(context, id),
            (Kind::Host, _) => Ok((self.host_members(context, id).await?, false)),
            (Kind::EventLog, _) => Ok((self.log_members(context, id)?, false)),
            (Kind::Volume, Kind::VolumeVolumeImage) => {
                let volume = access::find::<Volume>(documents, context, id, Right::View)?;
                let images = documents
                    .volume_images
                    .by_index("volume", volume.local_id());
                let right = context.right_on(volume.acl()).unwrap_or(Right::View);
                let seen = images
                    .iter()
                    .filter(|image| context.right_on(image.acl()).is_some());
                let listed = seen.map(|image| {
                    let id = format!("{}/{collection}/{}", volume.id, image.local_id());
                    let href = image.id.to_string();
                    reference(members, &id, "volumeImage", &href, right, false)
                });
                Ok((listed.collect(), false))
            }
            (Kind::Network, Kind::NetworkNetworkPort) => {
                let network = access::find::<Network>(documents, context, id, Right::View)?;
                let right = context.right_on(network.acl()).unwrap_or(Right::View);
                let ports = documents
                    .network_ports
                    .by_index("network", network.local_id());
                let seen = ports
                    .iter()
                    .filter(|port| context.right_on(port.acl()).is_some());
                let listed = seen.map(|port| {
                    let id = format!("{}/{collection}/{}", network.id, port.local_id());
                    let href = port.document.id.to_string();
                    reference(members, &id, "networkPort", &href, right, false)
                });
                Ok((listed.collect(), false))
            }
            _ => Err(none()),
        }
    }

    /// One member.
    ///
    /// # Errors
    /// [`CloudError::NotFound`].
    pub async fn member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        member: &str,
    ) -> Result<View> {
        access::require_type(context, parent)?;
        if parent == Kind::Machine {
            return self.machine_member(context, id, collection, member).await;
        }
        let (members, _) = self.members(context, parent, id, collection).await?;
        let wanted = |view: &View| view.id.rsplit('/').next() == Some(member);
        let missing = || CloudError::not_found(format!("{parent}/{id}/{collection}/{member}"));
        members.into_iter().find(wanted).ok_or_else(missing)
    }

    /// Adds a member.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] for collections that nothing can be added to.
    pub async fn add_member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        body: Map<String, Value>,
    ) -> Result<Created> {
        access::require_type(context, parent)?;
        access::require_change(context)?;
        let none = || CloudError::not_found(format!("{parent}/{id}/{collection}"));
        let members = describe(parent)
            .own_collection(collection)
            .ok_or_else(none)?;
        let member = match (parent, collection) {
            (Kind::Machine, "volumes") => return self.attach_volume(context, id, body).await,
            (Kind::System, _) => self.add_to_system(context, id, members, &body).await?,
            (Kind::ForwardingGroup, _) => self.add_to_forwarding_group(context, id, &body).await?,
            (Kind::SecurityGroup, _) => self.add_rule(context, id, &body).await?,
            _ => {
                return Err(CloudError::Conflict(format!(
                    "the {collection} of a {parent} can't be changed once it is made"
                )));
            }
        };
        let added = self.member(context, parent, id, collection, &member);
        Ok(Created {
            view: added.await?,
            job: None,
            existed: false,
        })
    }

    /// Takes a member out; what it refers to stays.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] for collections that nothing can be taken out of.
    pub async fn delete_member(
        &self,
        context: &OpContext,
        parent: Kind,
        id: &str,
        collection: &str,
        member: &str,
    ) -> Result<Done> {
        access::require_type(context, parent)?;
        access::require_change(context)?;
        match (parent, collection) {
            (Kind::Machine, "volumes") => return self.detach_volume(context, id, member).await,
            (Kind::System, _) => {
                let none = || CloudError::not_found(format!("{parent}/{id}/{collection}"));
                let members = describe(parent)
                    .own_collection(collection)
                    .ok_or_else(none)?;
                self.take_from_system(context, id, members, member).await?;
            }
            (Kind::ForwardingGroup, "networks") => {
                self.take_from_forwarding_group(context, id, member).await?;
            }
            (Kind::SecurityGroup, "rules") => self.remove_rule(context, id, member).await?,
            _ => {
                return Err(CloudError::Conflict(format!(
                    "the {collection} of a {parent} can't be changed once it is made"
                )));
            }
        }
        Ok(Done::default())
    }
}

/// A member that refers to one resource.
pub(crate) fn reference(
    kind: Kind,
    id: &str,
    attribute: &str,
    href: &str,
    right: Right,
    deletable: bool,
) -> View {
    let mut attributes = Map::new();
    attributes.insert(attribute.to_owned(), json!({"href": href}));
    View {
        kind,
        id: id.into(),
        stamp: None,
        right,
        document: Arc::new(Plain {
            attributes,
            operations: if deletable {
                vec![Rel::Delete]
            } else {
                Vec::new()
            },
        }),
    }
}
