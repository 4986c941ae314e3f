//! Identifiers, each a type of its own so that they can't be swapped.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {expected}")]
pub struct InvalidId {
    text: String,
    expected: &'static str,
}

/// What follows the slash in an id: letters, digits and `-_.@:+=,~`, at most 200 bytes, not
/// starting with a dot. Nothing in it needs escaping in a URL path or is special in a file name.
fn valid_local_part(text: &str) -> bool {
    (1..=200).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.@:+=,~".contains(&b))
}

macro_rules! resource_id {
    ($(#[$doc:meta])* $name:ident, $collection:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The collection, which is also the type's name.
            pub const COLLECTION: &'static str = $collection;

            /// A new identifier, UUIDv7: later ones sort after earlier ones.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7().to_string().into_boxed_str())
            }

            /// From the part after the slash.
            ///
            /// # Errors
            /// If the text could not be part of a URL path or file name as it is.
            pub fn from_local(local: &str) -> Result<Self, InvalidId> {
                if valid_local_part(local) {
                    Ok(Self(local.into()))
                } else {
                    Err(InvalidId { text: local.to_owned(), expected: stringify!($name) })
                }
            }

            /// The part after the slash.
            #[must_use]
            pub fn local(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", $collection, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($collection, "/"))
                    .and_then(|local| Self::from_local(local).ok())
                    .ok_or_else(|| InvalidId { text: text.to_owned(), expected: stringify!($name) })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

resource_id!(/// A Machine.
    MachineId, "Machine");
resource_id!(/// A MachineConfiguration.
    MachineConfigurationId, "MachineConfiguration");
resource_id!(/// A MachineTemplate.
    MachineTemplateId, "MachineTemplate");
resource_id!(/// A MachineImage: the document's id, not the 27-character identifier of its content.
    ImageId, "MachineImage");
resource_id!(/// A Credential.
    CredentialId, "Credential");
resource_id!(/// A Volume; the part after the slash is StratusLab's disk UUID.
    VolumeId, "Volume");
resource_id!(/// A VolumeConfiguration.
    VolumeConfigurationId, "VolumeConfiguration");
resource_id!(/// A VolumeTemplate.
    VolumeTemplateId, "VolumeTemplate");
resource_id!(/// A Network; the part after the slash is its configured name.
    NetworkId, "Network");
resource_id!(/// An Address: `<network>.<ip>`, so that an address can be leased only once.
    AddressId, "Address");
resource_id!(/// A Job.
    JobId, "Job");
resource_id!(/// An Event.
    EventId, "Event");
resource_id!(/// A User; the part after the slash is the user name.
    UserId, "User");
resource_id!(/// A Token: the document's id, which is no secret.
    TokenId, "Token");
resource_id!(/// A browser's session: the document's id, which is no secret.
    SessionId, "Session");
resource_id!(/// A registration; the part after the slash is the user name asked for.
    RegistrationId, "Registration");
resource_id!(/// What a letter lets somebody do once.
    MailLinkId, "MailLink");
resource_id!(/// A member of a virtual organisation; the part after the slash is a digest of both names.
    OrganisationMemberId, "OrganisationMember");
resource_id!(/// A Group; the part after the slash is its name.
    GroupId, "Group");
resource_id!(/// A ServiceConfiguration; the part after the slash is `<service>` or `<service>.<instance>`.
    ServiceConfigurationId, "ServiceConfiguration");
resource_id!(/// A Host.
    HostId, "Host");
resource_id!(/// The authority for hosts.
    HostAuthorityId, "HostAuthority");
resource_id!(/// A token that a host joins by; the part after the slash is the digest of its secret.
    HostTokenId, "HostToken");
resource_id!(/// By what a host is known; the part after the slash is the host's.
    HostIdentityId, "HostIdentity");
resource_id!(/// That a host is there; the part after the slash is the host's.
    HostPulseId, "HostPulse");
resource_id!(/// Who keeps the images and volumes of a cloud.
    StorageKeeperId, "StorageKeeper");
resource_id!(/// The record of a machine that is no more; the part after the slash is its `vmid`.
    MachineRecordId, "MachineRecord");
resource_id!(/// A System.
    SystemId, "System");
resource_id!(/// A SystemTemplate.
    SystemTemplateId, "SystemTemplate");
resource_id!(/// A CredentialTemplate.
    CredentialTemplateId, "CredentialTemplate");
resource_id!(/// A VolumeImage.
    VolumeImageId, "VolumeImage");
resource_id!(/// An AddressTemplate.
    AddressTemplateId, "AddressTemplate");
resource_id!(/// A NetworkPort.
    NetworkPortId, "NetworkPort");
resource_id!(/// A NetworkPortTemplate.
    NetworkPortTemplateId, "NetworkPortTemplate");
resource_id!(/// A NetworkPortConfiguration.
    NetworkPortConfigurationId, "NetworkPortConfiguration");
resource_id!(/// A ForwardingGroup.
    ForwardingGroupId, "ForwardingGroup");
resource_id!(/// A ForwardingGroupTemplate.
    ForwardingGroupTemplateId, "ForwardingGroupTemplate");
resource_id!(/// A SecurityGroup.
    SecurityGroupId, "SecurityGroup");
resource_id!(/// A ServiceMessage.
    ServiceMessageId, "ServiceMessage");

impl AddressId {
    /// The only id that this address of this network can have.
    #[must_use]
    pub fn of(network: &NetworkId, ip: std::net::IpAddr) -> Self {
        Self(format!("{}.{ip}", network.local()).into_boxed_str())
    }
}

/// The small number by which the command line and XML-RPC know a machine. Never reused.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct VmId(pub u32);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VmId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_collection_and_a_local_part() {
        let id: MachineId = "Machine/0190-a".parse().unwrap();
        assert_eq!(id.local(), "0190-a");
        assert_eq!(id.to_string(), "Machine/0190-a");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"Machine/0190-a\"");
    }

    #[test]
    fn other_collections_and_paths_are_refused() {
        for text in [
            "Volume/x",
            "Machine/",
            "Machine",
            "Machine/a/b",
            "Machine/..",
            "Machine/a b",
        ] {
            assert!(text.parse::<MachineId>().is_err(), "{text}");
        }
    }

    #[test]
    fn generated_ids_rise() {
        let ids: Vec<_> = (0..100).map(|_| JobId::generate()).collect();
        assert!(ids.is_sorted());
    }
}
