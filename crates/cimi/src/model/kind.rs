//! The types there are.

use std::fmt;

macro_rules! kinds {
    ($($name:ident),* $(,)?) => {
        /// A type of resource that the interface offers, or that lives in a collection of one
        /// (`MachineVolume` …).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each is the type of that name in DSP0263, or StratusLab's")]
        pub enum Kind {
            $($name,)*
        }

        impl Kind {
            /// Every type, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The type's name, case-sensitive: `Machine`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The type of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    CloudEntryPoint,
    ResourceMetadata,
    Machine,
    MachineConfiguration,
    MachineImage,
    MachineTemplate,
    Credential,
    Volume,
    VolumeConfiguration,
    VolumeTemplate,
    Network,
    Address,
    Job,
    Event,
    User,
    Group,
    Token,
    Session,
    Registration,
    ServiceConfiguration,
    Host,
    MachineRecord,
    MachineVolume,
    Disk,
    MachineNetworkInterface,
    System,
    SystemTemplate,
    CredentialTemplate,
    VolumeImage,
    AddressTemplate,
    ServiceMessage,
    VolumeVolumeImage,
    SystemSystem,
    SystemMachine,
    SystemCredential,
    SystemVolume,
    SystemNetwork,
    SystemAddress,
    Meter,
    EventLog,
    NetworkPort,
    NetworkPortTemplate,
    NetworkPortConfiguration,
    NetworkNetworkPort,
    ForwardingGroup,
    ForwardingGroupTemplate,
    ForwardingGroupNetwork,
    SecurityGroup,
    SecurityGroupRule,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
