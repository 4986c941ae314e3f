//! Ports of networks: kept by users, plugged into one machine at a time, switched on and off.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use crate::support::{World, alice, bob, settings, split, until, violations};
use cimi::{
    model::Kind,
    resources::{JobState, Machine},
};
use cloud::{CloudError, OpContext, Retention};
use futures::FutureExt as _;
use serde_json::{Value, json};

fn port() -> Value {
    json!({"name": "uplink", "networkPortTemplate": {"network": {"href": "Network/local"},
        "networkPortConfig": {"portType": "ACCESS"}}})
}

fn operations(world: &World, who: &OpContext, id: &str) -> Vec<String> {
    let view = world.view(who, id);
    let operations = view.document.operations(view.right);
    operations.iter().map(|rel| format!("{rel:?}")).collect()
}

async fn act(world: &World, id: &str, action: &str) -> Option<String> {
    let (kind, local) = split(id);
    let nothing = serde_json::Map::new();
    let done = world
        .cloud
        .act(&alice(), kind, local, action, &nothing)
        .await;
    done.unwrap().job
}

/// The tracker of jobs.
fn track(world: &World) {
    let cloud = world.cloud.clone();
    tokio::spawn(async move { cloud.run(Retention::default()).await });
}

async fn ends_well(world: &World, job: &str) {
    let (_, local) = split(job);
    until("the job to end", async || {
        let job = world.documents.jobs.get(local).unwrap();
        assert_ne!(job.state, JobState::Failed, "{:?}", job.status_message);
        job.state == JobState::Success
    })
    .await;
}

#[tokio::test]
async fn a_port_is_plugged_into_one_machine_and_outlives_it() {
    let world = World::start().await;
    let id = world.made(&alice(), Kind::NetworkPort, port()).await;
    let shown = world.get(&alice(), &id);
    assert_eq!(shown["state"], "STARTED");
    assert_eq!(shown["network"]["href"], "Network/local");
    assert_eq!(shown["portType"], "ACCESS");
    assert_eq!(shown["name"], "uplink");
    let at = |more: Value| {
        let mut interface = json!({"networkPort": {"href": id}});
        let more = more.as_object().unwrap().clone();
        interface.as_object_mut().unwrap().extend(more);
        world.machine(json!({"networkInterfaces": [interface]}))
    };
    // It isn't anybody's else, and its network is what it is.
    let refused = violations(world.create(&bob(), Kind::Machine, at(json!({}))).await);
    assert!(refused[0].contains("networkPort"), "{refused:?}");
    let elsewhere = at(json!({"network": {"href": "Network/public"}}));
    let refused = violations(world.create(&alice(), Kind::Machine, elsewhere).await);
    assert!(refused[0].contains("Network/local"), "{refused:?}");
    let twice = json!({"networkInterfaces": [{"networkPort": {"href": id}}, {"networkPort": {"href": id}}]});
    let refused = violations(
        world
            .create(&alice(), Kind::Machine, world.machine(twice))
            .await,
    );
    assert!(refused[0].contains("named twice"), "{refused:?}");

    let machine = world.made(&alice(), Kind::Machine, at(json!({}))).await;
    assert_eq!(
        world.get(&alice(), &id)["machine"]["href"],
        machine.as_str()
    );
    let (_, local) = split(&machine);
    let (interfaces, _) = world
        .cloud
        .members(&alice(), Kind::Machine, local, "networkInterfaces")
        .await
        .unwrap();
    let interface = interfaces[0].document.attributes(interfaces[0].right);
    assert_eq!(interface["networkPort"]["href"], id.as_str());
    assert_eq!(interface["network"]["href"], "Network/local");
    assert_eq!(interface["state"], "Active");
    let refused = world.create(&alice(), Kind::Machine, at(json!({}))).await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    let (_, port) = split(&id);
    let refused = world.cloud.delete(&alice(), Kind::NetworkPort, port).await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    assert!(!operations(&world, &alice(), &id).contains(&"Delete".to_owned()));

    // The machine goes, the port stays.
    let read = world.documents.machines.get(local).unwrap();
    let released = documents::step::end(&world.documents, &read, cimi::Timestamp::now());
    released.commit().await.unwrap();
    assert_eq!(world.get(&alice(), &id)["machine"], Value::Null);
    world
        .cloud
        .delete(&alice(), Kind::NetworkPort, port)
        .await
        .unwrap();
    assert!(world.documents.network_ports.is_empty());
}

#[tokio::test]
async fn a_port_is_switched_at_once_where_no_guest_has_to_see_it() {
    let world = World::start().await;
    track(&world);
    let id = world.made(&alice(), Kind::NetworkPort, port()).await;
    assert!(operations(&world, &alice(), &id).contains(&"Action(\"stop\")".to_owned()));
    ends_well(&world, &act(&world, &id, "stop").await.unwrap()).await;
    assert_eq!(world.get(&alice(), &id)["state"], "STOPPED");
    assert!(operations(&world, &alice(), &id).contains(&"Action(\"start\")".to_owned()));
    // Again: it is so already.
    assert_eq!(act(&world, &id, "stop").await, None);

    // A machine without a host is born as its port is.
    let interface = json!({"networkInterfaces": [{"networkPort": {"href": id}}]});
    let machine = world
        .made(&alice(), Kind::Machine, world.machine(interface))
        .await;
    let (_, local) = split(&machine);
    let link = || {
        let machine = world.documents.machines.get(local).unwrap();
        let port = machine.nics[0].port.clone().unwrap();
        (port.up, port.seen_up)
    };
    assert_eq!(link(), (false, false));
    ends_well(&world, &act(&world, &id, "start").await.unwrap()).await;
    assert_eq!(link(), (true, true));

    // On a host, it is the host's to say that it is done.
    let host = world.host(4096).await;
    let placed = |machine: &mut Machine| {
        machine.host = Some(host.clone());
        Ok::<_, CloudError>(true)
    };
    world.documents.update(local, placed).await.unwrap();
    let stop = act(&world, &id, "stop").await.unwrap();
    assert_eq!(world.get(&alice(), &id)["state"], "STOPPING");
    assert_eq!(link(), (false, true));
    assert_eq!(act(&world, &id, "stop").await, Some(stop.clone()));
    let start = act(&world, &id, "start").await.unwrap();
    let (_, job) = split(&stop);
    until("the first wish to be given up", async || {
        world.documents.jobs.get(job).unwrap().state == JobState::Failed
    })
    .await;
    // It goes with its machine: what was wanted is so.
    let read = world.documents.machines.get(local).unwrap();
    let released = documents::step::end(&world.documents, &read, cimi::Timestamp::now());
    released.commit().await.unwrap();
    ends_well(&world, &start).await;
    assert_eq!(world.get(&alice(), &id)["state"], "STARTED");
    // Whoever asked is told, and each state that followed without somebody's asking.
    let mut events = world.documents.events.by_index("about", &id);
    events.sort_by(|one, other| one.id().cmp(other.id()));
    let text = |content: &serde_json::Map<String, Value>, name: &str| {
        content
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            let of = |name| text(&event.content, name);
            format!(
                "{}{} {}{}",
                of("operation"),
                of("previous"),
                of("initiator"),
                of("state")
            )
        })
        .collect();
    let asked = [
        "add alice",
        "stop alice",
        "start alice",
        "stop alice",
        "start alice",
    ];
    assert_eq!(told[..5], asked);
    assert_eq!(told[5..], ["STARTING STARTED"]);
}

#[tokio::test]
async fn ports_are_bounded_and_listed_at_their_network_to_who_may_see_them() {
    let mut settings = settings();
    settings.per_user.addresses = 2;
    let world = World::with(settings, |store| store).await;
    for _ in 0..2 {
        world.made(&alice(), Kind::NetworkPort, port()).await;
    }
    let refused = world.create(&alice(), Kind::NetworkPort, port()).await;
    let Err(CloudError::Exhausted(text) | CloudError::Conflict(text)) = &refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("network ports"), "{text}");
    let bobs = world.made(&bob(), Kind::NetworkPort, port()).await;
    let of = |who: &OpContext, network: &str| {
        let (members, _) = world
            .cloud
            .members(who, Kind::Network, network, "networkPorts")
            .now_or_never()
            .unwrap()
            .unwrap();
        members
            .iter()
            .map(|member| {
                member.document.attributes(member.right)["networkPort"]["href"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&alice(), "local").len(), 2);
    assert_eq!(of(&bob(), "local"), [bobs]);
    assert!(of(&alice(), "public").is_empty());
}
