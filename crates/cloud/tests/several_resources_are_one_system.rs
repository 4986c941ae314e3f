//! Systems: made in order, asked as one, removed with what was made for them, and taken up again by who comes after a
//! daemon that was killed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use crate::support::{KEY, World, alice, bob, open, settings, until, violations};
use cimi::{
    model::Kind,
    resources::{Made, Resource as _, System, VolumeState},
};
use cloud::{CloudError, Retention};
use documents::DocumentsError;
use futures::FutureExt as _;
use serde_json::{Value, json};

/// A daemon that does the cloud's own work, until it is killed.
struct Daemon(tokio::task::JoinHandle<()>);

impl Daemon {
    fn start(cloud: &cloud::Cloud) -> Self {
        let cloud = cloud.clone();
        Self(tokio::spawn(async move {
            cloud.run(Retention::default()).await;
        }))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Two machines that have a key and a disk in common, and an address for one of them.
fn template(world: &World) -> Value {
    let machine = json!({"machineImage": {"href": world.image}, "credential": {"href": "#key"}});
    json!({"name": "site", "componentDescriptors": [
        {"name": "web", "type": "http://schemas.dmtf.org/cimi/1/Machine", "quantity": 2,
            "properties": {"role": "front"}, "machineTemplate": machine},
        {"name": "db", "type": "Machine", "machineTemplate": {
            "machineImage": {"href": world.image}, "volumes": [{"volume": {"href": "#data"}}],
            "networkInterfaces": [{"network": {"href": "Network/local"}, "addresses": [{"href": "#ip"}]}]}},
        {"name": "data", "type": "Volume", "volumeTemplate": {"volumeConfig": {"capacity": 1000}}},
        {"name": "ip", "type": "Address", "addressTemplate": {"network": {"href": "Network/local"}}},
        {"name": "key", "type": "Credential", "credentialTemplate": {"publicKey": KEY}},
    ]})
}

/// The storage controller and the host do their part.
async fn parts_are_done(world: &World) {
    for volume in world.documents.volumes.all() {
        if volume.state == VolumeState::Creating {
            let changed =
                world
                    .documents
                    .update(volume.id(), |volume: &mut cimi::resources::Volume| {
                        volume.state = VolumeState::Available;
                        Ok::<_, DocumentsError>(true)
                    });
            changed.await.unwrap();
        }
    }
    for machine in world.documents.machines.all() {
        if machine.desired.deleted {
            let now = cimi::Timestamp::now();
            let released = documents::step::end(&world.documents, &machine, now);
            let _ = released.commit().await;
            continue;
        }
        let changed =
            world
                .documents
                .update(machine.id(), |machine: &mut cimi::resources::Machine| {
                    let (desired, seen) = (&machine.desired, &mut machine.observed);
                    let stage = match desired.power {
                        cimi::lifecycle::Power::On => match desired.rest {
                            Some(cimi::lifecycle::Rest::Pause) => cimi::lifecycle::Stage::Held,
                            Some(cimi::lifecycle::Rest::Suspend) => {
                                cimi::lifecycle::Stage::Suspended
                            }
                            None => cimi::lifecycle::Stage::Running,
                        },
                        cimi::lifecycle::Power::Off => cimi::lifecycle::Stage::Ended {
                            cause: cimi::lifecycle::EndCause::Requested,
                        },
                    };
                    let differs = seen.stage != stage
                        || seen.run != desired.run
                        || seen.restart != desired.restart;
                    (seen.run, seen.restart, seen.stage) = (desired.run, desired.restart, stage);
                    machine.settle();
                    Ok::<_, DocumentsError>(differs)
                });
        let _ = changed.await;
    }
}

async fn until_state(world: &World, id: &str, state: &str) {
    until(state, async || {
        parts_are_done(world).await;
        world.get(&alice(), id)["state"] == state
    })
    .await;
}

#[tokio::test]
async fn a_system_is_made_in_order_asked_as_one_and_removed_with_its_parts() {
    let world = World::start().await;
    let _daemon = Daemon::start(&world.cloud);
    let template = world
        .made(&alice(), Kind::SystemTemplate, template(&world))
        .await;
    let body = json!({"name": "mine", "systemTemplate": {"href": template}});
    let created = world.create(&alice(), Kind::System, body).await.unwrap();
    let (id, job) = (created.view.id.to_string(), created.job.unwrap());
    assert_eq!(world.get(&alice(), &id)["state"], "CREATING");
    until_state(&world, &id, "STARTED").await;
    let told = world.get(&alice(), &job);
    assert_eq!(told["state"], "SUCCESS", "{told}");
    for part in [
        "web1: STARTED",
        "web2: STARTED",
        "db: STARTED",
        "data: AVAILABLE",
    ] {
        assert!(
            told["statusMessage"].as_str().unwrap().contains(part),
            "{told}"
        );
    }
    let names: Vec<_> = world
        .documents
        .machines
        .all()
        .iter()
        .map(|m| m.display_name())
        .collect();
    assert_eq!(names, ["web1", "web2", "db"]);
    let db = &world.documents.machines.all()[2];
    let address = world
        .documents
        .addresses
        .get(db.nics[0].address.local())
        .unwrap();
    assert!(address.kept && db.volumes.len() == 1);
    let local = id.split_once('/').unwrap().1;
    let members = |collection: &str| {
        let (members, _) = world
            .cloud
            .members(&alice(), Kind::System, local, collection)
            .now_or_never()
            .unwrap()
            .unwrap();
        members.len()
    };
    let counts = [
        "machines",
        "volumes",
        "addresses",
        "credentials",
        "networks",
    ]
    .map(members);
    assert_eq!(counts, [3, 1, 1, 1, 0]);

    // All are stopped by one job; one that is started again makes the system mixed.
    let stop = world
        .cloud
        .act(&alice(), Kind::System, local, "stop", &Default::default())
        .await;
    let stop = stop.unwrap().job.unwrap();
    assert_eq!(world.get(&alice(), &id)["state"], "STOPPING");
    until_state(&world, &id, "STOPPED").await;
    let told = world.get(&alice(), &stop);
    assert_eq!(told["state"], "SUCCESS");
    let parts = told["statusMessage"].as_str().unwrap();
    assert!(
        parts.contains("web1: ") && parts.contains("db: "),
        "{parts}"
    );
    let start = world
        .cloud
        .act_on_machine(&alice(), db.id(), "start", false)
        .await;
    start.unwrap();
    until_state(&world, &id, "MIXED").await;
    // What is started already is no failure.
    let start = world
        .cloud
        .act(&alice(), Kind::System, local, "start", &Default::default())
        .await;
    let start = start.unwrap().job.unwrap();
    until_state(&world, &id, "STARTED").await;
    assert_eq!(world.get(&alice(), &start)["state"], "SUCCESS");

    for (action, state) in [
        ("pause", "PAUSED"),
        ("start", "STARTED"),
        ("suspend", "SUSPENDED"),
        ("start", "STARTED"),
    ] {
        let asked = world
            .cloud
            .act(&alice(), Kind::System, local, action, &Default::default())
            .await;
        let job = asked.unwrap().job.unwrap();
        until_state(&world, &id, state).await;
        assert_eq!(world.get(&alice(), &job)["state"], "SUCCESS");
    }

    // What somebody added stays, what was made goes.
    let other = world.volume(&alice()).await;
    let body = crate::support::object(json!({"volume": {"href": other}}));
    world
        .cloud
        .add_member(&alice(), Kind::System, local, "volumes", body)
        .await
        .unwrap();
    assert_eq!(members("volumes"), 2);
    let stranger = world.cloud.delete(&bob(), Kind::System, local).await;
    assert!(
        matches!(stranger, Err(CloudError::NotFound { .. })),
        "{stranger:?}"
    );
    world
        .cloud
        .delete(&alice(), Kind::System, local)
        .await
        .unwrap();
    until("removed", async || {
        parts_are_done(&world).await;
        for volume in world.documents.volumes.all() {
            if volume.deleted {
                let _ = world.documents.changes().remove(&volume).commit().await;
            }
        }
        world.documents.systems.get(local).is_none()
    })
    .await;
    assert_eq!(world.documents.machines.len(), 0);
    assert_eq!(world.documents.addresses.len(), 0);
    assert_eq!(world.documents.credentials.len(), 0);
    let left: Vec<_> = world
        .documents
        .volumes
        .all()
        .iter()
        .map(|v| v.document.0.key())
        .collect();
    assert_eq!(left, [other]);
}

#[tokio::test]
async fn what_was_made_by_a_daemon_that_was_killed_is_not_made_twice() {
    let world = World::start().await;
    let body = json!({"systemTemplate": template(&world)});
    let id = world.made(&alice(), Kind::System, body).await;
    let local = id.split_once('/').unwrap().1.to_owned();
    // Each time it is killed after something was made and before that was noted.
    for round in 0..8 {
        let daemon = Daemon::start(&world.cloud);
        until("one more", async || {
            let system = world.documents.systems.get(&local).unwrap();
            let noted = |made: &Made| matches!(made, Made::As { .. });
            system.components.iter().filter(|c| noted(&c.made)).count() >= 6.min(round)
        })
        .await;
        drop(daemon);
        let forgotten = world.documents.update(&local, |system: &mut System| {
            let Some(last) = system
                .components
                .iter_mut()
                .rev()
                .find(|c| c.made != Made::NotYet)
            else {
                return Ok::<_, DocumentsError>(false);
            };
            if let Made::As { href } = std::mem::take(&mut last.made) {
                system.members.retain(|member| member.href != href);
            }
            Ok(true)
        });
        forgotten.await.unwrap();
    }
    let cloud = open(&world.documents, settings()).await;
    let _daemon = Daemon::start(&cloud);
    until_state(&world, &id, "STARTED").await;
    assert_eq!(world.documents.machines.len(), 3);
    assert_eq!(world.documents.volumes.len(), 1);
    assert_eq!(world.documents.credentials.len(), 1);
    let system = world.documents.systems.get(&local).unwrap();
    assert_eq!(system.members.len(), 6);
}

#[tokio::test]
async fn what_cannot_be_made_is_told_and_goes_with_the_rest() {
    let world = World::start().await;
    let template = json!({"componentDescriptors": [
        {"name": "data", "type": "Volume", "volumeTemplate": {"volumeConfig": {"capacity": 1000}}},
        {"name": "ip", "type": "Address",
            "addressTemplate": {"network": {"href": "Network/local"}, "ip": "10.99.2.50"}}]});
    let body = json!({"systemTemplate": template});
    let created = world.create(&alice(), Kind::System, body).await.unwrap();
    let (id, job) = (created.view.id.to_string(), created.job.unwrap());
    // Between the system and its parts somebody else is faster.
    let taken =
        json!({"addressTemplate": {"network": {"href": "Network/local"}, "ip": "10.99.2.50"}});
    world.made(&bob(), Kind::Address, taken).await;
    let _daemon = Daemon::start(&world.cloud);
    until_state(&world, &id, "ERROR").await;
    let reason = world.get(&alice(), &id)["reason"].to_string();
    assert!(
        reason.contains("ip could not be made") && reason.contains("in use"),
        "{reason}"
    );
    until("told", async || {
        world.get(&alice(), &job)["state"] == "FAILED"
    })
    .await;
    world
        .cloud
        .delete(&alice(), Kind::System, id.split_once('/').unwrap().1)
        .await
        .unwrap();
    until("removed", async || {
        for volume in world.documents.volumes.all() {
            if volume.deleted {
                let _ = world.documents.changes().remove(&volume).commit().await;
            }
        }
        world.documents.systems.is_empty()
    })
    .await;
    assert!(world.documents.volumes.is_empty());
}

#[tokio::test]
async fn too_much_is_refused_before_anything_is_made() {
    let mut few = settings();
    few.per_user.machines = 2;
    let world = World::with(few, |store| store).await;
    let body = json!({"systemTemplate": template(&world)});
    let refused = world.create(&alice(), Kind::System, body).await;
    assert!(
        matches!(refused, Err(CloudError::Exhausted(_))),
        "{refused:?}"
    );
    assert!(world.documents.systems.is_empty() && world.documents.jobs.is_empty());
    let circle = json!({"systemTemplate": {"componentDescriptors": [
        {"name": "a", "type": "Volume", "volumeTemplate": {"href": "#a"}}]}});
    let refused = violations(world.create(&alice(), Kind::System, circle).await);
    assert!(refused[0].contains("in a circle"), "{refused:?}");
}
