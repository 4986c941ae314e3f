//! Several documents in one, as Marketplaces answer: `<metadata>` around complete `rdf:RDF` elements.

use crate::error::Error;
use crate::xml::{Bounds, Source, scan};

/// What a list may have: some ten thousand entries.
const BOUNDS: Bounds = Bounds {
    bytes: 64 << 20,
    markup: 4_000_000,
    depth: 40,
};

/// The documents in an answer, as they stand in it: the only one, or those inside `metadata`. What each is worth says
/// [`Entry::verify`](crate::Entry::verify).
///
/// # Errors
/// [`Error::TooLong`], [`Error::NotXml`]; [`Error::Schema`] when the root element is something else, or has attributes that
/// would change the documents inside.
pub fn documents(answer: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let text = std::str::from_utf8(answer)
        .map_err(|error| Error::NotXml(format!("it is not UTF-8: {error}")))?;
    let found = scan(text, &BOUNDS)?;
    let local_name = found
        .root_name
        .rsplit_once(':')
        .map_or(found.root_name.as_str(), |(_, name)| name);
    match local_name {
        "RDF" => Ok(vec![answer]),
        "metadata" if found.root_attributes == 0 => Ok(found
            .children
            .into_iter()
            .filter_map(|range| answer.get(range))
            .collect()),
        other => Err(Error::schema(format!(
            "the answer's root element is {}, not metadata or rdf:RDF",
            crate::metadata::schema::shown(other)
        ))),
    }
}

/// Whether an answer refuses something as Marketplaces do: `<error>…</error>`.
#[must_use]
pub fn is_refusal(answer: &[u8]) -> bool {
    let Ok(source) = Source::read(answer) else {
        return false;
    };
    source
        .parse()
        .is_ok_and(|tree| tree.root_element().tag_name().name() == "error")
}

/// The words of an answer that refuses something: the text of its root element (`<error>…</error>`), or all of it if it is no XML.
#[must_use]
pub fn message(answer: &[u8]) -> String {
    let text = Source::read(answer).ok().and_then(|source| {
        let tree = source.parse().ok()?;
        let root = tree.root_element();
        Some(
            root.descendants()
                .filter(roxmltree::Node::is_text)
                .filter_map(|node| node.text())
                .collect::<String>(),
        )
    });
    text.unwrap_or_else(|| String::from_utf8_lossy(answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_pages_of_others() {
        assert!(is_refusal(b"<?xml version=\"1.0\"?><error>x</error>"));
        for other in [
            b"".as_slice(),
            b"<html>x</html>",
            b"{\"error\": 1}",
            b"<error>",
        ] {
            assert!(!is_refusal(other));
        }
    }

    #[test]
    fn a_document_alone_and_documents_in_a_list() {
        let one = b"<?xml version='1.0'?><rdf:RDF xmlns:rdf='r'><x/></rdf:RDF>";
        assert_eq!(documents(one).unwrap(), [one.as_slice()]);
        let two = b"<?xml version='1.0'?><metadata>\n<rdf:RDF a='1'/><RDF><b/></RDF></metadata>";
        assert_eq!(
            documents(two).unwrap(),
            [b"<rdf:RDF a='1'/>".as_slice(), b"<RDF><b/></RDF>"]
        );
        assert!(documents(b"<metadata/>").unwrap().is_empty());
        for bad in [
            b"<error>x</error>".as_slice(),
            b"<metadata xml:base='x'><RDF/></metadata>",
            b"",
            b"\xff",
        ] {
            assert!(documents(bad).is_err());
        }
    }

    #[test]
    fn refusals_are_read_in_their_forms() {
        assert_eq!(
            message(b"<?xml version=\"1.0\"?><error>a &lt; b</error>"),
            "a < b"
        );
        assert_eq!(message(b"plain"), "plain");
        assert_eq!(message(b""), "");
    }
}
