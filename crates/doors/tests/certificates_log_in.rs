//! Client certificates and grid proxies over TLS, shown by curl, and those that a proxy in front of the server passes on.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

#[path = "../../certificates/tests/site.rs"]
#[allow(dead_code)]
pub mod site;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use accounts::{
    Accounts, Authorities, Cost, Hashing, Methods, Settings as AccountSettings, UserSource,
    methods::LocalDb,
};
use certificates::{Revocation, voms::Servers};
use cimi::{Acl, Common, Timestamp, UserId, dn::DistinguishedName, resources::User};
use doors::{CloudApi, Doors, Limits, Running, Server, Settings, tls};
use parking_lot::Mutex;
use serde_json::Value;

use crate::support::FakeCloud;
use site::{Site, needs};

const ALICE: &str = "CN=Alice Endorser,OU=Images,O=Example Org,C=EU";

/// Alice, by her certificate, and by a password.
struct Users {
    alice: Arc<User>,
    methods: Mutex<Arc<Methods>>,
}

impl UserSource for Users {
    fn find(&self, login: &str) -> Option<Arc<User>> {
        (login == "alice").then(|| Arc::clone(&self.alice))
    }

    fn find_by_name(&self, name: &DistinguishedName) -> Vec<Arc<User>> {
        let alice = DistinguishedName::parse(ALICE).unwrap();
        let is_alice = name.is_same(&alice);
        is_alice
            .then(|| Arc::clone(&self.alice))
            .into_iter()
            .collect()
    }

    fn methods(&self) -> Arc<Methods> {
        Arc::clone(&self.methods.lock())
    }
}

fn methods(certificates: bool, revision: u64) -> Arc<Methods> {
    Arc::new(Methods {
        localdb: LocalDb {
            password_enabled: true,
            cert_enabled: certificates,
        },
        revision,
        ..Methods::default()
    })
}

struct World {
    running: Running,
    users: Arc<Users>,
    accounts: Arc<Accounts>,
    speech: Arc<tls::Speech>,
    site: Site,
}

impl World {
    /// An authority that has signed `alice` and `bob`; `mallory` is signed by himself.
    async fn start(settings: Settings, limits: Limits) -> Self {
        let world = Self::start_not_knowing_whom_to_trust(settings, limits).await;
        world.trust(true);
        world
    }

    /// As a cloud is a moment after certificates were switched on.
    async fn start_not_knowing_whom_to_trust(settings: Settings, limits: Limits) -> Self {
        let site = Site::new();
        site.sign("bob", "/C=EU/O=Example Org/CN=Bob", "user");
        site.self_signed("mallory", "/C=EU/O=Example Org/OU=Images/CN=Alice Endorser");
        let hash = accounts::password::hash_blocking("correct horse", Cost::NONE).unwrap();
        let alice = Arc::new(User {
            id: UserId::from_local("alice").unwrap(),
            common: Common::new(Acl::owned_by_admin(), Timestamp::from_millis(0)),
            username: "alice".into(),
            first_name: None,
            last_name: None,
            email: None,
            password: Some(hash),
            enabled: true,
            roles: vec!["physics".into()],
            altnames: BTreeMap::new(),
            quota: cimi::resources::Quota::default(),
            generation: 0,
            origin: None,
            unknown: serde_json::Map::new(),
        });
        let users = Arc::new(Users {
            alice,
            methods: Mutex::new(methods(true, 1)),
        });
        let hashing = Hashing::with_cost(Cost::NONE);
        let source = Arc::clone(&users) as Arc<dyn UserSource>;
        let accounts = Arc::new(Accounts::new(source, hashing, AccountSettings::default()));
        doors::metrics::install();
        let server = tls::ensure_self_signed(&site.path().join("tls"), &[]).unwrap();
        let certificate = tls::Certificate::read(&server).unwrap();
        let speech = tls::Speech::new(certificate.into()).unwrap();
        let api = Arc::new(FakeCloud::default()) as Arc<dyn CloudApi>;
        let doors = Arc::new(Doors::new(api, Arc::clone(&accounts), settings));
        let server = Server::new(doors, limits, Some(Arc::clone(&speech)));
        let running = server.start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        Self {
            running,
            users,
            accounts,
            speech,
            site,
        }
    }

    /// From now on the authority is trusted, or none is.
    fn trust(&self, trusted: bool) {
        let pem = fs::read(self.path().join("ca.pem")).unwrap();
        let files = trusted.then_some(("ca.pem", pem.as_slice()));
        let (authorities, problems) =
            Authorities::read(files, Revocation::IfPresent, Servers::default());
        assert_eq!(problems, []);
        self.speech.ask_for(authorities.names()).unwrap();
        self.accounts.trust(Arc::new(authorities));
    }

    fn path(&self) -> &Path {
        self.site.path()
    }

    /// What curl gets for these arguments: the status and the body.
    async fn curl(&self, path: &str, arguments: &[&str]) -> (u16, Value) {
        let mut command = tokio::process::Command::new("curl");
        command
            .args([
                "-sS",
                "-m",
                "60",
                "--cacert",
                "tls/ca.crt",
                "-w",
                "\n%{http_code}",
            ])
            .args(arguments)
            .arg(format!(
                "https://127.0.0.1:{}{path}",
                self.running.address.port()
            ))
            .current_dir(self.path());
        let output = command.output().await.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (
            status.parse().unwrap(),
            serde_json::from_str(body).unwrap_or_default(),
        )
    }
}

const AUTHN: &str = "/cimi/authn";
const BY_ALICE: [&str; 4] = ["--cert", "alice.pem", "--key", "alice.key"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_are_known_and_others_told_why_not() {
    if needs(&["openssl", "curl"]).is_none() {
        return;
    }
    let world = World::start(Settings::default(), Limits::default()).await;
    for more in [&["--tlsv1.3"][..], &["--tls-max", "1.2"], &["--http1.1"]] {
        let (status, body) = world.curl(AUTHN, &[&BY_ALICE[..], more].concat()).await;
        assert_eq!(
            (status, &body["identity"], &body["method"]),
            (200, &"alice".into(), &"certificate".into()),
            "{more:?}"
        );
        assert_eq!(body["roles"], serde_json::json!(["physics"]));
    }
    let (status, _) = world.curl("/cimi/Machine", &BY_ALICE).await;
    assert_eq!(status, 200);
    // Without one, or with a password as well.
    assert_eq!(world.curl("/cimi/Machine", &[]).await.0, 401);
    let both = [&BY_ALICE[..], &["-u", "alice:correct horse"]].concat();
    assert_eq!(world.curl(AUTHN, &both).await.1["method"], "password");
    let wrong = [&BY_ALICE[..], &["-u", "alice:wrong"]].concat();
    assert_eq!(world.curl(AUTHN, &wrong).await.0, 401);

    for (who, reason) in [
        ("mallory", "signed by itself"),
        ("bob", "nobody here has the certificate"),
    ] {
        let (certificate, key) = (format!("{who}.pem"), format!("{who}.key"));
        let shown = ["--cert", &certificate, "--key", &key];
        let (status, body) = world.curl("/cimi/Machine", &shown).await;
        let detail = body["detail"].as_str().unwrap_or_default().to_owned();
        assert!(
            status == 401 && detail.contains(reason),
            "{who}: {status} {body}"
        );
        // What is for everybody is for them, too.
        assert_eq!(world.curl("/health", &shown).await.0, 200);
        let said = world.curl(AUTHN, &shown).await.1;
        assert_eq!(said["identity"], Value::Null);
        assert!(said["refused"].as_str().unwrap().contains(reason), "{said}");
        // Beside other credentials it makes no difference.
        let both = [&shown[..], &["-u", "alice:correct horse"]].concat();
        let said = world.curl(AUTHN, &both).await.1;
        assert_eq!(
            (&said["identity"], &said["refused"]),
            (&"alice".into(), &Value::Null)
        );
    }
    // Somebody else's certificate without its key is no certificate.
    let stolen = tokio::process::Command::new("curl")
        .args([
            "-sS",
            "--cacert",
            "tls/ca.crt",
            "--cert",
            "alice.pem",
            "--key",
            "mallory.key",
        ])
        .arg(format!(
            "https://127.0.0.1:{}{AUTHN}",
            world.running.address.port()
        ))
        .current_dir(world.path())
        .output()
        .await
        .unwrap();
    assert!(!stolen.status.success());

    *world.users.methods.lock() = methods(false, 2);
    let (status, body) = world.curl(AUTHN, &BY_ALICE).await;
    assert_eq!((status, &body["identity"]), (200, &Value::Null));
    assert_eq!(world.curl("/cimi/Machine", &BY_ALICE).await.0, 401);
}

/// In the first second after certificates were switched on, requests with one were told to log in, as if none had been shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_to_trust_is_waited_for_and_nobody_trusted_is_said() {
    if needs(&["openssl", "curl"]).is_none() {
        return;
    }
    let world =
        World::start_not_knowing_whom_to_trust(Settings::default(), Limits::default()).await;
    let bob = ["--cert", "bob.pem", "--key", "bob.key"];
    let told = async |certificate: &[&str]| {
        let (status, body) = world.curl("/cimi/Machine", certificate).await;
        (
            status,
            body["detail"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let (status, why) = told(&bob).await;
    assert!(status == 401 && why.contains("not read yet"), "{why}");
    let read_meanwhile = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        world.trust(true);
    };
    let ((status, why), ()) = tokio::join!(told(&bob), read_meanwhile);
    assert!(status == 401 && why.contains("nobody here has"), "{why}");
    assert!(why.contains("CN=Bob,O=Example Org,C=EU"), "{why}");
    assert_eq!(told(&BY_ALICE).await.0, 200);
    world.trust(false);
    let (status, why) = told(&BY_ALICE).await;
    assert!(
        status == 401 && why.contains("trusts no authority"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grid_proxies_stand_for_their_user() {
    if needs(&["openssl", "curl", "grid-proxy-init"]).is_none() {
        return;
    }
    let world = World::start(Settings::default(), Limits::default()).await;
    for kind in ["-rfc", "-draft", "-old"] {
        world.site.grid_proxy("alice", "proxy", &[kind]);
        // The chain is sent by curl only from the file of the certificate: so it is with proxies.
        for more in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
            let shown = ["--cert", "proxy", "--key", "proxy"];
            let (status, body) = world.curl(AUTHN, &[&shown[..], more].concat()).await;
            assert_eq!(
                (status, &body["identity"], &body["method"]),
                (200, &"alice".into(), &"proxy".into()),
                "{kind} {body}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_counts_from_trusted_proxies_only() {
    if needs(&["openssl", "curl"]).is_none() {
        return;
    }
    let settings = Settings {
        certificate_header: Some("x-client-certificate".parse().unwrap()),
        ..Settings::default()
    };
    let trusting = Limits {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..Limits::default()
    };
    for (settings, limits, is_believed) in [
        (settings.clone(), trusting.clone(), true),
        (settings, Limits::default(), false),
        (Settings::default(), trusting, false),
    ] {
        let world = World::start(settings, limits).await;
        let pem = fs::read_to_string(world.path().join("alice.pem")).unwrap();
        let escaped =
            percent_encoding::utf8_percent_encode(&pem, percent_encoding::NON_ALPHANUMERIC);
        let header = format!("X-Client-Certificate: {escaped}");
        let (status, body) = world.curl(AUTHN, &["-H", &header]).await;
        let expected = if is_believed {
            "alice".into()
        } else {
            Value::Null
        };
        assert_eq!((status, &body["identity"]), (200, &expected));
        // The proxy's own certificate is not its clients'.
        let (_, body) = world.curl(AUTHN, &BY_ALICE).await;
        let expected = if is_believed {
            Value::Null
        } else {
            "alice".into()
        };
        assert_eq!(body["identity"], expected);
        let mallory = fs::read_to_string(world.path().join("mallory.pem")).unwrap();
        let mallory = format!("X-Client-Certificate: {}", mallory.replace('\n', " "));
        assert_eq!(world.curl("/cimi/Machine", &["-H", &mallory]).await.0, 401);
    }
}
