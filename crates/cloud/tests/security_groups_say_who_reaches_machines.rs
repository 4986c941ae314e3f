//! Security groups: made by users, with rules, of machines that are put in and taken out; and whom hosts are told of.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::support::{World, alice, bob, settings, split, until, violations};
use cimi::{Right, model::Kind, resources::SecurityGroup};
use cloud::{CloudError, Created, OpContext, Result, Retention};
use serde_json::{Value, json};

async fn group(world: &World, name: &str) -> String {
    let body = json!({"name": name, "description": "for tests"});
    world.made(&alice(), Kind::SecurityGroup, body).await
}

async fn allow(world: &World, who: &OpContext, id: &str, rule: Value) -> Result<Created> {
    let (kind, local) = split(id);
    let rule = rule.as_object().unwrap().clone();
    world
        .cloud
        .add_member(who, kind, local, "rules", rule)
        .await
}

async fn rules(world: &World, id: &str) -> Vec<Value> {
    let (kind, local) = split(id);
    let members = world.cloud.members(&alice(), kind, local, "rules").await;
    let members = members.unwrap().0.into_iter();
    members
        .map(|member| Value::Object(member.document.attributes(member.right)))
        .collect()
}

fn within(groups: &[&String]) -> Value {
    let groups: Vec<_> = groups.iter().map(|id| json!({"href": id})).collect();
    json!({"securityGroups": groups})
}

fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn rules_come_and_go_one_by_one() {
    let world = World::start().await;
    let (web, db) = (group(&world, "web").await, group(&world, "db").await);
    let ssh = json!({"direction": "in", "protocol": "tcp", "firstPort": 22, "addresses": "192.0.2.9/24", "description": "we"});
    let made = allow(&world, &alice(), &web, ssh.clone()).await.unwrap();
    let rule = made.view.id.rsplit('/').next().unwrap().to_owned();
    assert!(made.view.id.starts_with(&format!("{web}/rules/")));
    assert_eq!(
        rules(&world, &web).await,
        [
            json!({"direction": "in", "protocol": "tcp", "firstPort": 22, "lastPort": 22, "addresses": "192.0.2.0/24", "description": "we"})
        ]
    );
    // The same, said otherwise.
    let same = json!({"direction": "in", "protocol": "6", "firstPort": 22, "lastPort": 22, "addresses": "192.0.2.0/24"});
    let refused = allow(&world, &alice(), &web, same).await;
    assert!(text(refused).contains(&rule));
    let named = json!({"direction": "in", "group": {"href": web}});
    allow(&world, &alice(), &db, named).await.unwrap();
    let elsewhere = json!({"direction": "in", "group": {"href": "SecurityGroup/none"}});
    let refused = violations(allow(&world, &alice(), &db, elsewhere).await);
    assert!(refused[0].contains("SecurityGroup/none"), "{refused:?}");

    // Whoever may not see it, or may only see it.
    let refused = allow(&world, &bob(), &web, ssh.clone()).await;
    assert!(
        matches!(refused, Err(CloudError::NotFound { .. })),
        "{refused:?}"
    );
    let ((kind, local), who) = (split(&web), alice());
    let none = world
        .cloud
        .delete_member(&who, kind, local, "rules", "none");
    assert!(matches!(none.await, Err(CloudError::NotFound { .. })));
    let gone = world.cloud.delete_member(&who, kind, local, "rules", &rule);
    gone.await.unwrap();
    assert_eq!(rules(&world, &web).await, [json!(null); 0]);
    allow(&world, &alice(), &web, ssh).await.unwrap();
}

#[tokio::test]
async fn a_group_has_a_hundred_rules_at_most_and_a_machine_eight_groups() {
    let world = World::start().await;
    let many = group(&world, "many").await;
    for port in 1..=100 {
        let rule = json!({"direction": "in", "protocol": "tcp", "firstPort": port});
        allow(&world, &alice(), &many, rule).await.unwrap();
    }
    let refused = allow(&world, &alice(), &many, json!({"direction": "in"})).await;
    assert!(
        matches!(&refused, Err(CloudError::Exhausted(text)) if text.contains("100 rules")),
        "{refused:?}"
    );
    let mut groups = vec![many];
    for number in 0..8 {
        groups.push(group(&world, &number.to_string()).await);
    }
    let all: Vec<&String> = groups.iter().collect();
    let machine = world.machine(within(&all));
    let refused = violations(world.create(&alice(), Kind::Machine, machine).await);
    assert!(refused[0].contains("at most 8"), "{refused:?}");
    let machine = world.machine(within(&all[..8]));
    let machine = world.made(&alice(), Kind::Machine, machine).await;
    let refused = violations(world.put(&alice(), &machine, within(&all)).await);
    assert!(refused[0].contains("at most 8"), "{refused:?}");
    // One that is named twice is one.
    let twice = within(&[all[0], all[0]]);
    world.put(&alice(), &machine, twice).await.unwrap();
    assert_eq!(
        world.get(&alice(), &machine)["securityGroups"],
        within(&all[..1])["securityGroups"]
    );
    // What isn't named stays as it is.
    world
        .put(&alice(), &machine, json!({"name": "other"}))
        .await
        .unwrap();
    assert_eq!(
        world.get(&alice(), &machine)["securityGroups"][0]["href"],
        all[0].as_str()
    );
}

#[tokio::test]
async fn machines_are_put_in_by_whoever_may_change_the_group() {
    let world = World::start().await;
    let web = group(&world, "web").await;
    let machine = world.machine(within(&[&web]));
    let refused = violations(world.create(&bob(), Kind::Machine, machine.clone()).await);
    assert!(refused[0].contains("securityGroups"), "{refused:?}");
    // To see it is not enough: by being in it his machine would be let in wherever this group is.
    let (_, local) = split(&web);
    let shared = world.documents.update(local, |group: &mut SecurityGroup| {
        group.common.acl = group.common.acl.clone().allowing_user("bob", Right::View);
        Ok::<_, CloudError>(true)
    });
    shared.await.unwrap();
    let refused = world.create(&bob(), Kind::Machine, machine.clone()).await;
    assert!(refused.is_err(), "{refused:?}");
    // But he may let those in that are.
    let own = json!({"name": "his"});
    let own = world.made(&bob(), Kind::SecurityGroup, own).await;
    let rule = json!({"direction": "in", "group": {"href": web}});
    allow(&world, &bob(), &own, rule).await.unwrap();

    let machine = world.made(&alice(), Kind::Machine, machine).await;
    let refused = world
        .cloud
        .delete(&alice(), Kind::SecurityGroup, local)
        .await;
    let told = text(refused);
    assert!(told.contains(&machine) && told.contains("1 more"), "{told}");
    assert!(!told.contains(&own), "{told}");
    world.put(&alice(), &machine, within(&[])).await.unwrap();
    assert_eq!(world.get(&alice(), &machine)["securityGroups"], Value::Null);
    let refused = world
        .cloud
        .delete(&alice(), Kind::SecurityGroup, local)
        .await;
    assert!(text(refused).contains("in use by 1 more"));
    let (own_kind, own) = split(&own);
    world.cloud.delete(&bob(), own_kind, own).await.unwrap();
    world
        .cloud
        .delete(&alice(), Kind::SecurityGroup, local)
        .await
        .unwrap();
    assert!(world.documents.security_groups.is_empty());
    let refused = violations(world.put(&alice(), &machine, within(&[&web])).await);
    assert!(refused[0].contains(&web), "{refused:?}");
}

#[tokio::test]
async fn a_group_that_is_being_removed_is_given_to_nobody_and_can_be_removed_again() {
    let world = World::start().await;
    let web = group(&world, "web").await;
    let (_, local) = split(&web);
    // As an entry leaves it that was killed in between.
    let marked = world.documents.update(local, |group: &mut SecurityGroup| {
        group.leaving = true;
        Ok::<_, CloudError>(true)
    });
    marked.await.unwrap();
    let machine = world.machine(within(&[&web]));
    let refused = world.create(&alice(), Kind::Machine, machine).await;
    assert!(text(refused).contains("being removed"));
    let refused = allow(&world, &alice(), &web, json!({"direction": "in"})).await;
    assert!(text(refused).contains("being removed"));
    world
        .cloud
        .delete(&alice(), Kind::SecurityGroup, local)
        .await
        .unwrap();
    assert!(world.documents.security_groups.is_empty());
}

#[tokio::test]
async fn machines_that_are_reached_by_ports_of_their_host_have_no_groups() {
    let mut settings = settings();
    settings.networks[0].forwarded = true;
    let world = World::with(settings, |store| store).await;
    let web = group(&world, "web").await;
    let machine = world.machine(within(&[&web]));
    let refused = violations(world.create(&alice(), Kind::Machine, machine).await);
    assert!(refused[0].contains("ports of their host"), "{refused:?}");
    let machine = world
        .made(&alice(), Kind::Machine, world.machine(json!({})))
        .await;
    let refused = violations(world.put(&alice(), &machine, within(&[&web])).await);
    assert!(refused[0].contains("ports of their host"), "{refused:?}");
}

#[tokio::test]
async fn a_group_knows_the_addresses_of_those_that_its_rules_name() {
    let world = World::start().await;
    let cloud = world.cloud.clone();
    tokio::spawn(async move { cloud.run(Retention::default()).await });
    let (app, db) = (group(&world, "app").await, group(&world, "db").await);
    let rule = json!({"direction": "in", "group": {"href": app}});
    allow(&world, &alice(), &db, rule).await.unwrap();
    let reached = |of: &[&String]| -> BTreeSet<IpAddr> {
        let addresses = of.iter().flat_map(|machine| {
            let shown = world.get(&alice(), machine);
            let all = ["addresses", "addresses6"].map(|name| shown[name][0].clone());
            all.map(|address| address.as_str().unwrap().parse::<IpAddr>().unwrap())
        });
        addresses.collect()
    };
    let (_, at) = split(&db);
    let (_, named) = split(&app);
    let is_told = async |of: &[&String]| {
        let wanted = reached(of);
        until("the addresses to be known", async || {
            let group = world.documents.security_groups.get(at).unwrap();
            let told = group.reached.get(named).cloned().unwrap_or_default();
            let on_link =
                |address: &IpAddr| matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
            let (links, others): (BTreeSet<_>, BTreeSet<_>) = told.into_iter().partition(on_link);
            others == wanted && links.len() == of.len()
        })
        .await;
    };
    is_told(&[]).await;
    let machine = world.machine(within(&[&app]));
    let first = world.made(&alice(), Kind::Machine, machine.clone()).await;
    is_told(&[&first]).await;
    let second = world.machine(json!({}));
    let second = world.made(&alice(), Kind::Machine, second).await;
    world.put(&alice(), &second, within(&[&app])).await.unwrap();
    is_told(&[&first, &second]).await;
    world.put(&alice(), &first, within(&[&db])).await.unwrap();
    is_told(&[&second]).await;
    // Gone with its machine.
    let (_, local) = split(&second);
    let read = world.documents.machines.get(local).unwrap();
    let released = documents::step::end(&world.documents, &read, cimi::Timestamp::now());
    released.commit().await.unwrap();
    is_told(&[]).await;
    // And of a group that no rule names any more nothing is told.
    let rule = world.documents.security_groups.get(at).unwrap().rules[0]
        .id
        .clone();
    world
        .cloud
        .delete_member(&alice(), Kind::SecurityGroup, at, "rules", &rule)
        .await
        .unwrap();
    until("it to be forgotten", async || {
        let group = world.documents.security_groups.get(at).unwrap();
        group.reached.is_empty()
    })
    .await;
}
