//! What is refused must not tell what others have.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use crate::bare_cloud::{World, admin, user};
use cimi::{model::Kind, query::Query};
use cloud::{CloudError, OpContext};
use serde_json::json;

#[tokio::test]
async fn what_one_may_not_see_looks_like_what_isn_t_there() {
    let world = World::start().await;
    world.user("bob", &[]).await;
    let (alice, bob) = (user("alice"), user("bob"));
    let machine = world.machine(&bob).await;
    let number = world.documents.machines.get(&machine).unwrap().vmid;
    let said = |kind, id: &str| world.cloud.get(&alice, kind, id).unwrap_err().to_string();
    for (kind, there, not_there) in [
        (Kind::Machine, number.to_string(), "4711".to_owned()),
        (
            Kind::Machine,
            machine.clone(),
            machine.replace(|c: char| c.is_ascii_digit(), "7"),
        ),
        (Kind::User, "bob".to_owned(), "carol".to_owned()),
    ] {
        let (a, b) = (said(kind, &there), said(kind, &not_there));
        assert_eq!(a.replace(&there, "ID"), b.replace(&not_there, "ID"));
        assert!(!a.replace(&there, "ID").contains("bob"), "{a}");
    }
    let refused = world.act(&alice, &number.to_string(), "stop", true).await;
    assert!(
        matches!(refused, Err(CloudError::NotFound { .. })),
        "{refused:?}"
    );
    // Who may see it is told why it can't be changed.
    let rules = json!({"acl": {"owner": {"principal": "bob", "type": "USER"},
        "rules": [{"principal": "alice", "type": "USER", "right": "VIEW"}]}});
    world
        .edit(&bob, Kind::Machine, &machine, rules)
        .await
        .unwrap();
    let refused = world.act(&alice, &machine, "stop", true).await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn hosts_and_the_records_of_what_was_done_are_the_administrators() {
    let world = World::start().await;
    let alice = user("alice");
    world.volume(&alice).await;
    let hosts = world.cloud.list(&alice, Kind::Host, &Query::default());
    assert!(matches!(hosts, Err(CloudError::Forbidden(_))), "{hosts:?}");
    assert!(
        world
            .cloud
            .list(&admin(), Kind::Host, &Query::default())
            .is_ok()
    );
    let event = world.documents.events.all().pop().unwrap();
    let removed = world.cloud.delete(&alice, Kind::Event, event.id()).await;
    assert!(
        matches!(removed, Err(CloudError::Forbidden(_))),
        "{removed:?}"
    );
    world
        .cloud
        .delete(&admin(), Kind::Event, event.id())
        .await
        .unwrap();
}

#[tokio::test]
async fn only_administrators_keep_machines_off_a_host_and_nobody_renames_it() {
    let world = World::start().await;
    let host = cimi::testing::host();
    let local = host.id.local().to_owned();
    world
        .documents
        .changes()
        .create(&host)
        .commit()
        .await
        .unwrap();
    let edit = |who, changes| {
        let (world, local) = (&world, &local);
        async move { world.edit(&who, Kind::Host, local, changes).await }
    };
    let on = || json!({"maintenance": true});
    let refused = edit(user("alice"), on()).await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
    edit(admin(), on()).await.unwrap();
    assert!(
        world
            .documents
            .hosts
            .get(&local)
            .unwrap()
            .desired
            .maintenance
    );
    for wrong in [
        json!({"name": "other"}),
        json!({"maintenance": false, "name": "other"}),
    ] {
        let refused = edit(admin(), wrong).await;
        assert!(
            matches!(refused, Err(CloudError::Invalid { .. })),
            "{refused:?}"
        );
    }
    assert!(
        world
            .documents
            .hosts
            .get(&local)
            .unwrap()
            .desired
            .maintenance
    );
}

#[tokio::test]
async fn the_owner_of_a_public_volume_takes_it_back() {
    let world = World::start().await;
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let volume = world.volume(&alice).await;
    let public = json!({"visibility": "PUBLIC"});
    world
        .edit(&alice, Kind::Volume, &volume, public)
        .await
        .unwrap();
    let machine = world.machine(&bob).await;
    let body = crate::bare_cloud::object(json!({"volume": {"href": format!("Volume/{volume}")}}));
    world
        .cloud
        .attach_volume(&bob, &machine, body)
        .await
        .unwrap();
    let refused = world.cloud.detach_volume(&carol, &machine, &volume).await;
    assert!(
        matches!(refused, Err(CloudError::NotFound { .. })),
        "{refused:?}"
    );
    let taken = world.cloud.detach_volume(&alice, &machine, &volume).await;
    let sees = |who: &OpContext, job: &str| {
        let (_, local) = job.split_once('/').unwrap();
        world.cloud.get(who, Kind::Job, local).is_ok()
    };
    let job = taken.unwrap().job.unwrap();
    assert!(sees(&alice, &job) && sees(&bob, &job) && !sees(&carol, &job));
    let is_free = |volume: &str| {
        let volume = world.documents.volumes.get(volume).unwrap();
        volume.attachment.is_none()
    };
    assert!(is_free(&volume));

    // On a host it takes its time, and somebody else may have asked for it before.
    let volume = world.volume(&alice).await;
    let public = json!({"visibility": "PUBLIC"});
    world
        .edit(&alice, Kind::Volume, &volume, public)
        .await
        .unwrap();
    let body = crate::bare_cloud::object(json!({"volume": {"href": format!("Volume/{volume}")}}));
    world
        .cloud
        .attach_volume(&bob, &machine, body)
        .await
        .unwrap();
    let read = world.documents.machines.get(&machine).unwrap();
    let mut placed = read.document.0.clone();
    placed.host = Some(cimi::testing::host().id);
    let placed = world.documents.changes().replace(&read, placed);
    placed.commit().await.unwrap();
    let detach = |who| world.cloud.detach_volume(who, &machine, &volume);
    let job = detach(&bob).await.unwrap().job.unwrap();
    assert!(!is_free(&volume) && !sees(&alice, &job));
    assert_eq!(detach(&alice).await.unwrap().job.unwrap(), job);
    assert!(sees(&alice, &job) && sees(&bob, &job) && !sees(&carol, &job));
}
