//! The door for hosts, over real TLS in front of the real rules and a real database: who joins, who gets in, who sees what.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{net::SocketAddr, sync::Arc, time::Duration};

use accounts::{Accounts, Cost, Hashing};
use bytes::Bytes;
use cimi::{
    Timestamp,
    lifecycle::Power,
    model::Kind,
    resources::{Host, Machine, Resource as _},
    testing as documents_of,
};
use cloud::{Cloud, ImageIntake, NoServices, OpContext, testing};
use documents::Documents;
use doors::{Doors, HostDoor, Limits, NoAudit, Running, Server, Settings, tls};
use hosts::HostRules;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use store::{
    EtcdOptions, EtcdStore, Key, Outcome, Prefix, Range, Rules, SharedStore, SqliteStore,
    Store as _, StoreError, Transaction,
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;
use trust::{
    HostKey, JOIN_PATH, JoinRequest, JoinToken, Joined, OfAuthority, RENEW_PATH, RenewRequest,
    SERVER_NAME,
};

use crate::support::client::PATIENCE;

pub(crate) struct World {
    pub(crate) running: Running,
    pub(crate) cloud: Cloud,
    root: OpContext,
    store: SharedStore,
    _following: JoinSet<()>,
    folder: tempfile::TempDir,
}

async fn open_cloud(store: SharedStore) -> Cloud {
    open_cloud_with(store, Arc::new(NoServices)).await
}

async fn open_cloud_with(store: SharedStore, images: Arc<dyn ImageIntake>) -> Cloud {
    let documents = Documents::open(store).await.unwrap();
    let services = Arc::new(NoServices);
    let cloud = Cloud::open(documents, testing::settings(), services, images);
    cloud.await.unwrap()
}

impl World {
    async fn start() -> Self {
        Self::start_with(Arc::new(NoServices), Arc::new(HostRules)).await
    }

    /// With these contents of images, and these rules for hosts.
    pub(crate) async fn start_with(images: Arc<dyn ImageIntake>, rules: Arc<dyn Rules>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db")).unwrap();
        let store: SharedStore = Arc::new(store);
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
        let hosts = Arc::new(HostDoor::with_rules(
            cloud.clone(),
            Arc::new(NoAudit),
            rules,
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
            _following: following,
            folder,
        }
    }

    async fn token(&self, asked: Value) -> JoinToken {
        let asked = testing::object(asked);
        let made = self.cloud.create_host_token(&self.root, &asked).await;
        let made = made.unwrap();
        made["token"].as_str().unwrap().parse().unwrap()
    }

    async fn join(&self, token: &JoinToken, key: &HostKey, name: &str) -> Result<Joined, String> {
        self.join_at(token, key, name, Timestamp::now()).await
    }

    async fn join_at(
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
    pub(crate) async fn host(&self, name: &str) -> (Joined, HostKey, JoinToken) {
        let (token, key) = (self.token(json!({})).await, HostKey::generate().unwrap());
        let joined = self.join(&token, &key, name).await.unwrap();
        (joined, key, token)
    }

    async fn connect(&self, joined: &Joined, key: &HostKey) -> Result<EtcdStore, StoreError> {
        let mut options = EtcdOptions::new(vec![format!("https://{}", self.running.address)]);
        options.history_revisions = None;
        options.deadline = Duration::from_secs(3);
        options.tls.authority = Some(joined.authority.clone().into_bytes());
        options.tls.identity = Some((
            joined.certificate.clone().into_bytes(),
            key.to_pem().into_bytes(),
        ));
        options.tls.server_name = Some(SERVER_NAME.to_owned());
        EtcdStore::open(options).await
    }

    pub(crate) async fn put(&self, key: impl ToString, value: Vec<u8>) {
        let key: Key = key.to_string().parse().unwrap();
        let put = Transaction::new().put(key, value);
        let done = self.store.commit(put).await.unwrap();
        let Outcome::Committed(revision) = done else {
            panic!("{done:?}")
        };
        self.cloud.documents().wait_for(revision).await.unwrap();
    }

    async fn remove(&self, joined: &Joined) {
        let id = joined.host.strip_prefix("Host/").unwrap();
        let removed = self.cloud.delete(&self.root, Kind::Host, id);
        removed.await.unwrap();
    }
}

/// Believes the authority of this token; shows this certificate.
pub(crate) fn config(token: &JoinToken, own: Option<(&str, &str)>) -> ClientConfig {
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
async fn ask(
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

async fn seen(store: &EtcdStore) -> Vec<String> {
    let page = store.range(Range::prefix(&Prefix::everything())).await;
    let keys = page.unwrap().entries.into_iter();
    keys.map(|entry| entry.key.to_string()).collect()
}

fn machine_on(host: &str) -> Machine {
    let mut machine = documents_of::machine(7);
    machine.host = Some(host.parse().unwrap());
    machine.desired.power = Power::On;
    machine.settle();
    machine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_sees_its_own_and_is_cut_off_when_it_is_removed() {
    let world = World::start().await;
    let (joined, key, _) = world.host("node1").await;
    let (other, _, _) = world.host("node2").await;
    let (mine, theirs) = (machine_on(&joined.host), machine_on(&other.host));
    for machine in [&mine, &theirs] {
        world
            .put(&machine.id, serde_json::to_vec(machine).unwrap())
            .await;
    }
    let store = world.connect(&joined, &key).await.unwrap();
    assert_eq!(
        seen(&store).await,
        [joined.host.clone(), mine.id.to_string()]
    );

    // By name, too: neither the authority's key, nor what hosts are known by, nor users.
    let local = joined.host.strip_prefix("Host/").unwrap();
    let digest = world.cloud.documents().host_tokens.all();
    for hidden in [
        "HostAuthority/own".to_owned(),
        format!("HostIdentity/{local}"),
        digest.first().unwrap().document.id.to_string(),
        "User/root".to_owned(),
        other.host.clone(),
        theirs.id.to_string(),
    ] {
        let key: Key = hidden.parse().unwrap();
        assert!(world.store.get(&key).await.unwrap().is_some(), "{hidden}");
        assert!(store.get(&key).await.unwrap().is_none(), "{hidden}");
        let put = store
            .commit(Transaction::new().put(key.clone(), "{}"))
            .await;
        assert!(
            matches!(put, Err(StoreError::Refused { .. })),
            "{hidden}: {put:?}"
        );
        let gone = store.commit(Transaction::new().delete(key)).await;
        assert!(
            matches!(gone, Err(StoreError::Refused { .. })),
            "{hidden}: {gone:?}"
        );
    }

    // It reports itself, and can't make itself a host for machines.
    let reported = Documents::open(Arc::new(store)).await.unwrap();
    let mut host = reported.hosts.get(local).unwrap().document.0.clone();
    host.capacity.cpus = 12;
    host.boot_id = "boot".into();
    let read = reported.hosts.get(local).unwrap();
    reported
        .changes()
        .replace(&read, host.clone())
        .commit()
        .await
        .unwrap();
    host.desired.apart = false;
    let read = reported.hosts.get(local).unwrap();
    let refused = reported.changes().replace(&read, host).commit().await;
    assert!(refused.is_err(), "{refused:?}");

    // A watch that goes on when the host is removed ends, and nothing is to be had from then on.
    let store = world.connect(&joined, &key).await.unwrap();
    let at = store
        .range(Range::prefix(&Prefix::everything()))
        .await
        .unwrap();
    let mut watch = store
        .watch(Prefix::everything(), at.revision)
        .await
        .unwrap();
    let gone = Transaction::new().delete(mine.id.to_string().parse().unwrap());
    let gone = world.store.commit(gone).await.unwrap();
    assert!(matches!(gone, Outcome::Committed(_)), "{gone:?}");
    let told = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert_eq!(told.changes.len(), 1);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world
        .cloud
        .documents()
        .machines
        .get(mine.local_id())
        .is_some()
    {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    world.remove(&joined).await;
    let after = store.get(&joined.host.parse().unwrap()).await;
    assert!(
        matches!(after, Err(StoreError::Unavailable { .. })),
        "{after:?}"
    );
    let again = world.connect(&joined, &key).await;
    assert!(
        matches!(again, Err(StoreError::Unavailable { .. })),
        "{again:?}"
    );
    // The other one isn't harmed.
    assert!(
        world
            .cloud
            .documents()
            .hosts
            .get(other.host.strip_prefix("Host/").unwrap())
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_connection_ends_with_its_host() {
    let world = World::start().await;
    let (joined, key, token) = world.host("node1").await;
    let key = key.to_pem();
    let config = config(&token, Some((&joined.certificate, &key)));
    let stream = TcpStream::connect(world.running.address).await.unwrap();
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = TokioIo::new(stream.await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), stream)
            .await
            .unwrap();
    let mut connection = std::pin::pin!(connection);
    // Admitted, as it goes on.
    let goes_on = timeout(Duration::from_millis(500), connection.as_mut()).await;
    assert!(goes_on.is_err(), "{goes_on:?}");
    world.remove(&joined).await;
    // At once: well before it would look by itself.
    timeout(Duration::from_secs(20), connection)
        .await
        .unwrap()
        .ok();
    drop(sender);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_one_host_in_once() {
    let world = World::start().await;
    let token = world.token(json!({"name": "rack1-3", "hours": 2})).await;
    let key = HostKey::generate().unwrap();
    // Wrong clocks use nothing up.
    let slow = Timestamp::from_millis(Timestamp::now().as_millis() - 600_000);
    let refused = world.join_at(&token, &key, "x", slow).await.unwrap_err();
    assert!(
        refused.starts_with("409") && refused.contains("behind the cloud's"),
        "{refused}"
    );
    let joined = world.join(&token, &key, "x").await.unwrap();
    assert_eq!(joined.name, "rack1-3");
    let id = joined.host.strip_prefix("Host/").unwrap();
    let host = world.cloud.documents().hosts.get(id).unwrap();
    assert!(host.desired.apart);

    // The answer was lost: by the same key it comes again, and there is one host.
    let again = world.join(&token, &key, "x").await.unwrap();
    assert_eq!(again.host, joined.host);
    assert_eq!(world.cloud.documents().hosts.len(), 1);
    let thief = HostKey::generate().unwrap();
    let refused = world.join(&token, &thief, "y").await.unwrap_err();
    assert!(
        refused.starts_with("403") && refused.contains("used already"),
        "{refused}"
    );

    // Another host of the name; a name that is none; a secret that nobody made.
    let second = world.token(json!({})).await;
    let refused = world.join(&second, &thief, "rack1-3").await.unwrap_err();
    assert!(
        refused.starts_with("409") && refused.contains("there is a host"),
        "{refused}"
    );
    let refused = world.join(&second, &thief, "../x").await.unwrap_err();
    assert!(refused.starts_with("400"), "{refused}");
    let unknown = JoinToken {
        secret: trust::JoinSecret::generate().unwrap(),
        ..token.clone()
    };
    let refused = world.join(&unknown, &thief, "y").await.unwrap_err();
    assert!(
        refused.starts_with("403") && refused.contains("no such token"),
        "{refused}"
    );

    // Expired.
    let kept = world
        .cloud
        .documents()
        .host_tokens
        .get(&second.secret.digest())
        .unwrap();
    let mut old = kept.document.0.clone();
    old.expires = Timestamp::from_millis(0);
    world.put(&old.id, serde_json::to_vec(&old).unwrap()).await;
    let refused = world.join(&second, &thief, "y").await.unwrap_err();
    assert!(
        refused.starts_with("403") && refused.contains("has expired at 1970"),
        "{refused}"
    );

    // Whose host was removed, that one doesn't come back by its old token.
    world.remove(&joined).await;
    let refused = world.join(&token, &key, "x").await.unwrap_err();
    assert!(
        refused.starts_with("403") && refused.contains("used already"),
        "{refused}"
    );

    // Nothing that is kept has the secret.
    let secret = serde_json::to_string(&token.secret).unwrap();
    let everything = world
        .store
        .range(Range::prefix(&Prefix::everything()))
        .await
        .unwrap();
    for entry in everything.entries {
        let text = String::from_utf8_lossy(&entry.value);
        assert!(!text.contains(secret.trim_matches('"')), "{}", entry.key);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_nothing_but_to_join() {
    let world = World::start().await;
    let (joined, key, token) = world.host("node1").await;
    let address = world.running.address;
    for path in [
        "/",
        "/cimi",
        "/renew",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.Lease/LeaseGrant",
    ] {
        let (status, body) = ask(address, config(&token, None), path, &json!({}))
            .await
            .unwrap();
        assert_eq!((status, &*body), (404, &b""[..]), "{path}");
    }
    let (status, body) = ask(
        address,
        config(&token, None),
        JOIN_PATH,
        &json!({"secret": 1}),
    )
    .await
    .unwrap();
    assert_eq!((status, &*body), (400, &b""[..]));
    let long = json!({"secret": "x".repeat(1 << 20)});
    let refused = ask(address, config(&token, None), JOIN_PATH, &long).await;
    assert!(!matches!(refused, Ok((200, _))), "{refused:?}");

    // A user's certificate, by an authority of its own.
    let pair = rcgen::generate_simple_self_signed(vec!["joe".to_owned()]).unwrap();
    let users = config(
        &token,
        Some((&pair.cert.pem(), &pair.signing_key.serialize_pem())),
    );
    let refused = ask(address, users, "/etcdserverpb.KV/Range", &json!({})).await;
    assert!(refused.is_err(), "{refused:?}");

    // Who expects another authority says nothing to this entry.
    let other = JoinToken {
        authority: trust::Fingerprint::of(b"another"),
        ..token.clone()
    };
    let refused = ask(address, config(&other, None), JOIN_PATH, &json!({}))
        .await
        .unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");

    // Connections of one host are bounded; those of others are not concerned.
    let own = key.to_pem();
    let mut open = Vec::new();
    for _ in 0..8 {
        let config = config(&token, Some((&joined.certificate, &own)));
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let stream = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
            TokioExecutor::new(),
            stream,
        )
        .await
        .unwrap();
        open.push(tokio::spawn(connection));
        let request = http::Request::post(format!("https://{SERVER_NAME}/nothing"));
        // Answered, so admitted: what it doesn't know it says by gRPC's own status.
        let answered = sender.send_request(request.body(Full::default()).unwrap());
        timeout(PATIENCE, answered).await.unwrap().unwrap();
        std::mem::forget(sender);
    }
    let config_of = config(&token, Some((&joined.certificate, &own)));
    let refused = ask(address, config_of, "/nothing", &json!({})).await;
    assert!(refused.is_err(), "{refused:?}");
    let (second, second_key, _) = world.host("node2").await;
    world.connect(&second, &second_key).await.unwrap();
    for connection in open {
        connection.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_by_the_key_that_has_joined() {
    let world = World::start().await;
    let (joined, key, token) = world.host("node1").await;
    let own = key.to_pem();
    let renew = async |key: &HostKey| {
        let asked = RenewRequest {
            request: key.request().unwrap(),
        };
        let config = config(&token, Some((&joined.certificate, &own)));
        ask(world.running.address, config, RENEW_PATH, &asked)
            .await
            .unwrap()
    };
    let (status, body) = renew(&key).await;
    assert_eq!(status, 200);
    let renewed: Joined = serde_json::from_slice(&body).unwrap();
    assert_eq!(renewed.host, joined.host);
    assert_ne!(renewed.certificate, joined.certificate);
    assert!(renewed.expires >= joined.expires);
    for of in [&joined, &renewed] {
        let store = world.connect(of, &key).await.unwrap();
        assert_eq!(seen(&store).await, std::slice::from_ref(&joined.host));
    }
    let (status, _) = renew(&HostKey::generate().unwrap()).await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_begin_at_once_have_one_authority() {
    let folder = tempfile::tempdir().unwrap();
    let store: SharedStore = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
    let (one, other) = (
        open_cloud(store.clone()).await,
        open_cloud(store.clone()).await,
    );
    let root = testing::caller("root", &["::ADMIN"]);
    let body = json!({"username": "root", "password": "correct horse", "roles": ["::ADMIN"]});
    one.create(&root, Kind::User, testing::object(body))
        .await
        .unwrap();
    other
        .documents()
        .wait_for(one.documents().revision())
        .await
        .unwrap();
    let empty = testing::object(json!({}));
    let (first, second) = tokio::join!(
        one.create_host_token(&root, &empty),
        other.create_host_token(&root, &empty)
    );
    let token = |made: cloud::Result<Value>| -> JoinToken {
        made.unwrap()["token"].as_str().unwrap().parse().unwrap()
    };
    let (first, second) = (token(first), token(second));
    assert_eq!(first.authority, second.authority);
    assert_ne!(first.secret, second.secret);
    // What was made through one entry is good at the other at once.
    let asked = JoinRequest {
        secret: first.secret,
        request: HostKey::generate().unwrap().request().unwrap(),
        name: "node1".into(),
        time: Timestamp::now(),
    };
    let joined = other.join_host(&root, &asked).await.unwrap();
    assert!(joined.host.starts_with("Host/"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_of_the_daemon_itself_is_not_removed() {
    let world = World::start().await;
    let own: Host = documents_of::host();
    world.put(&own.id, serde_json::to_vec(&own).unwrap()).await;
    let refused = world
        .cloud
        .delete(&world.root, Kind::Host, own.local_id())
        .await;
    assert!(refused.unwrap_err().to_string().contains("did not join"));
    let (joined, ..) = world.host("node1").await;
    let machine = machine_on(&joined.host);
    world
        .put(&machine.id, serde_json::to_vec(&machine).unwrap())
        .await;
    let id = joined.host.strip_prefix("Host/").unwrap();
    let refused = world.cloud.delete(&world.root, Kind::Host, id).await;
    assert!(refused.unwrap_err().to_string().contains("machines are on"));
    let anybody = testing::caller("joe", &[]);
    let refused = world.cloud.delete(&anybody, Kind::Host, id).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("only administrators")
    );
    assert!(world.folder.path().exists());
}
