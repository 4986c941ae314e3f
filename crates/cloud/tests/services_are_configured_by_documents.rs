//! ServiceConfiguration: open documents of administrators, and the one that says which ways to log in there are.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)] // a test that panics has failed

use std::{sync::Arc, time::Duration};

use accounts::{Accounts, Cost, Hashing, LoginError};
use cimi::model::Kind;
use cloud::CloudError;
use serde_json::{Value, json};

use crate::bare_cloud::user;
use crate::support::{World, admin};

const AUTHN: &str = "ServiceConfiguration/authn";

#[tokio::test]
async fn documents_have_any_members_and_keep_their_secrets() {
    let world = World::start().await;
    let body = json!({"service": "pdisk", "instance": "a", "name": "disks", "iscsi": {"port": 3260,
        "chap": {"user": "x", "chap-password": "geheim"}}, "strange?": [1, {"deep": [true]}], "empty": {}});
    let id = world.made(&admin(), Kind::ServiceConfiguration, body).await;
    assert_eq!(id, "ServiceConfiguration/pdisk.a");
    let shown = world.get(&admin(), &id);
    assert_eq!(shown["iscsi"], json!({"port": 3260, "chap": {"user": "x"}}));
    assert_eq!(shown["strange?"], json!([1, {"deep": [true]}]));
    let stored = || {
        let document = world
            .documents
            .service_configurations
            .get("pdisk.a")
            .unwrap();
        document.further.clone()
    };
    // A whole representation that is sent back changes nothing.
    world.put(&admin(), &id, shown.clone()).await.unwrap();
    assert_eq!(stored()["iscsi"]["chap"]["chap-password"], "geheim");
    let mut changed = shown.clone();
    changed["iscsi"]["port"] = 3261.into();
    changed.as_object_mut().unwrap().remove("strange?");
    world.put(&admin(), &id, changed).await.unwrap();
    assert_eq!(stored()["iscsi"]["chap"]["chap-password"], "geheim");
    assert_eq!(stored()["iscsi"]["port"], 3261);
    assert_eq!(stored().get("strange?"), None);
    // A part leaves the rest; null removes.
    let part = json!({"iscsi": null, "more": "text", "service": "other"});
    world.put(&admin(), &id, part).await.unwrap();
    let shown = world.get(&admin(), &id);
    assert_eq!(
        (shown.get("iscsi"), &shown["more"], &shown["service"]),
        (None, &json!("text"), &json!("pdisk"))
    );

    let again = json!({"service": "pdisk", "instance": "a"});
    let refused = world
        .create(&admin(), Kind::ServiceConfiguration, again)
        .await;
    assert!(matches!(refused, Err(CloudError::Conflict(_))));
    let mut deep = json!(1);
    for _ in 0..40 {
        deep = json!([deep]);
    }
    for wrong in [
        json!({}),
        json!({"service": "a b"}),
        json!({"service": "a.b"}),
        json!({"service": ""}),
        json!({"service": "x", "deep": deep}),
        json!({"service": "x", "many": vec![0; 5000]}),
        json!({"service": "x", "bad\u{1}name": 1}),
    ] {
        let refused = world
            .create(&admin(), Kind::ServiceConfiguration, wrong.clone())
            .await;
        assert!(
            matches!(refused, Err(CloudError::Invalid { .. })),
            "{wrong}"
        );
    }
    let refused = world
        .create(
            &user("alice"),
            Kind::ServiceConfiguration,
            json!({"service": "x"}),
        )
        .await;
    assert!(matches!(refused, Err(CloudError::Forbidden(_))));
    let hidden = world
        .cloud
        .get(&user("alice"), Kind::ServiceConfiguration, "pdisk.a");
    assert!(matches!(hidden, Err(CloudError::NotFound { .. })));
}

fn authn(password: bool) -> Value {
    json!({"service": "authn", "localdb": {"password-enabled": password, "cert-enabled": false}})
}

#[tokio::test]
async fn a_change_of_the_ways_to_log_in_counts_from_the_next_request_on() {
    let world = World::start().await;
    let settings = accounts::Settings {
        refused_after: Duration::ZERO,
        ..accounts::Settings::default()
    };
    let hashing = Hashing::with_cost(Cost::NONE);
    let accounts = Accounts::new(Arc::new(world.cloud.clone()), hashing, settings);
    for (name, roles) in [("joe", json!([])), ("chief", json!(["::ADMIN"]))] {
        let body = json!({"username": name, "password": "correct horse", "roles": roles});
        world.made(&admin(), Kind::User, body).await;
    }
    let login = async |name: &str| accounts.verify(name, "correct horse", None).await;
    login("joe").await.unwrap();
    assert!(accounts.recognise("joe", "correct horse").is_some());
    assert_eq!(accounts.methods().names(), ["password", "token"]);

    world
        .made(&admin(), Kind::ServiceConfiguration, authn(false))
        .await;
    assert!(accounts.recognise("joe", "correct horse").is_none());
    assert_eq!(login("joe").await, Err(LoginError::Wrong));
    // Nobody locks themselves out.
    assert!(login("chief").await.unwrap().is_admin());
    assert_eq!(accounts.methods().names(), ["token"]);

    let on = json!({"localdb": {"password-enabled": true, "cert-enabled": true}});
    world.put(&admin(), AUTHN, on).await.unwrap();
    login("joe").await.unwrap();
    assert_eq!(
        accounts.methods().names(),
        ["password", "certificate", "token"]
    );

    for wrong in [
        json!({"localdb": null}),
        json!({"localdb": {"password-enabled": true}}),
        json!({"ldap": {"connection": {"host": {"address": "x", "port": 389}}, "typo": 1}}),
        json!({"voms": {"enabled": "perhaps"}}),
    ] {
        let refused = world.put(&admin(), AUTHN, wrong.clone()).await;
        assert!(
            matches!(refused, Err(CloudError::Invalid { .. })),
            "{wrong}"
        );
    }
    login("joe").await.unwrap();

    world
        .cloud
        .delete(&admin(), Kind::ServiceConfiguration, "authn")
        .await
        .unwrap();
    assert_eq!(accounts.methods().names(), ["password", "token"]);
    login("joe").await.unwrap();
    // By the name that StratusLab's own code gave it.
    let mut default = authn(false);
    default["instance"] = "default".into();
    world
        .made(&admin(), Kind::ServiceConfiguration, default)
        .await;
    assert_eq!(login("joe").await, Err(LoginError::Wrong));
}
