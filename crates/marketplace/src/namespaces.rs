//! The namespaces of a document. Prefixes are free; elements are told by namespace and local name.

/// RDF itself.
pub const RDF: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";
/// Dublin Core.
pub const DCTERMS: &str = "http://purl.org/dc/terms/";
/// What every entry must have.
pub const SLREQ: &str = "http://mp.stratuslab.eu/slreq#";
/// What an entry may have.
pub const SLTERMS: &str = "http://mp.stratuslab.eu/slterms#";
/// XML signatures.
pub const XMLDSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
/// Of `xml:base` and `xml:lang`, bound to the prefix `xml` for ever.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// What `xml:base` must be: an image's RDF subject is this, `#` and its identifier.
pub const BASE: &str = "http://mp.stratuslab.eu/";

/// The usual prefixes, in the order in which they are declared.
pub const USUAL_PREFIXES: [(&str, &str); 4] = [
    ("dcterms", DCTERMS),
    ("rdf", RDF),
    ("slreq", SLREQ),
    ("slterms", SLTERMS),
];
