//! Where machines go that are to be moved: their turn, their room, and the groups that they are in.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod a_cloud;

use cimi::{
    HostId, Timestamp,
    lifecycle::Moving,
    resources::{Host, HostPulse, Machine},
};

use self::a_cloud::{Cloud, host, is_on, joined, machine, pulse_of, waits_because};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_machines_of_a_host_are_moved_at_once_and_the_others_wait_for_their_turn() {
    let cloud = Cloud::start().await;
    for name in ["a", "b"] {
        cloud.create(&host(name, 16 * 512)).await;
    }
    let [a, b] = ["a", "b"].map(|name| HostId::from_local(name).unwrap());
    let since = Timestamp::now();
    let mut locals = Vec::new();
    for vmid in 1..=6 {
        let mut machine = machine(vmid, 512);
        machine.host = Some(a.clone());
        machine.desired.moving = Some(Moving::asked(since));
        machine.settle();
        locals.push(machine.id.local().to_owned());
        cloud.create(&machine).await;
    }
    let going = |machines: &[Machine]| {
        let going = machines.iter().filter(|one| one.moving_to() == Some(&b));
        let mut going: Vec<u32> = going.map(|one| one.vmid.0).collect();
        going.sort_unstable();
        going
    };
    cloud
        .until("four to go", |all| going(all) == [1, 2, 3, 4])
        .await;
    // Whatever else happens.
    cloud.create(&machine(9, 512)).await;
    let placed = |all: &[Machine]| all.iter().any(|one| one.vmid.0 == 9 && one.host.is_some());
    let machines = cloud.until("another one to be placed", placed).await;
    assert_eq!(going(&machines), [1, 2, 3, 4]);
    let waits = |one: &&Machine| one.desired.moving.is_some() && one.moving_to().is_none();
    assert_eq!(machines.iter().filter(waits).count(), 2);
    // One has arrived, and one is given up.
    for (local, host) in locals.iter().zip([&b, &a]) {
        cloud
            .edit::<Machine>(local, |machine| {
                machine.host = Some(host.clone());
                machine.desired.moving = None;
                machine.settle();
            })
            .await;
    }
    cloud
        .until("the others to go", |all| going(all) == [3, 4, 5, 6])
        .await;
    cloud.end().await;
}

#[tokio::test]
async fn a_host_that_is_emptied_takes_others_meanwhile() {
    let cloud = Cloud::start().await;
    let [a, b] = ["a", "b"].map(|name| HostId::from_local(name).unwrap());
    for name in ["a", "b"] {
        cloud.create(&host(name, 16 * 512)).await;
    }
    for (vmid, (from, to)) in (1..=8).zip([(&a, &b), (&b, &a)].into_iter().cycle()) {
        let mut machine = machine(vmid, 512);
        machine.host = Some(from.clone());
        machine.desired.moving = Some(Moving {
            wanted: Some(to.clone()),
            ..Moving::asked(Timestamp::now())
        });
        machine.settle();
        cloud.create(&machine).await;
    }
    let all_go = |all: &[Machine]| all.iter().filter(|one| one.moving_to().is_some()).count() == 8;
    cloud
        .until("four to go each way, and four to come", all_go)
        .await;
    cloud.end().await;
}

/// A machine on host `on`, in the group `web` that stays together, or in `db` that stays apart.
fn member(vmid: u32, on: &str, is_together: bool) -> Machine {
    let mut member = machine(vmid, 512);
    let groups = &mut member.placement;
    if is_together {
        groups.together = vec!["web".to_owned()];
    } else {
        groups.apart = vec!["db".to_owned()];
    }
    member.host = Some(HostId::from_local(on).unwrap());
    member.settle();
    member
}

/// Asks for the machine to go elsewhere.
async fn ask(cloud: &Cloud, machine: &Machine) {
    let edit = |machine: &mut Machine| {
        machine.desired.moving = Some(Moving::asked(Timestamp::now()));
        machine.settle();
    };
    cloud.edit::<Machine>(machine.id.local(), edit).await;
}

async fn close(cloud: &Cloud, host: &str) {
    let edit = |host: &mut Host| host.desired.maintenance = true;
    cloud.edit::<Host>(host, edit).await;
}

fn goes_to(vmid: u32, host: &'static str) -> impl Fn(&[Machine]) -> bool {
    move |all| {
        let mut those = all.iter().filter(|one| one.vmid.0 == vmid);
        those.any(|one| one.moving_to().is_some_and(|to| to.local() == host))
    }
}

/// It is not on its way any more, and why.
fn stays(vmid: u32, reason: &'static str) -> impl Fn(&[Machine]) -> bool {
    move |all| {
        let mut those = all.iter().filter(|one| one.vmid.0 == vmid);
        let why = |one: &Machine| one.reason.clone().unwrap_or_default();
        those.any(|one| one.desired.moving.is_none() && why(one).contains(reason))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_alone_in_its_group_is_moved_and_the_next_follows_it() {
    let cloud = Cloud::start().await;
    for name in ["a", "b", "c"] {
        cloud.create(&host(name, 16 * 512)).await;
    }
    let one = member(1, "a", true);
    cloud.create(&one).await;
    cloud
        .edit::<Host>("c", |host| host.capacity.memory_kib = 0)
        .await;
    ask(&cloud, &one).await;
    cloud.until("it goes", goes_to(1, "b")).await;
    // Where it goes is where its group is.
    let mut next = member(2, "a", true);
    next.host = None;
    next.settle();
    cloud.create(&next).await;
    cloud.until("the next one is there", is_on(2, "b")).await;
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_a_group_leaves_no_other_behind_and_all_go_when_their_host_is_drained() {
    let cloud = Cloud::start().await;
    // On `b` is room for one, on `c` for all.
    for (name, machines) in [("a", 16), ("b", 1), ("c", 3)] {
        cloud.create(&host(name, machines * 512)).await;
    }
    let all = [1, 2, 3].map(|vmid| member(vmid, "a", true));
    for one in &all {
        cloud.create(one).await;
    }
    ask(&cloud, &all[0]).await;
    let alone = "waiting for room on 3 hosts: 1 is not what the machine's requirements ask for, 2 have not the machines that this one \
                 is to be together with (all of them move when their host is drained)";
    cloud.until("it stays with them", stays(1, alone)).await;

    close(&cloud, "a").await;
    for (one, vmid) in all.iter().zip(1..) {
        ask(&cloud, one).await;
        cloud.until("it goes", goes_to(vmid, "c")).await;
    }
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_for_which_no_host_has_room_stays_as_a_whole() {
    let cloud = Cloud::start().await;
    for (name, machines) in [("a", 16), ("b", 2), ("c", 2)] {
        cloud.create(&host(name, machines * 512)).await;
    }
    let all = [1, 2, 3].map(|vmid| member(vmid, "a", true));
    for one in &all {
        cloud.create(one).await;
    }
    close(&cloud, "a").await;
    for (one, vmid) in all.iter().zip(1..) {
        ask(&cloud, one).await;
        let room =
            "2 lack memory (largest free 1024 MiB, 1536 MiB wanted by all that are to be together)";
        cloud.until("it stays", stays(vmid, room)).await;
    }
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_that_are_apart_stay_so_on_their_way() {
    let cloud = Cloud::start().await;
    for name in ["a", "b"] {
        cloud.create(&host(name, 16 * 512)).await;
    }
    let all = [("a", 1), ("b", 2)].map(|(on, vmid)| member(vmid, on, false));
    for one in &all {
        cloud.create(one).await;
    }
    close(&cloud, "a").await;
    ask(&cloud, &all[0]).await;
    let apart = "1 has machines that this one is to be apart from";
    cloud.until("it stays", stays(1, apart)).await;

    cloud.create(&host("c", 16 * 512)).await;
    ask(&cloud, &all[0]).await;
    cloud.until("it goes", goes_to(1, "c")).await;
    // It is on both until it has arrived.
    close(&cloud, "b").await;
    ask(&cloud, &all[1]).await;
    cloud.until("the other stays", stays(2, apart)).await;
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_its_group_is_placed_when_that_is_lost_with_its_host() {
    let cloud = Cloud::start().await;
    // On `a` is room for one.
    let mut a = joined("a");
    a.capacity.memory_kib = 512 * 1024;
    cloud.create(&a).await;
    cloud.create(&pulse_of("a")).await;
    cloud.create(&host("b", 16 * 512)).await;
    cloud.create(&member(1, "a", true)).await;
    let mut next = member(2, "a", true);
    next.host = None;
    next.settle();
    cloud.create(&next).await;
    let full = "waiting for room on 2 hosts: 1 has not the machines that this one is to be together with, \
                1 lacks memory (largest free 0 MiB, 512 MiB wanted)";
    cloud.until("it waits", waits_because(2, full)).await;
    cloud.remove::<HostPulse>("a").await;
    cloud.until("it is placed", is_on(2, "b")).await;
    cloud.end().await;
}
