//! The rules by type: where a door that knows only types and ids finds the module that answers.

use std::sync::Arc;

use cimi::{
    Acl, Right,
    common::USER_ROLE,
    model::{Changes, Kind},
    query::Query,
    resources::{
        AddressTemplate, Event, ForwardingGroupTemplate, Image, Job, MachineConfiguration,
        MachineTemplate, NetworkPortConfiguration, NetworkPortTemplate, VolumeConfiguration,
        VolumeTemplate,
    },
};
use documents::Cached;
use serde_json::{Map, Value};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Page, Result, View, access,
    catalogue::{self, Candidate, Public},
    metadata,
};

/// Calls `$call` with the resource type of `$kind`; `$else` for types that are not stored as such.
macro_rules! by_kind {
    ($kind:expr, $type:ident => $call:expr, else $else:expr) => {
        match $kind {
            Kind::Machine => {
                type $type = ::cimi::resources::Machine;
                $call
            }
            Kind::MachineConfiguration => {
                type $type = ::cimi::resources::MachineConfiguration;
                $call
            }
            Kind::MachineTemplate => {
                type $type = ::cimi::resources::MachineTemplate;
                $call
            }
            Kind::MachineImage => {
                type $type = ::cimi::resources::Image;
                $call
            }
            Kind::MachineRecord => {
                type $type = ::cimi::resources::MachineRecord;
                $call
            }
            Kind::Credential => {
                type $type = ::cimi::resources::Credential;
                $call
            }
            Kind::Volume => {
                type $type = ::cimi::resources::Volume;
                $call
            }
            Kind::VolumeConfiguration => {
                type $type = ::cimi::resources::VolumeConfiguration;
                $call
            }
            Kind::VolumeTemplate => {
                type $type = ::cimi::resources::VolumeTemplate;
                $call
            }
            Kind::Network => {
                type $type = ::cimi::resources::Network;
                $call
            }
            Kind::Address => {
                type $type = ::cimi::resources::Address;
                $call
            }
            Kind::Job => {
                type $type = ::cimi::resources::Job;
                $call
            }
            Kind::Event => {
                type $type = ::cimi::resources::Event;
                $call
            }
            Kind::User => {
                type $type = ::cimi::resources::User;
                $call
            }
            Kind::Group => {
                type $type = ::cimi::resources::Group;
                $call
            }
            Kind::Token => {
                type $type = ::cimi::resources::Token;
                $call
            }
            Kind::Session => {
                type $type = ::cimi::resources::Session;
                $call
            }
            Kind::Registration => {
                type $type = ::cimi::resources::Registration;
                $call
            }
            Kind::ServiceConfiguration => {
                type $type = ::cimi::resources::ServiceConfiguration;
                $call
            }
            Kind::Host => {
                type $type = ::cimi::resources::Host;
                $call
            }
            Kind::System => {
                type $type = ::cimi::resources::System;
                $call
            }
            Kind::SystemTemplate => {
                type $type = ::cimi::resources::SystemTemplate;
                $call
            }
            Kind::CredentialTemplate => {
                type $type = ::cimi::resources::CredentialTemplate;
                $call
            }
            Kind::VolumeImage => {
                type $type = ::cimi::resources::VolumeImage;
                $call
            }
            Kind::AddressTemplate => {
                type $type = ::cimi::resources::AddressTemplate;
                $call
            }
            Kind::NetworkPort => {
                type $type = ::cimi::resources::NetworkPort;
                $call
            }
            Kind::NetworkPortTemplate => {
                type $type = ::cimi::resources::NetworkPortTemplate;
                $call
            }
            Kind::NetworkPortConfiguration => {
                type $type = ::cimi::resources::NetworkPortConfiguration;
                $call
            }
            Kind::ForwardingGroup => {
                type $type = ::cimi::resources::ForwardingGroup;
                $call
            }
            Kind::ForwardingGroupTemplate => {
                type $type = ::cimi::resources::ForwardingGroupTemplate;
                $call
            }
            Kind::SecurityGroup => {
                type $type = ::cimi::resources::SecurityGroup;
                $call
            }
            Kind::ServiceMessage => {
                type $type = ::cimi::resources::ServiceMessage;
                $call
            }
            _ => $else,
        }
    };
}

pub(crate) use by_kind;

/// Members that are filtered and sorted in about a millisecond, whatever by.
const QUICKLY_SEARCHED: usize = 1_000;

impl Cloud {
    /// The members of a collection that the caller may see, filtered, ordered and cut to the page.
    ///
    /// # Errors
    /// [`CloudError::Unauthenticated`] for anonymous callers.
    pub fn list(&self, context: &OpContext, kind: Kind, query: &Query) -> Result<Page> {
        access::require_list(context, kind)?;
        if kind == Kind::ResourceMetadata {
            return Ok(metadata::list(query));
        }
        if kind == Kind::EventLog {
            return Ok(self.list_event_logs(context, query));
        }
        let can_add = self.can_create(context, kind);
        by_kind!(kind, R => Ok(self.list_stored::<R>(context, query, can_add)), else Err(CloudError::not_found(kind)))
    }

    /// Whether a list, whatever it is asked for, may take so long that it shouldn't be made on a thread that others wait for.
    #[must_use]
    pub fn takes_long(&self, kind: Kind) -> bool {
        let documents = &self.0.documents;
        // One is made of each machine, volume and system.
        if kind == Kind::EventLog {
            return documents.machines.len() + documents.volumes.len() + documents.systems.len()
                > QUICKLY_SEARCHED;
        }
        let members = by_kind!(kind, R => documents.view::<R>().len(), else 0);
        members > QUICKLY_SEARCHED
    }

    fn list_stored<R: Public>(&self, context: &OpContext, query: &Query, can_add: bool) -> Page {
        let documents = &self.0.documents;
        let (count, members) = self.found::<R>(context, query);
        let members = members.into_iter();
        Page {
            count,
            members: members
                .map(|member| catalogue::view(documents, context, member))
                .collect(),
            can_add,
        }
    }

    /// How many of a type match that the caller may see, and those of the page.
    pub(crate) fn found<R: Public>(
        &self,
        context: &OpContext,
        query: &Query,
    ) -> (usize, Vec<Arc<Cached<R>>>) {
        let documents = &self.0.documents;
        let (user, roles) = (context.user(), context.roles());
        let is_large = documents.readable_at_most::<R>(user, roles) > QUICKLY_SEARCHED;
        let by_columns = if is_large {
            self.0.tables.page::<R>(documents, context, query)
        } else {
            None
        };
        by_columns.unwrap_or_else(|| {
            let all = documents.readable::<R>(user, roles);
            let candidates = all
                .into_iter()
                .map(|document| Candidate::of(documents, document));
            let (count, members) = query.page(candidates);
            let members = members.into_iter().map(|member| member.document);
            (count, members.collect())
        })
    }

    /// One resource.
    ///
    /// # Errors
    /// [`CloudError::NotFound`], [`CloudError::Forbidden`].
    pub fn get(&self, context: &OpContext, kind: Kind, id: &str) -> Result<View> {
        access::require_type(context, kind)?;
        let documents = &self.0.documents;
        match kind {
            Kind::CloudEntryPoint => Ok(self.entry_point(context)),
            Kind::ResourceMetadata => {
                access::require_user(context)?;
                metadata::get(id)
            }
            Kind::EventLog => self.event_log(context, id),
            Kind::Host if !context.is_admin() => {
                access::require_user(context)?;
                Err(CloudError::not_found(format!("{kind}/{id}")))
            }
            Kind::Machine => Ok(catalogue::view(
                documents,
                context,
                self.find_machine(context, id, Right::View)?,
            )),
            Kind::MachineImage => Ok(catalogue::view(
                documents,
                context,
                self.find_image(context, id, Right::View)?,
            )),
            _ => by_kind!(
                kind,
                R => Ok(catalogue::view(documents, context, access::find::<R>(documents, context, id, Right::View)?)),
                else Err(CloudError::not_found(kind))
            ),
        }
    }

    /// Makes a resource.
    ///
    /// # Errors
    /// Those of the type.
    pub async fn create(
        &self,
        context: &OpContext,
        kind: Kind,
        body: Map<String, Value>,
    ) -> Result<Created> {
        access::require_user(context)?;
        access::require_type(context, kind)?;
        access::require_change(context)?;
        if has_references(kind) {
            self.check_references(context, kind, &body)?;
        }
        match kind {
            Kind::Machine => self.create_machine(context, body).await,
            Kind::MachineImage => self.create_image(context, body).await,
            Kind::Volume => self.create_volume(context, body).await,
            Kind::Credential => self.create_credential(context, body).await,
            Kind::User => self.create_user(context, body).await,
            Kind::Group => self.create_group(context, body).await,
            Kind::Token => self.create_token(context, body).await,
            Kind::ServiceConfiguration => self.create_service_configuration(context, body).await,
            Kind::MachineConfiguration => {
                self.create_simple::<MachineConfiguration>(context, body)
                    .await
            }
            Kind::MachineTemplate => self.create_simple::<MachineTemplate>(context, body).await,
            Kind::VolumeConfiguration => {
                self.create_simple::<VolumeConfiguration>(context, body)
                    .await
            }
            Kind::VolumeTemplate => self.create_simple::<VolumeTemplate>(context, body).await,
            Kind::ServiceMessage => self.create_service_message(context, body).await,
            Kind::CredentialTemplate => self.create_credential_template(context, body).await,
            Kind::VolumeImage => self.create_volume_image(context, body).await,
            Kind::Address => self.create_address(context, body).await,
            Kind::System => self.create_system(context, body).await,
            Kind::SystemTemplate => self.create_system_template(context, body).await,
            Kind::AddressTemplate => self.create_simple::<AddressTemplate>(context, body).await,
            Kind::ForwardingGroup => self.create_forwarding_group(context, body).await,
            Kind::ForwardingGroupTemplate => {
                self.create_simple::<ForwardingGroupTemplate>(context, body)
                    .await
            }
            Kind::SecurityGroup => self.create_security_group(context, body).await,
            Kind::NetworkPort => self.create_network_port(context, body).await,
            Kind::NetworkPortTemplate => {
                self.create_simple::<NetworkPortTemplate>(context, body)
                    .await
            }
            Kind::NetworkPortConfiguration => {
                self.create_simple::<NetworkPortConfiguration>(context, body)
                    .await
            }
            _ => Err(CloudError::Forbidden(format!(
                "nobody makes a {kind} by request; the cloud does"
            ))),
        }
    }

    /// Changes attributes; what the changes don't name stays.
    ///
    /// # Errors
    /// Those of the type.
    pub async fn edit(
        &self,
        context: &OpContext,
        kind: Kind,
        id: &str,
        changes: Changes,
    ) -> Result<Done> {
        access::require_type(context, kind)?;
        access::require_change(context)?;
        let documents = &self.0.documents;
        if has_references(kind) {
            self.check_changed_references(context, kind, id, &changes)?;
        }
        match kind {
            Kind::Machine => self.edit_machine(context, id, changes).await,
            Kind::Volume => self.edit_volume(context, id, changes).await,
            Kind::User => self.edit_user(context, id, changes).await,
            Kind::Address => self.edit_address(context, id, changes).await,
            Kind::Host => self.edit_host(context, id, changes).await,
            Kind::ServiceConfiguration => {
                self.edit_service_configuration(context, id, changes).await
            }
            Kind::MachineImage => {
                let image = self.find_image(context, id, Right::Modify)?;
                catalogue::edit::<Image>(documents, context, image.id(), changes).await
            }
            Kind::ResourceMetadata
            | Kind::Network
            | Kind::Job
            | Kind::Event
            | Kind::Session
            | Kind::Registration
            | Kind::EventLog
            | Kind::MachineRecord => Err(CloudError::Forbidden(format!(
                "a {kind} is written by the cloud alone"
            ))),
            _ => by_kind!(
                kind,
                R => catalogue::edit::<R>(documents, context, id, changes).await,
                else Err(CloudError::not_found(kind))
            ),
        }
    }

    /// Deletes a resource.
    ///
    /// # Errors
    /// Those of the type.
    pub async fn delete(&self, context: &OpContext, kind: Kind, id: &str) -> Result<Done> {
        access::require_type(context, kind)?;
        access::require_change(context)?;
        let documents = &self.0.documents;
        match kind {
            Kind::Machine => self.delete_machine(context, id).await,
            Kind::MachineImage => self.delete_image(context, id).await,
            Kind::Volume => self.delete_volume(context, id).await,
            Kind::User => self.delete_user(context, id).await,
            Kind::Group => self.delete_group(context, id).await,
            Kind::Job => {
                let job = access::find::<Job>(documents, context, id, Right::Modify)?;
                if !job.state.is_final() {
                    return Err(CloudError::Conflict(format!(
                        "{} is still going on",
                        job.document.id
                    )));
                }
                catalogue::delete::<Job>(documents, context, id).await
            }
            // What somebody did is not theirs to make unsaid.
            Kind::Event => {
                access::require_admin(context, "delete events")?;
                catalogue::delete::<Event>(documents, context, id).await
            }
            Kind::VolumeImage => self.delete_volume_image(context, id).await,
            Kind::Address => self.delete_address(context, id).await,
            Kind::ForwardingGroup => self.delete_forwarding_group(context, id).await,
            Kind::SecurityGroup => self.delete_security_group(context, id).await,
            Kind::NetworkPort => self.delete_network_port(context, id).await,
            Kind::System => self.delete_system(context, id).await,
            Kind::Host => self.remove_host(context, id).await,
            Kind::ResourceMetadata | Kind::Network | Kind::EventLog | Kind::MachineRecord => Err(
                CloudError::Forbidden(format!("a {kind} is written by the cloud alone")),
            ),
            _ => by_kind!(
                kind,
                R => catalogue::delete::<R>(documents, context, id).await,
                else Err(CloudError::not_found(kind))
            ),
        }
    }

    /// Does an action.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for types and actions that don't go together.
    pub async fn act(
        &self,
        context: &OpContext,
        kind: Kind,
        id: &str,
        action: &str,
        body: &Map<String, Value>,
    ) -> Result<Done> {
        access::require_type(context, kind)?;
        access::require_change(context)?;
        let force = body.get("force").and_then(Value::as_bool).unwrap_or(false);
        match kind {
            Kind::Machine if action == "migrate" => self.migrate(context, id, body).await,
            Kind::Machine => self.act_on_machine(context, id, action, force).await,
            Kind::Host => self.act_on_host(context, id, action).await,
            Kind::NetworkPort => self.act_on_network_port(context, id, action).await,
            Kind::Registration => self.act_on_registration(context, id, action).await,
            Kind::System => self.act_on_system(context, id, action, force).await,
            Kind::Job if action == "stop" => self.stop_job(context, id).await,
            _ => Err(CloudError::invalid(
                "action",
                format!("`{action}` is not something a {kind} does"),
            )),
        }
    }

    /// Whether the caller may create resources of this type at all.
    #[must_use]
    pub fn can_create(&self, context: &OpContext, kind: Kind) -> bool {
        if context.is_read_only() || access::require_type(context, kind).is_err() {
            return false;
        }
        match kind {
            Kind::User | Kind::Group | Kind::ServiceConfiguration => context.is_admin(),
            Kind::Token => context.user().is_some() && context.token().is_none(),
            Kind::Machine
            | Kind::MachineConfiguration
            | Kind::MachineTemplate
            | Kind::MachineImage
            | Kind::Credential
            | Kind::Volume
            | Kind::VolumeConfiguration
            | Kind::VolumeTemplate
            | Kind::CredentialTemplate
            | Kind::VolumeImage
            | Kind::Address
            | Kind::AddressTemplate
            | Kind::ForwardingGroupTemplate
            | Kind::NetworkPort
            | Kind::NetworkPortTemplate
            | Kind::NetworkPortConfiguration
            | Kind::SecurityGroup
            | Kind::System
            | Kind::SystemTemplate => context.user().is_some(),
            Kind::ServiceMessage | Kind::ForwardingGroup => context.is_admin(),
            _ => false,
        }
    }

    /// Whether the caller may use the collection of this type at all.
    #[must_use]
    pub fn can_list(&self, context: &OpContext, kind: Kind) -> bool {
        access::require_list(context, kind).is_ok()
    }

    fn entry_point(&self, context: &OpContext) -> View {
        let attributes = catalogue::object(serde_json::json!({
            "name": "Stratus",
            "description": "A Stratus cloud",
            "created": self.0.started,
            "updated": self.0.started,
        }));
        let acl = Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View);
        View {
            kind: Kind::CloudEntryPoint,
            id: "CloudEntryPoint".into(),
            stamp: None,
            right: context.right_on(&acl).unwrap_or(Right::View),
            document: std::sync::Arc::new(catalogue::Plain {
                attributes,
                operations: Vec::new(),
            }),
        }
    }
}

/// Whether resources of this type are kept to be used later, and refer to others.
fn has_references(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::MachineTemplate
            | Kind::VolumeTemplate
            | Kind::AddressTemplate
            | Kind::ForwardingGroupTemplate
            | Kind::NetworkPortTemplate
            | Kind::SystemTemplate
    )
}
