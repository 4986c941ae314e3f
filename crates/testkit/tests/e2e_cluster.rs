//! A cloud of many computers, each in a network namespace of its own: three members of etcd, two entries, the storage, three hosts.
//! Each kind is lost in turn, by a kill and by a cut cable, while users ask and guests write. All is real, by `make cluster`.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use testkit::{Cluster, ClusterMachine, Need, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Users are served again so long after any fault, in seconds.
const BACK_WITHIN: f64 = 10.0;

/// Makes tokens, one after the other, and revokes old ones, as long as `load.on` is there. Notes of each when it was acknowledged or
/// refused.
const LOAD: &str = r#"
. ./cluster.env
n=0 ids=()
while [ -e load.on ]; do
    n=$((n + 1))
    if said=$(stratus token create "load-$n" --format json 2>>load.err); then
        echo "$EPOCHREALTIME $n acknowledged"
        ids[n]=$(jq -r .id <<<"$said")
    else
        echo "$EPOCHREALTIME $n refused ${said//$'\n'/ }"
    fi
    old=$((n > 50 ? n - 50 : 0))
    if [ -n "${ids[old]:-}" ]; then
        echo "$EPOCHREALTIME $old revoking"
        ! stratus token revoke "${ids[old]}" >/dev/null 2>>load.err || echo "$EPOCHREALTIME $old revoked"
    fi
done >load.log
"#;

/// Makes volumes and deletes old ones, and now and then a machine, which is killed as the next one is made. Notes what was acknowledged,
/// and what was about to be deleted.
const LOAD_OF_THINGS: &str = r#"
. ./cluster.env
n=0 old=() machine=
while [ -e load.on ]; do
    n=$((n + 1))
    if said=$(stratus create-volume --size 1 --format json 2>>things.err); then
        old+=("$(jq -r .uuid <<<"$said")")
        echo "volume ${old[-1]} made"
    fi
    if [ ${#old[@]} -gt 5 ]; then
        echo "volume ${old[0]} deleting"
        ! stratus delete-volume "${old[0]}" >/dev/null 2>>things.err || echo "volume ${old[0]} deleted"
        old=("${old[@]:1}")
    fi
    if [ $((n % 10)) = 1 ]; then
        if [ -n "$machine" ]; then
            echo "machine $machine deleting"
            ! stratus kill-instance "$machine" >/dev/null 2>>things.err || echo "machine $machine deleted"
        fi
        machine=
        if said=$(stratus run-instance --format json "$STRATUS_IMAGE" 2>>things.err); then
            machine=$(jq -r '.[0].id' <<<"$said")
            echo "machine $machine made"
        fi
    fi
done >things.log
"#;

const ALL_OK: &str = "host1 OK, host2 OK, host3 OK";

/// As long as it is there, users ask. Also a test that fails has to end them: it waits for them.
struct Loaded(PathBuf);

impl Loaded {
    fn new(cluster: &Cluster) -> Self {
        let on = cluster.folder().join("load.on");
        fs::write(&on, "").unwrap();
        Self(on)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// How many requests were acknowledged by now.
fn acknowledged(cluster: &Cluster) -> usize {
    let log = fs::read_to_string(cluster.folder().join("load.log")).unwrap_or_default();
    log.lines()
        .filter(|line| line.ends_with(" acknowledged"))
        .count()
}

/// Users are served: more is acknowledged than before.
fn wait_for_service(cluster: &Cluster, when: &str) {
    let before = acknowledged(cluster);
    wait_until(&format!("service, {when}"), LIMIT, || {
        (acknowledged(cluster) > before + 2).then_some(())
    });
}

/// The lines that the guest has on the volume, all in order.
fn lines(cluster: &Cluster, machine: &ClusterMachine) -> usize {
    let text = cluster.ssh(&machine.address, "cat /mnt/log");
    for (number, line) in text.lines().enumerate() {
        assert_eq!(line, format!("line {}", number + 1));
    }
    text.lines().count()
}

fn wait_for_writes(cluster: &Cluster, machine: &ClusterMachine) {
    let before = lines(cluster, machine);
    wait_until("more lines", LIMIT, || {
        (lines(cluster, machine) > before + 2).then_some(())
    });
}

/// A volume on the storage, at the machine on `host2`, written line by line, each on the disk before the next.
fn write_a_volume(cluster: &Cluster, machine: &ClusterMachine) {
    cluster.mount_a_volume(machine);
    cluster.ssh(
        &machine.address,
        "touch /mnt/log; (n=1; while echo line $n >> /mnt/log && sync; do n=$((n+1)); sleep 0.2; done) >/dev/null 2>&1 </dev/null &",
    );
    wait_for_writes(cluster, machine);
}

/// Since 1970, in seconds, as the load notes it.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// What was done to the cluster, and when.
type Faults = Vec<(String, f64)>;

/// After each fault, the longest time until the next one in which nothing was acknowledged.
fn gaps(log: &str, faults: &Faults) -> Vec<(String, f64)> {
    let times = log.lines().filter(|line| line.ends_with(" acknowledged"));
    let times: Vec<f64> = times
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    let until = faults.iter().skip(1).map(|(_, when)| *when);
    let until = until.chain([f64::INFINITY]);
    let gap = |((what, from), until): (&(String, f64), f64)| {
        let two = times
            .windows(2)
            .filter(|two| two[1] > *from && two[0] < until);
        let longest = two.map(|two| two[1] - two[0]).fold(0.0, f64::max);
        (what.clone(), longest)
    };
    faults.iter().zip(until).map(gap).collect()
}

/// The volumes, or machines, that are there.
fn things(cluster: &Cluster, kind: &str) -> BTreeSet<String> {
    let (list, name) = match kind {
        "volume" => ("describe-volumes --format json", "uuid"),
        _ => ("describe-instance --format json", "id"),
    };
    let all: Vec<Value> = serde_json::from_str(&cluster.stratus(list)).unwrap();
    let ids = all.iter().map(|one| match &one[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    ids.collect()
}

/// Of what was acknowledged, made things are there and deleted ones aren't; none was made that is left out. What is left is deleted.
fn no_thing_is_lost(cluster: &Cluster, kept: &BTreeSet<String>) {
    let log = fs::read_to_string(cluster.folder().join("things.log")).unwrap();
    let of = |kind: &str, what: &str| -> BTreeSet<String> {
        let lines = log.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let those = lines.filter(|words| words[0] == kind && words[2] == what);
        those.map(|words| words[1].to_owned()).collect()
    };
    let there = |kind: &str| -> BTreeSet<String> {
        let all = things(cluster, kind);
        all.into_iter().filter(|id| !kept.contains(id)).collect()
    };
    for (kind, delete) in [("volume", "delete-volume"), ("machine", "kill-instance")] {
        let (made, deleting) = (of(kind, "made"), of(kind, "deleting"));
        let lost: Vec<_> = made
            .difference(&deleting)
            .filter(|id| !there(kind).contains(*id))
            .collect();
        assert!(lost.is_empty(), "{kind}s are lost: {lost:?}: {log}");
        eprintln!(
            "{} of {kind} made, {} deleted",
            made.len(),
            of(kind, "deleted").len()
        );
        assert!(made.len() > 3, "{log}");
        wait_until("what was deleted to be gone", LIMIT, || {
            of(kind, "deleted").is_disjoint(&there(kind)).then_some(())
        });
        for id in there(kind) {
            cluster.stratus(&format!("{delete} {id}"));
        }
        wait_until("all to be gone", LIMIT, || {
            there(kind).is_empty().then_some(())
        });
    }
}

/// Content goes through entries to where it is kept, and comes back as it was; without that, they say so.
fn content_passes_entries(cluster: &Cluster) {
    cluster.shell("head -c 3000000 /dev/urandom > random.img && truncate -s 4M random.img");
    cluster.stratus("image import random.img --name random");
    cluster.stratus("image export random -o back.img");
    cluster.shell("cmp random.img back.img");
    cluster.stratus("image export random -o back.qcow2 --format qcow2");
    cluster.shell("qemu-img convert -O raw back.qcow2 back.raw && cmp random.img back.raw");

    cluster.tell("kill", "store1");
    let refused = cluster.try_stratus("image export random -o other.img");
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(
        !refused.status.success() && said.contains("keeps the images of this cloud"),
        "{said}"
    );
    assert!(!cluster.folder().join("other.img").exists());
    cluster.tell("start", "store1");
    cluster.stratus("image export random -o other.img");
    cluster.shell("cmp random.img other.img");

    // One storage: another folder is told whose it is.
    let said = cluster.shell(
        "sed 's|^state_dir.*|state_dir = \"'$PWD'/other\"|; s|^listen.*|listen = \"127.0.0.1:8555\"|' .cluster/store1/stratusd.toml > other.toml && \
         ! packaging/cluster in store1 $STRATUS_PROGRAMS/stratusd serve --config other.toml --roles storage",
    );
    assert!(
        said.contains("are kept by another daemon, on store1"),
        "{said}"
    );
    // And of two with copies of it, the second one that the first is there.
    let said = cluster.shell(
        "mkdir other 2>/dev/null; cp .cluster/store1/state/storage-id other/ && \
         ! packaging/cluster in store1 $STRATUS_PROGRAMS/stratusd serve --config other.toml --roles storage",
    );
    assert!(
        said.contains("on store1") && said.contains("stop that daemon first"),
        "{said}"
    );
}

/// The disk of a machine comes from its host to the storage, which is no entry.
fn a_machine_is_saved(cluster: &Cluster) {
    let before = cluster.machines();
    cluster.stratus(
        "run-instance -q --save --author Ann --author-email ann@example.org --image-version 1.0 --title from-its-host --comment made $STRATUS_IMAGE",
    );
    let machine = wait_until("the machine to run", LIMIT, || {
        let mut all = cluster.machines().into_iter();
        all.find(|one| one.state == "Running" && before.iter().all(|other| other.id != one.id))
    });
    cluster.stratus(&format!("shutdown-instance {}", machine.id));
    wait_until("the image of its disk", LIMIT, || {
        let all: Vec<Value> =
            serde_json::from_str(&cluster.stratus("image list --format json")).unwrap();
        let mut all = all.iter();
        let made = all.find(|image| image["name"] == "from-its-host")?;
        (made["state"] == "AVAILABLE").then_some(())
    });
    wait_until("the machine to be gone", LIMIT, || {
        (cluster.machines().len() == before.len()).then_some(())
    });
}

/// The name of a computer, which may be that of the member of etcd that leads.
fn named(cluster: &Cluster, computer: &str) -> String {
    if computer == "the leader" {
        cluster.shell("packaging/cluster leader").trim().to_owned()
    } else {
        computer.to_owned()
    }
}

#[test]
fn a_cluster_goes_on_when_any_of_its_computers_is_lost() {
    let tools = [
        "make", "jq", "curl", "flock", "nsenter", "openssl", "etcd", "etcdctl",
    ];
    if skip_unless(&[]) || skip_unless(&tools.map(Need::Program)) {
        return;
    }
    let cluster = Cluster::up();
    cluster.wait_for_hosts(ALL_OK);
    let begun = cluster.machines();
    let hosts: Vec<_> = begun.iter().map(|machine| machine.host.as_str()).collect();
    assert_eq!(hosts, ["host1", "host2", "host3"]);
    let boots: Vec<_> = begun
        .iter()
        .map(|machine| cluster.ssh(&machine.address, "cat /proc/sys/kernel/random/boot_id"))
        .collect();
    content_passes_entries(&cluster);
    a_machine_is_saved(&cluster);
    let writer = &begun[1];
    write_a_volume(&cluster, writer);

    let before = &things(&cluster, "volume") | &things(&cluster, "machine");

    let mut faults = Faults::new();
    let mut fault = |what: &str, computer: &str| {
        faults.push((format!("{what} {computer}"), now()));
        cluster.tell(what, computer);
    };
    std::thread::scope(|threads| {
        let loaded = Loaded::new(&cluster);
        let load = threads.spawn(|| cluster.shell(LOAD));
        let things = threads.spawn(|| cluster.shell(LOAD_OF_THINGS));
        wait_until("the first request", LIMIT, || {
            (acknowledged(&cluster) > 0).then_some(())
        });
        // Killed as by a crash.
        for computer in ["entry1", "the leader", "store1"] {
            let computer = &named(&cluster, computer);
            fault("kill", computer);
            wait_for_service(&cluster, &format!("without {computer}"));
            fault("start", computer);
            wait_for_service(&cluster, &format!("with {computer}"));
            wait_for_writes(&cluster, writer);
        }
        fault("kill", "host2");
        cluster.wait_for_hosts("host1 OK, host2 LOST, host3 OK");
        let machines = cluster.machines();
        let lost = machines.iter().find(|machine| machine.id == writer.id);
        assert_eq!(lost.unwrap().state, "Unknown");
        fault("start", "host2");
        cluster.wait_for_hosts(ALL_OK);
        wait_for_writes(&cluster, writer);
        // Gone without a word.
        for computer in ["entry2", "the leader", "store1", "host3"] {
            let computer = &named(&cluster, computer);
            fault("cut", computer);
            wait_for_service(&cluster, &format!("{computer} is cut off"));
            if computer == "host3" {
                cluster.wait_for_hosts("host1 OK, host2 OK, host3 LOST");
            }
            if computer == "store1" {
                // By then another one may have its part, as far as it knows.
                wait_until("it hands out no volumes", LIMIT, || {
                    let log = cluster.log(computer);
                    log.contains("none is handed out here").then_some(())
                });
            }
            fault("mend", computer);
            wait_for_service(&cluster, &format!("{computer} is back"));
            wait_for_writes(&cluster, writer);
        }
        cluster.wait_for_hosts(ALL_OK);
        drop(loaded);
        load.join().unwrap();
        things.join().unwrap();
    });
    no_thing_is_lost(&cluster, &before);

    // Nothing that was acknowledged is lost.
    let log = fs::read_to_string(cluster.folder().join("load.log")).unwrap();
    let known: Vec<Value> =
        serde_json::from_str(&cluster.stratus("token list --format json")).unwrap();
    let known: BTreeSet<_> = known
        .iter()
        .filter_map(|token| token["name"].as_str())
        .collect();
    let numbers = |what: &str| -> BTreeSet<_> {
        let lines = log.lines().filter(|line| line.ends_with(what));
        lines
            .map(|line| format!("load-{}", line.split(' ').nth(1).unwrap()))
            .collect()
    };
    let (made, revoking, revoked) = (
        numbers(" acknowledged"),
        numbers(" revoking"),
        numbers(" revoked"),
    );
    for name in made.difference(&revoking) {
        assert!(known.contains(&**name), "{name} is lost: {log}");
    }
    for name in &revoked {
        assert!(!known.contains(&**name), "{name} is back: {log}");
    }
    let refused: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" refused "))
        .collect();
    eprintln!(
        "{} requests acknowledged, {} refused\n{}",
        acknowledged(&cluster),
        refused.len(),
        refused.join("\n")
    );
    let gaps = gaps(&log, &faults);
    for (what, gap) in &gaps {
        eprintln!("{what}: nothing acknowledged for {gap:.1} s at most");
    }
    let late: Vec<_> = gaps.iter().filter(|(_, gap)| *gap > BACK_WITHIN).collect();
    assert!(late.is_empty(), "service was not back in time: {late:?}");

    // No machine was harmed.
    wait_until("all run", LIMIT, || {
        cluster
            .machines()
            .iter()
            .all(|machine| machine.state == "Running")
            .then_some(())
    });
    assert_eq!(cluster.machines(), begun);
    for (machine, boot) in begun.iter().zip(boots) {
        assert_eq!(
            cluster.ssh(&machine.address, "cat /proc/sys/kernel/random/boot_id"),
            boot
        );
    }
    lines(&cluster, writer);
    let doctor = cluster.try_as_admin("doctor");
    assert!(doctor.status.success(), "{doctor:?}");
    assert_eq!(cluster.down(), [""; 0]);
}
