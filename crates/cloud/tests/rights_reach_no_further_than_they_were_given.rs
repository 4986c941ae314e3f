//! Who may see or change a thing doesn't get more of it by a way round: by the list that says who may, by a system, by a
//! job that is stopped, by a machine that writes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::sync::Arc;

use crate::support::{KEY, World, admin, alice, bob, object, split, until};
use cimi::{lifecycle::Power, model::Kind};
use cloud::{Caller, CloudError, ConsoleRange, OpContext, Result, Retention};
use serde_json::{Value, json};

/// `who` owns it, and alice has this right on it.
fn shared(who: &str, right: &str) -> Value {
    let owner = if who == "root" {
        json!({"principal": "::ADMIN", "type": "ROLE"})
    } else {
        json!({"principal": who, "type": "USER"})
    };
    json!({"acl": {"owner": owner, "rules": [{"principal": "alice", "type": "USER", "right": right}]}})
}

fn refused<T: std::fmt::Debug>(result: Result<T>, saying: &str) {
    match result {
        Err(CloudError::Forbidden(text)) => assert!(text.contains(saying), "{text}"),
        other => panic!("not refused: {other:?}"),
    }
}

/// The same caller by a limited proxy.
fn limited(mut context: OpContext) -> OpContext {
    if let Caller::User(identity) = &mut context.caller {
        Arc::make_mut(identity).is_limited = true;
    }
    context
}

async fn act(world: &World, who: &OpContext, id: &str, action: &str) -> Result<cloud::Done> {
    let (kind, local) = split(id);
    let body = object(json!({"force": true}));
    world.cloud.act(who, kind, local, action, &body).await
}

fn is_wanted_on(world: &World, machine: &str) -> bool {
    let machine = world.documents.machines.get(split(machine).1).unwrap();
    machine.desired.power == Power::On
}

/// A system of one key.
async fn system(world: &World, who: &OpContext) -> String {
    let key =
        json!({"name": "key", "type": "Credential", "credentialTemplate": {"publicKey": KEY}});
    let body = json!({"systemTemplate": {"componentDescriptors": [key]}});
    let id = world.made(who, Kind::System, body).await;
    until("the system is made", async || {
        let system = world.documents.systems.get(split(&id).1).unwrap();
        system.creation.is_none()
    })
    .await;
    id
}

async fn add(world: &World, who: &OpContext, system: &str, machine: &str) -> Result<()> {
    let body = object(json!({"machine": {"href": machine}}));
    let local = split(system).1;
    let added = world
        .cloud
        .add_member(who, Kind::System, local, "machines", body);
    added.await.map(|_| ())
}

/// What came of a job.
async fn ended(world: &World, done: cloud::Done) -> (String, String) {
    let id = done.job.unwrap();
    let local = split(&id).1;
    until("the job has ended", async || {
        world.documents.jobs.get(local).unwrap().state.is_final()
    })
    .await;
    let told = world.get(&admin(), &id);
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    (text("state"), text("statusMessage"))
}

#[tokio::test]
async fn who_may_change_a_thing_may_not_say_who_else_may() {
    let world = World::start().await;
    let volume = world.volume(&bob()).await;
    let machine = world
        .made(&bob(), Kind::Machine, world.machine(json!({})))
        .await;
    let service = json!({"service": "thing"});
    let service = world
        .made(&admin(), Kind::ServiceConfiguration, service)
        .await;
    for (id, owner, context) in [
        (&volume, "bob", bob()),
        (&machine, "bob", bob()),
        (&service, "root", admin()),
    ] {
        let sharing = shared(owner, "MODIFY");
        world.put(&context, id, sharing.clone()).await.unwrap();
        for right in ["ALL", "VIEW"] {
            let changed = world.put(&alice(), id, shared(owner, right)).await;
            refused(changed, "not its `acl`");
        }
        // Sent back as it was seen, it is no change; and the rest is theirs to change.
        let mut whole = sharing;
        whole["description"] = "by alice".into();
        world.put(&alice(), id, whole).await.unwrap();
        assert_eq!(world.get(&context, id)["description"], "by alice");
        world.put(&context, id, shared(owner, "ALL")).await.unwrap();
        world
            .put(&alice(), id, shared(owner, "VIEW"))
            .await
            .unwrap();
    }
    let volume = world.volume(&bob()).await;
    let changed = shared("bob", "MODIFY");
    world.put(&bob(), &volume, changed).await.unwrap();
    let public = json!({"visibility": "PUBLIC"});
    refused(
        world.put(&alice(), &volume, public.clone()).await,
        "`visibility`",
    );
    world.put(&bob(), &volume, public).await.unwrap();
}

#[tokio::test]
async fn a_system_lends_nobody_the_rights_of_its_owner() {
    let world = World::start().await;
    let cloud = world.cloud.clone();
    let tending = tokio::spawn(async move { cloud.run(Retention::default()).await });
    let machine = world
        .made(&bob(), Kind::Machine, world.machine(json!({})))
        .await;
    world
        .put(&bob(), &machine, shared("bob", "VIEW"))
        .await
        .unwrap();
    // Also where the owner of the system may do everything.
    let root = json!({"username": "root", "password": "correct horse", "roles": ["::ADMIN"]});
    let mut somewhere = admin();
    somewhere.peer = Some(std::net::IpAddr::from([192, 0, 2, 1]));
    let made = world
        .cloud
        .create(&somewhere, Kind::User, object(root))
        .await;
    made.unwrap();
    for (owner, context) in [("bob", bob()), ("root", admin())] {
        let id = system(&world, &context).await;
        let acl = world.get(&context, &id)["acl"]["owner"].clone();
        let mut sharing = shared(owner, "MODIFY");
        sharing["acl"]["owner"] = acl;
        world.put(&context, &id, sharing).await.unwrap();
        let added = add(&world, &alice(), &id, &machine).await;
        refused(added, "can't add it to a system");

        // Nor by asking the system that somebody else has added it to.
        add(&world, &context, &id, &machine).await.unwrap();
        let asked = act(&world, &alice(), &id, "stop").await.unwrap();
        let (state, told) = ended(&world, asked).await;
        assert_eq!(state, "FAILED", "{told}");
        assert!(told.contains("you may not change"), "{told}");
        assert!(is_wanted_on(&world, &machine));
    }
    // What its owner may not change any more isn't done by an administrator who is asked to stop the system.
    let id = system(&world, &alice()).await;
    world
        .put(&bob(), &machine, shared("bob", "MODIFY"))
        .await
        .unwrap();
    add(&world, &alice(), &id, &machine).await.unwrap();
    world
        .put(&bob(), &machine, shared("bob", "VIEW"))
        .await
        .unwrap();
    let asked = act(&world, &admin(), &id, "stop").await.unwrap();
    let (state, told) = ended(&world, asked).await;
    assert_eq!(state, "FAILED", "{told}");
    assert!(is_wanted_on(&world, &machine));
    // Who may do it may do it by the system, and it is they who did it.
    world
        .put(&bob(), &machine, shared("bob", "MODIFY"))
        .await
        .unwrap();
    act(&world, &alice(), &id, "stop").await.unwrap();
    until("the machine is asked to stop", async || {
        !is_wanted_on(&world, &machine)
    })
    .await;
    tending.abort();
}

#[tokio::test]
async fn a_limited_proxy_starts_nothing_by_a_system_or_a_job() {
    let world = World::start().await;
    let cloud = world.cloud.clone();
    let tending = tokio::spawn(async move { cloud.run(Retention::default()).await });
    let id = system(&world, &alice()).await;
    let proxy = limited(alice());
    for action in ["start", "restart"] {
        refused(act(&world, &proxy, &id, action).await, "limited proxy");
    }
    let asked = act(&world, &proxy, &id, "stop").await.unwrap();
    ended(&world, asked).await;

    // A pause that is taken back: the machine runs on.
    let machine = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let running = world.documents.update(
        split(&machine).1,
        |machine: &mut cimi::resources::Machine| {
            let (desired, seen) = (&machine.desired, &mut machine.observed);
            (seen.run, seen.restart) = (desired.run, desired.restart);
            seen.stage = cimi::lifecycle::Stage::Running;
            machine.settle();
            Ok::<_, documents::DocumentsError>(true)
        },
    );
    running.await.unwrap();
    let pause = act(&world, &proxy, &machine, "pause").await.unwrap();
    let pause = pause.job.unwrap();
    refused(act(&world, &proxy, &pause, "stop").await, "limited proxy");
    act(&world, &alice(), &pause, "stop").await.unwrap();
    tending.abort();
}

#[tokio::test]
async fn who_may_only_see_a_volume_has_no_machine_write_to_it() {
    let world = World::start().await;
    let volume = world.volume(&bob()).await;
    world
        .put(&bob(), &volume, shared("bob", "VIEW"))
        .await
        .unwrap();
    let machine = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let given = json!({"volumes": [{"volume": {"href": volume}}]});
    let with_it = world.machine(given.clone());
    let attach = async || {
        let body = object(json!({"volume": {"href": volume}}));
        let local = split(&machine).1;
        world.cloud.attach_volume(&alice(), local, body).await
    };
    let part =
        json!({"name": "m", "type": "Machine", "machineTemplate": with_it["machineTemplate"]});
    let system = json!({"systemTemplate": {"componentDescriptors": [part]}});
    refused(attach().await, "would write to it");
    let made = world.create(&alice(), Kind::Machine, with_it.clone()).await;
    refused(made, "would write to it");
    let made = world.create(&alice(), Kind::System, system).await;
    refused(made, "would write to it");
    let read = world.documents.volumes.get(split(&volume).1).unwrap();
    assert!(read.attachment.is_none());

    world
        .put(&bob(), &volume, shared("bob", "MODIFY"))
        .await
        .unwrap();
    world
        .create(&alice(), Kind::Machine, with_it)
        .await
        .unwrap();
    let read = world.documents.volumes.get(split(&volume).1).unwrap();
    assert_eq!(
        read.attachment
            .as_ref()
            .unwrap()
            .machine
            .to_string()
            .split('/')
            .next(),
        Some("Machine")
    );
}

/// The same caller by a token that is for reading only.
fn reading_only(mut context: OpContext) -> OpContext {
    if let Caller::User(identity) = &mut context.caller {
        Arc::make_mut(identity).token = Some(accounts::ByToken {
            id: cimi::TokenId::generate(),
            is_read_only: true,
            types: Box::default(),
        });
    }
    context
}

#[tokio::test]
async fn who_lacks_a_right_is_told_what_it_is_for_and_what_to_do() {
    let world = World::start().await;
    let volume = world.volume(&bob()).await;
    let machine = world
        .made(&bob(), Kind::Machine, world.machine(json!({})))
        .await;
    for id in [&volume, &machine] {
        world.put(&bob(), id, shared("bob", "VIEW")).await.unwrap();
    }
    let console = async |who: &OpContext| {
        let shown = world
            .cloud
            .console(who, split(&machine).1, ConsoleRange::default())
            .await;
        shown.map(|_| ())
    };
    refused(console(&alice()).await, "may show secrets");
    refused(console(&alice()).await, "it belongs to bob");
    refused(
        console(&reading_only(bob())).await,
        "take a token of scope `full`",
    );
    let image = json!({"imageLocation": {"href": volume}, "onDemand": true});
    let made = world.create(&alice(), Kind::MachineImage, image).await;
    refused(made, "its owner can give you the right MODIFY");
    let rules = json!([{"principal": "alice", "type": "USER", "right": "MODIFY"}]);
    let rules = json!({"acl": {"rules": rules}});
    match world.put(&bob(), &volume, rules).await {
        Err(CloudError::Invalid { violations }) => {
            assert_eq!(violations[0].path, "acl.owner");
            let told = violations[0].to_string();
            assert!(told.contains("replaced as a whole"), "{told}");
        }
        other => panic!("{other:?}"),
    }
}
