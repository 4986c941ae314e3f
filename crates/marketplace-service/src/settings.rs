//! What operators decide.

use std::sync::Arc;
use std::time::Duration;

use marketplace::catalogue::Record;
use marketplace::policy::Policy;

/// Endorsers that need not confirm: those of a policy's authorities that are on its white list of endorsers. It is asked anew for each
/// upload: lists of revoked certificates change.
#[derive(Clone)]
pub struct Trusted(Arc<dyn Fn() -> Result<Policy, String> + Send + Sync>);

impl std::fmt::Debug for Trusted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Trusted").finish_non_exhaustive()
    }
}

impl Trusted {
    /// Whom the policy accepts that `read` reads, which may block on files; without one everybody has to confirm.
    pub fn read_by(read: impl Fn() -> Result<Policy, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Always the same.
    #[must_use]
    pub fn always(policy: Policy) -> Self {
        Self::read_by(move || Ok(policy.clone()))
    }

    /// As it is now. Blocks.
    ///
    /// # Errors
    /// Why it can't be read.
    pub fn policy(&self) -> Result<Policy, String> {
        (self.0)()
    }
}

/// How a Marketplace behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it calls itself, in pages and feeds.
    pub title: String,
    /// Where it is for the readers of its letters, ending with `/`. Never taken from a request.
    pub url: String,
    /// Whether the operator wrote that down; then it is so even where a proxy says another.
    pub is_url_given: bool,
    /// Who gets reports of abuse.
    pub administrator: Option<String>,
    /// Whether endorsers have to confirm what was uploaded in their name.
    pub confirms: bool,
    /// Whether letters can be sent.
    pub sends_letters: bool,
    /// Whether endorsers are reminded of what they have here, and of what ends soon.
    pub reminds: bool,
    /// Who need not confirm; nobody, if there is none.
    pub trusted: Option<Trusted>,
    /// Whether it takes no uploads: what it has comes from others.
    pub is_read_only: bool,
    /// Bytes of a document, at most [`LONGEST`](Self::LONGEST).
    pub document_at_most: usize,
    /// How long an upload waits for its confirmation.
    pub waits_for: Duration,
    /// Uploads in the name of one address, by one certificate, that wait at once; also of all from one network by certificates by
    /// which the owner of the address confirmed nothing yet, of which together [`STRANGERS`](Self::STRANGERS) times as many wait.
    pub waiting_per_email: usize,
    /// Uploads from one network address that wait at once; of IPv6 from one /64, which is one customer.
    pub waiting_per_source: usize,
    /// Bytes of all documents that wait at once. Those from one address, of IPv6 from one /48, have a
    /// [`SITES`](Self::SITES)th of it.
    pub waiting_bytes: usize,
    /// Which entries the cloud of this Marketplace makes for some days; none, if it makes none here.
    pub temporary: Option<Temporary>,
}

/// By what entries are known that a cloud makes when a machine was saved as an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Temporary {
    /// Who endorses them.
    pub endorser: String,
    /// What all their locations begin with.
    pub images: String,
}

impl Temporary {
    /// Whether an entry is one.
    #[must_use]
    pub fn includes(&self, record: &Record) -> bool {
        let locations = &record.locations;
        *record.email == *self.endorser
            && !locations.is_empty()
            && locations
                .iter()
                .all(|location| location.starts_with(&self.images))
    }
}

impl Settings {
    /// No document can be longer: with what belongs to it, it has to fit into a transaction of any store.
    pub const LONGEST: usize = 400 << 10;

    /// Anybody can upload in anybody's name. So nobody gets more than this many shares of letters because of strangers; whose
    /// certificate was confirmed has a share of one's own.
    pub const STRANGERS: usize = 5;

    /// So many parts have the bytes that wait: one who sends much leaves place for the others.
    pub const SITES: usize = 32;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            title: "Marketplace".to_owned(),
            url: "https://localhost/marketplace/".to_owned(),
            is_url_given: false,
            administrator: None,
            confirms: true,
            sends_letters: false,
            reminds: false,
            trusted: None,
            is_read_only: false,
            document_at_most: Self::LONGEST,
            waits_for: Duration::from_secs(7 * 86_400),
            waiting_per_email: 20,
            waiting_per_source: 100,
            waiting_bytes: 256 << 20,
            temporary: None,
        }
    }
}
