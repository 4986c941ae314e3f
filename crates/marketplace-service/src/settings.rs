//! What operators decide.

use std::time::Duration;

use marketplace::policy::Policy;

/// How a Marketplace behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it calls itself, in pages and feeds.
    pub title: String,
    /// Where it is for the readers of its letters, ending with `/`. Never taken from a request.
    pub url: String,
    /// Who gets reports of abuse.
    pub administrator: Option<String>,
    /// Whether endorsers have to confirm what was uploaded in their name.
    pub confirms: bool,
    /// Whether letters can be sent.
    pub sends_letters: bool,
    /// Whether endorsers are reminded of what they have here, and of what ends soon.
    pub reminds: bool,
    /// Endorsers that it accepts need not confirm: those of its authorities that are on its white list of endorsers.
    pub trusted: Option<Policy>,
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
        }
    }
}
