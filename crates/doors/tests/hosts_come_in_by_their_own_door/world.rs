//! A cloud with a door for hosts, and who comes to it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use accounts::{Accounts, Cost, Hashing};
use async_trait::async_trait;
use bytes::Bytes;
use cimi::{
    HostId, Timestamp,
    lifecycle::Power,
    model::Kind,
    resources::{Machine, VolumeUse},
    testing as documents_of,
};
use cloud::{Cloud, Duplex, ImageIntake, NoServices, OpContext, Relay, VolumesOfHosts, testing};
use documents::Documents;
use doors::{Doors, HostCalls, HostDoor, Limits, Running, Server, Settings, tls};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use store::{
    EtcdOptions, EtcdStore, Key, Outcome, Page, Prefix, Range, SharedStore, SqliteStore,
    Store as _, StoreError, Transaction, testing::Interposed,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use trust::{
    HostKey, JOIN_PATH, JoinRequest, JoinToken, Joined, OfAuthority, SERVER_NAME, TargetRequest,
};

use crate::support::{client::PATIENCE, recorder::Recorder};

pub struct World {
    pub running: Running,
    pub cloud: Cloud,
    pub root: OpContext,
    pub store: SharedStore,
    pub gates: Arc<Gates>,
    pub audit: Arc<Recorder>,
    pub calls: HostCalls,
    pub volumes: Arc<Volumes>,
    _following: JoinSet<()>,
    pub folder: tempfile::TempDir,
}

/// Where a test holds those who pass.
#[derive(Default)]
pub struct Gate {
    is_closed: watch::Sender<bool>,
    /// How many have come while it was closed.
    came: AtomicUsize,
}

impl Gate {
    async fn pass(&self) {
        let mut is_closed = self.is_closed.subscribe();
        if *is_closed.borrow_and_update() {
            self.came.fetch_add(1, Ordering::SeqCst);
        }
        is_closed.wait_for(|is_closed| !is_closed).await.unwrap();
    }

    pub fn close(&self) {
        self.is_closed.send_replace(true);
    }

    pub fn open(&self) {
        self.is_closed.send_replace(false);
    }

    pub fn came(&self) -> usize {
        self.came.load(Ordering::SeqCst)
    }
}

/// For writes, and for reading the whole store.
#[derive(Default)]
pub struct Gates {
    pub writing: Gate,
    pub reading: Gate,
}

struct Gated {
    behind: SharedStore,
    gates: Arc<Gates>,
}

#[async_trait]
impl Interposed for Gated {
    fn behind(&self) -> &SharedStore {
        &self.behind
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        if range.from().is_empty() && range.max_entries().is_none() {
            self.gates.reading.pass().await;
        }
        self.behind.range(range).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.gates.writing.pass().await;
        self.behind.commit(transaction).await
    }
}

/// Greets who gets a volume, and knows who has which.
#[derive(Default)]
pub struct Volumes(watch::Sender<Vec<(HostId, VolumeUse)>>);

impl Volumes {
    /// Waits until it is these who have volumes.
    pub async fn are_had_by(&self, expected: &[(HostId, VolumeUse)]) {
        let mut had = self.0.subscribe();
        let had = had.wait_for(|had| had == expected);
        timeout(PATIENCE, had).await.unwrap().unwrap();
    }

    async fn show(
        &self,
        host: &HostId,
        of: &VolumeUse,
        stream: &mut dyn Duplex,
        until: &CancellationToken,
    ) {
        let one = (host.clone(), of.clone());
        self.0.send_modify(|had| had.push(one.clone()));
        let _ = stream.write_all(b"NBDMAGIC").await;
        let mut said = [0; 16];
        let quiet = async { while stream.read(&mut said).await.is_ok_and(|read| read > 0) {} };
        until.run_until_cancelled(quiet).await;
        self.0.send_modify(|had| had.retain(|other| *other != one));
    }
}

#[async_trait]
impl VolumesOfHosts for Volumes {
    async fn serve(&self, host: &HostId, of: &VolumeUse, relay: Relay, until: &CancellationToken) {
        let (mut shown, local) = UnixStream::pair().unwrap();
        let relayed = relay(local);
        let showing = self.show(host, of, &mut shown, until);
        let _ = tokio::join!(showing, until.run_until_cancelled(relayed));
    }

    async fn show_target(
        &self,
        host: &HostId,
        asked: &TargetRequest,
        stream: &mut dyn Duplex,
        until: &CancellationToken,
    ) {
        self.show(host, &asked.0, stream, until).await;
    }
}

pub async fn open_cloud(store: SharedStore) -> Cloud {
    open_cloud_with(store, Arc::new(NoServices)).await
}

async fn open_cloud_with(store: SharedStore, images: Arc<dyn ImageIntake>) -> Cloud {
    let documents = Documents::open(store).await.unwrap();
    let services = Arc::new(NoServices);
    let cloud = Cloud::open(documents, testing::settings(), services, images);
    cloud.await.unwrap()
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(Arc::new(NoServices)).await
    }

    /// With these contents of images.
    pub async fn start_with(images: Arc<dyn ImageIntake>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db")).unwrap();
        let gates = Arc::new(Gates::default());
        let store: SharedStore = Arc::new(Gated {
            behind: Arc::new(store),
            gates: gates.clone(),
        });
        let cloud = open_cloud_with(store.clone(), images).await;
        let root = testing::caller("root", &["::ADMIN"]);
        let body = json!({"username": "root", "password": "correct horse", "roles": ["::ADMIN"]});
        let made = cloud.create(&root, Kind::User, testing::object(body));
        made.await.unwrap();

        let hashing = Hashing::with_cost(Cost::NONE);
        let settings = accounts::Settings::default();
        let accounts = Accounts::new(Arc::new(cloud.clone()), hashing, settings);
        let doors = Doors::new(
            Arc::new(cloud.clone()),
            Arc::new(accounts),
            Settings::default(),
        );
        let files = tls::ensure_self_signed(&folder.path().join("tls"), &[]).unwrap();
        let certificate = Arc::new(tls::Certificate::read(&files).unwrap());
        let (audit, volumes) = (Arc::new(Recorder::default()), Arc::new(Volumes::default()));
        let calls = HostCalls::default();
        let hosts = Arc::new(HostDoor::new(
            cloud.clone(),
            audit.clone(),
            (volumes.clone(), Arc::new(cloud::NoServices)),
            (calls.clone(), doors::Meetings::default()),
        ));
        let server = Server::new(
            Arc::new(doors),
            Limits::default(),
            Some(tls::Speech::new(certificate).unwrap()),
        );
        let server = server.with_hosts(hosts.clone());
        let mut following = JoinSet::new();
        following.spawn(async move { hosts.follow().await });
        Self {
            running: server.start("127.0.0.1:0".parse().unwrap()).await.unwrap(),
            cloud,
            root,
            store,
            gates,
            audit,
            calls,
            volumes,
            _following: following,
            folder,
        }
    }

    pub async fn token(&self, asked: Value) -> JoinToken {
        let asked = testing::object(asked);
        let made = self.cloud.create_host_token(&self.root, &asked).await;
        let made = made.unwrap();
        made["token"].as_str().unwrap().parse().unwrap()
    }

    pub async fn join(
        &self,
        token: &JoinToken,
        key: &HostKey,
        name: &str,
    ) -> Result<Joined, String> {
        self.join_at(token, key, name, Timestamp::now()).await
    }

    pub async fn join_at(
        &self,
        token: &JoinToken,
        key: &HostKey,
        name: &str,
        time: Timestamp,
    ) -> Result<Joined, String> {
        let asked = JoinRequest {
            secret: token.secret.clone(),
            request: key.request().unwrap(),
            name: name.to_owned(),
            time,
        };
        let (status, body) = ask(self.running.address, config(token, None), JOIN_PATH, &asked)
            .await
            .unwrap();
        match status {
            200 => Ok(serde_json::from_slice(&body).unwrap()),
            _ => {
                let said: Value = serde_json::from_slice(&body).unwrap();
                Err(format!("{status}: {}", said["error"].as_str().unwrap()))
            }
        }
    }

    /// A host that has joined: its answer, and its key.
    pub async fn host(&self, name: &str) -> (Joined, HostKey, JoinToken) {
        let (token, key) = (self.token(json!({})).await, HostKey::generate().unwrap());
        let joined = self.join(&token, &key, name).await.unwrap();
        (joined, key, token)
    }

    pub async fn connect(&self, joined: &Joined, key: &HostKey) -> Result<EtcdStore, StoreError> {
        self.connect_within(joined, key, Duration::from_secs(20))
            .await
    }

    pub async fn connect_within(
        &self,
        joined: &Joined,
        key: &HostKey,
        deadline: Duration,
    ) -> Result<EtcdStore, StoreError> {
        let mut options = EtcdOptions::new(vec![format!("https://{}", self.running.address)]);
        options.history_revisions = None;
        options.deadline = deadline;
        options.tls.authority = Some(joined.authority.clone().into_bytes());
        options.tls.identity = Some((
            joined.certificate.clone().into_bytes(),
            key.to_pem().into_bytes(),
        ));
        options.tls.server_name = Some(SERVER_NAME.to_owned());
        EtcdStore::open(options).await
    }

    pub async fn put(&self, key: impl ToString, value: Vec<u8>) {
        let key: Key = key.to_string().parse().unwrap();
        let put = Transaction::new().put(key, value);
        let done = self.store.commit(put).await.unwrap();
        let Outcome::Committed(revision) = done else {
            panic!("{done:?}")
        };
        self.cloud.documents().wait_for(revision).await.unwrap();
    }

    pub async fn remove(&self, joined: &Joined) {
        let id = joined.host.strip_prefix("Host/").unwrap();
        let removed = self.cloud.delete(&self.root, Kind::Host, id);
        removed.await.unwrap();
    }
}

/// Believes the authority of this token; shows this certificate.
pub fn config(token: &JoinToken, own: Option<(&str, &str)>) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let verifier = OfAuthority::new(token.authority, provider.clone());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// One call by HTTP/2; an error if there is no connection, or it ends.
pub async fn ask(
    address: SocketAddr,
    config: ClientConfig,
    path: &str,
    body: &impl serde::Serialize,
) -> Result<(u16, Bytes), String> {
    let exchange = async {
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = stream.await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
        let driving = tokio::spawn(connection);
        let body = Full::new(Bytes::from(serde_json::to_vec(body).unwrap()));
        let request = http::Request::post(format!("https://{SERVER_NAME}{path}"));
        let answer = sender.send_request(request.body(body).unwrap()).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        driving.abort();
        Ok((status, body))
    };
    timeout(PATIENCE, exchange).await.unwrap()
}

/// A connection that goes on, and what speaks on it.
pub async fn open_connection(
    address: SocketAddr,
    config: ClientConfig,
) -> (SendRequest<Full<Bytes>>, JoinHandle<()>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = TokioIo::new(stream.await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    let driving = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, driving)
}

/// Asks for something that isn't there; whether that is answered, so that the connection was admitted.
pub async fn is_admitted(sender: &mut SendRequest<Full<Bytes>>) -> bool {
    let request = http::Request::post(format!("https://{SERVER_NAME}/nothing"));
    let answered = sender.send_request(request.body(Full::default()).unwrap());
    timeout(PATIENCE, answered).await.unwrap().is_ok()
}

pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

pub async fn seen(store: &EtcdStore) -> Vec<String> {
    let page = store.range(Range::prefix(&Prefix::everything())).await;
    let keys = page.unwrap().entries.into_iter();
    keys.map(|entry| entry.key.to_string()).collect()
}

pub fn machine_on(host: &str) -> Machine {
    let mut machine = documents_of::machine(7);
    machine.host = Some(host.parse().unwrap());
    machine.desired.power = Power::On;
    machine.settle();
    machine
}
