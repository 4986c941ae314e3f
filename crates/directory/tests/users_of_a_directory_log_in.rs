//! The whole way: accounts, the rules over a real database, and a real directory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use accounts::{Accounts, Cost, Hashing, LoginError, Method, directory::SOURCE};
use cimi::model::Kind;
use cloud::{
    Cloud, NoServices,
    testing::{self, caller, object},
};
use directory::LdapDirectory;
use documents::Documents;
use serde_json::{Value, json};
use store::SqliteStore;

use super::slapd::Slapd;

struct World {
    cloud: Cloud,
    documents: Documents,
    accounts: Accounts,
    _folder: tempfile::TempDir,
}

const FLOOR: Duration = Duration::from_millis(300);

impl World {
    async fn start(ldap: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("db")).unwrap();
        let documents = Documents::open(Arc::new(store)).await.unwrap();
        let (hashing, services) = (Hashing::with_cost(Cost::NONE), Arc::new(NoServices));
        let settings = cloud::Settings {
            passwords: hashing.clone(),
            ..testing::settings()
        };
        let cloud = Cloud::open(documents.clone(), settings, services.clone(), services)
            .await
            .unwrap();
        let settings = accounts::Settings {
            refused_after: FLOOR,
            ..accounts::Settings::default()
        };
        let accounts = Accounts::new(Arc::new(cloud.clone()), hashing, settings)
            .with_directory(Arc::new(LdapDirectory::default()));
        let world = Self {
            cloud,
            documents,
            accounts,
            _folder: folder,
        };
        let body = json!({"service": "authn",
            "localdb": {"password-enabled": true, "cert-enabled": false}, "ldap": ldap});
        world.make(Kind::ServiceConfiguration, body).await;
        world
    }

    async fn make(&self, kind: Kind, body: Value) {
        let root = caller("root", &["::ADMIN"]);
        self.cloud.create(&root, kind, object(body)).await.unwrap();
    }

    async fn login(&self, name: &str, password: &str) -> Result<accounts::Identity, LoginError> {
        let identity = self.accounts.verify(name, password, None).await;
        identity.map(|identity| (*identity).clone())
    }
}

fn settings(port: u16) -> Value {
    json!({"password-enabled": true, "cache-seconds": 1,
        "connection": {"host": {"address": "127.0.0.1", "port": port}, "timeout-ms": 1000}})
}

/// The time for which answers count, and a little more.
async fn answers_are_old() {
    tokio::time::sleep(Duration::from_millis(1_200)).await;
}

#[tokio::test]
async fn they_are_here_as_long_as_the_directory_says_so() {
    let Some(slapd) = Slapd::start("") else {
        return;
    };
    let world = World::start(settings(slapd.port)).await;
    world
        .make(
            Kind::User,
            json!({"username": "bob", "password": "local password"}),
        )
        .await;
    let alice = world.login("ALICE", "correct horse").await.unwrap();
    assert_eq!((&*alice.user, alice.method), ("alice", Method::Directory));
    assert_eq!(alice.roles, ["cloud-access", "operators"]);
    let kept = world.documents.users.get("alice").unwrap();
    assert!(kept.is_of(SOURCE) && kept.password.is_none());
    assert_eq!(kept.email.as_deref(), Some("alice@example.org"));
    // Recognised without a question, for a while.
    assert!(world.accounts.recognise("alice", "correct horse").is_some());
    assert!(world.accounts.recognise("alice", "wrong").is_none());

    // The one who was made here counts; the directory's of the same name isn't asked.
    assert_eq!(
        world.login("bob", "correct horse").await,
        Err(LoginError::Wrong)
    );
    assert_eq!(
        world.login("bob", "local password").await.unwrap().method,
        Method::Password
    );
    for (name, password) in [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", "correct horse"),
        ("a*", "correct horse"),
    ] {
        assert_eq!(
            world.login(name, password).await,
            Err(LoginError::Wrong),
            "{name} {password}"
        );
    }

    // A token that was made while all was well.
    let alice = caller("alice", &[]);
    let made = world
        .cloud
        .create(&alice, Kind::Token, object(json!({})))
        .await
        .unwrap();
    let shown = made.view.document.attributes(made.view.right);
    let token = shown["token"].as_str().unwrap().to_owned();
    world.accounts.by_token(&token, None, None).await.unwrap();

    slapd.modify(
        "dn: cn=operators,ou=groups,o=cloud\nchangetype: modify\nadd: uniqueMember\nuniqueMember: cn=x,o=cloud\n-\n\
         delete: uniqueMember\nuniqueMember: uid=alice,ou=users,o=cloud\n",
    );
    answers_are_old().await;
    let alice = world.login("alice", "correct horse").await.unwrap();
    assert_eq!(alice.roles, ["cloud-access"]);

    slapd.modify(
        "dn: cn=cloud-access,ou=groups,o=cloud\nchangetype: modify\n\
         delete: uniqueMember\nuniqueMember: uid=alice,ou=users,o=cloud\n",
    );
    answers_are_old().await;
    assert!(world.accounts.recognise("alice", "correct horse").is_none());
    assert_eq!(
        world.login("alice", "correct horse").await,
        Err(LoginError::Wrong)
    );
    let refused = world.accounts.by_token(&token, None, None).await;
    assert_eq!(refused.unwrap_err(), LoginError::Token);
    assert!(world.accounts.current("alice").await.is_none());
}

#[tokio::test]
async fn who_is_disabled_here_stays_out_and_switching_the_directory_off_counts_at_once() {
    let Some(slapd) = Slapd::start("") else {
        return;
    };
    let world = World::start(settings(slapd.port)).await;
    world.login("alice", "correct horse").await.unwrap();
    let root = caller("root", &["::ADMIN"]);
    let change = async |kind, id: &str, name: &str, value: Value| {
        let changes = [(name.to_owned(), Some(value))].into();
        world.cloud.edit(&root, kind, id, changes).await.unwrap();
    };
    change(Kind::User, "alice", "enabled", json!(false)).await;
    assert_eq!(
        world.login("alice", "correct horse").await,
        Err(LoginError::Wrong)
    );
    change(Kind::User, "alice", "enabled", json!(true)).await;
    world.login("alice", "correct horse").await.unwrap();
    let mut off = settings(slapd.port);
    off["password-enabled"] = false.into();
    change(Kind::ServiceConfiguration, "authn", "ldap", off).await;
    assert!(world.accounts.recognise("alice", "correct horse").is_none());
    assert_eq!(
        world.login("alice", "correct horse").await,
        Err(LoginError::Wrong)
    );
}

#[tokio::test]
async fn a_directory_that_is_away_holds_up_nobody_else_and_tells_nothing() {
    let Some(mut slapd) = Slapd::start("") else {
        return;
    };
    let world = World::start(settings(slapd.port)).await;
    world
        .make(
            Kind::User,
            json!({"username": "bob", "password": "local password"}),
        )
        .await;
    // The same time, whoever it is, and whether the name is known. What a busy computer adds is not in the best of some.
    let mut times = Vec::new();
    for name in ["bob", "alice", "nobody"] {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(world.login(name, "wrong").await, Err(LoginError::Wrong));
            best = best.min(begun.elapsed());
        }
        times.push(best);
    }
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*least >= FLOOR && *most < *least * 4, "{times:?}");
    world.login("alice", "correct horse").await.unwrap();
    slapd.stop();
    answers_are_old().await;
    for name in ["bob", "alice", "nobody"] {
        assert_eq!(
            world.login(name, "wrong").await,
            Err(LoginError::Unsure),
            "{name}"
        );
    }
    world.login("bob", "local password").await.unwrap();
    // Who was there a moment ago goes on by what doesn't need the directory.
    assert!(world.accounts.current("alice").await.is_some());
}
