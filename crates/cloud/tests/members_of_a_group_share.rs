//! Groups: what is shared with one, and what its members may have together.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use crate::bare_cloud::{World, admin, user};
use cimi::model::Kind;
use cloud::{CloudError, testing::caller};
use serde_json::json;

/// A cloud with the group `physics`, with alice and bob in it and with carol outside.
async fn world() -> World {
    let world = World::start().await;
    for name in ["bob", "carol"] {
        world.user(name, &[]).await;
    }
    let group = json!({"groupname": "physics", "quota": {"volumes": 3}});
    world.create(&admin(), Kind::Group, group).await.unwrap();
    let change = json!({"roles": ["physics"]});
    for name in ["alice", "bob"] {
        if world.documents.users.get(name).is_none() {
            world.user(name, &[]).await;
        }
        let edited = world.edit(&admin(), Kind::User, name, change.clone()).await;
        edited.unwrap();
    }
    world
}

#[tokio::test]
async fn what_is_shared_with_a_group_is_its_members() {
    let world = world().await;
    let volume = world.volume(&user("alice")).await;
    let (bob, carol) = (caller("bob", &["physics"]), user("carol"));
    let see = |who| world.cloud.get(who, Kind::Volume, &volume).map(|_| ());
    assert!(see(&bob).is_err());
    let acl = json!({"acl": {"owner": {"principal": "alice", "type": "USER"},
        "rules": [{"principal": "physics", "type": "ROLE", "right": "VIEW"}]}});
    world
        .edit(&user("alice"), Kind::Volume, &volume, acl)
        .await
        .unwrap();
    see(&bob).unwrap();
    assert!(see(&carol).is_err());
    // A user who is named like the group isn't the group.
    assert!(see(&user("physics")).is_err());
    let refused = world.cloud.delete(&bob, Kind::Volume, &volume).await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
    // Members see their group, others don't.
    world.cloud.get(&bob, Kind::Group, "physics").unwrap();
    assert!(world.cloud.get(&carol, Kind::Group, "physics").is_err());
}

#[tokio::test]
async fn members_together_have_no_more_than_their_group_may() {
    let world = world().await;
    let (alice, bob) = (caller("alice", &["physics"]), caller("bob", &["physics"]));
    let volume = || json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
    // Five at the same moment: three come to be.
    let create = |who| world.create(who, Kind::Volume, volume());
    let results = tokio::join!(
        create(&alice),
        create(&bob),
        create(&alice),
        create(&bob),
        create(&bob)
    );
    let results = [results.0, results.1, results.2, results.3, results.4];
    let made = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(made, 3, "{results:?}");
    let refused = results.into_iter().find_map(Result::err).unwrap();
    assert!(matches!(refused, CloudError::Exhausted(_)), "{refused}");
    assert!(refused.to_string().contains("physics"), "{refused}");
    world
        .create(&user("carol"), Kind::Volume, volume())
        .await
        .unwrap();
    let shown = world.cloud.get(&admin(), Kind::Group, "physics").unwrap();
    let shown = shown.document.attributes(cimi::Right::All);
    assert_eq!(shown["used"]["volumes"], 3);
    assert_eq!(shown["members"], json!(["alice", "bob"]));
    // More is possible once more is allowed.
    let more = json!({"quota": {"volumes": 4}});
    world
        .edit(&admin(), Kind::Group, "physics", more)
        .await
        .unwrap();
    create(&alice).await.unwrap();
    assert!(create(&bob).await.is_err());
}

#[tokio::test]
async fn a_group_with_members_stays() {
    let world = world().await;
    let refused = world.cloud.delete(&admin(), Kind::Group, "physics").await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    for name in ["alice", "bob"] {
        let change = json!({"roles": []});
        world
            .edit(&admin(), Kind::User, name, change)
            .await
            .unwrap();
    }
    world
        .cloud
        .delete(&admin(), Kind::Group, "physics")
        .await
        .unwrap();
    for name in ["::ADMIN", ":x", ".x", "a b", ""] {
        let group = json!({"groupname": name});
        let refused = world.create(&admin(), Kind::Group, group).await;
        assert!(
            matches!(refused, Err(CloudError::Invalid { .. })),
            "{name}: {refused:?}"
        );
    }
}
