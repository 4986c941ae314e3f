//! A document as RDF statements, in JSON (W3C "RDF 1.1 JSON Alternate Serialization").

use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::metadata::schema;
use crate::namespaces::{RDF, XMLDSIG};
use crate::xml::Source;

/// What subjects of images begin with.
const SUBJECT: &str = "http://mp.stratuslab.eu/#";

/// The statements of a document, without its signature. All literals are plain.
///
/// # Errors
/// Those of reading it.
pub fn json(document: &[u8]) -> Result<Value, Error> {
    let source = Source::read(document)?;
    let tree = source.parse()?;
    let root = tree.root_element();
    schema::check(root, schema::Form::Any)?;
    let mut graph = Map::new();
    let described = root
        .children()
        .filter(|node| node.is_element() && node.tag_name().namespace() != Some(XMLDSIG));
    let mut blanks = 0;
    for node in described {
        let about = node.attribute((RDF, "about")).unwrap_or_default();
        let subject = format!("{SUBJECT}{}", about.trim_start_matches('#'));
        statements(node, subject, &mut graph, &mut blanks);
    }
    Ok(Value::Object(graph))
}

/// Adds what a node says of its subject. How deep nodes are is bounded by the source.
fn statements(
    node: roxmltree::Node<'_, '_>,
    subject: String,
    graph: &mut Map<String, Value>,
    blanks: &mut usize,
) {
    let mut properties = Map::new();
    for property in node.children().filter(roxmltree::Node::is_element) {
        let name = property.tag_name();
        let predicate = format!("{}{}", name.namespace().unwrap_or_default(), name.name());
        let object = if let Some(resource) = property.attribute((RDF, "resource")) {
            json!({"type": "uri", "value": resource})
        } else if property.attribute((RDF, "parseType")) == Some("Resource") {
            *blanks += 1;
            let blank = format!("_:b{blanks}");
            statements(property, blank.clone(), graph, blanks);
            json!({"type": "bnode", "value": blank})
        } else {
            json!({"type": "literal", "value": property.text().unwrap_or_default()})
        };
        if let Value::Array(objects) = properties.entry(predicate).or_insert(json!([])) {
            objects.push(object);
        }
    }
    graph.insert(subject, Value::Object(properties));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_a_graph_without_its_signature() {
        let graph = json(include_bytes!("../tests/data/signed.xml")).unwrap();
        let image = &graph["http://mp.stratuslab.eu/#Dtx9D_zD0sVtc2F3Z6V68foTrWj"];
        assert_eq!(
            image["http://mp.stratuslab.eu/slterms#os"][0]["value"],
            "zerolinux"
        );
        let checksums = image["http://mp.stratuslab.eu/slreq#checksum"]
            .as_array()
            .unwrap();
        assert_eq!(checksums.len(), 4);
        let first = graph[checksums[0]["value"].as_str().unwrap()].clone();
        assert_eq!(
            first["http://mp.stratuslab.eu/slreq#algorithm"][0]["value"],
            "MD5"
        );
        assert!(!graph.to_string().contains("xmldsig"));
    }
}
