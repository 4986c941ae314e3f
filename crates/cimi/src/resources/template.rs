//! Configurations and templates: what creations refer to.

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{
    Common,
    ids::{
        AddressTemplateId, CredentialTemplateId, ForwardingGroupTemplateId, MachineConfigurationId,
        MachineTemplateId, NetworkPortConfigurationId, NetworkPortTemplateId, SystemTemplateId,
        VolumeConfigurationId, VolumeTemplateId,
    },
};

/// A machine type (CIMI MachineConfiguration; StratusLab `m1.small` …).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineConfiguration {
    /// Its id.
    pub id: MachineConfigurationId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Virtual CPUs.
    pub cpu: u32,
    /// Memory in KiB.
    pub memory: u64,
    /// `x86_64`.
    #[serde(default = "default_architecture")]
    pub cpu_arch: String,
    /// Empty disks that the machine gets. Format `swap` makes a swap disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<ConfigurationDisk>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(MachineConfiguration, "MachineConfiguration");

/// A disk that a configuration gives to a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationDisk {
    /// kB of 1000 bytes.
    pub capacity: u64,
    /// `raw` (empty) or `swap`.
    #[serde(default = "unformatted")]
    pub format: String,
    /// A wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_location: Option<String>,
}

/// The architecture of all machines: that of the hosts.
#[must_use]
pub fn default_architecture() -> String {
    "x86_64".to_owned()
}

fn unformatted() -> String {
    "raw".to_owned()
}

/// A stored template; its body is kept as given (checked against the table) and resolved when used.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineTemplate {
    /// Its id.
    pub id: MachineTemplateId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// The public attributes of the template in their JSON form.
    #[serde(flatten)]
    pub body: Unknown,
}
resource!(MachineTemplate, "MachineTemplate");

/// A kind of volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeConfiguration {
    /// Its id.
    pub id: VolumeConfigurationId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// The type URI of its volumes.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// File system wanted; only `raw` (none) is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// kB of 1000 bytes.
    pub capacity: u64,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(VolumeConfiguration, "VolumeConfiguration");

/// A stored template; its body is kept as given and resolved when used.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeTemplate {
    /// Its id.
    pub id: VolumeTemplateId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// The public attributes of the template in their JSON form.
    #[serde(flatten)]
    pub body: Unknown,
}
resource!(VolumeTemplate, "VolumeTemplate");

/// Types whose body is kept as given (checked against the table) and resolved when used.
macro_rules! kept {
    ($($(#[$doc:meta])* $name:ident, $id:ident, $collection:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Its id.
            pub id: $id,
            /// Name, times, access.
            #[serde(flatten)]
            pub common: Common,
            /// Its public attributes in their JSON form.
            #[serde(flatten)]
            pub body: Unknown,
        }
        resource!($name, $collection);

        impl Kept for $name {
            fn body(&self) -> &Unknown {
                &self.body
            }

            fn body_mut(&mut self) -> &mut Unknown {
                &mut self.body
            }
        }
    )*};
}

/// A document that is kept as given.
pub trait Kept: super::Resource {
    /// Its own attributes.
    fn body(&self) -> &Unknown;

    /// Its own attributes, to change them.
    fn body_mut(&mut self) -> &mut Unknown;
}

kept! {
    /// What Systems are made from: descriptions of their components.
    SystemTemplate, SystemTemplateId, "SystemTemplate";
    /// What Credentials are made from.
    CredentialTemplate, CredentialTemplateId, "CredentialTemplate";
    /// What Addresses are made from.
    AddressTemplate, AddressTemplateId, "AddressTemplate";
    /// What NetworkPorts are made from.
    NetworkPortTemplate, NetworkPortTemplateId, "NetworkPortTemplate";
    /// What NetworkPorts are like.
    NetworkPortConfiguration, NetworkPortConfigurationId, "NetworkPortConfiguration";
    /// What ForwardingGroups are made from.
    ForwardingGroupTemplate, ForwardingGroupTemplateId, "ForwardingGroupTemplate";
}
