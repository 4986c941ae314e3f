//! What is said of entries and their parts: the elements of descriptions.

/// What is said of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Property {
    Identifier,
    Bytes,
    Checksum,
    Endorsement,
    Type,
    Kind,
    Os,
    OsVersion,
    OsArch,
    Version,
    SerialNumber,
    Compression,
    Location,
    Format,
    Creator,
    Publisher,
    Valid,
    Title,
    Alternative,
    Description,
    Hypervisor,
    DisksBus,
    InboundPort,
    OutboundPort,
    Icmp,
    Deprecated,
    Replaces,
    IsReplacedBy,
    IsVersionOf,
    Tag,
    Algorithm,
    Value,
    Created,
    Endorser,
    Email,
    Subject,
    Issuer,
}

/// What has a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Entry,
    Checksum,
    Endorsement,
    Endorser,
    /// Of both is said when they were made.
    EntryAndEndorsement,
}

/// Short name and name of an element.
macro_rules! element {
    (dcterms $name:literal) => {
        (
            concat!("dcterms:", $name),
            concat!("http://purl.org/dc/terms/", $name),
        )
    };
    (slreq $name:literal) => {
        (
            concat!("slreq:", $name),
            concat!("http://mp.stratuslab.eu/slreq#", $name),
        )
    };
    (slterms $name:literal) => {
        (
            concat!("slterms:", $name),
            concat!("http://mp.stratuslab.eu/slterms#", $name),
        )
    };
}

/// Each with its short name and its name, in the order of [`Property`].
const PROPERTIES: [(Property, (&str, &str)); 37] = [
    (Property::Identifier, element!(dcterms "identifier")),
    (Property::Bytes, element!(slreq "bytes")),
    (Property::Checksum, element!(slreq "checksum")),
    (Property::Endorsement, element!(slreq "endorsement")),
    (Property::Type, element!(dcterms "type")),
    (Property::Kind, element!(slterms "kind")),
    (Property::Os, element!(slterms "os")),
    (Property::OsVersion, element!(slterms "os-version")),
    (Property::OsArch, element!(slterms "os-arch")),
    (Property::Version, element!(slterms "version")),
    (Property::SerialNumber, element!(slterms "serial-number")),
    (Property::Compression, element!(dcterms "compression")),
    (Property::Location, element!(slterms "location")),
    (Property::Format, element!(dcterms "format")),
    (Property::Creator, element!(dcterms "creator")),
    (Property::Publisher, element!(dcterms "publisher")),
    (Property::Valid, element!(dcterms "valid")),
    (Property::Title, element!(dcterms "title")),
    (Property::Alternative, element!(dcterms "alternative")),
    (Property::Description, element!(dcterms "description")),
    (Property::Hypervisor, element!(slterms "hypervisor")),
    (Property::DisksBus, element!(slterms "disks-bus")),
    (Property::InboundPort, element!(slterms "inbound-port")),
    (Property::OutboundPort, element!(slterms "outbound-port")),
    (Property::Icmp, element!(slterms "icmp")),
    (Property::Deprecated, element!(slterms "deprecated")),
    (Property::Replaces, element!(dcterms "replaces")),
    (Property::IsReplacedBy, element!(dcterms "isReplacedBy")),
    (Property::IsVersionOf, element!(dcterms "isVersionOf")),
    (Property::Tag, element!(slterms "tag")),
    (Property::Algorithm, element!(slreq "algorithm")),
    (Property::Value, element!(slreq "value")),
    (Property::Created, element!(dcterms "created")),
    (Property::Endorser, element!(slreq "endorser")),
    (Property::Email, element!(slreq "email")),
    (Property::Subject, element!(slreq "subject")),
    (Property::Issuer, element!(slreq "issuer")),
];

/// The short names of all, for who asked for another.
pub(crate) fn known() -> String {
    PROPERTIES.map(|(_, (short, _))| short).join(", ")
}

impl Property {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        PROPERTIES.iter().map(|(property, _)| *property)
    }

    pub(crate) fn named(iri: &str) -> Option<Self> {
        let found = PROPERTIES.iter().find(|(_, (_, name))| *name == iri);
        found.map(|(property, _)| *property)
    }

    pub(crate) fn iri(self) -> &'static str {
        let found = PROPERTIES.iter().find(|(property, _)| *property == self);
        found.map_or("", |(_, (_, iri))| iri)
    }

    /// What has it.
    pub(crate) fn owner(self) -> Owner {
        match self {
            Self::Algorithm | Self::Value => Owner::Checksum,
            Self::Endorser => Owner::Endorsement,
            Self::Email | Self::Subject | Self::Issuer => Owner::Endorser,
            Self::Created => Owner::EntryAndEndorsement,
            _ => Owner::Entry,
        }
    }
}
