//! Users of a `login-cert.properties`, and users by their other names.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)] // a test that panics has failed

use accounts::{UserSource as _, certificate_file};
use cimi::{dn::DistinguishedName, model::Kind};
use cloud::Imported;
use serde_json::json;

use crate::support::{World, admin};

const SOURCE: &str = "login-cert.properties";

async fn import(world: &World, text: &str) -> Imported {
    let entries = certificate_file::read(text.as_bytes()).unwrap();
    world
        .cloud
        .import_certified(SOURCE, &entries)
        .await
        .unwrap()
}

#[tokio::test]
async fn entries_become_users_without_passwords_and_follow_the_file() {
    let world = World::start().await;
    let body = json!({"username": "carol", "password": "correct horse",
        "altnames": {"x500dn": "/C=EU/O=Example Org/CN=Carol"}});
    world.made(&admin(), Kind::User, body).await;
    let find = |text: &str| {
        let found = world
            .cloud
            .find_by_name(&DistinguishedName::parse(text).unwrap());
        assert!(found.len() <= 1);
        found.into_iter().next()
    };
    assert_eq!(
        find("CN=Carol, O=Example Org, C=EU").unwrap().username,
        "carol"
    );
    let text = "\"CN=Alice Endorser,OU=Images,O=Example Org,C=EU\" cloud-access,physics\n\
        \"CN=Carol,O=Example Org,C=EU\" cloud-access\n\"CN=Bob,C=EU\"\n";
    let done = import(&world, text).await;
    assert_eq!((done.made, done.skipped), (2, 1));
    let alice = find("/C=EU/O=Example Org/OU=Images/CN=Alice Endorser").unwrap();
    assert!(alice.enabled && alice.password.is_none() && alice.is_of(SOURCE));
    assert_eq!(alice.roles, ["cloud-access", "physics"]);
    assert!(!find("CN=Bob,C=EU").unwrap().enabled);
    assert_eq!(
        find("CN=Carol,O=Example Org,C=EU").unwrap().username,
        "carol"
    );
    assert_eq!(
        import(&world, text).await,
        Imported {
            skipped: 1,
            ..Imported::default()
        }
    );

    let done = import(
        &world,
        "\"cn=Alice Endorser, ou=Images, o=Example Org, c=EU\" other",
    )
    .await;
    assert_eq!((done.changed, done.disabled), (1, 1));
    let alice = find("CN=Alice Endorser,OU=Images,O=Example Org,C=EU").unwrap();
    assert!(!alice.enabled);
    assert_eq!(alice.roles, ["other"]);
    assert_eq!(import(&world, text).await.changed, 2);
    assert!(
        find("CN=Alice Endorser,OU=Images,O=Example Org,C=EU")
            .unwrap()
            .enabled
    );
}
