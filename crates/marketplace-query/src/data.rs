//! What is asked: the statements of all entries, as far as the catalogue has them.
//!
//! ```text
//!  http://mp.stratuslab.eu/#ID/EMAIL/CREATED ─ dcterms:identifier … slterms:deprecated ─▶ text
//!      ├─ slreq:checksum ────▶ [ slreq:algorithm "SHA-1"; slreq:value ]
//!      └─ slreq:endorsement ─▶ [ dcterms:created ]
//!                                └─ slreq:endorser ─▶ [ slreq:email; slreq:subject; slreq:issuer ]
//! ```

use std::sync::Arc;

use marketplace::catalogue::{Catalogue, Record};

use crate::term::Term;

/// What subjects of entries begin with.
const SUBJECT: &str = "http://mp.stratuslab.eu/#";

/// Entries as they were at a moment. Made in a moment, so that who holds a catalogue needn't wait for a query.
#[derive(Debug, Default)]
pub struct Snapshot(Vec<Held>);

#[derive(Debug)]
struct Held {
    record: Arc<Record>,
    is_newest: bool,
}

/// An entry or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Node {
    pub(crate) entry: u32,
    pub(crate) role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    Entry,
    Checksum,
    Endorsement,
    Endorser,
}

impl Node {
    pub(crate) fn is_named(self) -> bool {
        self.role == Role::Entry
    }
}

/// What is said of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Property {
    Identifier,
    Bytes,
    Checksum,
    Endorsement,
    Kind,
    Os,
    OsVersion,
    OsArch,
    Version,
    Location,
    Format,
    Valid,
    Title,
    Alternative,
    Description,
    Deprecated,
    Tag,
    Algorithm,
    Value,
    Created,
    Endorser,
    Email,
    Subject,
    Issuer,
}

/// Each with its short name, its name, and what has it.
const PROPERTIES: [(Property, &str, &str, Role); 24] = [
    (
        Property::Identifier,
        "dcterms:identifier",
        "http://purl.org/dc/terms/identifier",
        Role::Entry,
    ),
    (
        Property::Bytes,
        "slreq:bytes",
        "http://mp.stratuslab.eu/slreq#bytes",
        Role::Entry,
    ),
    (
        Property::Checksum,
        "slreq:checksum",
        "http://mp.stratuslab.eu/slreq#checksum",
        Role::Entry,
    ),
    (
        Property::Endorsement,
        "slreq:endorsement",
        "http://mp.stratuslab.eu/slreq#endorsement",
        Role::Entry,
    ),
    (
        Property::Kind,
        "slterms:kind",
        "http://mp.stratuslab.eu/slterms#kind",
        Role::Entry,
    ),
    (
        Property::Os,
        "slterms:os",
        "http://mp.stratuslab.eu/slterms#os",
        Role::Entry,
    ),
    (
        Property::OsVersion,
        "slterms:os-version",
        "http://mp.stratuslab.eu/slterms#os-version",
        Role::Entry,
    ),
    (
        Property::OsArch,
        "slterms:os-arch",
        "http://mp.stratuslab.eu/slterms#os-arch",
        Role::Entry,
    ),
    (
        Property::Version,
        "slterms:version",
        "http://mp.stratuslab.eu/slterms#version",
        Role::Entry,
    ),
    (
        Property::Location,
        "slterms:location",
        "http://mp.stratuslab.eu/slterms#location",
        Role::Entry,
    ),
    (
        Property::Format,
        "dcterms:format",
        "http://purl.org/dc/terms/format",
        Role::Entry,
    ),
    (
        Property::Valid,
        "dcterms:valid",
        "http://purl.org/dc/terms/valid",
        Role::Entry,
    ),
    (
        Property::Title,
        "dcterms:title",
        "http://purl.org/dc/terms/title",
        Role::Entry,
    ),
    (
        Property::Alternative,
        "dcterms:alternative",
        "http://purl.org/dc/terms/alternative",
        Role::Entry,
    ),
    (
        Property::Description,
        "dcterms:description",
        "http://purl.org/dc/terms/description",
        Role::Entry,
    ),
    (
        Property::Deprecated,
        "slterms:deprecated",
        "http://mp.stratuslab.eu/slterms#deprecated",
        Role::Entry,
    ),
    (
        Property::Tag,
        "slterms:tag",
        "http://mp.stratuslab.eu/slterms#tag",
        Role::Entry,
    ),
    (
        Property::Algorithm,
        "slreq:algorithm",
        "http://mp.stratuslab.eu/slreq#algorithm",
        Role::Checksum,
    ),
    (
        Property::Value,
        "slreq:value",
        "http://mp.stratuslab.eu/slreq#value",
        Role::Checksum,
    ),
    (
        Property::Created,
        "dcterms:created",
        "http://purl.org/dc/terms/created",
        Role::Endorsement,
    ),
    (
        Property::Endorser,
        "slreq:endorser",
        "http://mp.stratuslab.eu/slreq#endorser",
        Role::Endorsement,
    ),
    (
        Property::Email,
        "slreq:email",
        "http://mp.stratuslab.eu/slreq#email",
        Role::Endorser,
    ),
    (
        Property::Subject,
        "slreq:subject",
        "http://mp.stratuslab.eu/slreq#subject",
        Role::Endorser,
    ),
    (
        Property::Issuer,
        "slreq:issuer",
        "http://mp.stratuslab.eu/slreq#issuer",
        Role::Endorser,
    ),
];

/// The short names of all, for who asked for another.
pub(crate) fn known() -> String {
    PROPERTIES.map(|(_, short, ..)| short).join(", ")
}

impl Property {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        PROPERTIES.iter().map(|(property, ..)| *property)
    }

    pub(crate) fn named(iri: &str) -> Option<Self> {
        let found = PROPERTIES.iter().find(|(_, _, name, _)| *name == iri);
        found.map(|(property, ..)| *property)
    }

    fn row(self) -> Option<&'static (Self, &'static str, &'static str, Role)> {
        PROPERTIES.iter().find(|(property, ..)| *property == self)
    }

    pub(crate) fn iri(self) -> &'static str {
        self.row().map_or("", |(_, _, iri, _)| iri)
    }

    /// What has it.
    pub(crate) fn role(self) -> Role {
        self.row().map_or(Role::Entry, |(.., role)| *role)
    }
}

impl Snapshot {
    /// All entries of a catalogue.
    #[must_use]
    pub fn of(catalogue: &Catalogue) -> Self {
        let all = catalogue.all();
        Self(
            all.map(|(record, is_newest)| Held {
                record: Arc::clone(record),
                is_newest,
            })
            .collect(),
        )
    }

    /// The numbers of all entries.
    pub(crate) fn entries(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn held(&self, entry: u32) -> Option<&Held> {
        self.0.get(usize::try_from(entry).ok()?)
    }

    /// The name of a node, if it has one.
    pub(crate) fn iri(&self, node: Node) -> Option<String> {
        let held = self.held(node.entry).filter(|_| node.is_named())?;
        Some(format!("{SUBJECT}{}", held.record.path()))
    }

    /// The node of this name.
    pub(crate) fn named(&self, iri: &str) -> Option<Node> {
        let path = iri.strip_prefix(SUBJECT)?;
        let (identifier, _) = path.split_once('/')?;
        let identifier = identifier.parse().ok()?;
        let is_it =
            |held: &Held| held.record.identifier == identifier && held.record.path() == path;
        let entry = u32::try_from(self.0.iter().position(is_it)?).ok()?;
        Some(Node {
            entry,
            role: Role::Entry,
        })
    }

    /// What a node says as this property; nothing if it isn't what has it.
    pub(crate) fn values(&self, node: Node, property: Property) -> Values<'_> {
        let Some(held) = self
            .held(node.entry)
            .filter(|_| property.role() == node.role)
        else {
            return Values::None;
        };
        let record = &*held.record;
        let part = |role| {
            Values::One(Term::Node(Node {
                entry: node.entry,
                role,
            }))
        };
        match property {
            Property::Identifier => Values::of(record.identifier.to_string()),
            Property::Bytes => Values::of(record.bytes.to_string()),
            Property::Checksum => part(Role::Checksum),
            Property::Endorsement => part(Role::Endorsement),
            Property::Kind => Values::maybe(record.kind.as_deref()),
            Property::Os => Values::maybe(record.os.as_deref()),
            Property::OsVersion => Values::maybe(record.os_version.as_deref()),
            Property::OsArch => Values::maybe(record.os_arch.as_deref()),
            Property::Version => Values::maybe(record.version.as_deref()),
            Property::Location => Values::Several(&record.locations),
            Property::Format => Values::maybe(record.format.as_deref()),
            Property::Valid => record
                .valid
                .map_or(Values::None, |valid| Values::of(valid.to_string())),
            Property::Title => Values::maybe(record.title.as_deref()),
            Property::Alternative => Values::maybe(record.tag.as_deref()),
            Property::Description => Values::maybe(record.description.as_deref()),
            Property::Deprecated => Values::maybe(record.deprecated.as_deref()),
            Property::Tag => Values::maybe(held.is_newest.then_some("latest")),
            Property::Algorithm => Values::maybe(Some("SHA-1")),
            Property::Value => Values::of(record.identifier.sha1().to_string()),
            Property::Created => Values::of(record.created.to_string()),
            Property::Endorser => part(Role::Endorser),
            Property::Email => Values::maybe(Some(&record.email)),
            Property::Subject => Values::maybe(Some(&record.subject)),
            Property::Issuer => Values::maybe(Some(&record.issuer)),
        }
    }

    /// What a part belongs to, by this property.
    pub(crate) fn parent(&self, node: Node, property: Property) -> Option<Node> {
        let part = match property {
            Property::Checksum => Role::Checksum,
            Property::Endorsement => Role::Endorsement,
            Property::Endorser => Role::Endorser,
            _ => return None,
        };
        (node.role == part).then_some(Node {
            entry: node.entry,
            role: property.role(),
        })
    }
}

/// What a property says.
#[derive(Debug)]
pub(crate) enum Values<'c> {
    None,
    One(Term<'c>),
    Several(&'c [String]),
}

impl<'c> Values<'c> {
    fn of(text: String) -> Self {
        Self::One(Term::text(text))
    }

    fn maybe(text: Option<&'c str>) -> Self {
        text.map_or(Self::None, |text| Self::One(Term::text(text)))
    }
}

impl<'c> Iterator for Values<'c> {
    type Item = Term<'c>;

    fn next(&mut self) -> Option<Term<'c>> {
        match std::mem::replace(self, Self::None) {
            Self::None => None,
            Self::One(term) => Some(term),
            Self::Several(texts) => {
                let (first, rest) = texts.split_first()?;
                *self = Self::Several(rest);
                Some(Term::text(first.as_str()))
            }
        }
    }
}
