//! A cloud of many computers, as `make cluster` makes it: three members of etcd, two entries, the storage, three hosts.
//!
//! | row | budget |
//! |---|---|
//! | a machine's creation, as its entry noted it → QEMU runs on another host, as that noted it | 40 ms |
//! | moved while its guest runs: how long that stands still | 300 ms |
//! | `stratusd join` → the host takes machines (of a cloud of one daemon) | 5 s |
//!
//! `cargo build --release --workspace --bins` before, `STRATUS_ROUNDS=N` for another number of rounds than 10. As root.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{
    fs,
    time::{Duration, Instant, UNIX_EPOCH},
};

use cimi::Timestamp;
use serde_json::Value;
use testkit::{Cluster, Need, TestCloud, TestHost, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(120);

fn main() {
    let tools = [
        "make", "jq", "curl", "flock", "nsenter", "openssl", "etcd", "etcdctl",
    ];
    // `cargo test --benches` only wants to know that it can be built.
    let is_test = std::env::args().any(|argument| argument == "--test");
    if is_test || skip_unless(&[]) || skip_unless(&tools.map(Need::Program)) {
        return;
    }
    let rounds = std::env::var("STRATUS_ROUNDS").map_or(10, |text| text.parse().unwrap());
    row(
        "join -> takes machines",
        5000.0,
        (0..rounds).map(|_| joining()),
    );
    let cluster = Cluster::up();
    cluster.wait_for_hosts("host1 OK, host2 OK, host3 OK");
    // The first one's network is where machines are reached from; it stays.
    for machine in &cluster.machines()[1..] {
        cluster.stratus(&format!("kill-instance --wait {}", machine.id));
    }
    row(
        "created -> QEMU runs there",
        40.0,
        (0..rounds).map(|_| start(&cluster)),
    );
    row(
        "moved live: standstill",
        300.0,
        moves(&cluster, rounds).into_iter(),
    );
    let left = cluster.down();
    assert!(left.is_empty(), "{left:?}");
}

/// Milliseconds: the median, the least and the most.
fn row(what: &str, budget: f64, times: impl Iterator<Item = f64>) {
    let mut all: Vec<f64> = times.collect();
    all.sort_by(f64::total_cmp);
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    println!(
        "{what:<28} median {:8.1} ms, {:.1} to {:.1} ms of {} (budget {budget:.0} ms), load average {}",
        all[all.len() / 2],
        all[0],
        all[all.len() - 1],
        all.len(),
        load.split(' ').next().unwrap()
    );
}

fn joining() -> f64 {
    let cloud = TestCloud::start_user_mode();
    let mut host = TestHost::new();
    let token = cloud.cli(&["host", "token", "--name", "node7"]);
    let began = Instant::now();
    let joined = host.join(token.trim(), &cloud.url());
    assert!(joined.status.success(), "{joined:?}");
    host.start();
    host.wait_for_state(&cloud, "OK");
    began.elapsed().as_secs_f64() * 1e3
}

/// The number and the document of a machine of this name, once it runs.
fn run(cluster: &Cluster, name: &str, requirements: &str) -> (String, Value) {
    cluster.stratus(&format!(
        "run-instance -q --vm-name {name} {requirements} $STRATUS_IMAGE"
    ));
    let number = wait_until("the machine to run", LIMIT, || {
        let text = cluster.stratus("describe-instance --format json");
        let all: Vec<Value> = serde_json::from_str(&text).unwrap();
        let running = all
            .iter()
            .find(|machine| machine["name"] == name && machine["state"] == "Running");
        Some(running?["id"].to_string())
    });
    let document = cluster.stratus(&format!("describe-instance -vvv {number} --format json"));
    (number, serde_json::from_str(&document).unwrap())
}

fn start(cluster: &Cluster) -> f64 {
    let on_host2 = "--vm-requirements 'NAME = \"host2\"'";
    let (number, machine) = run(cluster, "started", on_host2);
    let uuid = machine["id"].as_str().unwrap().rsplit('/').next().unwrap();
    let created: Timestamp = machine["created"].as_str().unwrap().parse().unwrap();
    let record = format!(".cluster/host2/state/machines/{uuid}/launch.json");
    let record = fs::metadata(cluster.folder().join(record)).unwrap();
    let noted = record
        .modified()
        .unwrap()
        .duration_since(UNIX_EPOCH)
        .unwrap();
    cluster.stratus(&format!("kill-instance --wait {number}"));
    noted.as_secs_f64() * 1e3 - created.as_millis() as f64
}

fn moves(cluster: &Cluster, rounds: usize) -> Vec<f64> {
    let (number, machine) = run(cluster, "moving", "");
    // Somewhere else each time.
    let there = ["host1", "host2", "host3"].into_iter().cycle();
    let there = there.skip_while(|host| machine["hostname"] != *host);
    let there = there.skip(1).take(rounds);
    there
        .map(|host| {
            let moved =
                cluster.as_admin(&format!("host move {number} {host} --wait --format json"));
            let moved: Value = serde_json::from_str(&moved).unwrap();
            // None: it went at rest.
            let stood = moved["lastMove"]["downtimeMilliseconds"].as_f64();
            stood.unwrap()
        })
        .collect()
}
