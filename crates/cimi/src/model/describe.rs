//! The vocabulary of the table.

use super::Kind;
use crate::uri;

/// Everything the interface knows of a type.
#[derive(Debug)]
pub struct Type {
    /// Which one.
    pub kind: Kind,
    /// Who defined it.
    pub namespace: Namespace,
    /// Its collection's names; `None` for types that only live in a resource's own collection.
    pub collection: Option<Collection>,
    /// The key under which members stand in a collection's representation.
    pub member_key: &'static str,
    /// What its creation's body looks like.
    pub creation: Creation,
    /// Actions on `<id>/<action>`, by name.
    pub actions: &'static [&'static str],
    /// What the provider can do with it, as ResourceMetadata tells.
    pub capabilities: &'static [Capability],
    /// Attributes beside the common ones, in the order they are written.
    pub attributes: &'static [Attribute],
    /// Whether a resource may have attributes beside those, of any name and any value. In XML they stand in
    /// [`FURTHER`](super::FURTHER), as JSON.
    pub is_open: bool,
}

/// Something that providers may be able to do, and whether or how this one is (DSP0263 §5.13.3).
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// Its name, the last part of its URI.
    pub name: &'static str,
    /// `true`, `false`, or what the capability says it is.
    pub value: &'static str,
    /// For people.
    pub description: &'static str,
}

impl Capability {
    /// `http://schemas.dmtf.org/cimi/1/capability/Machine/UserData`
    #[must_use]
    pub fn uri(&self, kind: Kind) -> String {
        format!("{}/capability/{kind}/{}", uri::CIMI, self.name)
    }
}

/// The names of a top-level collection.
#[derive(Clone, Copy, Debug)]
pub struct Collection {
    /// The CloudEntryPoint's attribute that leads to it.
    pub entry_point: &'static str,
}

/// Who defined a type or attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// DSP0263.
    Cimi,
    /// StratusLab or Stratus.
    StratusLab,
}

/// What the body of a creation looks like.
#[derive(Clone, Copy, Debug)]
pub enum Creation {
    /// It is not created by requests.
    Never,
    /// The resource itself, or its attributes wrapped in the given member (`…Create`).
    Plain {
        /// The wrapper's member, taken apart when it is there.
        wrapper: Option<&'static str>,
    },
    /// Always a `…Create`: common attributes, these, and the template.
    Template {
        /// The template's member, e.g. `machineTemplate`.
        member: &'static str,
        /// Its type.
        kind: Kind,
        /// Attributes beside it.
        beside: &'static [Attribute],
    },
    /// The resource itself, or a `…Create` with the template by reference or by value.
    Either {
        /// The template's member, e.g. `credentialTemplate`.
        member: &'static str,
        /// Its type.
        kind: Kind,
    },
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    /// Its name as it is written.
    pub name: &'static str,
    /// Other spellings that are read.
    pub aliases: &'static [&'static str],
    /// What its value is.
    pub shape: Shape,
    /// Who writes it.
    pub access: Access,
    /// A creation must have it.
    pub required: bool,
    /// Who defined it.
    pub namespace: Namespace,
    /// What values are allowed.
    pub limit: Limit,
    /// Where its value stands in XML.
    pub place: Place,
}

/// Where in the XML form of a structure the value of an attribute stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In an element of its own.
    Element,
    /// In the start tag of the structure's element.
    Tag,
    /// Between the tags of the structure's element.
    Content,
}

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// `true`, `false`; read as text too.
    Boolean,
    /// A whole number; read as text too.
    Integer,
    /// A number.
    Decimal,
    /// A text.
    String,
    /// `xs:dateTime`.
    DateTime,
    /// A URI as text; read as `{"href"}` too.
    Uri,
    /// `{"href": …}` of one of these types; read as text too.
    Ref(&'static [Kind]),
    /// A reference, a value of the type, or both.
    RefOrValue(Kind),
    /// Texts by keys.
    Map,
    /// A structure of these.
    Struct(&'static [Attribute]),
    /// A structure of these that is also read with the named member flattened into it.
    Flattened(&'static [Attribute], &'static str),
    /// Several of one shape.
    Array(&'static Shape),
    /// A resource's own collection at `<id>/<name>`.
    Collection(Kind),
}

/// Who writes an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The provider; ignored when a client sends it.
    ReadOnly,
    /// The client, at creation and later.
    Write,
    /// The client, at creation; ignored later.
    Create,
    /// The client, at creation and later, but it is never shown.
    Secret,
}

/// What values are allowed beside the shape.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// For texts: one line of at most 255 bytes. For numbers: not negative.
    Usual,
    /// Numbers in this range, both ends included.
    Range(i64, i64),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// Texts of several lines of at most so many bytes; in maps, each value.
    Text(usize),
    /// Base64 of at most so many characters.
    Base64(usize),
}

impl Attribute {
    /// A core attribute that the client may write; refined by the methods below.
    pub(super) const fn new(name: &'static str, shape: Shape) -> Self {
        Self {
            name,
            aliases: &[],
            shape,
            access: Access::Write,
            required: false,
            namespace: Namespace::Cimi,
            limit: Limit::Usual,
            place: Place::Element,
        }
    }

    pub(super) const fn read_only(mut self) -> Self {
        self.access = Access::ReadOnly;
        self
    }

    pub(super) const fn at_creation(mut self) -> Self {
        self.access = Access::Create;
        self
    }

    pub(super) const fn secret(mut self) -> Self {
        self.access = Access::Secret;
        self
    }

    pub(super) const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub(super) const fn stratuslab(mut self) -> Self {
        self.namespace = Namespace::StratusLab;
        self
    }

    pub(super) const fn limit(mut self, limit: Limit) -> Self {
        self.limit = limit;
        self
    }

    pub(super) const fn in_tag(mut self) -> Self {
        self.place = Place::Tag;
        self
    }

    pub(super) const fn in_content(mut self) -> Self {
        self.place = Place::Content;
        self
    }

    pub(super) const fn also(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Whether a body's member of this name means this attribute.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    /// The name of its elements in XML: of what may be there several times, the singular.
    #[must_use]
    pub fn element(&self) -> &'static str {
        match self.shape {
            Shape::Array(_) | Shape::Map => singular(self.name),
            _ => self.name,
        }
    }
}

fn singular(name: &'static str) -> &'static str {
    match name {
        "properties" => "property",
        "capabilities" => "capability",
        "addresses" => "address",
        // An abbreviation, not a plural.
        "dns" => "dns",
        _ => name.strip_suffix('s').unwrap_or(name),
    }
}

impl Type {
    /// `http://schemas.dmtf.org/cimi/1/Machine`
    #[must_use]
    pub fn uri(&self) -> String {
        let root = match self.namespace {
            Namespace::Cimi => uri::CIMI,
            Namespace::StratusLab => uri::STRATUSLAB,
        };
        format!("{root}/{}", self.kind.name())
    }

    /// The attribute of that name, common ones included.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        super::COMMON
            .iter()
            .chain(self.attributes)
            .find(|attribute| attribute.is_called(name))
    }

    /// The type of the members of the resource's own collection of that name.
    #[must_use]
    pub fn own_collection(&self, name: &str) -> Option<Kind> {
        self.attributes
            .iter()
            .find(|attribute| attribute.name == name)
            .and_then(|attribute| match attribute.shape {
                Shape::Collection(kind) => Some(kind),
                _ => None,
            })
    }
}
