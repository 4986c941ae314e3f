//! Who watches a collection is told what becomes of what they may see, and of nothing else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::time::Duration;

use crate::support::{World, admin, alice, bob, split};
use cimi::{model::Kind, query::Filter};
use cloud::{CloudError, OpContext, Since, Watched, Watching};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBhO1Zq1GHMk0L5GcKzT1YhnRj6BqyJ1KcuRk2nGLTm a";

async fn credential(world: &World, who: &OpContext, name: &str) -> String {
    let body = json!({"publicKey": KEY, "name": name});
    world.made(who, Kind::Credential, body).await
}

async fn change(world: &World, who: &OpContext, id: &str, body: Value) {
    world.put(who, id, body).await.unwrap();
}

async fn delete(world: &World, who: &OpContext, id: &str) {
    let (kind, local) = split(id);
    world.cloud.delete(who, kind, local).await.unwrap();
}

fn watch(world: &World, who: &OpContext, since: Since) -> Watching {
    let watching = world.cloud.watch(who, Kind::Credential, None, since);
    watching.unwrap_or_else(|error| panic!("{error}"))
}

/// What is told up to the next time that all has been told, in words; and the revision of that.
async fn told(watching: &mut Watching) -> (Vec<String>, u64) {
    let mut all = Vec::new();
    loop {
        let next = timeout(Duration::from_secs(60), watching.next()).await;
        all.push(match next.unwrap().unwrap() {
            Watched::Reset => "reset".to_owned(),
            Watched::Changed { now: view, .. } => {
                let name = view.document.attributes(view.right)["name"].clone();
                format!("changed {}", name.as_str().unwrap_or_default())
            }
            Watched::Removed(id) => format!("removed {id}"),
            Watched::UpTo(revision) => return (all, revision),
        });
    }
}

/// Reads on until something is told.
async fn news(watching: &mut Watching) -> Vec<String> {
    loop {
        let (news, _) = told(watching).await;
        if !news.is_empty() {
            return news;
        }
    }
}

#[tokio::test]
async fn everybody_is_told_of_what_they_may_see() {
    let world = World::start().await;
    let mine = credential(&world, &alice(), "mine").await;
    let his = credential(&world, &bob(), "his").await;
    let mut watching = watch(&world, &alice(), Since::Beginning);
    let mut all = watch(&world, &admin(), Since::Now);
    assert_eq!(told(&mut watching).await.0, ["reset", "changed mine"]);
    assert_eq!(told(&mut all).await.0, [""; 0]);

    change(&world, &alice(), &mine, json!({"name": "renamed"})).await;
    assert_eq!(told(&mut watching).await.0, ["changed renamed"]);
    assert_eq!(told(&mut all).await.0, ["changed renamed"]);

    // What happens to what isn't hers she isn't told, until it is shared with her, and after that.
    change(&world, &bob(), &his, json!({"name": "still his"})).await;
    assert_eq!(told(&mut all).await.0, ["changed still his"]);
    assert_eq!(told(&mut watching).await.0, [""; 0]);
    let rules = json!([{"principal": "alice", "type": "USER", "right": "VIEW"}]);
    let owner = json!({"principal": "bob", "type": "USER"});
    let shared = json!({"acl": {"owner": owner, "rules": rules}});
    change(&world, &bob(), &his, shared).await;
    assert_eq!(told(&mut watching).await.0, ["changed still his"]);
    change(&world, &bob(), &his, json!({"acl": {"owner": owner}})).await;
    assert_eq!(told(&mut watching).await.0, [format!("removed {his}")]);
    delete(&world, &bob(), &his).await;
    assert_eq!(told(&mut watching).await.0, [""; 0]);
    delete(&world, &alice(), &mine).await;
    assert_eq!(told(&mut watching).await.0, [format!("removed {mine}")]);
}

#[tokio::test]
async fn who_comes_back_is_told_what_they_missed() {
    let world = World::start().await;
    let first = credential(&world, &alice(), "first").await;
    let second = credential(&world, &alice(), "second").await;
    let mut watching = watch(&world, &alice(), Since::Now);
    told(&mut watching).await;
    change(&world, &alice(), &first, json!({"name": "a"})).await;
    let (_, seen) = told(&mut watching).await;
    drop(watching);
    delete(&world, &alice(), &second).await;
    credential(&world, &bob(), "not hers").await;
    change(&world, &alice(), &first, json!({"name": "b"})).await;
    let mut watching = watch(&world, &alice(), Since::Revision(seen));
    let mut missed = Vec::new();
    while missed.last().is_none_or(|last| last != "changed b") {
        missed.extend(news(&mut watching).await);
    }
    assert_eq!(
        missed,
        [format!("removed {second}"), "changed b".to_owned()]
    );

    for unknown in [0, u64::MAX] {
        let mut watching = watch(&world, &alice(), Since::Revision(unknown));
        let (all, _) = told(&mut watching).await;
        assert_eq!(all, ["reset", "changed b"], "{unknown}");
    }
}

#[tokio::test]
async fn who_is_slow_loses_no_last_state() {
    let world = World::start().await;
    let id = credential(&world, &alice(), "0").await;
    let mut watching = watch(&world, &alice(), Since::Beginning);
    for number in 1..=200 {
        change(&world, &alice(), &id, json!({"name": number.to_string()})).await;
    }
    while news(&mut watching)
        .await
        .last()
        .is_none_or(|last| last != "changed 200")
    {}
}

#[tokio::test]
async fn only_what_is_asked_for_is_told_and_not_too_often() {
    let world = World::start().await;
    let id = credential(&world, &alice(), "wanted").await;
    credential(&world, &alice(), "other").await;
    let filter = Filter::parse("name='wanted'").unwrap();
    let watching = world
        .cloud
        .watch(&alice(), Kind::Credential, Some(filter), Since::Beginning);
    let mut watching = watching.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(told(&mut watching).await.0, ["reset", "changed wanted"]);
    change(&world, &alice(), &id, json!({"name": "x"})).await;
    assert_eq!(told(&mut watching).await.0, [format!("removed {id}")]);

    let watch_of = |who: &OpContext, kind| world.cloud.watch(who, kind, None, Since::Now);
    for kind in [Kind::Host, Kind::Registration, Kind::ServiceConfiguration] {
        let refused = watch_of(&alice(), kind);
        assert!(matches!(refused, Err(CloudError::Forbidden(_))), "{kind}");
    }
    let types = watch_of(&alice(), Kind::ResourceMetadata);
    assert!(matches!(types, Err(CloudError::Conflict(_))));
    let many: Vec<_> = (0..15)
        .map(|_| watch(&world, &alice(), Since::Now))
        .collect();
    let more = watch_of(&alice(), Kind::Job);
    assert!(matches!(more, Err(CloudError::Unavailable(_))));
    assert!(watch_of(&bob(), Kind::Job).is_ok());
    drop(many);
    assert!(watch_of(&alice(), Kind::Job).is_ok());
}
