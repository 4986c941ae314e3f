//! Health: what makes the cloud unable to work is said in a word.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use crate::bare_cloud::{World, user};
use cimi::model::Kind;
use cloud::{CloudError, HealthStatus, PerUser};
use serde_json::json;
use store::SqliteOptions;

#[tokio::test]
async fn a_full_database_and_caches_that_stopped_are_failures() {
    let small = SqliteOptions {
        max_bytes: Some(600 * 1024),
        ..SqliteOptions::default()
    };
    let world = World::with(PerUser::default(), small).await;
    assert_eq!(ok(&world), [true, true]);
    let alice = user("alice");
    let document = json!({"name": "x".repeat(20_000), "capacity": 1000});
    let refused = loop {
        let made = world
            .create(&alice, Kind::VolumeConfiguration, document.clone())
            .await;
        if let Err(error) = made {
            break error;
        }
    };
    let CloudError::Exhausted(text) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("space") && !text.contains('/'), "{text}");
    let health = world.cloud.health();
    assert_eq!(health.status, HealthStatus::Failing);
    assert_eq!(ok(&world), [false, true]);

    let world = World::start().await;
    world.documents.store().close().await;
    let written = world
        .create(&alice, Kind::VolumeConfiguration, document)
        .await;
    assert!(
        matches!(written, Err(CloudError::Unavailable(_))),
        "{written:?}"
    );
    assert!(!ok(&world)[0]);
    assert_eq!(world.cloud.health().status, HealthStatus::Failing);
}

/// Whether the database and the caches are well. (There is no host, so the cloud isn't.)
fn ok(world: &World) -> [bool; 2] {
    let checks = world.cloud.health().checks;
    ["database", "reads"].map(|name| {
        let check = checks.iter().find(|check| check.name == name);
        check.unwrap().ok
    })
}
