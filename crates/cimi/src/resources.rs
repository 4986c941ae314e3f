//! One typed document a resource, as it is stored: its public attributes by their CIMI names, and
//! what Stratus needs beside them. Unknown fields of a stored document are kept
//! (`unknown`), so that an older daemon doesn't destroy what a newer one wrote.

mod account;
mod host;
mod image;
mod job;
mod machine;
mod network;
mod service_message;
mod system;
mod template;
mod volume;
mod volume_image;

pub use account::{Credential, Group, GroupQuota, Origin, Token, TokenScope, User};
pub use host::{AcceleratorKind, Capacity, Host};
pub use image::{Digests, Image, ImageDesired, ImageFile, ImageSource, ImageState, MediumFormat};
pub use job::{Event, EventOutcome, EventSeverity, Job, JobGoal, JobState};
pub use machine::{
    AttachStage, AttachedVolume, BootSource, ContextData, Disk, DiskRole, Endpoint, Machine,
    MachineRecord, Nic,
};
pub use network::{
    Address, ForwardingGroup, Network, NetworkClass, NetworkPort, NetworkState, NetworkWish,
};
pub use service_message::ServiceMessage;
pub use system::{Asked, Component, Made, Member, System, SystemOperation};
pub use template::{
    AddressTemplate, ConfigurationDisk, CredentialTemplate, ForwardingGroupTemplate, Kept,
    MachineConfiguration, MachineTemplate, NetworkConfiguration, NetworkPortConfiguration,
    NetworkPortTemplate, NetworkTemplate, SystemTemplate, VolumeConfiguration, VolumeTemplate,
    default_architecture,
};
pub use volume::{Attachment, MAPPED, Volume, VolumeLocation, VolumeState};
pub use volume_image::VolumeImage;

use crate::{Acl, Common};

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
        }
    };
}
pub(crate) use resource;

/// Fields of a stored document that this version doesn't know.
pub type Unknown = serde_json::Map<String, serde_json::Value>;
