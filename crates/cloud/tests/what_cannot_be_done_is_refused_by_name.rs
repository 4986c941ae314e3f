//! Creations: what is asked for is done, or refused with the place in the request and what to do instead.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::io::Write;

use crate::support::{KEY, World, admin, alice, network, settings, split, violations};
use base64::{Engine, prelude::BASE64_STANDARD};
use cimi::{
    lifecycle::{EndCause, Power, Stage},
    model::Kind,
    resources::{Host, Machine, NetworkClass},
};
use cloud::{CloudError, Rel};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

async fn refused(world: &World, template: Value) -> Vec<String> {
    let body = world.machine(template);
    violations(world.create(&alice(), Kind::Machine, body).await)
}

#[tokio::test]
async fn what_the_table_says_is_optional_is_optional() {
    let world = World::start().await;
    let body = json!({"cpu": 1, "memory": 65_536, "disks": [{"capacity": 1000}]});
    let id = world.made(&alice(), Kind::MachineConfiguration, body).await;
    let shown = world.get(&alice(), &id);
    assert_eq!(shown["cpuArch"], "x86_64");
    assert_eq!(shown["disks"][0]["format"], "raw");
    let body = world.machine(json!({"machineConfig": {"href": id}}));
    world.made(&alice(), Kind::Machine, body).await;
}

#[tokio::test]
async fn a_reference_to_nothing_is_the_requests_fault_wherever_it_stands() {
    let world = World::start().await;
    let nothing = "0190a000-0000-7000-8000-000000000000";
    let of = |kind: &str| json!({"href": format!("{kind}/{nothing}")});
    for (path, template) in [
        ("machineImage", json!({"machineImage": of("MachineImage")})),
        ("volumes", json!({"volumes": [{"volume": of("Volume")}]})),
        (
            "readOnlyDisks",
            json!({"readOnlyDisks": [of("MachineImage")]}),
        ),
        (
            "machineConfig",
            json!({"machineConfig": of("MachineConfiguration")}),
        ),
        ("credential", json!({"credential": of("Credential")})),
    ] {
        let violations = refused(&world, template).await;
        assert_eq!(violations.len(), 1);
        let start = format!("`machineTemplate.{path}` refers to ");
        assert!(violations[0].starts_with(&start), "{violations:?}");
    }
    let image = json!({"imageLocation": "upload:", "kernel": of("MachineImage")});
    let violations = violations(world.create(&alice(), Kind::MachineImage, image).await);
    assert!(
        violations[0].starts_with("`kernel` refers to "),
        "{violations:?}"
    );
    let machine = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let (_, local) = split(&machine);
    let body = crate::support::object(json!({"volume": of("Volume")}));
    let violations =
        crate::support::violations(world.cloud.attach_volume(&alice(), local, body).await);
    assert!(
        violations[0].starts_with("`volume` refers to "),
        "{violations:?}"
    );
}

#[tokio::test]
async fn a_volume_is_named_once() {
    let world = World::start().await;
    let volume = world.volume(&alice()).await;
    let violations = refused(
        &world,
        json!({"volumes": [{"href": volume}, {"href": volume}]}),
    )
    .await;
    assert_eq!(
        violations,
        [format!(
            "`machineTemplate.volumes[1]` names {volume} again; a machine has a volume once"
        )]
    );
}

#[tokio::test]
async fn a_reference_beside_a_template_stands_for_itself() {
    let world = World::start().await;
    let template =
        json!({"machineImage": world.image, "machineConfig": {"cpu": 2, "memory": 65_536}});
    let template = world.made(&alice(), Kind::MachineTemplate, template).await;
    let body = json!({"machineTemplate": {"href": template,
        "machineConfig": {"href": "MachineConfiguration/m1.large", "memory": 131_072}}});
    let id = world.made(&alice(), Kind::Machine, body).await;
    let shown = world.get(&alice(), &id);
    assert_eq!(
        (&shown["cpu"], &shown["memory"]),
        (&json!(1), &json!(131_072))
    );
    let body = json!({"machineTemplate": {"href": template, "machineConfig": {"memory": 131_072}}});
    let id = world.made(&alice(), Kind::Machine, body).await;
    let shown = world.get(&alice(), &id);
    assert_eq!(
        (&shown["cpu"], &shown["memory"]),
        (&json!(2), &json!(131_072))
    );
}

#[tokio::test]
async fn what_is_not_done_is_not_accepted() {
    let world = World::start().await;
    let interface = |members: Value| json!({"networkInterfaces": [members]});
    for (template, start) in [
        (
            interface(json!({"mtu": 9000})),
            "`machineTemplate.networkInterfaces[0].mtu` is the network's to say: public has 1500",
        ),
        (
            interface(json!({"network": "Network/local", "networkType": "PUBLIC"})),
            "`machineTemplate.networkInterfaces[0].networkType` is PUBLIC, but network local is PRIVATE",
        ),
        (
            interface(json!({"model": "ne2000"})),
            "`machineTemplate.networkInterfaces[0].model` must be one of",
        ),
        (
            interface(json!({"state": "Disabled"})),
            "`machineTemplate.networkInterfaces[0].state` must be one of",
        ),
        (
            json!({"machineImage": "Volume/x"}),
            "`machineTemplate.machineImage` must refer to a MachineImage",
        ),
        (
            json!({"keymap": "qwertz"}),
            "`machineTemplate.keymap` `qwertz` is no keyboard layout; there are ar, bepo, cz, da, de,",
        ),
        (
            json!({"volumeTemplates": [{"volumeTemplate": {"volumeConfig": {"capacity": 1}, "volumeImage": world.image}}]}),
            "`machineTemplate.volumeTemplates[0].volumeTemplate.volumeImage` must refer to a VolumeImage",
        ),
        (
            json!({"requirements": "CLUSTER = 'x'"}),
            "`machineTemplate.requirements` is not understood at character 1: hosts have no attribute `CLUSTER`",
        ),
        (
            json!({"rank": "FREECPU + LOAD"}),
            "`machineTemplate.rank` is not understood at character 11: hosts have no number `LOAD`",
        ),
        (
            json!({"placementTogether": ["a", "b", "c", "d", "e", "f", "g", "h", "i"]}),
            "`machineTemplate.placementTogether` names 9 groups; at most 8 are possible",
        ),
    ] {
        let violations = refused(&world, template).await;
        assert!(violations[0].starts_with(start), "{violations:?}");
    }
    // What can be done is: the type of a network chooses one.
    let body = world.machine(interface(
        json!({"networkType": "PRIVATE", "mtu": 1500, "state": "Active"}),
    ));
    let id = world.made(&alice(), Kind::Machine, body).await;
    assert_eq!(world.get(&alice(), &id)["networks"], json!(["local"]));
    let body = world.machine(json!({"requirements": "HYPERVISOR = 'kvm'"}));
    world.made(&alice(), Kind::Machine, body).await;
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn user_data_is_kept_as_it_was_sent() {
    let world = World::start().await;
    let text = "# a comment that repeats\n".repeat(100_000);
    let sent = BASE64_STANDARD.encode(gzip(text.as_bytes()));
    assert!(sent.len() < 16_384);
    for template in [
        json!({"userData": sent}),
        json!({"context": {"CLOUD_INIT_USER_DATA": sent, "CONTEXT_METHOD": "cloud-init"}}),
    ] {
        let body = world.machine(template);
        let id = world.made(&alice(), Kind::Machine, body).await;
        let (_, local) = split(&id);
        let machine = world.documents.machines.get(local).unwrap();
        let kept = machine.context.user_data.as_deref().unwrap();
        assert_eq!(kept, sent);
        let told = context::decoding::decode_user_data(kept).unwrap();
        assert_eq!(&*told, text.as_bytes());
    }
}

#[tokio::test]
async fn what_is_too_large_is_told_so_with_numbers() {
    let world = World::start().await;
    let random: Vec<u8> = (0..450_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(450_000)
        .collect();
    let large = BASE64_STANDARD.encode(random);
    let properties: serde_json::Map<_, _> = (0..200)
        .map(|n| (format!("k{n}"), "x".repeat(4000).into()))
        .collect();
    let with = |name: &str, value: Value| {
        let mut body = world.machine(json!({}));
        body[name] = value;
        body
    };
    let too_large = [
        world
            .create(
                &alice(),
                Kind::Machine,
                world.machine(json!({"userData": large})),
            )
            .await,
        world
            .create(
                &alice(),
                Kind::Machine,
                with("properties", properties.clone().into()),
            )
            .await,
        world
            .create(
                &alice(),
                Kind::Credential,
                json!({"publicKey": KEY, "properties": properties}),
            )
            .await,
    ];
    for result in too_large {
        let Err(CloudError::TooLarge(text)) = result else {
            panic!("{result:?}");
        };
        assert!(
            text.contains("and at most 524288 are kept of one"),
            "{text}"
        );
    }
    let id = world.volume(&alice()).await;
    let edited = world
        .put(&alice(), &id, json!({"properties": properties}))
        .await;
    assert!(matches!(edited, Err(CloudError::TooLarge(_))), "{edited:?}");
}

#[tokio::test]
async fn a_machine_is_as_large_as_a_host_offers_and_no_larger() {
    let world = World::start().await;
    let size = |memory: u64| json!({"machineConfig": {"cpu": 1, "memory": memory}});
    // One that runs no machines is none to them, however small or large it is.
    let mut apart = cimi::testing::host();
    apart.desired.apart = true;
    apart.capacity.cpus = 64;
    apart.capacity.memory_kib = 1024;
    world
        .documents
        .changes()
        .create(&apart)
        .commit()
        .await
        .unwrap();
    // Before a host has reported, nothing is too large.
    world
        .made(&alice(), Kind::Machine, world.machine(size(1 << 30)))
        .await;
    world.host(4096).await;
    let offered = (4096 - 512) * 1024;
    world
        .made(&alice(), Kind::Machine, world.machine(size(offered)))
        .await;
    let violations = refused(&world, size(offered + 1)).await;
    assert_eq!(
        violations,
        [format!(
            "`machineTemplate.machineConfig.memory` must be 16384 to {offered} KiB, which is 16 to 3584 MiB (what the largest \
             host offers to machines), but is {} KiB",
            offered + 1
        )]
    );
    let violations = refused(
        &world,
        json!({"machineConfig": {"cpu": 5, "memory": 65_536}}),
    )
    .await;
    assert!(
        violations[0].contains("must be 1 to 4 (the largest host)"),
        "{violations:?}"
    );
    let status = world.cloud.status(&crate::support::admin()).unwrap();
    assert_eq!(status["hosts"].as_array().unwrap().len(), 1, "{status}");

    // On one that has joined no machine has volumes, however large it is.
    let mut joined = cimi::testing::host();
    (joined.desired.apart, joined.runs_machines) = (true, true);
    joined.capacity.memory_kib = 1 << 30;
    let changes = world.documents.changes().create(&joined);
    changes.commit().await.unwrap();
    let large = size(offered + 1);
    world
        .made(&alice(), Kind::Machine, world.machine(large.clone()))
        .await;
    let volume = json!({"volumeTemplate": {"volumeConfig": {"capacity": 1_000_000}}});
    let mut with_volume = large;
    with_volume["volumeTemplates"] = json!([volume]);
    let violations = refused(&world, with_volume).await;
    assert!(
        violations[0].contains(&format!(
            "{offered} KiB, which is 16 to {} MiB (what the largest host with a way to the cloud's storage, for volumes or to be saved, offers",
            offered / 1024
        )),
        "{violations:?}"
    );
}

#[tokio::test]
async fn only_volumes_that_came_later_take_the_spare_ports() {
    let world = World::start().await;
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(json!({"href": world.volume(&alice()).await}));
    }
    let machine = world
        .made(
            &alice(),
            Kind::Machine,
            world.machine(json!({"volumes": first})),
        )
        .await;
    let (_, local) = split(&machine);
    for n in 0..3 {
        let volume = world.volume(&alice()).await;
        let body = crate::support::object(json!({"volume": {"href": volume}}));
        let attached = world.cloud.attach_volume(&alice(), local, body).await;
        if n < 2 {
            attached.unwrap();
            continue;
        }
        let Err(CloudError::Conflict(text)) = attached else {
            panic!("{attached:?}");
        };
        assert!(
            text.starts_with("no free devices available: 2 volumes"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn what_the_settings_have_no_more_is_on_offer_no_more() {
    let world = World::start().await;
    let own = json!({"cpu": 1, "memory": 65_536});
    let own = world.made(&admin(), Kind::MachineConfiguration, own).await;
    let on = json!({"networkInterfaces": [{"network": "Network/local"}]});
    let machine = world
        .made(&alice(), Kind::Machine, world.machine(on.clone()))
        .await;

    let mut fewer = settings();
    fewer.networks.truncate(1);
    fewer.machine_types.truncate(1);
    let cloud = crate::support::open(&world.documents, fewer).await;
    let world = World { cloud, ..world };
    let violations = refused(&world, on.clone()).await;
    assert_eq!(
        violations,
        [
            "`machineTemplate.networkInterfaces.network` Network/local is not in use any more; there are: public"
        ]
    );
    assert_eq!(world.get(&alice(), "Network/local")["state"], "STOPPED");
    let violations = refused(
        &world,
        json!({"machineConfig": "MachineConfiguration/m1.large"}),
    )
    .await;
    assert!(violations[0].contains("does not exist"), "{violations:?}");
    // What is there stays, and what people made.
    assert_eq!(world.get(&alice(), &machine)["networks"], json!(["local"]));
    world.get(&admin(), &own);

    let cloud = crate::support::open(&world.documents, settings()).await;
    let world = World { cloud, ..world };
    world.made(&alice(), Kind::Machine, world.machine(on)).await;
}

#[tokio::test]
async fn a_full_network_says_so_until_an_address_is_free() {
    let mut small = settings();
    let mut tiny = network("public", NetworkClass::Public, 1);
    tiny.last = [10, 99, 1, 11].into();
    small.networks = vec![tiny];
    let world = World::with(small, |store| store).await;
    let who = alice();
    let create = || world.create(&who, Kind::Machine, world.machine(json!({})));
    create().await.unwrap();
    let second = create().await.unwrap();
    for _ in 0..3 {
        let full = create().await;
        assert!(matches!(full, Err(CloudError::Exhausted(_))), "{full:?}");
    }
    let (_, local) = split(&second.view.id);
    let read = world.documents.machines.get(local).unwrap();
    let release = documents::step::end(&world.documents, &read, cimi::Timestamp::now());
    release.commit().await.unwrap();
    create().await.unwrap();
    assert!(matches!(create().await, Err(CloudError::Exhausted(_))));
}

#[tokio::test]
async fn what_needs_the_cloud_s_storage_is_refused_on_a_host_that_joined() {
    let world = World::start().await;
    let host = world.host(4096).await;
    let joined = |host: &mut Host| {
        host.desired.apart = true;
        Ok::<_, CloudError>(true)
    };
    world.documents.update(host.local(), joined).await.unwrap();
    let id = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let (_, local) = split(&id);
    let ran_there = |machine: &mut Machine| {
        machine.host = Some(host.clone());
        machine.first_started = Some(machine.common.created);
        machine.desired.power = Power::Off;
        machine.observed.stage = Stage::Ended {
            cause: EndCause::Requested,
        };
        machine.observed.run = 1;
        machine.settle();
        Ok::<_, CloudError>(true)
    };
    world.documents.update(local, ran_there).await.unwrap();
    // Nor is it offered.
    let view = world.view(&alice(), &id);
    let operations = view.document.operations(view.right);
    assert!(operations.contains(&Rel::Action("start")), "{operations:?}");
    assert!(!operations.contains(&Rel::Capture), "{operations:?}");
    let volume = world.volume(&alice()).await;
    let body = crate::support::object(json!({"volume": {"href": volume}}));
    let attached = world.cloud.attach_volume(&alice(), local, body).await;
    let capture = json!({"imageLocation": id});
    let captured = world.create(&alice(), Kind::MachineImage, capture).await;
    for (refused, instead) in [
        (attached, "start another machine with the volume"),
        (captured, "have it upgraded"),
    ] {
        let Err(CloudError::Conflict(text)) = refused else {
            panic!("not refused: {refused:?}");
        };
        let why = "is on here, a host without a way to the cloud's storage: ";
        assert!(text.contains(why) && text.contains(instead), "{text}");
    }
    let group = json!({"name": "web"});
    let group = world.made(&alice(), Kind::SecurityGroup, group).await;
    let within = json!({"securityGroups": [{"href": group}]});
    let refused = world.put(&alice(), &id, within.clone()).await;
    let Err(CloudError::Conflict(text)) = refused else {
        panic!("not refused: {refused:?}");
    };
    assert!(text.contains("too old for security groups"), "{text}");
    // It is upgraded, and says what it can now.
    let upgraded = |host: &mut Host| {
        host.features = [Host::GIVES_DISKS, Host::SECURITY_GROUPS]
            .map(str::to_owned)
            .to_vec();
        Ok::<_, CloudError>(true)
    };
    world
        .documents
        .update(host.local(), upgraded)
        .await
        .unwrap();
    let shown = world.get(&admin(), &host.to_string());
    assert_eq!(
        shown["features"],
        json!(["givesDisks", "securityGroups"]),
        "{shown}"
    );
    world.put(&alice(), &id, within).await.unwrap();
    let view = world.view(&alice(), &id);
    let operations = view.document.operations(view.right);
    assert!(operations.contains(&Rel::Capture), "{operations:?}");
    let capture = json!({"imageLocation": id});
    let captured = world.create(&alice(), Kind::MachineImage, capture).await;
    captured.unwrap();
}
