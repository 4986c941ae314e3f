//! Who may see or change a thing doesn't get more of it by a way round: by the list that says who may, by a system, by a
//! job that is stopped, by a machine that writes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::sync::Arc;

use crate::support::{KEY, World, admin, alice, bob, object, split, until};
use cimi::{lifecycle::Power, model::Kind, resources::Resource as _};
use cloud::{Caller, CloudError, OpContext, Result, Retention};
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
