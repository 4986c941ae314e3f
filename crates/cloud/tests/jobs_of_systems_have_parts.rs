//! The jobs of a system's parts are nested in the system's: it is as far as they are, and they are stopped with it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use crate::support::{World, alice, split, until};
use cimi::{
    lifecycle::{EndCause, Power, Stage},
    model::Kind,
    resources::{Job, JobState, Machine},
};
use cloud::{CloudError, Done, Rel, Retention};
use serde_json::{Map, Value, json};

/// The cloud's own work, until it is killed.
struct Daemon(tokio::task::JoinHandle<()>);

impl Daemon {
    fn start(world: &World) -> Self {
        let cloud = world.cloud.clone();
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

/// Two machines.
async fn system(world: &World) -> (String, String) {
    let machine = json!({"machineImage": {"href": world.image}});
    let body = json!({"systemTemplate": {"componentDescriptors": [
        {"name": "web", "type": "Machine", "quantity": 2, "machineTemplate": machine}]}});
    let created = world.create(&alice(), Kind::System, body).await.unwrap();
    (created.view.id.to_string(), created.job.unwrap())
}

async fn act(world: &World, id: &str, action: &str, force: bool) -> cloud::Result<Done> {
    let (kind, local) = split(id);
    let mut body = Map::new();
    body.insert("force".to_owned(), force.into());
    world.cloud.act(&alice(), kind, local, action, &body).await
}

fn job(world: &World, id: &str) -> Job {
    let (_, local) = split(id);
    world.documents.jobs.get(local).unwrap().document.0.clone()
}

fn offers_stop(world: &World, job: &str) -> bool {
    let view = world.view(&alice(), job);
    let operations = view.document.operations(view.right);
    operations.contains(&Rel::Action("stop"))
}

fn nested(world: &World, id: &str) -> Vec<Job> {
    let parts = job(world, id).nested_jobs;
    let parts = parts.iter().map(|part| job(world, &part.href));
    parts.collect()
}

/// All parts were asked: the job tells of two jobs.
async fn has_begun(world: &World, id: &str) -> Vec<Job> {
    until("both parts to be asked", async || {
        nested(world, id).len() == 2
    })
    .await;
    let parts = nested(world, id);
    for part in &parts {
        assert_eq!(part.parent_job.as_ref().unwrap().href, id);
        let shown = world.get(&alice(), &part.id.to_string());
        assert_eq!(shown["parentJob"]["href"], id);
    }
    let shown = world.get(&alice(), id);
    assert_eq!(
        shown["nestedJobs"][1]["href"],
        parts[1].id.to_string().as_str()
    );
    parts
}

/// Waits for the end of a job, the hosts doing their part.
async fn ended(world: &World, id: &str) -> Value {
    until("the job to end", async || {
        hosts_do(world, usize::MAX).await;
        job(world, id).state.is_final()
    })
    .await;
    world.get(&alice(), id)
}

/// The host of the first machines does its part: of as many as are named.
async fn hosts_do(world: &World, most: usize) {
    for machine in world.documents.machines.all().into_iter().take(most) {
        if machine.desired.deleted {
            let now = cimi::Timestamp::now();
            let released = documents::step::end(&world.documents, &machine, now);
            // It may change at this moment: whoever waits for it asks again.
            let _ = released.commit().await;
            continue;
        }
        let done = |machine: &mut Machine| {
            if machine.desired.deleted {
                return Ok(false);
            }
            let (desired, seen) = (&machine.desired, &mut machine.observed);
            (seen.run, seen.restart) = (desired.run, desired.restart);
            seen.stage = match desired.power {
                Power::On => Stage::Running,
                Power::Off => Stage::Ended {
                    cause: EndCause::Requested,
                },
            };
            machine.settle();
            Ok::<_, CloudError>(true)
        };
        let _ = world.documents.update(machine.id(), done).await;
    }
}

#[tokio::test]
async fn a_system_is_as_far_as_its_parts() {
    let world = World::start().await;
    let daemon = Daemon::start(&world);
    let (id, creation) = system(&world).await;
    let parts = has_begun(&world, &creation).await;
    assert!(parts.iter().all(|part| part.action == "add"));
    assert!(offers_stop(&world, &creation));
    hosts_do(&world, 1).await;
    until("half of it", async || {
        world.get(&alice(), &creation)["progress"] == 50
    })
    .await;
    let told = ended(&world, &creation).await;
    assert_eq!(
        (&told["state"], &told["progress"]),
        (&json!("SUCCESS"), &json!(100))
    );
    let nests = told["nestedJobs"].as_array().unwrap();
    assert_eq!(nests.len(), 2);

    // Asked to stop, they can't be made not to have been: that is not offered, and said to who tries; it changes nothing.
    let stop = act(&world, &id, "stop", true).await.unwrap().job.unwrap();
    has_begun(&world, &stop).await;
    assert!(!offers_stop(&world, &stop));
    let refused = act(&world, &stop, "stop", false).await;
    let Err(CloudError::Conflict(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("all parts were asked to stop"), "{text}");
    assert_eq!(job(&world, &stop).state, JobState::Running);
    assert_eq!(ended(&world, &stop).await["state"], "SUCCESS");

    // A start is taken back of all, as it is of one.
    let start = act(&world, &id, "start", false).await.unwrap().job.unwrap();
    has_begun(&world, &start).await;
    assert!(offers_stop(&world, &start));
    // Nobody brings it to its end, which needs nothing of the hosts, before all was asked.
    drop(daemon);
    let done = act(&world, &start, "stop", false).await.unwrap();
    assert_eq!(done.job.as_ref(), Some(&start));
    // Again: it is under way.
    act(&world, &start, "stop", false).await.unwrap();
    assert!(!offers_stop(&world, &start));
    // A start that is wished after that isn't the one that ends.
    let anew = act(&world, &id, "start", false).await;
    let Err(CloudError::Conflict(text)) = anew else {
        panic!("{anew:?}");
    };
    assert!(text.contains("is being taken back"), "{text}");
    for machine in world.documents.machines.all() {
        assert_eq!(machine.desired.power, Power::Off);
    }
    let _daemon = Daemon::start(&world);
    let told = ended(&world, &start).await;
    assert_eq!(told["state"], "STOPPED", "{told}");
    for part in nested(&world, &start) {
        assert_eq!(part.state, JobState::Stopped);
    }

    // Its removal has parts, too, and isn't stopped.
    let (_, local) = split(&id);
    let removal = world.cloud.delete(&alice(), Kind::System, local).await;
    let removal = removal.unwrap().job.unwrap();
    has_begun(&world, &removal).await;
    let refused = act(&world, &removal, "stop", false).await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    assert_eq!(ended(&world, &removal).await["state"], "SUCCESS");
}

#[tokio::test]
async fn a_system_that_is_being_made_is_given_up_with_its_job() {
    let world = World::start().await;
    let daemon = Daemon::start(&world);
    let (id, creation) = system(&world).await;
    has_begun(&world, &creation).await;
    drop(daemon);
    act(&world, &creation, "stop", false).await.unwrap();
    assert_eq!(job(&world, &creation).state, JobState::Stopping);
    // Whoever comes after a daemon that was killed goes on with it.
    let _daemon = Daemon::start(&world);
    until("the parts to be given up", async || {
        let machines = world.documents.machines.all();
        machines.iter().all(|machine| machine.desired.deleted)
    })
    .await;
    let told = ended(&world, &creation).await;
    assert_eq!(told["state"], "STOPPED", "{told}");
    let (_, local) = split(&id);
    assert!(world.documents.systems.get(local).is_none());
    assert!(world.documents.machines.is_empty());
}

#[tokio::test]
async fn parts_that_were_not_asked_yet_are_not_asked_any_more() {
    let world = World::start().await;
    let daemon = Daemon::start(&world);
    let (id, creation) = system(&world).await;
    has_begun(&world, &creation).await;
    ended(&world, &creation).await;
    // Nobody is there to ask them.
    drop(daemon);
    let stop = act(&world, &id, "stop", true).await.unwrap().job.unwrap();
    act(&world, &stop, "stop", false).await.unwrap();
    let _daemon = Daemon::start(&world);
    let told = ended(&world, &stop).await;
    assert_eq!(told["state"], "STOPPED", "{told}");
    assert!(
        told["statusMessage"]
            .as_str()
            .unwrap()
            .contains("web1: not asked"),
        "{told}"
    );
    for machine in world.documents.machines.all() {
        assert_eq!(machine.desired.power, Power::On);
    }
    assert_eq!(world.get(&alice(), &id)["state"], "STARTED");
}
