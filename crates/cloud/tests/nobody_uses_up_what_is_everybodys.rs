//! What one user does stays within bounds, and never grows with how often it is asked for.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::time::Duration;

use crate::bare_cloud::{World, admin, user};
use cimi::model::Kind;
use cloud::{CloudError, PerUser, Retention};
use serde_json::json;
use store::SqliteOptions;

#[tokio::test]
async fn asking_again_for_what_is_under_way_answers_with_the_same_job() {
    let world = World::start().await;
    let alice = user("alice");
    let machine = world.machine(&alice).await;
    let before = |world: &World| (world.documents.jobs.len(), world.documents.events.len());
    // A volume that nobody makes is deleted for as long as nobody removes it; a machine on no host stops at once.
    let volume = world.volume(&alice).await;
    let image = world.image(&alice).await;
    let first = [
        world.cloud.delete_machine(&alice, &machine).await,
        world.cloud.delete_volume(&alice, &volume).await,
        world.cloud.delete_image(&alice, &image).await,
    ]
    .map(|done| done.unwrap().job.unwrap());
    let told = before(&world);
    for _ in 0..20 {
        let again = [
            world.cloud.delete_machine(&alice, &machine).await,
            world.cloud.delete_volume(&alice, &volume).await,
            world.cloud.delete_image(&alice, &image).await,
        ]
        .map(|done| done.unwrap().job.unwrap());
        assert_eq!(again, first);
        let killed = world.act(&alice, &machine, "kill", false).await.unwrap();
        assert_eq!(killed.job.as_deref(), Some(first[0].as_str()));
    }
    assert_eq!(before(&world), told, "nothing was written");
}

#[tokio::test]
async fn a_repeated_stop_may_only_lose_patience_and_once() {
    let world = World::start().await;
    let alice = user("alice");
    let machine = world.machine(&alice).await;
    let stop = |force| world.act(&alice, &machine, "stop", force);
    let job = stop(false).await.unwrap().job;
    let force = || {
        world
            .documents
            .machines
            .get(&machine)
            .unwrap()
            .desired
            .force
    };
    assert_eq!(stop(false).await.unwrap().job, job);
    assert!(!force());
    assert_eq!(stop(true).await.unwrap().job, job);
    assert!(force());
    let written = world.documents.revision();
    assert_eq!(stop(false).await.unwrap().job, job);
    assert_eq!(stop(true).await.unwrap().job, job);
    assert!(force());
    assert_eq!(world.documents.revision(), written);
}

#[tokio::test]
async fn every_type_that_users_make_has_a_limit() {
    let per_user = PerUser {
        machines: 2,
        volumes: 3,
        images: 2,
        credentials: 2,
        templates: 2,
        ..PerUser::default()
    };
    let world = World::with(per_user, SqliteOptions::default()).await;
    let (alice, bob) = (user("alice"), user("bob"));
    let image = format!("MachineImage/{}", world.image(&bob).await);
    world
        .edit(
            &bob,
            Kind::MachineImage,
            &image[13..],
            json!({"visibility": "PUBLIC"}),
        )
        .await
        .unwrap();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBhO1Zq1GHMk0L5GcKzT1YhnRj6BqyJ1KcuRk2nGLTm a";
    for (kind, body, most) in [
        (
            Kind::Machine,
            json!({"machineTemplate": {"machineImage": {"href": image}}}),
            2,
        ),
        (
            Kind::Volume,
            json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}}),
            3,
        ),
        (Kind::MachineImage, json!({"imageLocation": "upload:"}), 2),
        (Kind::Credential, json!({"publicKey": key}), 2),
        (
            Kind::MachineTemplate,
            json!({"machineImage": {"href": image}}),
            2,
        ),
        (
            Kind::VolumeTemplate,
            json!({"volumeConfig": {"capacity": 1000}}),
            2,
        ),
        (
            Kind::MachineConfiguration,
            json!({"cpu": 1, "memory": 65536, "cpuArch": "x86_64"}),
            2,
        ),
        (Kind::VolumeConfiguration, json!({"capacity": 1000}), 2),
    ] {
        for _ in 0..most {
            world.create(&alice, kind, body.clone()).await.unwrap();
        }
        let refused = world.create(&alice, kind, body.clone()).await;
        let Err(CloudError::Exhausted(text)) = refused else {
            panic!("{kind}: {refused:?}");
        };
        let told = format!(" quota exceeded (Quota: {most}, Used: {most}, Requested: 1)");
        assert!(text.contains(&told), "{kind}: {text}");
        // Others, and administrators, are not concerned.
        world.create(&bob, kind, body.clone()).await.unwrap();
        world.create(&admin(), kind, body).await.unwrap();
    }
    // Volumes that come with a machine count, too.
    let with_volume = json!({"machineTemplate": {"machineImage": {"href": image},
        "volumeTemplates": [{"volumeConfig": {"capacity": 1000}}, {"volumeConfig": {"capacity": 1000}},
            {"volumeConfig": {"capacity": 1000}}]}});
    let refused = world.create(&bob, Kind::Machine, with_volume).await;
    assert!(
        matches!(refused, Err(CloudError::Exhausted(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn creations_at_the_same_moment_don_t_pass_the_limit_together() {
    let per_user = PerUser {
        volumes: 5,
        ..PerUser::default()
    };
    let world = World::with(per_user, SqliteOptions::default()).await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let cloud = world.cloud.clone();
        all.spawn(async move {
            let body = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
            cloud
                .create_volume(&user("alice"), crate::bare_cloud::object(body))
                .await
                .is_ok()
        });
    }
    let made = all.join_all().await.into_iter().filter(|made| *made);
    assert_eq!((made.count(), world.documents.volumes.len()), (5, 5));
}

#[tokio::test]
async fn what_others_let_me_see_is_not_mine_and_can_t_be_given_away() {
    let per_user = PerUser {
        volumes: 1,
        ..PerUser::default()
    };
    let world = World::with(per_user, SqliteOptions::default()).await;
    let (alice, bob) = (user("alice"), user("bob"));
    let volume = world.volume(&alice).await;
    let shared = json!({"acl": {"owner": {"principal": "alice", "type": "USER"},
        "rules": [{"principal": "bob", "type": "USER", "right": "ALL"}]}});
    world
        .edit(&alice, Kind::Volume, &volume, shared)
        .await
        .unwrap();
    // Counts for Alice still, and not for Bob.
    world.volume(&bob).await;
    assert_eq!(
        world
            .documents
            .count_owned::<cimi::resources::Volume>("bob"),
        1
    );

    let given = json!({"acl": {"owner": {"principal": "bob", "type": "USER"},
        "rules": [{"principal": "alice", "type": "USER", "right": "ALL"}]}});
    for who in [&alice, &bob] {
        let refused = world.edit(who, Kind::Volume, &volume, given.clone()).await;
        assert!(
            matches!(refused, Err(CloudError::Forbidden(_))),
            "{refused:?}"
        );
    }
    let machine = world.machine(&alice).await;
    let refused = world
        .edit(&alice, Kind::Machine, &machine, given.clone())
        .await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
    world
        .edit(&admin(), Kind::Volume, &volume, given)
        .await
        .unwrap();
    assert_eq!(
        world
            .documents
            .count_owned::<cimi::resources::Volume>("bob"),
        2
    );
}

#[tokio::test]
async fn who_does_much_forgets_only_what_is_theirs() {
    let world = World::start().await;
    let (alice, bob) = (user("alice"), user("bob"));
    world.volume(&bob).await;
    for _ in 0..60 {
        world.volume(&alice).await;
    }
    let retention = Retention {
        events: 20,
        jobs_at_most: 10,
        jobs: Duration::from_secs(3600),
        ..Retention::default()
    };
    let cloud = world.cloud.clone();
    // As soon as there is too much, not with the next round.
    let janitor = tokio::spawn(async move { cloud.run(retention).await });
    for _ in 0..60 {
        let volume = world.volume(&alice).await;
        let read = world.documents.volumes.get(&volume).unwrap();
        let mut made = read.document.0.clone();
        made.state = cimi::resources::VolumeState::Available;
        world
            .documents
            .changes()
            .replace(&read, made)
            .commit()
            .await
            .unwrap();
    }
    let (mut events, mut jobs) = (
        world.documents.events.changes(),
        world.documents.jobs.changes(),
    );
    let bounded = async {
        // With some slack: it need not act with each one that is more.
        while world.documents.events.len() > 20 + 20 || finished(&world) > 10 + 20 {
            tokio::select! {
                _ = events.next() => {}
                _ = jobs.next() => {}
            }
        }
    };
    let bounded = tokio::time::timeout(Duration::from_secs(20), bounded).await;
    let counts = (world.documents.events.len(), finished(&world));
    assert!(bounded.is_ok(), "{counts:?}");
    assert_eq!(
        world.documents.count_owned::<cimi::resources::Event>("bob"),
        1,
        "what Bob did is still known"
    );
    janitor.abort();
}

fn finished(world: &World) -> usize {
    let jobs = world.documents.jobs.all();
    jobs.iter().filter(|job| job.state.is_final()).count()
}
