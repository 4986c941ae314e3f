//! One pass over the text that decides whether it is given to the parser.
//!
//! It bounds what the parser's time and memory depend on (depth, tags, attributes, namespaces in scope), and refuses what is
//! well-formed enough for some parsers and read otherwise by others: document types, other encodings than UTF-8, attributes
//! such as `p:xmlns`, a second default namespace in one tag. Two programs that read one signed document must read the same.

use std::ops::Range;

use crate::error::Error;

/// What a text may have at most.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of the whole.
    pub bytes: usize,
    /// Start tags, comments, CDATA sections and processing instructions.
    pub markup: usize,
    /// Elements inside one another.
    pub depth: usize,
}

/// Attributes and namespace declarations in one tag.
const MAX_ATTRIBUTES: usize = 64;
/// Namespace declarations in scope of an element.
const MAX_IN_SCOPE: usize = 64;
/// Tags that declare namespaces.
const MAX_DECLARING: usize = 4096;
/// Bytes of a name. The parser keeps lengths of names in 16 bits.
const MAX_NAME_BYTES: usize = 1024;

/// Where things are in a text that is within its bounds.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Name of the root element, as written.
    pub root_name: String,
    /// Number of attributes and namespace declarations of the root element.
    pub root_attributes: usize,
    /// The elements that are children of the root element.
    pub children: Vec<Range<usize>>,
}

fn malformed(what: &str, at: usize) -> Error {
    Error::NotXml(format!("{what} at byte {at}"))
}

/// Looks over a text. What it accepts need not be well-formed; the parser decides that.
///
/// # Errors
/// [`Error::TooLong`], [`Error::NotXml`].
pub fn scan(text: &str, bounds: &Bounds) -> Result<Scanned, Error> {
    if text.len() > bounds.bytes {
        return Err(Error::TooLong {
            bytes: text.len(),
            limit: bounds.bytes,
        });
    }
    let mut cursor = Cursor { text, at: 0 };
    declaration(&mut cursor)?;
    let mut found = Scanned::default();
    // Namespace declarations of each open element.
    let mut open: Vec<usize> = Vec::new();
    let (mut markup, mut in_scope, mut declaring) = (0, 0, 0);
    let mut child_start = 0;
    while cursor.skip_to("<") {
        let start = cursor.at;
        markup += 1;
        if markup > bounds.markup {
            return Err(Error::NotXml(format!(
                "it has more than {} tags",
                bounds.markup
            )));
        }
        if cursor.eat("<!--") {
            cursor.pass("-->", "a comment without end", start)?;
        } else if cursor.eat("<![CDATA[") {
            cursor.pass("]]>", "a CDATA section without end", start)?;
        } else if cursor.eat("<?") {
            cursor.pass("?>", "a processing instruction without end", start)?;
        } else if cursor.rest().starts_with("<!") {
            return Err(malformed(
                "document types and entities are not accepted, there is one",
                start,
            ));
        } else if cursor.eat("</") {
            cursor.pass(">", "an end tag without end", start)?;
            in_scope -= open
                .pop()
                .ok_or_else(|| malformed("an end tag too many", start))?;
            if open.len() == 1 {
                found.children.push(child_start..cursor.at);
            }
        } else {
            let tag = start_tag(&mut cursor)?;
            if open.is_empty() {
                found.root_name = tag.name.to_owned();
                found.root_attributes = tag.attributes;
            }
            declaring += usize::from(tag.namespaces > 0);
            if in_scope + tag.namespaces > MAX_IN_SCOPE || declaring > MAX_DECLARING {
                return Err(malformed("too many namespaces", start));
            }
            if open.len() == 1 {
                child_start = start;
            }
            if tag.is_empty {
                if open.len() == 1 {
                    found.children.push(start..cursor.at);
                }
                continue;
            }
            in_scope += tag.namespaces;
            open.push(tag.namespaces);
            if open.len() > bounds.depth {
                return Err(malformed("elements are nested too deep", start));
            }
        }
    }
    Ok(found)
}

/// The XML declaration: version 1.0, UTF-8. With another one, other programs would read other characters.
fn declaration(cursor: &mut Cursor<'_>) -> Result<(), Error> {
    cursor.eat("\u{feff}");
    if !cursor.rest().starts_with("<?xml") {
        return Ok(());
    }
    let start = cursor.at;
    let rest = cursor.rest();
    let end = rest
        .find("?>")
        .ok_or_else(|| malformed("an XML declaration without end", start))?;
    let mut inner = Cursor {
        text: rest.get(..end).unwrap_or_default(),
        at: "<?xml".len(),
    };
    while inner.skip_space() && !inner.rest().is_empty() {
        let (name, value) = attribute(&mut inner)?;
        let is_accepted = match name {
            "version" => value == "1.0",
            "encoding" => value.eq_ignore_ascii_case("utf-8"),
            "standalone" => value == "yes" || value == "no",
            _ => false,
        };
        if !is_accepted {
            return Err(Error::NotXml(format!(
                "only XML 1.0 in UTF-8 is accepted, the declaration says {name}=\"{}\"",
                value.chars().take(40).collect::<String>()
            )));
        }
    }
    if !inner.rest().is_empty() {
        return Err(malformed("an XML declaration of another form", start));
    }
    cursor.at += end;
    cursor.eat("?>");
    Ok(())
}

struct Tag<'a> {
    name: &'a str,
    attributes: usize,
    namespaces: usize,
    is_empty: bool,
}

fn start_tag<'a>(cursor: &mut Cursor<'a>) -> Result<Tag<'a>, Error> {
    let start = cursor.at;
    cursor.eat("<");
    let name = cursor.name(start)?;
    let (mut attributes, mut namespaces) = (0, 0);
    let mut has_default = false;
    loop {
        let has_space = cursor.skip_space();
        let is_empty = cursor.eat("/>");
        if is_empty || cursor.eat(">") {
            return Ok(Tag {
                name,
                attributes,
                namespaces,
                is_empty,
            });
        }
        if !has_space {
            return Err(malformed("a tag of another form", start));
        }
        let (name, value) = attribute(cursor)?;
        attributes += 1;
        if attributes > MAX_ATTRIBUTES {
            return Err(malformed("a tag with too many attributes", start));
        }
        match name.split_once(':') {
            None if name == "xmlns" => {
                if has_default {
                    return Err(malformed("a second default namespace in one tag", start));
                }
                has_default = true;
                namespaces += 1;
            }
            Some(("xmlns", _)) => {
                if value.is_empty() {
                    return Err(malformed("a prefix without namespace", start));
                }
                namespaces += 1;
            }
            Some((_, "xmlns")) => return Err(malformed("an attribute called xmlns", start)),
            _ => {}
        }
    }
}

/// `name = "value"`; the value is as written.
fn attribute<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a str, &'a str), Error> {
    let start = cursor.at;
    let form = || malformed("an attribute of another form", start);
    let name = cursor.name(start)?;
    cursor.skip_space();
    if !cursor.eat("=") {
        return Err(form());
    }
    cursor.skip_space();
    let quote = ["\"", "'"]
        .into_iter()
        .find(|quote| cursor.eat(quote))
        .ok_or_else(form)?;
    let value = cursor.rest();
    let end = value.find(quote).ok_or_else(form)?;
    cursor.at += end + quote.len();
    Ok((name, value.get(..end).unwrap_or_default()))
}

/// A place in a text. It is always between two characters.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn eat(&mut self, what: &str) -> bool {
        let is_there = self.rest().starts_with(what);
        if is_there {
            self.at += what.len();
        }
        is_there
    }

    /// Goes to the next `what`; false if there is none.
    fn skip_to(&mut self, what: &str) -> bool {
        self.rest()
            .find(what)
            .inspect(|distance| self.at += distance)
            .is_some()
    }

    /// Goes behind the next `what`.
    fn pass(&mut self, what: &str, problem: &str, start: usize) -> Result<(), Error> {
        if self.skip_to(what) {
            self.at += what.len();
            return Ok(());
        }
        Err(malformed(problem, start))
    }

    fn skip_space(&mut self) -> bool {
        let rest = self.rest();
        let distance = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
        self.at += distance;
        distance > 0
    }

    fn name(&mut self, start: usize) -> Result<&'a str, Error> {
        let rest = self.rest();
        let end = rest
            .find([' ', '\t', '\n', '\r', '/', '>', '=', '<', '"', '\''])
            .unwrap_or(rest.len());
        if end == 0 || end > MAX_NAME_BYTES {
            return Err(malformed("a name of another form", start));
        }
        self.at += end;
        Ok(rest.get(..end).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 10_000,
        markup: 200,
        depth: 8,
    };

    #[test]
    fn children_of_the_root_are_found() {
        let text = "<?xml version='1.0' encoding=\"UTF-8\"?><!-- <x> --><m a='>'><a><b/></a> <![CDATA[<q>]]> <c x='</m>' /></m>";
        let found = scan(text, &BOUNDS).unwrap();
        let children: Vec<_> = found
            .children
            .iter()
            .map(|range| &text[range.clone()])
            .collect();
        assert_eq!(children, ["<a><b/></a>", "<c x='</m>' />"]);
        assert_eq!((found.root_name.as_str(), found.root_attributes), ("m", 1));
    }

    #[test]
    fn what_other_programs_read_otherwise_is_refused() {
        for text in [
            "<!DOCTYPE a><a/>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
            "<?xml version='1.1'?><a/>",
            "<?xml version='1.0' encoding='ISO-8859-1'?><a/>",
            "<?xml version='1.0' encoding='UTF-16'?><a/>",
            "<?xml version='1.0' other='x'?><a/>",
            "<a xmlns='x' xmlns='y'/>",
            "<a b:xmlns='x'/>",
            "<a xmlns:b=''/>",
            "<a b='c'd='e'/>",
            "<a",
            "<a b",
            "<a b=",
            "<a b='",
            "<a b=c>",
            "<!-- a",
            "<![CDATA[ a",
            "<? a",
            "</a>",
            "<>",
        ] {
            assert!(
                matches!(scan(text, &BOUNDS), Err(Error::NotXml(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn size_has_bounds() {
        assert!(scan(&"<a>".repeat(8), &BOUNDS).is_ok());
        assert!(scan(&"<a>".repeat(9), &BOUNDS).is_err());
        assert!(scan(&"<a/>".repeat(200), &BOUNDS).is_ok());
        assert!(scan(&"<a/>".repeat(201), &BOUNDS).is_err());
        let attributes = |count: usize| {
            let all: String = (0..count).map(|one| format!(" a{one}='x'")).collect();
            format!("<a{all}/>")
        };
        assert!(scan(&attributes(64), &BOUNDS).is_ok());
        assert!(scan(&attributes(65), &BOUNDS).is_err());
        let namespaces = |count: usize| {
            let all: String = (0..count).map(|one| format!(" xmlns:a{one}='x'")).collect();
            format!("<a{all}><b xmlns='x'/></a>")
        };
        assert!(scan(&namespaces(63), &BOUNDS).is_ok());
        assert!(scan(&namespaces(64), &BOUNDS).is_err());
        assert!(scan(&format!("<{}/>", "a".repeat(1025)), &BOUNDS).is_err());
        assert!(matches!(
            scan(&" ".repeat(10_001), &BOUNDS),
            Err(Error::TooLong { .. })
        ));
    }
}
