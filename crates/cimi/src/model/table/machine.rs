//! Machine and what it is made of (DSP0263 1.0.1 §5.14).

use super::{CAPACITY, REASON, Shape::*, VISIBILITY, a, can, seen, standard, stratuslab};
use crate::model::{Attribute, Creation, Kind, Limit, Type};

/// Memory in KiB: up to 64 TiB.
const MEMORY: Limit = Limit::Range(1024, 1 << 36);
const CPU: Limit = Limit::Range(1, 4096);
/// Those of the standard's that machines are made of here.
const ARCHITECTURES: Limit = Limit::OneOf(&["x86_64"]);
const RESTART_POLICY: Attribute = a("restartPolicy", String)
    .limit(Limit::OneOf(&["never", "on-failure", "always"]))
    .stratuslab();

const SECURITY_GROUPS: Attribute =
    a("securityGroups", Array(&Ref(&[Kind::SecurityGroup]))).stratuslab();

pub(super) const MACHINE: Type = Type {
    creation: Creation::Template {
        member: "machineTemplate",
        kind: Kind::MachineTemplate,
        beside: &[],
    },
    actions: &[
        "start", "stop", "restart", "pause", "suspend", "kill", "shutdown", "migrate",
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
        seen("disks", Collection(Kind::Disk)),
        seen("cpuArch", String),
        seen("volumes", Collection(Kind::MachineVolume)),
        seen(
            "networkInterfaces",
            Collection(Kind::MachineNetworkInterface),
        ),
        seen("meters", Collection(Kind::Meter)),
        seen("eventLog", Ref(&[Kind::EventLog])),
        seen("vmid", Integer).stratuslab(),
        seen("phase", String).stratuslab(),
        REASON,
        seen("machineImage", Ref(&[Kind::MachineImage])).stratuslab(),
        seen("imageIdentifier", String).stratuslab(),
        seen("addresses", Array(&String)).stratuslab(),
        seen("addresses6", Array(&String)).stratuslab(),
        seen("networks", Array(&String)).stratuslab(),
        seen("host", Ref(&[Kind::Host])).stratuslab(),
        seen("hostname", String).stratuslab(),
        seen(
            "moving",
            Struct(&[
                seen("host", Ref(&[Kind::Host])),
                seen("live", Boolean),
                seen("since", DateTime),
                seen("bytesCopied", Integer),
                seen("bytesLeft", Integer),
            ]),
        )
        .stratuslab(),
        seen(
            "lastMove",
            Struct(&[
                seen("since", DateTime),
                seen("bytesCopied", Integer),
                seen("downtimeMilliseconds", Integer),
            ]),
        )
        .stratuslab(),
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
        SECURITY_GROUPS,
        seen("save", Struct(stratuslab::SAVE)).stratuslab(),
        seen("savedAs", Ref(&[Kind::MachineImage])).stratuslab(),
    ],
    ..standard(Kind::Machine, "machines", "machines")
};

pub(super) const MACHINE_CONFIGURATION: Type = Type {
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

pub(super) const MACHINE_IMAGE: Type = Type {
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
        a("uncleaned", Array(&String)).stratuslab(),
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

pub(super) const MACHINE_TEMPLATE: Type = Type {
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
                a("networkPort", Ref(&[Kind::NetworkPort])),
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
        SECURITY_GROUPS,
        a("save", Struct(stratuslab::SAVE)).stratuslab(),
    ],
    ..standard(
        Kind::MachineTemplate,
        "machineTemplates",
        "machineTemplates",
    )
};

pub(super) const MACHINE_VOLUME: Type = Type {
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

pub(super) const DISK: Type = Type {
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

pub(super) const MACHINE_NETWORK_INTERFACE: Type = Type {
    collection: None,
    attributes: &[
        seen(
            "addresses",
            Array(&Struct(&[
                seen("href", Uri).in_tag(),
                seen("ip", String),
                seen("ip6", String).stratuslab(),
            ])),
        ),
        seen("network", Ref(&[Kind::Network])),
        seen("networkPort", Ref(&[Kind::NetworkPort])),
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
