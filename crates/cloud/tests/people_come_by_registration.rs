//! From the form to the account, and what users change of themselves: each step once, with its letter, whatever happens
//! beside it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{sync::Arc, time::Duration};

use accounts::LoginError;
use cimi::{
    model::Kind,
    resources::{MailLink, Registration},
};
use cloud::{
    CloudError,
    people::{Directory, DirectoryEntry, DirectoryError},
    testing,
};
use parking_lot::Mutex;
use serde_json::json;

use crate::bare_cloud::{admin, user};
use crate::people_world::{
    accounts, form, is_gone, letters, secret, stranger, with_alice, world_with,
};

#[tokio::test]
async fn an_account_is_confirmed_by_its_owner_and_approved_by_an_administrator() {
    let world = world_with(|_| ()).await;
    world
        .cloud
        .sign_up(&stranger(1), form("alice", &[]))
        .await
        .unwrap();
    // The name is taken, for others and as a user's.
    let taken = world
        .cloud
        .sign_up(&stranger(2), form("alice", &[]))
        .await
        .unwrap_err();
    assert!(
        taken
            .to_string()
            .contains("username (alice) already exists"),
        "{taken}"
    );
    let logins = accounts(&world);
    let early = logins.verify("alice", "correct horse battery", None).await;
    assert_eq!(early, Err(LoginError::Wrong));

    let first = letters(&world).await;
    let [(to, text)] = first.as_slice() else {
        panic!("{first:?}")
    };
    assert_eq!(to, "alice@example.org");
    assert!(!text.contains("horse"));
    let link = secret(text);
    // Undecided yet: nothing to approve.
    let body = testing::object(json!({}));
    let early = world
        .cloud
        .act(&admin(), Kind::Registration, "alice", "approve", &body)
        .await;
    assert!(matches!(early, Err(CloudError::Conflict(_))), "{early:?}");
    // Looking changes nothing; two who follow it at once follow it once.
    world.cloud.link(&link).unwrap();
    let (one, other) = tokio::join!(
        world.cloud.confirm_registration(&link, true),
        world.cloud.confirm_registration(&link, true)
    );
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    is_gone(world.cloud.confirm_registration(&link, true).await);
    let second = letters(&world).await;
    assert_eq!(second.len(), 2, "{second:?}");
    assert_eq!(second[1].0, "root@example.org");
    assert!(second[1].1.contains("let me in"));

    // Only administrators see and decide.
    is_gone(world.cloud.get(&user("bob"), Kind::Registration, "alice"));
    is_gone(
        world
            .cloud
            .act(&user("bob"), Kind::Registration, "alice", "approve", &body)
            .await,
    );
    world
        .cloud
        .act(&admin(), Kind::Registration, "alice", "approve", &body)
        .await
        .unwrap();
    is_gone(
        world
            .cloud
            .decide_by_link(&secret(&second[1].1), false)
            .await,
    );
    assert!(world.documents.registrations.is_empty() && world.documents.mail_links.is_empty());
    let alice = world.documents.users.get("alice").unwrap();
    assert_eq!(alice.roles, ["cloud-access"]);
    logins
        .verify("alice", "correct horse battery", None)
        .await
        .unwrap();
    assert!(letters(&world).await[2].1.contains("was approved"));
}

#[tokio::test]
async fn who_is_refused_or_cancels_or_waits_too_long_leaves_the_name_free() {
    let world = world_with(|settings| settings.confirm_within = Duration::from_millis(1)).await;
    world
        .cloud
        .sign_up(&stranger(1), form("alice", &[]))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    is_gone(world.cloud.link(&secret(&letters(&world).await[0].1)));
    // Expired: somebody else may ask.
    world
        .cloud
        .sign_up(&stranger(2), form("alice", &[]))
        .await
        .unwrap();

    let world = world_with(|_| ()).await;
    world
        .cloud
        .sign_up(&stranger(1), form("alice", &[]))
        .await
        .unwrap();
    let link = secret(&letters(&world).await[0].1);
    world
        .cloud
        .confirm_registration(&link, false)
        .await
        .unwrap();
    assert!(world.documents.registrations.is_empty());
    world
        .cloud
        .sign_up(&stranger(1), form("alice", &[]))
        .await
        .unwrap();
    let link = secret(&letters(&world).await[1].1);
    world.cloud.confirm_registration(&link, true).await.unwrap();
    let link = secret(&letters(&world).await[2].1);
    world.cloud.decide_by_link(&link, false).await.unwrap();
    is_gone(world.cloud.decide_by_link(&link, true).await);
    assert!(world.documents.users.get("alice").is_none());
    assert!(letters(&world).await[3].1.contains("not approved"));
    world
        .cloud
        .sign_up(&stranger(1), form("alice", &[]))
        .await
        .unwrap();
}

#[tokio::test]
async fn forms_of_one_address_are_taken_up_to_a_pace() {
    let world = world_with(|_| ()).await;
    let mut refused = 0;
    for number in 0..25 {
        let form = form(&format!("user{number}"), &[]);
        match world.cloud.sign_up(&stranger(1), form).await {
            Ok(()) => {}
            Err(CloudError::Exhausted(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(refused, 5);
    world
        .cloud
        .sign_up(&stranger(2), form("other", &[]))
        .await
        .unwrap();
}

/// A directory that does what it is told.
#[derive(Debug, Default)]
struct Fake {
    is_down: Mutex<bool>,
    entries: Mutex<Vec<(DirectoryEntry, String, String)>>,
}

#[async_trait::async_trait]
impl Directory for Fake {
    async fn find(&self, uid: &str) -> Result<Option<DirectoryEntry>, DirectoryError> {
        self.up()?;
        let entries = self.entries.lock();
        Ok(entries
            .iter()
            .find(|(entry, ..)| entry.uid == uid)
            .map(|(entry, ..)| entry.clone()))
    }

    fn encode(&self, password: &str) -> String {
        format!("{{TEST}}{}", password.len())
    }

    async fn enter(
        &self,
        entry: &DirectoryEntry,
        password: &str,
        role: &str,
    ) -> Result<(), DirectoryError> {
        self.up()?;
        self.entries
            .lock()
            .push((entry.clone(), password.to_owned(), role.to_owned()));
        Ok(())
    }

    async fn set_password(&self, _uid: &str, _password: &str) -> Result<(), DirectoryError> {
        self.up()
    }

    async fn change(
        &self,
        _: &str,
        _: Option<&str>,
        _: Option<&str>,
        _: Option<&str>,
    ) -> Result<(), DirectoryError> {
        self.up()
    }
}

impl Fake {
    fn up(&self) -> Result<(), DirectoryError> {
        if *self.is_down.lock() {
            return Err(DirectoryError::Unavailable("nobody answers".to_owned()));
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_approved_account_waits_for_a_directory_that_is_down() {
    let fake = Arc::new(Fake::default());
    let directory = Arc::clone(&fake);
    let world = world_with(|settings| {
        settings.directory = Some(directory);
        settings.directory_again = Duration::from_millis(20);
    })
    .await;
    *fake.is_down.lock() = true;
    let down = world.cloud.sign_up(&stranger(1), form("alice", &[])).await;
    assert!(matches!(down, Err(CloudError::Unavailable(_))), "{down:?}");
    *fake.is_down.lock() = false;
    world
        .cloud
        .sign_up(&stranger(1), form("alice", &[]))
        .await
        .unwrap();
    let link = secret(&letters(&world).await[0].1);
    world.cloud.confirm_registration(&link, true).await.unwrap();
    *fake.is_down.lock() = true;
    let body = testing::object(json!({}));
    world
        .cloud
        .act(&admin(), Kind::Registration, "alice", "approve", &body)
        .await
        .unwrap();
    let cloud = world.cloud.clone();
    let begun = std::time::Instant::now();
    let entering = tokio::spawn(async move { cloud.enter_approved().await });
    let until = async |what: &dyn Fn(Option<&Registration>) -> bool| {
        while !what(
            world
                .documents
                .registrations
                .get("alice")
                .as_ref()
                .map(|r| &r.document.0),
        ) {
            assert!(begun.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    until(&|one| one.is_some_and(|one| one.reason.is_some())).await;
    assert_eq!(letters(&world).await.len(), 2, "nobody is told too early");
    *fake.is_down.lock() = false;
    until(&|one| one.is_none()).await;
    entering.abort();
    let entries = fake.entries.lock().clone();
    assert_eq!(entries[0].1, "{TEST}21");
    assert_eq!(entries[0].2, "cloud-access");
    assert!(world.documents.users.get("alice").is_none());
    assert_eq!(letters(&world).await.len(), 3);
}

#[tokio::test]
async fn what_is_over_is_forgotten() {
    let world = world_with(|settings| settings.confirm_within = Duration::from_millis(1)).await;
    let (_, _, _) = with_alice(&world).await;
    world
        .cloud
        .sign_up(&stranger(1), form("carol", &[]))
        .await
        .unwrap();
    world
        .edit(&admin(), Kind::User, "alice", json!({"enabled": false}))
        .await
        .unwrap();
    assert!(
        letters(&world)
            .await
            .iter()
            .any(|(to, text)| to == "alice@example.org" && text.contains("disabled"))
    );
    tokio::time::sleep(Duration::from_millis(5)).await;
    let cloud = world.cloud.clone();
    let janitor = tokio::spawn(async move { cloud.run(cloud::Retention::default()).await });
    let until = std::time::Instant::now() + Duration::from_secs(20);
    let left = || {
        (
            world.documents.sessions.len(),
            world.documents.registrations.len(),
            world.documents.view::<MailLink>().len(),
        )
    };
    while left() != (0, 0, 0) && std::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    janitor.abort();
    assert_eq!(left(), (0, 0, 0));
}
