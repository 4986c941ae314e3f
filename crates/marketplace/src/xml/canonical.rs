//! Canonical XML 1.0 (<https://www.w3.org/TR/2001/REC-xml-c14n-20010315>), inclusive, of a whole document or of one element in its place.
//!
//! An element in its place takes with it every namespace in scope *and* the `xml:` attributes of its ancestors: in documents of
//! Marketplaces `SignedInfo` inherits `xml:base`.

use std::collections::BTreeMap;

use roxmltree::{Node, NodeType};

use crate::error::Error;
use crate::namespaces::XML;

/// Whether comments belong to the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comments {
    /// They are kept (`#WithComments`).
    Kept,
    /// They are left out. What a reference with an empty URI means is always without.
    Dropped,
}

/// Namespaces by prefix; the default one has the prefix `""`.
type Namespaces<'a> = BTreeMap<&'a str, &'a str>;

struct Writer<'a, 'input> {
    out: String,
    comments: Comments,
    omitted: Option<Node<'a, 'input>>,
}

/// The canonical form of a whole document without the element `omitted`, whose neighbours stay.
///
/// # Errors
/// [`Error::NotXml`] when a name is not where the parser says.
pub fn document<'a, 'input>(
    root: Node<'a, 'input>,
    omitted: Option<Node<'a, 'input>>,
    comments: Comments,
) -> Result<Vec<u8>, Error> {
    let mut writer = Writer {
        out: String::with_capacity(root.document().input_text().len()),
        comments,
        omitted,
    };
    let mut is_before_root = true;
    for node in root.document().root().children() {
        if node.is_element() {
            writer.element(node, &Namespaces::new(), &[])?;
            is_before_root = false;
        } else {
            let length = writer.out.len();
            writer.leaf(node);
            if writer.out.len() > length {
                writer.out.insert(
                    if is_before_root {
                        writer.out.len()
                    } else {
                        length
                    },
                    '\n',
                );
            }
        }
    }
    Ok(writer.out.into_bytes())
}

/// The canonical form of one element in its place.
///
/// # Errors
/// As [`document`].
pub fn element(apex: Node<'_, '_>, comments: Comments) -> Result<Vec<u8>, Error> {
    let mut inherited = BTreeMap::new();
    for ancestor in apex.ancestors().skip(1) {
        for attribute in ancestor.attributes() {
            if attribute.namespace() == Some(XML) {
                // The nearest one counts.
                inherited
                    .entry(attribute.name())
                    .or_insert(attribute.value());
            }
        }
    }
    let inherited: Vec<_> = inherited
        .into_iter()
        .filter(|(name, _)| !apex.has_attribute((XML, *name)))
        .collect();
    let mut writer = Writer {
        out: String::new(),
        comments,
        omitted: None,
    };
    writer.element(apex, &Namespaces::new(), &inherited)?;
    Ok(writer.out.into_bytes())
}

/// An element with everything in it, able to stand elsewhere: with the namespaces that it or anything in it uses and no others,
/// and nothing of its ancestors' attributes. Comments are kept.
///
/// # Errors
/// As [`document`].
pub fn element_alone(apex: Node<'_, '_>) -> Result<String, Error> {
    let mut used = std::collections::BTreeSet::new();
    for node in apex.descendants().filter(Node::is_element) {
        used.insert(prefix_of(element_name(node)?));
        for (_, name, _) in attributes(node, &[])? {
            if name.contains(':') {
                used.insert(name.split(':').next().unwrap_or_default().to_owned());
            }
        }
    }
    let unused: Namespaces<'_> = apex
        .namespaces()
        .map(|namespace| (namespace.name().unwrap_or_default(), namespace.uri()))
        .filter(|(prefix, _)| !used.contains(*prefix))
        .collect();
    let mut writer = Writer {
        out: String::new(),
        comments: Comments::Kept,
        omitted: None,
    };
    writer.element(apex, &unused, &[])?;
    Ok(writer.out)
}

fn prefix_of(name: &str) -> String {
    name.split_once(':')
        .map_or("", |(prefix, _)| prefix)
        .to_owned()
}

impl<'a, 'input> Writer<'a, 'input> {
    /// `rendered`: the namespaces as the element around it has them. Depth is bounded before parsing, so is recursion.
    fn element(
        &mut self,
        node: Node<'a, 'input>,
        rendered: &Namespaces<'a>,
        inherited: &[(&str, &str)],
    ) -> Result<(), Error> {
        if self.omitted == Some(node) {
            return Ok(());
        }
        let name = element_name(node)?;
        let in_scope: Namespaces<'a> = node
            .namespaces()
            .map(|namespace| (namespace.name().unwrap_or_default(), namespace.uri()))
            .collect();
        self.out.push('<');
        self.out.push_str(name);
        for (prefix, uri) in &in_scope {
            let before = rendered.get(prefix).copied();
            // `xmlns=""` says something only where a default namespace was.
            if before == Some(*uri) || (prefix.is_empty() && uri.is_empty() && before.is_none()) {
                continue;
            }
            self.out.push_str(" xmlns");
            if !prefix.is_empty() {
                self.out.push(':');
                self.out.push_str(prefix);
            }
            self.out.push_str("=\"");
            self.attribute_value(uri);
            self.out.push('"');
        }
        for ((_, _), name, value) in attributes(node, inherited)? {
            self.out.push(' ');
            self.out.push_str(&name);
            self.out.push_str("=\"");
            self.attribute_value(value);
            self.out.push('"');
        }
        self.out.push('>');
        for child in node.children() {
            if child.is_element() {
                self.element(child, &in_scope, &[])?;
            } else {
                self.leaf(child);
            }
        }
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
        Ok(())
    }

    fn leaf(&mut self, node: Node<'_, '_>) {
        match node.node_type() {
            NodeType::Text => self.text(node.text().unwrap_or_default()),
            NodeType::Comment if self.comments == Comments::Kept => {
                self.out.push_str("<!--");
                self.out.push_str(node.text().unwrap_or_default());
                self.out.push_str("-->");
            }
            NodeType::PI => {
                let Some(instruction) = node.pi() else { return };
                self.out.push_str("<?");
                self.out.push_str(instruction.target);
                if let Some(value) = instruction.value.filter(|value| !value.is_empty()) {
                    self.out.push(' ');
                    self.out.push_str(value);
                }
                self.out.push_str("?>");
            }
            NodeType::Comment | NodeType::Element | NodeType::Root => {}
        }
    }

    fn text(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '\r' => self.out.push_str("&#xD;"),
                _ => self.out.push(character),
            }
        }
    }

    fn attribute_value(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '"' => self.out.push_str("&quot;"),
                '\t' => self.out.push_str("&#x9;"),
                '\n' => self.out.push_str("&#xA;"),
                '\r' => self.out.push_str("&#xD;"),
                _ => self.out.push(character),
            }
        }
    }
}

/// Attributes as (order, name as written, value), sorted by namespace and local name.
#[expect(clippy::type_complexity, reason = "used once, named in the line above")]
fn attributes<'a>(
    node: Node<'a, '_>,
    inherited: &[(&'a str, &'a str)],
) -> Result<Vec<((&'a str, &'a str), String, &'a str)>, Error> {
    let mut all = Vec::new();
    for attribute in node.attributes() {
        let name = node
            .document()
            .input_text()
            .get(attribute.range_qname())
            .filter(|name| name.ends_with(attribute.name()))
            .ok_or_else(misplaced)?;
        all.push((
            (attribute.namespace().unwrap_or_default(), attribute.name()),
            name.to_owned(),
            attribute.value(),
        ));
    }
    for (name, value) in inherited {
        all.push(((XML, *name), format!("xml:{name}"), *value));
    }
    all.sort_by_key(|(order, ..)| *order);
    Ok(all)
}

/// The name of an element as written, prefix included.
pub fn element_name<'input>(node: Node<'_, 'input>) -> Result<&'input str, Error> {
    node.document()
        .input_text()
        .get(node.range())
        .and_then(|text| text.strip_prefix('<'))
        .and_then(|text| text.split([' ', '\t', '\n', '\r', '/', '>']).next())
        .filter(|name| name.ends_with(node.tag_name().name()))
        .ok_or_else(misplaced)
}

fn misplaced() -> Error {
    Error::NotXml("a name is not where it should be".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;

    fn whole(text: &str, comments: Comments) -> String {
        let source = Source::read(text.as_bytes()).unwrap();
        let tree = source.parse().unwrap();
        String::from_utf8(document(tree.root(), None, comments).unwrap()).unwrap()
    }

    /// The examples of the recommendation that have no document type, and what xmlsec1 makes of the rest.
    #[test]
    fn documents_have_one_form() {
        let outside = "<?xml version=\"1.0\"?>\n\n<?xml-stylesheet   href=\"doc.xsl\"\n   type=\"text/xsl\"   ?>\n\n<doc>Hello, world!<!-- Comment 1 --></doc>\n\n<?pi-without-data     ?>\n\n<!-- Comment 2 -->\n\n<!-- Comment 3 -->\n";
        assert_eq!(
            whole(outside, Comments::Dropped),
            "<?xml-stylesheet href=\"doc.xsl\"\n   type=\"text/xsl\"   ?>\n<doc>Hello, world!</doc>\n<?pi-without-data?>"
        );
        assert_eq!(
            whole(outside, Comments::Kept),
            "<?xml-stylesheet href=\"doc.xsl\"\n   type=\"text/xsl\"   ?>\n<doc>Hello, world!<!-- Comment 1 --></doc>\n<?pi-without-data?>\n<!-- Comment 2 -->\n<!-- Comment 3 -->"
        );
        let tags = r#"<doc><e1   /><e2   ></e2><e3   name = "elem3"   id="elem3"   /><e5 a:attr="out" b:attr="sorted" attr2="all" attr="I'm" xmlns:b="http://www.ietf.org" xmlns:a="http://www.w3.org" xmlns="http://example.org"/><e6 xmlns="" xmlns:a="http://www.w3.org"><e7 xmlns="http://www.ietf.org"><e8 xmlns="" xmlns:a="http://www.w3.org"><e9 xmlns="" xmlns:a="http://www.ietf.org"/></e8></e7></e6></doc>"#;
        assert_eq!(
            whole(tags, Comments::Dropped),
            r#"<doc><e1></e1><e2></e2><e3 id="elem3" name="elem3"></e3><e5 xmlns="http://example.org" xmlns:a="http://www.w3.org" xmlns:b="http://www.ietf.org" attr="I'm" attr2="all" b:attr="sorted" a:attr="out"></e5><e6 xmlns:a="http://www.w3.org"><e7 xmlns="http://www.ietf.org"><e8 xmlns=""><e9 xmlns:a="http://www.ietf.org"></e9></e8></e7></e6></doc>"#
        );
        let characters = "<doc><text>First line&#x0d;&#10;Second line</text><value>&#x32;</value><compute><![CDATA[value>\"0\" && value<\"10\" ?\"valid\":\"error\"]]></compute><compute expr='value>\"0\" &amp;&amp; value&lt;\"10\" ?\"valid\":\"error\"'>valid</compute><norm attr=' &apos;   &#x20;&#13;&#xa;&#9;   &apos; '/></doc>";
        assert_eq!(
            whole(characters, Comments::Dropped),
            "<doc><text>First line&#xD;\nSecond line</text><value>2</value><compute>value&gt;\"0\" &amp;&amp; value&lt;\"10\" ?\"valid\":\"error\"</compute><compute expr=\"value>&quot;0&quot; &amp;&amp; value&lt;&quot;10&quot; ?&quot;valid&quot;:&quot;error&quot;\">valid</compute><norm attr=\" '    &#xD;&#xA;&#x9;   ' \"></norm></doc>"
        );
        assert_eq!(
            whole("<a>\r\nb\rc\r&#65;</a>", Comments::Dropped),
            "<a>\nb\nc\nA</a>"
        );
    }

    #[test]
    fn an_element_takes_namespaces_and_xml_attributes_of_its_ancestors_along() {
        let text = "<r:a xmlns:r='u:r' xmlns='u:d' xml:base='one' xml:lang='en'><b xml:base='two'><c x='1' xml:lang='fr'><!--x--><d/></c></b></r:a>";
        let source = Source::read(text.as_bytes()).unwrap();
        let tree = source.parse().unwrap();
        let node = tree
            .descendants()
            .find(|node| node.tag_name().name() == "c")
            .unwrap();
        let form = String::from_utf8(element(node, Comments::Kept).unwrap()).unwrap();
        assert_eq!(
            form,
            "<c xmlns=\"u:d\" xmlns:r=\"u:r\" x=\"1\" xml:base=\"two\" xml:lang=\"fr\"><!--x--><d></d></c>"
        );
    }
}
