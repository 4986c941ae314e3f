//! Texts that come instead of images: what a Marketplace or a web server has at an address where somebody expects an image.

/// A text that is certainly no disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    /// The description of an image, or a list of such.
    Description,
    /// A page in HTML.
    Page,
}

/// What may stand before the first element of a document, by how it begins and ends.
const BEFORE: [(&[u8], &[u8]); 2] = [(b"<?", b"?>"), (b"<!--", b"-->")];
/// First elements, in whatever namespace.
const FIRST: [(&[u8], Text); 3] = [
    (b"RDF", Text::Description),
    (b"metadata", Text::Description),
    (b"html", Text::Page),
];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The kind of text that begins so, if it is one of those.
pub(super) fn of(prefix: &[u8]) -> Option<Text> {
    let mut rest = prefix.strip_prefix(BYTE_ORDER_MARK).unwrap_or(prefix);
    loop {
        rest = rest.trim_ascii_start();
        let Some((_, end)) = BEFORE.iter().find(|(begin, _)| rest.starts_with(begin)) else {
            break;
        };
        let at = rest.windows(end.len()).position(|bytes| bytes == *end)?;
        rest = rest.get(at + end.len()..)?;
    }
    let (first, after) = word(rest.strip_prefix(b"<")?);
    let element = if first.eq_ignore_ascii_case(b"!doctype") {
        word(after.trim_ascii_start()).0
    } else {
        first
    };
    let name = element.rsplit(|byte| *byte == b':').next()?;
    let known = FIRST
        .iter()
        .find(|(known, _)| name.eq_ignore_ascii_case(known))?;
    Some(known.1)
}

/// A name in a tag, and what is behind it.
fn word(bytes: &[u8]) -> (&[u8], &[u8]) {
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || b"/>[".contains(byte);
    bytes.split_at(bytes.iter().position(is_end).unwrap_or(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_and_pages_are_told_from_all_else() {
        for text in [
            "<rdf:RDF xmlns:rdf='x'>",
            "\u{feff} <?xml version='1.0'?><!-- <html> -->\n<RDF/>",
            "<metadata><rdf:RDF>",
            "<!DOCTYPE rdf:RDF [<!ENTITY x 'y'>]>",
        ] {
            assert_eq!(of(text.as_bytes()), Some(Text::Description), "{text}");
        }
        for text in [
            "<!doctype HTML>",
            "<html lang=en>",
            "<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC>",
        ] {
            assert_eq!(of(text.as_bytes()), Some(Text::Page), "{text}");
        }
        for text in [
            "",
            "<",
            "<?xml version='1.0'",
            "<svg>",
            "<htmlx>",
            "html",
            "#!/bin/sh\n<html>",
        ] {
            assert_eq!(of(text.as_bytes()), None, "{text}");
        }
    }
}
