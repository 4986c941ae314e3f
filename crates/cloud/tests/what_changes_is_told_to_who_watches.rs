//! Who watches a collection is told what becomes of what they may see, and of nothing else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::time::Duration;

use crate::support::{World, admin, alice, bob, split};
use cimi::{
    Timestamp, VolumeId,
    ids::SystemId,
    model::Kind,
    query::Filter,
    resources::{Event, Volume},
};
use cloud::{CloudError, OpContext, Since, Watched, Watching};
use futures::{FutureExt as _, StreamExt};
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
    let many: Vec<_> = (0..15)
        .map(|_| watch(&world, &alice(), Since::Now))
        .collect();
    let more = watch_of(&alice(), Kind::Job);
    assert!(matches!(more, Err(CloudError::Unavailable(_))));
    assert!(watch_of(&bob(), Kind::Job).is_ok());
    drop(many);
    assert!(watch_of(&alice(), Kind::Job).is_ok());
}

#[tokio::test]
async fn messages_for_everybody_are_told_to_everybody() {
    let world = World::start().await;
    let nobody = |last: u8| {
        let caller = cloud::Caller::Anonymous;
        let mut context = OpContext::new(caller, "nobody".into(), cloud::testing::PATIENCE);
        context.peer = Some(std::net::IpAddr::from([192, 0, 2, last]));
        context
    };
    let watch = |last| {
        let kind = Kind::ServiceMessage;
        world.cloud.watch(&nobody(last), kind, None, Since::Now)
    };
    let mut watching = watch(1).unwrap_or_else(|error| panic!("{error}"));
    told(&mut watching).await;
    let message = json!({"title": "down", "message": "at noon"});
    world.made(&admin(), Kind::ServiceMessage, message).await;
    assert_eq!(news(&mut watching).await, ["changed down"]);
    for kind in [Kind::Machine, Kind::Event, Kind::EventLog] {
        let refused = world.cloud.watch(&nobody(1), kind, None, Since::Now);
        assert!(matches!(refused, Err(CloudError::Unauthenticated)));
    }
    // Neither one address nor all of them leave none for others.
    let mut more: Vec<_> = (0..15).map(|_| watch(1)).collect();
    assert!(more.iter().all(Result::is_ok));
    assert!(matches!(watch(1), Err(CloudError::Unavailable(_))));
    more.extend((0..112).map(|number| watch(2 + number / 16)));
    assert!(more.iter().all(Result::is_ok));
    assert!(matches!(watch(100), Err(CloudError::Unavailable(_))));
    let user = world
        .cloud
        .watch(&alice(), Kind::ServiceMessage, None, Since::Now);
    assert!(user.is_ok());
    drop(more);
    assert!(watch(100).is_ok());
}

/// Somebody asks for something that concerns a volume.
async fn event(world: &World, volume: &str) {
    let (_, local) = split(volume);
    let volume = world.documents.volumes.get(local).unwrap();
    let event = Event::request(&volume.document.0, "look", "alice", Timestamp::now());
    let changes = world.documents.changes().create(&event);
    changes.commit().await.unwrap();
}

async fn gone(world: &World, volume: &str) {
    let (_, local) = split(volume);
    let volume = world.documents.view::<Volume>().get(local).unwrap();
    let changes = world.documents.changes().remove(&volume);
    changes.commit().await.unwrap();
}

#[tokio::test]
async fn a_log_goes_on_with_its_resource_and_with_each_event() {
    let world = World::start().await;
    let log_of = |volume: &str| format!("EventLog/{}", volume.replacen('/', ".", 1));
    let watch = |who: &OpContext, filter: Option<&str>, since| {
        let filter = filter.map(|filter| Filter::parse(filter).unwrap());
        let watching = world.cloud.watch(who, Kind::EventLog, filter, since);
        watching.unwrap_or_else(|error| panic!("{error}"))
    };
    let volume = world.volume(&alice()).await;
    change(&world, &alice(), &volume, json!({"name": "data"})).await;
    let mut watching = watch(&alice(), None, Since::Beginning);
    let mut others = watch(&bob(), None, Since::Beginning);
    let about = format!("targetResource='{volume}'");
    let mut filtered = watch(&alice(), Some(&about), Since::Now);
    assert_eq!(told(&mut watching).await.0, ["reset", "changed data"]);
    assert_eq!(told(&mut others).await.0, ["reset"]);
    told(&mut filtered).await;

    let events = || world.get(&alice(), &log_of(&volume))["summary"]["low"].as_u64();
    let before = events().unwrap();
    event(&world, &volume).await;
    let (first, seen) = told(&mut watching).await;
    assert_eq!(first, ["changed data"]);
    assert_eq!(news(&mut filtered).await, ["changed data"]);
    assert_eq!(events(), Some(before + 1));
    // What is told of the log before the event is not what it was: a selection of the counts is told, too.
    event(&world, &volume).await;
    match timeout(Duration::from_secs(60), watching.next()).await {
        Ok(Some(Watched::Changed { before: None, .. })) => {}
        other => panic!("{other:?}"),
    }
    told(&mut watching).await;

    change(&world, &alice(), &volume, json!({"name": "more"})).await;
    while news(&mut watching).await.last().unwrap() != "changed more" {}
    gone(&world, &volume).await;
    let removed = format!("removed {}", log_of(&volume));
    while news(&mut watching).await.last() != Some(&removed) {}
    let mut back = watch(&alice(), None, Since::Revision(seen));
    let mut missed = Vec::new();
    while missed.last() != Some(&removed) {
        missed.extend(news(&mut back).await);
    }
    assert_eq!(missed.first().unwrap(), "changed data");
    assert_eq!(told(&mut others).await.0, [""; 0]);
}

#[tokio::test]
async fn logs_are_told_in_pages_whatever_they_are_about() {
    let world = World::start().await;
    let volume = world.volume(&alice()).await;
    let volume = world.documents.volumes.get(split(&volume).1).unwrap();
    let system = json!({"systemTemplate": {"componentDescriptors": [
        {"name": "key", "type": "Credential", "credentialTemplate": {"publicKey": KEY}}]}});
    let system = world.made(&alice(), Kind::System, system).await;
    let system = world.documents.systems.get(split(&system).1).unwrap();
    for _ in 0..6 {
        let mut changes = world.documents.changes();
        for _ in 0..24 {
            let mut volume = volume.document.0.clone();
            volume.id = VolumeId::generate();
            let mut system = system.document.0.clone();
            system.id = SystemId::generate();
            changes = changes.create(&volume).create(&system);
        }
        changes.commit().await.unwrap();
    }
    let watching = world
        .cloud
        .watch(&alice(), Kind::EventLog, None, Since::Beginning);
    let mut watching = watching.unwrap_or_else(|error| panic!("{error}"));
    let (all, _) = told(&mut watching).await;
    assert_eq!(all.len(), 1 + 2 * (1 + 6 * 24), "{all:?}");
}

/// What is told of a resource's own collection up to the next time that all has been told: ids.
async fn told_of_own(watching: &mut Watching) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let next = timeout(Duration::from_secs(60), watching.next()).await;
        all.push(match next.unwrap().unwrap() {
            Watched::Reset => "reset".to_owned(),
            Watched::Changed { now, .. } => format!("changed {}", now.id),
            Watched::Removed(id) => format!("removed {id}"),
            Watched::UpTo(_) => return all,
        });
    }
}

#[tokio::test]
async fn what_a_resource_has_of_its_own_is_told_as_it_changes_and_ends_with_it() {
    let world = World::start().await;
    let own = |who: &OpContext, id: &str, collection, since| {
        let (kind, local) = split(id);
        let list = (kind, local, collection);
        let watching = world.cloud.watch_members(who, list, None, since);
        // Nothing here is measured elsewhere.
        watching.now_or_never().unwrap()
    };
    let volume = world.volume(&alice()).await;
    let log = format!("EventLog/{}", volume.replacen('/', ".", 1));
    let mut events = own(&alice(), &log, "events", Since::Now).unwrap();
    assert_eq!(told_of_own(&mut events).await, [""; 0]);
    let refused = own(&bob(), &log, "events", Since::Now);
    assert!(matches!(refused, Err(CloudError::NotFound { .. })));

    let mut ports = own(&alice(), "Network/local", "networkPorts", Since::Beginning).unwrap();
    assert_eq!(told_of_own(&mut ports).await, ["reset"]);
    let port = json!({"networkPortTemplate": {"network": {"href": "Network/local"}}});
    let port = world.made(&alice(), Kind::NetworkPort, port).await;
    let member = format!("Network/local/networkPorts/{}", split(&port).1);
    let is_told = |what: &str| [format!("{what} {member}")];
    assert_eq!(told_of_own(&mut ports).await, is_told("changed"));
    delete(&world, &alice(), &port).await;
    assert_eq!(told_of_own(&mut ports).await, is_told("removed"));

    event(&world, &volume).await;
    let event = told_of_own(&mut events).await;
    assert!(
        matches!(event.as_slice(), [one] if one.starts_with("changed Event/")),
        "{event:?}"
    );
    // With the volume its log goes, and what is told of it.
    gone(&world, &volume).await;
    let end = async { while events.next().await.is_some() {} };
    timeout(Duration::from_secs(60), end).await.unwrap();
}

#[tokio::test]
async fn the_types_there_are_are_told_once() {
    let world = World::start().await;
    let watch = |who: &OpContext| {
        world
            .cloud
            .watch(who, Kind::ResourceMetadata, None, Since::Beginning)
    };
    let mut types = watch(&alice()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(told_of_own(&mut types).await.len(), 1 + Kind::ALL.len());
    let nobody = watch(&cloud::OpContext::new(
        cloud::Caller::Anonymous,
        "nobody".into(),
        cloud::testing::PATIENCE,
    ));
    assert!(matches!(nobody, Err(CloudError::Unauthenticated)));
}
