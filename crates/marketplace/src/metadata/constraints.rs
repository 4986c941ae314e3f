//! The contents of a document whose structure is right: what must agree, and each element in its field.

use roxmltree::Node;

use super::schema::{Parts, RawEndorsement, number, shown};
use super::{Checksums, Endorsement, Extension, Metadata};
use crate::date::{InvalidTime, UtcTime};
use crate::digest::Digest;
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::namespaces::{DCTERMS, RDF, SLTERMS};
use crate::xml::canonical;
use crate::xml::text_of;

/// Elements of which a second one would be read by some and not by others. The first six are those of StratusLab's own check.
const AT_MOST_ONE: [(&str, &str); 10] = [
    (SLTERMS, "serial-number"),
    (SLTERMS, "version"),
    (SLTERMS, "deprecated"),
    (SLTERMS, "os"),
    (SLTERMS, "os-arch"),
    (SLTERMS, "os-version"),
    (SLTERMS, "kind"),
    (DCTERMS, "valid"),
    (DCTERMS, "format"),
    (DCTERMS, "compression"),
];

/// Checks the contents and takes them over.
///
/// # Errors
/// [`Error::Constraint`]; [`Error::Schema`] for elements inside texts.
pub fn check(parts: &Parts<'_, '_>) -> Result<Metadata, Error> {
    let image_type = image_type(parts)?;
    for (namespace, name) in AT_MOST_ONE {
        if named(parts, namespace, name).count() > 1 {
            return Err(Error::constraint(format!(
                "description must have at most 1 {name} element"
            )));
        }
    }
    if parts.about != parts.identifier {
        return Err(Error::constraint(format!(
            "rdf:about attribute ({}) and dcterms:identifier ({}) are not consistent",
            parts.about, parts.identifier
        )));
    }
    let identifier: ImageIdentifier =
        parts
            .identifier
            .parse()
            .map_err(|error: crate::identifier::InvalidIdentifier| {
                Error::constraint(error.to_string())
            })?;
    let checksums = checksums(parts)?;
    if identifier.sha1() != checksums.sha1 {
        return Err(Error::constraint(format!(
            "checksum from identifier ({}) and SHA-1 checksum ({}) are not consistent",
            identifier.sha1(),
            checksums.sha1
        )));
    }
    let mut metadata = Metadata::new(checksums, parts.bytes, image_type);
    metadata.endorsement = parts.endorsement.as_ref().map(endorsement).transpose()?;
    for node in &parts.rest {
        take(&mut metadata, *node)?;
    }
    // StratusLab's client wrote the compression into another namespace, beside an empty element of the right one.
    if metadata.compression.is_none()
        && let Some(node) = named(parts, SLTERMS, "compression").next()
    {
        metadata.compression = compression(&text_of(node)?);
    }
    Ok(metadata)
}

fn named<'p, 'a, 'input>(
    parts: &'p Parts<'a, 'input>,
    namespace: &'p str,
    name: &'p str,
) -> impl Iterator<Item = Node<'a, 'input>> + 'p {
    parts
        .rest
        .iter()
        .copied()
        .filter(move |node| crate::xml::is(*node, namespace, name))
}

fn image_type(parts: &Parts<'_, '_>) -> Result<String, Error> {
    let mut all = named(parts, DCTERMS, "type");
    let (Some(node), None) = (all.next(), all.next()) else {
        return Err(Error::constraint(
            "description must have exactly 1 dcterms:type element",
        ));
    };
    text_of(node)
        .map(|text| text.trim().to_owned())
        .map_err(|_| Error::constraint("dcterms:type cannot have child elements"))
}

fn checksums(parts: &Parts<'_, '_>) -> Result<Checksums, Error> {
    let of = |name: &str| -> Result<Option<&str>, Error> {
        let mut all = parts
            .checksums
            .iter()
            .filter(|(algorithm, _)| algorithm == name);
        match (all.next(), all.next()) {
            (first, None) => Ok(first.map(|(_, value)| value.as_str())),
            _ if name == "SHA-1" => Err(Error::constraint(
                "description must have exactly 1 slterms:checksum element using SHA-1 algorithm",
            )),
            _ => Err(Error::constraint(format!(
                "description must have at most 1 slreq:checksum element using {name} algorithm"
            ))),
        }
    };
    fn digest<const N: usize>(name: &str, value: Option<&str>) -> Result<Option<Digest<N>>, Error> {
        value
            .map(|text| {
                text.parse().map_err(|_| {
                    Error::constraint(format!("{} is not a valid {name} checksum", shown(text)))
                })
            })
            .transpose()
    }
    Ok(Checksums {
        sha1: digest("SHA-1", of("SHA-1")?)?.ok_or_else(|| {
            Error::constraint(
                "description must have exactly 1 slterms:checksum element using SHA-1 algorithm",
            )
        })?,
        md5: digest("MD5", of("MD5")?)?,
        sha256: digest("SHA-256", of("SHA-256")?)?,
        sha512: digest("SHA-512", of("SHA-512")?)?,
        others: parts
            .checksums
            .iter()
            .filter(|(algorithm, _)| {
                !["MD5", "SHA-1", "SHA-256", "SHA-512"].contains(&algorithm.as_str())
            })
            .cloned()
            .collect(),
    })
}

fn endorsement(raw: &RawEndorsement) -> Result<Endorsement, Error> {
    Ok(Endorsement {
        created: time(&raw.created, "dcterms:created")?,
        email: raw.email.clone(),
        subject: raw.subject.clone(),
        issuers: raw.issuers.clone(),
    })
}

fn time(text: &str, name: &str) -> Result<UtcTime, Error> {
    text.parse().map_err(|error| match error {
        InvalidTime::Form(text) => Error::constraint(format!(
            "{name} value ({}) is not a valid date",
            shown(&text)
        )),
        InvalidTime::Impossible(_) => Error::constraint(error.to_string()),
    })
}

fn compression(text: &str) -> Option<String> {
    Some(text.trim())
        .filter(|text| !text.is_empty() && *text != "none")
        .map(str::to_owned)
}

/// Puts an element into its field, or among the others.
fn take(metadata: &mut Metadata, node: Node<'_, '_>) -> Result<(), Error> {
    let namespace = node.tag_name().namespace().unwrap_or_default();
    let name = node.tag_name().name();
    let text = || text_of(node);
    let token = || -> Result<Option<String>, Error> {
        let text = text_of(node)?;
        Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
    };
    // A sentence of which there may be more, or which others fill with elements: the first that is a text counts.
    let sentence = |field: &mut Option<String>| -> Option<()> {
        let text = text_of(node).ok()?;
        if field.is_some() || node.attributes().len() > 0 {
            return None;
        }
        *field = Some(text).filter(|text| !text.is_empty());
        Some(())
    };
    let taken = match (namespace, name) {
        // An old element without meaning, and what was taken already.
        (RDF, "type") | (DCTERMS, "type") => Some(()),
        (DCTERMS, "title") => sentence(&mut metadata.title),
        (DCTERMS, "description") => sentence(&mut metadata.description),
        (DCTERMS, "creator") => sentence(&mut metadata.creator),
        (DCTERMS, "publisher") => sentence(&mut metadata.publisher),
        (DCTERMS, "created") => sentence(&mut metadata.created),
        (DCTERMS, "alternative") => sentence(&mut metadata.tag),
        (DCTERMS, "replaces") => sentence(&mut metadata.replaces),
        (DCTERMS, "isReplacedBy") => sentence(&mut metadata.is_replaced_by),
        (DCTERMS, "isVersionOf") => sentence(&mut metadata.is_version_of),
        (SLTERMS, "kind") => assign(&mut metadata.kind, token()?),
        (SLTERMS, "os") => assign(&mut metadata.os, token()?),
        (SLTERMS, "os-version") => assign(&mut metadata.os_version, token()?),
        (SLTERMS, "os-arch") => assign(&mut metadata.os_arch, token()?),
        (SLTERMS, "version") => assign(&mut metadata.version, token()?),
        (SLTERMS, "hypervisor") if metadata.hypervisor.is_none() => {
            assign(&mut metadata.hypervisor, token()?)
        }
        (SLTERMS, "serial-number") => assign(
            &mut metadata.serial_number,
            Some(number(&text()?, name, u64::MAX)?),
        ),
        (SLTERMS, "deprecated") => assign(&mut metadata.deprecated, Some(text()?)),
        (DCTERMS, "compression") => assign(&mut metadata.compression, compression(&text()?)),
        (SLTERMS, "compression") => Some(()),
        (DCTERMS, "format") => assign(&mut metadata.format, token()?),
        (DCTERMS, "valid") => {
            let valid = token()?
                .map(|text| time(&text, "dcterms:valid"))
                .transpose()?;
            assign(&mut metadata.valid, valid)
        }
        (SLTERMS, "location") => append(&mut metadata.locations, token()?),
        (SLTERMS, "disks-bus") => append(&mut metadata.disks_buses, token()?),
        (SLTERMS, "inbound-port") => append(
            &mut metadata.inbound_ports,
            u16::try_from(number(&text()?, name, u64::from(u16::MAX))?).ok(),
        ),
        (SLTERMS, "outbound-port") => append(
            &mut metadata.outbound_ports,
            u16::try_from(number(&text()?, name, u64::from(u16::MAX))?).ok(),
        ),
        (SLTERMS, "icmp") => append(
            &mut metadata.icmp_types,
            u8::try_from(number(&text()?, name, u64::from(u8::MAX))?).ok(),
        ),
        _ => None,
    };
    if taken.is_none() {
        let form = canonical::element_alone(node)?;
        metadata.extensions.push(Extension {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            xml: form,
        });
    }
    Ok(())
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the arms of a match have one type"
)]
fn assign<T>(field: &mut Option<T>, value: Option<T>) -> Option<()> {
    *field = value;
    Some(())
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the arms of a match have one type"
)]
fn append<T>(field: &mut Vec<T>, value: Option<T>) -> Option<()> {
    field.extend(value);
    Some(())
}
