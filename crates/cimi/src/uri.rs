//! Names fixed by DSP0263 1.0.1 and by StratusLab: namespaces, action URIs, relation names; and addresses as they may be shown.

/// Root of every standard resource type URI, and the XML namespace.
pub const CIMI: &str = "http://schemas.dmtf.org/cimi/1";
/// Root of the types that StratusLab adds.
pub const STRATUSLAB: &str = "http://stratuslab.eu/cimi/1";
/// Root of the `rel` of every operation but `add`, `edit` and `delete`.
pub const ACTION: &str = "http://schemas.dmtf.org/cimi/1/action";
/// The specification level implemented, sent in `CIMI-Specification-Version`.
pub const SPECIFICATION_VERSION: &str = "1.0.1";

/// Actions of the standard that nothing here does.
pub const NOT_OFFERED_ACTIONS: [&str; 4] = ["snapshot", "restore", "export", "import"];

/// An address as anybody may see it, also in a log: without user and password, and without query and fragment, which may hold
/// what opens it.
///
/// ```
/// let given = "https://ann:secret@example.org/image.raw?signature=secret";
/// assert_eq!(cimi::uri::plain(given), "https://example.org/image.raw");
/// ```
#[must_use]
pub fn plain(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    // As web browsers do, what reads addresses takes `\\` for `/`.
    let (host, path) = rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// The action named by a URI or bare word: its last path segment in lower case
/// (clients send `…/1/action/stop`, `…/1/Action/stop` and doubled schemes).
///
/// ```
/// assert_eq!(cimi::uri::action_name("http://schemas.dmtf.org/cimi/1/Action/Stop "), "stop");
/// ```
#[must_use]
pub fn action_name(text: &str) -> String {
    text.trim()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
}
