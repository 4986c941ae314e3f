//! Wiring of what announces saved images: its settings, and the key that temporary entries are signed with.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use marketplace::SigningKey;
use marketplace_service::{Marketplace, Temporary};

use crate::{
    config::{Config, Saving},
    instance::{make_dir, write_atomically},
    market,
};

/// How long a connection to a Marketplace may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What the operator decided; `marketplace` is this daemon's own, which takes temporary entries unless another one, or none, is
/// configured.
///
/// # Errors
/// Files that can't be read, a key that isn't one.
pub fn settings(
    config: &Config,
    state: &Path,
    marketplace: Option<&Marketplace>,
) -> anyhow::Result<saving::Settings> {
    let given = &config.saving;
    let some =
        |text: &String| Some(text.trim_end_matches('/').to_owned()).filter(|t| !t.is_empty());
    let base_url = base_url(config);
    let mut client = reqwest::Client::builder()
        .user_agent(concat!("stratusd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if !given.ca.is_empty() {
        let pem = std::fs::read(&given.ca).with_context(|| given.ca.clone())?;
        for certificate in
            reqwest::Certificate::from_pem_bundle(&pem).with_context(|| given.ca.clone())?
        {
            client = client.add_root_certificate(certificate);
        }
    }
    // The Marketplace may be this cloud's own.
    let own = state.join("tls").join("ca.pem");
    if config.tls.enabled && own.exists() {
        let pem = std::fs::read(&own).with_context(|| own.display().to_string())?;
        for certificate in reqwest::Certificate::from_pem_bundle(&pem)? {
            client = client.add_root_certificate(certificate);
        }
    }
    let (marketplace, own) = match given.marketplace.as_str() {
        Saving::NO_MARKETPLACE => (None, None),
        "" => marketplace
            .and_then(market::for_saved_images)
            .map_or((None, None), |(url, own)| (Some(url), Some(own))),
        _ => (some(&given.marketplace), None),
    };
    let key = match &marketplace {
        Some(_) => Some(key(config, state)?),
        None => None,
    };
    Ok(saving::Settings {
        base_url,
        marketplace,
        own,
        key,
        endorser: endorser(config),
        valid_days: given.valid_days,
        patience: Duration::from_secs(given.patience_minutes.saturating_mul(60)),
        has_mail: config.mail.is_on(),
        client: client
            .build()
            .context("preparing to speak to the Marketplace")?,
    })
}

/// Whose address temporary entries have, if the certificate names none.
fn endorser(config: &Config) -> String {
    match config.saving.endorser.as_str() {
        "" => format!("stratus@{}", config.host_name()),
        given => given.to_owned(),
    }
}

/// By what the own Marketplace knows temporary entries; nothing if they go elsewhere.
///
/// # Errors
/// A configured key that can't be read.
pub fn temporary(config: &Config) -> anyhow::Result<Option<Temporary>> {
    if !config.saving.marketplace.is_empty() {
        return Ok(None);
    }
    // The cloud's own has no address.
    let certified = match config.saving.key.as_str() {
        "" => None,
        path => read_key(Path::new(path))?
            .certificate()
            .email()
            .map(str::to_owned),
    };
    Ok(Some(Temporary {
        endorser: certified.unwrap_or_else(|| endorser(config)),
        images: saving::images_of(&base_url(config)),
    }))
}

/// Where users reach this cloud, without a slash at the end.
pub fn base_url(config: &Config) -> String {
    match config.saving.base_url.trim_end_matches('/') {
        "" => config.origin(),
        given => given.to_owned(),
    }
}

/// The operator's key, else the cloud's own, made at its first use.
fn key(config: &Config, state: &Path) -> anyhow::Result<SigningKey> {
    let path = if config.saving.key.is_empty() {
        let folder = state.join("secrets");
        make_dir(&folder, 0o700)?;
        let path = folder.join("endorser.pem");
        if !path.exists() {
            write_atomically(&path, new_key(&config.instance)?.as_bytes(), 0o600)?;
        }
        path
    } else {
        config.saving.key.clone().into()
    };
    read_key(&path)
}

fn read_key(path: &Path) -> anyhow::Result<SigningKey> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    SigningKey::from_pem(&text, None).with_context(|| path.display().to_string())
}

/// A key and the certificate that it signed itself.
fn new_key(instance: &str) -> anyhow::Result<String> {
    let key = rcgen::KeyPair::generate().context("making a key")?;
    let mut parameters =
        rcgen::CertificateParams::new(Vec::new()).context("making a certificate")?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(
        rcgen::DnType::CommonName,
        format!("Stratus cloud {instance}"),
    );
    let certificate = parameters
        .self_signed(&key)
        .context("making a certificate")?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_new_key_signs() {
        let text = super::new_key("c").expect("a key");
        let key = marketplace::SigningKey::from_pem(&text, None).expect("a key that can be read");
        assert_eq!(key.certificate().subject(), "CN=Stratus cloud c");
    }
}
