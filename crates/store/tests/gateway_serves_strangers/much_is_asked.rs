//! A peer that asks for much: it is bounded, and no other one is slowed.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use store::{
    Page, Peer, Range, SharedStore, Store as _, StoreError, Transaction, testing::Interposed,
};

use super::{LIMIT, LONG, World, committed, key, keys};
use crate::gateways::Ending;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_has_few_leases_however_many_it_asks_for_at_once() {
    let mut world = World::new().await;
    let (one, two) = (world.client("one").await, world.client("two").await);
    let asked = (0..64).map(|_| one.grant(LONG));
    let (mut leases, mut refused) = (Vec::new(), Vec::new());
    for granted in futures::future::join_all(asked).await {
        match granted {
            Ok(lease) => leases.push(lease),
            Err(error) => refused.push(error),
        }
    }
    assert_eq!(leases.len(), 16);
    let is_clear = |error: &StoreError| matches!(error, StoreError::Refused { reason, .. } if reason.contains("one has 16 leases"));
    assert!(refused.iter().all(is_clear), "{refused:?}");
    assert!(two.grant(LONG).await.is_ok());
    one.revoke(leases[0]).await.unwrap();
    let deadline = Instant::now() + LIMIT;
    while let Err(error) = one.grant(LONG).await {
        assert!(Instant::now() < deadline, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_writes_without_end_is_slowed_and_no_other_is() {
    let mut world = World::new().await;
    let (one, two) = (world.client("one").await, world.client("two").await);
    let begun = Instant::now();
    let done = AtomicUsize::new(0);
    let without_end = async |id: usize| {
        while done.load(Ordering::Relaxed) < 650 {
            assert!(begun.elapsed() < LIMIT, "{done:?}");
            let put = Transaction::new().put(key(&format!("m/{id}")), "one:x");
            // Who has waited too long for its turn asks again.
            let written = one.commit(put).await.is_ok();
            done.fetch_add(usize::from(written), Ordering::Relaxed);
        }
    };
    futures::future::join_all((0..16).map(without_end)).await;
    // 500 at once and 50 a second, so 650 take three seconds.
    assert!(begun.elapsed() >= Duration::from_secs(3), "{begun:?}");
    committed(&two, Transaction::new().put(key("m/two"), "two:x")).await;
}

/// Counts the documents that ranges read.
struct Counting {
    behind: SharedStore,
    read: Arc<AtomicUsize>,
}

#[async_trait]
impl Interposed for Counting {
    fn behind(&self) -> &SharedStore {
        &self.behind
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let page = self.behind.range(range).await?;
        self.read.fetch_add(page.entries.len(), Ordering::Relaxed);
        Ok(page)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_reads_its_few_documents_reads_no_others() {
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let wrap = |behind| -> SharedStore {
        Arc::new(Counting {
            behind,
            read: counted,
        })
    };
    let mut world = World::with(wrap).await;
    for number in 0..200 {
        world.put(&format!("m/{number:03}"), "two:theirs").await;
    }
    world.put("m/050", "one:mine").await;
    world.put("n/1", "all:everybody's").await;
    let one = world.client("one").await;
    read.store(0, Ordering::Relaxed);
    for _ in 0..10 {
        assert_eq!(keys(&one).await, ["m/050", "n/1"]);
    }
    assert_eq!(read.load(Ordering::Relaxed), 0);

    // Nor if they change without end while it reads them.
    let store = world.store.clone();
    let (changing, mut changes) = tokio::sync::watch::channel(());
    let _writing = Ending(tokio::spawn(async move {
        loop {
            committed(&*store, Transaction::new().put(key("m/050"), "one:mine")).await;
            changing.send_replace(());
        }
    }));
    for _ in 0..10 {
        changes.changed().await.unwrap();
        assert_eq!(keys(&one).await, ["m/050", "n/1"]);
    }
    assert_eq!(read.load(Ordering::Relaxed), 0);
}

/// A question that begins and never ends, and whether it is heard.
fn unended(
    heard: &Arc<AtomicUsize>,
) -> http::Request<impl http_body::Body<Data = Bytes, Error = Infallible> + use<>> {
    let heard = Arc::clone(heard);
    let body = futures::stream::once(async move {
        heard.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<Result<http_body::Frame<Bytes>, Infallible>>().await
    });
    let request =
        http::Request::post("/etcdserverpb.KV/Txn").header("content-type", "application/grpc");
    request.body(http_body_util::StreamBody::new(body)).unwrap()
}

#[tokio::test]
async fn a_peer_that_asks_much_at_once_waits_and_no_other_does() {
    let world = World::new().await;
    let gateway = &world.entry.gateway;
    let heard = Arc::new(AtomicUsize::new(0));
    let ask = |name: &str| Box::pin(gateway.answer(Peer::named(name), unended(&heard)));
    let mut asked: Vec<_> = (0..100).map(|_| ask("one")).collect();
    for question in &mut asked {
        assert!(futures::poll!(question).is_pending());
    }
    assert_eq!(heard.load(Ordering::Relaxed), 16);
    let mut other = ask("two");
    assert!(futures::poll!(&mut other).is_pending());
    assert_eq!(heard.load(Ordering::Relaxed), 17);
    // The next has its turn when one has ended.
    drop(asked.swap_remove(0));
    for question in &mut asked {
        assert!(futures::poll!(question).is_pending());
    }
    assert_eq!(heard.load(Ordering::Relaxed), 18);
}
