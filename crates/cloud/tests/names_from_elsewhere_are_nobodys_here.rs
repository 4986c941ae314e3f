//! Names that directories, files and login providers give: never one that means something here already.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use accounts::{UserSource as _, directory::Found, files, oidc::Person};
use cimi::model::Kind;
use cloud::CloudError;
use serde_json::json;

use crate::bare_cloud::{World, admin, user};
use crate::people_world::{form, stranger, world_with};

/// Whom a provider vouches for, under this name.
fn person(name: &str) -> Person {
    Person {
        subject: format!("https://id.example.org {name}-1"),
        username: Some(name.to_owned()),
        first_name: None,
        last_name: None,
        email: None,
        roles: Vec::new(),
        next: "/".to_owned(),
    }
}

async fn comes(world: &World, name: &str) -> bool {
    match world.cloud.provided(&person(name), true).await {
        Ok(identity) => {
            assert_eq!(&*identity.user, name);
            true
        }
        Err(CloudError::Forbidden(reason)) => {
            assert!(reason.contains(name), "{reason}");
            false
        }
        Err(other) => panic!("{other:?}"),
    }
}

const NO_NAMES: [&str; 6] = [
    "vo:atlas",
    "CN=alice",
    "CN=alice,O=Example",
    "a,b",
    "~root",
    ".hidden",
];

#[tokio::test]
async fn a_provider_gives_nobody_a_name_that_means_something_here() {
    let world = world_with(|_| ()).await;
    for name in NO_NAMES {
        assert!(!comes(&world, name).await, "{name}");
        assert!(world.documents.users.get(name).is_none(), "{name}");
    }
    for name in ["alice", "a.b-c_d+e@example.org"] {
        assert!(comes(&world, name).await, "{name}");
    }
    // What somebody has asked for, and what something belongs to.
    let sent = world.cloud.sign_up(&stranger(1), form("bobby", &[])).await;
    sent.unwrap();
    assert!(!comes(&world, "bobby").await);
    let volume = world.volume(&user("carol")).await;
    assert!(world.documents.users.get("carol").is_none());
    assert!(!comes(&world, "carol").await);
    let volumes = &world.documents.volumes;
    assert!(volumes.get(&volume).is_some());
    // And another name of somebody.
    let body = json!({"username": "dave", "altnames": {"nick": "davy"}});
    world.create(&admin(), Kind::User, body).await.unwrap();
    assert!(!comes(&world, "davy").await);
}

#[tokio::test]
async fn directories_and_files_give_no_such_names_either() {
    let world = World::start().await;
    let found = |login: &str| Found {
        login: login.to_owned(),
        dn: format!("uid={login},ou=users,o=cloud"),
        first_name: None,
        last_name: None,
        email: None,
        roles: Vec::new(),
    };
    for name in NO_NAMES {
        let kept = world.cloud.found_in_directory(&found(name)).await;
        assert!(kept.is_none(), "{name}");
    }
    assert!(
        world
            .cloud
            .found_in_directory(&found("a.b"))
            .await
            .is_some()
    );
    let text =
        "vo\\:atlas=slpass,cloud-access\nCN\\=alice=slpass,cloud-access\njoe=slpass,cloud-access\n";
    let entries = files::read(text.as_bytes()).unwrap();
    assert_eq!(entries.len(), 3);
    let imported = world.cloud.import_users("login-pswd.properties", &entries);
    let imported = imported.await.unwrap();
    assert_eq!((imported.made, imported.skipped), (1, 2));
}
