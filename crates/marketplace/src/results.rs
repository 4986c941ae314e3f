//! Tables that Marketplaces answer with: W3C's "SPARQL Query Results XML Format".

use std::collections::BTreeMap;

use roxmltree::{Document, Node, ParsingOptions};

const NAMESPACE: &str = "http://www.w3.org/2005/sparql-results#";
/// Nodes of such an answer.
const NODES_AT_MOST: u32 = 2_000_000;

/// A row: of each variable that has one its value, as text.
pub type Row = BTreeMap<String, String>;

/// The rows of an answer, at most so many. Who calls bounds its length.
///
/// # Errors
/// What is wrong with it.
pub fn rows(answer: &[u8], most: usize) -> Result<Vec<Row>, String> {
    let text = std::str::from_utf8(answer).map_err(|error| error.to_string())?;
    let options = ParsingOptions {
        nodes_limit: NODES_AT_MOST,
        ..ParsingOptions::default()
    };
    let document =
        Document::parse_with_options(text, options).map_err(|error| error.to_string())?;
    let root = document.root_element();
    if !is(&root, "sparql") {
        return Err("it is no answer to a query".to_owned());
    }
    let results = child(&root, "results").ok_or("it has no results")?;
    let results = results.children().filter(|node| is(node, "result"));
    Ok(results.take(most).map(|result| row(&result)).collect())
}

fn row(result: &Node<'_, '_>) -> Row {
    let bindings = result.children().filter(|node| is(node, "binding"));
    bindings
        .filter_map(|binding| {
            let name = binding.attribute("name")?;
            let value = binding.first_element_child()?;
            Some((name.to_owned(), value.text().unwrap_or_default().to_owned()))
        })
        .collect()
}

fn child<'a, 'd>(node: &Node<'a, 'd>, name: &str) -> Option<Node<'a, 'd>> {
    node.children().find(|child| is(child, name))
}

fn is(node: &Node<'_, '_>, name: &str) -> bool {
    node.has_tag_name((NAMESPACE, name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_is_bound_and_nothing_else_is_read() {
        let answer = "<?xml version='1.0'?><sparql xmlns='http://www.w3.org/2005/sparql-results#'><head><variable name='email'/></head><results>\
            <result><binding name='email'><literal>a@b &amp; c</literal></binding><binding name='x'><uri>u</uri></binding></result>\
            <result><binding name='email'><literal/></binding></result></results></sparql>";
        let read = rows(answer.as_bytes(), 10).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(
            (read[0]["email"].as_str(), read[0]["x"].as_str()),
            ("a@b & c", "u")
        );
        assert_eq!(read[1]["email"], "");
        assert_eq!(rows(answer.as_bytes(), 1).unwrap().len(), 1);
        let entity = "<!DOCTYPE s [<!ENTITY e 'x'>]><sparql xmlns='http://www.w3.org/2005/sparql-results#'/>";
        for wrong in [
            "",
            "{}",
            "<html/>",
            "<sparql/>",
            entity,
            "<sparql xmlns='http://www.w3.org/2005/sparql-results#'/>",
        ] {
            assert!(rows(wrong.as_bytes(), 10).is_err(), "{wrong}");
        }
    }
}
