#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::time::SystemTime;

use cimi::HostId;
use documents::Documents;
use http::header::{HeaderName, RANGE};
use storage::{import::client_of_server, replicas::Settings};
use store::SqliteStore;
use tokio::task::JoinHandle;
use trust::{Authority, Joined, PublicKey, SERVER_NAME, TICKET_LIFE};

use super::*;
use crate::joining::Believed;

/// What the file is called; nothing looks whether it is so.
const SHA1: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";
const LENGTH: usize = 3_000_000;

fn content() -> Vec<u8> {
    let bytes = (0..LENGTH).map(|at| u8::try_from(at * 7 % 251).unwrap());
    bytes.collect()
}

/// A host of the cloud.
pub(in crate::joined_host) struct Host {
    local: String,
    pub(in crate::joined_host) kept: Kept,
    pub(in crate::joined_host) key: HostKey,
}

impl Host {
    pub(in crate::joined_host) fn of(authority: &Authority, name: &str) -> Self {
        let (id, key) = (HostId::generate(), HostKey::generate().unwrap());
        let public = PublicKey::requested(&key.request().unwrap()).unwrap();
        let admitted = authority
            .admit(&public, id.local(), name, SystemTime::now())
            .unwrap();
        let joined = Joined {
            host: id.to_string(),
            name: name.to_owned(),
            certificate: admitted.certificate,
            authority: authority.certificate_pem().to_owned(),
            expires: Timestamp::now().after(Duration::from_secs(3600)),
        };
        Self {
            local: id.local().to_owned(),
            kept: Kept {
                joined,
                entries: Vec::new(),
            },
            key,
        }
    }

    /// As it speaks to another one, with a ticket.
    fn client(&self, other: &Host, ticket: Option<&str>) -> reqwest::Client {
        let believed = Believed::of_host(&self.kept, &self.key).unwrap();
        let authority = self.kept.authority().unwrap();
        let config = believed.config_of_host(&other.local, &authority).unwrap();
        let ticket = ticket.map(|ticket| {
            (
                HeaderName::from_static(TICKET_HEADER),
                HeaderValue::from_str(ticket).unwrap(),
            )
        });
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .default_headers(HeaderMap::from_iter(ticket));
        client_of_server(builder, "127.0.0.1").unwrap()
    }
}

struct World {
    authority: Authority,
    giver: Host,
    port: u16,
    giving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let _ = ring::default_provider().install_default();
        let authority = Authority::generate(SystemTime::now()).unwrap();
        let giver = Host::of(&authority, "giver");
        let folder = tempfile::tempdir().unwrap();
        let replicas = folder.path().join("replicas");
        std::fs::create_dir(&replicas).unwrap();
        std::fs::write(replicas.join(format!("{SHA1}.disk")), content()).unwrap();
        std::fs::write(replicas.join(format!("{SHA1}.file.part")), content()).unwrap();
        let store = SqliteStore::open(folder.path().join("db")).unwrap();
        let documents = Documents::open(Arc::new(store)).await.unwrap();
        let replicas = Replicas::open(Settings::new(replicas, Vec::new()), documents);
        let place = Place::at(Ipv4Addr::LOCALHOST, 0).await;
        let (listener, port) = (place.listener().unwrap(), place.port().unwrap());
        let own = (&giver.kept, &giver.key);
        let giving = Giving::open(listener, own, &giver.local, replicas.await.unwrap()).unwrap();
        Self {
            authority,
            giver,
            port,
            giving: tokio::spawn(async move { giving.run(CancellationToken::new()).await }),
            _folder: folder,
        }
    }

    fn ticket(&self, to: &Host) -> Ticket {
        Ticket {
            sha1: SHA1.to_owned(),
            from: self.giver.local.clone(),
            to: to.local.clone(),
            until: Timestamp::now().after(TICKET_LIFE),
        }
    }

    fn signed(&self, ticket: &Ticket) -> String {
        ticket.sign(&self.authority).unwrap()
    }

    fn url(&self, file: &str) -> String {
        format!("https://{SERVER_NAME}:{}{REPLICAS_PATH}{file}", self.port)
    }

    /// What a host gets by a ticket.
    async fn get(&self, host: &Host, ticket: Option<&str>, file: &str) -> (u16, Bytes) {
        let asked = host.client(&self.giver, ticket).get(self.url(file));
        let answer = asked.send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.giving.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_has_what_an_entry_has_signed_for_it_whole_and_in_part() {
    let world = World::new().await;
    let host = Host::of(&world.authority, "asking");
    let ticket = world.signed(&world.ticket(&host));
    let file = format!("{SHA1}.disk");
    let (status, body) = world.get(&host, Some(&ticket), &file).await;
    assert_eq!((status, &*body), (200, &*content()));

    let client = host.client(&world.giver, Some(&ticket));
    let rest = client
        .get(world.url(&file))
        .header(RANGE, "bytes=2999990-")
        .send()
        .await
        .unwrap();
    assert_eq!(rest.status(), 206);
    assert_eq!(
        rest.headers()["content-range"],
        "bytes 2999990-2999999/3000000"
    );
    assert_eq!(rest.bytes().await.unwrap(), content()[2_999_990..]);

    // It isn't there, or not whole.
    let of_kernel = format!("{SHA1}.file");
    let (status, _) = world.get(&host, Some(&ticket), &of_kernel).await;
    assert_eq!(status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_has_it_and_nothing_else() {
    let world = World::new().await;
    let (host, other) = (
        Host::of(&world.authority, "asking"),
        Host::of(&world.authority, "other"),
    );
    let file = format!("{SHA1}.disk");
    let good = world.ticket(&host);
    let signed = world.signed(&good);
    // Another host with this one's ticket; none; one for another content, from another host, or of yesterday.
    let of_other = SHA1.replace('a', "b");
    let wrong = [
        Ticket {
            sha1: of_other.clone(),
            ..good.clone()
        },
        Ticket {
            from: other.local.clone(),
            ..good.clone()
        },
        Ticket {
            until: Timestamp::from_millis(0),
            ..good.clone()
        },
    ];
    assert_eq!(world.get(&other, Some(&signed), &file).await.0, 403);
    assert_eq!(world.get(&host, None, &file).await.0, 403);
    for ticket in wrong {
        let signed = world.signed(&ticket);
        let (status, body) = world.get(&host, Some(&signed), &file).await;
        assert_eq!((status, body.len()), (403, 0), "{ticket:?}");
    }
    let (status, _) = world
        .get(&host, Some(&signed), &format!("{of_other}.disk"))
        .await;
    assert_eq!(status, 403);
    let foreign = Authority::generate(SystemTime::now()).unwrap();
    let forged = good.sign(&foreign).unwrap();
    assert_eq!(world.get(&host, Some(&forged), &file).await.0, 403);

    // Who is no host of this cloud isn't let in, and who gives must be who was named.
    let stranger = Host::of(&foreign, "asking");
    let believed = Believed::of_host(&stranger.kept, &stranger.key).unwrap();
    let authority = world.giver.kept.authority().unwrap();
    let config = believed
        .config_of_host(&world.giver.local, &authority)
        .unwrap();
    let builder = reqwest::Client::builder().tls_backend_preconfigured(config);
    let client = client_of_server(builder, "127.0.0.1").unwrap();
    client.get(world.url(&file)).send().await.unwrap_err();
    let mistaken = host.client(&other, Some(&signed));
    mistaken.get(world.url(&file)).send().await.unwrap_err();
}

#[tokio::test]
async fn a_place_that_somebody_has_is_had_when_it_is_free() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = other.local_addr().unwrap().port();
    let place = Place::at(Ipv4Addr::LOCALHOST, port).await;
    assert_eq!((place.port(), place.listener().is_some()), (None, false));
    drop(other);
    tokio::time::pause();
    place.had().await;
    assert_eq!(place.port(), Some(port));
    // Nobody is told twice.
    let again = timeout(Duration::from_secs(3600), place.had()).await;
    assert!(again.is_err());
}
