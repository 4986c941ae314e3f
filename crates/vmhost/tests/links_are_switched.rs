//! A guest's link is what its port is: before it runs, while it runs, after a restart of controller, process and host.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use crate::controller_cloud::{PATIENCE, World, user};
use cimi::resources::PortState;
use serde_json::json;

async fn port(world: &World) -> String {
    let body = json!({"networkPortTemplate": {"network": {"href": "Network/local"}}});
    let made = world
        .cloud()
        .create_network_port(&user(), cloud::testing::object(body))
        .await;
    let id = made.unwrap().view.id;
    id.split_once('/').unwrap().1.to_owned()
}

async fn asked(world: &World, port: &str, action: &str) -> String {
    let user = user();
    let done = world.cloud().act_on_network_port(&user, port, action);
    done.await.unwrap().job.unwrap()
}

async fn switch(world: &World, port: &str, action: &str) {
    let job = asked(world, port, action).await;
    world.succeeds(&job).await;
}

#[tokio::test]
async fn a_link_is_what_its_port_is() {
    let mut world = World::new().await;
    let port = port(&world).await;
    switch(&world, &port, "stop").await;
    let interface = json!({"networkPort": {"href": format!("NetworkPort/{port}")}});
    let id = world
        .running(json!({"networkInterfaces": [interface]}))
        .await;
    assert_eq!(
        world.guest(&id).link(0),
        Some(false),
        "it never ran with it"
    );
    let state = || world.documents().network_ports.get(&port).unwrap().state;
    assert_eq!(state(), PortState::Stopped);
    switch(&world, &port, "start").await;
    assert_eq!(world.guest(&id).link(0), Some(true));
    assert_eq!(state(), PortState::Started);

    // Killed between the wish and its end, or right after.
    let job = asked(&world, &port, "stop").await;
    world.crash().await;
    world.start().await;
    world.succeeds(&job).await;
    assert_eq!(world.guest(&id).link(0), Some(false));
    world.settles().await;

    // Rested on disk, and gone on: another process.
    let job = world.act(&id, "suspend", false).await;
    world.succeeds(&job).await;
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert_eq!(world.guest(&id).link(0), Some(false));

    // Off, there is nothing to be done.
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    switch(&world, &port, "start").await;
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert_eq!(world.guest(&id).link(0), Some(true));
    world.settles().await;
}

#[tokio::test]
async fn a_port_is_stopped_at_once_while_its_guest_has_time_to_obey() {
    let world =
        World::with(|settings| settings.power_button_limit = Duration::from_secs(3600)).await;
    for ways in [&["restart"][..], &["stop", "start"]] {
        let port = port(&world).await;
        let interface = json!({"networkPort": {"href": format!("NetworkPort/{port}")}});
        let id = world
            .running(json!({"networkInterfaces": [interface]}))
            .await;
        let guest = world.guest(&id);
        guest.ignore_power_button(true);
        for way in ways {
            world.act(&id, way, false).await;
            let deadline = Instant::now() + PATIENCE;
            while guest.presses() == 0 {
                assert!(Instant::now() < deadline, "its button is never pressed");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        switch(&world, &port, "stop").await;
        assert_eq!(guest.link(0), Some(false), "{ways:?}");
        switch(&world, &port, "start").await;
        assert_eq!(guest.link(0), Some(true), "{ways:?}");
        assert!(world.lives(&id));
        let job = world.act(&id, "stop", true).await;
        world.succeeds(&job).await;
    }
}
