//! The watch cache: how long a writer waits to see what it wrote, and what reads cost with 10,000 documents.
//!
//! `cargo bench -p store --bench watch_cache`. The anchor of the wait is the durable commit itself, of the reads the same query by the
//! store. With etcd (Debian: etcd-server) all is measured over three members of it, too, in turns: reads are to be as fast.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::cache::{Cache, CacheSet, Direction, Document, DocumentError, IndexTerms};
use store::conformance::etcd_cluster::EtcdCluster;
use store::{EtcdOptions, EtcdStore, Key, Prefix, Range, SharedStore, SqliteStore, Transaction};
use uuid::Uuid;

const DOCUMENTS: usize = 10_000;
const OWNERS: usize = 10;
/// An even number.
const REPEATS: usize = 1_000;
const PAGE: usize = 100;

/// Its owner and some text.
struct Machine {
    owner: String,
    text: String,
}

impl Document for Machine {
    const COLLECTION: &'static str = "Machine";

    fn decode(value: &[u8]) -> Result<Self, DocumentError> {
        let (owner, text) = std::str::from_utf8(value)?
            .split_once(' ')
            .ok_or("no owner")?;
        Ok(Self {
            owner: owner.to_owned(),
            text: text.to_owned(),
        })
    }

    fn encode(&self) -> Result<Bytes, DocumentError> {
        Ok(format!("{} {}", self.owner, self.text).into())
    }

    fn index(&self, terms: &mut IndexTerms) {
        terms.add("owner", &self.owner);
    }
}

fn write(n: usize) -> Transaction {
    let key = Key::new("Machine", &Uuid::now_v7().to_string()).expect("a valid key");
    Transaction::new()
        .absent(&key)
        .put(key, format!("owner-{} {}", n % OWNERS, "x".repeat(1000)))
}

/// A page of documents that an unindexed filter lets through.
fn filtered(cache: &Cache<Machine>, direction: Direction) -> usize {
    let mut page = Vec::with_capacity(PAGE);
    cache.scan(Bound::Unbounded, direction, |machine| {
        if machine.text.len() == 1000 && machine.owner.ends_with('7') {
            page.push(machine.clone());
        }
        if page.len() < PAGE {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    page.len()
}

/// A store with its cache, and what was measured of them.
struct Side {
    name: &'static str,
    store: SharedStore,
    set: CacheSet,
    cache: Cache<Machine>,
    ids: Vec<String>,
    /// How long each thing took, in the order in which they are measured.
    times: Vec<Vec<Duration>>,
}

impl Side {
    /// Fills it, and reads all of it once.
    async fn open(name: &'static str, store: SharedStore) -> Self {
        for n in (0..DOCUMENTS).step_by(100) {
            futures::future::join_all((n..n + 100).map(|n| store.commit(write(n))))
                .await
                .into_iter()
                .for_each(|outcome| drop(outcome.expect("the store works")));
        }
        let began = Instant::now();
        let mut builder = CacheSet::builder();
        let cache = builder.cache::<Machine>();
        let set = builder.start(store.clone()).await.expect("the store works");
        let took = began.elapsed().as_secs_f64() * 1e3;
        println!("{name}: reading everything at the start: {took:.1} ms");
        assert_eq!(cache.len(), DOCUMENTS);
        let all = cache.all();
        let ids = all.iter().map(|machine| machine.id().to_owned());
        Self {
            name,
            ids: ids.collect(),
            store,
            set,
            cache,
            times: vec![Vec::new(); READS.len() + 3],
        }
    }

    /// A commit, how soon the cache shows it, and a read by the store.
    async fn write_and_read(&mut self, n: usize) {
        let began = Instant::now();
        let outcome = self.store.commit(write(n)).await.expect("the store works");
        let committed = began.elapsed();
        let began = Instant::now();
        let revision = outcome.committed().expect("a new key");
        let seen = self.set.wait_for(revision).await;
        seen.expect("the cache follows");
        let seen = began.elapsed();
        let began = Instant::now();
        let all = Prefix::collection("Machine").expect("a valid prefix");
        let page = self.store.range(Range::prefix(&all).limit(PAGE)).await;
        assert_eq!(page.expect("the store works").entries.len(), PAGE);
        let read = began.elapsed();
        for (times, took) in self.times.iter_mut().zip([committed, seen, read]) {
            times.push(took);
        }
    }

    fn read(&mut self, n: usize) {
        for (at, (_, read)) in READS.iter().enumerate() {
            let began = Instant::now();
            read(self, n);
            self.times[at + 3].push(began.elapsed());
        }
    }
}

/// What is read, and that it is what it should be.
type Read = (&'static str, fn(&Side, usize));

const READS: [Read; 7] = [
    ("one document", |side, n| {
        assert!(side.cache.get(&side.ids[n * 7 % side.ids.len()]).is_some());
    }),
    ("first page of 100", |side, _| {
        page(side, Direction::Forward);
    }),
    ("last page of 100", |side, _| {
        page(side, Direction::Backward);
    }),
    ("first page of 100 of an owner", |side, _| {
        of_owner(side, Direction::Forward);
    }),
    ("last page of 100 of an owner", |side, _| {
        of_owner(side, Direction::Backward);
    }),
    ("first page of 100 by a filter", |side, _| {
        assert_eq!(filtered(&side.cache, Direction::Forward), PAGE);
    }),
    ("last page of 100 by a filter", |side, _| {
        assert_eq!(filtered(&side.cache, Direction::Backward), PAGE);
    }),
];

fn page(side: &Side, direction: Direction) {
    let page = side.cache.page(Bound::Unbounded, direction, PAGE);
    assert_eq!(page.len(), PAGE);
}

fn of_owner(side: &Side, direction: Direction) {
    let page = side
        .cache
        .page_by_index("owner", "owner-7", Bound::Unbounded, direction, PAGE);
    assert_eq!(page.len(), PAGE);
}

/// The middle and the 99th percentile of `times`, in microseconds.
fn told(times: &[Duration]) -> [f64; 2] {
    let mut times = times.to_vec();
    times.sort_unstable();
    [50, 99].map(|percent| times[times.len() * percent / 100].as_secs_f64() * 1e6)
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir_in(std::env::var_os("STORE_BENCH_DIR").unwrap_or(".".into()))
        .expect("a folder");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{DOCUMENTS} documents, load average {}", load.trim());
    let sqlite = SqliteStore::open(folder.path().join("store")).expect("a new store");
    let mut sides = vec![Side::open("SQLite", Arc::new(sqlite)).await];
    let path = folder.path().to_owned();
    let start = || EtcdCluster::possible().then(|| EtcdCluster::start(&path, 3, None));
    let cluster = tokio::task::block_in_place(start);
    if let Some(cluster) = &cluster {
        let etcd = EtcdStore::open(EtcdOptions::new(cluster.endpoints())).await;
        let etcd = Arc::new(etcd.expect("a new store"));
        sides.push(Side::open("three members of etcd", etcd).await);
    }
    // In turns: what else this computer does falls on both.
    for n in 0..REPEATS {
        for side in &mut sides {
            side.write_and_read(n).await;
        }
        for side in &mut sides {
            side.read(n);
        }
        // Who comes second finds other things in the processor's caches. In the end each is where it was.
        sides.reverse();
    }
    let writes = [
        "durable commit",
        "then, until the cache shows it",
        "for scale, first page of 100 by the store",
    ];
    let all = writes
        .into_iter()
        .chain(READS.iter().map(|(name, _)| *name));
    for (at, what) in all.enumerate() {
        let mut middles = Vec::new();
        print!("{what}:");
        for side in &sides {
            let [middle, late] = told(&side.times[at]);
            print!(" {} {middle:.1} µs median, {late:.1} µs p99;", side.name);
            middles.push(middle);
        }
        match middles[..] {
            [sqlite, etcd] => println!(" etcd/SQLite {:.2}", etcd / sqlite),
            _ => println!(),
        }
    }
    for side in sides {
        side.store.close().await;
    }
}
