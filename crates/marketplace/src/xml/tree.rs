//! The tree of one document, and how it is asked.

use std::borrow::Cow;

use roxmltree::{Document, Node, ParsingOptions};

use super::MAX_BYTES;
use super::bounds::{Bounds, scan};
use crate::error::Error;

/// What one metadata document may have.
const BOUNDS: Bounds = Bounds {
    bytes: MAX_BYTES,
    markup: 20_000,
    depth: 32,
};

/// A document's characters with the line ends that XML prescribes: what ranges of nodes refer to.
#[derive(Debug)]
pub struct Source<'a>(Cow<'a, str>);

impl<'a> Source<'a> {
    /// Reads the bytes as UTF-8 within the bounds.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::NotXml`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::TooLong {
                bytes: bytes.len(),
                limit: MAX_BYTES,
            });
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Error::NotXml(format!("it is not UTF-8: {error}")))?;
        // XML 1.0 §2.11, done here so that every later step sees the same characters.
        let text = if text.contains('\r') {
            Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n"))
        } else {
            Cow::Borrowed(text)
        };
        scan(&text, &BOUNDS)?;
        Ok(Self(text))
    }

    /// The characters.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Parses them.
    ///
    /// # Errors
    /// [`Error::NotXml`].
    pub fn parse(&self) -> Result<Document<'_>, Error> {
        let options = ParsingOptions {
            allow_dtd: false,
            nodes_limit: 100_000,
            entity_resolver: None,
        };
        Document::parse_with_options(self.text(), options)
            .map_err(|error| Error::NotXml(error.to_string()))
    }
}

/// Whether a node is this element.
pub fn is(node: Node<'_, '_>, namespace: &str, name: &str) -> bool {
    node.is_element()
        && node.tag_name().name() == name
        && node.tag_name().namespace() == Some(namespace)
}

/// The child elements.
///
/// # Errors
/// [`Error::Schema`] if there is text between them.
pub fn children<'a, 'input>(
    node: Node<'a, 'input>,
) -> Result<impl Iterator<Item = Node<'a, 'input>> + use<'a, 'input>, Error> {
    let has_text = node
        .children()
        .any(|child| child.is_text() && !child.text().unwrap_or_default().trim().is_empty());
    if has_text {
        return Err(Error::schema(format!(
            "{} holds text between its elements",
            node.tag_name().name()
        )));
    }
    Ok(node.children().filter(Node::is_element))
}

/// The text of an element that has no elements in it. All of it: a comment inside does not end it.
///
/// # Errors
/// [`Error::Schema`] if it has child elements.
pub fn text_of(node: Node<'_, '_>) -> Result<String, Error> {
    if node.children().any(|child| child.is_element()) {
        return Err(Error::schema(format!(
            "{} cannot have child elements",
            node.tag_name().name()
        )));
    }
    Ok(node
        .children()
        .filter(Node::is_text)
        .filter_map(|child| child.text())
        .collect())
}
