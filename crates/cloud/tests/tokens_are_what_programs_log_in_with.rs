//! Tokens, from their creation to their end.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::{net::IpAddr, sync::Arc, time::Duration};

use accounts::{Accounts, Cost, Hashing, LoginError, oidc::Person};
use cimi::{Timestamp, model::Kind, resources::Token};
use cloud::{Caller, CloudError, OpContext, testing::PATIENCE};
use serde_json::{Value, json};

use crate::bare_cloud::{World, admin, local, object, user};

const SOMEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

struct Tokens {
    world: World,
    accounts: Accounts,
}

impl Tokens {
    /// A cloud with the user joe.
    async fn start() -> Self {
        let world = World::start().await;
        world.user("joe", &[]).await;
        let accounts = Accounts::new(
            Arc::new(world.cloud.clone()),
            Hashing::with_cost(Cost::NONE),
            accounts::Settings::default(),
        );
        Self { world, accounts }
    }

    /// A token of joe's, and its id.
    async fn make(&self, body: Value) -> (String, String) {
        let made = self
            .world
            .create(&user("joe"), Kind::Token, body)
            .await
            .unwrap();
        let shown = made.view.document.attributes(made.view.right);
        (shown["token"].as_str().unwrap().to_owned(), local(&made))
    }

    async fn log_in(&self, token: &str) -> Result<OpContext, LoginError> {
        let identity = self.accounts.by_token(token, None, Some(SOMEWHERE)).await?;
        Ok(OpContext::new(
            Caller::User(identity),
            "test".into(),
            PATIENCE,
        ))
    }
}

#[tokio::test]
async fn a_token_is_shown_once_and_logs_in_until_it_is_revoked() {
    let tokens = Tokens::start().await;
    let (token, id) = tokens.make(json!({"name": "ci"})).await;
    let kept = tokens.world.documents.tokens.get(&id).unwrap();
    let kept = serde_json::to_string(&kept.document.0).unwrap();
    assert!(!kept.contains(&token[6..]), "{kept}");
    let shown = tokens
        .world
        .cloud
        .get(&user("joe"), Kind::Token, &id)
        .unwrap();
    let shown = shown.document.attributes(cimi::Right::All);
    assert!(
        !shown.contains_key("token") && !shown.contains_key("digest"),
        "{shown:?}"
    );
    assert!(!shown.contains_key("lastUsed"), "{shown:?}");

    let joe = tokens.log_in(&token).await.unwrap();
    assert_eq!(joe.user(), Some("joe"));
    tokens.world.volume(&joe).await;
    let used = tokens.world.documents.tokens.get(&id).unwrap();
    assert_eq!(used.last_address.as_deref(), Some("192.0.2.1"));
    // A second use in the same minute isn't written down.
    tokens.log_in(&token).await.unwrap();
    assert_eq!(
        tokens.world.documents.tokens.get(&id).unwrap().revision,
        used.revision
    );
    // It is joe's alone.
    let other = tokens.accounts.by_token(&token, Some("bob"), None).await;
    assert_eq!(other.err(), Some(LoginError::Token));
    tokens
        .accounts
        .by_token(&token, Some("joe"), Some(SOMEWHERE))
        .await
        .unwrap();

    tokens
        .world
        .cloud
        .delete(&user("joe"), Kind::Token, &id)
        .await
        .unwrap();
    assert_eq!(tokens.log_in(&token).await.err(), Some(LoginError::Token));
    for text in [
        "",
        "strat_",
        "strat_0000000000000000000000000000000000000000",
    ] {
        assert_eq!(
            tokens.log_in(text).await.err(),
            Some(LoginError::Token),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_token_ends_with_its_time_and_with_its_user() {
    let tokens = Tokens::start().await;
    let soon = Timestamp::now().after(Duration::from_secs(3600));
    let (brief, id) = tokens.make(json!({"expires": soon})).await;
    let (token, _) = tokens.make(json!({})).await;
    tokens.log_in(&brief).await.unwrap();
    let an_hour_later = |token: &mut Token| {
        token.expires = Timestamp::now();
        Ok::<_, CloudError>(true)
    };
    let documents = &tokens.world.documents;
    documents.update(&id, an_hour_later).await.unwrap();
    assert_eq!(tokens.log_in(&brief).await.err(), Some(LoginError::Token));
    tokens.log_in(&token).await.unwrap();

    let world = &tokens.world;
    let root = admin();
    let set = |enabled: bool| world.edit(&root, Kind::User, "joe", json!({"enabled": enabled}));
    set(false).await.unwrap();
    assert_eq!(tokens.log_in(&token).await.err(), Some(LoginError::Token));
    set(true).await.unwrap();
    tokens.log_in(&token).await.unwrap();

    // Who is called joe later doesn't have it, even if it were still there.
    let old = world.documents.tokens.all();
    world
        .cloud
        .delete(&admin(), Kind::User, "joe")
        .await
        .unwrap();
    assert!(world.documents.tokens.is_empty());
    world.user("joe", &[]).await;
    let back = old
        .iter()
        .fold(world.documents.changes(), |changes, token| {
            changes.create(&token.document.0)
        });
    back.commit().await.unwrap();
    assert_eq!(tokens.log_in(&token).await.err(), Some(LoginError::Token));
}

#[tokio::test]
async fn a_token_of_who_came_from_a_provider_ends_with_the_provider() {
    let tokens = Tokens::start().await;
    let world = &tokens.world;
    let oidc = |enabled: bool| {
        json!({"service": "authn", "localdb": {"password-enabled": true, "cert-enabled": false},
            "oidc": {"enabled": enabled, "label": "Org", "issuer": "https://id.example.org", "client-id": "stratus",
                "redirect-url": "https://cloud.example.org/cimi/oidc/callback"}})
    };
    world
        .create(&admin(), Kind::ServiceConfiguration, oidc(true))
        .await
        .unwrap();
    let person = Person {
        subject: "https://id.example.org 1".to_owned(),
        username: Some("ann".to_owned()),
        first_name: None,
        last_name: None,
        email: Some("ann@example.org".to_owned()),
        roles: Vec::new(),
        next: "/".to_owned(),
    };
    world.cloud.provided(&person, true).await.unwrap();
    let made = world
        .create(&user("ann"), Kind::Token, json!({}))
        .await
        .unwrap();
    let shown = made.view.document.attributes(made.view.right);
    let token = shown["token"].as_str().unwrap();
    let (of_joe, _) = tokens.make(json!({})).await;
    tokens.log_in(token).await.unwrap();
    let set = async |enabled: bool| {
        let member = json!({"oidc": oidc(enabled)["oidc"]});
        let root = admin();
        let edited = world.edit(&root, Kind::ServiceConfiguration, "authn", member);
        edited.await.unwrap();
    };
    set(false).await;
    assert_eq!(tokens.log_in(token).await.err(), Some(LoginError::Token));
    tokens.log_in(&of_joe).await.unwrap();
    set(true).await;
    tokens.log_in(token).await.unwrap();
}

#[tokio::test]
async fn a_token_does_not_outgrow_its_purpose() {
    let tokens = Tokens::start().await;
    let (full, id) = tokens.make(json!({"scope": "full"})).await;
    let (reading, _) = tokens.make(json!({"scope": "read-only"})).await;
    let (full, reading) = (
        tokens.log_in(&full).await.unwrap(),
        tokens.log_in(&reading).await.unwrap(),
    );
    let world = &tokens.world;
    let volume = world.volume(&full).await;
    let forbidden = |result: Result<(), CloudError>| {
        assert!(
            matches!(result, Err(CloudError::Forbidden(_))),
            "{result:?}"
        );
    };
    forbidden(world.create(&full, Kind::Token, json!({})).await.map(drop));
    let mail = json!({"email": "thief@example.org"});
    forbidden(world.edit(&full, Kind::User, "joe", mail).await.map(drop));
    // Reading only.
    world.cloud.get(&reading, Kind::Volume, &volume).unwrap();
    forbidden(
        world
            .cloud
            .delete(&reading, Kind::Volume, &volume)
            .await
            .map(drop),
    );
    forbidden(
        world
            .cloud
            .delete(&reading, Kind::Token, &id)
            .await
            .map(drop),
    );
    let config = json!({"capacity": 1000});
    forbidden(
        world
            .create(&reading, Kind::VolumeConfiguration, config)
            .await
            .map(drop),
    );
    assert!(!world.cloud.can_create(&reading, Kind::Volume));
    let view = world.cloud.get(&reading, Kind::Volume, &volume).unwrap();
    assert!(view.document.operations(view.right).is_empty());
    // What can't be.
    for body in [
        json!({"scope": "everything"}),
        json!({"expires": "2014-08-01T10:20:30.000Z"}),
        json!({"expires": Timestamp::now().after(Duration::from_secs(400 * 86_400))}),
    ] {
        let refused = world.create(&user("joe"), Kind::Token, body).await;
        assert!(
            matches!(refused, Err(CloudError::Invalid { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_token_for_some_types_is_for_no_others_however_one_gets_there() {
    let tokens = Tokens::start().await;
    let (token, id) = tokens
        .make(json!({"types": ["System", "Volume"], "name": "narrow"}))
        .await;
    let narrow = tokens.log_in(&token).await.unwrap();
    let (world, cloud) = (&tokens.world, &tokens.world.cloud);
    let view = cloud.get(&user("joe"), Kind::Token, &id).unwrap();
    let shown = view.document.attributes(view.right);
    assert_eq!(shown["types"], json!(["System", "Volume"]));
    let refused = |result: Result<(), CloudError>| match result {
        Err(CloudError::Forbidden(text)) => {
            assert!(
                text.starts_with("this token is for System, Volume only"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    };
    let volume = world.volume(&narrow).await;
    let all = cimi::query::Query::default();
    assert_eq!(cloud.list(&narrow, Kind::Volume, &all).unwrap().count, 1);
    cloud
        .get(&narrow, Kind::ResourceMetadata, "Machine")
        .unwrap();
    refused(cloud.list(&narrow, Kind::Machine, &all).map(drop));
    refused(cloud.get(&narrow, Kind::User, "joe").map(drop));
    refused(cloud.get(&narrow, Kind::Token, &id).map(drop));
    refused(cloud.delete(&narrow, Kind::Token, &id).await.map(drop));
    let key = json!({"publicKey": crate::support::KEY});
    refused(
        world
            .create(&narrow, Kind::Credential, key.clone())
            .await
            .map(drop),
    );
    let since = cloud::Since::Now;
    refused(cloud.watch(&narrow, Kind::Event, None, since).map(drop));
    let log = format!("Volume.{volume}");
    let log = (Kind::EventLog, log.as_str(), "events");
    refused(
        cloud
            .watch_members(&narrow, log, None, since)
            .await
            .map(drop),
    );
    assert!(cloud.can_list(&narrow, Kind::Volume) && !cloud.can_list(&narrow, Kind::Job));
    assert!(cloud.can_create(&narrow, Kind::Volume) && !cloud.can_create(&narrow, Kind::Machine));
    // What is not for it can't be got at by what is.
    let component = json!({"name": "own", "type": "Credential", "credentialTemplate": key});
    let system = json!({"systemTemplate": {"componentDescriptors": [component]}});
    let system = world.create(&narrow, Kind::System, system).await.unwrap();
    let (_, local) = system.view.id.split_once('/').unwrap();
    let (joe, key) = (user("joe"), json!({"publicKey": crate::support::KEY}));
    let other = world.create(&joe, Kind::Credential, key).await.unwrap();
    let href = other.view.id.to_string();
    let member = json!({"credential": {"href": href}});
    let member = cimi::model::check(Kind::SystemCredential, &member).unwrap();
    let added = cloud.add_member(&narrow, Kind::System, local, "credentials", member);
    refused(added.await.map(drop));

    // Who stops the job of something changes that.
    let (token, _) = tokens.make(json!({"types": ["Job", "Volume"]})).await;
    let narrow = tokens.log_in(&token).await.unwrap();
    let machine = format!("Machine/{}", world.machine(&joe).await);
    let jobs = world.documents.jobs.all();
    let job = jobs.iter().find(|job| job.subject() == machine).unwrap();
    cloud.get(&narrow, Kind::Job, job.id()).unwrap();
    let nothing = object(json!({}));
    let stop = |who| cloud.act(who, Kind::Job, job.id(), "stop", &nothing);
    match stop(&narrow).await {
        Err(CloudError::Forbidden(text)) => assert!(text.contains("not for Machine"), "{text}"),
        other => panic!("{other:?}"),
    }
    stop(&joe).await.unwrap();

    for types in [
        json!([]),
        json!(["Nothing"]),
        json!(["Volume", "Disk"]),
        json!(["volume"]),
    ] {
        let body = json!({ "types": types });
        let wrong = world.create(&user("joe"), Kind::Token, body).await;
        assert!(
            matches!(wrong, Err(CloudError::Invalid { .. })),
            "{types}: {wrong:?}"
        );
    }
}
