//! Two real daemons: a cloud, and a computer that joins it, is seen, lost, seen again, and removed.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Output,
    time::{Duration, Instant},
};

use serde_json::Value;
use store::conformance::etcd_cluster::EtcdCluster;
use testkit::{Need, Options, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// A lease that nobody keeps alive has ended before.
const LEASE_ENDED: Duration = Duration::from_secs(13);

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

/// The host's document, as the cloud gives it.
fn shown(cloud: &TestCloud, name: &str) -> Option<Value> {
    let hosts = cloud.cli_json(&["host", "list"]);
    let mut hosts = hosts.as_array().unwrap().iter();
    hosts.find(|host| host["name"] == name).cloned()
}

fn wait_for_state(cloud: &TestCloud, host: &TestHost, state: &str) -> Value {
    let begun = Instant::now();
    let shown = wait_until(&format!("{state}: {}", host.log()), LIMIT, || {
        shown(cloud, "node7").filter(|shown| shown["state"] == state)
    });
    println!("{state} after {:.1} s", begun.elapsed().as_secs_f64());
    shown
}

/// An entry that is killed and comes back finds its host as it was, and hears from it: else the host would be lost once its
/// lease has ended.
fn survives_a_killed_entry(cloud: &TestCloud, host: &mut TestHost) {
    cloud.kill();
    cloud.start_again();
    let begun = Instant::now();
    wait_until("the end of a lease", LIMIT, || {
        let shown = shown(cloud, "node7").unwrap();
        assert_eq!(shown["state"], "OK", "{}", host.log());
        (begun.elapsed() > LEASE_ENDED).then_some(())
    });
    assert!(host.is_running(), "{}", host.log());
}

/// A host that is removed is told so: it ends, and says why.
fn is_told_that_it_was_removed(cloud: &TestCloud, host: &mut TestHost) {
    cloud.cli(&["host", "remove", "node7"]);
    assert!(shown(cloud, "node7").is_none());
    wait_until("the end of the host's daemon", LIMIT, || {
        (!host.is_running()).then_some(())
    });
    let log = host.log();
    assert!(log.contains("node7 was removed from its cloud"), "{log}");
}

#[test]
fn a_host_joins_a_cloud_whose_documents_are_in_etcd() {
    if skip_unless(&[Need::Qemu, Need::Ssh, Need::Program("setpriv")]) || !EtcdCluster::possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = EtcdCluster::start(folder.path(), 1, None);
    let options = Options {
        tables: format!(
            "[store]\nkind = \"etcd\"\nendpoints = {:?}\nprefix = \"joined\"\n",
            cluster.endpoints()
        ),
        ..Options::default()
    };
    let cloud = TestCloud::start_user_mode_with(&options);
    let mut host = TestHost::new();
    let token = cloud.cli(&["host", "token", "--name", "node7"]);
    // Another, which nobody uses, is seen and withdrawn.
    cloud.cli(&["host", "token", "--name", "node8"]);
    let tokens = || cloud.cli_json(&["host", "token", "list"]);
    let listed = tokens();
    let other = listed.as_array().unwrap().iter();
    let mut other = other.filter(|token| token["name"] == "node8");
    let id = &other.next().unwrap()["id"].as_str().unwrap()[..12];
    cloud.cli(&["host", "token", "withdraw", id]);
    let left = tokens();
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left[0]["name"], "node7");

    // The cloud's own daemon is no host that joins.
    let config = cloud.config().to_str().unwrap();
    let refused = cloud.stratusd(&["join", "--config", config, token.trim(), &cloud.url()]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(
        told(&refused).contains("documents in etcd"),
        "{}",
        told(&refused)
    );
    let joined = host.join(token.trim(), &cloud.url());
    assert!(joined.status.success(), "{}", told(&joined));
    host.start();
    wait_for_state(&cloud, &host, "OK");
    survives_a_killed_entry(&cloud, &mut host);
    host.kill();
    wait_for_state(&cloud, &host, "LOST");
    host.start();
    wait_for_state(&cloud, &host, "OK");
    is_told_that_it_was_removed(&cloud, &mut host);
}

#[test]
fn a_host_joins_is_lost_comes_back_and_is_removed() {
    if skip_unless(&[Need::Qemu, Need::Ssh, Need::Program("setpriv")]) {
        return;
    }
    let cloud = TestCloud::start_user_mode();
    let mut host = TestHost::new();
    let token = cloud.cli(&["host", "token", "--name", "node7"]);
    let token = token.trim();

    // Nothing is said to who isn't the cloud of the token, and the token stays good.
    let other = format!("sjoin_{}{}", "A".repeat(43), &token["sjoin_".len() + 43..]);
    let refused = host.join(&other, &cloud.url());
    assert!(!refused.status.success(), "{refused:?}");
    assert!(
        told(&refused).contains("Nothing was sent"),
        "{}",
        told(&refused)
    );
    let refused = host.join(token, "https://127.0.0.1:1");
    assert!(!refused.status.success(), "{refused:?}");
    assert!(
        told(&refused).contains("the token is still good"),
        "{}",
        told(&refused)
    );

    let begun = Instant::now();
    let joined = host.join(token, &cloud.url());
    let took = begun.elapsed();
    assert!(joined.status.success(), "{}", told(&joined));
    assert!(
        told(&joined).contains("joined as node7"),
        "{}",
        told(&joined)
    );
    println!("joined in {:.2} s", took.as_secs_f64());
    let again = host.join(token, &cloud.url());
    assert!(again.status.success(), "{}", told(&again));
    assert!(
        told(&again).contains("joined already as node7"),
        "{}",
        told(&again)
    );
    for secret in ["key.pem", "joined.json"] {
        let file = host.kept().join(secret);
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    let second = TestHost::new();
    let refused = second.join(token, &cloud.url());
    assert!(
        told(&refused).contains("used already"),
        "{}",
        told(&refused)
    );
    wait_for_state(&cloud, &host, "JOINED");

    host.start();
    let shown_as = wait_for_state(&cloud, &host, "OK");
    assert!(shown_as["cpu"].as_u64().unwrap() > 0, "{shown_as}");
    assert!(shown_as["memory"].as_u64().unwrap() > 0, "{shown_as}");
    cloud.cli(&["host", "maintenance", "node7"]);
    wait_for_state(&cloud, &host, "MAINTENANCE");
    cloud.cli(&["host", "maintenance", "node7", "--off"]);

    host.kill();
    wait_for_state(&cloud, &host, "LOST");
    // Its certificate is about to end: the next one is had first of all.
    let old = host.certificate();
    host.renew_in(Duration::ZERO);
    host.start();
    wait_until("a new certificate", LIMIT, || {
        (host.certificate() != old).then_some(())
    });
    wait_for_state(&cloud, &host, "OK");

    survives_a_killed_entry(&cloud, &mut host);

    // In order: nobody has to wait for the lease.
    assert!(host.stop(), "{}", host.log());
    wait_for_state(&cloud, &host, "LOST");
    host.start();
    wait_for_state(&cloud, &host, "OK");
    is_told_that_it_was_removed(&cloud, &mut host);
    let again = host.join(token, &cloud.url());
    assert!(told(&again).contains("joined already"), "{}", told(&again));
    fs::remove_dir_all(host.kept()).unwrap();
    let refused = host.join(token, &cloud.url());
    assert!(!refused.status.success(), "{refused:?}");
    assert!(
        told(&refused).contains("used already"),
        "{}",
        told(&refused)
    );
    let log = host.log();
    for secret in [token, &token["sjoin_".len() + 43..]] {
        assert!(!log.contains(secret) && !cloud.log().contains(secret));
    }
}
