//! What is checked still holds when it is written: somebody else may act in between.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::{sync::Arc, time::Duration};

use crate::support::{World, admin, alice, settings, split, violations};
use async_trait::async_trait;
use cimi::{
    PrincipalType, Right,
    common::{Acl, Principal},
    model::Kind,
    resources::{MachineTemplate, Network, NetworkState, Resource, User, Volume},
};
use cloud::{Caller, CloudError, OpContext, Unchanged};
use parking_lot::Mutex;
use serde_json::json;
use store::{Key, Outcome, SharedStore, StoreError, Transaction, testing::Interposed};

/// Puts a transaction of somebody else's right before the next one.
struct Interrupted {
    store: SharedStore,
    before: Arc<Mutex<Option<Transaction>>>,
}

#[async_trait]
impl Interposed for Interrupted {
    fn behind(&self) -> &SharedStore {
        &self.store
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        // The rules write the number of a machine first: that is not what is to be interrupted.
        let counter = |key: &Key| key.as_str().starts_with("Counter/");
        if !transaction.operations().iter().any(|op| counter(op.key())) {
            let before = self.before.lock().take();
            if let Some(before) = before {
                let outcome = self.store.commit(before).await?;
                assert!(matches!(outcome, Outcome::Committed(_)));
            }
        }
        self.store.commit(transaction).await
    }
}

async fn interruptible() -> (World, Arc<Mutex<Option<Transaction>>>) {
    let before = Arc::new(Mutex::new(None));
    let shared = before.clone();
    let world = World::with(settings(), |store| {
        Arc::new(Interrupted {
            store,
            before: shared,
        })
    })
    .await;
    (world, before)
}

fn put<R: Resource>(document: &R) -> Transaction {
    let key = Key::new(R::COLLECTION, document.local_id()).unwrap();
    Transaction::new().put(key, serde_json::to_vec(document).unwrap())
}

#[tokio::test]
async fn who_lost_the_right_meanwhile_changes_nothing() {
    let (world, before) = interruptible().await;
    let id = world.volume(&alice()).await;
    let (_, local) = split(&id);
    let mut given: Volume = world
        .documents
        .volumes
        .get(local)
        .unwrap()
        .document
        .0
        .clone();
    given.common.acl = Acl {
        owner: Principal {
            principal: "bob".into(),
            kind: PrincipalType::User,
        },
        rules: Vec::new(),
    };
    *before.lock() = Some(put(&given));
    let edited = world.put(&alice(), &id, json!({"name": "mine"})).await;
    assert!(
        matches!(edited, Err(CloudError::NotFound { .. })),
        "{edited:?}"
    );
    let volume = world.documents.volumes.get(local).unwrap();
    assert_eq!(volume.common.name, None);
    assert_eq!(volume.acl().right_of(Some("alice"), &[]), None::<Right>);
}

/// A machine that comes to a host in the moment in which that is removed keeps it: nobody would look after it.
#[tokio::test]
async fn no_machine_is_placed_on_a_host_that_is_removed() {
    let (world, before) = interruptible().await;
    let mut host = cimi::testing::host();
    (host.desired.apart, host.runs_machines) = (true, true);
    let changes = world.documents.changes().create(&host);
    changes.commit().await.unwrap();
    let body = world.machine(json!({}));
    let id = world.made(&alice(), Kind::Machine, body).await;
    let (_, local) = split(&id);
    let mut placed = world
        .documents
        .machines
        .get(local)
        .unwrap()
        .document
        .0
        .clone();
    placed.host = Some(host.id.clone());
    placed.settle();
    let read = world.documents.hosts.get(host.id.local()).unwrap();
    // As whoever places it does.
    *before.lock() = Some(put(&placed).revision_is(&read.key, read.revision));
    let admin = admin();
    let removed = world.cloud.delete(&admin, Kind::Host, host.id.local());
    let refused = removed.await.unwrap_err().to_string();
    assert!(refused.starts_with("a machine is on "), "{refused}");
    assert!(world.documents.hosts.get(host.id.local()).is_some());
}

/// Whoever says what they saw overwrites nothing that came later, also if it comes at the last moment.
#[tokio::test]
async fn no_update_is_lost_by_those_who_say_what_they_saw() {
    let (world, before) = interruptible().await;
    let id = world.volume(&alice()).await;
    let (_, local) = split(&id);
    let read = world.documents.volumes.get(local).unwrap();
    let seen = |updated| OpContext {
        unchanged: Some(Unchanged {
            id: id.as_str().into(),
            updated,
        }),
        ..alice()
    };
    let now = seen(read.common.updated);
    let mut faster: Volume = read.document.0.clone();
    faster.common.description = Some("faster".into());
    faster.common.updated = faster.common.updated.after(Duration::from_millis(1));
    *before.lock() = Some(put(&faster));
    let edited = world.put(&now, &id, json!({"name": "mine"})).await;
    assert!(matches!(edited, Err(CloudError::Changed(_))), "{edited:?}");
    let (kind, local) = split(&id);
    let deleted = world.cloud.delete(&now, kind, local).await;
    assert!(
        matches!(deleted, Err(CloudError::Changed(_))),
        "{deleted:?}"
    );
    let volume = world.documents.volumes.get(local).unwrap();
    assert_eq!(volume.common.name, None);
    assert_eq!(volume.common.description.as_deref(), Some("faster"));

    let now = seen(volume.common.updated);
    assert!(world.put(&now, &id, json!({"name": "mine"})).await.is_ok());
    // What is said of one resource says nothing of another.
    let other = world.volume(&now).await;
    assert!(world.put(&now, &other, json!({"name": "x"})).await.is_ok());
}

#[tokio::test]
async fn no_update_of_a_user_is_lost_either() {
    let (world, before) = interruptible().await;
    let made = json!({"username": "carol", "email": "c@d.example"});
    let id = world.made(&admin(), Kind::User, made).await;
    let (_, local) = split(&id);
    let read = world.documents.users.get(local).unwrap();
    let now = OpContext {
        unchanged: Some(Unchanged {
            id: id.as_str().into(),
            updated: read.common.updated,
        }),
        ..admin()
    };
    let mut faster: User = read.document.0.clone();
    faster.enabled = false;
    faster.common.updated = faster.common.updated.after(Duration::from_millis(1));
    *before.lock() = Some(put(&faster));
    let edited = world.put(&now, &id, json!({"first-name": "C"})).await;
    assert!(matches!(edited, Err(CloudError::Changed(_))), "{edited:?}");
    assert!(!world.documents.users.get(local).unwrap().enabled);
}

#[tokio::test]
async fn a_machine_is_not_made_on_a_network_that_was_stopped_meanwhile() {
    let (world, before) = interruptible().await;
    // A machine before, so that the next one's number is at hand.
    world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let mut stopped: Network = world
        .documents
        .networks
        .get("public")
        .unwrap()
        .document
        .0
        .clone();
    stopped.state = NetworkState::Stopped;
    *before.lock() = Some(put(&stopped));
    let created = world
        .create(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let violations = violations(created);
    assert!(
        violations[0].contains("Network/public is not in use any more"),
        "{violations:?}"
    );
    assert_eq!(world.documents.machines.len(), 1);
    assert_eq!(world.documents.addresses.len(), 1);
}

#[tokio::test]
async fn a_machine_is_made_of_what_its_template_says_when_it_is_made() {
    let (world, before) = interruptible().await;
    world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let template = json!({"machineImage": world.image, "cpuModel": "max"});
    let id = world.made(&alice(), Kind::MachineTemplate, template).await;
    let (_, local) = split(&id);
    let read = world.documents.machine_templates.get(local).unwrap();
    let mut changed: MachineTemplate = read.document.0.clone();
    changed.body.insert("cpuModel".to_owned(), "host".into());
    *before.lock() = Some(put(&changed));
    let body = json!({"machineTemplate": {"href": id}});
    let machine = world.made(&alice(), Kind::Machine, body).await;
    assert_eq!(world.get(&alice(), &machine)["cpuModel"], "host");
}

#[tokio::test]
async fn nobody_tries_for_ever() {
    let (world, _) = interruptible().await;
    let id = world.volume(&alice()).await;
    let (Caller::User(identity), name) = (alice().caller, "late") else {
        panic!("alice is a user");
    };
    let late = OpContext::new(
        Caller::User(identity),
        name.into(),
        std::time::Duration::ZERO,
    );
    let edited = world.put(&late, &id, json!({"name": "x"})).await;
    assert!(
        matches!(edited, Err(CloudError::Unavailable(_))),
        "{edited:?}"
    );
}
