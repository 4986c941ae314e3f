//! A cloud at which people register, and what its letters say.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{sync::Arc, time::Duration};

use accounts::{Accounts, Hashing};
use cimi::model::Kind;
use cloud::{
    Caller, CloudError, OpContext, Settings,
    people::{Application, NewSession, PeopleSettings, RegistrationSettings},
    testing,
};
use serde_json::{Value, json};
use store::{Prefix, Range};

use crate::bare_cloud::{World, admin, user};

pub(crate) async fn world_with(change: impl FnOnce(&mut RegistrationSettings)) -> World {
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
pub(crate) fn stranger(last: u8) -> OpContext {
    let mut context = OpContext::new(Caller::Anonymous, "t".into(), Duration::from_secs(60));
    context.peer = Some([192, 0, 2, last].into());
    context
}

pub(crate) fn form(uid: &str, changes: &[(&str, &str)]) -> Application {
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
pub(crate) async fn letters(world: &World) -> Vec<(String, String)> {
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
pub(crate) fn secret(text: &str) -> String {
    let (_, rest) = text
        .split_once("/register/action/")
        .unwrap_or_else(|| panic!("{text}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

pub(crate) fn is_gone<T: std::fmt::Debug>(result: Result<T, CloudError>) {
    assert!(
        matches!(result, Err(CloudError::NotFound { .. })),
        "{result:?}"
    );
}

pub(crate) fn accounts(world: &World) -> Accounts {
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

/// A user with an address, who is logged in by a browser and by a token.
pub(crate) async fn with_alice(world: &World) -> (OpContext, Accounts, String) {
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

pub(crate) async fn wait_for_letters(world: &World, number: usize) -> Vec<(String, String)> {
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
