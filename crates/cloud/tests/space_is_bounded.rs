//! Whatever takes space counts: images of volumes, also when they are kept for others, machines' own disks, and what members
//! of an organisation have together.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::sync::Arc;

use accounts::Method;
use cimi::{
    ids::VolumeImageId,
    model::Kind,
    resources::{ImageState, Volume, VolumeImage, VolumeState},
};
use cloud::{Caller, CloudError, Created, OpContext, Result, Retention, testing};
use documents::DocumentsError;
use serde_json::{Value, json};

use crate::{
    bare_cloud::{World, admin, local, user},
    support::until,
};

fn refused(answer: Result<Created>) -> String {
    match answer {
        Err(CloudError::Exhausted(text)) => text,
        other => panic!("{other:?}"),
    }
}

async fn quota(world: &World, who: &str, quota: Value) {
    let body = json!({ "quota": quota });
    let edited = world.edit(&admin(), Kind::User, who, body).await;
    edited.unwrap();
}

/// A volume of a gibibyte that a storage controller has made.
async fn volume(world: &World, who: &OpContext) -> String {
    let body = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1_073_742}}});
    let made = world.create(who, Kind::Volume, body).await.unwrap();
    let id = local(&made);
    let available = |volume: &mut Volume| {
        volume.state = VolumeState::Available;
        Ok::<_, DocumentsError>(true)
    };
    world.documents.update(&id, available).await.unwrap();
    id
}

async fn image_of(world: &World, who: &OpContext, volume: &str) -> Result<Created> {
    let body = json!({"imageLocation": {"href": format!("Volume/{volume}")}});
    world.create(who, Kind::VolumeImage, body).await
}

/// As a storage controller does it.
async fn made(world: &World, image: &str, volume: &str) {
    let available = |image: &mut VolumeImage| {
        image.state = ImageState::Available;
        Ok::<_, DocumentsError>(true)
    };
    world.documents.update(image, available).await.unwrap();
    let id = VolumeImageId::from_local(image).unwrap();
    let captured = |volume: &mut Volume| {
        volume.state = VolumeState::Available;
        volume.capture = None;
        volume.base = Some(id.clone());
        Ok::<_, DocumentsError>(true)
    };
    world.documents.update(volume, captured).await.unwrap();
}

fn used(world: &World, who: &OpContext, name: &str) -> u64 {
    let shown = world.cloud.quota_of_user(who, None).unwrap();
    of(&shown["quota"], name)
}

fn of(table: &Value, name: &str) -> u64 {
    let rows = table.as_array().unwrap();
    let row = rows.iter().find(|row| row["measure"] == name);
    row.unwrap()["used"].as_u64().unwrap()
}

#[tokio::test]
async fn images_of_volumes_count_and_go_on_counting_while_others_stand_on_them() {
    let world = World::start().await;
    world.user("alice", &[]).await;
    let alice = user("alice");
    quota(
        &world,
        "alice",
        json!({"volumeImageGib": 2, "volumeImages": 3}),
    )
    .await;
    let mut images = Vec::new();
    let mut volumes = Vec::new();
    for _ in 0..2 {
        let volume = volume(&world, &alice).await;
        let image = local(&image_of(&world, &alice, &volume).await.unwrap());
        made(&world, &image, &volume).await;
        images.push(image);
        volumes.push(volume);
    }
    let third = volume(&world, &alice).await;
    let text = refused(image_of(&world, &alice, &third).await);
    let told = "space of volume images in GiB quota exceeded (Quota: 2, Used: 2, Requested: 1)";
    assert!(text.starts_with(told), "{text}");
    // The volume it was made of stands on it: deleted, it is out of her sight and counts all the same.
    let gone = world
        .cloud
        .delete(&alice, Kind::VolumeImage, &images[0])
        .await;
    gone.unwrap();
    assert!(
        world
            .cloud
            .get(&alice, Kind::VolumeImage, &images[0])
            .is_err()
    );
    assert_eq!(used(&world, &alice, "volumeImageGib"), 2);
    assert_eq!(used(&world, &alice, "volumeImages"), 2);
    refused(image_of(&world, &alice, &third).await);
    quota(
        &world,
        "alice",
        json!({"volumeImageGib": 9, "volumeImages": 2}),
    )
    .await;
    let text = refused(image_of(&world, &alice, &third).await);
    assert!(
        text.starts_with("volume images quota exceeded (Quota: 2, Used: 2"),
        "{text}"
    );
    // When the last that stands on it is gone and the storage controller has removed it, there is room.
    let kept = world.documents.volume_images.get(&images[0]).unwrap();
    let removed = world.documents.changes().remove(&kept).commit().await;
    removed.unwrap();
    assert_eq!(used(&world, &alice, "volumeImageGib"), 1);
    image_of(&world, &alice, &third).await.unwrap();
}

#[tokio::test]
async fn what_was_kept_does_not_count_for_who_has_the_name_later() {
    let world = World::start().await;
    world.user("root", &["::ADMIN"]).await;
    world.user("alice", &[]).await;
    let alice = user("alice");
    let one = volume(&world, &alice).await;
    let image = local(&image_of(&world, &alice, &one).await.unwrap());
    made(&world, &image, &one).await;
    world
        .cloud
        .delete(&alice, Kind::VolumeImage, &image)
        .await
        .unwrap();
    assert_eq!(used(&world, &alice, "volumeImages"), 1);
    // Her volume becomes bob's, and she leaves.
    let acl = json!({"acl": {"owner": {"principal": "bob", "type": "USER"}}});
    world.edit(&admin(), Kind::Volume, &one, acl).await.unwrap();
    world
        .cloud
        .delete(&admin(), Kind::User, "alice")
        .await
        .unwrap();
    world.user("alice", &[]).await;
    assert_eq!(used(&world, &alice, "volumeImages"), 0);
}

/// An image of hers that is kept for the volume it was made of, which is bob's now.
async fn kept(world: &World, who: &OpContext) -> String {
    let one = volume(world, who).await;
    let image = local(&image_of(world, who, &one).await.unwrap());
    made(world, &image, &one).await;
    let deleted = world.cloud.delete(who, Kind::VolumeImage, &image).await;
    deleted.unwrap();
    let acl = json!({"acl": {"owner": {"principal": "bob", "type": "USER"}}});
    world.edit(&admin(), Kind::Volume, &one, acl).await.unwrap();
    image
}

#[tokio::test]
async fn what_is_left_of_who_is_gone_is_found_again_after_a_crash() {
    let world = World::start().await;
    for account in ["alice", "carol", "vo:atlas", "vo:cms"] {
        world.user(account, &[]).await;
    }
    let of_atlas = member("CN=Joe,O=Example", &["/atlas"]);
    let of_cms = member("CN=Ann,O=Example", &["/cms"]);
    let owner_of_cms = member("CN=Eve,O=Example", &["/cms"]);
    let mut images = Vec::new();
    for who in [
        &user("alice"),
        &user("carol"),
        &of_cms,
        &of_atlas,
        &owner_of_cms,
    ] {
        images.push(kept(&world, who).await);
    }
    world.volume(&owner_of_cms).await;
    // The daemon died when these users were removed and nothing of them was forgotten yet; one of the names has been given
    // to somebody else.
    for gone in ["alice", "carol", "vo:cms"] {
        let account = world.documents.users.get(gone).unwrap();
        let removed = world.documents.changes().remove(&account).commit().await;
        removed.unwrap();
    }
    world.user("alice", &[]).await;

    let cloud = world.cloud.clone();
    let janitor = tokio::spawn(async move { cloud.run(Retention::default()).await });
    until("what is left of who is gone is forgotten", || async {
        let image = |id: &String| world.documents.volume_images.get(id)?.kept_for.clone();
        let kept: Vec<_> = images.iter().filter_map(image).collect();
        let members = world.documents.organisation_members.all();
        kept == ["CN=Joe,O=Example", "CN=Eve,O=Example"]
            && members.iter().all(|member| member.organisation == "atlas")
    })
    .await;
    janitor.abort();
    assert_eq!(used(&world, &user("alice"), "volumeImages"), 0);
}

#[tokio::test]
async fn disks_of_machines_count_by_what_they_may_grow_to() {
    let world = World::start().await;
    world.user("alice", &[]).await;
    let alice = user("alice");
    let image = world.image(&alice).await;
    let machine = |gib: u64| {
        let kb = gib * 1_073_742;
        json!({"machineTemplate": {"machineImage": {"href": format!("MachineImage/{image}")},
            "machineConfig": {"cpu": 1, "memory": 65_536, "disks": [
                {"capacity": kb, "format": "swap"}, {"capacity": kb, "format": "raw"}]}}})
    };
    quota(&world, "alice", json!({"localGib": 5})).await;
    let first = world.create(&alice, Kind::Machine, machine(1)).await;
    first.unwrap();
    let has = used(&world, &alice, "localGib");
    assert!((2..=3).contains(&has), "{has}");
    let text = refused(world.create(&alice, Kind::Machine, machine(2)).await);
    let told = "space of machines' own disks in GiB quota exceeded (Quota: 5, Used: ";
    assert!(text.starts_with(told), "{text}");
    quota(&world, "alice", json!({"localGib": 9})).await;
    let second = world.create(&alice, Kind::Machine, machine(2)).await;
    second.unwrap();
}

/// Somebody who is here as a member of organisations, and has no account.
fn member(name: &str, fqans: &[&str]) -> OpContext {
    let mut context = testing::caller(name, fqans);
    if let Caller::User(identity) = &mut context.caller {
        Arc::make_mut(identity).method = Method::Voms;
    }
    context
}

#[tokio::test]
async fn members_of_an_organisation_have_together_what_its_account_may() {
    let world = World::start().await;
    world.user("root", &["::ADMIN"]).await;
    for account in ["vo:atlas", "vo:cms"] {
        world.user(account, &[]).await;
    }
    quota(&world, "vo:atlas", json!({"volumes": 3})).await;
    let joe = member("CN=Joe,O=Example", &["/atlas/production", "/atlas"]);
    let ann = member("CN=Ann,O=Example", &["/atlas"]);
    let eve = member("CN=Eve,O=Example", &["/cms"]);
    for who in [&joe, &joe, &ann] {
        world.volume(who).await;
    }
    let body = || json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
    for who in [&joe, &ann] {
        let text = refused(world.create(who, Kind::Volume, body()).await);
        let told =
            "volumes quota of the organisation atlas exceeded (Quota: 3, Used: 3, Requested: 1)";
        assert!(text.starts_with(told), "{text}");
    }
    // Somebody who is new there has no more room; who is of another organisation has.
    let new = member("CN=New,O=Example", &["/atlas"]);
    refused(world.create(&new, Kind::Volume, body()).await);
    world.volume(&eve).await;
    // Everybody sees what is left; who sees the account sees what all have.
    let shown = world.cloud.quota_of_user(&ann, None).unwrap();
    assert_eq!(of(&shown["quota"], "volumes"), 1);
    assert_eq!(shown["groups"][0]["group"], "vo:atlas");
    assert_eq!(of(&shown["groups"][0]["quota"], "volumes"), 3);
    let shown = world.cloud.quota_of_user(&admin(), Some("vo:atlas"));
    assert_eq!(of(&shown.unwrap()["quota"], "volumes"), 3);
    // All at once they don't have more, either.
    quota(&world, "vo:atlas", json!({"volumes": 6})).await;
    let mut making = tokio::task::JoinSet::new();
    for n in 0..10 {
        let who = member(&format!("CN=M{n},O=Example"), &["/atlas"]);
        let cloud = world.cloud.clone();
        let body = testing::object(body());
        making.spawn(async move { cloud.create(&who, Kind::Volume, body).await.is_ok() });
    }
    let made = making.join_all().await.into_iter().filter(|made| *made);
    assert_eq!(made.count(), 3);
    // Nothing is left of an organisation that isn't admitted any more, but what its members own.
    world
        .cloud
        .delete(&admin(), Kind::User, "vo:atlas")
        .await
        .unwrap();
    let members = world.documents.organisation_members.all();
    assert!(
        members.iter().all(|member| member.organisation == "cms"),
        "{members:?}"
    );
}
