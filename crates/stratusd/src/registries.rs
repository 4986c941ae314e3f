//! The Marketplaces, catalogues and policy of the configuration, ready to be asked.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use marketplace::policy::Revocation;
use storage::{
    import::{Fetcher, Reach},
    registry::{
        AuthoritiesSource, Catalogue, CatalogueKind as Written, CatalogueSettings, Keyring,
        Marketplace, PolicySource, Registries, Web, trusting,
    },
};

use crate::{
    config::{CatalogueEntry, CatalogueKind, Config, RevocationLists},
    market,
    settings::in_path,
};

/// Everything that images are looked up in: what the configuration names, then this daemon's own Marketplace. Reads the
/// certificates and keys; asks nobody yet.
///
/// # Errors
/// A file that can't be read or holds something else; a policy that can't be read.
pub fn open(
    config: &Config,
    own: Option<&marketplace_service::Marketplace>,
) -> anyhow::Result<Registries> {
    let mut marketplaces = Vec::new();
    let mut catalogues = Vec::new();
    for entry in &config.catalogue {
        let authorities = (!entry.ca.is_empty())
            .then(|| std::fs::read(&entry.ca).with_context(|| entry.ca.clone()))
            .transpose()?;
        let authorities = authorities.as_deref();
        let web = Web::new(authorities).with_context(|| format!("{}: `ca`", entry.name))?;
        let wrong = |problem: String| anyhow!("{}: {problem}", entry.name);
        let kind = match entry.kind {
            CatalogueKind::Marketplace => {
                let marketplace = Marketplace::new(entry.name.clone(), &entry.url, web);
                marketplaces.push(marketplace.map_err(wrong)?);
                continue;
            }
            CatalogueKind::Simplestreams => Written::SimpleStreams,
            CatalogueKind::Checksums => Written::Checksums,
        };
        let settings = CatalogueSettings {
            name: entry.name.clone(),
            url: entry.url.clone(),
            kind,
            architecture: entry.architecture.clone(),
            refresh: Duration::from_secs(entry.refresh_minutes.max(1).saturating_mul(60)),
            remembered: Some(config.state_dir().join("catalogues").join(&entry.name)),
        };
        let fetcher = fetcher(authorities).with_context(|| format!("{}: `ca`", entry.name))?;
        let catalogue = Catalogue::new(settings, web, fetcher, keyring(entry)?);
        catalogues.push(catalogue.map_err(wrong)?);
    }
    if let Some(own) = own.filter(|_| config.images.own_marketplace) {
        marketplaces.push(market::of_this_cloud(config, own).map_err(anyhow::Error::msg)?);
    }
    let path = |text: &String| (!text.is_empty()).then(|| PathBuf::from(text));
    let policy = PolicySource {
        file: path(&config.images.policy),
        authorities: path(&config.images.authorities)
            .map(|path| AuthoritiesSource::new(path, revocation(config))),
        accepts_sha1: config.images.accept_sha1,
        accepts_uncertified_email: config.images.accept_uncertified_addresses,
    };
    policy.read_for_operator().map_err(|why| {
        anyhow!("{why} (`images.policy`, `images.authorities`): no image would be accepted")
    })?;
    Ok(Registries::new(marketplaces, catalogues, policy))
}

/// Whether everything that the configuration names for finding images can be used. Asks nobody.
///
/// # Errors
/// As [`open`].
pub fn check(config: &Config) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let own = config.state_dir().join("tls").join("ca.pem");
    let mut config = config.clone();
    for entry in &mut config.catalogue {
        // This cloud's own is made at the first start.
        if Path::new(&entry.ca) == own && !own.exists() {
            entry.ca.clear();
        }
    }
    open(&config, None)
        .map(drop)
        .context("[[catalogue]], [images]")
}

/// What folders of authorities must have, for endorsers as for people who log in.
pub fn revocation(config: &Config) -> Revocation {
    match config.certificates.revocation_lists {
        RevocationLists::Required => Revocation::Required,
        RevocationLists::IfPresent => Revocation::IfPresent,
    }
}

/// Images of a catalogue are fetched from where it is: the operator named the place.
fn fetcher(authorities: Option<&[u8]>) -> anyhow::Result<Fetcher> {
    let builder =
        reqwest::Client::builder().user_agent(concat!("stratusd/", env!("CARGO_PKG_VERSION")));
    let reach = Reach {
        allowed: vec!["0.0.0.0/0".parse()?, "::/0".parse()?],
        own: Vec::new(),
    };
    Ok(Fetcher::new(trusting(builder, authorities)?, reach)?)
}

fn keyring(entry: &CatalogueEntry) -> anyhow::Result<Option<Keyring>> {
    if entry.keyring.is_empty() {
        return Ok(None);
    }
    let program = in_path("gpgv".as_ref()).with_context(|| {
        format!(
            "{}: `gpgv` is not in PATH, and checks the signature of its index (Debian: gpgv)",
            entry.name
        )
    })?;
    let keyring = Keyring::read(entry.keyring.as_ref(), &program);
    Ok(Some(keyring.with_context(|| entry.name.clone())?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use marketplace::{Entry, UtcTime, policy::Refusal};

    use super::*;
    use crate::signed_entries::{authority, endorser_of, entry, entry_of, self_signed};

    /// What an operator writes is what endorsers are judged by.
    #[test]
    fn what_is_configured_of_endorsers_is_what_they_are_judged_by() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, pem) = authority("Ours");
        let (theirs, _) = authority("Theirs");
        let authorities = folder.path().join("authorities");
        std::fs::create_dir(&authorities).unwrap();
        std::fs::write(authorities.join("ours.pem"), pem).unwrap();
        let white = folder.path().join("policy.cfg");
        std::fs::write(
            &white,
            "[endorsers]\nwhitelistendorsers = alice@example.org\n",
        )
        .unwrap();
        let policy = |tables: &str| {
            let text = format!("state_dir = '{}'\n{tables}", folder.path().display());
            let config = Config::parse(&text, Path::new("x")).unwrap();
            let opened = open(&config, None).unwrap();
            opened.policy().read_for_operator().unwrap()
        };
        let now = UtcTime::from_timestamp(jiff::Timestamp::now());
        let (images, white) = (
            format!("[images]\nauthorities = '{}'\n", authorities.display()),
            format!("policy = '{}'\n", white.display()),
        );
        let if_present = "[certificates]\nrevocation_lists = 'if-present'\n";
        let vouched = entry(&endorser_of(&ours, "alice@example.org", true), "a");

        let lenient = policy("");
        let foreign = entry(&endorser_of(&theirs, "alice@example.org", true), "a");
        let own = entry(&self_signed("alice@example.org"), "a");
        for entry in [&vouched, &foreign, &own] {
            assert_eq!(lenient.check(entry, now), Ok(()));
        }
        let closed = policy(&format!("{images}{if_present}"));
        assert_eq!(closed.check(&vouched, now), Ok(()));
        for entry in [&foreign, &own] {
            let refused = closed.check(entry, now);
            assert!(
                matches!(refused, Err(Refusal::UnknownAuthority { .. })),
                "{refused:?}"
            );
        }
        // Lists are demanded unless it is said that they needn't be.
        let refused = policy(&images)
            .check(&vouched, now)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("revocation list"), "{refused}");

        // The contract's own entry, signed as StratusLab's clients did.
        let reference = include_str!("../../marketplace/tests/data/signed.xml");
        let old = Entry::verify(reference.as_bytes()).unwrap();
        let then: UtcTime = "2030-03-01T00:00:00Z".parse().unwrap();
        assert_eq!(lenient.check(&old, then), Ok(()));
        let refused = policy("[images]\naccept_sha1 = false\n").check(&old, then);
        assert!(matches!(refused, Err(Refusal::Sha1(_))), "{refused:?}");

        let nameless = endorser_of(&ours, "Alice", false);
        let claims = entry_of(&nameless, "a", Some("alice@example.org"));
        let refused = policy(&format!("[images]\n{white}")).check(&claims, now);
        assert!(
            matches!(refused, Err(Refusal::UncertifiedEmail(_))),
            "{refused:?}"
        );
        let believing = policy(&format!(
            "[images]\n{white}accept_uncertified_addresses = true\n"
        ));
        assert_eq!(believing.check(&claims, now), Ok(()));
    }

    #[test]
    fn what_can_not_be_used_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().display();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let checked = |more: &str| {
            let text = format!("state_dir = \"{state}\"\n{more}");
            check(&Config::parse(&text, Path::new("stratusd.toml")).unwrap())
        };
        let good = file("good.cfg", "[endorsers]\nwhitelistendorsers = a@b\n");
        checked(&format!("[images]\npolicy = \"{good}\"\n")).unwrap();
        let missing = folder.path().join("missing.cfg").display().to_string();
        let bad = file("bad.cfg", "[endorsers\nnonsense");
        let empty = file("authorities.pem", "");
        for (images, path) in [
            (format!("policy = \"{missing}\""), &missing),
            (format!("policy = \"{bad}\""), &bad),
            (format!("authorities = \"{empty}\""), &empty),
        ] {
            let told = checked(&format!("[images]\n{images}\n")).unwrap_err();
            let told = format!("{told:#}");
            assert!(told.contains(path.as_str()), "{told}");
        }
        let market = |ca: &str| {
            checked(&format!(
                "[[catalogue]]\nname = \"m\"\nkind = \"marketplace\"\nurl = \"https://m.example.org\"\nca = \"{ca}\"\n"
            ))
        };
        // The cloud's own comes with its first start.
        market(&format!("{state}/tls/ca.pem")).unwrap();
        let told = market(&missing).unwrap_err();
        assert!(format!("{told:#}").contains("missing.cfg"), "{told:#}");
    }
}
