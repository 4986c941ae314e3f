//! Endorsers, their descriptions, and a Marketplace over a real database.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test uses its part; a test that panics has failed"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use marketplace::draft::endorsed;
use marketplace::signature::Hash;
use marketplace::{Checksums, Metadata, SigningKey, UtcTime};
use marketplace_service::{Marketplace, Settings};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use store::{SharedStore, SqliteStore};
use tokio_util::sync::CancellationToken;

pub fn at(text: &str) -> UtcTime {
    text.parse().unwrap()
}

/// So many seconds from now.
pub fn after(seconds: i64) -> UtcTime {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    UtcTime::from_unix_seconds(i64::try_from(now.as_secs()).unwrap() + seconds).unwrap()
}

fn parameters(name: &str, email: Option<&str>) -> CertificateParams {
    let mut parameters = CertificateParams::new([]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let email = email.map(|email| SanType::Rfc822Name(email.try_into().unwrap()));
    parameters.subject_alt_names.extend(email);
    parameters
}

/// Somebody with a self-signed certificate.
pub fn endorser(name: &str, email: Option<&str>) -> SigningKey {
    let key = KeyPair::generate().unwrap();
    let certificate = parameters(name, email).self_signed(&key).unwrap();
    SigningKey::from_pem(
        &format!("{}{}", key.serialize_pem(), certificate.pem()),
        None,
    )
    .unwrap()
}

/// The same, with a certificate from 2020 on until a year begins.
pub fn endorser_until(name: &str, email: &str, year: i32) -> SigningKey {
    let key = KeyPair::generate().unwrap();
    let mut parameters = parameters(name, Some(email));
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
    let certificate = parameters.self_signed(&key).unwrap();
    let text = format!("{}{}", key.serialize_pem(), certificate.pem());
    SigningKey::from_pem(&text, None).unwrap()
}

/// An authority's certificate in PEM, and somebody whom it certified.
pub fn certified(name: &str, email: &str) -> (String, SigningKey) {
    let key = KeyPair::generate().unwrap();
    let mut of_authority = parameters("Authority", None);
    of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = of_authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(of_authority, key);
    let key = KeyPair::generate().unwrap();
    let certificate = parameters(name, Some(email))
        .signed_by(&key, &issuer)
        .unwrap();
    let text = format!("{}{}", key.serialize_pem(), certificate.pem());
    (pem, SigningKey::from_pem(&text, None).unwrap())
}

/// What is said of an image.
pub fn image(number: u8) -> Metadata {
    let checksums = Checksums {
        md5: None,
        sha1: marketplace::digest::Digest::from_bytes([number; 20]),
        sha256: None,
        sha512: None,
        others: Vec::new(),
    };
    Metadata {
        kind: Some("machine".to_owned()),
        os: Some("debian".to_owned()),
        os_version: Some("12".to_owned()),
        os_arch: Some("x86_64".to_owned()),
        version: Some("1.0".to_owned()),
        format: Some("qcow2".to_owned()),
        locations: vec![format!("https://images.example.org/{number}.qcow2")],
        created: Some(after(0).to_string()),
        valid: Some(after(30 * 86_400)),
        title: Some(format!("image {number}")),
        tag: Some("base".to_owned()),
        description: Some("An image of the tests".to_owned()),
        ..Metadata::new(checksums, 1_048_576, "base")
    }
}

/// Signed at `created`.
pub fn signed(image: &Metadata, key: &SigningKey, email: &str, created: UtcTime) -> Vec<u8> {
    let draft = image.to_draft().unwrap();
    endorsed(draft.as_bytes(), key, Hash::Sha256, Some(email), created)
        .unwrap()
        .into_bytes()
}

/// A Marketplace that runs until it is dropped.
pub struct World {
    pub marketplace: Marketplace,
    pub store: SharedStore,
    stop: CancellationToken,
    folder: Arc<tempfile::TempDir>,
}

impl World {
    pub async fn start(settings: Settings) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        Self::over(store, folder, settings).await
    }

    async fn over(store: SharedStore, folder: Arc<tempfile::TempDir>, settings: Settings) -> Self {
        let marketplace = Marketplace::open(store.clone(), settings).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(marketplace.clone().run(stop.clone()));
        Self {
            marketplace,
            store,
            stop,
            folder,
        }
    }

    /// The same after its daemon was killed.
    pub async fn again(self) -> Self {
        self.stop.cancel();
        let settings = self.marketplace.settings().clone();
        Self::over(self.store.clone(), Arc::clone(&self.folder), settings).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
