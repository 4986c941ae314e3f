//! The distributed store passes the suite that every store has to pass, on a real cluster of three.

use store::conformance::Fixture;
use store::conformance::etcd_cluster::EtcdCluster;
use store::{EtcdOptions, EtcdStore};

async fn fixture() -> Option<Fixture> {
    if !EtcdCluster::possible() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_owned();
    let started = tokio::task::spawn_blocking(move || EtcdCluster::start(&path, 3, None)).await;
    let cluster = started.expect("a cluster");
    let options = EtcdOptions::new(cluster.endpoints());
    let store = EtcdStore::open(options).await.expect("a new store");
    Some(Fixture::new(store, (cluster, folder)))
}

store::conformance_tests!(fixture);
