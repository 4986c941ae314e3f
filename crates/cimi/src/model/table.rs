//! The table itself: DSP0263 1.0.1 §5 as far as it is offered; the types that StratusLab adds are beside it.

mod network;
mod people;
mod records;
mod service;
mod service_message;
mod stratuslab;
mod system;
mod volume_image;

use super::{
    Attribute, Capability, Collection, Creation, Kind, Limit, Namespace,
    Shape::{
        self, Array, Boolean, Collection as Own, DateTime, Decimal, Flattened, Integer, Map, Ref,
        RefOrValue, String, Struct, Uri,
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

/// Memory in KiB: up to 64 TiB.
const MEMORY: Limit = Limit::Range(1024, 1 << 36);
const CPU: Limit = Limit::Range(1, 4096);
/// Capacity in kB: up to 1 EB.
const CAPACITY: Limit = Limit::Range(1, 1_000_000_000_000_000);
/// Those of the standard's that machines are made of here.
const ARCHITECTURES: Limit = Limit::OneOf(&["x86_64"]);
const VISIBILITY: Attribute = a("visibility", String)
    .limit(Limit::OneOf(&["PUBLIC", "PRIVATE"]))
    .stratuslab();
const RESTART_POLICY: Attribute = a("restartPolicy", String)
    .limit(Limit::OneOf(&["never", "on-failure", "always"]))
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
        seen("addresses", Ref(&[])),
        seen("systems", Ref(&[])),
        seen("systemTemplates", Ref(&[])),
        seen("credentialTemplates", Ref(&[])),
        seen("volumeImages", Ref(&[])),
        seen("addressTemplates", Ref(&[])),
        seen("jobs", Ref(&[])),
        seen("eventLogs", Ref(&[])),
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

const MACHINE: Type = Type {
    creation: Creation::Template {
        member: "machineTemplate",
        kind: Kind::MachineTemplate,
        beside: &[],
    },
    actions: &[
        "start", "stop", "restart", "pause", "suspend", "kill", "shutdown",
    ],
    capabilities: &[
        can(
            "DefaultInitialState",
            "STARTED",
            "the state of a machine that was made without initialState",
        ),
        can(
            "InitialStates",
            "STARTED,STOPPED,PAUSED",
            "the states that initialState may name",
        ),
        can(
            "MachineTemplateByValue",
            "true",
            "machineTemplate may be a value",
        ),
        can(
            "MachineConfigByValue",
            "true",
            "machineConfig may be a value",
        ),
        can(
            "MachineImageByValue",
            "false",
            "machineImage is a reference",
        ),
        can(
            "MachineCredentialByValue",
            "true",
            "credential may be a value",
        ),
        can(
            "MachineVolumeTemplatesByValue",
            "true",
            "volumeTemplate may be a value",
        ),
        can("MachineStopForce", "true", "stop and restart take force"),
        can(
            "MachineStopForceDefault",
            "false",
            "without force the guest is asked to stop",
        ),
        can(
            "UserData",
            "cloud-init",
            "userData comes on a medium of the NoCloud kind",
        ),
    ],
    attributes: &[
        seen("state", String),
        a("cpu", Integer).limit(CPU),
        a("memory", Integer).limit(MEMORY),
        seen("disks", Own(Kind::Disk)),
        seen("cpuArch", String),
        seen("volumes", Own(Kind::MachineVolume)),
        seen("networkInterfaces", Own(Kind::MachineNetworkInterface)),
        seen("meters", Own(Kind::Meter)),
        seen("eventLog", Ref(&[Kind::EventLog])),
        seen("vmid", Integer).stratuslab(),
        seen("phase", String).stratuslab(),
        REASON,
        seen("machineImage", Ref(&[Kind::MachineImage])).stratuslab(),
        seen("imageIdentifier", String).stratuslab(),
        seen("addresses", Array(&String)).stratuslab(),
        seen("networks", Array(&String)).stratuslab(),
        seen("host", Ref(&[Kind::Host])).stratuslab(),
        seen("hostname", String).stratuslab(),
        seen(
            "ssh",
            Struct(&[seen("host", String), seen("port", Integer)]),
        )
        .stratuslab(),
        seen("accelerator", String).stratuslab(),
        seen("swap", Integer).stratuslab(),
        seen("cpuShare", Decimal).stratuslab(),
        seen("cpuModel", String).stratuslab(),
        seen("keymap", String).stratuslab(),
        seen("requirements", String).stratuslab(),
        seen("rank", String).stratuslab(),
        seen("placementTogether", Array(&String)).stratuslab(),
        seen("placementApart", Array(&String)).stratuslab(),
        RESTART_POLICY,
        seen("started", DateTime).stratuslab(),
        seen("save", Struct(stratuslab::SAVE)).stratuslab(),
        seen("savedAs", Ref(&[Kind::MachineImage])).stratuslab(),
    ],
    ..standard(Kind::Machine, "machines", "machines")
};

const MACHINE_CONFIGURATION: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("cpu", Integer).limit(CPU).required(),
        a("memory", Integer).limit(MEMORY).required(),
        a("cpuArch", String).limit(ARCHITECTURES),
        a(
            "disks",
            Array(&Struct(&[
                a("capacity", Integer).limit(CAPACITY).required(),
                a("format", String).limit(Limit::OneOf(&["raw", "swap"])),
                a("initialLocation", String),
            ])),
        ),
    ],
    ..standard(
        Kind::MachineConfiguration,
        "machineConfigs",
        "machineConfigurations",
    )
};

const MACHINE_IMAGE: Type = Type {
    creation: Creation::Plain {
        wrapper: Some("machineImageTemplate"),
    },
    attributes: &[
        seen("state", String),
        a("type", String)
            .limit(Limit::OneOf(&["IMAGE", "FILE"]))
            .at_creation(),
        a("imageLocation", Uri)
            .limit(Limit::Text(4096))
            .at_creation()
            .required(),
        REASON,
        a(
            "expected",
            Struct(&[
                a("identifier", String),
                a("md5", String),
                a("sha1", String),
                a("sha256", String),
                a("sha512", String),
                a("bytes", Integer),
            ]),
        )
        .stratuslab()
        .at_creation(),
        seen("identifier", String).stratuslab(),
        seen("format", String).stratuslab(),
        seen("virtualSize", Integer).stratuslab(),
        seen("bytes", Integer).stratuslab(),
        seen("md5", String).stratuslab(),
        seen("sha1", String).stratuslab(),
        seen("sha256", String).stratuslab(),
        seen("sha512", String).stratuslab(),
        seen("progress", Integer).stratuslab(),
        a("onDemand", Boolean).stratuslab().at_creation(),
        a("pinned", Boolean).stratuslab(),
        seen("lastUsed", DateTime).stratuslab(),
        seen("foundIn", String).stratuslab(),
        seen("title", String).stratuslab(),
        seen("endorser", String).stratuslab(),
        seen("sourceVersion", String).stratuslab(),
        seen("origin", Ref(&[Kind::MachineImage])).stratuslab(),
        seen("announced", Struct(stratuslab::ANNOUNCED)).stratuslab(),
        VISIBILITY,
        a("kernel", Ref(&[Kind::MachineImage]))
            .stratuslab()
            .at_creation(),
        a("initrd", Ref(&[Kind::MachineImage]))
            .stratuslab()
            .at_creation(),
        a("kernelArguments", String)
            .limit(Limit::Text(2048))
            .stratuslab(),
    ],
    ..standard(Kind::MachineImage, "machineImages", "machineImages")
};

const MACHINE_TEMPLATE: Type = Type {
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("initialState", String).limit(Limit::OneOf(&["STARTED", "STOPPED", "PAUSED"])),
        a("machineConfig", RefOrValue(Kind::MachineConfiguration)),
        a("machineImage", Ref(&[Kind::MachineImage])),
        a("credential", RefOrValue(Kind::Credential)),
        a(
            "volumes",
            Array(&Flattened(
                &[
                    a("initialLocation", String),
                    a("volume", Ref(&[Kind::Volume])).required(),
                ],
                "volume",
            )),
        ),
        a(
            "volumeTemplates",
            Array(&Flattened(
                &[
                    a("initialLocation", String),
                    a("volumeTemplate", RefOrValue(Kind::VolumeTemplate)).required(),
                ],
                "volumeTemplate",
            )),
        ),
        a(
            "networkInterfaces",
            Array(&Struct(&[
                a("network", Ref(&[Kind::Network])),
                a("addresses", Array(&RefOrValue(Kind::Address))),
                a("state", String).limit(Limit::OneOf(&["Active"])),
                a("mtu", Integer).limit(Limit::Range(68, 65_535)),
                a("networkType", String).limit(Limit::OneOf(&["PUBLIC", "PRIVATE"])),
                a("model", String)
                    .limit(Limit::OneOf(&[
                        "virtio",
                        "virtio-net-pci",
                        "e1000",
                        "rtl8139",
                    ]))
                    .stratuslab(),
            ])),
        ),
        a("userData", String).limit(Limit::Base64(1 << 20)),
        a("context", Map).limit(Limit::Text(1 << 18)).stratuslab(),
        a("readOnlyDisks", Array(&Ref(&[Kind::MachineImage]))).stratuslab(),
        a("cpuModel", String).stratuslab(),
        a("keymap", String).stratuslab(),
        a("cpuShare", Decimal).stratuslab(),
        a("requirements", String)
            .limit(Limit::Text(4096))
            .stratuslab(),
        a("rank", String).limit(Limit::Text(1024)).stratuslab(),
        a("placementTogether", Array(&String)).stratuslab(),
        a("placementApart", Array(&String)).stratuslab(),
        RESTART_POLICY,
        a("save", Struct(stratuslab::SAVE)).stratuslab(),
    ],
    ..standard(
        Kind::MachineTemplate,
        "machineTemplates",
        "machineTemplates",
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

const MACHINE_VOLUME: Type = Type {
    collection: None,
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("initialLocation", String).at_creation(),
        a("volume", Ref(&[Kind::Volume])).at_creation().required(),
        seen("state", String).stratuslab(),
        seen("target", String).stratuslab(),
        seen("serial", String).stratuslab(),
        seen("hot", Boolean).stratuslab(),
        REASON,
    ],
    ..standard(Kind::MachineVolume, "", "machineVolumes")
};

const DISK: Type = Type {
    collection: None,
    attributes: &[
        seen("capacity", Integer),
        seen("initialLocation", String),
        seen("role", String).stratuslab(),
        seen("machineImage", Ref(&[Kind::MachineImage])).stratuslab(),
        seen("serial", String).stratuslab(),
    ],
    ..standard(Kind::Disk, "", "disks")
};

const MACHINE_NETWORK_INTERFACE: Type = Type {
    collection: None,
    attributes: &[
        seen(
            "addresses",
            Array(&Struct(&[seen("href", Uri).in_tag(), seen("ip", String)])),
        ),
        seen("network", Ref(&[Kind::Network])),
        seen("state", String),
        seen("mtu", Integer),
        seen("macAddress", String),
        seen("networkType", String),
        seen("model", String).stratuslab(),
    ],
    ..standard(
        Kind::MachineNetworkInterface,
        "",
        "machineNetworkInterfaces",
    )
};

/// What the interface knows of a type.
#[must_use]
pub const fn describe(kind: Kind) -> &'static Type {
    match kind {
        Kind::CloudEntryPoint => &CLOUD_ENTRY_POINT,
        Kind::ResourceMetadata => &RESOURCE_METADATA,
        Kind::Machine => &MACHINE,
        Kind::MachineConfiguration => &MACHINE_CONFIGURATION,
        Kind::MachineImage => &MACHINE_IMAGE,
        Kind::MachineTemplate => &MACHINE_TEMPLATE,
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
        Kind::MachineVolume => &MACHINE_VOLUME,
        Kind::Disk => &DISK,
        Kind::MachineNetworkInterface => &MACHINE_NETWORK_INTERFACE,
        Kind::System => &system::SYSTEM,
        Kind::SystemTemplate => &system::SYSTEM_TEMPLATE,
        Kind::CredentialTemplate => &CREDENTIAL_TEMPLATE,
        Kind::VolumeImage => &volume_image::VOLUME_IMAGE,
        Kind::AddressTemplate => &network::ADDRESS_TEMPLATE,
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
