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
    people::{Application, Directory, DirectoryEntry, DirectoryError},
    testing,
};
use parking_lot::Mutex;
use serde_json::json;

use crate::bare_cloud::{World, admin, user};
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

#[tokio::test]
async fn nobody_finds_out_names_by_forms_that_are_wrong() {
    let world = world_with(|_| ()).await;
    world.user("alice", &[]).await;
    let form = [("uid".to_owned(), "alice".to_owned())];
    let told = |address: u8| {
        let Err(wrong) = Application::read(&form) else {
            panic!("most of it is missing");
        };
        let wrong = world
            .cloud
            .with_taken_name(&stranger(address), &form, wrong);
        let text = wrong.to_string();
        assert!(
            text.contains("Your email address must be provided."),
            "{text}"
        );
        text.contains("username (alice) already exists")
    };
    assert_eq!((0..25).filter(|_| told(1)).count(), 20);
    assert!(told(2));
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

    async fn with_certificate(&self, name: &str) -> Result<Vec<String>, DirectoryError> {
        self.up()?;
        let entries = self.entries.lock();
        let same = entries
            .iter()
            .filter(|(entry, ..)| entry.see_also.as_deref() == Some(name));
        Ok(same.map(|(entry, ..)| entry.uid.clone()).collect())
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

/// What is the matter with a form, if anything.
async fn refused(world: &World, uid: &str, name: &str) -> Option<String> {
    let form = form(uid, &[("seeAlso", name)]);
    match world.cloud.sign_up(&stranger(1), form).await {
        Ok(()) => None,
        Err(error @ CloudError::Invalid { .. }) => Some(error.to_string()),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nobody_registers_with_a_certificate_that_is_somebodys() {
    const NAME: &str = "CN=Victim,O=Example,C=EU";
    let world = world_with(|_| ()).await;
    let victim = json!({"username": "victim", "altnames": {"x500dn": "/C=EU/O=Example/CN=Victim"}});
    world.create(&admin(), Kind::User, victim).await.unwrap();
    // However it is written.
    for name in [NAME, "cn=Victim, o=Example, c=EU"] {
        let reason = refused(&world, "mallory", name).await.unwrap();
        assert!(reason.contains("somebody's already"), "{reason}");
    }
    // Nor that of somebody who waits, nor of a member of an organisation who owns something by it.
    assert_eq!(refused(&world, "first", "CN=First").await, None);
    refused(&world, "second", "CN=First").await.unwrap();
    world.volume(&user("CN=Member,O=Example")).await;
    refused(&world, "third", "CN=Member,O=Example")
        .await
        .unwrap();
    // Of two at once, one.
    let (one, other) = tokio::join!(
        refused(&world, "fourth", "CN=Both"),
        refused(&world, "fifth", "CN=Both")
    );
    assert!(one.is_some() != other.is_some(), "{one:?} {other:?}");

    // Given to somebody since: not approved.
    let body = json!({"username": "given", "altnames": {"x500dn": "CN=First"}});
    world.create(&admin(), Kind::User, body).await.unwrap();
    let sent = letters(&world).await;
    let (_, letter) = sent
        .iter()
        .find(|(_, text)| text.contains("first"))
        .unwrap();
    let link = secret(letter);
    world.cloud.confirm_registration(&link, true).await.unwrap();
    let body = testing::object(json!({}));
    let approved = world
        .cloud
        .act(&admin(), Kind::Registration, "first", "approve", &body)
        .await;
    assert!(
        matches!(&approved, Err(CloudError::Conflict(reason)) if reason.contains("CN=First")),
        "{approved:?}"
    );
    assert!(world.documents.users.get("first").is_none());
}

#[tokio::test]
async fn a_directory_gets_no_second_person_with_a_certificate() {
    let fake = Arc::new(Fake::default());
    let directory = Arc::clone(&fake);
    let world = world_with(|settings| {
        settings.directory = Some(directory);
        settings.directory_again = Duration::from_millis(20);
    })
    .await;
    let person = |uid: &str, name: &str| {
        let entry = DirectoryEntry {
            uid: uid.to_owned(),
            see_also: Some(name.to_owned()),
            ..DirectoryEntry::default()
        };
        (entry, String::new(), String::new())
    };
    fake.entries.lock().push(person("victim", "CN=Victim"));
    refused(&world, "mallory", "CN=Victim").await.unwrap();
    // Entered by somebody else since: it stays approved, with the reason.
    assert_eq!(refused(&world, "alice", "CN=Alice").await, None);
    let link = secret(&letters(&world).await[0].1);
    world.cloud.confirm_registration(&link, true).await.unwrap();
    let body = testing::object(json!({}));
    world
        .cloud
        .act(&admin(), Kind::Registration, "alice", "approve", &body)
        .await
        .unwrap();
    fake.entries.lock().push(person("other", "CN=Alice"));
    let cloud = world.cloud.clone();
    let entering = tokio::spawn(async move { cloud.enter_approved().await });
    let begun = std::time::Instant::now();
    let reason = loop {
        let waits = world.documents.registrations.get("alice").unwrap();
        if let Some(reason) = &waits.reason {
            break reason.clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    entering.abort();
    assert!(reason.contains("certificate"), "{reason}");
    let entered = fake.entries.lock().len();
    assert_eq!(entered, 2);
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
