//! The watch cache: how long a writer waits to see what it wrote, and what reads cost with 10,000 documents.
//!
//! `cargo bench -p store --bench watch_cache`. The anchor of the wait is the durable commit itself, of the reads the
//! same query by SQLite through the store.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::cache::{Cache, CacheSet, Direction, Document, DocumentError, IndexTerms};
use store::{Key, Prefix, Range, SharedStore, SqliteStore, Transaction};
use uuid::Uuid;

const DOCUMENTS: usize = 10_000;
const OWNERS: usize = 10;
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

/// The middle and the 99th percentile of `times`, in microseconds.
fn told(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    format!("{:.1} µs median, {:.1} µs p99", at(50), at(99))
}

fn repeat(mut work: impl FnMut(usize)) -> String {
    let once = |n| {
        let began = Instant::now();
        work(n);
        began.elapsed()
    };
    told((0..REPEATS).map(once).collect())
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

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir_in(std::env::var_os("STORE_BENCH_DIR").unwrap_or(".".into()))
        .expect("a folder");
    let store: SharedStore =
        Arc::new(SqliteStore::open(folder.path().join("store")).expect("a new store"));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{DOCUMENTS} documents, load average {}", load.trim());
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
    println!(
        "reading everything at the start: {:.1} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    assert_eq!(cache.len(), DOCUMENTS);

    let (mut commits, mut waits) = (Vec::new(), Vec::new());
    for n in 0..REPEATS {
        let began = Instant::now();
        let outcome = store.commit(write(n)).await.expect("the store works");
        commits.push(began.elapsed());
        let began = Instant::now();
        set.wait_for(outcome.committed().expect("a new key"))
            .await
            .expect("the cache follows");
        waits.push(began.elapsed());
    }
    println!("durable commit: {}", told(commits));
    println!("then, until the cache shows it: {}", told(waits));

    let ids: Vec<String> = cache
        .all()
        .iter()
        .map(|machine| machine.id().to_owned())
        .collect();
    let get = repeat(|n| assert!(cache.get(&ids[n * 7 % ids.len()]).is_some()));
    println!("one document: {get}");
    for (name, direction) in [("first", Direction::Forward), ("last", Direction::Backward)] {
        let page =
            repeat(|_| assert_eq!(cache.page(Bound::Unbounded, direction, PAGE).len(), PAGE));
        println!("{name} page of {PAGE}: {page}");
        let page = repeat(|_| {
            let page = cache.page_by_index("owner", "owner-7", Bound::Unbounded, direction, PAGE);
            assert_eq!(page.len(), PAGE);
        });
        println!("{name} page of {PAGE} of an owner: {page}");
        println!(
            "{name} page of {PAGE} by a filter: {}",
            repeat(|_| assert_eq!(filtered(&cache, direction), PAGE))
        );
    }
    let mut reads = Vec::new();
    for _ in 0..REPEATS {
        let began = Instant::now();
        let range =
            Range::prefix(&Prefix::collection("Machine").expect("a valid prefix")).limit(PAGE);
        assert_eq!(
            store
                .range(range)
                .await
                .expect("the store works")
                .entries
                .len(),
            PAGE
        );
        reads.push(began.elapsed());
    }
    println!(
        "for scale, first page of {PAGE} from SQLite: {}",
        told(reads)
    );
    store.close().await;
}
