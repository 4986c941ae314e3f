//! The Marketplace of this daemon, as the configuration wants it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use marketplace::UtcTime;
use marketplace::catalogue::{Name, Record};
use marketplace::identifier::ImageIdentifier;
use marketplace::policy::{Lists, Policy};
use marketplace_service::{Follower, Marketplace, Refused, Settings, Trusted};
use storage::registry::{self, AuthoritiesSource, OwnMarketplace, Unread};
use store::SharedStore;

use crate::{
    config::{Config, OWN_MARKETPLACE},
    registries::revocation,
    saved_images,
};

/// How long a connection to another Marketplace may take.
const CONNECTING: Duration = Duration::from_secs(20);

/// Opens it, to be shown to users, or only to look images up in it.
///
/// # Errors
/// If the store can't be read, or a file of the configuration can't.
pub async fn open(
    config: &Config,
    store: SharedStore,
    is_shown: bool,
) -> anyhow::Result<Marketplace> {
    let given = &config.marketplace;
    let trusted = if given.trusted_endorsers.is_empty() {
        None
    } else {
        let endorsers = given.trusted_endorsers.clone();
        let authorities = AuthoritiesSource::new(&given.trusted_authorities, revocation(config));
        let read = move || trusted(&endorsers, &authorities).map_err(|error| format!("{error:#}"));
        // A slip in the configuration is told now.
        read().map_err(anyhow::Error::msg)?;
        Some(Trusted::read_by(read))
    };
    let settings = Settings {
        title: given.title.clone(),
        url: url(config),
        is_url_given: !given.url.is_empty(),
        administrator: Some(given.administrator.clone()).filter(|address| !address.is_empty()),
        confirms: given.confirm,
        reminds: given.remind,
        sends_letters: config.mail.is_on(),
        trusted,
        is_read_only: given.read_only,
        document_at_most: given.document_kib << 10,
        waits_for: Duration::from_secs(given.waiting_days.saturating_mul(86_400)),
        waiting_per_email: given.waiting_per_email,
        waiting_per_source: given.waiting_per_address,
        waiting_bytes: given.waiting_mib << 20,
        // Only pages tell them from others: where none are shown, their key needn't be.
        temporary: match is_shown {
            true => saved_images::temporary(config)?,
            false => None,
        },
    };
    if is_shown && given.confirm && !settings.sends_letters && !given.read_only {
        tracing::warn!(
            "the Marketplace can take uploads of trusted endorsers only: others confirm by letter, and `[mail]` is not configured"
        );
    }
    if is_shown && given.remind && !settings.sends_letters {
        tracing::warn!("`marketplace.remind` does nothing without `[mail]`");
    }
    let marketplace = Marketplace::open(store, settings).await;
    let marketplace = marketplace.context("reading the Marketplace")?;
    tracing::info!(entries = marketplace.len(), "Marketplace open");
    Ok(marketplace)
}

/// The same, as one that this cloud looks images up in.
///
/// # Errors
/// If its address can't be one.
pub fn of_this_cloud(
    config: &Config,
    marketplace: &Marketplace,
) -> Result<registry::Marketplace, String> {
    let url = marketplace.settings().url.clone();
    let own = Arc::new(Here(marketplace.clone()));
    let others = other_urls(config);
    registry::Marketplace::here(OWN_MARKETPLACE.to_owned(), &url, &others, own)
}

/// The same, as one that takes temporary entries of this cloud; none if it takes no uploads.
pub fn for_saved_images(
    marketplace: &Marketplace,
) -> Option<(String, Arc<dyn saving::OwnMarketplace>)> {
    let settings = marketplace.settings();
    let url = settings.url.trim_end_matches('/').to_owned();
    let own = Arc::new(Here(marketplace.clone()));
    (!settings.is_read_only).then_some((url, own))
}

/// Asked and written without a connection.
#[derive(Debug)]
struct Here(Marketplace);

impl Here {
    async fn document(&self, record: &Record) -> Result<Option<Vec<u8>>, String> {
        let document = self.0.document(&record.name()).await;
        let document = document.map_err(|error| error.to_string())?;
        Ok(document.map(String::into_bytes))
    }
}

#[async_trait]
impl saving::OwnMarketplace for Here {
    async fn publish(&self, document: &str) -> Result<(), saving::UploadError> {
        let refused = |why: String| {
            let url = self.0.settings().url.clone();
            saving::UploadError::Refused(url, why)
        };
        match self.0.publish(document.as_bytes()).await {
            Ok(_) => Ok(()),
            Err(Refused::Store(error)) => {
                let url = self.0.settings().url.clone();
                Err(saving::UploadError::Unreachable(url, error.to_string()))
            }
            Err(error) => Err(refused(error.to_string())),
        }
    }

    fn valid_of(&self, endorser: &str, since: UtcTime) -> Vec<Arc<Record>> {
        let mut newest = self.0.ask(|catalogue| {
            let mut all = catalogue.of_endorser(endorser, since);
            all.retain(|record| {
                let newest = catalogue.newest(record.identifier, endorser);
                newest.is_some_and(|newest| newest.created == record.created)
            });
            all
        });
        newest.retain(|record| self.0.is_valid(record));
        newest
    }

    async fn document(&self, name: &Name) -> Result<Option<String>, saving::UploadError> {
        let document = self.0.document(name).await;
        document.map_err(|error| {
            let url = self.0.settings().url.clone();
            saving::UploadError::Unreachable(url, error.to_string())
        })
    }
}

#[async_trait]
impl OwnMarketplace for Here {
    async fn documents_of(
        &self,
        identifier: &ImageIdentifier,
        endorser: Option<&str>,
        most: usize,
    ) -> Result<Vec<Vec<u8>>, Unread> {
        let mut found = self.0.ask(|catalogue| catalogue.of_image(*identifier));
        // The first is what its endorser said last.
        let mut endorsers = HashSet::new();
        found.retain(|record| {
            endorser.is_none_or(|email| record.email.eq_ignore_ascii_case(email))
                && endorsers.insert(record.email.clone())
        });
        let (mut documents, mut bytes) = (Vec::new(), 0);
        for record in found {
            let document = self.document(&record).await;
            let document = document.map_err(Unread::Unavailable)?.unwrap_or_default();
            bytes += document.len();
            if bytes > most {
                return Err(Unread::TooLong);
            }
            documents.push(document);
        }
        Ok(documents)
    }

    fn last_taken(&self, identifier: &ImageIdentifier) -> Option<UtcTime> {
        let all = self.0.ask(|catalogue| catalogue.of_image(*identifier));
        all.iter().map(|record| record.received).max()
    }

    async fn tagged(&self, email: &str, tag: &str) -> Result<Option<Vec<u8>>, String> {
        match self.0.ask(|catalogue| catalogue.tagged(email, tag)) {
            Some(record) => self.document(&record).await,
            None => Ok(None),
        }
    }
}

/// Who follows the others.
///
/// # Errors
/// If the configured authority can't be read, or an address can't be one.
pub fn followers(config: &Config, marketplace: &Marketplace) -> anyhow::Result<Vec<Follower>> {
    let given = &config.marketplace;
    if given.follow.is_empty() {
        return Ok(Vec::new());
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("stratusd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECTING)
        .redirect(reqwest::redirect::Policy::limited(3));
    if !given.follow_ca.is_empty() {
        let key = || format!("marketplace.follow_ca: {}", given.follow_ca);
        let pem = std::fs::read(&given.follow_ca).with_context(key)?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).with_context(key)?;
        ensure!(
            !certificates.is_empty(),
            "{} holds no certificate in PEM form",
            key()
        );
        for certificate in certificates {
            builder = builder.add_root_certificate(certificate);
        }
    }
    let client = builder
        .build()
        .context("preparing to follow other Marketplaces")?;
    let every = Duration::from_secs(given.follow_minutes.saturating_mul(60));
    given
        .follow
        .iter()
        .map(|url| {
            let follower = Follower::new(marketplace.clone(), client.clone(), url, every);
            follower.context("marketplace.follow")
        })
        .collect()
}

/// Where letters, feeds and pages say that it is. Never what a request says.
fn url(config: &Config) -> String {
    let given = config.marketplace.url.trim_end_matches('/');
    if !given.is_empty() {
        return format!("{given}/");
    }
    format!("{}/marketplace/", config.origin())
}

/// Where it can be reached besides, as the configuration has it: people write down whichever they used.
fn other_urls(config: &Config) -> Vec<String> {
    let scheme = if config.tls.enabled { "https" } else { "http" };
    let listen = config.listen();
    let (port, ip) = (listen.port(), listen.ip());
    let mut hosts = vec![config.host_name()];
    if !ip.is_unspecified() {
        hosts.push(listen.ip().to_string());
    }
    if ip.is_unspecified() || ip.is_loopback() {
        hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    }
    let url = |host: String| {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        format!("{scheme}://{host}:{port}/marketplace/")
    };
    hosts.into_iter().map(url).collect()
}

fn trusted(endorsers: &str, authorities: &AuthoritiesSource) -> anyhow::Result<Policy> {
    let subjects = std::fs::read_to_string(endorsers).with_context(|| endorsers.to_owned())?;
    let subjects: Vec<_> = subjects
        .lines()
        .map(str::trim)
        // As OpenSSL prints it.
        .map(|line| line.strip_prefix("subject=").map_or(line, str::trim))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    // An empty white list would let everybody through.
    anyhow::ensure!(
        !subjects.is_empty(),
        "{endorsers}: there is no subject in it"
    );
    let read = authorities.read().map_err(anyhow::Error::msg);
    Ok(Policy {
        endorsers: Lists {
            white: subjects,
            black: Vec::new(),
        },
        authorities: read.with_context(|| authorities.path().display().to_string())?,
        ..Policy::default()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use store::SqliteStore;

    use super::*;
    use crate::{registries, signed_entries};

    /// By the way that a cloud's look-ups take.
    #[tokio::test]
    async fn the_own_marketplace_is_asked_for_identifiers_and_tags_under_each_of_its_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let parse = |more: &str| {
            let state = folder.path().display();
            let text = format!(
                "state_dir = '{state}'\nhost_name = 'cloud.example.org'\nlisten = '0.0.0.0:9443'\n{more}[marketplace]\nconfirm = false\n"
            );
            Config::parse(&text, std::path::Path::new("x")).unwrap()
        };
        let config = parse("");
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let own = open(&config, store, true).await.unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let following = tokio::spawn(own.clone().run(stop.clone()));
        let alice = signed_entries::self_signed("alice@example.org");
        let entry = signed_entries::entry(&alice, "base");
        let identifier = entry.metadata().identifier;
        let uploaded = own.upload(entry.document(), [127, 0, 0, 1].into()).await;
        assert!(
            matches!(uploaded, Ok(marketplace_service::Uploaded::Created(_))),
            "{uploaded:?}"
        );
        let known = async {
            while own.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), known)
            .await
            .unwrap();
        let asked = registries::open(&config, Some(&own)).unwrap();
        let by_identifier = asked.look_up(&identifier).await.unwrap();
        let by_tag = asked.tagged("alice@example.org", "base").await.unwrap();
        for found in by_identifier.into_iter().chain([by_tag]) {
            assert_eq!(found.marketplace, OWN_MARKETPLACE);
            assert_eq!(found.entry.document(), entry.document());
        }
        let none = asked.tagged("alice@example.org", "other").await;
        let told = none.unwrap_err().to_string();
        assert!(
            told.contains("(own) has an image with the tag `other`"),
            "{told}"
        );
        // However people reach this daemon.
        for (base, is_one) in [
            ("https://cloud.example.org:9443/marketplace", true),
            ("https://127.0.0.1:9443/marketplace", true),
            ("https://localhost:9443/marketplace", true),
            ("https://[::1]:9443/marketplace", true),
            ("https://127.0.0.1:8443/marketplace", false),
            ("http://127.0.0.1:9443/marketplace", false),
            ("https://elsewhere.example.org:9443/marketplace", false),
            ("https://127.0.0.1:9443/cimi", false),
        ] {
            for path in [
                format!("metadata/{identifier}"),
                "tag/alice@example.org/base".to_owned(),
            ] {
                let url = format!("{base}/{path}");
                assert_eq!(asked.have_entry_at(&url), is_one, "{url}");
            }
        }

        // It can be left out, and then nobody is asked.
        let without =
            registries::open(&parse("[images]\nown_marketplace = false\n"), Some(&own)).unwrap();
        assert!(without.marketplaces().is_empty());
        let told = without.look_up(&identifier).await.unwrap_err().to_string();
        assert!(told.contains("has no Marketplace"), "{told}");
        let url = format!("https://127.0.0.1:9443/marketplace/metadata/{identifier}");
        assert!(!without.have_entry_at(&url));
        stop.cancel();
        following.await.unwrap();
    }

    #[test]
    fn no_catalogue_has_the_name_of_the_own_marketplace() {
        let text =
            "[[catalogue]]\nname = 'own'\nkind = 'marketplace'\nurl = 'https://m.example.org'\n";
        let wrong = Config::parse(text, std::path::Path::new("x")).unwrap_err();
        let told = format!("{wrong:#}");
        for part in [
            "catalogue.own.name",
            "images.own_marketplace",
            "write another",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn letters_name_the_configured_address() {
        let parse = |text: &str| Config::parse(text, std::path::Path::new("x")).unwrap();
        let config = parse("[marketplace]\nurl = 'https://m.example.org/marketplace/'");
        assert_eq!(url(&config), "https://m.example.org/marketplace/");
        let config = parse("host_name = 'h'\nlisten = '0.0.0.0:9443'");
        assert_eq!(url(&config), "https://h:9443/marketplace/");
        // A name that nobody gave leads to all addresses of the computer, if anywhere: not to where only one listens.
        for listen in ["127.0.0.1:9443", "[::1]:9443"] {
            let config = parse(&format!("listen = '{listen}'"));
            assert_eq!(url(&config), format!("https://{listen}/marketplace/"));
        }
        let config = parse("listen = '0.0.0.0:9443'");
        let name = config.host_name();
        assert_eq!(url(&config), format!("https://{name}:9443/marketplace/"));
    }
}
