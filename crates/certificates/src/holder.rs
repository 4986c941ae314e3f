//! Whom a chain stands for.

use cimi::dn::DistinguishedName;

/// Whom a chain that is believed stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The subject of the end-entity certificate, whatever proxies came before it.
    pub subject: DistinguishedName,
    /// How many proxies there were.
    pub proxies: usize,
    /// Whether one of them is limited: not for starting jobs.
    pub is_limited: bool,
    /// When the first certificate of the chain ends, in seconds since 1970.
    pub good_until: u64,
    /// What virtual organisations say, of those that are believed: `/atlas/Role=production`, each with its organisation.
    pub attributes: Vec<Attribute>,
    /// What they say that isn't believed, and why.
    pub disbelieved: Vec<String>,
}

/// A group, perhaps with a role in it, that an organisation says somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// The virtual organisation.
    pub organisation: String,
    /// `/atlas/analysis/Role=production`; without `Role=NULL` and capabilities.
    pub fqan: String,
}
