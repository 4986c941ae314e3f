//! Passwords, addresses and sessions: who may change them, and what ends with them.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::time::Duration;

use accounts::LoginError;
use cimi::{
    Timestamp,
    model::Kind,
    resources::{Origin, Session, Token},
};
use cloud::{
    Caller, CloudError, OpContext,
    people::{Grant, NewSession, ProfileChange},
};
use serde_json::{Value, json};

use crate::bare_cloud::{admin, user};
use crate::people_world::{
    is_gone, letters, secret, stranger, wait_for_letters, with_alice, world_with,
};

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
    // No more letters than some an hour, and the caller isn't told. Each request goes on behind its answer.
    let under_way = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = under_way();
    for _ in 0..4 {
        world
            .cloud
            .request_reset(&stranger(3), "alice")
            .await
            .unwrap();
    }
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while under_way() > before {
        assert!(std::time::Instant::now() < until, "they go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(letters(&world).await.len(), told.len() + 1);
}

/// Also with a link that was sent before the account was known to be of there.
#[tokio::test]
async fn who_comes_from_elsewhere_gets_no_password_by_a_letter() {
    let world = world_with(|_| ()).await;
    with_alice(&world).await;
    world
        .cloud
        .request_reset(&stranger(1), "alice")
        .await
        .unwrap();
    let link = secret(&wait_for_letters(&world, 1).await[0].1);
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while world.cloud.link(&link).is_err() {
        assert!(std::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let kept = world.documents.users.get("alice").unwrap();
    let mut ann = kept.document.0.clone();
    for source in ["oidc", "login-pswd.properties"] {
        let read = world.documents.users.get("alice").unwrap();
        ann.origin = Some(Origin {
            source: source.to_owned(),
            digest: String::new(),
        });
        let changed = world.documents.changes().replace(&read, ann.clone());
        changed.commit().await.unwrap();
        let set = world
            .cloud
            .reset_password(&stranger(1), &link, "battery staple".to_owned())
            .await;
        assert!(
            matches!(&set, Err(CloudError::Conflict(reason)) if reason.contains(source)),
            "{set:?}"
        );
        let change = ProfileChange::read(&[
            ("givenName".to_owned(), "Ann".to_owned()),
            ("userPassword".to_owned(), "correct horse".to_owned()),
            ("newUserPassword".to_owned(), "battery staple".to_owned()),
            (
                "newUserPasswordCheck".to_owned(),
                "battery staple".to_owned(),
            ),
        ]);
        let by_profile = world
            .cloud
            .change_profile(&user("alice"), change.unwrap())
            .await;
        assert!(
            matches!(by_profile, Err(CloudError::Conflict(_))),
            "{by_profile:?}"
        );
        let now = world.documents.users.get("alice").unwrap();
        assert_eq!(now.password, kept.password, "{source}");
        assert_eq!(now.first_name, None, "{source}");
    }
    // Nor is a letter sent: that of bob, who was asked about later, is the next.
    let body = json!({"username": "bob", "password": "correct horse", "email": "bob@example.org"});
    world.create(&admin(), Kind::User, body).await.unwrap();
    for name in ["alice", "bob"] {
        let asked = world.cloud.request_reset(&stranger(1), name).await;
        asked.unwrap();
    }
    let letters = wait_for_letters(&world, 2).await;
    assert_eq!(letters[1].0, "bob@example.org");
}

#[tokio::test]
async fn a_new_address_counts_once_it_is_confirmed_and_the_old_one_is_told() {
    let world = world_with(|_| ()).await;
    let (alice, ..) = with_alice(&world).await;
    let change = ProfileChange {
        email: cimi::EmailAddress::parse("new@example.org").ok(),
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
async fn who_logged_in_before_the_password_changed_makes_nothing_of_it() {
    let world = world_with(|_| ()).await;
    let (_, logins, _) = with_alice(&world).await;
    let identity = logins.verify("alice", "correct horse", None).await.unwrap();
    let context = OpContext {
        caller: Caller::User(identity.clone()),
        ..user("alice")
    };
    let body = json!({"password": "battery staple"});
    world
        .edit(&admin(), Kind::User, "alice", body)
        .await
        .unwrap();
    let refused = |result: Result<(), CloudError>| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("log in again"), "{text}");
    };
    let token = world.create(&context, Kind::Token, json!({})).await;
    refused(token.map(drop));
    let grant = Grant::read(&"c".repeat(43), "stratus").unwrap();
    refused(world.cloud.grant_command(&context, &grant).await.map(drop));
    let new = NewSession {
        identity: &identity,
        method: "password",
        address: None,
        agent: None,
        instead_of: None,
    };
    refused(world.cloud.begin_session(&new).await.map(drop));
    let body = json!({"email": "other@example.org"});
    let edited = world.edit(&context, Kind::User, "alice", body).await;
    refused(edited.map(drop));
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
    let again = logins.verify("alice", "correct horse", None).await.unwrap();
    for _ in 0..40 {
        let new = NewSession {
            identity: &again,
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
