//! A system of which a part can't be made is refused as that part is by itself, and nothing of it is made; and a template
//! that refers to nothing is not kept.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use crate::support::{KEY, World, alice, bob, settings, violations};
use cimi::model::Kind;
use cloud::{CloudError, PerUser};
use serde_json::{Value, json};

fn system(components: Value) -> Value {
    json!({"systemTemplate": {"componentDescriptors": components}})
}

/// Every kind of component, each referring to another one.
fn whole(world: &World) -> Value {
    let machine = json!({"machineImage": {"href": world.image}, "credential": {"href": "#key"},
        "volumes": [{"volume": {"href": "#data"}}],
        "volumeTemplates": [{"volumeTemplate": {"volumeConfig": {"capacity": 1_000_000}}}],
        "networkInterfaces": [
            {"network": {"href": "Network/local"}, "addresses": [{"href": "#ip"}]},
            {"network": {"href": "Network/public"}}]});
    json!([
        {"name": "db", "type": "Machine", "machineTemplate": machine},
        {"name": "data", "type": "Volume", "volumeTemplate": {"volumeConfig": {"capacity": 1000}}},
        {"name": "ip", "type": "Address", "addressTemplate": {"network": {"href": "Network/local"}}},
        {"name": "key", "type": "Credential", "credentialTemplate": {"publicKey": KEY}},
    ])
}

fn nothing_was_made(world: &World) {
    let documents = &world.documents;
    let made = [
        documents.systems.len(),
        documents.jobs.len(),
        documents.machines.len(),
        documents.credentials.len(),
        documents.addresses.len(),
    ];
    assert_eq!(made, [0; 5]);
}

#[tokio::test]
async fn what_one_part_may_not_be_the_system_may_not() {
    let world = World::start().await;
    world.host(1024).await;
    let image = json!({"href": world.image});
    let nothing = "Volume/00000000-0000-7000-8000-000000000000";
    for (component, problem) in [
        (
            json!({"name": "a", "type": "Machine", "machineTemplate": {"machineImage": image,
                "machineConfig": {"cpu": 1000, "memory": 65536}}}),
            "componentDescriptors.a.machineTemplate.machineConfig.cpu",
        ),
        (
            json!({"name": "a", "type": "Machine", "machineTemplate": {"machineImage": {"href": "MachineImage/none"}}}),
            "refers to MachineImage/none, which does not exist",
        ),
        (
            json!({"name": "a", "type": "Machine", "machineTemplate": {"machineImage": image,
                "volumes": [{"volume": {"href": nothing}}]}}),
            "which does not exist",
        ),
        (
            json!({"name": "a", "type": "Machine", "machineTemplate": {"machineImage": image,
                "networkInterfaces": [{"network": {"href": "Network/none"}}]}}),
            "there is no network `none`",
        ),
        (
            json!({"name": "a", "type": "Volume", "volumeTemplate": {"volumeConfig": {"capacity": 1_000_000_000_000_i64}}}),
            "componentDescriptors.a.volumeTemplate.volumeConfig.capacity",
        ),
        (
            json!({"name": "a", "type": "Credential", "credentialTemplate": {"publicKey": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA"}}),
            "componentDescriptors.a.publicKey",
        ),
        (
            json!({"name": "a", "type": "Address", "addressTemplate": {"network": {"href": "Network/local"}, "ip": "10.1.2.3"}}),
            "componentDescriptors.a.addressTemplate.ip",
        ),
        (
            json!({"name": "a", "type": "System", "systemTemplate": {"href": "SystemTemplate/none"}}),
            "refers to SystemTemplate/none",
        ),
    ] {
        let other =
            json!({"name": "z", "type": "Credential", "credentialTemplate": {"publicKey": KEY}});
        let body = system(json!([other, component]));
        let answer = world.create(&alice(), Kind::System, body).await;
        assert!(answer.is_err(), "not refused: {problem}");
        let refused = violations(answer);
        assert!(refused[0].contains(problem), "{problem}: {refused:?}");
        nothing_was_made(&world);
    }
}

#[tokio::test]
async fn what_others_have_is_in_use_and_what_only_one_can_have_is_not_wanted_twice() {
    let world = World::start().await;
    let taken =
        json!({"addressTemplate": {"network": {"href": "Network/local"}, "ip": "10.99.2.50"}});
    world.made(&bob(), Kind::Address, taken.clone()).await;
    let mut address = taken.clone();
    address["name"] = "ip".into();
    address["type"] = "Address".into();
    let refused = world
        .create(&alice(), Kind::System, system(json!([address])))
        .await;
    let Err(CloudError::Conflict(text)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(text, "component `ip`: address 10.99.2.50 is in use");

    let mut twice = whole(&world);
    twice[0]["quantity"] = 2.into();
    let refused = world.create(&alice(), Kind::System, system(twice)).await;
    let Err(CloudError::Conflict(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("is wanted by component `db1`, too"), "{text}");
    // What was set aside for it is free again.
    for number in 51..54 {
        let body = json!({"addressTemplate": {"network": {"href": "Network/local"}, "ip": format!("10.99.2.{number}")}});
        world.made(&alice(), Kind::Address, body).await;
    }
}

#[tokio::test]
async fn what_a_system_takes_is_counted_exactly() {
    // Of everything as much as the system needs; one less of anything is too little.
    let enough = PerUser {
        machines: 1,
        cpus: 1,
        volumes: 2,
        addresses: 2,
        credentials: 1,
        templates: 1,
        ..PerUser::default()
    };
    let less: [fn(&mut PerUser); 5] = [
        |most| most.machines -= 1,
        |most| most.cpus -= 1,
        |most| most.volumes -= 1,
        |most| most.addresses -= 1,
        |most| most.credentials -= 1,
    ];
    for lessen in less {
        let mut few = settings();
        few.per_user = enough;
        lessen(&mut few.per_user);
        let world = World::with(few, |store| store).await;
        let refused = world
            .create(&alice(), Kind::System, system(whole(&world)))
            .await;
        assert!(
            matches!(refused, Err(CloudError::Exhausted(_))),
            "{refused:?}"
        );
        nothing_was_made(&world);
    }
    let mut just = settings();
    just.per_user = enough;
    let world = World::with(just, |store| store).await;
    world
        .made(&alice(), Kind::System, system(whole(&world)))
        .await;

    // Without any interface named there is one, on the default network; a kept address is had already.
    let mut one = settings();
    one.per_user.addresses = 1;
    let world = World::with(one, |store| store).await;
    let kept =
        json!({"addressTemplate": {"network": {"href": "Network/local"}, "ip": "10.99.2.50"}});
    world.made(&alice(), Kind::Address, kept).await;
    let machine = |interfaces: Value| {
        system(json!([{"type": "Machine", "machineTemplate":
            {"machineImage": {"href": world.image}, "networkInterfaces": interfaces}}]))
    };
    let refused = world
        .create(&alice(), Kind::System, machine(json!([])))
        .await;
    assert!(
        matches!(refused, Err(CloudError::Exhausted(_))),
        "{refused:?}"
    );
    let kept = json!([{"network": {"href": "Network/local"}, "addresses": [{"ip": "10.99.2.50"}]}]);
    world.made(&alice(), Kind::System, machine(kept)).await;
}

#[tokio::test]
async fn templates_refer_to_what_there_is() {
    let world = World::start().await;
    for (kind, body, at) in [
        (
            Kind::MachineTemplate,
            json!({"machineImage": {"href": "MachineImage/none"}}),
            "machineImage",
        ),
        (
            Kind::MachineTemplate,
            json!({"machineConfig": {"href": "MachineConfiguration/none", "cpu": 2}}),
            "machineConfig",
        ),
        (
            Kind::MachineTemplate,
            json!({"volumeTemplates": [{"volumeTemplate": {"volumeConfig": {"href": "VolumeConfiguration/none"}}}]}),
            "volumeTemplates[0].volumeTemplate.volumeConfig",
        ),
        (
            Kind::MachineTemplate,
            json!({"networkInterfaces": [{"network": {"href": "Network/none"}}]}),
            "networkInterfaces[0].network",
        ),
        (
            Kind::VolumeTemplate,
            json!({"volumeConfig": {"capacity": 1}, "volumeImage": {"href": "VolumeImage/none"}}),
            "volumeImage",
        ),
        (
            Kind::AddressTemplate,
            json!({"network": {"href": "Network/none"}}),
            "network",
        ),
        (
            Kind::SystemTemplate,
            json!({"componentDescriptors": [{"type": "Machine", "machineTemplate": {"href": "MachineTemplate/none"}}]}),
            "componentDescriptors[0].machineTemplate",
        ),
    ] {
        let refused = violations(world.create(&alice(), kind, body).await);
        assert!(
            refused[0].starts_with(&format!("`{at}` refers to ")),
            "{refused:?}"
        );
    }
    let configuration = json!({"capacity": 1000});
    let configuration = world
        .made(&alice(), Kind::VolumeConfiguration, configuration)
        .await;
    let body = json!({"name": "a", "volumeConfig": {"href": configuration}});
    let template = world.made(&alice(), Kind::VolumeTemplate, body).await;
    // What others don't let one see isn't there.
    let body = json!({"volumeConfig": {"href": configuration}});
    let refused = violations(world.create(&bob(), Kind::VolumeTemplate, body).await);
    assert!(refused[0].contains("which does not exist"), "{refused:?}");
    // What went away is told when the template is used, and not when something else of it is changed.
    let (_, local) = configuration.split_once('/').unwrap();
    world
        .cloud
        .delete(&alice(), Kind::VolumeConfiguration, local)
        .await
        .unwrap();
    let mut shown = world.get(&alice(), &template);
    shown["name"] = "b".into();
    world.put(&alice(), &template, shown).await.unwrap();
    let changed = json!({"volumeConfig": {"href": "VolumeConfiguration/none"}});
    let refused = violations(world.put(&alice(), &template, changed).await);
    assert!(refused[0].contains("which does not exist"), "{refused:?}");
    let used = json!({"volumeTemplate": {"href": template}});
    let refused = violations(world.create(&alice(), Kind::Volume, used).await);
    assert!(refused[0].contains("which does not exist"), "{refused:?}");
}
