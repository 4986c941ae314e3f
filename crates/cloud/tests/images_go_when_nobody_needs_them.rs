//! Images that came by name, in the cache: which of them go, and when.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::time::Duration;

use cimi::{
    model::Kind,
    resources::{Image, ImageState},
};
use cloud::{CloudError, Eviction, Retention};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    image_finder::{became, machine, wanted, with_finder},
    support::{World, admin, alice, bob, split, until},
};

/// Where images are found by their names.
async fn world() -> World {
    let mut world = World::start().await;
    with_finder(&mut world).await;
    world
}

/// The cloud's own work, as long as this is kept.
fn janitor(world: &World, retention: Retention) -> AbortOnDropHandle<()> {
    let cloud = world.cloud.clone();
    AbortOnDropHandle::new(tokio::spawn(async move { cloud.run(retention).await }))
}

fn stays(world: &World, id: &str) -> bool {
    let image = world.documents.images.get(split(id).1);
    image.is_some_and(|image| !image.desired.deleted)
}

#[tokio::test]
async fn what_nobody_needs_goes_unless_it_is_pinned() {
    let world = world().await;
    let mut ids = Vec::new();
    for name in ["used", "pinned", "idle", "failed", "coming"] {
        let (id, _) = wanted(&world, &alice(), &format!("catalogue:cat:{name}"))
            .await
            .unwrap();
        ids.push(id);
    }
    let [used, pinned, idle, failed, coming] = ids.as_slice() else {
        panic!("five");
    };
    for id in [used, pinned, idle] {
        became(&world, id, ImageState::Available).await;
    }
    became(&world, failed, ImageState::Error).await;
    world
        .create(&bob(), Kind::Machine, machine(used))
        .await
        .unwrap();
    assert!(
        world
            .put(&alice(), pinned, json!({"pinned": true}))
            .await
            .is_err()
    );
    let mut changed = world.get(&admin(), pinned);
    changed["pinned"] = json!(true);
    world.put(&admin(), pinned, changed).await.unwrap();
    let imported = world.image.clone();
    let retention = Retention {
        images: Eviction {
            unused: Some(Duration::ZERO),
            failed: Duration::ZERO,
            most_bytes: None,
        },
        ..Retention::default()
    };
    let _janitor = janitor(&world, retention);
    let stays = |id: &str| stays(&world, id);
    until("idle and failed ones go", || async {
        !stays(idle) && !stays(failed)
    })
    .await;
    for id in [used, pinned, coming] {
        assert!(stays(id), "{id}");
    }
    assert!(stays(&imported.to_string()), "what somebody imported stays");
}

/// Images that were needed last so many minutes ago; those of 0 are on their way.
async fn last_needed<const N: usize>(world: &World, minutes: [i64; N]) -> [String; N] {
    let mut ids = Vec::new();
    for (number, minutes) in minutes.into_iter().enumerate() {
        let (id, _) = wanted(world, &alice(), &format!("catalogue:cat:{number}"))
            .await
            .unwrap();
        if minutes > 0 {
            became(world, &id, ImageState::Available).await;
        }
        let used = |image: &mut Image| {
            let ago = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
            if let Some(on_demand) = &mut image.desired.on_demand {
                on_demand.last_used = ago.to_string().parse().unwrap();
            }
            Ok::<_, CloudError>(true)
        };
        world.documents.update(split(&id).1, used).await.unwrap();
        ids.push(id);
    }
    ids.try_into().unwrap()
}

/// Until the janitor has looked at everything as it is now: it looks at once when there are too many events, the images last.
async fn rounds(world: &World, most_events: usize) {
    let image = world.documents.images.all().swap_remove(0);
    for _ in 0..2 {
        let mut changes = world.documents.changes();
        for _ in 0..most_events * 2 + 40 {
            let now = cimi::Timestamp::now();
            changes = changes.create(&cimi::resources::Event::request(
                &image.document.0,
                "edit",
                "",
                now,
            ));
        }
        changes.commit().await.unwrap();
        until("the janitor was there", || async {
            world.documents.events.len() <= most_events
        })
        .await;
    }
}

#[tokio::test]
async fn for_an_image_that_waits_for_room_one_after_the_other_goes_until_there_is_enough() {
    let world = world().await;
    let [old, older, new, waits] = last_needed(&world, [60, 90, 30, 0]).await;
    let needs_space = async |needs: bool| {
        let edit = |image: &mut Image| {
            image.needs_space = needs;
            Ok::<_, CloudError>(true)
        };
        world.documents.update(split(&waits).1, edit).await.unwrap();
    };
    needs_space(true).await;
    // No bound of the cache: as where nobody has configured one.
    let retention = Retention {
        events: 10,
        ..Retention::default()
    };
    assert_eq!(retention.images.most_bytes, None);
    let _janitor = janitor(&world, retention);
    let stays = |id: &str| stays(&world, id);
    let is_gone = async |id: &String| {
        let read = world.documents.images.get(split(id).1).unwrap();
        let changes = world.documents.changes().remove(&*read);
        changes.commit().await.unwrap();
    };
    rounds(&world, retention.events).await;
    assert!(!stays(&older) && stays(&old) && stays(&new));
    // As long as it is on its way out, it may be enough.
    rounds(&world, retention.events).await;
    assert!(stays(&old) && stays(&new));
    // It wasn't.
    is_gone(&older).await;
    rounds(&world, retention.events).await;
    assert!(!stays(&old) && stays(&new));
    is_gone(&old).await;
    needs_space(false).await;
    rounds(&world, retention.events).await;
    assert!(stays(&new) && stays(&waits));
    assert!(stays(&world.image.to_string()), "what somebody imported");
}

#[tokio::test]
async fn what_was_needed_longest_ago_makes_room() {
    let world = world().await;
    let ids = last_needed(&world, [60, 90, 30, 0]).await;
    let retention = Retention {
        images: Eviction {
            unused: None,
            // The four here have 1 MiB each, the world's image included: 0.9 × 4 MiB leaves room for three.
            most_bytes: Some(4 << 20),
            ..Eviction::default()
        },
        ..Retention::default()
    };
    let _janitor = janitor(&world, retention);
    let stays = |id: &str| stays(&world, id);
    until("the oldest goes", || async { !stays(&ids[1]) }).await;
    assert!(stays(&ids[0]) && stays(&ids[2]) && stays(&ids[3]));
}
