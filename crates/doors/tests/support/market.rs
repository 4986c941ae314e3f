//! A Marketplace behind real doors, an endorser, and letters that arrive.

use std::{net::SocketAddr, sync::Arc};

use doors::{CloudApi, Doors, Limits, Running, Server, Serving, Settings, tls};
use mail::{
    Postman,
    testing::{Mood, Sink},
};
use marketplace::{Checksums, Metadata, SigningKey, UtcTime, draft, signature::Hash};
use marketplace_service::Marketplace;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use store::{SqliteOptions, SqliteStore, Store as _};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    FakeCloud, accounts,
    client::{PATIENCE, Reply},
};

pub const EMAIL: &str = "alice@example.org";

pub fn after(seconds: i64) -> UtcTime {
    let now = cimi::Timestamp::now().to_string();
    let now: UtcTime = format!("{}Z", &now[..19]).parse().unwrap();
    UtcTime::from_unix_seconds(now.unix_seconds() + seconds).unwrap()
}

pub fn alice() -> SigningKey {
    endorser("Alice <&>", EMAIL)
}

pub fn endorser(name: &str, email: &str) -> SigningKey {
    SigningKey::from_pem(&endorser_pem(name, email), None).unwrap()
}

/// Key and certificate of an endorser, as a file would hold them.
pub fn endorser_pem(name: &str, email: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new([]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let email = SanType::Rfc822Name(email.try_into().unwrap());
    parameters.subject_alt_names.push(email);
    let certificate = parameters.self_signed(&key).unwrap();
    format!("{}{}", key.serialize_pem(), certificate.pem())
}

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
        format: Some("qcow2".to_owned()),
        locations: vec![format!("https://images.example.org/{number}.qcow2")],
        created: Some(after(0).to_string()),
        valid: Some(after(30 * 86_400)),
        title: Some(format!("web server {number}")),
        tag: Some("web".to_owned()),
        description: Some("With <b>everything</b> & more".to_owned()),
        ..Metadata::new(checksums, 1_048_576, "base")
    }
}

pub fn signed(image: &Metadata, key: &SigningKey, created: UtcTime) -> String {
    let text = image.to_draft().unwrap();
    draft::endorsed(text.as_bytes(), key, Hash::Sha256, None, created).unwrap()
}

/// What stands before a Marketplace.
#[derive(Default)]
pub struct Door {
    pub limits: Limits,
    pub settings: Settings,
    pub is_encrypted: bool,
}

/// A Marketplace that is all there is.
pub struct World {
    pub running: Running,
    pub marketplace: Marketplace,
    pub stop: CancellationToken,
    pub sink: Sink,
    pub store: Arc<SqliteStore>,
    folder: Arc<tempfile::TempDir>,
}

impl World {
    pub async fn start(settings: marketplace_service::Settings) -> Self {
        Self::behind(settings, Limits::default()).await
    }

    /// Behind doors with these limits.
    pub async fn behind(settings: marketplace_service::Settings, limits: Limits) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let door = Door {
            limits,
            ..Door::default()
        };
        Self::over(folder, settings, door, SqliteOptions::default()).await
    }

    /// Behind such a door.
    pub async fn behind_door(settings: marketplace_service::Settings, door: Door) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::over(folder, settings, door, SqliteOptions::default()).await
    }

    /// One that asks nobody, with thirty images of Alice's, for people to look around in.
    pub async fn with_thirty_images() -> Self {
        let world = Self::start(marketplace_service::Settings {
            confirms: false,
            sends_letters: true,
            title: "Example Marketplace".to_owned(),
            ..marketplace_service::Settings::default()
        })
        .await;
        let key = alice();
        for number in 1..=30 {
            let document = signed(&image(number), &key, after(-60 + i64::from(number)));
            assert_eq!(world.post(&document).await.status, 201);
        }
        world
    }

    /// One whose endorsers confirm by letter.
    pub async fn asking() -> Self {
        Self::start(marketplace_service::Settings {
            sends_letters: true,
            ..marketplace_service::Settings::default()
        })
        .await
    }

    /// The path of a link that ends so, of the last letter up to this number that has one: letters that were written at once come in
    /// any order.
    pub async fn link(&self, number: usize, act: &str) -> String {
        let end = format!("/{act}/");
        let all = self.sink.wait_for(number + 1).await;
        let mut texts = all.iter().rev().map(|letter| letter.text());
        let text = texts.find(|text| text.contains(&end)).unwrap();
        let mut words = text.split_whitespace();
        let link = words.find(|word| word.ends_with(&end));
        let link = link.unwrap_or_else(|| panic!("{text}"));
        link.strip_prefix("http://m.example.org")
            .unwrap()
            .to_owned()
    }

    /// With a database like this.
    pub async fn with_database(
        settings: marketplace_service::Settings,
        options: SqliteOptions,
    ) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::over(folder, settings, Door::default(), options).await
    }

    /// The same, ended and started anew with another database over the same file.
    pub async fn again(
        &self,
        settings: marketplace_service::Settings,
        options: SqliteOptions,
    ) -> Self {
        self.stop.cancel();
        self.store.close().await;
        Self::over(Arc::clone(&self.folder), settings, Door::default(), options).await
    }

    async fn over(
        folder: Arc<tempfile::TempDir>,
        mut settings: marketplace_service::Settings,
        door: Door,
        options: SqliteOptions,
    ) -> Self {
        if settings.url == marketplace_service::Settings::default().url {
            "http://m.example.org/".clone_into(&mut settings.url);
        }
        let path = folder.path().join("db");
        let store = Arc::new(SqliteStore::open_with(path, options).unwrap());
        let marketplace = Marketplace::open(store.clone(), settings).await.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(marketplace.clone().run(stop.clone()));
        let sink = Sink::start(Mood::Takes).await;
        let postman = Postman::new(store.clone(), &sink.settings()).unwrap();
        tokio::spawn(postman.run(stop.clone()));
        let api = Arc::new(FakeCloud::default()) as Arc<dyn CloudApi>;
        let doors = Doors::new(api, accounts(), door.settings)
            .with_marketplace(marketplace.clone())
            .serving(Serving::MarketplaceAlone);
        let tls = door.is_encrypted.then(|| {
            let names = ["127.0.0.1".to_owned()];
            let files = tls::ensure_self_signed(folder.path(), &names).unwrap();
            tls::Speech::new(tls::Certificate::read(&files).unwrap().into()).unwrap()
        });
        let server = Server::new(Arc::new(doors), door.limits, tls);
        let running = server.start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self {
            running,
            marketplace,
            stop,
            sink,
            store,
            folder,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    pub async fn ask(&self, request: &str, headers: &str, body: &[u8]) -> Reply {
        self.ask_host("m.example.org", request, headers, body).await
    }

    /// As if this were its name.
    pub async fn ask_host(&self, host: &str, request: &str, headers: &str, body: &[u8]) -> Reply {
        let head = format!(
            "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut received = Vec::new();
        let work = async {
            let mut stream = TcpStream::connect(self.address()).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let _ = stream.write_all(body).await;
            stream.read_to_end(&mut received).await.unwrap();
        };
        timeout(PATIENCE, work).await.unwrap();
        Reply::parse(&received).unwrap_or_else(|| panic!("{request}: no answer"))
    }

    pub async fn get(&self, path: &str, headers: &str) -> (Reply, String) {
        let reply = self.ask(&format!("GET {path}"), headers, b"").await;
        let text = String::from_utf8(reply.body.clone()).unwrap();
        (reply, text)
    }

    pub async fn post(&self, document: &str) -> Reply {
        let headers = "Content-Type: application/xml\r\nAccept: application/xml\r\n";
        self.ask("POST /metadata", headers, document.as_bytes())
            .await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
