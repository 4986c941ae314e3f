//! Durable creates of four documents in one transaction, with one client and with 64, beside what SQLite itself does
//! with the same rows when 64 creates share a commit.
//!
//! `cargo bench -p store --bench durable_creates`. Prints medians of several rounds; rounds of the store and of the
//! anchor alternate, so that both meet the machine in the same state. A round is a number of creates, not a time. With etcd (Debian:
//! etcd-server) the same is measured over three members of it, all on this disk, in the same rounds.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::Connection;
use store::conformance::etcd_cluster::EtcdCluster;
use store::{EtcdOptions, EtcdStore, Key, Outcome, SharedStore, SqliteStore, Transaction};
use uuid::Uuid;

const ROUNDS: usize = 5;
const CLIENTS: usize = 64;
/// Creates in a round of one client.
const ALONE: usize = 1_000;
/// Creates in a round of all clients together.
const TOGETHER: usize = 19_200;

/// What a create writes: a machine, its disk, its address lease and the job.
const DOCUMENTS: [(&str, usize); 4] = [
    ("Machine", 1500),
    ("Volume", 600),
    ("address", 150),
    ("Job", 500),
];

fn documents() -> Vec<(Key, Bytes)> {
    DOCUMENTS
        .iter()
        .map(|(collection, size)| {
            let key = Key::new(collection, &Uuid::now_v7().to_string()).expect("a valid key");
            (key, Bytes::from(vec![b'x'; *size]))
        })
        .collect()
}

async fn create(store: &SharedStore) {
    let create = documents()
        .into_iter()
        .fold(Transaction::new(), |transaction, (key, value)| {
            transaction.absent(&key).put(key, value)
        });
    let outcome = store.commit(create).await.expect("the store works");
    assert!(matches!(outcome, Outcome::Committed(_)));
}

/// The time of every create of one client, in order of length.
async fn one_client(store: &SharedStore) -> Vec<Duration> {
    let mut times = Vec::with_capacity(ALONE);
    for _ in 0..ALONE {
        let began = Instant::now();
        create(store).await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times
}

/// Creates a second of all clients, and the time of every create, in order of length.
async fn many_clients(store: &SharedStore) -> (f64, Vec<Duration>) {
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for _ in 0..TOGETHER / CLIENTS {
                    let began = Instant::now();
                    create(&store).await;
                    times.push(began.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.expect("the client works"));
    }
    let rate = TOGETHER as f64 / began.elapsed().as_secs_f64();
    times.sort_unstable();
    (rate, times)
}

/// The anchor's database: the same settings, one table of keys and values.
fn raw(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a new database");
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .expect("a setting");
    connection
        .pragma_update(None, "synchronous", "FULL")
        .expect("a setting");
    connection
        .pragma_update(None, "wal_autocheckpoint", 4000)
        .expect("a setting");
    let table = "CREATE TABLE rows (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID";
    connection.execute_batch(table).expect("a new table");
    connection
}

/// Plain inserts, `group` creates in each commit: creates a second, and the time of every commit, in order of length.
fn raw_creates(connection: &Connection, creates: usize, group: usize) -> (f64, Vec<Duration>) {
    let mut times = Vec::with_capacity(creates / group);
    let whole = Instant::now();
    for _ in 0..creates / group {
        let began = Instant::now();
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .expect("the anchor works");
        let mut insert = connection
            .prepare_cached("INSERT INTO rows VALUES (?1, ?2)")
            .expect("the anchor works");
        for _ in 0..group {
            for (key, value) in documents() {
                insert
                    .execute((key.as_str(), &*value))
                    .expect("the anchor works");
            }
        }
        drop(insert);
        connection
            .execute_batch("COMMIT")
            .expect("the anchor works");
        times.push(began.elapsed());
    }
    let rate = creates as f64 / whole.elapsed().as_secs_f64();
    times.sort_unstable();
    (rate, times)
}

/// What was measured of a store, a value for each round.
#[derive(Default)]
struct Rounds {
    alone_ms: Vec<f64>,
    alone_p99: Vec<f64>,
    rate: Vec<f64>,
    together_p99: Vec<f64>,
}

impl Rounds {
    async fn alone(&mut self, store: &SharedStore) {
        let times = one_client(store).await;
        self.alone_ms.push(share(&times, 50));
        self.alone_p99.push(share(&times, 99));
    }

    async fn together(&mut self, store: &SharedStore) {
        let (per_second, times) = many_clients(store).await;
        self.rate.push(per_second);
        self.together_p99.push(share(&times, 99));
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn share(times: &[Duration], percent: usize) -> f64 {
    times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1000.0
}

#[tokio::main]
async fn main() {
    // The folder decides which disk is measured; a temporary folder may be memory.
    let folder = tempfile::tempdir_in(std::env::var_os("STORE_BENCH_DIR").unwrap_or(".".into()))
        .expect("a folder");
    let anchor = raw(&folder.path().join("raw"));
    let store = SqliteStore::open(folder.path().join("store")).expect("a new store");
    let store: SharedStore = Arc::new(store);
    let path = folder.path().to_owned();
    let start = || EtcdCluster::possible().then(|| EtcdCluster::start(&path, 3, None));
    let cluster = tokio::task::block_in_place(start);
    let on_etcd: Option<SharedStore> = match &cluster {
        Some(cluster) => {
            let etcd = EtcdStore::open(EtcdOptions::new(cluster.endpoints())).await;
            Some(Arc::new(etcd.expect("a new store")))
        }
        None => None,
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{ROUNDS} rounds, {} rows a create, load average {}",
        DOCUMENTS.len(),
        load.trim()
    );

    let (mut raw_alone, mut raw_together) = (vec![], vec![]);
    let (mut ours, mut of_etcd) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        raw_alone.push(share(&raw_creates(&anchor, ALONE, 1).1, 50));
        ours.alone(&store).await;
        raw_together.push(raw_creates(&anchor, TOGETHER, CLIENTS).0);
        ours.together(&store).await;
        if let Some(etcd) = &on_etcd {
            of_etcd.alone(etcd).await;
            of_etcd.together(etcd).await;
        }
    }
    let (alone, raw_alone) = (median(ours.alone_ms), median(raw_alone));
    println!(
        "1 client:    {alone:.3} ms median, {:.3} ms p99; raw SQLite {raw_alone:.3} ms; {:.2} × (budget: ≤ 1 ms)",
        median(ours.alone_p99),
        alone / raw_alone
    );
    let (rate, raw_together) = (median(ours.rate), median(raw_together));
    println!(
        "{CLIENTS} clients:  {rate:.0} creates/s, {:.2} ms p99; raw SQLite {raw_together:.0}/s; {:.2} × (budget: ≥ 5,000/s)",
        median(ours.together_p99),
        rate / raw_together
    );
    if let Some(etcd) = on_etcd {
        let (of_one, of_all) = (median(of_etcd.alone_ms), median(of_etcd.rate));
        println!(
            "three members of etcd: 1 client {of_one:.3} ms median, {:.3} ms p99, {:.2} × of SQLite; {CLIENTS} clients {of_all:.0} creates/s, {:.2} ms p99, \
             {:.2} × of SQLite",
            median(of_etcd.alone_p99),
            of_one / alone,
            median(of_etcd.together_p99),
            of_all / rate
        );
        etcd.close().await;
    }
    store.close().await;
}
