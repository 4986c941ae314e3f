//! What wants a password, also of administrators: whoever finds a token of theirs keeps nothing that outlasts it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use cimi::model::Kind;
use cloud::{Caller, CloudError, OpContext, testing::PATIENCE};
use serde_json::{Value, json};

use crate::{
    bare_cloud::{World, admin},
    people_world::accounts,
};

async fn by_token(world: &World) -> OpContext {
    let logins = accounts(world);
    let password = logins.verify("root", "correct horse", None).await.unwrap();
    let who = OpContext::new(Caller::User(password), "t".into(), PATIENCE);
    let made = world.create(&who, Kind::Token, json!({})).await.unwrap();
    let shown = made.view.document.attributes(made.view.right);
    let secret = shown.get("token").unwrap().as_str().unwrap();
    let identity = logins.by_token(secret, None, None).await.unwrap();
    OpContext::new(Caller::User(identity), "t".into(), PATIENCE)
}

#[tokio::test]
async fn a_token_of_an_administrator_makes_no_administrator_and_opens_none_s_account() {
    let world = World::start().await;
    world.user("root", &["::ADMIN"]).await;
    world.user("boss", &["::ADMIN"]).await;
    world.user("joe", &[]).await;
    let token = by_token(&world).await;
    let disabled = json!({"enabled": false});
    world
        .edit(&admin(), Kind::User, "boss", disabled)
        .await
        .unwrap();
    let forbidden: [(&str, Value); 7] = [
        ("root", json!({"password": "battery staple"})),
        ("root", json!({"email": "eve@example.org"})),
        ("root", json!({"altnames": {"x500dn": "CN=Eve,O=Example"}})),
        ("boss", json!({"password": "battery staple"})),
        ("boss", json!({"enabled": true})),
        ("joe", json!({"roles": ["::ADMIN"]})),
        (
            "joe",
            json!({"roles": ["x", "::ADMIN"], "password": "battery staple"}),
        ),
    ];
    for (name, change) in &forbidden {
        let edited = world.edit(&token, Kind::User, name, change.clone()).await;
        assert!(
            matches!(&edited, Err(CloudError::Forbidden(text)) if text.contains("token")),
            "{name} {change}: {edited:?}"
        );
    }
    let user = json!({"username": "eve", "password": "correct horse", "roles": ["::ADMIN"]});
    let made = world.create(&token, Kind::User, user.clone()).await;
    assert!(matches!(made, Err(CloudError::Forbidden(_))), "{made:?}");
    let login =
        json!({"service": "authn", "localdb": {"password-enabled": true, "cert-enabled": false}});
    let made = world
        .create(&token, Kind::ServiceConfiguration, login.clone())
        .await;
    assert!(matches!(made, Err(CloudError::Forbidden(_))), "{made:?}");
    let made = world
        .create(&admin(), Kind::ServiceConfiguration, login)
        .await;
    made.unwrap();
    let change = json!({"localdb": {"password-enabled": true, "cert-enabled": true}});
    let edited = world
        .edit(&token, Kind::ServiceConfiguration, "authn", change)
        .await;
    assert!(
        matches!(edited, Err(CloudError::Forbidden(_))),
        "{edited:?}"
    );
    // All else goes on.
    for change in [
        json!({"password": "battery staple", "roles": ["physics"]}),
        json!({"quota": {"machines": 3}}),
        json!({"enabled": false}),
    ] {
        world.edit(&token, Kind::User, "joe", change).await.unwrap();
    }
    let plain = json!({"username": "ann", "password": "correct horse"});
    world.create(&token, Kind::User, plain).await.unwrap();
    let name = json!({"first-name": "Bo"});
    world.edit(&token, Kind::User, "boss", name).await.unwrap();
    // And with the password all of it.
    world.create(&admin(), Kind::User, user).await.unwrap();
    for (name, change) in forbidden {
        let edited = world.edit(&admin(), Kind::User, name, change.clone()).await;
        assert!(edited.is_ok(), "{name} {change}: {edited:?}");
    }
}
