//! Quotas: what somebody may have of each kind, set by administrators, and never passed, even by two daemons together.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::sync::Arc;

use crate::bare_cloud::{World, admin, local, object, user};
use cimi::{
    Acl, AclRule, Right, Timestamp,
    lifecycle::{EndCause, Power, Stage},
    model::Kind,
    resources::{Machine, Save},
    size::ByteSize,
};
use cloud::{Cloud, CloudError, NoServices, PerUser, testing};
use documents::{Documents, DocumentsError};
use serde_json::{Value, json};
use store::{SqliteOptions, SqliteStore, Store};

fn refused(answer: cloud::Result<cloud::Created>) -> String {
    match answer {
        Err(CloudError::Exhausted(text)) => text,
        other => panic!("{other:?}"),
    }
}

async fn quota(world: &World, kind: Kind, id: &str, quota: Value) {
    let body = json!({ "quota": quota });
    world.edit(&admin(), kind, id, body).await.unwrap();
}

/// A machine of two CPUs and 128 MiB.
fn machine(image: &str) -> Value {
    json!({"machineTemplate": {"machineImage": {"href": format!("MachineImage/{image}")},
        "machineConfig": {"cpu": 2, "memory": 131_072}}})
}

#[tokio::test]
async fn every_quota_that_can_be_set_is_held_and_says_what_it_is() {
    let world = World::start().await;
    world.user("alice", &[]).await;
    let alice = user("alice");
    let image = world.image(&alice).await;
    for (set, kind, body, told) in [
        (
            json!({"machines": 1}),
            Kind::Machine,
            machine(&image),
            "machines quota exceeded (Quota: 1, Used: 1, Requested: 1)",
        ),
        (
            json!({"cpus": 3}),
            Kind::Machine,
            machine(&image),
            "CPU quota exceeded (Quota: 3, Used: 2, Requested: 2)",
        ),
        (
            json!({"memoryMib": 200}),
            Kind::Machine,
            machine(&image),
            "memory in MiB quota exceeded (Quota: 200, Used: 128, Requested: 128)",
        ),
        (
            json!({"addresses": 1}),
            Kind::Machine,
            machine(&image),
            "addresses quota exceeded (Quota: 1, Used: 1, Requested: 1)",
        ),
        (
            json!({"volumes": 1}),
            Kind::Volume,
            json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}}),
            "volumes quota exceeded (Quota: 1, Used: 1, Requested: 1)",
        ),
    ] {
        quota(&world, Kind::User, "alice", set.clone()).await;
        // One more than there are, of what doesn't exist yet.
        if kind == Kind::Volume || world.documents.machines.is_empty() {
            world.create(&alice, kind, body.clone()).await.unwrap();
        }
        let text = refused(world.create(&alice, kind, body.clone()).await);
        assert!(text.starts_with(told), "{set}: {text}");
        assert!(text.contains("ask the administrator"), "{text}");
    }
    // Space: of a new volume, of one that grows, and of one that comes with a machine.
    quota(&world, Kind::User, "alice", json!({"volumeGib": 2})).await;
    let volume = |kb: u64| json!({"volumeTemplate": {"volumeConfig": {"capacity": kb}}});
    let one = world.create(&alice, Kind::Volume, volume(1_073_742)).await;
    let text = refused(world.create(&alice, Kind::Volume, volume(1_073_742)).await);
    let told = "volume space in GiB quota exceeded (Quota: 2, Used: 2, Requested: 1)";
    assert!(text.starts_with(told), "{text}");
    let one = local(&one.unwrap());
    let grown = json!({"capacity": 2_147_484});
    let grow = world.edit(&alice, Kind::Volume, &one, grown).await;
    assert!(matches!(grow, Err(CloudError::Exhausted(_))), "{grow:?}");
    let mut with_volume = machine(&image);
    with_volume["machineTemplate"]["volumeTemplates"] =
        json!([{"volumeConfig": {"capacity": 2_147_484}}]);
    refused(world.create(&alice, Kind::Machine, with_volume).await);
    // Images, and their space as it was told.
    quota(&world, Kind::User, "alice", json!({"imageGib": 1})).await;
    let sent = |bytes: u64| json!({"imageLocation": "upload:", "expected": {"bytes": bytes}});
    let first = world
        .create(&alice, Kind::MachineImage, sent(1 << 29))
        .await;
    first.unwrap();
    let text = refused(
        world
            .create(&alice, Kind::MachineImage, sent(1 << 30))
            .await,
    );
    let told = "image space in GiB quota exceeded (Quota: 1, Used: 1, Requested: 1)";
    assert!(text.starts_with(told), "{text}");
    // Nothing of it counts any more once it is gone, and -1 bounds nothing.
    quota(&world, Kind::User, "alice", json!({"machines": -1})).await;
    world
        .create(&alice, Kind::Machine, machine(&image))
        .await
        .unwrap();

    let shown = world.cloud.quota_of_user(&alice, None).unwrap();
    let of = |name: &str| {
        let rows = shown["quota"].as_array().unwrap();
        rows.iter()
            .find(|row| row["measure"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("cpus")["used"], 4);
    assert_eq!(of("cpus")["from"], "default");
    assert_eq!(
        (&of("machines")["limit"], &of("machines")["from"]),
        (&json!(-1), &json!("user"))
    );
}

#[tokio::test]
async fn a_disk_that_is_saved_counts_from_the_beginning() {
    let world = World::start().await;
    world.user("alice", &[]).await;
    let alice = user("alice");
    let id = world.machine(&alice).await;
    let off = |machine: &mut Machine| {
        machine.first_started = Some(Timestamp::now());
        machine.desired.power = Power::Off;
        machine.observed.run = machine.desired.run;
        machine.observed.stage = Stage::Ended {
            cause: EndCause::Requested,
        };
        machine.disks[0].size_bytes = ByteSize::from_gib(2);
        machine.settle();
        Ok::<_, DocumentsError>(true)
    };
    world.documents.update(&id, off).await.unwrap();
    quota(&world, Kind::User, "alice", json!({"imageGib": 2})).await;
    let saved = json!({"imageLocation": {"href": format!("Machine/{id}")}});
    let made = world.create(&alice, Kind::MachineImage, saved).await;
    made.unwrap();
    let sent = json!({"imageLocation": "upload:"});
    let text = refused(world.create(&alice, Kind::MachineImage, sent).await);
    let told = "image space in GiB quota exceeded (Quota: 2, Used: 2, Requested: 1)";
    assert!(text.starts_with(told), "{text}");
}

#[tokio::test]
async fn a_disk_that_is_saved_at_the_shutdown_counts_for_its_owner_whoever_shuts_down() {
    let world = World::start().await;
    world.user("alice", &[]).await;
    world.user("chief", &["::ADMIN"]).await;
    let saves = |machine: &mut Machine| {
        machine.first_started = Some(Timestamp::now());
        machine.save = Some(Save {
            author: "Alice".to_owned(),
            author_email: "alice@example.org".to_owned(),
            ..Save::default()
        });
        machine.disks[0].size_bytes = ByteSize::from_gib(2);
        machine.settle();
        Ok::<_, DocumentsError>(true)
    };
    let alices = world.machine(&user("alice")).await;
    world.documents.update(&alices, saves).await.unwrap();
    for who in ["alice", "chief"] {
        quota(&world, Kind::User, who, json!({"imageGib": 1})).await;
    }
    let chief = testing::caller("chief", &["::ADMIN"]);
    // What an administrator may have has nothing to do with what is made for alice.
    for who in [&user("alice"), &chief] {
        let refused = world.act(who, &alices, "shutdown", false).await;
        let Err(CloudError::Exhausted(text)) = refused else {
            panic!("{refused:?}");
        };
        let told = "image space in GiB quota exceeded (Quota: 1, Used: 0, Requested: 2)";
        assert!(text.starts_with(told), "{text}");
    }
    // And what alice may have nothing with what is made for an administrator.
    let chiefs = world.machine(&chief).await;
    let shared = |machine: &mut Machine| {
        let who = Acl::owned_by_user("alice").owner;
        let right = Right::All;
        machine.common.acl.rules.push(AclRule { who, right });
        saves(machine)
    };
    world.documents.update(&chiefs, shared).await.unwrap();
    let alice = user("alice");
    let shut_down = world.act(&alice, &chiefs, "shutdown", false).await;
    shut_down.unwrap();
}

#[tokio::test]
async fn a_group_is_bounded_by_what_all_its_members_have() {
    let world = World::start().await;
    let group = json!({"groupname": "physics", "quota": {"cpus": 5}});
    world.create(&admin(), Kind::Group, group).await.unwrap();
    world.user("alice", &["physics"]).await;
    world.user("bob", &["physics"]).await;
    let (alice, bob) = (user("alice"), user("bob"));
    for who in [&alice, &bob] {
        let image = world.image(who).await;
        world
            .create(who, Kind::Machine, machine(&image))
            .await
            .unwrap();
    }
    let image = world.image(&bob).await;
    let text = refused(world.create(&bob, Kind::Machine, machine(&image)).await);
    let told = "CPU quota of the group physics exceeded (Quota: 5, Used: 4, Requested: 2)";
    assert!(text.starts_with(told), "{text}");
    let shown = world.cloud.quota_of_user(&bob, None).unwrap();
    assert_eq!(shown["groups"][0]["group"], "physics");
    let group = world
        .cloud
        .quota_of_group(&testing::caller("bob", &["physics"]), "physics");
    assert_eq!(group.unwrap()["quota"][1]["used"], 4);
}

#[tokio::test]
async fn only_administrators_set_quotas_and_only_their_own_is_shown_to_users() {
    let world = World::start().await;
    world.user("alice", &[]).await;
    world.user("bob", &[]).await;
    let own = json!({"quota": {"machines": 1_000_000}});
    let refused = world.edit(&user("alice"), Kind::User, "alice", own).await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
    let other = world.cloud.quota_of_user(&user("alice"), Some("bob"));
    assert!(
        matches!(other, Err(CloudError::NotFound { .. })),
        "{other:?}"
    );
    assert!(world.cloud.quota_of_user(&admin(), Some("bob")).is_ok());
    for wrong in [json!({"machines": -2}), json!({"machine": 1}), json!(7)] {
        let body = json!({ "quota": wrong });
        let refused = world.edit(&admin(), Kind::User, "bob", body).await;
        assert!(
            matches!(refused, Err(CloudError::Invalid { .. })),
            "{refused:?}"
        );
    }
}

/// Two daemons on one store, as each of them sees it.
async fn two_daemons(per_user: PerUser) -> (Vec<Cloud>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open_with(folder.path().join("db"), SqliteOptions::default());
    let store: Arc<dyn Store> = Arc::new(store.unwrap());
    let mut daemons = Vec::new();
    for _ in 0..2 {
        let documents = Documents::open(Arc::clone(&store)).await.unwrap();
        let services = Arc::new(NoServices);
        let settings = cloud::Settings {
            per_user,
            ..testing::settings()
        };
        let opened = Cloud::open(documents, settings, services.clone(), services).await;
        daemons.push(opened.unwrap());
    }
    (daemons, folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_on_one_store_don_t_pass_the_limit_together_and_reach_it() {
    let (daemons, _folder) = two_daemons(PerUser {
        volumes: 30,
        ..PerUser::default()
    })
    .await;
    let mut all = tokio::task::JoinSet::new();
    for round in 0..60 {
        let cloud = daemons[round % 2].clone();
        all.spawn(async move {
            let body = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
            let made = cloud.create_volume(&user("alice"), object(body)).await;
            match made {
                Ok(_) => true,
                Err(CloudError::Exhausted(_)) => false,
                Err(other) => panic!("{other:?}"),
            }
        });
    }
    let made = all.join_all().await.into_iter().filter(|made| *made);
    assert_eq!(made.count(), 30, "not one less, not one more");
    let documents = daemons[0].documents();
    documents
        .wait_for(daemons[1].documents().revision())
        .await
        .unwrap();
    assert_eq!(documents.volumes.len(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_and_removed_by_two_daemons_is_counted_as_it_is() {
    let (daemons, _folder) = two_daemons(PerUser {
        volumes: 3,
        ..PerUser::default()
    })
    .await;
    // The two in turns: each knows what the other one made, although it was never told to count it.
    for round in 0..12 {
        let cloud = &daemons[round % 2];
        let body = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
        let made = cloud.create_volume(&user("alice"), object(body)).await;
        assert_eq!(made.is_ok(), round % 4 < 3, "{round}: {made:?}");
        if round % 4 == 3 {
            let documents = cloud.documents();
            for volume in documents.volumes.all() {
                documents.changes().remove(&volume).commit().await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creations_that_fail_give_their_room_to_those_that_wait() {
    let world = World::with(
        PerUser {
            machines: 1,
            ..PerUser::default()
        },
        SqliteOptions::default(),
    )
    .await;
    let alice = user("alice");
    let image = world.image(&alice).await;
    // All but the last ask for a volume that isn't there.
    let mut all = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (cloud, mut body) = (world.cloud.clone(), machine(&image));
        if n != 19 {
            body["machineTemplate"]["volumes"] = json!([{"href": "Volume/none"}]);
        }
        all.spawn(async move {
            cloud
                .create_machine(&user("alice"), object(body))
                .await
                .is_ok()
        });
    }
    let made = all.join_all().await.into_iter().filter(|made| *made);
    assert_eq!(made.count(), 1);
    assert_eq!(world.documents.count_owned::<Machine>("alice"), 1);
}
