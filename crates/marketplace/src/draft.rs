//! Changes of a document's text on its way to a signature. Everything else in the text stays as it is, byte for byte but for line ends.

use std::ops::Range;

use roxmltree::Node;

use crate::date::UtcTime;
use crate::error::Error;
use crate::key::SigningKey;
use crate::metadata::schema::{self, Form, Parts};
use crate::metadata::write::escaped;
use crate::metadata::{constraints, is_email};
use crate::namespaces::{DCTERMS, RDF, SLREQ, SLTERMS};
use crate::signature::{Hash, sign};
use crate::xml::{Source, is};

/// Endorses and signs a draft, or an entry anew: earlier endorsements and signatures go. `email` is used if the certificate has
/// none. `hash` is for RSA keys: SHA-1 only for servers that take nothing else.
///
/// The result was verified as a reader will verify it.
///
/// # Errors
/// What [`Metadata::parse`](crate::Metadata::parse) says of the draft; [`Error::NoEmail`], [`Error::InvalidEmail`];
/// [`Error::CertificateTime`] for a certificate that is not valid at `now`.
pub fn endorsed(
    document: &[u8],
    key: &SigningKey,
    hash: Hash,
    email: Option<&str>,
    now: UtcTime,
) -> Result<String, Error> {
    let certificate = key.certificate();
    let email = certificate.email().or(email).ok_or(Error::NoEmail)?;
    if !is_email(email) {
        return Err(Error::InvalidEmail(schema::shown(email)));
    }
    let unsigned = edited(document, |parts, edits| {
        let at = parts.last_checksum;
        let (rdf, _) = name(at, RDF, "parseType");
        let element = |namespace, local: &'static str, text: &str| -> Result<String, Error> {
            let (name, declaration) = name(at, namespace, local);
            Ok(format!(
                "<{name}{declaration}>{}</{name}>",
                escaped(local, text)?
            ))
        };
        let (endorsement, declared) = name(at, SLREQ, "endorsement");
        let (endorser, endorser_declared) = name(at, SLREQ, "endorser");
        edits.insert(
            at.range().end,
            format!(
                "\n    <{endorsement}{declared} {rdf}=\"Resource\">{}<{endorser}{endorser_declared} {rdf}=\"Resource\">{}{}{}</{endorser}></{endorsement}>",
                element(DCTERMS, "created", &now.to_string())?,
                element(SLREQ, "email", email)?,
                element(SLREQ, "subject", certificate.subject())?,
                element(SLREQ, "issuer", certificate.issuer())?,
            ),
        );
        Ok(())
    })?;
    let signed = sign(&unsigned, key, hash)?;
    // A key that fails once must not spread a signature that tells about it, nor a document that nobody accepts.
    crate::Entry::verify(signed.as_bytes())?;
    Ok(signed)
}

/// A draft that says that the image should not be used any more, from an entry or a draft.
///
/// # Errors
/// As [`Metadata::parse`](crate::Metadata::parse); [`Error::Unwritable`].
pub fn deprecated(document: &[u8], reason: &str) -> Result<String, Error> {
    edited(document, |parts, edits| {
        edits.remove_all(parts, SLTERMS, "deprecated");
        edits.append(parts, SLTERMS, "deprecated", reason)
    })
}

/// A draft with one more location, of a file of this compression (`None`: not compressed).
///
/// # Errors
/// As [`deprecated`].
pub fn located(
    document: &[u8],
    location: &str,
    compression: Option<&str>,
) -> Result<String, Error> {
    edited(document, |parts, edits| {
        edits.remove_all(parts, DCTERMS, "compression");
        edits.remove_all(parts, SLTERMS, "compression");
        edits.append(parts, DCTERMS, "compression", compression.unwrap_or("none"))?;
        edits.append(parts, SLTERMS, "location", location)
    })
}

/// Changes of a text, by places in the text as it was.
struct Edits<'t> {
    text: &'t str,
    changes: Vec<(Range<usize>, String)>,
}

impl Edits<'_> {
    fn insert(&mut self, at: usize, what: String) {
        self.changes.push((at..at, what));
    }

    /// Removes an element with the white space before it.
    fn remove(&mut self, node: Node<'_, '_>) {
        let range = node.range();
        let before = self.text.get(..range.start).unwrap_or_default();
        self.changes
            .push((before.trim_end().len()..range.end, String::new()));
    }

    fn remove_all(&mut self, parts: &Parts<'_, '_>, namespace: &str, local: &str) {
        for node in &parts.rest {
            if is(*node, namespace, local) {
                self.remove(*node);
            }
        }
    }

    /// Puts an element behind the last one of the description that stays.
    fn append(
        &mut self,
        parts: &Parts<'_, '_>,
        namespace: &str,
        local: &'static str,
        text: &str,
    ) -> Result<(), Error> {
        let last = parts.rest.last().copied().unwrap_or(parts.last_checksum);
        let (name, declaration) = name(last, namespace, local);
        self.insert(
            last.range().end,
            format!(
                "\n    <{name}{declaration}>{}</{name}>",
                escaped(local, text)?
            ),
        );
        Ok(())
    }

    fn applied(mut self) -> String {
        // Stable: what is inserted at one place keeps its order.
        self.changes
            .sort_by_key(|(range, _)| (range.start, range.end));
        let mut out = String::with_capacity(self.text.len() + 1024);
        let mut at = 0;
        for (range, what) in &self.changes {
            out.push_str(self.text.get(at..range.start).unwrap_or_default());
            out.push_str(what);
            at = at.max(range.end);
        }
        out.push_str(self.text.get(at..).unwrap_or_default());
        out
    }
}

/// The text without endorsement and signature, and with the changes.
fn edited(
    document: &[u8],
    change: impl FnOnce(&Parts<'_, '_>, &mut Edits<'_>) -> Result<(), Error>,
) -> Result<String, Error> {
    let source = Source::read(document)?;
    let tree = source.parse()?;
    let parts = schema::check(tree.root_element(), Form::Any)?;
    constraints::check(&parts)?;
    let mut edits = Edits {
        text: source.text(),
        changes: Vec::new(),
    };
    if let Some(node) = parts.endorsement_element {
        edits.remove(node);
    }
    if let Some(node) = parts.signature {
        // The white space around it belongs to what is signed, and stays.
        edits.changes.push((node.range(), String::new()));
    }
    change(&parts, &mut edits)?;
    Ok(edits.applied())
}

/// A name of this namespace as it is written near `node`, and the declaration that it needs there.
fn name(node: Node<'_, '_>, namespace: &str, local: &str) -> (String, String) {
    let parent = node.parent().unwrap_or(node);
    let prefix = parent
        .namespaces()
        .find(|one| one.uri() == namespace && one.name().is_some())
        .and_then(roxmltree::Namespace::name);
    match prefix {
        Some(prefix) => (format!("{prefix}:{local}"), String::new()),
        None => (local.to_owned(), format!(" xmlns=\"{namespace}\"")),
    }
}
