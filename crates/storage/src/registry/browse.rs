//! A catalogue: its index fetched, its signature checked, its products remembered for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cimi::uri::plain;
use marketplace::digest::Digest;
use reqwest::Url;
use serde::Serialize;
use tokio::sync::Mutex;

use super::gpg::Keyring;
use super::marketplaces::folder;
use super::seen::Seen;
use super::web::{Got, Web};
use super::{CatalogueKind, CatalogueSettings, LookupError, checksums, simplestreams};
use crate::import::Fetcher;

/// Ubuntu's largest file of products has some ten MB.
const MAX_PRODUCTS_BYTES: usize = 64 << 20;
const MAX_INDEX_BYTES: usize = 4 << 20;
const MAX_SIGNATURE_BYTES: usize = 256 << 10;
/// Files of products of one index.
const MAX_FILES: usize = 16;
/// How long an index that can't be read anew is gone by; what was published is still there and still signed.
const STALE_AT_MOST: Duration = Duration::from_secs(7 * 24 * 3600);
/// After a failure the server is left alone for so long.
const REST: Duration = Duration::from_secs(10);

/// What can be started by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Product {
    /// Its full name.
    pub name: String,
    /// Shorter ones.
    pub aliases: Vec<String>,
    /// What it is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Its operating system, as descriptions of images name it, if the catalogue says so.
    #[serde(skip)]
    pub os: Option<String>,
    /// The version of that.
    #[serde(skip)]
    pub os_version: Option<String>,
    /// For which processors.
    pub architecture: String,
    /// Newest first; at least one.
    pub versions: Vec<Version>,
}

/// One version of a product: a file, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Its name; newer ones are greater.
    pub version: String,
    /// Where the file is, below the catalogue's root.
    pub path: String,
    /// Its length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest<32>>,
    /// Its SHA-512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha512: Option<Digest<64>>,
}

/// What a file of a catalogue lists. One entry that is wrong doesn't make the others useless: who signed the file, or the server it
/// came from, vouches for each of them.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    /// What can be used.
    pub usable: Vec<T>,
    /// What can't: which, and why. Not more than a few are told.
    pub left_out: Vec<String>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            usable: Vec::new(),
            left_out: Vec::new(),
        }
    }
}

/// So many reasons of one file are told.
const MAX_REASONS: usize = 20;

impl<T> Listed<T> {
    /// Something that can be used, or why not.
    pub(super) fn add(&mut self, what: &str, found: Result<T, String>) {
        match found {
            Ok(found) => self.usable.push(found),
            Err(reason) => self.leave_out(what, &reason),
        }
    }

    pub(super) fn leave_out(&mut self, what: &str, reason: &str) {
        if self.left_out.len() < MAX_REASONS {
            self.left_out.push(format!("{what}: {reason}"));
        }
    }

    /// Where nothing can be used, and something was to be, that is wrong with the whole.
    pub(super) fn unless_all_is_wrong(self) -> Result<Self, String> {
        match self.left_out.first() {
            Some(reason) if self.usable.is_empty() => Err(reason.clone()),
            _ => Ok(self),
        }
    }
}

/// A catalogue. Cheap to clone; all clones share what they remember.
#[derive(Debug, Clone)]
pub struct Catalogue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: CatalogueSettings,
    root: Url,
    web: Web,
    fetcher: Fetcher,
    keyring: Option<Keyring>,
    seen: Seen,
    /// Held while the index is fetched: those who come meanwhile wait for the same one.
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    products: Option<(Instant, Arc<Vec<Product>>)>,
    failed: Option<(Instant, LookupError)>,
    /// Whether it is to be read anew, however young it is.
    doubted: bool,
}

impl Catalogue {
    /// A catalogue; `fetcher` fetches its images.
    ///
    /// # Errors
    /// What is wrong with its URL; an index without signature must come by https.
    pub fn new(
        settings: CatalogueSettings,
        web: Web,
        fetcher: Fetcher,
        keyring: Option<Keyring>,
    ) -> Result<Self, String> {
        let root = folder(&settings.url)?;
        if keyring.is_none() && root.scheme() != "https" {
            return Err(format!(
                "`{}` is no https URL: without `keyring` nothing shows that its index is genuine",
                settings.url
            ));
        }
        let seen = Seen::new(settings.remembered.clone());
        Ok(Self(Arc::new(Inner {
            seen,
            settings,
            root,
            web,
            fetcher,
            keyring,
            loaded: Mutex::default(),
        })))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.settings.name
    }

    /// Where it is, for people.
    #[must_use]
    pub fn address(&self) -> String {
        plain(self.0.root.as_str())
    }

    /// How it is written, for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.0.settings.kind {
            CatalogueKind::SimpleStreams => "simplestreams",
            CatalogueKind::Checksums => "checksums",
        }
    }

    /// Who vouches for it, for people.
    #[must_use]
    pub fn voucher(&self) -> &'static str {
        if self.0.keyring.is_some() {
            "signed index"
        } else {
            "TLS"
        }
    }

    /// Fetches its images.
    #[must_use]
    pub fn fetcher(&self) -> &Fetcher {
        &self.0.fetcher
    }

    /// Address of a version's file.
    ///
    /// # Errors
    /// If its path leads out of the catalogue.
    pub fn url_of(&self, version: &Version) -> Result<String, LookupError> {
        let refused =
            || LookupError::Refused(format!("`{}` is no path in the catalogue", version.path));
        let url = self.0.root.join(&version.path).map_err(|_| refused())?;
        let is_below =
            url.origin() == self.0.root.origin() && url.path().starts_with(self.0.root.path());
        is_below.then(|| url.to_string()).ok_or_else(refused)
    }

    /// All its products. From memory as long as the index is young enough; an older one is gone by if there is no newer.
    ///
    /// # Errors
    /// [`LookupError`], if there is none.
    pub async fn products(&self) -> Result<Arc<Vec<Product>>, LookupError> {
        // In a task of its own: it goes on for the next one when whoever asked has no more time.
        let this = self.clone();
        tokio::spawn(async move { this.products_now().await })
            .await
            .unwrap_or_else(|error| Err(LookupError::Unavailable(error.to_string())))
    }

    async fn products_now(&self) -> Result<Arc<Vec<Product>>, LookupError> {
        let mut loaded = self.0.loaded.lock().await;
        if let Some((at, products)) = &loaded.products
            && at.elapsed() < self.0.settings.refresh
            && !loaded.doubted
        {
            return Ok(products.clone());
        }
        let stale = loaded
            .products
            .as_ref()
            .filter(|(at, _)| at.elapsed() < STALE_AT_MOST)
            .map(|(_, products)| products.clone());
        if let Some((at, error)) = &loaded.failed
            && at.elapsed() < REST
        {
            return stale.ok_or_else(|| error.clone());
        }
        match self.load().await {
            Ok(products) => {
                let products = Arc::new(products);
                loaded.products = Some((Instant::now(), products.clone()));
                loaded.failed = None;
                loaded.doubted = false;
                Ok(products)
            }
            Err(error) => {
                tracing::warn!(catalogue = self.name(), %error, "the catalogue can't be read");
                loaded.failed = Some((Instant::now(), error.clone()));
                stale.ok_or(error)
            }
        }
    }

    /// Why what is known of it is older than it should be; nothing if it isn't.
    pub async fn why_outdated(&self) -> Option<LookupError> {
        let loaded = self.0.loaded.lock().await;
        let (_, error) = loaded.failed.as_ref()?;
        Some(error.clone())
    }

    /// Has its index read anew when it is asked next, unless that was done a moment ago: what it said of an image was wrong, and
    /// may have been mended.
    pub async fn doubt(&self) {
        let mut loaded = self.0.loaded.lock().await;
        let read = loaded.products.as_ref().map(|(at, _)| *at);
        loaded.doubted |= read.is_some_and(|at| at.elapsed() >= REST);
    }

    /// A product by its name or an alias, in one version or the newest.
    ///
    /// # Errors
    /// [`LookupError::Refused`] if there is none, with what there is.
    pub async fn find(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<(Product, Version), LookupError> {
        let products = self.products().await?;
        let matching: Vec<&Product> = products
            .iter()
            .filter(|product| {
                product.name == name || product.aliases.iter().any(|alias| alias == name)
            })
            .collect();
        let product = match matching.as_slice() {
            [] => {
                let catalogue = self.name();
                return Err(LookupError::Refused(format!(
                    "catalogue {catalogue} has no product `{name}`; `stratus image catalogue {catalogue}` shows what it has"
                )));
            }
            [one] => *one,
            several => *several
                .iter()
                .find(|product| product.name == name)
                .ok_or_else(|| {
                    let names: Vec<&str> = several
                        .iter()
                        .map(|product| product.name.as_str())
                        .collect();
                    LookupError::Refused(format!(
                        "`{name}` may be {}; take one of these",
                        names.join(" or ")
                    ))
                })?,
        };
        let found = match version {
            None => product.versions.first(),
            Some(version) => product
                .versions
                .iter()
                .find(|known| known.version == version),
        };
        found.map_or_else(
            || {
                Err(LookupError::Refused(format!(
                    "product {} has no version `{}`",
                    product.name,
                    version.unwrap_or_default()
                )))
            },
            |version| Ok((product.clone(), version.clone())),
        )
    }

    async fn load(&self) -> Result<Vec<Product>, LookupError> {
        let unavailable =
            |error: String| LookupError::Unavailable(format!("catalogue {}: {error}", self.name()));
        let loaded = match self.0.settings.kind {
            CatalogueKind::SimpleStreams => self.simplestreams().await,
            CatalogueKind::Checksums => self.checksums().await,
        };
        loaded.map_err(unavailable)
    }

    async fn simplestreams(&self) -> Result<Vec<Product>, String> {
        let index = self.signed("streams/v1/index", MAX_INDEX_BYTES).await?;
        let files = simplestreams::read_index(&index)
            .map_err(|error| format!("streams/v1/index: {error}"))?;
        let files = self.usable("streams/v1/index", files);
        let mut products = Vec::new();
        for path in files.into_iter().take(MAX_FILES) {
            let stem = path
                .strip_suffix(".sjson")
                .or_else(|| path.strip_suffix(".json"))
                .unwrap_or(&path);
            let text = self.signed(stem, MAX_PRODUCTS_BYTES).await?;
            let architecture = self.0.settings.architecture.clone();
            let read = tokio::task::spawn_blocking(move || {
                simplestreams::read_products(&text, &architecture)
            });
            let read = read.await.map_err(|error| error.to_string())?;
            let listed = read.map_err(|error| format!("{path}: {error}"))?;
            products.extend(self.usable(&path, listed));
        }
        Ok(products)
    }

    /// What can be used of a file; the rest is told to the operator.
    fn usable<T>(&self, file: &str, listed: Listed<T>) -> Vec<T> {
        for reason in &listed.left_out {
            tracing::warn!(
                catalogue = self.name(),
                file,
                reason,
                "an entry of the catalogue is left out"
            );
        }
        listed.usable
    }

    /// A JSON file: if there is a keyring as it was signed (`.sjson`, or `.json` with `.json.gpg`), else `.json`.
    async fn signed(&self, stem: &str, most: usize) -> Result<Bytes, String> {
        let json = format!("{stem}.json");
        let Some(keyring) = &self.0.keyring else {
            return self.page(&json, most).await;
        };
        if let Some(message) = self
            .page_if_any(&format!("{stem}.sjson"), most + MAX_SIGNATURE_BYTES)
            .await?
        {
            let opened = keyring.open(message, most).await;
            let wrong = |error: String| format!("{stem}.sjson: {error}");
            let (text, time) = opened.map_err(wrong)?;
            self.0.seen.note(stem, time).await.map_err(wrong)?;
            return Ok(text);
        }
        let text = self.page(&json, most).await?;
        let signature = self
            .page(&format!("{json}.gpg"), MAX_SIGNATURE_BYTES)
            .await?;
        let checked = keyring.check(text.clone(), signature).await;
        let wrong = |error: String| format!("{json}: {error}");
        let time = checked.map_err(wrong)?;
        self.0.seen.note(stem, time).await.map_err(wrong)?;
        Ok(text)
    }

    async fn checksums(&self) -> Result<Vec<Product>, String> {
        for name in ["SHA512SUMS", "SHA256SUMS"] {
            let Some(text) = self.page_if_any(name, MAX_INDEX_BYTES).await? else {
                continue;
            };
            if let Some(keyring) = &self.0.keyring {
                let mut signature = None;
                for ending in ["sign", "gpg", "asc"] {
                    signature = self
                        .page_if_any(&format!("{name}.{ending}"), MAX_SIGNATURE_BYTES)
                        .await?;
                    if signature.is_some() {
                        break;
                    }
                }
                let signature = signature.ok_or_else(|| {
                    format!("{name} has no signature ({name}.sign, .gpg or .asc)")
                })?;
                let checked = keyring.check(text.clone(), signature).await;
                let wrong = |error: String| format!("{name}: {error}");
                let time = checked.map_err(wrong)?;
                self.0.seen.note(name, time).await.map_err(wrong)?;
            }
            let listed = checksums::read(&text, &self.0.settings.architecture)
                .map_err(|error| format!("{name}: {error}"))?;
            return Ok(self.usable(name, listed));
        }
        Err(format!(
            "{} has neither SHA512SUMS nor SHA256SUMS",
            self.address()
        ))
    }

    async fn page(&self, path: &str, most: usize) -> Result<Bytes, String> {
        self.page_if_any(path, most)
            .await?
            .ok_or_else(|| format!("{}{path} does not exist", self.address()))
    }

    async fn page_if_any(&self, path: &str, most: usize) -> Result<Option<Bytes>, String> {
        let url = self.0.root.join(path).map_err(|error| error.to_string())?;
        match self.0.web.get(&url, "*/*", None, most).await? {
            Got::Page { body, .. } => Ok(Some(body)),
            Got::Absent | Got::Unchanged => Ok(None),
            Got::TooLong => Err(format!("{url} has more than {most} bytes")),
        }
    }
}
