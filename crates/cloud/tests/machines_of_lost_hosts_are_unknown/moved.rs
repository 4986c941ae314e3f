//! Machines on their way from one host to another.

use cimi::{HostId, lifecycle::Stage, model::Kind, resources::Machine};
use cloud::CloudError;
use serde_json::json;

use super::{Working, document, heard, joined_host, running_on, seen, shown};
use crate::support::{World, admin, alice, split, until};

/// Asks for a machine to be moved at rest; the machine then.
async fn to_be_moved(world: &World, id: &str, host: Option<&str>) -> cloud::Result<Machine> {
    let mut properties = json!({"atRest": "true"});
    if let Some(host) = host {
        properties["host"] = json!(host);
    }
    asked_to_move(world, id, properties).await
}

async fn asked_to_move(
    world: &World,
    id: &str,
    properties: serde_json::Value,
) -> cloud::Result<Machine> {
    let body = json!({ "properties": properties });
    let body = body.as_object().unwrap().clone();
    let (kind, local) = split(id);
    world
        .cloud
        .act(&admin(), kind, local, "migrate", &body)
        .await?;
    Ok(document(world, id))
}

#[tokio::test]
async fn a_machine_that_has_arrived_is_the_other_hosts_in_one_step() {
    let world = World::start().await;
    let _working = Working::begin(&world);
    let from = joined_host(&world).await;
    let to = world.host(4096).await;
    let id = running_on(&world, &from).await;
    let (who, nothing) = (alice(), serde_json::Map::new());
    let local = split(&id).1;
    let not_hers = world
        .cloud
        .act(&who, Kind::Machine, local, "migrate", &nothing);
    assert!(matches!(not_hers.await, Err(CloudError::Forbidden(_))));
    let nowhere = to_be_moved(&world, &id, Some("node9")).await;
    assert!(
        matches!(nowhere, Err(CloudError::Invalid { .. })),
        "{nowhere:?}"
    );
    let there = to_be_moved(&world, &id, Some("node7")).await;
    assert!(matches!(there, Err(CloudError::Conflict(_))), "{there:?}");

    let asked = to_be_moved(&world, &id, None).await.unwrap();
    let since = asked.desired.moving.unwrap().since;
    let way = |to: &HostId, change: fn(&mut cimi::lifecycle::Moving)| {
        let to = to.clone();
        move |machine: &mut Machine| {
            let moving = machine.desired.moving.as_mut().unwrap();
            moving.to = Some(to.clone());
            change(moving);
        }
    };
    seen(&world, &id, way(&to, |_| {})).await;
    let twice = to_be_moved(&world, &id, None).await;
    assert!(matches!(twice, Err(CloudError::Conflict(_))), "{twice:?}");
    seen(&world, &id, way(&to, |moving| moving.ready = true)).await;
    assert_eq!(shown(&world, &id).0, "SUSPENDING Running");
    // Not before it stands still, whoever says so.
    seen(&world, &id, way(&to, |moving| moving.arrived = true)).await;
    assert_eq!(document(&world, &id).host, Some(from.clone()));
    seen(&world, &id, |machine| {
        machine.observed.stage = Stage::Suspended;
        machine.observed.left_for = Some(since);
    })
    .await;
    until("it to be the other's", || async {
        document(&world, &id).host == Some(to.clone())
    })
    .await;
    let machine = document(&world, &id);
    assert_eq!(
        (machine.left_on, machine.desired.moving),
        (vec![from], None)
    );
    assert_eq!(machine.observed.stage, Stage::Suspended);
    assert_eq!(shown(&world, &id).0, "STARTING Prolog", "it goes on");
}

#[tokio::test]
async fn a_machine_that_can_not_be_moved_goes_on_where_it_is() {
    let world = World::start().await;
    let _working = Working::begin(&world);
    let to = joined_host(&world).await;
    let from = world.host(4096).await;
    for trouble in ["problem", "lost", "refused", "deleted"] {
        if trouble == "refused" {
            heard(&world, &to, true).await;
        }
        let id = running_on(&world, &from).await;
        to_be_moved(&world, &id, None).await.unwrap();
        seen(&world, &id, |machine| {
            let since = machine.desired.since;
            let moving = machine.desired.moving.as_mut().unwrap();
            (moving.to, moving.ready) = (Some(to.clone()), true);
            match trouble {
                "problem" => moving.problem = Some("its disk is full".to_owned()),
                "refused" => machine.observed.refused = Some(since),
                "deleted" => machine.desired.deleted = true,
                _ => {}
            }
        })
        .await;
        if trouble == "lost" {
            heard(&world, &to, false).await;
        }
        until(trouble, || async {
            document(&world, &id).desired.moving.is_none()
        })
        .await;
        let machine = document(&world, &id);
        assert_eq!(
            (machine.host, machine.left_on.len()),
            (Some(from.clone()), 0)
        );
        if trouble == "problem" {
            let why = machine.reason.unwrap_or_default();
            assert!(why.contains("its disk is full"), "{why}");
        }
    }
}

#[tokio::test]
async fn a_machine_whose_guest_runs_on_its_way_is_the_other_hosts_when_all_of_it_is_there_and_here()
{
    let world = World::start().await;
    let _working = Working::begin(&world);
    let from = joined_host(&world).await;
    let to = world.host(4096).await;
    let id = running_on(&world, &from).await;
    for (wrong, told) in [
        (json!({"bandwidth": "fast"}), "bandwidth"),
        (json!({"bandwidth": "7"}), "at least"),
        (json!({"atRest": "perhaps"}), "atRest"),
    ] {
        let refused = asked_to_move(&world, &id, wrong).await.unwrap_err();
        assert!(refused.to_string().contains(told), "{refused}");
    }
    let none = asked_to_move(&world, &id, json!({"cancel": "true"})).await;
    assert!(matches!(none, Err(CloudError::Conflict(_))), "{none:?}");

    let asked = json!({"bandwidth": "1048576"});
    let asked = asked_to_move(&world, &id, asked).await.unwrap();
    let way = asked.desired.moving.unwrap();
    assert_eq!((way.live, way.bandwidth), (true, Some(1 << 20)));
    let since = way.since;
    let edit = |change: fn(&mut cimi::lifecycle::Moving)| {
        let to = to.clone();
        move |machine: &mut Machine| {
            let moving = machine.desired.moving.as_mut().unwrap();
            moving.to = Some(to.clone());
            change(moving);
        }
    };
    seen(&world, &id, edit(|moving| moving.ready = true)).await;
    assert_eq!(shown(&world, &id).0, "STARTED Running", "it runs on");
    seen(&world, &id, |machine| {
        machine.observed.passage = Some(cimi::lifecycle::Passage {
            way: since,
            copied: 5,
            left: 7,
            downtime_millis: None,
        });
    })
    .await;
    let as_shown = world.get(&alice(), &id);
    let moving = &as_shown["moving"];
    assert_eq!(
        (
            &moving["bytesCopied"],
            &moving["bytesLeft"],
            &moving["live"]
        ),
        (&json!(5), &json!(7), &json!(true))
    );
    // All may be there before that is said here, and not the other way round.
    seen(&world, &id, edit(|moving| moving.arrived = true)).await;
    assert_eq!(document(&world, &id).host, Some(from.clone()));
    let before = document(&world, &id).running_since;
    seen(&world, &id, |machine| {
        machine.observed.stage = Stage::Crossing;
        machine.observed.left_for = Some(since);
    })
    .await;
    until("it to be the other's", || async {
        document(&world, &id).host == Some(to.clone())
    })
    .await;
    let machine = document(&world, &id);
    assert_eq!(
        (machine.left_on, machine.desired.moving),
        (vec![from], None)
    );
    assert!(
        machine.running_since > before,
        "its use there is another one"
    );
    assert_eq!(shown(&world, &id).0, "STARTED Running");
}

#[tokio::test]
async fn a_machine_whose_way_is_given_up_stays() {
    let world = World::start().await;
    let _working = Working::begin(&world);
    let from = joined_host(&world).await;
    let to = world.host(4096).await;
    for trouble in ["stays", "cancel", "lost"] {
        let id = running_on(&world, &from).await;
        let asked = asked_to_move(&world, &id, json!({})).await.unwrap();
        let since = asked.desired.moving.unwrap().since;
        seen(&world, &id, |machine| {
            let moving = machine.desired.moving.as_mut().unwrap();
            (moving.to, moving.ready) = (Some(to.clone()), true);
            machine.observed.passage = Some(cimi::lifecycle::Passage {
                way: since,
                copied: 0,
                left: 0,
                downtime_millis: None,
            });
            if trouble == "stays" {
                machine.observed.stays = Some(since);
                machine.reason = Some("it is not moved: no disk".to_owned());
            }
        })
        .await;
        match trouble {
            "cancel" => {
                let cancelled = asked_to_move(&world, &id, json!({"cancel": "true"})).await;
                cancelled.unwrap();
            }
            "lost" => heard(&world, &from, false).await,
            _ => {}
        }
        until(trouble, || async {
            document(&world, &id).desired.moving.is_none()
        })
        .await;
        let machine = document(&world, &id);
        assert_eq!(
            (machine.host, machine.left_on.len()),
            (Some(from.clone()), 0)
        );
        if trouble == "stays" {
            assert_eq!(machine.reason.as_deref(), Some("it is not moved: no disk"));
            // It says so as long as it is to leave, and no longer.
            let other = running_on(&world, &from).await;
            seen(&world, &other, |machine| {
                machine.reason = Some("well".to_owned());
            })
            .await;
            for (maintenance, reason) in [(true, Some("it is not moved: no disk")), (false, None)] {
                let (who, local) = (admin(), from.local());
                let changes = [("maintenance".to_owned(), Some(json!(maintenance)))].into();
                let edited = world.cloud.edit(&who, Kind::Host, local, changes);
                edited.await.unwrap();
                assert_eq!(document(&world, &id).reason.as_deref(), reason);
            }
            assert_eq!(document(&world, &other).reason.as_deref(), Some("well"));
        }
    }
}

/// Else it would become that of a host that is one no more, and the one that has its disks would clear them away.
#[tokio::test]
async fn a_machine_on_its_way_to_a_host_that_is_removed_stays_where_it_is() {
    let world = World::start().await;
    let to = joined_host(&world).await;
    let from = world.host(4096).await;
    let id = running_on(&world, &from).await;
    let asked = to_be_moved(&world, &id, None).await.unwrap();
    let since = asked.desired.moving.unwrap().since;
    // All but the last step is done, and nobody takes that yet.
    seen(&world, &id, |machine| {
        let moving = machine.desired.moving.as_mut().unwrap();
        moving.to = Some(to.clone());
        (moving.ready, moving.arrived) = (true, true);
        machine.observed.stage = Stage::Suspended;
        machine.observed.left_for = Some(since);
    })
    .await;
    let root = admin();
    let removed = world.cloud.delete(&root, Kind::Host, to.local());
    removed.await.unwrap();
    assert!(world.documents.hosts.get(to.local()).is_none());
    let _working = Working::begin(&world);
    until("it to go on where it was", || async {
        shown(&world, &id).0 == "STARTING Prolog"
    })
    .await;
    let machine = document(&world, &id);
    assert_eq!((machine.host, machine.desired.moving), (Some(from), None));
    assert!(machine.left_on.is_empty());
    let why = machine.reason.unwrap_or_default();
    assert!(why.contains("is being removed"), "{why}");
}
