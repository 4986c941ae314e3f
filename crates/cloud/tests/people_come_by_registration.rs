//! From the form to the account, and what users change of themselves: each step once, with its letter, whatever happens
//! beside it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{sync::Arc, time::Duration};

use accounts::{Accounts, Hashing, LoginError};
use cimi::{
    Timestamp,
    model::Kind,
    resources::{MailLink, Registration, Session, Token},
};
use cloud::{
    Caller, CloudError, OpContext, Settings,
    people::{
        Application, Directory, DirectoryEntry, DirectoryError, Grant, NewSession, PeopleSettings,
        ProfileChange, RegistrationSettings,
    },
    testing,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use store::{Prefix, Range};

use crate::bare_cloud::{World, admin, user};

async fn world_with(change: impl FnOnce(&mut RegistrationSettings)) -> World {
    let mut registration =
        RegistrationSettings::new("root@example.org", "https://cloud.example:8443/");
    change(&mut registration);
    World::of(Settings {
        people: PeopleSettings {
            registration: Some(registration),
            ..PeopleSettings::default()
        },
        ..testing::settings()
    })
    .await
}

/// Somebody whom nobody knows, from an address of their own.
fn stranger(last: u8) -> OpContext {
    let mut context = OpContext::new(Caller::Anonymous, "t".into(), Duration::from_secs(60));
    context.peer = Some([192, 0, 2, last].into());
    context
}

fn form(uid: &str, changes: &[(&str, &str)]) -> Application {
    let mut form = vec![
        ("uid", uid),
        ("mail", "alice@example.org"),
        ("givenName", "Alice"),
        ("sn", "Endorser"),
        ("newUserPassword", "correct horse battery"),
        ("newUserPasswordCheck", "correct horse battery"),
        ("agreement", "on"),
        ("message", "let me in"),
    ];
    form.extend(changes);
    let form: Vec<_> = form
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect();
    Application::read(&form).unwrap()
}

/// The letters that wait, oldest first: to whom, and what they say.
async fn letters(world: &World) -> Vec<(String, String)> {
    let prefix = Prefix::collection("Letter").unwrap();
    let page = world
        .documents
        .store()
        .range(Range::prefix(&prefix))
        .await
        .unwrap();
    page.entries
        .iter()
        .map(|entry| {
            let letter: Value = serde_json::from_slice(&entry.value).unwrap();
            let find = |name: &str| {
                letter
                    .get(name)
                    .or_else(|| letter["letter"].get(name))
                    .and_then(Value::as_str)
                    .unwrap()
                    .to_owned()
            };
            (find("to"), find("text"))
        })
        .collect()
}

/// The secret of the link in a letter.
fn secret(text: &str) -> String {
    let (_, rest) = text
        .split_once("/register/action/")
        .unwrap_or_else(|| panic!("{text}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

fn is_gone<T: std::fmt::Debug>(result: Result<T, CloudError>) {
    assert!(
        matches!(result, Err(CloudError::NotFound { .. })),
        "{result:?}"
    );
}

fn accounts(world: &World) -> Accounts {
    let settings = accounts::Settings {
        refused_after: Duration::ZERO,
        ..accounts::Settings::default()
    };
    Accounts::new(
        Arc::new(world.cloud.clone()),
        Hashing::with_cost(accounts::Cost::NONE),
        settings,
    )
}

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

/// A user with an address, who is logged in by a browser and by a token.
async fn with_alice(world: &World) -> (OpContext, Accounts, String) {
    let body =
        json!({"username": "alice", "password": "correct horse", "email": "alice@example.org"});
    world.create(&admin(), Kind::User, body).await.unwrap();
    let logins = accounts(world);
    let identity = logins.verify("alice", "correct horse", None).await.unwrap();
    let new = NewSession {
        identity: &identity,
        method: "password",
        address: None,
        agent: Some("b\nrowser"),
        instead_of: None,
    };
    let session = world.cloud.begin_session(&new).await.unwrap();
    world
        .create(&user("alice"), Kind::Token, json!({}))
        .await
        .unwrap();
    (user("alice"), logins, session)
}

#[tokio::test]
async fn a_forgotten_password_is_chosen_anew_by_a_letter_and_ends_all_that_the_old_one_began() {
    let world = world_with(|_| ()).await;
    let (_, logins, session) = with_alice(&world).await;
    assert!(logins.by_session(&session, None).await.is_some());
    // The same answer for whom there isn't.
    world
        .cloud
        .request_reset(&stranger(1), "nobody")
        .await
        .unwrap();
    world
        .cloud
        .request_reset(&stranger(1), "alice")
        .await
        .unwrap();
    let first = wait_for_letters(&world, 1).await;
    // A letter is in the database a moment before the caches show its link.
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while world.cloud.link(&secret(&first[0].1)).is_err() {
        assert!(std::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world
        .cloud
        .request_reset(&stranger(1), "alice")
        .await
        .unwrap();
    let both = wait_for_letters(&world, 2).await;
    // The newer one counts.
    is_gone(world.cloud.link(&secret(&first[0].1)));
    let link = secret(&both[1].1);
    let weak = world
        .cloud
        .reset_password(&stranger(1), &link, "password".to_owned())
        .await;
    assert!(matches!(weak, Err(CloudError::Invalid { .. })));
    world
        .cloud
        .reset_password(&stranger(1), &link, "battery staple".to_owned())
        .await
        .unwrap();
    is_gone(
        world
            .cloud
            .reset_password(&stranger(1), &link, "another one".to_owned())
            .await,
    );
    assert!(logins.by_session(&session, None).await.is_none());
    assert_eq!(world.documents.count_owned::<Token>("alice"), 0);
    assert_eq!(
        logins.verify("alice", "correct horse", None).await,
        Err(LoginError::Wrong)
    );
    logins
        .verify("alice", "battery staple", None)
        .await
        .unwrap();
    let told = letters(&world).await;
    assert!(told.last().unwrap().1.contains("was changed"), "{told:?}");
    // No more letters than some an hour, and the caller isn't told.
    for _ in 0..4 {
        world
            .cloud
            .request_reset(&stranger(3), "alice")
            .await
            .unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(letters(&world).await.len() <= told.len() + 1);
}

async fn wait_for_letters(world: &World, number: usize) -> Vec<(String, String)> {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let letters = letters(world).await;
        if letters.len() >= number || std::time::Instant::now() >= until {
            assert_eq!(letters.len(), number, "{letters:?}");
            return letters;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_new_address_counts_once_it_is_confirmed_and_the_old_one_is_told() {
    let world = world_with(|_| ()).await;
    let (alice, ..) = with_alice(&world).await;
    let change = ProfileChange {
        email: Some("new@example.org".to_owned()),
        last_name: Some("Other".to_owned()),
        ..ProfileChange::default()
    };
    let outcome = world.cloud.change_profile(&alice, change).await.unwrap();
    assert!(outcome.confirms_address && !outcome.new_password);
    let kept = || world.documents.users.get("alice").unwrap();
    assert_eq!(kept().email.as_deref(), Some("alice@example.org"));
    assert_eq!(kept().last_name.as_deref(), Some("Other"));
    let sent = letters(&world).await;
    let to: Vec<_> = sent.iter().map(|(to, _)| to.as_str()).collect();
    assert!(
        to.contains(&"new@example.org") && to.contains(&"alice@example.org"),
        "{to:?}"
    );
    let (_, text) = sent.iter().find(|(to, _)| to == "new@example.org").unwrap();
    world
        .cloud
        .confirm_address(&secret(text), true)
        .await
        .unwrap();
    assert_eq!(kept().email.as_deref(), Some("new@example.org"));
    is_gone(world.cloud.confirm_address(&secret(text), true).await);
    assert_eq!(letters(&world).await.len(), 3);
}

#[tokio::test]
async fn the_api_asks_at_a_new_address_too_but_believes_administrators() {
    let world = world_with(|_| ()).await;
    let (alice, ..) = with_alice(&world).await;
    let kept = || world.documents.users.get("alice").unwrap();
    let edit = |who: OpContext, body: Value| {
        let world = &world;
        async move { world.edit(&who, Kind::User, "alice", body).await }
    };
    let wrong = json!({"first-name": "A", "email": "nobody"});
    let refused = edit(alice.clone(), wrong).await;
    assert!(
        matches!(refused, Err(CloudError::Invalid { .. })),
        "{refused:?}"
    );
    assert_eq!(kept().first_name, None);
    let right = json!({"first-name": "A", "email": "new@example.org"});
    edit(alice.clone(), right).await.unwrap();
    assert_eq!(kept().first_name.as_deref(), Some("A"));
    assert_eq!(kept().email.as_deref(), Some("alice@example.org"));
    let sent = letters(&world).await;
    let (_, text) = sent.iter().find(|(to, _)| to == "new@example.org").unwrap();
    // Who changes the password drops what somebody else asked for with the old one.
    let password = json!({"password": "battery staple"});
    edit(alice.clone(), password).await.unwrap();
    is_gone(world.cloud.confirm_address(&secret(text), true).await);
    let both = json!({"password": "correct battery", "email": "new@example.org"});
    edit(alice, both).await.unwrap();
    let sent = letters(&world).await;
    let asked = sent.iter().rfind(|(to, _)| to == "new@example.org");
    let link = secret(&asked.unwrap().1);
    world.cloud.confirm_address(&link, true).await.unwrap();
    assert_eq!(kept().email.as_deref(), Some("new@example.org"));
    edit(admin(), json!({"email": "other@example.org"}))
        .await
        .unwrap();
    assert_eq!(kept().email.as_deref(), Some("other@example.org"));
}

#[tokio::test]
async fn nothing_opened_by_a_password_outlives_it_whoever_changes_it() {
    let world = world_with(|_| ()).await;
    let (alice, logins, mut session) = with_alice(&world).await;
    for (who, new) in [(&alice, "battery staple"), (&admin(), "correct battery")] {
        world.create(&alice, Kind::Token, json!({})).await.unwrap();
        let challenge = "c".repeat(43);
        let grant = Grant::read(&challenge, "stratus").unwrap();
        let code = world.cloud.grant_command(&alice, &grant).await.unwrap();
        let body = json!({"password": new});
        world.edit(who, Kind::User, "alice", body).await.unwrap();
        assert_eq!(world.documents.count_owned::<Token>("alice"), 0, "{new}");
        assert!(logins.by_session(&session, None).await.is_none(), "{new}");
        is_gone(world.cloud.command_token(&alice, &code, &challenge).await);
        let told = letters(&world).await;
        assert!(told.last().unwrap().1.contains("was changed"), "{told:?}");
        let identity = logins.verify("alice", new, None).await.unwrap();
        let again = NewSession {
            identity: &identity,
            method: "password",
            address: None,
            agent: None,
            instead_of: None,
        };
        session = world.cloud.begin_session(&again).await.unwrap();
    }
    // What changes nothing ends nothing.
    world.create(&alice, Kind::Token, json!({})).await.unwrap();
    world
        .edit(&alice, Kind::User, "alice", json!({"last-name": "B"}))
        .await
        .unwrap();
    assert_eq!(world.documents.count_owned::<Token>("alice"), 1);
    assert!(logins.by_session(&session, None).await.is_some());
}

#[tokio::test]
async fn sessions_are_renewed_by_each_login_and_end_with_what_they_stood_for() {
    let world = world_with(|_| ()).await;
    let (alice, logins, session) = with_alice(&world).await;
    let by_session = logins.by_session(&session, None).await.unwrap();
    assert!(by_session.session.is_some());
    let context = OpContext {
        caller: Caller::User(by_session.clone()),
        ..alice.clone()
    };
    // A browser is no password.
    let edit = world
        .edit(
            &context,
            Kind::User,
            "alice",
            json!({"password": "battery staple"}),
        )
        .await;
    assert!(matches!(edit, Err(CloudError::Forbidden(_))), "{edit:?}");
    let kept = world.documents.sessions.all();
    assert!(
        !serde_json::to_string(&kept[0].document.0)
            .unwrap()
            .contains(&session)
    );
    assert_eq!(kept[0].agent.as_deref(), Some("browser"));
    // Another login in the same browser ends the first.
    let new = NewSession {
        identity: &by_session,
        method: "password",
        address: None,
        agent: None,
        instead_of: Some(&session),
    };
    let second = world.cloud.begin_session(&new).await.unwrap();
    assert!(logins.by_session(&session, None).await.is_none());
    assert!(logins.by_session(&second, None).await.is_some());
    // Idle, and at most so long.
    let id = world.documents.sessions.all()[0].id().to_owned();
    let set = async |expires: Timestamp, used: Timestamp| {
        let changed = world.documents.update(&id, |session: &mut Session| {
            (session.expires, session.last_used) = (expires, used);
            Ok::<_, documents::DocumentsError>(true)
        });
        changed.await.unwrap();
    };
    let now = Timestamp::now();
    let ago = |seconds: i64| Timestamp::from_millis(now.as_millis() - seconds * 1000);
    let later = now.after(Duration::from_secs(3600));
    set(later, ago(31 * 60)).await;
    assert!(logins.by_session(&second, None).await.is_none());
    set(ago(1), now).await;
    assert!(logins.by_session(&second, None).await.is_none());
    set(later, now).await;
    assert!(logins.by_session(&second, None).await.is_some());
    // Roles are what a session stands for.
    world
        .edit(&admin(), Kind::User, "alice", json!({"roles": ["x"]}))
        .await
        .unwrap();
    assert!(logins.by_session(&second, None).await.is_none());
    // One user's browsers are bounded.
    for _ in 0..40 {
        let new = NewSession {
            instead_of: None,
            ..new.clone()
        };
        world.cloud.begin_session(&new).await.unwrap();
    }
    assert!(world.documents.count_owned::<Session>("alice") <= 31);
    // One's own can be ended, by oneself.
    let id = world.documents.sessions.all()[0].id().to_owned();
    is_gone(world.cloud.delete(&user("bob"), Kind::Session, &id).await);
    world
        .cloud
        .delete(&alice, Kind::Session, &id)
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
