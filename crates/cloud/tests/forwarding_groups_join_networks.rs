//! Forwarding groups: made by administrators, of networks that are in one at most, seen by all users.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use crate::support::{World, admin, alice, open, settings, split, violations};
use cimi::model::Kind;
use cloud::CloudError;
use futures::FutureExt as _;
use serde_json::{Value, json};

fn group(networks: &[&str]) -> Value {
    let networks: Vec<_> = networks
        .iter()
        .map(|name| json!({"href": format!("Network/{name}")}))
        .collect();
    json!({"name": "site", "forwardingGroupTemplate": {"networks": networks}})
}

fn networks(world: &World, id: &str) -> Vec<String> {
    let (kind, local) = split(id);
    let who = alice();
    let members = world.cloud.members(&who, kind, local, "networks");
    let (members, _) = members.now_or_never().unwrap().unwrap();
    let shown = members.into_iter().map(|member| {
        let attributes = member.document.attributes(member.right);
        attributes["network"]["href"].as_str().unwrap().to_owned()
    });
    shown.collect()
}

#[tokio::test]
async fn networks_join_one_group_and_leave_it() {
    let world = World::start().await;
    let refused = world
        .create(&alice(), Kind::ForwardingGroup, group(&["local"]))
        .await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
    let refused = world
        .create(&admin(), Kind::ForwardingGroup, group(&["elsewhere"]))
        .await;
    let refused = violations(refused);
    assert!(refused[0].contains("Network/elsewhere"), "{refused:?}");
    let id = world
        .made(&admin(), Kind::ForwardingGroup, group(&["local"]))
        .await;
    assert_eq!(networks(&world, &id), ["Network/local"]);
    assert_eq!(
        world.get(&alice(), "Network/local")["forwardingGroup"]["href"],
        id.as_str()
    );
    assert_eq!(
        world.get(&alice(), "Network/public")["forwardingGroup"],
        Value::Null
    );

    // In one at most: nothing of what is refused is kept.
    let refused = world
        .create(&admin(), Kind::ForwardingGroup, group(&["public", "local"]))
        .await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    assert_eq!(world.documents.forwarding_groups.len(), 1);
    let (_, local) = split(&id);
    let body = |name: &str| {
        cloud::testing::object(json!({"network": {"href": format!("Network/{name}")}}))
    };
    let add = |who, name| {
        let cloud = world.cloud.clone();
        async move {
            cloud
                .add_member(&who, Kind::ForwardingGroup, local, "networks", body(name))
                .await
        }
    };
    assert!(matches!(
        add(alice(), "public").await,
        Err(CloudError::Forbidden(_))
    ));
    let revision = || {
        world
            .documents
            .forwarding_groups
            .get(local)
            .unwrap()
            .revision
    };
    let alone = revision();
    add(admin(), "public").await.unwrap();
    let together = revision();
    assert!(
        together > alone,
        "a removal that saw the group before must fail"
    );
    assert!(matches!(
        add(admin(), "public").await,
        Err(CloudError::Conflict(_))
    ));
    assert_eq!(networks(&world, &id), ["Network/local", "Network/public"]);

    // The configuration that is read at the next start doesn't undo it.
    open(&world.documents, settings()).await;
    assert_eq!(networks(&world, &id), ["Network/local", "Network/public"]);

    let take = |who, name| {
        let cloud = world.cloud.clone();
        async move {
            cloud
                .delete_member(&who, Kind::ForwardingGroup, local, "networks", name)
                .await
        }
    };
    assert!(matches!(
        take(alice(), "public").await,
        Err(CloudError::Forbidden(_))
    ));
    take(admin(), "public").await.unwrap();
    assert!(revision() > together);
    let told = world.documents.events.all().into_iter().filter(|event| {
        event.content["operation"]
            .as_str()
            .is_some_and(|what| what.ends_with("of a network"))
    });
    assert_eq!(told.count(), 2, "who joined and left is told");
    assert!(matches!(
        take(admin(), "public").await,
        Err(CloudError::NotFound { .. })
    ));
    let refused = world
        .cloud
        .delete(&alice(), Kind::ForwardingGroup, local)
        .await;
    assert!(
        matches!(refused, Err(CloudError::Forbidden(_))),
        "{refused:?}"
    );
    world
        .cloud
        .delete(&admin(), Kind::ForwardingGroup, local)
        .await
        .unwrap();
    assert_eq!(
        world.get(&alice(), "Network/local")["forwardingGroup"],
        Value::Null
    );
}

#[tokio::test]
async fn a_network_that_nothing_can_be_forwarded_to_joins_none() {
    let mut settings = settings();
    settings.networks[1].forwarded = true;
    let world = World::with(settings, |store| store).await;
    let refused = world
        .create(&admin(), Kind::ForwardingGroup, group(&["local"]))
        .await;
    let Err(CloudError::Conflict(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("ports of their host"), "{text}");
}

#[tokio::test]
async fn a_network_on_the_sites_ethernet_joins_none() {
    let mut settings = settings();
    settings.networks[1].bridge = Some("br-eth1".to_owned());
    let world = World::with(settings, |store| store).await;
    assert_eq!(world.get(&alice(), "Network/local")["bridge"], "br-eth1");
    let refused = world
        .create(&admin(), Kind::ForwardingGroup, group(&["local"]))
        .await;
    let Err(CloudError::Conflict(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(text.contains("site's Ethernet"), "{text}");
}
