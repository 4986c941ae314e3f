//! The standard's own way to edit: get a representation, change something in it, put it back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use crate::support::{KEY, World, admin, alice, bob, violations};
use cimi::model::Kind;
use cloud::{CloudError, OpContext};
use serde_json::{Value, json};

/// One resource of every type that offers an edit, with all that can be said of it.
async fn editable(world: &World) -> Vec<(OpContext, String)> {
    let common = json!({"name": "n", "description": "d", "properties": {"k": "v"}});
    let with = |more: Value| {
        let mut body = crate::support::object(common.clone());
        body.extend(crate::support::object(more));
        Value::Object(body)
    };
    let image = world.image.to_string();
    let volume = world.volume(&alice()).await;
    let bodies = [
        (
            Kind::Machine,
            with(world.machine(json!({"restartPolicy": "always"}))),
        ),
        (
            Kind::MachineConfiguration,
            with(json!({"cpu": 1, "memory": 65_536, "disks": [{"capacity": 1000}]})),
        ),
        (
            Kind::MachineTemplate,
            with(json!({
                "initialState": "STOPPED", "machineConfig": {"cpu": 1, "memory": 65_536},
                "machineImage": image, "credential": {"publicKey": KEY},
                "volumes": [{"href": volume}],
                "volumeTemplates": [{"volumeTemplate": {"volumeConfig": {"capacity": 1000}}}],
                "networkInterfaces": [{"network": "Network/local", "model": "e1000"}],
                "userData": "eHh4", "context": {"name": "kept"}, "readOnlyDisks": [image],
                "cpuModel": "max", "keymap": "fr", "cpuShare": 1, "restartPolicy": "never",
            })),
        ),
        (
            Kind::MachineImage,
            with(
                json!({"imageLocation": "upload:", "visibility": "PUBLIC", "kernelArguments": "quiet"}),
            ),
        ),
        (Kind::Credential, with(json!({"publicKey": KEY}))),
        (
            Kind::Volume,
            with(
                json!({"visibility": "PUBLIC", "volumeTemplate": {"volumeConfig": {"capacity": 5_000_000}}}),
            ),
        ),
        (
            Kind::VolumeConfiguration,
            with(json!({"capacity": 1001, "format": "raw", "type": cimi::resources::MAPPED})),
        ),
        (
            Kind::VolumeTemplate,
            with(json!({"volumeConfig": {"capacity": 1001}})),
        ),
    ];
    let mut made = Vec::new();
    for (kind, body) in bodies {
        made.push((alice(), world.made(&alice(), kind, body).await));
    }
    let user = json!({"username": "alice", "password": "some-password", "email": "a@b.example", "quota": {"machines": 9, "cpus": -1},
        "first-name": "A", "last-name": "B", "altnames": {"x500dn": "CN=A"}, "name": "Alice"});
    let user = world.made(&admin(), Kind::User, user).await;
    made.push((admin(), user.clone()));
    made.push((alice(), user));
    made
}

#[tokio::test]
async fn what_is_sent_back_as_it_was_shown_changes_nothing() {
    let world = World::start().await;
    for (who, id) in editable(&world).await {
        let before = world.get(&who, &id);
        let done = world.put(&who, &id, before.clone()).await;
        assert!(done.is_ok(), "{id}: {done:?}");
        assert_eq!(world.get(&who, &id), before, "{id}");
    }
}

#[tokio::test]
async fn one_attribute_changed_in_the_whole_changes_that_one() {
    let world = World::start().await;
    for (who, id) in editable(&world).await {
        let mut whole = world.get(&who, &id);
        let (name, value) = if id.starts_with("User/") {
            ("email", format!("{}@b.example", who.user().unwrap()))
        } else {
            ("description", "other".to_owned())
        };
        whole[name] = value.into();
        world.put(&who, &id, whole.clone()).await.unwrap();
        let mut after = world.get(&who, &id);
        assert_ne!(after["updated"], whole["updated"], "{id}");
        after["updated"] = whole["updated"].clone();
        assert_eq!(after, whole, "{id}");
    }
}

#[tokio::test]
async fn users_change_what_is_theirs_to_change_of_their_account() {
    let world = World::start().await;
    let body = json!({"username": "alice", "password": "some-password"});
    let id = world.made(&admin(), Kind::User, body).await;
    let change = |name: &str| json!({ name: "x@y.example" });
    for name in ["email", "first-name", "last-name"] {
        world.put(&alice(), &id, change(name)).await.unwrap();
    }
    // For others the account isn't there.
    let refused = world.put(&bob(), &id, change("email")).await;
    assert!(
        matches!(refused, Err(CloudError::NotFound { .. })),
        "{refused:?}"
    );
    for name in ["description", "name"] {
        let refused = world.put(&alice(), &id, change(name)).await;
        assert!(
            matches!(refused, Err(CloudError::Forbidden(_))),
            "{name}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn private_is_private_and_a_changed_acl_is_what_counts() {
    let world = World::start().await;
    let id = world.volume(&alice()).await;
    let everybody = |right: &str| {
        json!([{"principal": "::USER", "type": "ROLE", "right": right},
        {"principal": "::ANON", "type": "ROLE", "right": "VIEW"},
        {"principal": "bob", "type": "USER", "right": "VIEW"}])
    };
    let mut open = world.get(&alice(), &id);
    open["acl"]["rules"] = everybody("MODIFY");
    world.put(&alice(), &id, open).await.unwrap();
    assert_eq!(world.get(&alice(), &id)["visibility"], "PUBLIC");

    let private = json!({"visibility": "PRIVATE"});
    world.put(&alice(), &id, private).await.unwrap();
    let after = world.get(&alice(), &id);
    assert_eq!(after["visibility"], "PRIVATE");
    assert_eq!(
        after["acl"]["rules"],
        json!([{"principal": "bob", "type": "USER", "right": "VIEW"}])
    );

    // The visibility that was shown is sent along, and is not what was changed.
    let public = json!({"visibility": "PUBLIC"});
    world.put(&alice(), &id, public).await.unwrap();
    let mut closed = world.get(&alice(), &id);
    closed["acl"]["rules"] = json!([]);
    assert_eq!(closed["visibility"], "PUBLIC");
    world.put(&alice(), &id, closed).await.unwrap();
    assert_eq!(world.get(&alice(), &id)["visibility"], "PRIVATE");
}

#[tokio::test]
async fn what_only_looks_changeable_is_refused() {
    let world = World::start().await;
    let body = json!({"cpu": 1, "memory": 65_536, "cpuArch": "ARM"});
    let refused = world
        .create(&alice(), Kind::MachineConfiguration, body)
        .await;
    assert_eq!(
        violations(refused),
        ["`cpuArch` must be one of x86_64, but is the text \"ARM\""]
    );
    let id = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let refused = world.put(&alice(), &id, json!({"cpu": 3})).await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
}
