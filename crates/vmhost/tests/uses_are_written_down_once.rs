//! What is used is accounted: each run of a machine, its disks, its address, each exactly once, whatever happens.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use crate::controller_cloud::{World, admin, user};
use cimi::{
    Timestamp,
    lifecycle::Phase,
    resources::{UsageRecord, UseKind},
};
use cloud::UsageQuery;
use serde_json::{Value, json};

async fn records(world: &World) -> Vec<UsageRecord> {
    let (mut found, mut after) = (Vec::new(), None::<String>);
    loop {
        let begin = Timestamp::from_millis(0);
        let page = world.documents().usage(None, begin, after.as_deref(), 100);
        let page = page.await.unwrap();
        found.extend(page.records);
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

/// After all machines are gone: of each its disks and its address were written down once, and its runs don't overlap.
pub(crate) async fn check(world: &World, machines: BTreeSet<String>) {
    let mut by_use: BTreeMap<(UseKind, String), Vec<UsageRecord>> = BTreeMap::new();
    for record in records(world).await {
        let key = (record.used.kind, record.used.resource.clone());
        by_use.entry(key).or_default().push(record);
    }
    for kind in [UseKind::Disk, UseKind::Address] {
        let of_kind = by_use.iter().filter(|((of, _), _)| *of == kind);
        let told: BTreeSet<String> = of_kind.clone().map(|((_, of), _)| of.clone()).collect();
        assert_eq!(told, machines, "{kind:?}");
        assert!(
            of_kind.into_iter().all(|(_, records)| records.len() == 1),
            "{kind:?}"
        );
    }
    let mut runs = 0;
    for ((kind, machine), records) in &by_use {
        if *kind != UseKind::Machine {
            continue;
        }
        let whole = &by_use[&(UseKind::Disk, machine.clone())][0];
        let mut until = whole.used.start;
        let mut records: Vec<_> = records.iter().collect();
        records.sort_by_key(|record| record.used.start);
        for record in records {
            assert!(
                record.used.start >= until,
                "{machine}: runs overlap: {record:?}"
            );
            assert!(record.end >= record.used.start && record.end <= whole.end);
            until = record.end;
            runs += 1;
        }
    }
    assert!(machines.is_empty() || runs > 0, "nothing ever ran");
}

fn kinds(answer: &Value) -> BTreeMap<&str, Vec<&Value>> {
    let mut by_kind: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for used in answer["uses"].as_array().unwrap() {
        by_kind
            .entry(used["kind"].as_str().unwrap())
            .or_default()
            .push(used);
    }
    by_kind
}

#[tokio::test]
async fn runs_disks_and_addresses_are_told_while_they_go_on_and_when_they_are_over() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    let ask = async |who, query: UsageQuery| world.cloud().usage(who, &query).await;
    let own = user();
    let all = ask(&own, UsageQuery::default()).await.unwrap();
    let going_on = kinds(&all);
    for kind in ["machine", "disk", "address"] {
        assert_eq!(going_on[kind].len(), 1, "{all}");
        assert_eq!(going_on[kind][0]["end"], Value::Null);
    }
    let first = going_on["machine"][0]["id"].clone();

    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    let stopped = ask(&own, UsageQuery::default()).await.unwrap();
    let run = &kinds(&stopped)["machine"];
    assert_eq!(run.len(), 1, "{stopped}");
    assert_eq!(run[0]["id"], first, "the same use is over now");
    assert!(run[0]["end"].is_string() && run[0]["hours"].as_f64().unwrap() > 0.0);

    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    world.phase(&id, Phase::Running).await;
    world.cloud().delete_machine(&own, &id).await.unwrap();
    world.gone(&id).await;
    let over = ask(&own, UsageQuery::default()).await.unwrap();
    let over = kinds(&over);
    assert_eq!(
        (
            over["machine"].len(),
            over["disk"].len(),
            over["address"].len()
        ),
        (2, 1, 1)
    );
    assert!(over.values().flatten().all(|used| used["end"].is_string()));
    check(&world, BTreeSet::from([format!("Machine/{id}")])).await;

    // Whoever asks: in pages, of a period, of somebody else.
    let limit = |after: Option<String>| UsageQuery {
        limit: Some(1),
        after,
        ..UsageQuery::default()
    };
    let (root, mut told, mut after) = (admin(), BTreeSet::new(), None);
    loop {
        let page = ask(&root, limit(after)).await.unwrap();
        let uses = page["uses"].as_array().unwrap();
        told.extend(uses.iter().map(|used| used["id"].to_string()));
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    // With the image, which is the administrators'.
    assert_eq!(told.len(), 5);
    let before = Timestamp::from_millis(1_000);
    let nothing = UsageQuery {
        to: Some(before),
        ..UsageQuery::default()
    };
    let nothing = ask(&own, nothing).await.unwrap();
    assert!(kinds(&nothing).is_empty());
    let theirs = UsageQuery {
        user: Some("somebody".into()),
        ..UsageQuery::default()
    };
    assert!(ask(&own, theirs.clone()).await.is_err());
    let theirs = ask(&root, theirs).await.unwrap();
    assert!(kinds(&theirs).is_empty());
    for wrong in ["", "x", "over", "machines", "nothing:x", "over:a b"] {
        let query = UsageQuery {
            after: Some(wrong.into()),
            ..UsageQuery::default()
        };
        assert!(ask(&own, query).await.is_err(), "{wrong}");
    }
}

/// The runs among what a machine's owner used, by their beginning.
async fn runs(world: &World) -> Vec<Value> {
    let (own, query) = (user(), UsageQuery::default());
    let all = world.cloud().usage(&own, &query).await.unwrap();
    let uses = all["uses"].as_array().unwrap().iter();
    let mut runs: Vec<_> = uses.filter(|u| u["kind"] == "machine").cloned().collect();
    runs.sort_by_key(|run| run["start"].to_string());
    runs
}

#[tokio::test]
async fn what_went_over_the_network_is_in_the_record_of_the_run_whatever_ended_it() {
    let mut world = World::new().await;
    let id = world.running(json!({})).await;
    assert!(runs(&world).await[0].get("receivedBytes").is_none());

    // Another daemon took over meanwhile.
    world.guest(&id).traffic_is(1_000, 10);
    world.crash().await;
    world.guest(&id).traffic_is(5_000, 70);
    world.start().await;
    world.phase(&id, Phase::Running).await;
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    let told = runs(&world).await;
    assert_eq!(
        (&told[0]["receivedBytes"], &told[0]["sentBytes"]),
        (&json!(5_000), &json!(70))
    );

    // The next run counts its own; the guest ends it.
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    world.phase(&id, Phase::Running).await;
    world.guest(&id).traffic_is(3, 4);
    world.guest(&id).halt();
    world.phase(&id, Phase::Unknown).await;
    let told = runs(&world).await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        told[0]["receivedBytes"], 5_000,
        "nothing is added to what is over"
    );
    assert_eq!(
        (&told[1]["receivedBytes"], &told[1]["sentBytes"]),
        (&json!(3), &json!(4))
    );

    // Removed while it runs.
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    world.phase(&id, Phase::Running).await;
    world.guest(&id).traffic_is(9, 8);
    world.cloud().delete_machine(&user(), &id).await.unwrap();
    world.gone(&id).await;
    let told = runs(&world).await;
    assert_eq!(
        (told.len(), &told[2]["sentBytes"]),
        (3, &json!(8)),
        "{told:?}"
    );
}
