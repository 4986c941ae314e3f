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

/// Whether an answer refuses something as Marketplaces do: `<error>…</error>` around words. (Clouds answer so, too, with elements in it.)
#[must_use]
pub fn is_refusal(answer: &[u8]) -> bool {
    let Ok(source) = Source::read(answer) else {
        return false;
    };
    source.parse().is_ok_and(|tree| {
        let root = tree.root_element();
        root.tag_name().name() == "error" && !root.children().any(|child| child.is_element())
    })
}

/// The words of an answer that refuses something, on one line and without marks, in whichever form it came: the element `message` of
/// XML, else all text in it; `message` or the first text of a JSON object; what people see of a page; else all of it.
#[must_use]
pub fn message(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let words = of_xml(answer)
        .or_else(|| of_json(answer))
        .or_else(|| text.trim_start().starts_with('<').then(|| of_page(&text)))
        .filter(|words| !words.trim().is_empty());
    let words = words.as_deref().unwrap_or(&text);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn of_xml(answer: &[u8]) -> Option<String> {
    let source = Source::read(answer).ok()?;
    let tree = source.parse().ok()?;
    let root = tree.root_element();
    if root.tag_name().name().eq_ignore_ascii_case("html") {
        return None;
    }
    let is_message = |node: &roxmltree::Node<'_, '_>| node.tag_name().name() == "message";
    let told = root.descendants().find(is_message).unwrap_or(root);
    let texts = told.descendants().filter(roxmltree::Node::is_text);
    let texts: Vec<_> = texts
        .filter_map(|node| node.text())
        .map(str::trim)
        .collect();
    Some(texts.join(" "))
}

fn of_json(answer: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let object = value.as_object()?;
    let named = ["message", "detail"]
        .iter()
        .filter_map(|name| object.get(*name));
    let text = named
        .chain(object.values())
        .find_map(serde_json::Value::as_str);
    text.map(str::to_owned)
}

/// What is written between the marks of a page, without what isn't shown.
fn of_page(page: &str) -> String {
    let mut words = String::new();
    let mut rest = page;
    while let Some((text, mark)) = rest.split_once('<') {
        words.push_str(text);
        words.push(' ');
        let name: String = mark
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        let name = name.to_ascii_lowercase();
        let unseen = ["head", "script", "style", "svg", "nav", "footer"];
        let end = if unseen.contains(&name.as_str()) {
            let end = format!("</{name}");
            mark.to_ascii_lowercase().find(&end)
        } else {
            Some(0)
        };
        rest = end
            .and_then(|end| mark.get(end..))
            .and_then(|mark| mark.split_once('>'))
            .map_or("", |(_, after)| after);
    }
    words.push_str(rest);
    for (escaped, plain) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ] {
        words = words.replace(escaped, plain);
    }
    words
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
            b"<error status=\"401\"><code>401</code><message>log in first</message></error>",
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
    fn refusals_are_read_without_their_marks() {
        for (answer, words) in [
            (
                "<error status='401'><code>401</code><message>log in\n first</message></error>",
                "log in first",
            ),
            (
                "{\"code\": 4, \"message\": \"log in first\"}",
                "log in first",
            ),
            ("{\"400\": \"no signature\"}", "no signature"),
            (
                "<!doctype html><html><head><title>x</title><style>a{}</style></head>\n<body><h1>Bad Gateway</h1><hr><p>a &lt; b<br>c</body></html>",
                "Bad Gateway a < b c",
            ),
            ("<html><script>if (a<b) {}", ""),
            ("no <", "no <"),
        ] {
            let told = message(answer.as_bytes());
            if words.is_empty() {
                assert!(!told.is_empty(), "something is told");
            } else {
                assert_eq!(told, words, "{answer}");
            }
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
