//! A Marketplace with images, as small as can be: signed entries and files, served and counted.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cimi::resources::{Digests as StoredDigests, Image, ImageSource};
use marketplace::draft::{deprecated, endorsed};
use marketplace::signature::Hash;
use marketplace::{Checksums, Metadata, SigningKey, UtcTime};
use md5::Md5;
use parking_lot::Mutex;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::super::Settings;
use super::web_server::{Answer, WebServer};
use super::world::image;
use crate::digest::Digest;
use crate::registry::{Marketplace, PolicySource, Registries, Web};

/// What is at each path, as it is now.
#[derive(Clone, Default)]
pub(super) struct Site(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    answers: HashMap<String, Answer>,
    asked: HashMap<String, usize>,
}

pub(super) fn whole(bytes: Vec<u8>) -> Answer {
    Answer::Body {
        bytes: Arc::new(bytes),
        etag: "one",
        ranges: true,
        at_most: usize::MAX,
    }
}

fn absent() -> Answer {
    Answer::Head("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n".to_owned())
}

impl Site {
    pub(super) fn put(&self, path: &str, answer: Answer) {
        self.0.lock().answers.insert(path.to_owned(), answer);
    }

    pub(super) fn remove(&self, path: &str) {
        self.0.lock().answers.remove(path);
    }

    /// How often a path was asked for.
    pub(super) fn asked(&self, path: &str) -> usize {
        self.0.lock().asked.get(path).copied().unwrap_or(0)
    }

    /// Gives the answer to the entries of an image.
    pub(super) fn put_entries(&self, identifier: &str, entries: &[String]) {
        let bodies = entries.iter().map(|entry| match entry.find("?>") {
            Some(end) => &entry[end + 2..],
            None => entry,
        });
        let list: String = bodies.collect();
        let list = format!("<?xml version=\"1.0\"?><metadata>{list}</metadata>");
        let path = format!("/metadata/{identifier}");
        self.put(&path, whole(list.into_bytes()));
    }

    pub(super) async fn serve(&self) -> WebServer {
        let pages = self.0.clone();
        WebServer::start_with(move |path, _| {
            let path = path.split('?').next().unwrap_or_default();
            let mut pages = pages.lock();
            *pages.asked.entry(path.to_owned()).or_default() += 1;
            pages.answers.get(path).cloned().unwrap_or_else(absent)
        })
        .await
    }
}

/// The address of a server without a path.
pub(super) fn base(server: &WebServer) -> &str {
    server.url.trim_end_matches("/image")
}

/// The settings of a cloud that asks these Marketplaces.
pub(super) fn asking(
    settings: Settings,
    servers: &[&WebServer],
    policy: Option<&Path>,
) -> Settings {
    let policy = PolicySource {
        file: policy.map(Path::to_owned),
        ..PolicySource::default()
    };
    asking_by(settings, servers, policy)
}

/// The same by all that a site can say.
pub(super) fn asking_by(
    mut settings: Settings,
    servers: &[&WebServer],
    policy: PolicySource,
) -> Settings {
    let marketplaces = servers.iter().enumerate().map(|(number, server)| {
        let web = Web::new(None).expect("a client");
        Marketplace::new(format!("m{number}"), base(server), web).expect("a Marketplace")
    });
    settings.registries = Registries::new(marketplaces.collect(), Vec::new(), policy);
    settings.fetch_pause = std::time::Duration::from_millis(20);
    settings
}

pub(super) fn endorser(email: &str) -> SigningKey {
    let mut parameters = CertificateParams::new([]).expect("parameters");
    parameters
        .distinguished_name
        .push(DnType::CommonName, email);
    let address = email.try_into().expect("an address");
    parameters
        .subject_alt_names
        .push(SanType::Rfc822Name(address));
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
    SigningKey::from_pem(&pem, None).expect("a signing key")
}

/// A description of some bytes, valid for a month, to be found at these places.
pub(super) fn described(bytes: &[u8], locations: &[String]) -> Metadata {
    let checksums = Checksums {
        md5: Some(Digest::from_bytes(Md5::digest(bytes).into())),
        sha1: Digest::from_bytes(Sha1::digest(bytes).into()),
        sha256: Some(Digest::from_bytes(Sha256::digest(bytes).into())),
        sha512: Some(Digest::from_bytes(Sha512::digest(bytes).into())),
        others: Vec::new(),
    };
    let mut metadata = Metadata::new(checksums, bytes.len() as u64, "base");
    metadata.locations = locations.to_vec();
    metadata.valid = Some(now().plus_days(30));
    metadata.title = Some("A test".to_owned());
    metadata
}

pub(super) fn now() -> UtcTime {
    UtcTime::from_timestamp(jiff::Timestamp::now())
}

/// The moment so many seconds from now.
pub(super) fn seconds_from_now(seconds: i64) -> UtcTime {
    UtcTime::from_unix_seconds(now().unix_seconds() + seconds).expect("a time")
}

pub(super) fn signed(metadata: &Metadata, key: &SigningKey) -> String {
    signed_at(metadata, key, now())
}

pub(super) fn signed_at(metadata: &Metadata, key: &SigningKey, at: UtcTime) -> String {
    let draft = metadata.to_draft().expect("a draft");
    endorsed(draft.as_bytes(), key, Hash::Sha256, None, at).expect("signed")
}

pub(super) fn withdrawn(metadata: &Metadata, key: &SigningKey, reason: &str) -> String {
    let draft = metadata.to_draft().expect("a draft");
    let draft = deprecated(draft.as_bytes(), reason).expect("a draft");
    endorsed(draft.as_bytes(), key, Hash::Sha256, None, now()).expect("signed")
}

/// The document of somebody who wants an image by its identifier.
pub(super) fn wanted(identifier: &str) -> Image {
    let mut wanted = image(ImageSource::Marketplace, "IMAGE");
    wanted.desired.expected = StoredDigests {
        identifier: Some(identifier.to_owned()),
        ..StoredDigests::default()
    };
    wanted
}
