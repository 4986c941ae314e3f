//! The table itself: DSP0263 1.0.1 §5 as far as it is offered; the types that StratusLab adds are beside it.

mod machine;
mod network;
mod people;
mod records;
mod security_group;
mod service;
mod service_message;
mod stratuslab;
mod system;
mod volume_image;

use super::{
    Attribute, Capability, Collection, Creation, Kind, Limit, Namespace,
    Shape::{
        self, Array, Boolean, Collection as Own, DateTime, Decimal, Integer, Map, Ref, RefOrValue,
        String, Struct, Uri,
    },
    Type,
};

const fn a(name: &'static str, shape: Shape) -> Attribute {
    Attribute::new(name, shape)
}

const fn seen(name: &'static str, shape: Shape) -> Attribute {
    a(name, shape).read_only()
}

const PRINCIPAL_TYPE: Attribute = a("type", String)
    .limit(Limit::OneOf(&["USER", "ROLE"]))
    .required();
const ACL: &[Attribute] = &[
    a(
        "owner",
        Struct(&[a("principal", String).required(), PRINCIPAL_TYPE]),
    ),
    a(
        "rules",
        Array(&Struct(&[
            a("principal", String).required(),
            PRINCIPAL_TYPE,
            a("right", String)
                .limit(Limit::OneOf(&["VIEW", "MODIFY", "ALL"]))
                .required(),
        ])),
    ),
];

/// The attributes of every resource, in the order they are written; `operations` comes at the end.
pub const COMMON: &[Attribute] = &[
    seen("resourceURI", Uri),
    seen("id", Uri),
    a("name", String),
    a("description", String).limit(Limit::Text(4096)),
    seen("created", DateTime),
    seen("updated", DateTime),
    a("properties", Map).limit(Limit::Text(4096)),
    seen("owner", String).stratuslab(),
    a("acl", Struct(ACL)).stratuslab(),
    seen("operations", Array(&Struct(OPERATION))),
];
const OPERATION: &[Attribute] = &[seen("rel", Uri).in_tag(), seen("href", Uri).in_tag()];

/// The parts of a SystemTemplate; within them, `#name` refers to another one.
pub(super) const COMPONENTS: &str = "componentDescriptors";

/// What the body of an action holds, beside the common attributes.
pub(super) const ACTION: &[Attribute] = &[
    a("action", Uri),
    a("force", Boolean),
    a("properties", Map).limit(Limit::Text(4096)),
    a("image", Uri),
    a("format", String),
    a("destination", Uri),
];

/// Capacity in kB: up to 1 EB.
const CAPACITY: Limit = Limit::Range(1, 1_000_000_000_000_000);
const VISIBILITY: Attribute = a("visibility", String)
    .limit(Limit::OneOf(&["PUBLIC", "PRIVATE"]))
    .stratuslab();

const REASON: Attribute = seen("reason", String).stratuslab();

const fn standard(kind: Kind, entry_point: &'static str, member_key: &'static str) -> Type {
    Type {
        kind,
        namespace: Namespace::Cimi,
        collection: Some(Collection { entry_point }),
        member_key,
        creation: Creation::Never,
        actions: &[],
        capabilities: &[],
        attributes: &[],
        is_open: false,
    }
}

const fn can(name: &'static str, value: &'static str, description: &'static str) -> Capability {
    Capability {
        name,
        value,
        description,
    }
}

/// The parameters of queries: of every list and resource, and told of the CloudEntryPoint.
const QUERIES: &[Capability] = &[
    can("ExpandParameterQuery", "true", "$expand, one step deep"),
    can(
        "FilterParameterQuery",
        "true",
        "$filter, on every attribute",
    ),
    can(
        "FirstParameterAndLastParameterQuery",
        "true",
        "$first and $last",
    ),
    can("SelectParameterQuery", "true", "$select"),
    can("FormatParameterQuery", "true", "$format: json, xml"),
    can("OrderByParameterQuery", "true", "$orderby"),
    can("MaxPropertyItems", "256", "entries of `properties`"),
];

const CLOUD_ENTRY_POINT: Type = Type {
    collection: None,
    capabilities: QUERIES,
    attributes: &[
        seen("baseURI", Uri),
        seen("resourceMetadata", Ref(&[])),
        seen("machines", Ref(&[])),
        seen("machineTemplates", Ref(&[])),
        seen("machineConfigs", Ref(&[])),
        seen("machineImages", Ref(&[])),
        seen("credentials", Ref(&[])),
        seen("volumes", Ref(&[])),
        seen("volumeTemplates", Ref(&[])),
        seen("volumeConfigs", Ref(&[])),
        seen("networks", Ref(&[])),
        seen("networkPorts", Ref(&[])),
        seen("networkPortTemplates", Ref(&[])),
        seen("networkPortConfigs", Ref(&[])),
        seen("forwardingGroups", Ref(&[])),
        seen("forwardingGroupTemplates", Ref(&[])),
        seen("addresses", Ref(&[])),
        seen("systems", Ref(&[])),
        seen("systemTemplates", Ref(&[])),
        seen("credentialTemplates", Ref(&[])),
        seen("volumeImages", Ref(&[])),
        seen("addressTemplates", Ref(&[])),
        seen("jobs", Ref(&[])),
        seen("eventLogs", Ref(&[])),
        seen("securityGroups", Ref(&[])).stratuslab(),
        seen("events", Ref(&[])).stratuslab(),
        seen("serviceMessages", Ref(&[])).stratuslab(),
        seen("users", Ref(&[])).stratuslab(),
        seen("groups", Ref(&[])).stratuslab(),
        seen("tokens", Ref(&[])).stratuslab(),
        seen("sessions", Ref(&[])).stratuslab(),
        seen("registrations", Ref(&[])).stratuslab(),
        seen("serviceConfigurations", Ref(&[])).stratuslab(),
        seen("hosts", Ref(&[])).stratuslab(),
        seen("machineRecords", Ref(&[])).stratuslab(),
    ],
    ..standard(Kind::CloudEntryPoint, "", "cloudEntryPoints")
};

const RESOURCE_METADATA: Type = Type {
    attributes: &[
        seen("typeURI", Uri),
        seen(
            "attributes",
            Array(&Struct(&[
                seen("name", String).in_tag(),
                seen("namespace", Uri).in_tag(),
                seen("type", String).in_tag(),
                seen("required", Boolean).in_tag(),
                seen("constraints", Array(&Struct(&[seen("value", String)]))),
            ])),
        ),
        seen(
            "capabilities",
            Array(&Struct(&[
                seen("name", String).in_tag(),
                seen("uri", Uri).in_tag(),
                seen("description", String).in_tag(),
                seen("value", String).in_content(),
            ])),
        ),
        seen(
            "actions",
            Array(&Struct(&[
                seen("name", String).in_tag(),
                seen("uri", Uri).in_tag(),
                seen("method", String).in_tag(),
                seen("inputMessage", String).in_tag(),
                seen("outputMessage", String).in_tag(),
            ])),
        ),
    ],
    ..standard(
        Kind::ResourceMetadata,
        "resourceMetadata",
        "resourceMetadatas",
    )
};

const CREDENTIAL: Type = Type {
    capabilities: &[can(
        "CredentialTemplateByValue",
        "true",
        "credentialTemplate may be a value",
    )],
    creation: Creation::Either {
        member: "credentialTemplate",
        kind: Kind::CredentialTemplate,
    },
    attributes: &[PUBLIC_KEY],
    ..standard(Kind::Credential, "credentials", "credentials")
};

const PUBLIC_KEY: Attribute = a("publicKey", String)
    .also(&["key"])
    .limit(Limit::Text(1 << 16))
    .stratuslab()
    .required();

const CREDENTIAL_TEMPLATE: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[PUBLIC_KEY],
    ..standard(
        Kind::CredentialTemplate,
        "credentialTemplates",
        "credentialTemplates",
    )
};

const VOLUME: Type = Type {
    capabilities: &[
        can(
            "VolumeTemplateByValue",
            "true",
            "volumeTemplate may be a value",
        ),
        can("VolumeConfigByValue", "true", "volumeConfig may be a value"),
        can("VolumeImageByValue", "false", "volumeImage is a reference"),
        can(
            "VolumeSnapshot",
            "true",
            "an image is made of a volume that no machine has",
        ),
        can(
            "SharedVolumeSupport",
            "false",
            "a volume is attached to one machine at a time",
        ),
    ],
    creation: Creation::Template {
        member: "volumeTemplate",
        kind: Kind::VolumeTemplate,
        beside: &[VISIBILITY],
    },
    attributes: &[
        seen("state", String),
        a("type", Uri).at_creation(),
        a("capacity", Integer).limit(CAPACITY),
        a("bootable", Boolean),
        seen("eventLog", Ref(&[Kind::EventLog])),
        seen("size", Integer).stratuslab(),
        seen("sizeBytes", Integer).stratuslab(),
        VISIBILITY,
        seen("count", Integer).stratuslab(),
        seen("attachedTo", Ref(&[Kind::Machine])).stratuslab(),
        seen("images", Own(Kind::VolumeVolumeImage)),
        seen("volumeImage", Ref(&[Kind::VolumeImage])).stratuslab(),
        REASON,
    ],
    ..standard(Kind::Volume, "volumes", "volumes")
};

const VOLUME_CONFIGURATION: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("type", Uri).limit(Limit::OneOf(&[crate::resources::MAPPED])),
        a("format", String).limit(Limit::OneOf(&["raw"])),
        a("capacity", Integer).limit(CAPACITY).required(),
    ],
    ..standard(
        Kind::VolumeConfiguration,
        "volumeConfigs",
        "volumeConfigurations",
    )
};

const VOLUME_TEMPLATE: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("volumeConfig", RefOrValue(Kind::VolumeConfiguration)).required(),
        a("volumeImage", Ref(&[Kind::VolumeImage])),
    ],
    ..standard(Kind::VolumeTemplate, "volumeTemplates", "volumeTemplates")
};

const JOB: Type = Type {
    actions: &["stop"],
    capabilities: &[can(
        "JobRetention",
        "60",
        "minutes for which a finished job stays readable, if nothing else is configured",
    )],
    attributes: &[
        seen("state", String),
        seen("targetResource", Ref(&[])),
        seen("affectedResources", Array(&Ref(&[]))),
        seen("action", String),
        seen("returnCode", Integer),
        seen("progress", Integer),
        seen("statusMessage", String),
        seen("timeOfStatusChange", DateTime),
        seen("parentJob", Ref(&[])),
        seen("nestedJobs", Array(&Ref(&[]))),
    ],
    ..standard(Kind::Job, "jobs", "jobs")
};

/// All that any type of event tells (DSP0263 §5.36).
const EVENT_CONTENT: &[Attribute] = &[
    seen("resource", Uri),
    seen("resType", String),
    seen("resName", String),
    seen("state", String),
    seen("previous", String),
    seen("operation", String),
    seen("initiator", String),
    seen("change", String),
    seen("code", String),
    seen("detail", String),
];

const EVENT: Type = Type {
    attributes: &[
        seen("timestamp", DateTime),
        seen("type", String),
        seen("content", Struct(EVENT_CONTENT)),
        seen("outcome", String),
        seen("severity", String),
    ],
    ..standard(Kind::Event, "events", "events")
};

/// What the interface knows of a type.
#[must_use]
pub const fn describe(kind: Kind) -> &'static Type {
    match kind {
        Kind::CloudEntryPoint => &CLOUD_ENTRY_POINT,
        Kind::ResourceMetadata => &RESOURCE_METADATA,
        Kind::Machine => &machine::MACHINE,
        Kind::MachineConfiguration => &machine::MACHINE_CONFIGURATION,
        Kind::MachineImage => &machine::MACHINE_IMAGE,
        Kind::MachineTemplate => &machine::MACHINE_TEMPLATE,
        Kind::Credential => &CREDENTIAL,
        Kind::Volume => &VOLUME,
        Kind::VolumeConfiguration => &VOLUME_CONFIGURATION,
        Kind::VolumeTemplate => &VOLUME_TEMPLATE,
        Kind::Network => &network::NETWORK,
        Kind::Address => &network::ADDRESS,
        Kind::Job => &JOB,
        Kind::Event => &EVENT,
        Kind::User => &stratuslab::USER,
        Kind::Group => &stratuslab::GROUP,
        Kind::Token => &stratuslab::TOKEN,
        Kind::Session => &people::SESSION,
        Kind::Registration => &people::REGISTRATION,
        Kind::ServiceConfiguration => &service::SERVICE_CONFIGURATION,
        Kind::Host => &stratuslab::HOST,
        Kind::MachineRecord => &stratuslab::MACHINE_RECORD,
        Kind::MachineVolume => &machine::MACHINE_VOLUME,
        Kind::Disk => &machine::DISK,
        Kind::MachineNetworkInterface => &machine::MACHINE_NETWORK_INTERFACE,
        Kind::System => &system::SYSTEM,
        Kind::SystemTemplate => &system::SYSTEM_TEMPLATE,
        Kind::CredentialTemplate => &CREDENTIAL_TEMPLATE,
        Kind::VolumeImage => &volume_image::VOLUME_IMAGE,
        Kind::AddressTemplate => &network::ADDRESS_TEMPLATE,
        Kind::NetworkPort => &network::NETWORK_PORT,
        Kind::NetworkPortTemplate => &network::NETWORK_PORT_TEMPLATE,
        Kind::NetworkPortConfiguration => &network::NETWORK_PORT_CONFIGURATION,
        Kind::NetworkNetworkPort => &network::NETWORK_NETWORK_PORT,
        Kind::ForwardingGroup => &network::FORWARDING_GROUP,
        Kind::ForwardingGroupTemplate => &network::FORWARDING_GROUP_TEMPLATE,
        Kind::ForwardingGroupNetwork => &network::FORWARDING_GROUP_NETWORK,
        Kind::SecurityGroup => &security_group::SECURITY_GROUP,
        Kind::SecurityGroupRule => &security_group::SECURITY_GROUP_RULE,
        Kind::ServiceMessage => &service_message::SERVICE_MESSAGE,
        Kind::VolumeVolumeImage => &volume_image::VOLUME_VOLUME_IMAGE,
        Kind::SystemSystem => &system::SYSTEM_SYSTEM,
        Kind::SystemMachine => &system::SYSTEM_MACHINE,
        Kind::SystemCredential => &system::SYSTEM_CREDENTIAL,
        Kind::SystemVolume => &system::SYSTEM_VOLUME,
        Kind::SystemNetwork => &system::SYSTEM_NETWORK,
        Kind::SystemAddress => &system::SYSTEM_ADDRESS,
        Kind::Meter => &records::METER,
        Kind::EventLog => &records::EVENT_LOG,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_type_describes_itself_and_names_are_unique() {
        let mut entry_points = BTreeSet::new();
        for kind in Kind::ALL {
            let described = describe(*kind);
            assert_eq!(described.kind, *kind);
            assert_eq!(Kind::from_name(kind.name()), Some(*kind));
            if let Some(collection) = described.collection {
                assert!(entry_points.insert(collection.entry_point), "{kind}");
                let link = CLOUD_ENTRY_POINT.attribute(collection.entry_point);
                assert!(link.is_some(), "the CloudEntryPoint has no link to {kind}");
            }
            let elements: BTreeSet<_> = COMMON
                .iter()
                .chain(described.attributes)
                .map(Attribute::element)
                .collect();
            assert_eq!(
                elements.len(),
                COMMON.len() + described.attributes.len(),
                "{kind}"
            );
            let mut names = BTreeSet::new();
            for attribute in COMMON.iter().chain(described.attributes) {
                for name in attribute.aliases.iter().chain([&attribute.name]) {
                    assert!(names.insert(*name), "{kind}.{name}");
                }
            }
        }
    }
}
