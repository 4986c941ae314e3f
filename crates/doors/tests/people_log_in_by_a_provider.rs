//! OpenID Connect against a real provider: npm's `oidc-provider`, a process of its own, and a browser made of plain HTTP.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use accounts::{
    Accounts, Cost, Directory, DirectoryError, Hashing, directory::Found, methods::Ldap,
    oidc::OidcSettings,
};
use cimi::{dn::DistinguishedName, model::Kind};
use cloud::{
    Cloud, NoServices,
    testing::{self, caller, object},
};
use documents::Documents;
use doors::{Doors, Limits, People, Running, Server, Settings};
use serde_json::json;
use store::SqliteStore;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};

use crate::support::client::{PATIENCE, Reply};

/// Where npm puts the provider, or why it isn't there.
async fn provider_folder() -> Result<PathBuf, String> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache");
    let folder = cache.join("oidc-provider");
    if folder
        .join("node_modules/oidc-provider/package.json")
        .exists()
    {
        return Ok(folder);
    }
    // Beside, and renamed: another test may do the same.
    let in_words = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&cache).map_err(in_words)?;
    let beside = tempfile::tempdir_in(&cache).map_err(in_words)?;
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provider/package.json");
    std::fs::copy(package, beside.path().join("package.json")).map_err(in_words)?;
    let npm = Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--omit=dev",
        ])
        .current_dir(beside.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let installed = timeout(Duration::from_secs(180), npm).await;
    match installed {
        Ok(Ok(status)) if status.success() => {
            let _ = std::fs::rename(beside.path(), &folder);
            Ok(folder)
        }
        Ok(Ok(status)) => Err(format!("npm install: {status}")),
        Ok(Err(error)) => Err(format!("npm: {error}")),
        Err(_) => Err("npm install takes too long".to_owned()),
    }
}

/// The process; ends with this.
struct Provider {
    port: u16,
    child: Child,
}

impl Provider {
    /// At a port, with a key of its own of this name. `None` if there is none here, which is said.
    async fn start(port: u16, key: &str) -> Option<Self> {
        let folder = match provider_folder().await {
            Ok(folder) => folder,
            Err(reason) if std::env::var_os("STRATUS_REQUIRE_ALL").is_some() => panic!("{reason}"),
            Err(reason) => {
                eprintln!("skipped: no login provider to test with: {reason}");
                return None;
            }
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provider/provider.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .args([
                &port.to_string(),
                "http://localhost/cimi/oidc/callback",
                key,
            ])
            .env("PROVIDER_FOLDER", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line == "ready" {
                    return true;
                }
            }
            false
        };
        assert!(
            timeout(PATIENCE, ready).await.unwrap(),
            "the provider ended"
        );
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self { port, child })
    }

    async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }
}

struct World {
    running: Running,
    documents: Documents,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start(port: u16, change: impl FnOnce(&mut OidcSettings)) -> Self {
        Self::beside(port, change, None).await
    }

    /// Beside a directory.
    async fn beside(
        port: u16,
        change: impl FnOnce(&mut OidcSettings),
        directory: Option<Arc<dyn Directory>>,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db")).unwrap();
        let documents = Documents::open(Arc::new(store)).await.unwrap();
        let (hashing, services) = (Hashing::with_cost(Cost::NONE), Arc::new(NoServices));
        let cloud = Cloud::open(
            documents.clone(),
            testing::settings(),
            services.clone(),
            services,
        )
        .await
        .unwrap();
        let root = caller("boss", &["::ADMIN"]);
        let body = json!({"username": "root", "password": "correct horse", "roles": ["::ADMIN"]});
        cloud.create(&root, Kind::User, object(body)).await.unwrap();
        let mut accounts = Accounts::new(
            Arc::new(cloud.clone()),
            hashing,
            accounts::Settings::default(),
        );
        let has_directory = directory.is_some();
        if let Some(directory) = directory {
            accounts = accounts.with_directory(directory);
        }
        let accounts = Arc::new(accounts);
        let mut settings = OidcSettings {
            issuer: format!("http://127.0.0.1:{port}"),
            client_id: "stratus".to_owned(),
            client_secret: "open sesame: 100%".to_owned(),
            redirect_url: "https://x/cimi/oidc/callback".to_owned(),
            roles: [("physics".to_owned(), "phys".to_owned())].into(),
            default_roles: vec!["cloud-access".to_owned()],
            ..OidcSettings::default()
        };
        // The one that the provider knows; this is a server without TLS.
        settings.redirect_url = "http://localhost/cimi/oidc/callback".to_owned();
        change(&mut settings);
        let mut body = json!({"service": "authn", "localdb": {"password-enabled": true, "cert-enabled": false}, "oidc": settings});
        if has_directory {
            body["ldap"] = json!({
                "password-enabled": true, "cert-enabled": false,
                "connection": {"host": {"address": "ldap.example.org", "port": 636}, "ssl?": true},
                "user-object-class": "inetOrgPerson", "user-base-dn": "ou=users,o=cloud",
                "user-id-attr": "uid", "role-object-class": "groupOfUniqueNames",
                "role-base-dn": "ou=groups,o=cloud", "role-member-attr": "uniqueMember",
                "role-name-attr": "cn",
            });
        }
        cloud
            .create(&root, Kind::ServiceConfiguration, object(body))
            .await
            .unwrap();
        let people = People::new(cloud.clone(), accounts.clone());
        let doors = Doors::new(Arc::new(cloud), accounts, Settings::default()).with_people(people);
        let server = Server::new(Arc::new(doors), Limits::default(), None);
        let running = server.start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self {
            running,
            documents,
            _folder: folder,
        }
    }
}

/// As much of a browser as a login needs: cookies by host, redirects followed by the test.
#[derive(Default)]
struct Browser {
    cookies: BTreeMap<(u16, String), String>,
}

impl Browser {
    async fn ask(&mut self, port: u16, method: &str, path: &str, body: &str) -> Reply {
        let cookies: Vec<_> = self
            .cookies
            .iter()
            .filter(|((of, _), _)| *of == port)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nAccept: text/html,*/*;q=0.8\r\nCookie: {}\r\nOrigin: http://127.0.0.1:{port}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            cookies.join("; "),
            body.len()
        );
        let mut received = Vec::new();
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.read_to_end(&mut received).await.unwrap();
        };
        timeout(PATIENCE, exchange).await.unwrap();
        // Several headers of one name, which `Reply` has once.
        let head = String::from_utf8_lossy(&received).into_owned();
        let head = head.split("\r\n\r\n").next().unwrap_or_default().to_owned();
        for line in head.lines() {
            let Some((name, value)) = line.split_once(": ") else {
                continue;
            };
            if name.eq_ignore_ascii_case("set-cookie") {
                let (name, value) = value.split(';').next().unwrap().split_once('=').unwrap();
                let key = (port, name.to_owned());
                if value.is_empty() {
                    self.cookies.remove(&key);
                } else {
                    self.cookies.insert(key, value.to_owned());
                }
            }
        }
        Reply::parse(&received).unwrap()
    }

    /// Goes where an answer sends it to at the provider, logs in there, and stops at the way back, which it returns.
    async fn through(&mut self, provider: u16, start: &str, login: &str) -> String {
        let host = format!("http://127.0.0.1:{provider}");
        let mut path = start
            .strip_prefix(&host)
            .unwrap_or_else(|| panic!("{start}"))
            .to_owned();
        for _ in 0..12 {
            let mut reply = self.ask(provider, "GET", &path, "").await;
            if reply.status == 200 {
                let page = String::from_utf8_lossy(&reply.body).into_owned();
                let form = page
                    .split("action=\"")
                    .nth(1)
                    .unwrap_or_else(|| panic!("{page}"));
                let action = form.split('"').next().unwrap().replace(&host, "");
                let body = if page.contains("name=\"login\"") {
                    format!("prompt=login&login={login}&password=x")
                } else {
                    "prompt=consent".to_owned()
                };
                reply = self.ask(provider, "POST", &action, &body).await;
            }
            let location = reply.header("location").to_owned();
            assert!(
                (300..400).contains(&reply.status),
                "{}: {}",
                reply.status,
                String::from_utf8_lossy(&reply.body)
            );
            if let Some((_, query)) = location.split_once("/cimi/oidc/callback") {
                return format!("/cimi/oidc/callback{query}");
            }
            path = location.replace(&host, "");
        }
        panic!("the provider sends in circles");
    }

    /// A whole login; the answer to the way back.
    async fn log_in(&mut self, world: &World, provider: u16, login: &str) -> (String, Reply) {
        let port = world.running.address.port();
        let start = self
            .ask(
                port,
                "GET",
                "/cimi/oidc/start?next=%2Fregister%2Fsessions",
                "",
            )
            .await;
        assert_eq!(
            start.status,
            303,
            "{}",
            String::from_utf8_lossy(&start.body)
        );
        let back = self
            .through(provider, start.header("location"), login)
            .await;
        let reply = self.ask(port, "GET", &back, "").await;
        (back, reply)
    }
}

#[tokio::test]
async fn who_the_provider_vouches_for_gets_a_session_and_the_roles_of_the_groups() {
    let port = testkit::free_port();
    let Some(provider) = Provider::start(port, "first").await else {
        return;
    };
    let world = World::start(port, |_| ()).await;
    let ours = world.running.address.port();
    let mut browser = Browser::default();
    let page = browser.ask(ours, "GET", "/cimi/login", "").await;
    assert!(String::from_utf8_lossy(&page.body).contains("Log in by single sign-on"));
    let (back, reply) = browser.log_in(&world, provider.port, "alice").await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (303, "/register/sessions"),
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    let alice = world.documents.users.get("alice").unwrap();
    assert_eq!(alice.roles, ["cloud-access", "phys"]);
    assert_eq!(alice.email.as_deref(), Some("alice@id.example"));
    assert_eq!(
        alice.altnames.get("oidc").unwrap(),
        &format!("http://127.0.0.1:{port} sub-of-alice")
    );
    assert_eq!(alice.password, None);
    let who = browser.ask(ours, "GET", "/cimi/authn", "").await;
    assert_eq!(who.json()["identity"], "alice");
    // Once: neither this browser nor another one comes in by the same way back.
    assert_eq!(browser.ask(ours, "GET", &back, "").await.status, 400);
    assert_eq!(
        Browser::default().ask(ours, "GET", &back, "").await.status,
        400
    );
    // The second login is the same user.
    let (_, reply) = Browser::default()
        .log_in(&world, provider.port, "alice")
        .await;
    assert_eq!(reply.status, 303);
    assert_eq!(world.documents.users.len(), 2);
    // A name that is taken here stays whose it is.
    let (_, reply) = Browser::default()
        .log_in(&world, provider.port, "root")
        .await;
    assert_eq!(reply.status, 403);
    assert!(String::from_utf8_lossy(&reply.body).contains("another account"));
    // Somebody disabled here stays out.
    let disable = world
        .documents
        .update("alice", |user: &mut cimi::resources::User| {
            user.enabled = false;
            Ok::<_, documents::DocumentsError>(true)
        });
    disable.await.unwrap();
    let (_, reply) = Browser::default()
        .log_in(&world, provider.port, "alice")
        .await;
    assert_eq!(reply.status, 403);
    provider.stop().await;
}

#[tokio::test]
async fn a_way_back_of_another_login_or_another_browser_leads_nowhere() {
    let port = testkit::free_port();
    let Some(provider) = Provider::start(port, "first").await else {
        return;
    };
    let world = World::start(port, |_| ()).await;
    let ours = world.running.address.port();
    // Somebody begins a login and makes another's browser end it.
    let mut attacker = Browser::default();
    let start = attacker.ask(ours, "GET", "/cimi/oidc/start", "").await;
    let back = attacker
        .through(port, start.header("location"), "carol")
        .await;
    let mut victim = Browser::default();
    victim.ask(ours, "GET", "/cimi/oidc/start", "").await;
    let reply = victim.ask(ours, "GET", &back, "").await;
    assert_eq!(reply.status, 400);
    let who = victim.ask(ours, "GET", "/cimi/authn", "").await;
    assert!(who.json()["identity"].is_null(), "not logged in");
    assert!(world.documents.users.get("carol").is_none());
    // A code that was made up.
    let start = victim.ask(ours, "GET", "/cimi/oidc/start", "").await;
    let state = start
        .header("location")
        .split("state=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap()
        .to_owned();
    let reply = victim
        .ask(
            ours,
            "GET",
            &format!("/cimi/oidc/callback?code=guessed&state={state}"),
            "",
        )
        .await;
    assert_eq!(
        reply.status,
        403,
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    provider.stop().await;
}

#[tokio::test]
async fn a_provider_that_changes_its_keys_or_is_down_or_talks_nonsense_is_borne() {
    let port = testkit::free_port();
    let Some(provider) = Provider::start(port, "first").await else {
        return;
    };
    let world = World::start(port, |settings| settings.create_users = true).await;
    let ours = world.running.address.port();
    let (_, reply) = Browser::default().log_in(&world, port, "alice").await;
    assert_eq!(reply.status, 303);
    provider.stop().await;
    // Down: said, at once.
    let begun = std::time::Instant::now();
    let mut browser = Browser::default();
    let start = browser.ask(ours, "GET", "/cimi/oidc/start", "").await;
    if start.status == 303 {
        // What it says of itself is still known; its end isn't reached by anybody.
        let state = start
            .header("location")
            .split("state=")
            .nth(1)
            .unwrap()
            .split('&')
            .next()
            .unwrap()
            .to_owned();
        let reply = browser
            .ask(
                ours,
                "GET",
                &format!("/cimi/oidc/callback?code=c&state={state}"),
                "",
            )
            .await;
        assert_eq!(reply.status, 503);
        assert!(
            String::from_utf8_lossy(&reply.body).contains("can&#39;t be reached"),
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
    // With new keys: those are fetched once the old ones are old enough to ask again.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let Some(provider) = Provider::start(port, "second").await else {
        return;
    };
    let (_, reply) = Browser::default().log_in(&world, port, "alice").await;
    assert_eq!(
        reply.status,
        303,
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    provider.stop().await;

    for (answer, text) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "makes no sense",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "makes no sense",
        ),
        ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "status 302",
        ),
        ("", "answer in time"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let nonsense = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if !answer.is_empty() {
                    let mut asked = [0; 1024];
                    let _ = stream.read(&mut asked).await;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
                held.push(stream);
            }
        });
        let world = World::start(port, |_| ()).await;
        let begun = std::time::Instant::now();
        let reply = Browser::default()
            .ask(world.running.address.port(), "GET", "/cimi/oidc/start", "")
            .await;
        assert_eq!(reply.status, 503, "{answer}");
        let page = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(page.contains(text), "{text}: {page}");
        assert!(begun.elapsed() < Duration::from_secs(15));
        nonsense.abort();
    }
}

/// A directory that has Alice, and can't be asked about Bob.
struct Alices;

#[async_trait::async_trait]
impl Directory for Alices {
    async fn by_password(
        &self,
        _ldap: &Ldap,
        _login: &str,
        _password: &str,
    ) -> Result<Option<Found>, DirectoryError> {
        Ok(None)
    }

    async fn by_login(&self, _ldap: &Ldap, login: &str) -> Result<Option<Found>, DirectoryError> {
        match login {
            "alice" => Ok(Some(Found {
                login: login.to_owned(),
                dn: "uid=alice".to_owned(),
                first_name: None,
                last_name: None,
                email: None,
                roles: Vec::new(),
            })),
            "bob" => Err(DirectoryError("down".to_owned())),
            _ => Ok(None),
        }
    }

    async fn by_subject(
        &self,
        _ldap: &Ldap,
        _subject: &DistinguishedName,
    ) -> Result<Option<Found>, DirectoryError> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_name_of_the_directory_is_given_to_nobody_who_comes_by_the_provider() {
    let port = testkit::free_port();
    let Some(provider) = Provider::start(port, "first").await else {
        return;
    };
    let world = World::beside(port, |_| {}, Some(Arc::new(Alices))).await;
    for (name, status, told) in [
        ("alice", 403, "of a user of the directory"),
        ("bob", 503, "try again later"),
        ("carol", 303, ""),
    ] {
        let (_, reply) = Browser::default().log_in(&world, port, name).await;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, status, "{name}: {text}");
        assert!(text.contains(told), "{name}: {text}");
        assert_eq!(world.documents.users.get(name).is_some(), status == 303);
    }
    provider.stop().await;
}
