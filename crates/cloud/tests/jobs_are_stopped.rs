//! A job that is stopped takes back what was asked for, and says who stopped it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use crate::support::{World, alice, bob, split, until};
use cimi::{
    lifecycle::Power,
    model::Kind,
    resources::{Image, Job, JobState},
};
use cloud::{CloudError, Retention};
use serde_json::{Map, json};

async fn stop(world: &World, job: &str) -> cloud::Result<cloud::Done> {
    let (kind, local) = split(job);
    world
        .cloud
        .act(&alice(), kind, local, "stop", &Map::new())
        .await
}

fn job(world: &World, id: &str) -> Job {
    let (_, local) = split(id);
    world.documents.jobs.get(local).unwrap().document.0.clone()
}

#[tokio::test]
async fn a_machine_that_waits_is_given_up_with_its_job() {
    let world = World::start().await;
    let body = world.machine(json!({}));
    let created = world.create(&alice(), Kind::Machine, body).await.unwrap();
    let (id, wait) = (created.view.id.to_string(), created.job.unwrap());
    assert_eq!(world.get(&alice(), &wait)["progress"], 0);

    let (kind, local) = split(&wait);
    let (stranger, empty) = (bob(), Map::new());
    let refused = world
        .cloud
        .act(&stranger, kind, local, "stop", &empty)
        .await;
    assert!(matches!(refused, Err(CloudError::NotFound { .. })));

    let done = stop(&world, &wait).await.unwrap();
    assert_eq!(done.job.as_deref(), Some(wait.as_str()));
    assert_eq!(job(&world, &wait).state, JobState::Stopping);
    let (_, machine) = split(&id);
    let wanted = world.documents.machines.get(machine).unwrap();
    assert!(wanted.desired.deleted, "nobody goes on making it");
    // Again: it is under way.
    stop(&world, &wait).await.unwrap();
    assert!(!jobs_offer_stop(&world, &wait));

    let cloud = world.cloud.clone();
    let tracking = tokio::spawn(async move { cloud.run(Retention::default()).await });
    let read = world.documents.machines.get(machine).unwrap();
    let now = cimi::Timestamp::now();
    let gone = documents::step::end(&world.documents, &read, now);
    gone.commit().await.unwrap();
    until("the job has stopped", || async {
        job(&world, &wait).state == JobState::Stopped
    })
    .await;
    let shown = world.get(&alice(), &wait);
    assert_eq!(shown["statusMessage"], "stopped by alice");
    assert_eq!(shown["progress"], 100);
    assert!(matches!(
        stop(&world, &wait).await,
        Err(CloudError::Conflict(_))
    ));
    tracking.abort();
}

fn jobs_offer_stop(world: &World, job: &str) -> bool {
    let view = world.view(&alice(), job);
    let operations = view.document.operations(view.right);
    operations.contains(&cloud::Rel::Action("stop"))
}

#[tokio::test]
async fn an_import_stops_and_a_start_is_followed_by_a_stop() {
    let world = World::start().await;
    let body = json!({"imageLocation": "https://images.example.org/x.img"});
    let created = world
        .create(&alice(), Kind::MachineImage, body)
        .await
        .unwrap();
    let import = created.job.unwrap();
    assert!(jobs_offer_stop(&world, &import));
    let (_, local) = split(&created.view.id);
    let half = |image: &mut Image| {
        image.progress = Some(50);
        Ok::<_, CloudError>(true)
    };
    world.documents.update(local, half).await.unwrap();
    assert_eq!(world.get(&alice(), &import)["progress"], 50);
    stop(&world, &import).await.unwrap();
    assert!(world.documents.images.get(local).unwrap().desired.deleted);

    let body = world.machine(json!({"initialState": "STOPPED"}));
    let machine = world.made(&alice(), Kind::Machine, body).await;
    let (kind, local) = split(&machine);
    let started = world
        .cloud
        .act(&alice(), kind, local, "start", &Map::new())
        .await
        .unwrap();
    stop(&world, &started.job.unwrap()).await.unwrap();
    let read = world.documents.machines.get(local).unwrap();
    assert_eq!(read.desired.power, Power::Off);
    assert!(!read.desired.deleted, "it was there before");
}

#[tokio::test]
async fn what_is_in_use_already_is_not_offered_to_be_stopped() {
    let world = World::start().await;
    let body = json!({"imageLocation": "https://images.example.org/x.img"});
    let created = world.create(&alice(), Kind::MachineImage, body).await;
    let created = created.unwrap();
    let import = created.job.unwrap();
    assert!(jobs_offer_stop(&world, &import));
    let body = json!({"machineTemplate": {"machineImage": {"href": created.view.id.to_string()}}});
    world.create(&alice(), Kind::Machine, body).await.unwrap();
    assert!(!jobs_offer_stop(&world, &import));
    assert!(matches!(
        stop(&world, &import).await,
        Err(CloudError::Conflict(_))
    ));
}

#[tokio::test]
async fn what_cannot_be_taken_back_is_not_stopped() {
    let world = World::start().await;
    let volume = world.volume(&alice()).await;
    let (kind, local) = split(&volume);
    let removal = world.cloud.delete(&alice(), kind, local).await.unwrap();
    let removal = removal.job.unwrap();
    assert!(!jobs_offer_stop(&world, &removal));
    assert!(matches!(
        stop(&world, &removal).await,
        Err(CloudError::Conflict(_))
    ));
}
