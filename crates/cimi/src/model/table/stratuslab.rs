//! The types that StratusLab and Stratus add to the standard's.

use super::{
    super::{
        Attribute, Creation, Kind, Limit, Namespace,
        Shape::{
            Array, Boolean, Collection as Own, DateTime, Integer, Map, Ref, String, Struct, Uri,
        },
        Type,
    },
    a, seen, standard,
};

pub(super) const USER: Type = Type {
    namespace: Namespace::StratusLab,
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("username", String).at_creation().required(),
        a("first-name", String),
        a("last-name", String),
        a("email", String),
        a("password", String).limit(Limit::Text(1024)).secret(),
        a("enabled", Boolean),
        a("roles", Array(&String)),
        a("altnames", Map).limit(Limit::Text(1024)),
        seen("origin", String),
        a("quota", Struct(AMOUNTS)),
        seen("used", Struct(AMOUNTS)),
    ],
    ..standard(Kind::User, "users", "users")
};

/// How a machine is described when it is saved as a new image.
pub(super) const SAVE: &[Attribute] = &[
    a("author", String).limit(Limit::Text(80)).required(),
    a("authorEmail", String).limit(Limit::Text(256)).required(),
    a("title", String).limit(Limit::Text(256)),
    a("comment", String).limit(Limit::Text(4096)),
    a("version", String).limit(Limit::Text(64)),
    a("marketplace", Uri).limit(Limit::Text(200)),
];

/// What was done so that others learn of a saved image.
pub(super) const ANNOUNCED: &[Attribute] = &[
    seen("at", DateTime),
    seen("marketplace", Uri),
    seen("validUntil", DateTime),
    seen("problem", String),
    seen("pending", Boolean),
];

/// What somebody, or all members of a group together, have or may have; -1: as much as there is.
const AMOUNTS: &[Attribute] = &[
    a("machines", Integer).limit(AMOUNT),
    a("cpus", Integer).limit(AMOUNT),
    a("memoryMib", Integer).limit(AMOUNT),
    a("volumes", Integer).limit(AMOUNT),
    a("volumeGib", Integer).limit(AMOUNT),
    a("images", Integer).limit(AMOUNT),
    a("imageGib", Integer).limit(AMOUNT),
    a("localGib", Integer).limit(AMOUNT),
    a("volumeImages", Integer).limit(AMOUNT),
    a("volumeImageGib", Integer).limit(AMOUNT),
    a("addresses", Integer).limit(AMOUNT),
];
const AMOUNT: Limit = Limit::Range(-1, 1_000_000_000_000);

pub(super) const GROUP: Type = Type {
    namespace: Namespace::StratusLab,
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        a("groupname", String).at_creation().required(),
        a("quota", Struct(AMOUNTS)),
        seen("used", Struct(AMOUNTS)),
        seen("members", Array(&String)),
    ],
    ..standard(Kind::Group, "groups", "groups")
};

pub(super) const TOKEN: Type = Type {
    namespace: Namespace::StratusLab,
    creation: Creation::Plain { wrapper: None },
    attributes: &[
        seen("user", String),
        a("scope", String)
            .at_creation()
            .limit(Limit::OneOf(&["full", "read-only"])),
        a("types", Array(&String)).at_creation(),
        a("expires", DateTime).at_creation(),
        seen("lastUsed", DateTime),
        seen("lastAddress", String),
        // In the answer to the creation only.
        seen("token", String),
    ],
    ..standard(Kind::Token, "tokens", "tokens")
};

pub(super) const HOST: Type = Type {
    namespace: Namespace::StratusLab,
    actions: &["evacuate"],
    attributes: &[
        seen("meters", Own(Kind::Meter)),
        seen("state", String),
        seen("accelerator", String),
        seen("acceleratorReason", String),
        seen("cpuModel", String),
        seen("cpuFlags", Array(&String)),
        a("maintenance", Boolean),
        seen("version", String),
        seen("qemuVersion", String),
        seen("started", DateTime),
        seen("troubles", Array(&String)),
        seen("fencesAfter", Integer),
        seen("bridges", Array(&String)),
        seen("features", Array(&String)),
        seen("machines", Integer),
        seen("cpu", Integer),
        seen("cpuUsed", Integer),
        seen("cpuLoad", Integer),
        seen("memory", Integer),
        seen("memoryUsed", Integer),
        seen("memoryLoad", Integer),
        seen("imagesCached", Integer),
        seen("diskBytes", Integer),
        seen("diskFreeBytes", Integer),
    ],
    ..standard(Kind::Host, "hosts", "hosts")
};

pub(super) const MACHINE_RECORD: Type = Type {
    namespace: Namespace::StratusLab,
    attributes: &[
        seen("vmid", Integer),
        seen("phase", String),
        seen("cpu", Integer),
        seen("memory", Integer),
        seen("machineImage", Ref(&[Kind::MachineImage])),
        seen("addresses", Array(&String)),
        seen("host", Ref(&[Kind::Host])),
        seen("hostname", String),
        seen("started", DateTime),
        seen("ended", DateTime),
    ],
    ..standard(Kind::MachineRecord, "machineRecords", "machineRecords")
};
