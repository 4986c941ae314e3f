//! Images come from hosts that have them: while the storage is cut off, and with hosts that give something else. All is real, by
//! `make cluster`.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::time::Duration;

use testkit::{Cluster, ClusterMachine, Need, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
const FROM_A_HOST: &str = "an image is here now, from another host";
const FROM_THE_CLOUD: &str = "an image is here now image=";
const NOT_GIVEN: &str = "another host did not give an image";

fn count(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains(what)).count()
}

/// The machine on `host3`, if one runs there.
fn on_host3(cluster: &Cluster) -> Option<ClusterMachine> {
    let mut machines = cluster.machines().into_iter();
    machines.find(|one| one.host == "host3" && one.state == "Running")
}

/// Ends the machine on `host3`, and takes all images from there.
fn forget_all_on_host3(cluster: &Cluster) {
    let machine = on_host3(cluster).unwrap();
    cluster.stratus(&format!("kill-instance {}", machine.id));
    wait_until("it is gone", LIMIT, || {
        let mut machines = cluster.machines().into_iter();
        let gone = machines.all(|one| one.id != machine.id || one.state == "Done");
        gone.then_some(())
    });
    cluster.shell("rm -f .cluster/host3/state/cache/replicas/*");
}

/// A machine on `host3`, which has to fetch all that it needs.
fn start_on_host3(cluster: &Cluster) {
    cluster.stratus(
        "run-instance -q --vm-name anew --vm-requirements 'NAME = \"host3\"' $STRATUS_IMAGE",
    );
    let machine = wait_until("a machine on host3", LIMIT, || on_host3(cluster));
    cluster.ssh(&machine.address, "true");
}

#[test]
fn a_host_has_images_from_others_while_the_storage_is_cut_off_and_finds_out_who_lies() {
    let tools = [
        "make", "jq", "curl", "flock", "nsenter", "openssl", "etcd", "etcdctl",
    ];
    if skip_unless(&[]) || skip_unless(&tools.map(Need::Program)) {
        return;
    }
    let cluster = Cluster::up();
    cluster.wait_for_hosts("host1 OK, host2 OK, host3 OK");
    let others: Vec<_> = cluster.machines().into_iter().take(2).collect();

    // Disk, kernel and initrd, and nobody could have sent them but hosts.
    forget_all_on_host3(&cluster);
    let before = cluster.log("host3");
    cluster.tell("cut", "store1");
    start_on_host3(&cluster);
    let log = cluster.log("host3");
    let log = log.strip_prefix(&*before).unwrap();
    assert_eq!(count(log, FROM_A_HOST), 3, "{log}");
    assert_eq!(count(log, FROM_THE_CLOUD), 0, "{log}");
    cluster.tell("mend", "store1");
    let given = ["host1", "host2"].map(|host| {
        let log = cluster.log(host);
        count(&log, "another host has an image from here")
    });
    assert!(given.iter().sum::<usize>() >= 3, "{given:?}");

    // Both give another disk now, as long as the right one. What runs there has that open.
    forget_all_on_host3(&cluster);
    cluster.shell(
        "for host in host1 host2; do \
           cd .cluster/$host/state/cache/replicas && mkdir ../aside && mv -- *.disk ../aside/ && cp ../aside/*.disk . && \
           for file in *.disk; do printf lie | dd of=$file bs=1 seek=100000 conv=notrunc status=none; done && cd - >/dev/null || exit; \
         done",
    );
    let before = cluster.log("host3");
    start_on_host3(&cluster);
    let log = cluster.log("host3");
    let log = log.strip_prefix(&*before).unwrap();
    let lies = log
        .lines()
        .filter(|line| line.contains(NOT_GIVEN) && line.contains("SHA-1 mismatch"));
    // On a busy computer one of them may have been left for its slowness before it was found out.
    assert!(lies.count() >= 1, "{log}");
    assert!(count(log, FROM_THE_CLOUD) >= 1, "{log}");
    cluster.shell(
        "for host in host1 host2; do cd .cluster/$host/state/cache && mv -f aside/*.disk replicas/ && rmdir aside && cd - >/dev/null || exit; done",
    );

    // Who gave was not disturbed.
    let now: Vec<_> = cluster.machines().into_iter().take(2).collect();
    assert_eq!(now, others);
    for machine in &others {
        cluster.ssh(&machine.address, "true");
    }
    let doctor = cluster.try_as_admin("doctor");
    assert!(doctor.status.success(), "{doctor:?}");
    assert_eq!(cluster.down(), [""; 0]);
}
