//! The distributed store passes the suite that every store has to pass on a cluster whose members and clients have certificates, and
//! that asks for a login, with tokens that soon expire.
#![allow(clippy::panic)] // a test that panics has failed

use std::time::Duration;

use store::conformance::Fixture;
use store::conformance::etcd_cluster::EtcdCluster;
use store::{EtcdOptions, EtcdStore, Key, Prefix, Store, StoreError, Transaction};

use crate::secured_etcd;

async fn start() -> Option<(EtcdCluster, EtcdOptions, tempfile::TempDir)> {
    if !EtcdCluster::possible() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_owned();
    let started = tokio::task::spawn_blocking(move || secured_etcd::start(&path)).await;
    let (cluster, options) = started.expect("a cluster");
    Some((cluster, options, folder))
}

async fn fixture() -> Option<Fixture> {
    let (cluster, options, folder) = start().await?;
    let store = EtcdStore::open(options).await.expect("a new store");
    Some(Fixture::new(store, (cluster, folder)))
}

store::conformance_tests!(fixture);

/// Each of the things that end a login (its time, a change of rights, a member that was started anew) is answered by logging in again;
/// a watch goes on with what comes after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_logged_out_logs_in_again() {
    let Some((mut cluster, options, _folder)) = start().await else {
        return;
    };
    let store = EtcdStore::open(options).await.expect("a new store");
    let name: Key = "thing/1".parse().expect("a key");
    let write = async |value: &'static str| {
        let put = Transaction::new().put(name.clone(), value);
        store.commit(put).await.map(drop)
    };
    write("begun").await.expect("the first");
    let begun = store
        .get(&name)
        .await
        .expect("an answer")
        .expect("it")
        .revision;
    let mut watch = store
        .watch(Prefix::everything(), begun)
        .await
        .expect("a watch");

    // Longer than a token is good that nobody uses.
    tokio::time::sleep(Duration::from_secs(4)).await;
    write("after a rest").await.expect("a new token");
    for told in [
        &["--user", "root:root", "role", "add", "other"][..],
        &[
            "--user",
            "root:root",
            "user",
            "grant-role",
            "stratus",
            "other",
        ],
    ] {
        cluster
            .ctl(told)
            .unwrap_or_else(|error| panic!("{told:?}: {error}"));
    }
    write("after a change of rights")
        .await
        .expect("a new token");
    for at in 0..3 {
        cluster.kill(at);
        cluster.restart(at);
        // Its answer may have been lost with the member.
        match write("after a restart").await {
            Ok(()) | Err(StoreError::InDoubt { .. }) => {}
            Err(error) => panic!("member {at}: {error}"),
        }
    }
    write("ended").await.expect("the last");
    let last = store.get(&name).await.expect("an answer").expect("it");
    let seen = async { while watch.next().await.expect("it goes on").revision < last.revision {} };
    tokio::time::timeout(Duration::from_secs(60), seen)
        .await
        .expect("the last write is seen");
}

/// Without the certificate, or the password, nothing is to be had, and it is said which of them is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_both_gets_nothing() {
    let Some((_cluster, options, _folder)) = start().await else {
        return;
    };
    let mut short = options.clone();
    short.deadline = Duration::from_secs(3);
    let mut stranger = short.clone();
    stranger.tls.identity = None;
    let refused = EtcdStore::open(stranger).await.expect_err("no certificate");
    println!("without a certificate: {refused}");
    let mut stranger = short.clone();
    stranger.login = None;
    let refused = EtcdStore::open(stranger).await.expect_err("no login");
    println!("without a login: {refused}");
    let mut stranger = short;
    if let Some(login) = &mut stranger.login {
        login.password = "another".to_owned();
    }
    let refused = EtcdStore::open(stranger)
        .await
        .expect_err("a wrong password")
        .to_string();
    assert!(refused.contains("password"), "{refused}");
    EtcdStore::open(options).await.expect("with both");
}
