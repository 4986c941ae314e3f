//! One typed document a resource, as it is stored: its public attributes by their CIMI names, and
//! what Stratus needs beside them. Unknown fields of a stored document are kept
//! (`unknown`), so that an older daemon doesn't destroy what a newer one wrote.

mod account;
mod forwarding_group;
mod host;
mod host_trust;
mod image;
mod image_origin;
mod job;
mod machine;
mod network;
mod network_port;
mod organisation;
mod people;
mod quota;
mod saving;
mod security_group;
mod service;
mod service_message;
mod storage_keeper;
mod system;
mod template;
mod traffic;
mod usage;
mod volume;
mod volume_image;

pub use account::{Credential, Group, Origin, Token, TokenScope, User};
pub use forwarding_group::ForwardingGroup;
pub use host::{AcceleratorKind, Capacity, Host, HostDesired, Load};
pub use host_trust::{HostAuthority, HostIdentity, HostPulse, HostToken};
pub use image::{Digests, Image, ImageDesired, ImageFile, ImageSource, ImageState, MediumFormat};
pub use image_origin::{ImageOrigin, OnDemand};
pub use job::{Event, EventOutcome, EventSeverity, Job, JobGoal, JobState};
pub use machine::{
    AttachStage, AttachedVolume, BootSource, ContextData, Disk, DiskRole, Endpoint, Machine,
    MachineRecord, Nic, NicPort, Placement, local_bytes,
};
pub use network::{Address, Network, NetworkClass, NetworkOnHost, NetworkState};
pub use network_port::{NetworkPort, PortState};
pub use organisation::OrganisationMember;
pub use people::{MailLink, Purpose, PurposeKind, Registration, RegistrationState, Session};
pub use quota::{Most, Quota};
pub use saving::{Announcement, Capture, Save};
pub use security_group::{RuleDirection, SecurityGroup, SecurityRule};
pub use service::ServiceConfiguration;
pub use service_message::ServiceMessage;
pub use storage_keeper::StorageKeeper;
pub use system::{Asked, Asker, Component, Made, Member, System, SystemOperation};
pub use template::{
    AddressTemplate, ConfigurationDisk, CredentialTemplate, ForwardingGroupTemplate, Kept,
    MachineConfiguration, MachineTemplate, NetworkPortConfiguration, NetworkPortTemplate,
    SystemTemplate, VolumeConfiguration, VolumeTemplate, default_architecture,
};
pub use traffic::NetworkTraffic;
pub use usage::{UsageRecord, Use, UseKind};
pub use volume::{Attachment, MAPPED, Volume, VolumeLocation, VolumeState, VolumeUse};
pub use volume_image::VolumeImage;

use crate::{Acl, Common};

/// The measures of [`Resource::weights`].
pub mod weight {
    /// Virtual CPUs.
    pub const CPUS: &str = "cpus";
    /// Processor time that is promised, in hundredths of a processor.
    pub const CPU_PERCENT: &str = "cpuPercent";
    /// Memory in KiB.
    pub const MEMORY_KIB: &str = "memory";
    /// Size in bytes.
    pub const BYTES: &str = "bytes";
    /// Size in bytes of disks that live and die with a machine.
    pub const LOCAL_BYTES: &str = "localBytes";
}

/// What every stored document offers to code that treats them alike.
pub trait Resource:
    serde::Serialize + serde::de::DeserializeOwned + Clone + Send + Sync + 'static
{
    /// The collection it is stored in; for public types also the type's name.
    const COLLECTION: &'static str;

    /// The part of its id after the slash.
    fn local_id(&self) -> &str;

    /// Its common attributes.
    fn common(&self) -> &Common;

    /// Its common attributes, to change them.
    fn common_mut(&mut self) -> &mut Common;

    /// The pairs of index name and term under which it is found, besides those of its access list.
    fn terms(&self, add: &mut dyn FnMut(&'static str, &str)) {
        let _ = add;
    }

    /// The indexes in which sums are kept of what all resources under one term add, beside those of one owner.
    const SUMMED_BY: &'static [&'static str] = &[];

    /// What it adds to sums over all resources of one owner: pairs of a measure and an amount.
    fn weights(&self, add: &mut dyn FnMut(&'static str, u64)) {
        let _ = add;
    }

    /// The user for whom it goes on counting though it is theirs no more.
    fn kept_for(&self) -> Option<&str> {
        None
    }

    /// What somebody uses by it, as long as it is as it is.
    fn uses(&self) -> Vec<Use> {
        Vec::new()
    }

    /// Notes since when it is used as it is, where that is otherwise than `before`.
    fn use_anew(&mut self, before: &Self, now: crate::Timestamp) {
        let _ = (before, now);
    }

    /// Who may do what with it.
    fn acl(&self) -> &Acl {
        &self.common().acl
    }

    /// `<collection>/<id>`.
    fn key(&self) -> String {
        format!("{}/{}", Self::COLLECTION, self.local_id())
    }
}

/// Implements [`Resource`] for a document with fields `id` and `common`.
macro_rules! resource {
    ($type:ty, $collection:literal) => {
        resource!($type, $collection, |_document, _add| {});
    };
    ($type:ty, $collection:literal, |$document:ident, $add:ident| $terms:block) => {
        resource!($type, $collection, |$document, $add| $terms, |_document, _add| {}, {});
    };
    (
        $type:ty, $collection:literal, |$document:ident, $add:ident| $terms:block,
        |$weighed:ident, $weigh:ident| $weights:block, {$($more:item)*}
    ) => {
        impl $crate::resources::Resource for $type {
            const COLLECTION: &'static str = $collection;

            fn local_id(&self) -> &str {
                self.id.local()
            }

            fn common(&self) -> &$crate::Common {
                &self.common
            }

            fn common_mut(&mut self) -> &mut $crate::Common {
                &mut self.common
            }

            fn terms(&self, $add: &mut dyn FnMut(&'static str, &str)) {
                let $document = self;
                $terms
            }

            fn weights(&self, $weigh: &mut dyn FnMut(&'static str, u64)) {
                let $weighed = self;
                $weights
            }

            $($more)*
        }
    };
}
pub(crate) use resource;

/// Fields of a stored document that this version doesn't know.
pub type Unknown = serde_json::Map<String, serde_json::Value>;
