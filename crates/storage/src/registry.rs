//! Where images are found by name: the Marketplaces and catalogues that the operator configured, and the site's policy.
//!
//! ```text
//! identifier       ─ Marketplaces, in order ─ verified entries ─ policy ─▶ entry: checksums, locations
//! TAG@EMAIL        ─ Marketplaces ─ newest verified entry ─ policy ─▶ identifier
//! CATALOGUE:PRODUCT ─ index (signed, or by TLS) ─▶ file: checksum, address
//! ```
//!
//! Looking up is I/O with bounded time and size; nothing here writes documents. What is found says where an image may be
//! fetched and what it must be; fetching and checking is the import's.

mod authorities;
mod browse;
mod checksums;
mod gpg;
mod marketplaces;
mod policy;
mod seen;
mod simplestreams;
mod tags;
mod web;

use std::sync::Arc;
use std::time::Duration;

use crate::identifier::ImageIdentifier;
use crate::import::Redirects;

pub use self::authorities::AuthoritiesSource;
pub use self::browse::{Catalogue, Listed, Product, Version};
pub use self::gpg::Keyring;
pub use self::marketplaces::{Found, Marketplace, OwnMarketplace, Standing, Unread};
pub use self::policy::PolicySource;
pub use self::web::{Web, trusting};
pub use self::{checksums::read as read_checksums, simplestreams::read_products};

/// Why nothing was found that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// It may be found later: a server doesn't answer, a file of the operator's can't be read.
    #[error("{0}")]
    Unavailable(String),
    /// It isn't there, or must not be used.
    #[error("{0}")]
    Refused(String),
}

impl LookupError {
    /// Whether asking again later may help.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// How long somebody waits for the Marketplaces who would start a machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that the operator configured. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registries(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    marketplaces: Vec<Marketplace>,
    catalogues: Vec<Catalogue>,
    policy: PolicySource,
}

/// How a catalogue is reached and read.
#[derive(Debug, Clone)]
pub struct CatalogueSettings {
    /// Its name, as users write it.
    pub name: String,
    /// Where it is: of simplestreams the root, of checksums the folder.
    pub url: String,
    /// How it is written.
    pub kind: CatalogueKind,
    /// Architecture of the images that are of interest, as the catalogue writes it.
    pub architecture: String,
    /// How old the index may get.
    pub refresh: Duration,
    /// Where it is kept which signed indexes were seen last, so that no older one is believed; without it a restart forgets it.
    pub remembered: Option<std::path::PathBuf>,
}

/// How a catalogue is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogueKind {
    /// `streams/v1/index.json` and what it points to, as Ubuntu and Incus publish.
    SimpleStreams,
    /// A folder with `SHA512SUMS` or `SHA256SUMS`, as Debian publishes.
    Checksums,
}

impl Registries {
    /// Of these parts; Marketplaces are asked in their order.
    #[must_use]
    pub fn new(
        marketplaces: Vec<Marketplace>,
        catalogues: Vec<Catalogue>,
        policy: PolicySource,
    ) -> Self {
        Self(Arc::new(Inner {
            marketplaces,
            catalogues,
            policy,
        }))
    }

    /// The Marketplaces.
    #[must_use]
    pub fn marketplaces(&self) -> &[Marketplace] {
        &self.0.marketplaces
    }

    /// The catalogues.
    #[must_use]
    pub fn catalogues(&self) -> &[Catalogue] {
        &self.0.catalogues
    }

    /// The catalogue of this name.
    #[must_use]
    pub fn catalogue(&self, name: &str) -> Option<&Catalogue> {
        self.0
            .catalogues
            .iter()
            .find(|catalogue| catalogue.name() == name)
    }

    /// The entries of the Marketplaces for an image that the site's policy accepts, at least one. Answers within seconds, unlike
    /// [`look_up`](Self::look_up), which waits for the slowest.
    ///
    /// # Errors
    /// As that; that no answer came in time is [`LookupError::Unavailable`].
    pub async fn look_up_in_time(
        &self,
        identifier: &ImageIdentifier,
    ) -> Result<Vec<Found>, LookupError> {
        let found = tokio::time::timeout(PATIENCE, self.look_up(identifier));
        found.await.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(LookupError::Unavailable(format!(
                "the Marketplaces did not answer within {seconds} s"
            )))
        })
    }

    /// The address of a Marketplace's entry that a short URL leads to. Answers within seconds.
    pub async fn entry_behind(&self, redirects: &Redirects, url: &str) -> Option<String> {
        let is_entry = |url: &reqwest::Url| self.have_entry_at(url.as_str());
        Some(redirects.lead_to(url, is_entry).await?.to_string())
    }

    /// The rules of the site.
    #[must_use]
    pub fn policy(&self) -> &PolicySource {
        &self.0.policy
    }
}
