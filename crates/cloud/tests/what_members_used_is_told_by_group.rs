//! What the members of a group used is told together.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::collections::BTreeMap;

use cimi::model::Kind;
use cloud::UsageQuery;
use serde_json::json;

use crate::bare_cloud::{World, admin, user};

#[tokio::test]
async fn a_group_s_uses_are_those_of_its_members() {
    let world = World::start().await;
    let group = json!({"groupname": "physics"});
    world.create(&admin(), Kind::Group, group).await.unwrap();
    for (name, roles) in [
        ("alice", &["physics"][..]),
        ("bob", &["physics"]),
        ("carol", &[]),
    ] {
        world.user(name, roles).await;
    }
    for (name, volumes) in [("alice", 3), ("bob", 2), ("carol", 1)] {
        for _ in 0..volumes {
            world.volume(&user(name)).await;
        }
    }
    let ask = |after: Option<String>| UsageQuery {
        group: Some("physics".into()),
        limit: Some(2),
        after,
        ..UsageQuery::default()
    };
    let (mut told, mut after) = (BTreeMap::<String, usize>::new(), None);
    loop {
        let page = world.cloud.usage(&admin(), &ask(after)).await.unwrap();
        for used in page["uses"].as_array().unwrap() {
            *told
                .entry(used["user"].as_str().unwrap().into())
                .or_default() += 1;
        }
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(
        told,
        BTreeMap::from([("alice".into(), 3), ("bob".into(), 2)])
    );
    for refused in [
        world.cloud.usage(&user("alice"), &ask(None)).await,
        world.cloud.usage(&admin(), &ask(Some("x".into()))).await,
    ] {
        assert!(refused.is_err(), "{refused:?}");
    }
}
