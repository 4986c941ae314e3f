//! A description as a draft: the document that its endorser signs.

use super::Metadata;
use crate::error::Error;
use crate::namespaces::{BASE, USUAL_PREFIXES};

/// What stands at the top of every document. The original signer writes the same.
const DECLARATION: &str = r#"<?xml version="1.0" encoding="UTF-8" standalone="no"?>"#;

impl Metadata {
    /// The document, unsigned, with an empty endorsement. Elements are in the order of StratusLab's client; those that its parser
    /// demands are there even if empty.
    ///
    /// # Errors
    /// [`Error::Unwritable`] for characters that XML can't hold.
    pub fn to_draft(&self) -> Result<String, Error> {
        let mut out = Out(String::with_capacity(4096));
        out.0.push_str(DECLARATION);
        out.0.push_str("\n<rdf:RDF");
        for (prefix, namespace) in USUAL_PREFIXES {
            out.0.push_str(&format!(" xmlns:{prefix}=\"{namespace}\""));
        }
        out.0.push_str(&format!(
            " xml:base=\"{BASE}\">\n  <rdf:Description rdf:about=\"#{}\">\n",
            self.identifier
        ));
        self.write_elements(&mut out)?;
        out.0.push_str("  </rdf:Description>\n</rdf:RDF>\n");
        Ok(out.0)
    }

    fn write_elements(&self, out: &mut Out) -> Result<(), Error> {
        out.element("dcterms:identifier", &self.identifier.to_string())?;
        out.element("slreq:bytes", &self.bytes.to_string())?;
        let checksums = &self.checksums;
        let known = [
            ("MD5", checksums.md5.map(|digest| digest.to_string())),
            ("SHA-1", Some(checksums.sha1.to_string())),
            ("SHA-256", checksums.sha256.map(|digest| digest.to_string())),
            ("SHA-512", checksums.sha512.map(|digest| digest.to_string())),
        ];
        for (algorithm, value) in known {
            if let Some(value) = value {
                out.checksum(algorithm, &value)?;
            }
        }
        for (algorithm, value) in &checksums.others {
            out.checksum(algorithm, value)?;
        }
        out.0
            .push_str("    <slreq:endorsement rdf:parseType=\"Resource\"/>\n");

        out.element("dcterms:type", &self.image_type)?;
        out.optional("slterms:kind", self.kind.as_deref())?;
        out.demanded("slterms:os", self.os.as_deref())?;
        out.demanded("slterms:os-version", self.os_version.as_deref())?;
        out.demanded("slterms:os-arch", self.os_arch.as_deref())?;
        out.demanded("slterms:version", self.version.as_deref())?;
        let serial_number = self.serial_number.map(|number| number.to_string());
        out.optional("slterms:serial-number", serial_number.as_deref())?;
        out.demanded("dcterms:compression", self.compression.as_deref())?;
        out.several("slterms:location", &self.locations)?;
        out.optional("dcterms:format", self.format.as_deref())?;
        out.optional("dcterms:creator", self.creator.as_deref())?;
        out.demanded("dcterms:created", self.created.as_deref())?;
        let valid = self.valid.map(|valid| valid.to_string());
        out.demanded("dcterms:valid", valid.as_deref())?;
        out.optional("dcterms:title", self.title.as_deref())?;
        out.optional("dcterms:alternative", self.tag.as_deref())?;
        out.demanded("dcterms:description", self.description.as_deref())?;
        out.optional("slterms:hypervisor", self.hypervisor.as_deref())?;
        out.several("slterms:disks-bus", &self.disks_buses)?;
        out.several("slterms:inbound-port", &self.inbound_ports)?;
        out.several("slterms:outbound-port", &self.outbound_ports)?;
        out.several("slterms:icmp", &self.icmp_types)?;
        out.optional("dcterms:publisher", self.publisher.as_deref())?;
        out.optional("slterms:deprecated", self.deprecated.as_deref())?;
        out.optional("dcterms:replaces", self.replaces.as_deref())?;
        out.optional("dcterms:isReplacedBy", self.is_replaced_by.as_deref())?;
        out.optional("dcterms:isVersionOf", self.is_version_of.as_deref())?;
        for extension in &self.extensions {
            out.0.push_str("    ");
            out.0.push_str(&extension.xml);
            out.0.push('\n');
        }
        Ok(())
    }
}

struct Out(String);

impl Out {
    fn element(&mut self, name: &'static str, text: &str) -> Result<(), Error> {
        self.0
            .push_str(&format!("    <{name}>{}</{name}>\n", escaped(name, text)?));
        Ok(())
    }

    fn optional(&mut self, name: &'static str, text: Option<&str>) -> Result<(), Error> {
        text.map_or(Ok(()), |text| self.element(name, text))
    }

    fn demanded(&mut self, name: &'static str, text: Option<&str>) -> Result<(), Error> {
        self.element(name, text.unwrap_or_default())
    }

    fn several<T: ToString>(&mut self, name: &'static str, texts: &[T]) -> Result<(), Error> {
        texts
            .iter()
            .try_for_each(|text| self.element(name, &text.to_string()))
    }

    fn checksum(&mut self, algorithm: &str, value: &str) -> Result<(), Error> {
        self.0.push_str(&format!(
            "    <slreq:checksum rdf:parseType=\"Resource\">\n      <slreq:algorithm>{}</slreq:algorithm>\n      <slreq:value>{}</slreq:value>\n    </slreq:checksum>\n",
            escaped("slreq:algorithm", algorithm)?,
            escaped("slreq:value", value)?
        ));
        Ok(())
    }
}

/// A text inside an element.
///
/// # Errors
/// [`Error::Unwritable`].
pub(crate) fn escaped(element: &'static str, text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#13;"),
            '\t' | '\n' => out.push(character),
            // XML 1.0 §2.2
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {
                return Err(Error::Unwritable { element, character });
            }
            _ => out.push(character),
        }
    }
    Ok(out)
}
