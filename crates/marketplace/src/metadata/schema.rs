//! The structure of a document: which elements there are, in which order, and of which types.
//!
//! One thing is taken that the schema forbids: an endorsement at the end of the description, with a `parseType` without
//! namespace. StratusLab's client makes all its deprecations so.

use roxmltree::Node;

use super::is_email;
use crate::error::Error;
use crate::namespaces::{BASE, DCTERMS, RDF, SLREQ, SLTERMS, XML, XMLDSIG};
use crate::xml::{children, is, text_of};

/// How much of a document there must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Drafts too: the endorsement may be empty or missing.
    Any,
    /// With an endorsement.
    Complete,
}

/// The parts of a document whose structure is right. Texts are as they stand.
#[derive(Debug)]
pub struct Parts<'a, 'input> {
    /// `rdf:about` without `#`.
    pub about: &'a str,
    /// The identifier.
    pub identifier: String,
    /// The size in bytes.
    pub bytes: u64,
    /// Algorithm and value of each checksum.
    pub checksums: Vec<(String, String)>,
    /// The last checksum: an endorsement belongs behind it.
    pub last_checksum: Node<'a, 'input>,
    /// The element of the endorsement.
    pub endorsement_element: Option<Node<'a, 'input>>,
    /// What is in it.
    pub endorsement: Option<RawEndorsement>,
    /// The other elements of the description.
    pub rest: Vec<Node<'a, 'input>>,
    /// The signature.
    pub signature: Option<Node<'a, 'input>>,
}

/// Texts of an endorsement.
#[derive(Debug)]
pub struct RawEndorsement {
    pub created: String,
    pub email: String,
    pub subject: String,
    pub issuers: Vec<String>,
}

/// Checks the structure.
///
/// # Errors
/// [`Error::Schema`], [`Error::Rdf`].
pub fn check<'a, 'input>(root: Node<'a, 'input>, form: Form) -> Result<Parts<'a, 'input>, Error> {
    let (description, signature) = frame(root)?;
    let about = about(description)?;
    let mut elements = children(description)?.peekable();
    elements.next_if(|node| is(*node, RDF, "type"));

    let identifier = expected(elements.next(), DCTERMS, "identifier")?;
    if identifier.chars().count() != 27 || !identifier.chars().all(is_identifier_character) {
        return Err(Error::schema(format!(
            "dcterms:identifier: invalid identifier {}",
            shown(&identifier)
        )));
    }
    let bytes = number(
        &expected(elements.next(), SLREQ, "bytes")?,
        "slreq:bytes",
        u64::MAX,
    )?;

    let mut checksums = Vec::new();
    let mut last_checksum = None;
    while let Some(node) = elements.next_if(|node| is(*node, SLREQ, "checksum")) {
        checksums.push(checksum(node)?);
        last_checksum = Some(node);
    }
    let last_checksum =
        last_checksum.ok_or_else(|| Error::schema("slreq:checksum is missing or out of order"))?;

    let mut rest: Vec<_> = elements.collect();
    let endorsement_element = take_endorsement(&mut rest, form)?;
    for node in &rest {
        other_element(*node)?;
    }
    let endorsement = match endorsement_element {
        Some(node) => endorsement(node, form)?,
        None => None,
    };
    Ok(Parts {
        about,
        identifier,
        bytes,
        checksums,
        last_checksum,
        endorsement_element,
        endorsement,
        rest,
        signature,
    })
}

/// The root, the description in it, and the signature behind that.
fn frame<'a, 'input>(
    root: Node<'a, 'input>,
) -> Result<(Node<'a, 'input>, Option<Node<'a, 'input>>), Error> {
    if !is(root, RDF, "RDF") {
        return Err(Error::schema(format!(
            "the root element is {}, it must be rdf:RDF",
            shown(root.tag_name().name())
        )));
    }
    if root.attribute((XML, "base")) != Some(BASE) {
        return Err(Error::schema(format!(
            "root element must have xml:base attribute with value {BASE}"
        )));
    }
    if root.attributes().len() > 1 {
        return Err(Error::schema("rdf:RDF has other attributes than xml:base"));
    }
    let mut elements = children(root)?;
    let description = elements
        .next()
        .filter(|node| is(*node, RDF, "Description"))
        .ok_or_else(|| Error::schema("the first element of rdf:RDF must be rdf:Description"))?;
    let signature = elements.next();
    if let Some(node) = signature
        && node.tag_name().namespace() != Some(XMLDSIG)
    {
        return Err(Error::schema(format!(
            "{} is not a signature, and only that may follow rdf:Description",
            shown(node.tag_name().name())
        )));
    }
    if elements.next().is_some() {
        return Err(Error::schema("there is more than one signature"));
    }
    Ok((description, signature))
}

fn about<'a>(description: Node<'a, '_>) -> Result<&'a str, Error> {
    let about = description
        .attribute((RDF, "about"))
        .ok_or_else(|| Error::schema("rdf:Description has no rdf:about"))?;
    if description.attributes().len() > 1 {
        return Err(Error::schema(
            "rdf:Description has other attributes than rdf:about",
        ));
    }
    about
        .strip_prefix('#')
        .filter(|name| name.len() == 27 && name.chars().all(is_identifier_character))
        .ok_or_else(|| {
            Error::schema(format!(
                "rdf:about must be # and an identifier, it is {}",
                shown(about)
            ))
        })
}

fn is_identifier_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '_'
}

/// The endorsement: behind the checksums, or at the very end.
fn take_endorsement<'a, 'input>(
    rest: &mut Vec<Node<'a, 'input>>,
    form: Form,
) -> Result<Option<Node<'a, 'input>>, Error> {
    let is_endorsement = |node: &Node<'_, '_>| is(*node, SLREQ, "endorsement");
    match rest.iter().filter(|node| is_endorsement(node)).count() {
        0 if form == Form::Any => return Ok(None),
        0 => return Err(Error::schema("slreq:endorsement is missing")),
        1 => {}
        _ => return Err(Error::schema("there is more than one slreq:endorsement")),
    }
    if rest.first().is_some_and(is_endorsement) {
        return Ok(Some(rest.remove(0)));
    }
    if rest.last().is_some_and(is_endorsement) {
        return Ok(rest.pop());
    }
    Err(Error::schema("slreq:endorsement is out of order"))
}

fn checksum(node: Node<'_, '_>) -> Result<(String, String), Error> {
    is_resource(node, false)?;
    let mut elements = children(node)?;
    let algorithm = expected(elements.next(), SLREQ, "algorithm")?;
    let value = expected(elements.next(), SLREQ, "value")?;
    if elements.next().is_some() {
        return Err(Error::schema(
            "slreq:checksum holds more than algorithm and value",
        ));
    }
    if value.is_empty() || !value.chars().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Error::schema(format!(
            "the slreq:value of {} is not hexadecimal: {}",
            shown(&algorithm),
            shown(&value)
        )));
    }
    Ok((algorithm, value.to_ascii_lowercase()))
}

fn endorsement(node: Node<'_, '_>, form: Form) -> Result<Option<RawEndorsement>, Error> {
    is_resource(node, true)?;
    let mut elements = children(node)?.peekable();
    if elements.peek().is_none() {
        return match form {
            Form::Any => Ok(None),
            Form::Complete => Err(Error::schema("slreq:endorsement is empty")),
        };
    }
    let created = expected(elements.next(), DCTERMS, "created")?;
    let endorser = elements
        .next()
        .filter(|node| is(*node, SLREQ, "endorser"))
        .ok_or_else(|| Error::schema("slreq:endorser is missing or out of order"))?;
    if elements.next().is_some() {
        return Err(Error::schema(
            "slreq:endorsement holds more than created and endorser",
        ));
    }
    is_resource(endorser, true)?;
    let mut elements = children(endorser)?;
    let email = expected(elements.next(), SLREQ, "email")?;
    if !is_email(&email) {
        return Err(Error::schema(format!(
            "slreq:email is not an e-mail address: {}",
            shown(&email)
        )));
    }
    let subject = expected(elements.next(), SLREQ, "subject")?;
    let mut issuers = vec![expected(elements.next(), SLREQ, "issuer")?];
    for node in elements {
        issuers.push(expected(Some(node), SLREQ, "issuer")?);
    }
    Ok(Some(RawEndorsement {
        created,
        email,
        subject,
        issuers,
    }))
}

/// The types of the elements behind the endorsement, and that the whole is RDF.
fn other_element(node: Node<'_, '_>) -> Result<(), Error> {
    let name = node.tag_name().name();
    match (node.tag_name().namespace(), name) {
        (None | Some(""), _) => {
            return Err(Error::Rdf(format!("{} has no namespace", shown(name))));
        }
        (Some(SLREQ), _) | (Some(DCTERMS), "identifier") => {
            return Err(Error::schema(format!("{} is out of order", shown(name))));
        }
        (Some(XMLDSIG), _) => {
            return Err(Error::schema("there is a signature inside the description"));
        }
        (Some(SLTERMS), "tag") => {
            return Err(Error::schema(
                "slterms:tag is for a Marketplace's own use; leave it out",
            ));
        }
        (Some(SLTERMS), "serial-number") => {
            number(&text_of(node)?, "slterms:serial-number", u64::MAX)?;
        }
        (Some(SLTERMS), "inbound-port" | "outbound-port") => {
            number(&text_of(node)?, name, u64::from(u16::MAX))?;
        }
        (Some(SLTERMS), "icmp") => {
            number(&text_of(node)?, name, u64::from(u8::MAX))?;
        }
        _ => {}
    }
    property(node)
}

/// A property of RDF: text, or other properties if it says so.
fn property(node: Node<'_, '_>) -> Result<(), Error> {
    let name = shown(node.tag_name().name());
    if node.tag_name().namespace().is_none_or(str::is_empty) {
        return Err(Error::Rdf(format!("{name} has no namespace")));
    }
    for attribute in node.attributes() {
        match (attribute.namespace(), attribute.name()) {
            (None, other) => {
                return Err(Error::Rdf(format!(
                    "the attribute {} of {name} has no namespace",
                    shown(other)
                )));
            }
            (Some(RDF), "parseType") if attribute.value() != "Resource" => {
                return Err(Error::schema(format!(
                    "{name} has a parseType other than Resource: {}",
                    shown(attribute.value())
                )));
            }
            _ => {}
        }
    }
    if node.children().any(|child| child.is_element()) {
        if node.attribute((RDF, "parseType")).is_none() {
            return Err(Error::Rdf(format!(
                "{name} has elements in it and no rdf:parseType=\"Resource\""
            )));
        }
        for child in children(node)? {
            property(child)?;
        }
    }
    Ok(())
}

/// Whether an element is marked as holding properties, and has no other attribute.
fn is_resource(node: Node<'_, '_>, may_be_bare: bool) -> Result<(), Error> {
    let name = node.tag_name().name();
    let mut is_marked = false;
    for attribute in node.attributes() {
        let is_parse_type = attribute.name() == "parseType"
            && (attribute.namespace() == Some(RDF)
                || (may_be_bare && attribute.namespace().is_none()));
        if !is_parse_type || attribute.value() != "Resource" {
            return Err(Error::schema(format!(
                "slreq:{name} may have one attribute only, rdf:parseType=\"Resource\", and has {}=\"{}\"",
                shown(attribute.name()),
                shown(attribute.value())
            )));
        }
        is_marked = true;
    }
    // An endorsement that is still empty is no node of RDF yet.
    if is_marked || !node.children().any(|child| child.is_element()) {
        return Ok(());
    }
    Err(Error::Rdf(format!(
        "slreq:{name} has elements in it and no rdf:parseType=\"Resource\""
    )))
}

/// The text of an element that must be this one, and must have no attributes.
fn expected(node: Option<Node<'_, '_>>, namespace: &str, name: &str) -> Result<String, Error> {
    let prefix = if namespace == DCTERMS {
        "dcterms"
    } else {
        "slreq"
    };
    let node = node
        .filter(|node| is(*node, namespace, name))
        .ok_or_else(|| Error::schema(format!("{prefix}:{name} is missing or out of order")))?;
    if node.attributes().len() > 0 {
        return Err(Error::schema(format!("{prefix}:{name} has attributes")));
    }
    text_of(node)
}

/// A non-negative integer of XML Schema: white space around it, a plus sign and leading zeros are allowed.
pub fn number(text: &str, name: &str, max: u64) -> Result<u64, Error> {
    let digits = text.trim();
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    if digits.starts_with(|first: char| first.is_ascii_digit())
        && let Ok(number) = digits.parse::<u64>()
        && number <= max
    {
        return Ok(number);
    }
    Err(Error::schema(format!(
        "{name} must be an integer from 0 to {max}, it is {}",
        shown(text)
    )))
}

/// A text of a stranger as a message may show it.
pub fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(80)
        .map(|character| {
            if character.is_control() {
                '?'
            } else {
                character
            }
        })
        .collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}
