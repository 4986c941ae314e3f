//! A machine without an image boots from its first volume, which has what the machine wrote when it is gone.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use cimi::model::Kind;
use cloud::CloudError;
use serde_json::{Value, json};

use crate::support::{World, alice, bob, representation, split, violations};

fn machine(more: Value) -> Value {
    let mut template = json!({"machineConfig": {"cpu": 1, "memory": 65_536, "disks": [{"capacity": 1000, "format": "swap"}]}});
    template
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({"machineTemplate": template})
}

#[tokio::test]
async fn the_volume_is_its_first_disk_as_long_as_it_exists() {
    let world = World::start().await;
    let volume = world.volume(&alice()).await;
    let from_volume = || machine(json!({"volumes": [{"volume": {"href": volume}}]}));
    let id = world.made(&alice(), Kind::Machine, from_volume()).await;
    let shown = world.get(&alice(), &id);
    assert_eq!(shown["machineImage"], Value::Null, "{shown}");
    let (local, volume_local) = (split(&id).1, split(&volume).1);
    let who = alice();
    let swap = world.cloud.machine_member(&who, local, "disks", "0");
    let swap = representation(&swap.await.unwrap());
    assert_eq!(
        (&swap["role"], &swap["initialLocation"]),
        (&json!("swap"), &json!("/dev/vdb")),
        "behind the volume"
    );
    // It is at one machine, and stays there.
    let twice = world.create(&alice(), Kind::Machine, from_volume()).await;
    assert!(matches!(twice, Err(CloudError::Conflict(_))), "{twice:?}");
    let who = alice();
    let taken = world.cloud.detach_volume(&who, local, volume_local);
    let number = &shown["vmid"];
    let expected = format!(
        "Disk have not been hot-plugged: {volume} is what machine {number} boots from; to have it back, remove that machine"
    );
    assert_eq!(conflict(taken.await), expected);
    let captured = json!({"name": "x", "imageLocation": {"href": id}});
    match world.create(&alice(), Kind::MachineImage, captured).await {
        Err(CloudError::Conflict(text)) => assert!(text.contains("boots from a volume"), "{text}"),
        other => panic!("{other:?}"),
    }
    // It gives the volume back when it is gone, and is remembered.
    let read = world.documents.machines.get(local).unwrap();
    let released = documents::step::end(&world.documents, &read, cimi::Timestamp::now());
    released.commit().await.unwrap();
    assert_eq!(
        world
            .documents
            .volumes
            .get(volume_local)
            .unwrap()
            .attachment,
        None
    );
    let record = &world.list(&alice(), Kind::MachineRecord, &[]).members[0];
    assert_eq!(representation(record)["machineImage"], Value::Null);
}

fn conflict<T: std::fmt::Debug>(result: cloud::Result<T>) -> String {
    match result {
        Err(CloudError::Conflict(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Its owner can't stop somebody else's machine, and is told who can.
#[tokio::test]
async fn the_owner_of_a_shared_volume_is_told_how_to_have_it_back() {
    let world = World::start().await;
    let (first, second) = (world.volume(&alice()).await, world.volume(&alice()).await);
    let owner = json!({"principal": "alice", "type": "USER"});
    let shared = |right: &str| {
        let rule = json!({"principal": "bob", "type": "USER", "right": right});
        json!({"acl": {"owner": owner, "rules": [rule]}})
    };
    let volumes = [&first, &second].map(|volume| json!({"volume": {"href": volume}}));
    let body = machine(json!({ "volumes": volumes }));
    // Who may only see it can't boot from it.
    for volume in [&first, &second] {
        world.put(&alice(), volume, shared("VIEW")).await.unwrap();
    }
    let refused = world.create(&bob(), Kind::Machine, body.clone()).await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
    for volume in [&first, &second] {
        world.put(&alice(), volume, shared("MODIFY")).await.unwrap();
    }
    let id = world.made(&bob(), Kind::Machine, body).await;
    let who = alice();
    for (volume, what) in [
        (
            &first,
            format!("is what {id}, which is not yours, boots from"),
        ),
        (
            &second,
            format!("was given to {id}, which is not yours, at its start"),
        ),
    ] {
        let (machine, local) = (split(&id).1, split(volume).1);
        let taken = world.cloud.detach_volume(&who, machine, local).await;
        let expected = format!(
            "Disk have not been hot-plugged: {volume} {what}; to have it back, ask bob or an administrator to \
             remove that machine"
        );
        assert_eq!(conflict(taken), expected);
    }
}

#[tokio::test]
async fn what_has_nothing_to_boot_from_or_nothing_to_save_is_refused() {
    let world = World::start().await;
    let missing = "`machineTemplate.machineImage` is missing";
    let empty =
        json!({"volumeTemplates": [{"volumeTemplate": {"volumeConfig": {"capacity": 1_000_000}}}]});
    for template in [json!({}), empty] {
        let refused = violations(
            world
                .create(&alice(), Kind::Machine, machine(template))
                .await,
        );
        assert!(refused[0].starts_with(missing), "{refused:?}");
    }
    let volume = world.volume(&alice()).await;
    let saved = machine(json!({
        "volumes": [{"volume": {"href": volume}}],
        "save": {"title": "t", "author": "a", "authorEmail": "a@example.org", "comment": "c"}
    }));
    let refused = violations(world.create(&alice(), Kind::Machine, saved).await);
    assert!(
        refused[0].starts_with("`machineTemplate.save` is for machines with"),
        "{refused:?}"
    );
    // Somebody else's can't be booted from.
    let theirs = machine(json!({"volumes": [{"volume": {"href": volume}}]}));
    let refused = violations(world.create(&bob(), Kind::Machine, theirs).await);
    assert!(refused[0].contains("does not exist"), "{refused:?}");
}
