//! Networks that reach over hosts know which have them, whatever is wrong with one of them.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use crate::support::{World, network, settings, until};
use cimi::resources::{Host, NetworkClass};
use cloud::{NetworkSettings, Retention, Settings};

/// The n-th host, which has joined.
fn joined(n: u8) -> Host {
    let mut host = cimi::testing::host();
    host.common.name = Some(format!("node{n}"));
    (host.desired.apart, host.runs_machines) = (true, true);
    host.tunnel = Some([192, 0, 2, n].into());
    host
}

/// Hosts join, and the cloud does its work until so many are on a network.
async fn join(world: &World, count: u8, network: &str) {
    for n in 0..count {
        let changes = world.documents.changes().create(&joined(n));
        changes.commit().await.unwrap();
    }
    let all = until("all are on it", || async {
        hosts(world, network) == usize::from(count)
    });
    tokio::select! {
        () = all => {}
        () = Box::pin(world.cloud.run(Retention::default())) => panic!("its work has no end"),
    }
}

fn hosts(world: &World, network: &str) -> usize {
    world.documents.networks.get(network).unwrap().hosts.len()
}

#[tokio::test]
async fn a_network_without_a_free_address_keeps_no_host_out_of_the_others() {
    // The first in order, with one address.
    let small = NetworkSettings {
        last: [10, 99, 3, 10].into(),
        ..network("a-small-one", NetworkClass::Local, 3)
    };
    let mut networks = settings().networks;
    networks.push(small);
    let settings = Settings {
        networks,
        ..settings()
    };
    let world = World::with(settings, |store| store).await;
    join(&world, 2, "public").await;
    assert_eq!(
        hosts(&world, "a-small-one"),
        1,
        "who finds an address has it"
    );
}

#[tokio::test]
async fn a_network_gets_more_hosts_at_once_than_fit_in_a_transaction() {
    let world = World::start().await;
    join(&world, 150, "public").await;
}

#[tokio::test]
async fn a_network_on_the_sites_ethernet_needs_no_addresses_of_hosts() {
    let mut settings = settings();
    settings.networks[1].bridge = Some("br-eth1".to_owned());
    let world = World::with(settings, |store| store).await;
    join(&world, 2, "public").await;
    assert_eq!(hosts(&world, "local"), 0);
}
