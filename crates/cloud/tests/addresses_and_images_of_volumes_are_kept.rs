//! Addresses that users keep, images of volumes, messages to everybody, templates of credentials.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use crate::support::{
    KEY, Log, World, admin, alice, bob, open, representation, settings, split, violations,
};
use cimi::{
    model::Kind,
    resources::{ImageState, Resource as _, Volume, VolumeImage, VolumeState},
};
use cloud::{Caller, CloudError, OpContext};
use documents::DocumentsError;
use serde_json::{Value, json};
use tracing::instrument::WithSubscriber as _;

fn nobody() -> OpContext {
    OpContext::new(Caller::Anonymous, "test".into(), cloud::testing::PATIENCE)
}

#[tokio::test]
async fn an_address_is_leased_beforehand_and_outlives_its_machine() {
    let world = World::start().await;
    let body = json!({"addressTemplate": {"network": {"href": "Network/local"}}, "name": "www"});
    let id = world.made(&alice(), Kind::Address, body).await;
    let shown = world.get(&alice(), &id);
    assert_eq!(shown["allocation"], "static");
    assert_eq!(shown["name"], "www");
    let interface = |reference: Value| {
        world.machine(json!({"networkInterfaces": [
            {"network": {"href": "Network/local"}, "addresses": [reference]}]}))
    };
    // It is nobody's else, and its owner's once.
    let refused = world
        .create(&bob(), Kind::Machine, interface(json!({"ip": shown["ip"]})))
        .await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    let machine = world
        .made(&alice(), Kind::Machine, interface(json!({"href": id})))
        .await;
    assert_eq!(
        world.get(&alice(), &machine)["addresses"],
        json!([shown["ip"]])
    );
    // The IPv6 address follows from the MAC, as that from the address.
    assert_eq!(shown["macAddress"], "02:00:0a:63:02:0a");
    assert_eq!(shown["ip6"], "fd00::2:0:aff:fe63:20a");
    assert_eq!(
        world.get(&alice(), &machine)["addresses6"],
        json!([shown["ip6"]])
    );
    let (_, number) = split(&machine);
    let (interfaces, _) = world
        .cloud
        .machine_members(&alice(), number, "networkInterfaces")
        .await
        .unwrap();
    let member = representation(&interfaces[0]);
    assert_eq!(member["addresses"][0]["ip6"], shown["ip6"]);
    assert_eq!(
        world.get(&alice(), &id)["resource"]["href"],
        machine.as_str()
    );
    let refused = world
        .create(&alice(), Kind::Machine, interface(json!({"href": id})))
        .await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    let local = id.split_once('/').unwrap().1;
    let refused = world.cloud.delete(&alice(), Kind::Address, local).await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    // The machine goes, the address stays.
    let read = world
        .documents
        .machines
        .get(machine.split_once('/').unwrap().1)
        .unwrap();
    let released = documents::step::end(&world.documents, &read, cimi::Timestamp::now());
    released.commit().await.unwrap();
    assert_eq!(world.get(&alice(), &id)["resource"], Value::Null);
    world
        .cloud
        .delete(&alice(), Kind::Address, local)
        .await
        .unwrap();
    assert!(world.documents.addresses.is_empty());
    // One that came with a machine isn't anybody's to keep or give back.
    world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let came = world.documents.addresses.all()[0].id().to_owned();
    let refused = world.cloud.delete(&alice(), Kind::Address, &came).await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn addresses_that_are_leased_no_more_are_kept_until_they_are_given_back() {
    let mut world = World::start().await;
    let ip_of = |world: &World, id: &str| {
        let machine = world.documents.machines.get(split(id).1).unwrap();
        machine.ip().unwrap().to_string()
    };
    let keeps = async |world: &World| {
        let body = world.machine(json!({}));
        world.made(&alice(), Kind::Machine, body).await
    };
    let (first, second) = (keeps(&world).await, keeps(&world).await);
    let had = [ip_of(&world, &first), ip_of(&world, &second)];
    assert_eq!(had, ["10.99.1.10", "10.99.1.11"]);
    let third = keeps(&world).await;
    assert_eq!(ip_of(&world, &third), "10.99.1.12");

    // Started again with a range of two others.
    let mut smaller = settings();
    let public = &mut smaller.networks[0];
    (public.first, public.last) = ([10, 99, 1, 50].into(), [10, 99, 1, 51].into());
    // The gateway moves to an address that a machine has.
    public.gateway = [10, 99, 1, 12].into();
    let log = Log::default();
    let reopened = open(&world.documents, smaller).with_subscriber(log.subscriber());
    world.cloud = reopened.await;
    let lines = log.lines();
    let told = |level: &str, what: &str| {
        let is_it = |line: &&String| line.contains(level) && line.contains(what);
        assert_eq!(lines.iter().filter(is_it).count(), 1, "{what}: {lines:#?}");
    };
    told(
        "WARN",
        "and 2 of its leased addresses are others (10.99.1.10",
    );
    let leased = format!("the gateway 10.99.1.12 of network public is leased to {third}");
    told("ERROR", &leased);
    assert_eq!([ip_of(&world, &first), ip_of(&world, &second)], had);
    let new = keeps(&world).await;
    assert_eq!(ip_of(&world, &new), "10.99.1.50");
    // One that is given back is leased to nobody else, neither when it is asked for.
    let gone = world.cloud.delete_machine(&alice(), split(&second).1).await;
    gone.unwrap();
    let asked = json!({"networkInterfaces": [{"addresses": [{"ip": had[1]}]}]});
    let refused = world
        .create(&alice(), Kind::Machine, world.machine(asked))
        .await;
    let Err(CloudError::Invalid { .. }) = refused else {
        panic!("{refused:?}");
    };
    let last = keeps(&world).await;
    assert_eq!(ip_of(&world, &last), "10.99.1.51");
    let body = world.machine(json!({}));
    let refused = world.create(&alice(), Kind::Machine, body).await;
    let Err(CloudError::Exhausted(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("all 2 addresses"), "{text}");
    assert_eq!(ip_of(&world, &first), had[0]);
}

#[tokio::test]
async fn an_image_is_made_of_a_volume_that_nobody_has_and_kept_while_volumes_stand_on_it() {
    let world = World::start().await;
    let volume = world.volume(&alice()).await;
    let image_of = json!({"name": "before", "imageLocation": {"href": volume}});
    let refused = world
        .create(&alice(), Kind::VolumeImage, image_of.clone())
        .await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "still being made: {refused:?}"
    );
    let local = volume.split_once('/').unwrap().1;
    let changed = world.documents.update(local, |volume: &mut Volume| {
        volume.state = VolumeState::Available;
        Ok::<_, DocumentsError>(true)
    });
    changed.await.unwrap();
    let refused = violations(
        world
            .create(&bob(), Kind::VolumeImage, image_of.clone())
            .await,
    );
    assert!(refused[0].contains("does not exist"), "{refused:?}");
    let image = world
        .made(&alice(), Kind::VolumeImage, image_of.clone())
        .await;
    assert_eq!(world.get(&alice(), &volume)["state"], "CAPTURING");
    // No machine takes it meanwhile, and no second image is made.
    let with_volume = world.machine(json!({"volumes": [{"volume": {"href": volume}}]}));
    let refused = world.create(&alice(), Kind::Machine, with_volume).await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    let refused = world.create(&alice(), Kind::VolumeImage, image_of).await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    let from = |capacity: u64| json!({"volumeTemplate": {"volumeImage": {"href": image}, "volumeConfig": {"capacity": capacity}}});
    let refused = violations(world.create(&alice(), Kind::Volume, from(5_000_000)).await);
    assert!(refused[0].contains("CREATING"), "{refused:?}");
    let name = image.split_once('/').unwrap().1;
    let changed = world.documents.update(name, |image: &mut VolumeImage| {
        image.state = ImageState::Available;
        Ok::<_, DocumentsError>(true)
    });
    changed.await.unwrap();
    let refused = violations(world.create(&alice(), Kind::Volume, from(4_000_000)).await);
    assert!(refused[0].contains("at least as much"), "{refused:?}");
    let made = world.made(&alice(), Kind::Volume, from(6_000_000)).await;
    assert_eq!(
        world.get(&alice(), &made)["volumeImage"]["href"],
        image.as_str()
    );
    let images = world
        .cloud
        .members(&alice(), Kind::Volume, local, "images")
        .await
        .unwrap()
        .0;
    assert_eq!(images.len(), 1);
    // For its owner it is gone; its file is kept for the volume.
    let done = world
        .cloud
        .delete(&alice(), Kind::VolumeImage, name)
        .await
        .unwrap();
    assert_eq!(done.job, None);
    let gone = world.cloud.get(&alice(), Kind::VolumeImage, name);
    assert!(matches!(gone, Err(CloudError::NotFound { .. })));
    let kept = world.get(&admin(), &image);
    assert_eq!(kept["state"], "DELETING");
    let refused = world.create(&alice(), Kind::Volume, from(6_000_000)).await;
    assert!(
        matches!(refused, Err(CloudError::Invalid { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn messages_are_the_administrators_to_write_and_everybodys_to_read() {
    let world = World::start().await;
    let body = json!({"title": "Maintenance", "message": "Tonight from 8."});
    let refused = world
        .create(&alice(), Kind::ServiceMessage, body.clone())
        .await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
    let id = world.made(&admin(), Kind::ServiceMessage, body).await;
    let shown = world.get(&nobody(), &id);
    for (name, text) in [
        ("name", "Maintenance"),
        ("title", "Maintenance"),
        ("description", "Tonight from 8."),
        ("message", "Tonight from 8."),
    ] {
        assert_eq!(shown[name], text);
    }
    assert_eq!(world.list(&nobody(), Kind::ServiceMessage, &[]).count, 1);
    world
        .put(&admin(), &id, json!({"message": "Tomorrow."}))
        .await
        .unwrap();
    assert_eq!(world.get(&nobody(), &id)["description"], "Tomorrow.");
    let refused = world.put(&alice(), &id, json!({"message": "Never."})).await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
    let refused = violations(
        world
            .create(&admin(), Kind::ServiceMessage, json!({"name": "x"}))
            .await,
    );
    assert!(refused[0].contains("description"), "{refused:?}");
}

#[tokio::test]
async fn credentials_are_made_of_templates_by_reference_and_by_value() {
    let world = World::start().await;
    let template = json!({"name": "laptop", "publicKey": KEY});
    let template = world
        .made(&alice(), Kind::CredentialTemplate, template)
        .await;
    for body in [
        json!({"credentialTemplate": {"href": template}}),
        json!({"credentialTemplate": {"publicKey": KEY}}),
        json!({"publicKey": KEY}),
    ] {
        let id = world.made(&alice(), Kind::Credential, body).await;
        assert_eq!(world.get(&alice(), &id)["publicKey"], KEY);
    }
    let refused = violations(
        world
            .create(
                &bob(),
                Kind::Credential,
                json!({"credentialTemplate": {"href": template}}),
            )
            .await,
    );
    assert!(refused[0].contains("does not exist"), "{refused:?}");
    let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----";
    let key = json!({"publicKey": private});
    assert!(!violations(world.create(&alice(), Kind::CredentialTemplate, key).await).is_empty());
    let id = template.split_once('/').unwrap().1;
    let stored = &world.documents.credential_templates.get(id).unwrap();
    assert_eq!(stored.document.0.key(), template);
}

#[tokio::test]
async fn an_address_that_is_kept_counts_once_whoever_has_it() {
    let mut few = settings();
    few.per_user.addresses = 1;
    let world = World::with(few, |store| store).await;
    let body = || json!({"addressTemplate": {"network": {"href": "Network/local"}}});
    let id = world.made(&alice(), Kind::Address, body()).await;
    let refused = [
        world.create(&alice(), Kind::Address, body()).await,
        world
            .create(&alice(), Kind::Machine, world.machine(json!({})))
            .await,
    ];
    for refused in refused {
        assert!(
            matches!(refused, Err(CloudError::Exhausted(_))),
            "{refused:?}"
        );
    }
    let kept = world.machine(json!({"networkInterfaces": [
        {"network": {"href": "Network/local"}, "addresses": [{"href": id}]}]}));
    world.made(&alice(), Kind::Machine, kept).await;
    let refused = world.create(&alice(), Kind::Address, body()).await;
    assert!(
        matches!(refused, Err(CloudError::Exhausted(_))),
        "{refused:?}"
    );
}
