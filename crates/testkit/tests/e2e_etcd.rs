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
