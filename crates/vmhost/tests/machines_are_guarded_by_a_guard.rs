//! A machine is said to be ended here by itself, should nobody hear this host, only while there is a guard that does it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::time::Duration;

use crate::controller_cloud::{PATIENCE, World, object, user};
use cimi::{
    lifecycle::Phase,
    resources::{Host, Machine},
};
use serde_json::json;
use vmhost::guard::{Fence, Presence};

/// Waits until the machine's document and its folder say so; and what the host's document says is wrong.
async fn becomes(world: &World, id: &str, guarded: bool) -> Vec<String> {
    let what = if guarded { "guarded" } else { "not guarded" };
    world
        .until(id, what, |machine: &Machine| {
            machine.observed.guarded == guarded
        })
        .await;
    let mark = world.run_folder(id).join("guarded");
    tokio::time::timeout(PATIENCE, async {
        while mark.exists() != guarded {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let host = world.host().host().local().to_owned();
    let host = world.documents().hosts.get(&host).unwrap();
    host.troubles.clone()
}

#[tokio::test]
async fn a_machine_is_guarded_only_while_the_guard_is_there() {
    let guard = Presence::default();
    let fence = Fence {
        after: Duration::from_secs(3600),
        guard: guard.clone(),
    };
    let world = World::with(|settings| settings.fence = Some(fence)).await;
    let volume = world.volume().await;
    let body = json!({"machineTemplate": {
        "machineConfig": {"cpu": 1, "memory": 65_536},
        "volumes": [{"volume": {"href": format!("Volume/{volume}")}}],
        "restartPolicy": "always",
    }});
    let made = world.cloud().create_machine(&user(), object(body)).await;
    let made = made.unwrap();
    world.succeeds(&made.job.unwrap()).await;
    let id = made.view.id.strip_prefix("Machine/").unwrap().to_owned();
    let machine = world.phase(&id, Phase::Running).await;
    // Nobody has looked yet, so nothing is wrong.
    assert!(!machine.observed.guarded);
    assert!(becomes(&world, &id, false).await.is_empty());

    guard.tell(Ok(()));
    becomes(&world, &id, true).await;
    guard.tell(Err("it was killed".to_owned()));
    becomes(&world, &id, false).await;
    let host = world.host().host().local().to_owned();
    let is_told = |host: Option<&Host>| host.is_some_and(|host| host.troubles == ["it was killed"]);
    world.wait::<Host>(&host, "what is wrong", is_told).await;
    guard.tell(Ok(()));
    becomes(&world, &id, true).await;
    let is_well = |host: Option<&Host>| host.is_some_and(|host| host.troubles.is_empty());
    world.wait::<Host>(&host, "that all is well", is_well).await;

    // With its memory on this host it goes on nowhere else: nobody ends it for that.
    let job = world.act(&id, "suspend", false).await;
    world.succeeds(&job).await;
    becomes(&world, &id, false).await;
    assert!(world.machine(&id).unwrap().observed.has_memory);
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    becomes(&world, &id, true).await;
    assert!(!world.machine(&id).unwrap().observed.has_memory);
}
