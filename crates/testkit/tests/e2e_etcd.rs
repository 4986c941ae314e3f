//! A cloud whose documents are in etcd.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

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

    let on_sqlite = std::fs::read_to_string(cloud.config()).unwrap();
    let on_etcd = format!(
        "{on_sqlite}[store]\nkind = \"etcd\"\nendpoints = {:?}\nprefix = \"moved\"\n",
        cluster.endpoints()
    );
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

    // The backup, restored, is the cloud as it was then: the same machine runs.
    assert!(cloud.stop().success());
    std::fs::rename(&database, cloud.state_dir().join("db.back")).unwrap();
    let restored = cloud.stratusd(&["store", "restore", "--config", config, file]);
    assert!(restored.status.success(), "{}", told(&restored));
    cloud.start_again();
    is_as_before();
    machine.kill();
    machine.wait_for_phase("Done");
    cloud.assert_clean();
}
