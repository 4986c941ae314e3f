//! A cloud whose documents are in etcd.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::collections::BTreeSet;

use serde_json::Value;
use store::conformance::etcd_cluster::EtcdCluster;
use testkit::{Need, Options, TestCloud, skip_unless};

#[test]
fn a_cloud_on_etcd_goes_on_while_a_member_is_lost() {
    if skip_unless(&[Need::Qemu, Need::Ssh, Need::Program("setpriv")]) || !EtcdCluster::possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = EtcdCluster::start(folder.path(), 3, None);
    let tables = format!(
        "[store]\nkind = \"etcd\"\nendpoints = {:?}\nprefix = \"test\"\n",
        cluster.endpoints()
    );
    let options = Options {
        tables,
        ..Options::default()
    };
    let cloud = TestCloud::start_user_mode_with(&options);
    let first = cloud.machine();
    first.wait_for_phase("Running");

    let leader = cluster.leader();
    cluster.kill(leader);
    let second = cloud.machine();
    second.wait_for_phase("Running");
    first.kill();
    first.wait_for_phase("Done");
    cluster.restart(leader);

    // What the daemon knows is in etcd alone.
    cloud.kill();
    cloud.start_again();
    second.wait_for_phase("Running");
    assert!(!cloud.state_dir().join("db/stratus.db").exists());
    second.kill();
    second.wait_for_phase("Done");
    cloud.assert_clean();
}

/// What users see of their tokens and of the machine's name.
fn state_of(cloud: &TestCloud, machine: &str) -> (BTreeSet<String>, Value) {
    let tokens = cloud.cli_json(&["token", "list"]);
    let names = tokens.as_array().unwrap().iter();
    let names = names.map(|token| token["name"].as_str().unwrap().to_owned());
    (
        names.collect(),
        cloud.api().get(machine).ok()["name"].clone(),
    )
}

#[test]
fn a_cloud_moves_to_etcd_and_back_while_its_machines_run() {
    if skip_unless(&[Need::Qemu, Need::Ssh, Need::Program("setpriv")]) || !EtcdCluster::possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = EtcdCluster::start(folder.path(), 1, None);
    let cloud = TestCloud::start_user_mode();
    let machine = cloud.machine();
    machine.wait_for_ssh();
    let boot = machine.ssh("cat /proc/sys/kernel/random/boot_id");
    for name in ["to be revoked", "to stay"] {
        cloud.cli(&["token", "create", name]);
    }
    let then = state_of(&cloud, &machine.id);

    let on_sqlite = std::fs::read_to_string(cloud.config()).unwrap();
    let on_etcd_as = |prefix: &str| {
        format!(
            "{on_sqlite}[store]\nkind = \"etcd\"\nendpoints = {:?}\nprefix = \"{prefix}\"\n",
            cluster.endpoints()
        )
    };
    let on_etcd = on_etcd_as("moved");
    let (old, new) = (
        cloud.folder().join("old.toml"),
        cloud.folder().join("new.toml"),
    );
    let migrate = |from: &str, to: &str| {
        std::fs::write(&old, from).unwrap();
        std::fs::write(&new, to).unwrap();
        let (old, new) = (old.to_str().unwrap(), new.to_str().unwrap());
        cloud.stratusd(&["store", "migrate", "--from", old, "--to", new])
    };
    let told = |output: &std::process::Output| {
        String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
    };
    let refused = migrate(&on_sqlite, &on_etcd);
    assert!(
        !refused.status.success() && told(&refused).contains("stop it first"),
        "{refused:?}"
    );

    assert!(cloud.stop().success());
    let backup = cloud.state_dir().join("backup.json");
    let config = cloud.config().to_str().unwrap();
    let file = backup.to_str().unwrap();
    let backed_up = cloud.stratusd(&["store", "backup", "--config", config, file]);
    assert!(backed_up.status.success(), "{}", told(&backed_up));
    let moved = migrate(&on_sqlite, &on_etcd);
    assert!(moved.status.success(), "{}", told(&moved));
    std::fs::write(cloud.config(), &on_etcd).unwrap();
    cloud.start_again();
    let is_as_before = || {
        machine.wait_for_phase("Running");
        assert_eq!(machine.ssh("cat /proc/sys/kernel/random/boot_id"), boot);
    };
    is_as_before();
    assert_eq!(state_of(&cloud, &machine.id), then);

    // Something is made, changed and deleted that the backup knows otherwise.
    cloud.cli(&["token", "create", "made later"]);
    let tokens = cloud.cli_json(&["token", "list"]);
    let mut tokens = tokens.as_array().unwrap().iter();
    let revoked = tokens.find(|token| token["name"] == "to be revoked");
    cloud.cli(&["token", "revoke", revoked.unwrap()["id"].as_str().unwrap()]);
    let renamed = serde_json::json!({"name": "renamed"});
    let path = format!("{}?$select=name", machine.id);
    cloud.api().put(&path, &renamed).ok();
    let later = state_of(&cloud, &machine.id);
    assert_ne!(later, then);

    // Back: over the documents as they were, nothing is written; into an empty database, it is.
    assert!(cloud.stop().success());
    let refused = migrate(&on_etcd, &on_sqlite);
    assert!(
        !refused.status.success() && told(&refused).contains("not empty"),
        "{refused:?}"
    );
    let database = cloud.state_dir().join("db");
    std::fs::rename(&database, cloud.state_dir().join("db.old")).unwrap();
    let moved = migrate(&on_etcd, &on_sqlite);
    assert!(moved.status.success(), "{}", told(&moved));
    std::fs::write(cloud.config(), &on_sqlite).unwrap();
    cloud.start_again();
    is_as_before();
    assert_eq!(state_of(&cloud, &machine.id), later);

    // The backup, restored into either, is the cloud as it was then, whatever became of it since; the same machine runs.
    std::fs::rename(&database, cloud.state_dir().join("db.back")).unwrap();
    for kept_in in [on_etcd_as("restored"), on_sqlite] {
        assert!(cloud.stop().success());
        std::fs::write(cloud.config(), kept_in).unwrap();
        let restored = cloud.stratusd(&["store", "restore", "--config", config, file]);
        assert!(restored.status.success(), "{}", told(&restored));
        cloud.start_again();
        is_as_before();
        assert_eq!(state_of(&cloud, &machine.id), then);
    }
    machine.kill();
    machine.wait_for_phase("Done");
    cloud.assert_clean();
}
