//! The scheduler over a real store: bursts, waiting, and machines deleted before they had a host.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod a_cloud;

use std::net::IpAddr;

use cimi::{
    Acl, AddressId, NetworkId, Ref, Timestamp, VolumeId,
    ids::SecurityGroupId,
    lifecycle::{Phase, Power},
    resources::{
        Address, AttachStage, AttachedVolume, Host, HostPulse, Machine, Network, Nic,
        Resource as _, Unknown,
    },
};
use documents::Documents;
use placement::Policy;
use scheduler::Scheduler;
use serde_json::json;
use store::Key;
use tokio_util::sync::CancellationToken;

use self::a_cloud::{Cloud, MIB, host, is_on, joined, machine, pulse_of, waits_because};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_fills_hosts_to_the_brim_and_never_over_it() {
    let cloud = Cloud::start().await;
    for name in ["a", "b", "c"] {
        cloud.create(&host(name, 10 * 512)).await;
    }
    // Ten fit on each of the three: thirty of fifty.
    let all: Vec<_> = (1..=50).map(|vmid| machine(vmid, 512)).collect();
    let began = std::time::Instant::now();
    for some in all.chunks(25) {
        let changes = some
            .iter()
            .fold(cloud.documents.changes(), |changes, machine| {
                changes.create(machine)
            });
        changes.commit().await.unwrap();
    }
    let placed = |machines: &[Machine]| {
        machines
            .iter()
            .filter(|machine| machine.host.is_some())
            .count()
    };
    let explained = |machines: &[Machine]| {
        machines
            .iter()
            .filter(|machine| machine.reason.is_some())
            .count()
    };
    let machines = cloud
        .until("30 placed, 20 told why not", |all| {
            placed(all) == 30 && explained(all) == 20
        })
        .await;
    println!("50 machines looked at, 30 placed in {:?}", began.elapsed());
    for name in ["a", "b", "c"] {
        let here = machines.iter().filter(|machine| {
            machine
                .host
                .as_ref()
                .is_some_and(|host| host.local() == name)
        });
        assert_eq!(here.count(), 10, "{name}");
    }
    let reason = machines
        .iter()
        .find_map(|machine| machine.reason.clone())
        .unwrap();
    assert!(
        reason.contains("3 hosts: 3 lack memory") && reason.contains("512 MiB wanted"),
        "{reason}"
    );
    assert!(
        machines
            .iter()
            .all(|machine| (machine.phase == Phase::Prolog) == machine.host.is_some())
    );
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_waits_for_room_says_why_once_and_is_placed_when_there_is_some() {
    let cloud = Cloud::start().await;
    let waits = machine(1, 1024);
    cloud.create(&waits).await;
    let reason = |machines: &[Machine]| {
        machines
            .iter()
            .find(|m| m.vmid.0 == 1)
            .and_then(|m| m.reason.clone())
    };
    let none_yet = cloud
        .until("told that there is no host", |all| reason(all).is_some())
        .await;
    assert!(reason(&none_yet).unwrap().contains("none has reported yet"));

    cloud.create(&host("small", 512)).await;
    cloud
        .until("told that memory lacks", |all| {
            reason(all).is_some_and(|text| text.contains("lacks memory"))
        })
        .await;
    let written = cloud
        .documents
        .machines
        .get(waits.local_id())
        .unwrap()
        .revision;

    // A smaller one is not held up, and takes some of the room: no other text, and no write, for the one that waits.
    cloud.create(&machine(2, 256)).await;
    cloud
        .until("the small one placed", |all| {
            all.iter().any(|m| m.vmid.0 == 2 && m.host.is_some())
        })
        .await;
    cloud
        .edit("small", |host: &mut Host| host.capacity.disk_free_bytes = 1)
        .await;
    cloud.create(&machine(3, 256)).await;
    cloud
        .until("another small one placed", |all| {
            all.iter().any(|m| m.vmid.0 == 3 && m.host.is_some())
        })
        .await;
    assert_eq!(
        cloud
            .documents
            .machines
            .get(waits.local_id())
            .unwrap()
            .revision,
        written
    );

    cloud
        .edit("small", |host: &mut Host| {
            host.capacity.memory_kib = 2048 * MIB;
        })
        .await;
    let placed = cloud
        .until("placed", |all| {
            all.iter().all(|machine| machine.host.is_some())
        })
        .await;
    assert!(placed.iter().all(|machine| machine.reason.is_none()));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_made_by_a_machine_that_ends_is_given_to_one_that_waits() {
    let cloud = Cloud::start().await;
    cloud.create(&host("a", 1024)).await;
    cloud.create(&machine(1, 1024)).await;
    let first = cloud
        .until("placed", |all| {
            all.iter().all(|machine| machine.host.is_some())
        })
        .await;
    cloud.create(&machine(2, 1024)).await;
    cloud
        .until("told why it waits", |all| {
            all.iter().any(|machine| machine.reason.is_some())
        })
        .await;
    let read = cloud
        .documents
        .machines
        .get(first.first().unwrap().local_id())
        .unwrap();
    cloud
        .documents
        .changes()
        .remove(&read)
        .commit()
        .await
        .unwrap();
    cloud
        .until("the other placed", |all| {
            all.len() == 1 && all.iter().all(|machine| machine.host.is_some())
        })
        .await;
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_in_trouble_get_nothing_and_machines_to_be_off_need_none() {
    let cloud = Cloud::start().await;
    let mut ill = host("ill", 8192);
    ill.troubles.push("the disk is nearly full".into());
    cloud.create(&ill).await;
    let mut off = machine(1, 256);
    off.desired.power = Power::Off;
    off.settle();
    cloud.create(&off).await;
    cloud.create(&machine(2, 256)).await;
    let machines = cloud
        .until("told why", |all| {
            all.iter().any(|machine| machine.reason.is_some())
        })
        .await;
    let told = machines
        .iter()
        .find(|machine| machine.vmid.0 == 2)
        .unwrap()
        .reason
        .clone()
        .unwrap();
    assert!(
        told.contains("1 is in trouble (the disk is nearly full)"),
        "{told}"
    );
    cloud
        .edit("ill", |host: &mut Host| host.troubles.clear())
        .await;
    cloud
        .until("placed", |all| {
            all.iter().any(|m| m.vmid.0 == 2 && m.host.is_some())
        })
        .await;
    assert!(
        cloud
            .documents
            .machines
            .get(off.local_id())
            .unwrap()
            .host
            .is_none()
    );
    cloud
        .edit(off.local_id(), |machine: &mut Machine| {
            machine.desired.power = Power::On;
        })
        .await;
    cloud
        .until("both placed", |all| {
            all.iter().all(|machine| machine.host.is_some())
        })
        .await;
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_deleted_before_it_had_a_host_leaves_nothing_but_its_record() {
    let cloud = Cloud::start().await;
    let network = NetworkId::from_local("public").unwrap();
    let ip: IpAddr = [10, 77, 0, 9].into();
    let mut waits = machine(7, 1024);
    let nic = Nic {
        address: AddressId::of(&network, ip),
        network: network.clone(),
        ip,
        mac: "0a:0a:0a:4d:00:09".into(),
        model: None,
        port: None,
    };
    let lease = Address {
        id: nic.address.clone(),
        common: waits.common.clone(),
        ip,
        mac: nic.mac.clone(),
        hostname: "h".into(),
        network: Ref::to(network),
        resource: Some(Ref::to(waits.id.clone())),
        kept: false,
        used_since: None,
        unknown: Unknown::new(),
    };
    waits.nics.push(nic);
    cloud
        .documents
        .changes()
        .create(&waits)
        .create(&lease)
        .commit()
        .await
        .unwrap();
    cloud
        .until("told why it waits", |all| {
            all.iter().any(|machine| machine.reason.is_some())
        })
        .await;
    cloud
        .edit(waits.local_id(), |machine: &mut Machine| {
            machine.desired.deleted = true;
        })
        .await;
    cloud.until("gone", <[Machine]>::is_empty).await;
    assert!(cloud.documents.addresses.is_empty());
    assert_eq!(
        cloud.documents.machine_records.get("7").unwrap().addresses,
        [ip]
    );
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_starts_anew_counts_what_runs_before_it_places_more() {
    let cloud = Cloud::start().await;
    cloud.create(&host("a", 1024)).await;
    cloud.create(&machine(1, 768)).await;
    cloud
        .until("placed", |all| {
            all.iter().all(|machine| machine.host.is_some())
        })
        .await;
    let documents = cloud.documents.clone();
    cloud.stop.cancel();
    let Cloud { task, _folder, .. } = cloud;
    task.await.unwrap();

    let created = machine(2, 512);
    documents.changes().create(&created).commit().await.unwrap();
    let stop = CancellationToken::new();
    let policy = Policy {
        memory_reserve_kib: 0,
        ..Policy::default()
    };
    let task = tokio::spawn(Scheduler::new(documents.clone(), policy, "test").run(stop.clone()));
    let cloud = Cloud {
        documents,
        stop,
        task,
        _folder,
    };
    let machines = cloud
        .until("told why", |all| {
            all.iter().any(|machine| machine.reason.is_some())
        })
        .await;
    let second = machines.iter().find(|machine| machine.vmid.0 == 2).unwrap();
    assert!(
        second.host.is_none()
            && second
                .reason
                .as_ref()
                .unwrap()
                .contains("largest free 256 MiB")
    );
    cloud.end().await;
}

/// Whose turn it is.
async fn decides(documents: &Documents) -> Option<Vec<u8>> {
    let key = Key::new("SchedulerTurn", "placing").unwrap();
    let read = documents.store().get(&key).await.unwrap();
    read.map(|entry| entry.value.to_vec())
}

#[tokio::test]
async fn of_two_schedulers_one_decides_and_the_other_goes_on() {
    let cloud = Cloud::start().await;
    cloud.create(&host("a", 4096)).await;
    cloud.create(&machine(1, 512)).await;
    let all_placed = |all: &[Machine]| all.iter().all(|machine| machine.host.is_some());
    cloud.until("placed by the first", all_placed).await;
    assert_eq!(decides(&cloud.documents).await.unwrap(), b"test");
    let stop = CancellationToken::new();
    let second = Scheduler::new(cloud.documents.clone(), Policy::default(), "second");
    let second = tokio::spawn(second.run(stop.clone()));
    cloud.create(&machine(2, 512)).await;
    cloud.until("placed by the first again", all_placed).await;
    assert_eq!(decides(&cloud.documents).await.unwrap(), b"test");
    // It is killed, and lets nothing go.
    cloud.task.abort();
    cloud.create(&machine(3, 512)).await;
    cloud.until("placed by the second", all_placed).await;
    assert_eq!(decides(&cloud.documents).await.unwrap(), b"second");
    // That one is stopped in order.
    stop.cancel();
    second.await.unwrap();
    assert_eq!(decides(&cloud.documents).await, None);
}

#[tokio::test]
async fn a_machine_waits_for_a_host_that_meets_its_requirements() {
    let cloud = Cloud::start().await;
    let named = |id: &str, name: &str| {
        let mut host = host(id, 4096);
        host.common.name = Some(name.into());
        host
    };
    cloud.create(&named("a", "blue.example")).await;
    let mut picky = machine(1, 512);
    picky.requirements = Some("HOSTNAME = 'red*' & FREEMEMORY > 1024".into());
    cloud.create(&picky).await;
    let reason = "waiting for room on 1 host: 1 is not what the machine's requirements ask for";
    cloud
        .until("the machine says why it waits", |machines| {
            machines.iter().all(|m| m.reason.as_deref() == Some(reason))
        })
        .await;
    // It keeps nobody from what it doesn't want.
    cloud.create(&machine(2, 512)).await;
    let placed = |vmid: u32, host: &'static str| {
        move |machines: &[Machine]| {
            let machine = machines.iter().find(|machine| machine.vmid.0 == vmid);
            let at = machine.and_then(|machine| machine.host.as_ref());
            at.is_some_and(|at| at.local() == host)
        }
    };
    cloud.until("the other is placed", placed(2, "a")).await;
    cloud.create(&named("b", "red.example")).await;
    let machines = cloud.until("it is placed", placed(1, "b")).await;
    assert!(machines.iter().all(|machine| machine.reason.is_none()));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_in_maintenance_gets_nothing_until_that_ends() {
    let cloud = Cloud::start().await;
    let mut closed = host("a", 1024);
    closed.desired.maintenance = true;
    cloud.create(&closed).await;
    cloud.create(&machine(1, 256)).await;
    cloud
        .until("told why it waits", |all| {
            all.iter().any(|machine| {
                let reason = machine.reason.as_deref();
                reason == Some("waiting for room on 1 host: 1 is in maintenance")
            })
        })
        .await;
    cloud
        .edit("a", |host: &mut Host| host.desired.maintenance = false)
        .await;
    cloud
        .until("placed", |all| {
            all.iter().all(|machine| machine.host.is_some())
        })
        .await;
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_and_ranks_of_documents_choose_the_host() {
    let cloud = Cloud::start().await;
    for (name, memory_mib) in [("a", 4096), ("b", 8192), ("c", 2048)] {
        cloud.create(&host(name, memory_mib)).await;
    }
    let apart = |vmid| {
        let mut machine = machine(vmid, 256);
        machine.placement.apart = vec!["db".to_owned()];
        machine
    };
    for vmid in 1..=4 {
        cloud.create(&apart(vmid)).await;
    }
    let machines = cloud
        .until("three placed, the fourth told", |all| {
            let placed = all.iter().filter(|machine| machine.host.is_some());
            placed.count() == 3 && all.iter().any(|machine| machine.reason.is_some())
        })
        .await;
    let hosts: std::collections::BTreeSet<_> = machines
        .iter()
        .filter_map(|machine| machine.host.as_ref())
        .map(|host| host.local().to_owned())
        .collect();
    assert_eq!(hosts.len(), 3);
    let reason = machines.iter().find_map(|machine| machine.reason.clone());
    assert_eq!(
        reason.as_deref(),
        Some("waiting for room on 3 hosts: 3 have machines that this one is to be apart from")
    );
    // The smallest first, though the strategy would take the emptiest.
    let mut ranked = machine(5, 256);
    ranked.placement.rank = Some("-TOTALMEMORY".to_owned());
    cloud.create(&ranked).await;
    let machines = cloud
        .until("the ranked one placed", |all| {
            all.iter()
                .any(|machine| machine.vmid.0 == 5 && machine.host.is_some())
        })
        .await;
    let ranked = machines.iter().find(|machine| machine.vmid.0 == 5).unwrap();
    assert_eq!(ranked.host.as_ref().unwrap().local(), "c");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_joined_gets_machines_while_it_is_heard_of() {
    let cloud = Cloud::start().await;
    cloud.create(&joined("a")).await;
    cloud.create(&machine(1, 256)).await;
    let lost = "waiting for room on 1 host: 1 is lost (nothing is heard of it)";
    cloud.until("it waits", waits_because(1, lost)).await;

    cloud.create(&pulse_of("a")).await;
    cloud.until("its host is there", is_on(1, "a")).await;

    cloud.remove::<HostPulse>("a").await;
    cloud.create(&machine(2, 256)).await;
    let all = cloud
        .until("the next one waits", waits_because(2, lost))
        .await;
    assert!(is_on(1, "a")(&all), "where it was placed, it stays");
    cloud.create(&pulse_of("a")).await;
    cloud.until("the host is back", is_on(2, "a")).await;
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_with_volumes_goes_where_they_are() {
    let cloud = Cloud::start().await;
    cloud.create(&joined("a")).await;
    cloud.create(&pulse_of("a")).await;
    let mut with_volume = machine(1, 256);
    with_volume.volumes.push(AttachedVolume {
        volume: VolumeId::generate(),
        initial_location: None,
        hot: false,
        wanted: true,
        stage: AttachStage::Waiting,
        serial: "v".into(),
        taken: None,
    });
    cloud.create(&with_volume).await;
    let no_way = "waiting for room on 1 host: 1 has no way to the storage that the machine needs (for volumes, or to be saved)";
    cloud.until("it waits", waits_because(1, no_way)).await;
    // Who needs none doesn't wait with it.
    cloud.create(&machine(2, 256)).await;
    cloud.until("another is placed", is_on(2, "a")).await;
    cloud.create(&host("own", 1024)).await;
    cloud.until("placed", is_on(1, "own")).await;
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_goes_where_the_bridge_of_its_network_is_and_its_groups_are_known() {
    let cloud = Cloud::start().await;
    cloud.create(&joined("a")).await;
    cloud.create(&pulse_of("a")).await;
    let network = NetworkId::from_local("site").unwrap();
    let site: Network = serde_json::from_value(json!({
        "id": network, "created": Timestamp::now(), "updated": Timestamp::now(), "acl": Acl::owned_by_admin(), "state": "STARTED",
        "class": "public", "subnet": "192.0.2.0/24", "bridge": "br-site", "gateway": "192.0.2.1", "first": "192.0.2.9",
        "last": "192.0.2.9", "domain": "d.example", "nat": false,
    }))
    .unwrap();
    cloud.create(&site).await;
    let ip: IpAddr = [192, 0, 2, 9].into();
    let mut on_site = machine(1, 256);
    on_site.nics.push(Nic {
        address: AddressId::of(&network, ip),
        network,
        ip,
        mac: "0a:0a:0a:4d:00:09".into(),
        model: None,
        port: None,
    });
    cloud.create(&on_site).await;
    let no_bridge = "waiting for room on 1 host: 1 lacks the bridge br-site (the machine's network is plugged into it)";
    cloud
        .until("it waits for a bridge", waits_because(1, no_bridge))
        .await;
    let mut in_group = machine(2, 256);
    in_group.security_groups = vec![Ref::to(SecurityGroupId::generate())];
    cloud.create(&in_group).await;
    let too_old = "waiting for room on 1 host: 1 is too old for security groups (their stratusd is to be upgraded)";
    cloud
        .until("it waits for an upgrade", waits_because(2, too_old))
        .await;
    // Who needs neither doesn't wait with them.
    cloud.create(&machine(3, 256)).await;
    cloud.until("another is placed", is_on(3, "a")).await;
    cloud
        .edit::<Host>("a", |host| host.bridges = vec!["br-site".to_owned()])
        .await;
    cloud.until("the bridge is there", is_on(1, "a")).await;
    cloud
        .edit::<Host>("a", |host| {
            host.features = vec![Host::SECURITY_GROUPS.to_owned()];
        })
        .await;
    cloud.until("it was upgraded", is_on(2, "a")).await;
    cloud.end().await;
}
