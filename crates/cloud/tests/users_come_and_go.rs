//! Users: who may be removed, and that somebody can always mend the cloud.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use crate::bare_cloud::{World, admin, user};
use cimi::{
    model::Kind,
    resources::{Event, Job},
};
use cloud::CloudError;
use serde_json::json;

#[tokio::test]
async fn a_user_who_owns_anything_stays_and_the_next_of_that_name_owns_nothing() {
    let world = World::start().await;
    world.user("bob", &[]).await;
    let bob = user("bob");
    let template = world
        .create(
            &bob,
            Kind::VolumeTemplate,
            json!({"volumeConfig": {"capacity": 1000}}),
        )
        .await
        .unwrap();
    let template = crate::bare_cloud::local(&template);
    world.image(&bob).await;
    let refused = world.cloud.delete_user(&admin(), "bob").await;
    let Err(CloudError::Conflict(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        text.contains("1 of MachineImage") && text.contains("1 of VolumeTemplate"),
        "{text}"
    );

    world
        .cloud
        .delete(&bob, Kind::VolumeTemplate, &template)
        .await
        .unwrap();
    for image in world.documents.images.all() {
        world
            .documents
            .changes()
            .remove(&image)
            .commit()
            .await
            .unwrap();
    }
    assert!(world.documents.count_owned::<Event>("bob") > 0);
    world.cloud.delete_user(&admin(), "bob").await.unwrap();
    assert!(world.documents.users.get("bob").is_none());
    let left = (
        world.documents.count_owned::<Event>("bob"),
        world.documents.count_owned::<Job>("bob"),
    );
    assert_eq!(left, (0, 0), "a new Bob would see them");
    // The name can be used again.
    world.user("bob", &[]).await;
    world.volume(&bob).await;
}

#[tokio::test]
async fn the_last_administrator_who_can_log_in_stays() {
    let world = World::start().await;
    world.user("one", &["::ADMIN"]).await;
    for change in [json!({"enabled": false}), json!({"roles": []})] {
        let refused = world.edit(&admin(), Kind::User, "one", change).await;
        assert!(
            matches!(&refused, Err(CloudError::Conflict(text)) if text.contains("last administrator")),
            "{refused:?}"
        );
    }
    // That is said first: nobody is sent to remove, or to disable, for nothing.
    world.volume(&user("one")).await;
    let refused = world.cloud.delete_user(&admin(), "one").await;
    let Err(CloudError::Conflict(text)) = refused else {
        panic!("{refused:?}");
    };
    let told = "User/one can't be removed: it is the last administrator who can log in with a password; make another one first";
    assert!(
        text.starts_with(told) && !text.contains("disable"),
        "{text}"
    );

    // Of two, each may go, but not both at once.
    world.user("two", &["::ADMIN"]).await;
    let who = admin();
    let (a, b) = tokio::join!(
        world.edit(&who, Kind::User, "one", json!({"enabled": false})),
        world.edit(&who, Kind::User, "two", json!({"enabled": false})),
    );
    assert_eq!(
        [a.is_ok(), b.is_ok()].iter().filter(|ok| **ok).count(),
        1,
        "{a:?} {b:?}"
    );
}

#[tokio::test]
async fn a_name_is_one_users() {
    let world = World::start().await;
    let make = async |name: &str, other: &str| {
        let body = json!({"username": name, "altnames": {"x500dn": other}});
        world.create(&admin(), Kind::User, body).await
    };
    let is_taken = |result: Result<_, CloudError>| match result {
        Err(CloudError::Conflict(reason)) => reason,
        other => panic!("{other:?}"),
    };
    make("ann", "CN=Ann,O=Example").await.unwrap();
    for (name, other) in [
        // Written in another way; somebody's user name; as a user name.
        ("bob", "/O=Example/CN=Ann"),
        ("bob", "ann"),
        ("CN=Ann,O=Example", "nick"),
    ] {
        let reason = is_taken(make(name, other).await.map(drop));
        assert!(reason.contains("User/ann"), "{name} {other}: {reason}");
        assert!(world.documents.users.get(name).is_none());
    }
    make("bob", "CN=Bob").await.unwrap();
    let edit = async |names: serde_json::Value| {
        let root = admin();
        let edited = world.edit(&root, Kind::User, "bob", json!({"altnames": names}));
        edited.await.map(drop)
    };
    is_taken(edit(json!({"x500dn": "CN=Bob", "more": "CN=Ann,O=Example"})).await);
    edit(json!({"x500dn": "CN=Bob", "more": "bobby"}))
        .await
        .unwrap();
    // Of two who are given one at once, one has it.
    let (one, other) = tokio::join!(make("carl", "CN=Same"), make("cora", "CN=Same"));
    let (one, other) = (one.map(drop), other.map(drop));
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
}
