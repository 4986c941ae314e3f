//! Representations: what they promise to be as long as their stamp stays, and that they have all that the table has.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::collections::{BTreeMap, BTreeSet};

use crate::bare_cloud::user;
use crate::support::{KEY, World, admin, alice, object, representation, split, violations};
use accounts::UserSource as _;
use cimi::{
    Timestamp,
    lifecycle::Stage,
    model::{Access, COMMON, FURTHER, Kind, Shape, describe},
    resources::{
        AcceleratorKind, Announcement, AttachStage, Image, ImageOrigin, ImageSource, ImageState,
        Machine, Network, OnDemand, Resource, System, Volume, VolumeImage, VolumeState,
    },
};
use cloud::{Cloud, CloudError, Retention};
use serde_json::json;

/// Puts a machine on a host, as the scheduler and the host's controller do.
async fn run(world: &World, machine: &str, host: &cimi::HostId) {
    let (_, local) = split(machine);
    let edit = |machine: &mut Machine| {
        machine.host = Some(host.clone());
        machine.observed.stage = Stage::Running;
        machine.observed.run = machine.desired.run;
        machine.accelerator = Some(AcceleratorKind::Tcg);
        machine.first_started = Some(Timestamp::now());
        machine.reason = Some("well".into());
        machine.settle();
        Ok::<_, CloudError>(true)
    };
    world.documents.update(local, edit).await.unwrap();
}

#[tokio::test]
async fn a_representation_with_the_same_stamp_is_the_same() {
    let world = World::start().await;
    let host = world.host(4096).await;
    let import = json!({"imageLocation": "https://a.example/b", "name": "i"});
    let import = world
        .create(&alice(), Kind::MachineImage, import)
        .await
        .unwrap();
    let machine = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let watched = [
        host.to_string(),
        "Network/public".to_owned(),
        import.job.clone().unwrap(),
        machine.clone(),
        format!("MachineImage/{}", world.image.local()),
    ];
    let seen = || watched.clone().map(|id| world.view(&admin(), &id));
    let mut before = seen();
    let fetched = |image: &mut Image| {
        image.progress = Some(40);
        image.state = ImageState::Creating;
        Ok::<_, CloudError>(true)
    };
    let (_, importing) = split(&import.view.id);
    for step in 0..5 {
        match step {
            0 => drop(
                world
                    .made(&alice(), Kind::Machine, world.machine(json!({})))
                    .await,
            ),
            1 => run(&world, &machine, &host).await,
            2 => drop(world.documents.update(importing, fetched).await.unwrap()),
            3 => {
                let rename = |host: &mut cimi::resources::Host| {
                    host.common.name = Some("there".into());
                    host.load = Some(cimi::resources::Load {
                        cpu_percent: 130,
                        memory_kib: 1024,
                    });
                    host.bridges = vec!["br-site".into()];
                    host.features = vec!["newest".into()];
                    Ok::<_, CloudError>(true)
                };
                world.documents.update(host.local(), rename).await.unwrap();
            }
            _ => {
                let renamed = |image: &mut Image| {
                    image.file.as_mut().unwrap().digests.identifier = Some("B".repeat(27));
                    Ok::<_, CloudError>(true)
                };
                world
                    .documents
                    .update(world.image.local(), renamed)
                    .await
                    .unwrap();
            }
        }
        let after = seen();
        for (before, after) in before.iter().zip(&after) {
            let (old, new) = (representation(before), representation(after));
            let stamps = before.stamp.zip(after.stamp);
            // A view is made of what is there when it is asked: compare with what was there.
            if stamps.is_some_and(|(old, new)| old == new) {
                assert_eq!(old, new, "step {step}: {}", after.id);
            }
        }
        before = after;
    }
    let host = world.get(&admin(), &host.to_string());
    assert_eq!(
        (&host["machines"], &host["cpuUsed"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(
        (&host["cpuLoad"], &host["memoryLoad"]),
        (&json!(130), &json!(1024))
    );
    assert_eq!(
        (&host["bridges"], &host["features"]),
        (&json!(["br-site"]), &json!(["newest"]))
    );
    assert_eq!(world.get(&alice(), "Network/public")["leases"], 2);
    assert_eq!(world.get(&alice(), &import.job.unwrap())["progress"], 40);
}

#[tokio::test]
async fn what_other_documents_tell_has_no_stamp_of_its_own() {
    let world = World::start().await;
    let host = world.host(4096).await;
    for id in [host.to_string(), "Network/public".to_owned()] {
        assert_eq!(world.view(&admin(), &id).stamp, None, "{id}");
    }
    let machine = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let first = world.view(&alice(), &machine).stamp;
    assert!(first.is_some());
    assert_eq!(world.view(&alice(), &machine).stamp, first);
    run(&world, &machine, &host).await;
    let placed = world.view(&alice(), &machine).stamp;
    let rename = |host: &mut cimi::resources::Host| {
        host.common.name = Some("there".into());
        Ok::<_, CloudError>(true)
    };
    world.documents.update(host.local(), rename).await.unwrap();
    assert_ne!(world.view(&alice(), &machine).stamp, placed);
}

#[tokio::test]
async fn lists_are_filtered_and_sorted_by_all_that_is_shown() {
    let world = World::start().await;
    let host = world.host(4096).await;
    let running = world
        .made(
            &alice(),
            Kind::Machine,
            world.machine(json!({"cpuModel": "max"})),
        )
        .await;
    world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    run(&world, &running, &host).await;
    for (filter, count) in [
        ("accelerator='tcg'", 1),
        ("accelerator!='tcg'", 1),
        ("cpuModel='max'", 1),
        ("state='STARTED'", 1),
        ("hostname='here'", 1),
        ("colour='red'", 0),
    ] {
        let page = world.list(&alice(), Kind::Machine, &[("$filter", filter)]);
        assert_eq!(page.count, count, "{filter}");
    }
    let page = world.list(&alice(), Kind::Machine, &[("$orderby", "accelerator")]);
    assert_eq!(*page.members[0].id, *running);
}

/// A machine that is saved as a new image, a volume with an image that another volume is made from, what is kept, and a
/// system that has one part of each type.
async fn composed(world: &World) {
    let (alice, saved) = (
        alice(),
        json!({"author": "A", "authorEmail": "a@b.example", "title": "t"}),
    );
    let group = json!({"name": "g"});
    let group = world.made(&alice, Kind::SecurityGroup, group).await;
    let (_, id) = split(&group);
    for rule in [
        json!({"direction": "in", "protocol": "tcp", "firstPort": 1, "lastPort": 2, "addresses": "10.0.0.0/8"}),
        json!({"direction": "in", "protocol": "icmp", "icmpType": 8, "icmpCode": 0, "group": {"href": group}}),
    ] {
        let rule = rule.as_object().unwrap().clone();
        let added = world
            .cloud
            .add_member(&alice, Kind::SecurityGroup, id, "rules", rule);
        added.await.unwrap();
    }
    let template = json!({"name": "t", "save": saved, "securityGroups": [{"href": group}]});
    let template = world.machine(template)["machineTemplate"].clone();
    world
        .made(&alice, Kind::MachineTemplate, template.clone())
        .await;
    let machine = json!({"machineTemplate": template});
    let machine = world.made(&alice, Kind::Machine, machine).await;
    let image = json!({"imageLocation": "upload:"});
    let image = world.made(&alice, Kind::MachineImage, image).await;
    let (_, of) = split(&machine);
    let read = world.documents.machines.get(of).unwrap();
    let capture = cimi::resources::Capture {
        machine: read.document.id.clone(),
        vmid: read.vmid,
        origin: world.image.clone(),
        origin_identifier: None,
        disk_bytes: None,
        save: None,
    };
    let as_captured = |image: &mut Image| {
        image.desired.source = ImageSource::Machine(capture.clone());
        image.announced = Some(Announcement {
            pending: false,
            at: Timestamp::now(),
            marketplace: None,
            valid_until: None,
            problem: None,
        });
        Ok::<_, CloudError>(true)
    };
    let (_, local) = split(&image);
    world.documents.update(local, as_captured).await.unwrap();
    let id = world.documents.images.get(local).unwrap();
    let as_saved = |machine: &mut Machine| {
        machine.saved_as = Some(cimi::Ref::to(id.document.id.clone()));
        Ok::<_, CloudError>(true)
    };
    world.documents.update(of, as_saved).await.unwrap();

    let volume = world.volume(&alice).await;
    let available = |volume: &mut Volume| {
        volume.state = VolumeState::Available;
        Ok::<_, CloudError>(true)
    };
    let (_, local) = split(&volume);
    world.documents.update(local, available).await.unwrap();
    let image = json!({"imageLocation": {"href": volume}, "bootable": true});
    let image = world.made(&alice, Kind::VolumeImage, image).await;
    let available = |image: &mut VolumeImage| {
        image.state = ImageState::Available;
        image.reason = Some("so".into());
        Ok::<_, CloudError>(true)
    };
    let (_, local) = split(&image);
    world.documents.update(local, available).await.unwrap();
    let template = json!({"volumeConfig": {"capacity": 5_001_000}, "volumeImage": {"href": image}});
    world
        .made(&alice, Kind::VolumeTemplate, template.clone())
        .await;
    let volume = json!({"volumeTemplate": template});
    let volume = world.made(&alice, Kind::Volume, volume).await;

    let template = json!({"ip": "10.99.2.77", "allocation": "static", "protocol": "IPv4",
        "network": {"href": "Network/local"}});
    world
        .made(&alice, Kind::AddressTemplate, template.clone())
        .await;
    let template_of_port = json!({"network": {"href": "Network/local"},
        "networkPortConfig": {"portType": "ACCESS"}});
    let group = json!({"networks": [{"href": "Network/public"}]});
    world
        .made(&alice, Kind::ForwardingGroupTemplate, group.clone())
        .await;
    let group = json!({"forwardingGroupTemplate": group});
    world.made(&admin(), Kind::ForwardingGroup, group).await;
    let configuration = json!({"portType": "ACCESS"});
    world
        .made(&alice, Kind::NetworkPortConfiguration, configuration)
        .await;
    world
        .made(&alice, Kind::NetworkPortTemplate, template_of_port)
        .await;
    let address = json!({"addressTemplate": template});
    let address = world.made(&alice, Kind::Address, address).await;
    let key = json!({"publicKey": KEY});
    world
        .made(&alice, Kind::CredentialTemplate, key.clone())
        .await;
    let key = world.made(&alice, Kind::Credential, key).await;
    let message = json!({"title": "t", "message": "m"});
    world.made(&admin(), Kind::ServiceMessage, message).await;

    let template = json!({"componentDescriptors": [{"name": "key", "type": "Credential",
        "credentialTemplate": {"publicKey": KEY}}]});
    let template = world.made(&alice, Kind::SystemTemplate, template).await;
    let system = json!({"systemTemplate": {"href": template}});
    let within = world.made(&alice, Kind::System, system.clone()).await;
    let system = world.made(&alice, Kind::System, system).await;
    let (_, local) = split(&system);
    for (collection, attribute, href) in [
        ("systems", "system", within),
        ("machines", "machine", machine),
        ("credentials", "credential", key),
        ("volumes", "volume", volume),
        ("networks", "network", "Network/local".to_owned()),
        ("addresses", "address", address),
    ] {
        let body = object(json!({attribute: {"href": href}}));
        let added = world
            .cloud
            .add_member(&alice, Kind::System, local, collection, body);
        added.await.unwrap();
    }
}

/// What a machine, its disks, volumes and interfaces, and everything else can show: all of it at once.
async fn furnished(world: &World) -> Cloud {
    let host = world.host(4096).await;
    let file = world
        .made(
            &alice(),
            Kind::MachineImage,
            json!({"type": "FILE", "imageLocation": "upload:"}),
        )
        .await;
    let image = json!({"name": "i", "description": "d", "properties": {"k": "v"}, "imageLocation": "upload:",
        "kernel": file, "initrd": file, "kernelArguments": "quiet", "expected": {"sha1": "0".repeat(40)}});
    let image = world.made(&alice(), Kind::MachineImage, image).await;
    let (_, local) = split(&image);
    let complete = |image: &mut Image| {
        let source = world.documents.images.get(world.image.local()).unwrap();
        image.file.clone_from(&source.file);
        image.reason = Some("so".into());
        image.uncleaned = vec!["XFS".into()];
        image.state = ImageState::Available;
        image.desired.on_demand = Some(OnDemand {
            requested_by: "alice".into(),
            last_used: Timestamp::now(),
            pinned: false,
        });
        image.provenance = Some(ImageOrigin {
            found_in: "central".into(),
            title: Some("t".into()),
            endorser: Some("a@b".into()),
            version: Some("1".into()),
            checked: Timestamp::now(),
            entry: None,
            refused: None,
            withdrawn: false,
        });
        Ok::<_, CloudError>(true)
    };
    world.documents.update(local, complete).await.unwrap();
    let volume = world.volume(&alice()).await;
    let port = json!({"networkPortTemplate": {"network": {"href": "Network/local"}}});
    let port = world.made(&alice(), Kind::NetworkPort, port).await;
    let template = json!({
        "name": "t", "initialState": "STARTED", "machineConfig": {"cpu": 1, "memory": 65_536},
        "machineImage": world.image, "credential": {"publicKey": KEY}, "volumes": [{"href": volume}],
        "volumeTemplates": [{"volumeTemplate": {"volumeConfig": {"capacity": 1000}}}],
        "networkInterfaces": [{"network": "Network/local", "networkPort": port}], "userData": "eHh4", "context": {"A": "b"},
        "readOnlyDisks": [world.image], "cpuModel": "max", "keymap": "fr", "cpuShare": 0.5,
        "requirements": "NAME = \"here\"", "rank": "-RUNNING_VMS",
        "placementTogether": ["web"], "placementApart": ["db"], "restartPolicy": "never",
    });
    let template = world.made(&alice(), Kind::MachineTemplate, template).await;
    let machine = json!({"machineTemplate": {"href": template, "volumes": [{"href": volume, "initialLocation": "/dev/vdx"}]}});
    let machine = world.made(&alice(), Kind::Machine, machine).await;
    run(world, &machine, &host).await;
    let (_, local) = split(&machine);
    let attached = |machine: &mut Machine| {
        let stages = [
            AttachStage::Attached {
                target: "vdc".into(),
            },
            AttachStage::Failed {
                reason: "no".into(),
            },
        ];
        for (volume, stage) in machine.volumes.iter_mut().zip(stages) {
            volume.stage = stage;
        }
        Ok::<_, CloudError>(true)
    };
    world.documents.update(local, attached).await.unwrap();
    let (_, local) = split(&volume);
    let reason = |volume: &mut Volume| {
        volume.reason = Some("so".into());
        volume.state = VolumeState::Available;
        Ok::<_, CloudError>(true)
    };
    world.documents.update(local, reason).await.unwrap();
    let config = json!({"cpu": 1, "memory": 65_536, "disks": [{"capacity": 1}]});
    world
        .made(&alice(), Kind::MachineConfiguration, config)
        .await;
    let config = json!({"capacity": 1, "format": "raw", "type": cimi::resources::MAPPED});
    world
        .made(&alice(), Kind::VolumeConfiguration, config)
        .await;
    let template = json!({"volumeConfig": {"capacity": 1}});
    world.made(&alice(), Kind::VolumeTemplate, template).await;
    world
        .made(&alice(), Kind::Credential, json!({"publicKey": KEY}))
        .await;
    let user = json!({"username": "carol", "email": "c@d.example", "quota": {"machines": 9}, "first-name": "C", "last-name": "D",
        "roles": ["r"], "altnames": {"x500dn": "CN=C"}});
    world.made(&admin(), Kind::User, user).await;
    let entries = accounts::files::read(b"dave=slpass,cloud-access").unwrap();
    world.cloud.import_users("a file", &entries).await.unwrap();
    let group = json!({"groupname": "r", "quota": {"machines": 1}});
    world.made(&admin(), Kind::Group, group).await;
    let service = json!({"service": "pdisk", "instance": "a", "port": 1});
    world
        .made(&admin(), Kind::ServiceConfiguration, service)
        .await;
    let busy = |host: &mut cimi::resources::Host| {
        host.desired.apart = true;
        host.load = Some(cimi::resources::Load::default());
        Ok::<_, CloudError>(true)
    };
    world.documents.update(host.local(), busy).await.unwrap();

    composed(world).await;

    // One that was, and so a record and a job that is over.
    let gone = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    run(world, &gone, &host).await;
    let (_, local) = split(&gone);
    let read = world.documents.machines.get(local).unwrap();
    let now = Timestamp::now();
    documents::step::end(&world.documents, &read, now)
        .commit()
        .await
        .unwrap();
    let cloud = world.cloud.clone();
    let tracking = tokio::spawn(async move { cloud.run(Retention::default()).await });
    crate::support::until("a job is over", || async {
        world
            .documents
            .jobs
            .all()
            .iter()
            .any(|job| job.state.is_final())
    })
    .await;
    tracking.abort();
    let _ = tracking.await;
    // Now that nobody makes their parts any more, which ends what troubles them.
    for system in world.documents.systems.all() {
        let trouble = |system: &mut System| {
            system.trouble = Some("so".into());
            Ok::<_, CloudError>(true)
        };
        world.documents.update(system.id(), trouble).await.unwrap();
    }
    let part = |job: &mut cimi::resources::Job| {
        job.parent_job = Some(cimi::Ref::to("Job/whole".to_owned()));
        job.nested_jobs = vec![cimi::Ref::to("Job/part".to_owned())];
        Ok::<_, CloudError>(true)
    };
    let job = world.documents.jobs.all().remove(0);
    world.documents.update(job.id(), part).await.unwrap();
    let problem = |group: &mut cimi::resources::SecurityGroup| {
        group.problem = Some("text".to_owned());
        Ok::<_, CloudError>(true)
    };
    let group = world.documents.security_groups.all().remove(0);
    world.documents.update(group.id(), problem).await.unwrap();
    // On its way, and moved before.
    let way = Timestamp::now();
    let moved = |machine: &mut Machine| {
        machine.desired.moving = Some(cimi::lifecycle::Moving {
            live: true,
            ..cimi::lifecycle::Moving::asked(way)
        });
        machine.observed.passage = Some(cimi::lifecycle::Passage {
            way,
            copied: 1,
            left: 0,
            downtime_millis: Some(300),
        });
        machine.settle();
        Ok::<_, CloudError>(true)
    };
    let machine = world.documents.machines.all().remove(0);
    world.documents.update(machine.id(), moved).await.unwrap();
    world.cloud.clone()
}

#[tokio::test]
async fn every_row_of_the_table_is_shown_by_some_view() {
    let world = World::start().await;
    let cloud = furnished(&world).await;
    let on_the_sites_ethernet = |network: &mut Network| {
        network.bridge = Some("br-eth1".to_owned());
        Ok::<_, CloudError>(true)
    };
    let changed = world
        .documents
        .update("public", on_the_sites_ethernet)
        .await;
    changed.unwrap();
    let mut shown: BTreeMap<Kind, BTreeSet<String>> = BTreeMap::new();
    let mut look = |view: &cloud::View| {
        let names = object(representation(view))
            .into_iter()
            .map(|(name, _)| name);
        shown.entry(view.kind).or_default().extend(names);
    };
    // The only answer that shows a token, and one that was used.
    let made = world
        .create(&user("carol"), Kind::Token, json!({"types": ["Machine"]}))
        .await
        .unwrap();
    look(&made.view);
    let token = world.documents.tokens.all().remove(0);
    let somewhere = Some(std::net::IpAddr::from([192, 0, 2, 1]));
    cloud
        .token_used(&token.document.0, Timestamp::now(), somewhere)
        .await;
    // A browser that somebody is logged in with, and somebody who asks for an account.
    let carol = accounts::Identity::of(&world.documents.users.get("carol").unwrap());
    let session = cloud::people::NewSession {
        identity: &carol,
        method: "password",
        address: somewhere,
        agent: Some("a browser"),
        instead_of: None,
    };
    cloud.begin_session(&session).await.unwrap();
    let mut asking = cimi::testing::registration("dave");
    for text in [
        &mut asking.x500dn,
        &mut asking.message,
        &mut asking.decided_by,
        &mut asking.reason,
    ] {
        *text = Some("text".to_owned());
    }
    asking.expires = Some(Timestamp::now());
    let changes = world.documents.changes().create(&asking);
    changes.commit().await.unwrap();
    for kind in Kind::ALL
        .iter()
        .filter(|kind| describe(**kind).collection.is_some())
    {
        for view in world.list(&admin(), *kind, &[]).members {
            look(&view);
        }
    }
    for machine in world.documents.machines.all() {
        for collection in ["disks", "volumes", "networkInterfaces", "meters"] {
            let (members, _) = cloud
                .machine_members(&admin(), machine.id(), collection)
                .await
                .unwrap();
            members.iter().for_each(&mut look);
        }
    }
    for (parent, local) in [
        (Kind::System, world.documents.systems.all()[1].id()),
        (
            Kind::Volume,
            world.documents.volume_images.all()[0].volume.href.local(),
        ),
        (Kind::Network, "local"),
        (
            Kind::SecurityGroup,
            world.documents.security_groups.all()[0].id(),
        ),
        (
            Kind::ForwardingGroup,
            world.documents.forwarding_groups.all()[0].id(),
        ),
    ] {
        for row in describe(parent).attributes {
            let Shape::Collection(of) = row.shape else {
                continue;
            };
            if of != Kind::Meter {
                let members = cloud.members(&admin(), parent, local, row.name).await;
                let (members, _) = members.unwrap();
                members.iter().for_each(&mut look);
            }
        }
    }
    let mut missing = Vec::new();
    for kind in Kind::ALL {
        // The entry point's rows are the doors'.
        if *kind == Kind::CloudEntryPoint {
            continue;
        }
        let shown = shown.remove(kind).unwrap_or_default();
        for row in describe(*kind).attributes {
            let exempt = row.access == Access::Secret
                || matches!(row.shape, Shape::Collection(_))
                // What stands in it in XML stands by itself in JSON.
                || row.name == FURTHER;
            if !exempt && !shown.contains(row.name) {
                missing.push(format!("{kind}.{}", row.name));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    let machine = world.documents.machines.all().remove(0);
    let machine = world.get(&admin(), &machine.document.id.to_string());
    for row in COMMON
        .iter()
        .filter(|row| !["operations", "description", "properties"].contains(&row.name))
    {
        assert!(machine.get(row.name).is_some(), "{}", row.name);
    }
}

#[tokio::test]
async fn what_is_shown_follows_the_standard() {
    let world = World::start().await;
    let location = "https://a.example/b";
    let created = world
        .create(
            &alice(),
            Kind::MachineImage,
            json!({"imageLocation": {"href": location}}),
        )
        .await
        .unwrap();
    assert_eq!(representation(&created.view)["imageLocation"], location);
    let job = world.get(&alice(), &created.job.unwrap());
    assert_eq!(job["targetResource"], json!({"href": "MachineImage"}));
    assert_eq!(
        job["affectedResources"],
        json!([{"href": *created.view.id}])
    );

    let machine = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let (_, local) = split(&machine);
    let done = world
        .cloud
        .delete(&alice(), Kind::Machine, local)
        .await
        .unwrap();
    let job = world.get(&alice(), &done.job.unwrap());
    assert_eq!(job["targetResource"], json!({"href": machine}));
    assert_eq!(job["affectedResources"], json!([{"href": machine}]));
    let unknown = world.create(&alice(), Kind::Job, json!({})).await;
    assert_eq!(violations(unknown), ["a Job is not created by request"]);
    assert_eq!(describe(Kind::Job).actions, ["stop"]);
    assert_eq!(Machine::COLLECTION, Kind::Machine.name());
}
