//! System and SystemTemplate (DSP0263 1.0.1 §5.13): several resources as one.

use super::{Shape::*, a, can, seen, standard};
use crate::model::{Attribute, Creation, Kind, Limit, Type};

pub(super) const SYSTEM: Type = Type {
    creation: Creation::Template {
        member: "systemTemplate",
        kind: Kind::SystemTemplate,
        beside: &[],
    },
    actions: &["start", "stop", "restart", "pause", "suspend"],
    capabilities: &[can(
        "SystemComponentTemplateByValue",
        "true",
        "the templates of components may be values",
    )],
    attributes: &[
        seen("state", String),
        seen("systems", Collection(Kind::SystemSystem)),
        seen("machines", Collection(Kind::SystemMachine)),
        seen("credentials", Collection(Kind::SystemCredential)),
        seen("volumes", Collection(Kind::SystemVolume)),
        seen("networks", Collection(Kind::SystemNetwork)),
        seen("addresses", Collection(Kind::SystemAddress)),
        seen("eventLog", Ref(&[Kind::EventLog])),
        super::REASON,
    ],
    ..standard(Kind::System, "systems", "systems")
};

/// What a component is made from: one of these, the one that its `type` says.
const COMPONENT: &[Attribute] = &[
    a("name", String),
    a("description", String).limit(Limit::Text(4096)),
    a("properties", Map).limit(Limit::Text(4096)),
    a("type", Uri).required(),
    a("quantity", Integer).limit(Limit::Range(1, 64)),
    a("machineTemplate", RefOrValue(Kind::MachineTemplate)),
    a("systemTemplate", Ref(&[Kind::SystemTemplate])),
    a("credentialTemplate", RefOrValue(Kind::CredentialTemplate)),
    a("volumeTemplate", RefOrValue(Kind::VolumeTemplate)),
    a("addressTemplate", RefOrValue(Kind::AddressTemplate)),
];

pub(super) const SYSTEM_TEMPLATE: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[a(super::COMPONENTS, Array(&Struct(COMPONENT))).required()],
    ..standard(Kind::SystemTemplate, "systemTemplates", "systemTemplates")
};

macro_rules! members {
    ($($constant:ident: $kind:ident, $attribute:literal, $refers:ident, $key:literal;)*) => {
        $(pub(super) const $constant: Type = Type {
            collection: None,
            creation: Creation::Plain { wrapper: None },
            attributes: &[a($attribute, Ref(&[Kind::$refers])).at_creation().required()],
            ..standard(Kind::$kind, "", $key)
        };)*
    };
}

members! {
    SYSTEM_SYSTEM: SystemSystem, "system", System, "systemSystems";
    SYSTEM_MACHINE: SystemMachine, "machine", Machine, "systemMachines";
    SYSTEM_CREDENTIAL: SystemCredential, "credential", Credential, "systemCredentials";
    SYSTEM_VOLUME: SystemVolume, "volume", Volume, "systemVolumes";
    SYSTEM_NETWORK: SystemNetwork, "network", Network, "systemNetworks";
    SYSTEM_ADDRESS: SystemAddress, "address", Address, "systemAddresses";
}
