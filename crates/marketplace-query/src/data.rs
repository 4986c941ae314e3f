//! What is asked: the statements of all entries, as far as the catalogue has them.
//!
//! ```text
//!  http://mp.stratuslab.eu/#ID/EMAIL/CREATED ─ dcterms:identifier … slterms:deprecated ─▶ text
//!      ├─ dcterms:created ───▶ text: when the image was made
//!      ├─ slreq:checksum ────▶ [ slreq:algorithm "SHA-1"; slreq:value ], one for each algorithm
//!      └─ slreq:endorsement ─▶ [ dcterms:created ]
//!                                └─ slreq:endorser ─▶ [ slreq:email; slreq:subject; slreq:issuer ]
//! ```

mod property;

use std::borrow::Cow;
use std::sync::Arc;

use marketplace::catalogue::{Catalogue, Record, Stated};
pub(crate) use property::{Owner, Property, known};

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
    /// By its place among those of the entry.
    Checksum(u16),
    Endorsement,
    Endorser,
}

impl Role {
    fn has(self, property: Property) -> bool {
        match property.owner() {
            Owner::Entry => self == Self::Entry,
            Owner::Checksum => matches!(self, Self::Checksum(_)),
            Owner::Endorsement => self == Self::Endorsement,
            Owner::Endorser => self == Self::Endorser,
            Owner::EntryAndEndorsement => matches!(self, Self::Entry | Self::Endorsement),
        }
    }
}

impl Node {
    pub(crate) fn is_named(self) -> bool {
        self.role == Role::Entry
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

    /// The nodes of an entry that may have this property.
    pub(crate) fn owners(
        &self,
        entry: u32,
        property: Property,
    ) -> impl Iterator<Item = Node> + use<> {
        let held = self.held(entry);
        let (first, second) = match property.owner() {
            Owner::Entry => (Some(Role::Entry), None),
            Owner::Checksum => (None, None),
            Owner::Endorsement => (Some(Role::Endorsement), None),
            Owner::Endorser => (Some(Role::Endorser), None),
            Owner::EntryAndEndorsement => (Some(Role::Entry), Some(Role::Endorsement)),
        };
        let checksums = match property.owner() {
            Owner::Checksum => held.map_or(0, |held| checksums(&held.record)),
            _ => 0,
        };
        let roles = first
            .into_iter()
            .chain(second)
            .chain((0..checksums).map(Role::Checksum));
        roles.map(move |role| Node { entry, role })
    }

    /// What a node says as this property; nothing if it isn't what has it.
    pub(crate) fn values(&self, node: Node, property: Property) -> Values<'_> {
        let Some(held) = self.held(node.entry).filter(|_| node.role.has(property)) else {
            return Values::None;
        };
        let record = &*held.record;
        let details = record.details();
        let common = &*details.common;
        let part = |role| {
            Values::One(Term::Node(Node {
                entry: node.entry,
                role,
            }))
        };
        match property {
            Property::Identifier => Values::of(record.identifier.to_string()),
            Property::Bytes => Values::of(record.bytes.to_string()),
            Property::Checksum => Values::Checksums(node.entry, 0..checksums(record)),
            Property::Endorsement => part(Role::Endorsement),
            Property::Type => Values::maybe(common.image_type.as_deref()),
            Property::Kind => Values::maybe(record.kind.as_deref()),
            Property::Os => Values::maybe(record.os.as_deref()),
            Property::OsVersion => Values::maybe(record.os_version.as_deref()),
            Property::OsArch => Values::maybe(record.os_arch.as_deref()),
            Property::Version => Values::maybe(record.version.as_deref()),
            Property::SerialNumber => Values::number(details.others().serial_number),
            Property::Compression => Values::maybe(common.compression.as_deref()),
            Property::Location => Values::Several(&record.locations),
            Property::Format => Values::maybe(record.format.as_deref()),
            Property::Creator => Values::maybe(common.creator.as_deref()),
            Property::Publisher => Values::maybe(common.publisher.as_deref()),
            Property::Valid => record
                .valid
                .map_or(Values::None, |valid| Values::of(valid.to_string())),
            Property::Title => Values::maybe(record.title.as_deref()),
            Property::Alternative => Values::maybe(record.tag.as_deref()),
            Property::Description => Values::maybe(record.description.as_deref()),
            Property::Hypervisor => Values::maybe(common.hypervisor.as_deref()),
            Property::DisksBus => Values::Several(&common.disks_buses),
            Property::InboundPort => Values::Numbers(&common.inbound_ports),
            Property::OutboundPort => Values::Numbers(&common.outbound_ports),
            Property::Icmp => Values::Numbers(&common.icmp_types),
            Property::Deprecated => Values::maybe(record.deprecated.as_deref()),
            Property::Replaces => Values::maybe(details.others().replaces.as_deref()),
            Property::IsReplacedBy => Values::maybe(details.others().is_replaced_by.as_deref()),
            Property::IsVersionOf => Values::maybe(details.others().is_version_of.as_deref()),
            Property::Tag => Values::maybe(held.is_newest.then_some("latest")),
            Property::Algorithm => self.checksum(node, |sum| sum.algorithm().into()),
            Property::Value => self.checksum(node, Stated::value),
            Property::Created if node.role == Role::Entry => Values::maybe(details.made.as_deref()),
            Property::Created => Values::of(record.created.to_string()),
            Property::Endorser => part(Role::Endorser),
            Property::Email => Values::maybe(Some(&record.email)),
            Property::Subject => Values::maybe(Some(&record.subject)),
            Property::Issuer => Values::maybe(Some(&record.issuer)),
        }
    }

    fn checksum<'c>(&'c self, node: Node, part: impl Fn(Stated<'c>) -> Cow<'c, str>) -> Values<'c> {
        let (Role::Checksum(place), Some(held)) = (node.role, self.held(node.entry)) else {
            return Values::None;
        };
        let found = held.record.checksums().nth(usize::from(place));
        found.map_or(Values::None, |found| Values::One(Term::text(part(found))))
    }

    /// What a part belongs to, by this property.
    pub(crate) fn parent(&self, node: Node, property: Property) -> Option<Node> {
        let is_part = match property {
            Property::Checksum => matches!(node.role, Role::Checksum(_)),
            Property::Endorsement => node.role == Role::Endorsement,
            Property::Endorser => node.role == Role::Endorser,
            _ => false,
        };
        let role = match property {
            Property::Endorser => Role::Endorsement,
            _ => Role::Entry,
        };
        is_part.then_some(Node {
            entry: node.entry,
            role,
        })
    }
}

/// How many checksums are given.
fn checksums(record: &Record) -> u16 {
    u16::try_from(record.checksums().count()).unwrap_or(u16::MAX)
}

/// What a property says.
#[derive(Debug)]
pub(crate) enum Values<'c> {
    None,
    One(Term<'c>),
    Several(&'c [String]),
    Numbers(&'c [u16]),
    /// Those of an entry, by their places.
    Checksums(u32, std::ops::Range<u16>),
}

impl<'c> Values<'c> {
    fn of(text: String) -> Self {
        Self::One(Term::text(text))
    }

    fn number(number: Option<u64>) -> Self {
        number.map_or(Self::None, |number| Self::of(number.to_string()))
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
            Self::Numbers(numbers) => {
                let (first, rest) = numbers.split_first()?;
                *self = Self::Numbers(rest);
                Some(Term::text(first.to_string()))
            }
            Self::Checksums(entry, mut places) => {
                let role = Role::Checksum(places.next()?);
                *self = Self::Checksums(entry, places);
                Some(Term::Node(Node { entry, role }))
            }
        }
    }
}
